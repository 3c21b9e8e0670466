//! `trinity saga`: definitions of sagas in files, checked, drawn, and made into Rust.

use std::io::Read;
use std::path::{Path, PathBuf};

use saga_toml::{FilePerformer, Mistakes, SagaFile};
use serde::Serialize;

use crate::error::{Error, Exit};
use crate::terminal::{Brake, Output};

/// What to check.
#[derive(clap::Args)]
pub struct CheckArgs {
    /// A saga's definition, TOML; - for standard input
    file: PathBuf,
    /// One JSON object on standard output
    #[arg(long)]
    json: bool,
}

/// What to draw.
#[derive(clap::Args)]
pub struct GraphArgs {
    /// A saga's definition, TOML; - for standard input
    file: PathBuf,
    /// A picture, in place of a graph for Graphviz
    #[arg(long)]
    svg: bool,
}

/// What to make Rust of.
#[derive(clap::Args)]
pub struct GenerateArgs {
    /// A saga's definition, TOML; - for standard input
    file: PathBuf,
}

/// The most that a file is read of: no definition is near it.
const BYTES_MAX: u64 = 4 << 20;

fn read(path: &Path) -> Result<Result<SagaFile, Mistakes>, Error> {
    let mut text = String::new();
    let mut take = |from: &mut dyn Read| from.take(BYTES_MAX).read_to_string(&mut text);
    let named = if path == Path::new("-") {
        let remedy = "nothing was checked; a definition is a text of UTF-8";
        take(&mut std::io::stdin()).map_err(|error| Error::Stream {
            stream: "standard input",
            error,
            remedy,
        })?;
        "standard input".to_owned()
    } else {
        let opened = std::fs::File::open(path).and_then(|mut file| take(&mut file));
        opened.map_err(|error| Error::Definition { path: path.to_owned(), error })?;
        path.display().to_string()
    };
    Ok(SagaFile::parse(&named, &text))
}

fn print(text: &str) -> Result<Exit, Error> {
    let brake = Brake::default();
    let mut output = Output::new(&brake);
    output.write(|to| to.write_all(text.as_bytes()));
    output.finish()?;
    Ok(Exit::Clean)
}

#[derive(Serialize)]
struct Checked<'a> {
    valid: bool,
    name: Option<&'a str>,
    version: Option<u32>,
    /// 32 hex digits: of the definition without what its steps are asked.
    fingerprint: Option<String>,
    steps: Vec<Step<'a>>,
    mistakes: Vec<Told<'a>>,
}

#[derive(Serialize)]
struct Step<'a> {
    number: usize,
    name: &'a str,
    action: &'a str,
    undo: Option<&'a str>,
    kind: &'static str,
    after: &'a [u32],
    takes: Vec<u32>,
    gives: Option<&'static str>,
    /// Its participants, if it is a transaction.
    #[serde(skip_serializing_if = "Option::is_none")]
    transaction: Option<Vec<&'a str>>,
    /// Which definition it is, if it is a saga.
    #[serde(skip_serializing_if = "Option::is_none")]
    saga: Option<&'a str>,
    /// The participants of the transaction that undoes it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    undo_transaction: Vec<&'a str>,
}

#[derive(Serialize)]
struct Told<'a> {
    line: u64,
    column: u64,
    message: &'a str,
    help: Option<&'a str>,
}

/// Checks a definition.
///
/// # Errors
/// [`Error`]: it cannot be read, or is wrong.
pub fn check(args: &CheckArgs) -> Result<Exit, Error> {
    match (read(&args.file)?, args.json) {
        (Ok(file), false) => {
            let (steps, sagas) = (file.steps.len(), &file.name);
            let steps = if steps == 1 { "1 step".to_owned() } else { format!("{steps} steps") };
            print(&format!("{sagas} {}: {steps}, no mistake\n", file.version))
        }
        (Ok(file), true) => print(&(json(&Ok(file)) + "\n")),
        (Err(mistakes), false) => Err(Error::Mistakes(Box::new(mistakes))),
        (Err(mistakes), true) => {
            print(&(json(&Err(mistakes)) + "\n"))?;
            Ok(Exit::Damaged)
        }
    }
}

fn json(checked: &Result<SagaFile, Mistakes>) -> String {
    let told = match checked {
        Ok(file) => {
            let bare = file.bare();
            Checked {
                valid: true,
                name: Some(file.name.as_str()),
                version: Some(file.version),
                fingerprint: Some(format!("{:032x}", bare.fingerprint())),
                steps: file.steps.iter().enumerate().map(|(at, step)| step_of(at, step)).collect(),
                mistakes: Vec::new(),
            }
        }
        Err(Mistakes { mistakes, .. }) => {
            let told = mistakes.iter().map(|mistake| {
                let (line, column) = mistake.line_and_column();
                let (message, help) = (mistake.message.as_str(), mistake.help.as_deref());
                Told { line, column, message, help }
            });
            Checked {
                valid: false,
                name: None,
                version: None,
                fingerprint: None,
                steps: Vec::new(),
                mistakes: told.collect(),
            }
        }
    };
    serde_json::to_string(&told).expect("strings and numbers are JSON")
}

fn step_of(number: usize, step: &saga_toml::FileStep) -> Step<'_> {
    fn names(labels: &[saga::Label]) -> Vec<&str> {
        labels.iter().map(saga::Label::as_str).collect()
    }
    let (transaction, saga) = match &step.performer {
        FilePerformer::Node => (None, None),
        FilePerformer::Transaction(participants) => (Some(names(participants)), None),
        FilePerformer::Saga(inner) => (None, Some(inner.name.as_str())),
    };
    Step {
        transaction,
        saga,
        undo_transaction: names(&step.undo_transaction),
        number,
        name: step.name.as_str(),
        action: step.action.as_str(),
        undo: step.undo.as_ref().map(saga::Label::as_str),
        kind: step.kind.name(),
        after: &step.after,
        takes: step.takes.iter().map(|(from, _)| *from).collect(),
        gives: step.gives.map(saga::ValueType::name),
    }
}

/// Draws a definition.
///
/// # Errors
/// [`Error`]: it cannot be read, or is wrong.
pub fn graph(args: &GraphArgs) -> Result<Exit, Error> {
    let file = read(&args.file)?.map_err(|mistakes| Error::Mistakes(Box::new(mistakes)))?;
    print(&if args.svg { file.svg() } else { file.dot() })
}

/// Makes Rust of a definition.
///
/// # Errors
/// [`Error`]: it cannot be read, or is wrong.
pub fn generate(args: &GenerateArgs) -> Result<Exit, Error> {
    let file = read(&args.file)?.map_err(|mistakes| Error::Mistakes(Box::new(mistakes)))?;
    let name = args.file.file_name().map_or("standard input".into(), |name| name.to_string_lossy());
    let name = if name == "-" { "standard input".into() } else { name };
    print(&file.rust(&name))
}

//! What goes wrong, and the exit code that says so.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use coordinator::SalvageError;
use miette::{Diagnostic, MietteError, MietteSpanContents, SourceCode, SourceSpan, SpanContents};
use wal_core::{
    DurableError, FileError, FileStreamsError, NotUnderstood, OpenError, ScanError, Scanned,
    StreamId,
};

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// All is well; a torn tail is.
    Clean = 0,
    /// Corruption, or an event that does not follow.
    Damaged = 2,
    /// The disk, a pipe, or a lock that somebody else holds.
    Io = 3,
    /// Whoever called: a wrong argument, a bad line, a file that is no log.
    Usage = 4,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// Why a command could not do what it was asked.
#[derive(Debug, thiserror::Error, Diagnostic)]
pub enum Error {
    /// The system refused a file or a directory.
    #[error("{}: {error}", path.display())]
    #[diagnostic(help(
        "check the path, its permissions and the disk; what cannot be read is never taken for a \
         log's end"
    ))]
    Io { path: PathBuf, error: io::Error },
    /// Standard input or output failed.
    #[error("{stream}: {error}")]
    #[diagnostic(help("{remedy}"))]
    Stream { stream: &'static str, error: io::Error, remedy: &'static str },
    /// Somebody else holds the log's lock.
    #[error("{}: the log is in use", path.display())]
    #[diagnostic(help(
        "a writer excludes everybody, and readers exclude writers: wait for the process that has \
         it open, or stop it"
    ))]
    InUse { path: PathBuf },
    /// The log failed while it was written.
    #[error("{}: {error}{}", path.display(), because(cause))]
    #[diagnostic(help(
        "what was acknowledged is durable; `trinity wal recover` tells what else survived"
    ))]
    Failed { path: PathBuf, error: DurableError, cause: Option<String> },
    /// The log could not be opened, through nobody's damage.
    #[error("{}: {error}", path.display())]
    #[diagnostic(help("try again once no other writer is at work"))]
    Open { path: PathBuf, error: Box<OpenError> },
    /// There is damage in the log.
    #[error("{}: the log is damaged {places}", path.display())]
    #[diagnostic(help("{remedy}"))]
    Damaged { path: PathBuf, places: Places, remedy: &'static str },
    /// The path names something else.
    #[error("{}: not a Trinity log: {why}", path.display())]
    #[diagnostic(help("{remedy}"))]
    NotALog { path: PathBuf, why: &'static str, remedy: String },
    /// The log is from the future.
    #[error("{}: the log has format version {version}, newer than this program's", path.display())]
    #[diagnostic(help("use the trinity that wrote it, or a newer one"))]
    NewerFormat { path: PathBuf, version: u32 },
    /// A record is, and says something that no reader may pass over.
    #[error("{}: {found}, and must not pass over", path.display())]
    #[diagnostic(help("use the trinity that wrote it, or a newer one; nothing was changed"))]
    NewerRecord { path: PathBuf, found: NotUnderstood },
    /// A new log could not be made of a damaged one.
    #[error("{}: {error}", path.display())]
    #[diagnostic(help("the damaged log is as it was, and no log was left in the new one's place"))]
    Salvage { path: PathBuf, error: Box<SalvageError> },
    /// The path is to be a new log's, and something is there.
    #[error("{}: no new log can be made here: {why}", path.display())]
    #[diagnostic(help("nothing was written; name a directory that is not there yet, or is empty"))]
    Taken { path: PathBuf, why: &'static str },
    /// A definition cannot be read.
    #[error("{}: {error}", path.display())]
    #[diagnostic(help("a definition is a text of UTF-8, in TOML"))]
    Definition { path: PathBuf, error: io::Error },
    /// A definition is wrong.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Mistakes(Box<saga_toml::Mistakes>),
    /// A line of standard input is no event of this log.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Line(Box<LineError>),
}

fn because(cause: &Option<String>) -> String {
    cause.as_ref().map_or_else(String::new, |cause| format!(": {cause}"))
}

impl Error {
    /// What a path may name, for when it names something else.
    pub const REMEDY: &'static str =
        "PATH is a log's directory, or a file that holds a raw stream of the published format";

    /// The exit code that says it.
    pub fn exit(&self) -> Exit {
        match self {
            Error::Io { .. }
            | Error::Definition { .. }
            | Error::Stream { .. }
            | Error::InUse { .. }
            | Error::Failed { .. }
            | Error::Open { .. } => Exit::Io,
            Error::Salvage { error, .. } => match **error {
                SalvageError::TooManyLost { .. } => Exit::Damaged,
                _ => Exit::Io,
            },
            Error::Damaged { .. } | Error::Mistakes(_) => Exit::Damaged,
            Error::NotALog { .. }
            | Error::NewerFormat { .. }
            | Error::NewerRecord { .. }
            | Error::Taken { .. }
            | Error::Line(_) => Exit::Usage,
        }
    }

    pub fn stdout(error: io::Error) -> Error {
        let remedy = "what was printed is not all there is; the log is as it was";
        Error::Stream { stream: "standard output", error, remedy }
    }

    /// Standard output failed while events were acknowledged.
    pub fn acks(error: io::Error) -> Error {
        let remedy = "events that were read are durable, also those whose acknowledgement was lost; \
                      `trinity wal dump` shows them";
        Error::Stream { stream: "standard output", error, remedy }
    }

    pub fn stdin(error: io::Error) -> Error {
        let remedy = "the lines before it are appended and durable";
        Error::Stream { stream: "standard input", error, remedy }
    }

    pub fn io(path: &Path, error: io::Error) -> Error {
        Error::Io { path: path.to_owned(), error }
    }

    pub fn not_a_log(path: &Path, why: &'static str) -> Error {
        Error::NotALog { path: path.to_owned(), why, remedy: Self::REMEDY.to_owned() }
    }

    /// A scan that gave up.
    pub fn scan(path: &Path, error: ScanError) -> Error {
        match error {
            ScanError::Io(error) => Error::io(path, error),
            ScanError::NewerFormat { version } => {
                Error::NewerFormat { path: path.to_owned(), version }
            }
            ScanError::NotALog => Error::not_a_log(path, "nothing in it is a record or a header"),
            other => Error::io(path, io::Error::other(other)),
        }
    }

    /// A directory that could not be opened as a log.
    pub fn file(path: &Path, error: FileError) -> Error {
        let path = path.to_owned();
        match error {
            FileError::InUse { .. } => Error::InUse { path },
            FileError::Io { path, error } => Error::Io { path, error },
            FileError::Open(OpenError::Scan(error)) => Error::scan(&path, error),
            FileError::Open(OpenError::Newer(found)) => Error::NewerRecord { path, found },
            FileError::Open(OpenError::Corrupt(scanned)) => Error::damaged(
                &path,
                &scanned,
                "nothing was appended and the log was left as it is; `trinity wal recover` tells \
                 which operations are in doubt, and `trinity wal salvage` makes a new log of what \
                 is proved",
            ),
            FileError::Open(error) => Error::Open { path, error: Box::new(error) },
            FileError::HoldsStreams { streams, .. } => Error::NotALog {
                why: "it holds streams, each of them a log",
                remedy: format!(
                    "name one of its {} streams, such as {}; `recover`, `verify` and `salvage` take all of them",
                    streams.count(),
                    path.join(streams.folder_name(StreamId(0))).display()
                ),
                path,
            },
            FileError::OneStream { .. } => Error::NotALog {
                why: "it is one stream of several, which are written together",
                remedy: "nothing was written; one stream can be read by itself".to_owned(),
                path,
            },
            other => Error::Io { path, error: io::Error::other(other) },
        }
    }

    /// A directory that could not be read as one of streams.
    pub fn streams(path: &Path, error: FileStreamsError) -> Error {
        match error {
            FileStreamsError::File(error) => Error::file(path, error),
            other => Error::io(path, io::Error::other(other)),
        }
    }

    /// The damage that a scan found.
    pub fn damaged(path: &Path, scanned: &Scanned, remedy: &'static str) -> Error {
        let first = scanned.corruption.iter().take(Places::SHOWN_MAX);
        let places = Places {
            shown: first.map(ToString::to_string).collect(),
            total: scanned.corruption.len() as u64 + scanned.corruption_left_out,
        };
        Error::Damaged { path: path.to_owned(), places, remedy }
    }
}

/// Where a log is damaged: the first few places, one line each.
#[derive(Debug)]
pub struct Places {
    shown: Vec<String>,
    total: u64,
}

impl Places {
    const SHOWN_MAX: usize = 10;
}

impl fmt::Display for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.total {
            1 => f.write_str("in one place")?,
            total => write!(f, "in {total} places")?,
        }
        for place in &self.shown {
            write!(f, "\n{place}")?;
        }
        let hidden = self.total - self.shown.len() as u64;
        if hidden > 0 {
            write!(f, "\n... and {hidden} more")?;
        }
        Ok(())
    }
}

/// A line of standard input that cannot be appended.
#[derive(Debug, thiserror::Error, Diagnostic)]
#[error("standard input, line {line}, column {column}: {what}")]
#[diagnostic(help("{help}"))]
pub struct LineError {
    line: u64,
    column: u64,
    what: String,
    help: String,
    #[source_code]
    shown: Option<InputLine>,
    #[label("here")]
    span: SourceSpan,
}

impl LineError {
    /// Longer lines are not shown.
    const SHOWN_BYTES_MAX: usize = 240;

    /// `column` counts bytes from 1; so many lines before are `kept`.
    pub fn new(line: u64, column: u64, text: &[u8], what: String, kept: u64) -> LineError {
        let kept = match kept {
            0 => "nothing was appended".to_owned(),
            1 => "line 1 is appended and durable".to_owned(),
            kept => format!("lines 1 to {kept} are appended and durable"),
        };
        let help = format!("{kept}; `trinity wal import --help` says what a line looks like");
        // What a terminal would take for a command is not shown either.
        let showable = |text: &&str| {
            !text.is_empty()
                && text.len() <= Self::SHOWN_BYTES_MAX
                && !text.chars().any(|c| c.is_control() && c != '\t')
        };
        let shown = std::str::from_utf8(text).ok().filter(showable);
        let shown = shown.map(|text| InputLine { line, text: text.to_owned() });
        let at = usize::try_from(column.saturating_sub(1)).unwrap_or(usize::MAX).min(text.len());
        LineError { line, column, what, help, shown, span: at.into() }
    }
}

/// One line of standard input, under its own number.
#[derive(Debug)]
struct InputLine {
    line: u64,
    text: String,
}

impl SourceCode for InputLine {
    fn read_span<'a>(
        &'a self,
        span: &SourceSpan,
        lines_before: usize,
        lines_after: usize,
    ) -> Result<Box<dyn SpanContents<'a> + 'a>, MietteError> {
        let bytes = self.text.as_bytes();
        let above = usize::try_from(self.line - 1).unwrap_or(usize::MAX);
        let name = "standard input".to_owned();
        // Without lines around it, it is asked where the span itself is.
        let column = if lines_before + lines_after == 0 { span.offset() } else { 0 };
        let whole = (0, bytes.len()).into();
        Ok(Box::new(MietteSpanContents::new_named(name, bytes, whole, above, column, 1)))
    }
}

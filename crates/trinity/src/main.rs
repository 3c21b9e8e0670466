//! `trinity`: what operators run on a log, and whoever writes sagas on their definitions. It looks at
//! logs, and carries events into and out of them; it coordinates nothing.
//!
//! | module | what |
//! |---|---|
//! | `recover`, `verify`, `dump`, `import`, `export`, `salvage` | one command each |
//! | `saga` | the commands about definitions of sagas |
//! | `line` | a record as a line of JSON: what `dump` writes and `import` reads |
//! | `source` | what a path names: a log's directory, or a raw stream |
//! | `streams` | a directory of several logs, read side by side |
//! | `error` | what goes wrong, whose fault it is, and the exit code |
//! | `terminal` | standard output and error |

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod dump;
mod error;
mod export;
mod import;
mod line;
mod recover;
mod saga;
mod salvage;
mod source;
mod streams;
mod terminal;
mod verify;

use error::{Error, Exit};

const EXIT_CODES: &str = "\
Exit codes:
  0  clean; a torn tail, which a crash leaves, is clean
  2  corruption, or events that do not follow each other; a definition with mistakes
  3  I/O error, or the log is in use (a writer excludes everybody, readers exclude writers)
  4  usage, bad input, or not a Trinity log";

/// Tools for the durable log of Trinity's coordinators and participants.
#[derive(Parser)]
#[command(name = "trinity", version, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Looks at logs, and carries events into and out of them.
    #[command(subcommand, after_help = EXIT_CODES)]
    Wal(Wal),
    /// Checks, draws and compiles definitions of sagas.
    #[command(subcommand, after_help = EXIT_CODES)]
    Saga(Saga),
}

#[derive(Subcommand)]
enum Saga {
    /// Checks a definition, and shows every mistake in its place.
    #[command(after_help = EXIT_CODES)]
    Check(saga::CheckArgs),
    /// Prints a definition's graph: for Graphviz, or as a picture.
    #[command(after_help = EXIT_CODES)]
    Graph(saga::GraphArgs),
    /// Prints Rust for a definition: its steps as typed functions.
    #[command(after_help = EXIT_CODES)]
    Generate(saga::GenerateArgs),
}

#[derive(Subcommand)]
enum Wal {
    /// Replays a log and says what a recovery would do; writes nothing.
    #[command(after_help = EXIT_CODES)]
    Recover(recover::Args),
    /// Checks every byte of a log and says what is damaged, and where; writes nothing.
    #[command(after_help = EXIT_CODES)]
    Verify(verify::Args),
    /// Prints a log's records, one line each.
    #[command(after_help = EXIT_CODES)]
    Dump(dump::Args),
    /// Appends events from standard input, one JSON object per line, to a log.
    #[command(after_help = EXIT_CODES, after_long_help = import_help())]
    Import(import::Args),
    /// Writes a log's records to standard output, as a raw stream of the published format.
    #[command(after_help = EXIT_CODES)]
    Export(export::Args),
    /// Copies what a damaged log proves into a new log, and records what is in doubt.
    #[command(after_help = EXIT_CODES)]
    Salvage(salvage::Args),
}

fn import_help() -> String {
    format!("{}\n\n{EXIT_CODES}", import::LINES)
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(usage) => {
            // Nobody is left to tell if not even the usage can be printed.
            let _ = usage.print();
            return if usage.use_stderr() { Exit::Usage } else { Exit::Clean }.into();
        }
    };
    terminal::plain_errors();
    let ended = match &cli.command {
        Command::Wal(Wal::Recover(args)) => recover::run(args),
        Command::Wal(Wal::Verify(args)) => verify::run(args),
        Command::Wal(Wal::Dump(args)) => dump::run(args),
        Command::Wal(Wal::Import(args)) => import::run(args),
        Command::Wal(Wal::Export(args)) => export::run(args),
        Command::Wal(Wal::Salvage(args)) => salvage::run(args),
        Command::Saga(Saga::Check(args)) => saga::check(args),
        Command::Saga(Saga::Graph(args)) => saga::graph(args),
        Command::Saga(Saga::Generate(args)) => saga::generate(args),
    };
    ended.unwrap_or_else(report).into()
}

fn report(error: Error) -> Exit {
    let exit = error.exit();
    terminal::say(format_args!("{:?}\n", miette::Report::new(error)));
    exit
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_commands_are_well_formed() {
        Cli::command().debug_assert();
    }
}

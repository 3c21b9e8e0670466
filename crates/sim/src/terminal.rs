//! Standard output and error, as a person or a pipe sees them.

use crate::Stop;
use std::fmt;
use std::io::{ErrorKind, Write};

/// Standard output. Once it fails nothing more is written: whoever reads has gone, which is their
/// decision, or the disk is full, which [`Output::finish`] tells.
#[derive(Default)]
pub struct Output {
    failed: Option<std::io::Error>,
}

impl Output {
    /// Writes a line.
    pub fn line(&mut self, what: fmt::Arguments<'_>) {
        self.write(format_args!("{what}\n"));
    }

    /// Writes what ends its lines itself.
    pub fn write(&mut self, what: fmt::Arguments<'_>) {
        if self.failed.is_none() {
            let mut stdout = std::io::stdout().lock();
            self.failed = stdout.write_fmt(what).and_then(|()| stdout.flush()).err();
        }
    }

    /// True if there is no point in finding out more.
    pub fn is_closed(&self) -> bool {
        self.failed.is_some()
    }

    /// Tells whether everything was written, or nobody wanted it.
    pub fn finish(self) -> Result<(), Stop> {
        match self.failed {
            Some(error) if error.kind() != ErrorKind::BrokenPipe => {
                Err(Stop::infrastructure(miette::miette!(
                    help = "what was printed is not all there is",
                    "standard output: {error}"
                )))
            }
            _ => Ok(()),
        }
    }
}

/// Writes a line to standard error. If that is closed, nobody is left to tell.
pub fn say(what: fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr().lock(), "{what}");
}

/// Errors are one sentence to a line, however narrow the terminal: places can be searched for.
/// Colours are left out if `NO_COLOR` says so, or if nobody looks.
pub fn plain_errors() {
    let handler = |_: &(dyn miette::Diagnostic + 'static)| -> Box<dyn miette::ReportHandler> {
        Box::new(miette::MietteHandlerOpts::new().wrap_lines(false).break_words(false).build())
    };
    // Fails only where a hook is set already, and nobody else sets one.
    let _ = miette::set_hook(Box::new(handler));
}

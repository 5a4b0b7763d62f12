//! What a person reads when a command fails: what happened, to what, and what to do about it.

use std::fmt;
use std::io::{self, IsTerminal, Write};

use plimsoll_client::{ConnectError, RequestError};

use crate::connection;
use crate::exit::Exit;

/// Why a command ended without doing what was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Something to be told.
    Told(Report),
    /// Whoever reads standard output has closed it, which is how `head` says "enough".
    OutputClosed,
}

/// A failure in words.
#[derive(Debug)]
pub(crate) struct Report {
    exit: Exit,
    what: String,
    hints: Vec<String>,
}

impl Failure {
    /// A failure told by one sentence: what happened, to what, why.
    pub(crate) fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self::Told(Report { exit, what: what.into(), hints: Vec::new() })
    }

    /// The same failure, with one more thing that the user can do about it.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        if let Self::Told(report) = &mut self {
            report.hints.push(hint.into());
        }
        self
    }

    /// The same failure, with that too, where there is something.
    pub(crate) fn maybe_hint(self, hint: Option<&str>) -> Self {
        match hint {
            Some(hint) => self.hint(hint),
            None => self,
        }
    }

    /// The same failure, with an exit code that says more than its cause alone did.
    pub(crate) fn with_exit(mut self, exit: Exit) -> Self {
        if let Self::Told(report) = &mut self {
            report.exit = exit;
        }
        self
    }

    /// A failure to write to standard output.
    pub(crate) fn of_output(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::OutputClosed
        } else {
            Self::new(Exit::Failed, format!("cannot write to standard output: {error}"))
        }
    }

    /// A failure to read or list something of the file system.
    pub(crate) fn of_file(doing: &str, path: &std::path::Path, error: &io::Error) -> Self {
        let exit = match error.kind() {
            io::ErrorKind::NotFound => Exit::NotFound,
            _ => Exit::Failed,
        };
        Self::new(exit, format!("cannot {doing} {}: {error}", path.display()))
    }

    /// How the process ends.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Told(report) => report.exit,
            Self::OutputClosed => Exit::Done,
        }
    }

    /// Tells it on standard error, with colour where that is a terminal.
    pub(crate) fn tell(&self) {
        let Self::Told(report) = self else { return };
        let (red, bold, plain) =
            if error_colour() { ("\x1b[1;31m", "\x1b[1m", "\x1b[0m") } else { ("", "", "") };
        let mut text = format!("{red}error:{plain} {}\n", report.what);
        for hint in &report.hints {
            text.push_str(&format!("  {bold}hint:{plain} {hint}\n"));
        }
        // With standard error closed there is nobody left to tell.
        let _ = io::stderr().write_all(text.as_bytes());
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Told(report) => {
                f.write_str(&report.what)?;
                report.hints.iter().try_for_each(|hint| write!(f, "; {hint}"))
            }
            Self::OutputClosed => f.write_str("standard output is closed"),
        }
    }
}

/// A failure of a command that reports through `anyhow`: its chain of causes in one line.
impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        match error.downcast_ref::<io::Error>() {
            Some(io) if io.kind() == io::ErrorKind::BrokenPipe => Self::OutputClosed,
            _ => Self::new(exit_of_causes(&error), format!("{error:#}")),
        }
    }
}

/// The exit code that the causes of a failure call for.
fn exit_of_causes(error: &anyhow::Error) -> Exit {
    let connect = error.chain().find_map(|cause| match cause.downcast_ref() {
        Some(RequestError::Connect(error)) => Some(error),
        _ => cause.downcast_ref::<ConnectError>(),
    });
    connect.map_or(Exit::Failed, connection::exit_of)
}

/// Whether standard error takes colour: a terminal, and nobody asked for none (`NO_COLOR`).
pub(crate) fn error_colour() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Tells something on standard error that is neither result nor failure.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closed_output_is_no_failure() {
        let closed = Failure::of_output(&io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!(closed.exit(), Exit::Done);
        let full = Failure::of_output(&io::Error::from(io::ErrorKind::StorageFull));
        assert_eq!(full.exit(), Exit::Failed);
    }

    #[test]
    fn missing_file_has_its_own_exit_code() {
        let path = std::path::Path::new("/nowhere");
        let missing = io::Error::from(io::ErrorKind::NotFound);
        let failure = Failure::of_file("read", path, &missing).hint("look elsewhere");
        assert_eq!(failure.exit(), Exit::NotFound);
        assert!(failure.to_string().starts_with("cannot read /nowhere: "), "{failure}");
        assert!(failure.to_string().ends_with("; look elsewhere"), "{failure}");
    }

    #[test]
    fn node_that_does_not_answer_has_its_exit_code_under_any_context() {
        let nobody = ConnectError::Dial { address: "a:1".to_owned(), reason: "no".to_owned() };
        let direct = anyhow::Error::from(nobody.clone()).context("workload produce");
        assert_eq!(Failure::from(direct).exit(), Exit::Unreachable);
        let asked = anyhow::Error::from(RequestError::from(nobody)).context("workload produce");
        assert_eq!(Failure::from(asked).exit(), Exit::Unreachable);
        let config = anyhow::Error::from(ConnectError::Config("no authority".to_owned()));
        assert_eq!(Failure::from(config).exit(), Exit::Failed);
    }

    #[test]
    fn causes_are_told_in_one_line() {
        let error = anyhow::anyhow!("port in use").context("cannot listen");
        assert_eq!(Failure::from(error).to_string(), "cannot listen: port in use");
    }
}

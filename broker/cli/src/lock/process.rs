//! The command that runs under a lock: a child whose signals go to all of it, and whose end is waited for.
//!
//! It has a process group of its own, so that what it started ends with it. Not on a terminal: only the group
//! in front may read it, so the command stays in this one, and a Ctrl-C reaches both.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};
use tokio::task::JoinHandle;

use crate::exit::Exit;
use crate::failure::Failure;

/// What shells say of a command that is there and cannot be run.
const CANNOT_RUN: u8 = 126;
/// What shells say of a command that is not there.
const NOT_FOUND: u8 = 127;

/// A command that runs.
pub(super) struct Running {
    pid: Pid,
    has_group: bool,
    ended: JoinHandle<std::io::Result<ExitStatus>>,
}

impl Running {
    /// Starts a command with one more variable.
    ///
    /// # Errors
    /// The exit code for a command that cannot be started, and why.
    pub(super) fn start(
        words: &[OsString],
        variable: (&str, String),
    ) -> Result<Self, (u8, String)> {
        let (program, arguments) = words.split_first().expect("a command has at least a name");
        let has_group = !std::io::stdin().is_terminal();
        let mut command = Command::new(program);
        command.args(arguments).env(variable.0, variable.1);
        if has_group {
            command.process_group(0);
        }
        let child = command.spawn().map_err(|error| {
            let is_missing = error.kind() == std::io::ErrorKind::NotFound;
            let code = if is_missing { NOT_FOUND } else { CANNOT_RUN };
            (code, format!("cannot run {}: {error}", program.display()))
        })?;
        let pid = Pid::from_child(&child);
        Ok(Self { pid, has_group, ended: tokio::task::spawn_blocking(move || wait(child)) })
    }

    /// Waits until it has ended; how, as a shell says it: its exit code, or 128 and the signal's number.
    pub(super) async fn ended(&mut self) -> Result<u8, Failure> {
        let failed =
            |why: String| Failure::new(Exit::Failed, format!("cannot wait for the command: {why}"));
        let waited = (&mut self.ended).await.map_err(|error| failed(error.to_string()))?;
        let status = waited.map_err(|error| failed(error.to_string()))?;
        Ok(code_of(status))
    }

    /// Sends a signal to all of it that can be reached.
    pub(super) fn send(&self, signal: Signal) {
        // Whoever has ended needs no signal.
        let _ = match self.has_group {
            true => kill_process_group(self.pid, signal),
            false => kill_process(self.pid, signal),
        };
    }

    /// Hands on a signal that this process got.
    pub(super) fn forward(&self, signal: Signal) {
        // The terminal has sent its own to the command already.
        if self.has_group || signal != Signal::INT {
            self.send(signal);
        }
    }
}

fn wait(mut child: Child) -> std::io::Result<ExitStatus> {
    child.wait()
}

fn code_of(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

/// The signals that ask this process to end: they are the command's to answer.
pub(super) struct Asked {
    interrupts: Signals,
    terminations: Signals,
    hangups: Signals,
}

impl Asked {
    /// Begins to listen. From here on they do not end the process by themselves.
    pub(super) fn listen() -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|error| {
                Failure::new(Exit::Failed, format!("cannot listen for signals: {error}"))
            })
        };
        Ok(Self {
            interrupts: listen(SignalKind::interrupt())?,
            terminations: listen(SignalKind::terminate())?,
            hangups: listen(SignalKind::hangup())?,
        })
    }

    /// The next one.
    pub(super) async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.interrupts.recv() => Signal::INT,
            _ = self.terminations.recv() => Signal::TERM,
            _ = self.hangups.recv() => Signal::HUP,
        }
    }
}

/// How a shell says that a signal ended a process.
pub(super) fn code_of_signal(signal: Signal) -> u8 {
    u8::try_from(128 + signal.as_raw()).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn ends_are_told_as_a_shell_does() {
        assert_eq!(code_of(ExitStatus::from_raw(3 << 8)), 3);
        assert_eq!(code_of(ExitStatus::from_raw(0)), 0);
        assert_eq!(code_of(ExitStatus::from_raw(9)), 137);
        assert_eq!(code_of_signal(Signal::INT), 130);
    }

    #[tokio::test]
    async fn a_command_has_its_variable_and_its_exit_code_is_known() {
        let line: Vec<OsString> =
            ["sh", "-c", "test \"$FENCE\" = jobs/a/7 && exit 5"].map(OsString::from).to_vec();
        let mut running = Running::start(&line, ("FENCE", "jobs/a/7".to_owned())).unwrap();
        assert_eq!(running.ended().await.unwrap(), 5);
    }

    #[tokio::test]
    async fn a_command_ends_by_the_signals_that_are_sent_to_it() {
        for signal in [Signal::TERM, Signal::KILL] {
            let mut running = Running::start(&words("sleep 600"), ("X", String::new())).unwrap();
            running.send(signal);
            assert_eq!(running.ended().await.unwrap(), code_of_signal(signal));
        }
    }

    #[tokio::test]
    async fn a_command_that_is_not_there_says_so() {
        let (code, told) =
            Running::start(&words("no-such-command-here"), ("X", String::new())).err().unwrap();
        assert_eq!(code, NOT_FOUND);
        assert!(told.contains("no-such-command-here"), "{told}");
        let (code, _) = Running::start(&words("/"), ("X", String::new())).err().unwrap();
        assert_eq!(code, CANNOT_RUN);
    }
}

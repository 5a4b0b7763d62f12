//! `plimsoll log`: a node's data directory, looked at while no node uses it. Nothing is written.

mod inspect;
mod render;
mod verify;

use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::Arc;

use clap::{Args, Subcommand};
use plimsoll_log::HeaderError;
use plimsoll_log::disk::real::{OpenDiskError, OpenOptions, RealDisk};
use plimsoll_log::inspect::{InspectError, Inspector};

use crate::exit::Exit;
use crate::failure::Failure;

const AFTER_HELP: &str = "\
Examples:
  plimsoll log inspect ./data
  plimsoll log inspect ./data --group 3 --batches
  plimsoll log verify ./data";

/// Look into a node's data directory, offline
///
/// Nothing is written, no lock is taken. A node that runs on the directory goes on writing, so
/// that the parts that are read may be of different moments: stop it first.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_HELP)]
pub(crate) struct LogArgs {
    #[command(subcommand)]
    command: LogCommand,
}

#[derive(Debug, Subcommand)]
enum LogCommand {
    Inspect(inspect::InspectArgs),
    Verify(verify::VerifyArgs),
}

impl LogArgs {
    pub(crate) fn run(self) -> Result<Exit, Failure> {
        match self.command {
            LogCommand::Inspect(args) => args.run(),
            LogCommand::Verify(args) => args.run(),
        }
    }
}

/// Opens a data directory for looking only.
fn open(directory: &Path) -> Result<Inspector, Failure> {
    let disk = RealDisk::open(directory, OpenOptions::read_only()).map_err(|error| {
        let exit = match error {
            OpenDiskError::Missing { .. } => Exit::NotFound,
            _ => Exit::Failed,
        };
        Failure::new(exit, error.to_string())
    })?;
    Inspector::open(Arc::new(disk)).map_err(|error| inspect_failure(directory, &error))
}

/// An inspection that could not be done, in words.
fn inspect_failure(directory: &Path, error: &InspectError) -> Failure {
    let text = format!("{}: {error}", directory.display());
    match error {
        InspectError::NoIdentity { .. } => Failure::new(Exit::NotFound, text)
            .hint("name the directory that the node was given with --data"),
        // Whole as far as can be told: only the release that wrote it can say more.
        InspectError::Identity { error: HeaderError::Newer { .. }, .. } => {
            Failure::new(Exit::Failed, text)
                .hint("a newer release wrote it: use that one, or a later one; nothing was changed")
        }
        InspectError::Identity { .. } => Failure::new(Exit::Damaged, text)
            .hint("restore that file from a backup of this directory"),
        InspectError::UnknownGroup(_) => Failure::new(Exit::NotFound, text).hint(
            "without --group all groups are listed; `plimsoll topic describe NAME --json` of a \
             running node says which group a partition is",
        ),
        InspectError::Medium { .. } => Failure::new(Exit::Failed, text),
    }
}

/// Whether a node uses the directory at this moment. Asked only when something looks damaged: the
/// question takes the node's lock for an instant.
fn is_in_use(directory: &Path) -> bool {
    let lock = File::open(directory.join("LOCK"));
    lock.is_ok_and(|lock| matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

/// Ends the process where a listing cannot be printed any further: what walks over the files has no
/// way to be told to stop, and may have gigabytes to go.
fn or_end(outcome: Result<(), Failure>) {
    if let Err(failure) = outcome {
        failure.tell();
        std::process::exit(failure.exit() as i32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_directories_are_refused_and_nothing_is_left_in_them() {
        let directory = tempfile::tempdir().unwrap();
        let missing = open(&directory.path().join("missing")).unwrap_err();
        assert_eq!(missing.exit(), Exit::NotFound);
        let empty = open(directory.path()).unwrap_err();
        assert_eq!(empty.exit(), Exit::NotFound);
        assert!(empty.to_string().contains("--data"), "{empty}");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}

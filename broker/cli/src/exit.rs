//! The exit codes of the binary: few, stable, and the same for every command.

use std::process::ExitCode;

/// How a command ended, as the shell sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Everything asked for was done.
    Done = 0,
    /// It failed, and no other code says why.
    Failed = 1,
    /// The command line cannot be understood; nothing was tried. The parser of arguments uses the
    /// same number.
    Usage = 2,
    /// A topic, partition, key, node, user, virtual host, lock, context, file or directory does not exist.
    NotFound = 3,
    /// Some of it was done and some was not; the message says which.
    Partly = 4,
    /// `log verify` found damage.
    Damaged = 5,
    /// No node answered, or its certificate is not trusted.
    Unreachable = 6,
    /// A key has not what its change was to be made at: nothing was changed.
    Conflict = 7,
    /// A lock is taken, or was waited for in vain. Source: sysexits.h, `EX_TEMPFAIL`.
    NotAcquired = 75,
    /// A lock was lost while it was needed.
    LockLost = 76,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// The codes as `plimsoll --help` lists them.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0  done; also when whoever reads the output closed it (plimsoll consume orders | head)
  1  failed
  2  the command line cannot be understood; nothing was tried
  3  a topic, partition, key, node, user, virtual host, lock, context, file or directory does not exist
  4  partly done: some records or topics, not all; the message says which
  5  `log verify` found damage
  6  no node answered, or its certificate is not trusted
  7  `kv cas`, and `kv put` and `kv delete` with a condition: the key has something else; nothing was changed
  75  `lock run`: the lock was not acquired; otherwise it ends with the command's own code
  76  `lock run`: the lock was lost, and the command was stopped or ended without it";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_listed() {
        for exit in [
            Exit::Done,
            Exit::Failed,
            Exit::Usage,
            Exit::NotFound,
            Exit::Partly,
            Exit::Damaged,
            Exit::Unreachable,
            Exit::Conflict,
            Exit::NotAcquired,
            Exit::LockLost,
        ] {
            assert!(EXIT_CODES.contains(&format!("\n  {}  ", exit as u8)), "{exit:?}");
        }
    }
}

//! In a log, the tokens of a lock's accepted writes never go down: who lost the lock cannot write behind
//! who has it.

use std::collections::BTreeMap;

/// A write with a fence that is in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FencedWrite {
    /// The lock, with its namespace.
    pub fence: String,
    /// The token that it carried.
    pub token: u64,
    /// Where it is in its log: an offset or an index.
    pub position: u64,
}

/// A write was accepted behind one with a higher token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{stale:?} was accepted behind {newer:?}")]
pub struct TokenFell {
    /// The one with the higher token.
    pub newer: FencedWrite,
    /// The one that was to be refused.
    pub stale: FencedWrite,
}

/// Judges the fenced writes of *one* log, in its order. Fences are enforced by each partition by itself:
/// two logs are judged apart.
///
/// # Errors
/// The first stale write.
pub fn fenced_writes<'a>(log: impl IntoIterator<Item = &'a FencedWrite>) -> Result<(), TokenFell> {
    let mut highest: BTreeMap<&str, &FencedWrite> = BTreeMap::new();
    for write in log {
        let newer = highest.entry(&write.fence).or_insert(write);
        if write.token < newer.token {
            return Err(TokenFell { newer: (*newer).clone(), stale: write.clone() });
        }
        *newer = write;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(fence: &str, token: u64, position: u64) -> FencedWrite {
        FencedWrite { fence: fence.into(), token, position }
    }

    #[test]
    fn tokens_may_stay_and_rise_and_locks_may_mix() {
        let log = [write("a", 5, 0), write("b", 2, 1), write("a", 5, 2), write("a", 8, 3)];
        assert_eq!(fenced_writes(&log), Ok(()));
    }

    #[test]
    fn a_write_of_a_former_holder_is_seen() {
        let log = [write("a", 5, 0), write("a", 8, 1), write("b", 2, 2), write("a", 5, 3)];
        let expected = TokenFell { newer: log[1].clone(), stale: log[3].clone() };
        assert_eq!(fenced_writes(&log), Err(expected));
    }
}

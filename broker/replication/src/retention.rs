//! Retention of a group's records, held back until the group could lose its memory of them.
//!
//! What retention drops can never be folded again. So it drops only what is folded into a state
//! that *every* kept checkpoint holds: then the group finds its state and the entries behind it
//! whichever checkpoint it starts from. Which state that is, is not asked of the log; it follows
//! from counting checkpoints.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

use plimsoll_log::RetainLimit;
use plimsoll_protocol::ids::{GroupId, LogId, Offset};

/// After a state was given to the log, so many more checkpoints must be written until none without
/// it is left: one may have been captured before, and two are kept.
const CHECKPOINTS_UNTIL_SAFE: u64 = 3;

/// A state that was given to the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Given {
    pub(crate) applied: LogId,
    /// The first record that must be kept when what it holds is safe.
    pub(crate) kept_from: Offset,
}

impl Given {
    /// What is folded into it may go, and nothing behind it: also entries without records are lost with
    /// their segment.
    pub(crate) fn limit(&self) -> RetainLimit {
        RetainLimit { offset: self.kept_from, last: self.applied.index }
    }
}

#[derive(Debug, Clone, Copy)]
struct Candidate {
    given: Given,
    /// Checkpoints that had been written when it was given.
    checkpoints: u64,
}

/// The states that will be safe to rely on, by group. One small entry per group that was retained in
/// this life of the node.
#[derive(Debug, Default)]
pub(crate) struct Safety {
    candidates: Mutex<HashMap<GroupId, Candidate>>,
}

impl Safety {
    fn candidates(&self) -> MutexGuard<'_, HashMap<GroupId, Candidate>> {
        self.candidates.lock().expect("nothing panics while it holds the candidates")
    }

    /// The state of the group that every kept checkpoint holds, if there is one that was not taken
    /// yet. `give` puts the group's present state into the log; it is asked when no candidate is
    /// waiting.
    ///
    /// # Errors
    /// When `give` fails.
    pub(crate) fn take<E>(
        &self,
        group: GroupId,
        checkpoints: u64,
        give: impl FnOnce() -> Result<Option<Given>, E>,
    ) -> Result<Option<Given>, E> {
        let waiting = self.candidates().get(&group).copied();
        let safe = match waiting {
            Some(c) if checkpoints < c.checkpoints + CHECKPOINTS_UNTIL_SAFE => return Ok(None),
            Some(candidate) => Some(candidate.given),
            None => None,
        };
        if let Some(given) = give()? {
            self.candidates().insert(group, Candidate { given, checkpoints });
        }
        Ok(safe)
    }

    /// Forgets a deleted group.
    pub(crate) fn forget(&self, group: GroupId) {
        self.candidates().remove(&group);
    }
}

#[cfg(test)]
mod tests {
    use plimsoll_protocol::ids::{LogIndex, Term};

    use super::*;

    #[test]
    fn state_is_safe_once_no_kept_checkpoint_is_without_it() {
        let safety = Safety::default();
        let given = |n| Given { applied: LogId::new(Term(1), LogIndex(n)), kept_from: Offset(n) };
        let group = GroupId(1);
        let take = |checkpoints, now: Option<u64>| {
            safety.take(group, checkpoints, || Ok::<_, ()>(Some(given(now.unwrap())))).unwrap()
        };
        assert_eq!(take(10, Some(1)), None);
        assert_eq!(take(12, None), None, "one is waiting, none is asked for");
        assert_eq!(take(13, Some(2)), Some(given(1)));
        assert_eq!(take(13, None), None);
        assert_eq!(take(16, Some(3)), Some(given(2)));
        safety.forget(group);
        assert_eq!(take(20, Some(4)), None);
    }
}

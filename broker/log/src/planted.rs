//! Known bugs, put back in to show that the simulation sees them. Only with the feature `planted`, which
//! nothing but the simulation turns on.

use std::cell::Cell;

use crate::fatal::Completion;

/// A bug, at its site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// An append counts as flushed when it is queued.
    AcknowledgeUnwritten,
    /// A batch's first offset is one too high now and then.
    GapInOffsets,
    /// A vote counts as kept before it is written.
    ForgetVote,
    /// A batch that is sent again is stored again.
    StoreTwice,
}

thread_local! {
    static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
}

/// Plants a bug in everything that runs on this thread from now on.
pub fn plant(bug: Bug) {
    PLANTED.set(Some(bug));
}

/// Whether this bug is planted on this thread.
#[must_use]
pub fn is_planted(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// With the bug planted: says that all went well, and gives a completion that does nothing.
pub(crate) fn done_already(bug: Bug, done: Completion) -> Completion {
    if !is_planted(bug) {
        return done;
    }
    done(Ok(()));
    Box::new(|_| {})
}

//! Known bugs, put back in to show that the simulation sees them. Only with the feature `planted`, which
//! nothing but the simulation turns on.

use std::cell::Cell;

use plimsoll_protocol::ids::Offset;

use crate::fatal::Completion;

/// A bug, at its site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// An append counts as flushed when it is queued.
    AcknowledgeUnwritten,
    /// A batch's first offset is one too high now and then.
    GapInOffsets,
    /// A vote is kept in memory only.
    ForgetVote,
    /// A batch that is sent again is stored again.
    StoreTwice,
    /// The high watermark is one too high.
    ShowUncommitted,
    /// A linearizable read asks nobody.
    SkipReadIndex,
    /// A settlement is answered when it is proposed.
    AnswerUnsettled,
    /// Of what a queue has settled, a stored state remembers its floor only.
    ForgetSettled,
    /// A message that is given back counts as accepted.
    SettleReleased,
    /// Now and then the turn of a message's key is not waited for.
    ForgetKey,
    /// A write passes though a higher token of its lock was seen.
    PassStaleFence,
    /// Floors of guarded topics are not raised before a grant is told.
    SkipGuards,
    /// The value of a key is what the replica knows that was asked, whoever leads.
    StaleGet,
    /// Of the revision that a change expects it is looked only whether there is one.
    CompareNothing,
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

/// Whether this bug is planted on this thread, and shows at this offset.
#[must_use]
pub fn is_planted_at(bug: Bug, offset: Offset) -> bool {
    is_planted(bug) && offset.0 % 5 == 3
}

/// With the bug planted: an offset beyond the high watermark of a partition that holds anything.
#[must_use]
pub fn shown_too_early(high_watermark: Offset) -> Offset {
    let more = is_planted(Bug::ShowUncommitted) && high_watermark > Offset(0);
    Offset(high_watermark.0 + u64::from(more))
}

//! What the driver does beside entries of locks: floors to raise before a grant is told, and events to
//! publish.

use std::collections::BTreeSet;

use plimsoll_protocol::ids::TopicName;

use super::Keeper;
use crate::command::LockCommand;
use crate::fence::FenceName;
use crate::ids::{LockName, RequestId, SessionId, Token};
use crate::state::{Answer, Event, Locks};

/// Floors to raise before a grant is told to its holder: in every partition of these topics, to at least
/// `token`. One that is higher is done: then the grant is over already. A topic that does not exist has
/// nothing to guard and counts as raised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuardWork {
    /// Which lock was granted.
    pub lock: LockName,
    /// Which permit, of a semaphore.
    pub slot: Option<u32>,
    /// Under which token; readers share one.
    pub token: Token,
    /// Where; not empty.
    pub topics: BTreeSet<TopicName>,
}

impl GuardWork {
    /// What the floors are of.
    #[must_use]
    pub fn fence_name(&self) -> FenceName {
        FenceName::new(&self.lock, self.slot)
    }
}

impl Keeper {
    /// The next floors to raise, each once. A new leader gets all that are not known to be raised.
    pub fn poll_guard_work(&mut self, state: &Locks) -> Option<GuardWork> {
        while let Some((lock, slot, token)) = self.guard_work.pop_first() {
            // Who held it may have let go meanwhile.
            let topics = state.unraised(&lock, slot, token);
            if !topics.is_empty() {
                return Some(GuardWork { lock, slot, token, topics });
            }
        }
        None
    }

    /// All floors of this work are raised, and committed: once that is written here, the grant is told.
    pub fn guards_raised(&mut self, work: GuardWork) {
        let GuardWork { lock, slot, token, topics } = work;
        self.enqueue(LockCommand::GuardsRaised { lock, slot, token, topics }, None);
    }

    /// The floors could not be raised for now: [`Keeper::poll_guard_work`] gives the work again.
    pub fn guards_failed(&mut self, work: GuardWork) {
        self.guard_work.insert((work.lock, work.slot, work.token));
    }

    pub(super) fn note_guards(
        &mut self,
        state: &Locks,
        session: SessionId,
        request: RequestId,
        outcome: &Answer,
    ) {
        if let Answer::Granted(grant) = outcome
            && !grant.ready
            && let Some(session) = state.session(session)
            && let Some(lock) = session.claim(request)
        {
            self.guard_work.insert((lock.clone(), grant.slot, grant.token));
        }
    }

    /// The events to append next as one records entry of [`crate::state::EVENTS_PRODUCER`], whose base
    /// sequence is the first event's number; nothing while such an entry is being written. It goes
    /// behind an entry of this leader that is applied: what an earlier leader published is known then.
    pub fn next_events<'a>(&mut self, state: &'a Locks) -> Option<Vec<&'a Event>> {
        if self.publishing || state.unpublished().len() == 0 {
            return None;
        }
        self.publishing = true;
        Some(state.unpublished().take(super::EVENTS_BATCH_MAX).collect())
    }

    /// The records entry of [`Keeper::next_events`] is applied ([`Locks::published`] was said), or
    /// certainly did not enter the log. When that is unknown, the keeper is dropped.
    pub fn events_done(&mut self) {
        self.publishing = false;
    }
}

//! What is to be written into the log, and what follows once it is.
//!
//! Few entries at a time: what comes while they are being written goes into the next, in the order in which
//! it came. So a hand-over costs one entry, and where many ask, what is asked is written together. Expiries go
//! first: a session that is over is then not granted what another one gives back in the same entry.

use std::collections::BTreeSet;

use super::{
    ENTRIES_IN_FLIGHT_MAX, ENTRY_BYTES_MAX, ENTRY_COMMANDS_MAX, InFlight, Keeper, Pending, Ticket,
};
use crate::command::{LockCommand, LocksEntry};
use crate::ids::{RequestId, SessionId};
use crate::state::{Answer, Applied, EndedHow, Locks, Refusal};
use crate::time::Monotonic;

/// What a request came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// What the fold says. A grant is ready; an acquire is not answered with [`Answer::Waiting`].
    Answer(Answer),
    /// The acquire waited as long as it wanted to, and will not be granted.
    TimedOut,
    /// The same acquire was asked again, and the answer goes there.
    Superseded,
}

impl Keeper {
    /// The next control entry to propose, if there is something to write. Nothing of it is so until it
    /// is committed and [`Keeper::applied`].
    pub fn next_entry(&mut self, state: &Locks, now: Monotonic) -> Option<LocksEntry> {
        self.notice(now);
        if self.in_flight.len() >= ENTRIES_IN_FLIGHT_MAX {
            return None;
        }
        let mut entry = LocksEntry::default();
        let (mut tickets, mut expires) = (Vec::new(), BTreeSet::new());
        while entry.commands.len() < ENTRY_COMMANDS_MAX
            && let Some(session) = self.over.pop_first()
        {
            let (Some(it), Some(lease)) = (state.session(session), self.leases.get_mut(&session))
            else {
                continue;
            };
            lease.expiring = true;
            expires.insert(session);
            entry.commands.push(LockCommand::Expire { session, seen: it.renewed });
            tickets.push(None);
        }
        let mut bytes = 0;
        while entry.commands.len() < ENTRY_COMMANDS_MAX
            && bytes < ENTRY_BYTES_MAX
            && let Some(pending) = self.pending.pop_front()
        {
            let weight = pending.command.weight();
            bytes += weight;
            self.pending_bytes -= weight;
            entry.commands.push(pending.command);
            tickets.push(pending.ticket);
        }
        if tickets.is_empty() {
            return None;
        }
        self.in_flight.push_back(InFlight { tickets, expires });
        Some(entry)
    }

    /// The proposed entry certainly did not enter the log and this node still leads: what was asked for
    /// is given by [`Keeper::next_entry`] again, before anything else. Who was to expire has its lease
    /// as it was, and is expired if it is not heard of; it may have been told meanwhile that it is gone,
    /// and stopped for nothing.
    ///
    /// # Panics
    /// When no entry was being written, or more than this one: those behind it may be in the log.
    pub fn refused(&mut self, entry: LocksEntry) {
        let InFlight { tickets, .. } =
            self.in_flight.pop_front().expect("an entry was being written");
        assert!(self.in_flight.is_empty(), "nothing was proposed behind it");
        let mut again = Vec::new();
        for (command, ticket) in entry.commands.into_iter().zip(tickets) {
            if let LockCommand::Expire { session, .. } = command {
                if let Some(lease) = self.leases.get_mut(&session) {
                    lease.expiring = false;
                    self.ends.insert((lease.end, session));
                }
                continue;
            }
            self.pending_bytes += command.weight();
            again.push(Pending { command, ticket });
        }
        again.into_iter().rev().for_each(|pending| self.pending.push_front(pending));
    }

    /// The oldest of the proposed entries is committed and `state` has folded it to this, and perhaps others behind
    /// it. Gives the replies to those who
    /// asked, and to those who waited. Whom [`Applied::lost`] names should hear that at once, too.
    ///
    /// # Panics
    /// When another entry was being written.
    pub fn applied(
        &mut self,
        entry: &LocksEntry,
        applied: &Applied,
        state: &Locks,
        now: Monotonic,
    ) -> Vec<(Ticket, Reply)> {
        self.notice(now);
        let InFlight { tickets, .. } =
            self.in_flight.pop_front().expect("an entry was being written");
        assert_eq!(tickets.len(), applied.answers.len(), "every command has an answer");
        let superseded = std::mem::take(&mut self.superseded);
        let mut replies: Vec<_> =
            superseded.into_iter().map(|ticket| (ticket, Reply::Superseded)).collect();
        for ((command, answer), ticket) in entry.commands.iter().zip(&applied.answers).zip(tickets)
        {
            self.follow(command, state, now);
            replies.extend(ticket.map(|ticket| (ticket, Reply::Answer(answer.clone()))));
            if let LockCommand::Acquire(acquire) = command {
                let key = (acquire.session, acquire.request);
                replies.extend(self.answer_wait(key, answer.clone()));
            }
        }
        let changed: BTreeSet<_> = applied.changed.iter().copied().collect();
        for (session, request) in changed {
            let outcome = state.outcome(session, request);
            self.note_guards(state, session, request, &outcome);
            replies.extend(self.answer_wait((session, request), outcome));
        }
        replies
    }

    /// Makes the leases those of the sessions again.
    fn follow(&mut self, command: &LockCommand, state: &Locks, now: Monotonic) {
        let id = match command {
            LockCommand::OpenSession { session, .. } => {
                if let Some(times) = self.opening.get_mut(session) {
                    *times -= 1;
                    if *times == 0 {
                        self.opening.remove(session);
                    }
                }
                *session
            }
            LockCommand::CloseSession { session } | LockCommand::Expire { session, .. } => *session,
            _ => return,
        };
        match state.session(id) {
            None => self.end_lease(id),
            // A later entry ends it, or not: until that is known it is told that it is gone.
            Some(_) if self.in_flight.iter().any(|later| later.expires.contains(&id)) => {}
            // Also one whose expiry the fold ignored: the log had heard of it.
            Some(session) => self.begin_lease(id, session.lease, now),
        }
    }

    /// The reply to an acquire, once it is final.
    fn answer_wait(
        &mut self,
        key: (SessionId, RequestId),
        outcome: Answer,
    ) -> Option<(Ticket, Reply)> {
        let over = |how| Answer::Refused(Refusal::RequestOver { request: key.1, how });
        let wait = self.waits.get(&key)?;
        let reply = match outcome {
            Answer::Waiting { .. } => return None,
            Answer::Granted(grant) if !grant.ready => return None,
            outcome if outcome == over(EndedHow::Cancelled) && wait.timed_out => Reply::TimedOut,
            outcome if outcome == over(EndedHow::Cancelled) => Reply::Answer(Answer::Cancelled),
            outcome => Reply::Answer(outcome),
        };
        let wait = self.waits.remove(&key).expect("it is there");
        if let Some(until) = wait.until {
            self.wait_ends.remove(&(until, key.0, key.1));
        }
        Some((wait.ticket, reply))
    }
}

impl LockCommand {
    /// About how many bytes it takes in an entry.
    pub(super) fn weight(&self) -> usize {
        const EACH: usize = 64;
        EACH + match self {
            Self::OpenSession { label, .. } => label.as_str().len(),
            Self::Acquire(acquire) => {
                let value = match &acquire.want {
                    crate::command::Want::Lead { value } => value.as_str().len(),
                    _ => 0,
                };
                let guards = acquire.guards.iter().map(|topic| topic.as_str().len() + 2);
                acquire.lock.as_str().len() + value + guards.sum::<usize>()
            }
            Self::Release { lock, .. } => lock.as_str().len(),
            Self::SetValue { lock, value, .. } => lock.as_str().len() + value.as_str().len(),
            Self::GuardsRaised { lock, topics, .. } => {
                let topics = topics.iter().map(|topic| topic.as_str().len() + 2);
                lock.as_str().len() + topics.sum::<usize>()
            }
            Self::ForceRelease { lock, by, .. } | Self::DeleteLock { lock, by, .. } => {
                lock.as_str().len() + by.as_str().len()
            }
            Self::CloseSession { .. } | Self::Expire { .. } | Self::CancelWait { .. } => 0,
        }
    }
}

//! What is so, for people: `lock list`, `lock describe` and `lock sessions`.

use std::ops::Bound;

use plimsoll_protocol::ids::TopicName;

use super::{Lock, Locks};
use crate::command::{Kind, Want};
use crate::ids::{Label, LeaseMs, LockName, SessionId, SessionNumber, Token, Value};
use crate::time::UnixMs;

/// Who holds a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HolderDescription {
    /// Its session: a secret, not to be shown.
    pub id: SessionId,
    /// Whose session it is.
    pub label: Label,
    /// The session.
    pub session: SessionNumber,
    /// Since when, by the leader's clock.
    pub since: UnixMs,
    /// Under which token.
    pub token: Token,
    /// Which permit, of a semaphore.
    pub slot: Option<u32>,
    /// Whether as a reader.
    pub reads: bool,
    /// What the leader of an election wants observers to see.
    pub value: Option<Value>,
    /// Guarded topics whose floors are not yet raised; the holder is not told of its grant before.
    pub unraised: Vec<TopicName>,
}

/// Who waits for a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaiterDescription {
    /// How many are before it.
    pub position: usize,
    /// Whose session it is.
    pub label: Label,
    /// The session.
    pub session: SessionNumber,
    /// Since when, by the leader's clock.
    pub since: UnixMs,
    /// For what.
    pub want: Want,
}

/// A lock as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockDescription {
    /// Its name.
    pub name: LockName,
    /// What it is.
    pub kind: Kind,
    /// Token of the last grant; none before the first.
    pub highest: Option<Token>,
    /// Topics that it guards.
    pub guards: Vec<TopicName>,
    /// Who holds it, by token and permit.
    pub holders: Vec<HolderDescription>,
    /// Who waits, in line.
    pub waiters: Vec<WaiterDescription>,
}

/// A lock in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockSummary {
    /// Its name.
    pub name: LockName,
    /// What it is.
    pub kind: Kind,
    /// Token of the last grant; none before the first.
    pub highest: Option<Token>,
    /// How many hold it.
    pub holders: usize,
    /// One of them.
    pub holder: Option<Label>,
    /// How many wait.
    pub waiters: usize,
    /// How many topics it guards.
    pub guards: usize,
}

/// A session in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionSummary {
    /// The session, by what lets act as it: not for people.
    pub id: SessionId,
    /// What people see of it.
    pub number: SessionNumber,
    /// Whose it is.
    pub label: Label,
    /// How long it lives after it was last heard of.
    pub lease: LeaseMs,
    /// When it began, by the leader's clock.
    pub opened: UnixMs,
    /// How many locks it holds.
    pub held: usize,
    /// How many it waits for.
    pub waiting: usize,
}

impl Locks {
    /// At most `count` sessions whose numbers come after `after`, by number: a page of the list. Looks at each
    /// session.
    #[must_use]
    pub fn list_sessions(&self, after: Option<SessionNumber>, count: usize) -> Vec<SessionSummary> {
        let found = self.sessions.iter().map(|(&id, session)| (session.number, id));
        let mut found: Vec<_> =
            found.filter(|(number, _)| after.is_none_or(|after| *number > after)).collect();
        if count < found.len() {
            found.select_nth_unstable(count);
            found.truncate(count);
        }
        found.sort_unstable();
        let summary = |(number, id): (SessionNumber, SessionId)| {
            let session = &self.sessions[&id];
            let held = self.held_by(id).count();
            SessionSummary {
                id,
                number,
                label: session.label.clone(),
                lease: session.lease,
                opened: session.opened,
                held,
                waiting: session.claims.len() - held,
            }
        };
        found.into_iter().map(summary).collect()
    }

    /// All there is to say about a lock, if it is held, waited for or guards something. At most
    /// `waiters_max` of those who wait, from the head.
    #[must_use]
    pub fn describe(&self, name: &LockName, waiters_max: usize) -> Option<LockDescription> {
        let lock = self.locks.get(name)?;
        let mut holders: Vec<_> = lock
            .holders
            .iter()
            .map(|(&id, holder)| HolderDescription {
                id,
                label: self.sessions[&id].label.clone(),
                session: self.sessions[&id].number,
                since: holder.since,
                token: holder.token,
                slot: holder.slot,
                reads: holder.reads,
                value: holder.value.clone(),
                unraised: holder.unraised.iter().cloned().collect(),
            })
            .collect();
        holders.sort_by_key(|holder| (holder.token, holder.slot, holder.session));
        let waiters = lock.waiters.values().take(waiters_max).enumerate();
        let waiters = waiters.map(|(position, waiter)| WaiterDescription {
            position,
            label: self.sessions[&waiter.session].label.clone(),
            session: self.sessions[&waiter.session].number,
            since: waiter.since,
            want: waiter.want.clone(),
        });
        Some(LockDescription {
            name: name.clone(),
            kind: lock.kind,
            highest: highest(lock),
            guards: lock.guards.iter().cloned().collect(),
            holders,
            waiters: waiters.collect(),
        })
    }

    /// At most `count` locks whose names come after `after`, by name: a page of the list.
    #[must_use]
    pub fn list(&self, after: Option<&LockName>, count: usize) -> Vec<LockSummary> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let page = self.locks.range((from, Bound::Unbounded)).take(count);
        let summary = |(name, lock): (&LockName, &Lock)| LockSummary {
            name: name.clone(),
            kind: lock.kind,
            highest: highest(lock),
            holders: lock.holders.len(),
            holder: lock.holders.keys().next().map(|id| self.sessions[id].label.clone()),
            waiters: lock.waiters.len(),
            guards: lock.guards.len(),
        };
        page.map(summary).collect()
    }
}

fn highest(lock: &Lock) -> Option<Token> {
    Some(lock.highest).filter(|token| token.0 > 0)
}

//! Who is granted what, once an entry's commands are folded: for each lock once per entry.
//!
//! A line is served from its head. Who cannot be granted holds up those behind: readers behind a writer
//! that waits do not overtake it. Readers at the head are granted together, as are all for whom a
//! semaphore has permits.

use std::collections::BTreeSet;

use super::apply::Fold;
use super::event::What;
use super::{Ended, Holder, Lock, Waiter};
use crate::command::{Kind, Want};
use crate::ids::{LockName, Token};

/// What a lock has to give.
#[derive(Clone, Copy)]
pub(super) struct Room {
    /// Which permit, of a semaphore.
    pub(super) slot: Option<u32>,
    /// The token, when it is that of a phase of reading that has begun.
    pub(super) phase: Option<Token>,
}

impl Lock {
    /// Whether this could be granted now.
    pub(super) fn room(&self, want: &Want) -> Option<Room> {
        let first = self.holders.values().next();
        #[cfg(feature = "planted")]
        let first = first.filter(|_| {
            self.holders.len() > 1 || !crate::planted::is_planted(crate::planted::Bug::GrantTwice)
        });
        match (want, self.kind) {
            (Want::Permit { .. }, Kind::Semaphore { permits }) => {
                let used: BTreeSet<_> = self.holders.values().filter_map(|it| it.slot).collect();
                let free = (0..permits.count()).find(|slot| !used.contains(slot))?;
                Some(Room { slot: Some(free), phase: None })
            }
            // Readers and a writer never hold it together: the first speaks for all.
            (Want::Read, _) if first.is_some_and(|holder| holder.reads) => {
                Some(Room { slot: None, phase: first.map(|holder| holder.token) })
            }
            _ if first.is_none() => Some(Room { slot: None, phase: None }),
            _ => None,
        }
    }
}

impl Fold<'_> {
    /// Grants what can be granted of a lock, sends away who does not wait, and forgets the lock when
    /// there is nothing to remember.
    pub(super) fn settle(&mut self, name: &LockName) {
        while let Some(lock) = self.state.locks.get(name)
            && let Some((&arrival, head)) = lock.waiters.first_key_value()
        {
            #[cfg(feature = "planted")]
            if crate::planted::is_planted(crate::planted::Bug::ForgetWaiters)
                && lock.waiters.range(self.first_arrival..).next().is_none()
            {
                break;
            }
            if !self.state.sessions.contains_key(&head.session) {
                // The end of a session takes its waiters along, so there is none: but a grant to nobody
                // would never end, and so it is looked at once more at this moment.
                self.take_waiter(name, arrival);
                continue;
            }
            match lock.room(&head.want) {
                Some(room) => self.grant(name, arrival, room),
                None if head.once => self.send_away(name, arrival),
                None => break,
            }
        }
        let Some(lock) = self.state.locks.get(name) else { return };
        let came = lock.waiters.range(self.first_arrival..);
        let came: Vec<_> = came.map(|(&arrival, it)| (arrival, it.session, it.once)).collect();
        for (arrival, session, once) in came {
            match once {
                true => self.send_away(name, arrival),
                false => self.note(name, What::Waiting, Some((session, None, None)), None),
            }
        }
        if self.state.locks.get(name).is_some_and(Lock::is_idle) {
            self.state.locks.remove(name);
            self.note(name, What::Forgotten, None, None);
        }
    }

    fn take_waiter(&mut self, name: &LockName, arrival: u64) -> (&mut Lock, Waiter) {
        let lock = self.state.locks.get_mut(name).expect("it is being settled");
        let waiter = lock.waiters.remove(&arrival).expect("it waits");
        lock.waiting.remove(&waiter.session);
        (lock, waiter)
    }

    fn grant(&mut self, name: &LockName, arrival: u64, room: Room) {
        let (index, since) = (self.index, self.at);
        let (lock, waiter) = self.take_waiter(name, arrival);
        let token = room.phase.unwrap_or(Token::from(index));
        #[cfg(feature = "planted")]
        let token = match crate::planted::is_planted(crate::planted::Bug::RepeatToken) {
            true if lock.highest > Token(0) => lock.highest,
            _ => token,
        };
        assert!(token >= lock.highest, "token {token} of lock {name} is after {}", lock.highest);
        lock.highest = token;
        let reads = waiter.want == Want::Read;
        let value = match waiter.want {
            Want::Lead { value } => Some(value),
            _ => None,
        };
        let (request, slot, unraised) = (waiter.request, room.slot, lock.guards.clone());
        let holder = Holder { request, token, slot, since, reads, value, unraised };
        lock.holders.insert(waiter.session, holder);
        self.applied.changed.push((waiter.session, request));
        self.applied.tally.granted += 1;
        self.note(name, What::Granted, Some((waiter.session, Some(token), slot)), None);
    }

    fn send_away(&mut self, name: &LockName, arrival: u64) {
        let (_, waiter) = self.take_waiter(name, arrival);
        self.state.claims -= 1;
        let lock = &self.state.locks[name];
        let by = self.occupant(lock).expect("a lock that cannot be granted is held");
        self.session(waiter.session).end(waiter.request, Ended::Taken(by));
    }
}

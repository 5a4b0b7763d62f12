//! Keep-alives, and what time ends: leases and waits.

use super::{Keeper, Lease, SessionGone};
use crate::command::LockCommand;
use crate::ids::{LeaseMs, SessionId};
use crate::state::Locks;
use crate::time::Monotonic;

/// How often a keeper with sessions wants to be told the time, in milliseconds; a lease that is over is
/// noticed so much later at most.
pub const LOOK_MS: u64 = 250;

/// A keeper that was not told the time for longer, in milliseconds, was stalled itself: what sessions
/// said meanwhile may still be on its way to it, so they get all that time back.
pub const STALL_MS: u64 = 1_000;

impl Keeper {
    /// A session is alive. Gives how long its lease is from now, in milliseconds; the client itself
    /// counts from before it sent this ([`crate::lease`]). The answer waits until it is certain that
    /// this node led when it came.
    ///
    /// # Errors
    /// When there is no such session, or its expiry is being written: what it held is lost.
    pub fn keep_alive(
        &mut self,
        state: &Locks,
        id: SessionId,
        now: Monotonic,
    ) -> Result<u64, SessionGone> {
        self.notice(now);
        self.renew(state, id, now)
    }

    /// How long a session lives if nothing is heard of it, in milliseconds.
    #[must_use]
    pub fn lease_left_ms(&self, id: SessionId, now: Monotonic) -> u64 {
        self.leases.get(&id).map_or(0, |lease| lease.end.0.saturating_sub(now.0))
    }

    /// Does what time asks for: leases and waits that are over are ended by the next entry.
    pub fn tick(&mut self, now: Monotonic) {
        self.notice(now);
        while let Some(&(end, id)) = self.ends.first()
            && end <= now
        {
            self.ends.pop_first();
            self.over.insert(id);
        }
        while let Some(&(until, session, request)) = self.wait_ends.first()
            && until <= now
        {
            self.wait_ends.pop_first();
            if let Some(wait) = self.waits.get_mut(&(session, request)) {
                wait.timed_out = true;
                self.enqueue(LockCommand::CancelWait { session, request }, None);
            }
        }
    }

    /// Takes note of the time. All leases are longer by the time in which this leader stood still.
    pub(super) fn notice(&mut self, now: Monotonic) {
        let gap = now.0.saturating_sub(self.looked.0);
        self.looked = self.looked.max(now);
        if gap <= STALL_MS {
            return;
        }
        self.over.clear();
        for lease in self.leases.values_mut() {
            lease.end = lease.end.plus(gap);
        }
        let running = self.leases.iter().filter(|(_, lease)| !lease.expiring);
        self.ends = running.map(|(&id, lease)| (lease.end, id)).collect();
    }

    /// A session has said something: its lease begins anew.
    pub(super) fn renew(
        &mut self,
        state: &Locks,
        id: SessionId,
        now: Monotonic,
    ) -> Result<u64, SessionGone> {
        let session = state.session(id).ok_or(SessionGone)?;
        let lease = self.leases.get(&id).ok_or(SessionGone)?;
        if lease.expiring {
            return Err(SessionGone);
        }
        self.begin_lease(id, session.lease, now);
        Ok(session.lease.ms())
    }

    /// A lease begins, or begins anew. It is never shortened.
    pub(super) fn begin_lease(&mut self, id: SessionId, lease: LeaseMs, now: Monotonic) {
        let end = now.plus(lease.ms());
        #[cfg(feature = "planted")]
        let end = match crate::planted::is_planted(crate::planted::Bug::HalfLease) {
            true => now.plus(lease.ms() / 2),
            false => end,
        };
        let lease = self.leases.entry(id).or_insert(Lease { end, expiring: false });
        self.ends.remove(&(lease.end, id));
        self.over.remove(&id);
        lease.expiring = false;
        lease.end = lease.end.max(end);
        self.ends.insert((lease.end, id));
    }

    pub(super) fn end_lease(&mut self, id: SessionId) {
        if let Some(lease) = self.leases.remove(&id) {
            self.ends.remove(&(lease.end, id));
            self.over.remove(&id);
        }
    }
}

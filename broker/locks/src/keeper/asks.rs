//! What clients and operators want: each request gets a ticket, and the ticket its reply once the entry
//! is applied. An acquire that waits gets it when it is granted, or ends otherwise.

use thiserror::Error;

use super::{Busy, Keeper, PENDING_BYTES_MAX, Pending, SessionGone, Ticket, Wait};
use crate::command::{Acquire, LockCommand, TooManyGuards};
use crate::ids::{Label, LeaseMs, LockName, RequestId, SessionId, SessionNumber, Token, Value};
use crate::state::Locks;
use crate::time::Monotonic;

/// Why something cannot be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum AskError {
    /// Who asks has no session.
    #[error(transparent)]
    SessionGone(#[from] SessionGone),
    /// Too much waits to be written.
    #[error(transparent)]
    Busy(#[from] Busy),
    /// The lock would guard too much.
    #[error(transparent)]
    TooManyGuards(#[from] TooManyGuards),
}

/// How long an acquire waits in line, if it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// So long, in milliseconds from now; then it is cancelled.
    AtMost(u64),
    /// As long as the session lives.
    Unbounded,
}

impl Keeper {
    /// A session begins, or says that it goes on. Its number tells which: another one than before is a
    /// new session, and what the old one held is lost.
    ///
    /// # Errors
    /// When its expiry is being written, or too much waits to be written.
    pub fn open(
        &mut self,
        state: &Locks,
        session: SessionId,
        lease: LeaseMs,
        label: Label,
        now: Monotonic,
    ) -> Result<Ticket, AskError> {
        self.notice(now);
        self.room()?;
        if self.leases.contains_key(&session) {
            self.renew(state, session, now)?;
            // The client counts the lease that it asks for from before this came, whenever it is written.
            self.begin_lease(session, lease, now);
        }
        *self.opening.entry(session).or_default() += 1;
        Ok(self.ask(LockCommand::OpenSession { session, lease, label }))
    }

    /// A session ends by its own wish, with all that it holds and waits for.
    ///
    /// # Errors
    /// When there is no such session, or too much waits to be written.
    pub fn close(
        &mut self,
        state: &Locks,
        session: SessionId,
        now: Monotonic,
    ) -> Result<Ticket, AskError> {
        self.speaks(state, session, now)?;
        Ok(self.ask(LockCommand::CloseSession { session }))
    }

    /// A session wants a lock. Where it waits, `patience` says how long. Asked again with the same
    /// request id, because no answer came, it is the same acquire; an earlier ticket of it is answered
    /// with [`super::Reply::Superseded`].
    ///
    /// # Errors
    /// When there is no such session, the acquire is out of bounds, or too much waits to be written.
    pub fn acquire(
        &mut self,
        state: &Locks,
        acquire: Acquire,
        patience: Patience,
        now: Monotonic,
    ) -> Result<Ticket, AskError> {
        acquire.check()?;
        self.speaks(state, acquire.session, now)?;
        let (session, request) = (acquire.session, acquire.request);
        let until = match patience {
            Patience::AtMost(ms) if acquire.wait => Some(now.plus(ms)),
            _ => None,
        };
        let ticket = self.ticket();
        let wait = Wait { ticket, until, timed_out: false };
        if let Some(before) = self.waits.insert((session, request), wait) {
            self.superseded.push(before.ticket);
            if let Some(until) = before.until {
                self.wait_ends.remove(&(until, session, request));
            }
        }
        self.wait_ends.extend(until.map(|until| (until, session, request)));
        self.enqueue(LockCommand::Acquire(Box::new(acquire)), None);
        Ok(ticket)
    }

    /// A session does not wait any longer. The reply says whether it was granted before.
    ///
    /// # Errors
    /// When there is no such session, or too much waits to be written.
    pub fn cancel(
        &mut self,
        state: &Locks,
        session: SessionId,
        request: RequestId,
        now: Monotonic,
    ) -> Result<Ticket, AskError> {
        self.speaks(state, session, now)?;
        Ok(self.ask(LockCommand::CancelWait { session, request }))
    }

    /// A holder gives back what it was granted by this acquire.
    ///
    /// # Errors
    /// When there is no such session, or too much waits to be written.
    pub fn release(
        &mut self,
        state: &Locks,
        (session, request): (SessionId, RequestId),
        (lock, token): (LockName, Token),
        now: Monotonic,
    ) -> Result<Ticket, AskError> {
        self.speaks(state, session, now)?;
        Ok(self.ask(LockCommand::Release { session, request, lock, token }))
    }

    /// The leader of an election changes its value.
    ///
    /// # Errors
    /// When there is no such session, or too much waits to be written.
    pub fn set_value(
        &mut self,
        state: &Locks,
        session: SessionId,
        (lock, token): (LockName, Token),
        value: Value,
        now: Monotonic,
    ) -> Result<Ticket, AskError> {
        self.speaks(state, session, now)?;
        Ok(self.ask(LockCommand::SetValue { session, lock, token, value }))
    }

    /// An operator takes a lock from these sessions; from all who hold it, where none is named. The reply
    /// comes when all of them have lost it.
    ///
    /// # Errors
    /// When too much waits to be written.
    pub fn force_release(
        &mut self,
        lock: &LockName,
        whose: &[SessionNumber],
        by: &Label,
    ) -> Result<Ticket, Busy> {
        self.room()?;
        let from = |whose| LockCommand::ForceRelease { lock: lock.clone(), whose, by: by.clone() };
        let last = whose.split_last().map(|(&last, before)| {
            before.iter().for_each(|&number| self.enqueue(from(Some(number)), None));
            last
        });
        // What is asked for is written in its order, so the others are done when this is.
        Ok(self.ask(from(last)))
    }

    /// A lock is to be forgotten. The reply says where its floors are to be pruned.
    ///
    /// # Errors
    /// When too much waits to be written.
    pub fn delete(&mut self, lock: LockName, forced: bool, by: Label) -> Result<Ticket, Busy> {
        self.room()?;
        Ok(self.ask(LockCommand::DeleteLock { lock, forced, by }))
    }

    /// Checks that there is such a session, and room for what it asks; it has been heard of.
    fn speaks(&mut self, state: &Locks, id: SessionId, now: Monotonic) -> Result<(), AskError> {
        self.notice(now);
        if let Err(gone) = self.renew(state, id, now)
            && (self.leases.contains_key(&id) || !self.opening.contains_key(&id))
        {
            return Err(gone.into());
        }
        Ok(self.room()?)
    }

    fn room(&self) -> Result<(), Busy> {
        let bytes = self.pending_bytes;
        if bytes < PENDING_BYTES_MAX { Ok(()) } else { Err(Busy { bytes }) }
    }

    fn ticket(&mut self) -> Ticket {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        ticket
    }

    fn ask(&mut self, command: LockCommand) -> Ticket {
        let ticket = self.ticket();
        self.enqueue(command, Some(ticket));
        ticket
    }

    pub(super) fn enqueue(&mut self, command: LockCommand, ticket: Option<Ticket>) {
        self.pending_bytes += command.weight();
        self.pending.push_back(Pending { command, ticket });
    }
}

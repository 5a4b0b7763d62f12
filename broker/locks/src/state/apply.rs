//! The fold of one control entry: first what ends and who comes, command by command, then who is
//! granted what (`settle`).
//!
//! All commands of an entry were on their way at the same time, so any order of them is one that clients
//! may see; this one grants each lock at most once per entry, which makes the entry's index a token that
//! only grows, and never grants to a session that ends in the same entry.

use std::collections::BTreeSet;
use std::mem;

use plimsoll_protocol::ids::LogIndex;

use super::event::{Event, EventHolder, What, Who};
use super::{
    Answer, Bound, CLAIMS_MAX, CLAIMS_PER_SESSION_MAX, EVENTS_MAX, Ended, LOCKS_MAX, Lock, Locks,
    Occupant, Refusal, SESSIONS_MAX, Session, WAITERS_MAX, Waiter,
};
use crate::command::{Acquire, GUARDS_MAX, Kind, LockCommand, LocksEntry};
use crate::ids::{Label, LeaseMs, LockName, RequestId, SessionId, SessionNumber, Token, Value};
use crate::time::UnixMs;

/// Somebody lost a lock without having given it back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// Who.
    pub session: SessionId,
    /// What was granted: this acquire.
    pub request: RequestId,
    /// Which lock.
    pub lock: LockName,
    /// Under which token.
    pub token: Token,
    /// Why: [`What::Expired`] or [`What::Forced`].
    pub why: What,
}

/// What an entry came to. Only who folded it has it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Applied {
    /// An answer per command.
    pub answers: Vec<Answer>,
    /// Acquires whose [`Locks::outcome`] may be another than before: each at most a few times.
    pub changed: Vec<(SessionId, RequestId)>,
    /// Who lost what.
    pub lost: Vec<Lost>,
    /// How much of what is counted.
    pub tally: Tally,
}

/// What entries did, counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Grants of locks.
    pub granted: u64,
    /// Grants that their holders gave back; each once, however often it was said.
    pub released: u64,
    /// Sessions that were silent for longer than their lease.
    pub expired_sessions: u64,
    /// Grants that an operator took away, also by deleting the lock.
    pub forced: u64,
}

/// What a command came to, as far as it is known before locks are granted.
enum Step {
    Answer(Answer),
    /// What this acquire comes to.
    Acquire(SessionId, RequestId),
}

/// How a claim ends.
#[derive(Clone, Copy)]
struct End<'a> {
    what: What,
    by: Option<&'a Label>,
}

/// One entry in the course of being folded.
pub(super) struct Fold<'a> {
    pub(super) state: &'a mut Locks,
    pub(super) index: LogIndex,
    pub(super) at: UnixMs,
    /// Locks in which something changed.
    touched: BTreeSet<LockName>,
    /// Who arrived from here on came in this entry.
    pub(super) first_arrival: u64,
    pub(super) applied: Applied,
}

impl Locks {
    /// Folds the control entry at `index`; `at` is the leader's time in it.
    ///
    /// # Panics
    /// When the entry is not after the last one: tokens would repeat. (Index 0 is the first membership
    /// of a group, never a control entry.)
    pub fn apply(&mut self, entry: &LocksEntry, index: LogIndex, at: UnixMs) -> Applied {
        assert!(index > self.last, "entry {index} of locks cannot be applied after {}", self.last);
        self.last = index;
        let first_arrival = self.next_arrival;
        let (touched, applied) = (BTreeSet::new(), Applied::default());
        let mut fold = Fold { state: self, index, at, touched, first_arrival, applied };
        let each = |command| match fold.command(command) {
            Ok(step) => step,
            Err(refusal) => Step::Answer(Answer::Refused(refusal)),
        };
        let steps: Vec<_> = entry.commands.iter().map(each).collect();
        for name in mem::take(&mut fold.touched) {
            fold.settle(&name);
        }
        let mut applied = fold.applied;
        let answer = |step| match step {
            Step::Answer(answer) => answer,
            Step::Acquire(session, request) => self.outcome(session, request),
        };
        applied.answers = steps.into_iter().map(answer).collect();
        applied
    }
}

impl Fold<'_> {
    fn command(&mut self, command: &LockCommand) -> Result<Step, Refusal> {
        let answer = match command {
            LockCommand::OpenSession { session, lease, label } => {
                self.open(*session, *lease, label)?
            }
            LockCommand::CloseSession { session } => {
                self.end_session(*session, What::SessionClosed)
            }
            LockCommand::Expire { session, seen } => match self.state.sessions.get(session) {
                Some(it) if it.renewed <= *seen => {
                    self.applied.tally.expired_sessions += 1;
                    self.end_session(*session, What::Expired)
                }
                _ => Answer::Ignored,
            },
            LockCommand::Acquire(acquire) => return self.acquire(acquire),
            LockCommand::CancelWait { session, request } => self.cancel(*session, *request)?,
            LockCommand::Release { session, request, lock, token } => {
                self.release(*session, *request, lock, *token)?
            }
            LockCommand::ForceRelease { lock, whose, by } => {
                self.force(lock, *whose, by);
                Answer::Done
            }
            LockCommand::SetValue { session, lock, token, value } => {
                self.set_value(*session, lock, *token, value)?
            }
            LockCommand::GuardsRaised { lock, slot, token, topics } => {
                let holders = self.state.locks.get_mut(lock).into_iter();
                let holders = holders.flat_map(|lock| lock.holders.iter_mut());
                let mut raised = false;
                for (&id, holder) in holders {
                    if holder.slot == *slot && holder.token == *token {
                        let before = holder.unraised.len();
                        holder.unraised.retain(|topic| !topics.contains(topic));
                        if holder.unraised.len() < before {
                            raised = true;
                            self.applied.changed.push((id, holder.request));
                        }
                    }
                }
                if raised { Answer::Done } else { Answer::Ignored }
            }
            LockCommand::DeleteLock { lock, forced, by } => self.delete(lock, *forced, by)?,
        };
        Ok(Step::Answer(answer))
    }

    fn open(&mut self, id: SessionId, lease: LeaseMs, label: &Label) -> Result<Answer, Refusal> {
        let state = &mut *self.state;
        if let Some(session) = state.sessions.get_mut(&id) {
            session.renewed = self.index;
            session.lease = lease;
            session.label = label.clone();
            return Ok(Answer::Opened { session: session.number });
        }
        if state.sessions.len() >= SESSIONS_MAX {
            return Err(Refusal::TooMany { bound: Bound::Sessions });
        }
        state.sessions_begun += 1;
        let number = SessionNumber(state.sessions_begun);
        let session = Session {
            number,
            lease,
            label: label.clone(),
            opened: self.at,
            renewed: self.index,
            claims: Default::default(),
            ended: Default::default(),
            floor: RequestId(0),
        };
        state.sessions.insert(id, session);
        Ok(Answer::Opened { session: number })
    }

    /// Ends a session with all that it holds and waits for. One that is gone wanted to be.
    fn end_session(&mut self, id: SessionId, what: What) -> Answer {
        let Some(session) = self.state.sessions.get(&id) else { return Answer::Done };
        let claims: Vec<_> = session.claims.keys().copied().collect();
        for request in claims {
            self.end_claim(id, request, End { what, by: None });
        }
        self.state.sessions.remove(&id);
        Answer::Done
    }

    fn acquire(&mut self, acquire: &Acquire) -> Result<Step, Refusal> {
        let (id, request) = (acquire.session, acquire.request);
        let session = self.speaks(id)?;
        if let Some(lock) = session.claims.get(&request)
            && *lock != acquire.lock
        {
            return Err(Refusal::RequestReused { request, lock: lock.clone() });
        }
        if session.claims.contains_key(&request)
            || session.ended.contains_key(&request)
            || request < session.floor
        {
            return Ok(Step::Acquire(id, request));
        }
        if let Err(refusal) = self.may_acquire(acquire) {
            // A copy that comes late must not be granted to somebody who was told that it is refused.
            self.session(id).end(request, Ended::Refused);
            return Err(refusal);
        }
        let state = &mut *self.state;
        let name = &acquire.lock;
        let lock = state.locks.entry(name.clone());
        let lock = lock.or_insert_with(|| Lock::new(acquire.want.kind()));
        lock.guards.extend(acquire.guards.iter().cloned());
        let arrival = state.next_arrival;
        state.next_arrival += 1;
        let (want, since, once) = (acquire.want.clone(), self.at, !acquire.wait);
        lock.waiters.insert(arrival, Waiter { session: id, request, want, since, once });
        lock.waiting.insert(id, arrival);
        state.claims += 1;
        self.session(id).claims.insert(request, name.clone());
        self.touched.insert(name.clone());
        Ok(Step::Acquire(id, request))
    }

    fn may_acquire(&self, acquire: &Acquire) -> Result<(), Refusal> {
        let state = &*self.state;
        let claims = state.sessions[&acquire.session].claims.len();
        let too_many = |bound| Err(Refusal::TooMany { bound });
        let lock = || acquire.lock.clone();
        match state.locks.get(&acquire.lock) {
            None if state.locks.len() >= LOCKS_MAX => return too_many(Bound::Locks),
            None if acquire.guards.len() > GUARDS_MAX => return too_many(Bound::Guards),
            None => {}
            Some(it) => {
                if let Some(holder) = it.holders.get(&acquire.session) {
                    return Err(Refusal::AlreadyHeld { lock: lock(), token: holder.token });
                }
                if it.waiting.contains_key(&acquire.session) {
                    return Err(Refusal::AlreadyWaiting { lock: lock() });
                }
                if it.kind != acquire.want.kind() {
                    return Err(Refusal::OtherKind { lock: lock(), is: it.kind });
                }
                if it.guards.union(&acquire.guards).count() > GUARDS_MAX {
                    return too_many(Bound::Guards);
                }
                if it.waiters.len() >= WAITERS_MAX {
                    return too_many(Bound::Waiters);
                }
            }
        }
        if claims >= CLAIMS_PER_SESSION_MAX {
            return too_many(Bound::ClaimsOfSession);
        }
        if state.claims >= CLAIMS_MAX {
            return too_many(Bound::Claims);
        }
        self.may_add_events()
    }

    fn cancel(&mut self, id: SessionId, request: RequestId) -> Result<Answer, Refusal> {
        let claim = self.speaks(id)?.claims.get(&request).cloned();
        if let Some(name) = claim {
            if self.state.locks[&name].waiting.contains_key(&id) {
                self.end_claim(id, request, End { what: What::Cancelled, by: None });
                return Ok(Answer::Cancelled);
            }
            return Ok(self.state.outcome(id, request));
        }
        let session = self.session(id);
        match session.ended.get(&request) {
            Some(Ended::Cancelled) => Ok(Answer::Cancelled),
            None if request >= session.floor => {
                // It is still on its way: it comes too late.
                session.end(request, Ended::Cancelled);
                Ok(Answer::Cancelled)
            }
            _ => Ok(self.state.outcome(id, request)),
        }
    }

    fn release(
        &mut self,
        id: SessionId,
        request: RequestId,
        lock: &LockName,
        token: Token,
    ) -> Result<Answer, Refusal> {
        if let Some(Ended::Released) = self.speaks(id)?.ended.get(&request) {
            return Ok(Answer::Released);
        }
        if self.holds(id, lock, token)? != request {
            return Err(self.not_holder(lock, token));
        }
        self.end_claim(id, request, End { what: What::Released, by: None });
        Ok(Answer::Released)
    }

    fn force(&mut self, name: &LockName, whose: Option<SessionNumber>, by: &Label) {
        let Some(lock) = self.state.locks.get(name) else { return };
        let sessions = &self.state.sessions;
        let meant = |id: &SessionId| whose.is_none_or(|number| sessions[id].number == number);
        let holders = lock.holders.iter().filter(|(id, _)| meant(id));
        let holders: Vec<_> = holders.map(|(&id, holder)| (id, holder.request)).collect();
        for (id, request) in holders {
            self.end_claim(id, request, End { what: What::Forced, by: Some(by) });
        }
    }

    fn set_value(
        &mut self,
        id: SessionId,
        name: &LockName,
        token: Token,
        value: &Value,
    ) -> Result<Answer, Refusal> {
        self.speaks(id)?;
        self.holds(id, name, token)?;
        self.may_add_events()?;
        let lock = self.state.locks.get_mut(name).expect("it is held");
        if lock.kind != Kind::Election {
            return Err(Refusal::NotElection { lock: name.clone(), is: lock.kind });
        }
        let holder = lock.holders.get_mut(&id).expect("it is held");
        holder.value = Some(value.clone());
        let slot = holder.slot;
        self.note(name, What::Value, Some((id, Some(token), slot)), None);
        Ok(Answer::Done)
    }

    fn delete(&mut self, name: &LockName, forced: bool, by: &Label) -> Result<Answer, Refusal> {
        if let Some(lock) = self.state.locks.get(name) {
            let (holders, waiters) = (lock.holders.len(), lock.waiters.len());
            if holders + waiters > 0 && !forced {
                return Err(Refusal::InUse { lock: name.clone(), holders, waiters });
            }
            let holding = lock.holders.iter().map(|(&id, holder)| (id, holder.request));
            let waiting = lock.waiters.values().map(|waiter| (waiter.session, waiter.request));
            let claims: Vec<_> = holding.chain(waiting).collect();
            for (id, request) in claims {
                self.end_claim(id, request, End { what: What::Forced, by: Some(by) });
            }
        } else {
            // A forgotten lock may still have its key in the topic.
            self.may_add_events()?;
        }
        let guards = self.state.locks.remove(name).map(|lock| lock.guards).unwrap_or_default();
        self.note(name, What::Deleted, None, Some(by));
        self.note(name, What::Forgotten, None, None);
        Ok(Answer::Deleted { guards })
    }

    /// The session, which has just said something.
    fn speaks(&mut self, id: SessionId) -> Result<&mut Session, Refusal> {
        let session = self.state.sessions.get_mut(&id).ok_or(Refusal::SessionGone)?;
        session.renewed = self.index;
        Ok(session)
    }

    pub(super) fn session(&mut self, id: SessionId) -> &mut Session {
        self.state.sessions.get_mut(&id).expect("who holds or waits is a session that is there")
    }

    fn may_add_events(&self) -> Result<(), Refusal> {
        if self.state.outbox.len() < EVENTS_MAX { Ok(()) } else { Err(Refusal::Busy) }
    }

    /// The acquire under which the session holds the lock with this token.
    fn holds(&self, id: SessionId, name: &LockName, token: Token) -> Result<RequestId, Refusal> {
        let lock = self.state.locks.get(name);
        let holder = lock.and_then(|lock| lock.holders.get(&id));
        if let Some(holder) = holder.filter(|holder| holder.token == token) {
            return Ok(holder.request);
        }
        Err(self.not_holder(name, token))
    }

    fn not_holder(&self, name: &LockName, token: Token) -> Refusal {
        let lock = self.state.locks.get(name);
        let holder = lock.and_then(|lock| self.occupant(lock));
        Refusal::NotHolder { lock: name.clone(), token, holder }
    }

    /// One of those who hold a lock.
    pub(super) fn occupant(&self, lock: &Lock) -> Option<Occupant> {
        let EventHolder { label, session, token, .. } =
            EventHolder::of(lock, &self.state.sessions)?;
        Some(Occupant { label, session, token })
    }

    /// Takes from a session what it holds or waits for.
    fn end_claim(&mut self, id: SessionId, request: RequestId, end: End<'_>) {
        let name = self.session(id).claims.get(&request).expect("it is a claim").clone();
        let lock = self.state.locks.get_mut(&name).expect("a claim is to a lock that is there");
        let held = lock.holders.remove(&id).map(|holder| (holder.token, holder.slot));
        if held.is_none() {
            let arrival = lock.waiting.remove(&id).expect("who does not hold waits");
            lock.waiters.remove(&arrival);
        }
        self.state.claims -= 1;
        let ended = match (end.what, held) {
            (What::Released, _) => Ended::Released,
            (What::Cancelled, _) => Ended::Cancelled,
            _ => Ended::Forced,
        };
        self.session(id).end(request, ended);
        self.applied.changed.push((id, request));
        match end.what {
            What::Released => self.applied.tally.released += 1,
            What::Forced if held.is_some() => self.applied.tally.forced += 1,
            _ => {}
        }
        if let (Some((token, _)), What::Expired | What::Forced) = (held, end.what) {
            let lost = Lost { session: id, request, lock: name.clone(), token, why: end.what };
            self.applied.lost.push(lost);
        }
        let (token, slot) = held.map_or((None, None), |(token, slot)| (Some(token), slot));
        self.note(&name, end.what, Some((id, token, slot)), end.by);
        self.touched.insert(name);
    }

    /// Adds an event.
    pub(super) fn note(
        &mut self,
        name: &LockName,
        what: What,
        who: Option<(SessionId, Option<Token>, Option<u32>)>,
        by: Option<&Label>,
    ) {
        let state = &mut *self.state;
        let who = who.map(|(id, token, slot)| {
            let session = &state.sessions[&id];
            Who { label: session.label.clone(), session: session.number, token, slot }
        });
        let lock = state.locks.get(name);
        let holder = lock.and_then(|lock| EventHolder::of(lock, &state.sessions));
        let (number, lock, by, at) = (state.next_event, name.clone(), by.cloned(), self.at);
        state.outbox.push_back(Event { number, lock, what, who, by, at, holder });
        state.next_event += 1;
    }
}

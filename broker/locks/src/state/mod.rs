//! The replicated state of one namespace of locks: what its control entries add up to.
//!
//! ```text
//!  mod       the state, and what can be asked of it
//!  apply     the fold of one entry, command by command
//!  settle    who is granted what once an entry's commands are folded
//!  answer    what a command came to
//!  event     changes to be published as records of the topic
//!  describe  for people        snapshot  the state as bytes
//! ```
//!
//! Invariants: the same entries give the same state and the same bytes on every replica; a lock has no
//! more holders than its kind allows; who holds or waits is a session that is there, and holds or waits
//! for each lock once; after an entry nobody waits at the head of a line for what could be granted; each
//! grant of a lock (of each permit of a semaphore) has a higher token than all before it, but readers
//! of one phase share theirs. The state does not know leases' ends, or what time it is.

mod answer;
mod apply;
mod describe;
mod event;
mod settle;
mod snapshot;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use plimsoll_protocol::ids::{LogIndex, TopicName};

pub use answer::{Answer, Bound, EndedHow, Grant, Occupant, Refusal};
pub use apply::{Applied, Lost, Tally};
pub use describe::{
    HolderDescription, LockDescription, LockSummary, SessionSummary, WaiterDescription,
};
pub use event::{EVENTS_PRODUCER, Event, EventHolder, What, Who};

use crate::command::{Kind, Want};
use crate::ids::{Label, LeaseMs, LockName, RequestId, SessionId, SessionNumber, Token, Value};
use crate::time::UnixMs;

// The bounds below are part of the fold: replicas with other ones would differ.

/// Most sessions of a namespace.
pub const SESSIONS_MAX: usize = 50_000;
/// Most locks that are held, waited for or guard something.
pub const LOCKS_MAX: usize = 100_000;
/// Most that wait for one lock.
pub const WAITERS_MAX: usize = 10_000;
/// Most locks that one session holds and waits for.
pub const CLAIMS_PER_SESSION_MAX: usize = 1_000;
/// Most that is held and waited for in a namespace.
pub const CLAIMS_MAX: usize = 200_000;
/// Unpublished events, above which nothing new is begun.
pub const EVENTS_MAX: usize = 10_000;
/// Of how many acquires that are over a session remembers what they came to.
pub const ENDED_MAX: usize = 32;

/// A session, as entries say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// What people see of it.
    pub number: SessionNumber,
    /// How long it lives after it was last heard of.
    pub lease: LeaseMs,
    /// Whose it is.
    pub label: Label,
    /// When it began, by the leader's clock.
    pub opened: UnixMs,
    /// The last entry in which it said something.
    pub renewed: LogIndex,
    /// What it holds and waits for, by request.
    claims: BTreeMap<RequestId, LockName>,
    /// Acquires that are over, the last [`ENDED_MAX`].
    ended: BTreeMap<RequestId, Ended>,
    /// Requests below are over and forgotten, unless they are in `claims`.
    floor: RequestId,
}

impl Session {
    /// The locks that it holds or waits for, by request.
    pub fn claims(&self) -> impl Iterator<Item = (RequestId, &LockName)> {
        self.claims.iter().map(|(&request, lock)| (request, lock))
    }

    /// The lock that this acquire holds or waits for.
    #[must_use]
    pub fn claim(&self, request: RequestId) -> Option<&LockName> {
        self.claims.get(&request)
    }

    fn end(&mut self, request: RequestId, ended: Ended) {
        self.claims.remove(&request);
        self.ended.insert(request, ended);
        while self.ended.len() > ENDED_MAX {
            let (oldest, _) = self.ended.pop_first().expect("it is not empty");
            self.floor = self.floor.max(RequestId(oldest.0.saturating_add(1)));
        }
    }
}

/// What an acquire that is over came to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Ended {
    Taken(Occupant),
    Released,
    Cancelled,
    Forced,
    Refused,
}

/// Who holds a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Holder {
    request: RequestId,
    token: Token,
    /// Which permit, of a semaphore.
    slot: Option<u32>,
    since: UnixMs,
    reads: bool,
    value: Option<Value>,
    /// Guarded topics whose floors are not yet known to be raised to the token.
    unraised: BTreeSet<TopicName>,
}

impl Holder {
    fn grant(&self) -> Grant {
        Grant { token: self.token, slot: self.slot, ready: self.unraised.is_empty() }
    }
}

/// Who waits for a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Waiter {
    session: SessionId,
    request: RequestId,
    want: Want,
    since: UnixMs,
    /// Not to be kept waiting: never so after an entry is folded.
    once: bool,
}

/// A lock that is held, waited for, or guards something.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Lock {
    kind: Kind,
    /// Token of the last grant; 0 before the first.
    highest: Token,
    guards: BTreeSet<TopicName>,
    holders: BTreeMap<SessionId, Holder>,
    /// By arrival.
    waiters: BTreeMap<u64, Waiter>,
    /// Where each session waits: `waiters` the other way round.
    waiting: BTreeMap<SessionId, u64>,
}

impl Lock {
    fn new(kind: Kind) -> Self {
        Self {
            kind,
            highest: Token(0),
            guards: BTreeSet::new(),
            holders: BTreeMap::new(),
            waiters: BTreeMap::new(),
            waiting: BTreeMap::new(),
        }
    }

    fn is_idle(&self) -> bool {
        self.holders.is_empty() && self.waiters.is_empty() && self.guards.is_empty()
    }

    fn position(&self, arrival: u64) -> usize {
        self.waiters.range(..arrival).count()
    }
}

/// What is known of a token that somebody shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenState {
    /// It is of a grant that holds.
    Held,
    /// It is lower than what is, or was, granted: what it was of is over.
    Past {
        /// The highest of the lock that is known, this one at least.
        highest: Token,
    },
    /// Nothing was granted under it: to let it raise a floor would shut out who holds the lock.
    NeverGranted,
}

/// How much there is of what in a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Occupancy {
    /// Sessions.
    pub sessions: usize,
    /// Grants that hold: as many as there are holders, of all locks.
    pub held: usize,
    /// Acquires that wait, for all locks.
    pub waiting: usize,
}

/// The sessions and locks of one namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Locks {
    /// The last entry that was folded.
    last: LogIndex,
    /// How many sessions there have been.
    sessions_begun: u64,
    /// The number of the next who arrives at a lock.
    next_arrival: u64,
    sessions: BTreeMap<SessionId, Session>,
    locks: BTreeMap<LockName, Lock>,
    /// How much is held and waited for.
    claims: usize,
    /// The number of the next event.
    next_event: u64,
    /// Events that are not yet records of the topic, by number.
    outbox: VecDeque<Event>,
}

impl Locks {
    /// A session that is there.
    #[must_use]
    pub fn session(&self, id: SessionId) -> Option<&Session> {
        self.sessions.get(&id)
    }

    /// All sessions.
    pub fn sessions(&self) -> impl Iterator<Item = (SessionId, &Session)> {
        self.sessions.iter().map(|(&id, session)| (id, session))
    }

    /// What a session holds: by which acquire which lock, and the grant of it.
    pub fn held_by(&self, id: SessionId) -> impl Iterator<Item = (RequestId, &LockName, Grant)> {
        let claims = self.session(id).into_iter().flat_map(Session::claims);
        claims.filter_map(move |(request, name)| {
            Some((request, name, self.locks.get(name)?.holders.get(&id)?.grant()))
        })
    }

    /// What an acquire has come to: the answer to it, now.
    #[must_use]
    pub fn outcome(&self, id: SessionId, request: RequestId) -> Answer {
        let Some(session) = self.sessions.get(&id) else {
            return Answer::Refused(Refusal::SessionGone);
        };
        if let Some(name) = session.claims.get(&request) {
            let lock = self.locks.get(name).expect("a claim is to a lock that is there");
            if let Some(holder) = lock.holders.get(&id) {
                return Answer::Granted(holder.grant());
            }
            let arrival = lock.waiting.get(&id).expect("who does not hold waits");
            return Answer::Waiting { position: lock.position(*arrival) };
        }
        let over = |how| Answer::Refused(Refusal::RequestOver { request, how });
        match session.ended.get(&request) {
            Some(Ended::Taken(by)) => Answer::Taken(by.clone()),
            Some(Ended::Released) => over(EndedHow::Released),
            Some(Ended::Cancelled) => over(EndedHow::Cancelled),
            Some(Ended::Forced) => over(EndedHow::Forced),
            Some(Ended::Refused) => over(EndedHow::Refused),
            None => Answer::Refused(Refusal::RequestForgotten { request, oldest: session.floor }),
        }
    }

    /// What is known of a token that is shown for a lock, or for one permit of a semaphore. A gateway
    /// asks when a partition says that a fence *rises*: only what was granted may raise a floor.
    #[must_use]
    pub fn token_state(&self, lock: &LockName, slot: Option<u32>, token: Token) -> TokenState {
        let known = self.locks.get(lock);
        let mut holders = known.into_iter().flat_map(|lock| lock.holders.values());
        let holder = holders.find(|holder| holder.slot == slot);
        // Nobody holds it: no floor can shut a holder out unless it is above all that was granted.
        let bound = match (holder, known) {
            (Some(holder), _) if holder.token == token => return TokenState::Held,
            (Some(holder), _) => holder.token,
            (None, Some(lock)) if lock.highest.0 > 0 => lock.highest,
            (None, _) => Token::from(self.last),
        };
        if token > bound {
            return TokenState::NeverGranted;
        }
        let granted = holder.map(|holder| holder.token).or(known.map(|lock| lock.highest));
        TokenState::Past { highest: granted.unwrap_or(token).max(token) }
    }

    /// Topics that some lock of this namespace guards: while there are any, it is not to be deleted.
    #[must_use]
    pub fn guarded_topics(&self) -> BTreeSet<TopicName> {
        self.locks.values().flat_map(|lock| lock.guards.iter().cloned()).collect()
    }

    /// What is to be raised before this grant is given: the topics, if it holds and there are any.
    #[must_use]
    pub fn unraised(
        &self,
        lock: &LockName,
        slot: Option<u32>,
        token: Token,
    ) -> BTreeSet<TopicName> {
        let holders = self.locks.get(lock).into_iter().flat_map(|lock| lock.holders.values());
        let these = holders.filter(|holder| holder.slot == slot && holder.token == token);
        these.flat_map(|holder| holder.unraised.iter().cloned()).collect()
    }

    /// Every grant that waits for floors to be raised.
    pub fn unready(&self) -> impl Iterator<Item = (&LockName, Grant)> {
        let holders = self
            .locks
            .iter()
            .flat_map(|(name, lock)| lock.holders.values().map(move |holder| (name, holder)));
        let unready = holders.filter(|(_, holder)| !holder.unraised.is_empty());
        unready.map(|(name, holder)| (name, holder.grant()))
    }

    /// Events that are not yet records of the topic, by number, without gaps.
    pub fn unpublished(&self) -> impl ExactSizeIterator<Item = &Event> {
        self.outbox.iter()
    }

    /// Events below `upto` are records of the topic now: a records entry of [`EVENTS_PRODUCER`] with
    /// `base_sequence + record_count == upto` is committed. Says nothing about what was said before.
    pub fn published(&mut self, upto: u64) {
        while self.outbox.front().is_some_and(|event| event.number < upto) {
            self.outbox.pop_front();
        }
    }

    /// How much there is of what. Looks at each lock.
    #[must_use]
    pub fn occupancy(&self) -> Occupancy {
        let waiting = self.locks.values().map(|lock| lock.waiters.len()).sum();
        Occupancy { sessions: self.sessions.len(), held: self.claims - waiting, waiting }
    }

    /// Bytes of memory, near enough for a metric. Looks at everything.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let per_item = |items: usize, bytes: usize| items * bytes * 3 / 2;
        let sessions = self.sessions.values().map(|session| {
            per_item(session.claims.len() + session.ended.len(), 64) + session.label.as_str().len()
        });
        let locks = self.locks.iter().map(|(name, lock)| {
            name.as_str().len()
                + per_item(lock.holders.len(), size_of::<Holder>() + 16)
                + per_item(lock.waiters.len(), size_of::<Waiter>() + 40)
                + per_item(lock.guards.len(), 64)
        });
        size_of::<Self>()
            + sessions.sum::<usize>()
            + locks.sum::<usize>()
            + per_item(self.sessions.len(), size_of::<Session>() + 16)
            + per_item(self.locks.len(), size_of::<Lock>() + 32)
            + self.outbox.len() * size_of::<Event>()
    }
}

//! What a command came to.

use std::collections::BTreeSet;

use plimsoll_protocol::ids::TopicName;
use thiserror::Error;

use super::{CLAIMS_MAX, CLAIMS_PER_SESSION_MAX, EVENTS_MAX, LOCKS_MAX, SESSIONS_MAX, WAITERS_MAX};
use crate::command::{GUARDS_MAX, Kind};
use crate::ids::{Label, LockName, RequestId, SessionNumber, Token};

/// That a session holds a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// Its fencing token.
    pub token: Token,
    /// Which permit, of a semaphore: its fences are of `name#slot`.
    pub slot: Option<u32>,
    /// Whether the floors of all topics that the lock guards are raised. Before that the grant is not
    /// told to its client: a former holder could still write.
    pub ready: bool,
}

/// Who has what somebody else wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Occupant {
    /// Who, for people.
    pub label: Label,
    /// Its session.
    pub session: SessionNumber,
    /// The token under which it holds.
    pub token: Token,
}

/// What a command came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The session is there.
    Opened {
        /// What people see of it.
        session: SessionNumber,
    },
    /// The lock is held by who asked.
    Granted(Grant),
    /// Who asked waits in line.
    Waiting {
        /// How many are before it.
        position: usize,
    },
    /// Somebody else holds it, and who asked does not wait.
    Taken(Occupant),
    /// The grant is given back, now or before.
    Released,
    /// The acquire waits no longer, and will never be granted.
    Cancelled,
    /// The lock is forgotten.
    Deleted {
        /// What it guarded: its floors are to be pruned there. Empty when it was forgotten before, also
        /// when a deletion without an answer is asked for again.
        guards: BTreeSet<TopicName>,
    },
    /// It is so.
    Done,
    /// Nothing was to be done: what the leader said is of the past.
    Ignored,
    /// Nothing changed.
    Refused(Refusal),
}

/// How an acquire ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndedHow {
    /// It was granted, and given back.
    Released,
    /// It was cancelled, before it came or while it waited.
    Cancelled,
    /// An operator took the lock away, or deleted it.
    Forced,
    /// It was refused.
    Refused,
}

impl EndedHow {
    fn as_str(self) -> &'static str {
        match self {
            Self::Released => "granted and given back",
            Self::Cancelled => "cancelled",
            Self::Forced => "ended by an operator",
            Self::Refused => "refused",
        }
    }
}

/// Something of which a namespace holds its most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// Sessions.
    Sessions,
    /// Locks that are held, waited for or guard something.
    Locks,
    /// Waiters of this lock.
    Waiters,
    /// What this session holds and waits for.
    ClaimsOfSession,
    /// What all sessions hold and wait for.
    Claims,
    /// Topics that this lock guards.
    Guards,
}

impl Bound {
    /// What it is of, and how many there may be.
    fn words(self) -> (&'static str, usize, &'static str) {
        match self {
            Self::Sessions => ("sessions", SESSIONS_MAX, "close those that are not used"),
            Self::Locks => ("locks", LOCKS_MAX, "delete guarded ones that are not used"),
            Self::Waiters => ("waiters of this lock", WAITERS_MAX, "try again later"),
            Self::ClaimsOfSession => {
                ("locks of one session", CLAIMS_PER_SESSION_MAX, "use several sessions")
            }
            Self::Claims => ("holders and waiters", CLAIMS_MAX, "use several namespaces"),
            Self::Guards => ("topics that this lock guards", GUARDS_MAX, "use several locks"),
        }
    }
}

/// Why a command changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// The session is not there: it ended, or never began.
    #[error(
        "the session is gone: its lease ended, or it was closed, and all its locks are released; \
         stop what they protected and begin a new session"
    )]
    SessionGone,
    /// The acquire is so old that nobody remembers what it came to.
    #[error(
        "acquire {request} of the session is over and forgotten (the oldest remembered is {oldest}); \
         a new acquire takes a higher number"
    )]
    RequestForgotten {
        /// Which.
        request: RequestId,
        /// From which on they are remembered.
        oldest: RequestId,
    },
    /// The acquire is over, and is not carried out again.
    #[error("acquire {request} was {}; to acquire anew takes a higher number", how.as_str())]
    RequestOver {
        /// Which.
        request: RequestId,
        /// How it ended.
        how: EndedHow,
    },
    /// The number was used for another lock.
    #[error("acquire {request} of the session is of lock {lock}; each acquire has its own number")]
    RequestReused {
        /// Which.
        request: RequestId,
        /// What it is of.
        lock: LockName,
    },
    /// The session holds the lock.
    #[error("the session holds lock {lock} already, under token {token}; release it first")]
    AlreadyHeld {
        /// Which.
        lock: LockName,
        /// Under what.
        token: Token,
    },
    /// The session waits for the lock.
    #[error("the session waits for lock {lock} already; wait, or cancel that first")]
    AlreadyWaiting {
        /// Which.
        lock: LockName,
    },
    /// The lock is something else.
    #[error(
        "lock {lock} is {is}, and stays that until it is free or deleted; \
         acquire it so, or choose another name"
    )]
    OtherKind {
        /// Which.
        lock: LockName,
        /// What it is.
        is: Kind,
    },
    /// Who says so does not hold the lock under this token.
    #[error("the session does not hold lock {lock} under token {token}; {}", held(holder.as_ref()))]
    NotHolder {
        /// Which.
        lock: LockName,
        /// Under what.
        token: Token,
        /// Who does.
        holder: Option<Occupant>,
    },
    /// Only the leader of an election has a value.
    #[error("lock {lock} is {is}: only the leader of an election has a value")]
    NotElection {
        /// Which.
        lock: LockName,
        /// What it is.
        is: Kind,
    },
    /// The lock is in use.
    #[error(
        "lock {lock} has {holders} holders and {waiters} waiters; stop them first, or force it \
         (the holders lose it)"
    )]
    InUse {
        /// Which.
        lock: LockName,
        /// How many hold it.
        holders: usize,
        /// How many wait.
        waiters: usize,
    },
    /// There is no room.
    #[error("there are {} {} already, their most; {}", bound.words().1, bound.words().0, bound.words().2)]
    TooMany {
        /// Of what.
        bound: Bound,
    },
    /// What happened is published more slowly than it happens.
    #[error("{EVENTS_MAX} changes of locks wait to be published; try again in a moment")]
    Busy,
}

fn held(holder: Option<&Occupant>) -> String {
    match holder {
        Some(Occupant { label, session, token }) => {
            format!("{label} does (session {session}), under token {token}")
        }
        None => "nobody does".into(),
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exclusive => f.write_str("an exclusive lock"),
            Self::ReadWrite => f.write_str("a read-write lock"),
            Self::Semaphore { permits } => write!(f, "a semaphore of {permits}"),
            Self::Election => f.write_str("an election"),
        }
    }
}

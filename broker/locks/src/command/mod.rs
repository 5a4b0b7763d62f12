//! What a leader writes into the log about locks: control entries of commands.
//!
//! The keeper gathers them, with a clock and with what it holds in memory; the fold ([`crate::state`])
//! decides who is granted what. Keep-alives are not commands.

mod code;
mod entry;

use std::collections::BTreeSet;

use plimsoll_protocol::ids::{LogIndex, TopicName};
use thiserror::Error;

pub(crate) use code::{decode_guards, decode_want, encode_guards, encode_want};
pub use entry::{DOMAIN, LocksEntry};

use crate::ids::{
    Label, LeaseMs, LockName, Permits, RequestId, SessionId, SessionNumber, Token, Value,
};

/// Most topics that a lock guards.
pub const GUARDS_MAX: usize = 16;

/// What a lock is. It is fixed when the lock is first used and holds until the lock is forgotten: when
/// nobody holds it or waits for it and it guards nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One holder.
    Exclusive,
    /// One writer, or any number of readers.
    ReadWrite,
    /// As many holders as permits, each with a slot of its own.
    Semaphore {
        /// How many.
        permits: Permits,
    },
    /// One holder, the leader, with a value that observers see.
    Election,
}

/// What an acquire asks for; it says which kind the lock is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Want {
    /// To hold an exclusive lock.
    Exclusive,
    /// To read under a read-write lock.
    Read,
    /// To write under a read-write lock.
    Write,
    /// One permit of a semaphore.
    Permit {
        /// How many permits the semaphore has.
        of: Permits,
    },
    /// To lead an election.
    Lead {
        /// What observers see once it does.
        value: Value,
    },
}

impl Want {
    /// The kind of lock that can be wanted so.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Exclusive => Kind::Exclusive,
            Self::Read | Self::Write => Kind::ReadWrite,
            Self::Permit { of } => Kind::Semaphore { permits: *of },
            Self::Lead { .. } => Kind::Election,
        }
    }
}

/// An acquire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acquire {
    /// Who.
    pub session: SessionId,
    /// Which attempt of it: the same one is answered again, not carried out again.
    pub request: RequestId,
    /// Which lock.
    pub lock: LockName,
    /// What of it.
    pub want: Want,
    /// Topics whose floors are raised before the grant is given; at most [`GUARDS_MAX`]. The lock guards
    /// these as well as those that it guards already, from now on, until it is deleted.
    pub guards: BTreeSet<TopicName>,
    /// Whether to wait in line when it cannot be had at once.
    pub wait: bool,
}

/// An acquire names too many topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a lock guards at most {GUARDS_MAX} topics, not {guards}; use several locks")]
pub struct TooManyGuards {
    /// How many there would be.
    pub guards: usize,
}

impl Acquire {
    /// Checks the bounds that the fields' types do not hold.
    ///
    /// # Errors
    /// When there are more guards than may be.
    pub fn check(&self) -> Result<(), TooManyGuards> {
        match self.guards.len() {
            guards if guards > GUARDS_MAX => Err(TooManyGuards { guards }),
            _ => Ok(()),
        }
    }
}

/// One change of sessions or locks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LockCommand {
    /// A session begins; one that is there is renewed, with this lease and label.
    OpenSession {
        /// Which.
        session: SessionId,
        /// How long it lives after it was last heard of.
        lease: LeaseMs,
        /// Whose it is, for people.
        label: Label,
    },
    /// A session ends by its own wish: it holds and waits for nothing any more.
    CloseSession {
        /// Which.
        session: SessionId,
    },
    /// A session was silent for longer than its lease. Nothing happens if the log has heard of it since.
    Expire {
        /// Which.
        session: SessionId,
        /// The last entry in which the leader knew it to have said something.
        seen: LogIndex,
    },
    /// A session wants a lock.
    Acquire(Box<Acquire>),
    /// A session does not wait any longer. What is granted already stays granted.
    CancelWait {
        /// Who.
        session: SessionId,
        /// Which acquire.
        request: RequestId,
    },
    /// A holder gives back.
    Release {
        /// Who.
        session: SessionId,
        /// What was granted: this acquire. The token alone does not say so: who reads, stops, and reads
        /// again in the same phase has the same token twice, and a late copy of its first release would
        /// end its second reading.
        request: RequestId,
        /// Which lock.
        lock: LockName,
        /// Which grant of it.
        token: Token,
    },
    /// An operator takes a lock from who holds it; waiters stay in line.
    ForceRelease {
        /// Which lock.
        lock: LockName,
        /// From this session only.
        whose: Option<SessionNumber>,
        /// Who the operator is.
        by: Label,
    },
    /// The leader of an election changes its value.
    SetValue {
        /// Who.
        session: SessionId,
        /// Which election.
        lock: LockName,
        /// Which grant of it.
        token: Token,
        /// What observers see from now on.
        value: Value,
    },
    /// The floors in these topics were raised to the token of a grant, in every partition.
    GuardsRaised {
        /// Which lock.
        lock: LockName,
        /// Which permit, of a semaphore.
        slot: Option<u32>,
        /// Which grant; readers share one.
        token: Token,
        /// Where; not empty.
        topics: BTreeSet<TopicName>,
    },
    /// A lock is forgotten, with what it guards, and its key ends. Refused while it is held or waited
    /// for, unless forced. Done is also what is done already.
    DeleteLock {
        /// Which.
        lock: LockName,
        /// Whether holders and waiters do not hinder it.
        forced: bool,
        /// Who asks for it.
        by: Label,
    },
}

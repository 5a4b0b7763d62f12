//! The keeper of the locks of one namespace: only the leader of its partition has it, in memory.
//!
//! ```text
//!  asks      what clients and operators want
//!  leases    keep-alives, what time ends
//!  entries   what is to be written into the log, and what follows once it is
//!  guards    floors to raise before a grant is told; events to publish
//! ```
//!
//! Order of calls: [`Keeper::new`] once the leader has applied its own first entry; then
//! * after anything: [`Keeper::next_entry`] (nothing while [`ENTRIES_IN_FLIGHT_MAX`] entries of this keeper are
//!   being written: the next one gathers), [`Keeper::poll_guard_work`] and [`Keeper::next_events`] until they give nothing,
//!   and [`Keeper::tick`] at [`Keeper::deadline`];
//! * when a proposed entry is applied: the fold first, then [`Keeper::applied`], then the replies; in the order
//!   in which they were proposed. The fold may have gone on to later ones of them;
//! * when it certainly did not enter the log: [`Keeper::refused`]. When that is unknown, when there is another
//!   one behind it, or this node leads no more, the keeper is dropped, and requests without a reply are of unknown outcome: clients
//!   ask the next leader again, under the same request ids.
//!
//! A keep-alive is not an entry. It is answered only when it is certain that this node led when it came
//! (a read index begun after it came; LOCKS.md, "Time").
//!
//! Invariants: no session is expired before it was silent for its whole lease, by this leader's clock,
//! without the time in which the leader itself stood still; while an expiry is being written, and for
//! good once it is folded, the session is told that it is gone, and no longer only if the entry did not
//! enter the log; every ticket is answered once, if the keeper is not dropped.
//! The keeper knows no connections.

mod asks;
mod entries;
mod guards;
mod leases;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use thiserror::Error;

pub use asks::{AskError, Patience};
pub use entries::Reply;
pub use guards::GuardWork;
pub use leases::{LOOK_MS, STALL_MS};

use crate::command::LockCommand;
use crate::ids::{LockName, RequestId, SessionId, Token};
use crate::state::Locks;
use crate::time::Monotonic;

/// Most bytes of requests that wait for the next entry.
pub const PENDING_BYTES_MAX: usize = 1_048_576;
/// Most commands of one entry.
pub const ENTRY_COMMANDS_MAX: usize = 1_000;
/// About how many bytes one entry has at most.
pub const ENTRY_BYTES_MAX: usize = 262_144;
/// Most entries that are being written at once.
pub const ENTRIES_IN_FLIGHT_MAX: usize = 4;
/// Most events that are published in one records entry.
pub const EVENTS_BATCH_MAX: usize = 500;

/// Ties a [`Reply`] to the request that it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// The session is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "the session is gone: its lease ended, or it was closed, and all its locks are released; \
     stop what they protected and begin a new session"
)]
pub struct SessionGone;

/// More waits to be written than may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "{bytes} bytes of changes of locks wait to be written, {PENDING_BYTES_MAX} may; \
     try again in a moment"
)]
pub struct Busy {
    /// How much waits.
    pub bytes: usize,
}

/// A session's lease, as this leader counts.
#[derive(Debug)]
struct Lease {
    end: Monotonic,
    /// Its expiry is being written: nothing that it says counts any more.
    expiring: bool,
}

/// An acquire without its final answer.
#[derive(Debug)]
struct Wait {
    ticket: Ticket,
    until: Option<Monotonic>,
    /// It waited long enough, and its cancellation is asked for.
    timed_out: bool,
}

/// An entry that is being written.
#[derive(Debug)]
struct InFlight {
    /// Of each of its commands, the ticket.
    tickets: Vec<Option<Ticket>>,
    /// Whom it expires.
    expires: BTreeSet<SessionId>,
}

/// A command that waits to be written. An acquire's ticket is in `waits`.
#[derive(Debug)]
struct Pending {
    command: LockCommand,
    ticket: Option<Ticket>,
}

/// The keeper of the locks of one namespace.
#[derive(Debug)]
pub struct Keeper {
    /// Of each session that is in the state.
    leases: BTreeMap<SessionId, Lease>,
    /// When leases end, of those that are not over.
    ends: BTreeSet<(Monotonic, SessionId)>,
    /// Sessions to expire.
    over: BTreeSet<SessionId>,
    /// Sessions whose opening is to be written, how often.
    opening: BTreeMap<SessionId, u32>,
    pending: VecDeque<Pending>,
    pending_bytes: usize,
    /// The entries that are being written, the oldest first.
    in_flight: VecDeque<InFlight>,
    waits: BTreeMap<(SessionId, RequestId), Wait>,
    wait_ends: BTreeSet<(Monotonic, SessionId, RequestId)>,
    /// Tickets whose place a later attempt of the same acquire took.
    superseded: Vec<Ticket>,
    guard_work: BTreeSet<(LockName, Option<u32>, Token)>,
    /// Whether events are being published.
    publishing: bool,
    next_ticket: u64,
    /// When this keeper was last told the time.
    looked: Monotonic,
}

impl Keeper {
    /// The machine of a new leader. Every session that the log knows has its full lease to be heard of.
    #[must_use]
    pub fn new(state: &Locks, now: Monotonic) -> Self {
        let mut keeper = Self {
            leases: BTreeMap::new(),
            ends: BTreeSet::new(),
            over: BTreeSet::new(),
            opening: BTreeMap::new(),
            pending: VecDeque::new(),
            pending_bytes: 0,
            in_flight: VecDeque::new(),
            waits: BTreeMap::new(),
            wait_ends: BTreeSet::new(),
            superseded: Vec::new(),
            guard_work: BTreeSet::new(),
            publishing: false,
            next_ticket: 0,
            looked: now,
        };
        for (id, session) in state.sessions() {
            keeper.begin_lease(id, session.lease, now);
            #[cfg(feature = "planted")]
            if crate::planted::is_planted(crate::planted::Bug::NoGrace) {
                keeper.end_lease(id);
                keeper.leases.insert(id, Lease { end: now, expiring: false });
                keeper.ends.insert((now, id));
            }
        }
        let unready = state.unready();
        keeper.guard_work =
            unready.map(|(name, grant)| (name.clone(), grant.slot, grant.token)).collect();
        keeper
    }

    /// When to call [`Keeper::tick`] again, if nothing else happens; never, without sessions and waits.
    /// With sessions at least every [`LOOK_MS`]: by that the keeper notices that it was stalled itself.
    #[must_use]
    pub fn deadline(&self) -> Option<Monotonic> {
        let end = self.ends.first().map(|&(end, _)| end);
        let wait = self.wait_ends.first().map(|&(until, ..)| until);
        let look = (!self.leases.is_empty()).then(|| self.looked.plus(LOOK_MS));
        [end, wait, look].into_iter().flatten().min()
    }
}

//! Known bugs of locks, put back in to show that the simulation sees them. Only with the feature `planted`, which
//! nothing but the simulation turns on.

use std::cell::Cell;

/// A bug, at its site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// The keeper ends leases at half of their length.
    HalfLease,
    /// A new leader does not give sessions their lease to be heard of.
    NoGrace,
    /// A lock that one holds is granted to one more.
    GrantTwice,
    /// A grant has the token of the grant before it.
    RepeatToken,
    /// Who waits for a lock that is given back is granted it when the next one comes, not before.
    ForgetWaiters,
}

thread_local! {
    static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
}

/// Plants a bug in everything that runs on this thread from now on.
pub fn plant(bug: Bug) {
    PLANTED.set(Some(bug));
}

pub(crate) fn is_planted(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

//! Judges what clients of locks and of key-value views saw: could one correct server, doing one thing
//! at a time, have answered like that?
//!
//! ```text
//!  clients ──> History<(key, op), ret> ──by_key──> History<op, ret> ──check──> Verdict
//!                                                       ^               ^
//!                                   Leases::add_ends ───┘               └─ Model: kv::Kv, lock::Lock
//!  grants, holds, writes ──> invariants: tokens_rise, mutual_exclusion, fenced_writes, guarded_writes
//! ```
//! [`check`] finds whatever a register or a lock can do wrong, and its worst case is exponential: it is
//! meant for 5 clients and 1,000 operations of a key, and says [`Verdict::TooHard`] beyond its bound,
//! which is no pass. What costs are operations without an answer in a history that is wrong.
//! The [`invariants`] see less, in time that grows with the history, so they judge whole runs.
//!
//! Invariant: pure. No clock, no random source; the same history gets the same verdict.

mod bits;
pub mod check;
pub mod history;
pub mod invariants;
pub mod kv;
pub mod lock;
pub mod model;
mod rising;
pub mod verdict;

pub use check::{STATES_MAX, check, check_within};
pub use history::{Call, Caller, History, Operation, Outcome};
pub use model::Model;
pub use rising::Rising;
pub use verdict::{Refutation, Verdict};

//! What must hold in every history, judged in time that grows with its length (times its logarithm).

mod fenced_writes;
mod guarded_writes;
mod mutual_exclusion;
mod tokens_rise;

pub use fenced_writes::{FencedWrite, TokenFell, fenced_writes};
pub use guarded_writes::{AcceptedWrite, WrittenLate, guarded_writes};
pub use mutual_exclusion::{HeldTwice, Hold, mutual_exclusion};
pub use tokens_rise::{Grant, TokenError, TokenNotRisen, TokenRepeated, tokens_rise};

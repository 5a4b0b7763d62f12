//! Consumer groups: the fold, the bytes, who should own what, the coordinator, and random histories.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod assigning;
mod bed;
mod bytes;
mod checks;
mod coordinating;
mod failing_over;
mod fold;
mod histories;
mod world;

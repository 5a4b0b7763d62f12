//! Single facts about the delivery machine, one test each. Random histories: `model`.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod bed;
mod consumers;
mod messages;

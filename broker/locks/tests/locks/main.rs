//! Locks, their keeper and fences, from outside.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod bed;
mod bytes;
mod fences;
mod fold;
mod histories;
mod keeping;
mod leading;
mod world;

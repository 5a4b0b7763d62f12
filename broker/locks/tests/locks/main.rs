//! Locks, their keeper and fences, from outside.

mod bed;
mod bytes;
mod fences;
mod fold;
mod histories;
mod keeping;
mod leading;
mod world;

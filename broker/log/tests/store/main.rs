//! The store through its public interface: on a real disk with its threads, on the simulated one where
//! the disk has to fail.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod basics;
mod compaction;
mod compaction_crash;
mod damage;
mod deletion;
mod dropping;
mod durability;
mod failures;
mod full_disk;
mod inspection;
mod journal;
mod keyed;
mod lives;
mod many_groups;
mod memory;
mod model;
mod placing;
mod reading;
mod retention;
mod state;
mod support;
mod transfer;
mod versions;

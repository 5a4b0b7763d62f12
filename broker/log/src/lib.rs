//! A node's durable storage: one journal, memory-mapped segments per group, checkpoints.

pub mod disk;

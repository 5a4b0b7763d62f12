//! Whole logs on their way from one node to another, as the segment files that they are.

pub(crate) mod state_file;

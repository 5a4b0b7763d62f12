//! What every placement keeps, whatever the cluster looks like, and what a change may move.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod clusters;
mod driving;
mod movement;
mod refusals;
mod rules;
mod steps;

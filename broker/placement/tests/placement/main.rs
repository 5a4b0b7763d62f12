//! What every placement keeps, whatever the cluster looks like, and what a change may move.

mod clusters;
mod movement;
mod refusals;
mod rules;

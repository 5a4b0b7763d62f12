//! `lock`: locks that are taken and given back by clients that do not want each other's ([`pairs`]), or one that
//! many wait for ([`handover`]).

pub(super) mod handover;
pub(super) mod pairs;

use anyhow::ensure;
use plimsoll_protocol::api::Durability;

use crate::options::Plan;

/// The namespace that is measured.
const NAMESPACE: &str = "plimsoll-bench";

/// The settings that the workload cannot do without.
pub(super) fn check(plan: &Plan) -> anyhow::Result<()> {
    ensure!(plan.records > 0, "lock needs at least one of --records");
    // Tokens are never granted twice: no entry of a lock is acknowledged before it is on the disk.
    ensure!(plan.durability == Durability::Durable, "locks are durable");
    Ok(())
}

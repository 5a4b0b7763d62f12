//! `lock`: locks that are taken and given back by clients that do not want each other's ([`pairs`]), or one that
//! many wait for ([`handover`]). `failover --locks`: locks whose leader's node is killed ([`failover`]).

pub(super) mod failover;
pub(super) mod handover;
pub(super) mod pairs;

use std::time::{Duration, Instant};

use anyhow::ensure;
use plimsoll_client::Admin;
use plimsoll_protocol::api::Durability;

use crate::options::Plan;

/// The namespace that is measured.
const NAMESPACE: &str = "plimsoll-bench";
const LINED_UP_WITHIN: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The settings that the workload cannot do without.
pub(super) fn check(plan: &Plan) -> anyhow::Result<()> {
    ensure!(plan.records > 0, "lock needs at least one of --records");
    // Tokens are never granted twice: no entry of a lock is acknowledged before it is on the disk.
    ensure!(plan.durability == Durability::Durable, "locks are durable");
    Ok(())
}

/// Waits until as many wait for a lock as should.
async fn lined_up(admin: &Admin, lock: &str, waiters: u32) -> anyhow::Result<()> {
    let began = Instant::now();
    let locks = admin.locks(NAMESPACE);
    loop {
        let waiting = locks.describe(lock).await?.info.waiters;
        if waiting == waiters {
            return Ok(());
        }
        ensure!(began.elapsed() < LINED_UP_WITHIN, "{waiting} of {waiters} waiters have lined up");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

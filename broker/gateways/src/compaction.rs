//! Compaction of topics that keep the last record of each key: one partition at a time, beside everything
//! else, and no faster than the node is told to.

use std::time::Duration;

use plimsoll_log::{CompactError, Compaction, CompactionPolicy, CompactionRun, GroupLog};
use plimsoll_protocol::api::{CompactionInfo, TopicRules};
use plimsoll_protocol::ids::TopicName;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::broker::Broker;

/// Compactions that wait for their turn.
pub(crate) const COMPACTIONS_DUE_MAX: usize = 64;
/// A log is rewritten once so much of it is new: it is never larger than about 1.3 times what stays of it,
/// and each record is rewritten a few times.
const DIRTY_PERCENT_MIN: u8 = 25;
/// A segment that is written to is closed for compaction at this age, also where nothing is written any more.
const ROLL_AFTER_MS: u64 = 30_000;
/// Keys that one run keeps in memory, about 50 bytes each.
const MAP_ENTRIES_MAX: usize = 4 << 20;
/// What one step reads and writes, about.
const STEP_BYTES: u64 = 1 << 20;

/// How a topic is to be compacted, if it is.
pub(crate) fn compaction_policy(rules: &TopicRules) -> Option<CompactionPolicy> {
    rules.cleanup.compacts().then(|| CompactionPolicy {
        min_age_ms: rules.compaction_lag_ms,
        tombstone_ms: rules.tombstone_ms,
        dirty_percent_min: DIRTY_PERCENT_MIN,
        roll_after_ms: Some(ROLL_AFTER_MS.max(rules.compaction_lag_ms)),
        map_entries_max: MAP_ENTRIES_MAX,
    })
}

/// How far a partition is compacted here, as it is told.
pub(crate) fn compaction_info(log: &GroupLog) -> CompactionInfo {
    let status = log.compaction_status();
    let last = status.last_run;
    CompactionInfo {
        compacted_to: status.compacted_upto,
        compacted_bytes: status.compacted_bytes,
        waiting_bytes: status.dirty_bytes,
        last_ms: last.map(|run| run.at_ms),
        last_bytes_before: last.map_or(0, |run| run.bytes_before),
        last_bytes_after: last.map_or(0, |run| run.bytes_after),
        running: status.is_running,
    }
}

/// A compaction that waits for its turn, and the topic that it is of.
pub(crate) type DueCompaction = (TopicName, Compaction);

/// Carries out what is due, until the broker stops.
pub(crate) async fn keep_compacting(
    broker: &Broker,
    mut due: mpsc::Receiver<DueCompaction>,
    bytes_per_s: u64,
) {
    let mut stopping = broker.stopping();
    loop {
        let compaction = tokio::select! {
            biased;
            () = stopping.wait() => return,
            compaction = due.recv() => compaction,
        };
        let Some((topic, compaction)) = compaction else { return };
        tokio::select! {
            biased;
            // What it had begun goes with it.
            () = stopping.wait() => return,
            run = carry_out(broker, compaction, bytes_per_s) => {
                // Also of one that failed: what it had put in place stays there.
                if run.bytes_before > 0 {
                    broker.compaction_counters().of(&topic).add(&run);
                }
            }
        }
    }
}

/// What it came to, as far as it came.
async fn carry_out(broker: &Broker, mut compaction: Compaction, bytes_per_s: u64) -> CompactionRun {
    let group = compaction.group().id();
    loop {
        let (begun, now_ms) = (Instant::now(), broker.now().unix.0);
        let stepped = broker.host().blocking().run(move || {
            let step = compaction.step(STEP_BYTES, now_ms);
            (compaction, step)
        });
        let (after, step) = stepped.await;
        compaction = after;
        match step {
            Ok(step) if step.done => break,
            Ok(step) => {
                let micros =
                    (step.read + step.written).saturating_mul(1_000_000) / bytes_per_s.max(1);
                sleep_until(begun + Duration::from_micros(micros)).await;
            }
            Err(CompactError::Overtaken | CompactError::Stopped) => return compaction.so_far(),
            Err(error) => {
                tracing::warn!(%group, %error, "a partition was not compacted; it is tried again");
                return compaction.so_far();
            }
        }
    }
    let run = compaction.so_far();
    tracing::debug!(
        %group,
        before = run.bytes_before,
        after = run.bytes_after,
        removed = run.records_removed,
        "compacted"
    );
    run
}

//! Work that no request asks for: idle groups fall asleep, old segments go, groups without a topic
//! are removed.

use std::sync::Arc;
use std::time::Duration;

use plimsoll_log::{CompactionPolicy, Retention};
use plimsoll_protocol::ids::{GroupId, TopicName};
use plimsoll_replication::Clock;
use plimsoll_state::catalog::Catalog;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use crate::broker::{Broker, group_options};
use crate::compaction::{COMPACTIONS_DUE_MAX, DueCompaction, compaction_policy, keep_compacting};
use crate::groups::{groups_topic, keep_coordinators};
use crate::locks::keep_locks;
use crate::memory;
use crate::queues::keep_queues;

/// So many groups that fell asleep have left memory that is worth giving back: about 9 MB.
const ASLEEP_WORTH_A_TRIM: usize = 64;

/// Groups that one turn looks at before others get theirs.
const GROUPS_PER_TURN: usize = 64;

/// When maintenance is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaintenanceConfig {
    /// Groups without traffic for this time are put to sleep. Default 30 s.
    pub sleep_after: Duration,
    /// How often retention looks for old segments. Default 30 s.
    pub retention_interval: Duration,
    /// How much compaction reads and writes in a second, in bytes, on the whole node. Default 64 MiB. Larger:
    /// compacted topics take less disk while much is written to them; smaller: others have more of it.
    pub compaction_bytes_per_s: u64,
}

impl Default for MaintenanceConfig {
    fn default() -> Self {
        Self {
            sleep_after: Duration::from_secs(30),
            retention_interval: Duration::from_secs(30),
            compaction_bytes_per_s: 64 << 20,
        }
    }
}

/// Does maintenance until the broker stops.
pub async fn maintain(broker: Arc<Broker>, clock: Arc<dyn Clock>, config: MaintenanceConfig) {
    // Beside each other: to remove a large topic takes long, and nothing else is to wait for it.
    let queues = keep_queues(Arc::clone(&broker));
    let groups = keep_coordinators(Arc::clone(&broker));
    let locks = keep_locks(Arc::clone(&broker));
    let (due, compactions) = mpsc::channel(COMPACTIONS_DUE_MAX);
    let house = keep_house(&broker, &*clock, config, due);
    let compacting = keep_compacting(&broker, compactions, config.compaction_bytes_per_s);
    tokio::join!(keep_to_catalog(&broker), house, queues, groups, locks, compacting);
}

/// Has what is stored here be as the catalog says, whenever it changes.
async fn keep_to_catalog(broker: &Broker) {
    let mut stopping = broker.stopping();
    // A member learns from the others what was deleted and changed while it was down.
    let mut confirmed = broker.host().catalog_confirmed();
    let mut is_confirmed = false;
    let mut changes = broker.catalog_changes();
    loop {
        tokio::select! {
            biased;
            () = stopping.wait() => return,
            () = async { drop(confirmed.wait_for(|confirmed| *confirmed).await) }, if !is_confirmed => {
                is_confirmed = true;
                changes.mark_changed();
            }
            Ok(()) = changes.changed(), if is_confirmed => follow_catalog(broker).await,
        }
    }
}

/// Puts idle groups to sleep, and drops what retention lets go.
async fn keep_house(
    broker: &Broker,
    clock: &dyn Clock,
    config: MaintenanceConfig,
    due: mpsc::Sender<DueCompaction>,
) {
    let mut stopping = broker.stopping();
    // A quarter of the time: a group sleeps at most that much later than configured.
    let mut sleep = ticker(config.sleep_after / 4);
    let mut retention = ticker(config.retention_interval);
    let mut held_at_most = 0;
    let mut refused = None;
    loop {
        tokio::select! {
            biased;
            () = stopping.wait() => return,
            _ = sleep.tick() => {
                let asleep = broker.host().sleep_idle(config.sleep_after).await;
                if asleep > 0 {
                    tracing::debug!(groups = asleep, "put to sleep");
                }
                // Replicas that follow fall asleep at their leaders' word: they are not counted there.
                let held = broker.host().held_count();
                held_at_most = held_at_most.max(held);
                if held + ASLEEP_WORTH_A_TRIM <= held_at_most {
                    held_at_most = held;
                    broker.host().blocking().run(memory::give_back).await;
                }
            }
            _ = retention.tick() => refused = retain_all(broker, clock, &due, refused).await,
        }
    }
}

fn ticker(period: Duration) -> tokio::time::Interval {
    let mut ticker = tokio::time::interval(period.max(Duration::from_millis(25)));
    ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticker
}

/// A partition that is looked at.
struct Look<'a> {
    topic: &'a TopicName,
    group: GroupId,
    retention: Retention,
    compaction: Option<CompactionPolicy>,
}

/// The partitions that retention or compaction could take something of. The one where the look before found no
/// place for a compaction comes first, or those late in the alphabet might never have their turn.
fn looks<'a>(catalog: &'a Catalog, broker: &Broker, first: Option<GroupId>) -> Vec<Look<'a>> {
    let homes = groups_topic();
    let mut looks = Vec::new();
    for (topic, meta) in catalog.topics() {
        // What is settled is of no use to anybody; what is not is kept. Of consumer groups the state is all
        // that counts.
        let retention = if meta.is_queue() || *topic == homes {
            Retention { max_age_ms: Some(0), max_bytes: None }
        } else if meta.config.rules.cleanup.deletes() {
            Retention {
                max_age_ms: meta.config.retention_ms,
                max_bytes: meta.config.retention_bytes,
            }
        } else {
            Retention::default()
        };
        let compaction = compaction_policy(&meta.config.rules);
        if retention == Retention::default() && compaction.is_none() {
            continue;
        }
        // Before it has an account of what is settled, nothing is.
        let is_known = |group: &GroupId| !meta.is_queue() || broker.host().is_queue_open(*group);
        let partitions = meta.partitions.iter().copied().filter(is_known);
        looks.extend(partitions.map(|group| Look { topic, group, retention, compaction }));
    }
    begin_with(&mut looks, |look| Some(look.group) == first);
    looks
}

/// Turns the order, so that it begins with the one that is meant, if it is there.
fn begin_with<T>(all: &mut [T], is_meant: impl FnMut(&T) -> bool) {
    let at = all.iter().position(is_meant);
    all.rotate_left(at.unwrap_or(0));
}

/// Applies every topic's retention to its partitions, and hands out the compactions that are due.
/// What may be dropped is what earlier checkpoints hold: one is made after each look, so that a node
/// at rest gets on with it too. Returns the first partition for whose compaction there was no place.
async fn retain_all(
    broker: &Broker,
    clock: &dyn Clock,
    due: &mpsc::Sender<DueCompaction>,
    first: Option<GroupId>,
) -> Option<GroupId> {
    let catalog = broker.catalog();
    let looks = looks(&catalog, broker, first);
    let mut refused = None;
    for (at, look) in looks.iter().enumerate() {
        let Look { topic, group, retention, compaction } = look;
        if (at + 1) % GROUPS_PER_TURN == 0 {
            tokio::task::yield_now().await;
        }
        // The host drops only what every kept checkpoint's state has folded: a crash right after
        // never needs an entry that is gone.
        // Those that find no place are due the next time.
        let has_place = due.capacity() > 0;
        if compaction.is_some() && !has_place {
            refused = refused.or(Some(*group));
        }
        let compaction = compaction.as_ref().filter(|_| has_place);
        let outcome = match broker.host().tidy(*group, retention, compaction, clock.unix_ms()) {
            Ok(tidied) => {
                if let Some(compaction) = tidied.compaction {
                    // A receiver that is gone says that the broker stops.
                    let _ = due.try_send(((*topic).clone(), compaction));
                }
                tidied.retained
            }
            Err(error) => {
                tracing::warn!(%topic, %group, %error, "retention left a partition alone");
                continue;
            }
        };
        if outcome.segments > 0 {
            tracing::debug!(
                %topic,
                %group,
                segments = outcome.segments,
                bytes = outcome.bytes,
                log_start_offset = %outcome.log_start_offset,
                "retention dropped segments"
            );
        }
    }
    broker.compaction_counters().retain(|topic| broker.catalog().topic(topic).is_some());
    if !looks.is_empty() {
        let store = Arc::clone(broker.store());
        // A store that ends meanwhile makes its own last checkpoint.
        broker.host().blocking().run(move || store.checkpoint_now()).await;
    }
    refused
}

/// Has the groups that are stored here be as the catalog says: those of deleted topics go, the others
/// get the options of their topics.
///
/// A group goes only on positive evidence: a member that was just started may have an older catalog
/// than its groups, until it is fed. What the catalog does not know is left alone.
async fn follow_catalog(broker: &Broker) {
    let catalog = broker.catalog();
    let mut orphans = Vec::new();
    for id in broker.store().groups() {
        if catalog.was_deleted(id) {
            orphans.push(id);
        } else if let Some(located) = catalog.locate(id)
            && let Some(log) = broker.store().group(id)
        {
            let options = group_options(&located.topic.config);
            if log.options() != options {
                // An error says that it was deleted meanwhile.
                let _ = broker.store().set_options(id, options);
            }
        }
    }
    if !orphans.is_empty() {
        tracing::info!(partitions = orphans.len(), "removing what is left of deleted topics");
        // Each failure was logged, and the next change or start tries again.
        let _ = broker.remove_groups(orphans).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_begins_with_whoever_was_refused_and_comes_round_to_all() {
        let begun = |meant: u32| {
            let mut all = [1, 2, 3, 4];
            begin_with(&mut all, |one| *one == meant);
            all
        };
        assert_eq!(begun(3), [3, 4, 1, 2]);
        assert_eq!(begun(1), [1, 2, 3, 4]);
        assert_eq!(begun(9), [1, 2, 3, 4], "it is gone");
    }
}

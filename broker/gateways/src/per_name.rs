//! Counters of single namespaces of locks and of single compacted topics. `NodeStatus` shows them beside
//! those of the node, with what they are of in braces: `lock_grants{namespace="jobs"}`.
//!
//! The gauges of a namespace, and what is counted of its entries, are shown by the node that leads it; refused
//! fences by the node that refused them; compaction by each node of its own replicas. So each sum over all nodes
//! says something. All begin with 0 when the node does; what was counted of a namespace stays while others lead it.
//!
//! Invariant: there is no name here that the catalog does not have, but for the moment until the next look; and
//! nothing is counted of a single lock or key.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use plimsoll_locks::state::Tally;
use plimsoll_log::CompactionRun;
use plimsoll_protocol::api::LOCKS_PREFIX;
use plimsoll_protocol::ids::TopicName;
use plimsoll_replication::Role;

use crate::broker::Broker;
use crate::counters::counters;

/// Namespaces, and compacted topics, that one answer shows, the first by name: some 50 bytes for each number.
const NAMES_MAX: usize = 1_000;

counters! {
    /// The counters of a namespace of locks.
    pub(crate) LockCounters {
        /// Grants of locks.
        lock_grants,
        /// Grants that their holders gave back, each once.
        lock_releases,
        /// Sessions that were silent for longer than their lease.
        lock_sessions_expired,
        /// Grants that an operator took away, also by deleting the lock.
        lock_forced_releases,
        /// Writes, settlements and commits refused because their fence was stale.
        stale_fences_refused,
    }
}

counters! {
    /// The counters of a compacted topic, of its replicas on this node.
    pub(crate) CompactionCounters {
        /// Compactions of a partition that replaced something.
        compaction_runs,
        /// Records that were written anew. Each time counts.
        compaction_records_kept,
        /// Records that are gone.
        compaction_records_removed,
        /// Bytes that were written in the place of others.
        compaction_kept_bytes,
        /// Bytes of the segments that they replaced, less those.
        compaction_removed_bytes,
    }
}

impl LockCounters {
    /// An entry of locks did this.
    pub(crate) fn add(&self, tally: &Tally) {
        self.lock_grants.add(tally.granted);
        self.lock_releases.add(tally.released);
        self.lock_sessions_expired.add(tally.expired_sessions);
        self.lock_forced_releases.add(tally.forced);
    }
}

impl CompactionCounters {
    /// A run came to this.
    pub(crate) fn add(&self, run: &CompactionRun) {
        self.compaction_runs.add(1);
        self.compaction_records_kept.add(run.records_kept);
        self.compaction_records_removed.add(run.records_removed);
        self.compaction_kept_bytes.add(run.bytes_after);
        self.compaction_removed_bytes.add(run.bytes_before.saturating_sub(run.bytes_after));
    }
}

/// Counters by topic; those of a namespace by its topic.
#[derive(Debug)]
pub(crate) struct PerName<C>(Mutex<BTreeMap<TopicName, Arc<C>>>);

impl<C> Default for PerName<C> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<C: Default> PerName<C> {
    fn all(&self) -> MutexGuard<'_, BTreeMap<TopicName, Arc<C>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those of this name, which are made where there are none. Only of what the catalog has.
    pub(crate) fn of(&self, topic: &TopicName) -> Arc<C> {
        let mut all = self.all();
        match all.get(topic) {
            Some(found) => Arc::clone(found),
            None => Arc::clone(all.entry(topic.clone()).or_default()),
        }
    }

    /// Forgets those of other names. Whoever asks looks at the catalog as it is then, not as it was before: who
    /// counts for a topic that was just made may have its counters already, and would go on with them unseen.
    pub(crate) fn retain(&self, mut is_there: impl FnMut(&TopicName) -> bool) {
        self.all().retain(|topic, _| is_there(topic));
    }
}

impl Broker {
    /// What is counted of single namespaces and topics, and what namespaces that this node leads hold now.
    pub fn counters_by_name(&self) -> Vec<(String, u64)> {
        let mut shown = Vec::new();
        self.show_locks(&mut shown);
        self.show_compaction(&mut shown);
        shown
    }

    fn show_locks(&self, shown: &mut Vec<(String, u64)>) {
        let catalog = self.catalog();
        let counted = self.lock_counters().all().clone();
        let (mut names, mut more) = (0, 0);
        for (topic, meta) in catalog.topics_with_prefix(LOCKS_PREFIX, None) {
            let home = meta.partitions.first().and_then(|&home| self.host().held(home));
            let led = home.filter(|home| matches!(*home.role().borrow(), Role::Leader { .. }));
            let counters = counted.get(topic);
            if led.is_none() && counters.is_none() {
                continue;
            }
            if names == NAMES_MAX {
                more += 1;
                continue;
            }
            names += 1;
            let namespace = topic.as_str().strip_prefix(LOCKS_PREFIX).unwrap_or_default();
            let occupancy = led.and_then(|led| led.with_locks(|locks, _| locks.occupancy()));
            let gauges = occupancy.map(|now| {
                [
                    ("lock_sessions_open", now.sessions as u64),
                    ("locks_held", now.held as u64),
                    ("lock_waiters", now.waiting as u64),
                ]
            });
            let counters = counters.map(|found| found.values()).unwrap_or_default();
            let all = gauges.into_iter().flatten().chain(counters);
            shown.extend(all.map(|(what, value)| (labelled(what, "namespace", namespace), value)));
        }
        if more > 0 {
            shown.push(("lock_namespaces_not_shown".to_owned(), more));
        }
    }

    fn show_compaction(&self, shown: &mut Vec<(String, u64)>) {
        let counted = self.compaction_counters().all().clone();
        for (topic, counters) in counted.iter().take(NAMES_MAX) {
            let all = counters.values().into_iter();
            shown.extend(all.map(|(what, value)| (labelled(what, "topic", topic.as_str()), value)));
        }
        let more = counted.len().saturating_sub(NAMES_MAX);
        if more > 0 {
            shown.push(("compacted_topics_not_shown".to_owned(), more as u64));
        }
    }
}

/// Names of topics have no character that would have to be escaped.
fn labelled(what: &str, label: &str, name: &str) -> String {
    format!("{what}{{{label}=\"{name}\"}}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_a_name_are_the_same_until_it_is_gone() {
        let topic = |name: &str| name.parse::<TopicName>().unwrap();
        let per_name = PerName::<LockCounters>::default();
        per_name.of(&topic("a")).lock_grants.add(2);
        per_name.of(&topic("b")).lock_grants.add(1);
        assert_eq!(per_name.of(&topic("a")).lock_grants.value(), 2);
        per_name.retain(|name| *name == topic("b"));
        assert_eq!(per_name.of(&topic("a")).lock_grants.value(), 0);
        assert_eq!(per_name.of(&topic("b")).lock_grants.value(), 1);
    }

    #[test]
    fn a_name_is_shown_in_braces() {
        assert_eq!(labelled("lock_grants", "namespace", "a.b"), "lock_grants{namespace=\"a.b\"}");
    }
}

//! Which namespaces' tasks are at work on this node.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use plimsoll_protocol::api::{LOCKS_PREFIX, namespace_topic};
use plimsoll_protocol::error::{ErrorCode, ErrorResponse};
use plimsoll_protocol::ids::{PartitionIndex, TopicName};
use plimsoll_replication::Group;
use tokio::time::MissedTickBehavior;

use super::handle::{Command, KeeperHandle};
use super::refused;
use super::runner::{self, Begin};
use crate::broker::Broker;
use crate::led::LedTasks;
use crate::routing::Access;

/// The one partition of a namespace.
pub(super) const HOME: PartitionIndex = PartitionIndex(0);
/// How often namespaces are looked at that nobody asks for: leases end also where nobody is left to ask.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The tasks that are at work here.
#[derive(Default)]
pub(crate) struct LockKeepers(LedTasks<Command>);

/// The topic of a namespace, from what a client says.
pub(crate) fn topic_of(namespace: &str) -> Result<TopicName, ErrorResponse> {
    namespace_topic(namespace).map_err(|error| refused::invalid(&error))
}

/// No namespace has this name.
pub(crate) fn unknown_namespace(namespace: &str) -> ErrorResponse {
    let message = format!(
        "there is no namespace of locks {namespace:?}: `plimsoll lock namespace list` lists those that \
         are, `plimsoll lock namespace create {namespace}` makes it"
    );
    ErrorResponse::new(ErrorCode::UnknownNamespace, message)
}

impl Broker {
    /// The keeper of the locks of a namespace, at work on this node.
    ///
    /// # Errors
    /// Where another node leads the namespace, it cannot be woken, or there is none.
    pub(crate) async fn lock_keeper(
        self: &Arc<Self>,
        namespace: &str,
    ) -> Result<(KeeperHandle, Arc<Group>), ErrorResponse> {
        let topic = topic_of(namespace)?;
        let found = self.partition(&topic, HOME, Access::Leader).await;
        let found = found.map_err(|error| match error.code {
            ErrorCode::UnknownTopic => unknown_namespace(namespace),
            _ => error,
        })?;
        let handle = self.run_keeper(&topic, &found.group, found.topic_id);
        Ok((handle.ok_or_else(|| self.not_leader(None))?, found.group))
    }

    /// The task, which is begun where it does not run; none where this node does not lead.
    fn run_keeper(
        self: &Arc<Self>,
        topic: &TopicName,
        group: &Arc<Group>,
        namespace_id: u64,
    ) -> Option<KeeperHandle> {
        let task = self.lock_keepers().0.of(group, "keeper of locks", |term, received| {
            let (broker, group) = (Arc::clone(self), Arc::clone(group));
            let counters = broker.lock_counters().of(topic);
            runner::run(Begin { broker, group, namespace_id, term, counters }, received)
        });
        task.map(KeeperHandle)
    }
}

/// Sees to namespaces whose sessions may all be silent: a new leader counts their leases too. Has partitions
/// forget the floors of namespaces that are gone. Until the broker stops.
pub(crate) async fn keep_locks(broker: Arc<Broker>) {
    let mut stopping = broker.stopping();
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut woken = BTreeSet::new();
    loop {
        tokio::select! {
            biased;
            () = stopping.wait() => return,
            _ = look.tick() => {}
        }
        let catalog = broker.catalog();
        for (topic, meta) in catalog.topics_with_prefix(LOCKS_PREFIX, None) {
            // Of one that sleeps since before this node began nobody knows whether leases run in it.
            if woken.insert(meta.topic_id) {
                let (broker, topic) = (Arc::clone(&broker), topic.clone());
                tokio::spawn(async move {
                    let namespace = topic.as_str().strip_prefix(LOCKS_PREFIX).unwrap_or_default();
                    // Another node that leads it does the same.
                    let _ = broker.lock_keeper(namespace).await;
                });
            }
            for group in meta.partitions.iter().filter_map(|&id| broker.host().held(id)) {
                let has_sessions = group.with_locks(|locks, _| {
                    locks.sessions().next().is_some() || locks.unpublished().len() > 0
                });
                if has_sessions == Some(true) {
                    broker.run_keeper(topic, &group, meta.topic_id);
                }
            }
        }
        broker.lock_counters().retain(|topic| broker.catalog().topic(topic).is_some());
        broker.forget_floors(&catalog).await;
    }
}

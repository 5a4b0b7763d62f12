//! Which views are at work on this node.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use plimsoll_protocol::error::{ErrorCode, ErrorResponse};
use plimsoll_protocol::ids::{GroupId, PartitionIndex, TopicName};

use super::view::{End, Named, View};
use crate::broker::{Broker, Partition};
use crate::refusals;
use crate::routing::Access;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Views {
    at_work: Mutex<BTreeMap<GroupId, Arc<View>>>,
    /// What all of them take of memory.
    bytes: Arc<AtomicUsize>,
}

impl Views {
    fn at_work(&self) -> MutexGuard<'_, BTreeMap<GroupId, Arc<View>>> {
        self.at_work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.at_work().len()
    }

    fn remove(&self, view: &Arc<View>) {
        let mut at_work = self.at_work();
        let id = view.group.id();
        if at_work.get(&id).is_some_and(|found| Arc::ptr_eq(found, view)) {
            at_work.remove(&id);
        }
    }
}

impl Broker {
    /// A partition of a compacted topic as a map; begun where it is not at work. It may have to catch up.
    ///
    /// # Errors
    /// Where another node answers for the partition, or its topic is not compacted.
    pub(crate) async fn view(
        self: &Arc<Self>,
        topic: &TopicName,
        partition: PartitionIndex,
        access: Access,
    ) -> Result<(Arc<View>, Partition), ErrorResponse> {
        let found = self.partition(topic, partition, access).await?;
        if !found.is_compacted {
            return Err(ErrorResponse::new(
                ErrorCode::NotCompacted,
                format!(
                    "topic {topic} is not compacted, so its records are no keys and values: use another \
                     topic, or plimsoll topic alter {topic} --config cleanup=compact"
                ),
            ));
        }
        Ok((self.view_of(&found, topic, partition), found))
    }

    /// The view of a partition that was found; its topic is compacted.
    pub(crate) fn view_of(
        self: &Arc<Self>,
        found: &Partition,
        topic: &TopicName,
        partition: PartitionIndex,
    ) -> Arc<View> {
        let mut at_work = self.views().at_work();
        let same = |view: &&Arc<View>| {
            view.named.topic_id == found.topic_id && Arc::ptr_eq(&view.group, &found.group)
        };
        if let Some(view) = at_work.get(&found.group.id()).filter(same) {
            // Under the lock: it does not go now.
            view.touch();
            return Arc::clone(view);
        }
        let named = Named { topic: topic.clone(), topic_id: found.topic_id, partition };
        let view = View::new(Arc::clone(&found.group), named, Arc::clone(&self.views().bytes));
        at_work.insert(found.group.id(), Arc::clone(&view));
        drop(at_work);
        tokio::spawn(Arc::clone(self).keep_view(Arc::clone(&view)));
        view
    }

    async fn keep_view(self: Arc<Self>, view: Arc<View>) {
        let leave_if_idle = || {
            let mut at_work = self.views().at_work();
            let is_idle = view.is_idle();
            if is_idle && at_work.get(&view.group.id()).is_some_and(|it| Arc::ptr_eq(it, &view)) {
                at_work.remove(&view.group.id());
            }
            is_idle
        };
        let end = tokio::select! {
            biased;
            end = view.follow(&self, leave_if_idle) => end,
            never = self.sweep(&view) => match never {},
        };
        self.views().remove(&view);
        let Named { topic, partition, .. } = &view.named;
        let why = match end {
            End::Stopping => refusals::shutting_down(),
            End::Failed(error) => {
                tracing::warn!(%topic, %partition, %error, "the keys of a partition cannot be followed");
                error
            }
            End::Unused | End::Gone => {
                tracing::debug!(%topic, %partition, ?end, "a view of keys ended");
                let message = format!("the keys of {topic}/{partition} are read anew: try again");
                ErrorResponse::new(ErrorCode::NotReady, message)
            }
        };
        view.end(why);
    }
}

//! Which queues are at work on this node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use plimsoll_delivery::command::{QueueCommand, QueueEntry, SubscriptionId};
use plimsoll_protocol::api::QueueOverflow;
use plimsoll_protocol::error::{ErrorCode, ErrorResponse};
use plimsoll_protocol::ids::{GroupId, PartitionIndex, TopicName};
use plimsoll_replication::{Group, Role};
use plimsoll_state::catalog::{SubscriptionMeta, TopicMeta};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, timeout};

use super::handle::{Admitted, Gate, NOT_COUNTED, QueueHandle};
use super::runner::{self, Begin};
use super::settings;
use crate::broker::{Broker, Partition};
use crate::led::End;
use crate::routing::Access;

/// How often queues that nobody asks for are looked after.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Names one partition of a queue or subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct QueueName {
    pub(crate) topic: TopicName,
    pub(crate) partition: PartitionIndex,
    pub(crate) subscription: String,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    running: Mutex<BTreeMap<(GroupId, SubscriptionId), QueueHandle>>,
}

impl Registry {
    fn running(&self) -> MutexGuard<'_, BTreeMap<(GroupId, SubscriptionId), QueueHandle>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The queue's task, if it runs.
    fn get(&self, group: GroupId, id: SubscriptionId) -> Option<QueueHandle> {
        self.running().get(&(group, id)).filter(|handle| !handle.is_over()).cloned()
    }
}

impl Broker {
    /// The queue, at work on this node.
    ///
    /// # Errors
    /// Where there is none, another node leads its partition, or it cannot be woken.
    pub(crate) async fn queue(
        self: &Arc<Self>,
        topic: &TopicName,
        partition: PartitionIndex,
        subscription: &str,
    ) -> Result<QueueHandle, ErrorResponse> {
        let mut meta = self.topic(topic).await?;
        // It may have been made through another node a moment ago.
        if meta.subscriptions.get(subscription).is_none() && self.catch_up().await {
            meta = self.topic(topic).await?;
        }
        let known = subscription_of(&meta, topic, subscription)?;
        let found = self.partition(topic, partition, Access::Leader).await?;
        let name =
            QueueName { topic: topic.clone(), partition, subscription: subscription.to_owned() };
        self.run_queue(name, &meta, known, found.group).ok_or_else(|| self.not_leader(None))
    }

    /// The queue's task, which is begun where it does not run; none where this node does not lead.
    fn run_queue(
        self: &Arc<Self>,
        name: QueueName,
        meta: &TopicMeta,
        known: &SubscriptionMeta,
        group: Arc<Group>,
    ) -> Option<QueueHandle> {
        let key = (group.id(), SubscriptionId(known.id));
        let mut running = self.queues().running();
        if let Some(handle) = running.get(&key).filter(|handle| !handle.is_over()) {
            return Some(handle.clone());
        }
        let Role::Leader { term } = *group.role().borrow() else { return None };
        let (commands, received) = mpsc::unbounded_channel();
        let gate = Arc::new(Gate::new());
        let to_itself = commands.downgrade();
        let handle = QueueHandle { commands, gate: Arc::clone(&gate) };
        running.insert(key, handle.clone());
        drop(running);
        let begin = Begin {
            broker: Arc::clone(self),
            group,
            name: name.clone(),
            id: key.1,
            topic_id: meta.topic_id,
            term,
            config: settings::config(&known.settings),
            from_latest: known.from_latest,
            gate,
            to_itself,
        };
        let broker = Arc::clone(self);
        tokio::spawn(async move {
            // Its commands are dropped with it: who waits for an answer sees the end.
            let end = runner::run(begin, received).await;
            let QueueName { topic, partition, subscription } = &name;
            match &end {
                End::Failed(error) => {
                    tracing::warn!(%topic, %partition, subscription, %error, "a queue stopped");
                }
                end => {
                    tracing::debug!(%topic, %partition, subscription, ?end, "a queue ended here");
                }
            }
            let mut running = broker.queues().running();
            if running.get(&key).is_some_and(QueueHandle::is_over) {
                running.remove(&key);
            }
        });
        Some(handle)
    }

    /// Whether a queue takes `messages` more, all of them, of which some wait for their time. What is answered is
    /// kept until it is known what became of them: those that come meanwhile are counted behind.
    ///
    /// # Errors
    /// Where it would be longer than it may be.
    pub(crate) async fn admit_to_queue(
        self: &Arc<Self>,
        topic: &TopicName,
        index: PartitionIndex,
        partition: &Partition,
        messages: u64,
        has_delayed: impl FnOnce() -> bool,
    ) -> Result<Option<Admitted>, ErrorResponse> {
        let Some(limits) = partition.queue else { return Ok(None) };
        let handle = match limits.are_any() {
            true => Some(self.queue(topic, index, "").await?),
            false => self.queues().get(partition.group.id(), SubscriptionId::QUEUE),
        };
        let Some(handle) = handle else { return Ok(None) };
        let gate = &handle.gate;
        if gate.counted.load(Ordering::Acquire) == NOT_COUNTED {
            // Its first turn counts. One that ends instead is looked up again by whoever sends again.
            let _ = handle.describe().await;
        }
        let full = |what: String| Err(ErrorResponse::new(ErrorCode::QueueFull, what));
        if gate.has_delayed_max.load(Ordering::Relaxed) && has_delayed() {
            return full(format!(
                "queue {topic} has as many delayed messages as a node keeps: nothing was stored; try \
                 again when some are due"
            ));
        }
        // What was committed since the task looked is counted here: who sends one message after the other
        // is refused exactly.
        let counted = gate.counted.load(Ordering::Acquire).min(NOT_COUNTED - 1);
        let committed = partition.group.high_watermark().borrow().0;
        let length = gate.length.load(Ordering::Relaxed) + committed.saturating_sub(counted);
        if !limits.are_any() {
            return Ok(None);
        }
        let (admitted, before) = Admitted::new(gate, messages);
        let length = length + before;
        if let Some(length_max) = limits.length_max
            && length + messages > length_max
        {
            return full(format!(
                "queue {topic} has {length} messages, {length_max} are allowed, {messages} came together: \
                 nothing was stored; try again when some are settled, or raise length-max"
            ));
        }
        // Those that are on their way, and those that come now, are as large as the others.
        let (known, counted) =
            (gate.bytes.load(Ordering::Relaxed), gate.length.load(Ordering::Relaxed));
        let mean = known / counted.max(1);
        let bytes = known + mean * length.saturating_sub(counted);
        match limits.bytes_max {
            Some(bytes_max) if bytes >= bytes_max || bytes + mean * messages > bytes_max => {
                full(format!(
                    "queue {topic} has about {bytes} bytes, {bytes_max} are allowed: nothing was stored; \
                 try again when some are settled, or raise bytes-max"
                ))
            }
            _ => Ok(Some(admitted)),
        }
    }
}

/// What a queue takes at most, where it refuses more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct QueueLimits {
    length_max: Option<u64>,
    bytes_max: Option<u64>,
}

impl QueueLimits {
    /// Whether it takes so many and no more.
    pub(crate) fn are_any(self) -> bool {
        self.length_max.is_some() || self.bytes_max.is_some()
    }

    /// Whether a queue of so many messages, with about so many bytes, takes one more.
    pub(crate) fn allow(self, length: u64, bytes: u64) -> bool {
        self.length_max.is_none_or(|most| length < most)
            && self.bytes_max.is_none_or(|most| bytes < most)
    }

    /// Those of a topic that is a queue.
    pub(crate) fn of(meta: &TopicMeta) -> Option<Self> {
        let settings = &meta.subscriptions.get("")?.settings;
        Some(match settings.overflow {
            QueueOverflow::Reject => {
                Self { length_max: settings.length_max, bytes_max: settings.bytes_max }
            }
            QueueOverflow::DropHead => Self { length_max: None, bytes_max: None },
        })
    }
}

/// The subscription of this name.
///
/// # Errors
/// Where there is none.
pub(crate) fn subscription_of<'a>(
    meta: &'a TopicMeta,
    topic: &TopicName,
    subscription: &str,
) -> Result<&'a SubscriptionMeta, ErrorResponse> {
    meta.subscriptions.get(subscription).ok_or_else(|| {
        let message = match subscription {
            "" => format!(
                "topic {topic} is not a queue: name one of its subscriptions, or create a queue \
                 (plimsoll queue create NAME)"
            ),
            name => format!(
                "topic {topic} has no subscription {name:?}: create it first (plimsoll queue \
                 subscribe {topic} {name})"
            ),
        };
        ErrorResponse::new(ErrorCode::UnknownQueue, message)
    })
}

/// Sees to the queues that nobody asks for: lives and delays end also where nobody consumes, dead letters
/// are copied, and what ended is forgotten. Until the broker stops.
pub async fn keep_queues(broker: Arc<Broker>) {
    let mut stopping = broker.stopping();
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut has_woken = BTreeSet::new();
    loop {
        tokio::select! {
            biased;
            () = stopping.wait() => return,
            _ = look.tick() => look_after(&broker, &mut has_woken).await,
        }
    }
}

/// `has_woken` has the groups that were looked at once in this life of the node.
async fn look_after(broker: &Arc<Broker>, has_woken: &mut BTreeSet<GroupId>) {
    let catalog = broker.catalog();
    let expiring = broker.expiring().of(&catalog);
    for (topic, meta) in catalog.topics().filter(|(_, meta)| !meta.subscriptions.is_untouched()) {
        for (partition, &id) in (0..).map(PartitionIndex).zip(&meta.partitions) {
            let ends_unused = expiring.contains_key(topic);
            if !has_woken.contains(&id)
                && is_seen_to(broker, topic, meta, partition, id, ends_unused).await
            {
                has_woken.insert(id);
            }
            let Some(group) = broker.host().held(id) else { continue };
            let Role::Leader { term } = *group.role().borrow() else { continue };
            for (name, known) in meta.subscriptions.iter() {
                let subscription = name.to_owned();
                let name = QueueName { topic: topic.clone(), partition, subscription };
                broker.run_queue(name, meta, known, Arc::clone(&group));
            }
            let ids = group.with_queues(|queues| {
                queues.iter().map(|(id, _)| id).collect::<Vec<SubscriptionId>>()
            });
            // An id that is not known yet was given out since: only what was ended is closed.
            let ended = ids.unwrap_or_default().into_iter();
            for subscription in ended.filter(|id| meta.subscriptions.was_ended(id.0)) {
                let entry = QueueEntry { subscription, commands: vec![QueueCommand::Close] };
                // It is tried again at a later look.
                let closing = group.control(entry.encode(), term);
                let _ = timeout(LOOK_EVERY, closing).await;
            }
        }
    }
}

/// Wakes a group here that has messages which may have to be seen to without being asked for, or that ends when it
/// is not used; another node may lead it. False where that is to be looked at again.
async fn is_seen_to(
    broker: &Arc<Broker>,
    topic: &TopicName,
    meta: &TopicMeta,
    partition: PartitionIndex,
    id: GroupId,
    ends_unused: bool,
) -> bool {
    let me = broker.identity().node_id;
    let is_here = meta.replica_set(partition).is_some_and(|replicas| {
        // Before the first node has made itself known, everything is here.
        replicas.wanted.is_empty() || replicas.wants(me)
    });
    let host = Arc::clone(broker.host());
    let unsettled = broker.host().blocking().run(move || host.unsettled(id)).await;
    let has_messages = unsettled.is_ok_and(|unsettled| unsettled > 0);
    let has_work = has_messages || (ends_unused && is_here);
    if !has_work {
        return true;
    }
    let waking = broker.partition(topic, partition, Access::Leader);
    match timeout(LOOK_EVERY, waking).await {
        Ok(Ok(_)) => true,
        Ok(Err(error)) => error.leader.is_some(),
        Err(_) => false,
    }
}

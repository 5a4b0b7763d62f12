//! Queues. Each has a topic of one partition, made and deleted in the same entries.

use std::sync::Arc;

use bytes::Bytes;
use plimsoll_protocol::api::{QueueSettings, TopicConfig};
use plimsoll_protocol::ids::{GroupId, NodeId, TopicName};

use super::limits::{AmqpKind, check_name};
use super::refusal::AmqpRefusal;
use super::reply::AmqpReply;
use super::text::AmqpText;
use crate::catalog::refusal::CatalogRefusal;
use crate::catalog::topics::NewTopic;
use crate::catalog::variants::wire_fields;
use crate::catalog::{Catalog, CatalogReply, ProposedPlacement};

/// Partitions of a queue's topic: a queue has one order.
const PARTITIONS: u32 = 1;

/// What a queue was declared as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueSpec {
    /// Whether it outlives the stop of the node it was declared on.
    pub durable: bool,
    /// Whether it goes with its last consumer, which the gateway sees to.
    pub auto_delete: bool,
    /// The node it was declared on.
    pub node: NodeId,
    /// Whose it is, where it is exclusive: the number that its node gave the connection.
    pub connection: Option<u64>,
    /// Its arguments, an encoded field table: at most
    /// [`ARGUMENTS_BYTES_MAX`](super::ARGUMENTS_BYTES_MAX) bytes.
    pub arguments: Bytes,
    /// The topic that holds it. There is none of the name when the queue is declared.
    pub topic: TopicName,
}

wire_fields!(QueueSpec {
    durable: bool,
    auto_delete: bool,
    node: NodeId,
    connection: Option<u64>,
    arguments: Bytes,
    topic: TopicName,
});

impl QueueSpec {
    /// Whether it goes when its node ends.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        !self.durable || self.connection.is_some()
    }
}

/// A queue. It never changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queue {
    /// Tells it from others of its name that were before or will be; never used again.
    pub declaration: u64,
    /// When it was declared, unix ms.
    pub created_ms: i64,
    /// What it was declared as.
    pub spec: QueueSpec,
}

wire_fields!(Queue { declaration: u64, created_ms: i64, spec: QueueSpec });

/// What is asked for when a queue is declared.
pub(in crate::catalog) struct NewQueue {
    pub(super) vhost: AmqpText,
    pub(super) name: AmqpText,
    pub(super) queue: QueueSpec,
    pub(super) replicas: u16,
    pub(super) config: TopicConfig,
    /// None: a stream.
    pub(super) settings: Option<QueueSettings>,
    pub(super) placement: Option<ProposedPlacement>,
}

impl Catalog {
    /// The queue that a topic holds: its virtual host, its name, and what it is. Looks at all queues.
    #[must_use]
    pub fn queue_of(&self, topic: &TopicName) -> Option<(&AmqpText, &AmqpText, &Arc<Queue>)> {
        self.amqp.vhosts().find_map(|(vhost, objects)| {
            let (name, queue) = objects.queues().find(|(_, queue)| queue.spec.topic == *topic)?;
            Some((vhost, name, queue))
        })
    }

    /// Refuses what would part a queue from its topic.
    pub(in crate::catalog) fn check_holds_no_queue(
        &self,
        topic: &TopicName,
    ) -> Result<(), CatalogRefusal> {
        let Some((vhost, queue, _)) = self.queue_of(topic) else { return Ok(()) };
        let (topic, vhost, queue) = (topic.clone(), vhost.clone(), queue.clone());
        Err(AmqpRefusal::TopicHoldsQueue { topic, vhost, queue }.into())
    }

    pub(super) fn declare_queue(
        &mut self,
        new: NewQueue,
        created_ms: i64,
    ) -> Result<AmqpReply, CatalogRefusal> {
        let NewQueue { vhost, name, queue: spec, replicas, config, settings, placement } = new;
        if let Some(existing) = self.amqp.known_vhost(&vhost)?.queues.get(&name) {
            return Ok(AmqpReply::Queue { queue: Arc::clone(existing), existed: true });
        }
        check_name("queue", &name)?;
        self.amqp.check_room(AmqpKind::Queues)?;
        self.amqp.check_arguments(&spec.arguments)?;
        let (topic, partitions, if_not_exists) = (spec.topic.clone(), PARTITIONS, false);
        let queue = settings;
        let topic =
            NewTopic { topic, partitions, replicas, config, if_not_exists, placement, queue };
        self.create(topic, created_ms)?;
        let declaration = self.amqp.next_declaration;
        self.amqp.next_declaration += 1;
        let queue = Arc::new(Queue { declaration, created_ms, spec });
        self.amqp.change(&vhost, |vhost| {
            vhost.argument_bytes += queue.spec.arguments.len();
            Arc::make_mut(&mut vhost.queues).insert(name, Arc::clone(&queue));
        });
        Ok(AmqpReply::Queue { queue, existed: false })
    }

    pub(super) fn delete_queue(
        &mut self,
        vhost: &AmqpText,
        name: &AmqpText,
        declaration: u64,
    ) -> Result<AmqpReply, AmqpRefusal> {
        let queue = self.amqp.known_vhost(vhost)?.queues.get(name);
        let is_meant = queue.is_some_and(|queue| queue.declaration == declaration);
        let gone = match is_meant {
            true => self.amqp.change(vhost, |vhost| vhost.remove_queue(name)),
            false => None,
        };
        Ok(self.delete_topics_of(gone.iter()))
    }

    pub(super) fn forget_owner(&mut self, node: NodeId, connection: u64) -> AmqpReply {
        self.forget(|spec| spec.node == node && spec.connection == Some(connection))
    }

    pub(super) fn forget_transient(&mut self, node: NodeId, exchanges: bool) -> AmqpReply {
        if exchanges {
            self.amqp.forget_exchanges();
        }
        self.forget(|spec| spec.node == node && spec.is_transient())
    }

    fn forget(&mut self, is_meant: impl Fn(&QueueSpec) -> bool) -> AmqpReply {
        let mut gone = Vec::new();
        let vhosts: Vec<AmqpText> = self.amqp.vhosts.keys().cloned().collect();
        for vhost in vhosts {
            let queues = self.amqp.vhosts[&vhost].queues();
            let meant = queues.filter(|(_, queue)| is_meant(&queue.spec));
            let names: Vec<AmqpText> = meant.map(|(name, _)| name.clone()).collect();
            if !names.is_empty() {
                let remove = |name| self.amqp.change(&vhost, |vhost| vhost.remove_queue(name));
                gone.extend(names.iter().filter_map(remove));
            }
        }
        self.delete_topics_of(gone.iter())
    }

    /// Deletes the topics of queues that were taken away.
    pub(super) fn delete_topics_of<'a>(
        &mut self,
        queues: impl Iterator<Item = &'a Arc<Queue>>,
    ) -> AmqpReply {
        let mut groups: Vec<GroupId> = Vec::new();
        for queue in queues {
            match self.delete(queue.spec.topic.clone()) {
                Ok(CatalogReply::Deleted { groups: of_one, .. }) => groups.extend(of_one.iter()),
                other => unreachable!("a queue's topic is there as long as the queue: {other:?}"),
            }
        }
        groups.sort_unstable();
        AmqpReply::Removed { groups: groups.into() }
    }
}

//! Why a command of the catalog was not carried out.

use plimsoll_protocol::api::NodeState;
use plimsoll_protocol::ids::{GroupId, NodeId, TopicName};
use thiserror::Error;

use super::amqp::AmqpRefusal;
use super::nodes::{MEMBERS_MAX, NODES_EVER_MAX};
use super::placement::PLACEMENT_CHANGES_MAX;
use super::replicas::REPLICAS_MAX;
use super::subscriptions::SUBSCRIPTIONS_PER_TOPIC_MAX;
use super::topics::{PARTITIONS_PER_TOPIC_MAX, PRODUCER_IDS_MAX, TOPICS_MAX};
use super::variants::wire_variants;

wire_variants! {
    /// Why a command was not carried out. Nothing was changed.
    #[derive(Error)]
    pub enum CatalogRefusal as "refusal" {
        /// The name is taken.
        #[error("topic {topic} exists already")]
        TopicExists = 1 {
            /// The name.
            topic: TopicName,
        },
        /// No topic has the name.
        #[error("there is no topic {topic}")]
        UnknownTopic = 2 {
            /// The name.
            topic: TopicName,
        },
        /// There are as many topics as allowed.
        #[error("there are {TOPICS_MAX} topics already, which is the most; delete one first")]
        TooManyTopics = 3,
        /// No partition, or more than a topic can have.
        #[error("a topic has 1 to {PARTITIONS_PER_TOPIC_MAX} partitions, not {asked}")]
        PartitionsOutOfRange = 4 {
            /// What was asked for.
            asked: u32,
        },
        /// The number of partitions can only grow.
        #[error(
            "topic {topic} has {partitions} partitions; the number can grow, not shrink to {asked}"
        )]
        FewerPartitions = 5 {
            /// The topic.
            topic: TopicName,
            /// What it has.
            partitions: u32,
            /// What was asked for.
            asked: u32,
        },
        /// No replica was asked for.
        #[error("a topic needs at least one replica")]
        NoReplicas = 6,
        /// No producer ids, or too many at once.
        #[error("a block has 1 to {PRODUCER_IDS_MAX} producer ids, not {asked}")]
        ProducerIdsOutOfRange = 7 {
            /// What was asked for.
            asked: u32,
        },
        /// The command was written by a newer build, or its entry is damaged.
        #[error("the command cannot be read by this build: {reason}")]
        Unreadable = 8 {
            /// What is wrong with it.
            reason: String,
        },
        /// More replicas than a partition can have.
        #[error("a partition has at most {REPLICAS_MAX} replicas, not {asked}")]
        TooManyReplicas = 9 {
            /// What was asked for.
            asked: u16,
        },
        /// More replicas than nodes that take them.
        #[error(
            "{asked} replicas need {asked} nodes, and only {active} would take replicas{}; add a node \
             (plimsoll serve --data DIR --join HOST:PORT), end a drain, or ask for fewer replicas",
            besides(*draining)
        )]
        NotEnoughNodes = 10 {
            /// Replicas that a topic asks for.
            asked: u16,
            /// Nodes that would take replicas.
            active: u32,
            /// Nodes that are there and are draining.
            draining: u32,
        },
        /// The placement was computed for nodes or places that are no longer those.
        #[error(
            "the placement was computed at placement epoch {base}, and it is {now} now: another \
             change came first; compute it anew"
        )]
        StalePlacement = 11 {
            /// What it was computed for.
            base: u64,
            /// What it is.
            now: u64,
        },
        /// A proposed placement breaks a rule.
        #[error("the placement breaks a rule: {rule}; nothing was changed, compute it anew")]
        InvalidPlacement = 12 {
            /// The rule.
            rule: String,
        },
        /// The proposer computed no placement where there is more than one node.
        #[error(
            "there is more than one node, and the command does not say on which of them the new \
             partitions belong: the node that proposed it runs an older version; upgrade it"
        )]
        PlacementMissing = 13,
        /// More partitions than one command may move.
        #[error("one command changes at most {PLACEMENT_CHANGES_MAX} places, not {asked}")]
        TooManyChanges = 14 {
            /// What was asked for.
            asked: u32,
        },
        /// No group has this id yet.
        #[error("there is no partition group {group}")]
        UnknownGroup = 15 {
            /// The group.
            group: GroupId,
        },
        /// The catalog knows no node yet.
        #[error("the cluster has no node yet; the first one is still starting, try again")]
        NotSetUp = 16,
        /// The catalog has its first node already.
        #[error(
            "node {node} is not of this cluster, which has its nodes already; a new node joins with \
             an empty directory (plimsoll serve --data DIR --join HOST:PORT)"
        )]
        SetUpAlready = 17 {
            /// Who wanted to be the first.
            node: NodeId,
        },
        /// No node has this id.
        #[error("there is no node {node}; `plimsoll cluster status` lists them")]
        UnknownNode = 18 {
            /// The id.
            node: NodeId,
        },
        /// The node was taken out of the cluster.
        #[error(
            "node {node} was removed from the cluster and its id is never used again; to have the \
             machine back, join it with an empty directory"
        )]
        NodeRemoved = 19 {
            /// The node.
            node: NodeId,
        },
        /// The node has not yet copied the catalog.
        #[error("node {node} is {state}, not active: wait until it is")]
        NodeNotActive = 20 {
            /// The node.
            node: NodeId,
            /// What it is.
            state: NodeState,
        },
        /// Another node is reached at this address.
        #[error(
            "node {node} is reached at {address}: two nodes cannot have one address; give the new one \
             another (`advertise`), or stop node {node} first if the new one takes its place"
        )]
        AddressTaken = 21 {
            /// The address.
            address: String,
            /// Whose it is.
            node: NodeId,
        },
        /// What a node says of itself is out of bounds.
        #[error("the node cannot be taken in: {rule}")]
        InvalidNode = 22 {
            /// The rule that is broken.
            rule: String,
        },
        /// As many nodes as a cluster may have.
        #[error("the cluster has {MEMBERS_MAX} nodes, which is the most; remove one first")]
        TooManyNodes = 23,
        /// As many nodes as may ever have been.
        #[error("{NODES_EVER_MAX} nodes have been of this cluster, which is the most")]
        NodeIdsUsedUp = 24,
        /// The node still holds replicas.
        #[error(
            "{partitions} partitions still belong on node {node}, and would lose a replica with it; \
             drain it first (plimsoll cluster drain {node}) and wait until it is empty"
        )]
        NodeInUse = 25 {
            /// The node.
            node: NodeId,
            /// Partitions that belong on it, the catalog's own group among them.
            partitions: u32,
        },
        /// The node is the last one.
        #[error("node {node} is the last one of the cluster: all data would be lost with it")]
        LastNode = 26 {
            /// The node.
            node: NodeId,
        },
        /// The level of the cluster only rises.
        #[error("the cluster is at level {now} and does not go back to {asked}")]
        LevelFalls = 27 {
            /// What was asked for.
            asked: u16,
            /// What it is.
            now: u16,
        },
        /// The command was carried out, and the topic was deleted before its answer was read.
        #[error("the topic was made or changed as asked for, and has been deleted since")]
        DeletedSince = 28,
        /// The topic has no such subscription.
        #[error(
            "{}; `plimsoll queue list` lists what there is",
            no_subscription(topic, name)
        )]
        UnknownSubscription = 29 {
            /// The topic.
            topic: TopicName,
            /// The subscription.
            name: String,
        },
        /// As many subscriptions as allowed.
        #[error(
            "topic {topic} has {SUBSCRIPTIONS_PER_TOPIC_MAX} subscriptions already, which is the most; \
             delete one first"
        )]
        TooManySubscriptions = 30 {
            /// The topic.
            topic: TopicName,
        },
        /// Not every node is known to be able to read the command.
        #[error(
            "this needs a cluster of level {needed}, and it is {now}: not every node is known to run a \
             version that can do it; upgrade those that run an older one"
        )]
        LevelTooLow = 31 {
            /// The level that the command needs.
            needed: u16,
            /// What it is.
            now: u16,
        },
        /// A command about the objects of AMQP was not carried out.
        #[error("{refusal}")]
        Amqp = 32 {
            /// Why.
            refusal: AmqpRefusal,
        },
        /// Messages that are settled one by one cannot be compacted away.
        #[error(
            "topic {topic} is a queue or has subscriptions that settle message by message, and \
             compaction would take messages from them: use a topic of its own for one of the two"
        )]
        CompactedQueue = 33 {
            /// The topic.
            topic: TopicName,
        },
    }
}

fn no_subscription(topic: &TopicName, name: &str) -> String {
    match name {
        "" => format!("topic {topic} is not a queue"),
        name => format!("topic {topic} has no subscription {name:?}"),
    }
}

impl From<AmqpRefusal> for CatalogRefusal {
    fn from(refusal: AmqpRefusal) -> Self {
        Self::Amqp { refusal }
    }
}

fn besides(draining: u32) -> String {
    match draining {
        0 => String::new(),
        draining => format!(", besides {draining} that are draining"),
    }
}

//! The catalog: the fold of group 0. It knows the nodes, the topics, which groups their partitions
//! are and on which nodes they belong, which ids were handed out, and the objects of AMQP.
//!
//! Ids of nodes, topics, groups and producers only grow and are never used again, not even after what
//! they stood for was deleted.
//!
//! ```text
//!  command   what is asked for                state       progress, catalog, requests: the fold
//!  refusal   why not                          encoding    the catalog as bytes
//!  reply     what came of it                  requests    the last answers, for repetitions
//!  topics, subscriptions, nodes, placement, amqp   what is carried out, by what it is about
//!  planning  where partitions should be: computed by whoever proposes, never by the fold
//! ```
//!
//! Invariant: as soon as there is a node, each partition belongs on at least one, on none twice, and
//! only on nodes of the cluster.

use std::collections::BTreeMap;
use std::sync::Arc;

use plimsoll_protocol::ids::{NodeId, TopicName};

pub mod amqp;
mod command;
mod encoding;
mod nodes;
mod owners;
mod patch;
mod placement;
pub mod planning;
mod refusal;
mod replicas;
mod reply;
mod requests;
mod state;
mod subscriptions;
mod topics;
mod variants;

pub use command::CatalogCommand;
pub use nodes::{JoinSecret, MEMBERS_MAX, NODES_EVER_MAX, NodeMeta, NodeSpec};
pub use patch::{ConfigPatch, RulesPatch};
pub use placement::{Located, METADATA_VOTERS_MAX, PLACEMENT_CHANGES_MAX, PlacementChange};
pub use refusal::CatalogRefusal;
pub use replicas::{ProposedPlacement, REPLICAS_MAX, ReplicaSet, Replicas};
pub use reply::CatalogReply;
pub use requests::REQUESTS_MAX;
pub use state::CatalogState;
pub use subscriptions::{
    SUBSCRIPTION_NAME_BYTES_MAX, SUBSCRIPTIONS_PER_TOPIC_MAX, SubscriptionMeta, Subscriptions,
};
pub use topics::{PARTITIONS_PER_TOPIC_MAX, PRODUCER_IDS_MAX, TOPICS_MAX, TopicMeta};

use amqp::AmqpObjects;
use owners::Owners;
use topics::NewTopic;

/// How the cluster behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClusterSettings {
    /// Whether replicas are moved by themselves when nodes come or drain; default: yes. Without it
    /// nothing moves until `plimsoll cluster rebalance`. Replicas of a dead node are not replaced by
    /// themselves in either case.
    pub auto_rebalance: bool,
}

impl Default for ClusterSettings {
    fn default() -> Self {
        Self { auto_rebalance: true }
    }
}

/// The level of the cluster from which on topics have rules: compaction, locks and fences. See
/// [`planning::raise_level`].
pub const LEVEL_RULES: u16 = 3;

/// The level that this build raises a cluster to.
pub(crate) const LEVEL_NEWEST: u16 = LEVEL_RULES;

/// Nodes, topics, places and ids. Cloning is cheap; a clone does not change any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalog {
    topics: Arc<BTreeMap<TopicName, Arc<TopicMeta>>>,
    owners: Owners,
    nodes: Arc<BTreeMap<NodeId, Arc<NodeMeta>>>,
    /// Where group 0 has its voters.
    metadata: ReplicaSet,
    next_topic_id: u64,
    next_group_id: u64,
    next_producer_id: u64,
    next_node_id: u64,
    epoch: u64,
    placement_epoch: u64,
    level: u16,
    join_secret: JoinSecret,
    settings: ClusterSettings,
    amqp: AmqpObjects,
}

impl Default for Catalog {
    /// The empty catalog: group 0 is the catalog's own, producer 0 means none.
    fn default() -> Self {
        Self {
            topics: Arc::default(),
            owners: Owners::default(),
            nodes: Arc::default(),
            metadata: ReplicaSet::unplaced(),
            next_topic_id: 1,
            next_group_id: 1,
            next_producer_id: 1,
            next_node_id: 1,
            epoch: 0,
            placement_epoch: 0,
            level: 0,
            join_secret: JoinSecret::default(),
            settings: ClusterSettings::default(),
            amqp: AmqpObjects::default(),
        }
    }
}

impl Catalog {
    /// The topic of this name.
    #[must_use]
    pub fn topic(&self, name: &TopicName) -> Option<&Arc<TopicMeta>> {
        self.topics.get(name)
    }

    /// All topics, by name.
    pub fn topics(&self) -> impl Iterator<Item = (&TopicName, &Arc<TopicMeta>)> {
        self.topics.iter()
    }

    /// Topics whose name begins with `prefix` and is behind `after`, by name.
    pub fn topics_with_prefix<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a TopicName>,
    ) -> impl Iterator<Item = (&'a TopicName, &'a Arc<TopicMeta>)> {
        use std::ops::Bound::{Excluded, Included, Unbounded};
        let first = match after.map(TopicName::as_str) {
            Some(after) if after >= prefix => Excluded(after),
            _ => Included(prefix),
        };
        self.topics
            .range::<str, _>((first, Unbounded))
            .take_while(move |(name, _)| name.as_str().starts_with(prefix))
    }

    /// Number of topics.
    #[must_use]
    pub fn len(&self) -> usize {
        self.topics.len()
    }

    /// Whether there is no topic.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    /// Whether the first node has made itself known. Until then topics have no place.
    #[must_use]
    pub fn is_set_up(&self) -> bool {
        !self.nodes.is_empty()
    }

    /// The id that the next topic will have; of those below it, the ones that no topic has are of deleted
    /// ones.
    #[must_use]
    pub fn next_topic_id(&self) -> u64 {
        self.next_topic_id
    }

    /// Grows with each change of nodes, topics and places that a client can see.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// What every node of the cluster can read: 0 is version 1, 1 version 2, 2 the objects of AMQP
    /// too, which is all that this build knows.
    #[must_use]
    pub fn level(&self) -> u16 {
        self.level
    }

    /// What a new node shows to be let in.
    #[must_use]
    pub fn join_secret(&self) -> &JoinSecret {
        &self.join_secret
    }

    /// How the cluster behaves.
    #[must_use]
    pub fn settings(&self) -> &ClusterSettings {
        &self.settings
    }

    /// Carries out a command, or refuses it. `append_time_ms` is the leader's time in the entry.
    pub fn apply(&mut self, command: CatalogCommand, append_time_ms: i64) -> CatalogReply {
        let now = append_time_ms;
        let done = match command {
            CatalogCommand::CreateTopic {
                topic,
                partitions,
                replicas,
                config,
                if_not_exists,
                placement,
            } => {
                let queue = None;
                let new = NewTopic {
                    topic,
                    partitions,
                    replicas,
                    config,
                    if_not_exists,
                    placement,
                    queue,
                };
                self.create(new, now)
            }
            CatalogCommand::CreateQueue {
                topic,
                partitions,
                replicas,
                config,
                if_not_exists,
                placement,
                settings,
            } => {
                let queue = Some(settings);
                let new = NewTopic {
                    topic,
                    partitions,
                    replicas,
                    config,
                    if_not_exists,
                    placement,
                    queue,
                };
                self.create(new, now)
            }
            CatalogCommand::PutSubscription { topic, name, settings, create, from_latest } => {
                self.put_subscription(topic, name, settings, create, from_latest)
            }
            CatalogCommand::DeleteSubscription { topic, name } => {
                self.delete_subscription(topic, name)
            }
            CatalogCommand::AlterTopic { topic, partitions, patch, placement } => {
                self.alter(topic, partitions, &patch, placement.as_ref())
            }
            CatalogCommand::DeleteTopic { topic } => {
                self.check_holds_no_queue(&topic).and_then(|()| self.delete(topic))
            }
            CatalogCommand::AllocateProducerIds { count } => self.allocate_producer_ids(count),
            CatalogCommand::SetUp { node, spec, join_secret } => {
                self.set_up(node, spec, join_secret, now)
            }
            CatalogCommand::AddNode { join_id, spec, takes_address } => {
                self.add_node(join_id, spec, takes_address, now)
            }
            CatalogCommand::ActivateNode { node } => self.activate_node(node),
            CatalogCommand::UpdateNode { node, spec } => self.update_node(node, spec),
            CatalogCommand::DrainNode { node, on } => self.drain_node(node, on),
            CatalogCommand::RemoveNode { node, force } => self.remove_node(node, force),
            CatalogCommand::SetPlacement { base, changes } => self.set_placement(base, changes),
            CatalogCommand::SealBirths { groups } => self.seal(&groups),
            CatalogCommand::SetClusterSettings { auto_rebalance } => {
                let now = self.settings.auto_rebalance;
                self.settings.auto_rebalance = auto_rebalance.unwrap_or(now);
                Ok(CatalogReply::Done)
            }
            CatalogCommand::SetJoinSecret { join_secret } => {
                self.join_secret = join_secret;
                Ok(CatalogReply::Done)
            }
            CatalogCommand::SetLevel { level } => self.set_level(level),
            CatalogCommand::Amqp { command } => self.apply_amqp(command, now),
        };
        done.unwrap_or_else(CatalogReply::Refused)
    }

    fn set_level(&mut self, asked: u16) -> Result<CatalogReply, CatalogRefusal> {
        if asked < self.level {
            return Err(CatalogRefusal::LevelFalls { asked, now: self.level });
        }
        self.level = asked;
        Ok(CatalogReply::Done)
    }
}

#[cfg(test)]
mod node_tests;
#[cfg(test)]
mod topic_tests;

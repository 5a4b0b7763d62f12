//! What the client knows of its cluster: nodes, who leads which partition, whom it does not hear.
//!
//! Any node tells, from its own copy, which may be behind that of another. So what is known goes
//! forward only: nodes and placements by the catalog's epoch, leaders by their term. A node that knows
//! no Metadata is older than clusters: then there is that one node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use plimsoll_protocol::api::{MetadataResponse, NodeInfo, TopicMetadata};
use plimsoll_protocol::ids::{NodeId, Term, TopicName};
use tokio::sync::watch;

/// A picture of the cluster at one moment.
#[derive(Debug, Clone, Default)]
pub struct ClusterView {
    cluster_id: String,
    epoch: u64,
    controller: Option<NodeId>,
    nodes: BTreeMap<NodeId, NodeInfo>,
    topics: BTreeMap<TopicName, Arc<TopicView>>,
    /// Topics that were known and are deleted, with the epoch of the answer that said so.
    deleted: BTreeMap<TopicName, u64>,
    /// Nodes that gave no sign of life, until they do.
    suspects: BTreeSet<NodeId>,
}

#[derive(Debug, Clone, Default)]
struct TopicView {
    topic_id: u64,
    /// Epoch of the answer that `replicas` are of.
    epoch: u64,
    partitions: BTreeMap<u32, PartitionView>,
}

/// Where a partition is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PartitionView {
    /// The last leader that is known.
    pub leader: Option<NodeId>,
    /// The leader's term; 0 where it is not known.
    pub term: Term,
    /// Whom a node named since, that knew of no leader: who will lead it when it is asked.
    pub candidate: Option<NodeId>,
    /// Where its replicas belong, the preferred leader first.
    pub replicas: Vec<NodeId>,
}

impl PartitionView {
    /// Whom to ask: the leader, unless it has just failed or gives no sign of life and there is
    /// somebody else.
    pub(crate) fn target(&self, view: &ClusterView, failed: Option<NodeId>) -> Option<NodeId> {
        let leader = self.leader.filter(|node| Some(*node) != failed && !view.is_suspect(*node));
        leader.or(self.candidate).or(self.leader)
    }
}

impl ClusterView {
    /// Name of the cluster; empty before the first connection.
    #[must_use]
    pub fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    /// How new the picture is: grows with each change of nodes, topics and placement.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The node that leads the catalog, when known.
    #[must_use]
    pub fn controller(&self) -> Option<NodeId> {
        self.controller
    }

    /// The nodes by id. Empty where the nodes are older than clusters.
    #[must_use]
    pub fn nodes(&self) -> &BTreeMap<NodeId, NodeInfo> {
        &self.nodes
    }

    /// Where a partition is; known for the topics of open producers and consumers.
    #[must_use]
    pub fn partition(&self, topic: &str, partition: u32) -> Option<&PartitionView> {
        self.topics.get(topic)?.partitions.get(&partition)
    }

    /// The id of a topic, where it is known: one that is deleted and made again has another.
    pub(crate) fn topic_id(&self, topic: &TopicName) -> Option<u64> {
        Some(self.topics.get(topic)?.topic_id)
    }

    /// Whether the node gave no sign of life when it was asked last.
    #[must_use]
    pub fn is_suspect(&self, node: NodeId) -> bool {
        self.suspects.contains(&node)
    }

    /// Where a node is dialed.
    pub(crate) fn address(&self, node: NodeId) -> Option<&str> {
        let address = &self.nodes.get(&node)?.address;
        (!address.is_empty()).then_some(address)
    }

    /// Takes an answer in. `false`: it brought nothing new.
    fn learn(&mut self, answer: MetadataResponse) -> bool {
        let MetadataResponse { cluster_id, epoch, controller, nodes, topics, unknown } = answer;
        let mut changed = false;
        if cluster_id != self.cluster_id {
            let suspects = std::mem::take(&mut self.suspects);
            *self = Self { cluster_id, suspects, ..Self::default() };
            changed = true;
        }
        if epoch >= self.epoch {
            let nodes: BTreeMap<_, _> = nodes.into_iter().map(|info| (info.node, info)).collect();
            changed |= epoch > self.epoch || nodes != self.nodes;
            self.epoch = epoch;
            self.nodes = nodes;
            let nodes = &self.nodes;
            self.suspects.retain(|node| nodes.contains_key(node));
            for topic in unknown {
                if self.topics.remove(&topic).is_some() {
                    self.deleted.insert(topic, epoch);
                    changed = true;
                }
            }
        }
        if controller.is_some() && controller != self.controller {
            self.controller = controller;
            changed = true;
        }
        for topic in topics {
            changed |= self.learn_topic(epoch, topic);
        }
        changed
    }

    fn learn_topic(&mut self, epoch: u64, answer: TopicMetadata) -> bool {
        match self.deleted.get(&answer.topic) {
            // A node that has not heard of its end.
            Some(since) if epoch < *since => return false,
            Some(_) => drop(self.deleted.remove(&answer.topic)),
            None => {}
        }
        let known = Arc::make_mut(self.topics.entry(answer.topic).or_default());
        let mut changed = false;
        if known.topic_id != answer.topic_id {
            if epoch < known.epoch {
                return false;
            }
            // Created anew: terms begin again.
            *known = TopicView { topic_id: answer.topic_id, epoch, ..TopicView::default() };
            changed = true;
        }
        let newer = epoch >= known.epoch;
        known.epoch = known.epoch.max(epoch);
        for partition in answer.partitions {
            let known = known.partitions.entry(partition.partition.0).or_default();
            let before = known.clone();
            if newer {
                known.replicas = partition.replicas;
            }
            if partition.term > known.term
                || (partition.term == known.term && partition.leader.is_some())
            {
                known.term = partition.term;
                known.leader = partition.leader;
                known.candidate = None;
            } else if partition.term == Term(0) {
                known.candidate = partition.leader;
            }
            changed |= *known != before;
        }
        changed
    }
}

/// The picture as it changes. One per client.
#[derive(Debug)]
pub(crate) struct Cluster {
    view: watch::Sender<Arc<ClusterView>>,
}

impl Cluster {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { view: watch::Sender::new(Arc::default()) })
    }

    /// The picture now.
    pub(crate) fn view(&self) -> Arc<ClusterView> {
        Arc::clone(&self.view.borrow())
    }

    /// The picture and its changes.
    pub(crate) fn changes(&self) -> watch::Receiver<Arc<ClusterView>> {
        self.view.subscribe()
    }

    /// Takes an answer in.
    pub(crate) fn learn(&self, answer: MetadataResponse) {
        self.change(|view| view.learn(answer));
    }

    /// A node of this cluster answers.
    pub(crate) fn greeted(&self, node: NodeId, cluster_id: &str) {
        self.change(|view| {
            let trusted = view.suspects.remove(&node);
            let joined = view.cluster_id != cluster_id;
            if joined {
                *view = ClusterView { cluster_id: cluster_id.to_owned(), ..ClusterView::default() };
            }
            trusted || joined
        });
    }

    /// Nobody is interested in a topic any more.
    pub(crate) fn forget(&self, topic: &TopicName) {
        self.change(|view| {
            view.deleted.remove(topic);
            view.topics.remove(topic).is_some()
        });
    }

    /// A node gave no sign of life.
    pub(crate) fn suspect(&self, node: NodeId) {
        self.change(|view| view.suspects.insert(node));
    }

    fn change(&self, change: impl FnOnce(&mut ClusterView) -> bool) {
        self.view.send_if_modified(|view| change(Arc::make_mut(view)));
    }
}

#[cfg(test)]
mod tests {
    use plimsoll_protocol::api::{NodeState, PartitionMetadata};
    use plimsoll_protocol::ids::{GroupId, PartitionIndex};

    use super::*;

    fn answer(epoch: u64, nodes: &[u64], leader: Option<u64>, term: u64) -> MetadataResponse {
        let info = |node: &u64| NodeInfo {
            node: NodeId(*node),
            address: format!("node{node}:{epoch}"),
            rack: None,
            state: NodeState::Active,
        };
        MetadataResponse {
            cluster_id: "c".to_owned(),
            epoch,
            controller: None,
            nodes: nodes.iter().map(info).collect(),
            topics: vec![TopicMetadata {
                topic: "t".parse().unwrap(),
                topic_id: 1,
                partitions_total: 1,
                partitions: vec![PartitionMetadata {
                    partition: PartitionIndex(0),
                    group_id: GroupId(1),
                    leader: leader.map(NodeId),
                    term: Term(term),
                    replicas: nodes.iter().copied().map(NodeId).collect(),
                }],
            }],
            unknown: Vec::new(),
        }
    }

    fn leader(view: &ClusterView) -> Option<(u64, u64)> {
        let partition = view.partition("t", 0)?;
        Some((partition.leader?.0, partition.term.0))
    }

    #[test]
    fn the_highest_term_wins_whoever_tells_it_and_whenever() {
        let mut view = ClusterView::default();
        assert!(view.learn(answer(5, &[1, 2, 3], Some(1), 3)));
        assert!(!view.learn(answer(5, &[1, 2, 3], Some(2), 2)), "an older leader is no news");
        assert_eq!(leader(&view), Some((1, 3)));
        assert!(!view.learn(answer(4, &[1, 2], None, 3)), "nobody's claim is not a change");
        assert!(view.learn(answer(4, &[1, 2], Some(2), 4)), "leaders do not follow the epoch");
        assert_eq!(leader(&view), Some((2, 4)));
        assert_eq!(view.nodes().len(), 3, "nodes do");
        assert!(view.learn(answer(5, &[1, 2, 3], Some(3), 4)), "whom to ask while none leads");
        assert_eq!(leader(&view), Some((3, 4)));
    }

    #[test]
    fn who_is_named_without_a_term_is_asked_when_the_leader_fails() {
        let mut view = ClusterView::default();
        view.learn(answer(5, &[1, 2, 3], Some(1), 3));
        assert!(view.learn(answer(5, &[1, 2, 3], Some(2), 0)));
        let target = |view: &ClusterView, failed: Option<u64>| {
            view.partition("t", 0).unwrap().target(view, failed.map(NodeId)).unwrap().0
        };
        assert_eq!((leader(&view), target(&view, None)), (Some((1, 3)), 1));
        assert_eq!((target(&view, Some(1)), target(&view, Some(2))), (2, 1));
        view.suspects.insert(NodeId(1));
        assert_eq!(target(&view, None), 2);
        view.learn(answer(5, &[1, 2, 3], Some(3), 4));
        assert_eq!((target(&view, None), target(&view, Some(3))), (3, 3));
    }

    #[test]
    fn nodes_and_addresses_are_of_the_highest_epoch() {
        let mut view = ClusterView::default();
        view.learn(answer(7, &[1, 2], Some(1), 1));
        view.learn(answer(6, &[1], Some(1), 1));
        assert_eq!(view.address(NodeId(2)), Some("node2:7"));
        view.learn(answer(8, &[1], Some(1), 1));
        assert_eq!(view.address(NodeId(2)), None);
    }

    #[test]
    fn a_topic_that_was_created_anew_begins_its_terms_anew() {
        let mut view = ClusterView::default();
        view.learn(answer(7, &[1, 2], Some(1), 9));
        let mut anew = answer(8, &[1, 2], Some(2), 1);
        anew.topics[0].topic_id = 2;
        view.learn(anew);
        assert_eq!(leader(&view), Some((2, 1)));
        view.learn(answer(7, &[1, 2], Some(1), 9));
        assert_eq!(leader(&view), Some((2, 1)), "an answer about the old one comes late");
    }

    #[test]
    fn a_topic_that_was_deleted_is_not_brought_back_by_who_has_not_heard_of_it() {
        let mut view = ClusterView::default();
        view.learn(answer(7, &[1, 2], Some(1), 9));
        let gone = MetadataResponse {
            topics: Vec::new(),
            unknown: vec!["t".parse().unwrap()],
            ..answer(8, &[1, 2], None, 0)
        };
        assert!(view.learn(gone));
        assert!(!view.learn(answer(7, &[1, 2], Some(1), 9)), "this node is behind");
        assert_eq!(leader(&view), None);
        let mut anew = answer(9, &[1, 2], Some(2), 1);
        anew.topics[0].topic_id = 2;
        assert!(view.learn(anew));
        assert_eq!(leader(&view), Some((2, 1)));
    }

    #[test]
    fn a_suspect_is_trusted_when_it_answers_and_forgotten_when_it_leaves() {
        let cluster = Cluster::new();
        cluster.learn(answer(1, &[1, 2], Some(1), 1));
        let mut changes = cluster.changes();
        cluster.suspect(NodeId(1));
        assert!(changes.has_changed().unwrap());
        assert!(changes.borrow_and_update().is_suspect(NodeId(1)));
        cluster.greeted(NodeId(1), "c");
        assert!(!cluster.view().is_suspect(NodeId(1)));
        cluster.suspect(NodeId(2));
        cluster.learn(answer(2, &[1], Some(1), 1));
        assert!(!cluster.view().is_suspect(NodeId(2)));
    }

    #[test]
    fn another_cluster_is_learned_from_nothing() {
        let cluster = Cluster::new();
        cluster.learn(answer(9, &[1, 2], Some(1), 5));
        cluster.greeted(NodeId(1), "d");
        let view = cluster.view();
        assert_eq!((view.epoch(), view.nodes().len(), leader(&view)), (0, 0, None));
    }
}

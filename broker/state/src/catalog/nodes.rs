//! The nodes of the cluster, and the commands that change them.

use std::fmt;
use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use plimsoll_placement::{WEIGHT_MAX, Weight};
use plimsoll_protocol::api::NodeState;
use plimsoll_protocol::ids::{GroupId, NodeId};
use plimsoll_protocol::wire::{Decode, DecodeError, Encode, Reader};

use super::refusal::CatalogRefusal;
use super::replicas::{ReplicaSet, Shared};
use super::{Catalog, CatalogReply};

/// Most nodes of a cluster at a time: each keeps a link to each other. Part of the fold.
pub const MEMBERS_MAX: usize = 255;
/// Most nodes that a cluster ever had: the removed ones are remembered. Part of the fold.
pub const NODES_EVER_MAX: usize = 10_000;
/// Longest address, in bytes: a host name, a colon and a port.
const ADDRESS_BYTES_MAX: usize = 261;
/// Longest rack and version, in bytes.
const NAME_BYTES_MAX: usize = 64;

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeSpec {
    /// Host and port where nodes and clients reach it.
    pub address: String,
    /// What it shares with the nodes that fail with it.
    pub rack: Option<String>,
    /// How much it takes, in hundredths of an ordinary node: 1 to 1000.
    pub weight_hundredths: u32,
    /// Its version, for people.
    pub version: String,
}

impl NodeSpec {
    /// Bounds are part of the fold: every replica refuses at the same ones.
    fn check(&self) -> Result<(), CatalogRefusal> {
        let invalid = |rule: String| Err(CatalogRefusal::InvalidNode { rule });
        let address = self.address.len();
        if address == 0 || address > ADDRESS_BYTES_MAX {
            return invalid(format!(
                "an address has 1 to {ADDRESS_BYTES_MAX} bytes, not {address}"
            ));
        }
        for (what, text) in [("rack", self.rack.as_deref()), ("version", Some(&*self.version))] {
            let bytes = text.map_or(0, str::len);
            if bytes > NAME_BYTES_MAX || text.is_some_and(|text| text.is_empty()) {
                return invalid(format!("a {what} has 1 to {NAME_BYTES_MAX} bytes, not {bytes}"));
            }
        }
        if let Err(error) = Weight::new(self.weight_hundredths) {
            return invalid(error.to_string());
        }
        Ok(())
    }
}

const _: () = assert!(WEIGHT_MAX == 1000, "the fold refuses at the same weight in every build");

impl Encode for NodeSpec {
    fn encode(&self, out: &mut BytesMut) {
        self.address.encode(out);
        self.rack.encode(out);
        self.weight_hundredths.encode(out);
        self.version.encode(out);
    }
}

impl Decode for NodeSpec {
    const BYTES_MIN: usize = 2 + 1 + 4 + 2;

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            address: Decode::decode(reader)?,
            rack: Decode::decode(reader)?,
            weight_hundredths: Decode::decode(reader)?,
            version: Decode::decode(reader)?,
        })
    }
}

/// What the catalog knows of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeMeta {
    /// What it says of itself. The address is empty once another node was found to live there; a
    /// removed node keeps only its weight.
    pub spec: NodeSpec,
    /// Between joining and leaving. Removed ones stay here, so that their ids are never used again.
    pub state: NodeState,
    /// What it called itself before it had an id: joining again under it gives the same id.
    pub join_id: u128,
    /// When it was added, unix ms.
    pub joined_ms: i64,
}

impl NodeMeta {
    /// Whether it is of the cluster.
    #[must_use]
    pub fn is_member(&self) -> bool {
        self.state != NodeState::Removed
    }
}

/// What a new node shows to be let in. Not printed.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct JoinSecret(pub [u8; 32]);

impl fmt::Debug for JoinSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinSecret(..)")
    }
}

impl Encode for JoinSecret {
    fn encode(&self, out: &mut BytesMut) {
        out.put_slice(&self.0);
    }
}

impl Decode for JoinSecret {
    const BYTES_MIN: usize = 32;

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut secret = [0; 32];
        secret.copy_from_slice(reader.take(32)?);
        Ok(Self(secret))
    }
}

impl Catalog {
    /// The node of this id, a removed one too.
    #[must_use]
    pub fn node(&self, id: NodeId) -> Option<&Arc<NodeMeta>> {
        self.nodes.get(&id)
    }

    /// All nodes that ever were, by id.
    pub fn nodes(&self) -> impl Iterator<Item = (NodeId, &Arc<NodeMeta>)> {
        self.nodes.iter().map(|(&id, node)| (id, node))
    }

    /// The nodes of the cluster, by id: those that were not removed.
    pub fn members(&self) -> impl Iterator<Item = (NodeId, &Arc<NodeMeta>)> {
        self.nodes().filter(|(_, node)| node.is_member())
    }

    /// How many nodes are in a state.
    #[must_use]
    pub fn count(&self, state: NodeState) -> u32 {
        let count = self.nodes().filter(|(_, node)| node.state == state).count();
        u32::try_from(count).expect("bounded by NODES_EVER_MAX")
    }

    /// The first node sets the catalog up: it becomes a member, everything that is there is on it.
    pub(super) fn set_up(
        &mut self,
        node: NodeId,
        spec: NodeSpec,
        join_secret: JoinSecret,
        joined_ms: i64,
    ) -> Result<CatalogReply, CatalogRefusal> {
        if !self.nodes.is_empty() {
            return match self.nodes.get(&node) {
                Some(known) if known.is_member() => Ok(CatalogReply::Node { node, existed: true }),
                Some(_) => Err(CatalogRefusal::NodeRemoved { node }),
                None => Err(CatalogRefusal::SetUpAlready { node }),
            };
        }
        spec.check()?;
        let Some(next_node_id) = node.0.checked_add(1) else {
            return Err(CatalogRefusal::InvalidNode { rule: "its id is not the largest".into() });
        };
        self.next_node_id = next_node_id;
        self.join_secret = join_secret;
        // It never falls: what stands in the catalog may need the level it has.
        self.level = self.level.max(1);
        let meta = NodeMeta { spec, state: NodeState::Active, join_id: 0, joined_ms };
        Arc::make_mut(&mut self.nodes).insert(node, Arc::new(meta));
        let here = Shared::default().one(vec![node]);
        self.metadata = ReplicaSet { wanted: Arc::clone(&here), birth: None };
        for topic in Arc::make_mut(&mut self.topics).values_mut() {
            let topic = Arc::make_mut(topic);
            topic.placement.fill(ReplicaSet::newborn(Arc::clone(&here)));
        }
        self.nodes_changed();
        Ok(CatalogReply::Node { node, existed: false })
    }

    pub(super) fn add_node(
        &mut self,
        join_id: u128,
        spec: NodeSpec,
        takes_address: bool,
        joined_ms: i64,
    ) -> Result<CatalogReply, CatalogRefusal> {
        if self.nodes.is_empty() {
            return Err(CatalogRefusal::NotSetUp);
        }
        // 0 is that of the first node, which never joined.
        let known = self.nodes().find(|(_, node)| join_id != 0 && node.join_id == join_id);
        if let Some((node, meta)) = known {
            return match meta.is_member() {
                true => Ok(CatalogReply::Node { node, existed: true }),
                false => Err(CatalogRefusal::NodeRemoved { node }),
            };
        }
        spec.check()?;
        if self.members().count() >= MEMBERS_MAX {
            return Err(CatalogRefusal::TooManyNodes);
        }
        if self.nodes.len() >= NODES_EVER_MAX || self.next_node_id == u64::MAX {
            return Err(CatalogRefusal::NodeIdsUsedUp);
        }
        if let Some(node) = self.at_address(&spec.address) {
            if !takes_address {
                return Err(CatalogRefusal::AddressTaken { address: spec.address, node });
            }
            self.change_node(node, |other| other.spec.address.clear());
        }
        let node = NodeId(self.next_node_id);
        self.next_node_id += 1;
        let meta = NodeMeta { spec, state: NodeState::Joining, join_id, joined_ms };
        Arc::make_mut(&mut self.nodes).insert(node, Arc::new(meta));
        self.nodes_changed();
        Ok(CatalogReply::Node { node, existed: false })
    }

    pub(super) fn activate_node(&mut self, node: NodeId) -> Result<CatalogReply, CatalogRefusal> {
        if self.member(node)?.state == NodeState::Joining {
            self.change_node(node, |meta| meta.state = NodeState::Active);
            self.nodes_changed();
        }
        Ok(CatalogReply::Done)
    }

    /// A node tells what it is now. It lives at its address: another that had it has none any more.
    pub(super) fn update_node(
        &mut self,
        node: NodeId,
        spec: NodeSpec,
    ) -> Result<CatalogReply, CatalogRefusal> {
        let before = self.member(node)?.spec.clone();
        spec.check()?;
        if before == spec {
            return Ok(CatalogReply::Done);
        }
        if let Some(other) = self.at_address(&spec.address).filter(|other| *other != node) {
            self.change_node(other, |other| other.spec.address.clear());
        }
        let placed_alike =
            before.rack == spec.rack && before.weight_hundredths == spec.weight_hundredths;
        self.change_node(node, |meta| meta.spec = spec);
        if placed_alike {
            self.epoch += 1;
        } else {
            self.nodes_changed();
        }
        Ok(CatalogReply::Done)
    }

    pub(super) fn drain_node(
        &mut self,
        node: NodeId,
        on: bool,
    ) -> Result<CatalogReply, CatalogRefusal> {
        let state = self.member(node)?.state;
        let (from, to) = match on {
            true => (NodeState::Active, NodeState::Draining),
            false => (NodeState::Draining, NodeState::Active),
        };
        if state == to {
            return Ok(CatalogReply::Done);
        }
        if state != from {
            return Err(CatalogRefusal::NodeNotActive { node, state });
        }
        if on {
            let active = self.count(NodeState::Active) - 1;
            let draining = self.count(NodeState::Draining) + 1;
            let most = self.topics().map(|(_, topic)| topic.replicas).max().unwrap_or(0);
            let asked = most.max(1);
            if u32::from(asked) > active {
                return Err(CatalogRefusal::NotEnoughNodes { asked, active, draining });
            }
        }
        self.change_node(node, |meta| meta.state = to);
        self.nodes_changed();
        Ok(CatalogReply::Done)
    }

    /// Whether the others go on without the node is known to the proposer only.
    pub(super) fn remove_node(
        &mut self,
        node: NodeId,
        force: bool,
    ) -> Result<CatalogReply, CatalogRefusal> {
        match self.nodes.get(&node) {
            None => return Err(CatalogRefusal::UnknownNode { node }),
            Some(meta) if !meta.is_member() => return Ok(CatalogReply::Done),
            Some(_) => {}
        }
        let active_others =
            self.members().filter(|(id, other)| *id != node && other.state == NodeState::Active);
        if active_others.count() == 0 {
            return Err(CatalogRefusal::LastNode { node });
        }
        let partitions = self.held_by(node, !force);
        if partitions > 0 {
            return Err(CatalogRefusal::NodeInUse { node, partitions });
        }
        self.change_node(node, |meta| {
            meta.state = NodeState::Removed;
            meta.spec.address.clear();
            meta.spec.rack = None;
            meta.spec.version.clear();
        });
        self.nodes_changed();
        Ok(CatalogReply::Done)
    }

    /// How many groups belong on the node, the catalog's own among them; with `births` also those
    /// that may have to be born on it.
    fn held_by(&self, node: NodeId, births: bool) -> u32 {
        let born_there = |set: &ReplicaSet| set.birth.as_ref().is_some_and(|b| b.contains(&node));
        let held = |set: &&ReplicaSet| set.wants(node) || (births && born_there(set));
        let sets = self.topics().flat_map(|(_, topic)| &topic.placement);
        let count = sets.chain([&self.metadata]).filter(held).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// The groups that belong on the node, by id; not the catalog's own.
    #[must_use]
    pub fn groups_of(&self, node: NodeId) -> Vec<GroupId> {
        let mut groups: Vec<GroupId> =
            self.placements().filter(|(_, set)| set.wants(node)).map(|(group, _)| group).collect();
        groups.sort_unstable();
        groups
    }

    /// The member with this address.
    fn at_address(&self, address: &str) -> Option<NodeId> {
        self.members().find(|(_, meta)| meta.spec.address == address).map(|(id, _)| id)
    }

    /// A node that is of the cluster.
    pub(super) fn member(&self, node: NodeId) -> Result<&NodeMeta, CatalogRefusal> {
        match self.nodes.get(&node) {
            Some(meta) if meta.is_member() => Ok(meta),
            Some(_) => Err(CatalogRefusal::NodeRemoved { node }),
            None => Err(CatalogRefusal::UnknownNode { node }),
        }
    }

    fn change_node(&mut self, node: NodeId, change: impl FnOnce(&mut NodeMeta)) {
        let nodes = Arc::make_mut(&mut self.nodes);
        let meta = nodes.get_mut(&node).expect("the caller has just seen the node");
        change(Arc::make_mut(meta));
    }

    /// Placements that were computed before are void.
    fn nodes_changed(&mut self) {
        self.epoch += 1;
        self.placement_epoch += 1;
    }
}

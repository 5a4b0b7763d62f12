//! Where the replicas of a partition belong, and where they were born.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::BytesMut;
use plimsoll_protocol::ids::NodeId;
use plimsoll_protocol::wire::{Decode, DecodeError, Encode, Reader};

/// Nodes that hold a partition, the preferred leader first. Equal lists may share one allocation.
///
/// Invariant: no node twice.
pub type Replicas = Arc<[NodeId]>;

/// Most replicas of one partition. Part of the fold.
pub const REPLICAS_MAX: u16 = 9;

/// Where a partition's replicas belong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaSet {
    /// Where they belong now; empty as long as the catalog knows no node.
    pub wanted: Replicas,
    /// The first members: a node in this list that holds nothing of the group yet writes the group's
    /// first entry, which makes exactly these its voters. `None`: sealed. The group exists on a
    /// majority, and whoever has nothing of it waits to be fed.
    pub birth: Option<Replicas>,
}

impl ReplicaSet {
    /// Of a partition that was made before the catalog knew a node.
    pub(super) fn unplaced() -> Self {
        Self { wanted: Arc::from([]), birth: None }
    }

    /// Of a partition that is to be born on these nodes.
    pub(super) fn newborn(replicas: Replicas) -> Self {
        Self { birth: Some(Arc::clone(&replicas)), wanted: replicas }
    }

    /// Whether the partition belongs on the node.
    #[must_use]
    pub fn wants(&self, node: NodeId) -> bool {
        self.wanted.contains(&node)
    }
}

/// Places that the proposer has computed for new partitions, and what it knew then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProposedPlacement {
    /// [`super::Catalog::placement_epoch`] when it was computed.
    pub base: u64,
    /// The nodes of each new partition, in order, the preferred leader first.
    pub replicas: Vec<Replicas>,
}

impl Encode for ProposedPlacement {
    fn encode(&self, out: &mut BytesMut) {
        self.base.encode(out);
        put_count(self.replicas.len(), out);
        for replicas in &self.replicas {
            put_replicas(replicas, out);
        }
    }
}

impl Decode for ProposedPlacement {
    const BYTES_MIN: usize = 8 + 4;

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let base = u64::decode(reader)?;
        let mut shared = Shared::default();
        let lists: Vec<Vec<NodeId>> = Vec::decode(reader)?;
        Ok(Self { base, replicas: lists.into_iter().map(|list| shared.one(list)).collect() })
    }
}

pub(super) fn put_count(count: usize, out: &mut BytesMut) {
    u32::try_from(count).expect("lists of the catalog are bounded").encode(out);
}

pub(super) fn put_replicas(replicas: &[NodeId], out: &mut BytesMut) {
    put_count(replicas.len(), out);
    for node in replicas {
        node.encode(out);
    }
}

/// Gives equal lists one allocation.
#[derive(Debug, Default)]
pub(super) struct Shared(BTreeSet<Replicas>);

impl Shared {
    pub(super) fn one(&mut self, list: Vec<NodeId>) -> Replicas {
        match self.0.get(list.as_slice()) {
            Some(shared) => Arc::clone(shared),
            None => {
                let list: Replicas = list.into();
                self.0.insert(Arc::clone(&list));
                list
            }
        }
    }
}

/// Whether no node is in the list twice.
pub(super) fn distinct(list: &[NodeId]) -> bool {
    (1..list.len()).all(|at| !list[..at].contains(&list[at]))
}

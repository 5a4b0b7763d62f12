//! Batches that a node itself stores, here or where the partition is led.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use plimsoll_log::GroupOptions;
use plimsoll_peers::PeerError;
use plimsoll_protocol::batch::{BatchLimits, validate_produced};
use plimsoll_protocol::ids::{GroupId, NodeId, Offset};
use plimsoll_protocol::peer::{BatchStored, PeerFailure, PeerFailureCode, StoreBatch};
use tokio::time::timeout;

use crate::error::{NoQuorum, NotLeader, ProduceError};
use crate::fold::GroupKind;
use crate::group::Group;
use crate::host::Host;
use crate::incoming::failure;

/// How long another node may take to store one.
const STORE_TIMEOUT: Duration = Duration::from_secs(10);

impl Host {
    /// Stores a batch in a partition, here or on the node that leads it. Sent again after an unknown
    /// outcome it may be stored twice, unless it has a producer.
    ///
    /// # Errors
    /// Where it was not stored, or that is not known.
    pub async fn store_batch(
        &self,
        id: GroupId,
        options: GroupOptions,
        batch: Bytes,
    ) -> Result<Offset, ProduceError> {
        let me = self.node();
        let elsewhere = self.leader_hint(id).map(|(node, _)| node).filter(|node| *node != me);
        let leader =
            match elsewhere {
                Some(leader) => leader,
                None => {
                    let group = self.group(id, GroupKind::Partition, options).await?;
                    match store_here(&group, batch.clone()).await {
                        Err(ProduceError::NotLeader(NotLeader {
                            leader: Some(leader), ..
                        })) if leader != me => leader,
                        outcome => return outcome,
                    }
                }
            };
        self.store_at(leader, id, batch).await
    }

    async fn store_at(
        &self,
        leader: NodeId,
        group: GroupId,
        batch: Bytes,
    ) -> Result<Offset, ProduceError> {
        let unreached = || NotLeader { leader: Some(leader), address: None }.into();
        let Some(peers) = self.around().neighbours.peers() else { return Err(unreached()) };
        match timeout(STORE_TIMEOUT, peers.request(leader, StoreBatch { group, batch })).await {
            Ok(Ok(BatchStored { base_offset })) => Ok(base_offset),
            Ok(Err(PeerError::Failed { failure, .. })) => Err(match failure.code {
                PeerFailureCode::NotLeader => {
                    NotLeader { leader: failure.leader, address: None }.into()
                }
                PeerFailureCode::NoQuorum => NoQuorum { group }.into(),
                PeerFailureCode::NotHere | PeerFailureCode::Stopping | PeerFailureCode::Busy => {
                    NotLeader { leader: None, address: None }.into()
                }
                _ => ProduceError::Unknown,
            }),
            Ok(Err(PeerError::Unreachable { .. } | PeerError::Full { .. })) => Err(unreached()),
            // The request may have got there.
            Ok(Err(_)) | Err(_) => Err(ProduceError::Unknown),
        }
    }

    /// Stores what another node sends.
    pub(crate) async fn store_for(&self, request: StoreBatch) -> Result<BatchStored, PeerFailure> {
        let group = self.for_peer(request.group).map_err(|error| failure(&error))?;
        if group.kind() != GroupKind::Partition {
            let message = format!("group {} takes no batches", request.group);
            return Err(PeerFailure::new(PeerFailureCode::Malformed, message));
        }
        let stored = store_here(&group, request.batch).await;
        stored.map(|base_offset| BatchStored { base_offset }).map_err(|error| {
            let code = match &error {
                ProduceError::NotLeader(_) => PeerFailureCode::NotLeader,
                ProduceError::NoQuorum(_) => PeerFailureCode::NoQuorum,
                ProduceError::Unknown => PeerFailureCode::Timeout,
                ProduceError::Group(error) => return failure(error),
                _ => PeerFailureCode::Malformed,
            };
            let leader = match &error {
                ProduceError::NotLeader(error) => error.leader,
                _ => None,
            };
            PeerFailure { code, leader, message: error.to_string() }
        })
    }

    /// Whether the partition's state has the queue's own account of what is settled. May block.
    #[must_use]
    pub fn is_queue_open(&self, id: GroupId) -> bool {
        let is_open = |queues: &plimsoll_delivery::state::Queues| {
            queues.get(plimsoll_delivery::command::SubscriptionId::QUEUE).is_some()
        };
        if let Some(is_open) = self.held(id).and_then(|group| group.with_queues(is_open)) {
            return is_open;
        }
        let fold = self.stored_fold(id).ok().flatten();
        fold.as_ref().and_then(|fold| fold.queues()).is_some_and(is_open)
    }

    /// Messages of a partition's queues that are not settled; of a group that is held here, or by the state
    /// that lies with its log. May block.
    ///
    /// # Errors
    /// When the stored state cannot be read.
    pub fn unsettled(&self, id: GroupId) -> Result<u64, crate::error::OpenGroupError> {
        let count = |queues: &plimsoll_delivery::state::Queues| {
            queues.iter().map(|(_, queue)| queue.unsettled()).sum()
        };
        if let Some(unsettled) = self.held(id).and_then(|group| group.with_queues(count)) {
            return Ok(unsettled);
        }
        Ok(self.stored_fold(id)?.as_ref().and_then(|fold| fold.queues()).map_or(0, count))
    }
}

/// Limits of the format itself: what a node sends was checked where it came from.
fn limits() -> BatchLimits {
    BatchLimits {
        batch_bytes_max: u32::MAX,
        headers_per_record_max: u32::MAX,
        ..BatchLimits::default()
    }
}

async fn store_here(group: &Arc<Group>, batch: Bytes) -> Result<Offset, ProduceError> {
    let header = match validate_produced(&batch, &limits()) {
        Ok(header) => header,
        Err(error) => {
            tracing::error!(group = %group.id(), %error, "a batch of a node's own is damaged");
            return Err(ProduceError::Unknown);
        }
    };
    Ok(group.produce(batch, header).await?.await?.base_offset)
}

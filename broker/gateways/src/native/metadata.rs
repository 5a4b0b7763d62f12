//! The cluster as clients see it: nodes, and which of them to ask for a partition.

use std::sync::Arc;
use std::time::Duration;

use plimsoll_protocol::api::{
    MetadataRequest, MetadataResponse, NodeInfo, PartitionMetadata, TopicMetadata,
    WatchMetadataRequest, WatchMetadataResponse,
};
use plimsoll_protocol::error::ErrorResponse;
use plimsoll_protocol::ids::{GroupId, PartitionIndex, Term, TopicName};
use plimsoll_state::catalog::{Catalog, TopicMeta};
use tokio::time::timeout;

use super::session::Session;
use super::stream::{Answer, done};
use crate::broker::Broker;
use crate::refusals;

/// How long a watcher waits at most.
const WATCH_MAX: Duration = Duration::from_secs(30);
/// What an answer holds at most, besides the nodes; less where frames are small.
const ANSWER_BYTES_MAX: usize = 256 << 10;
/// No partition takes more besides its replicas.
const PARTITION_BYTES: usize = 48;
const REPLICA_BYTES: usize = 8;

/// Shows nodes, and partitions of some topics.
pub(super) async fn metadata(
    session: Arc<Session>,
    request: MetadataRequest,
) -> Result<Answer<MetadataRequest>, ErrorResponse> {
    let broker = &session.broker;
    let mut catalog = broker.catalog();
    // What the copy here does not have may have been created a moment ago.
    let mut is_new = true;
    if request.topics.iter().any(|name| catalog.topic(name).is_none()) {
        is_new = broker.catch_up().await;
        catalog = broker.catalog();
    }
    let mut doubtful = None;
    let mut room = ANSWER_BYTES_MAX.min(broker.limits().frame_bytes_max as usize / 4);
    let (mut topics, mut unknown) = (Vec::new(), Vec::new());
    let mut first = request.first_partition;
    for name in request.topics {
        let Some(meta) = catalog.topic(&name) else {
            match is_new {
                true => unknown.push(name),
                // The others are told all the same.
                false => doubtful = Some(refusals::catching_up(&name)),
            }
            continue;
        };
        if room == 0 {
            break;
        }
        topics.push(topic(broker, name, meta, first, &mut room));
        first = PartitionIndex(0);
    }
    if let Some(refusal) = doubtful
        && topics.is_empty()
    {
        return Err(refusal);
    }
    done(MetadataResponse {
        cluster_id: broker.identity().cluster_id.clone(),
        epoch: catalog.epoch(),
        controller: broker.host().leader(GroupId::CATALOG).map(|(node, _)| node),
        nodes: nodes(&catalog),
        topics,
        unknown,
    })
}

fn nodes(catalog: &Catalog) -> Vec<NodeInfo> {
    let members = catalog.members();
    members
        .map(|(node, meta)| NodeInfo {
            node,
            address: meta.spec.address.clone(),
            rack: meta.spec.rack.clone(),
            state: meta.state,
        })
        .collect()
}

/// As many partitions of a topic from `first` on as there is room for, one at least.
fn topic(
    broker: &Broker,
    name: TopicName,
    meta: &TopicMeta,
    first: PartitionIndex,
    room: &mut usize,
) -> TopicMetadata {
    let mut partitions = Vec::new();
    let placed = (0..).map(PartitionIndex).zip(meta.partitions.iter().zip(&meta.placement));
    for (partition, (&group_id, replicas)) in placed.skip(first.0 as usize) {
        let bytes = PARTITION_BYTES + REPLICA_BYTES * replicas.wanted.len();
        if bytes > *room && !partitions.is_empty() {
            *room = 0;
            break;
        }
        *room = room.saturating_sub(bytes);
        let hint = broker.host().leader_hint(group_id);
        partitions.push(PartitionMetadata {
            partition,
            group_id,
            leader: hint.map(|(node, _)| node),
            term: hint.and_then(|(_, term)| term).unwrap_or(Term(0)),
            replicas: replicas.wanted.to_vec(),
        });
    }
    let partitions_total = u32::try_from(meta.partitions.len()).unwrap_or(u32::MAX);
    TopicMetadata { topic: name, topic_id: meta.topic_id, partitions_total, partitions }
}

/// Waits until the catalog's epoch is above the one that the client has seen.
pub(super) async fn watch(
    session: Arc<Session>,
    request: WatchMetadataRequest,
) -> Result<Answer<WatchMetadataRequest>, ErrorResponse> {
    let mut catalog = session.broker.catalog_changes();
    let mut stopping = session.broker.stopping();
    let newer = timeout(WATCH_MAX, catalog.wait_for(|catalog| catalog.epoch() > request.epoch));
    let newer = async { drop(newer.await) };
    tokio::select! {
        biased;
        () = newer => {}
        () = stopping.wait() => {}
    }
    let epoch = session.broker.catalog().epoch();
    done(WatchMetadataResponse { epoch })
}

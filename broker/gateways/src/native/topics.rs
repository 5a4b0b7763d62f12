//! Requests about topics: listing, showing, creating, changing, deleting.

use std::sync::Arc;

use plimsoll_protocol::api::{
    AlterTopicRequest, CreateTopicRequest, DeleteTopicRequest, DescribeTopicRequest,
    DescribeTopicResponse, Done, ListTopicsRequest, ListTopicsResponse, TopicConfig, TopicInfo,
};
use plimsoll_protocol::error::{ErrorCode, ErrorResponse};
use plimsoll_protocol::ids::{PartitionIndex, TopicName};
use plimsoll_state::catalog::{
    Catalog, CatalogCommand, CatalogReply, ConfigPatch, TopicMeta, planning,
};

use super::session::Session;
use super::stream::{Answer, done};
use crate::broker::{Broker, group_options};
use crate::refusals;

fn info(name: &TopicName, meta: &TopicMeta) -> TopicInfo {
    TopicInfo {
        name: name.clone(),
        topic_id: meta.topic_id,
        partitions: u32::try_from(meta.partitions.len()).unwrap_or(u32::MAX),
        replicas: replicas_now(meta),
        config: meta.config.clone(),
        created_ms: meta.created_ms,
    }
}

/// How many replicas each partition has, which is fewer than it asks for as long as there are too few nodes.
pub(super) fn replicas_now(meta: &TopicMeta) -> u16 {
    let placed = meta.placement.first().map_or(0, |set| set.wanted.len());
    match u16::try_from(placed) {
        Ok(0) | Err(_) => meta.replicas,
        Ok(placed) => placed,
    }
}

/// What an answer in pages holds at most, besides its head; less where frames are small.
const PAGE_BYTES_MAX: u32 = 256 << 10;
/// No [`TopicInfo`] takes more.
const TOPIC_INFO_BYTES_MAX: u32 = 400;
/// No [`PartitionInfo`] takes more.
const PARTITION_INFO_BYTES_MAX: u32 = 224;

/// How many items of at most `bytes_max` each one page may hold.
fn page(session: &Session, bytes_max: u32) -> usize {
    let room = PAGE_BYTES_MAX.min(session.broker.limits().frame_bytes_max / 4);
    (room / bytes_max).max(1) as usize
}

/// Lists topics, a page.
pub(super) async fn list(
    session: Arc<Session>,
    request: ListTopicsRequest,
) -> Result<Answer<ListTopicsRequest>, ErrorResponse> {
    let catalog = session.broker.catalog();
    let prefix = request.prefix.unwrap_or_default();
    let mut found = catalog.topics_with_prefix(&prefix, request.after.as_ref());
    let page = found.by_ref().take(page(&session, TOPIC_INFO_BYTES_MAX));
    let topics = page.map(|(name, meta)| info(name, meta)).collect();
    done(ListTopicsResponse { topics, has_more: found.next().is_some() })
}

/// Shows a topic and a page of its partitions, without waking those that sleep.
pub(super) async fn describe(
    session: Arc<Session>,
    request: DescribeTopicRequest,
) -> Result<Answer<DescribeTopicRequest>, ErrorResponse> {
    let broker = &session.broker;
    let meta = broker.topic(&request.topic).await?;
    let first = request.first_partition.0 as usize;
    let wanted = page(&session, PARTITION_INFO_BYTES_MAX).min(request.partitions_max as usize);
    let numbered = (0..).map(PartitionIndex).zip(meta.partitions.iter().copied());
    let partitions = broker.partition_infos(numbered.skip(first).take(wanted)).await;
    done(DescribeTopicResponse { topic: info(&request.topic, &meta), partitions })
}

/// Creates a topic.
pub(super) async fn create(
    session: Arc<Session>,
    request: CreateTopicRequest,
) -> Result<Answer<CreateTopicRequest>, ErrorResponse> {
    let broker = &session.broker;
    check_new(broker, &request.topic, &request.config, request.partitions)?;
    let name = request.topic.clone();
    let make = |catalog: &Catalog| {
        let partitions = request.partitions;
        let (replicas, placed) = planning::replica_counts(catalog, request.replicas);
        let down = broker.down_nodes(catalog);
        let placement =
            planning::place_unless_known(catalog, &request.topic, partitions, placed, &down)?;
        Ok(CatalogCommand::CreateTopic {
            topic: request.topic.clone(),
            partitions,
            replicas,
            config: request.config.clone(),
            if_not_exists: request.if_not_exists,
            placement,
        })
    };
    match broker.place(make).await? {
        CatalogReply::Created { topic, .. } => done(info(&name, &topic)),
        _ => Err(refusals::bug("the catalog answered the creation of a topic")),
    }
}

/// Changes a topic.
pub(super) async fn alter(
    session: Arc<Session>,
    request: AlterTopicRequest,
) -> Result<Answer<AlterTopicRequest>, ErrorResponse> {
    let broker = &session.broker;
    not_internal(&request.topic)?;
    let patch =
        ConfigPatch::from_changes(&request.changes).map_err(|error| refusals::config(&error))?;
    if let Some(partitions) = request.partitions {
        check_partitions(partitions, broker.limits().partitions_per_topic_max)?;
    }
    let name = request.topic.clone();
    let make = |catalog: &Catalog| {
        let placement = match request.partitions {
            Some(partitions) => Some(planning::extend_topic(catalog, &request.topic, partitions)?),
            None => None,
        };
        Ok(CatalogCommand::AlterTopic {
            topic: request.topic.clone(),
            partitions: request.partitions,
            patch: patch.clone(),
            placement,
        })
    };
    match broker.place(make).await? {
        CatalogReply::Altered(topic) => {
            for &group in &topic.partitions {
                // Groups that have no log yet get their options when they are first used.
                if broker.store().group(group).is_some() {
                    // An error says that it was deleted meanwhile.
                    let _ = broker.store().set_options(group, group_options(&topic.config));
                }
            }
            done(info(&name, &topic))
        }
        _ => Err(refusals::bug("the catalog answered the change of a topic")),
    }
}

/// Deletes a topic; its subscriptions are told, its files go.
pub(super) async fn delete(
    session: Arc<Session>,
    request: DeleteTopicRequest,
) -> Result<Answer<DeleteTopicRequest>, ErrorResponse> {
    not_internal(&request.topic)?;
    session.broker.delete_topic(request.topic).await?;
    done(Done {})
}

/// Checks what is asked for of a new topic.
pub(super) fn check_new(
    broker: &Broker,
    topic: &TopicName,
    config: &TopicConfig,
    partitions: u32,
) -> Result<(), ErrorResponse> {
    let limits = broker.limits();
    not_internal(topic)?;
    config.validate().map_err(|error| refusals::config(&error))?;
    check_partitions(partitions, limits.partitions_per_topic_max)?;
    let catalog = broker.catalog();
    if catalog.len() >= limits.topics_max && catalog.topic(topic).is_none() {
        return Err(ErrorResponse::new(
            ErrorCode::TooManyPartitions,
            format!(
                "there are {} topics already: delete one, or raise `topics_max` of the node",
                catalog.len()
            ),
        ));
    }
    Ok(())
}

/// Topics of the node's own are made, changed and deleted by it.
fn not_internal(topic: &TopicName) -> Result<(), ErrorResponse> {
    if topic.is_internal() {
        return Err(ErrorResponse::new(
            ErrorCode::InvalidTopicName,
            format!("{topic}: names that begin with `__` are the node's own; choose another"),
        ));
    }
    Ok(())
}

fn check_partitions(asked: u32, limit: u32) -> Result<(), ErrorResponse> {
    if asked > limit {
        return Err(ErrorResponse::new(
            ErrorCode::TooManyPartitions,
            format!(
                "{asked} partitions, a topic may have {limit}: ask for fewer, or raise \
                 `partitions_per_topic_max` of the node"
            ),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use plimsoll_protocol::api::{
        Cleanup, CompactionInfo, Durability, PartitionCondition, PartitionInfo, TopicConfig,
        TopicRules,
    };
    use plimsoll_protocol::ids::{GroupId, NodeId, Offset, Term};
    use plimsoll_protocol::wire::Encode;

    use super::*;

    fn encoded_bytes(item: &impl Encode) -> usize {
        let mut bytes = bytes::BytesMut::new();
        item.encode(&mut bytes);
        bytes.len()
    }

    #[test]
    fn the_largest_items_of_a_page_are_as_large_as_is_reckoned_with() {
        let topic = TopicInfo {
            name: TopicName::new(&"x".repeat(255)).unwrap(),
            topic_id: u64::MAX,
            partitions: u32::MAX,
            replicas: u16::MAX,
            config: TopicConfig {
                durability: Durability::Memory,
                retention_ms: Some(u64::MAX),
                retention_bytes: Some(u64::MAX),
                segment_bytes: u32::MAX,
                batch_bytes_max: u32::MAX,
                rules: TopicRules {
                    cleanup: Cleanup::CompactAndDelete,
                    compaction_lag_ms: u64::MAX,
                    tombstone_ms: u64::MAX,
                    require_fence: true,
                },
            },
            created_ms: i64::MAX,
        };
        assert!(encoded_bytes(&topic) <= TOPIC_INFO_BYTES_MAX as usize);
        let partition = PartitionInfo {
            partition: PartitionIndex(u32::MAX),
            group_id: GroupId(u64::MAX),
            leader: Some(NodeId(u64::MAX)),
            term: Term(u64::MAX),
            log_start_offset: Offset(u64::MAX),
            high_watermark: Offset(u64::MAX),
            log_end_offset: Offset(u64::MAX),
            bytes: u64::MAX,
            segments: u32::MAX,
            condition: PartitionCondition::Quarantined,
            replicas: vec![NodeId(u64::MAX); 9],
            compaction: Some(CompactionInfo {
                compacted_to: Offset(u64::MAX),
                compacted_bytes: u64::MAX,
                waiting_bytes: u64::MAX,
                last_ms: Some(i64::MAX),
                last_bytes_before: u64::MAX,
                last_bytes_after: u64::MAX,
                running: true,
            }),
        };
        assert!(encoded_bytes(&partition) <= PARTITION_INFO_BYTES_MAX as usize);
    }
}

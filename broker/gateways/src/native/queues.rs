//! Requests about queues and subscriptions: creating, changing, listing, looking at them.

use std::sync::Arc;

use plimsoll_protocol::api::{
    CancelMessageRequest, CancelMessageResponse, CreateQueueRequest, DeleteSubscriptionRequest,
    DescribeQueueRequest, Done, ExplainMessageRequest, ListQueuesRequest, ListQueuesResponse,
    MessageExplanation, PeekQueueRequest, PeekQueueResponse, PurgeQueueRequest, PurgeQueueResponse,
    PutSubscriptionRequest, QueueConfigError, QueueInfo, QueueOverflow, QueueSettings, TopicConfig,
};
use plimsoll_protocol::error::{ErrorCode, ErrorResponse};
use plimsoll_protocol::ids::TopicName;
use plimsoll_state::catalog::{Catalog, CatalogCommand, CatalogReply, TopicMeta, planning};

use super::attach::{described, pieces};
use super::session::Session;
use super::stream::{Answer, done};
use super::topics::check_new;
use crate::broker::Broker;
use crate::queues::{QueueGone, QueueHandle, peek, subscription_of};
use crate::refusals;

/// What an answer in pages holds at most, besides its head; less where frames are small.
const PAGE_BYTES_MAX: usize = 256 << 10;
/// No [`QueueInfo`] takes more: a topic's name, a subscription's, a name for dead letters, numbers.
const QUEUE_INFO_BYTES_MAX: usize = 2048;
/// Messages that one look shows.
const PEEK_MAX: u32 = 1000;

fn info(topic: &TopicName, meta: &TopicMeta, subscription: &str) -> Option<QueueInfo> {
    Some(QueueInfo {
        topic: topic.clone(),
        subscription: subscription.to_owned(),
        partitions: u32::try_from(meta.partitions.len()).unwrap_or(u32::MAX),
        replicas: super::topics::replicas_now(meta),
        settings: meta.subscriptions.get(subscription)?.settings.clone(),
    })
}

fn invalid(error: &QueueConfigError) -> ErrorResponse {
    ErrorResponse::new(ErrorCode::InvalidConfig, error.to_string())
}

/// Creates a queue, and the one that its dead letters go to where there is no such topic.
pub(super) async fn create(
    session: Arc<Session>,
    request: CreateQueueRequest,
) -> Result<Answer<CreateQueueRequest>, ErrorResponse> {
    let broker = &session.broker;
    check_new(broker, &request.topic, &request.config, request.partitions)?;
    request.settings.validate().map_err(|error| invalid(&error))?;
    broker.raise_level().await?;
    if let Some(letters) = letters_topic(&request.settings)? {
        let (of, config) = (&request.topic, request.config.clone());
        make_letters(broker, letters, (of, request.replicas, config)).await?;
    }
    let topic = request.topic.clone();
    let meta = create_queue(broker, request).await?;
    done(info(&topic, &meta, "").ok_or_else(|| refusals::bug("a new queue is none"))?)
}

/// Where dead letters go must be a topic's name, and not the node's own.
fn letters_topic(settings: &QueueSettings) -> Result<Option<TopicName>, ErrorResponse> {
    let Some(name) = &settings.dead_letter else { return Ok(None) };
    TopicName::new(name).map(Some).map_err(|error| {
        let message = format!("dead letters go to a topic, and {name:?} names none: {error}");
        ErrorResponse::new(ErrorCode::InvalidTopicName, message)
    })
}

fn own_letters(topic: &TopicName) -> ErrorResponse {
    let message =
        format!("dead letters of {topic} cannot go to {topic} itself: name another topic");
    ErrorResponse::new(ErrorCode::InvalidConfig, message)
}

/// A queue for dead letters of the topic that is named, as safe as told: they stay until somebody takes them.
async fn make_letters(
    broker: &Arc<Broker>,
    topic: TopicName,
    (of, replicas, config): (&TopicName, u16, TopicConfig),
) -> Result<(), ErrorResponse> {
    if topic == *of {
        return Err(own_letters(&topic));
    }
    if broker.catalog().topic(&topic).is_some() {
        return Ok(());
    }
    let settings = QueueSettings { attempts_max: 0, ..QueueSettings::default() };
    let request = CreateQueueRequest {
        topic,
        partitions: 1,
        replicas,
        config,
        settings,
        if_not_exists: true,
    };
    match create_queue(broker, request).await {
        // A topic that is no queue takes dead letters as well.
        Err(error) if error.code == ErrorCode::TopicExists => Ok(()),
        made => made.map(drop),
    }
}

async fn create_queue(
    broker: &Broker,
    request: CreateQueueRequest,
) -> Result<Arc<TopicMeta>, ErrorResponse> {
    let make = |catalog: &Catalog| {
        let partitions = request.partitions;
        let (replicas, placed) = planning::replica_counts(catalog, request.replicas);
        let down = broker.down_nodes(catalog);
        let placement =
            planning::place_unless_known(catalog, &request.topic, partitions, placed, &down)?;
        Ok(CatalogCommand::CreateQueue {
            topic: request.topic.clone(),
            partitions,
            replicas,
            config: request.config.clone(),
            if_not_exists: request.if_not_exists,
            placement,
            settings: request.settings.clone(),
        })
    };
    match broker.place(make).await? {
        CatalogReply::Created { topic, .. } => Ok(topic),
        _ => Err(refusals::bug("the catalog answered the creation of a queue")),
    }
}

/// Makes or changes a subscription, or changes a queue.
pub(super) async fn put(
    session: Arc<Session>,
    request: PutSubscriptionRequest,
) -> Result<Answer<PutSubscriptionRequest>, ErrorResponse> {
    let broker = &session.broker;
    let PutSubscriptionRequest { topic, subscription: name, changes, create, from_latest } =
        request;
    let meta = broker.topic(&topic).await?;
    let mut settings = match subscription_of(&meta, &topic, &name) {
        Ok(known) => known.settings.clone(),
        Err(_) if create && !name.is_empty() => QueueSettings::default(),
        Err(unknown) => return Err(unknown),
    };
    for change in &changes {
        let set = settings.set(&change.key, change.value.as_deref());
        set.map_err(|error| invalid(&error))?;
    }
    settings.validate().map_err(|error| invalid(&error))?;
    if !name.is_empty()
        && settings.overflow == QueueOverflow::Reject
        && (settings.length_max.is_some() || settings.bytes_max.is_some())
    {
        // Whoever sends to the topic has nothing to do with its subscriptions.
        let message = "a subscription does not refuse what is sent to its topic: with length-max or \
                       bytes-max say overflow=drop-head";
        return Err(ErrorResponse::new(ErrorCode::InvalidConfig, message));
    }
    broker.raise_level().await?;
    if let Some(letters) = letters_topic(&settings)? {
        let config = TopicConfig { durability: meta.config.durability, ..TopicConfig::default() };
        make_letters(broker, letters, (&topic, 0, config)).await?;
    }
    let command = CatalogCommand::PutSubscription {
        topic: topic.clone(),
        name: name.clone(),
        settings,
        create,
        from_latest,
    };
    match broker.command(command).await? {
        CatalogReply::Altered(meta) => done(
            info(&topic, &meta, &name).ok_or_else(|| refusals::bug("a subscription is gone"))?,
        ),
        _ => Err(refusals::bug("the catalog answered the change of a subscription")),
    }
}

/// Ends a subscription.
pub(super) async fn delete(
    session: Arc<Session>,
    request: DeleteSubscriptionRequest,
) -> Result<Answer<DeleteSubscriptionRequest>, ErrorResponse> {
    let DeleteSubscriptionRequest { topic, subscription: name } = request;
    session.broker.command(CatalogCommand::DeleteSubscription { topic, name }).await?;
    done(Done {})
}

/// Lists queues and subscriptions, a page of whole topics.
pub(super) async fn list(
    session: Arc<Session>,
    request: ListQueuesRequest,
) -> Result<Answer<ListQueuesRequest>, ErrorResponse> {
    let catalog = session.broker.catalog();
    let prefix = request.prefix.unwrap_or_default();
    let frame_bytes = session.broker.limits().frame_bytes_max as usize;
    let page = PAGE_BYTES_MAX.min(frame_bytes / 4) / QUEUE_INFO_BYTES_MAX;
    let mut queues = Vec::new();
    for (topic, meta) in catalog.topics_with_prefix(&prefix, request.after.as_ref()) {
        if queues.len() >= page.max(1) {
            return done(ListQueuesResponse { queues, has_more: true });
        }
        queues.extend(meta.subscriptions.iter().filter_map(|(name, _)| info(topic, meta, name)));
    }
    done(ListQueuesResponse { queues, has_more: false })
}

/// Asks a queue that may be ended by the time that it answers.
async fn ask<T, F>(
    session: &Session,
    (topic, partition, subscription): (&TopicName, plimsoll_protocol::ids::PartitionIndex, &str),
    ask: impl FnOnce(QueueHandle) -> F,
) -> Result<T, ErrorResponse>
where
    F: Future<Output = Result<T, QueueGone>>,
{
    let queue = session.broker.queue(topic, partition, subscription).await?;
    ask(queue).await.map_err(|QueueGone| session.broker.not_leader(None))
}

/// Shows how a partition of a queue stands.
pub(super) async fn describe(
    session: Arc<Session>,
    request: DescribeQueueRequest,
) -> Result<Answer<DescribeQueueRequest>, ErrorResponse> {
    let place = (&request.topic, request.partition, &*request.subscription);
    done(ask(&session, place, |queue| async move { queue.describe().await }).await?)
}

/// Says why a message is not delivered.
pub(super) async fn explain(
    session: Arc<Session>,
    request: ExplainMessageRequest,
) -> Result<Answer<ExplainMessageRequest>, ErrorResponse> {
    let (place, offset) =
        ((&request.topic, request.partition, &*request.subscription), request.offset);
    let found: MessageExplanation =
        ask(&session, place, |queue| async move { queue.explain(offset).await }).await?;
    done(found)
}

/// Ends one message.
pub(super) async fn cancel(
    session: Arc<Session>,
    request: CancelMessageRequest,
) -> Result<Answer<CancelMessageRequest>, ErrorResponse> {
    let (place, offset) =
        ((&request.topic, request.partition, &*request.subscription), request.offset);
    let cancelled = ask(&session, place, |queue| async move { queue.cancel(offset).await }).await?;
    done(CancelMessageResponse { cancelled })
}

/// Ends all messages that nobody holds.
pub(super) async fn purge(
    session: Arc<Session>,
    request: PurgeQueueRequest,
) -> Result<Answer<PurgeQueueRequest>, ErrorResponse> {
    let place = (&request.topic, request.partition, &*request.subscription);
    let messages = ask(&session, place, |queue| async move { queue.purge().await }).await?;
    done(PurgeQueueResponse { messages })
}

/// Looks at messages without taking them.
pub(super) async fn peek_at(
    session: Arc<Session>,
    request: PeekQueueRequest,
) -> Result<Answer<PeekQueueRequest>, ErrorResponse> {
    let broker = &session.broker;
    let (topic, partition) = (&request.topic, request.partition);
    // It must be at work here: what is settled is known to the leader.
    let place = (topic, partition, &*request.subscription);
    ask(&session, place, |queue| async move { queue.describe().await }).await?;
    let meta = broker.topic(topic).await?;
    let id = subscription_of(&meta, topic, &request.subscription)?.id;
    let found = broker.partition(topic, partition, crate::routing::Access::Leader).await?;
    let max = request.messages_max.min(PEEK_MAX) as usize;
    let (messages, next) = peek(&found.group, id, request.from, max, PAGE_BYTES_MAX).await?;
    let bytes = messages.iter().map(|message| message.record.len()).sum();
    let described = messages.iter().map(described).collect();
    Ok((PeekQueueResponse { messages: described, next }, pieces(messages, bytes)))
}

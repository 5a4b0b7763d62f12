//! Queues: messages that are handed out one by one, and settled one by one.
//!
//! A queue is a topic with a built-in subscription, whose name is empty; a topic may have others beside
//! it, each with its own settings and its own account of what is settled. `broker/delivery/QUEUES.md`
//! has the way of one message.

use crate::api::{ConfigChange, Done, Fence, QueueSettings, TopicConfig, request};
use crate::ids::{CorrelationId, Offset, PartitionIndex, TopicName};
use crate::wire::{wire_enum, wire_struct};

wire_struct! {
    /// Creates a queue: a topic whose records are kept until they are settled.
    pub struct CreateQueueRequest {
        /// Its name.
        pub topic: TopicName,
        /// How many partitions, at least 1. Order holds within one.
        pub partitions: u32,
        /// How many replicas of each. 0: 3, or one on each node where there are fewer.
        pub replicas: u16,
        /// The configuration of its topic. Retention is for what is settled.
        pub config: TopicConfig,
        /// How it behaves; the node checks the bounds.
        pub settings: QueueSettings,
        /// Answer with the queue as it is when it exists already.
        pub if_not_exists: bool,
    }
}

request!(CreateQueueRequest, CreateQueue, 1 -> QueueInfo);

wire_struct! {
    /// What a queue is.
    pub struct QueueInfo {
        /// Its topic.
        pub topic: TopicName,
        /// The subscription; empty for the queue itself.
        pub subscription: String,
        /// How many partitions.
        pub partitions: u32,
        /// How many replicas of each.
        pub replicas: u16,
        /// How it behaves.
        pub settings: QueueSettings,
    }
}

wire_struct! {
    /// Makes a subscription on a topic, or changes one, or a queue (whose subscription is empty).
    pub struct PutSubscriptionRequest {
        /// The topic.
        pub topic: TopicName,
        /// The subscription.
        pub subscription: String,
        /// Changes of its settings, from the defaults where it is new.
        pub changes: Vec<ConfigChange>,
        /// Whether it is made where there is none; otherwise that is an error.
        pub create: bool,
        /// A new one begins behind what is stored, not at what can still be read.
        pub from_latest: bool,
    }
}

request!(PutSubscriptionRequest, PutSubscription, 1 -> QueueInfo);

wire_struct! {
    /// Ends a subscription, with its account of what is settled.
    pub struct DeleteSubscriptionRequest {
        /// The topic.
        pub topic: TopicName,
        /// The subscription; not the empty one, which ends with its topic.
        pub subscription: String,
    }
}

request!(DeleteSubscriptionRequest, DeleteSubscription, 1 -> Done);

wire_struct! {
    /// Lists queues and subscriptions in the order of their names, page by page.
    pub struct ListQueuesRequest {
        /// Only topics that begin with this.
        pub prefix: Option<String>,
        /// Only topics behind this one: the last of the page before.
        pub after: Option<TopicName>,
    }
}

wire_struct! {
    /// The queues, as many as one answer holds.
    pub struct ListQueuesResponse {
        /// All subscriptions of each topic that has any.
        pub queues: Vec<QueueInfo>,
        /// There are more behind the last one of these.
        pub has_more: bool,
    }
}

request!(ListQueuesRequest, ListQueues, 1 -> ListQueuesResponse);

wire_struct! {
    /// How one partition of a queue stands. Only its leader knows.
    pub struct DescribeQueueRequest {
        /// The topic.
        pub topic: TopicName,
        /// The subscription.
        pub subscription: String,
        /// The partition.
        pub partition: PartitionIndex,
    }
}

wire_struct! {
    /// How one partition of a queue stands.
    pub struct QueueStanding {
        /// Messages that are ready, or wait behind others of their key.
        pub ready: u64,
        /// Messages with consumers.
        pub held: u64,
        /// Messages that wait for their time, as far as the log was read.
        pub delayed: u64,
        /// Messages that were given up and are not copied yet.
        pub dead: u64,
        /// All of them.
        pub unsettled: u64,
        /// About how many bytes these have.
        pub unsettled_bytes: u64,
        /// Consumers.
        pub consumers: u32,
        /// Everything below is settled.
        pub floor: Offset,
        /// The offset after the last message.
        pub end: Offset,
    }
}

request!(DescribeQueueRequest, DescribeQueue, 1 -> QueueStanding);

wire_struct! {
    /// Becomes a consumer of one partition of a queue. After the answer come frames with the same
    /// correlation id and [`QueueDelivery`] as body. Ended by `Unsubscribe`; what the consumer holds
    /// then is ready again.
    pub struct AttachRequest {
        /// The topic.
        pub topic: TopicName,
        /// The subscription.
        pub subscription: String,
        /// The partition.
        pub partition: PartitionIndex,
        /// What it is called, for people.
        pub name: String,
        /// Most messages that it holds at a time; 0: only what it pulls, and it does not count as a consumer.
        pub prefetch_count: u32,
        /// Bytes beyond which it gets nothing more; the last message may reach over it.
        pub prefetch_bytes: u64,
        /// Consumers of a larger priority get messages first, as long as they have room.
        pub priority: i64,
        /// It must be the only one.
        pub exclusive: bool,
        /// A message is settled by being delivered: at most once.
        pub settles_itself: bool,
    }
}

wire_struct! {
    /// The consumer is attached.
    pub struct AttachResponse {
        /// How long it holds a message before it must settle or extend, in milliseconds.
        pub lease_ms: u32,
    }
}

request!(AttachRequest, Attach, 1 -> AttachResponse);

wire_struct! {
    /// The body of a pushed frame of messages; its payload is their records, one after the other, as
    /// they lie in their batches.
    pub struct QueueDelivery {
        /// One per record.
        pub messages: Vec<DeliveredMessage>,
    }
}

wire_struct! {
    /// One delivered message.
    pub struct DeliveredMessage {
        /// Which.
        pub offset: Offset,
        /// For the how manieth time, from 1.
        pub attempt: u32,
        /// What the record's times are relative to, in milliseconds since 1970 (UTC).
        pub base_timestamp_ms: i64,
        /// Size of the record in the payload.
        pub bytes: u32,
    }
}

wire_enum! {
    /// What a consumer makes of a message.
    pub enum SettleOutcome as "outcome" {
        /// Done.
        Accept = 0 / "accept",
        /// Not done: again, after its delay; without one, after the queue's backoff.
        Release = 1 / "release",
        /// Never again: a dead letter, or dropped.
        Reject = 2 / "reject",
    }
}

wire_struct! {
    /// Says what became of messages. Answered when that is as durable as the queue.
    pub struct SettleRequest {
        /// Correlation id of the consumer's `Attach`, on the same stream.
        pub consumer: CorrelationId,
        /// What became of which.
        pub items: Vec<Settlement>,
        /// The lock under which they are settled.
        pub fence: Option<Fence>,
    }
}

wire_struct! {
    /// What became of one message.
    pub struct Settlement {
        /// Which.
        pub offset: Offset,
        /// The attempt that it was delivered in.
        pub attempt: u32,
        /// What became of it.
        pub outcome: SettleOutcome,
        /// With a release: how long it waits, in milliseconds.
        pub delay_ms: Option<u64>,
    }
}

wire_struct! {
    /// The settlements are stored, but for these.
    pub struct SettleResponse {
        /// Those that the consumer had no say in.
        pub refused: Vec<SettleRefusal>,
    }
}

wire_struct! {
    /// A message that a consumer has no say in (any more).
    pub struct SettleRefusal {
        /// Which.
        pub offset: Offset,
        /// It was delivered to the consumer again since: this attempt counts. None: it is not held by it.
        pub current_attempt: Option<u32>,
    }
}

request!(SettleRequest, Settle, 1 -> SettleResponse);

wire_struct! {
    /// Begins leases anew.
    pub struct ExtendRequest {
        /// Correlation id of the consumer's `Attach`, on the same stream.
        pub consumer: CorrelationId,
        /// Which, and in which attempts; outcomes are not looked at.
        pub items: Vec<Settlement>,
        /// How long from now, in milliseconds; the queue's length without.
        pub lease_ms: Option<u32>,
    }
}

request!(ExtendRequest, Extend, 1 -> SettleResponse);

wire_struct! {
    /// Asks for one message out of turn; it is held as one that was pushed.
    pub struct PullMessageRequest {
        /// Correlation id of the consumer's `Attach`, on the same stream.
        pub consumer: CorrelationId,
    }
}

wire_struct! {
    /// The message, whose record is the payload; none where none is ready.
    pub struct PullMessageResponse {
        /// It.
        pub message: Option<DeliveredMessage>,
        /// Messages that are ready still.
        pub left: u64,
    }
}

request!(PullMessageRequest, PullMessage, 1 -> PullMessageResponse);

wire_struct! {
    /// Ends a consumer but for what it holds: it is handed out nothing more and does not count, and may
    /// still settle. `Unsubscribe` ends it altogether.
    pub struct RetireRequest {
        /// Correlation id of the consumer's `Attach`, on the same stream.
        pub consumer: CorrelationId,
    }
}

wire_struct! {
    /// It is retired.
    pub struct RetireResponse {
        /// Consumers that the queue has left.
        pub consumers: u32,
    }
}

request!(RetireRequest, Retire, 1 -> RetireResponse);

wire_struct! {
    /// Asks why a message is not delivered.
    pub struct ExplainMessageRequest {
        /// The topic.
        pub topic: TopicName,
        /// The subscription.
        pub subscription: String,
        /// The partition.
        pub partition: PartitionIndex,
        /// The message.
        pub offset: Offset,
    }
}

wire_enum! {
    /// Where a message stands.
    pub enum MessageStanding as "standing of a message" {
        /// The log has no such message yet.
        Unknown = 0 / "unknown",
        /// It is settled: accepted, or it ended otherwise longer ago than is remembered.
        Settled = 1 / "settled",
        /// It ended, and not by being accepted.
        Ended = 2 / "ended",
        /// It was given up; its copy is where dead letters go, or on its way there.
        DeadLettered = 3 / "dead-lettered",
        /// A consumer has it.
        Held = 4 / "held",
        /// What becomes of it is decided and being written.
        Ending = 5 / "ending",
        /// It waits for its time.
        Delayed = 6 / "delayed",
        /// It waits for another of its key.
        BehindKey = 7 / "behind-key",
        /// Its life is over; it ends when it comes to the head.
        Expired = 8 / "expired",
        /// It is ready.
        Waiting = 9 / "waiting",
    }
}

wire_struct! {
    /// Where a message stands, and why.
    pub struct MessageExplanation {
        /// Where.
        pub standing: MessageStanding,
        /// The same for people, in a sentence.
        pub text: String,
        /// Why it ended or was given up.
        pub reason: Option<String>,
        /// How often it was delivered.
        pub attempts: Option<u32>,
        /// When its lease, its delay or itself ended or ends, in milliseconds since 1970 (UTC).
        pub at_ms: Option<i64>,
        /// The message of its key that is before it.
        pub behind: Option<Offset>,
        /// How many messages go first.
        pub ahead: Option<u64>,
        /// Who has it.
        pub consumer: Option<String>,
    }
}

request!(ExplainMessageRequest, ExplainMessage, 1 -> MessageExplanation);

wire_struct! {
    /// Ends a message that nobody holds.
    pub struct CancelMessageRequest {
        /// The topic.
        pub topic: TopicName,
        /// The subscription.
        pub subscription: String,
        /// The partition.
        pub partition: PartitionIndex,
        /// The message.
        pub offset: Offset,
    }
}

wire_struct! {
    /// What came of it.
    pub struct CancelMessageResponse {
        /// Whether it was ended: not when it is held, settled, unknown or being ended.
        pub cancelled: bool,
    }
}

request!(CancelMessageRequest, CancelMessage, 1 -> CancelMessageResponse);

wire_struct! {
    /// Ends all messages of a partition that nobody holds.
    pub struct PurgeQueueRequest {
        /// The topic.
        pub topic: TopicName,
        /// The subscription.
        pub subscription: String,
        /// The partition.
        pub partition: PartitionIndex,
    }
}

wire_struct! {
    /// The messages are gone.
    pub struct PurgeQueueResponse {
        /// How many.
        pub messages: u64,
    }
}

request!(PurgeQueueRequest, PurgeQueue, 1 -> PurgeQueueResponse);

wire_struct! {
    /// Looks at messages that are not settled, without taking them.
    pub struct PeekQueueRequest {
        /// The topic.
        pub topic: TopicName,
        /// The subscription.
        pub subscription: String,
        /// The partition.
        pub partition: PartitionIndex,
        /// The first offset to look at.
        pub from: Offset,
        /// How many at most; the node shows fewer where they do not fit one answer.
        pub messages_max: u32,
    }
}

wire_struct! {
    /// Messages that are not settled, in order; the payload is their records.
    pub struct PeekQueueResponse {
        /// One per record; `attempt` is how often it was delivered so far.
        pub messages: Vec<DeliveredMessage>,
        /// Where to look on.
        pub next: Offset,
    }
}

request!(PeekQueueRequest, PeekQueue, 1 -> PeekQueueResponse);

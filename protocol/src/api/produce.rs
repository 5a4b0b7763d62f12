//! Storing records.

use crate::api::{Durability, Fence, request};
use crate::ids::{Offset, PartitionIndex, ProducerId, TopicName};
use crate::wire::{wire_enum, wire_struct};

wire_enum! {
    /// How far a batch must have got before it is acknowledged, or how far it had.
    pub enum AckLevel as "acknowledgement level" {
        /// Not at all: the answer comes when the node has taken the batch.
        None = 0 / "none",
        /// The leader has it, as durable as the topic says.
        Leader = 1 / "leader",
        /// A majority of the replicas has it, as durable as the topic says. The default.
        Quorum = 2 / "quorum",
    }
}

wire_struct! {
    /// Asks for a producer id, or for the next epoch of one.
    pub struct InitProducerRequest {
        /// Raises the epoch of this producer and shuts out its earlier life; without it a new id.
        pub existing: Option<ProducerIdentity>,
    }
}

wire_struct! {
    /// Who produces.
    pub struct ProducerIdentity {
        /// The producer.
        pub producer_id: ProducerId,
        /// Its life.
        pub epoch: u32,
    }
}

request!(InitProducerRequest, InitProducer, 1 -> ProducerIdentity);

wire_struct! {
    /// Stores the one batch that is the frame's payload.
    pub struct ProduceRequest {
        /// The topic.
        pub topic: TopicName,
        /// The partition.
        pub partition: PartitionIndex,
        /// When to answer.
        pub acks: AckLevel,
        /// The lock under which the batch is written.
        pub fence: Option<Fence>,
    }
}

wire_struct! {
    /// Where a batch was stored.
    pub struct ProduceResponse {
        /// Offset of its first record; without meaning when `reached` is [`AckLevel::None`].
        pub base_offset: Offset,
        /// How far it had got when this was sent.
        pub reached: AckLevel,
        /// What the topic promises.
        pub durability: Durability,
        /// Whether it was stored before; then the offset is that of the first time.
        pub duplicate: bool,
        /// When the leader took it, in milliseconds since 1970 (UTC).
        pub append_time_ms: i64,
    }
}

request!(ProduceRequest, Produce, 1 -> ProduceResponse);

//! Reading records: once, or pushed as they come.

use bytes::BytesMut;

use crate::api::{Done, request};
use crate::ids::{CorrelationId, Offset, PartitionIndex, TopicName};
use crate::wire::{Decode, DecodeError, DecodeFault, Encode, Reader, wire_enum, wire_struct};

/// Where to begin reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StartPosition {
    /// At the log start offset.
    Earliest,
    /// At the high watermark: only what comes from now on.
    Latest,
    /// At this offset.
    Offset(Offset),
    /// At the first batch with a record of this time or later, in milliseconds since 1970 (UTC); at
    /// the high watermark when there is none.
    Time(i64),
}

impl Encode for StartPosition {
    fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Earliest => 0u8.encode(out),
            Self::Latest => 1u8.encode(out),
            Self::Offset(offset) => {
                2u8.encode(out);
                offset.encode(out);
            }
            Self::Time(ms) => {
                3u8.encode(out);
                ms.encode(out);
            }
        }
    }
}

impl Decode for StartPosition {
    const BYTES_MIN: usize = 1;

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match u8::decode(reader)? {
            0 => Ok(Self::Earliest),
            1 => Ok(Self::Latest),
            2 => Offset::decode(reader).map(Self::Offset),
            3 => i64::decode(reader).map(Self::Time),
            number => {
                let (what, number) = ("start position", u64::from(number));
                Err(reader.fault(DecodeFault::UnknownValue { what, number }))
            }
        }
    }
}

wire_enum! {
    /// What a read may have missed.
    pub enum Isolation as "isolation" {
        /// Everything committed that the asked replica knows of. What it has shown once stays.
        Committed = 0 / "committed",
        /// Nothing: it sees every record that was acknowledged before the read began.
        Linearizable = 1 / "linearizable",
    }
}

wire_struct! {
    /// Reads whole batches from an offset. The answer's payload is the batches; the first may begin
    /// below `from`.
    pub struct FetchRequest {
        /// The topic.
        pub topic: TopicName,
        /// The partition.
        pub partition: PartitionIndex,
        /// Offset of the first record that is wanted.
        pub from: Offset,
        /// About how many bytes of batches; one batch comes in any case.
        pub max_bytes: u32,
        /// How long to wait for records when there are none, in milliseconds.
        pub max_wait_ms: u32,
        /// What the read may have missed.
        pub isolation: Isolation,
        /// How old the answer may be at most, in milliseconds, where a follower answers; an older one
        /// is refused with `TooStale`. None: no bound.
        pub max_staleness_ms: Option<u32>,
        /// Any replica may answer; otherwise only the leader does.
        pub any_replica: bool,
    }
}

wire_struct! {
    /// Batches, and where the log stands.
    pub struct FetchResponse {
        /// The offset after the last committed record.
        pub high_watermark: Offset,
        /// The first offset that can still be read.
        pub log_start_offset: Offset,
        /// Where to read on.
        pub next_offset: Offset,
    }
}

request!(FetchRequest, Fetch, 1 -> FetchResponse);

wire_struct! {
    /// Has batches pushed. After the answer come frames with the same correlation id and a
    /// [`Delivery`] as body.
    pub struct SubscribeRequest {
        /// The topic.
        pub topic: TopicName,
        /// The partition.
        pub partition: PartitionIndex,
        /// Where to begin.
        pub start: StartPosition,
        /// Largest frame to push; a single batch that is larger comes all the same.
        pub max_frame_bytes: u32,
        /// How many payload bytes may be pushed before more are allowed by [`CreditRequest`]; 0 means
        /// no such bound, for transports with flow control per stream.
        pub credit_bytes: u64,
        /// What the records up to the begin of the subscription may have missed.
        pub isolation: Isolation,
        /// How old what is pushed may be at most, in milliseconds, where a follower pushes; the
        /// subscription breaks with `TooStale` beyond it. None: no bound.
        pub max_staleness_ms: Option<u32>,
        /// Any replica may push; otherwise only the leader does.
        pub any_replica: bool,
        /// Ends with `OffsetCompacted` where a record from the start on may be gone: for who must see each
        /// change.
        pub whole: bool,
    }
}

wire_struct! {
    /// Where a subscription begins.
    pub struct SubscribeResponse {
        /// Offset of the first record that will be pushed; batches may begin below it.
        pub start_offset: Offset,
        /// The offset after the last committed record.
        pub high_watermark: Offset,
        /// The first offset that can still be read.
        pub log_start_offset: Offset,
    }
}

request!(SubscribeRequest, Subscribe, 1 -> SubscribeResponse);

wire_struct! {
    /// The body of a pushed frame; its payload is whole batches. An empty payload says that
    /// everything up to the high watermark was pushed.
    pub struct Delivery {
        /// The offset after the last committed record.
        pub high_watermark: Offset,
        /// Where the next pushed frame goes on.
        pub next_offset: Offset,
    }
}

wire_struct! {
    /// Allows a subscription more payload bytes. Not answered; an unknown subscription is ignored,
    /// it may just have ended.
    pub struct CreditRequest {
        /// Correlation id of the subscription.
        pub subscription: CorrelationId,
        /// How many bytes more.
        pub bytes: u64,
    }
}

request!(CreditRequest, Credit, 1 -> Done);

wire_struct! {
    /// Ends a subscription. No frame of it follows the answer.
    pub struct UnsubscribeRequest {
        /// Correlation id of the subscription.
        pub subscription: CorrelationId,
    }
}

request!(UnsubscribeRequest, Unsubscribe, 1 -> Done);

wire_struct! {
    /// Finds the offsets of positions.
    pub struct ListOffsetsRequest {
        /// The topic.
        pub topic: TopicName,
        /// The partition.
        pub partition: PartitionIndex,
        /// What to find.
        pub positions: Vec<StartPosition>,
    }
}

wire_struct! {
    /// The offsets, in the order of the request.
    pub struct ListOffsetsResponse {
        /// One per position.
        pub offsets: Vec<Offset>,
    }
}

request!(ListOffsetsRequest, ListOffsets, 1 -> ListOffsetsResponse);

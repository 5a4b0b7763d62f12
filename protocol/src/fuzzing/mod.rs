//! What the fuzzer runs, and what a plain test runs over seeded random and mutated inputs. Each
//! function takes any bytes and panics only when a promise of a decoder is broken.

mod peer;
pub mod samples;

pub use peer::{peer, peer_layouts, sample_append};

use bytes::{Bytes, BytesMut};

use crate::api::*;
use crate::batch::{
    BATCH_HEADER_BYTES, BatchBuilder, BatchError, BatchHeader, BatchLimits, CompactedBatchBuilder,
    CompactedFrom, Compression, DeliveredRecord, EntryKind, PushOutcome, Record, RecordBatch,
    iterate_batches, validate_produced,
};
use crate::error::ErrorResponse;
use crate::frame::{FRAME_HEADER_BYTES, Frame, FrameFlags, FrameHeader, encode_frame};
use crate::ids::{CorrelationId, LogId, LogIndex, Offset, ProducerId, Term};
use crate::wire::{Decode, Encode, decode_all, encode_to_bytes};
use samples::Sample;

/// One entry of the fuzzer.
pub struct Target {
    /// Its name, as in `protocol/fuzz/fuzz_targets`.
    pub name: &'static str,
    /// What it runs.
    pub run: fn(&[u8]),
    /// Inputs worth mutating.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "batch", run: batch, seeds: sample_batches },
    Target { name: "records", run: records, seeds: sample_sections },
    Target { name: "frame", run: frame, seeds: sample_frames },
    Target { name: "api", run: api, seeds: sample_bodies },
    Target { name: "peer", run: peer, seeds: peer::seeds },
];

/// Small enough for a bomb to show as a broken promise, not as a slow run.
fn limits() -> BatchLimits {
    BatchLimits {
        batch_bytes_max: 1 << 20,
        record_count_max: 10_000,
        records_bytes_max: 1 << 20,
        headers_per_record_max: 64,
    }
}

/// Any bytes as a produced batch and as a payload of batches; then once more with the checksum
/// mended, as an attacker would.
pub fn batch(data: &[u8]) {
    check_batch(data);
    for found in iterate_batches(Bytes::copy_from_slice(data)).flatten() {
        assert_eq!(found.body.len(), found.header.body_bytes());
        read_records(&found);
    }
    if let Ok(mut header) = BatchHeader::parse(data) {
        assert_eq!(&header.to_bytes()[..], &data[..BATCH_HEADER_BYTES]);
        let mut mended = data.to_vec();
        header.batch_length = data.len() as u32;
        header.body_crc = header.compute_body_crc(&data[BATCH_HEADER_BYTES..]);
        mended[..BATCH_HEADER_BYTES].copy_from_slice(&header.to_bytes());
        check_batch(&mended);
        header.seal(7);
        assert!(header.check_header_crc(7));
    }
}

/// What a broker accepts, a consumer reads in full.
fn check_batch(data: &[u8]) {
    let Ok(header) = validate_produced(data, &limits()) else { return };
    assert_eq!(header.batch_length as usize, data.len());
    assert!(!header.compacted);
    let (batch, rest) = RecordBatch::parse(Bytes::copy_from_slice(data)).expect("accepted");
    assert!(rest.is_empty());
    batch.check_body_crc().expect("accepted");
    let (read, error) = read_records(&batch);
    assert_eq!((read, error), (header.record_count, None));
}

fn read_records(batch: &RecordBatch) -> (u32, Option<BatchError>) {
    let mut records = match batch.records(limits().records_bytes_max as usize) {
        Ok(records) => records,
        Err(error) => return (0, Some(error)),
    };
    let mut views = records.clone();
    let mut read = 0;
    loop {
        match (records.next(), views.next_view()) {
            (Some(Ok(owned)), Some(Ok((offset, view)))) => {
                assert_eq!((owned.offset, &owned.record), (offset, &view.to_record()));
                read += 1;
            }
            (Some(Err(error)), Some(Err(same))) => {
                assert_eq!(error, same);
                assert!(records.next().is_none());
                return (read, Some(error));
            }
            (None, None) => return (read, None),
            (owned, view) => panic!("iterators differ: {owned:?}, {view:?}"),
        }
    }
}

/// Bytes as a records section: the first says how it is compressed and whether it is compacted, then a
/// count and a claimed size of two and three bytes. Records that are read survive being built into a
/// batch anew.
pub fn records(data: &[u8]) {
    let Some((&[stored_as, c0, c1, s0, s1, s2], section)) = data.split_first_chunk() else {
        return;
    };
    let compression = match stored_as % 3 {
        0 => Compression::None,
        1 => Compression::Lz4,
        _ => Compression::Zstd,
    };
    let header = BatchHeader {
        batch_length: (BATCH_HEADER_BYTES + section.len()) as u32,
        kind: EntryKind::Records,
        compacted: stored_as / 3 % 2 == 1,
        record_count: u32::from_le_bytes([c0, c1, 0, 0]),
        records_bytes: u32::from_le_bytes([s0, s1, s2, 0]),
        base_offset: Offset(1000),
        compression,
        ..BatchHeader::default()
    };
    let batch = RecordBatch { header, body: Bytes::copy_from_slice(section) };
    read_records(&batch);
    let Ok(records) = batch.records(limits().records_bytes_max as usize) else { return };
    let Ok(records) = records.collect::<Result<Vec<_>, _>>() else { return };
    if header.compacted && header.record_count > 0 {
        compact_anew(&batch, &records);
    }
    let mut builder = BatchBuilder::new(BatchLimits {
        headers_per_record_max: u32::MAX,
        ..BatchLimits::default()
    });
    for record in &records {
        assert_eq!(builder.push(&record.record), Ok(PushOutcome::Added));
    }
    let rebuilt = builder.finish(ProducerId(1), 0, 0, compression);
    let (rebuilt, _) = RecordBatch::parse(rebuilt).expect("just built");
    let reread = rebuilt.records(usize::MAX).expect("just built");
    assert!(
        reread.map(|r| r.expect("just built").record).eq(records.into_iter().map(|r| r.record))
    );
}

/// Records of a compacted batch that are read in full survive being compacted anew, to the same bytes
/// where they were plain: there is one encoding.
fn compact_anew(batch: &RecordBatch, records: &[DeliveredRecord]) {
    let header = &batch.header;
    let mut builder = CompactedBatchBuilder::new(header.base_offset)
        .with_base_timestamp_ms(header.base_timestamp_ms);
    for delivered in records {
        builder.keep(delivered.offset, &delivered.record);
    }
    builder.covers_to(header.end_offset());
    let anew = builder.finish(COMPACTED_FROM, header.compression);
    if header.compression == Compression::None {
        assert_eq!(anew.body, batch.body);
    }
    let reread = anew.records(usize::MAX).expect("just built").map(|r| r.expect("just built"));
    assert!(reread.eq(records.iter().cloned()));
}

/// Any bytes as a stream of frames.
pub fn frame(data: &[u8]) {
    let mut rest = data;
    while let Some((head, following)) = rest.split_first_chunk::<FRAME_HEADER_BYTES>() {
        let max_frame_bytes = 1 << 16;
        let Ok(header) = FrameHeader::parse(head, max_frame_bytes) else { return };
        assert!(header.frame_bytes() <= max_frame_bytes as usize);
        let mut again = [0; FRAME_HEADER_BYTES];
        header.write_to(&mut again);
        assert_eq!(&again, head);
        let Some((content, following)) = following.split_at_checked(header.content_bytes()) else {
            return;
        };
        let frame = Frame::from_content(header, Bytes::copy_from_slice(content));
        assert_eq!(frame.payload.len(), header.payload_bytes());
        let _ = frame.decode_response::<ProduceRequest>();
        let _ = check_api(header.api, header.version);
        rest = following;
    }
}

/// Calls `$each!(Type)` for every type that can be the body of a frame.
macro_rules! for_each_body {
    ($each:ident) => {
        $each! {
            HelloRequest,
            HelloResponse,
            PingRequest,
            Done,
            ListTopicsRequest,
            ListTopicsResponse,
            DescribeTopicRequest,
            DescribeTopicResponse,
            CreateTopicRequest,
            TopicInfo,
            AlterTopicRequest,
            DeleteTopicRequest,
            InitProducerRequest,
            ProducerIdentity,
            ProduceRequest,
            ProduceResponse,
            FetchRequest,
            FetchResponse,
            SubscribeRequest,
            SubscribeResponse,
            Delivery,
            CreditRequest,
            UnsubscribeRequest,
            ListOffsetsRequest,
            ListOffsetsResponse,
            NodeStatusRequest,
            NodeStatusResponse,
            ErrorResponse,
            MetadataRequest,
            MetadataResponse,
            WatchMetadataRequest,
            WatchMetadataResponse,
            ClusterStatusRequest,
            ClusterStatusResponse,
            ClusterPlanRequest,
            ClusterPlanResponse,
            RebalanceRequest,
            DrainNodeRequest,
            RemoveNodeRequest,
            RemoveNodeResponse,
            TransferLeaderRequest,
            TransferLeaderResponse,
            JoinTokenRequest,
            JoinTokenResponse,
            CreateQueueRequest,
            QueueInfo,
            PutSubscriptionRequest,
            DeleteSubscriptionRequest,
            ListQueuesRequest,
            ListQueuesResponse,
            DescribeQueueRequest,
            QueueStanding,
            AttachRequest,
            AttachResponse,
            QueueDelivery,
            SettleRequest,
            SettleResponse,
            ExtendRequest,
            PullMessageRequest,
            PullMessageResponse,
            RetireRequest,
            RetireResponse,
            ExplainMessageRequest,
            MessageExplanation,
            CancelMessageRequest,
            CancelMessageResponse,
            PurgeQueueRequest,
            PurgeQueueResponse,
            PeekQueueRequest,
            PeekQueueResponse,
            FindGroupsRequest,
            JoinGroupRequest,
            GroupAssignment,
            HeartbeatRequest,
            LeaveGroupRequest,
            CommitOffsetsRequest,
            CommitOffsetsResponse,
            GroupOffsetsRequest,
            GroupOffsetsResponse,
            ListGroupsRequest,
            ListGroupsResponse,
            DescribeGroupRequest,
            GroupDescription,
            ResetGroupRequest,
            DeleteGroupRequest,
            CreateVhostRequest,
            CreateVhostResponse,
            DeleteVhostRequest,
            ListVhostsRequest,
            ListVhostsResponse,
            PutAmqpUserRequest,
            DeleteAmqpUserRequest,
            ListAmqpUsersRequest,
            ListAmqpUsersResponse,
            SetAmqpPermissionsRequest,
            ClearAmqpPermissionsRequest,
            ClearAmqpPermissionsResponse,
            ListAmqpPermissionsRequest,
            ListAmqpPermissionsResponse,
            ListAmqpQueuesRequest,
            ListAmqpQueuesResponse,
            CreateNamespaceRequest,
            NamespaceInfo,
            DeleteNamespaceRequest,
            ListNamespacesRequest,
            ListNamespacesResponse,
            OpenLockSessionRequest,
            LockSession,
            KeepLockSessionRequest,
            CloseLockSessionRequest,
            AcquireLockRequest,
            LockGrant,
            CancelLockRequest,
            ReleaseLockRequest,
            ForceReleaseLockRequest,
            SetLockValueRequest,
            DeleteLockRequest,
            ListLocksRequest,
            ListLocksResponse,
            DescribeLockRequest,
            LockDescription,
            CheckFenceRequest,
            CheckFenceResponse,
            RaiseFloorRequest,
            ListLockSessionsRequest,
            ListLockSessionsResponse,
            KvGetRequest,
            KvGetResponse,
            KvPutRequest,
            KvPutResponse,
            KvScanRequest,
            KvScanResponse
        }
    };
}
#[cfg(test)]
pub(crate) use for_each_body;

/// A body: the first byte chooses its type, the rest is decoded. What is accepted has one encoding.
pub fn api(data: &[u8]) {
    let Some((&selector, body)) = data.split_first() else { return };
    fn check<T: Encode + Decode>(body: &[u8]) {
        match decode_all::<T>(body) {
            Ok(value) => {
                let again = encode_to_bytes(&value);
                assert_eq!(&again[..], body, "a second encoding was accepted");
            }
            Err(error) => assert!(error.at <= body.len()),
        }
    }
    macro_rules! checks {
        ($($kind:ty),+) => { [$(check::<$kind> as fn(&[u8])),+] };
    }
    let checks = for_each_body!(checks);
    checks[usize::from(selector) % checks.len()](body);
    if let Ok(request) = decode_all::<CreateTopicRequest>(body) {
        let _ = request.config.validate();
    }
    if let Ok(request) = decode_all::<CreateQueueRequest>(body) {
        let _ = request.settings.validate();
    }
    if let Ok(request) = decode_all::<AlterTopicRequest>(body) {
        let _ = TopicConfig::default().with_changes(&request.changes);
    }
}

/// The sample records as a batch.
#[must_use]
pub fn sample_batch(compression: Compression) -> Bytes {
    let mut builder = BatchBuilder::new(BatchLimits::default());
    for record in samples::records() {
        assert_eq!(builder.push(&record), Ok(PushOutcome::Added));
    }
    builder.finish(ProducerId(77), 4, 1_000_000, compression)
}

const COMPACTED_FROM: CompactedFrom = CompactedFrom {
    last: LogId { term: Term(3), index: LogIndex(41) },
    append_time_ms: 1_750_000_000_123,
    max_timestamp_ms: 1_750_000_000_456,
    tombstone_horizon_ms: 1_750_086_400_123,
};

/// The sample records as what is left of a batch of offsets 1000 to 1300: some neighbours, and a gap
/// before, between and behind them.
#[must_use]
pub fn sample_compacted_batch(compression: Compression) -> RecordBatch {
    let mut builder = CompactedBatchBuilder::new(Offset(1000));
    for (offset, record) in sample_compacted_records() {
        builder.keep(offset, &record);
    }
    builder.covers_to(Offset(1300));
    builder.finish(COMPACTED_FROM, compression)
}

/// What [`sample_compacted_batch`] holds.
#[must_use]
pub fn sample_compacted_records() -> Vec<(Offset, Record)> {
    let offsets = [1001, 1002, 1010, 1011, 1012, 1200].map(Offset);
    offsets.into_iter().zip(samples::records()).collect()
}

const COMPRESSIONS: [Compression; 3] = [Compression::None, Compression::Lz4, Compression::Zstd];

fn sample_batches() -> Vec<Vec<u8>> {
    let produced = |compression| sample_batch(compression).to_vec();
    let compacted = |compression| {
        let batch = sample_compacted_batch(compression);
        [&batch.header.to_bytes()[..], &batch.body].concat()
    };
    COMPRESSIONS.map(produced).into_iter().chain(COMPRESSIONS.map(compacted)).collect()
}

fn sample_sections() -> Vec<Vec<u8>> {
    let section = |bytes: Vec<u8>| {
        let (batch, _) = RecordBatch::parse(bytes.into()).expect("just built");
        let header = &batch.header;
        let mut input = vec![header.compression as u8 + 3 * u8::from(header.compacted)];
        input.extend_from_slice(&header.record_count.to_le_bytes()[..2]);
        input.extend_from_slice(&header.records_bytes.to_le_bytes()[..3]);
        input.extend_from_slice(&batch.body);
        input
    };
    sample_batches().into_iter().map(section).collect()
}

fn sample_bodies() -> Vec<Vec<u8>> {
    macro_rules! bodies {
        ($($kind:ty),+) => { vec![$(encode_to_bytes(&<$kind>::sample())),+] };
    }
    let with_selector = |(selector, body): (usize, Bytes)| {
        let mut input = vec![selector as u8];
        input.extend_from_slice(&body);
        input
    };
    for_each_body!(bodies).into_iter().enumerate().map(with_selector).collect()
}

/// A frame with the sample of this body; `payload` is carried behind it.
fn sample_frame<T: Encode + Sample>(api: ApiKey, flags: FrameFlags, payload: &[u8]) -> Vec<u8> {
    let correlation = CorrelationId(0x0102_0304);
    let mut out: BytesMut = encode_frame(api, 1, flags, correlation, &T::sample(), payload.len());
    out.extend_from_slice(payload);
    out.to_vec()
}

/// A frame of every kind, by name.
#[must_use]
pub fn named_frames() -> Vec<(String, Vec<u8>)> {
    fn both<R: Request + Sample>(request_payload: &[u8], payload: &[u8]) -> [(String, Vec<u8>); 2]
    where
        R::Response: Sample,
    {
        let name = |what: &str| format!("{}-{what}", R::API);
        [
            (name("request"), sample_frame::<R>(R::API, FrameFlags::REQUEST, request_payload)),
            (name("response"), sample_frame::<R::Response>(R::API, FrameFlags::RESPONSE, payload)),
        ]
    }
    let batch = sample_batch(Compression::None);
    let none: &[u8] = &[];
    let mut frames: Vec<_> = [
        both::<HelloRequest>(none, none),
        both::<PingRequest>(none, none),
        both::<ListTopicsRequest>(none, none),
        both::<DescribeTopicRequest>(none, none),
        both::<CreateTopicRequest>(none, none),
        both::<AlterTopicRequest>(none, none),
        both::<DeleteTopicRequest>(none, none),
        both::<InitProducerRequest>(none, none),
        both::<ProduceRequest>(&batch, none),
        both::<FetchRequest>(none, &batch),
        both::<SubscribeRequest>(none, none),
        both::<CreditRequest>(none, none),
        both::<UnsubscribeRequest>(none, none),
        both::<ListOffsetsRequest>(none, none),
        both::<NodeStatusRequest>(none, none),
        both::<MetadataRequest>(none, none),
        both::<WatchMetadataRequest>(none, none),
        both::<ClusterStatusRequest>(none, none),
        both::<ClusterPlanRequest>(none, none),
        both::<RebalanceRequest>(none, none),
        both::<DrainNodeRequest>(none, none),
        both::<RemoveNodeRequest>(none, none),
        both::<TransferLeaderRequest>(none, none),
        both::<JoinTokenRequest>(none, none),
    ]
    .into_iter()
    .flatten()
    .filter(|(name, _)| name != "Credit-response")
    .collect();
    let subscribe = ApiKey::Subscribe;
    frames.extend([
        ("push".into(), sample_frame::<Delivery>(subscribe, FrameFlags::PUSH, &batch)),
        (
            "push-error".into(),
            sample_frame::<ErrorResponse>(subscribe, FrameFlags::PUSH_ERROR, none),
        ),
        ("error".into(), sample_frame::<ErrorResponse>(ApiKey::Produce, FrameFlags::ERROR, none)),
    ]);
    let queues = [
        both::<CreateQueueRequest>(none, none),
        both::<PutSubscriptionRequest>(none, none),
        both::<DeleteSubscriptionRequest>(none, none),
        both::<ListQueuesRequest>(none, none),
        both::<DescribeQueueRequest>(none, none),
        both::<AttachRequest>(none, none),
        both::<SettleRequest>(none, none),
        both::<ExtendRequest>(none, none),
        both::<ExplainMessageRequest>(none, none),
        both::<CancelMessageRequest>(none, none),
        both::<PurgeQueueRequest>(none, none),
        both::<PeekQueueRequest>(none, none),
        both::<PullMessageRequest>(none, none),
        both::<RetireRequest>(none, none),
    ];
    frames.extend(queues.into_iter().flatten());
    let groups = [
        both::<FindGroupsRequest>(none, none),
        both::<JoinGroupRequest>(none, none),
        both::<HeartbeatRequest>(none, none),
        both::<LeaveGroupRequest>(none, none),
        both::<CommitOffsetsRequest>(none, none),
        both::<GroupOffsetsRequest>(none, none),
        both::<ListGroupsRequest>(none, none),
        both::<DescribeGroupRequest>(none, none),
        both::<ResetGroupRequest>(none, none),
        both::<DeleteGroupRequest>(none, none),
    ];
    frames.extend(groups.into_iter().flatten());
    let access = [
        both::<CreateVhostRequest>(none, none),
        both::<DeleteVhostRequest>(none, none),
        both::<ListVhostsRequest>(none, none),
        both::<PutAmqpUserRequest>(none, none),
        both::<DeleteAmqpUserRequest>(none, none),
        both::<ListAmqpUsersRequest>(none, none),
        both::<SetAmqpPermissionsRequest>(none, none),
        both::<ClearAmqpPermissionsRequest>(none, none),
        both::<ListAmqpPermissionsRequest>(none, none),
        both::<ListAmqpQueuesRequest>(none, none),
    ];
    frames.extend(access.into_iter().flatten());
    let locks = [
        both::<CreateNamespaceRequest>(none, none),
        both::<DeleteNamespaceRequest>(none, none),
        both::<ListNamespacesRequest>(none, none),
        both::<OpenLockSessionRequest>(none, none),
        both::<KeepLockSessionRequest>(none, none),
        both::<CloseLockSessionRequest>(none, none),
        both::<AcquireLockRequest>(none, none),
        both::<CancelLockRequest>(none, none),
        both::<ReleaseLockRequest>(none, none),
        both::<ForceReleaseLockRequest>(none, none),
        both::<SetLockValueRequest>(none, none),
        both::<DeleteLockRequest>(none, none),
        both::<ListLocksRequest>(none, none),
        both::<DescribeLockRequest>(none, none),
        both::<CheckFenceRequest>(none, none),
        both::<RaiseFloorRequest>(none, none),
        both::<ListLockSessionsRequest>(none, none),
    ];
    frames.extend(locks.into_iter().flatten());
    let kv = [
        both::<KvGetRequest>(none, b"loaded"),
        both::<KvPutRequest>(&batch, none),
        both::<KvScanRequest>(none, none),
    ];
    frames.extend(kv.into_iter().flatten());
    frames
}

fn sample_frames() -> Vec<Vec<u8>> {
    named_frames().into_iter().map(|(_, frame)| frame).collect()
}

/// The layout of every body and of what lies in bodies, for the test that keeps
/// `protocol/FORMAT.md` true.
#[must_use]
pub fn layouts() -> Vec<&'static str> {
    macro_rules! layouts {
        ($($kind:ty),+) => { vec![$(<$kind>::LAYOUT),+] };
    }
    let mut layouts = for_each_body!(layouts);
    layouts.extend([
        ApiVersions::LAYOUT,
        PartitionInfo::LAYOUT,
        CompactionInfo::LAYOUT,
        TopicRules::LAYOUT,
        Cleanup::LAYOUT,
        Fence::LAYOUT,
        LockMode::LAYOUT,
        FenceStanding::LAYOUT,
        LockKind::LAYOUT,
        LockInfo::LAYOUT,
        LockHolder::LAYOUT,
        LockWaiter::LAYOUT,
        LockSessionInfo::LAYOUT,
        KvCondition::LAYOUT,
        KvMeta::LAYOUT,
        KvEntry::LAYOUT,
        NodeInfo::LAYOUT,
        TopicMetadata::LAYOUT,
        PartitionMetadata::LAYOUT,
        ClusterNode::LAYOUT,
        UnwellPartition::LAYOUT,
        MoveProgress::LAYOUT,
        PlannedChange::LAYOUT,
        PlannedLoad::LAYOUT,
        TopicConfig::LAYOUT,
        QueueSettings::LAYOUT,
        DeliveredMessage::LAYOUT,
        Settlement::LAYOUT,
        SettleRefusal::LAYOUT,
        AssignedPartitions::LAYOUT,
        OwnedPartitions::LAYOUT,
        GroupCommitter::LAYOUT,
        OffsetCommit::LAYOUT,
        GroupPartition::LAYOUT,
        GroupCursor::LAYOUT,
        GroupOffset::LAYOUT,
        GroupInfo::LAYOUT,
        GroupMember::LAYOUT,
        OffsetReset::LAYOUT,
        VhostInfo::LAYOUT,
        AmqpUserInfo::LAYOUT,
        AmqpPermissions::LAYOUT,
        AmqpGrantName::LAYOUT,
        AmqpGrant::LAYOUT,
        AmqpQueueName::LAYOUT,
        AmqpQueueInfo::LAYOUT,
        ConfigChange::LAYOUT,
        Counter::LAYOUT,
        crate::error::LeaderHint::LAYOUT,
    ]);
    layouts
}

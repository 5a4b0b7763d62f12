//! One value of every body, with every optional field present: the seeds of the fuzzer, and what the
//! committed bytes in `tests/golden` decode to. A value here is never changed, only added.

use bytes::Bytes;

use crate::api::*;
use crate::batch::{Header, Record};
use crate::error::{ErrorCode, ErrorResponse};
use crate::ids::{
    CorrelationId, GroupId, NodeId, Offset, PartitionIndex, ProducerId, Term, TopicName,
};

/// A type with a sample.
pub trait Sample {
    /// The sample.
    fn sample() -> Self;
}

/// Records of every shape: full, value only, tombstone, empty, times out of the ordinary.
#[must_use]
pub fn records() -> Vec<Record> {
    let full = Record {
        key: Some(Bytes::from_static(b"ship-7")),
        value: Some(Bytes::from_static(
            b"loaded to the line, loaded to the line, loaded to the line",
        )),
        headers: vec![
            Header { name: "trace".into(), value: Bytes::from_static(b"4bf92f35") },
            Header { name: "größe".into(), value: Bytes::new() },
        ],
        timestamp_ms: 1_750_000_000_000,
        deliver_at_ms: Some(1_750_000_060_000),
        expires_at_ms: Some(1_750_003_600_000),
        priority: Some(200),
        group_key: Some(Bytes::from_static(b"harbour")),
    };
    vec![
        full.clone(),
        Record::new("plain").with_timestamp_ms(1_750_000_000_001),
        Record { value: None, ..full.clone() },
        Record::new(Bytes::new()),
        Record::default().with_timestamp_ms(-1),
        Record { timestamp_ms: i64::MIN, deliver_at_ms: Some(i64::MAX), headers: vec![], ..full },
    ]
}

fn topic() -> TopicName {
    TopicName::internal("orders.eu-west_1").expect("a plain name")
}

macro_rules! samples {
    ($($kind:ty = $value:expr;)+) => {$(
        impl Sample for $kind {
            fn sample() -> Self {
                $value
            }
        }
    )+};
}

samples! {
    Done = Done {};
    HelloRequest = HelloRequest {
        protocol_min: 1,
        protocol_max: 3,
        client_name: "plimsoll-client".into(),
        client_version: "0.1.0".into(),
        cluster_id: Some("0123456789abcdef0123456789abcdef".into()),
    };
    HelloResponse = HelloResponse {
        protocol: 1,
        node_id: NodeId(1),
        cluster_id: "0123456789abcdef0123456789abcdef".into(),
        server_version: "0.1.0".into(),
        max_frame_bytes: 16 << 20,
        batch_bytes_max: 8 << 20,
        apis: vec![
            ApiVersions { api: 0, min: 1, max: 1 },
            ApiVersions { api: 8, min: 1, max: 2 },
        ],
    };
    PingRequest = PingRequest {};
    ListTopicsRequest = ListTopicsRequest {
        prefix: Some("orders.".into()),
        after: Some(topic()),
    };
    ListTopicsResponse = ListTopicsResponse { topics: vec![TopicInfo::sample()], has_more: true };
    DescribeTopicRequest = DescribeTopicRequest {
        topic: topic(),
        first_partition: PartitionIndex(1000),
        partitions_max: 500,
    };
    DescribeTopicResponse = DescribeTopicResponse {
        topic: TopicInfo::sample(),
        partitions: vec![
            PartitionInfo {
                partition: PartitionIndex(0),
                group_id: GroupId(12),
                leader: Some(NodeId(1)),
                term: Term(3),
                log_start_offset: Offset(1000),
                high_watermark: Offset(2000),
                log_end_offset: Offset(2001),
                bytes: 123_456_789,
                segments: 2,
                condition: PartitionCondition::Awake,
                replicas: vec![NodeId(1), NodeId(2), NodeId(3)],
                compaction: Some(CompactionInfo {
                    compacted_to: Offset(1500),
                    compacted_bytes: 1 << 20,
                    waiting_bytes: 3 << 20,
                    last_ms: Some(1_750_000_000_000),
                    last_bytes_before: 64 << 20,
                    last_bytes_after: 1 << 20,
                    running: true,
                }),
            },
            PartitionInfo {
                partition: PartitionIndex(1),
                group_id: GroupId(13),
                leader: None,
                term: Term(0),
                log_start_offset: Offset(0),
                high_watermark: Offset(0),
                log_end_offset: Offset(0),
                bytes: 0,
                segments: 0,
                condition: PartitionCondition::Quarantined,
                replicas: vec![NodeId(2)],
                compaction: None,
            },
        ],
    };
    CreateTopicRequest = CreateTopicRequest {
        topic: topic(),
        partitions: 12,
        replicas: 3,
        config: TopicInfo::sample().config,
        if_not_exists: true,
    };
    AlterTopicRequest = AlterTopicRequest {
        topic: topic(),
        partitions: Some(24),
        changes: vec![
            ConfigChange { key: "retention-ms".into(), value: Some("7d".into()) },
            ConfigChange { key: "durability".into(), value: None },
        ],
    };
    DeleteTopicRequest = DeleteTopicRequest { topic: topic() };
    TopicInfo = TopicInfo {
        name: topic(),
        topic_id: 5,
        partitions: 12,
        replicas: 3,
        config: TopicConfig {
            durability: Durability::Memory,
            retention_ms: Some(3_600_000),
            retention_bytes: Some(10 << 30),
            segment_bytes: 64 << 20,
            batch_bytes_max: 1 << 20,
            rules: TopicRules {
                cleanup: Cleanup::CompactAndDelete,
                compaction_lag_ms: 3_600_000,
                tombstone_ms: 172_800_000,
                require_fence: true,
            },
        },
        created_ms: 1_750_000_000_000,
    };
    InitProducerRequest = InitProducerRequest { existing: Some(ProducerIdentity::sample()) };
    ProducerIdentity = ProducerIdentity { producer_id: ProducerId(77), epoch: 4 };
    ProduceRequest = ProduceRequest {
        topic: topic(),
        partition: PartitionIndex(3),
        acks: AckLevel::Quorum,
        fence: Some(Fence::sample()),
    };
    Fence = Fence { namespace: "deploy".into(), lock: "leader".into(), token: 1234 };
    ProduceResponse = ProduceResponse {
        base_offset: Offset(1 << 40),
        reached: AckLevel::Leader,
        durability: Durability::Memory,
        duplicate: true,
        append_time_ms: 1_750_000_000_123,
    };
    FetchRequest = FetchRequest {
        topic: topic(),
        partition: PartitionIndex(3),
        from: Offset(1500),
        max_bytes: 1 << 20,
        max_wait_ms: 500,
        isolation: Isolation::Linearizable,
        max_staleness_ms: Some(250),
        any_replica: true,
    };
    FetchResponse = FetchResponse {
        high_watermark: Offset(2000),
        log_start_offset: Offset(1000),
        next_offset: Offset(1600),
    };
    SubscribeRequest = SubscribeRequest {
        topic: topic(),
        partition: PartitionIndex(3),
        start: StartPosition::Offset(Offset(1500)),
        max_frame_bytes: 1 << 20,
        credit_bytes: 16 << 20,
        isolation: Isolation::Linearizable,
        max_staleness_ms: Some(250),
        any_replica: true,
        whole: true,
    };
    SubscribeResponse = SubscribeResponse {
        start_offset: Offset(1500),
        high_watermark: Offset(2000),
        log_start_offset: Offset(1000),
    };
    Delivery = Delivery { high_watermark: Offset(2000), next_offset: Offset(1600) };
    CreditRequest = CreditRequest { subscription: CorrelationId(9), bytes: 1 << 20 };
    UnsubscribeRequest = UnsubscribeRequest { subscription: CorrelationId(9) };
    ListOffsetsRequest = ListOffsetsRequest {
        topic: topic(),
        partition: PartitionIndex(3),
        positions: vec![
            StartPosition::Earliest,
            StartPosition::Latest,
            StartPosition::Offset(Offset(7)),
            StartPosition::Time(1_750_000_000_000),
        ],
    };
    ListOffsetsResponse = ListOffsetsResponse {
        offsets: vec![Offset(1000), Offset(2000), Offset(1000), Offset(1234)],
    };
    NodeStatusRequest = NodeStatusRequest {};
    NodeStatusResponse = NodeStatusResponse {
        node_id: NodeId(1),
        cluster_id: "0123456789abcdef0123456789abcdef".into(),
        version: "0.1.0".into(),
        uptime_ms: 86_400_000,
        counters: vec![
            Counter { name: "journal_writes".into(), value: 12_345 },
            Counter { name: "unwritten_bytes".into(), value: 0 },
        ],
    };
    MetadataRequest = MetadataRequest {
        topics: vec![topic()],
        first_partition: PartitionIndex(1000),
    };
    MetadataResponse = MetadataResponse {
        cluster_id: "0123456789abcdef0123456789abcdef".into(),
        epoch: 17,
        controller: Some(NodeId(2)),
        nodes: vec![NodeInfo {
            node: NodeId(1),
            address: "10.0.0.1:7420".into(),
            rack: Some("quay-4".into()),
            state: NodeState::Draining,
        }],
        topics: vec![TopicMetadata {
            topic: topic(),
            topic_id: 5,
            partitions_total: 1001,
            partitions: vec![PartitionMetadata {
                partition: PartitionIndex(1000),
                group_id: GroupId(12),
                leader: Some(NodeId(1)),
                term: Term(3),
                replicas: vec![NodeId(1), NodeId(2), NodeId(3)],
            }],
        }],
        unknown: vec![topic()],
    };
    WatchMetadataRequest = WatchMetadataRequest { epoch: 17 };
    WatchMetadataResponse = WatchMetadataResponse { epoch: 18 };
    ClusterStatusRequest = ClusterStatusRequest {};
    ClusterStatusResponse = ClusterStatusResponse {
        cluster_id: "0123456789abcdef0123456789abcdef".into(),
        answered_by: NodeId(1),
        epoch: 17,
        controller: Some(NodeId(2)),
        nodes: vec![ClusterNode {
            node: NodeId(2),
            address: "10.0.0.2:7420".into(),
            rack: Some("quay-4".into()),
            weight_hundredths: 150,
            state: NodeState::Active,
            up: true,
            last_heard_ms: Some(42),
            clock_offset_ms: Some(-3),
            version: "0.1.0".into(),
            leaders: 5,
            replicas: 12,
            bytes: Some(123_456_789),
        }],
        topics: 3,
        partitions: 14,
        unwell: vec![UnwellPartition {
            topic: topic(),
            partition: PartitionIndex(3),
            leader: Some(NodeId(2)),
            replicas: vec![NodeId(1), NodeId(2), NodeId(3)],
            in_sync: vec![NodeId(1), NodeId(2)],
            lag: 1234,
            why: "node 3 is down; start it".into(),
        }],
        unwell_total: 1,
        moves: vec![MoveProgress {
            topic: topic(),
            partition: PartitionIndex(4),
            from: vec![NodeId(1), NodeId(2)],
            to: vec![NodeId(1), NodeId(3)],
            step: "copy to node 3".into(),
            bytes_done: 1 << 20,
            bytes_total: 1 << 30,
        }],
        moves_total: 1,
        warnings: vec!["the clock of node 3 is 2 h ahead".into()],
    };
    ClusterPlanRequest = ClusterPlanRequest {};
    ClusterPlanResponse = ClusterPlanResponse {
        changes: vec![PlannedChange {
            topic: topic(),
            partition: PartitionIndex(4),
            from: vec![NodeId(1), NodeId(2)],
            to: vec![NodeId(1), NodeId(3)],
        }],
        changes_total: 1,
        replicas_moved: 1,
        replicas_total: 24,
        bytes: 1 << 30,
        loads: vec![PlannedLoad { node: NodeId(3), before: 0, after: 1 }],
    };
    RebalanceRequest = RebalanceRequest {};
    DrainNodeRequest = DrainNodeRequest { node: NodeId(3), on: true };
    RemoveNodeRequest = RemoveNodeRequest { node: NodeId(3), force: true };
    RemoveNodeResponse = RemoveNodeResponse {
        removed: true,
        plan: ClusterPlanResponse::sample(),
    };
    TransferLeaderRequest = TransferLeaderRequest {
        topic: topic(),
        partition: PartitionIndex(3),
        to: Some(NodeId(2)),
    };
    TransferLeaderResponse = TransferLeaderResponse { leader: NodeId(2), term: Term(4) };
    JoinTokenRequest = JoinTokenRequest {};
    JoinTokenResponse = JoinTokenResponse {
        token: "PLM1-0123-4567".into(),
        addresses: vec!["10.0.0.1:7420".into()],
    };
    QueueSettings = QueueSettings {
        mode: QueueMode::KeyShared,
        counting: QueueCounting::Before,
        single_active: true,
        levels: 1,
        lease_ms: 60_000,
        attempts_max: 5,
        backoff_ms: 1000,
        backoff_ms_max: 3_600_000,
        ttl_ms: Some(86_400_000),
        length_max: Some(100_000),
        bytes_max: Some(1 << 30),
        overflow: QueueOverflow::DropHead,
        dead_letter: Some("orders.dead".into()),
    };
    CreateQueueRequest = CreateQueueRequest {
        topic: topic(),
        partitions: 4,
        replicas: 3,
        config: TopicConfig::default(),
        settings: QueueSettings::sample(),
        if_not_exists: true,
    };
    QueueInfo = QueueInfo {
        topic: topic(),
        subscription: "billing".into(),
        partitions: 4,
        replicas: 3,
        settings: QueueSettings::sample(),
    };
    PutSubscriptionRequest = PutSubscriptionRequest {
        topic: topic(),
        subscription: "billing".into(),
        changes: vec![ConfigChange { key: "attempts".into(), value: Some("5".into()) }],
        create: true,
        from_latest: true,
    };
    DeleteSubscriptionRequest =
        DeleteSubscriptionRequest { topic: topic(), subscription: "billing".into() };
    ListQueuesRequest = ListQueuesRequest { prefix: Some("orders.".into()), after: Some(topic()) };
    ListQueuesResponse = ListQueuesResponse { queues: vec![QueueInfo::sample()], has_more: true };
    DescribeQueueRequest = DescribeQueueRequest {
        topic: topic(),
        subscription: "billing".into(),
        partition: PartitionIndex(3),
    };
    QueueStanding = QueueStanding {
        ready: 100,
        held: 20,
        delayed: 3,
        dead: 1,
        unsettled: 124,
        unsettled_bytes: 124_000,
        consumers: 2,
        floor: Offset(1000),
        end: Offset(1200),
    };
    AttachRequest = AttachRequest {
        topic: topic(),
        subscription: "billing".into(),
        partition: PartitionIndex(3),
        name: "worker-7".into(),
        prefetch_count: 100,
        prefetch_bytes: 16 << 20,
        priority: -1,
        exclusive: true,
        settles_itself: true,
    };
    AttachResponse = AttachResponse { lease_ms: 30_000 };
    QueueDelivery = QueueDelivery {
        messages: vec![DeliveredMessage {
            offset: Offset(1001),
            attempt: 2,
            base_timestamp_ms: 1_750_000_000_000,
            bytes: 512,
        }],
    };
    Settlement = Settlement {
        offset: Offset(1001),
        attempt: 2,
        outcome: SettleOutcome::Release,
        delay_ms: Some(5000),
    };
    SettleRequest = SettleRequest {
        consumer: CorrelationId(9),
        items: vec![Settlement::sample()],
        fence: Some(Fence::sample()),
    };
    SettleResponse = SettleResponse {
        refused: vec![SettleRefusal { offset: Offset(1001), current_attempt: Some(3) }],
    };
    ExtendRequest = ExtendRequest {
        consumer: CorrelationId(9),
        items: vec![Settlement::sample()],
        lease_ms: Some(60_000),
    };
    PullMessageRequest = PullMessageRequest { consumer: CorrelationId(9) };
    PullMessageResponse = PullMessageResponse {
        message: Some(DeliveredMessage {
            offset: Offset(1001),
            attempt: 1,
            base_timestamp_ms: 1_750_000_000_000,
            bytes: 512,
        }),
        left: 6,
    };
    RetireRequest = RetireRequest { consumer: CorrelationId(9) };
    RetireResponse = RetireResponse { consumers: 1 };
    ExplainMessageRequest = ExplainMessageRequest {
        topic: topic(),
        subscription: "billing".into(),
        partition: PartitionIndex(3),
        offset: Offset(1001),
    };
    MessageExplanation = MessageExplanation {
        standing: MessageStanding::BehindKey,
        text: "it waits for message 990, which has the same key".into(),
        reason: Some("rejected".into()),
        attempts: Some(2),
        at_ms: Some(1_750_000_000_000),
        behind: Some(Offset(990)),
        ahead: Some(4),
        consumer: Some("worker-7".into()),
    };
    CancelMessageRequest = CancelMessageRequest {
        topic: topic(),
        subscription: "billing".into(),
        partition: PartitionIndex(3),
        offset: Offset(1001),
    };
    CancelMessageResponse = CancelMessageResponse { cancelled: true };
    PurgeQueueRequest = PurgeQueueRequest {
        topic: topic(),
        subscription: "billing".into(),
        partition: PartitionIndex(3),
    };
    PurgeQueueResponse = PurgeQueueResponse { messages: 100 };
    PeekQueueRequest = PeekQueueRequest {
        topic: topic(),
        subscription: "billing".into(),
        partition: PartitionIndex(3),
        from: Offset(1000),
        messages_max: 10,
    };
    PeekQueueResponse = PeekQueueResponse {
        messages: QueueDelivery::sample().messages,
        next: Offset(1002),
    };
    FindGroupsRequest = FindGroupsRequest {};
    FindGroupsResponse = FindGroupsResponse { topic: topic(), partitions: 16 };
    JoinGroupRequest = JoinGroupRequest {
        group: "billing".into(),
        member: 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef,
        client: "worker-7".into(),
        instance: Some("rack-2".into()),
        topics: vec![topic()],
        session_ms: 45_000,
        rebalance_ms: 300_000,
    };
    AssignedPartitions = AssignedPartitions {
        topic: topic(),
        topic_id: 12,
        partitions: vec![PartitionIndex(3), PartitionIndex(5)],
    };
    GroupAssignment = GroupAssignment {
        epoch: 8,
        generation: 9,
        partitions: vec![AssignedPartitions::sample()],
        settling: true,
        heartbeat_ms: 5000,
        session_ms: 45_000,
    };
    HeartbeatRequest = HeartbeatRequest {
        group: "billing".into(),
        member: 7,
        epoch: 8,
        owned: vec![OwnedPartitions { topic_id: 12, partitions: vec![PartitionIndex(3)] }],
    };
    LeaveGroupRequest = LeaveGroupRequest { group: "billing".into(), member: 7, epoch: 8 };
    CommitOffsetsRequest = CommitOffsetsRequest {
        group: "billing".into(),
        by: Some(GroupCommitter { member: 7, epoch: 8 }),
        offsets: vec![OffsetCommit {
            topic: topic(),
            topic_id: Some(12),
            partition: PartitionIndex(3),
            offset: Offset(1001),
            metadata: Some("ship-7".into()),
        }],
        fence: Some(Fence::sample()),
    };
    GroupPartition = GroupPartition { topic: topic(), partition: PartitionIndex(3) };
    CommitOffsetsResponse =
        CommitOffsetsResponse { not_owned: vec![GroupPartition::sample()] };
    GroupOffsetsRequest = GroupOffsetsRequest {
        group: "billing".into(),
        topics: vec![topic()],
        after: Some(GroupCursor { topic_id: 12, partition: PartitionIndex(2) }),
    };
    GroupOffsetsResponse = GroupOffsetsResponse {
        offsets: vec![GroupOffset {
            topic: topic(),
            topic_id: 12,
            partition: PartitionIndex(3),
            offset: Offset(1001),
            metadata: Some("ship-7".into()),
            committed_ms: 1_750_000_000_000,
        }],
        has_more: true,
    };
    ListGroupsRequest =
        ListGroupsRequest { partition: PartitionIndex(3), after: Some("audit".into()) };
    GroupInfo = GroupInfo {
        group: "billing".into(),
        phase: GroupPhase::Moving,
        generation: 9,
        members: 8,
        offsets: 64,
    };
    ListGroupsResponse =
        ListGroupsResponse { groups: vec![GroupInfo::sample()], has_more: true };
    DescribeGroupRequest = DescribeGroupRequest { group: "billing".into() };
    GroupDescription = GroupDescription {
        info: GroupInfo::sample(),
        members: vec![GroupMember {
            member: 7,
            client: "worker-7".into(),
            instance: Some("rack-2".into()),
            topics: vec![topic()],
            session_ms: 45_000,
            rebalance_ms: 300_000,
            epoch: 8,
            owns: vec![AssignedPartitions::sample()],
            should_own: vec![AssignedPartitions::sample()],
            session_left_ms: 40_000,
        }],
        quiet_since_ms: Some(1_750_000_000_000),
    };
    ResetGroupRequest = ResetGroupRequest {
        group: "billing".into(),
        offsets: vec![OffsetReset {
            topic: topic(),
            partition: PartitionIndex(3),
            offset: Some(Offset(0)),
        }],
        forced: true,
    };
    DeleteGroupRequest = DeleteGroupRequest { group: "billing".into(), forced: true };
    CreateVhostRequest = CreateVhostRequest { vhost: "harbour".into() };
    CreateVhostResponse = CreateVhostResponse { created: true };
    DeleteVhostRequest = DeleteVhostRequest { vhost: "harbour".into() };
    ListVhostsRequest = ListVhostsRequest { after: Some("/".into()) };
    ListVhostsResponse = ListVhostsResponse {
        vhosts: vec![VhostInfo {
            vhost: "harbour".into(),
            created_ms: 1_750_000_000_000,
            exchanges: 2,
            queues: 7,
            users: 3,
        }],
        has_more: true,
    };
    PutAmqpUserRequest = PutAmqpUserRequest {
        user: "ann".into(),
        password: Some("not a secret".into()),
        tags: Some(vec!["administrator".into(), "monitoring".into()]),
        put: AmqpUserPut::CreateOrChange,
    };
    DeleteAmqpUserRequest = DeleteAmqpUserRequest { user: "ann".into() };
    ListAmqpUsersRequest = ListAmqpUsersRequest { after: Some("ann".into()) };
    ListAmqpUsersResponse = ListAmqpUsersResponse {
        users: vec![AmqpUserInfo {
            user: "bob".into(),
            tags: vec!["monitoring".into()],
            vhosts: 2,
        }],
        has_more: true,
    };
    AmqpPermissions = AmqpPermissions {
        configure: "^ann-".into(),
        write: ".*".into(),
        read: String::new(),
    };
    SetAmqpPermissionsRequest = SetAmqpPermissionsRequest {
        vhost: "harbour".into(),
        user: "ann".into(),
        permissions: AmqpPermissions::sample(),
    };
    ClearAmqpPermissionsRequest =
        ClearAmqpPermissionsRequest { vhost: "harbour".into(), user: "ann".into() };
    ClearAmqpPermissionsResponse = ClearAmqpPermissionsResponse { cleared: true };
    AmqpGrantName = AmqpGrantName { user: "ann".into(), vhost: "harbour".into() };
    ListAmqpPermissionsRequest = ListAmqpPermissionsRequest {
        vhost: Some("harbour".into()),
        user: Some("ann".into()),
        after: Some(AmqpGrantName::sample()),
    };
    ListAmqpPermissionsResponse = ListAmqpPermissionsResponse {
        grants: vec![AmqpGrant {
            name: AmqpGrantName::sample(),
            permissions: AmqpPermissions::sample(),
        }],
        has_more: true,
    };
    AmqpQueueName = AmqpQueueName { vhost: "/".into(), queue: "jobs".into() };
    ListAmqpQueuesRequest = ListAmqpQueuesRequest {
        vhost: Some("/".into()),
        after: Some(AmqpQueueName::sample()),
    };
    ListAmqpQueuesResponse = ListAmqpQueuesResponse {
        queues: vec![AmqpQueueInfo {
            name: AmqpQueueName::sample(),
            topic: "__amqp.7".into(),
            created_ms: 1_700_000_000_000,
            durable: true,
            auto_delete: false,
            exclusive: false,
        }],
        has_more: false,
    };
    CreateNamespaceRequest = CreateNamespaceRequest {
        namespace: "deploy".into(),
        replicas: 3,
        history_ms: 604_800_000,
        if_not_exists: true,
    };
    NamespaceInfo = NamespaceInfo {
        namespace: "deploy".into(),
        topic: namespace_topic("deploy").expect("a plain name"),
        replicas: 3,
        history_ms: 604_800_000,
        created_ms: 1_750_000_000_000,
    };
    DeleteNamespaceRequest = DeleteNamespaceRequest { namespace: "deploy".into(), forced: true };
    ListNamespacesRequest = ListNamespacesRequest { after: Some("build".into()) };
    ListNamespacesResponse =
        ListNamespacesResponse { namespaces: vec![NamespaceInfo::sample()], has_more: true };
    OpenLockSessionRequest = OpenLockSessionRequest {
        namespace: "deploy".into(),
        session: 7 << 70,
        lease_ms: 10_000,
        label: "worker-7".into(),
    };
    LockSession = LockSession { lease_ms: 10_000 };
    KeepLockSessionRequest =
        KeepLockSessionRequest { namespace: "deploy".into(), session: 7 << 70 };
    CloseLockSessionRequest =
        CloseLockSessionRequest { namespace: "deploy".into(), session: 7 << 70 };
    AcquireLockRequest = AcquireLockRequest {
        namespace: "deploy".into(),
        session: 7 << 70,
        request: 12,
        lock: "leader".into(),
        mode: LockMode::Permit,
        permits: 5,
        value: Bytes::from_static(b"10.0.0.1"),
        guards: vec![topic()],
        wait_ms: Some(30_000),
    };
    LockGrant = LockGrant { token: 1234, slot: 2 };
    CancelLockRequest = CancelLockRequest {
        namespace: "deploy".into(),
        session: 7 << 70,
        request: 12,
        lock: "leader".into(),
    };
    ReleaseLockRequest = ReleaseLockRequest {
        namespace: "deploy".into(),
        session: 7 << 70,
        request: 12,
        lock: "leader".into(),
        token: 1234,
    };
    ForceReleaseLockRequest = ForceReleaseLockRequest {
        namespace: "deploy".into(),
        lock: "leader".into(),
        token: Some(1234),
        session: Some(41),
        by: "ann".into(),
    };
    SetLockValueRequest = SetLockValueRequest {
        namespace: "deploy".into(),
        session: 7 << 70,
        lock: "leader".into(),
        token: 1234,
        value: Bytes::from_static(b"10.0.0.2"),
    };
    DeleteLockRequest = DeleteLockRequest {
        namespace: "deploy".into(),
        lock: "leader".into(),
        forced: true,
        by: "ann".into(),
    };
    ListLocksRequest = ListLocksRequest {
        namespace: "deploy".into(),
        prefix: "lead".into(),
        after: Some("leader".into()),
    };
    LockInfo = LockInfo {
        lock: "leader".into(),
        kind: LockKind::Election,
        permits: 0,
        holders: 1,
        holder: Some(LockHolder::sample()),
        waiters: 2,
        token: Some(1234),
        guards: vec![topic()],
    };
    ListLocksResponse = ListLocksResponse { locks: vec![LockInfo::sample()], has_more: true };
    DescribeLockRequest =
        DescribeLockRequest { namespace: "deploy".into(), lock: "leader".into() };
    LockHolder = LockHolder {
        label: "worker-7".into(),
        session: 41,
        mode: LockMode::Lead,
        token: 1234,
        slot: 0,
        since_ms: 1_750_000_000_000,
        lease_left_ms: 9_000,
        raising: true,
    };
    LockDescription = LockDescription {
        info: LockInfo::sample(),
        value: Bytes::from_static(b"10.0.0.1"),
        holders: vec![LockHolder::sample()],
        waiters: vec![LockWaiter {
            label: "worker-8".into(),
            session: 42,
            mode: LockMode::Lead,
            since_ms: 1_750_000_000_500,
        }],
    };
    CheckFenceRequest = CheckFenceRequest { fence: Fence::sample() };
    CheckFenceResponse =
        CheckFenceResponse { namespace_id: 12, standing: FenceStanding::Past, highest: 1234 };
    RaiseFloorRequest = RaiseFloorRequest {
        topic: topic(),
        partition: PartitionIndex(3),
        namespace_id: 12,
        lock: "leader".into(),
        token: Some(1234),
    };
    ListLockSessionsRequest =
        ListLockSessionsRequest { namespace: "deploy".into(), after: Some(40) };
    ListLockSessionsResponse = ListLockSessionsResponse {
        sessions: vec![LockSessionInfo {
            session: 41,
            label: "worker-7".into(),
            opened_ms: 1_750_000_000_000,
            lease_ms: 10_000,
            lease_left_ms: 9_000,
            held: 1,
            waiting: 2,
        }],
        has_more: true,
    };
    KvMeta = KvMeta {
        revision: Offset(1500),
        written_ms: 1_750_000_000_000,
        ttl_left_ms: Some(59_000),
    };
    KvGetRequest = KvGetRequest {
        topic: topic(),
        partition: PartitionIndex(3),
        key: Bytes::from_static(b"ship-7"),
        isolation: Isolation::Linearizable,
        any_replica: true,
    };
    KvGetResponse = KvGetResponse { found: Some(KvMeta::sample()), upto: Offset(1600) };
    KvPutRequest = KvPutRequest {
        topic: topic(),
        partition: PartitionIndex(3),
        condition: KvCondition::Revision(Offset(1500)),
        fence: Some(Fence::sample()),
    };
    KvPutResponse = KvPutResponse {
        revision: Offset(1601),
        before: Some(Offset(1500)),
        duplicate: true,
    };
    KvScanRequest = KvScanRequest {
        topic: topic(),
        partition: PartitionIndex(3),
        prefix: Bytes::from_static(b"ship-"),
        after: Some(Bytes::from_static(b"ship-6")),
        count_max: 100,
        keys_only: true,
        isolation: Isolation::Linearizable,
        any_replica: true,
    };
    KvScanResponse = KvScanResponse {
        entries: vec![KvEntry {
            key: Bytes::from_static(b"ship-7"),
            value: Bytes::from_static(b"loaded"),
            meta: KvMeta::sample(),
        }],
        has_more: true,
        upto: Offset(1600),
    };
    ErrorResponse = ErrorResponse::new(ErrorCode::NotLeader, "node 2 leads partition 3 of \"orders\"")
        .with_leader(NodeId(2), "10.0.0.2:7420")
        .with_offset(1500);
}

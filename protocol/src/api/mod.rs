//! What can be asked of a node: a key, a request and a response per API.
//!
//! A connection begins with [`HelloRequest`]. A request is a frame with the API's key and version; its
//! answer repeats key, version and correlation id. An unknown API or version is answered by an error
//! frame, and the connection stays usable.

mod amqp;
mod cluster;
mod consume;
mod fence_text;
mod groups;
mod hello;
mod kv;
mod locks;
mod metadata;
mod node;
mod produce;
mod queue_config;
mod queues;
mod topic_config;
mod topics;

pub use amqp::{
    AMQP_PASSWORD_BYTES_MAX, AmqpGrant, AmqpGrantName, AmqpPermissions, AmqpQueueInfo,
    AmqpQueueName, AmqpUserInfo, AmqpUserPut, ClearAmqpPermissionsRequest,
    ClearAmqpPermissionsResponse, CreateVhostRequest, CreateVhostResponse, DeleteAmqpUserRequest,
    DeleteVhostRequest, ListAmqpPermissionsRequest, ListAmqpPermissionsResponse,
    ListAmqpQueuesRequest, ListAmqpQueuesResponse, ListAmqpUsersRequest, ListAmqpUsersResponse,
    ListVhostsRequest, ListVhostsResponse, PutAmqpUserRequest, SetAmqpPermissionsRequest,
    VhostInfo,
};
pub use cluster::{
    ClusterNode, ClusterPlanRequest, ClusterPlanResponse, ClusterStatusRequest,
    ClusterStatusResponse, DrainNodeRequest, JoinTokenRequest, JoinTokenResponse, MoveProgress,
    PlannedChange, PlannedLoad, RebalanceRequest, RemoveNodeRequest, RemoveNodeResponse,
    TransferLeaderRequest, TransferLeaderResponse, UnwellPartition,
};
pub use consume::{
    CreditRequest, Delivery, FetchRequest, FetchResponse, Isolation, ListOffsetsRequest,
    ListOffsetsResponse, StartPosition, SubscribeRequest, SubscribeResponse, UnsubscribeRequest,
};
pub use fence_text::FenceError;
pub use groups::{
    AssignedPartitions, CommitOffsetsRequest, CommitOffsetsResponse, DeleteGroupRequest,
    DescribeGroupRequest, FindGroupsRequest, FindGroupsResponse, GROUPS_TOPIC, GroupAssignment,
    GroupCommitter, GroupCursor, GroupDescription, GroupInfo, GroupMember, GroupOffset,
    GroupOffsetsRequest, GroupOffsetsResponse, GroupPartition, GroupPhase, HeartbeatRequest,
    JoinGroupRequest, LeaveGroupRequest, ListGroupsRequest, ListGroupsResponse, OffsetCommit,
    OffsetReset, OwnedPartitions, ResetGroupRequest, group_home,
};
pub use hello::{
    ApiVersions, HelloRequest, HelloResponse, PROTOCOL_MAX, PROTOCOL_MIN, check_api,
    negotiate_protocol, negotiate_version, supported_apis,
};
pub use kv::{
    KvCondition, KvEntry, KvGetRequest, KvGetResponse, KvMeta, KvPutRequest, KvPutResponse,
    KvScanRequest, KvScanResponse,
};
pub use locks::{
    AcquireLockRequest, CancelLockRequest, CheckFenceRequest, CheckFenceResponse,
    CloseLockSessionRequest, CreateNamespaceRequest, DeleteLockRequest, DeleteNamespaceRequest,
    DescribeLockRequest, Fence, FenceStanding, ForceReleaseLockRequest, KeepLockSessionRequest,
    LOCKS_PREFIX, ListLockSessionsRequest, ListLockSessionsResponse, ListLocksRequest,
    ListLocksResponse, ListNamespacesRequest, ListNamespacesResponse, LockDescription, LockGrant,
    LockHolder, LockInfo, LockKind, LockMode, LockSession, LockSessionInfo, LockWaiter,
    NamespaceInfo, OpenLockSessionRequest, RaiseFloorRequest, ReleaseLockRequest,
    SetLockValueRequest, namespace_topic,
};
pub use metadata::{
    MetadataRequest, MetadataResponse, NodeInfo, NodeState, PartitionMetadata, TopicMetadata,
    WatchMetadataRequest, WatchMetadataResponse,
};
pub use node::{Counter, NodeStatusRequest, NodeStatusResponse, PingRequest};
pub use produce::{
    AckLevel, InitProducerRequest, ProduceRequest, ProduceResponse, ProducerIdentity,
};
pub use queue_config::{
    QUEUE_CONFIG_KEYS, QUEUE_DEAD_LETTER_BYTES_MAX, QUEUE_LEASE_MS_MAX, QUEUE_LEVELS_MAX,
    QueueConfigError, QueueCounting, QueueKey, QueueMode, QueueOverflow, QueueSettings,
};
pub use queues::{
    AttachRequest, AttachResponse, CancelMessageRequest, CancelMessageResponse, CreateQueueRequest,
    DeleteSubscriptionRequest, DeliveredMessage, DescribeQueueRequest, ExplainMessageRequest,
    ExtendRequest, ListQueuesRequest, ListQueuesResponse, MessageExplanation, MessageStanding,
    PeekQueueRequest, PeekQueueResponse, PullMessageRequest, PullMessageResponse,
    PurgeQueueRequest, PurgeQueueResponse, PutSubscriptionRequest, QueueDelivery, QueueInfo,
    QueueStanding, RetireRequest, RetireResponse, SettleOutcome, SettleRefusal, SettleRequest,
    SettleResponse, Settlement,
};
pub use topic_config::{
    BATCH_BYTES_MAX_CEILING, Cleanup, ConfigError, ConfigKey, TOPIC_CONFIG_KEYS, TopicConfig,
    TopicRules,
};
pub use topics::{
    AlterTopicRequest, CompactionInfo, ConfigChange, CreateTopicRequest, DeleteTopicRequest,
    DescribeTopicRequest, DescribeTopicResponse, Durability, ListTopicsRequest, ListTopicsResponse,
    PartitionCondition, PartitionInfo, TopicInfo,
};

use crate::wire::{Decode, Encode, wire_struct};

/// A request: what it is called, and what answers it.
pub trait Request: Encode + Decode {
    /// The API it belongs to.
    const API: ApiKey;
    /// The version of its body.
    const VERSION: u8;
    /// The body of the answer.
    type Response: Encode + Decode;
}

macro_rules! api_keys {
    ($($(#[$doc:meta])* $name:ident = $number:literal, versions $min:literal to $max:literal;)+) => {
        /// The APIs that this build knows.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u16)]
        pub enum ApiKey { $($(#[$doc])* $name = $number),+ }

        impl ApiKey {
            /// Every API, by number.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// The API with this number.
            #[must_use]
            pub fn from_number(number: u16) -> Option<Self> {
                match number { $($number => Some(Self::$name),)+ _ => None }
            }

            /// Its name, as in `protocol/FORMAT.md`.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name)),+ }
            }

            /// Lowest and highest version that this build reads.
            #[must_use]
            pub fn versions(self) -> (u8, u8) {
                match self { $(Self::$name => ($min, $max)),+ }
            }
        }
    };
}

api_keys! {
    /// Opens a connection: versions, limits, who is who.
    Hello = 0, versions 1 to 1;
    /// Asks for a sign of life.
    Ping = 1, versions 1 to 1;
    /// Lists topics.
    ListTopics = 2, versions 1 to 1;
    /// Shows a topic and its partitions.
    DescribeTopic = 3, versions 1 to 1;
    /// Creates a topic.
    CreateTopic = 4, versions 1 to 1;
    /// Changes a topic's configuration or adds partitions.
    AlterTopic = 5, versions 1 to 1;
    /// Deletes a topic with its records.
    DeleteTopic = 6, versions 1 to 1;
    /// Gives a producer its id and epoch.
    InitProducer = 7, versions 1 to 1;
    /// Stores one batch.
    Produce = 8, versions 1 to 1;
    /// Reads batches once.
    Fetch = 9, versions 1 to 1;
    /// Has batches pushed as they come.
    Subscribe = 10, versions 1 to 1;
    /// Allows a subscription more bytes. Not answered.
    Credit = 11, versions 1 to 1;
    /// Ends a subscription.
    Unsubscribe = 12, versions 1 to 1;
    /// Finds offsets.
    ListOffsets = 13, versions 1 to 1;
    /// Shows a node's counters.
    NodeStatus = 14, versions 1 to 1;
    /// Shows the nodes, and who leads the partitions of some topics.
    Metadata = 15, versions 1 to 1;
    /// Waits for a change of nodes, topics or placement.
    WatchMetadata = 16, versions 1 to 1;
    /// Shows how the cluster is.
    ClusterStatus = 17, versions 1 to 1;
    /// Shows what a rebalance would do.
    ClusterPlan = 18, versions 1 to 1;
    /// Moves replicas to where they belong.
    Rebalance = 19, versions 1 to 1;
    /// Moves everything away from a node.
    DrainNode = 20, versions 1 to 1;
    /// Takes a node out of the cluster.
    RemoveNode = 21, versions 1 to 1;
    /// Hands the leadership of a partition to another replica.
    TransferLeader = 22, versions 1 to 1;
    /// Shows what a new node needs to join.
    JoinToken = 23, versions 1 to 1;
    /// Creates a queue.
    CreateQueue = 24, versions 1 to 1;
    /// Makes or changes a subscription that settles message by message, or a queue.
    PutSubscription = 25, versions 1 to 1;
    /// Ends such a subscription.
    DeleteSubscription = 26, versions 1 to 1;
    /// Lists queues and such subscriptions.
    ListQueues = 27, versions 1 to 1;
    /// Shows how a partition of a queue stands.
    DescribeQueue = 28, versions 1 to 1;
    /// Has messages of a queue handed out as they come.
    Attach = 29, versions 1 to 1;
    /// Says what became of messages.
    Settle = 30, versions 1 to 1;
    /// Begins leases anew.
    Extend = 31, versions 1 to 1;
    /// Says why a message is not delivered.
    ExplainMessage = 32, versions 1 to 1;
    /// Ends a message that nobody holds.
    CancelMessage = 33, versions 1 to 1;
    /// Ends all of them.
    PurgeQueue = 34, versions 1 to 1;
    /// Looks at messages without taking them.
    PeekQueue = 35, versions 1 to 1;
    /// Says where groups are, and makes their topic where it is not there.
    FindGroups = 36, versions 1 to 1;
    /// Becomes a member of a consumer group.
    JoinGroup = 37, versions 1 to 1;
    /// Says that a member is alive, and what it works on; answered with what it should.
    Heartbeat = 38, versions 1 to 1;
    /// Ends a membership.
    LeaveGroup = 39, versions 1 to 1;
    /// Commits how far a group has come.
    CommitOffsets = 40, versions 1 to 1;
    /// Shows how far a group has come.
    GroupOffsets = 41, versions 1 to 1;
    /// Lists the groups of one coordinator.
    ListGroups = 42, versions 1 to 1;
    /// Shows a group and its members.
    DescribeGroup = 43, versions 1 to 1;
    /// Sets a group's offsets.
    ResetGroup = 44, versions 1 to 1;
    /// Deletes a group with its offsets.
    DeleteGroup = 45, versions 1 to 1;
    /// Has one message handed out, where there is one.
    PullMessage = 46, versions 1 to 1;
    /// Has nothing more handed out; what is held is held on.
    Retire = 47, versions 1 to 1;
    /// Makes a virtual host of AMQP.
    CreateVhost = 50, versions 1 to 1;
    /// Removes a virtual host with all that is in it.
    DeleteVhost = 51, versions 1 to 1;
    /// Lists virtual hosts.
    ListVhosts = 52, versions 1 to 1;
    /// Makes or changes a user of AMQP.
    PutAmqpUser = 53, versions 1 to 1;
    /// Removes a user.
    DeleteAmqpUser = 54, versions 1 to 1;
    /// Lists users.
    ListAmqpUsers = 55, versions 1 to 1;
    /// Says what a user may do in a virtual host.
    SetAmqpPermissions = 56, versions 1 to 1;
    /// Shuts a user out of a virtual host.
    ClearAmqpPermissions = 57, versions 1 to 1;
    /// Lists what users may do.
    ListAmqpPermissions = 58, versions 1 to 1;
    /// Lists queues of AMQP, with what native clients call them.
    ListAmqpQueues = 59, versions 1 to 1;
    /// Makes a namespace of locks.
    CreateNamespace = 60, versions 1 to 1;
    /// Removes a namespace with its locks.
    DeleteNamespace = 61, versions 1 to 1;
    /// Lists namespaces.
    ListNamespaces = 62, versions 1 to 1;
    /// Begins a session that may hold locks.
    OpenLockSession = 63, versions 1 to 1;
    /// Begins a session's lease anew.
    KeepLockSession = 64, versions 1 to 1;
    /// Ends a session, and gives up what it holds.
    CloseLockSession = 65, versions 1 to 1;
    /// Takes a lock, or waits for it.
    AcquireLock = 66, versions 1 to 1;
    /// Ends a wait for a lock.
    CancelLock = 67, versions 1 to 1;
    /// Gives a lock back.
    ReleaseLock = 68, versions 1 to 1;
    /// Takes a lock away from whoever holds it.
    ForceReleaseLock = 69, versions 1 to 1;
    /// Changes what the observers of an election see.
    SetLockValue = 70, versions 1 to 1;
    /// Forgets a lock.
    DeleteLock = 71, versions 1 to 1;
    /// Lists locks.
    ListLocks = 72, versions 1 to 1;
    /// Shows a lock, who holds it and who waits.
    DescribeLock = 73, versions 1 to 1;
    /// Says whether a token was granted. Between nodes.
    CheckFence = 74, versions 1 to 1;
    /// Shuts former holders of a lock out of a partition. Between nodes.
    RaiseFloor = 75, versions 1 to 1;
    /// Lists sessions that may hold locks.
    ListLockSessions = 76, versions 1 to 1;
    /// Reads the value of a key.
    KvGet = 80, versions 1 to 1;
    /// Changes a key, where its condition holds.
    KvPut = 81, versions 1 to 1;
    /// Lists keys.
    KvScan = 82, versions 1 to 1;
}

impl ApiKey {
    /// The number on the wire.
    #[must_use]
    pub fn number(self) -> u16 {
        self as u16
    }

    /// Whether a request of this API is answered when it succeeds.
    #[must_use]
    pub fn is_answered(self) -> bool {
        self != Self::Credit
    }
}

impl From<ApiKey> for u16 {
    fn from(api: ApiKey) -> Self {
        api.number()
    }
}

impl std::fmt::Display for ApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

wire_struct! {
    /// The body of an answer that says no more than "done".
    pub struct Done {}
}

/// Ties a request to its key, its version and its answer.
macro_rules! request {
    ($request:ty, $key:ident, $version:literal -> $response:ty) => {
        impl $crate::api::Request for $request {
            const API: $crate::api::ApiKey = $crate::api::ApiKey::$key;
            const VERSION: u8 = $version;
            type Response = $response;
        }
    };
}
pub(crate) use request;

#[cfg(test)]
mod tests;

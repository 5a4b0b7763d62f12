//! Locks: leases with fencing tokens, in namespaces.
//!
//! A namespace is one partition of an internal compacted topic, [`namespace_topic`]; every request about its
//! locks goes to that partition's leader. What happened to a lock is a record of that topic: a watcher is a
//! subscription to it. `broker/locks/LOCKS.md` has the rules, and what a client must do by which clock.

use bytes::Bytes;

use crate::api::{Done, request};
use crate::ids::{PartitionIndex, TopicName, TopicNameError};
use crate::wire::{wire_enum, wire_struct};

/// What the internal topics of namespaces begin with.
pub const LOCKS_PREFIX: &str = "__locks.";

/// The topic of a namespace.
///
/// # Errors
/// Where the namespace is not 1 to 247 of the characters of a topic's name.
pub fn namespace_topic(namespace: &str) -> Result<TopicName, TopicNameError> {
    TopicName::new(namespace)?;
    TopicName::internal(&format!("{LOCKS_PREFIX}{namespace}"))
}

wire_struct! {
    /// Shows that a write is made under a lock: refused where a later holder has been seen.
    pub struct Fence {
        /// The lock's namespace.
        pub namespace: String,
        /// The lock; of a permit of a semaphore its name, `#`, and the slot.
        pub lock: String,
        /// The fencing token of the grant.
        pub token: u64,
    }
}

wire_struct! {
    /// Makes a namespace.
    pub struct CreateNamespaceRequest {
        /// Its name.
        pub namespace: String,
        /// How many replicas. 0: 3, or one on each node where there are fewer.
        pub replicas: u16,
        /// How long what happened to a lock is kept, in milliseconds; the last of each lock always is.
        pub history_ms: u64,
        /// Answer with the namespace as it is when it exists already.
        pub if_not_exists: bool,
    }
}

wire_struct! {
    /// A namespace.
    pub struct NamespaceInfo {
        /// Its name.
        pub namespace: String,
        /// Its topic.
        pub topic: TopicName,
        /// How many replicas it has.
        pub replicas: u16,
        /// How long what happened is kept, in milliseconds.
        pub history_ms: u64,
        /// When it was made, in milliseconds since 1970 (UTC).
        pub created_ms: i64,
    }
}

request!(CreateNamespaceRequest, CreateNamespace, 1 -> NamespaceInfo);

wire_struct! {
    /// Removes a namespace with its locks.
    pub struct DeleteNamespaceRequest {
        /// Which.
        pub namespace: String,
        /// Also where locks are held or guard topics.
        pub forced: bool,
    }
}

request!(DeleteNamespaceRequest, DeleteNamespace, 1 -> Done);

wire_struct! {
    /// Lists namespaces, by name.
    pub struct ListNamespacesRequest {
        /// Only those behind this one: the last of the page before.
        pub after: Option<String>,
    }
}

wire_struct! {
    /// Namespaces, as many as one answer holds.
    pub struct ListNamespacesResponse {
        /// By name.
        pub namespaces: Vec<NamespaceInfo>,
        /// There are more behind the last one of these.
        pub has_more: bool,
    }
}

request!(ListNamespacesRequest, ListNamespaces, 1 -> ListNamespacesResponse);

wire_struct! {
    /// Begins a session, or goes on with one that is there: its lease begins anew.
    pub struct OpenLockSessionRequest hides session {
        /// The namespace.
        pub namespace: String,
        /// Random, chosen by the client, and known to nobody else: who knows it is the session.
        pub session: u128,
        /// How long the session may be silent, in milliseconds; 1,000 to 600,000.
        pub lease_ms: u32,
        /// Who it is, for people.
        pub label: String,
    }
}

wire_struct! {
    /// The session lives for so long from when the request was sent.
    pub struct LockSession {
        /// In milliseconds. The client ends its own view earlier, see `LOCKS.md`.
        pub lease_ms: u32,
    }
}

request!(OpenLockSessionRequest, OpenLockSession, 1 -> LockSession);

wire_struct! {
    /// Begins a session's lease anew.
    pub struct KeepLockSessionRequest hides session {
        /// The namespace.
        pub namespace: String,
        /// The session.
        pub session: u128,
    }
}

request!(KeepLockSessionRequest, KeepLockSession, 1 -> LockSession);

wire_struct! {
    /// Ends a session: everything that it holds or waits for is given up.
    pub struct CloseLockSessionRequest hides session {
        /// The namespace.
        pub namespace: String,
        /// The session.
        pub session: u128,
    }
}

request!(CloseLockSessionRequest, CloseLockSession, 1 -> Done);

wire_enum! {
    /// How a lock is held. The first use of a lock decides what kind it is: `read` and `write` belong together,
    /// the others are alone.
    pub enum LockMode as "mode of a lock" {
        /// By one session.
        Exclusive = 0 / "exclusive",
        /// By readers together, of a lock that has writers.
        Read = 1 / "read",
        /// By one writer, of a lock that has readers.
        Write = 2 / "write",
        /// One of the permits of a semaphore.
        Permit = 3 / "permit",
        /// By the leader of an election, with a value for its observers.
        Lead = 4 / "lead",
    }
}

wire_struct! {
    /// Takes a lock, or waits for it in the order of arrival. The same request, sent again, has the same
    /// answer.
    pub struct AcquireLockRequest hides session {
        /// The namespace.
        pub namespace: String,
        /// The session.
        pub session: u128,
        /// Names the request among those of the session.
        pub request: u64,
        /// The lock, 1 to 255 bytes without `#`.
        pub lock: String,
        /// How.
        pub mode: LockMode,
        /// Of a semaphore, how many permits it has; else 0.
        pub permits: u32,
        /// Of an election, what its observers see; else empty.
        pub value: Bytes,
        /// Topics whose former holders are shut out before the grant is answered.
        pub guards: Vec<TopicName>,
        /// How long to wait, in milliseconds: 0 not at all, none for ever.
        pub wait_ms: Option<u64>,
    }
}

wire_struct! {
    /// The lock is held.
    pub struct LockGrant {
        /// The fencing token: larger than that of every grant before.
        pub token: u64,
        /// Of a semaphore, which permit; else 0.
        pub slot: u32,
    }
}

request!(AcquireLockRequest, AcquireLock, 1 -> LockGrant);

wire_struct! {
    /// Ends the wait for a lock, or gives up what it came to. An answer to it is certain: nothing of the request is held.
    pub struct CancelLockRequest hides session {
        /// The namespace.
        pub namespace: String,
        /// The session.
        pub session: u128,
        /// The request.
        pub request: u64,
        /// The lock.
        pub lock: String,
    }
}

request!(CancelLockRequest, CancelLock, 1 -> Done);

wire_struct! {
    /// Gives a lock back. Sent again, it is answered as the first time.
    pub struct ReleaseLockRequest hides session {
        /// The namespace.
        pub namespace: String,
        /// The session.
        pub session: u128,
        /// The request that was granted: one session may hold one token twice, as a reader.
        pub request: u64,
        /// The lock.
        pub lock: String,
        /// The token of the grant.
        pub token: u64,
    }
}

request!(ReleaseLockRequest, ReleaseLock, 1 -> Done);

wire_struct! {
    /// Takes a lock away from whoever holds it.
    pub struct ForceReleaseLockRequest {
        /// The namespace.
        pub namespace: String,
        /// The lock.
        pub lock: String,
        /// Only from those who hold it under this token, which readers of one phase share; none: under any.
        pub token: Option<u64>,
        /// Only from this session, by its number; none: from any.
        pub session: Option<u64>,
        /// Who does it, for the history.
        pub by: String,
    }
}

request!(ForceReleaseLockRequest, ForceReleaseLock, 1 -> Done);

wire_struct! {
    /// Changes what the observers of an election see.
    pub struct SetLockValueRequest hides session {
        /// The namespace.
        pub namespace: String,
        /// The session of the leader.
        pub session: u128,
        /// The election.
        pub lock: String,
        /// The token of the leader's grant.
        pub token: u64,
        /// What they see now.
        pub value: Bytes,
    }
}

request!(SetLockValueRequest, SetLockValue, 1 -> Done);

wire_struct! {
    /// Forgets a lock, and its fences in the topics that it guards.
    pub struct DeleteLockRequest {
        /// The namespace.
        pub namespace: String,
        /// The lock.
        pub lock: String,
        /// Also while it is held or waited for.
        pub forced: bool,
        /// Who does it, for the history.
        pub by: String,
    }
}

request!(DeleteLockRequest, DeleteLock, 1 -> Done);

wire_struct! {
    /// Lists locks that are held, waited for or guard topics, by name.
    pub struct ListLocksRequest {
        /// The namespace.
        pub namespace: String,
        /// Only names that begin with this.
        pub prefix: String,
        /// Only those behind this one: the last of the page before.
        pub after: Option<String>,
    }
}

wire_struct! {
    /// Locks, as many as one answer holds.
    pub struct ListLocksResponse {
        /// By name.
        pub locks: Vec<LockInfo>,
        /// There are more behind the last one of these.
        pub has_more: bool,
    }
}

wire_enum! {
    /// What a lock is. Its first use decides that.
    pub enum LockKind as "kind of a lock" {
        /// One holder.
        Exclusive = 0 / "exclusive",
        /// Any number of readers, or one writer.
        ReadWrite = 1 / "read-write",
        /// As many holders as it has permits.
        Semaphore = 2 / "semaphore",
        /// One leader, with a value for its observers.
        Election = 3 / "election",
    }
}

wire_struct! {
    /// A lock in a list.
    pub struct LockInfo {
        /// Its name.
        pub lock: String,
        /// What it is.
        pub kind: LockKind,
        /// Of a semaphore, how many permits it has; else 0.
        pub permits: u32,
        /// How many hold it.
        pub holders: u32,
        /// One of them, where somebody does: that with the lowest token.
        pub holder: Option<LockHolder>,
        /// How many wait.
        pub waiters: u32,
        /// The latest token, where one is known.
        pub token: Option<u64>,
        /// The topics that it guards.
        pub guards: Vec<TopicName>,
    }
}

request!(ListLocksRequest, ListLocks, 1 -> ListLocksResponse);

wire_struct! {
    /// Shows a lock, who holds it and who waits.
    pub struct DescribeLockRequest {
        /// The namespace.
        pub namespace: String,
        /// The lock.
        pub lock: String,
    }
}

wire_struct! {
    /// A lock, who holds it and who waits.
    pub struct LockDescription {
        /// What a list shows of it.
        pub info: LockInfo,
        /// Of an election, what its observers see.
        pub value: Bytes,
        /// Who holds it.
        pub holders: Vec<LockHolder>,
        /// Who waits, in order; at most 1,000 are shown.
        pub waiters: Vec<LockWaiter>,
    }
}

wire_struct! {
    /// Who holds a lock.
    pub struct LockHolder {
        /// Who, for people.
        pub label: String,
        /// The session, by the number that events tell too; it does not let act as it.
        pub session: u64,
        /// How.
        pub mode: LockMode,
        /// The token of its grant.
        pub token: u64,
        /// Of a semaphore, which permit; else 0.
        pub slot: u32,
        /// Since when, in milliseconds since 1970 (UTC).
        pub since_ms: i64,
        /// How long its session lives if nothing is heard of it, in milliseconds.
        pub lease_left_ms: u64,
        /// The topics that it guards are not shut off for former holders yet: the grant is not answered.
        pub raising: bool,
    }
}

wire_struct! {
    /// Who waits for a lock.
    pub struct LockWaiter {
        /// Who, for people.
        pub label: String,
        /// The session, by the number that events tell too; it does not let act as it.
        pub session: u64,
        /// How.
        pub mode: LockMode,
        /// Since when, in milliseconds since 1970 (UTC).
        pub since_ms: i64,
    }
}

request!(DescribeLockRequest, DescribeLock, 1 -> LockDescription);

wire_struct! {
    /// Lists the sessions of a namespace, by number.
    pub struct ListLockSessionsRequest {
        /// The namespace.
        pub namespace: String,
        /// Only those behind this one: the last of the page before.
        pub after: Option<u64>,
    }
}

wire_struct! {
    /// Sessions, as many as one answer holds.
    pub struct ListLockSessionsResponse {
        /// By number.
        pub sessions: Vec<LockSessionInfo>,
        /// There are more behind the last one of these.
        pub has_more: bool,
    }
}

wire_struct! {
    /// A session in a list.
    pub struct LockSessionInfo {
        /// The session, by the number that events tell too; it does not let act as it.
        pub session: u64,
        /// Who, for people.
        pub label: String,
        /// When it began, in milliseconds since 1970 (UTC).
        pub opened_ms: i64,
        /// How long it may be silent, in milliseconds.
        pub lease_ms: u32,
        /// How long it lives if nothing is heard of it, in milliseconds.
        pub lease_left_ms: u64,
        /// How many locks it holds.
        pub held: u32,
        /// How many it waits for.
        pub waiting: u32,
    }
}

request!(ListLockSessionsRequest, ListLockSessions, 1 -> ListLockSessionsResponse);

wire_struct! {
    /// Asks a namespace whether a token was granted, between nodes: before a partition that never saw it lets
    /// it shut out others.
    pub struct CheckFenceRequest {
        /// The fence.
        pub fence: Fence,
    }
}

wire_struct! {
    /// What a namespace says of a token.
    pub struct CheckFenceResponse {
        /// The namespace's number, never used again.
        pub namespace_id: u64,
        /// What it says.
        pub standing: FenceStanding,
        /// The highest token of the lock that is known: of one that is past at least itself, 0 of one that was
        /// never granted.
        pub highest: u64,
    }
}

wire_enum! {
    /// What a namespace knows of a token.
    pub enum FenceStanding as "standing of a token" {
        /// It is of a grant that holds.
        Held = 0 / "held",
        /// What it was of is over.
        Past = 1 / "past",
        /// Nothing was granted under it.
        NeverGranted = 2 / "never granted",
    }
}

request!(CheckFenceRequest, CheckFence, 1 -> CheckFenceResponse);

wire_struct! {
    /// Has a partition refuse lower tokens of a lock from now on, or forget them, between nodes.
    pub struct RaiseFloorRequest {
        /// The topic.
        pub topic: TopicName,
        /// The partition.
        pub partition: PartitionIndex,
        /// The namespace, by its number.
        pub namespace_id: u64,
        /// The lock, as in [`Fence::lock`].
        pub lock: String,
        /// The lowest token that is taken; none: the lock is deleted.
        pub token: Option<u64>,
    }
}

request!(RaiseFloorRequest, RaiseFloor, 1 -> Done);

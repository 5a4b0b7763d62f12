//! Requests about locks: each goes to the keeper of the lock's namespace, which must be led here. Requests
//! about namespaces any node takes.

use std::sync::Arc;

use plimsoll_locks::command::{Acquire, Kind, Want};
use plimsoll_locks::ids::{
    Label, LeaseMs, LockName, Permits, RequestId, SessionId, SessionNumber, Token, Value,
};
use plimsoll_locks::keeper::Patience;
use plimsoll_locks::state::{HolderDescription, WaiterDescription};
use plimsoll_protocol::api::{
    AcquireLockRequest, CancelLockRequest, CheckFenceRequest, Cleanup, CloseLockSessionRequest,
    CreateNamespaceRequest, DeleteLockRequest, DeleteNamespaceRequest, DescribeLockRequest, Done,
    ForceReleaseLockRequest, KeepLockSessionRequest, LOCKS_PREFIX, ListLockSessionsRequest,
    ListLockSessionsResponse, ListLocksRequest, ListLocksResponse, ListNamespacesRequest,
    ListNamespacesResponse, LockDescription, LockGrant, LockHolder, LockInfo, LockKind, LockMode,
    LockSession, LockSessionInfo, LockWaiter, NamespaceInfo, OpenLockSessionRequest,
    RaiseFloorRequest, ReleaseLockRequest, SetLockValueRequest, TopicConfig, TopicRules,
};
use plimsoll_protocol::error::{ErrorCode, ErrorResponse};
use plimsoll_protocol::ids::TopicName;
use plimsoll_replication::Group;
use plimsoll_state::catalog::{
    Catalog, CatalogCommand, CatalogReply, LEVEL_RULES, TopicMeta, planning,
};

use super::session::Session;
use super::stream::{Answer, done};
use super::topics::replicas_now;
use crate::broker::Broker;
use crate::led::TaskGone;
use crate::locks::{
    Described, Grant, GrantFilter, Heard, KeeperHandle, invalid, topic_of, unknown_lock,
    unknown_namespace,
};
use crate::refusals;

/// Locks of one page.
const PAGE_LOCKS: usize = 100;
/// Namespaces of one page.
const PAGE_NAMESPACES: usize = 200;
/// Sessions of one page: each page looks at all of them.
const PAGE_SESSIONS: usize = 1_000;
/// Waiters that a description shows.
const WAITERS_SHOWN: usize = 1_000;
/// A segment of a namespace's topic, in bytes: what happened is small, and is compacted segment by segment.
const SEGMENT_BYTES: u32 = 16 << 20;
/// Longest history of what happened, in milliseconds.
const HISTORY_MS_MAX: u64 = 36_500 * 24 * 60 * 60 * 1000;

fn gone(broker: &Broker) -> impl FnOnce(TaskGone) -> ErrorResponse {
    |TaskGone| broker.not_leader(None)
}

/// Waits until a majority has confirmed, later than this was called, that this node leads in the keeper's
/// term: what it says is of now.
async fn confirm(
    broker: &Broker,
    keeper: &KeeperHandle,
    home: &Arc<Group>,
) -> Result<(), ErrorResponse> {
    home.linearizable().await.map_err(|error| broker.located(refusals::fresh(&error)))?;
    match keeper.leads(home) {
        true => Ok(()),
        false => Err(broker.not_leader(None)),
    }
}

fn lock_name(name: &str) -> Result<LockName, ErrorResponse> {
    LockName::new(name).map_err(|error| invalid(&error))
}

fn label(label: &str) -> Result<Label, ErrorResponse> {
    Label::new(label).map_err(|error| invalid(&error))
}

fn value(bytes: &[u8]) -> Result<Value, ErrorResponse> {
    let text = std::str::from_utf8(bytes).map_err(|_| {
        ErrorResponse::new(
            ErrorCode::InvalidArgument,
            "the value of an election must be UTF-8 text",
        )
    })?;
    Value::new(text).map_err(|error| invalid(&error))
}

fn granted(grant: Grant) -> LockGrant {
    LockGrant { token: grant.token.0, slot: grant.slot.unwrap_or(0) }
}

fn namespace_info(topic: &TopicName, meta: &TopicMeta) -> Option<NamespaceInfo> {
    Some(NamespaceInfo {
        namespace: topic.as_str().strip_prefix(LOCKS_PREFIX)?.to_owned(),
        topic: topic.clone(),
        replicas: replicas_now(meta),
        history_ms: meta.config.rules.compaction_lag_ms,
        created_ms: meta.created_ms,
    })
}

/// Makes a namespace.
pub(super) async fn create_namespace(
    session: Arc<Session>,
    request: CreateNamespaceRequest,
) -> Result<Answer<CreateNamespaceRequest>, ErrorResponse> {
    let broker = &session.broker;
    let topic = topic_of(&request.namespace)?;
    if request.history_ms > HISTORY_MS_MAX {
        let message = format!(
            "history of {} ms: it is at most {HISTORY_MS_MAX} ms, 100 years; 7d is usual",
            request.history_ms
        );
        return Err(ErrorResponse::new(ErrorCode::InvalidArgument, message));
    }
    broker.need_level(LEVEL_RULES).await?;
    let config = TopicConfig {
        retention_ms: None,
        segment_bytes: SEGMENT_BYTES,
        rules: TopicRules {
            cleanup: Cleanup::Compact,
            compaction_lag_ms: request.history_ms,
            ..TopicRules::default()
        },
        ..TopicConfig::default()
    };
    let make = |catalog: &Catalog| {
        let (replicas, placed) = planning::replica_counts(catalog, request.replicas);
        let down = broker.down_nodes(catalog);
        let placement = planning::place_unless_known(catalog, &topic, 1, placed, &down)?;
        Ok(CatalogCommand::CreateTopic {
            topic: topic.clone(),
            partitions: 1,
            replicas,
            config: config.clone(),
            if_not_exists: request.if_not_exists,
            placement,
        })
    };
    let made = broker.place(make).await.map_err(|error| match error.code {
        ErrorCode::TopicExists => ErrorResponse::new(
            ErrorCode::NamespaceExists,
            format!("there is a namespace of locks {:?} already", request.namespace),
        ),
        _ => error,
    })?;
    match made {
        CatalogReply::Created { topic: meta, .. } => match namespace_info(&topic, &meta) {
            Some(info) => done(info),
            None => Err(refusals::bug("a namespace's topic has another name")),
        },
        _ => Err(refusals::bug("the catalog answered the creation of a namespace")),
    }
}

/// Removes a namespace.
pub(super) async fn delete_namespace(
    session: Arc<Session>,
    request: DeleteNamespaceRequest,
) -> Result<Answer<DeleteNamespaceRequest>, ErrorResponse> {
    let broker = &session.broker;
    let topic = topic_of(&request.namespace)?;
    broker.namespace_id(&request.namespace).await?;
    if !request.forced {
        check_unused(broker, &request.namespace).await?;
    }
    broker.delete_topic(topic).await.map_err(|error| match error.code {
        ErrorCode::UnknownTopic => unknown_namespace(&request.namespace),
        _ => error,
    })?;
    done(Done {})
}

/// That no lock is held, or guards a topic: its former holders could write again.
async fn check_unused(broker: &Arc<Broker>, namespace: &str) -> Result<(), ErrorResponse> {
    let mut after = None;
    loop {
        let request = ListLocksRequest {
            namespace: namespace.to_owned(),
            prefix: String::new(),
            after: after.take(),
        };
        let here = || async { done(list_here(broker, &request).await?) };
        let (page, _) = broker.ask_leader(&request, here).await?;
        if let Some(used) = page.locks.first() {
            let why = match used.guards.first() {
                Some(topic) => format!("lock {} guards topic {topic}", used.lock),
                None => format!(
                    "lock {} has {} holders and {} waiters",
                    used.lock, used.holders, used.waiters
                ),
            };
            let message = format!(
                "{why}: namespace {namespace} was not deleted; release and delete its locks first, or \
                 force it, which lets former holders write again"
            );
            return Err(ErrorResponse::new(ErrorCode::NamespaceInUse, message));
        }
        if !page.has_more {
            return Ok(());
        }
        after = page.locks.last().map(|lock| lock.lock.clone());
    }
}

/// Lists namespaces, a page.
pub(super) async fn list_namespaces(
    session: Arc<Session>,
    request: ListNamespacesRequest,
) -> Result<Answer<ListNamespacesRequest>, ErrorResponse> {
    let catalog = session.broker.catalog();
    let after = request.after.as_deref().map(topic_of).transpose()?;
    let mut found = catalog.topics_with_prefix(LOCKS_PREFIX, after.as_ref());
    let page = found.by_ref().take(PAGE_NAMESPACES);
    let namespaces = page.filter_map(|(topic, meta)| namespace_info(topic, meta)).collect();
    done(ListNamespacesResponse { namespaces, has_more: found.next().is_some() })
}

/// Begins a session.
pub(super) async fn open(
    session: Arc<Session>,
    request: OpenLockSessionRequest,
) -> Result<Answer<OpenLockSessionRequest>, ErrorResponse> {
    let broker = &session.broker;
    let lease = LeaseMs::new(request.lease_ms.into()).map_err(|error| invalid(&error))?;
    let label = label(&request.label)?;
    let (keeper, _) = broker.lock_keeper(&request.namespace).await?;
    let opened = keeper.open(SessionId(request.session), lease, label).await;
    opened.map_err(gone(broker))??;
    done(LockSession { lease_ms: request.lease_ms })
}

/// Hears a session.
pub(super) async fn keep_alive(
    session: Arc<Session>,
    request: KeepLockSessionRequest,
) -> Result<Answer<KeepLockSessionRequest>, ErrorResponse> {
    let broker = &session.broker;
    let (keeper, home) = broker.lock_keeper(&request.namespace).await?;
    let kept = keeper.keep_alive(SessionId(request.session));
    confirm(broker, &keeper, &home).await?;
    let lease_ms = kept.await.map_err(gone(broker))??;
    done(LockSession { lease_ms: u32::try_from(lease_ms).unwrap_or(u32::MAX) })
}

/// Ends a session.
pub(super) async fn close(
    session: Arc<Session>,
    request: CloseLockSessionRequest,
) -> Result<Answer<CloseLockSessionRequest>, ErrorResponse> {
    let broker = &session.broker;
    let (keeper, _) = broker.lock_keeper(&request.namespace).await?;
    keeper.close(SessionId(request.session)).await.map_err(gone(broker))??;
    done(Done {})
}

fn acquire_of(request: &AcquireLockRequest) -> Result<(Acquire, Patience), ErrorResponse> {
    let want = match request.mode {
        LockMode::Exclusive => Want::Exclusive,
        LockMode::Read => Want::Read,
        LockMode::Write => Want::Write,
        LockMode::Permit => {
            Want::Permit { of: Permits::new(request.permits).map_err(|error| invalid(&error))? }
        }
        LockMode::Lead => Want::Lead { value: value(&request.value)? },
    };
    if request.mode != LockMode::Permit && request.permits != 0 {
        let message = format!("{} permits: only a semaphore has permits", request.permits);
        return Err(ErrorResponse::new(ErrorCode::InvalidArgument, message));
    }
    if request.mode != LockMode::Lead && !request.value.is_empty() {
        let message = "a value is given: only an election has one";
        return Err(ErrorResponse::new(ErrorCode::InvalidArgument, message));
    }
    if let Some(topic) = request.guards.iter().find(|topic| topic.is_internal()) {
        let message = format!("{topic}: topics that begin with `__` cannot be guarded");
        return Err(ErrorResponse::new(ErrorCode::InvalidTopicName, message));
    }
    let patience = request.wait_ms.map_or(Patience::Unbounded, Patience::AtMost);
    let acquire = Acquire {
        session: SessionId(request.session),
        request: RequestId(request.request),
        lock: lock_name(&request.lock)?,
        want,
        guards: request.guards.iter().cloned().collect(),
        wait: request.wait_ms != Some(0),
    };
    Ok((acquire, patience))
}

/// Takes a lock, or waits for it.
pub(super) async fn acquire(
    session: Arc<Session>,
    request: AcquireLockRequest,
) -> Result<Answer<AcquireLockRequest>, ErrorResponse> {
    let broker = &session.broker;
    let (acquire, patience) = acquire_of(&request)?;
    let (keeper, _) = broker.lock_keeper(&request.namespace).await?;
    done(granted(keeper.acquire(acquire, patience).await.map_err(gone(broker))??))
}

/// Ends a wait, and gives up what it came to.
pub(super) async fn cancel(
    session: Arc<Session>,
    request: CancelLockRequest,
) -> Result<Answer<CancelLockRequest>, ErrorResponse> {
    let broker = &session.broker;
    let lock = lock_name(&request.lock)?;
    let (keeper, _) = broker.lock_keeper(&request.namespace).await?;
    let owner = SessionId(request.session);
    let asked = RequestId(request.request);
    let cancelled = keeper.cancel(owner, asked).await.map_err(gone(broker))??;
    if let Some(Grant { token, .. }) = cancelled {
        keeper.release((owner, asked), (lock, token)).await.map_err(gone(broker))??;
    }
    done(Done {})
}

/// Gives a lock back.
pub(super) async fn release(
    session: Arc<Session>,
    request: ReleaseLockRequest,
) -> Result<Answer<ReleaseLockRequest>, ErrorResponse> {
    let broker = &session.broker;
    let lock = lock_name(&request.lock)?;
    let (keeper, _) = broker.lock_keeper(&request.namespace).await?;
    let who = (SessionId(request.session), RequestId(request.request));
    let released = keeper.release(who, (lock, Token(request.token))).await;
    released.map_err(gone(broker))??;
    done(Done {})
}

/// Takes a lock away.
pub(super) async fn force_release(
    session: Arc<Session>,
    request: ForceReleaseLockRequest,
) -> Result<Answer<ForceReleaseLockRequest>, ErrorResponse> {
    let broker = &session.broker;
    let (lock, by) = (lock_name(&request.lock)?, label(&request.by)?);
    let grants = GrantFilter {
        token: request.token.map(Token),
        session: request.session.map(SessionNumber),
    };
    let (keeper, _) = broker.lock_keeper(&request.namespace).await?;
    let released = keeper.force_release(lock, grants, by).await;
    released.map_err(gone(broker))??;
    done(Done {})
}

/// Changes what the observers of an election see.
pub(super) async fn set_value(
    session: Arc<Session>,
    request: SetLockValueRequest,
) -> Result<Answer<SetLockValueRequest>, ErrorResponse> {
    let broker = &session.broker;
    let (lock, value) = (lock_name(&request.lock)?, value(&request.value)?);
    let (keeper, _) = broker.lock_keeper(&request.namespace).await?;
    let owner = SessionId(request.session);
    let set = keeper.set_value(owner, lock, Token(request.token), value).await;
    set.map_err(gone(broker))??;
    done(Done {})
}

/// Forgets a lock.
pub(super) async fn delete(
    session: Arc<Session>,
    request: DeleteLockRequest,
) -> Result<Answer<DeleteLockRequest>, ErrorResponse> {
    let broker = &session.broker;
    let (lock, by) = (lock_name(&request.lock)?, label(&request.by)?);
    let (keeper, _) = broker.lock_keeper(&request.namespace).await?;
    let before = keeper.describe(lock.clone(), 0).await.map_err(gone(broker))?;
    let Some(before) = before else { return Err(unknown_lock(lock.as_str())) };
    let deleted = keeper.delete(lock.clone(), request.forced, by).await;
    let mut guards = deleted.map_err(gone(broker))??;
    // Also where an earlier leader deleted it, and did not come to this.
    guards.extend(before.lock.guards);
    if !guards.is_empty() {
        let namespace_id = broker.namespace_id(&request.namespace).await?;
        if let Err(error) = broker.forget_guards(namespace_id, &lock, &guards).await {
            tracing::warn!(%lock, %error, "floors of a deleted lock are kept until its namespace goes");
        }
    }
    done(Done {})
}

fn kind(kind: Kind) -> (LockKind, u32) {
    match kind {
        Kind::Exclusive => (LockKind::Exclusive, 0),
        Kind::ReadWrite => (LockKind::ReadWrite, 0),
        Kind::Semaphore { permits } => (LockKind::Semaphore, permits.count()),
        Kind::Election => (LockKind::Election, 0),
    }
}

fn mode(kind: Kind, holder: &HolderDescription) -> LockMode {
    match kind {
        Kind::Exclusive => LockMode::Exclusive,
        Kind::ReadWrite if holder.reads => LockMode::Read,
        Kind::ReadWrite => LockMode::Write,
        Kind::Semaphore { .. } => LockMode::Permit,
        Kind::Election => LockMode::Lead,
    }
}

fn count(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Lists locks, a page.
pub(super) async fn list(
    session: Arc<Session>,
    request: ListLocksRequest,
) -> Result<Answer<ListLocksRequest>, ErrorResponse> {
    done(list_here(&session.broker, &request).await?)
}

async fn list_here(
    broker: &Arc<Broker>,
    request: &ListLocksRequest,
) -> Result<ListLocksResponse, ErrorResponse> {
    let (keeper, home) = broker.lock_keeper(&request.namespace).await?;
    confirm(broker, &keeper, &home).await?;
    let mut locks = Vec::new();
    let mut after = request.after.as_deref().map(lock_name).transpose()?;
    let mut has_more = true;
    while has_more && locks.len() < PAGE_LOCKS {
        let page = keeper.list(after.clone(), PAGE_LOCKS).await.map_err(gone(broker))?;
        has_more = page.len() == PAGE_LOCKS;
        for summary in page {
            if locks.len() == PAGE_LOCKS {
                has_more = true;
                break;
            }
            after = Some(summary.name.clone());
            if !summary.name.as_str().starts_with(&request.prefix) {
                continue;
            }
            // One that has gone since is not listed.
            let found = keeper.describe(summary.name, 0).await.map_err(gone(broker))?;
            if let Some(found) = found {
                locks.push(lock_info(&found, summary.waiters));
            }
        }
    }
    Ok(ListLocksResponse { locks, has_more })
}

fn lock_info(found: &Described, waiters: usize) -> LockInfo {
    let lock = &found.lock;
    let (kind, permits) = kind(lock.kind);
    LockInfo {
        lock: lock.name.as_str().to_owned(),
        kind,
        permits,
        holders: count(lock.holders.len()),
        holder: holders(found).next(),
        waiters: count(waiters),
        token: lock.highest.map(|token| token.0),
        guards: lock.guards.clone(),
    }
}

fn holders(found: &Described) -> impl Iterator<Item = LockHolder> {
    let lock = &found.lock;
    lock.holders.iter().zip(&found.leases_left_ms).map(|(holder, &left)| LockHolder {
        label: holder.label.as_str().to_owned(),
        session: holder.session.0,
        mode: mode(lock.kind, holder),
        token: holder.token.0,
        slot: holder.slot.unwrap_or(0),
        since_ms: holder.since.0,
        lease_left_ms: left,
        raising: !holder.unraised.is_empty(),
    })
}

/// Shows a lock.
pub(super) async fn describe(
    session: Arc<Session>,
    request: DescribeLockRequest,
) -> Result<Answer<DescribeLockRequest>, ErrorResponse> {
    let broker = &session.broker;
    let name = lock_name(&request.lock)?;
    let (keeper, home) = broker.lock_keeper(&request.namespace).await?;
    confirm(broker, &keeper, &home).await?;
    let found = keeper.describe(name, usize::MAX).await.map_err(gone(broker))?;
    let Some(found) = found else { return Err(unknown_lock(&request.lock)) };
    let lock = &found.lock;
    let value = lock.holders.iter().find_map(|holder| holder.value.as_ref());
    let value = value.map(|value| value.as_str().to_owned().into()).unwrap_or_default();
    let waiter = |waiter: &WaiterDescription| LockWaiter {
        label: waiter.label.as_str().to_owned(),
        session: waiter.session.0,
        mode: match waiter.want {
            Want::Exclusive => LockMode::Exclusive,
            Want::Read => LockMode::Read,
            Want::Write => LockMode::Write,
            Want::Permit { .. } => LockMode::Permit,
            Want::Lead { .. } => LockMode::Lead,
        },
        since_ms: waiter.since.0,
    };
    done(LockDescription {
        info: lock_info(&found, lock.waiters.len()),
        value,
        holders: holders(&found).collect(),
        waiters: lock.waiters.iter().take(WAITERS_SHOWN).map(waiter).collect(),
    })
}

/// Lists sessions, a page.
pub(super) async fn list_sessions(
    session: Arc<Session>,
    request: ListLockSessionsRequest,
) -> Result<Answer<ListLockSessionsRequest>, ErrorResponse> {
    let broker = &session.broker;
    let (keeper, home) = broker.lock_keeper(&request.namespace).await?;
    confirm(broker, &keeper, &home).await?;
    let after = request.after.map(SessionNumber);
    let mut found = keeper.sessions(after, PAGE_SESSIONS + 1).await.map_err(gone(broker))?;
    let has_more = found.len() > PAGE_SESSIONS;
    found.truncate(PAGE_SESSIONS);
    let info = |Heard { session, lease_left_ms }: Heard| LockSessionInfo {
        session: session.number.0,
        label: session.label.as_str().to_owned(),
        opened_ms: session.opened.0,
        lease_ms: u32::try_from(session.lease.ms()).unwrap_or(u32::MAX),
        lease_left_ms,
        held: count(session.held),
        waiting: count(session.waiting),
    };
    done(ListLockSessionsResponse { sessions: found.into_iter().map(info).collect(), has_more })
}

/// Only nodes ask this of each other: it would let a client shut out others.
fn from_node(session: &Session) -> Result<(), ErrorResponse> {
    match session.node {
        Some(_) => Ok(()),
        None => {
            let message = "this is asked between nodes only";
            Err(ErrorResponse::new(ErrorCode::InvalidArgument, message))
        }
    }
}

/// Says what is known of a token.
pub(super) async fn check_fence(
    session: Arc<Session>,
    request: CheckFenceRequest,
) -> Result<Answer<CheckFenceRequest>, ErrorResponse> {
    from_node(&session)?;
    done(session.broker.check_fence(&request.fence).await?)
}

/// Raises a floor, or forgets it.
pub(super) async fn raise_floor(
    session: Arc<Session>,
    request: RaiseFloorRequest,
) -> Result<Answer<RaiseFloorRequest>, ErrorResponse> {
    from_node(&session)?;
    done(session.broker.raise_floor(&request).await?)
}

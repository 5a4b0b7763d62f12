//! Namespaces of locks, and what an operator sees of locks and does with them.

use std::sync::Arc;

use plimsoll_protocol::api::{
    CreateNamespaceRequest, DeleteLockRequest, DeleteNamespaceRequest, DescribeLockRequest,
    ForceReleaseLockRequest, ListLockSessionsRequest, ListLocksRequest, ListNamespacesRequest,
    LockDescription, LockInfo, LockSessionInfo, NamespaceInfo, Request, StartPosition,
    namespace_topic,
};
use plimsoll_protocol::error::ErrorCode;
use plimsoll_protocol::ids::PartitionIndex;

use super::bounds;
use super::error::LockError;
use super::watch::{LockWatch, Which};
use crate::client::Shared;
use crate::error::{RequestError, ServerError};
use crate::pulse::Owed;
use crate::requests::Repeat;

const HISTORY_MS_DEFAULT: u64 = 7 * 24 * 3_600_000;

/// A namespace of locks to be created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewLockNamespace {
    /// Its name: 1 to 247 bytes of `A-Z a-z 0-9 . _ -`.
    pub name: String,
    /// Replicas of what it knows. Default 0: the cluster's choice, which is 3, or one on each node where there
    /// are fewer.
    pub replicas: u16,
    /// How long what happened to a lock is kept, in milliseconds; the last of each lock always is. Default 7
    /// days. Longer takes more of the disk.
    pub history_ms: u64,
    /// Whether an existing namespace is fine: it is returned as it is.
    pub if_not_exists: bool,
}

impl NewLockNamespace {
    /// A namespace with the default replicas and history.
    pub fn new(name: impl Into<String>) -> Self {
        let (replicas, history_ms) = (0, HISTORY_MS_DEFAULT);
        Self { name: name.into(), replicas, history_ms, if_not_exists: false }
    }
}

/// Grants of a lock: those that are all that is named here; by default every one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GrantFilter {
    /// Under this token. Readers of one phase share theirs, and permits that were granted together may.
    pub token: Option<u64>,
    /// To this session, which holds a lock once at most.
    pub session: Option<u64>,
}

/// The locks of one namespace, as people look at them.
#[derive(Clone)]
pub struct LockAdmin {
    shared: Arc<Shared>,
    namespace: String,
}

impl crate::Admin {
    /// Creates a namespace of locks.
    ///
    /// # Errors
    /// A name that is taken or not allowed, or nobody answers.
    pub async fn create_lock_namespace(
        &self,
        namespace: NewLockNamespace,
    ) -> Result<NamespaceInfo, RequestError> {
        let NewLockNamespace { name, replicas, history_ms, if_not_exists } = namespace;
        checked(&name)?;
        let repeat = if if_not_exists { Repeat::Freely } else { Repeat::IfRefused };
        let request =
            CreateNamespaceRequest { namespace: name, replicas, history_ms, if_not_exists };
        self.shared.request(request, repeat).await
    }

    /// Deletes a namespace with its locks. `forced`: also one whose locks are held or guard topics.
    ///
    /// # Errors
    /// When there is no such namespace, it is in use, or nobody answers.
    pub async fn delete_lock_namespace(
        &self,
        namespace: &str,
        forced: bool,
    ) -> Result<(), RequestError> {
        checked(namespace)?;
        let request = DeleteNamespaceRequest { namespace: namespace.to_owned(), forced };
        self.shared.request(request, Repeat::IfRefused).await.map(drop)
    }

    /// All namespaces of locks, by name.
    ///
    /// # Errors
    /// When nobody answers.
    pub async fn list_lock_namespaces(&self) -> Result<Vec<NamespaceInfo>, RequestError> {
        let ask = |last: Option<&NamespaceInfo>| ListNamespacesRequest {
            after: last.map(|last| last.namespace.clone()),
        };
        self.shared.list(ask, |page| (page.namespaces, page.has_more)).await
    }

    /// The locks of one namespace.
    pub fn locks(&self, namespace: impl Into<String>) -> LockAdmin {
        LockAdmin { shared: Arc::clone(&self.shared), namespace: namespace.into() }
    }
}

impl LockAdmin {
    /// The locks that are held, waited for or guard topics, and whose name begins with `prefix`, by name.
    ///
    /// # Errors
    /// When there is no such namespace, or nobody answers.
    pub async fn list(&self, prefix: &str) -> Result<Vec<LockInfo>, RequestError> {
        let mut locks: Vec<LockInfo> = Vec::new();
        loop {
            let page = self
                .ask(ListLocksRequest {
                    namespace: self.namespace.clone(),
                    prefix: prefix.to_owned(),
                    after: locks.last().map(|last| last.lock.clone()),
                })
                .await?;
            // An empty page that promises more would be asked for again for ever.
            let ends = !page.has_more || page.locks.is_empty();
            locks.extend(page.locks);
            if ends {
                return Ok(locks);
            }
        }
    }

    /// The sessions, by number, also those that hold and wait for nothing.
    ///
    /// # Errors
    /// When there is no such namespace, or nobody answers.
    pub async fn sessions(&self) -> Result<Vec<LockSessionInfo>, RequestError> {
        let mut sessions: Vec<LockSessionInfo> = Vec::new();
        loop {
            let after = sessions.last().map(|last| last.session);
            let namespace = self.namespace.clone();
            let page = self.ask(ListLockSessionsRequest { namespace, after }).await?;
            // An empty page that promises more would be asked for again for ever.
            let ends = !page.has_more || page.sessions.is_empty();
            sessions.extend(page.sessions);
            if ends {
                return Ok(sessions);
            }
        }
    }

    /// A lock, who holds it and who waits.
    ///
    /// # Errors
    /// When there is no such lock or namespace, or nobody answers.
    pub async fn describe(&self, lock: &str) -> Result<LockDescription, RequestError> {
        let request =
            DescribeLockRequest { namespace: self.namespace.clone(), lock: lock.to_owned() };
        self.ask(request).await
    }

    /// Takes a lock away from those who hold it under these grants. `by` says who does it, for the history. A
    /// holder learns of it late; what it writes with its fence is refused once the next holder was seen.
    ///
    /// # Errors
    /// When there is no such lock, nobody holds it under such a grant, or nobody answers.
    pub async fn force_release(
        &self,
        lock: &str,
        grants: GrantFilter,
        by: &str,
    ) -> Result<(), RequestError> {
        let GrantFilter { token, session } = grants;
        let request = ForceReleaseLockRequest {
            namespace: self.namespace.clone(),
            lock: lock.to_owned(),
            token,
            session,
            by: by.to_owned(),
        };
        self.ask(request).await.map(drop)
    }

    /// Forgets a lock, and its fences in the topics that it guards. `forced`: also while it is held or waited
    /// for. `by` says who does it, for the history.
    ///
    /// # Errors
    /// When there is no such lock, it is in use, or nobody answers.
    pub async fn delete(&self, lock: &str, forced: bool, by: &str) -> Result<(), RequestError> {
        let (namespace, lock, by) = (self.namespace.clone(), lock.to_owned(), by.to_owned());
        self.ask(DeleteLockRequest { namespace, lock, forced, by }).await.map(drop)
    }

    /// What happened to a lock, as far as it is kept, the earliest first; a stream that ends with what is there
    /// now.
    ///
    /// # Errors
    /// When the name is out of bounds, there is no such namespace, or nobody answers.
    pub async fn history(&self, lock: &str) -> Result<LockWatch, LockError> {
        bounds::lock_name(lock)?;
        let which = Which::One(lock.to_owned());
        LockWatch::open(&self.shared, &self.namespace, which, StartPosition::Earliest, true).await
    }

    async fn ask<R>(&self, request: R) -> Result<R::Response, RequestError>
    where
        R: Request + Clone + Send + Sync + 'static,
    {
        let topic = checked(&self.namespace)?;
        let asked = self.shared.request_leader(&topic, PartitionIndex(0), request, Owed::Answer);
        Ok(asked.await?.0)
    }
}

/// A malformed name is refused here as the node would refuse it.
fn checked(namespace: &str) -> Result<plimsoll_protocol::ids::TopicName, RequestError> {
    namespace_topic(namespace).map_err(|error| {
        RequestError::Refused(ServerError {
            code: ErrorCode::InvalidArgument,
            message: format!("the name of a namespace of locks: {error}"),
            leader: None,
            detail: None,
        })
    })
}

impl std::fmt::Debug for LockAdmin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LockAdmin").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

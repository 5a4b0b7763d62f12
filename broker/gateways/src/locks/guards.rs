//! Floors in the topics that locks guard, in every partition, wherever that is led.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use plimsoll_locks::fence::{Fence, FenceName, FloorChange};
use plimsoll_locks::ids::{LockName, NamespaceId, Token};
use plimsoll_locks::keeper::GuardWork;
use plimsoll_protocol::api::{Done, LOCKS_PREFIX, RaiseFloorRequest};
use plimsoll_protocol::error::{ErrorCode, ErrorResponse};
use plimsoll_protocol::ids::{PartitionIndex, TopicName};
use plimsoll_state::catalog::Catalog;

use super::refused;
use crate::broker::Broker;
use crate::native::done;
use crate::refusals;
use crate::routing::Access;

/// Partitions that are asked at once.
const AT_ONCE: usize = 64;
/// Groups that one look has forget floors.
const FORGET_AT_ONCE: usize = 64;

impl Broker {
    /// Has every partition of the guarded topics refuse what is below the grant's token. Topics that do not
    /// exist have nothing to guard.
    ///
    /// # Errors
    /// Where a partition could not be asked: to do all of it again does no harm.
    pub(super) async fn raise_guards(
        self: &Arc<Self>,
        namespace_id: u64,
        work: &GuardWork,
    ) -> Result<(), ErrorResponse> {
        #[cfg(feature = "planted")]
        if plimsoll_log::planted::is_planted(plimsoll_log::planted::Bug::SkipGuards) {
            return Ok(());
        }
        // A topic that was made a moment ago is not one that does not exist.
        if !self.catch_up().await {
            let message = "this node's copy of the catalog is behind; it tries again by itself";
            return Err(ErrorResponse::new(ErrorCode::NotReady, message));
        }
        let lock = work.fence_name().as_str().to_owned();
        self.tell_floors(namespace_id, lock, Some(work.token), &work.topics).await
    }

    /// Has every partition of topics forget a lock that is deleted.
    ///
    /// # Errors
    /// As [`Broker::raise_guards`].
    pub(crate) async fn forget_guards(
        self: &Arc<Self>,
        namespace_id: u64,
        lock: &LockName,
        topics: &BTreeSet<TopicName>,
    ) -> Result<(), ErrorResponse> {
        self.tell_floors(namespace_id, lock.as_str().to_owned(), None, topics).await
    }

    async fn tell_floors(
        self: &Arc<Self>,
        namespace_id: u64,
        lock: String,
        token: Option<Token>,
        topics: &BTreeSet<TopicName>,
    ) -> Result<(), ErrorResponse> {
        let catalog = self.catalog();
        let mut requests = Vec::new();
        for topic in topics {
            let partitions = catalog.topic(topic).map_or(0, |meta| meta.partitions.len());
            requests.extend((0..).map(PartitionIndex).take(partitions).map(|partition| {
                RaiseFloorRequest {
                    topic: topic.clone(),
                    partition,
                    namespace_id,
                    lock: lock.clone(),
                    token: token.map(|token| token.0),
                }
            }));
        }
        let told = requests.into_iter().map(|request| async move {
            let here = || async { done(self.raise_floor(&request).await?) };
            match self.ask_leader(&request, here).await {
                // Its topic was deleted: nothing is left to guard.
                Err(error) if error.code == ErrorCode::UnknownTopic => Ok(()),
                told => told.map(drop),
            }
        });
        stream::iter(told).buffer_unordered(AT_ONCE).try_collect().await
    }

    /// Changes the floors of a partition that this node leads.
    ///
    /// # Errors
    /// Where it does not, or that could not be written.
    pub(crate) async fn raise_floor(
        self: &Arc<Self>,
        request: &RaiseFloorRequest,
    ) -> Result<Done, ErrorResponse> {
        let namespace = NamespaceId(request.namespace_id);
        let change = match request.token {
            Some(token) => {
                let name = FenceName::parse(&request.lock);
                let name = name.map_err(|error| refused::invalid(&error))?;
                FloorChange::Raise(Fence { namespace, name, token: Token(token) })
            }
            None => {
                let lock = LockName::new(&request.lock);
                let lock = lock.map_err(|error| refused::invalid(&error))?;
                FloorChange::PruneLock { namespace, lock }
            }
        };
        let found = self.partition(&request.topic, request.partition, Access::Leader).await?;
        let changed = found.group.change_floors(vec![change]).await;
        changed.map_err(|error| self.located(refusals::propose(&error)))?;
        Ok(Done {})
    }

    /// Has the partitions that this node leads forget the floors of namespaces that are gone.
    pub(super) async fn forget_floors(self: &Arc<Self>, catalog: &Catalog) {
        let known = namespace_ids(catalog);
        let mut gone = Vec::new();
        for group in self.host().all_held() {
            if gone.len() < FORGET_AT_ONCE
                && group.leads()
                && group.floor_namespaces().iter().any(|id| !known.contains(id))
            {
                gone.push(group);
            }
        }
        // One that was made a moment ago is not gone.
        if gone.is_empty() || !self.catch_up().await {
            return;
        }
        let known = namespace_ids(&self.catalog());
        for group in gone {
            let unknown = group.floor_namespaces().into_iter().filter(|id| !known.contains(id));
            let changes = unknown.map(|namespace| FloorChange::PruneNamespace { namespace });
            if let Err(error) = group.change_floors(changes.collect()).await {
                // The next look tries again.
                tracing::debug!(group = %group.id(), %error, "floors of a deleted namespace kept");
            }
        }
    }
}

fn namespace_ids(catalog: &Catalog) -> BTreeSet<NamespaceId> {
    let namespaces = catalog.topics_with_prefix(LOCKS_PREFIX, None);
    namespaces.map(|(_, meta)| NamespaceId(meta.topic_id)).collect()
}

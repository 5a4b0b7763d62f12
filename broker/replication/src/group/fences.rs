//! Writes under a lock: each is let pass or refused by the floors of the partition, and no floor rises
//! while one that was let pass is still to get its place in the log.
//!
//! A floor rises by a control entry, the write comes behind the check that let it pass; so in the log no
//! write under a token lies behind the entry that raised the floor above it. That is why the check need
//! not be repeated where records are folded, where it could only come too late: their offsets are taken.

use std::sync::Arc;
use std::time::Duration;

use plimsoll_locks::fence::{Fence, FenceError, FloorChange, FloorEntry, Judgement};
use plimsoll_locks::ids::NamespaceId;
use plimsoll_protocol::ids::{GroupId, Term};
use thiserror::Error;
use tokio::sync::OwnedRwLockReadGuard;
use tokio::time::timeout;

use super::Group;
use super::lead::Led;
use crate::error::ProposeError;

/// How long a write waits for floors that rise.
const TURN_MAX: Duration = Duration::from_secs(5);
/// How long a floor may take to rise, the wait for writes before it included.
const CHANGE_MAX: Duration = Duration::from_secs(5);

/// Lets writes under one lock be proposed, in the term in which it was given. While it is held no floor
/// of the partition rises: hold it until the write has its place in the log, and no longer.
#[derive(Debug)]
pub struct FencePass {
    pub(super) term: Term,
    _held: OwnedRwLockReadGuard<()>,
}

/// Why a write under a lock is not let pass.
#[derive(Debug, Clone, Error)]
pub enum PassError {
    /// A later holder has been seen, or there is no room for another lock.
    #[error(transparent)]
    Refused(#[from] FenceError),
    /// The token is higher than any that was seen here: once the lock's namespace has confirmed it, the
    /// floor is to be raised.
    #[error("the token was not seen here before, and must be confirmed first")]
    Rises,
    /// A floor of the partition has been rising for long: its quorum may be lost.
    #[error("the fences of group {group} are being changed; try again in a moment")]
    Busy {
        /// The group.
        group: GroupId,
    },
    /// The partition takes nothing here.
    #[error(transparent)]
    Group(#[from] ProposeError),
}

impl Group {
    /// Lets a write under `fence` pass where its token is the highest that was seen here.
    ///
    /// # Errors
    /// When a later holder was seen, the token is new here, or this node does not lead the partition.
    pub async fn pass(self: &Arc<Self>, fence: &Fence) -> Result<FencePass, PassError> {
        let held = timeout(TURN_MAX, Arc::clone(&self.fences).read_owned()).await;
        let held = held.map_err(|_| PassError::Busy { group: self.id() })?;
        let led = self.lead().await.map_err(ProposeError::from)?;
        let group = led.awake.as_ref().expect("lead() returned");
        #[cfg(feature = "planted")]
        if plimsoll_log::planted::is_planted(plimsoll_log::planted::Bug::PassStaleFence)
            && matches!(group.shared.check_fence(fence), Err(FenceError::Stale(_)))
        {
            return Ok(FencePass { term: led.term, _held: held });
        }
        match group.shared.check_fence(fence)? {
            Judgement::Known => Ok(FencePass { term: led.term, _held: held }),
            Judgement::Rises => Err(PassError::Rises),
        }
    }

    /// The namespaces of which floors are kept here; none while the group sleeps.
    #[must_use]
    pub fn floor_namespaces(&self) -> Vec<NamespaceId> {
        self.instance().map_or_else(Vec::new, |instance| instance.shared.floor_namespaces())
    }

    /// Changes the floors, once every write that was let pass has its place in the log, and waits until
    /// that is folded here. A floor that is as high already is left as it is.
    ///
    /// # Errors
    /// When it did not enter the log, or its outcome is unknown: to do it again does no harm.
    ///
    /// # Panics
    /// When the group is the catalog.
    pub async fn change_floors(
        self: &Arc<Self>,
        changes: Vec<FloorChange>,
    ) -> Result<(), ProposeError> {
        // Given up by then, so that writes under other locks get on: to change them again does no harm.
        let changed = timeout(CHANGE_MAX, self.change_alone(changes)).await;
        changed.unwrap_or(Err(ProposeError::Unknown))
    }

    async fn change_alone(self: &Arc<Self>, changes: Vec<FloorChange>) -> Result<(), ProposeError> {
        let _alone = self.fences.write().await;
        let (term, changes) = {
            let Led { awake, term } = self.lead().await?;
            let shared = &awake.as_ref().expect("lead() returned").shared;
            // Where there is no room for a lock, no token of it passes: no former holder's either.
            let is_needed = |change: &FloorChange| match change {
                FloorChange::Raise(fence) => shared.check_fence(fence) == Ok(Judgement::Rises),
                FloorChange::PruneLock { .. } | FloorChange::PruneNamespace { .. } => true,
            };
            (term, changes.into_iter().filter(is_needed).collect::<Vec<_>>())
        };
        if changes.is_empty() {
            return Ok(());
        }
        self.control(FloorEntry { changes }.encode(), term).await
    }
}

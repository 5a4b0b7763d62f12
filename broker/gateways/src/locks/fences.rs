//! Writes under locks. A token that a partition has not seen yet is confirmed by the lock's namespace
//! before it may raise the partition's floor: one that was never granted would shut out who holds the lock.

use std::sync::Arc;

use plimsoll_locks::fence::{Fence, FenceName, FloorChange};
use plimsoll_locks::ids::{NamespaceId, Token};
use plimsoll_locks::state::TokenState;
use plimsoll_protocol::api::{
    CheckFenceRequest, CheckFenceResponse, Fence as Shown, FenceStanding,
};
use plimsoll_protocol::error::{ErrorCode, ErrorResponse};
use plimsoll_protocol::ids::TopicName;
use plimsoll_replication::{FencePass, Group, PassError};

use super::refused;
use super::registry::{topic_of, unknown_namespace};
use crate::broker::Broker;
use crate::native::done;
use crate::refusals;

/// How often a fence is tried whose floor others change meanwhile.
const ATTEMPTS: usize = 4;

impl Broker {
    /// Lets a write under a lock pass in a partition that this node leads. Hold the pass until the write has
    /// its place in the log.
    ///
    /// # Errors
    /// [`ErrorCode::StaleFence`] where a later holder is known, [`ErrorCode::UnknownFence`] where the lock
    /// never granted the token; else where the namespace or the partition cannot be asked.
    pub(crate) async fn fence_pass(
        self: &Arc<Self>,
        group: &Arc<Group>,
        shown: &Shown,
    ) -> Result<FencePass, ErrorResponse> {
        let passed = self.judge_fence(group, shown).await;
        passed.map_err(|error| self.fence_refused(shown, error))
    }

    /// As [`Broker::fence_pass`], for who may answer otherwise than with a refusal. It is not counted: that is
    /// for [`Broker::fence_refused`].
    ///
    /// # Errors
    /// As [`Broker::fence_pass`].
    pub(crate) async fn judge_fence(
        self: &Arc<Self>,
        group: &Arc<Group>,
        shown: &Shown,
    ) -> Result<FencePass, ErrorResponse> {
        let name = FenceName::parse(&shown.lock).map_err(|error| refused::invalid(&error))?;
        let namespace = NamespaceId(self.namespace_id(&shown.namespace).await?);
        let fence = Fence { namespace, name, token: Token(shown.token) };
        for _ in 0..ATTEMPTS {
            match group.pass(&fence).await {
                Ok(pass) => return Ok(pass),
                Err(PassError::Refused(error)) => {
                    return Err(refused::fence(&error, &shown.namespace));
                }
                Err(error @ PassError::Busy { .. }) => {
                    return Err(ErrorResponse::new(ErrorCode::NotReady, error.to_string()));
                }
                Err(PassError::Group(error)) => {
                    return Err(self.located(refusals::propose(&error)));
                }
                Err(PassError::Rises) => {
                    // A namespace that was made anew under its name has another number.
                    if self.ask_about_fence(shown).await? != namespace {
                        let message =
                            "the lock's namespace was made anew; nothing was written, try again";
                        return Err(ErrorResponse::new(ErrorCode::NotReady, message));
                    }
                    let raise = vec![FloorChange::Raise(fence.clone())];
                    let raised = group.change_floors(raise).await;
                    raised.map_err(|error| self.located(refusals::propose(&error)))?;
                }
            }
        }
        let message =
            "the fences of this partition change all the time; nothing was written, try again";
        Err(ErrorResponse::new(ErrorCode::NotReady, message))
    }

    /// As [`Broker::fence_pass`], in a partition whose floors no lock raises before it is granted: its namespace
    /// is asked each time whether it is held still.
    ///
    /// # Errors
    /// As [`Broker::fence_pass`].
    pub(crate) async fn confirmed_pass(
        self: &Arc<Self>,
        group: &Arc<Group>,
        shown: &Shown,
    ) -> Result<FencePass, ErrorResponse> {
        self.confirm_fence(shown).await?;
        self.fence_pass(group, shown).await
    }

    /// Counts what is refused, where that is for a stale fence.
    pub(crate) fn fence_refused(&self, shown: &Shown, error: ErrorResponse) -> ErrorResponse {
        // A namespace that is gone has no counters.
        let is_there = |topic: &TopicName| self.catalog().topic(topic).is_some();
        if error.code == ErrorCode::StaleFence
            && let Some(topic) = topic_of(&shown.namespace).ok().filter(is_there)
        {
            self.lock_counters().of(&topic).stale_fences_refused.add(1);
        }
        error
    }

    /// Asks the lock's namespace about a token, as it is now; answers with the namespace's number.
    ///
    /// # Errors
    /// As [`Broker::fence_pass`].
    pub(crate) async fn confirm_fence(
        self: &Arc<Self>,
        shown: &Shown,
    ) -> Result<NamespaceId, ErrorResponse> {
        let confirmed = self.ask_about_fence(shown).await;
        confirmed.map_err(|error| self.fence_refused(shown, error))
    }

    async fn ask_about_fence(
        self: &Arc<Self>,
        shown: &Shown,
    ) -> Result<NamespaceId, ErrorResponse> {
        let request = CheckFenceRequest { fence: shown.clone() };
        let here = || async { done(self.check_fence(shown).await?) };
        let (asked, _) = self.ask_leader(&request, here).await?;
        let lock = format!("{}/{}", shown.namespace, shown.lock);
        match asked.standing {
            FenceStanding::Held => Ok(NamespaceId(asked.namespace_id)),
            FenceStanding::Past => Err(ErrorResponse::new(
                ErrorCode::StaleFence,
                format!(
                    "the fence is stale: token {} of lock {lock} is over; nothing was written: the lock is \
                     lost, stop and acquire it again",
                    shown.token
                ),
            )
            .with_offset(asked.highest)),
            FenceStanding::NeverGranted => Err(ErrorResponse::new(
                ErrorCode::UnknownFence,
                format!(
                    "lock {lock} has granted no token {}; nothing was written: show the token that the \
                     grant named",
                    shown.token
                ),
            )),
        }
    }

    /// What the namespace, which this node leads, knows of a token.
    ///
    /// # Errors
    /// Where it does not lead, or cannot be sure that it does.
    pub(crate) async fn check_fence(
        self: &Arc<Self>,
        shown: &Shown,
    ) -> Result<CheckFenceResponse, ErrorResponse> {
        let name = FenceName::parse(&shown.lock).map_err(|error| refused::invalid(&error))?;
        let (lock, slot) = name.parts();
        let (keeper, home) = self.lock_keeper(&shown.namespace).await?;
        home.linearizable().await.map_err(|error| self.located(refusals::fresh(&error)))?;
        let state = keeper.check(lock, slot, Token(shown.token)).await;
        let state = state.map_err(|_| self.not_leader(None))?;
        if !keeper.leads(&home) {
            return Err(self.not_leader(None));
        }
        let (standing, highest) = match state {
            TokenState::Held => (FenceStanding::Held, shown.token),
            TokenState::Past { highest } => (FenceStanding::Past, highest.0),
            TokenState::NeverGranted => (FenceStanding::NeverGranted, 0),
        };
        let namespace_id = self.namespace_id(&shown.namespace).await?;
        Ok(CheckFenceResponse { namespace_id, standing, highest })
    }

    /// The number of a namespace, which is never used again.
    ///
    /// # Errors
    /// Where there is none of this name.
    pub(crate) async fn namespace_id(&self, namespace: &str) -> Result<u64, ErrorResponse> {
        let meta = self.topic(&topic_of(namespace)?).await;
        let meta = meta.map_err(|error| match error.code {
            ErrorCode::UnknownTopic => unknown_namespace(namespace),
            _ => error,
        })?;
        Ok(meta.topic_id)
    }
}

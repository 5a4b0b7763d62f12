//! Handing leadership over, and leaving a cluster in order: what this node leads goes to nodes that
//! have everything, before it stops.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use openraft::async_runtime::watch::WatchReceiver as _;
use plimsoll_protocol::ids::{NodeId, Term};
use plimsoll_protocol::peer::Condition;
use thiserror::Error;
use tokio::sync::OwnedMutexGuard;
use tokio::time::timeout;

use crate::error::OpenGroupError;
use crate::group::{Ending, Group};
use crate::host::Host;
use crate::role::Role;
use crate::wake::Awake;

/// Groups that are handed over at a time.
const HANDED_OVER_AT_ONCE: usize = 64;
/// How long a follower may take to have everything, and then to lead.
const STEP_TIMEOUT: Duration = Duration::from_millis(250);

/// Why leadership was not handed over.
#[derive(Debug, Clone, Error)]
pub enum TransferError {
    /// This node does not lead the group.
    #[error("this node does not lead the group")]
    NotLeader,
    /// The node is no voter of the group, or is the leader itself.
    #[error("node {node} is no other voter of the group")]
    NoVoter {
        /// The node.
        node: NodeId,
    },
    /// No other voter lives and has everything.
    #[error("no other voter of the group is reached and has every entry; try again")]
    NobodyReady,
    /// The node did not begin to lead in time. Another election is under way.
    #[error("node {node} did not take over in time; the group elects a leader by itself")]
    NotTaken {
        /// The node.
        node: NodeId,
    },
    /// The group cannot be used.
    #[error(transparent)]
    Group(#[from] OpenGroupError),
}

impl Group {
    /// Hands leadership to `to`, or to the first voter in the order of its placement that has
    /// everything. New proposals wait meanwhile, and are then told who leads. Returns who that is.
    ///
    /// # Errors
    /// [`TransferError`] by cause. Nothing that was acknowledged is lost by any of them.
    pub async fn transfer_leader(
        self: &Arc<Self>,
        to: Option<NodeId>,
    ) -> Result<NodeId, TransferError> {
        let guard = self.lock().await;
        let Some(awake) = &*guard else { return Err(TransferError::NotLeader) };
        let role = awake.standing.borrow().role;
        let Role::Leader { term } = role else { return Err(TransferError::NotLeader) };
        let drain = self.around().config.drain_timeout;
        // What is in flight beyond this has an unknown outcome, and is settled by a retry.
        let _ = timeout(drain, awake.shared.idle()).await;
        let target = self.choose(awake, to).await?;
        // A task of its own: from here on a caller that goes away would leave a leader that is mute.
        let handing_over = tokio::spawn(self.clone().hand_over(guard, term, target));
        handing_over.await.unwrap_or(Err(TransferError::NotTaken { node: target }))
    }

    async fn hand_over(
        self: Arc<Self>,
        guard: OwnedMutexGuard<Option<Awake>>,
        term: Term,
        target: NodeId,
    ) -> Result<NodeId, TransferError> {
        let awake = guard.as_ref().expect("it was just looked at");
        if awake.raft.trigger().transfer_leader(target.0).await.is_ok()
            && timeout(STEP_TIMEOUT, followed(awake, term)).await == Ok(true)
        {
            tracing::info!(group = %self.id(), node = %target, "leadership was handed over");
            return Ok(target);
        }
        // A leader whose transfer did not happen is mute for ever: it takes neither proposals nor
        // elections. Its instance ends, and begins again as a follower.
        tracing::warn!(group = %self.id(), node = %target, "leadership was not taken over in time");
        self.end_instance(guard, Ending::Ended).await;
        if !self.around().closed.load(Ordering::Acquire) {
            let group = self.clone();
            tokio::spawn(async move { group.wake().await });
        }
        Err(TransferError::NotTaken { node: target })
    }

    /// The voter that is to lead: reached, taking on work, and with every entry.
    async fn choose(&self, awake: &Awake, to: Option<NodeId>) -> Result<NodeId, TransferError> {
        let me = self.around().node;
        let neighbours = &self.around().neighbours;
        let configs = awake.standing.borrow().configs.clone();
        let is_voter =
            |node: NodeId| node != me && configs.iter().all(|voters| voters.contains(&node));
        if let Some(node) = to.filter(|node| !is_voter(*node)) {
            return Err(TransferError::NoVoter { node });
        }
        let placed = neighbours.placed(self.id()).map(|placed| placed.wanted);
        let placed = placed.as_deref().unwrap_or_default().iter().copied();
        let in_order: Vec<NodeId> = match to {
            Some(node) => vec![node],
            None => placed.chain(configs.iter().flatten().copied()).collect(),
        };
        let last = self.log().bounds().last.map(|id| id.index.0);
        let mut metrics = awake.raft.data_metrics();
        let ready = async {
            loop {
                {
                    let seen = metrics.borrow_and_update();
                    let matched = |node: &NodeId| {
                        let matched = seen.replication.as_ref()?.get(&node.0)?.as_ref()?;
                        Some(matched.index)
                    };
                    let ready = in_order.iter().find(|node| {
                        let fit = to.is_some() || neighbours.serves(**node);
                        is_voter(**node)
                            && fit
                            && neighbours.reaches(**node)
                            && matched(node) >= last
                    });
                    if let Some(node) = ready {
                        return *node;
                    }
                }
                if metrics.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        timeout(STEP_TIMEOUT, ready).await.map_err(|_| TransferError::NobodyReady)
    }
}

/// Waits until another node leads in a later term than `term`; false where the instance ended before.
async fn followed(awake: &Awake, term: Term) -> bool {
    let mut standing = awake.standing.clone();
    let follows = |role: Role| matches!(role, Role::Follower { term: now, .. } if now > term);
    // The sender goes away with the instance only.
    let settled = standing.wait_for(|standing| follows(standing.role) || standing.ended).await;
    settled.is_ok_and(|standing| follows(standing.role))
}

impl Host {
    /// Takes no leadership any more, tells the others so, and hands over what this node leads, as
    /// far as that can be done at once. Part of [`Host::shutdown`]; earlier is better where clients
    /// are still served.
    pub async fn leave(&self) {
        let neighbours = &self.around().neighbours;
        neighbours.leave();
        if let Some(peers) = neighbours.peers() {
            peers.set_condition(Condition::Stopping);
        }
        stream::iter(self.all_held())
            .for_each_concurrent(HANDED_OVER_AT_ONCE, |group| async move {
                let with_others = group.instance().is_some_and(|instance| {
                    let standing = instance.standing.borrow();
                    standing.role.led_term().is_some() && !standing.is_alone(self.node())
                });
                if with_others && let Err(error) = group.transfer_leader(None).await {
                    tracing::info!(group = %group.id(), %error, "leadership stays until the end");
                }
            })
            .await;
    }
}

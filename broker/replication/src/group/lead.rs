//! Whether this node may propose: it leads, and a quorum has confirmed that a moment ago.

use std::sync::Arc;
use std::time::Duration;

use openraft::Instant as _;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::errors::Fatal;
use plimsoll_protocol::ids::{GroupId, Term};
use tokio::sync::OwnedMutexGuard;
use tokio::time::{Instant, timeout, timeout_at};

use super::Group;
use crate::config::{LEASE, LEASE_RENEWAL_MAX};
use crate::error::{LeadError, NoQuorum, NotLeader, OpenGroupError};
use crate::role::Role;
use crate::types::Types;
use crate::wake::Awake;

/// How long a proposal waits, at most, for the group to find its leader.
const SEARCH_WAIT_MAX: Duration = Duration::from_secs(1);

/// The group's lock, while this node leads it in `term` and may propose.
pub(super) struct Led {
    pub(super) awake: OwnedMutexGuard<Option<Awake>>,
    pub(super) term: Term,
}

impl Group {
    /// The lock, with a Raft instance behind it that leads and may propose.
    pub(super) async fn lead(self: &Arc<Self>) -> Result<Led, LeadError> {
        let mut deadline = None;
        loop {
            self.may_propose()?;
            let awake = self.awake().await.map_err(|error| self.unusable(error))?;
            let group = awake.as_ref().expect("awake() returned");
            let (role, alone, ended) = {
                let standing = group.standing.borrow();
                (standing.role, standing.is_alone(self.around.node), standing.ended)
            };
            if ended {
                let fatal = group.ended().await;
                return Err(self.stopped(awake, fatal).await);
            }
            match role {
                Role::Leader { term } => {
                    if alone || self.renew_lease(group, term).await? {
                        return Ok(Led { awake, term });
                    }
                }
                Role::Follower { leader, .. } => {
                    return Err(NotLeader { leader: Some(leader), address: None }.into());
                }
                Role::Asleep => unreachable!("a group that is awake does not show that it sleeps"),
                Role::Searching { term } => {
                    if let Some(leader) = self.around.neighbours.leader_since(self.id(), term) {
                        return Err(NotLeader { leader: Some(leader), address: None }.into());
                    }
                    let mut standing = group.standing.clone();
                    let configs = standing.borrow().configs.clone();
                    if !configs.is_empty() && !self.around.neighbours.reaches_majority(&configs) {
                        return Err(NoQuorum { group: self.id() }.into());
                    }
                    group.nudge.notify_one();
                    drop(awake);
                    let wait = SEARCH_WAIT_MAX.min(self.around.config.wake_timeout);
                    let deadline = *deadline.get_or_insert_with(|| Instant::now() + wait);
                    let found = standing.wait_for(|standing| {
                        standing.ended || !matches!(standing.role, Role::Searching { .. })
                    });
                    if timeout_at(deadline, found).await.is_err() {
                        return Err(self.not_leader().into());
                    }
                }
            }
        }
    }

    /// Sees to it that this node leads and a quorum has confirmed it of late. Returns whether it is
    /// the only voter.
    pub(crate) async fn lead_for_read(self: &Arc<Self>) -> Result<bool, LeadError> {
        let led = self.lead().await?;
        let awake = led.awake.as_ref().expect("lead() returned");
        let alone = awake.standing.borrow().is_alone(self.around.node);
        Ok(alone)
    }

    /// Whether this node is the one that proposals for a sleeping group go to; an awake one says by
    /// its role.
    fn may_propose(&self) -> Result<(), LeadError> {
        let group = self.id();
        let neighbours = &self.around.neighbours;
        let asleep = *self.published.role.borrow() == Role::Asleep;
        if !asleep || group == GroupId::CATALOG || neighbours.is_unplaced() {
            return Ok(());
        }
        let placed = neighbours.placed(group).ok_or(OpenGroupError::NotPlaced { group })?;
        match neighbours.hint(group, &placed.wanted) {
            Some((node, _)) if node == self.around.node => Ok(()),
            hint => {
                let leader = hint.map(|(node, _)| node);
                Err(NotLeader { leader, address: None }.into())
            }
        }
    }

    /// Another node leads, or none does, as far as this one knows.
    pub(super) fn not_leader(&self) -> NotLeader {
        let leader = match *self.published.role.borrow() {
            Role::Follower { leader, .. } => Some(leader),
            _ => self.around.neighbours.leader_elsewhere(self.id()),
        };
        NotLeader { leader, address: None }
    }

    /// Waits for a while until it is known what the log holds. Whether it is or not, the group is to be
    /// looked at anew: others wait for its lock. Says why, where the Raft instance has ended.
    pub(super) async fn settled(
        &self,
        awake: &Awake,
        term: Term,
    ) -> Result<Option<Fatal<Types>>, LeadError> {
        let configs = awake.standing.borrow().configs.clone();
        tokio::select! {
            biased;
            () = awake.shared.certain() => Ok(None),
            fatal = awake.ended() => Ok(Some(fatal)),
            () = awake.deposed(term) => {
                // It leads no more because it ended: that may be seen before the end itself.
                if awake.standing.borrow().ended {
                    return Ok(Some(awake.ended().await));
                }
                Err(self.not_leader().into())
            }
            () = tokio::time::sleep(LEASE_RENEWAL_MAX) => {
                if !self.around.neighbours.reaches_majority(&configs) {
                    return Err(NoQuorum { group: self.id() }.into());
                }
                Ok(None)
            }
        }
    }

    /// Sees to it that a quorum has confirmed this leader a moment ago. False: it does not lead any
    /// more.
    async fn renew_lease(&self, awake: &Awake, term: Term) -> Result<bool, LeadError> {
        let mut metrics = awake.raft.data_metrics();
        let acked = metrics.borrow_and_update().last_quorum_acked;
        if acked.is_some_and(|at| at.elapsed() < LEASE / 2) {
            return Ok(true);
        }
        let configs = awake.standing.borrow().configs.clone();
        if !self.around.neighbours.reaches_majority(&configs) {
            return Err(NoQuorum { group: self.id() }.into());
        }
        if awake.raft.trigger().heartbeat().await.is_err() {
            return Ok(false);
        }
        let renewed = async {
            while metrics.changed().await.is_ok() {
                let newer = metrics.borrow_and_update().last_quorum_acked;
                if newer > acked {
                    break;
                }
            }
        };
        let leads = || awake.standing.borrow().role == Role::Leader { term };
        tokio::select! {
            biased;
            renewed = timeout(LEASE_RENEWAL_MAX, renewed) => match renewed {
                Ok(()) => Ok(leads()),
                Err(_) if leads() => Err(NoQuorum { group: self.id() }.into()),
                Err(_) => Ok(false),
            },
            () = awake.deposed(term) => Ok(false),
        }
    }
}

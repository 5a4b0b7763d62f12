//! What a partition's leader needs to work it off as a queue, or as a home of consumer groups: the fold, and
//! entries of its own.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use openraft::raft::ClientWriteResult;
use plimsoll_delivery::state::Queues;
use plimsoll_groups::state::Groups;
use plimsoll_locks::state::Locks;
use plimsoll_protocol::batch::BatchHeader;
use plimsoll_protocol::ids::{GroupId, LogId, Term};
use plimsoll_state::partition::{GroupsAnswers, LocksOutcomes};
use tokio::sync::oneshot;

use super::Group;
use super::lead::Led;
use crate::error::ProposeError;
use crate::fold::GroupKind;
use crate::pending::refused;
use crate::reply::Reply;
use crate::types::{Proposal, Types, from_raft};

impl Group {
    /// What `look` sees of the queues as they are folded here; none while the group sleeps. Whoever folds
    /// or proposes waits meanwhile: be short.
    pub fn with_queues<T>(&self, look: impl FnOnce(&Queues) -> T) -> Option<T> {
        Some(self.instance()?.shared.with_queues(look))
    }

    /// What `look` sees of the partition's consumer groups, and of what each command of the last entry about
    /// them came to; nothing when it is asleep. As [`Group::with_queues`]: be short.
    pub fn with_groups<T>(&self, look: impl FnOnce(&Groups, &GroupsAnswers) -> T) -> Option<T> {
        Some(self.instance()?.shared.with_groups(look))
    }

    /// What `look` sees of the locks of the namespace that is this partition, and of what the last entries about
    /// them came to; nothing when it is asleep. As [`Group::with_queues`]: be short.
    pub fn with_locks<T>(&self, look: impl FnOnce(&Locks, &LocksOutcomes) -> T) -> Option<T> {
        Some(self.instance()?.shared.with_locks(look))
    }

    /// Whether a batch would not be stored anew here: it is stored or in flight already, or is refused.
    #[must_use]
    pub fn is_known(&self, header: &BatchHeader) -> bool {
        self.instance().is_some_and(|instance| instance.shared.is_known(header))
    }

    /// Counts as a use of the group: it sleeps later.
    pub fn keep_awake(&self) {
        self.touch();
    }

    /// Proposes a control entry of the partition, in `term` only, and waits until it is folded here. See
    /// [`Group::propose_control`].
    ///
    /// # Errors
    /// When it did not enter the log, or its outcome is unknown: as [`ProposeError`] says.
    ///
    /// # Panics
    /// When the group is the catalog.
    pub async fn control(self: &Arc<Self>, body: Bytes, term: Term) -> Result<(), ProposeError> {
        self.propose_control(body, term).await?.await.map(drop)
    }

    /// Proposes a control entry of the partition, in `term` only. Behind this its place in the log, if it
    /// comes to lie there, is settled; await the [`PendingControl`] for when it is folded here.
    ///
    /// # Errors
    /// When it did not enter the log: as [`ProposeError`] says. In another term than `term` it is not
    /// proposed: `NotLeader`.
    ///
    /// # Panics
    /// When the group is the catalog.
    pub async fn propose_control(
        self: &Arc<Self>,
        body: Bytes,
        term: Term,
    ) -> Result<PendingControl, ProposeError> {
        assert_eq!(self.kind, GroupKind::Partition, "the catalog has commands of its own");
        let led = self.lead().await?;
        if led.term != term {
            return Err(self.not_leader().into());
        }
        let Led { awake, term } = led;
        let group = awake.as_ref().expect("lead() returned");
        let proposal = Proposal::control(body, self.around.clock.unix_ms());
        group.shared.begin_control();
        let (reply, outcome) = Reply::new(group.shared.clone());
        let sent = group.raft.write(proposal).with_leader(term.0).responder(reply).await;
        if let Err(fatal) = sent {
            return Err(self.stopped(awake, fatal).await.into());
        }
        Ok(PendingControl { group: self.id(), outcome })
    }
}

/// A control entry that was proposed: which entry it became, once it is folded. Dropping it does not take the entry
/// back.
#[derive(Debug)]
#[must_use = "whether an entry is in the log is known only from its outcome"]
pub struct PendingControl {
    group: GroupId,
    outcome: oneshot::Receiver<ClientWriteResult<Types>>,
}

impl Future for PendingControl {
    type Output = Result<LogId, ProposeError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match ready!(Pin::new(&mut self.outcome).poll(cx)) {
            Ok(Ok(response)) => Ok(from_raft(&response.log_id)),
            Ok(Err(error)) => Err(refused(self.group, error).into()),
            Err(_) => Err(ProposeError::Unknown),
        })
    }
}

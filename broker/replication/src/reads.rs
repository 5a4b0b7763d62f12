//! Reads that may miss nothing, or nothing older than asked.
//!
//! A linearizable read waits for what was committed at some moment after it began: the leader has a
//! majority confirm it (read index), and the replica that answers waits until it has applied as much.
//! Reads that come while a round is under way wait for the next one: a round proves nothing for whoever
//! came after it began. The leader's lease is not used.
//!
//! A read of bounded staleness asks the leader how far it is and how long ago a majority confirmed
//! that; the time since *asking* is added. All of it is this node's own monotonic time.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::{Instant as _, ReadPolicy};
use plimsoll_protocol::ids::{LogId, NodeId, Offset};
use plimsoll_protocol::peer::{
    CommitMark, CommitOf, CommitOfReply, PeerRequest, ReadIndex, ReadIndexReply, ReadMark,
};
use thiserror::Error;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::error::{LeadError, NoQuorum, NotLeader, OpenGroupError};
use crate::group::{Group, Instance};
use crate::host::Host;
use crate::types::from_raft;

/// How long a read waits for a leader, its answer and the replica, unless it is to be fresher.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a read cannot be as fresh as it must be.
#[derive(Debug, Clone, Error)]
pub enum FreshnessError {
    /// The leader is not known, or was not asked in time.
    #[error(transparent)]
    NotLeader(#[from] NotLeader),
    /// No majority confirms the leader.
    #[error(transparent)]
    NoQuorum(#[from] NoQuorum),
    /// The replica is further behind than the read allows.
    #[error("what this replica has may be {staleness:?} old, more than the {allowed:?} allowed")]
    TooStale {
        /// How old, at most.
        staleness: Duration,
        /// What the reader allows.
        allowed: Duration,
    },
    /// The group cannot be used.
    #[error(transparent)]
    Group(#[from] OpenGroupError),
}

impl From<LeadError> for FreshnessError {
    fn from(error: LeadError) -> Self {
        match error {
            LeadError::NotLeader(error) => Self::NotLeader(error),
            LeadError::NoQuorum(error) => Self::NoQuorum(error),
            LeadError::Group(error) => Self::Group(error),
        }
    }
}

type Answer = Result<(), FreshnessError>;

/// The reads of a group that wait for a round.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    waiting: Mutex<Waiting>,
    /// The last mark of bounded staleness.
    known: Mutex<Option<Known>>,
}

#[derive(Debug, Default)]
struct Waiting {
    readers: Vec<oneshot::Sender<Answer>>,
    is_running: bool,
}

/// The task that makes the rounds of a group.
struct Running<'a>(&'a Reads);

impl Running<'_> {
    /// Those who wait for the next round; nothing, and the task has ended, where nobody does.
    fn next_readers(&self) -> Option<Vec<oneshot::Sender<Answer>>> {
        let mut waiting = self.0.waiting();
        if waiting.readers.is_empty() {
            waiting.is_running = false;
            return None;
        }
        Some(std::mem::take(&mut waiting.readers))
    }
}

impl Drop for Running<'_> {
    /// A round that failed altogether must not keep those who come later waiting for the next one.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut waiting = self.0.waiting();
            waiting.is_running = false;
            waiting.readers.clear();
        }
    }
}

/// Up to this offset the replica has everything that was committed at this moment.
#[derive(Debug, Clone, Copy)]
struct Known {
    as_of: Instant,
    high_watermark: Offset,
}

impl Reads {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().expect("nothing panics while it holds the readers")
    }

    fn known(&self) -> MutexGuard<'_, Option<Known>> {
        self.known.lock().expect("nothing panics while it holds the mark")
    }
}

impl Group {
    /// Waits until this replica has everything that was acknowledged before the call, and returns up
    /// to where a reader sees it. On any replica; a sleeping group is woken.
    ///
    /// # Errors
    /// [`FreshnessError`] by cause.
    pub async fn linearizable(self: &Arc<Self>) -> Result<Offset, FreshnessError> {
        #[cfg(feature = "planted")]
        if plimsoll_log::planted::is_planted(plimsoll_log::planted::Bug::SkipReadIndex) {
            return Ok(*self.high_watermark().borrow());
        }
        let (sender, receiver) = oneshot::channel();
        let begins = {
            let mut waiting = self.reads().waiting();
            waiting.readers.push(sender);
            !std::mem::replace(&mut waiting.is_running, true)
        };
        if begins {
            // A task of its own: a reader that goes away must not end the round of others.
            tokio::spawn(self.clone().run_rounds());
        }
        let answered = receiver.await;
        answered.map_err(|_| nobody())??;
        Ok(*self.high_watermark().borrow())
    }

    async fn run_rounds(self: Arc<Self>) {
        let running = Running(self.reads());
        while let Some(readers) = running.next_readers() {
            let answer = self.round().await;
            for reader in readers {
                // A reader that went away needs no answer.
                let _ = reader.send(answer.clone());
            }
        }
    }

    /// One read index, and the wait for this replica to have applied as much. All of it has one deadline:
    /// those who come later wait for its end.
    async fn round(self: &Arc<Self>) -> Answer {
        let deadline = Instant::now() + READ_TIMEOUT;
        let late = || OpenGroupError::NotReady { group: self.id(), waited: READ_TIMEOUT };
        let mark = match timeout_at(deadline, self.read_index()).await.map_err(|_| late())? {
            Err(LeadError::NotLeader(NotLeader { leader: Some(leader), .. })) => {
                self.ask_leader(leader, deadline).await?
            }
            outcome => outcome?,
        };
        if let Some(id) = mark.id {
            self.applied_by(id, deadline).await?;
        }
        Ok(())
    }

    /// A round of read index where this node leads.
    pub(crate) async fn read_index(self: &Arc<Self>) -> Result<ReadMark, LeadError> {
        self.lead_for_read().await?;
        let instance = self.instance_awake().await?;
        read_mark(self, &instance).await.ok_or_else(|| NoQuorum { group: self.id() }.into())
    }

    async fn ask_leader(
        &self,
        leader: NodeId,
        deadline: Instant,
    ) -> Result<ReadMark, FreshnessError> {
        let request =
            ReadIndex { epoch: self.around().neighbours.epoch(), groups: vec![self.id()] };
        let reply = self.ask(leader, deadline, request).await?;
        // Another one leads by now, or it has no quorum.
        reply.marks.into_iter().next().flatten().ok_or_else(|| nobody().into())
    }

    /// Asks the leader something about this group.
    async fn ask<R: PeerRequest>(
        &self,
        leader: NodeId,
        deadline: Instant,
        request: R,
    ) -> Result<R::Response, FreshnessError> {
        let peers = self.around().neighbours.peers().ok_or_else(nobody)?;
        let reply = timeout_at(deadline, peers.request(leader, request)).await;
        Ok(reply.map_err(|_| nobody())?.map_err(|_| nobody())?)
    }

    async fn applied_by(self: &Arc<Self>, id: LogId, deadline: Instant) -> Answer {
        // Readers see nothing of a group that was not awake yet in this life of the node.
        let is_shown = *self.high_watermark().borrow() > Offset(0);
        if is_shown && self.stored_shown() >= Some(id) {
            return Ok(());
        }
        let instance = self.instance_awake().await?;
        let applied = timeout_at(deadline, instance.shared.shown_at_least(id)).await;
        let waited = READ_TIMEOUT;
        applied.map_err(|_| OpenGroupError::NotReady { group: self.id(), waited }.into())
    }

    /// Waits until what this replica has is at most `allowed` old, and returns up to where a reader
    /// sees it.
    ///
    /// # Errors
    /// [`FreshnessError::TooStale`] where that was not possible within `allowed`, and the other
    /// causes.
    pub async fn fresh_within(
        self: &Arc<Self>,
        allowed: Duration,
    ) -> Result<Offset, FreshnessError> {
        let known = *self.reads().known();
        if let Some(known) = known
            && known.as_of.elapsed() <= allowed
        {
            return Ok(known.high_watermark.max(*self.high_watermark().borrow()));
        }
        let asked = Instant::now();
        let deadline = asked + allowed.max(Duration::from_millis(250));
        let staleness = || known.map_or(Duration::MAX, |known| known.as_of.elapsed());
        let marked = timeout_at(deadline, self.commit_mark()).await;
        let too_late = |_| FreshnessError::TooStale { staleness: staleness(), allowed };
        let mark = match marked.map_err(too_late)? {
            Err(LeadError::NotLeader(NotLeader { leader: Some(leader), .. })) => {
                self.ask_commit(leader, deadline).await?
            }
            outcome => outcome?,
        };
        let age = Duration::from_micros(mark.age_us);
        let as_of = asked.checked_sub(age).unwrap_or(asked);
        if let Some(id) = mark.id
            && self.applied_by(id, deadline).await.is_err()
        {
            return Err(FreshnessError::TooStale { staleness: staleness(), allowed });
        }
        let high_watermark = *self.high_watermark().borrow();
        let known = Known { as_of, high_watermark };
        {
            let mut last = self.reads().known();
            if last.is_none_or(|last| last.as_of < known.as_of) {
                *last = Some(known);
            }
        }
        let staleness = as_of.elapsed();
        if staleness > allowed {
            return Err(FreshnessError::TooStale { staleness, allowed });
        }
        Ok(high_watermark)
    }

    /// How far this leader is committed, and how long ago a majority confirmed it.
    pub(crate) async fn commit_mark(self: &Arc<Self>) -> Result<CommitMark, LeadError> {
        // Renews the lease where it is not fresh.
        let alone = self.lead_for_read().await?;
        let instance = self.instance_awake().await?;
        let metrics = instance.raft.data_metrics();
        let metrics = metrics.borrow_watched();
        let age = match metrics.last_quorum_acked {
            _ if alone => Duration::ZERO,
            Some(at) => at.elapsed(),
            None => return Err(NoQuorum { group: self.id() }.into()),
        };
        Ok(CommitMark {
            id: metrics.local_committed.as_ref().map(from_raft),
            high_watermark: *self.high_watermark().borrow(),
            age_us: u64::try_from(age.as_micros()).unwrap_or(u64::MAX),
        })
    }

    async fn ask_commit(
        &self,
        leader: NodeId,
        deadline: Instant,
    ) -> Result<CommitMark, FreshnessError> {
        let request = CommitOf { epoch: self.around().neighbours.epoch(), groups: vec![self.id()] };
        let reply = self.ask(leader, deadline, request).await?;
        reply.marks.into_iter().next().flatten().ok_or_else(|| nobody().into())
    }
}

impl Host {
    /// The read indexes of groups that this node leads.
    pub(crate) async fn read_indexes(&self, request: ReadIndex) -> ReadIndexReply {
        let rounds = request.groups.into_iter().map(|group| async move {
            let group = self.for_peer(group).ok()?;
            group.read_index().await.ok()
        });
        ReadIndexReply { marks: futures_util::future::join_all(rounds).await }
    }

    /// How far groups that this node leads are committed.
    pub(crate) async fn commit_marks(&self, request: CommitOf) -> CommitOfReply {
        let marks = request.groups.into_iter().map(|group| async move {
            let group = self.for_peer(group).ok()?;
            group.commit_mark().await.ok()
        });
        CommitOfReply { marks: futures_util::future::join_all(marks).await }
    }
}

/// No leader is known, or it gave no answer.
fn nobody() -> NotLeader {
    NotLeader { leader: None, address: None }
}

/// One round of read index at the leader; nothing where this node does not lead or has no quorum.
pub(crate) async fn read_mark(group: &Group, instance: &Instance) -> Option<ReadMark> {
    let read = instance.raft.get_read_log_id(ReadPolicy::ReadIndex);
    let (id, _) = tokio::time::timeout(READ_TIMEOUT, read).await.ok()?.ok()?;
    let high_watermark = *group.high_watermark().borrow();
    Some(ReadMark { id: Some(from_raft(id.log_id())), high_watermark })
}

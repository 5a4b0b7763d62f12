//! openraft's network over the links between nodes: appends on sessions, pipelined; votes, heartbeats
//! and the handing over of leadership as requests.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use openraft::OptionalSend;
use openraft::alias::{SnapshotOf, VoteOf};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError,
    StreamAppendResult, TransferLeaderError, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use plimsoll_log::GroupLog;
use plimsoll_peers::{PeerError, Peers, SessionReceiver};
use plimsoll_protocol::ids::{GroupId, LogId, NodeId};
use plimsoll_protocol::peer::{Appended, NotHere, PeerRequest, TransferLeaderReply};
use tokio::time::{Instant, timeout_at};

use crate::host::Surroundings;
use crate::seeds::send::Seed;
use crate::snapshot::GroupSnapshot;
use crate::types::{Member, Types, from_raft, to_raft};
use crate::wire::{self, vote_from_wire};

/// Makes the ways of one group to its other members.
#[derive(Debug)]
pub(crate) struct GroupNetworks {
    pub(crate) log: Arc<GroupLog>,
    pub(crate) around: Arc<Surroundings>,
}

/// The way of one group to one other member.
#[derive(Debug)]
pub(crate) struct GroupNetwork {
    group: GroupId,
    log: Arc<GroupLog>,
    target: NodeId,
    around: Arc<Surroundings>,
    /// Appends go as single requests, past all that waits on a session.
    unary: bool,
}

impl RaftNetworkFactory<Types> for GroupNetworks {
    type Network = GroupNetwork;

    async fn new_client(&mut self, target: u64, _node: &Member) -> GroupNetwork {
        let (log, around) = (self.log.clone(), self.around.clone());
        let group = log.id();
        GroupNetwork { group, log, target: NodeId(target), around, unary: false }
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &Member) -> GroupNetwork {
        GroupNetwork { unary: true, ..self.new_client(target, node).await }
    }
}

/// How long the news of a commit waits for entries that carry it along. On its own it costs a datagram
/// to each follower and one back, as much as the entry it is about; what waits for it is only what is
/// read from followers.
const COMMIT_HOLD: Duration = Duration::from_millis(5);

/// Whether `request` says nothing but how far the group is committed, to a member that was sent all up
/// to `last`.
fn is_only_commit(request: &AppendEntriesRequest<Types>, last: Option<LogId>) -> bool {
    request.entries.is_empty() && request.prev_log_id.as_ref().map(from_raft) == last
}

type AppendResult = Result<StreamAppendResult<Types>, RPCError<Types>>;

impl GroupNetwork {
    fn peers(&self) -> Result<Peers, RPCError<Types>> {
        self.around.neighbours.peers().cloned().ok_or_else(|| {
            let message = format!("this node has no peers; node {} cannot be reached", self.target);
            Unreachable::from_string(message).into()
        })
    }

    fn epoch(&self) -> u64 {
        self.around.neighbours.epoch()
    }

    async fn request<R: PeerRequest>(&self, request: R) -> Result<R::Response, RPCError<Types>> {
        self.peers()?.request(self.target, request).await.map_err(|error| unreachable(&error))
    }

    async fn heartbeat(&self, request: AppendEntriesRequest<Types>) -> AppendResult {
        let heartbeat = wire::heartbeat(self.group, self.epoch(), &request);
        result(&self.request(heartbeat).await?)
    }
}

impl RaftNetworkV2<Types> for GroupNetwork {
    type SnapshotData = GroupSnapshot;

    async fn append_entries(
        &mut self,
        _request: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        Err(Unreachable::from_string("appends go in streams").into())
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, AppendResult>, RPCError<Types>>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            if self.unary {
                let network = &*self;
                let answers = stream::unfold(input, move |mut input| async move {
                    let request = input.next().await?;
                    Some((network.heartbeat(request).await, input))
                });
                return Ok(answers.boxed());
            }
            let mut input = input.fuse();
            // openraft waits after a failure where its next request is taken, and nowhere else: an
            // error before that would be tried again without a pause, for ever.
            let Some(first) = input.next().await else { return Ok(stream::empty().boxed()) };
            let session = self.peers()?.session(self.target, self.group);
            let session = session.map_err(|error| unreachable(&error))?;
            let (mut sender, receiver) = session.split();
            let unanswered = Unanswered::default();
            let (group, around, noted) = (self.group, self.around.clone(), unanswered.clone());
            let sending = async move {
                let mut next = Some(first);
                let mut told = None;
                while let Some(mut request) = next {
                    let held_until = Instant::now() + COMMIT_HOLD;
                    // Nodes wait for their copy of the catalog.
                    while group != GroupId::CATALOG
                        && told.is_some_and(|last| is_only_commit(&request, last))
                        && let Ok(Some(later)) = timeout_at(held_until, input.next()).await
                    {
                        request = later;
                    }
                    let append = wire::append(group, around.neighbours.epoch(), request);
                    let last = append.entries.last();
                    let last = last.map_or(append.prev, |(header, _)| {
                        Some(LogId::new(header.term, header.index))
                    });
                    told = Some(last);
                    noted.push(last);
                    // Waits for credit: entries stay in the log and not in memory.
                    sender.send(append).await?;
                    next = input.next().await;
                }
                Ok(())
            };
            Ok(answers(Box::pin(sending), receiver, unanswered).boxed())
        })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        _option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let vote = wire::vote(self.group, self.epoch(), &request);
        Ok(wire::vote_response(&self.request(vote).await?))
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types>,
        _option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let vote = wire::pre_vote(self.group, self.epoch(), &request);
        Ok(wire::vote_response(&self.request(vote).await?))
    }

    /// For a voter that fell behind what was purged. It takes the same transfer as a node that becomes a
    /// member; its instance ends for it, and what it voted stays.
    async fn full_snapshot(
        &mut self,
        vote: VoteOf<Types>,
        snapshot: SnapshotOf<Types, GroupSnapshot>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let unreachable = |message: &dyn std::fmt::Display| {
            StreamingError::Unreachable(Unreachable::from_string(message))
        };
        let applied = snapshot.meta.last_log_id.as_ref().map(from_raft);
        let applied = applied.ok_or_else(|| unreachable(&"a snapshot of nothing"))?;
        let (around, log) = (&*self.around, &self.log);
        let state = snapshot.snapshot.state;
        let seed = Seed { around, log, to: self.target, applied, state };
        tokio::select! {
            biased;
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = seed.send() => match sent {
                Ok(()) => Ok(SnapshotResponse::new(vote)),
                Err(error) => {
                    tracing::warn!(group = %self.group, node = %self.target, %error, "no snapshot was sent");
                    Err(unreachable(&error))
                }
            },
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        _option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        let transfer = wire::transfer(self.group, self.epoch(), &request);
        Ok(match self.request(transfer).await? {
            TransferLeaderReply::Taken(_) => Ok(()),
            TransferLeaderReply::VoteChanged(vote) => Err(TransferLeaderError::VoteChanged {
                expected: *request.from_leader(),
                actual: vote_from_wire(vote),
            }),
            TransferLeaderReply::Behind(last) => Err(TransferLeaderError::LogNotFlushed {
                expected: request.last_log_id().copied(),
                actual: last.map(to_raft),
            }),
        })
    }
}

/// The last entry of each append that was sent and is not answered, the oldest first.
#[derive(Debug, Clone, Default)]
struct Unanswered(Arc<Mutex<VecDeque<Option<LogId>>>>);

impl Unanswered {
    fn push(&self, last: Option<LogId>) {
        self.0.lock().expect("nothing panics while it holds the queue").push_back(last);
    }

    /// Answers are cumulative.
    fn settle(&self, matched: Option<LogId>) {
        let mut queue = self.0.lock().expect("nothing panics while it holds the queue");
        while queue.front().is_some_and(|last| *last <= matched) {
            queue.pop_front();
        }
    }

    fn is_empty(&self) -> bool {
        self.0.lock().expect("nothing panics while it holds the queue").is_empty()
    }
}

type Sending = Pin<Box<dyn Future<Output = Result<(), PeerError>> + Send>>;

/// The answers of a session, while `sending` is driven beside them. Ends after the last answer once
/// the requests have ended, or with the first error.
fn answers(
    sending: Sending,
    receiver: SessionReceiver,
    unanswered: Unanswered,
) -> impl Stream<Item = AppendResult> + Send {
    let begin = (Some(sending), receiver, unanswered, false);
    stream::unfold(begin, |(mut sending, mut receiver, unanswered, ended)| async move {
        if ended {
            return None;
        }
        loop {
            if sending.is_none() && unanswered.is_empty() {
                return None;
            }
            tokio::select! {
                biased;
                answer = receiver.recv() => {
                    let answer = answer.map_err(|error| unreachable(&error)).and_then(|answer| result(&answer));
                    let ended = match &answer {
                        Ok(Ok(matched)) => {
                            unanswered.settle(matched.as_ref().map(from_raft));
                            false
                        }
                        _ => true,
                    };
                    return Some((answer, (sending, receiver, unanswered, ended)));
                }
                sent = drive(&mut sending) => {
                    sending = None;
                    if let Err(error) = sent {
                        let answer = Err(unreachable(&error));
                        return Some((answer, (sending, receiver, unanswered, true)));
                    }
                }
            }
        }
    })
}

async fn drive(sending: &mut Option<Sending>) -> Result<(), PeerError> {
    match sending {
        Some(sending) => sending.await,
        None => std::future::pending().await,
    }
}

fn result(answer: &Appended) -> AppendResult {
    match *answer {
        Appended::Ok(matched) => Ok(Ok(matched.map(to_raft))),
        Appended::Conflict(id) => Ok(Err(StreamAppendError::Conflict(to_raft(id)))),
        Appended::HigherVote(vote) => Ok(Err(StreamAppendError::HigherVote(vote_from_wire(vote)))),
        // A new session wakes the other side.
        Appended::NotHere(reason @ (NotHere::NoSession | NotHere::Waking)) => {
            Err(NetworkError::from_string(reason).into())
        }
        Appended::NotHere(reason) => Err(Unreachable::from_string(reason).into()),
    }
}

/// The only kind of failure after which openraft waits before it tries again.
fn unreachable(error: &PeerError) -> RPCError<Types> {
    Unreachable::new(error).into()
}

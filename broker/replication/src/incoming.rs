//! What other nodes send to this node's groups: appends, votes, claims.
//!
//! Votes are answered here, without openraft, where a node leads the group by its own word, is heard,
//! and itself reaches a majority: openraft's lease lapses in a group without traffic, and any node
//! that lost a link would depose a healthy leader. Refusing a vote is always safe.

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};

use futures_util::{StreamExt, stream};
use plimsoll_log::Durability;
use plimsoll_peers::{BoxFuture, Handler, IncomingAppends, IncomingSession};
use plimsoll_protocol::ids::{GroupId, LogId, NodeId};
use plimsoll_protocol::peer::{
    AnyPeerMessage, AnyPeerRequest, AnyPeerResponse, Append, Appended, Heartbeat, NotHere,
    PeerFailure, PeerFailureCode, RaftVote, TransferLeader, TransferLeaderReply, VoteReply,
};
use plimsoll_transport::{FrameReceiver, FrameSender};
use tokio::sync::oneshot;

use crate::error::OpenGroupError;
use crate::group::{Group, Instance, TakenBack};
use crate::host::Host;
use crate::seeds::receive::receive;
use crate::shared::Shared;
use crate::types::{Types, from_raft};
use crate::wire::{self, vote_to_wire};

/// See the module.
#[derive(Debug)]
struct Incoming {
    host: Weak<Host>,
}

pub(crate) fn handler(host: &Arc<Host>) -> Arc<dyn Handler> {
    Arc::new(Incoming { host: Arc::downgrade(host) })
}

impl Handler for Incoming {
    fn request(
        &self,
        from: NodeId,
        request: AnyPeerRequest,
    ) -> BoxFuture<'static, Result<AnyPeerResponse, PeerFailure>> {
        let host = self.host.upgrade();
        Box::pin(async move {
            let Some(host) = host else {
                return Err(PeerFailure::new(PeerFailureCode::Stopping, "the node is going down"));
            };
            answer(&host, from, request).await
        })
    }

    fn message(&self, from: NodeId, message: AnyPeerMessage) {
        let Some(host) = self.host.upgrade() else { return };
        match message {
            AnyPeerMessage::Leads(leads) => {
                let claimed: Vec<GroupId> = leads.add.iter().map(|claim| claim.group).collect();
                let gone = host.around().neighbours.heard(from, leads);
                host.nudge(&gone);
                // Who restarted is followed again once it says that it leads.
                host.nudge(&claimed);
            }
            AnyPeerMessage::Wake(wake) => {
                for group in wake.groups {
                    if let Ok(group) = host.for_peer(group) {
                        // A vote or an append follows, and is told what fails.
                        tokio::spawn(async move { group.wake().await });
                    }
                }
            }
            AnyPeerMessage::Digest(digest) => host.reconcile(from, &digest),
        }
    }

    fn session(&self, from: NodeId, group: GroupId, session: IncomingSession) {
        if let Some(host) = self.host.upgrade() {
            tokio::spawn(serve(host, from, group, session));
        }
    }

    fn linked(&self, node: NodeId) {
        if let Some(host) = self.host.upgrade() {
            host.around().neighbours.linked(node);
            host.send_digest(node);
        }
    }

    fn unlinked(&self, node: NodeId) {
        if let Some(host) = self.host.upgrade() {
            host.around().neighbours.unlinked(node);
        }
    }

    fn seed(&self, from: NodeId, sender: FrameSender, receiver: FrameReceiver) {
        tokio::spawn(receive(self.host.clone(), from, sender, receiver));
    }
}

async fn answer(
    host: &Arc<Host>,
    from: NodeId,
    request: AnyPeerRequest,
) -> Result<AnyPeerResponse, PeerFailure> {
    match request {
        AnyPeerRequest::Heartbeat(heartbeat) => Ok(beat(host, &heartbeat).await.into()),
        AnyPeerRequest::PreVote(vote) => {
            let ballot = Ballot { from, vote: vote.vote, last: vote.last, is_real: false };
            Ok(ballot.cast(host, vote.group, vote.epoch, false).await?.into())
        }
        AnyPeerRequest::Vote(vote) => {
            let ballot = Ballot { from, vote: vote.vote, last: vote.last, is_real: true };
            Ok(ballot.cast(host, vote.group, vote.epoch, vote.transfer).await?.into())
        }
        AnyPeerRequest::TransferLeader(transfer) => Ok(take_over(host, &transfer).await?.into()),
        AnyPeerRequest::CommitOf(request) => Ok(host.commit_marks(request).await.into()),
        AnyPeerRequest::Sleep(request) => Ok(host.sleep(from, request).await.into()),
        AnyPeerRequest::Forward(forward) => Ok(host.forwarded(forward).await?.into()),
        AnyPeerRequest::StoreBatch(request) => Ok(host.store_for(request).await?.into()),
        AnyPeerRequest::ReadIndex(request) => Ok(host.read_indexes(request).await.into()),
        AnyPeerRequest::GroupStatus(request) => Ok(host.group_status(request).await.into()),
        AnyPeerRequest::Step(step) => Ok(host.step(step).await?.into()),
        AnyPeerRequest::DropReplica(request) => Ok(host.told_to_drop(from, &request).await?.into()),
    }
}

/// The group's Raft instance; woken if it sleeps.
async fn instance(host: &Host, group: GroupId) -> Result<(Arc<Group>, Instance), OpenGroupError> {
    let group = host.for_peer(group)?;
    let instance = group.instance_awake().await?;
    Ok((group, instance))
}

/// A vote that is asked for, or, where it is not real, asked about.
struct Ballot {
    from: NodeId,
    vote: RaftVote,
    last: Option<LogId>,
    is_real: bool,
}

impl Ballot {
    async fn cast(
        self,
        host: &Host,
        group: GroupId,
        epoch: u64,
        transfer: bool,
    ) -> Result<VoteReply, PeerFailure> {
        if self.vote.node != self.from {
            return Err(PeerFailure::new(
                PeerFailureCode::Malformed,
                format!("node {} asks for a vote for node {}", self.from, self.vote.node),
            ));
        }
        let held = host.for_peer_at(group, epoch).await.map_err(|error| failure(&error))?;
        if let Some(source) = held.log().is_quarantined() {
            return Err(failure(&OpenGroupError::Quarantined { group, source }));
        }
        if !transfer && let Some(refusal) = self.shielded(host, &held) {
            return Ok(refusal);
        }
        let instance = held.instance_awake().await.map_err(|error| failure(&error))?;
        if let Some(refusal) = without_log(host, &held) {
            return Ok(refusal);
        }
        let mut request = wire::vote_request(self.vote, self.last);
        request.leadership_transfer = transfer;
        let response = if self.is_real {
            instance.raft.vote(request).await
        } else {
            instance.raft.pre_vote(request).await
        };
        let response = response.map_err(|error| {
            PeerFailure::new(PeerFailureCode::NotHere, format!("group {group}: {error}"))
        })?;
        Ok(wire::vote_reply(&response))
    }

    /// The refusal, where another node leads the group and can be believed, or where this replica may
    /// have forgotten what it answered for.
    fn shielded(&self, host: &Host, group: &Group) -> Option<VoteReply> {
        let neighbours = &host.around().neighbours;
        let own = own_vote(group);
        let configs = match group.instance() {
            Some(instance) => instance.standing.borrow().configs.clone(),
            None => {
                let placed = neighbours.placed(group.id())?;
                let voters: BTreeSet<_> = placed.wanted.iter().copied().collect();
                [voters].into()
            }
        };
        let candidate = Some(self.from);
        let is_led = !configs.is_empty()
            && neighbours.is_shielded(group.id(), own.term, candidate, &configs);
        let last = group.log().bounds().last;
        // Who has more than what is left here lost less, and stands for election: who may have lost
        // something does not.
        let in_doubt = self.last <= last && host.around().doubt(group.log()).is_some();
        (is_led || in_doubt).then_some(VoteReply { vote: own, last, granted: false })
    }
}

/// The refusal of a replica whose whole log was taken away: it was removed and dropped. It answered for entries
/// that it does not know, and a member that was removed as well may ask it, whose last membership has them both.
///
/// A voter that never had an entry is none of these: it has answered for nothing, and its vote may be needed. Nor is
/// a replica without durability that lost its log with its power: there the greatest log that is left wins.
fn without_log(host: &Host, group: &Group) -> Option<VoteReply> {
    let log = group.log();
    let has_none = log.bounds().last.is_none() && log.bounds().purged.is_none();
    let was_dropped = match log.options().durability {
        Durability::Durable => log.branch() > 0,
        Durability::Memory => {
            let placed = host.around().neighbours.placed(group.id());
            !placed.is_some_and(|placed| placed.wanted.contains(&host.node()))
        }
    };
    let refused = || VoteReply { vote: own_vote(group), last: None, granted: false };
    (has_none && was_dropped).then(refused)
}

fn own_vote(group: &Group) -> RaftVote {
    group.log().vote().map_or_else(RaftVote::default, |vote| RaftVote {
        term: vote.term,
        node: vote.voted_for,
        committed: vote.committed,
    })
}

async fn beat(host: &Host, heartbeat: &Heartbeat) -> Appended {
    if let Ok(group) = host.for_peer(heartbeat.group)
        && let Some(answer) =
            group.answer_asleep(heartbeat.vote, heartbeat.prev, heartbeat.commit).await
    {
        return answer;
    }
    let (group, instance) = match instance(host, heartbeat.group).await {
        Ok(found) => found,
        Err(error) => return Appended::NotHere(not_here(&error)),
    };
    let request = wire::heartbeat_request(heartbeat);
    if let Some(taken_back) = group.taken_back(&instance.shared, &request).await {
        return Appended::NotHere(give_up(host, &group, taken_back).await);
    }
    let mut answers = Box::pin(instance.raft.stream_append(stream::iter([request])));
    match answers.next().await {
        Some(Ok(result)) => wire::appended(&result),
        Some(Err(_)) | None => Appended::NotHere(NotHere::NoSession),
    }
}

async fn take_over(
    host: &Host,
    transfer: &TransferLeader,
) -> Result<TransferLeaderReply, PeerFailure> {
    use openraft::raft::TransferLeaderError;

    if !host.around().neighbours.may_lead() {
        return Err(PeerFailure::new(PeerFailureCode::Stopping, "the node is going down"));
    }
    let found = instance(host, transfer.group).await.map_err(|error| failure(&error))?;
    let (_, instance) = found;
    let taken = instance.raft.handle_transfer_leader(wire::transfer_request(transfer)).await;
    match taken {
        Ok(Ok(())) => Ok(TransferLeaderReply::Taken(transfer.from)),
        Ok(Err(TransferLeaderError::VoteChanged { actual, .. })) => {
            Ok(TransferLeaderReply::VoteChanged(vote_to_wire(&actual)))
        }
        Ok(Err(TransferLeaderError::LogNotFlushed { actual, .. })) => {
            Ok(TransferLeaderReply::Behind(actual.as_ref().map(from_raft)))
        }
        Err(fatal) => Err(PeerFailure::new(PeerFailureCode::NotHere, fatal.to_string())),
    }
}

/// Serves an append session until it ends.
async fn serve(host: Arc<Host>, from: NodeId, group: GroupId, session: IncomingSession) {
    let (mut appends, mut answers) = session.split();
    let Some(mut first) = appends.recv().await else { return };
    if let Ok(group) = host.for_peer_at(group, first.epoch).await {
        while first.entries.is_empty()
            && let Some(answer) = group.answer_asleep(first.vote, first.prev, first.commit).await
        {
            if answers.send(answer).is_err() {
                return;
            }
            let Some(next) = appends.recv().await else { return };
            first = next;
        }
    }
    let found = instance(&host, group).await;
    // The session must not keep the host.
    let may_be_gone = Arc::downgrade(&host);
    drop(host);
    let (held, instance) = match found {
        Ok(found) => found,
        Err(error) => {
            tracing::debug!(%group, node = %from, %error, "an append finds no replica");
            // The link may be gone by now, and with it whoever asks.
            let _ = answers.send(Appended::NotHere(not_here(&error)));
            return;
        }
    };
    let (refuse, refused) = oneshot::channel();
    let begin = (Some(first), appends);
    let requests = checked(held.clone(), instance.shared.clone(), from, begin, refuse);
    let mut results = Box::pin(instance.raft.stream_append(requests));
    while let Some(result) = results.next().await {
        let (answer, ended) = match result {
            Ok(result) => {
                let ended = result.is_err();
                (wire::appended(&result), ended)
            }
            Err(_) => {
                // In order, to sleep: a new session wakes it.
                let stopped = held.log().is_quarantined().is_some();
                let reason = if stopped { NotHere::Quarantined } else { NotHere::NoSession };
                (Appended::NotHere(reason), true)
            }
        };
        if answers.send(answer).is_err() || ended {
            return;
        }
    }
    let reason = match refused.await {
        Ok(Refusal::Malformed) => NotHere::Quarantined,
        Ok(Refusal::TakenBack(taken_back)) => match may_be_gone.upgrade() {
            Some(host) => give_up(&host, &held, taken_back).await,
            None => NotHere::Stopping,
        },
        Err(_) => return,
    };
    let _ = answers.send(Appended::NotHere(reason));
}

/// Why a request does not get to the group's Raft instance, and ends its session.
enum Refusal {
    /// Its entries cannot be.
    Malformed,
    /// It takes back what is committed here.
    TakenBack(TakenBack),
}

/// The requests of a session; ends at one that is refused.
fn checked(
    group: Arc<Group>,
    shared: Arc<Shared>,
    from: NodeId,
    (first, appends): (Option<Append>, IncomingAppends),
    refuse: oneshot::Sender<Refusal>,
) -> impl futures_util::Stream<Item = openraft::raft::AppendEntriesRequest<Types>> + Send + 'static
{
    let begin = (group, shared, first, appends, refuse);
    stream::unfold(begin, move |(group, shared, first, mut appends, refuse)| async move {
        let append = match first {
            Some(first) => first,
            None => appends.recv().await?,
        };
        let refusal = match wire::append_request(append) {
            Ok(request) => match group.taken_back(&shared, &request).await {
                None => return Some((request, (group, shared, None, appends, refuse))),
                Some(taken_back) => Refusal::TakenBack(taken_back),
            },
            Err(fault) => {
                tracing::error!(group = %group.id(), node = %from, %fault, "an append is refused");
                Refusal::Malformed
            }
        };
        // The session may have ended for another reason.
        let _ = refuse.send(refusal);
        None
    })
}

/// Gives up a replica whose leader takes back what is committed in it.
async fn give_up(host: &Host, group: &Arc<Group>, taken_back: TakenBack) -> NotHere {
    group.give_up(taken_back, || host.forget_safety(group.id())).await
}

/// Why a group cannot be used here, to another node.
fn not_here(error: &OpenGroupError) -> NotHere {
    match error {
        OpenGroupError::Quarantined { .. }
        | OpenGroupError::DamagedState { .. }
        | OpenGroupError::MissingEntries { .. } => NotHere::Quarantined,
        OpenGroupError::Storage { .. } => NotHere::StorageFailed,
        OpenGroupError::NotReady { .. } => NotHere::Waking,
        OpenGroupError::NotPlaced { .. } | OpenGroupError::Deleted { .. } => NotHere::NoReplica,
        OpenGroupError::ShuttingDown => NotHere::Stopping,
    }
}

pub(crate) fn failure(error: &OpenGroupError) -> PeerFailure {
    let code = match error {
        OpenGroupError::ShuttingDown => PeerFailureCode::Stopping,
        OpenGroupError::Storage { .. } => PeerFailureCode::StorageFailed,
        _ => PeerFailureCode::NotHere,
    };
    PeerFailure::new(code, error.to_string())
}

//! openraft's messages as frames between nodes say them.

use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, StreamAppendResult, TransferLeaderRequest,
    VoteRequest, VoteResponse,
};
use plimsoll_log::LogEntry;
use plimsoll_protocol::batch::BatchHeader;
use plimsoll_protocol::ids::{GroupId, LogId, NodeId, Term};
use plimsoll_protocol::peer::{
    Append, Appended, Heartbeat, PreVote, RaftVote, TransferLeader, Vote, VoteReply,
};

use crate::types::{self, Entry, Types, from_raft, to_raft};

pub(crate) fn vote_to_wire(vote: &types::RaftVote) -> RaftVote {
    RaftVote {
        term: Term(vote.leader_id.term),
        node: NodeId(vote.leader_id.voted_for),
        committed: vote.committed,
    }
}

pub(crate) fn vote_from_wire(vote: RaftVote) -> types::RaftVote {
    let (term, node) = (vote.term.0, vote.node.0);
    if vote.committed {
        types::RaftVote::new_committed(term, node)
    } else {
        types::RaftVote::new(term, node)
    }
}

pub(crate) fn append(group: GroupId, epoch: u64, request: AppendEntriesRequest<Types>) -> Append {
    let entries = request.entries.into_iter().map(|entry| {
        let LogEntry { header, body } = entry.into();
        (header, body)
    });
    Append {
        group,
        epoch,
        vote: vote_to_wire(&request.vote),
        prev: request.prev_log_id.as_ref().map(from_raft),
        commit: request.leader_commit.as_ref().map(from_raft),
        entries: entries.collect(),
    }
}

/// What is wrong with an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AppendFault {
    #[error("entry {found} follows entry {prev:?}")]
    NotNext { prev: Option<LogId>, found: LogId },
    #[error("entry {found} is of a later term than its sender, which leads in {term}")]
    LaterTerm { found: LogId, term: Term },
    #[error("the body of entry {found} does not match its checksum")]
    Checksum { found: LogId },
}

/// The request of an append, with its entries checked: they follow each other, none is of a later
/// term than its sender leads in, and their bodies match their checksums.
pub(crate) fn append_request(append: Append) -> Result<AppendEntriesRequest<Types>, AppendFault> {
    let mut prev = append.prev;
    let mut entries = Vec::with_capacity(append.entries.len());
    for (header, body) in append.entries {
        let BatchHeader { term, index, .. } = header;
        let found = LogId::new(term, index);
        let follows = match prev {
            Some(prev) => prev.index.0.checked_add(1) == Some(index.0) && prev.term <= term,
            None => index.0 == 0,
        };
        if !follows {
            return Err(AppendFault::NotNext { prev, found });
        }
        if term > append.vote.term {
            return Err(AppendFault::LaterTerm { found, term: append.vote.term });
        }
        if !header.check_body_crc(&body) {
            return Err(AppendFault::Checksum { found });
        }
        prev = Some(found);
        entries.push(Entry::from_leader(LogEntry { header, body }));
    }
    Ok(AppendEntriesRequest {
        vote: vote_from_wire(append.vote),
        prev_log_id: append.prev.map(to_raft),
        entries,
        leader_commit: append.commit.map(to_raft),
    })
}

pub(crate) fn heartbeat(
    group: GroupId,
    epoch: u64,
    request: &AppendEntriesRequest<Types>,
) -> Heartbeat {
    Heartbeat {
        group,
        epoch,
        vote: vote_to_wire(&request.vote),
        prev: request.prev_log_id.as_ref().map(from_raft),
        commit: request.leader_commit.as_ref().map(from_raft),
    }
}

pub(crate) fn heartbeat_request(heartbeat: &Heartbeat) -> AppendEntriesRequest<Types> {
    AppendEntriesRequest {
        vote: vote_from_wire(heartbeat.vote),
        prev_log_id: heartbeat.prev.map(to_raft),
        entries: Vec::new(),
        leader_commit: heartbeat.commit.map(to_raft),
    }
}

pub(crate) fn appended(result: &StreamAppendResult<Types>) -> Appended {
    match result {
        Ok(matched) => Appended::Ok(matched.as_ref().map(from_raft)),
        Err(StreamAppendError::Conflict(id)) => Appended::Conflict(from_raft(id)),
        Err(StreamAppendError::HigherVote(vote)) => Appended::HigherVote(vote_to_wire(vote)),
    }
}

pub(crate) fn vote(group: GroupId, epoch: u64, request: &VoteRequest<Types>) -> Vote {
    Vote {
        group,
        epoch,
        vote: vote_to_wire(&request.vote),
        last: request.last_log_id.as_ref().map(from_raft),
        transfer: request.leadership_transfer,
    }
}

pub(crate) fn pre_vote(group: GroupId, epoch: u64, request: &VoteRequest<Types>) -> PreVote {
    let Vote { vote, last, .. } = vote(group, epoch, request);
    PreVote { group, epoch, vote, last }
}

pub(crate) fn vote_request(vote: RaftVote, last: Option<LogId>) -> VoteRequest<Types> {
    VoteRequest::new(vote_from_wire(vote), last.map(to_raft))
}

pub(crate) fn vote_reply(response: &VoteResponse<Types>) -> VoteReply {
    VoteReply {
        vote: vote_to_wire(&response.vote),
        last: response.last_log_id.as_ref().map(from_raft),
        granted: response.vote_granted,
    }
}

pub(crate) fn vote_response(reply: &VoteReply) -> VoteResponse<Types> {
    VoteResponse::new(vote_from_wire(reply.vote), reply.last.map(to_raft), reply.granted)
}

pub(crate) fn transfer(
    group: GroupId,
    epoch: u64,
    request: &TransferLeaderRequest<Types>,
) -> TransferLeader {
    TransferLeader {
        group,
        epoch,
        from: vote_to_wire(request.from_leader()),
        to: NodeId(*request.to_node_id()),
        last: request.last_log_id().map(from_raft),
    }
}

pub(crate) fn transfer_request(transfer: &TransferLeader) -> TransferLeaderRequest<Types> {
    let from = vote_from_wire(transfer.from);
    TransferLeaderRequest::new(from, transfer.to.0, transfer.last.map(to_raft))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use plimsoll_protocol::batch::EntryKind;
    use plimsoll_protocol::ids::LogIndex;

    use super::*;

    fn entry(term: u64, index: u64) -> (BatchHeader, Bytes) {
        let body = Bytes::from_static(b"control");
        let mut header = BatchHeader::for_entry(EntryKind::Control, &body);
        (header.term, header.index) = (Term(term), LogIndex(index));
        (header, body)
    }

    fn example(prev: Option<(u64, u64)>, entries: Vec<(BatchHeader, Bytes)>) -> Append {
        Append {
            group: GroupId(1),
            epoch: 0,
            vote: RaftVote { term: Term(3), node: NodeId(2), committed: true },
            prev: prev.map(|(term, index)| LogId::new(Term(term), LogIndex(index))),
            commit: None,
            entries,
        }
    }

    #[test]
    fn append_comes_back_as_it_was_sent() {
        let sent = example(Some((1, 4)), vec![entry(2, 5), entry(3, 6)]);
        let request = append_request(sent.clone()).unwrap();
        assert_eq!(append(GroupId(1), 0, request), sent);
    }

    #[test]
    fn entries_that_cannot_be_are_refused() {
        let refused = |append| append_request(append).unwrap_err();
        let gap = refused(example(Some((1, 4)), vec![entry(2, 6)]));
        assert!(matches!(gap, AppendFault::NotNext { .. }));
        let first = refused(example(None, vec![entry(2, 1)]));
        assert!(matches!(first, AppendFault::NotNext { prev: None, .. }));
        let back = refused(example(Some((2, 4)), vec![entry(1, 5)]));
        assert!(matches!(back, AppendFault::NotNext { .. }));
        let late = refused(example(Some((1, 4)), vec![entry(4, 5)]));
        assert!(matches!(late, AppendFault::LaterTerm { .. }));
        let (header, _) = entry(2, 5);
        let damaged = (header, Bytes::from_static(b"CONTROL"));
        let changed = refused(example(Some((1, 4)), vec![damaged]));
        assert!(matches!(changed, AppendFault::Checksum { .. }));
    }
}

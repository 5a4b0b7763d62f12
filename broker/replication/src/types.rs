//! openraft's type configuration: entries are the log's own, so nothing is converted or copied
//! between Raft and the log.

use std::fmt;

use bytes::Bytes;
use openraft::alias::{CommittedLeaderIdOf, LogIdOf, StoredMembershipOf, VoteOf};
use openraft::entry::{RaftEntry, RaftPayload};
use openraft::impls::leader_id_std::LeaderId;
use openraft::{OptionalSend, RaftTypeConfig};

use plimsoll_log::LogEntry;
use plimsoll_protocol::batch::{BatchHeader, EntryKind};
use plimsoll_protocol::ids::{LogId, LogIndex, NodeId, Offset, Term};
use plimsoll_state::catalog::CatalogReply;

use crate::membership;
use crate::reply::Reply;
use crate::runtime::Runtime;

/// The types of every group's Raft: standard leader ids (one leader per term), our own entries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Types;

impl RaftTypeConfig for Types {
    type D = Proposal;
    type R = Applied;
    type NodeId = u64;
    type Node = Member;
    type Term = u64;
    type LeaderId = LeaderId<u64, u64>;
    type Vote = openraft::impls::Vote<Self::LeaderId>;
    type Payload = Payload;
    type Entry = Entry;
    type AsyncRuntime = Runtime;
    type Responder<T>
        = Reply<T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

pub(crate) type RaftLogId = LogIdOf<Types>;
pub(crate) type RaftVote = VoteOf<Types>;
pub(crate) type Leader = CommittedLeaderIdOf<Types>;
pub(crate) type Membership = openraft::Membership<u64, Member>;
pub(crate) type StoredMembership = StoredMembershipOf<Types>;

/// Where a member of a group is found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Member {
    /// `host:port` of its listener for nodes; empty on a node without peers.
    pub address: String,
    /// What fails together with it.
    pub rack: Option<String>,
}

/// What is proposed: a batch of records as its producer sent it, or a control entry.
#[derive(Clone, PartialEq, Eq)]
pub struct Proposal {
    /// The header with `kind` and `append_time_ms` filled; the log fills the rest.
    pub header: BatchHeader,
    /// What follows the header.
    pub body: Bytes,
}

impl Proposal {
    /// A control entry that carries `body`.
    #[must_use]
    pub fn control(body: Bytes, append_time_ms: i64) -> Self {
        let mut header = BatchHeader::for_entry(EntryKind::Control, &body);
        header.append_time_ms = append_time_ms;
        Self { header, body }
    }
}

/// Prints the kind and the sizes, never a body.
impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BatchHeader { kind, record_count, batch_length, .. } = self.header;
        write!(f, "{kind:?}({record_count} records, {batch_length} bytes)")
    }
}

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What an entry carries, before it has its log id.
#[derive(Clone, PartialEq, Eq)]
pub struct Payload(Proposal);

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl RaftPayload for Payload {
    type D = Proposal;
    type NodeId = u64;
    type Node = Member;

    fn blank() -> Self {
        let body = Bytes::new();
        Self(Proposal { header: BatchHeader::for_entry(EntryKind::Blank, &body), body })
    }

    fn with_normal(self, data: Proposal) -> Self {
        Self(data)
    }

    fn with_membership(self, membership: Membership) -> Self {
        let body = membership::encode(&membership);
        Self(Proposal { header: BatchHeader::for_entry(EntryKind::Membership, &body), body })
    }

    fn get_membership(&self) -> Option<Membership> {
        membership_of(&self.0.header, &self.0.body)
    }
}

/// An entry of a group's log, as openraft handles it.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// The header's term once more, in openraft's type, because openraft asks for a reference.
    leader: Leader,
    stored: LogEntry,
    /// It came from another node with the offset that its leader gave it; the log must give it the
    /// same.
    has_offset: bool,
}

impl Entry {
    /// An entry that its leader sent.
    pub(crate) fn from_leader(stored: LogEntry) -> Self {
        Self { has_offset: true, ..Self::from(stored) }
    }

    /// Whether its base offset is the leader's, to be compared with that of the log.
    pub(crate) fn has_offset(&self) -> bool {
        self.has_offset
    }

    /// The entry as the log keeps it.
    #[must_use]
    pub fn stored(&self) -> &LogEntry {
        &self.stored
    }
}

impl From<LogEntry> for Entry {
    fn from(stored: LogEntry) -> Self {
        Self { leader: Leader::new(stored.header.term.0), stored, has_offset: false }
    }
}

impl From<Entry> for LogEntry {
    fn from(entry: Entry) -> Self {
        entry.stored
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BatchHeader { kind, record_count, batch_length, .. } = self.stored.header;
        write!(f, "{} {kind:?}({record_count} records, {batch_length} bytes)", self.stored.id())
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl RaftEntry for Entry {
    type CommittedLeaderId = Leader;
    type Payload = Payload;

    fn new(log_id: RaftLogId, payload: Payload) -> Self {
        let Proposal { header, body } = payload.0;
        let stored = LogEntry { header, body };
        let mut entry = Self { leader: log_id.leader_id, stored, has_offset: false };
        entry.set_log_id(log_id);
        entry
    }

    fn log_id_parts(&self) -> (&Leader, u64) {
        (&self.leader, self.stored.header.index.0)
    }

    fn set_log_id(&mut self, new: RaftLogId) {
        self.leader = new.leader_id;
        self.stored.header.term = Term(new.leader_id.term);
        self.stored.header.index = LogIndex(new.index);
    }

    fn get_membership(&self) -> Option<Membership> {
        membership_of(&self.stored.header, &self.stored.body)
    }
}

fn membership_of(header: &BatchHeader, body: &Bytes) -> Option<Membership> {
    (header.kind == EntryKind::Membership).then(|| {
        membership::decode(body)
            .expect("a membership entry that passed its checksum was encoded by a node")
    })
}

/// What applying an entry gave, as its proposer sees it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Applied {
    /// Offset of the entry's first record.
    pub base_offset: Offset,
    /// When the leader took the entry, unix ms.
    pub append_time_ms: i64,
    /// The answer to a command of the catalog.
    pub reply: Option<Box<CatalogReply>>,
}

/// openraft's log id.
pub(crate) fn to_raft(id: LogId) -> RaftLogId {
    RaftLogId::new(Leader::new(id.term.0), id.index.0)
}

/// Our log id.
pub(crate) fn from_raft(id: &RaftLogId) -> LogId {
    LogId::new(Term(id.leader_id.term), LogIndex(id.index))
}

/// openraft's vote.
pub(crate) fn vote_to_raft(vote: plimsoll_log::Vote) -> RaftVote {
    let (term, node) = (vote.term.0, vote.voted_for.0);
    if vote.committed { RaftVote::new_committed(term, node) } else { RaftVote::new(term, node) }
}

/// Our vote.
pub(crate) fn vote_from_raft(vote: &RaftVote) -> plimsoll_log::Vote {
    plimsoll_log::Vote {
        term: Term(vote.leader_id.term),
        voted_for: NodeId(vote.leader_id.voted_for),
        committed: vote.committed,
    }
}

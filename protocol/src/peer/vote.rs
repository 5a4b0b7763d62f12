//! Elections and the handing over of leadership.

use crate::ids::{GroupId, LogId, NodeId, Term};
use crate::wire::{wire_choice, wire_struct};

wire_struct! {
    /// A vote: for whom in which term, and whether a majority agreed.
    #[derive(Copy, Default, Hash)]
    pub struct RaftVote {
        /// The term.
        pub term: Term,
        /// The candidate, or the leader where `committed`.
        pub node: NodeId,
        /// Whether `node` has won the term.
        pub committed: bool,
    }
}

wire_struct! {
    /// Asks whether a vote would be granted; changes nothing.
    pub struct PreVote {
        /// The group.
        pub group: GroupId,
        /// The sender's epoch of the catalog.
        pub epoch: u64,
        /// The vote that would be asked for.
        pub vote: RaftVote,
        /// The candidate's last entry.
        pub last: Option<LogId>,
    }
}

wire_struct! {
    /// Asks for a vote.
    pub struct Vote {
        /// The group.
        pub group: GroupId,
        /// The sender's epoch of the catalog.
        pub epoch: u64,
        /// The vote that is asked for.
        pub vote: RaftVote,
        /// The candidate's last entry.
        pub last: Option<LogId>,
        /// Whether the leader itself hands over, so that no belief in it counts.
        pub transfer: bool,
    }
}

wire_struct! {
    /// The answer to [`PreVote`] and [`Vote`]. Invariant: `vote` is durable before this is sent.
    pub struct VoteReply {
        /// The vote of the replica that answers.
        pub vote: RaftVote,
        /// Its last entry.
        pub last: Option<LogId>,
        /// Whether the vote is, or would be, granted.
        pub granted: bool,
    }
}

wire_struct! {
    /// Hands leadership to `to`.
    pub struct TransferLeader {
        /// The group.
        pub group: GroupId,
        /// The sender's epoch of the catalog.
        pub epoch: u64,
        /// The leader's vote.
        pub from: RaftVote,
        /// The node that is to lead.
        pub to: NodeId,
        /// The entry that it must have at least.
        pub last: Option<LogId>,
    }
}

wire_choice! {
    /// The answer to [`TransferLeader`].
    pub enum TransferLeaderReply as "answer to a handing over" {
        /// Taken, by a replica with this vote.
        Taken(RaftVote) = 0,
        /// Refused: the replica has this vote, another one than the leader's.
        VoteChanged(RaftVote) = 1,
        /// Refused: the replica's last entry is this one.
        Behind(Option<LogId>) = 2,
    }
}

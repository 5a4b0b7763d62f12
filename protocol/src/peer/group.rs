//! What concerns groups beside appends and votes: waking, sleeping, claims, digests, reads, commands,
//! members.

use bytes::Bytes;

use crate::ids::{GroupId, LogId, NodeId, Offset, Term};
use crate::peer::RaftVote;
use crate::wire::{wire_choice, wire_enum, wire_struct};

wire_struct! {
    /// Has the receiver start these groups: a vote or an append follows. Not answered.
    pub struct Wake {
        /// The sender's epoch of the catalog.
        pub epoch: u64,
        /// The groups.
        pub groups: Vec<GroupId>,
    }
}

wire_struct! {
    /// Proposes that groups sleep; from their leader.
    pub struct Sleep {
        /// The sender's epoch of the catalog.
        pub epoch: u64,
        /// The groups.
        pub groups: Vec<SleepGroup>,
    }
}

wire_struct! {
    /// One group of [`Sleep`].
    pub struct SleepGroup {
        /// The group.
        pub group: GroupId,
        /// The sender's term.
        pub term: Term,
        /// The last entry; committed and applied at the leader.
        pub last: LogId,
    }
}

wire_enum! {
    /// Whether a group sleeps at a member.
    pub enum SleepAnswer as "answer to a sleep" {
        /// It does: applied = committed = last.
        Slept = 0 / "slept",
        /// Its vote or last entry is another one.
        Differs = 1 / "differs",
        /// It could not apply in time.
        NotApplied = 2 / "not applied",
        /// Somebody here holds it awake.
        Held = 3 / "held awake",
        /// The node is no replica, or the replica is shut off.
        NoReplica = 4 / "no replica",
    }
}

wire_struct! {
    /// The answer to [`Sleep`]: one per group, in its order.
    pub struct SleepReply {
        /// The answers.
        pub answers: Vec<SleepAnswer>,
    }
}

wire_struct! {
    /// What the sender leads, awake and asleep alike. Not answered.
    pub struct Leads {
        /// The sender's epoch of the catalog.
        pub epoch: u64,
        /// Whether it is all that the sender leads: what was said before is void.
        pub full: bool,
        /// What it leads (now).
        pub add: Vec<GroupClaim>,
        /// What it no longer leads.
        pub drop: Vec<GroupId>,
        /// What it has no usable replica of.
        pub unfit: Vec<GroupId>,
    }
}

wire_struct! {
    /// A claim of leadership.
    pub struct GroupClaim {
        /// The group.
        pub group: GroupId,
        /// The term in which it is led.
        pub term: Term,
    }
}

wire_struct! {
    /// Where the sender's groups stand that the receiver holds too. Not answered.
    pub struct Digest {
        /// The sender's epoch of the catalog.
        pub epoch: u64,
        /// Number of this page, counted from 0.
        pub page: u32,
        /// Whether it is the last page.
        pub last_page: bool,
        /// The groups.
        pub groups: Vec<GroupDigest>,
    }
}

wire_struct! {
    /// Where one group stands.
    pub struct GroupDigest {
        /// The group.
        pub group: GroupId,
        /// Term of the replica's vote.
        pub vote_term: Term,
        /// Its last entry.
        pub last: Option<LogId>,
        /// What else is to be known of it.
        pub condition: ReplicaCondition,
    }
}

wire_enum! {
    /// How a replica is.
    pub enum ReplicaCondition as "condition of a replica" {
        /// There is none.
        Absent = 0 / "absent",
        /// It sleeps; what it holds is committed and applied.
        Asleep = 1 / "asleep",
        /// It is awake and leads.
        Leader = 2 / "leader",
        /// It is awake and follows, or looks for a leader.
        Follower = 3 / "follower",
        /// It shows damage and is shut off.
        Quarantined = 4 / "quarantined",
        /// It may have forgotten what it promised and does not vote.
        Amnesiac = 5 / "amnesiac",
        /// Segments are being sent to it.
        Seeding = 6 / "being seeded",
    }
}

wire_struct! {
    /// Asks for members and progress of groups; of their leaders.
    pub struct GroupStatus {
        /// The sender's epoch of the catalog.
        pub epoch: u64,
        /// The groups.
        pub groups: Vec<GroupId>,
    }
}

wire_struct! {
    /// The answer to [`GroupStatus`]: one per group, in its order.
    pub struct GroupStatusReply {
        /// The reports.
        pub groups: Vec<GroupReport>,
    }
}

wire_struct! {
    /// Members and progress of one group, as a replica knows them.
    pub struct GroupReport {
        /// The group.
        pub group: GroupId,
        /// How the replica is.
        pub condition: ReplicaCondition,
        /// Its vote.
        pub vote: RaftVote,
        /// Who leads, where known.
        pub leader: Option<NodeId>,
        /// The members.
        pub members: GroupMembers,
        /// How far each member is, where the replica leads.
        pub matched: Vec<ReplicaMatch>,
        /// The replica's last entry.
        pub last: Option<LogId>,
        /// Its last committed entry.
        pub committed: Option<LogId>,
        /// Offset after the last record that consumers may see.
        pub high_watermark: Offset,
        /// Offset of the first record that is kept.
        pub start_offset: Offset,
        /// Offset after the last record, committed or not.
        pub end_offset: Offset,
        /// Size of its log, in bytes; while segments are sent to it, what has come.
        pub bytes: u64,
        /// Segments of its log.
        pub segments: u32,
    }
}

wire_struct! {
    /// The members of a group.
    pub struct GroupMembers {
        /// The voters; of a joint configuration those of both.
        pub voters: Vec<NodeId>,
        /// The learners.
        pub learners: Vec<NodeId>,
        /// Whether the configuration is a joint one.
        pub joint: bool,
        /// The entry of the configuration.
        pub membership: Option<LogId>,
    }
}

wire_struct! {
    /// How far a member is.
    pub struct ReplicaMatch {
        /// The member.
        pub node: NodeId,
        /// The last entry that is known to be in its journal.
        pub matched: Option<LogId>,
    }
}

wire_struct! {
    /// Asks leaders for the index that a linearizable read waits for.
    pub struct ReadIndex {
        /// The sender's epoch of the catalog.
        pub epoch: u64,
        /// The groups.
        pub groups: Vec<GroupId>,
    }
}

wire_struct! {
    /// The answer to [`ReadIndex`]: one per group, in its order.
    pub struct ReadIndexReply {
        /// The marks; `None` where the node does not lead or has no quorum.
        pub marks: Vec<Option<ReadMark>>,
    }
}

wire_struct! {
    /// What a read waits for.
    pub struct ReadMark {
        /// The entry that must be applied.
        pub id: Option<LogId>,
        /// The high watermark at the leader.
        pub high_watermark: Offset,
    }
}

wire_struct! {
    /// Asks how far groups are committed; of their leaders.
    pub struct CommitOf {
        /// The sender's epoch of the catalog.
        pub epoch: u64,
        /// The groups.
        pub groups: Vec<GroupId>,
    }
}

wire_struct! {
    /// The answer to [`CommitOf`]: one per group, in its order.
    pub struct CommitOfReply {
        /// The marks; `None` where the node does not lead.
        pub marks: Vec<Option<CommitMark>>,
    }
}

wire_struct! {
    /// How far a group is committed, and how sure that is.
    pub struct CommitMark {
        /// The last committed entry.
        pub id: Option<LogId>,
        /// Offset after the last committed record.
        pub high_watermark: Offset,
        /// How long ago a majority last confirmed the leader, in microseconds.
        pub age_us: u64,
    }
}

wire_struct! {
    /// A command of the catalog for the leader of group 0.
    pub struct Forward {
        /// Chosen at random by whoever commands; the same again gets the same answer.
        pub request_id: u128,
        /// The command, as `plimsoll-state` encodes it.
        pub command: Bytes,
    }
}

wire_struct! {
    /// The answer to [`Forward`].
    pub struct ForwardReply {
        /// The command's entry; the asker waits for its own copy to have applied it.
        pub applied: LogId,
        /// The reply, as `plimsoll-state` encodes it.
        pub reply: Bytes,
    }
}

wire_struct! {
    /// A batch of a node's own for the leader of a partition: a dead letter, or what a gateway was given.
    pub struct StoreBatch {
        /// The partition's group.
        pub group: GroupId,
        /// One whole batch.
        pub batch: Bytes,
    }
}

wire_struct! {
    /// The answer to [`StoreBatch`]: it is stored, as the topic says.
    pub struct BatchStored {
        /// Offset of its first record.
        pub base_offset: Offset,
    }
}

wire_choice! {
    /// One step of a move.
    #[derive(Copy)]
    pub enum MemberStep as "step of a move" {
        /// Seeds the node and makes it a learner.
        AddLearner(NodeId) = 0,
        /// Makes the learner a voter.
        Promote(NodeId) = 1,
        /// Has the voter lead.
        TransferLeader(NodeId) = 2,
        /// Removes the voter.
        RemoveVoter(NodeId) = 3,
        /// Removes the learner.
        RemoveLearner(NodeId) = 4,
        /// Ends a joint configuration, of which this node is the asker.
        Uniform(NodeId) = 5,
    }
}

wire_struct! {
    /// Has the group's leader do one step of a move.
    pub struct Step {
        /// The group.
        pub group: GroupId,
        /// The sender's epoch of the catalog.
        pub epoch: u64,
        /// The configuration that the step begins from.
        pub membership: Option<LogId>,
        /// The step.
        pub step: MemberStep,
    }
}

wire_choice! {
    /// The answer to [`Step`].
    pub enum StepReply as "answer to a step" {
        /// Done: the configuration is this entry's.
        Done(Option<LogId>) = 0,
        /// The configuration is another one by now, this entry's.
        Changed(Option<LogId>) = 1,
        /// Under way; ask again.
        InProgress(Option<LogId>) = 2,
        /// Not possible, for this reason.
        Refused(String) = 3,
    }
}

wire_struct! {
    /// A replica is no longer wanted: its data may go once a majority of the members confirms.
    pub struct DropReplica {
        /// The group.
        pub group: GroupId,
        /// The sender's epoch of the catalog.
        pub epoch: u64,
        /// The committed configuration without the receiver.
        pub membership: LogId,
    }
}

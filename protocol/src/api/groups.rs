//! Consumer groups: members that share the partitions of topics, and how far each group has come.
//!
//! A group lives in one partition of the internal topic [`GROUPS_TOPIC`], [`group_home`]; its leader is the
//! group's coordinator, and every request about a group goes there. `broker/groups/GROUPS.md` has what a
//! client must do, in which order, and why.

use crate::api::{Done, Fence, request};
use crate::ids::{Offset, PartitionIndex, TopicName};
use crate::wire::{wire_enum, wire_struct};

/// The internal topic whose partitions hold the groups.
pub const GROUPS_TOPIC: &str = "__groups";

/// The partition of [`GROUPS_TOPIC`] that holds this group, when it has `partitions` of them. Their number
/// never changes: groups would lose their offsets.
///
/// # Panics
/// Without partitions.
#[must_use]
pub fn group_home(group: &str, partitions: u32) -> PartitionIndex {
    assert!(partitions > 0, "a topic has a partition");
    // FNV-1a of 64 bits, its high half scaled to the number of partitions after one more mixing.
    let hash = group.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let mixed = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    PartitionIndex(((mixed * u64::from(partitions)) >> 32) as u32)
}

wire_struct! {
    /// Asks where groups are; any node makes their topic where it is not there yet.
    pub struct FindGroupsRequest {}
}

wire_struct! {
    /// Where groups are.
    pub struct FindGroupsResponse {
        /// The topic, [`GROUPS_TOPIC`].
        pub topic: TopicName,
        /// How many partitions it has; it never has more or fewer.
        pub partitions: u32,
    }
}

request!(FindGroupsRequest, FindGroups, 1 -> FindGroupsResponse);

wire_struct! {
    /// Becomes a member of a group, or begins anew as one.
    pub struct JoinGroupRequest {
        /// The group; it begins with its first member.
        pub group: String,
        /// Who: a random number that the client keeps for its life.
        pub member: u128,
        /// What the client is called, for people; at most 255 bytes.
        pub client: String,
        /// A name that outlives the process, 1 to 255 bytes: who joins with it takes the place of who had it.
        pub instance: Option<String>,
        /// The topics to share, 1 to 1,000.
        pub topics: Vec<TopicName>,
        /// How long the member may be silent, in milliseconds, 1,000 to 3,600,000.
        pub session_ms: u32,
        /// How long it may take to give up what it is asked to, in milliseconds, in the same bounds.
        pub rebalance_ms: u32,
    }
}

wire_struct! {
    /// What a member should do now. It takes this in one step.
    pub struct GroupAssignment {
        /// What the member says from now on, with every heartbeat and commit.
        pub epoch: u64,
        /// The group's last change, for people.
        pub generation: u64,
        /// What it may work on. What it works on and does not find here it stops with, commits, waits for the
        /// answer to that, and then leaves out of its next heartbeat.
        pub partitions: Vec<AssignedPartitions>,
        /// Whether more is to come, or to go.
        pub settling: bool,
        /// How often it should heartbeat, in milliseconds.
        pub heartbeat_ms: u32,
        /// When its last answered heartbeat was sent so many milliseconds ago, less a twentieth, it stops with
        /// everything.
        pub session_ms: u32,
    }
}

wire_struct! {
    /// Partitions of one topic.
    pub struct AssignedPartitions {
        /// The topic's name.
        pub topic: TopicName,
        /// The topic; one that is deleted and made again has another.
        pub topic_id: u64,
        /// Which partitions, rising.
        pub partitions: Vec<PartitionIndex>,
    }
}

request!(JoinGroupRequest, JoinGroup, 1 -> GroupAssignment);

wire_struct! {
    /// A member is alive, has taken the assignment of `epoch`, and works on `owned` and nothing else. One at a
    /// time: a later one has an earlier one answered.
    pub struct HeartbeatRequest {
        /// The group.
        pub group: String,
        /// Who.
        pub member: u128,
        /// The epoch of the last assignment that it took.
        pub epoch: u64,
        /// What it works on. Where that is what it should, the answer waits for a change, for as long as
        /// heartbeats are apart.
        pub owned: Vec<OwnedPartitions>,
    }
}

wire_struct! {
    /// Partitions of one topic that a member works on.
    pub struct OwnedPartitions {
        /// The topic.
        pub topic_id: u64,
        /// Which partitions.
        pub partitions: Vec<PartitionIndex>,
    }
}

request!(HeartbeatRequest, Heartbeat, 1 -> GroupAssignment);

wire_struct! {
    /// A member goes, and has stopped with everything.
    pub struct LeaveGroupRequest {
        /// The group.
        pub group: String,
        /// Who.
        pub member: u128,
        /// The epoch of the last assignment that it took.
        pub epoch: u64,
    }
}

request!(LeaveGroupRequest, LeaveGroup, 1 -> Done);

wire_struct! {
    /// Commits how far a group has come: as a member, in what it owns; as nobody, in a group without members.
    pub struct CommitOffsetsRequest {
        /// The group.
        pub group: String,
        /// As whom.
        pub by: Option<GroupCommitter>,
        /// Where; 1 to 10,000.
        pub offsets: Vec<OffsetCommit>,
        /// The lock under which they are committed.
        pub fence: Option<Fence>,
    }
}

wire_struct! {
    /// The member that commits.
    pub struct GroupCommitter {
        /// Who.
        pub member: u128,
        /// The epoch of the last assignment that it took.
        pub epoch: u64,
    }
}

wire_struct! {
    /// How far a group has come in one partition.
    pub struct OffsetCommit {
        /// The topic's name.
        pub topic: TopicName,
        /// The topic as it was assigned: it may have been made anew since.
        pub topic_id: Option<u64>,
        /// The partition.
        pub partition: PartitionIndex,
        /// The next record to read.
        pub offset: Offset,
        /// What the client wants to find beside it; at most 4,096 bytes.
        pub metadata: Option<String>,
    }
}

wire_struct! {
    /// The offsets are committed, but for some.
    pub struct CommitOffsetsResponse {
        /// What the member does not own; usually none.
        pub not_owned: Vec<GroupPartition>,
    }
}

wire_struct! {
    /// One partition.
    pub struct GroupPartition {
        /// The topic.
        pub topic: TopicName,
        /// The partition.
        pub partition: PartitionIndex,
    }
}

request!(CommitOffsetsRequest, CommitOffsets, 1 -> CommitOffsetsResponse);

wire_struct! {
    /// Asks how far a group has come, page by page. Nothing that was committed before is missed.
    pub struct GroupOffsetsRequest {
        /// The group; one that does not exist has no offsets.
        pub group: String,
        /// In which topics; empty: in all.
        pub topics: Vec<TopicName>,
        /// Only behind this one: the last of the page before.
        pub after: Option<GroupCursor>,
    }
}

wire_struct! {
    /// A place in the list of a group's offsets, which is ordered by topic id and partition.
    pub struct GroupCursor {
        /// The topic.
        pub topic_id: u64,
        /// The partition.
        pub partition: PartitionIndex,
    }
}

wire_struct! {
    /// How far a group has come.
    pub struct GroupOffsetsResponse {
        /// Where it has committed anything.
        pub offsets: Vec<GroupOffset>,
        /// There are more behind the last one of these.
        pub has_more: bool,
    }
}

wire_struct! {
    /// A committed offset.
    pub struct GroupOffset {
        /// The topic.
        pub topic: TopicName,
        /// The topic's id.
        pub topic_id: u64,
        /// The partition.
        pub partition: PartitionIndex,
        /// The next record to read.
        pub offset: Offset,
        /// What the client wrote beside it.
        pub metadata: Option<String>,
        /// When it was committed, in milliseconds since 1970 (UTC).
        pub committed_ms: i64,
    }
}

request!(GroupOffsetsRequest, GroupOffsets, 1 -> GroupOffsetsResponse);

wire_struct! {
    /// Lists the groups of one partition of [`GROUPS_TOPIC`], page by page, by name.
    pub struct ListGroupsRequest {
        /// The partition.
        pub partition: PartitionIndex,
        /// Only groups behind this one: the last of the page before.
        pub after: Option<String>,
    }
}

wire_struct! {
    /// The groups, as many as one answer holds.
    pub struct ListGroupsResponse {
        /// By name.
        pub groups: Vec<GroupInfo>,
        /// There are more behind the last one of these.
        pub has_more: bool,
    }
}

wire_enum! {
    /// How a group is.
    pub enum GroupPhase as "phase of a group" {
        /// It has no members.
        Empty = 0 / "empty",
        /// Partitions are on their way to another member.
        Moving = 1 / "moving",
        /// Everybody owns what it should.
        Settled = 2 / "settled",
    }
}

wire_struct! {
    /// A group in a list.
    pub struct GroupInfo {
        /// Its name.
        pub group: String,
        /// How it is.
        pub phase: GroupPhase,
        /// Its last change.
        pub generation: u64,
        /// How many members it has.
        pub members: u32,
        /// In how many partitions it has committed offsets.
        pub offsets: u32,
    }
}

request!(ListGroupsRequest, ListGroups, 1 -> ListGroupsResponse);

wire_struct! {
    /// Shows a group and its members.
    pub struct DescribeGroupRequest {
        /// The group.
        pub group: String,
    }
}

wire_struct! {
    /// A group, as it is and as it should be.
    pub struct GroupDescription {
        /// What a list shows of it.
        pub info: GroupInfo,
        /// Its members.
        pub members: Vec<GroupMember>,
        /// Since when it has no members, or since the last commit without one, in milliseconds since 1970
        /// (UTC).
        pub quiet_since_ms: Option<i64>,
    }
}

wire_struct! {
    /// A member, as it is and as it should be.
    pub struct GroupMember {
        /// Who.
        pub member: u128,
        /// What its client is called.
        pub client: String,
        /// The name that outlives its process.
        pub instance: Option<String>,
        /// What it wants to share; topics that are gone are left out.
        pub topics: Vec<TopicName>,
        /// How long it may be silent, in milliseconds.
        pub session_ms: u32,
        /// How long it may take to give something up, in milliseconds.
        pub rebalance_ms: u32,
        /// Its latest epoch.
        pub epoch: u64,
        /// What it owns.
        pub owns: Vec<AssignedPartitions>,
        /// What it should own.
        pub should_own: Vec<AssignedPartitions>,
        /// How long until it has to be heard of, in milliseconds.
        pub session_left_ms: u64,
    }
}

request!(DescribeGroupRequest, DescribeGroup, 1 -> GroupDescription);

wire_struct! {
    /// Sets a group's offsets, or takes them away.
    pub struct ResetGroupRequest {
        /// The group.
        pub group: String,
        /// Where; 1 to 10,000.
        pub offsets: Vec<OffsetReset>,
        /// Also in a group with members, which go on from where they are.
        pub forced: bool,
    }
}

wire_struct! {
    /// What becomes of the offset in one partition.
    pub struct OffsetReset {
        /// The topic.
        pub topic: TopicName,
        /// The partition.
        pub partition: PartitionIndex,
        /// The next record to read; none takes the offset away.
        pub offset: Option<Offset>,
    }
}

request!(ResetGroupRequest, ResetGroup, 1 -> Done);

wire_struct! {
    /// Deletes a group with its offsets.
    pub struct DeleteGroupRequest {
        /// The group.
        pub group: String,
        /// Also one with members, which are fenced then.
        pub forced: bool,
    }
}

request!(DeleteGroupRequest, DeleteGroup, 1 -> Done);

//! The replicated state of the consumer groups of one partition of `__groups`: what its control entries
//! add up to.
//!
//! ```text
//!  mod       the state, and what can be asked of it
//!  apply     the fold of one entry, and what it answers
//!  snapshot  the state as bytes
//! ```
//!
//! Invariants: the same entries give the same state and the same bytes on every replica; a partition has
//! one owner at most, a member of the group, since an epoch between the one in which that member joined
//! and its latest; no two members have the same instance; a group has a member or a committed offset.
//! The state does not know sessions, who should own what, how many partitions a topic has, or what time
//! it is.

mod apply;
mod snapshot;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use plimsoll_protocol::ids::Offset;

pub use apply::{Answer, Refusal};

use crate::command::MemberSpec;
use crate::ids::{Epoch, GroupName, MemberId, TopicPartition};
use crate::time::UnixMs;

/// A member, as entries say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Who it is and what it wants.
    pub spec: MemberSpec,
    /// When it joined: what was said under an earlier epoch is not of this member.
    pub joined: Epoch,
    /// Its latest epoch: when it joined, or was granted something last.
    pub epoch: Epoch,
    /// Whose place it took, as the same instance.
    pub predecessor: Option<MemberId>,
    /// What it owns, each since when.
    owns: BTreeMap<TopicPartition, Epoch>,
}

impl Member {
    /// What it owns, each since when, by partition.
    #[must_use]
    pub fn owns(&self) -> &BTreeMap<TopicPartition, Epoch> {
        &self.owns
    }
}

/// How far a group has come in one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// The next record to read.
    pub offset: Offset,
    /// What the client wants to find beside it.
    pub metadata: Option<Arc<str>>,
    /// When it was committed, by the leader's clock.
    pub at: UnixMs,
}

/// The replicated state of one consumer group.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GroupState {
    generation: Epoch,
    quiet_since: UnixMs,
    members: BTreeMap<MemberId, Member>,
    /// Who owns what: the members' `owns` the other way round.
    owners: BTreeMap<TopicPartition, MemberId>,
    offsets: BTreeMap<TopicPartition, Committed>,
}

impl GroupState {
    /// The epoch of the last change of members or of what they own. It only rises, and skips numbers.
    #[must_use]
    pub fn generation(&self) -> Epoch {
        self.generation
    }

    /// When the last thing happened while it had no member; says nothing while it has one.
    #[must_use]
    pub fn quiet_since(&self) -> UnixMs {
        self.quiet_since
    }

    /// The members, by id.
    #[must_use]
    pub fn members(&self) -> &BTreeMap<MemberId, Member> {
        &self.members
    }

    /// Who owns this partition, and since when.
    #[must_use]
    pub fn owner(&self, at: TopicPartition) -> Option<(MemberId, Epoch)> {
        let &member = self.owners.get(&at)?;
        let owned = self.members.get(&member).expect("an owner is a member").owns.get(&at);
        Some((member, *owned.expect("an owner owns")))
    }

    /// Who took the place of this former member, as the same instance.
    #[must_use]
    pub fn successor(&self, of: MemberId) -> Option<(MemberId, &Member)> {
        let mut members = self.members.iter();
        members.find(|(_, member)| member.predecessor == Some(of)).map(|(&id, member)| (id, member))
    }

    /// How far the group has come in this partition.
    #[must_use]
    pub fn committed(&self, at: TopicPartition) -> Option<&Committed> {
        self.offsets.get(&at)
    }

    /// All committed offsets, by partition.
    #[must_use]
    pub fn offsets(&self) -> &BTreeMap<TopicPartition, Committed> {
        &self.offsets
    }

    fn is_gone(&self) -> bool {
        self.members.is_empty() && self.offsets.is_empty()
    }

    fn memory_bytes(&self) -> usize {
        let per_item = |items: usize, bytes: usize| items * bytes * 3 / 2;
        let members = self.members.values().map(|member| {
            let texts =
                member.spec.client.len() + member.spec.instance.as_ref().map_or(0, String::len);
            size_of::<Member>() + texts + per_item(member.spec.topics.len(), 8)
        });
        let metadata = self.offsets.values().filter_map(|item| item.metadata.as_deref());
        size_of::<Self>()
            + members.sum::<usize>()
            + per_item(self.owners.len(), 12 + 16 + 12 + 8)
            + per_item(self.offsets.len(), 12 + size_of::<Committed>())
            + metadata.map(|text| text.len() + 16).sum::<usize>()
    }
}

/// The consumer groups of one partition of `__groups`, by name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Groups {
    /// The last epoch that was given away.
    epoch: Epoch,
    by_name: BTreeMap<GroupName, GroupState>,
}

impl Groups {
    /// The group of this name, if it has a member or a committed offset.
    #[must_use]
    pub fn get(&self, name: &GroupName) -> Option<&GroupState> {
        self.by_name.get(name)
    }

    /// A member of a group.
    #[must_use]
    pub fn member(&self, group: &GroupName, id: MemberId) -> Option<&Member> {
        self.get(group)?.members.get(&id)
    }

    /// All groups, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&GroupName, &GroupState)> {
        self.by_name.iter()
    }

    /// The groups whose names come after this one, by name.
    pub fn after(
        &self,
        name: Option<&GroupName>,
    ) -> impl Iterator<Item = (&GroupName, &GroupState)> {
        let from = name.map_or(Bound::Unbounded, Bound::Excluded);
        self.by_name.range((from, Bound::Unbounded))
    }

    /// The last epoch that was given away.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Bytes of memory, near enough for a metric. Looks at everything.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let each = |(name, group): (&GroupName, &GroupState)| {
            name.as_str().len() + 32 + group.memory_bytes()
        };
        size_of::<Self>() + self.by_name.iter().map(each).sum::<usize>()
    }
}

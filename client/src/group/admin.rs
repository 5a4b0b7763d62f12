//! Listing groups, looking at them, moving their offsets, deleting them.

use std::sync::Arc;

use plimsoll_protocol::api::{
    DeleteGroupRequest, DescribeGroupRequest, GroupCursor, GroupDescription, GroupInfo,
    GroupOffset, ListGroupsRequest, OffsetCommit, OffsetReset, ResetGroupRequest,
};
use plimsoll_protocol::ids::PartitionIndex;

use crate::client::Shared;
use crate::error::RequestError;
use crate::pulse::Owed;

/// Offsets of one request.
const RESETS_MAX: usize = 1000;

/// One group, as people look at it.
#[derive(Clone)]
pub struct GroupAdmin {
    shared: Arc<Shared>,
    group: String,
}

impl GroupAdmin {
    /// The group with its members, and what each owns and should own.
    ///
    /// # Errors
    /// When there is no such group, or nobody answers.
    pub async fn describe(&self) -> Result<GroupDescription, RequestError> {
        let home = self.shared.home(&self.group).await?;
        let request = DescribeGroupRequest { group: self.group.clone() };
        let asked = self.shared.request_leader(&home.topic, home.partition, request, Owed::Answer);
        Ok(asked.await?.0)
    }

    /// Where the group has committed anything, by topic id and partition. Of a group that there is not:
    /// nothing.
    ///
    /// # Errors
    /// When nobody answers.
    pub async fn offsets(&self) -> Result<Vec<GroupOffset>, RequestError> {
        let home = self.shared.home(&self.group).await?;
        let mut offsets: Vec<GroupOffset> = Vec::new();
        loop {
            let after = offsets
                .last()
                .map(|last| GroupCursor { topic_id: last.topic_id, partition: last.partition });
            let (page, has_more) = self.shared.group_offsets(&home, &self.group, after).await?;
            offsets.extend(page);
            if !has_more {
                return Ok(offsets);
            }
        }
    }

    /// Commits offsets as nobody: for programs that share out the partitions among themselves.
    ///
    /// # Errors
    /// When the group has members, a topic or partition is unknown, or nobody answers.
    pub async fn commit(&self, offsets: Vec<OffsetCommit>) -> Result<(), RequestError> {
        let home = self.shared.home(&self.group).await?;
        self.shared.commit_offsets(&home, &self.group, None, offsets, None).await.map(drop)
    }

    /// Sets offsets, or takes them away. `forced`: also while the group has members, which go on from where
    /// they are, and commit over it.
    ///
    /// # Errors
    /// When the group has members, a topic or partition is unknown, or nobody answers. Of more than a
    /// thousand offsets some may be set then.
    pub async fn reset(&self, offsets: Vec<OffsetReset>, forced: bool) -> Result<(), RequestError> {
        let home = self.shared.home(&self.group).await?;
        for offsets in offsets.chunks(RESETS_MAX) {
            let (group, offsets) = (self.group.clone(), offsets.to_vec());
            let request = ResetGroupRequest { group, offsets, forced };
            self.shared.request_leader(&home.topic, home.partition, request, Owed::Answer).await?;
        }
        Ok(())
    }

    /// Deletes the group with its offsets. `forced`: also one with members, which stop, and join anew.
    ///
    /// # Errors
    /// When there is no such group, it has members, or nobody answers.
    pub async fn delete(&self, forced: bool) -> Result<(), RequestError> {
        let home = self.shared.home(&self.group).await?;
        let request = DeleteGroupRequest { group: self.group.clone(), forced };
        let asked = self.shared.request_leader(&home.topic, home.partition, request, Owed::Answer);
        asked.await.map(drop)
    }
}

impl crate::Admin {
    /// All consumer groups, by name.
    ///
    /// # Errors
    /// When nobody answers.
    pub async fn list_groups(&self) -> Result<Vec<GroupInfo>, RequestError> {
        let (topic, partitions) = self.shared.groups().await?;
        let mut groups: Vec<GroupInfo> = Vec::new();
        for partition in (0..partitions).map(PartitionIndex) {
            let mut after = None;
            loop {
                let request = ListGroupsRequest { partition, after };
                let asked = self.shared.request_leader(&topic, partition, request, Owed::Answer);
                let (page, _) = asked.await?;
                after = page.groups.last().map(|group| group.group.clone());
                // An empty page that promises more would be asked for again for ever.
                let ends = !page.has_more || page.groups.is_empty();
                groups.extend(page.groups);
                if ends {
                    break;
                }
            }
        }
        groups.sort_by(|one, other| one.group.cmp(&other.group));
        Ok(groups)
    }

    /// One consumer group.
    pub fn group(&self, name: impl Into<String>) -> GroupAdmin {
        GroupAdmin { shared: Arc::clone(&self.shared), group: name.into() }
    }
}

impl std::fmt::Debug for GroupAdmin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GroupAdmin").field("group", &self.group).finish_non_exhaustive()
    }
}

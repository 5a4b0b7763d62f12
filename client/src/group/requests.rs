//! What a member asks of its group's coordinator beside joins and heartbeats.

use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use plimsoll_protocol::api::{
    CommitOffsetsRequest, Fence, FindGroupsRequest, GroupCommitter, GroupCursor, GroupOffset,
    GroupOffsetsRequest, GroupPartition, OffsetCommit, group_home,
};
use plimsoll_protocol::ids::{Offset, PartitionIndex, TopicName};
use tokio::time::sleep;

use super::holdings::Place;
use super::sharing::Grant;
use crate::client::Shared;
use crate::error::RequestError;
use crate::pulse::Owed;
use crate::requests::Repeat;

/// Offsets of one request.
const ITEMS_MAX: usize = 1000;
/// Bytes of names and metadata in one request; a node takes 256 KiB of all of it.
const ITEMS_BYTES_MAX: usize = 96 << 10;

/// Where a group is.
#[derive(Debug, Clone)]
pub(crate) struct Home {
    pub(crate) topic: TopicName,
    pub(crate) partition: PartitionIndex,
}

impl Shared {
    /// The topic that groups are in, and how many partitions it has. It is made where there is none.
    pub(crate) async fn groups(&self) -> Result<(TopicName, u32), RequestError> {
        let found = self.groups.get_or_try_init(|| async {
            let found = self.request(FindGroupsRequest {}, Repeat::Freely).await?;
            if found.partitions == 0 {
                let reason = "the topic of groups has no partitions".into();
                return Err(RequestError::MalformedAnswer { reason });
            }
            Ok((found.topic, found.partitions))
        });
        found.await.cloned()
    }

    pub(crate) async fn home(&self, group: &str) -> Result<Home, RequestError> {
        let (topic, partitions) = self.groups().await?;
        Ok(Home { topic, partition: group_home(group, partitions) })
    }

    /// Commits once, in as many requests as it takes.
    pub(crate) async fn commit_offsets(
        &self,
        home: &Home,
        group: &str,
        by: Option<GroupCommitter>,
        offsets: Vec<OffsetCommit>,
        fence: Option<&Fence>,
    ) -> Result<Vec<GroupPartition>, RequestError> {
        let mut not_owned = Vec::new();
        for offsets in portions(offsets) {
            let request = CommitOffsetsRequest {
                group: group.to_owned(),
                by: by.clone(),
                offsets,
                fence: fence.cloned(),
            };
            let asked = self.request_leader(&home.topic, home.partition, request, Owed::Answer);
            not_owned.extend(asked.await?.0.not_owned);
        }
        Ok(not_owned)
    }

    /// One page of what is committed.
    pub(crate) async fn group_offsets(
        &self,
        home: &Home,
        group: &str,
        after: Option<GroupCursor>,
    ) -> Result<(Vec<GroupOffset>, bool), RequestError> {
        let (group, topics) = (group.to_owned(), Vec::new());
        let request = GroupOffsetsRequest { group, topics, after };
        let asked = self.request_leader(&home.topic, home.partition, request, Owed::Answer);
        let (page, _) = asked.await?;
        // An empty page that promises more would be asked for again for ever.
        let has_more = page.has_more && !page.offsets.is_empty();
        Ok((page.offsets, has_more))
    }
}

fn portions(offsets: Vec<OffsetCommit>) -> Vec<Vec<OffsetCommit>> {
    let mut portions: Vec<Vec<OffsetCommit>> = Vec::new();
    let mut bytes = 0;
    for offset in offsets {
        let own =
            offset.topic.as_str().len() + offset.metadata.as_ref().map_or(0, String::len) + 32;
        match portions.last_mut() {
            Some(last) if last.len() < ITEMS_MAX && bytes + own <= ITEMS_BYTES_MAX => {
                bytes += own;
                last.push(offset);
            }
            _ => {
                bytes = own;
                portions.push(vec![offset]);
            }
        }
    }
    portions
}

/// What became of a commit: what of it was not the member's to commit.
pub(super) type Committed = Result<Vec<GroupPartition>, RequestError>;

/// Commits as a member. The future ends with an answer, and tries again until there is one. Whoever ends
/// the session drops it.
pub(super) fn commit(
    shared: Arc<Shared>,
    home: Home,
    group: String,
    by: GroupCommitter,
    offsets: Vec<OffsetCommit>,
    fence: Option<Fence>,
) -> BoxFuture<'static, Committed> {
    async move {
        let mut backoff = shared.backoff();
        loop {
            let (by, offsets) = (Some(by.clone()), offsets.clone());
            let once = shared.commit_offsets(&home, &group, by, offsets, fence.as_ref());
            match once.await {
                Err(error) if error.is_retriable() => {
                    tracing::debug!(group, %error, "a commit got no answer, committing again");
                    sleep(backoff.next_pause()).await;
                }
                outcome => return outcome,
            }
        }
    }
    .boxed()
}

/// A partition whose committed offset is wanted.
pub(super) type Wanted = (Place, Grant);
/// The same with the offset, where there is one.
pub(super) type Found = (Place, Grant, Option<Offset>);

/// Where the group has come in these partitions; again until there is an answer.
pub(super) fn offsets_of(
    shared: Arc<Shared>,
    home: Home,
    group: String,
    mut wanted: Vec<Wanted>,
) -> BoxFuture<'static, Vec<Found>> {
    wanted.sort_unstable();
    async move {
        let mut backoff = shared.backoff();
        loop {
            match find_offsets(&shared, &home, &group, &wanted).await {
                Ok(found) => return found,
                Err(error) => {
                    if !error.is_retriable() {
                        tracing::warn!(group, %error, "cannot learn where the group is, asking again");
                    }
                    sleep(backoff.next_pause()).await;
                }
            }
        }
    }
    .boxed()
}

async fn find_offsets(
    shared: &Shared,
    home: &Home,
    group: &str,
    wanted: &[Wanted],
) -> Result<Vec<Found>, RequestError> {
    let mut found: Vec<_> = wanted.iter().map(|(place, grant)| (*place, *grant, None)).collect();
    let (Some((first, _)), Some((last, _))) = (wanted.first(), wanted.last()) else {
        return Ok(found);
    };
    let mut after = before(*first);
    loop {
        let (page, has_more) = shared.group_offsets(home, group, after.take()).await?;
        for committed in &page {
            let place = Place { topic_id: committed.topic_id, partition: committed.partition.0 };
            if let Ok(at) = found.binary_search_by_key(&place, |(place, ..)| *place) {
                found[at].2 = Some(committed.offset);
            }
            let (topic_id, partition) = (committed.topic_id, committed.partition);
            after = Some(GroupCursor { topic_id, partition });
            if place >= *last {
                return Ok(found);
            }
        }
        if !has_more {
            return Ok(found);
        }
    }
}

/// The place before this one.
fn before(place: Place) -> Option<GroupCursor> {
    let (topic_id, partition) = match place.partition.checked_sub(1) {
        Some(partition) => (place.topic_id, partition),
        None => (place.topic_id.checked_sub(1)?, u32::MAX),
    };
    Some(GroupCursor { topic_id, partition: PartitionIndex(partition) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commits_are_split_by_number_and_by_bytes_and_keep_their_order() {
        let offset = |partition: u32, metadata: usize| OffsetCommit {
            topic: "t".parse().unwrap(),
            topic_id: None,
            partition: PartitionIndex(partition),
            offset: Offset(0),
            metadata: Some("m".repeat(metadata)),
        };
        assert!(portions(Vec::new()).is_empty());
        for metadata in [0, 100, 4096] {
            let all: Vec<_> = (0..2500).map(|partition| offset(partition, metadata)).collect();
            let portions = portions(all.clone());
            for portion in &portions {
                let bytes: usize =
                    portion.iter().map(|one| one.metadata.as_ref().unwrap().len()).sum();
                assert!(portion.len() <= ITEMS_MAX && bytes <= ITEMS_BYTES_MAX);
            }
            assert_eq!(portions.concat(), all);
        }
    }

    #[test]
    fn reading_begins_behind_the_place_before_the_first() {
        let place = |topic_id, partition| Place { topic_id, partition };
        let cursor = |topic_id, partition| {
            Some(GroupCursor { topic_id, partition: PartitionIndex(partition) })
        };
        assert_eq!(before(place(7, 3)), cursor(7, 2));
        assert_eq!(before(place(7, 0)), cursor(6, u32::MAX));
        assert_eq!(before(place(0, 0)), None);
    }
}

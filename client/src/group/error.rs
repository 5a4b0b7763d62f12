//! What goes wrong for the member of a group.

use plimsoll_protocol::ids::TopicName;
use thiserror::Error;

use crate::error::{ConsumeError, RequestError};

/// What a member of a group meets while it reads.
#[derive(Debug, Clone, Error)]
pub enum GroupError {
    /// A partition cannot be read on. It stays with this member, which reads its others.
    #[error("topic {topic}, {source}")]
    Partition {
        /// The partition's topic.
        topic: TopicName,
        /// What ended it.
        source: ConsumeError,
    },
    /// Another process has joined as the same instance. This consumer has ended.
    #[error(
        "another process has joined group {group} as instance {instance}: give each process an \
         instance name of its own"
    )]
    FencedInstance {
        /// The group.
        group: String,
        /// The name that both have.
        instance: String,
    },
    /// The group does not take this member back. This consumer has ended.
    #[error("cannot be a member of group {group} any more: {source}")]
    Refused {
        /// The group.
        group: String,
        /// Why.
        source: RequestError,
    },
}

/// Why offsets were not committed.
#[derive(Debug, Clone, Error)]
pub enum CommitError {
    /// These partitions are another member's now, which reads them from what was committed before. What the
    /// commit said of other partitions is committed.
    #[error("not committed, because it is another member's now: {}", list(partitions))]
    NotOwned {
        /// Topics and partitions.
        partitions: Vec<(TopicName, u32)>,
    },
    /// The member's session was over before there was an answer: whether it is committed is not known, and
    /// others read on from there.
    #[error("the session was over before the commit was answered: whether it counts is not known")]
    SessionOver,
    /// A later holder of the consumer's lock was seen: nothing is committed under this fence.
    #[error(
        "not committed: the fence is stale, the lock is lost; the highest token seen of it is {highest}"
    )]
    StaleFence {
        /// The highest token of the lock that was seen: the fence's own where the lock was given up and not
        /// granted again.
        highest: u64,
    },
    /// The group refused it, or gave no answer.
    #[error(transparent)]
    Request(RequestError),
    /// The consumer has ended.
    #[error("not committed: the consumer has ended")]
    Ended,
}

impl From<RequestError> for CommitError {
    fn from(error: RequestError) -> Self {
        match &error {
            RequestError::Refused(refusal) => match refusal.stale_fence() {
                Some(highest) => Self::StaleFence { highest },
                None => Self::Request(error),
            },
            _ => Self::Request(error),
        }
    }
}

fn list(partitions: &[(TopicName, u32)]) -> String {
    let shown = partitions.iter().map(|(topic, partition)| format!("{topic}/{partition}"));
    shown.collect::<Vec<_>>().join(", ")
}

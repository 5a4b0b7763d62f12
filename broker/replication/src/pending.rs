//! The outcome of a produced batch, to be awaited.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use openraft::errors::{ClientWriteError, ForwardReason, ForwardToLeader};
use openraft::raft::ClientWriteResult;
use plimsoll_protocol::api::AckLevel;
use plimsoll_protocol::ids::{GroupId, NodeId, Offset};
use tokio::sync::oneshot;

use crate::error::{NoQuorum, NotLeader, ProduceError, ProposeError};
use crate::types::{Applied, Types};

/// A stored batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Produced {
    /// Offset of its first record.
    pub base_offset: Offset,
    /// Whether it was stored before; then the offset and time are those of the first time.
    pub duplicate: bool,
    /// When the leader took it, unix ms.
    pub append_time_ms: i64,
    /// The acknowledgement level that was reached. Raft commits before it applies, so this is a
    /// majority of the voters, whatever was asked for; with one voter that is this node.
    pub reached: AckLevel,
}

impl Produced {
    fn stored(applied: &Applied, duplicate: bool) -> Self {
        Self {
            base_offset: applied.base_offset,
            duplicate,
            append_time_ms: applied.append_time_ms,
            reached: AckLevel::Quorum,
        }
    }

    pub(crate) fn before(base_offset: Offset, append_time_ms: i64) -> Self {
        Self { base_offset, duplicate: true, append_time_ms, reached: AckLevel::Quorum }
    }
}

/// A batch that was admitted: its outcome. Dropping it does not take the batch back.
#[derive(Debug)]
#[must_use = "whether a batch was stored is known only from its outcome"]
pub struct PendingProduce(Pending);

#[derive(Debug)]
enum Pending {
    Known(Produced),
    Proposed(GroupId, oneshot::Receiver<ClientWriteResult<Types>>),
    /// A retry of a batch in flight.
    Retry(oneshot::Receiver<Applied>),
}

impl PendingProduce {
    pub(crate) fn known(produced: Produced) -> Self {
        Self(Pending::Known(produced))
    }

    pub(crate) fn proposed(
        group: GroupId,
        answer: oneshot::Receiver<ClientWriteResult<Types>>,
    ) -> Self {
        Self(Pending::Proposed(group, answer))
    }

    pub(crate) fn retry(answer: oneshot::Receiver<Applied>) -> Self {
        Self(Pending::Retry(answer))
    }
}

impl Future for PendingProduce {
    type Output = Result<Produced, ProduceError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match &mut self.0 {
            Pending::Known(produced) => Ok(*produced),
            Pending::Proposed(group, answer) => match ready!(Pin::new(answer).poll(cx)) {
                Ok(Ok(response)) => Ok(Produced::stored(&response.data, false)),
                Ok(Err(error)) => Err(refused(*group, error).into()),
                Err(_) => Err(ProduceError::Unknown),
            },
            Pending::Retry(answer) => match ready!(Pin::new(answer).poll(cx)) {
                Ok(applied) => Ok(Produced::stored(&applied, true)),
                Err(_) => Err(ProduceError::Unknown),
            },
        })
    }
}

/// What openraft says of a proposal that it did not apply.
#[derive(Debug)]
pub(crate) enum NotApplied {
    /// It never entered the log.
    NotLeader(NotLeader),
    /// It never entered the log: a quorum had not confirmed the leader of late.
    NoQuorum(NoQuorum),
    /// It may be in the log of another node.
    Unknown,
}

pub(crate) fn refused(group: GroupId, error: ClientWriteError<Types>) -> NotApplied {
    match error {
        ClientWriteError::ForwardToLeader(forward)
            if matches!(forward.reason, ForwardReason::LeaseExpired) =>
        {
            NotApplied::NoQuorum(NoQuorum { group })
        }
        ClientWriteError::ForwardToLeader(forward) => NotApplied::NotLeader(not_leader(forward)),
        ClientWriteError::LogEntryDiscarded(_) => NotApplied::Unknown,
        // Neither comes back for an entry that changes no membership and has no precondition.
        ClientWriteError::ChangeMembershipError(_) | ClientWriteError::PreconditionFailed(_) => {
            NotApplied::Unknown
        }
    }
}

pub(crate) fn not_leader(forward: ForwardToLeader<Types>) -> NotLeader {
    NotLeader {
        leader: forward.leader_id.map(NodeId),
        address: forward.leader_node.map(|node| node.address).filter(|address| !address.is_empty()),
    }
}

impl From<NotApplied> for ProduceError {
    fn from(refused: NotApplied) -> Self {
        match refused {
            NotApplied::NotLeader(error) => Self::NotLeader(error),
            NotApplied::NoQuorum(error) => Self::NoQuorum(error),
            NotApplied::Unknown => Self::Unknown,
        }
    }
}

impl From<NotApplied> for ProposeError {
    fn from(refused: NotApplied) -> Self {
        match refused {
            NotApplied::NotLeader(error) => Self::NotLeader(error),
            NotApplied::NoQuorum(error) => Self::NoQuorum(error),
            NotApplied::Unknown => Self::Unknown,
        }
    }
}

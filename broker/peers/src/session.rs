//! The sending end of an append session.

use plimsoll_protocol::ids::{GroupId, NodeId};
use plimsoll_protocol::peer::{Append, Appended};

use crate::error::PeerError;

/// An append session to another node. Dropping it closes it.
///
/// Ordered: appends arrive in the order in which they were sent, answers in the order of the appends.
#[derive(Debug)]
pub struct Session {
    sender: SessionSender,
    receiver: SessionReceiver,
}

/// The sending half of a [`Session`].
#[derive(Debug)]
pub struct SessionSender {
    node: NodeId,
    group: GroupId,
}

/// The receiving half of a [`Session`].
#[derive(Debug)]
pub struct SessionReceiver {
    node: NodeId,
}

impl Session {
    /// The node at the other end.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.sender.node
    }

    /// The group.
    #[must_use]
    pub fn group(&self) -> GroupId {
        self.sender.group
    }

    /// Sends an append; waits while as much is unanswered as the session or the link allows. May be
    /// cancelled: then nothing was sent.
    ///
    /// # Errors
    /// [`PeerError::Unreachable`] once the link is gone, [`PeerError::TooLarge`].
    pub async fn send(&mut self, append: Append) -> Result<(), PeerError> {
        self.sender.send(append).await
    }

    /// The next answer. Answers are cumulative: one may answer several appends. May be cancelled.
    ///
    /// # Errors
    /// [`PeerError::Unreachable`] once the link is gone and every answer was taken.
    pub async fn recv(&mut self) -> Result<Appended, PeerError> {
        self.receiver.recv().await
    }

    /// Both directions apart. The session is closed when both are dropped.
    #[must_use]
    pub fn split(self) -> (SessionSender, SessionReceiver) {
        (self.sender, self.receiver)
    }
}

impl SessionSender {
    /// As [`Session::send`].
    ///
    /// # Errors
    /// As [`Session::send`].
    pub async fn send(&mut self, _append: Append) -> Result<(), PeerError> {
        Err(PeerError::Unreachable { node: self.node })
    }
}

impl SessionReceiver {
    /// As [`Session::recv`].
    ///
    /// # Errors
    /// As [`Session::recv`].
    pub async fn recv(&mut self) -> Result<Appended, PeerError> {
        Err(PeerError::Unreachable { node: self.node })
    }
}

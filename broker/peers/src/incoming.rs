//! The receiving end of an append session.

use plimsoll_protocol::ids::{GroupId, NodeId};
use plimsoll_protocol::peer::{Append, Appended};

use crate::error::PeerError;

/// An append session that another node has opened. Invariant: at most the credit of the sender is
/// held here; an answer gives it back.
///
/// Dropping it answers what is unanswered, and all that still comes, with `NotHere`.
#[derive(Debug)]
pub struct IncomingSession {
    requests: IncomingAppends,
    answers: AppendAnswers,
}

/// The appends of an [`IncomingSession`].
#[derive(Debug)]
pub struct IncomingAppends {
    group: GroupId,
}

/// The way back of an [`IncomingSession`].
#[derive(Debug)]
pub struct AppendAnswers {
    from: NodeId,
}

impl IncomingSession {
    /// The group.
    #[must_use]
    pub fn group(&self) -> GroupId {
        self.requests.group
    }

    /// The next append, in order; `None` when the other side has closed the session or the link is
    /// gone. May be cancelled.
    pub async fn recv(&mut self) -> Option<Append> {
        self.requests.recv().await
    }

    /// Answers the oldest unanswered append. Does not wait.
    ///
    /// # Errors
    /// [`PeerError::Unreachable`] when the link is gone.
    ///
    /// # Panics
    /// When every append that was received is answered.
    pub fn send(&mut self, answer: Appended) -> Result<(), PeerError> {
        self.answers.send(answer)
    }

    /// Both directions apart, for two tasks or a `select!`.
    #[must_use]
    pub fn split(self) -> (IncomingAppends, AppendAnswers) {
        (self.requests, self.answers)
    }
}

impl IncomingAppends {
    /// As [`IncomingSession::recv`].
    pub async fn recv(&mut self) -> Option<Append> {
        None
    }
}

impl AppendAnswers {
    /// As [`IncomingSession::send`].
    ///
    /// # Errors
    /// As [`IncomingSession::send`].
    pub fn send(&mut self, _answer: Appended) -> Result<(), PeerError> {
        Err(PeerError::Unreachable { node: self.from })
    }

    /// Answers the `settles` oldest unanswered appends with one frame.
    ///
    /// # Errors
    /// As [`IncomingSession::send`].
    pub fn send_for(&mut self, _settles: u32, _answer: Appended) -> Result<(), PeerError> {
        Err(PeerError::Unreachable { node: self.from })
    }
}

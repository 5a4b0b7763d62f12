//! How a proposal's outcome comes back: openraft completes a oneshot directly, on the task that
//! applied the entry.

use std::sync::Arc;

use openraft::OptionalSend;
use openraft::raft::responder::Responder;
use tokio::sync::oneshot;

use crate::shared::Shared;
use crate::types::{RaftLogId, Types};

/// The sender's side of one proposal. Whatever becomes of it, the group learns that the proposal
/// is over: applied, refused, or dropped with its outcome unknown.
#[derive(Debug)]
pub struct Reply<T> {
    answer: Option<oneshot::Sender<T>>,
    /// The group, until the proposal is over.
    group: Option<Arc<Shared>>,
    committed: bool,
}

impl<T> Reply<T> {
    /// A reply for a proposal that [`Shared`] has counted as outstanding.
    pub(crate) fn new(group: Arc<Shared>) -> (Self, oneshot::Receiver<T>) {
        let (answer, receiver) = oneshot::channel();
        (Self { answer: Some(answer), group: Some(group), committed: false }, receiver)
    }

    fn over(&mut self) {
        if let Some(group) = self.group.take() {
            group.proposal_over(self.committed);
        }
    }
}

impl<T: OptionalSend + 'static> Responder<Types, T> for Reply<T> {
    fn on_commit(&mut self, _log_id: RaftLogId) {
        self.committed = true;
    }

    fn on_complete(mut self, result: T) {
        // First the group, then the proposer: a retry finds the group already in doubt.
        self.over();
        if let Some(answer) = self.answer.take() {
            // The proposer may have gone away; the entry is applied all the same.
            let _ = answer.send(result);
        }
    }
}

impl<T> Drop for Reply<T> {
    fn drop(&mut self) {
        self.over();
    }
}

//! The one outcome that all records of a batch share, and the future of each of them.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use plimsoll_protocol::api::{AckLevel, Durability};
use plimsoll_protocol::ids::Offset;
use tokio::sync::Semaphore;

use crate::error::SendError;

/// What the node said of a whole batch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BatchAck {
    pub(crate) partition: u32,
    /// Offset of the first record, where the node knows it.
    pub(crate) base_offset: Option<Offset>,
    pub(crate) reached: AckLevel,
    pub(crate) durability: Durability,
    pub(crate) duplicate: bool,
}

/// The acknowledgement of one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    /// Where the record was put.
    pub partition: u32,
    /// Its offset. Absent with acks `none`, and for a duplicate that was stored too long ago for
    /// the node to know where.
    pub offset: Option<Offset>,
    /// What was reached when the node answered.
    pub reached: AckLevel,
    /// What "stored" means for the topic.
    pub durability: Durability,
    /// Whether the batch had been stored before, by an earlier attempt.
    pub duplicate: bool,
}

/// Shared by a batch and the futures of its records.
pub(crate) struct Completion {
    state: Mutex<State>,
    /// Where the batch's bytes go back to when it is done.
    room: Arc<Semaphore>,
}

struct State {
    outcome: Option<Result<BatchAck, SendError>>,
    wakers: Vec<Waker>,
    /// Bytes of the producer's buffer that the batch's records hold.
    held_bytes: usize,
}

impl Completion {
    pub(crate) fn new(room: Arc<Semaphore>) -> Arc<Self> {
        let state = State { outcome: None, wakers: Vec::new(), held_bytes: 0 };
        Arc::new(Self { state: Mutex::new(state), room })
    }

    /// One more record, which holds `bytes` of the buffer until the batch is done.
    pub(crate) fn hold(&self, bytes: usize) {
        self.lock().held_bytes += bytes;
    }

    /// Sets the outcome, once, and wakes all who wait.
    pub(crate) fn complete(&self, outcome: Result<BatchAck, SendError>) {
        let (wakers, held_bytes) = {
            let mut state = self.lock();
            if state.outcome.is_some() {
                return;
            }
            state.outcome = Some(outcome);
            (std::mem::take(&mut state.wakers), std::mem::take(&mut state.held_bytes))
        };
        self.room.add_permits(held_bytes);
        for waker in wakers {
            waker.wake();
        }
    }

    /// Whether the outcome is known, and if it is a failure, which.
    pub(crate) fn failure(&self) -> Option<SendError> {
        self.lock().outcome.as_ref().and_then(|outcome| outcome.as_ref().err().cloned())
    }

    pub(crate) fn is_done(&self) -> bool {
        self.lock().outcome.is_some()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds this lock")
    }
}

/// Resolves when the record's batch is acknowledged or given up. Dropping it does not take the
/// record back.
#[must_use = "await it to learn whether the record is stored"]
pub struct AckFuture {
    completion: Arc<Completion>,
    /// The record's place in its batch.
    position: u32,
    /// Where this future's waker lies among the batch's.
    waker_at: Option<usize>,
}

impl AckFuture {
    pub(crate) fn new(completion: Arc<Completion>, position: u32) -> Self {
        Self { completion, position, waker_at: None }
    }
}

impl Future for AckFuture {
    type Output = Result<Ack, SendError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let mut state = this.completion.lock();
        match &state.outcome {
            Some(Ok(batch)) => Poll::Ready(Ok(Ack {
                partition: batch.partition,
                offset: batch.base_offset.map(|offset| Offset(offset.0 + u64::from(this.position))),
                reached: batch.reached,
                durability: batch.durability,
                duplicate: batch.duplicate,
            })),
            Some(Err(error)) => Poll::Ready(Err(error.clone())),
            None => {
                match this.waker_at {
                    Some(place) => state.wakers[place].clone_from(context.waker()),
                    None => {
                        this.waker_at = Some(state.wakers.len());
                        state.wakers.push(context.waker().clone());
                    }
                }
                Poll::Pending
            }
        }
    }
}

impl std::fmt::Debug for AckFuture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AckFuture").field("position", &self.position).finish_non_exhaustive()
    }
}

//! A message, and what can be said of it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use plimsoll_protocol::api::SettleOutcome;
use plimsoll_protocol::batch::Record;
use plimsoll_protocol::ids::Offset;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use crate::error::ServerError;

/// What a session is told of one message.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) offset: Offset,
    pub(super) attempt: u32,
    pub(super) what: What,
    pub(super) reply: oneshot::Sender<Result<(), SettleError>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Settle(SettleOutcome, Option<u64>),
    Extend(Option<u32>),
}

/// A message that this consumer holds until it is settled, or its lease ends.
///
/// Dropping it settles nothing: it is delivered again when its lease is over, or when the consumer ends.
#[derive(Debug, Clone)]
pub struct Message {
    /// Its partition.
    pub partition: u32,
    /// Its offset: with the partition, its id.
    pub offset: Offset,
    /// For the how manieth time it is delivered, from 1.
    pub attempt: u32,
    /// Key, value, headers, timestamp. They share the memory of the frame that they came in.
    pub record: Record,
    /// How long it is held.
    pub(super) lease: Duration,
    /// Where it goes on: the attachment that it came by.
    pub(super) session: Arc<mpsc::UnboundedSender<Said>>,
}

impl Message {
    /// How long it is held from its delivery on, before it goes to another consumer.
    #[must_use]
    pub fn lease(&self) -> Duration {
        self.lease
    }

    /// It is done. The settlement goes out now; await it to know that it is stored, as durable as the
    /// queue.
    pub fn accept(&self) -> Settlement {
        self.say(What::Settle(SettleOutcome::Accept, None))
    }

    /// It is not done: it is delivered again, after `delay`, or the queue's backoff without one.
    pub fn release(&self, delay: Option<Duration>) -> Settlement {
        let ms = delay.map(|delay| u64::try_from(delay.as_millis()).unwrap_or(u64::MAX));
        self.say(What::Settle(SettleOutcome::Release, ms))
    }

    /// It will never be done: it goes where dead letters go, or is dropped.
    pub fn reject(&self) -> Settlement {
        self.say(What::Settle(SettleOutcome::Reject, None))
    }

    /// Begins its lease anew: `lease` from now, at most 12 hours, or the queue's length without.
    pub fn extend(&self, lease: Option<Duration>) -> Settlement {
        let ms = lease.map(|lease| u32::try_from(lease.as_millis()).unwrap_or(u32::MAX));
        self.say(What::Extend(ms))
    }

    fn say(&self, what: What) -> Settlement {
        let (reply, answer) = oneshot::channel();
        let said = Said { offset: self.offset, attempt: self.attempt, what, reply };
        // Where the session is over the reply is dropped, which is the answer.
        let _ = self.session.send(said);
        Settlement(answer)
    }
}

/// What becomes of something that was said of a message. It goes out whether this is awaited or not.
#[derive(Debug)]
pub struct Settlement(oneshot::Receiver<Result<(), SettleError>>);

impl Future for Settlement {
    type Output = Result<(), SettleError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = Pin::new(&mut self.0).poll(context);
        answer.map(|answer| answer.unwrap_or(Err(SettleError::Unknown)))
    }
}

/// Why a settlement is not stored, or not known to be.
#[derive(Debug, Clone, Error)]
pub enum SettleError {
    /// The consumer has no say in it any more: its lease was over, it was settled before, or its partition
    /// has another leader. It may have been delivered to another consumer.
    #[error("the message is not held any more: its lease was over, or it was settled before")]
    NotHeld,
    /// The connection or the leader was lost before the answer. If it is not stored, the message is
    /// delivered again.
    #[error(
        "it is not known whether the settlement is stored: the connection or the leader was lost; if it \
         is not, the message is delivered again"
    )]
    Unknown,
    /// A later holder of the consumer's lock was seen: the settlement does not count. The message is delivered
    /// again when its lease is over.
    #[error(
        "not settled: the fence is stale, the lock is lost; the highest token seen of it is {highest}"
    )]
    StaleFence {
        /// The highest token of the lock that was seen: the fence's own where the lock was given up and not
        /// granted again.
        highest: u64,
    },
    /// The node refused.
    #[error("not settled: {0}")]
    Refused(ServerError),
}

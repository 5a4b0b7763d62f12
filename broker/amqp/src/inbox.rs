//! How the broker speaks to a connection: what became of publishes, deliveries, ends of consumers. One
//! queue of events per connection, which its task takes in batches.
//!
//! Invariants: a [`Receipt`] tells exactly once; the queue holds at most one event per publish in
//! flight, and of each consumer [`GatewayConfig::consumer_bytes_max`](crate::GatewayConfig) of messages.

use std::fmt;
use std::sync::Arc;

use plimsoll_amqp::session::ChannelKey;
use thiserror::Error;
use tokio::sync::{Semaphore, mpsc};

use crate::backend::{ConsumerEnd, Delivery};
use crate::gateway::Reply;

/// What became of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Published {
    /// It is stored.
    Stored,
    /// The queue takes no more. Where it was declared with `reject-publish-dlx`, the broker has made a
    /// dead letter of it.
    Full,
    /// The queue was deleted: nobody misses the message.
    Deleted,
    /// It may be stored or not: the leader went, or did not answer.
    Unknown,
    /// It was published under a lock that is lost, or was never held: its channel ends, with these words.
    Refused(Arc<str>),
}

#[derive(Debug)]
pub(crate) enum Event {
    Published { token: u32, outcome: Published },
    Delivered { holder: u32, delivery: Delivery },
    Ended { holder: u32, end: ConsumerEnd },
    Replied { channel: ChannelKey, reply: Reply },
}

/// The sending end of a connection's events.
#[derive(Debug, Clone)]
pub(crate) struct Inbox(mpsc::UnboundedSender<Event>);

impl Inbox {
    pub(crate) fn new() -> (Self, mpsc::UnboundedReceiver<Event>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), receiver)
    }

    /// Sends; nobody hears it once the connection is over.
    pub(crate) fn send(&self, event: Event) -> bool {
        self.0.send(event).is_ok()
    }
}

/// To be told what became of one record. Dropped without: [`Published::Unknown`].
pub struct Receipt {
    inbox: Inbox,
    token: u32,
    outcome: Published,
}

impl Receipt {
    pub(crate) fn new(inbox: Inbox, token: u32) -> Self {
        Self { inbox, token, outcome: Published::Unknown }
    }

    /// The record is stored.
    pub fn stored(self) {
        self.tell(Published::Stored);
    }

    /// Tells what became of the record.
    pub fn tell(mut self, outcome: Published) {
        self.outcome = outcome;
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        let outcome = std::mem::replace(&mut self.outcome, Published::Unknown);
        self.inbox.send(Event::Published { token: self.token, outcome });
    }
}

impl fmt::Debug for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receipt").field("token", &self.token).finish_non_exhaustive()
    }
}

/// The consumer is gone; the message is still the broker's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the consumer is gone")]
pub struct Detached;

/// Where the deliveries of one consumer go. Dropped without [`ConsumerPort::end`]:
/// [`ConsumerEnd::Moved`].
#[derive(Debug)]
pub struct ConsumerPort {
    inbox: Inbox,
    holder: u32,
    room: Arc<Semaphore>,
    bytes_max: u32,
    end: ConsumerEnd,
}

impl ConsumerPort {
    pub(crate) fn new(inbox: Inbox, holder: u32, room: Arc<Semaphore>, bytes_max: u32) -> Self {
        Self { inbox, holder, room, bytes_max, end: ConsumerEnd::Moved }
    }

    /// Delivers, once the connection has taken enough of what it was given before. Messages arrive in
    /// the order of the calls. To be dropped without harm while it waits: then it is not delivered.
    ///
    /// # Errors
    /// [`Detached`].
    pub async fn send(&self, delivery: Delivery) -> Result<(), Detached> {
        let permits = self.room.acquire_many(delivery.cost(self.bytes_max)).await;
        permits.map_err(|_| Detached)?.forget();
        let sent = self.inbox.send(Event::Delivered { holder: self.holder, delivery });
        if sent { Ok(()) } else { Err(Detached) }
    }

    /// The consumer has ended by itself, after what was delivered.
    pub fn end(mut self, end: ConsumerEnd) {
        self.end = end;
    }
}

impl Drop for ConsumerPort {
    fn drop(&mut self) {
        self.inbox.send(Event::Ended { holder: self.holder, end: self.end });
    }
}

impl Delivery {
    /// What it takes of its consumer's room.
    pub(crate) fn cost(&self, bytes_max: u32) -> u32 {
        u32::try_from(self.record.bytes()).unwrap_or(u32::MAX).clamp(1, bytes_max.max(1))
    }
}

//! What clients did with the messages of the queue, and saw of them.

use crate::history::{History, News, Outcome, Partition, RecordName};

/// A consumer of the queue, numbered over all of them in the order in which they began.
pub type Receiver = u64;

/// A message that a consumer was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivered {
    /// To whom.
    pub to: Receiver,
    /// The partition of the queue.
    pub partition: Partition,
    /// At which offset.
    pub offset: u64,
    /// For the how manieth time, from 1.
    pub attempt: u32,
    /// Which.
    pub message: RecordName,
    /// Its key, if it has one.
    pub key: Option<u64>,
}

/// What a consumer says of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Saying {
    /// It is done.
    Accept,
    /// Again.
    Release,
    /// Never again.
    Reject,
}

/// How many messages there were.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// That were sent.
    pub sent: u64,
    /// Of which the sender was told that they are stored.
    pub acked: u64,
    /// Deliveries.
    pub delivered: u64,
    /// Settlements of which the consumer was told that they are stored.
    pub settled: u64,
}

/// The key of a message as it stands in the record.
#[must_use]
pub fn key_of(bytes: &[u8]) -> Option<u64> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

impl History {
    /// A sender was told what came of a message.
    pub fn told_sender(&self, message: RecordName, partition: Partition, outcome: Outcome) {
        let mut state = self.lock();
        state.messages.sent += 1;
        if let Outcome::Acked { offset } = outcome {
            state.messages.acked += 1;
            state.fresh.push(News::MessageAcked(message, partition, offset));
        }
    }

    /// A consumer of the queue is about to be made.
    #[must_use]
    pub fn begin_receiving(&self) -> Receiver {
        let mut state = self.lock();
        state.receivers += 1;
        let receiver = state.receivers;
        state.fresh.push(News::ReceiverBegins(receiver));
        receiver
    }

    /// A consumer was given a message.
    pub fn delivered(&self, delivered: Delivered) {
        let mut state = self.lock();
        state.messages.delivered += 1;
        state.fresh.push(News::Delivered(delivered));
    }

    /// A consumer is about to say something of a message.
    pub fn saying(&self, delivered: Delivered, saying: Saying) {
        self.lock().fresh.push(News::Said(delivered, saying));
    }

    /// A consumer was told that what it said of a message is stored.
    pub fn stored(&self, delivered: Delivered, saying: Saying) {
        let mut state = self.lock();
        state.messages.settled += 1;
        state.fresh.push(News::SayingStored(delivered, saying));
    }
}

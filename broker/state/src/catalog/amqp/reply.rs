//! Answers to commands about the objects of AMQP.

use std::sync::Arc;

use plimsoll_protocol::ids::GroupId;

use super::exchanges::Exchange;
use super::queues::Queue;
use crate::catalog::reply::Groups;
use crate::catalog::variants::wire_variants;

/// The answer to a command about the objects of AMQP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AmqpReply {
    /// It is as it was asked for.
    Done {
        /// Whether it was otherwise before.
        changed: bool,
    },
    /// The exchange is there: whether it is what was declared is for the caller to check.
    Exchange {
        /// As it is.
        exchange: Arc<Exchange>,
        /// Whether it was there before, and was left as it was.
        existed: bool,
    },
    /// The queue is there, with its topic: whether it is what was declared is for the caller to check.
    Queue {
        /// As it is.
        queue: Arc<Queue>,
        /// Whether it was there before, and was left as it was.
        existed: bool,
    },
    /// It is gone, with queues and their topics.
    Removed {
        /// The groups of those topics, by id: what is stored of them can be deleted. Empty where there
        /// was no queue (any more).
        groups: Arc<[GroupId]>,
    },
}

wire_variants! {
    /// An answer as it is kept and forwarded. Exchanges and queues never change, so that they are in
    /// it as they were then.
    pub(in crate::catalog) enum AmqpAnswer as "answer of AMQP" {
        Done = 1 { changed: bool },
        Exchange = 2 { exchange: Exchange, existed: bool },
        Queue = 3 { queue: Queue, existed: bool },
        Removed = 4 { groups: Groups },
    }
}

impl AmqpAnswer {
    pub(in crate::catalog) fn of(reply: &AmqpReply) -> Self {
        match reply {
            AmqpReply::Done { changed } => Self::Done { changed: *changed },
            AmqpReply::Exchange { exchange, existed } => {
                Self::Exchange { exchange: Exchange::clone(exchange), existed: *existed }
            }
            AmqpReply::Queue { queue, existed } => {
                Self::Queue { queue: Queue::clone(queue), existed: *existed }
            }
            AmqpReply::Removed { groups } => Self::Removed { groups: Groups(Arc::clone(groups)) },
        }
    }

    pub(in crate::catalog) fn reply(&self) -> AmqpReply {
        match self {
            Self::Done { changed } => AmqpReply::Done { changed: *changed },
            Self::Exchange { exchange, existed } => {
                AmqpReply::Exchange { exchange: Arc::new(exchange.clone()), existed: *existed }
            }
            Self::Queue { queue, existed } => {
                AmqpReply::Queue { queue: Arc::new(queue.clone()), existed: *existed }
            }
            Self::Removed { groups } => AmqpReply::Removed { groups: Arc::clone(&groups.0) },
        }
    }
}

//! The consumer of a queue, or of a subscription that settles message by message.
//!
//! ```text
//!  mod       builds a consumer; takes messages from its partitions
//!  message   a message, and what can be said of it
//!  session   one task per partition: attaches, takes deliveries, gathers settlements into requests
//!  admin     creating, changing, looking at queues
//!  redrive   dead letters, back to where they came from
//! ```

mod admin;
mod message;
mod redrive;
mod session;

use std::collections::VecDeque;
use std::sync::Arc;

use plimsoll_protocol::api::Fence;
use plimsoll_protocol::ids::{PartitionIndex, TopicName};
use tokio::sync::{mpsc, watch};

use crate::client::Shared;
use crate::error::{BuildError, ConsumeError};
use crate::trouble::Told;
pub use admin::{MessageId, NewQueue, Peeked, QueueAdmin};
pub use message::{Message, SettleError, Settlement};
pub use redrive::{Redrive, RedriveError, Redriven};
use session::{Event, Session, Wish};

/// Configures a [`QueueConsumer`].
#[derive(Clone)]
pub struct QueueConsumerBuilder {
    shared: Arc<Shared>,
    topic: String,
    subscription: String,
    partitions: Option<Vec<u32>>,
    wish: Wish,
}

impl QueueConsumerBuilder {
    pub(crate) fn new(shared: Arc<Shared>, topic: String) -> Self {
        let name = shared.config().client_name.clone();
        let wish = Wish {
            name,
            prefetch_count: 100,
            prefetch_bytes: 16 << 20,
            priority: 0,
            exclusive: false,
            settles_itself: false,
            fence: None,
        };
        Self { shared, topic, subscription: String::new(), partitions: None, wish }
    }

    /// A subscription of the topic in place of the queue's own.
    #[must_use]
    pub fn subscription(mut self, name: impl Into<String>) -> Self {
        self.subscription = name.into();
        self
    }

    /// Which partitions. Default: all that the queue has when the consumer is built.
    #[must_use]
    pub fn partitions(mut self, partitions: impl IntoIterator<Item = u32>) -> Self {
        self.partitions = Some(partitions.into_iter().collect());
        self
    }

    /// Messages that it may hold unsettled, of each partition, 1..=100,000. Default 100. More hides
    /// round trips; fewer leaves more to other consumers.
    #[must_use]
    pub fn prefetch(mut self, messages: u32) -> Self {
        self.wish.prefetch_count = messages;
        self
    }

    /// Bytes beyond which it gets nothing more, of each partition. Default 16 MiB. The last message may
    /// reach over it.
    #[must_use]
    pub fn prefetch_bytes(mut self, bytes: u64) -> Self {
        self.wish.prefetch_bytes = bytes;
        self
    }

    /// Consumers of a larger priority get messages first, as long as they have room. Default 0.
    #[must_use]
    pub fn priority(mut self, priority: i32) -> Self {
        self.wish.priority = priority.into();
        self
    }

    /// It must be the only one of each partition; others are refused while it is there.
    #[must_use]
    pub fn exclusive(mut self) -> Self {
        self.wish.exclusive = true;
        self
    }

    /// A message is settled by being delivered: at most once, and faster.
    #[must_use]
    pub fn settles_itself(mut self) -> Self {
        self.wish.settles_itself = true;
        self
    }

    /// The lock under which it settles: once a later holder was seen, settlements are refused
    /// ([`SettleError::StaleFence`]).
    #[must_use]
    pub fn fence(mut self, fence: Fence) -> Self {
        self.wish.fence = Some(fence);
        self
    }

    /// What it is called where people look. Default: the client's name.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.wish.name = name.into();
        self
    }

    /// Looks the queue up and attaches to its partitions.
    ///
    /// # Errors
    /// An unknown topic or partition, an option out of bounds, no connection. What goes wrong in a
    /// single partition later comes through [`QueueConsumer::next`].
    pub async fn build(self) -> Result<QueueConsumer, BuildError> {
        let option = |option, reason: String| Err(BuildError::Option { option, reason });
        if !(1..=100_000).contains(&self.wish.prefetch_count) {
            return option("prefetch", "allowed are 1 to 100,000 messages".to_owned());
        }
        if self.wish.prefetch_bytes == 0 {
            return option("prefetch_bytes", "at least one byte is needed".to_owned());
        }
        let topic = match TopicName::internal(&self.topic) {
            Ok(topic) => topic,
            Err(error) => return option("topic", format!("{error}")),
        };
        let described = self.shared.topic(&topic).await?;
        let mut partitions = self.partitions.unwrap_or_else(|| (0..described.partitions).collect());
        partitions.sort_unstable();
        partitions.dedup();
        if let Some(unknown) = partitions.iter().find(|at| **at >= described.partitions) {
            let reason = format!("partition {unknown} of a topic with {}", described.partitions);
            return option("partitions", reason);
        }
        let interest = self.shared.take_interest(&topic).await;
        // What may wait in it is bounded by what the consumer may hold.
        let (events, receiver) = mpsc::unbounded_channel();
        let (retire, retires) = watch::channel(false);
        let (told, working) = (Told::default(), partitions.len());
        for partition in partitions {
            let session = Session {
                shared: Arc::clone(&self.shared),
                topic: topic.clone(),
                subscription: self.subscription.clone(),
                partition: PartitionIndex(partition),
                wish: self.wish.clone(),
                _interest: Arc::clone(&interest),
                events: events.clone(),
                retires: retires.clone(),
                told: Arc::clone(&told),
            };
            tokio::spawn(session.run());
        }
        Ok(QueueConsumer { receiver, ready: VecDeque::new(), retire, working })
    }
}

/// Messages of a queue's partitions, each to be settled.
///
/// It attaches again by itself where a connection is lost or another node leads. What it held then may be
/// delivered to others: a settlement of it says so. An error of a partition ends only that partition; the
/// stream ends when all partitions have ended. When it is dropped, what was said of messages still goes out,
/// and what it holds is ready again.
pub struct QueueConsumer {
    receiver: mpsc::UnboundedReceiver<Event>,
    ready: VecDeque<Result<Message, ConsumeError>>,
    retire: watch::Sender<bool>,
    /// Partitions that may still hand something out.
    working: usize,
}

impl QueueConsumer {
    /// The next message. `None` when all partitions have ended. May be cancelled.
    ///
    /// # Errors
    /// What ended a partition; the others go on with the next call.
    pub async fn next(&mut self) -> Option<Result<Message, ConsumeError>> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                return Some(message);
            }
            let event = self.receiver.recv().await?;
            self.took(event);
        }
    }

    /// Has nothing more handed out, and returns when that is certain; what it holds can still be settled, which
    /// makes no room for more. Messages that came before are still given by [`QueueConsumer::next`]. Whoever wants
    /// so many messages and no more retires before settling the last: one that is handed out for nothing has one
    /// attempt less.
    pub async fn retire(&mut self) {
        self.retire.send_replace(true);
        while self.working > 0 {
            let Some(event) = self.receiver.recv().await else { return };
            self.took(event);
        }
    }

    fn took(&mut self, event: Event) {
        match event {
            Event::Messages(messages) => self.ready.extend(messages.into_iter().map(Ok)),
            Event::Retired => self.working = self.working.saturating_sub(1),
            Event::Failed(error) => {
                self.working = self.working.saturating_sub(1);
                self.ready.push_back(Err(error));
            }
        }
    }
}

impl std::fmt::Debug for QueueConsumer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QueueConsumer").finish_non_exhaustive()
    }
}

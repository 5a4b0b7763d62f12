//! What sessions say to a queue's task, and what they get from it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use plimsoll_delivery::dispatch::{AttachError, ConsumerId, ConsumerSpec, Outcome, SettleError};
use plimsoll_protocol::api::{MessageExplanation, QueueStanding};
use plimsoll_protocol::ids::Offset;
use tokio::sync::{mpsc, oneshot};

/// One message on its way to a consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivered {
    /// Which.
    pub offset: Offset,
    /// For the how manieth time, from 1.
    pub attempt: u32,
    /// What the record's times are relative to, unix ms.
    pub base_timestamp_ms: i64,
    /// The record as it lies in its batch: [`plimsoll_protocol::batch::Record::decode`] reads it.
    pub record: Bytes,
}

/// A message that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// It.
    pub message: Delivered,
    /// Messages that are ready still.
    pub left: u64,
}

/// What a consumer says of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settling {
    /// Which.
    pub offset: Offset,
    /// The attempt that it was delivered in.
    pub attempt: u32,
    /// What became of it.
    pub outcome: Outcome,
}

/// The settlements are stored, but for those that the consumer had no say in.
pub type Settled = Vec<SettleError>;

/// An attached consumer. It ends when this is dropped; what it holds is ready again then.
#[derive(Debug)]
pub struct Attached {
    /// Who it is.
    pub consumer: ConsumerId,
    /// How long it holds a message, in milliseconds.
    pub lease_ms: u32,
    deliveries: mpsc::UnboundedReceiver<Vec<Delivered>>,
    backlog: Arc<Backlog>,
    queue: QueueHandle,
}

/// What waits between a queue's task and a consumer's session, in bytes of records.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    pub(super) bytes: AtomicUsize,
    /// The task holds the consumer back until the backlog is smaller.
    pub(super) is_held_back: AtomicBool,
}

/// Bytes that may wait for a consumer that settles by being delivered: nothing else holds those back.
pub(super) const BACKLOG_BYTES_MAX: usize = 1 << 20;

impl Attached {
    /// The consumer's end, and the task's.
    pub(super) fn new(
        consumer: ConsumerId,
        lease_ms: u32,
        queue: QueueHandle,
    ) -> (Self, mpsc::UnboundedSender<Vec<Delivered>>, Arc<Backlog>) {
        let (sender, deliveries) = mpsc::unbounded_channel();
        let backlog = Arc::new(Backlog::default());
        let theirs = Arc::clone(&backlog);
        (Self { consumer, lease_ms, deliveries, backlog: theirs, queue }, sender, backlog)
    }

    /// The next messages; none when the queue's task has ended: because the partition is led elsewhere, the
    /// queue was deleted or reconfigured, or the node stops. May be cancelled.
    pub async fn next(&mut self) -> Option<Vec<Delivered>> {
        let messages = self.deliveries.recv().await?;
        let bytes: usize = messages.iter().map(|message| message.record.len()).sum();
        let before = self.backlog.bytes.fetch_sub(bytes, Ordering::AcqRel);
        if before - bytes < BACKLOG_BYTES_MAX / 2
            && self.backlog.is_held_back.swap(false, Ordering::AcqRel)
        {
            self.queue.say(Command::Resume { consumer: self.consumer });
        }
        Some(messages)
    }

    /// The queue that it consumes.
    #[must_use]
    pub fn queue(&self) -> &QueueHandle {
        &self.queue
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.queue.say(Command::Detach { consumer: self.consumer });
    }
}

/// What a queue's task is asked for. Who asks waits for the answer; a task that ends answers nothing.
pub(super) enum Command {
    Attach {
        spec: ConsumerSpec,
        name: String,
        reply: oneshot::Sender<Result<Attached, AttachError>>,
    },
    Detach {
        consumer: ConsumerId,
    },
    Resume {
        consumer: ConsumerId,
    },
    Prefetch {
        consumer: ConsumerId,
        count: u32,
        bytes: u64,
    },
    Settle {
        consumer: ConsumerId,
        items: Vec<Settling>,
        reply: oneshot::Sender<Settled>,
    },
    Extend {
        consumer: ConsumerId,
        items: Vec<(Offset, u32)>,
        lease_ms: Option<u32>,
        reply: oneshot::Sender<Settled>,
    },
    Pull {
        consumer: ConsumerId,
        reply: oneshot::Sender<Option<Pulled>>,
    },
    Retire {
        consumer: ConsumerId,
        reply: oneshot::Sender<u32>,
    },
    Cancel {
        offset: Offset,
        reply: oneshot::Sender<bool>,
    },
    Purge {
        reply: oneshot::Sender<u64>,
    },
    Explain {
        offset: Offset,
        reply: oneshot::Sender<MessageExplanation>,
    },
    Describe {
        /// Whether somebody declares the queue.
        is_use: bool,
        reply: oneshot::Sender<QueueStanding>,
    },
}

/// In place of an offset, before the first count.
pub(super) const NOT_COUNTED: u64 = u64::MAX;

/// Whether a queue takes messages, as its task saw it last.
#[derive(Debug)]
pub(super) struct Gate {
    /// Messages that wait.
    pub(super) length: AtomicU64,
    /// About how many bytes they have.
    pub(super) bytes: AtomicU64,
    /// The offset up to which the two are counted.
    pub(super) counted: AtomicU64,
    /// Messages that were let in, and of which it is not known yet whether they are stored.
    pub(super) admitted: AtomicU64,
    /// Whether as many messages wait for their time as a node keeps.
    pub(super) has_delayed_max: AtomicBool,
}

impl Gate {
    pub(super) fn new() -> Self {
        Self {
            length: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            counted: AtomicU64::new(NOT_COUNTED),
            admitted: AtomicU64::new(0),
            has_delayed_max: AtomicBool::new(false),
        }
    }
}

/// Messages that were let in; dropped once it is known what became of them.
#[derive(Debug)]
pub(crate) struct Admitted {
    gate: Arc<Gate>,
    messages: u64,
}

impl Admitted {
    /// Lets `messages` in, and tells how many were before that are not stored yet.
    pub(super) fn new(gate: &Arc<Gate>, messages: u64) -> (Self, u64) {
        let before = gate.admitted.fetch_add(messages, Ordering::AcqRel);
        (Self { gate: Arc::clone(gate), messages }, before)
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.gate.admitted.fetch_sub(self.messages, Ordering::AcqRel);
    }
}

/// A queue's task. Cheap to clone; the task goes on without handles.
#[derive(Debug, Clone)]
pub struct QueueHandle {
    pub(super) commands: mpsc::UnboundedSender<Command>,
    pub(super) gate: Arc<Gate>,
}

/// The queue's task has ended: look the queue up again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueGone;

impl QueueHandle {
    fn say(&self, command: Command) {
        // A task that has ended has nobody attached any more.
        let _ = self.commands.send(command);
    }

    /// Whether the task has ended.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.commands.is_closed()
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, QueueGone> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).map_err(|_| QueueGone)?;
        answer.await.map_err(|_| QueueGone)
    }

    /// Becomes a consumer; `name` is for people.
    ///
    /// # Errors
    /// When the queue's task has ended; inside, when it or another consumer must be alone.
    pub async fn attach(
        &self,
        spec: ConsumerSpec,
        name: String,
    ) -> Result<Result<Attached, AttachError>, QueueGone> {
        self.ask(|reply| Command::Attach { spec, name, reply }).await
    }

    /// Says what became of messages; answered once that is committed, as durable as the queue. Settlements
    /// take effect in the order in which they are said, before this first waits.
    ///
    /// # Errors
    /// When the queue's task has ended: whether they are stored is not known.
    pub fn settle(
        &self,
        consumer: ConsumerId,
        items: Vec<Settling>,
    ) -> impl Future<Output = Result<Settled, QueueGone>> + Send + use<> {
        let (reply, answer) = oneshot::channel();
        self.say(Command::Settle { consumer, items, reply });
        async move { answer.await.map_err(|_| QueueGone) }
    }

    /// Begins leases anew.
    ///
    /// # Errors
    /// When the queue's task has ended.
    pub async fn extend(
        &self,
        consumer: ConsumerId,
        items: Vec<(Offset, u32)>,
        lease_ms: Option<u32>,
    ) -> Result<Settled, QueueGone> {
        self.ask(|reply| Command::Extend { consumer, items, lease_ms, reply }).await
    }

    /// Changes how much a consumer may hold.
    pub fn set_prefetch(&self, consumer: ConsumerId, count: u32, bytes: u64) {
        self.say(Command::Prefetch { consumer, count, bytes });
    }

    /// Takes one message, where there is one: it is held as a delivery is. Asked before this first waits.
    ///
    /// # Errors
    /// When the queue's task has ended.
    pub fn pull(
        &self,
        consumer: ConsumerId,
    ) -> impl Future<Output = Result<Option<Pulled>, QueueGone>> + Send + use<> {
        let (reply, answer) = oneshot::channel();
        self.say(Command::Pull { consumer, reply });
        async move { answer.await.map_err(|_| QueueGone) }
    }

    /// The consumer takes no more and counts as none; what it holds it holds on. Answers how many are left.
    ///
    /// # Errors
    /// When the queue's task has ended.
    pub async fn retire(&self, consumer: ConsumerId) -> Result<u32, QueueGone> {
        self.ask(|reply| Command::Retire { consumer, reply }).await
    }

    /// Ends a message that nobody holds; answers whether it did, once that is committed.
    ///
    /// # Errors
    /// When the queue's task has ended.
    pub async fn cancel(&self, offset: Offset) -> Result<bool, QueueGone> {
        self.ask(|reply| Command::Cancel { offset, reply }).await
    }

    /// Ends everything that nobody holds; answers how much, once that is committed.
    ///
    /// # Errors
    /// When the queue's task has ended.
    pub async fn purge(&self) -> Result<u64, QueueGone> {
        self.ask(|reply| Command::Purge { reply }).await
    }

    /// Says where a message stands.
    ///
    /// # Errors
    /// When the queue's task has ended.
    pub async fn explain(&self, offset: Offset) -> Result<MessageExplanation, QueueGone> {
        self.ask(|reply| Command::Explain { offset, reply }).await
    }

    /// Says how the queue stands.
    ///
    /// # Errors
    /// When the queue's task has ended.
    pub async fn describe(&self) -> Result<QueueStanding, QueueGone> {
        self.ask(|reply| Command::Describe { is_use: false, reply }).await
    }

    /// The same for somebody who declares the queue, which is a use of it.
    ///
    /// # Errors
    /// When the queue's task has ended.
    pub async fn declare(&self) -> Result<QueueStanding, QueueGone> {
        self.ask(|reply| Command::Describe { is_use: true, reply }).await
    }
}

//! A consumer of a queue for a connection: a task carries its deliveries to the connection.

use std::sync::{Arc, Mutex, PoisonError};

use plimsoll_amqp_gateway::backend::{
    AttachError, Attachment, BoxFuture, ConsumerEnd, ConsumerSpec, Delivery, Outcome, Pulled,
    QueueError, Settled,
};
use plimsoll_amqp_gateway::catalog::QueueEntry;
use plimsoll_amqp_gateway::inbox::ConsumerPort;
use plimsoll_amqp_gateway::message::Stored;
use plimsoll_delivery::dispatch;
use plimsoll_protocol::batch::Record;
use plimsoll_protocol::error::ErrorCode;
use plimsoll_protocol::ids::Offset;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::backend::{name_of, queue_error};
use super::changes::is_deleted;
use crate::broker::Broker;
use crate::queues::{AnyAttached, AnyConsumer, Delivered, QueueName, Settling};

/// Bytes that a consumer may hold: its window is in messages.
const BYTES_MAX: u64 = u64::MAX;

struct Consumer {
    broker: Arc<Broker>,
    queue: QueueName,
    /// Whether somebody wants to know what consumers are left.
    counts: bool,
    consumer: AnyConsumer,
    /// The task, which detaches at its end; dropping the sender ends it.
    task: Mutex<Option<(oneshot::Sender<()>, JoinHandle<()>)>>,
}

/// Begins a consumer, at whichever node leads the queue.
///
/// # Errors
/// [`AttachError`].
pub(super) async fn attach(
    broker: Arc<Broker>,
    queue: &QueueEntry,
    spec: ConsumerSpec,
    port: ConsumerPort,
) -> Result<Arc<dyn Attachment>, AttachError> {
    let wanted = dispatch::ConsumerSpec {
        prefetch_count: spec.prefetch_count,
        prefetch_bytes: BYTES_MAX,
        priority: spec.priority,
        exclusive: spec.exclusive,
        settles_itself: false,
    };
    let (name, counts) = (name_of(queue)?, queue.shape.auto_delete);
    let attaching = broker
        .at_queue(&name, move |queue| async move { queue.attach(wanted, "AMQP".to_owned()).await });
    let attached = attaching.await.map_err(|error| match error.code {
        ErrorCode::QueueInUse => AttachError::InUse,
        _ => queue_error(&error).into(),
    })?;
    let consumer = attached.consumer();
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(carry(Arc::clone(&broker), name.clone(), attached, port, stopped));
    let task = Mutex::new(Some((stop, task)));
    Ok(Arc::new(Consumer { broker, queue: name, counts, consumer, task }))
}

/// Carries deliveries until the consumer is let go, or its queue has another leader or is gone.
async fn carry(
    broker: Arc<Broker>,
    queue: QueueName,
    mut attached: AnyAttached,
    port: ConsumerPort,
    mut stopped: oneshot::Receiver<()>,
) {
    let end = loop {
        let messages = tokio::select! {
            biased;
            _ = &mut stopped => return,
            messages = attached.next() => messages,
        };
        let Some(messages) = messages else {
            let is_there = broker.catalog().topic(&queue.topic).is_some();
            break if is_there { ConsumerEnd::Moved } else { ConsumerEnd::Deleted };
        };
        for message in messages {
            let sent = tokio::select! {
                biased;
                _ = &mut stopped => return,
                sent = port.send(delivery(message)) => sent,
            };
            if sent.is_err() {
                return;
            }
        }
    };
    port.end(end);
}

fn delivery(message: Delivered) -> Delivery {
    let Delivered { offset, attempt, base_timestamp_ms, record } = message;
    // It was taken apart once already when it was committed.
    let record = Record::decode(&record, &mut 0, base_timestamp_ms).unwrap_or_default();
    let headers = record.headers.into_iter().map(|header| (header.name, header.value));
    let stored = Stored::new(record.value.unwrap_or_default(), record.timestamp_ms, headers);
    Delivery { offset: offset.0, attempt, record: stored }
}

fn settling(settled: Settled) -> Settling {
    let outcome = match settled.outcome {
        Outcome::Accept => dispatch::Outcome::Accept,
        Outcome::Release => dispatch::Outcome::Release { delay_ms: Some(0) },
        Outcome::Reject => dispatch::Outcome::Reject,
    };
    Settling { offset: Offset(settled.offset), attempt: settled.attempt, outcome }
}

impl Consumer {
    /// How many consumers the queue has, where that is counted. Where nobody can say, there may be others:
    /// a queue is not to be deleted for want of an answer.
    async fn left(&self) -> u32 {
        if !self.counts {
            return 1;
        }
        let counted =
            self.broker.at_queue(&self.queue, |queue| async move { queue.describe().await });
        match counted.await {
            Ok(standing) => standing.consumers,
            Err(error) => u32::from(!is_deleted(&error)),
        }
    }

    fn take_task(&self) -> Option<(oneshot::Sender<()>, JoinHandle<()>)> {
        self.task.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Attachment for Consumer {
    fn settle(&self, settled: Vec<Settled>) {
        // It was said when this returns; nobody waits for it to be stored.
        self.consumer.settle(settled.into_iter().map(settling).collect());
    }

    fn settle_durably(&self, settled: Vec<Settled>) -> BoxFuture<'_, ()> {
        // What is not held any more, or not known to be, is delivered again.
        Box::pin(self.consumer.settle_durably(settled.into_iter().map(settling).collect()))
    }

    fn pull(&self) -> BoxFuture<'_, Result<Option<Pulled>, QueueError>> {
        let pulling = self.consumer.pull();
        Box::pin(async move {
            let pulled = pulling.await.map_err(|error| queue_error(&error))?;
            Ok(pulled.map(|pulled| Pulled {
                delivery: delivery(pulled.message),
                messages_left: pulled.left,
            }))
        })
    }

    fn retire(&self) -> BoxFuture<'_, u32> {
        Box::pin(async move {
            match self.consumer.retire().await {
                Ok(left) => left,
                Err(_) => self.left().await,
            }
        })
    }

    fn detach(&self) -> BoxFuture<'_, u32> {
        Box::pin(async move {
            if let Some((stop, task)) = self.take_task() {
                drop(stop);
                // A task that failed has detached as well.
                let _ = task.await;
            }
            self.left().await
        })
    }
}

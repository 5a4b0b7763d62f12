//! A consumer of a queue for a connection: a task carries its deliveries to the connection.

use std::sync::{Arc, Mutex, PoisonError};

use plimsoll_amqp_gateway::backend::{
    AttachError, Attachment, BoxFuture, ConsumerEnd, ConsumerSpec, Delivery, Outcome, Pulled,
    QueueError, Settled,
};
use plimsoll_amqp_gateway::inbox::ConsumerPort;
use plimsoll_amqp_gateway::message::Stored;
use plimsoll_delivery::dispatch::{self, ConsumerId};
use plimsoll_protocol::batch::Record;
use plimsoll_protocol::ids::{Offset, TopicName};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::broker::Broker;
use crate::queues::{Attached, Delivered, QueueGone, QueueHandle, Settling};

/// Bytes that a consumer may hold: its window is in messages.
const BYTES_MAX: u64 = u64::MAX;

struct Consumer {
    queue: QueueHandle,
    id: ConsumerId,
    /// The task, which detaches at its end; dropping the sender ends it.
    task: Mutex<Option<(oneshot::Sender<()>, JoinHandle<()>)>>,
}

/// Begins a consumer.
///
/// # Errors
/// [`AttachError`].
pub(super) async fn attach(
    broker: Arc<Broker>,
    topic: TopicName,
    queue: QueueHandle,
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
    let attached = queue.attach(wanted, "AMQP".to_owned()).await.map_err(gone)?;
    let attached = attached.map_err(|_| AttachError::InUse)?;
    let id = attached.consumer;
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(carry(broker, topic, attached, port, stopped));
    Ok(Arc::new(Consumer { queue, id, task: Mutex::new(Some((stop, task))) }))
}

fn gone(_: QueueGone) -> QueueError {
    QueueError::Unavailable { reason: "its leader has changed; try again".to_owned() }
}

/// Carries deliveries until the consumer is let go or its queue has ended.
async fn carry(
    broker: Arc<Broker>,
    topic: TopicName,
    mut attached: Attached,
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
            let is_there = broker.catalog().topic(&topic).is_some();
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
    let headers = record.headers.into_iter().map(|header| (header.name.to_string(), header.value));
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
    async fn left(&self) -> u32 {
        // A queue that has ended has no consumers any more.
        self.queue.describe().await.map_or(0, |standing| standing.consumers)
    }

    fn take_task(&self) -> Option<(oneshot::Sender<()>, JoinHandle<()>)> {
        self.task.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Attachment for Consumer {
    fn settle(&self, settled: Vec<Settled>) {
        // It was said when this returns; nobody waits for it to be stored.
        drop(self.queue.settle(self.id, settled.into_iter().map(settling).collect()));
    }

    fn settle_durably(&self, settled: Vec<Settled>) -> BoxFuture<'_, ()> {
        let settled = self.queue.settle(self.id, settled.into_iter().map(settling).collect());
        Box::pin(async move {
            // What is not held any more, or not known to be, is delivered again.
            let _ = settled.await;
        })
    }

    fn pull(&self) -> BoxFuture<'_, Result<Option<Pulled>, QueueError>> {
        Box::pin(async move {
            let pulled = self.queue.pull(self.id).await.map_err(gone)?;
            Ok(pulled.map(|pulled| Pulled {
                delivery: delivery(pulled.message),
                messages_left: pulled.left,
            }))
        })
    }

    fn retire(&self) -> BoxFuture<'_, u32> {
        Box::pin(async move { self.queue.retire(self.id).await.unwrap_or(0) })
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

//! A queue wherever it is led: by this node, or by another whose client this one is.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::Either;
use plimsoll_delivery::dispatch::{ConsumerId, ConsumerSpec};
use plimsoll_protocol::api::{DescribeQueueRequest, PurgeQueueRequest, QueueStanding};
use plimsoll_protocol::error::{ErrorCode, ErrorResponse};
use plimsoll_protocol::ids::NodeId;
use tokio::time::{Instant, sleep};

use super::handle::{Attached, Delivered, Pulled, QueueGone, QueueHandle, Settling};
use super::leader_link::{LeaderLink, RemoteAttached, RemoteConsumer};
use super::registry::QueueName;
use crate::broker::Broker;
use crate::refusals;

/// How long a queue is asked again that has no leader: several elections.
const LEADER_WAIT: Duration = Duration::from_secs(5);
/// After which pause.
const AGAIN_AFTER: Duration = Duration::from_millis(50);

/// A queue, as long as its leader stays.
#[derive(Debug, Clone)]
pub(crate) enum AnyQueue {
    /// This node leads it.
    Here(QueueHandle),
    /// Another does.
    Elsewhere(RemoteQueue),
}

/// A queue of another node.
#[derive(Debug, Clone)]
pub(crate) struct RemoteQueue {
    link: Arc<LeaderLink>,
    name: QueueName,
}

fn moved(_: QueueGone) -> ErrorResponse {
    refusals::queue_moved()
}

impl AnyQueue {
    /// Begins a consumer.
    ///
    /// # Errors
    /// [`ErrorCode::QueueInUse`] where it, or another one, must be alone; else where the leader has changed,
    /// and that of the leader.
    pub(crate) async fn attach(
        &self,
        spec: ConsumerSpec,
        name: String,
    ) -> Result<AnyAttached, ErrorResponse> {
        match self {
            Self::Here(queue) => {
                let attached = queue.attach(spec, name).await.map_err(moved)?;
                let attached = attached.map_err(|error| {
                    ErrorResponse::new(ErrorCode::QueueInUse, error.to_string())
                })?;
                Ok(AnyAttached::Here(attached))
            }
            Self::Elsewhere(RemoteQueue { link, name: queue }) => {
                Ok(AnyAttached::Elsewhere(link.attach(queue, spec, name).await?))
            }
        }
    }

    /// Says how the queue stands.
    ///
    /// # Errors
    /// Where the leader has changed, and that of the leader.
    pub(crate) async fn describe(&self) -> Result<QueueStanding, ErrorResponse> {
        match self {
            Self::Here(queue) => queue.describe().await.map_err(moved),
            Self::Elsewhere(RemoteQueue { link, name }) => {
                let request = DescribeQueueRequest {
                    topic: name.topic.clone(),
                    subscription: name.subscription.clone(),
                    partition: name.partition,
                };
                Ok(link.ask(&request).await?.0)
            }
        }
    }

    /// The same for somebody who declares the queue, which is a use of it.
    ///
    /// # Errors
    /// Where the leader has changed, and that of the leader.
    pub(crate) async fn declare(&self) -> Result<QueueStanding, ErrorResponse> {
        if let Self::Here(queue) = self {
            return queue.declare().await.map_err(moved);
        }
        // Attaching is one, and who only pulls does not count.
        let passing = ConsumerSpec { prefetch_count: 0, ..ConsumerSpec::default() };
        let _passing = self.attach(passing, "AMQP".to_owned()).await?;
        self.describe().await
    }

    /// Ends everything that nobody holds; answers how much, once that is committed.
    ///
    /// # Errors
    /// Where the leader has changed, and that of the leader.
    pub(crate) async fn purge(&self) -> Result<u64, ErrorResponse> {
        match self {
            Self::Here(queue) => queue.purge().await.map_err(moved),
            Self::Elsewhere(RemoteQueue { link, name }) => {
                let request = PurgeQueueRequest {
                    topic: name.topic.clone(),
                    subscription: name.subscription.clone(),
                    partition: name.partition,
                };
                Ok(link.ask(&request).await?.0.messages)
            }
        }
    }
}

/// An attached consumer. It ends when this is dropped; what it holds is ready again then.
#[derive(Debug)]
pub(crate) enum AnyAttached {
    /// This node leads its queue.
    Here(Attached),
    /// Another does.
    Elsewhere(RemoteAttached),
}

impl AnyAttached {
    /// The next messages; none when its queue has another leader, or is gone. May be cancelled.
    pub(crate) async fn next(&mut self) -> Option<Vec<Delivered>> {
        match self {
            Self::Here(attached) => attached.next().await,
            Self::Elsewhere(attached) => attached.next().await,
        }
    }

    /// For what it says.
    pub(crate) fn consumer(&self) -> AnyConsumer {
        match self {
            Self::Here(attached) => AnyConsumer::Here(attached.queue().clone(), attached.consumer),
            Self::Elsewhere(attached) => AnyConsumer::Elsewhere(attached.consumer().clone()),
        }
    }
}

/// An attached consumer, as it says what becomes of its messages. What it says is said before the futures
/// first wait, and takes effect in that order.
#[derive(Debug, Clone)]
pub(crate) enum AnyConsumer {
    /// This node leads its queue.
    Here(QueueHandle, ConsumerId),
    /// Another does.
    Elsewhere(RemoteConsumer),
}

impl AnyConsumer {
    /// Says what became of messages; nobody waits for the outcome.
    pub(crate) fn settle(&self, items: Vec<Settling>) {
        match self {
            Self::Here(queue, id) => drop(queue.settle(*id, items)),
            Self::Elsewhere(consumer) => consumer.settle(&items),
        }
    }

    /// The same, done once it is stored, or once that cannot be known any more.
    pub(crate) fn settle_durably(
        &self,
        items: Vec<Settling>,
    ) -> impl Future<Output = ()> + Send + use<> {
        match self {
            Self::Here(queue, id) => {
                let settled = queue.settle(*id, items);
                Either::Left(async move { drop(settled.await) })
            }
            Self::Elsewhere(consumer) => {
                let settled = consumer.settle_durably(&items);
                Either::Right(async move { drop(settled.await) })
            }
        }
    }

    /// Takes one message, where there is one: it is held as a delivery is.
    ///
    /// # Errors
    /// When its queue has another leader, or is gone.
    pub(crate) fn pull(
        &self,
    ) -> impl Future<Output = Result<Option<Pulled>, ErrorResponse>> + Send + use<> {
        match self {
            Self::Here(queue, id) => {
                let pulled = queue.pull(*id);
                Either::Left(async move { pulled.await.map_err(moved) })
            }
            Self::Elsewhere(consumer) => Either::Right(consumer.pull()),
        }
    }

    /// The consumer takes no more and counts as none; what it holds it holds on. Answers how many are left.
    ///
    /// # Errors
    /// When its queue has another leader, or is gone.
    pub(crate) async fn retire(&self) -> Result<u32, ErrorResponse> {
        match self {
            Self::Here(queue, id) => queue.retire(*id).await.map_err(moved),
            Self::Elsewhere(consumer) => consumer.retire().await,
        }
    }
}

impl Broker {
    /// Asks a queue where it is led. Where nobody leads it now, or its leader changes meanwhile, it is asked
    /// again for a while: what is asked may then have been done before.
    ///
    /// # Errors
    /// The answer's own; or that of the last attempt.
    pub(crate) async fn at_queue<T, F>(
        self: &Arc<Self>,
        name: &QueueName,
        ask: impl Fn(AnyQueue) -> F + Send + Sync,
    ) -> Result<T, ErrorResponse>
    where
        T: Send,
        F: Future<Output = Result<T, ErrorResponse>> + Send,
    {
        let begun = Instant::now();
        let mut told = None;
        loop {
            let asked = match self.queue_anywhere(name, told.take()).await {
                Ok(queue) => ask(queue).await,
                Err(error) => Err(error),
            };
            let error = match asked {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let is_over = begun.elapsed() >= LEADER_WAIT || self.is_stopping();
            if is_over || !error.code.is_retriable() {
                return Err(error);
            }
            told = error.leader.map(|leader| leader.node);
            sleep(AGAIN_AFTER).await;
        }
    }

    /// The queue at its leader: at the node that was `told` to lead it, else where this node finds it.
    async fn queue_anywhere(
        self: &Arc<Self>,
        name: &QueueName,
        told: Option<NodeId>,
    ) -> Result<AnyQueue, ErrorResponse> {
        let me = self.identity().node_id;
        let leader = match told.filter(|leader| *leader != me) {
            Some(leader) => leader,
            None => match self.queue(&name.topic, name.partition, &name.subscription).await {
                Ok(queue) => return Ok(AnyQueue::Here(queue)),
                Err(mut error) => match error.leader.take().filter(|leader| leader.node != me) {
                    Some(leader) => leader.node,
                    None => return Err(error),
                },
            },
        };
        let link = self.leader_link(leader).await?;
        Ok(AnyQueue::Elsewhere(RemoteQueue { link, name: name.clone() }))
    }
}

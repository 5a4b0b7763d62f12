//! The entry: a client holds one connection per node and hands out producers, consumers and the
//! admin.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use plimsoll_protocol::api::{DescribeTopicRequest, Request, TopicInfo};
use plimsoll_protocol::ids::{PartitionIndex, TopicName};
use tokio::time::timeout;

use crate::admin::Admin;
use crate::config::ClientConfig;
use crate::consumer::ConsumerBuilder;
use crate::error::{ConnectError, RequestError};
use crate::link::{Dialer, Link};
use crate::producer::ProducerBuilder;

/// A connection to a Plimsoll cluster. Cloning is cheap; the connections end with the last clone,
/// producer and consumer.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

/// What a client, its producers and consumers have in common.
pub(crate) struct Shared {
    dialer: Dialer,
    slots: Mutex<HashMap<String, Arc<Slot>>>,
}

/// The link to one address. One attempt to dial at a time; whoever waits for it gets its outcome.
#[derive(Default)]
struct Slot {
    state: tokio::sync::Mutex<SlotState>,
}

#[derive(Default)]
struct SlotState {
    link: Option<Arc<Link>>,
    /// The last attempt that failed, and when.
    failed: Option<(Instant, ConnectError)>,
}

impl Client {
    /// Connects to a node.
    ///
    /// # Errors
    /// When the configuration cannot be used, nobody answers, the certificate is not trusted, or
    /// the node refuses.
    pub async fn connect(config: ClientConfig) -> Result<Self, ConnectError> {
        let shared = Arc::new(Shared { dialer: Dialer::new(config)?, slots: Mutex::default() });
        shared.link(None).await?;
        Ok(Self { shared })
    }

    /// A producer for a topic, to be configured and built.
    pub fn producer(&self, topic: impl Into<String>) -> ProducerBuilder {
        ProducerBuilder::new(Arc::clone(&self.shared), topic.into())
    }

    /// A consumer of a topic, to be configured and built.
    pub fn consumer(&self, topic: impl Into<String>) -> ConsumerBuilder {
        ConsumerBuilder::new(Arc::clone(&self.shared), topic.into())
    }

    /// Topics, offsets, status.
    pub fn admin(&self) -> Admin {
        Admin::new(Arc::clone(&self.shared))
    }

    /// Ends the connections and waits, for at most a second, until the nodes were told. Close
    /// producers first. A client that is only dropped leaves its node to find out by itself.
    pub async fn close(self) {
        let slots: Vec<Arc<Slot>> = self.shared.slots().drain().map(|(_, slot)| slot).collect();
        let told = async {
            for slot in slots {
                if let Some(link) = slot.state.lock().await.link.take() {
                    link.close("the client is done");
                    link.drained().await;
                }
            }
        };
        // Not being told in time costs the node no more than its idle timeout.
        let _ = timeout(Duration::from_secs(1), told).await;
    }

    /// Name of the cluster that the node belongs to.
    ///
    /// # Errors
    /// When the connection was lost and cannot be made again.
    pub async fn cluster_id(&self) -> Result<String, ConnectError> {
        Ok(self.shared.link(None).await?.hello().cluster_id.clone())
    }
}

impl Shared {
    pub(crate) fn config(&self) -> &ClientConfig {
        self.dialer.config()
    }

    /// The live link to a node (by default the configured one), dialed anew if it was lost.
    pub(crate) async fn link(&self, address: Option<&str>) -> Result<Arc<Link>, ConnectError> {
        let address = address.unwrap_or(&self.config().address);
        let asked_at = Instant::now();
        let slot = Arc::clone(self.slots().entry(address.to_owned()).or_default());
        let mut state = slot.state.lock().await;
        if let Some(link) = &state.link
            && !link.is_closed()
        {
            return Ok(Arc::clone(link));
        }
        state.link = None;
        if let Some((at, error)) = &state.failed
            && *at >= asked_at
        {
            return Err(error.clone());
        }
        match self.dialer.dial(address).await {
            Ok(link) => {
                let link = Arc::new(link);
                state.link = Some(Arc::clone(&link));
                state.failed = None;
                Ok(link)
            }
            Err(error) => {
                state.failed = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<String, Arc<Slot>>> {
        self.slots.lock().expect("no code panics while it holds this lock")
    }

    /// A topic without its partitions.
    pub(crate) async fn topic(&self, topic: &TopicName) -> Result<TopicInfo, RequestError> {
        let request = DescribeTopicRequest {
            topic: topic.clone(),
            first_partition: PartitionIndex(0),
            partitions_max: 0,
        };
        Ok(self.request(request).await?.topic)
    }

    /// Sends one request to the configured node and awaits its answer.
    pub(crate) async fn request<R>(&self, request: R) -> Result<R::Response, RequestError>
    where
        R: Request + Send + Sync + 'static,
    {
        Ok(self.request_with_payload(request).await?.0)
    }

    /// As [`Shared::request`], with the answer's payload.
    pub(crate) async fn request_with_payload<R>(
        &self,
        request: R,
    ) -> Result<(R::Response, Bytes), RequestError>
    where
        R: Request + Send + Sync + 'static,
    {
        let after = self.config().request_timeout;
        let answered = async { self.link(None).await?.control().request(request).await };
        match timeout(after, answered).await {
            Ok(outcome) => outcome,
            Err(_) => Err(RequestError::Timeout { after }),
        }
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("address", &self.shared.config().address).finish()
    }
}

//! A stream on which this node is a client of another: what its own clients want of queues that the other
//! leads. There is one per node, which all queues and consumers share.
//!
//! It speaks the native protocol, and the leader serves it as it serves clients: what is granted, held and
//! settled is the leader's to say, and prefetch counts there. Deliveries come as far as a consumer's credit
//! goes, so that one whose client does not read holds up nobody else.
//!
//! Invariants: what is said goes out in the order in which it was said; of each consumer at most its credit
//! and one frame wait here; when the stream has ended, nobody waits on it any more.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use plimsoll_delivery::dispatch::{ConsumerSpec, Outcome};
use plimsoll_protocol::api::{
    AttachRequest, CreditRequest, DeliveredMessage, PullMessageRequest, QueueDelivery, Request,
    RetireRequest, SettleOutcome, SettleRequest, Settlement, UnsubscribeRequest,
};
use plimsoll_protocol::error::{ErrorCode, ErrorResponse};
use plimsoll_protocol::frame::{Frame, ResponseError, encode_request};
use plimsoll_protocol::ids::{CorrelationId, NodeId};
use plimsoll_protocol::peer::CLIENT_CREDIT_BYTES;
use plimsoll_protocol::wire::DecodeError;
use plimsoll_transport::{FrameReceiver, FrameSender, RecvError, SendError};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::handle::{Delivered, Pulled, Settling};
use super::registry::QueueName;
use crate::broker::Broker;

/// How long an answer is waited for. The link of a node that is silent ends long before.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// How long a stream may take to be opened: over TLS it is a connection.
const OPEN_MAX: Duration = Duration::from_secs(3);
/// What is said at once.
const GATHERED: usize = 256;
/// Settlements of one frame, which must be below the largest body of a request.
const SETTLEMENTS_MAX: usize = 2_000;

/// See the module. Of each node the last one.
#[derive(Default)]
pub(crate) struct LeaderLinks(Mutex<BTreeMap<NodeId, Arc<Place>>>);

/// Where one is opened, by one who asks at a time.
type Place = tokio::sync::Mutex<Option<Arc<LeaderLink>>>;

/// See the module.
#[derive(Debug)]
pub(crate) struct LeaderLink {
    node: NodeId,
    /// Bounded by what consumers hold and by what clients ask at once.
    said: mpsc::UnboundedSender<Said>,
    waiting: Mutex<Waiting>,
}

#[derive(Debug)]
enum Said {
    /// A frame, and the payload behind it.
    Frame(Bytes, Bytes),
    /// Nobody waits for its answer: several may become one frame.
    Settle(CorrelationId, Vec<Settlement>),
}

#[derive(Debug, Default)]
struct Waiting {
    next: u32,
    is_over: bool,
    answers: HashMap<CorrelationId, oneshot::Sender<Frame>>,
    consumers: HashMap<CorrelationId, mpsc::UnboundedSender<Vec<Delivered>>>,
}

/// Why a stream is of no more use.
#[derive(Debug, Error)]
enum LinkEnd {
    #[error("the leader ended it")]
    Ended,
    #[error(transparent)]
    Received(#[from] RecvError),
    #[error(transparent)]
    Sent(#[from] SendError),
    #[error("what the leader sent cannot be read: {0}")]
    Malformed(#[from] DecodeError),
    #[error("a delivery does not have the bytes that it names")]
    Misfit,
}

impl Broker {
    /// The stream to a node; opened where there is none.
    ///
    /// # Errors
    /// Where the node is not reached.
    pub(crate) async fn leader_link(&self, node: NodeId) -> Result<Arc<LeaderLink>, ErrorResponse> {
        let unreached = |why: String| {
            ErrorResponse::new(ErrorCode::NotReady, format!("node {node} is not reached: {why}"))
        };
        let peers = self.peers().ok_or_else(|| unreached("there are no links".to_owned()))?;
        let place = {
            let mut links = self.leader_links().0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(links.entry(node).or_default())
        };
        let mut place = place.lock().await;
        if let Some(link) = place.as_ref().filter(|link| !link.waiting().is_over) {
            return Ok(Arc::clone(link));
        }
        let opened = timeout(OPEN_MAX, peers.open_client(node)).await;
        let opened = opened.map_err(|_| unreached("no stream was opened in time".to_owned()))?;
        let (sender, receiver) = opened.map_err(|error| unreached(error.to_string()))?;
        let link = LeaderLink::begin(node, sender, receiver);
        *place = Some(Arc::clone(&link));
        Ok(link)
    }
}

impl LeaderLink {
    fn begin(node: NodeId, sender: FrameSender, mut receiver: FrameReceiver) -> Arc<Self> {
        let (said, saying) = mpsc::unbounded_channel();
        let link = Arc::new(Self { node, said, waiting: Mutex::default() });
        let running = Arc::clone(&link);
        tokio::spawn(async move {
            // Two tasks: what is read and what is written do not wait for each other.
            let mut writing = tokio::spawn(write(saying, sender));
            let end = tokio::select! {
                biased;
                end = running.read(&mut receiver) => end,
                written = &mut writing => match written {
                    Ok(Err(error)) => error.into(),
                    Ok(Ok(())) | Err(_) => LinkEnd::Ended,
                },
            };
            writing.abort();
            tracing::debug!(peer = %node, reason = %end, "a stream to a leader has ended");
            running.end();
        });
        link
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who waits learns of it by the end of its channel.
    fn end(&self) {
        let mut waiting = self.waiting();
        waiting.is_over = true;
        waiting.answers.clear();
        waiting.consumers.clear();
    }

    async fn read(&self, receiver: &mut FrameReceiver) -> LinkEnd {
        loop {
            let read = match receiver.recv().await {
                Ok(Some(frame)) => self.take(frame),
                Ok(None) => Err(LinkEnd::Ended),
                Err(error) => Err(error.into()),
            };
            if let Err(end) = read {
                return end;
            }
        }
    }

    fn take(&self, frame: Frame) -> Result<(), LinkEnd> {
        let (flags, correlation) = (frame.header.flags, frame.header.correlation);
        if flags.is_response() {
            let asked = self.waiting().answers.remove(&correlation);
            // What nobody waits for are answers to settlements and to ends of consumers.
            asked.map(|asked| asked.send(frame));
            return Ok(());
        }
        if flags.is_error() {
            // The consumer sees its end, and finds out where the queue is now.
            self.waiting().consumers.remove(&correlation);
            return Ok(());
        }
        let QueueDelivery { messages } = frame.decode_body()?;
        let mut payload = frame.payload;
        let messages = messages.iter().map(|message| delivered(message, &mut payload));
        let messages = messages.collect::<Option<Vec<_>>>().ok_or(LinkEnd::Misfit)?;
        if let Some(consumer) = self.waiting().consumers.get(&correlation) {
            // One that has just gone gives back all that it held.
            let _ = consumer.send(messages);
        }
        Ok(())
    }

    /// What is said after the stream's end goes nowhere.
    fn say<R: Request>(&self, correlation: CorrelationId, request: &R, payload: Bytes) {
        let frame = encode_request(correlation, request, payload.len()).freeze();
        let _ = self.said.send(Said::Frame(frame, payload));
    }

    fn lost(&self) -> ErrorResponse {
        let message = format!(
            "node {}, which leads the queue, is not reached any more: whether it did what it was asked \
             for is not known",
            self.node
        );
        ErrorResponse::new(ErrorCode::Timeout, message)
    }

    /// Asks; said before this first waits.
    ///
    /// # Errors
    /// The leader's own, or that it is gone.
    pub(crate) fn ask<R: Request>(
        self: &Arc<Self>,
        request: &R,
    ) -> impl Future<Output = Result<(R::Response, Bytes), ErrorResponse>> + Send + use<R> {
        self.ask_with(request, Bytes::new())
    }

    /// As [`LeaderLink::ask`], of requests with a payload.
    ///
    /// # Errors
    /// The leader's own, or that it is gone.
    pub(crate) fn ask_with<R: Request>(
        self: &Arc<Self>,
        request: &R,
        payload: Bytes,
    ) -> impl Future<Output = Result<(R::Response, Bytes), ErrorResponse>> + Send + use<R> {
        let (answer, answered) = oneshot::channel();
        let correlation = self.waiting().expect(answer);
        self.say(correlation, request, payload);
        let link = Arc::clone(self);
        async move { link.answer::<R>(correlation, answered).await }
    }

    async fn answer<R: Request>(
        &self,
        correlation: CorrelationId,
        answered: oneshot::Receiver<Frame>,
    ) -> Result<(R::Response, Bytes), ErrorResponse> {
        let Ok(answered) = timeout(ANSWER_MAX, answered).await else {
            self.waiting().answers.remove(&correlation);
            return Err(self.lost());
        };
        let frame = answered.map_err(|_| self.lost())?;
        match frame.decode_response::<R>() {
            Ok(response) => Ok((response, frame.payload)),
            Err(ResponseError::Refused(error)) => Err(*error),
            Err(error) => Err(ErrorResponse::new(ErrorCode::Internal, error.to_string())),
        }
    }

    /// Becomes a consumer of a queue that the node leads.
    ///
    /// # Errors
    /// The leader's own, or that it is gone.
    pub(super) async fn attach(
        self: &Arc<Self>,
        queue: &QueueName,
        spec: ConsumerSpec,
        name: String,
    ) -> Result<RemoteAttached, ErrorResponse> {
        let (sender, deliveries) = mpsc::unbounded_channel();
        let (answer, answered) = oneshot::channel();
        let correlation = {
            let mut waiting = self.waiting();
            let correlation = waiting.expect(answer);
            if !waiting.is_over {
                waiting.consumers.insert(correlation, sender);
            }
            correlation
        };
        let consumer = RemoteConsumer { link: Arc::clone(self), correlation };
        // Dropped while it waits, it detaches.
        let attached = RemoteAttached { consumer, deliveries, taken_bytes: 0 };
        let request = AttachRequest {
            topic: queue.topic.clone(),
            subscription: queue.subscription.clone(),
            partition: queue.partition,
            name,
            prefetch_count: spec.prefetch_count,
            prefetch_bytes: spec.prefetch_bytes,
            priority: spec.priority.into(),
            exclusive: spec.exclusive,
            settles_itself: spec.settles_itself,
        };
        self.say(correlation, &request, Bytes::new());
        self.answer::<AttachRequest>(correlation, answered).await?;
        Ok(attached)
    }
}

impl Waiting {
    /// A number for a request whose answer goes there.
    fn expect(&mut self, answer: oneshot::Sender<Frame>) -> CorrelationId {
        let mut correlation = CorrelationId(self.next);
        while self.answers.contains_key(&correlation) || self.consumers.contains_key(&correlation) {
            correlation = CorrelationId(correlation.0.wrapping_add(1));
        }
        self.next = correlation.0.wrapping_add(1);
        if !self.is_over {
            self.answers.insert(correlation, answer);
        }
        correlation
    }
}

/// A message with its record off the front of the payload.
fn delivered(message: &DeliveredMessage, payload: &mut Bytes) -> Option<Delivered> {
    let bytes = usize::try_from(message.bytes).ok().filter(|bytes| *bytes <= payload.len())?;
    Some(Delivered {
        offset: message.offset,
        attempt: message.attempt,
        base_timestamp_ms: message.base_timestamp_ms,
        record: payload.split_to(bytes),
    })
}

/// Writes what is said until nobody can say anything any more.
async fn write(
    mut saying: mpsc::UnboundedReceiver<Said>,
    mut sender: FrameSender,
) -> Result<(), SendError> {
    let mut gathered = Vec::new();
    while saying.recv_many(&mut gathered, GATHERED).await > 0 {
        let mut said = gathered.drain(..).peekable();
        while let Some(one) = said.next() {
            match one {
                Said::Frame(frame, payload) => sender.feed(frame, &[payload]),
                Said::Settle(consumer, mut items) => {
                    while let Some(Said::Settle(_, more)) = said.next_if(
                        |next| matches!(next, Said::Settle(other, _) if *other == consumer),
                    ) {
                        items.extend(more);
                    }
                    for items in items.chunks(SETTLEMENTS_MAX) {
                        sender.feed(settle_frame(consumer, items).freeze(), &[]);
                    }
                }
            }
        }
        sender.flush().await?;
    }
    sender.finish().await
}

/// Its answer repeats the consumer's number: nobody waits for one.
fn settle_frame(consumer: CorrelationId, items: &[Settlement]) -> BytesMut {
    encode_request(consumer, &SettleRequest { consumer, items: items.to_vec(), fence: None }, 0)
}

/// A consumer of a queue that another node leads.
#[derive(Debug, Clone)]
pub(crate) struct RemoteConsumer {
    link: Arc<LeaderLink>,
    correlation: CorrelationId,
}

impl RemoteConsumer {
    /// Says what became of messages; nobody waits for the outcome.
    pub(crate) fn settle(&self, items: &[Settling]) {
        let items = items.iter().map(settlement).collect();
        let _ = self.link.said.send(Said::Settle(self.correlation, items));
    }

    /// The same, done once it is stored.
    ///
    /// # Errors
    /// When that is not known.
    pub(crate) fn settle_durably(
        &self,
        items: &[Settling],
    ) -> impl Future<Output = Result<(), ErrorResponse>> + Send + use<> {
        let items: Vec<_> = items.iter().map(settlement).collect();
        let consumer = self.correlation;
        let said = items.chunks(SETTLEMENTS_MAX).map(|items| {
            self.link.ask(&SettleRequest { consumer, items: items.to_vec(), fence: None })
        });
        let said: Vec<_> = said.collect();
        async move {
            for answer in said {
                answer.await?;
            }
            Ok(())
        }
    }

    /// Takes one message, where there is one. Asked before this first waits.
    ///
    /// # Errors
    /// When the leader has changed.
    pub(crate) fn pull(
        &self,
    ) -> impl Future<Output = Result<Option<Pulled>, ErrorResponse>> + Send + use<> {
        let asked = self.link.ask(&PullMessageRequest { consumer: self.correlation });
        async move {
            let (response, mut payload) = asked.await?;
            let Some(message) = response.message else { return Ok(None) };
            let message = delivered(&message, &mut payload).ok_or_else(|| {
                ErrorResponse::new(ErrorCode::Internal, LinkEnd::Misfit.to_string())
            })?;
            Ok(Some(Pulled { message, left: response.left }))
        }
    }

    /// The consumer takes no more and counts as none. Answers how many are left.
    ///
    /// # Errors
    /// When the leader has changed.
    pub(crate) async fn retire(&self) -> Result<u32, ErrorResponse> {
        let retired = self.link.ask(&RetireRequest { consumer: self.correlation }).await;
        retired.map(|(response, _)| response.consumers)
    }
}

fn settlement(settling: &Settling) -> Settlement {
    let (outcome, delay_ms) = match settling.outcome {
        Outcome::Accept => (SettleOutcome::Accept, None),
        Outcome::Release { delay_ms } => (SettleOutcome::Release, delay_ms),
        Outcome::Reject => (SettleOutcome::Reject, None),
    };
    Settlement { offset: settling.offset, attempt: settling.attempt, outcome, delay_ms }
}

/// An attached consumer of a queue that another node leads. It ends when this is dropped; what it holds is
/// ready again then.
#[derive(Debug)]
pub(crate) struct RemoteAttached {
    consumer: RemoteConsumer,
    deliveries: mpsc::UnboundedReceiver<Vec<Delivered>>,
    /// Taken since credit was last given.
    taken_bytes: u64,
}

impl RemoteAttached {
    /// Who it is.
    pub(crate) fn consumer(&self) -> &RemoteConsumer {
        &self.consumer
    }

    /// The next messages; none when the node leads the queue no more, is not reached, or the queue is gone.
    /// May be cancelled.
    pub(crate) async fn next(&mut self) -> Option<Vec<Delivered>> {
        let messages = self.deliveries.recv().await?;
        self.taken_bytes += messages.iter().map(|message| message.record.len() as u64).sum::<u64>();
        if self.taken_bytes >= CLIENT_CREDIT_BYTES / 2 {
            let bytes = std::mem::take(&mut self.taken_bytes);
            let subscription = self.consumer.correlation;
            self.consumer.link.say(
                subscription,
                &CreditRequest { subscription, bytes },
                Bytes::new(),
            );
        }
        Some(messages)
    }
}

impl Drop for RemoteAttached {
    fn drop(&mut self) {
        let RemoteConsumer { link, correlation } = &self.consumer;
        {
            let mut waiting = link.waiting();
            waiting.consumers.remove(correlation);
            waiting.answers.remove(correlation);
        }
        // Nobody waits for the answer.
        link.say(*correlation, &UnsubscribeRequest { subscription: *correlation }, Bytes::new());
    }
}

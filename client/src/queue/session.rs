//! One task per partition: attaches, again and again, takes deliveries, and gathers what is said of
//! messages into requests.
//!
//! At most [`REQUESTS_MAX`] requests of settlements are under way: what is said meanwhile gathers, so that
//! their number does not grow with the load, and a node that is busy is not waited for with a full stream.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use plimsoll_protocol::api::{
    AttachRequest, AttachResponse, ExtendRequest, Fence, QueueDelivery, RetireRequest,
    SettleOutcome, SettleRequest, SettleResponse, Settlement, UnsubscribeRequest,
};
use plimsoll_protocol::batch::Record;
use plimsoll_protocol::error::{ErrorCode, ErrorResponse};
use plimsoll_protocol::frame::Frame;
use plimsoll_protocol::ids::{CorrelationId, Offset, PartitionIndex, TopicName};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};

use super::message::{Message, Said, SettleError, What};
use crate::channel::{Channel, ChannelClosed, Waiter, decode_answer};
use crate::client::Shared;
use crate::error::{ConsumeError, RequestError, ServerError};
use crate::link::Link;
use crate::metadata::Interest;
use crate::pulse::Owed;
use crate::route::Route;
use crate::trouble::{Told, Trouble};

/// Requests of settlements that are under way at once.
const REQUESTS_MAX: usize = 32;
/// Settlements of one request; a node takes 64 KiB.
const ITEMS_MAX: usize = 2000;
/// How long settlements of a consumer that was dropped may take to be stored.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// An attachment that stood for so long was no failure.
const STOOD: Duration = Duration::from_secs(1);

/// What a partition's task tells the consumer.
pub(super) enum Event {
    Messages(Vec<Message>),
    /// Nothing more is handed out of the partition.
    Retired,
    /// The partition has ended with this.
    Failed(ConsumeError),
}

/// What a consumer wants of each partition.
#[derive(Debug, Clone)]
pub(super) struct Wish {
    pub(super) name: String,
    pub(super) prefetch_count: u32,
    pub(super) prefetch_bytes: u64,
    pub(super) priority: i64,
    pub(super) exclusive: bool,
    pub(super) settles_itself: bool,
    /// The lock under which it settles.
    pub(super) fence: Option<Fence>,
}

/// See the module.
pub(super) struct Session {
    pub(super) shared: Arc<Shared>,
    pub(super) topic: TopicName,
    pub(super) subscription: String,
    pub(super) partition: PartitionIndex,
    pub(super) wish: Wish,
    /// Keeps the topic's partitions known.
    pub(super) _interest: Arc<Interest>,
    pub(super) events: mpsc::UnboundedSender<Event>,
    /// Whether the consumer wants nothing more than it has.
    pub(super) retires: watch::Receiver<bool>,
    pub(super) told: Told,
}

/// How one attachment ended.
enum Ended {
    /// Try again: the connection or the node failed for now, or another node leads.
    Lost(RequestError),
    /// The cluster tells of another leader.
    Moved,
    /// Nobody takes the messages any more.
    Unwanted,
    /// For good.
    Failed(ConsumeError),
}

impl From<ChannelClosed> for Ended {
    fn from(closed: ChannelClosed) -> Self {
        Self::Lost(closed.into())
    }
}

/// An attachment to the partition's leader.
struct Attachment {
    channel: Arc<Channel>,
    correlation: CorrelationId,
    frames: mpsc::UnboundedReceiver<Result<Frame, ChannelClosed>>,
    lease: Duration,
    _link: Arc<Link>,
}

impl Drop for Attachment {
    fn drop(&mut self) {
        self.channel.forget(self.correlation);
        let (channel, request) =
            (Arc::clone(&self.channel), UnsubscribeRequest { subscription: self.correlation });
        // A task, because a frame must be written whole. Where there is no runtime any more, the
        // connection ends as well.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { drop(channel.request(request).await) });
        }
    }
}

/// The same thing said of messages, in one request.
struct Gathered {
    what: Kind,
    items: Vec<Settlement>,
    replies: Vec<oneshot::Sender<Result<(), SettleError>>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Settle,
    Extend(Option<u32>),
}

impl Session {
    pub(super) async fn run(self) {
        let mut route = Route::new(Arc::clone(&self.shared), self.topic.clone(), self.partition.0);
        let mut trouble = Trouble::none(Arc::clone(&self.told));
        loop {
            let began = Instant::now();
            let ended = match self.attempt(&mut route, &mut trouble).await {
                Ok(never) => match never {},
                Err(ended) => ended,
            };
            if began.elapsed() >= STOOD {
                route.succeeded();
            }
            match ended {
                Ended::Lost(error) => {
                    route.failed(&error);
                    let (topic, partition) = (&self.topic, self.partition);
                    tracing::debug!(%topic, %partition, %error, "a consumer of a queue was lost");
                    if let Some(reason) = trouble.meet(error.to_string(), Instant::now()) {
                        tracing::warn!(%topic, %partition, reason,
                            "messages cannot be received, attaching again");
                    }
                }
                Ended::Moved => route.leader_changed(),
                Ended::Unwanted => return,
                Ended::Failed(error) => {
                    // A consumer that is gone needs no news.
                    let _ = self.events.send(Event::Failed(error));
                    return;
                }
            }
            if *self.retires.borrow() {
                // It would be handed out what it does not want, and what it held is not its own any more.
                let _ = self.events.send(Event::Retired);
                return;
            }
            tokio::select! {
                biased;
                () = self.events.closed() => return,
                () = route.pause() => {}
            }
        }
    }

    /// Attaches and works until something ends it.
    async fn attempt(
        &self,
        route: &mut Route,
        trouble: &mut Trouble,
    ) -> Result<std::convert::Infallible, Ended> {
        let after = self.shared.config().request_timeout;
        let attaching = async {
            let link = route.link().await?;
            self.attach(link).await
        };
        let attached = timeout(after, attaching).await;
        let attached = attached.unwrap_or(Err(RequestError::Timeout { after }));
        let mut attachment = attached.map_err(|error| self.ended_by(error))?;
        trouble.over();
        let (say, mut said) = mpsc::unbounded_channel();
        let say = Arc::new(say);
        let mut waiting = VecDeque::new();
        let mut under_way = FuturesUnordered::new();
        let (mut retires, mut is_retired) = (self.retires.clone(), false);
        loop {
            while under_way.len() < REQUESTS_MAX
                && let Some(gathered) = gather(&mut waiting)
            {
                let fence = self.wish.fence.clone();
                let (channel, consumer) = (&attachment.channel, attachment.correlation);
                under_way.push(settle(channel, consumer, gathered, fence).await?);
            }
            tokio::select! {
                biased;
                () = self.events.closed() => {
                    while let Ok(something) = said.try_recv() {
                        waiting.push_back(something);
                    }
                    let fence = &self.wish.fence;
                    let last = last_words(&attachment, waiting, under_way, fence);
                    // Beyond, those who wait see that it is not known.
                    let _ = timeout(LAST_WORDS, last).await;
                    return Err(Ended::Unwanted);
                }
                () = asked(&mut retires), if !is_retired => {
                    let request = RetireRequest { consumer: attachment.correlation };
                    attachment.channel.request(request).await.map_err(Ended::Lost)?;
                    is_retired = true;
                    self.events.send(Event::Retired).map_err(|_| Ended::Unwanted)?;
                }
                Some(something) = said.recv() => {
                    waiting.push_back(something);
                    while let Ok(something) = said.try_recv() {
                        waiting.push_back(something);
                    }
                }
                Some(()) = under_way.next() => {}
                frame = attachment.frames.recv() => match frame {
                    Some(Ok(frame)) => self.hand_on(&frame, attachment.lease, &say)?,
                    Some(Err(closed)) => return Err(closed.into()),
                    None => return Err(lost("the stream is closed")),
                },
                () = route.moved(None) => return Err(Ended::Moved),
            }
        }
    }

    async fn attach(&self, link: Arc<Link>) -> Result<Attachment, RequestError> {
        let request = AttachRequest {
            topic: self.topic.clone(),
            subscription: self.subscription.clone(),
            partition: self.partition,
            name: self.wish.name.clone(),
            prefetch_count: self.wish.prefetch_count,
            prefetch_bytes: self.wish.prefetch_bytes,
            priority: self.wish.priority,
            exclusive: self.wish.exclusive,
            settles_itself: self.wish.settles_itself,
        };
        let channel = link.queue_channel().await?;
        let (taker, frames) = mpsc::unbounded_channel();
        let correlation = channel.expect_answer(Waiter::Many(taker), Owed::News)?;
        // Made before the request leaves: whoever is dropped while it is written detaches.
        let mut attachment =
            Attachment { channel, correlation, frames, lease: Duration::ZERO, _link: link };
        attachment.channel.write(&request, correlation, &[]).await?;
        let answer = match attachment.frames.recv().await {
            Some(answer) => answer?,
            None => {
                return Err(RequestError::ConnectionLost { reason: "the stream is closed".into() });
            }
        };
        let (attached, _) = decode_answer::<AttachRequest>(answer)?;
        let AttachResponse { lease_ms } = attached;
        attachment.lease = Duration::from_millis(lease_ms.into());
        Ok(attachment)
    }

    /// Hands on what a frame brought.
    fn hand_on(
        &self,
        frame: &Frame,
        lease: Duration,
        say: &Arc<mpsc::UnboundedSender<Said>>,
    ) -> Result<(), Ended> {
        if frame.header.flags.is_error() {
            let refusal: ErrorResponse = frame
                .decode_body()
                .map_err(|error| lost(&format!("unreadable refusal: {error}")))?;
            return Err(self.ended_by(ServerError::from(refusal).into()));
        }
        let delivery: QueueDelivery =
            frame.decode_body().map_err(|error| lost(&format!("unreadable delivery: {error}")))?;
        let mut messages = Vec::with_capacity(delivery.messages.len());
        let mut at = 0;
        for described in delivery.messages {
            let record = Record::decode(&frame.payload, &mut at, described.base_timestamp_ms);
            let record =
                record.map_err(|error| self.damaged(described.offset, &error.to_string()))?;
            messages.push(Message {
                partition: self.partition.0,
                offset: described.offset,
                attempt: described.attempt,
                record,
                lease,
                session: Arc::clone(say),
            });
        }
        self.events.send(Event::Messages(messages)).map_err(|_| Ended::Unwanted)
    }

    fn damaged(&self, offset: Offset, reason: &str) -> Ended {
        let (partition, reason) = (self.partition.0, reason.into());
        Ended::Failed(ConsumeError::Damaged { partition, offset, reason })
    }

    fn ended_by(&self, error: RequestError) -> Ended {
        if error.is_retriable() && error.code() != Some(ErrorCode::TooManySubscriptions) {
            return Ended::Lost(error);
        }
        let partition = self.partition.0;
        let source = match error {
            RequestError::Refused(source) => source,
            error => ServerError {
                code: ErrorCode::Internal,
                message: error.to_string(),
                leader: None,
                detail: None,
            },
        };
        Ended::Failed(ConsumeError::Refused { partition, source })
    }
}

/// Ends when the consumer retires. May be cancelled.
async fn asked(retires: &mut watch::Receiver<bool>) {
    if retires.wait_for(|retires| *retires).await.is_err() {
        // It is gone, which others see.
        std::future::pending::<()>().await;
    }
}

/// Sends what was said before the end, and brings the answers.
async fn last_words(
    attachment: &Attachment,
    mut waiting: VecDeque<Said>,
    mut under_way: FuturesUnordered<impl Future<Output = ()>>,
    fence: &Option<Fence>,
) {
    while let Some(gathered) = gather(&mut waiting) {
        let (channel, consumer) = (&attachment.channel, attachment.correlation);
        let sent = settle(channel, consumer, gathered, fence.clone()).await;
        let Ok(answer) = sent else { break };
        answer.await;
    }
    while under_way.next().await.is_some() {}
}

fn lost(reason: &str) -> Ended {
    Ended::Lost(RequestError::ConnectionLost { reason: reason.into() })
}

/// Takes what was said first, with all of the same kind that follows it, as much as one request holds.
fn gather(waiting: &mut VecDeque<Said>) -> Option<Gathered> {
    let kind = |said: &Said| match said.what {
        What::Settle(..) => Kind::Settle,
        What::Extend(lease_ms) => Kind::Extend(lease_ms),
    };
    let what = kind(waiting.front()?);
    let mut gathered = Gathered { what, items: Vec::new(), replies: Vec::new() };
    while gathered.items.len() < ITEMS_MAX
        && let Some(said) = waiting.pop_front_if(|said| kind(said) == what)
    {
        let (outcome, delay_ms) = match said.what {
            What::Settle(outcome, delay_ms) => (outcome, delay_ms),
            What::Extend(_) => (SettleOutcome::Accept, None),
        };
        let (offset, attempt) = (said.offset, said.attempt);
        gathered.items.push(Settlement { offset, attempt, outcome, delay_ms });
        gathered.replies.push(said.reply);
    }
    Some(gathered)
}

/// Sends one request; the future that it gives brings the answer to those who wait.
async fn settle(
    channel: &Arc<Channel>,
    consumer: CorrelationId,
    gathered: Gathered,
    fence: Option<Fence>,
) -> Result<impl Future<Output = ()> + use<>, ChannelClosed> {
    let Gathered { what, items, replies } = gathered;
    let offsets: Vec<Offset> = items.iter().map(|item| item.offset).collect();
    let (done, answer) = oneshot::channel();
    let waiter = Waiter::Once(Box::new(move |result| drop(done.send(result))));
    match what {
        Kind::Settle => {
            let request = SettleRequest { consumer, items, fence };
            channel.send(&request, &[], waiter, Owed::Answer).await?;
        }
        Kind::Extend(lease_ms) => {
            let request = ExtendRequest { consumer, items, lease_ms };
            channel.send(&request, &[], waiter, Owed::Answer).await?;
        }
    }
    Ok(async move {
        let frame = match answer.await {
            Ok(Ok(frame)) => frame,
            // Whoever waits sees that as an unknown outcome.
            Ok(Err(_)) | Err(_) => return,
        };
        let answer: Result<SettleResponse, RequestError> = match what {
            Kind::Settle => decode_answer::<SettleRequest>(frame).map(|(answer, _)| answer),
            Kind::Extend(_) => decode_answer::<ExtendRequest>(frame).map(|(answer, _)| answer),
        };
        let refused = match answer {
            Ok(SettleResponse { refused }) => refused,
            Err(error) => {
                let told = match error {
                    RequestError::Refused(refusal) if refusal.stale_fence().is_some() => {
                        SettleError::StaleFence {
                            highest: refusal.stale_fence().unwrap_or_default(),
                        }
                    }
                    RequestError::Refused(refusal) if !refusal.code.is_retriable() => {
                        SettleError::Refused(refusal)
                    }
                    _ => SettleError::Unknown,
                };
                return replies.into_iter().for_each(|reply| drop(reply.send(Err(told.clone()))));
            }
        };
        for (offset, reply) in offsets.into_iter().zip(replies) {
            let is_refused = refused.iter().any(|refusal| refusal.offset == offset);
            let answer = if is_refused { Err(SettleError::NotHeld) } else { Ok(()) };
            // Nobody may be waiting.
            let _ = reply.send(answer);
        }
    })
}

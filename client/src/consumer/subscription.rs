//! One task per partition that keeps its subscription alive and hands frames to the consumer.
//!
//! Backpressure: the task waits for room in the consumer's channel before it reads on, and gives
//! credit back only for frames that were taken, which stops the node.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use plimsoll_protocol::api::{
    CreditRequest, Delivery, StartPosition, SubscribeRequest, SubscribeResponse,
};
use plimsoll_protocol::batch::{BatchError, iterate_batches};
use plimsoll_protocol::error::{ErrorCode, ErrorResponse};
use plimsoll_protocol::frame::{Frame, encode_request};
use plimsoll_protocol::ids::{CorrelationId, NodeId, Offset, PartitionIndex, TopicName};
use plimsoll_transport::{FrameReceiver, FrameSender};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::nearest::Nearest;
use super::reading::Reading;
use super::standing::Standing;
use crate::channel::{Channel, ChannelClosed, Waiter, decode_answer};
use crate::client::Shared;
use crate::error::{ConsumeError, RequestError, ServerError};
use crate::link::{Link, StreamPlace, SubscriptionCarrier};
use crate::metadata::Interest;
use crate::pulse::{Owed, Owing};
use crate::route::Route;
use crate::trouble::{Told, Trouble};

/// What a partition's task tells the consumer.
pub(crate) enum Event {
    /// The subscription stands.
    Began { partition: u32, start: Offset, high_watermark: Offset },
    /// Whole batches, checked; records in `from..until` are wanted. Empty: caught up. `next` is where reading
    /// goes on behind them.
    Batches {
        partition: u32,
        payload: Bytes,
        from: Offset,
        until: Offset,
        next: Offset,
        high_watermark: Offset,
    },
    /// The partition has ended with this.
    Failed(ConsumeError),
}

/// Where a partition's task tells its news, each with a mark that says which task's it is.
pub(crate) struct Outlet {
    pub(crate) sender: mpsc::Sender<(u64, Event)>,
    pub(crate) mark: u64,
}

impl Outlet {
    /// `false`: nobody takes them any more.
    async fn send(&self, event: Event) -> bool {
        self.sender.send((self.mark, event)).await.is_ok()
    }
}

/// See the module.
pub(crate) struct Subscription {
    pub(crate) shared: Arc<Shared>,
    pub(crate) topic: TopicName,
    pub(crate) partition: PartitionIndex,
    pub(crate) start: StartPosition,
    pub(crate) frame_bytes: u32,
    pub(crate) credit_bytes: u64,
    pub(crate) bounded: bool,
    pub(crate) reading: Reading,
    /// Keeps the topic's partitions known.
    pub(crate) _interest: Arc<Interest>,
    pub(crate) events: Outlet,
    /// For a member of a group, which did not choose where it begins: where to go on when the offset is not
    /// there any more. And what the node does not know is asked for again: the group's coordinator knows it,
    /// and takes it away when it is gone.
    pub(crate) fallback: Option<StartPosition>,
    pub(crate) told: Told,
    /// Where it shows whether it stands.
    pub(crate) standing: Arc<Standing>,
}

/// Correlation id of a subscription that has a stream to itself.
const ON_ITS_OWN_STREAM: CorrelationId = CorrelationId(1);

/// This part of the credit is given back at a time.
const CREDIT_SHARES: u64 = 4;
/// A subscription that stood for so long was no failure.
const STOOD: Duration = Duration::from_secs(1);
/// How long a replica may be behind what this consumer has read of another one.
const BEHIND_MAX: Duration = Duration::from_secs(10);

/// Where the task is.
struct Place {
    /// Where the next attempt begins.
    start: StartPosition,
    /// The first offset not yet handed on, once it is known.
    next: Option<Offset>,
    /// Where a bounded consumer ends.
    end: Option<Offset>,
    /// Where the last attempt met a damaged batch.
    damaged: Option<Offset>,
    /// Since when a replica lacks what was read of another one.
    behind: Option<Instant>,
    /// Whom the present attempt goes to.
    node: Option<NodeId>,
    /// Bytes that were taken in the present attempt, and that the node has no credit for yet.
    owed: u64,
    /// What keeps it from subscribing.
    trouble: Trouble,
}

/// How one attempt ended.
enum Ended {
    /// Try again: the connection or the node failed for now, or another node leads.
    Lost(RequestError),
    /// The cluster tells of another leader.
    Moved,
    /// Nobody takes the records any more.
    Unwanted,
    /// A bounded consumer has all it wanted.
    Complete,
    /// For good.
    Failed(ConsumeError),
}

/// Where frames of a subscription come from.
enum Source {
    /// A stream of its own; the sender gives credit and keeps it open.
    Stream {
        halves: Box<(FrameSender, FrameReceiver)>,
        _place: StreamPlace,
        link: Arc<Link>,
        _owing: Owing,
    },
    /// A stream that others use too.
    Shared {
        frames: mpsc::UnboundedReceiver<Result<Frame, ChannelClosed>>,
        channel: Arc<Channel>,
        correlation: CorrelationId,
        link: Arc<Link>,
    },
}

impl Subscription {
    pub(crate) async fn run(self) {
        let topic = self.topic.clone();
        let mut route = Route::new(Arc::clone(&self.shared), topic, self.partition.0);
        let mut nearest = self.reading.nearest.clone().map(Nearest::new);
        let trouble = Trouble::none(Arc::clone(&self.told));
        let mut place = Place {
            start: self.start,
            next: None,
            end: None,
            damaged: None,
            behind: None,
            node: None,
            owed: 0,
            trouble,
        };
        loop {
            let (before, began) = (place.next, Instant::now());
            let ended = match self.attempt(&mut place, &mut route, nearest.as_mut()).await {
                Ok(ended) | Err(ended) => ended,
            };
            self.standing.fell();
            if place.next != before || began.elapsed() >= STOOD {
                route.succeeded();
            }
            match ended {
                Ended::Lost(error) => {
                    route.failed(&error);
                    if let (Some(nearest), Some(node)) = (&mut nearest, place.node) {
                        nearest.avoid(node);
                    }
                    let (topic, partition) = (&self.topic, self.partition);
                    tracing::debug!(%topic, %partition, %error, "a subscription was lost");
                    if let Some(reason) = place.trouble.meet(error.to_string(), Instant::now()) {
                        tracing::warn!(%topic, %partition, reason,
                            "records cannot be read, subscribing again");
                    }
                }
                Ended::Moved => route.leader_changed(),
                Ended::Unwanted | Ended::Complete => return,
                Ended::Failed(error) => {
                    // A consumer that is gone needs no news.
                    self.events.send(Event::Failed(error)).await;
                    return;
                }
            }
            tokio::select! {
                biased;
                () = self.events.sender.closed() => return,
                () = route.pause() => {}
            }
        }
    }

    /// Subscribes and hands frames on until something ends it.
    async fn attempt(
        &self,
        place: &mut Place,
        route: &mut Route,
        nearest: Option<&mut Nearest>,
    ) -> Result<Ended, Ended> {
        let after = self.shared.config().request_timeout;
        let follows = nearest.is_none();
        let finding = async {
            let near = match nearest {
                Some(nearest) => nearest.link(&self.shared, &self.topic, self.partition.0).await,
                None => None,
            };
            match near {
                Some(link) => Ok(link),
                None => route.link().await,
            }
        };
        let subscribing = async {
            let link = finding.await?;
            Ok((link.node(), self.subscribe(&link, place.start).await?))
        };
        place.node = None;
        let subscribed = timeout(after, subscribing).await;
        let (node, mut source) = subscribed
            .unwrap_or(Err(RequestError::Timeout { after }))
            .map_err(|error| self.ended_by(error, place))?;
        (place.node, place.owed) = (Some(node), 0);
        let frame = source.next().await?;
        let (began, _) = decode_answer::<SubscribeRequest>(frame)
            .map_err(|error| self.ended_by(error, place))?;
        let began: SubscribeResponse = began;
        place.trouble.over();
        self.standing.stands(source.link());
        place.behind = None;
        let next = place.next.unwrap_or(began.start_offset);
        place.next = Some(next);
        place.start = StartPosition::Offset(next);
        if self.bounded {
            place.end.get_or_insert(began.high_watermark);
        }
        let (start, high_watermark) = (next, began.high_watermark);
        self.tell(Event::Began { partition: self.partition.0, start, high_watermark }).await?;
        loop {
            let next = place.next.unwrap_or_default();
            if place.end.is_some_and(|end| next >= end) {
                return Ok(Ended::Complete);
            }
            let frame = tokio::select! {
                biased;
                () = self.events.sender.closed() => return Ok(Ended::Unwanted),
                frame = source.next() => frame?,
                () = route.moved(None), if follows => return Ok(Ended::Moved),
            };
            self.hand_on(frame, &mut source, place).await?;
        }
    }

    async fn hand_on(
        &self,
        frame: Frame,
        source: &mut Source,
        place: &mut Place,
    ) -> Result<(), Ended> {
        let next = place.next.unwrap_or_default();
        if frame.header.flags.is_error() {
            let refusal: ErrorResponse = frame
                .decode_body()
                .map_err(|error| lost(format!("unreadable refusal: {error}")))?;
            return Err(self.ended_by(ServerError::from(refusal).into(), place));
        }
        let delivery: Delivery =
            frame.decode_body().map_err(|error| lost(format!("unreadable delivery: {error}")))?;
        let bytes = frame.payload.len() as u64;
        if let Err(error) = check(&frame.payload) {
            // Damaged on its way, or at the node: a second attempt tells which.
            if place.damaged.replace(next) == Some(next) {
                let (partition, reason) = (self.partition.0, error.to_string().into());
                return Err(Ended::Failed(ConsumeError::Damaged {
                    partition,
                    offset: next,
                    reason,
                }));
            }
            return Err(lost(format!("damaged batch: {error}")));
        }
        let until = place.end.unwrap_or(Offset(u64::MAX));
        let moved = delivery.next_offset.max(next);
        self.tell(Event::Batches {
            partition: self.partition.0,
            payload: frame.payload,
            from: next,
            until,
            next: moved.min(until),
            high_watermark: delivery.high_watermark,
        })
        .await?;
        place.next = Some(moved);
        place.start = StartPosition::Offset(moved);
        place.owed += bytes;
        // As long as most of the credit is there the node does not wait: small frames are answered together.
        if place.owed < self.credit_bytes / CREDIT_SHARES {
            return Ok(());
        }
        source.took(std::mem::take(&mut place.owed)).await
    }

    async fn tell(&self, event: Event) -> Result<(), Ended> {
        if self.events.send(event).await { Ok(()) } else { Err(Ended::Unwanted) }
    }

    async fn subscribe(
        &self,
        link: &Arc<Link>,
        start: StartPosition,
    ) -> Result<Source, RequestError> {
        let request = SubscribeRequest {
            topic: self.topic.clone(),
            partition: self.partition,
            start,
            max_frame_bytes: self.frame_bytes,
            credit_bytes: self.credit_bytes,
            isolation: self.reading.isolation,
            max_staleness_ms: self.reading.max_staleness_ms,
            any_replica: self.reading.nearest.is_some(),
            whole: self.reading.whole,
        };
        let channel = match link.subscription_carrier().await? {
            SubscriptionCarrier::Own(mut halves, place) => {
                let head = encode_request(ON_ITS_OWN_STREAM, &request, 0).freeze();
                halves.0.send(head, &[]).await.map_err(|error| RequestError::ConnectionLost {
                    reason: error.to_string().into(),
                })?;
                let (link, owing) = (Arc::clone(link), link.pulse().owes(Owed::News));
                return Ok(Source::Stream { halves, _place: place, link, _owing: owing });
            }
            SubscriptionCarrier::Shared(channel) => channel,
        };
        let (taker, frames) = mpsc::unbounded_channel();
        let correlation = channel.expect_answer(Waiter::Many(taker), Owed::News)?;
        // Made before the request leaves: whoever is dropped while it is written unsubscribes.
        let source = Source::Shared {
            frames,
            channel: Arc::clone(&channel),
            correlation,
            link: Arc::clone(link),
        };
        channel.write(&request, correlation, &[]).await?;
        Ok(source)
    }

    fn ended_by(&self, error: RequestError, place: &mut Place) -> Ended {
        if error.is_retriable() && error.code() != Some(ErrorCode::TooManySubscriptions) {
            return Ended::Lost(error);
        }
        let partition = self.partition.0;
        if let (RequestError::Refused(refusal), Some(start)) = (&error, self.fallback)
            && let Some(ended) = self.fall_back(start, refusal, place)
        {
            return ended;
        }
        match error {
            RequestError::Refused(refusal) if refusal.code == ErrorCode::OffsetOutOfRange => {
                let wanted = place.next.or(match self.start {
                    StartPosition::Offset(offset) => Some(offset),
                    _ => None,
                });
                match (wanted, refusal.detail) {
                    (Some(wanted), Some(log_start)) if wanted.0 < log_start => {
                        Ended::Failed(ConsumeError::OffsetOutOfRange {
                            partition,
                            wanted,
                            log_start: Offset(log_start),
                        })
                    }
                    _ if self.may_catch_up(place) => Ended::Lost(refusal.into()),
                    _ => Ended::Failed(ConsumeError::Refused { partition, source: refusal }),
                }
            }
            RequestError::Refused(source) => {
                Ended::Failed(ConsumeError::Refused { partition, source })
            }
            error => Ended::Failed(ConsumeError::Refused {
                partition,
                source: ServerError {
                    code: ErrorCode::Internal,
                    message: error.to_string(),
                    leader: None,
                    detail: None,
                },
            }),
        }
    }

    /// What becomes of a refusal that a member of a group bears.
    fn fall_back(
        &self,
        start: StartPosition,
        refusal: &ServerError,
        place: &mut Place,
    ) -> Option<Ended> {
        let (topic, partition) = (&self.topic, self.partition);
        match refusal.code {
            ErrorCode::OffsetOutOfRange => {
                let reason = refusal.message.as_str();
                tracing::warn!(%topic, %partition, reason, ?start,
                    "the offset is not there any more, going on elsewhere");
                (place.start, place.next) = (start, None);
            }
            ErrorCode::UnknownTopic | ErrorCode::UnknownPartition => {}
            _ => return None,
        }
        Some(Ended::Lost(refusal.clone().into()))
    }

    /// Whether a node that does not have what was read before, or where the caller read before, is a
    /// replica that is behind: it gets there, or another one is asked.
    fn may_catch_up(&self, place: &mut Place) -> bool {
        let since = *place.behind.get_or_insert_with(Instant::now);
        let goes_on =
            matches!(self.start, StartPosition::Offset(_)) && self.reading.nearest.is_some();
        (place.next.is_some() || goes_on)
            && self.shared.links.has_choice()
            && since.elapsed() < BEHIND_MAX
    }
}

fn lost(reason: String) -> Ended {
    Ended::Lost(RequestError::ConnectionLost { reason: reason.into() })
}

/// Checks every batch in the partition's own task, so that the caller's need not.
fn check(payload: &Bytes) -> Result<(), BatchError> {
    for batch in iterate_batches(payload.clone()) {
        batch?.check_body_crc()?;
    }
    Ok(())
}

impl Source {
    fn link(&self) -> &Arc<Link> {
        match self {
            Self::Stream { link, .. } | Self::Shared { link, .. } => link,
        }
    }

    async fn next(&mut self) -> Result<Frame, Ended> {
        match self {
            Self::Stream { halves, link, .. } => match halves.1.recv().await {
                Ok(Some(frame)) => {
                    link.pulse().heard();
                    Ok(frame)
                }
                Ok(None) => Err(lost("the node ended the stream".to_owned())),
                Err(error) => Err(lost(error.to_string())),
            },
            Self::Shared { frames, .. } => match frames.recv().await {
                Some(Ok(frame)) => Ok(frame),
                Some(Err(closed)) => Err(Ended::Lost(closed.into())),
                None => Err(lost("the connection ended".to_owned())),
            },
        }
    }

    /// A frame with this many payload bytes was taken: the node may push as many more.
    async fn took(&mut self, bytes: u64) -> Result<(), Ended> {
        if bytes == 0 {
            return Ok(());
        }
        match self {
            Self::Shared { channel, correlation, .. } => {
                let credit = CreditRequest { subscription: *correlation, bytes };
                let sent = channel.send_one_way(&credit).await;
                sent.map_err(|closed| Ended::Lost(closed.into()))
            }
            Self::Stream { halves, .. } => {
                let credit = CreditRequest { subscription: ON_ITS_OWN_STREAM, bytes };
                let head = encode_request(CorrelationId(0), &credit, 0).freeze();
                halves.0.send(head, &[]).await.map_err(|error| lost(error.to_string()))
            }
        }
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        if let Self::Shared { channel, correlation, .. } = self {
            channel.forget(*correlation);
            let (channel, subscription) = (Arc::clone(channel), *correlation);
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn(async move {
                    let request = plimsoll_protocol::api::UnsubscribeRequest { subscription };
                    // The connection may be gone; then so is the subscription.
                    let _ = channel.request(request).await;
                });
            }
        }
    }
}

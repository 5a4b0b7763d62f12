//! A subscription: pushes what is stored from a position on, as it comes, until it is ended.
//!
//! At most two frames of a subscription wait to be written: a consumer that does not read stops
//! its own subscription only. Over QUIC its stream's flow control says when; over TCP and TLS, where
//! subscriptions share a stream, its credit does.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use plimsoll_log::LogCursor;
use plimsoll_protocol::api::{
    ApiKey, Delivery, Isolation, Request as _, StartPosition, SubscribeRequest, SubscribeResponse,
};
use plimsoll_protocol::error::ErrorResponse;
use plimsoll_protocol::frame::{
    FrameFlags, FrameHeader, encode_error, encode_frame, encode_response,
};
use plimsoll_protocol::ids::{CorrelationId, Offset};
use plimsoll_state::catalog::Catalog;
use tokio::sync::{Notify, Semaphore, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use super::outbox::{OutFrame, Outbox, StreamGone};
use super::read::{Chunk, access, ends, freshen, max_payload, resolve, step};
use super::session::Session;
use crate::broker::Partition;
use crate::queues::batches;
use crate::refusals;

/// How often it is looked at most whether a replica keeps within the bound that its reader asked for.
const STALENESS_LOOK_MIN: Duration = Duration::from_millis(50);

/// Frames of one subscription that may wait to be written.
const FRAMES_WAITING_MAX: usize = 2;

/// The stream's side of a subscription. Dropping it ends the subscription.
pub(super) struct SubscriptionHandle {
    credit: Arc<Credit>,
    _end: oneshot::Sender<()>,
    ended: watch::Receiver<()>,
}

/// The subscription's side.
pub(super) struct Control {
    credit: Arc<Credit>,
    end: oneshot::Receiver<()>,
    _ended: watch::Sender<()>,
}

impl Control {
    /// What may still be pushed.
    pub(super) fn credit(&self) -> Arc<Credit> {
        Arc::clone(&self.credit)
    }

    /// Waits until the stream wants no more. The subscription counts as ended once this is dropped.
    pub(super) async fn ended(self) {
        let Self { end, _ended, .. } = self;
        // The sender is dropped, never used.
        let _ = end.await;
    }
}

/// Payload bytes that may still be pushed. One frame may overdraw it: a batch is never split.
pub(super) struct Credit {
    left: AtomicI64,
    more: Notify,
    unlimited: bool,
}

/// Both sides of a new subscription; `credit_bytes` of 0 means without bound.
pub(super) fn handle(credit_bytes: u64) -> (SubscriptionHandle, Control) {
    let credit = Arc::new(Credit {
        left: AtomicI64::new(clamp(credit_bytes)),
        more: Notify::new(),
        unlimited: credit_bytes == 0,
    });
    let (end_sender, end) = oneshot::channel();
    let (ended_sender, ended) = watch::channel(());
    let handle = SubscriptionHandle { credit: Arc::clone(&credit), _end: end_sender, ended };
    (handle, Control { credit, end, _ended: ended_sender })
}

/// Far above any sum of bytes in flight, far below an overflow.
const CREDIT_MAX: i64 = i64::MAX / 4;

fn clamp(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(CREDIT_MAX).min(CREDIT_MAX)
}

impl SubscriptionHandle {
    /// Allows more bytes.
    pub(super) fn credit(&self, bytes: u64) {
        let add = |left: i64| Some(left.saturating_add(clamp(bytes)).min(CREDIT_MAX));
        // The closure always gives a value, so this cannot fail.
        let _ = self.credit.left.fetch_update(Ordering::AcqRel, Ordering::Acquire, add);
        self.credit.more.notify_one();
    }

    /// Whether the subscription has ended by itself.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.has_changed().is_err()
    }

    /// Ends the subscription and waits until it puts no more frames.
    pub(super) async fn end(self) {
        let Self { _end: end, mut ended, .. } = self;
        drop(end);
        // An error says that the other side is gone, which is what is waited for.
        let _ = ended.changed().await;
    }
}

impl Credit {
    /// Waits until something may be pushed; gives how much.
    pub(super) async fn wait(&self) -> usize {
        loop {
            if self.unlimited {
                return usize::MAX;
            }
            match usize::try_from(self.left.load(Ordering::Acquire)) {
                Ok(0) | Err(_) => self.more.notified().await,
                Ok(left) => return left,
            }
        }
    }

    pub(super) fn spend(&self, bytes: usize) {
        if !self.unlimited {
            let bytes = i64::try_from(bytes).unwrap_or(CREDIT_MAX);
            self.left.fetch_sub(bytes, Ordering::AcqRel);
        }
    }
}

/// Runs a subscription to its end. Everything, refusals too, is told by the outbox.
pub(super) async fn run(
    session: &Arc<Session>,
    outbox: &Outbox,
    header: &FrameHeader,
    request: SubscribeRequest,
    control: Control,
) {
    let Control { credit, end, _ended } = control;
    let pushing = async {
        // Before the look-up: a topic that is deleted right after it must be news.
        let catalog = session.broker.catalog_changes();
        let (partition, start) = match begin(session, &request).await {
            Ok(begun) => begun,
            Err(error) => {
                session.broker.counters().requests_refused.add(1);
                let frame = encode_error(header, &error).freeze();
                // A peer that is gone needs no answer.
                let _ = outbox.send(OutFrame::head(frame)).await;
                return;
            }
        };
        let correlation = header.correlation;
        let push = Push::new(session, outbox, correlation, partition, request, start, credit);
        let mut stopping = session.broker.stopping();
        let broke = tokio::select! {
            biased;
            broke = push.run(catalog) => match broke {
                Ok(never) => match never {},
                Err(Broke::Gone) => return,
                Err(Broke::Told(error)) => error,
            },
            () = stopping.wait() => refusals::shutting_down(),
        };
        let (api, version) = (ApiKey::Subscribe, SubscribeRequest::VERSION);
        let frame = encode_frame(api, version, FrameFlags::PUSH_ERROR, correlation, &broke, 0);
        let _ = outbox.send(OutFrame::head(frame.freeze())).await;
    };
    tokio::select! {
        biased;
        () = pushing => {}
        // The sender was dropped: the stream wants no more.
        _ = end => {}
        () = outbox.gone() => {}
    }
}

async fn begin(
    session: &Arc<Session>,
    request: &SubscribeRequest,
) -> Result<(Partition, Offset), ErrorResponse> {
    let broker = &session.broker;
    let access = access(request.any_replica);
    let partition = broker.partition(&request.topic, request.partition, access).await?;
    freshen(broker, &partition.group, request.isolation, request.max_staleness_ms).await?;
    if request.whole && partition.is_compacted && !request.any_replica {
        // Who watches keys is told when the time of one is over: the view sees to that, also where nobody has
        // asked for a key since this node leads.
        broker.view_of(&partition, &request.topic, request.partition);
    }
    let start = resolve(&partition.group, request.start)
        .await
        .map_err(|error| broker.gone_or(&request.topic, partition.topic_id, error))?;
    Ok((partition, start))
}

/// Whether records of it may be gone.
fn has_compacted(chunk: &Chunk) -> bool {
    // What cannot be read is for the subscriber to find.
    batches(chunk.payload.clone()).any(|batch| batch.is_ok_and(|batch| batch.header.compacted))
}

/// Ends at that time, if there is one.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

enum Broke {
    Gone,
    Told(ErrorResponse),
}

impl From<StreamGone> for Broke {
    fn from(_: StreamGone) -> Self {
        Self::Gone
    }
}

impl From<ErrorResponse> for Broke {
    fn from(error: ErrorResponse) -> Self {
        Self::Told(error)
    }
}

/// The task of one subscription.
struct Push<'a> {
    session: &'a Arc<Session>,
    outbox: &'a Outbox,
    correlation: CorrelationId,
    request: SubscribeRequest,
    partition: Partition,
    cursor: LogCursor,
    next: Offset,
    credit: Arc<Credit>,
    waiting: Arc<Semaphore>,
}

impl<'a> Push<'a> {
    fn new(
        session: &'a Arc<Session>,
        outbox: &'a Outbox,
        correlation: CorrelationId,
        partition: Partition,
        request: SubscribeRequest,
        start: Offset,
        credit: Arc<Credit>,
    ) -> Self {
        Self {
            session,
            outbox,
            correlation,
            request,
            cursor: partition.group.log().cursor(start),
            partition,
            next: start,
            credit,
            waiting: Arc::new(Semaphore::new(FRAMES_WAITING_MAX)),
        }
    }

    /// Pushes until something ends it. `catalog` has seen nothing since before the look-up.
    async fn run(
        mut self,
        mut catalog: watch::Receiver<Arc<Catalog>>,
    ) -> Result<std::convert::Infallible, Broke> {
        let broker = &self.session.broker;
        let limits = broker.limits();
        let max_bytes = max_payload(
            self.request.max_frame_bytes,
            limits.frame_bytes_max,
            limits.delivery_bytes,
        );
        let mut watermark = self.partition.group.high_watermark();
        self.greet().await?;
        let bound = self.request.max_staleness_ms.map(|ms| Duration::from_millis(ms.into()));
        // What is found may be almost as old as it may be.
        let look_every = bound.map(|bound| (bound / 2).max(STALENESS_LOOK_MIN));
        let mut look_at = look_every.map(|every| Instant::now() + every);
        // An end that no delivery has told of is told by an empty one.
        let mut told_caught_up = false;
        loop {
            let upto = *watermark.borrow_and_update();
            let allowed = tokio::select! {
                // In this order: as long as there is credit, the catalog's watch is left alone.
                biased;
                allowed = self.credit.wait() => allowed.min(max_bytes),
                ended = self.ended(&mut catalog) => return Err(ended.into()),
            };
            if look_at.is_some_and(|at| at <= Instant::now()) {
                let (group, ms) = (&self.partition.group, self.request.max_staleness_ms);
                freshen(broker, group, Isolation::Committed, ms).await?;
                look_at = look_every.map(|every| Instant::now() + every);
            }
            match step(&self.partition.group, &mut self.cursor, upto, allowed).await {
                Ok(Some(chunk)) => {
                    if self.request.whole && has_compacted(&chunk) {
                        return Err(refusals::compacted(&self.request.topic, self.next).into());
                    }
                    // A delivery that ends at the high watermark says so by its two offsets.
                    told_caught_up = chunk.next_offset >= upto;
                    self.deliver(chunk, upto).await?;
                    continue;
                }
                Ok(None) if !told_caught_up => {
                    told_caught_up = true;
                    let nothing = Chunk { payload: Vec::new(), next_offset: self.next };
                    self.deliver(nothing, upto).await?;
                }
                Ok(None) => {}
                Err(error) => return Err(self.gone_or(error).into()),
            }
            let changed = tokio::select! {
                biased;
                changed = watermark.changed() => changed,
                ended = self.ended(&mut catalog) => return Err(ended.into()),
                () = until(look_at) => continue,
            };
            if changed.is_err() {
                // The group that it reads is not the one in use any more.
                (self.partition, watermark) = self.woken().await?;
            }
        }
    }

    /// Answers the request: from here on batches follow.
    async fn greet(&self) -> Result<(), StreamGone> {
        let (high_watermark, log_start_offset) = ends(&self.partition.group);
        let start_offset = self.next;
        let response = SubscribeResponse { start_offset, high_watermark, log_start_offset };
        let head = encode_response::<SubscribeRequest>(self.correlation, &response, 0).freeze();
        self.outbox.send(OutFrame::head(head)).await
    }

    async fn deliver(&mut self, chunk: Chunk, high_watermark: Offset) -> Result<(), StreamGone> {
        let bytes = chunk.bytes();
        self.next = chunk.next_offset;
        let delivery = Delivery { high_watermark, next_offset: chunk.next_offset };
        let (api, version) = (ApiKey::Subscribe, SubscribeRequest::VERSION);
        let head = encode_frame(api, version, FrameFlags::PUSH, self.correlation, &delivery, bytes);
        let waiting = Arc::clone(&self.waiting);
        let permit = waiting.acquire_owned().await.expect("never closed");
        self.credit.spend(bytes);
        self.session.broker.counters().bytes_delivered.add(bytes as u64);
        let (head, payload): (Bytes, _) = (head.freeze(), chunk.payload);
        self.outbox.send(OutFrame { head, payload, permit: Some(permit) }).await
    }

    /// Waits until this node has no more to say here, and says why: the topic is gone, or another node
    /// leads the partition and the peer wants its leader.
    async fn ended(&self, catalog: &mut watch::Receiver<Arc<Catalog>>) -> ErrorResponse {
        let broker = &self.session.broker;
        let access = access(self.request.any_replica);
        let deleted = broker.deleted(catalog, &self.request.topic, self.partition.topic_id);
        tokio::select! {
            biased;
            deleted = deleted => deleted,
            deposed = broker.deposed(&self.partition.group, access) => deposed,
            dropped = broker.dropped(&self.partition.group), if self.request.any_replica => dropped,
        }
    }

    fn gone_or(&self, error: ErrorResponse) -> ErrorResponse {
        self.session.broker.gone_or(&self.request.topic, self.partition.topic_id, error)
    }

    /// Looks the partition up again.
    async fn woken(&mut self) -> Result<(Partition, watch::Receiver<Offset>), Broke> {
        let (broker, request) = (&self.session.broker, &self.request);
        if broker.is_stopping() {
            return Err(refusals::shutting_down().into());
        }
        let access = access(request.any_replica);
        let partition = broker.partition(&request.topic, request.partition, access).await?;
        if partition.topic_id != self.partition.topic_id {
            return Err(refusals::unknown_topic(&request.topic).into());
        }
        let start = StartPosition::Offset(self.next);
        let start = resolve(&partition.group, start).await.map_err(|error| self.gone_or(error))?;
        self.cursor = partition.group.log().cursor(start);
        let watermark = partition.group.high_watermark();
        Ok((partition, watermark))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn credit_is_spent_overdrawn_once_and_refilled() {
        let (handle, control) = handle(100);
        assert_eq!(control.credit.wait().now_or_never(), Some(100));
        control.credit.spend(150);
        assert_eq!(control.credit.wait().now_or_never(), None, "overdrawn by 50");
        handle.credit(50);
        assert_eq!(control.credit.wait().now_or_never(), None, "the debt is paid first");
        handle.credit(1);
        assert_eq!(control.credit.wait().now_or_never(), Some(1));
    }

    #[test]
    fn credit_without_bound_is_never_used_up_and_too_much_of_it_does_not_overflow() {
        let (_unbounded, control) = handle(0);
        control.credit.spend(usize::MAX);
        assert_eq!(control.credit.wait().now_or_never(), Some(usize::MAX));
        let (bounded, control) = handle(u64::MAX);
        for _ in 0..10 {
            bounded.credit(u64::MAX);
        }
        assert!(control.credit.wait().now_or_never().is_some_and(|left| left > 1 << 40));
        control.credit.spend(usize::MAX);
        bounded.credit(u64::MAX);
    }

    #[tokio::test]
    async fn ending_waits_for_the_other_side() {
        let (handle, control) = handle(0);
        assert!(!handle.has_ended());
        let mut ending = Box::pin(handle.end());
        assert!(ending.as_mut().now_or_never().is_none());
        drop(control);
        ending.await;
    }
}

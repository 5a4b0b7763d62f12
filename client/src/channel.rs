//! One ordered stream of frames that many requests share: each request has a correlation id, and
//! whoever reads the stream hands an answer to whom it belongs.
//!
//! A frame must be written whole. So a caller that may be dropped while it waits (anything a user
//! awaits) goes through [`Channel::request`], which never waits half-way: it writes at once, or in a task
//! of its own; the drivers of producers and consumers, which are never dropped half-way, use
//! [`Channel::send`].
//!
//! Large frames of one connection take turns ([`Turns`]), and a write that gets on by nothing for the
//! time of a request ends its stream.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use plimsoll_protocol::api::Request;
use plimsoll_protocol::error::ErrorResponse;
use plimsoll_protocol::frame::{Frame, ResponseError, encode_request};
use plimsoll_protocol::ids::CorrelationId;
use plimsoll_transport::{FrameReceiver, FrameSender};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::error::{RequestError, ServerError};
use crate::link::StreamPlace;
use crate::pulse::{Owed, Owing, Pulse};

/// The stream ended; why.
#[derive(Debug, Clone)]
pub(crate) struct ChannelClosed {
    pub(crate) reason: Arc<str>,
}

impl From<ChannelClosed> for RequestError {
    fn from(closed: ChannelClosed) -> Self {
        Self::ConnectionLost { reason: closed.reason }
    }
}

/// Frames up to this size are read by a node at once, whatever else it waits for.
const FRAME_BYTES_WITHOUT_TURN: usize = 4 << 10;
/// Bytes of larger frames that are being written on all streams of a connection.
///
/// A node gives room to one frame after the other, and what it does not read of the others counts
/// against the window of the whole connection (16 MiB): were they ever all of it, the rest of the
/// frames that have room could not come. With what QUIC keeps of frames that were written
/// (8 MiB at most), these stay within it, whatever room the node has. A larger frame goes alone, and
/// its stream's own window (4 MiB) bounds what is not read of it. This is no less than QUIC keeps, so
/// turns leave no link idle.
const TURNS_BYTES: usize = 8 << 20;

/// Who of the streams of one connection may write a large frame. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Turns(Arc<Semaphore>);

impl Turns {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(TURNS_BYTES)))
    }

    /// Waits until a frame may be written; its turn lasts until the permit is dropped.
    async fn take(&self, frame_bytes: usize) -> Option<OwnedSemaphorePermit> {
        if frame_bytes <= FRAME_BYTES_WITHOUT_TURN {
            return None;
        }
        let bytes = u32::try_from(frame_bytes.min(TURNS_BYTES)).expect("it is below 4 GiB");
        let permit = Arc::clone(&self.0).acquire_many_owned(bytes).await;
        Some(permit.expect("this semaphore is never closed"))
    }
}

/// Why a request was not written by its deadline.
pub(crate) enum NotWritten {
    /// Others were being written for all of the time: nothing of this one left.
    NoTurn,
    /// It may have left in part or whole before the stream ended.
    Closed(ChannelClosed),
}

/// Who takes the frames of one correlation id.
pub(crate) enum Waiter {
    /// One answer. Called by the task that reads the stream: it must be short.
    Once(Box<dyn FnOnce(Result<Frame, ChannelClosed>) + Send>),
    /// All frames until [`Channel::forget`]. The number of frames on their way is bounded by the
    /// credit that the taker gave.
    Many(mpsc::UnboundedSender<Result<Frame, ChannelClosed>>),
}

/// See the module.
pub(crate) struct Channel {
    sender: tokio::sync::Mutex<FrameSender>,
    shared: Arc<Shared>,
    turns: Turns,
    /// A write that gets on by nothing for so long ends the stream.
    stuck_after: Duration,
    pulse: Arc<Pulse>,
    /// Given back when the stream is not used any more.
    _place: Option<StreamPlace>,
}

struct Shared {
    waiting: Mutex<Waiting>,
}

struct Waiting {
    next: u32,
    /// Sorted, so that those who wait learn of an end in the order of their requests.
    by_correlation: BTreeMap<u32, (Waiter, Owing)>,
    closed: Option<ChannelClosed>,
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().expect("no code panics while it holds this lock")
    }

    fn close(&self, reason: &str) {
        let closed = ChannelClosed { reason: reason.into() };
        let waiters: Vec<Waiter> = {
            let mut waiting = self.waiting();
            waiting.closed.get_or_insert_with(|| closed.clone());
            let all = std::mem::take(&mut waiting.by_correlation);
            all.into_values().map(|(waiter, _)| waiter).collect()
        };
        for waiter in waiters {
            match waiter {
                Waiter::Once(done) => done(Err(closed.clone())),
                // A taker that is gone needs no news.
                Waiter::Many(taker) => drop(taker.send(Err(closed.clone()))),
            }
        }
    }

    fn deliver(&self, frame: Frame) {
        let correlation = frame.header.correlation.0;
        let mut waiting = self.waiting();
        if let Some((Waiter::Many(taker), _)) = waiting.by_correlation.get(&correlation) {
            if taker.send(Ok(frame)).is_err() {
                waiting.by_correlation.remove(&correlation);
            }
            return;
        }
        let waiter = waiting.by_correlation.remove(&correlation);
        drop(waiting);
        match waiter {
            Some((Waiter::Once(done), _)) => done(Ok(frame)),
            // An answer to a request that was forgotten.
            _ => tracing::debug!(correlation, "frame without a taker"),
        }
    }
}

impl Channel {
    /// Takes over a stream, with its place if it is for a single user; the reading task ends with it.
    pub(crate) fn start(
        sender: FrameSender,
        mut receiver: FrameReceiver,
        turns: Turns,
        stuck_after: Duration,
        pulse: Arc<Pulse>,
        place: Option<StreamPlace>,
    ) -> Arc<Self> {
        let shared = Arc::new(Shared {
            waiting: Mutex::new(Waiting { next: 1, by_correlation: BTreeMap::new(), closed: None }),
        });
        let (reading, hearing) = (Arc::clone(&shared), Arc::clone(&pulse));
        tokio::spawn(async move {
            let reason = loop {
                match receiver.recv().await {
                    Ok(Some(frame)) => {
                        hearing.heard();
                        reading.deliver(frame);
                    }
                    Ok(None) => break "the node closed the stream".to_owned(),
                    Err(error) => break error.to_string(),
                }
            };
            reading.close(&reason);
        });
        let sender = tokio::sync::Mutex::new(sender);
        Arc::new(Self { sender, shared, turns, stuck_after, pulse, _place: place })
    }

    /// Whether the stream has ended.
    pub(crate) fn is_closed(&self) -> bool {
        self.shared.waiting().closed.is_some()
    }

    /// Ends the channel from this side: everybody who waits is told.
    pub(crate) fn close(&self, reason: &str) {
        self.shared.close(reason);
    }

    /// Stops taking frames for a correlation id.
    pub(crate) fn forget(&self, correlation: CorrelationId) {
        self.shared.waiting().by_correlation.remove(&correlation.0);
    }

    /// Writes a request. Must not be dropped before it is done.
    pub(crate) async fn send<R: Request>(
        &self,
        request: &R,
        payload: &[Bytes],
        waiter: Waiter,
        owed: Owed,
    ) -> Result<CorrelationId, ChannelClosed> {
        let correlation = self.expect_answer(waiter, owed)?;
        self.write(request, correlation, payload).await?;
        Ok(correlation)
    }

    /// Writes a request that has no answer. Must not be dropped before it is done.
    pub(crate) async fn send_one_way<R: Request>(&self, request: &R) -> Result<(), ChannelClosed> {
        self.write(request, CorrelationId(0), &[]).await
    }

    /// Writes a request whose answer is expected already. When it is dropped before it is done,
    /// the request goes out with the next one.
    pub(crate) async fn write<R: Request>(
        &self,
        request: &R,
        correlation: CorrelationId,
        payload: &[Bytes],
    ) -> Result<(), ChannelClosed> {
        match self.write_before(None, request, correlation, payload).await {
            Ok(()) => Ok(()),
            Err(NotWritten::Closed(closed)) => Err(closed),
            Err(NotWritten::NoTurn) => unreachable!("there was no deadline"),
        }
    }

    /// As [`Self::send`], but not longer than until `deadline`. A frame that has not left in whole by
    /// then ends the stream.
    pub(crate) async fn send_before<R: Request>(
        &self,
        deadline: Instant,
        request: &R,
        payload: &[Bytes],
        waiter: Waiter,
    ) -> Result<CorrelationId, NotWritten> {
        let correlation = self.expect_answer(waiter, Owed::Answer).map_err(NotWritten::Closed)?;
        let written = self.write_before(Some(deadline), request, correlation, payload).await;
        if let Err(NotWritten::NoTurn) = written {
            self.forget(correlation);
        }
        written.map(|()| correlation)
    }

    async fn write_before<R: Request>(
        &self,
        deadline: Option<Instant>,
        request: &R,
        correlation: CorrelationId,
        payload: &[Bytes],
    ) -> Result<(), NotWritten> {
        let payload_bytes = payload.iter().map(Bytes::len).sum();
        let head = encode_request(correlation, request, payload_bytes);
        // The stream first: whoever waits for it must not keep others from their turn.
        let turn = async {
            let sender = self.sender.lock().await;
            (sender, self.turns.take(head.len() + payload_bytes).await)
        };
        let (mut sender, _turn) = match deadline {
            None => turn.await,
            Some(deadline) => timeout_at(deadline, turn).await.map_err(|_| NotWritten::NoTurn)?,
        };
        sender.feed(head.freeze(), payload);
        self.flush(&mut sender, deadline).await
    }

    /// Writes all that is queued, at the latest by `deadline`.
    async fn flush(
        &self,
        sender: &mut FrameSender,
        deadline: Option<Instant>,
    ) -> Result<(), NotWritten> {
        loop {
            let queued_bytes = sender.queued_bytes();
            let stuck_at = Instant::now() + self.stuck_after;
            let until = deadline.map_or(stuck_at, |deadline| deadline.min(stuck_at));
            let reason = match timeout_at(until, sender.flush()).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => error.to_string(),
                Err(_) if sender.queued_bytes() < queued_bytes && until == stuck_at => continue,
                Err(_) => {
                    // What follows a part of a frame could not be told from its rest.
                    sender.reset(0);
                    "the node did not take a frame in time".to_owned()
                }
            };
            return Err(NotWritten::Closed(self.broken(&reason)));
        }
    }

    /// The stream has failed: everybody who waits is told.
    fn broken(&self, reason: &str) -> ChannelClosed {
        self.shared.close(reason);
        ChannelClosed { reason: reason.into() }
    }

    /// Writes a small request here and now, if nobody else writes. Gives the waiter back where it did not
    /// begin to. What the stream does not take at once is written by a task.
    fn send_now<R: Request>(
        self: &Arc<Self>,
        request: &R,
        payload: &[Bytes],
        waiter: Waiter,
        owed: Owed,
    ) -> Result<(), Waiter> {
        let Ok(mut sender) = self.sender.try_lock() else { return Err(waiter) };
        let payload_bytes = payload.iter().map(Bytes::len).sum::<usize>();
        if payload_bytes > FRAME_BYTES_WITHOUT_TURN / 2 || sender.queued_bytes() > 0 {
            return Err(waiter);
        }
        // Where the stream has ended the waiter is dropped, which ends the wait.
        let Ok(correlation) = self.expect_answer(waiter, owed) else { return Ok(()) };
        let head = encode_request(correlation, request, payload_bytes);
        let is_small = head.len() + payload_bytes <= FRAME_BYTES_WITHOUT_TURN;
        sender.feed(head.freeze(), payload);
        match is_small.then(|| sender.flush().now_or_never()).flatten() {
            Some(Ok(())) => {}
            Some(Err(error)) => drop(self.broken(&error.to_string())),
            None => {
                let channel = Arc::clone(self);
                // It tells whoever waits.
                tokio::spawn(async move { drop(channel.flush_queued().await) });
            }
        }
        Ok(())
    }

    /// Writes what [`Channel::send_now`] left, unless somebody has meanwhile.
    async fn flush_queued(&self) -> Result<(), NotWritten> {
        let mut sender = self.sender.lock().await;
        let _turn = self.turns.take(sender.queued_bytes()).await;
        self.flush(&mut sender, None).await
    }

    /// Registers who takes the answer of a request that is to be written next.
    pub(crate) fn expect_answer(
        &self,
        waiter: Waiter,
        owed: Owed,
    ) -> Result<CorrelationId, ChannelClosed> {
        let owing = self.pulse.owes(owed);
        let mut waiting = self.shared.waiting();
        if let Some(closed) = &waiting.closed {
            return Err(closed.clone());
        }
        let mut correlation = waiting.next;
        while correlation == 0 || waiting.by_correlation.contains_key(&correlation) {
            correlation = correlation.wrapping_add(1);
        }
        waiting.next = correlation.wrapping_add(1);
        waiting.by_correlation.insert(correlation, (waiter, owing));
        Ok(CorrelationId(correlation))
    }

    /// Sends a request and awaits its answer; may be dropped at any time.
    pub(crate) async fn request<R>(
        self: &Arc<Self>,
        request: R,
    ) -> Result<(R::Response, Bytes), RequestError>
    where
        R: Request + Send + Sync + 'static,
    {
        self.request_owed(request, Owed::Answer).await
    }

    /// As [`Self::request`], for one whose answer the node may keep back until there is news.
    pub(crate) async fn request_owed<R>(
        self: &Arc<Self>,
        request: R,
        owed: Owed,
    ) -> Result<(R::Response, Bytes), RequestError>
    where
        R: Request + Send + Sync + 'static,
    {
        self.request_with(request, Bytes::new(), owed).await
    }

    /// As [`Self::request_owed`], with a payload behind the request.
    pub(crate) async fn request_with<R>(
        self: &Arc<Self>,
        request: R,
        payload: Bytes,
        owed: Owed,
    ) -> Result<(R::Response, Bytes), RequestError>
    where
        R: Request + Send + Sync + 'static,
    {
        let (done, answer) = oneshot::channel();
        // A failure reaches the waiter, or drops it: both end the wait below.
        let waiter = Waiter::Once(Box::new(move |result| drop(done.send(result))));
        let pieces = if payload.is_empty() { &[][..] } else { std::slice::from_ref(&payload) };
        if let Err(waiter) = self.send_now(&request, pieces, waiter, owed) {
            let channel = Arc::clone(self);
            tokio::spawn(async move {
                let pieces =
                    if payload.is_empty() { &[][..] } else { std::slice::from_ref(&payload) };
                drop(channel.send(&request, pieces, waiter, owed).await);
            });
        }
        match answer.await {
            Ok(Ok(frame)) => decode_answer::<R>(frame),
            Ok(Err(closed)) => Err(closed.into()),
            Err(_) => Err(RequestError::ConnectionLost { reason: "the stream is closed".into() }),
        }
    }
}

/// Reads the answer to a request: its body and payload, or the refusal.
pub(crate) fn decode_answer<R: Request>(
    frame: Frame,
) -> Result<(R::Response, Bytes), RequestError> {
    match frame.decode_response::<R>() {
        Ok(response) => Ok((response, frame.payload)),
        Err(ResponseError::Refused(refusal)) => Err(ServerError::from(*refusal).into()),
        Err(error) => Err(RequestError::MalformedAnswer { reason: error.to_string().into() }),
    }
}

impl From<ErrorResponse> for ServerError {
    fn from(response: ErrorResponse) -> Self {
        Self {
            code: response.code,
            message: response.message,
            leader: response.leader.map(|hint| (hint.node, hint.address)),
            detail: response.offset,
        }
    }
}

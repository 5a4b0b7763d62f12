//! One ordered stream of frames that many requests share: each request has a correlation id, and
//! whoever reads the stream hands an answer to whom it belongs.
//!
//! A frame must be written whole. So a caller that may be dropped while it waits (anything a user
//! awaits) goes through [`Channel::request`], which writes in a task of its own; the drivers of
//! producers and consumers, which are never dropped half-way, use [`Channel::send`].

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use plimsoll_protocol::api::Request;
use plimsoll_protocol::error::ErrorResponse;
use plimsoll_protocol::frame::{Frame, ResponseError, encode_request};
use plimsoll_protocol::ids::CorrelationId;
use plimsoll_transport::{FrameReceiver, FrameSender};
use tokio::sync::{mpsc, oneshot};

use crate::error::{RequestError, ServerError};
use crate::link::StreamPlace;

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
    /// Given back when the stream is not used any more.
    _place: Option<StreamPlace>,
}

struct Shared {
    waiting: Mutex<Waiting>,
}

struct Waiting {
    next: u32,
    by_correlation: HashMap<u32, Waiter>,
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
            waiting.by_correlation.drain().map(|(_, waiter)| waiter).collect()
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
        if let Some(Waiter::Many(taker)) = waiting.by_correlation.get(&correlation) {
            if taker.send(Ok(frame)).is_err() {
                waiting.by_correlation.remove(&correlation);
            }
            return;
        }
        let waiter = waiting.by_correlation.remove(&correlation);
        drop(waiting);
        match waiter {
            Some(Waiter::Once(done)) => done(Ok(frame)),
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
        place: Option<StreamPlace>,
    ) -> Arc<Self> {
        let shared = Arc::new(Shared {
            waiting: Mutex::new(Waiting { next: 1, by_correlation: HashMap::new(), closed: None }),
        });
        let reading = Arc::clone(&shared);
        tokio::spawn(async move {
            let reason = loop {
                match receiver.recv().await {
                    Ok(Some(frame)) => reading.deliver(frame),
                    Ok(None) => break "the node closed the stream".to_owned(),
                    Err(error) => break error.to_string(),
                }
            };
            reading.close(&reason);
        });
        Arc::new(Self { sender: tokio::sync::Mutex::new(sender), shared, _place: place })
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
    ) -> Result<CorrelationId, ChannelClosed> {
        let correlation = self.expect_answer(waiter)?;
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
        let payload_bytes = payload.iter().map(Bytes::len).sum();
        let head = encode_request(correlation, request, payload_bytes);
        let mut sender = self.sender.lock().await;
        if let Err(error) = sender.send(head.freeze(), payload).await {
            self.shared.close(&error.to_string());
            return Err(ChannelClosed { reason: error.to_string().into() });
        }
        Ok(())
    }

    /// Registers who takes the answer of a request that is to be written next.
    pub(crate) fn expect_answer(&self, waiter: Waiter) -> Result<CorrelationId, ChannelClosed> {
        let mut waiting = self.shared.waiting();
        if let Some(closed) = &waiting.closed {
            return Err(closed.clone());
        }
        let mut correlation = waiting.next;
        while correlation == 0 || waiting.by_correlation.contains_key(&correlation) {
            correlation = correlation.wrapping_add(1);
        }
        waiting.next = correlation.wrapping_add(1);
        waiting.by_correlation.insert(correlation, waiter);
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
        let (done, answer) = oneshot::channel();
        let channel = Arc::clone(self);
        tokio::spawn(async move {
            let waiter = Waiter::Once(Box::new(move |result| drop(done.send(result))));
            // A failure reaches the waiter, or drops it: both end the wait below.
            drop(channel.send(&request, &[], waiter).await);
        });
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

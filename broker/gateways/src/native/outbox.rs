//! The way out of one stream: replies and pushes from many tasks, one task that writes.
//!
//! The writer gathers what is ready into one write, so that many small acknowledgements share a
//! packet. The queue is bounded: whoever produces more than the peer takes in waits, and with it the
//! reading of more requests.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::FutureExt as _;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use plimsoll_transport::{FrameSender, SendError};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

/// Frames and pending replies that may wait to be written on one stream.
const QUEUE: usize = 1024;
/// Frames that one write gathers at most.
const GATHERED_FRAMES_MAX: usize = 256;
/// Payload bytes that one write gathers at most, besides the frame that passes the mark.
const GATHERED_BYTES_MAX: usize = 256 * 1024;

/// A frame that is ready to be written.
#[derive(Debug)]
pub(super) struct OutFrame {
    /// Frame header and body.
    pub(super) head: Bytes,
    /// The payload in pieces, untouched.
    pub(super) payload: Vec<Bytes>,
    /// Given back when the frame was written.
    pub(super) permit: Option<OwnedSemaphorePermit>,
}

impl OutFrame {
    /// A frame without payload.
    pub(super) fn head(head: Bytes) -> Self {
        Self { head, payload: Vec::new(), permit: None }
    }
}

/// A reply that another task will complete.
pub(super) type PendingReply = Pin<Box<dyn Future<Output = OutFrame> + Send>>;

enum Outgoing {
    Ready(OutFrame),
    Pending(PendingReply),
}

/// The stream's end where frames are put. Cheap to clone.
#[derive(Clone)]
pub(super) struct Outbox(mpsc::Sender<Outgoing>);

/// The stream was closed by the peer or by an error; nothing more can be sent on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StreamGone;

impl Outbox {
    /// Puts a frame; waits while the queue is full.
    pub(super) async fn send(&self, frame: OutFrame) -> Result<(), StreamGone> {
        self.0.send(Outgoing::Ready(frame)).await.map_err(|_| StreamGone)
    }

    /// Puts a reply that is not known yet; waits while the queue is full.
    pub(super) async fn send_when_ready(&self, reply: PendingReply) -> Result<(), StreamGone> {
        self.0.send(Outgoing::Pending(reply)).await.map_err(|_| StreamGone)
    }

    /// Waits until the writer has ended.
    pub(super) async fn gone(&self) {
        self.0.closed().await;
    }
}

/// What the writer takes from.
pub(super) struct OutQueue {
    queue: mpsc::Receiver<Outgoing>,
    pending: FuturesUnordered<PendingReply>,
}

/// An outbox and the queue that [`write`] empties.
pub(super) fn outbox() -> (Outbox, OutQueue) {
    let (sender, queue) = mpsc::channel(QUEUE);
    (Outbox(sender), OutQueue { queue, pending: FuturesUnordered::new() })
}

/// Writes until every [`Outbox`] is dropped and every pending reply is written, then finishes the
/// stream; or until the peer closes it.
pub(super) async fn write(mut queue: OutQueue, sender: &mut FrameSender) -> Result<(), SendError> {
    let mut permits = Vec::new();
    while let Some(first) = queue.next().await {
        let mut frames = 1;
        feed(sender, first, &mut permits);
        while frames < GATHERED_FRAMES_MAX
            && sender.queued_bytes() < GATHERED_BYTES_MAX
            && let Some(Some(next)) = queue.next().now_or_never()
        {
            frames += 1;
            feed(sender, next, &mut permits);
        }
        sender.flush().await?;
        permits.clear();
    }
    sender.finish().await
}

fn feed(sender: &mut FrameSender, frame: OutFrame, permits: &mut Vec<OwnedSemaphorePermit>) {
    sender.feed(frame.head, &frame.payload);
    permits.extend(frame.permit);
}

impl OutQueue {
    /// The next frame that is ready; `None` when there will be none.
    fn next(&mut self) -> NextFrame<'_> {
        NextFrame(self)
    }
}

struct NextFrame<'a>(&'a mut OutQueue);

impl Future for NextFrame<'_> {
    type Output = Option<OutFrame>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let OutQueue { queue, pending } = &mut *self.0;
        let mut open = true;
        loop {
            match queue.poll_recv(context) {
                Poll::Ready(Some(Outgoing::Ready(frame))) => return Poll::Ready(Some(frame)),
                Poll::Ready(Some(Outgoing::Pending(reply))) => pending.push(reply),
                Poll::Ready(None) => {
                    open = false;
                    break;
                }
                Poll::Pending => break,
            }
        }
        match pending.poll_next_unpin(context) {
            Poll::Ready(Some(frame)) => Poll::Ready(Some(frame)),
            Poll::Ready(None) if !open => Poll::Ready(None),
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}

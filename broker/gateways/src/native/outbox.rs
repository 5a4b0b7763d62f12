//! The way out of one stream: replies and pushes from many tasks, one task that writes.
//!
//! The writer gathers what is ready into one write, so that many small acknowledgements share a
//! packet. The queue of ready frames is bounded: whoever puts more than the peer takes in waits, and
//! with it the reading of more requests. Replies that are not known yet go another way, bounded by
//! the bytes in flight of their connection, and are brought to their end even while the peer takes
//! nothing: a client that does not read its acknowledgements holds up nobody else.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::FutureExt as _;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use plimsoll_transport::{FrameSender, SendError};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

/// Frames that may wait to be written on one stream.
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

/// The stream's end where frames are put. Cheap to clone.
#[derive(Clone)]
pub(super) struct Outbox {
    ready: mpsc::Sender<OutFrame>,
    pending: mpsc::UnboundedSender<Incoming>,
}

/// What the writer is told of replies to come.
enum Incoming {
    /// One that is brought to its end.
    Reply(PendingReply),
    /// One that may take very long.
    Long(PendingReply),
    /// Of those that may take long none is wanted any more.
    Abandon,
}

/// The stream was closed by the peer or by an error; nothing more can be sent on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StreamGone;

impl Outbox {
    /// Puts a frame; waits while the queue is full.
    pub(super) async fn send(&self, frame: OutFrame) -> Result<(), StreamGone> {
        self.ready.send(frame).await.map_err(|_| StreamGone)
    }

    /// Puts a reply that is not known yet. Its future holds what bounds the number of such replies,
    /// and leaves it to the frame that it becomes.
    pub(super) fn send_when_ready(&self, reply: PendingReply) -> Result<(), StreamGone> {
        self.pending.send(Incoming::Reply(reply)).map_err(|_| StreamGone)
    }

    /// As [`Outbox::send_when_ready`], for one that may take very long: [`Outbox::abandon`] drops it. Its work
    /// is done by the task that writes, so it must be little more than to wait for others.
    pub(super) fn send_when_ready_or_abandoned(
        &self,
        reply: PendingReply,
    ) -> Result<(), StreamGone> {
        self.pending.send(Incoming::Long(reply)).map_err(|_| StreamGone)
    }

    /// Nobody is there any more to be told what may take long.
    pub(super) fn abandon(&self) {
        // The writer has ended: so have they.
        let _ = self.pending.send(Incoming::Abandon);
    }

    /// Waits until the writer has ended.
    pub(super) async fn gone(&self) {
        self.ready.closed().await;
    }
}

/// What the writer takes from.
pub(super) struct OutQueue {
    ready: mpsc::Receiver<OutFrame>,
    replies: Replies,
}

/// Replies on their way from a future to a frame.
struct Replies {
    incoming: mpsc::UnboundedReceiver<Incoming>,
    pending: FuturesUnordered<PendingReply>,
    /// Those that may be abandoned.
    long: FuturesUnordered<PendingReply>,
    known: VecDeque<OutFrame>,
    /// No more will come in.
    ended: bool,
}

/// An outbox and the queue that [`write`] empties.
pub(super) fn outbox() -> (Outbox, OutQueue) {
    let (ready_sender, ready) = mpsc::channel(QUEUE);
    let (pending_sender, incoming) = mpsc::unbounded_channel();
    let replies = Replies {
        incoming,
        pending: FuturesUnordered::new(),
        long: FuturesUnordered::new(),
        known: VecDeque::new(),
        ended: false,
    };
    (Outbox { ready: ready_sender, pending: pending_sender }, OutQueue { ready, replies })
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
        let mut flushing = pin!(sender.flush());
        poll_fn(|context| {
            let flushed = flushing.as_mut().poll(context);
            if flushed.is_pending() {
                queue.replies.settle(context);
            }
            flushed
        })
        .await?;
        permits.clear();
    }
    sender.finish().await
}

fn feed(sender: &mut FrameSender, frame: OutFrame, permits: &mut Vec<OwnedSemaphorePermit>) {
    sender.feed(frame.head, &frame.payload);
    permits.extend(frame.permit);
}

impl Replies {
    /// Takes in what was put, and turns what is known into frames.
    fn settle(&mut self, context: &mut Context<'_>) {
        loop {
            match self.incoming.poll_recv(context) {
                Poll::Ready(Some(Incoming::Reply(reply))) => self.pending.push(reply),
                Poll::Ready(Some(Incoming::Long(reply))) => self.long.push(reply),
                Poll::Ready(Some(Incoming::Abandon)) => self.long.clear(),
                Poll::Ready(None) => {
                    self.ended = true;
                    break;
                }
                Poll::Pending => break,
            }
        }
        for replies in [&mut self.pending, &mut self.long] {
            while let Poll::Ready(Some(frame)) = replies.poll_next_unpin(context) {
                self.known.push_back(frame);
            }
        }
    }

    fn are_over(&self) -> bool {
        self.ended && self.pending.is_empty() && self.long.is_empty() && self.known.is_empty()
    }
}

impl OutQueue {
    /// The next frame that is ready; `None` when there will be none.
    async fn next(&mut self) -> Option<OutFrame> {
        poll_fn(|context| {
            self.replies.settle(context);
            if let Some(frame) = self.replies.known.pop_front() {
                return Poll::Ready(Some(frame));
            }
            match self.ready.poll_recv(context) {
                Poll::Ready(None) if !self.replies.are_over() => Poll::Pending,
                frame => frame,
            }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(text: &'static [u8]) -> OutFrame {
        OutFrame::head(Bytes::from_static(text))
    }

    #[tokio::test]
    async fn replies_come_out_as_they_become_known_and_the_queue_ends_after_the_last() {
        let (outbox, mut queue) = outbox();
        let (tell, told) = tokio::sync::oneshot::channel::<()>();
        let late = async move {
            let _ = told.await;
            frame(b"late")
        };
        outbox.send_when_ready(Box::pin(late)).unwrap();
        outbox.send_when_ready(Box::pin(async { frame(b"at once") })).unwrap();
        outbox.send(frame(b"ready")).await.unwrap();
        drop(outbox);
        assert_eq!(&queue.next().await.unwrap().head[..], b"at once");
        assert_eq!(&queue.next().await.unwrap().head[..], b"ready");
        assert!(queue.next().now_or_never().is_none(), "one is still to come");
        tell.send(()).unwrap();
        assert_eq!(&queue.next().await.unwrap().head[..], b"late");
        assert!(queue.next().await.is_none());
    }

    #[tokio::test]
    async fn replies_that_may_take_long_are_dropped_when_they_are_abandoned_and_no_others() {
        let (outbox, mut queue) = outbox();
        let (tell, told) = tokio::sync::oneshot::channel::<()>();
        let owed = async move {
            let _ = told.await;
            frame(b"owed")
        };
        outbox.send_when_ready(Box::pin(owed)).unwrap();
        outbox.send_when_ready_or_abandoned(Box::pin(async { frame(b"granted") })).unwrap();
        assert_eq!(&queue.next().await.unwrap().head[..], b"granted");
        outbox.send_when_ready_or_abandoned(Box::pin(std::future::pending())).unwrap();
        assert!(queue.next().now_or_never().is_none());
        outbox.abandon();
        drop(outbox);
        tell.send(()).unwrap();
        assert_eq!(&queue.next().await.unwrap().head[..], b"owed");
        assert!(queue.next().await.is_none(), "nothing is waited for any more");
    }

    #[tokio::test]
    async fn frames_wait_when_the_queue_is_full_and_replies_do_not() {
        let (outbox, mut queue) = outbox();
        for _ in 0..QUEUE {
            outbox.send(frame(b"x")).await.unwrap();
        }
        assert_eq!(outbox.ready.capacity(), 0, "one more would wait");
        outbox.send_when_ready(Box::pin(async { frame(b"ack") })).unwrap();
        assert_eq!(&queue.next().await.unwrap().head[..], b"ack");
        drop(queue);
        assert_eq!(outbox.send(frame(b"x")).await, Err(StreamGone));
        outbox.gone().await;
    }
}

//! What waits to be written to one stream, and the task that writes it.
//!
//! Whatever has gathered while the stream was being written goes out with the next flush: many small
//! frames cost few system calls and packets. Invariant: nothing here waits for the stream but the
//! writer.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use plimsoll_transport::{FrameSender, SendError};
use tokio::sync::Notify;

/// Bytes taken for one flush, if a single frame is not larger: answers that come meanwhile do not wait
/// for more than this.
const FLUSH_BYTES: usize = 256 << 10;

/// How many times the bound may wait when answers are counted.
const ANSWERS_BEYOND: usize = 4;

/// A frame: header and body, then the pieces of its payload.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) head: Bytes,
    pub(crate) payload: Vec<Bytes>,
}

impl Outgoing {
    pub(crate) fn new(head: impl Into<Bytes>) -> Self {
        Self { head: head.into(), payload: Vec::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.head.len() + self.payload.iter().map(Bytes::len).sum::<usize>()
    }
}

/// Why a frame was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotTaken {
    /// As much waits as is allowed.
    Full,
    /// Nothing is written any more.
    Closed,
}

/// Frames that wait to be written.
#[derive(Debug)]
pub(crate) struct Outbox {
    waiting: Mutex<Waiting>,
    ready: Notify,
    bytes_max: usize,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Written before the others.
    urgent: VecDeque<Outgoing>,
    frames: VecDeque<Outgoing>,
    /// Of `frames`.
    bytes: usize,
    closed: bool,
}

impl Outbox {
    /// At most `bytes_max` bytes wait, if the first frame is not larger.
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { waiting: Mutex::default(), ready: Notify::new(), bytes_max }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a frame behind the others.
    pub(crate) fn push(&self, frame: Outgoing) -> Result<(), NotTaken> {
        self.push_within(self.bytes_max, [frame])
    }

    /// Adds frames behind the others, all or none.
    pub(crate) fn push_all(
        &self,
        frames: impl IntoIterator<Item = Outgoing>,
    ) -> Result<(), NotTaken> {
        self.push_within(self.bytes_max, frames)
    }

    /// Adds an answer behind the others, beyond the bound if need be: what makes others wait must not
    /// keep them from their answers.
    pub(crate) fn push_answer(&self, frame: Outgoing) -> Result<(), NotTaken> {
        self.push_within(self.bytes_max.saturating_mul(ANSWERS_BEYOND), [frame])
    }

    fn push_within(
        &self,
        bytes_max: usize,
        frames: impl IntoIterator<Item = Outgoing>,
    ) -> Result<(), NotTaken> {
        let mut waiting = self.lock();
        if waiting.closed {
            return Err(NotTaken::Closed);
        }
        let (frames_before, bytes_before) = (waiting.frames.len(), waiting.bytes);
        for frame in frames {
            waiting.bytes += frame.len();
            waiting.frames.push_back(frame);
        }
        if bytes_before > 0 && waiting.bytes > bytes_max {
            waiting.frames.truncate(frames_before);
            waiting.bytes = bytes_before;
            return Err(NotTaken::Full);
        }
        drop(waiting);
        self.ready.notify_one();
        Ok(())
    }

    /// Adds a frame before those that are not urgent, if less than `count_max` of them wait.
    pub(crate) fn push_urgent(&self, frame: Outgoing, count_max: usize) -> Result<(), NotTaken> {
        let mut waiting = self.lock();
        if waiting.closed {
            return Err(NotTaken::Closed);
        }
        if waiting.urgent.len() >= count_max {
            return Err(NotTaken::Full);
        }
        waiting.urgent.push_back(frame);
        drop(waiting);
        self.ready.notify_one();
        Ok(())
    }

    /// Adds an urgent frame that makes those which wait, of which there are more than `keep`,
    /// needless.
    pub(crate) fn push_latest(&self, frame: Outgoing, keep: usize) {
        let mut waiting = self.lock();
        if waiting.closed {
            return;
        }
        while waiting.urgent.len() > keep {
            waiting.urgent.pop_front();
        }
        waiting.urgent.push_back(frame);
        drop(waiting);
        self.ready.notify_one();
    }

    /// Drops what waits and takes nothing more; [`Self::write`] ends.
    pub(crate) fn close(&self) {
        let mut waiting = self.lock();
        *waiting = Waiting { closed: true, ..Waiting::default() };
        drop(waiting);
        self.ready.notify_one();
    }

    fn take(&self, sender: &mut FrameSender) -> Taken {
        let mut waiting = self.lock();
        if waiting.closed {
            return Taken::Closed;
        }
        let before = sender.queued_bytes();
        while let Some(frame) = waiting.urgent.pop_front() {
            sender.feed(frame.head, &frame.payload);
        }
        while sender.queued_bytes() - before < FLUSH_BYTES
            && let Some(frame) = waiting.frames.pop_front()
        {
            waiting.bytes -= frame.len();
            sender.feed(frame.head, &frame.payload);
        }
        match sender.queued_bytes() - before {
            0 => Taken::Nothing,
            bytes => Taken::Bytes(bytes),
        }
    }

    /// Writes what comes until the outbox is closed or the stream fails. `sent` counts bytes.
    pub(crate) async fn write(
        &self,
        sender: &mut FrameSender,
        sent: &AtomicU64,
    ) -> Result<(), SendError> {
        loop {
            match self.take(sender) {
                Taken::Closed => return Ok(()),
                Taken::Nothing => {
                    self.ready.notified().await;
                    // Whoever else is about to add a frame does so first.
                    tokio::task::yield_now().await;
                }
                Taken::Bytes(bytes) => {
                    sender.flush().await?;
                    sent.fetch_add(bytes as u64, Ordering::Relaxed);
                }
            }
        }
    }
}

enum Taken {
    Nothing,
    Bytes(usize),
    Closed,
}

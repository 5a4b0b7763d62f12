//! One end of a simulated stream, and the two halves that a connection hands out of it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

use super::Message;
use super::end::End;
use crate::receiver::RecvError;
use crate::sender::SendError;

/// Shared by both halves.
pub(super) struct StreamEnd {
    id: u64,
    state: Mutex<StreamState>,
    readable: Notify,
    writable: Notify,
}

#[derive(Debug)]
struct StreamState {
    pieces: VecDeque<Bytes>,
    /// The peer sends nothing more.
    finished: bool,
    reset: Option<u64>,
    /// Nobody here reads any more.
    is_deaf: bool,
    /// Bytes read that the peer was not told of.
    read: usize,
    /// Bytes that may be sent.
    credit: usize,
    /// The peer wants nothing more.
    stopped: Option<u64>,
    /// The peer has everything up to the end.
    is_received: bool,
    /// Halves that are held.
    halves: u8,
}

impl StreamEnd {
    pub(super) fn new(id: u64, window: usize) -> Arc<StreamEnd> {
        let state = StreamState {
            pieces: VecDeque::new(),
            finished: false,
            reset: None,
            is_deaf: false,
            read: 0,
            credit: window,
            stopped: None,
            is_received: false,
            halves: 2,
        };
        let (readable, writable) = (Notify::new(), Notify::new());
        Arc::new(StreamEnd { id, state: Mutex::new(state), readable, writable })
    }

    fn lock(&self) -> MutexGuard<'_, StreamState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Both halves look again what is true.
    pub(super) fn wake(&self) {
        self.readable.notify_one();
        self.writable.notify_one();
    }

    pub(super) fn wake_sender(&self) {
        self.writable.notify_one();
    }

    pub(super) fn add_credit(&self, bytes: usize) {
        self.lock().credit += bytes;
        self.writable.notify_one();
    }

    pub(super) fn stopped(&self, code: u64) {
        self.lock().stopped.get_or_insert(code);
        self.writable.notify_one();
    }

    /// The peer has everything up to the end.
    pub(super) fn received(&self) {
        self.lock().is_received = true;
        self.writable.notify_one();
    }

    /// Bytes have arrived; false where nobody reads them.
    pub(super) fn push(&self, pieces: Vec<Bytes>) -> bool {
        let mut state = self.lock();
        if state.is_deaf || state.reset.is_some() {
            return false;
        }
        state.pieces.extend(pieces);
        drop(state);
        self.readable.notify_one();
        true
    }

    pub(super) fn finished(&self) {
        self.lock().finished = true;
        self.readable.notify_one();
    }

    /// The peer has abandoned the stream; how many bytes will not be read for it.
    pub(super) fn was_reset(&self, code: u64) -> usize {
        let mut state = self.lock();
        state.reset.get_or_insert(code);
        let unread = std::mem::take(&mut state.pieces).iter().map(Bytes::len).sum();
        drop(state);
        self.readable.notify_one();
        unread
    }

    /// One half is gone; true for the last.
    fn release(&self) -> bool {
        let mut state = self.lock();
        state.halves -= 1;
        state.halves == 0
    }
}

/// What a [`FrameSender`](crate::FrameSender) writes to.
pub(crate) struct SendingHalf {
    end: Arc<End>,
    stream: Arc<StreamEnd>,
    is_over: bool,
}

impl std::fmt::Debug for SendingHalf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SendingHalf").field("stream", &self.stream.id).finish_non_exhaustive()
    }
}

impl SendingHalf {
    pub(super) fn new(end: Arc<End>, stream: Arc<StreamEnd>) -> Self {
        Self { end, stream, is_over: false }
    }

    /// Takes what the windows allow from the front of `queue`, at least a byte; gives how many. May be
    /// cancelled.
    pub(crate) async fn write(&mut self, queue: &mut VecDeque<Bytes>) -> Result<usize, SendError> {
        loop {
            let writable = self.stream.writable.notified();
            if self.is_over {
                return Err(SendError::Finished);
            }
            if let Some(reason) = self.end.known_reason() {
                return Err(SendError::Closed { reason: reason.text });
            }
            let queued: usize = queue.iter().map(Bytes::len).sum();
            let taken = {
                let mut state = self.stream.lock();
                if let Some(code) = state.stopped {
                    return Err(SendError::Stopped { code });
                }
                let taken = self.end.take_credit(queued.min(state.credit));
                state.credit -= taken;
                taken
            };
            if taken > 0 || queued == 0 {
                let pieces = take_front(queue, taken);
                if !pieces.is_empty() {
                    self.end.send(Message::Data { stream: self.stream.id, pieces });
                }
                return Ok(taken);
            }
            writable.await;
        }
    }

    /// Nothing more comes.
    pub(crate) fn finish(&mut self) -> Result<(), SendError> {
        if self.is_over {
            return Err(SendError::Finished);
        }
        if let Some(reason) = self.end.known_reason() {
            return Err(SendError::Closed { reason: reason.text });
        }
        self.is_over = true;
        self.end.send(Message::Finish { stream: self.stream.id });
        Ok(())
    }

    /// Waits until the peer has everything up to the end, or wants nothing more, or is gone.
    pub(crate) async fn received(&mut self) {
        loop {
            let writable = self.stream.writable.notified();
            let is_done = {
                let state = self.stream.lock();
                state.is_received || state.stopped.is_some()
            };
            if is_done || self.end.known_reason().is_some() {
                return;
            }
            writable.await;
        }
    }

    /// Abandons the stream.
    pub(crate) fn reset(&mut self, code: u32) {
        if !self.is_over && self.end.known_reason().is_none() {
            let code = u64::from(code);
            self.end.send(Message::Reset { stream: self.stream.id, code });
        }
        self.is_over = true;
    }
}

impl Drop for SendingHalf {
    fn drop(&mut self) {
        // An error says that the stream has ended already.
        let _ = self.finish();
        if self.stream.release() {
            self.end.stream_is_done(self.stream.id);
        }
    }
}

fn take_front(queue: &mut VecDeque<Bytes>, mut bytes: usize) -> Vec<Bytes> {
    let mut pieces = Vec::new();
    while bytes > 0 {
        let front = queue.front_mut().expect("no more is taken than is queued");
        if front.len() > bytes {
            pieces.push(front.split_to(bytes));
            break;
        }
        bytes -= front.len();
        pieces.extend(queue.pop_front());
    }
    pieces
}

/// What a [`FrameReceiver`](crate::FrameReceiver) reads from.
pub(crate) struct ReceivingHalf {
    end: Arc<End>,
    stream: Arc<StreamEnd>,
}

impl std::fmt::Debug for ReceivingHalf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReceivingHalf").field("stream", &self.stream.id).finish_non_exhaustive()
    }
}

impl ReceivingHalf {
    pub(super) fn new(end: Arc<End>, stream: Arc<StreamEnd>) -> Self {
        Self { end, stream }
    }

    /// The next bytes; `None` at the end of the stream. May be cancelled.
    pub(crate) async fn read(&mut self) -> Result<Option<Bytes>, RecvError> {
        loop {
            let readable = self.stream.readable.notified();
            if let Some(outcome) = self.try_read() {
                return outcome;
            }
            readable.await;
        }
    }

    fn try_read(&self) -> Option<Result<Option<Bytes>, RecvError>> {
        let mut state = self.stream.lock();
        let Some(piece) = state.pieces.pop_front() else {
            if let Some(code) = state.reset {
                return Some(Err(RecvError::Reset { code }));
            }
            if state.finished {
                return Some(Ok(None));
            }
            drop(state);
            let reason = self.end.known_reason()?.text;
            return Some(Err(RecvError::Closed { reason }));
        };
        state.read += piece.len();
        let due = state.read >= self.end.stream_window() / 4;
        let due = due.then(|| std::mem::take(&mut state.read));
        drop(state);
        if let Some(bytes) = due {
            self.end.send(Message::StreamCredit { stream: self.stream.id, bytes });
        }
        self.end.give_credit(piece.len());
        Some(Ok(Some(piece)))
    }

    /// Nothing more is wanted.
    pub(crate) fn stop(&mut self, code: u32) {
        let unread = {
            let mut state = self.stream.lock();
            let is_news = !state.is_deaf && state.reset.is_none() && !state.finished;
            state.is_deaf = true;
            let unread: usize = std::mem::take(&mut state.pieces).iter().map(Bytes::len).sum();
            (is_news, unread)
        };
        if self.end.known_reason().is_some() {
            return;
        }
        let (is_news, unread) = unread;
        if is_news {
            let code = u64::from(code);
            self.end.send(Message::Stop { stream: self.stream.id, code });
        }
        self.end.give_credit(unread);
    }
}

impl Drop for ReceivingHalf {
    fn drop(&mut self) {
        self.stop(0);
        if self.stream.release() {
            self.end.stream_is_done(self.stream.id);
        }
    }
}

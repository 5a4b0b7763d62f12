//! One partition's queue in a producer: records are encoded here by the callers' tasks, batches are
//! taken from here by the partition's driver.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use plimsoll_protocol::batch::{BatchBuilder, BatchLimits, PushOutcome, RecordView};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;

use super::completion::{AckFuture, Completion};
use super::options::ProducerOptions;
use crate::error::{RequestError, SendError};
use crate::partitioner::Chooser;

/// See the module.
pub(crate) struct Lane {
    pub(crate) partition: u32,
    options: Arc<ProducerOptions>,
    limits: BatchLimits,
    room: Arc<Semaphore>,
    chooser: Arc<Mutex<Chooser>>,
    state: Mutex<State>,
    /// Tells the driver that there is something new in `state`.
    pub(crate) wake: Notify,
    /// How many batches have their outcome; they get it in the order in which they were opened.
    resolved: watch::Sender<u64>,
}

struct State {
    open: Option<OpenBatch>,
    /// Closed and not yet numbered.
    ready: VecDeque<OpenBatch>,
    /// Answers that the driver has not looked at.
    answers: Vec<Answer>,
    /// Batches ever opened.
    opened: u64,
    /// The producer is closed: no more records come.
    closing: bool,
    /// No more records are taken, because of this.
    refusing: Option<SendError>,
    /// First failure that no flush has reported.
    failure: Option<SendError>,
    /// Size of the last batch: the next one's buffer begins with as much.
    last_bytes: usize,
}

/// A batch that still takes records, or waits to be numbered and sent.
pub(crate) struct OpenBatch {
    pub(crate) builder: BatchBuilder,
    pub(crate) completion: Arc<Completion>,
    pub(crate) opened_at: Instant,
}

/// What came back for one attempt to send a batch.
pub(crate) struct Answer {
    pub(crate) attempt: u64,
    /// The completion of a stored batch is set before its answer is queued.
    pub(crate) outcome: Result<(), RequestError>,
}

impl Lane {
    pub(crate) fn new(
        partition: u32,
        options: Arc<ProducerOptions>,
        limits: BatchLimits,
        room: Arc<Semaphore>,
        chooser: Arc<Mutex<Chooser>>,
    ) -> Arc<Self> {
        let state = State {
            open: None,
            ready: VecDeque::new(),
            answers: Vec::new(),
            opened: 0,
            closing: false,
            refusing: None,
            failure: None,
            last_bytes: 0,
        };
        Arc::new(Self {
            partition,
            options,
            limits,
            room,
            chooser,
            state: Mutex::new(state),
            wake: Notify::new(),
            resolved: watch::Sender::new(0),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds this lock")
    }

    /// Encodes a record into the open batch. `held_bytes` go back to the buffer with its outcome.
    pub(crate) fn push(
        &self,
        record: &RecordView<'_>,
        held_bytes: usize,
    ) -> Result<AckFuture, SendError> {
        let mut closed_one = false;
        let mut tell_driver = false;
        let future = {
            let mut state = self.lock();
            if let Some(error) = &state.refusing {
                return Err(error.clone());
            }
            loop {
                if state.open.is_none() {
                    let builder =
                        BatchBuilder::with_capacity(self.limits.clone(), state.last_bytes);
                    state.open = Some(self.open(builder));
                    state.opened += 1;
                    tell_driver = true;
                }
                let open = state.open.as_mut().expect("it was opened above");
                let pushed = open
                    .builder
                    .push(*record)
                    .map_err(|error| SendError::TooLarge(error.to_string().into()));
                let pushed = match pushed {
                    Ok(pushed) => pushed,
                    Err(error) if open.builder.is_empty() => {
                        // An empty batch is never sent: it must not count as opened.
                        state.open = None;
                        state.opened -= 1;
                        return Err(error);
                    }
                    Err(error) => return Err(error),
                };
                if pushed == PushOutcome::Full {
                    close_open(&mut state);
                    closed_one = true;
                    continue;
                }
                let position = open.builder.record_count() - 1;
                open.completion.hold(held_bytes);
                let future = AckFuture::new(Arc::clone(&open.completion), position);
                let full = open.builder.bytes() >= self.options.batch_bytes
                    || open.builder.record_count() >= self.options.batch_records;
                if full {
                    close_open(&mut state);
                    closed_one = true;
                }
                break future;
            }
        };
        if closed_one {
            self.batch_closed();
        }
        if tell_driver || closed_one {
            self.wake.notify_one();
        }
        Ok(future)
    }

    /// Queues a batch that the caller built.
    pub(crate) fn push_batch(
        &self,
        builder: BatchBuilder,
        held_bytes: usize,
    ) -> Result<AckFuture, SendError> {
        let mut state = self.lock();
        if let Some(error) = &state.refusing {
            return Err(error.clone());
        }
        close_open(&mut state);
        let batch = self.open(builder);
        batch.completion.hold(held_bytes);
        let future = AckFuture::new(Arc::clone(&batch.completion), 0);
        state.opened += 1;
        state.ready.push_back(batch);
        drop(state);
        self.wake.notify_one();
        Ok(future)
    }

    fn open(&self, builder: BatchBuilder) -> OpenBatch {
        let completion = Completion::new(Arc::clone(&self.room));
        OpenBatch { builder, completion, opened_at: Instant::now() }
    }

    fn batch_closed(&self) {
        let mut chooser = self.chooser.lock().expect("no code panics while it holds this lock");
        chooser.batch_closed(self.partition);
    }

    /// The next batch to send, if `in_flight` batches allow one now; else when to look again.
    pub(crate) fn next_batch(&self, in_flight: usize) -> Result<OpenBatch, Option<Instant>> {
        if in_flight >= self.options.in_flight_max {
            return Err(None);
        }
        let mut state = self.lock();
        if let Some(batch) = state.ready.pop_front() {
            return Ok(batch);
        }
        if in_flight >= self.options.eager_in_flight && !state.closing {
            return Err(None);
        }
        let Some(open) = &state.open else { return Err(None) };
        let linger = self.options.linger;
        if !linger.is_zero() && !state.closing {
            let due = open.opened_at + linger;
            if Instant::now() < due {
                return Err(Some(due));
            }
        }
        let batch = state.open.take().expect("it was seen above");
        state.last_bytes = batch.builder.bytes();
        drop(state);
        self.batch_closed();
        Ok(batch)
    }

    /// Takes out batches that were opened before `limit`, oldest first.
    pub(crate) fn take_older_than(&self, limit: Instant) -> Vec<OpenBatch> {
        let mut state = self.lock();
        let mut taken = Vec::new();
        while state.ready.front().is_some_and(|batch| batch.opened_at < limit) {
            taken.extend(state.ready.pop_front());
        }
        if state.ready.is_empty() && state.open.as_ref().is_some_and(|open| open.opened_at < limit)
        {
            taken.extend(state.open.take());
        }
        taken
    }

    /// When the oldest batch that was not sent was opened.
    pub(crate) fn oldest(&self) -> Option<Instant> {
        let state = self.lock();
        state.ready.front().or(state.open.as_ref()).map(|batch| batch.opened_at)
    }

    /// Called by whoever reads the stream.
    pub(crate) fn answered(&self, answer: Answer) {
        self.lock().answers.push(answer);
        self.wake.notify_one();
    }

    /// Moves the answers that came into `into`.
    pub(crate) fn take_answers(&self, into: &mut Vec<Answer>) {
        into.append(&mut self.lock().answers);
    }

    /// `count` more batches have their outcome.
    pub(crate) fn resolve(&self, count: u64, failure: Option<SendError>) {
        if let Some(error) = failure {
            self.lock().failure.get_or_insert(error);
        }
        self.resolved.send_modify(|resolved| *resolved += count);
    }

    /// No more records come; the driver sends what is queued and ends.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closing = true;
        state.refusing.get_or_insert(SendError::Closed);
        drop(state);
        self.wake.notify_one();
    }

    /// Refuses everything from now on and gives back what was queued.
    pub(crate) fn refuse(&self, error: SendError) -> Vec<OpenBatch> {
        let mut state = self.lock();
        state.refusing = Some(error);
        let mut queued: Vec<OpenBatch> = state.ready.drain(..).collect();
        queued.extend(state.open.take());
        queued
    }

    /// Whether the driver may end: closed, and nothing queued.
    pub(crate) fn is_drained(&self) -> bool {
        let state = self.lock();
        state.closing && state.open.is_none() && state.ready.is_empty() && state.answers.is_empty()
    }

    /// Waits until all batches opened so far have their outcome, and reports the first failure
    /// since the last flush.
    pub(crate) async fn flush(&self) -> Result<(), SendError> {
        let opened = self.lock().opened;
        let mut resolved = self.resolved.subscribe();
        // The sender lives in `self`: waiting cannot fail.
        let _ = resolved.wait_for(|resolved| *resolved >= opened).await;
        self.lock().failure.take().map_or(Ok(()), Err)
    }
}

fn close_open(state: &mut State) {
    if let Some(open) = state.open.take() {
        state.last_bytes = open.builder.bytes();
        state.ready.push_back(open);
    }
}

//! A steady load of single records that goes on whatever happens: sent on a schedule, none waiting for
//! the acknowledgement of the one before.
//!
//! A thread of its own keeps the schedule, so that neither the nodes nor the harness delay it; latency
//! counts from the moment that was due.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use plimsoll_client::{Ack, AckFuture, Producer, Record, SendError};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::pacer::Pacer;
use crate::percentiles::Latencies;
use crate::values::Values;

/// A load without one acknowledgement in this time has ended for good.
const PATIENCE: Duration = Duration::from_secs(60);

/// A load that runs until [`Steady::end`].
pub(crate) struct Steady {
    seen: watch::Sender<Seen>,
    latencies: Arc<Mutex<Latencies>>,
    stop: Arc<AtomicBool>,
    sending: JoinHandle<anyhow::Result<Producer>>,
    counting: JoinHandle<()>,
}

/// What was seen of the load.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    /// Records sent.
    pub(crate) sent: u64,
    /// Records acknowledged.
    pub(crate) acked: u64,
    /// Records given up by the client.
    pub(crate) failed: u64,
    /// Why the first of them was.
    pub(crate) failure: Option<String>,
    last_ack: Instant,
    longest_gap: Duration,
    /// Number of the first record that was sent after the mark.
    mark: u64,
    /// Acknowledged records that were sent after the mark.
    acked_after_mark: u64,
}

/// A record on its way: its number, when it was due, what comes of it.
type Sent = (u64, Instant, AckFuture);

impl Seen {
    fn new(now: Instant) -> Self {
        Self {
            sent: 0,
            acked: 0,
            failed: 0,
            failure: None,
            last_ack: now,
            longest_gap: Duration::ZERO,
            mark: u64::MAX,
            acked_after_mark: 0,
        }
    }

    fn acked(&mut self, number: u64, now: Instant) {
        self.acked += 1;
        self.acked_after_mark += u64::from(number >= self.mark);
        self.longest_gap = self.longest_gap.max(now.duration_since(self.last_ack));
        self.last_ack = now;
    }

    fn failed(&mut self, why: String) {
        self.failed += 1;
        self.failure.get_or_insert(why);
    }
}

impl Steady {
    /// Begins to send `rate` records per second to the partitions in turn.
    pub(crate) fn start(
        producer: Producer,
        partitions: u32,
        mut values: Values,
        rate: NonZeroU32,
    ) -> Self {
        let seen = watch::Sender::new(Seen::new(Instant::now()));
        let (latencies, stop) = (Arc::new(Mutex::default()), Arc::new(AtomicBool::new(false)));
        let (queue, sent) = mpsc::unbounded_channel();
        let (runtime, noted, stopped) = (Handle::current(), seen.clone(), Arc::clone(&stop));
        let sending = tokio::task::spawn_blocking(move || {
            let pacer = Pacer::new(rate);
            for number in 0.. {
                let due = pacer.wait(number);
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let record = Record::new(Bytes::copy_from_slice(values.next_value()));
                let partition = (number % u64::from(partitions)) as u32;
                let ack = runtime.block_on(producer.enqueue_to(partition, &record))?;
                noted.send_modify(|seen| seen.sent += 1);
                queue.send((number, due, ack)).context("whoever counts is gone")?;
            }
            Ok(producer)
        });
        let counting = tokio::spawn(count(sent, seen.clone(), Arc::clone(&latencies)));
        Self { seen, latencies, stop, sending, counting }
    }

    /// What was seen up to now.
    pub(crate) fn seen(&self) -> Seen {
        self.seen.borrow().clone()
    }

    /// The latencies since they were taken last.
    pub(crate) fn take_latencies(&self) -> Latencies {
        std::mem::take(&mut *self.latencies.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Forgets the longest gap, and counts from now on the acknowledgements of records that were sent
    /// from now on.
    pub(crate) fn mark(&self) {
        self.seen.send_modify(|seen| {
            (seen.longest_gap, seen.mark, seen.acked_after_mark) = (Duration::ZERO, seen.sent, 0);
        });
    }

    /// Records sent after the mark.
    pub(crate) fn sent_after_mark(&self) -> u64 {
        let seen = self.seen.borrow();
        seen.sent.saturating_sub(seen.mark)
    }

    /// Waits until so many records sent after the mark are acknowledged, and returns the longest gap
    /// between two acknowledgements since the mark. The gap that a mark falls into counts in full.
    ///
    /// # Errors
    /// When no record is acknowledged for a minute.
    pub(crate) async fn longest_gap(&self, acks: u64) -> anyhow::Result<Duration> {
        let mut seen = self.seen.subscribe();
        let mut before = 0;
        loop {
            let moved = seen
                .wait_for(|seen| seen.acked_after_mark >= acks || seen.acked_after_mark > before);
            let Ok(moved) = tokio::time::timeout(PATIENCE, moved).await else {
                let seen = self.seen();
                bail!("nothing is acknowledged for {PATIENCE:?}: {seen:?}");
            };
            let now = moved.context("the load has ended")?.clone();
            if now.acked_after_mark >= acks {
                return Ok(now.longest_gap);
            }
            before = now.acked_after_mark;
        }
    }

    /// Ends the load, waits until every record is acknowledged or given up, and returns what was seen.
    ///
    /// # Errors
    /// When the producer took no more records.
    pub(crate) async fn end(self) -> anyhow::Result<Seen> {
        self.stop.store(true, Ordering::Relaxed);
        let producer = self.sending.await??;
        self.counting.await?;
        producer.close().await?;
        Ok(self.seen.borrow().clone())
    }
}

async fn count(
    mut sent: mpsc::UnboundedReceiver<Sent>,
    seen: watch::Sender<Seen>,
    latencies: Arc<Mutex<Latencies>>,
) {
    let mut in_flight = FuturesUnordered::new();
    let mut open = true;
    while open || !in_flight.is_empty() {
        tokio::select! {
            biased;
            Some((number, due, outcome)) = in_flight.next() => {
                let now = Instant::now();
                let outcome: Result<Ack, SendError> = outcome;
                match outcome {
                    Ok(_) => {
                        let mut latencies = latencies.lock().unwrap_or_else(PoisonError::into_inner);
                        latencies.record(now.duration_since(due));
                        drop(latencies);
                        seen.send_modify(|seen| seen.acked(number, now));
                    }
                    Err(error) => {
                        seen.send_modify(|seen| seen.failed(error.to_string()));
                    }
                }
            }
            next = sent.recv(), if open => match next {
                Some((number, due, ack)) => in_flight.push(settled(number, due, ack)),
                None => open = false,
            }
        }
    }
}

async fn settled(
    number: u64,
    due: Instant,
    ack: AckFuture,
) -> (u64, Instant, Result<Ack, SendError>) {
    (number, due, ack.await)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_lasts_from_one_acknowledgement_to_the_next() {
        let began = Instant::now();
        let at = |milliseconds| began + Duration::from_millis(milliseconds);
        let mut seen = Seen::new(began);
        for (number, milliseconds) in [(0, 2), (1, 4), (2, 704), (3, 705)] {
            seen.acked(number, at(milliseconds));
        }
        assert_eq!((seen.acked, seen.longest_gap), (4, Duration::from_millis(700)));
    }

    #[test]
    fn only_records_sent_after_the_mark_count_as_service() {
        let began = Instant::now();
        let mut seen = Seen { mark: 10, ..Seen::new(began) };
        for number in 8..12 {
            seen.acked(number, began);
        }
        assert_eq!(seen.acked_after_mark, 2);
        seen.failed("first".to_owned());
        seen.failed("second".to_owned());
        assert_eq!((seen.failed, seen.failure.as_deref()), (2, Some("first")));
    }
}

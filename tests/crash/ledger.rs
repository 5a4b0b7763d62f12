//! What was sent and what was acknowledged, by writer and partition.
//!
//! A writer numbers its records in each partition from 0 and sends them in that order. So what is
//! stored of a writer must be `0, 1, 2, ...` without a gap or a repetition, at least up to what was
//! acknowledged, and never beyond what was sent.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use plimsoll_tests::PATIENCE;
use tokio::sync::{Semaphore, SemaphorePermit, watch};

/// A writer's records in one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Stream {
    pub(crate) topic: &'static str,
    pub(crate) partition: u32,
    pub(crate) writer: u32,
}

/// How far a stream is, in records.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) sent: u64,
    pub(crate) acked: u64,
}

#[derive(Debug)]
pub(crate) struct Ledger {
    streams: Mutex<BTreeMap<Stream, Progress>>,
    acked: watch::Sender<u64>,
    writers: Mutex<u32>,
    /// Records that all writers together may still send.
    allowed: Semaphore,
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            streams: Mutex::default(),
            acked: watch::channel(0).0,
            writers: Mutex::new(0),
            allowed: Semaphore::new(0),
        }
    }
}

impl Ledger {
    /// A number that no other writer has.
    pub(crate) fn new_writer(&self) -> u32 {
        let mut writers = self.writers.lock().unwrap_or_else(PoisonError::into_inner);
        *writers += 1;
        *writers
    }

    /// Lets the writers send so many more records, and none of those that were left from before.
    pub(crate) fn allow(&self, records: usize) {
        self.allowed.forget_permits(Semaphore::MAX_PERMITS);
        self.allowed.add_permits(records);
    }

    /// Lets no writer send any more.
    pub(crate) fn stop(&self) {
        self.allowed.close();
    }

    /// Waits until one more record may be sent; false when none will be.
    pub(crate) async fn may_send(&self) -> bool {
        self.allowed.acquire().await.map(SemaphorePermit::forget).is_ok()
    }

    /// Notes that record `sequence` is about to be sent.
    pub(crate) fn sending(&self, stream: Stream, sequence: u64) {
        self.change(stream, |progress| {
            assert_eq!(progress.sent, sequence, "a writer counts its records");
            progress.sent += 1;
        });
    }

    /// Notes that record `sequence` was acknowledged.
    pub(crate) fn acked(&self, stream: Stream, sequence: u64) {
        self.change(stream, |progress| {
            assert_eq!(progress.acked, sequence, "{stream:?}: acknowledged out of order");
            progress.acked += 1;
        });
        self.acked.send_modify(|acked| *acked += 1);
    }

    /// Acknowledged records of all streams.
    pub(crate) fn acked_in_all(&self) -> u64 {
        *self.acked.borrow()
    }

    /// Waits until `more` records are acknowledged than now.
    pub(crate) async fn wait_for_acks(&self, more: u64) {
        let target = self.acked_in_all() + more;
        let mut acked = self.acked.subscribe();
        let reached = acked.wait_for(|acked| *acked >= target);
        let reached = tokio::time::timeout(PATIENCE, reached).await;
        reached.expect("records are acknowledged").expect("the ledger lives");
    }

    /// The streams of one topic, as they are now.
    pub(crate) fn snapshot(&self, topic: &str) -> BTreeMap<Stream, Progress> {
        let streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let of_topic = streams.iter().filter(|(stream, _)| stream.topic == topic);
        of_topic.map(|(stream, progress)| (*stream, *progress)).collect()
    }

    fn change(&self, stream: Stream, change: impl FnOnce(&mut Progress)) {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        change(streams.entry(stream).or_default());
    }
}

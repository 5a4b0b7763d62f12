//! Records on their way to the node, and what became of each.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};

use plimsoll_client::{Ack, AckFuture, AckLevel, Durability, Producer, Record, SendError};

use crate::failure::note;

/// Records whose outcome is awaited. The producer bounds their bytes; this bounds what is kept
/// about them when one partition stands still and others go on.
const WAITING_MAX: usize = 200_000;
/// Problems that are told one by one; later ones are only counted.
const PROBLEMS_TOLD: u64 = 5;

/// Sends records and collects their acknowledgements.
#[derive(Debug)]
pub(super) struct Delivery {
    producer: Producer,
    partition: Option<u32>,
    /// What the inputs are called.
    names: Vec<String>,
    keep_going: bool,
    /// With the bytes of key and value.
    waiting: VecDeque<(Place, u64, AckFuture)>,
    tally: Tally,
}

/// Where in the input a record comes from.
#[derive(Debug, Clone, Copy)]
struct Place {
    source: usize,
    line: u64,
}

/// What became of the records.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Acknowledged.
    pub(super) acknowledged: u64,
    /// Bytes of the keys and values of those that were acknowledged.
    pub(super) bytes: u64,
    /// Lines that are no records.
    pub(super) unreadable: u64,
    /// Certainly not stored.
    pub(super) not_stored: u64,
    /// Perhaps stored.
    pub(super) unknown: u64,
    /// Recognised by the node as sent again.
    pub(super) duplicates: u64,
    /// The weakest level that an acknowledgement named.
    pub(super) reached: Option<AckLevel>,
    /// What the topic promises.
    pub(super) durability: Option<Durability>,
    /// By partition: how many, and the first and last offset where the node named them.
    pub(super) partitions: Vec<PartitionTally>,
    /// The first problem: where, what, and the error where there was one.
    pub(super) first_problem: Option<Problem>,
}

/// What was stored in one partition.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct PartitionTally {
    /// Acknowledged records.
    pub(super) records: u64,
    /// Offsets of the first and the last.
    pub(super) offsets: Option<(u64, u64)>,
}

/// Why a record was not stored.
#[derive(Debug)]
pub(super) struct Problem {
    /// Where and why, in words.
    pub(super) text: String,
    /// What the client said; `None` for a line that is no record.
    pub(super) error: Option<SendError>,
}

impl Tally {
    /// Records that were not acknowledged, for whatever reason.
    pub(super) fn missed(&self) -> u64 {
        self.unreadable + self.not_stored + self.unknown
    }

    fn count(&mut self, ack: &Ack, bytes: u64) {
        self.acknowledged += 1;
        self.bytes += bytes;
        self.duplicates += u64::from(ack.duplicate);
        self.reached = Some(self.reached.map_or(ack.reached, |reached| reached.min(ack.reached)));
        self.durability = Some(ack.durability);
        let at = ack.partition as usize;
        if self.partitions.len() <= at {
            self.partitions.resize(at + 1, PartitionTally::default());
        }
        let partition = &mut self.partitions[at];
        partition.records += 1;
        if let Some(offset) = ack.offset {
            let (first, last) = partition.offsets.unwrap_or((offset.0, offset.0));
            partition.offsets = Some((first.min(offset.0), last.max(offset.0)));
        }
    }
}

impl Delivery {
    pub(super) fn new(
        producer: Producer,
        partition: Option<u32>,
        names: Vec<String>,
        keep_going: bool,
    ) -> Self {
        let (waiting, tally) = (VecDeque::new(), Tally::default());
        Self { producer, partition, names, keep_going, waiting, tally }
    }

    /// Hands over one line's record, waiting for room. What goes wrong is counted.
    pub(super) async fn send(&mut self, source: usize, line: u64, record: Result<Record, String>) {
        let place = Place { source, line };
        let record = match record {
            Ok(record) => record,
            Err(problem) => {
                self.tally.unreadable += 1;
                let text = format!("{}: {problem}", self.place_text(place));
                return self.problem(Problem { text, error: None });
            }
        };
        let len =
            |bytes: &Option<bytes::Bytes>| bytes.as_ref().map_or(0, |bytes| bytes.len() as u64);
        let bytes = len(&record.key) + len(&record.value);
        let queued = match self.partition {
            Some(partition) => self.producer.enqueue_to(partition, &record).await,
            None => self.producer.enqueue(record).await,
        };
        match queued {
            Ok(ack) => self.waiting.push_back((place, bytes, ack)),
            Err(error) => self.failed(place, error),
        }
    }

    /// Waits until at least the oldest record has its outcome, and takes all that have theirs.
    pub(super) async fn some_settled(&mut self) {
        poll_fn(|context| self.poll_settled(context)).await;
    }

    /// Takes the outcomes that are there, without waiting.
    pub(super) async fn take_settled(&mut self) {
        poll_fn(|context| {
            let _ = self.poll_settled(context);
            Poll::Ready(())
        })
        .await;
    }

    fn poll_settled(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let mut any = Poll::Pending;
        while let Some((place, bytes, ack)) = self.waiting.front_mut() {
            let (place, bytes) = (*place, *bytes);
            let Poll::Ready(outcome) = Pin::new(ack).poll(context) else { return any };
            self.waiting.pop_front();
            any = Poll::Ready(());
            match outcome {
                Ok(ack) => self.tally.count(&ack, bytes),
                Err(error) => self.failed(place, error),
            }
        }
        Poll::Ready(())
    }

    /// Waits until every record has its outcome.
    pub(super) async fn finish(&mut self) {
        while self.is_waiting() {
            self.some_settled().await;
        }
    }

    /// Whether more records may be handed over.
    pub(super) fn has_room(&self) -> bool {
        self.waiting.len() < WAITING_MAX
    }

    /// Whether outcomes are awaited.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether something went wrong that ends it all.
    pub(super) fn should_stop(&self) -> bool {
        self.tally.first_problem.is_some() && !self.keep_going
    }

    /// Records acknowledged so far.
    pub(super) fn acknowledged(&self) -> u64 {
        self.tally.acknowledged
    }

    /// Bytes acknowledged so far.
    pub(super) fn bytes(&self) -> u64 {
        self.tally.bytes
    }

    /// What became of the records.
    pub(super) fn into_tally(self) -> Tally {
        self.tally
    }

    fn failed(&mut self, place: Place, error: SendError) {
        if error.is_definite() {
            self.tally.not_stored += 1;
        } else {
            self.tally.unknown += 1;
        }
        let text = format!("{}: {error}", self.place_text(place));
        self.problem(Problem { text, error: Some(error) });
    }

    fn problem(&mut self, problem: Problem) {
        let told = self.tally.missed();
        if self.keep_going && told <= PROBLEMS_TOLD {
            note(&problem.text);
            if told == PROBLEMS_TOLD {
                note("later ones are only counted");
            }
        }
        self.tally.first_problem.get_or_insert(problem);
    }

    fn place_text(&self, place: Place) -> String {
        format!("{}, line {}", self.names[place.source], place.line)
    }
}

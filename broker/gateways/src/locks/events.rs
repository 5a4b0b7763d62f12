//! What happened to locks, as records of their namespace's topic: a watcher is a subscription to it, and
//! the history is what the topic keeps.

use bytes::Bytes;
use plimsoll_locks::state::{EVENTS_PRODUCER, Event};
use plimsoll_protocol::batch::{
    BatchBuilder, BatchHeader, BatchLimits, Compression, PushOutcome, Record,
};

/// Every life of every leader is the same producer: what one published the next does not publish again.
const EPOCH: u32 = 0;

/// Events as one batch of records, whose sequences are the numbers of the events.
///
/// # Panics
/// When there are no events, or more than a batch takes: the keeper gives neither.
pub(super) fn batch(events: &[&Event]) -> (Bytes, BatchHeader) {
    let first = events.first().expect("there is something to publish").number;
    let mut builder = BatchBuilder::new(BatchLimits::default());
    for event in events {
        let record = Record {
            key: Some(Bytes::copy_from_slice(event.key().as_bytes())),
            value: event.value().map(Bytes::from),
            timestamp_ms: event.at.0,
            ..Record::default()
        };
        assert_eq!(builder.push(&record), Ok(PushOutcome::Added), "events are small and few");
    }
    let batch = builder.finish(EVENTS_PRODUCER, EPOCH, first, Compression::None);
    let header = BatchHeader::parse(&batch).expect("it was just built");
    (batch, header)
}

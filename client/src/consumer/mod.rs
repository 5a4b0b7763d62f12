//! The consumer: records of some or all partitions of a topic, pushed by the node.

pub(crate) mod batches;
mod nearest;
pub(crate) mod reading;
pub(crate) mod standing;
pub(crate) mod subscription;

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::Stream;
use plimsoll_protocol::api::{Isolation, StartPosition};
use plimsoll_protocol::batch::{BatchError, BatchLimits, Record, RecordBatch};
use plimsoll_protocol::ids::{Offset, PartitionIndex, TopicName};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::client::Shared;
use crate::error::{BuildError, ConsumeError};
use crate::trouble::Told;
use batches::{Batches, TakenRecord};
use reading::Reading;
use standing::Standing;
use subscription::{Event, Outlet, Subscription};

/// Frames that wait between the partitions' tasks and the consumer's caller.
pub(crate) const FRAMES_WAITING_MAX: usize = 8;
const FRAME_BYTES_MAX: usize = 1 << 20;
/// The least that a partition may have waiting, however many there are: two frames that are still
/// worth their headers.
const SHARE_BYTES_MIN: usize = 16 << 10;

/// Configures a [`Consumer`].
#[derive(Clone)]
pub struct ConsumerBuilder {
    shared: Arc<Shared>,
    topic: String,
    start: StartPosition,
    /// Partitions that begin elsewhere.
    starts: BTreeMap<u32, StartPosition>,
    partitions: Option<Vec<u32>>,
    buffer_bytes: usize,
    bounded: bool,
    reading: Reading,
}

impl ConsumerBuilder {
    pub(crate) fn new(shared: Arc<Shared>, topic: String) -> Self {
        let (start, buffer_bytes) = (StartPosition::Earliest, 64 << 20);
        let reading = Reading::default();
        Self {
            shared,
            topic,
            start,
            starts: BTreeMap::new(),
            partitions: None,
            buffer_bytes,
            bounded: false,
            reading,
        }
    }

    /// Where each partition begins. Default: earliest.
    #[must_use]
    pub fn from(mut self, start: StartPosition) -> Self {
        self.start = start;
        self
    }

    /// Which partitions. Default: all that the topic has when the consumer is built.
    #[must_use]
    pub fn partitions(mut self, partitions: impl IntoIterator<Item = u32>) -> Self {
        self.partitions = Some(partitions.into_iter().collect());
        self
    }

    /// Where some partitions begin, whatever [`ConsumerBuilder::from`] says of the others.
    #[must_use]
    pub fn starts(mut self, starts: impl IntoIterator<Item = (u32, Offset)>) -> Self {
        let at = |(partition, offset)| (partition, StartPosition::Offset(offset));
        self.starts = starts.into_iter().map(at).collect();
        self
    }

    /// Ends a partition with [`ErrorCode::OffsetCompacted`](crate::ErrorCode::OffsetCompacted) where a record
    /// from its begin on may be gone by compaction: for who must see each change and not only what is left.
    #[must_use]
    pub fn every_change(mut self) -> Self {
        self.reading.whole = true;
        self
    }

    /// Bytes of records that may wait to be taken, in all partitions, 1 MiB..=4 GiB. Default
    /// 64 MiB. Each partition has an equal share, at least 16 KiB, and the node stops pushing when
    /// it is used up; a single batch that is larger than what is left comes all the same.
    #[must_use]
    pub fn buffer_bytes(mut self, buffer_bytes: usize) -> Self {
        self.buffer_bytes = buffer_bytes;
        self
    }

    /// Ends each partition at the high watermark that it has now, instead of waiting for more.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        self.bounded = true;
        self
    }

    /// What the records that are there when a partition is subscribed to may have missed. Default
    /// [`Isolation::Committed`]: nothing that the asked node knows to be committed.
    /// [`Isolation::Linearizable`] waits until the leader has asked a majority, so that everything
    /// acknowledged before is among them.
    #[must_use]
    pub fn isolation(mut self, isolation: Isolation) -> Self {
        self.reading.isolation = isolation;
        self
    }

    /// Reads from the nearest replica in place of the leader: one of `rack` if it is given, else the
    /// one with the shortest round trip, another one when it fails. Order and completeness are the
    /// same; records come when that replica knows them to be committed. Default: from the leader.
    #[must_use]
    pub fn prefer_nearest(mut self, rack: Option<String>) -> Self {
        self.reading.nearest = Some(rack);
        self
    }

    /// How old what a replica shows may be at most, with [`ConsumerBuilder::prefer_nearest`], in whole
    /// milliseconds. A replica that cannot show to be so fresh is left for another one. Default: no
    /// bound.
    #[must_use]
    pub fn max_staleness(mut self, bound: Duration) -> Self {
        let ms = u32::try_from(bound.as_millis()).unwrap_or(u32::MAX);
        self.reading.max_staleness_ms = Some(ms);
        self
    }

    /// Looks the topic up and subscribes to its partitions.
    ///
    /// # Errors
    /// An unknown topic or partition, an option out of bounds, no connection. What goes wrong in a
    /// single partition later comes through [`Consumer::next`].
    pub async fn build(self) -> Result<Consumer, BuildError> {
        let option = |option, reason: String| Err(BuildError::Option { option, reason });
        if !((1 << 20)..=(4 << 30)).contains(&self.buffer_bytes) {
            return option("buffer_bytes", "allowed are 1 MiB to 4 GiB".to_owned());
        }
        let topic = match TopicName::internal(&self.topic) {
            Ok(topic) => topic,
            Err(error) => return option("topic", format!("{error}")),
        };
        let described = self.shared.topic(&topic).await?;
        let mut partitions = self.partitions.unwrap_or_else(|| (0..described.partitions).collect());
        partitions.sort_unstable();
        partitions.dedup();
        if let Some(unknown) = partitions.iter().find(|at| **at >= described.partitions) {
            let reason = format!("partition {unknown} of a topic with {}", described.partitions);
            return option("partitions", reason);
        }
        let (frame_bytes, credit_bytes) = shares(self.buffer_bytes, partitions.len());
        let interest = self.shared.take_interest(&topic).await;
        let (events, receiver) = mpsc::channel(FRAMES_WAITING_MAX);
        let (mut tasks, told, mut standings) = (JoinSet::new(), Told::default(), Vec::new());
        for partition in &partitions {
            let standing = Standing::new();
            standings.push(Arc::clone(&standing));
            let start = self.starts.get(partition).copied().unwrap_or(self.start);
            let subscription = Subscription {
                shared: Arc::clone(&self.shared),
                topic: topic.clone(),
                partition: PartitionIndex(*partition),
                start,
                frame_bytes: u32::try_from(frame_bytes).expect("at most 1 MiB"),
                credit_bytes: credit_bytes as u64,
                bounded: self.bounded,
                reading: self.reading.clone(),
                _interest: Arc::clone(&interest),
                events: Outlet { sender: events.clone(), mark: 0 },
                fallback: None,
                told: Arc::clone(&told),
                standing,
            };
            tasks.spawn(subscription.run());
        }
        let decompressed_max = BatchLimits::default().records_bytes_max as usize;
        Ok(Consumer {
            topic,
            receiver,
            current: None,
            progress: partitions.into_iter().map(Progress::new).collect(),
            decompressed_max,
            ended: Vec::new(),
            standings,
            _tasks: tasks,
        })
    }
}

/// Of each of so many partitions: the largest frame, and the bytes that may wait.
pub(crate) fn shares(buffer_bytes: usize, partitions: usize) -> (usize, usize) {
    let share = (buffer_bytes / partitions.max(1)).max(SHARE_BYTES_MIN);
    ((share / 2).min(FRAME_BYTES_MAX), share)
}

/// A record with its place.
#[derive(Debug, Clone, PartialEq)]
pub struct ConsumedRecord {
    /// Its partition.
    pub partition: u32,
    /// Its offset.
    pub offset: Offset,
    /// When the node took it, in milliseconds since 1970 (UTC).
    pub append_time_ms: i64,
    /// Key, value, headers, timestamp. They share the memory of the frame that they came in.
    pub record: Record,
}

/// A whole batch with its place: cheaper than single records.
#[derive(Debug, Clone)]
pub struct ConsumedBatch {
    /// Its partition.
    pub partition: u32,
    /// The batch, its checksum checked. It may begin below the offset that was asked for.
    pub batch: RecordBatch,
    /// The first offset of the batch that belongs to what was asked for.
    pub from: Offset,
    /// The offset after the last one that does.
    pub until: Offset,
}

/// How far a consumer is in one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The partition.
    pub partition: u32,
    /// The offset after the last record that was handed out; `None` before the first news.
    pub position: Option<Offset>,
    /// The high watermark when the node last said it.
    pub high_watermark: Option<Offset>,
}

impl Progress {
    fn new(partition: u32) -> Self {
        Self { partition, position: None, high_watermark: None }
    }

    /// Records that are stored and not yet handed out, as far as is known.
    pub fn lag(&self) -> Option<u64> {
        Some(self.high_watermark?.0.saturating_sub(self.position?.0))
    }
}

/// Records of a topic's partitions, each partition in order, as a [`Stream`].
///
/// It reconnects by itself and goes on at the next offset. An error of a partition ends only that
/// partition; the stream ends when all partitions have ended.
pub struct Consumer {
    topic: TopicName,
    receiver: mpsc::Receiver<(u64, Event)>,
    current: Option<Current>,
    progress: Vec<Progress>,
    decompressed_max: usize,
    /// Partitions that ended with an error found here; what still comes of them is dropped.
    ended: Vec<u32>,
    standings: Vec<Arc<Standing>>,
    /// Aborted when the consumer is dropped.
    _tasks: JoinSet<()>,
}

/// The frame that is being handed out.
struct Current {
    partition: u32,
    batches: Batches,
}

impl Consumer {
    /// The next record. `None` when all partitions have ended.
    ///
    /// # Errors
    /// What ended a partition; the others go on with the next call.
    pub async fn next(&mut self) -> Option<Result<ConsumedRecord, ConsumeError>> {
        poll_fn(|context| self.poll_record(context)).await
    }

    /// The next whole batch. `None` when all partitions have ended.
    ///
    /// # Errors
    /// As [`Consumer::next`].
    pub async fn next_batch(&mut self) -> Option<Result<ConsumedBatch, ConsumeError>> {
        poll_fn(|context| self.poll_batch(context)).await
    }

    /// The topic.
    pub fn topic(&self) -> &str {
        self.topic.as_str()
    }

    /// How far each partition is.
    pub fn progress(&self) -> &[Progress] {
        &self.progress
    }

    /// Whether each partition's subscription stands.
    pub(crate) fn standings(&self) -> &[Arc<Standing>] {
        &self.standings
    }

    /// Whether everything that is known to be stored was handed out.
    pub fn is_caught_up(&self) -> bool {
        self.progress.iter().all(|progress| progress.lag() == Some(0))
    }

    fn poll_record(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<ConsumedRecord, ConsumeError>>> {
        loop {
            if let Some(Current { partition, batches }) = &mut self.current {
                let partition = *partition;
                match batches.next_record(self.decompressed_max) {
                    Some(Ok(TakenRecord { offset, append_time_ms, record })) => {
                        self.moved(partition, Offset(offset.0 + 1));
                        let record = ConsumedRecord { partition, offset, append_time_ms, record };
                        return Poll::Ready(Some(Ok(record)));
                    }
                    Some(Err(error)) => {
                        let from = batches.from;
                        let ended = self.end_damaged(partition, from, &error);
                        return Poll::Ready(Some(Err(ended)));
                    }
                    None => {
                        let next = batches.next;
                        self.left(partition, next);
                    }
                }
            }
            match ready!(self.poll_frame(context)) {
                Some(Ok(())) => {}
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
    }

    /// Nothing more is handed out of a partition with a batch that cannot be read: a gap would go
    /// unnoticed.
    fn end_damaged(&mut self, partition: u32, offset: Offset, error: &BatchError) -> ConsumeError {
        self.current = None;
        self.ended.push(partition);
        ConsumeError::Damaged { partition, offset, reason: error.to_string().into() }
    }

    fn poll_batch(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<ConsumedBatch, ConsumeError>>> {
        loop {
            if let Some(Current { partition, batches }) = &mut self.current {
                let (partition, from, until) = (*partition, batches.from, batches.until);
                let Some(parsed) = batches.next_batch() else {
                    let next = batches.next;
                    self.left(partition, next);
                    continue;
                };
                return Poll::Ready(Some(match parsed {
                    Ok(batch) => {
                        self.moved(partition, batch.header.end_offset().min(until));
                        Ok(ConsumedBatch { partition, batch, from, until })
                    }
                    Err(error) => Err(self.end_damaged(partition, from, &error)),
                }));
            }
            match ready!(self.poll_frame(context)) {
                Some(Ok(())) => {}
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
    }

    /// Takes the next news from the partitions' tasks.
    fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<(), ConsumeError>>> {
        let event = loop {
            match ready!(self.receiver.poll_recv(context)) {
                Some((_, Event::Began { partition, .. } | Event::Batches { partition, .. }))
                    if self.ended.contains(&partition) => {}
                Some((_, event)) => break event,
                None => return Poll::Ready(None),
            }
        };
        Poll::Ready(Some(match event {
            Event::Began { partition, start, high_watermark } => {
                self.moved(partition, start);
                self.saw_high_watermark(partition, high_watermark);
                Ok(())
            }
            Event::Batches { partition, payload, from, until, next, high_watermark } => {
                self.saw_high_watermark(partition, high_watermark);
                let batches = Batches::new(payload, from, until, next);
                self.current = Some(Current { partition, batches });
                Ok(())
            }
            Event::Failed(error) => Err(error),
        }))
    }

    fn place(&mut self, partition: u32) -> &mut Progress {
        let place = self.progress.binary_search_by_key(&partition, |progress| progress.partition);
        &mut self.progress[place.expect("news come only of this consumer's partitions")]
    }

    fn moved(&mut self, partition: u32, position: Offset) {
        self.place(partition).position = Some(position);
    }

    /// A frame was handed out whole.
    fn left(&mut self, partition: u32, next: Offset) {
        self.current = None;
        self.moved(partition, next);
    }

    fn saw_high_watermark(&mut self, partition: u32, high_watermark: Offset) {
        self.place(partition).high_watermark = Some(high_watermark);
    }
}

impl Stream for Consumer {
    type Item = Result<ConsumedRecord, ConsumeError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll_record(context)
    }
}

impl std::fmt::Debug for Consumer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Consumer").field("topic", &self.topic).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_of_all_partitions_fit_into_the_buffer() {
        for buffer_bytes in [1 << 20, 64 << 20, 4 << 30] {
            for partitions in [0, 1, 12, 64, 1_000, 3_000, 100_000] {
                let (frame_bytes, share) = shares(buffer_bytes, partitions);
                assert!(2 * frame_bytes <= share && frame_bytes >= 8 << 10);
                let fits = share * partitions <= buffer_bytes;
                assert!(fits || share == SHARE_BYTES_MIN, "{partitions} of {buffer_bytes}");
            }
        }
        assert!(shares(64 << 20, 3_000).1 * 3_000 <= 64 << 20);
    }
}

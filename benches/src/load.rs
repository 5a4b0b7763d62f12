//! Producers that send whole batches as fast as they are acknowledged, or on a schedule.

use std::time::{Duration, Instant};

use anyhow::ensure;
use bytes::BufMut as _;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use plimsoll_client::{AckFuture, Producer, ProducerOptions};
use plimsoll_protocol::batch::{BatchBuilder, RecordView};
use tokio::task::JoinSet;

use crate::bed::Bed;
use crate::keys::Keys;
use crate::options::Plan;
use crate::percentiles::Latencies;
use crate::report::Throughput;
use crate::values::{self, Values};

/// Batches of one partition that are on their way at once. With as many as the client allows, 8, they
/// leave the caches of the processor between the steps of their way, and a third of the rate is lost.
const IN_FLIGHT_PER_PARTITION: usize = 4;
/// Batches of one producer on their way at once, however many partitions it has.
const IN_FLIGHT_MAX: usize = 256;

/// The producers of a plan, connected and with their ids, so that a load begins with its first
/// batch.
pub(crate) struct Load<'a> {
    bed: &'a Bed<'a>,
    producers: Vec<LoadProducer>,
}

struct LoadProducer {
    producer: Producer,
    /// The partitions it sends to, in turn.
    partitions: Vec<u32>,
    values: Values,
    /// Of a load whose records have keys.
    keys: Option<Keys>,
    batch_records: u32,
}

/// What values begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stamp {
    /// Nothing special.
    None,
    /// Nanoseconds from the given moment to the record's send, 8 bytes, so that a consumer in this
    /// process can tell its age.
    SentAfter(Instant),
}

/// Bytes of a stamp.
pub(crate) const STAMP_BYTES: usize = 8;

impl<'a> Load<'a> {
    /// Connects the producers and wakes every partition with one small batch: what a partition
    /// costs once is not part of a rate. Returns with the number of records that are stored now.
    pub(crate) async fn prepare(bed: &'a Bed<'a>, topic: &str) -> anyhow::Result<(Self, u64)> {
        Self::prepare_with(bed, topic, false).await
    }

    /// As [`Load::prepare`]; each record has one of the plan's keys.
    pub(crate) async fn prepare_keyed(
        bed: &'a Bed<'a>,
        topic: &str,
    ) -> anyhow::Result<(Self, u64)> {
        Self::prepare_with(bed, topic, true).await
    }

    async fn prepare_with(
        bed: &'a Bed<'a>,
        topic: &str,
        has_keys: bool,
    ) -> anyhow::Result<(Self, u64)> {
        let plan = bed.plan;
        let mut producers = Vec::new();
        for index in 0..plan.producers {
            let client = bed.client().await?;
            let options = ProducerOptions {
                in_flight_max: IN_FLIGHT_PER_PARTITION,
                ..ProducerOptions::default()
            };
            let producer = client.producer(topic).options(options).build().await?;
            producers.push(LoadProducer {
                producer,
                partitions: partitions_of(index, plan.producers, plan.partitions),
                values: Values::new(plan.record_bytes, u64::from(index) + 1),
                keys: has_keys.then(|| Keys::new(plan.keys, plan.partitions, u64::from(index) + 1)),
                batch_records: plan.batch_records,
            });
        }
        let mut load = Self { bed, producers };
        let touched = load.touch().await?;
        Ok((load, touched))
    }

    async fn touch(&mut self) -> anyhow::Result<u64> {
        let shares: Vec<_> =
            self.producers.iter().map(|producer| producer.partitions.len() as u64).collect();
        let touched = shares.iter().sum();
        self.run(&shares, |mut producer, records| {
            let batch_records = std::mem::replace(&mut producer.batch_records, 1);
            async move {
                let latencies = producer.send(records, Stamp::None, None).await?;
                producer.batch_records = batch_records;
                Ok((producer, latencies))
            }
        })
        .await?;
        Ok(touched)
    }

    /// Sends `records` and waits until all are acknowledged. Latency is that of a batch, from
    /// handing it to the client to its acknowledgement; on a schedule from when it was due.
    pub(crate) async fn send(
        &mut self,
        records: u64,
        stamp: Stamp,
    ) -> anyhow::Result<(Throughput, Latencies)> {
        let producers = self.producers.len() as u64;
        let shares: Vec<_> = (0..producers).map(|index| share(records, index, producers)).collect();
        let interval = self.bed.plan.rate.map(|rate| {
            // Each producer carries its part of the rate.
            let batch = f64::from(self.bed.plan.batch_records) * producers as f64;
            Duration::from_secs_f64(batch / f64::from(rate.get()))
        });
        let began = Instant::now();
        let latencies = self
            .run(&shares, move |mut producer, records| async move {
                let latencies = producer.send(records, stamp, interval).await?;
                Ok((producer, latencies))
            })
            .await?;
        let seconds = began.elapsed().as_secs_f64();
        let bytes = records.saturating_mul(u64::from(self.bed.plan.record_bytes));
        Ok((Throughput { records, bytes, seconds }, latencies))
    }

    /// Runs all producers at once, each with its share.
    async fn run<S, F>(&mut self, shares: &[u64], send: S) -> anyhow::Result<Latencies>
    where
        S: Fn(LoadProducer, u64) -> F,
        F: Future<Output = anyhow::Result<(LoadProducer, Latencies)>> + Send + 'static,
    {
        let mut sending = JoinSet::new();
        for (producer, records) in self.producers.drain(..).zip(shares) {
            sending.spawn(send(producer, *records));
        }
        let mut all = Latencies::new();
        while let Some(done) = sending.join_next().await {
            let (producer, latencies) = done??;
            all.merge(&latencies);
            self.producers.push(producer);
        }
        // In their order, so that each keeps its share.
        self.producers.sort_by_key(|producer| producer.partitions[0]);
        Ok(all)
    }

    /// Size of the last record of each key, as encoded in its batch, over all keys. Of a load whose keys have
    /// one producer each.
    pub(crate) fn live_bytes(&self) -> u64 {
        self.producers
            .iter()
            .filter_map(|producer| producer.keys.as_ref())
            .map(Keys::live_bytes)
            .sum()
    }

    /// Flushes and ends the producers.
    pub(crate) async fn close(self) -> anyhow::Result<()> {
        for producer in self.producers {
            producer.producer.close().await?;
        }
        Ok(())
    }
}

impl LoadProducer {
    async fn send(
        &mut self,
        records: u64,
        stamp: Stamp,
        interval: Option<Duration>,
    ) -> anyhow::Result<Latencies> {
        let window = (self.partitions.len() * IN_FLIGHT_PER_PARTITION).min(IN_FLIGHT_MAX);
        let mut latencies = Latencies::new();
        let mut in_flight = FuturesUnordered::new();
        let (mut left, mut turn) = (records, 0);
        let mut due = Instant::now();
        while left > 0 {
            let count = u32::try_from(left).unwrap_or(u32::MAX).min(self.batch_records);
            if let Some(interval) = interval {
                tokio::time::sleep_until(due.into()).await;
                due += interval;
            }
            let since = interval.map_or_else(Instant::now, |interval| due - interval);
            let partition = self.partitions[turn % self.partitions.len()];
            let batch = self.batch(partition, count, stamp)?;
            let ack = self.producer.enqueue_batch(partition, batch).await?;
            in_flight.push(timed(ack, since));
            (left, turn) = (left - u64::from(count), turn + 1);
            while in_flight.len() >= window {
                count_ack(in_flight.next().await, &mut latencies)?;
            }
            while let Some(done) = in_flight.next().now_or_never().flatten() {
                count_ack(Some(done), &mut latencies)?;
            }
        }
        while let Some(done) = in_flight.next().await {
            count_ack(Some(done), &mut latencies)?;
        }
        Ok(latencies)
    }

    fn batch(&mut self, partition: u32, count: u32, stamp: Stamp) -> anyhow::Result<BatchBuilder> {
        let mut batch = self.producer.batch_builder(self.values.batch_bytes(count));
        if let Some(keys) = &mut self.keys {
            let timestamp_ms = values::unix_ms();
            for _ in 0..count {
                let key = keys.next_key(partition);
                let bytes = key.bytes();
                let value = RecordView::new(self.values.next_value());
                let before = batch.bytes();
                let record = RecordView { key: Some(&bytes), timestamp_ms, ..value };
                values::push_record(&mut batch, record)?;
                keys.sent(key, batch.bytes() - before);
            }
            return Ok(batch);
        }
        match stamp {
            Stamp::None => self.values.fill(&mut batch, count)?,
            Stamp::SentAfter(epoch) => {
                let now = u64::try_from(epoch.elapsed().as_nanos()).unwrap_or(u64::MAX);
                let timestamp_ms = values::unix_ms();
                let mut stamped = Vec::new();
                for _ in 0..count {
                    stamped.clear();
                    stamped.put_u64_le(now);
                    stamped.put_slice(&self.values.next_value()[STAMP_BYTES..]);
                    values::push(&mut batch, &stamped, timestamp_ms)?;
                }
            }
        }
        Ok(batch)
    }
}

type Timed = (Instant, Result<plimsoll_client::Ack, plimsoll_client::SendError>);

async fn timed(ack: AckFuture, since: Instant) -> Timed {
    let ack = ack.await;
    (since, ack)
}

fn count_ack(done: Option<Timed>, latencies: &mut Latencies) -> anyhow::Result<()> {
    if let Some((since, ack)) = done {
        latencies.record(since.elapsed());
        ensure!(!ack?.duplicate, "a batch that was sent once was stored before");
    }
    Ok(())
}

/// The partitions of producer (or consumer) `index`: every partition has one, and where there are
/// fewer partitions than producers they share.
pub(crate) fn partitions_of(index: u32, producers: u32, partitions: u32) -> Vec<u32> {
    if producers > partitions {
        return vec![index % partitions];
    }
    (index..partitions).step_by(producers as usize).collect()
}

/// What of a load is that of producer `index`.
pub(crate) fn share(records: u64, index: u64, producers: u64) -> u64 {
    records / producers + u64::from(index < records % producers)
}

/// The settings of a plan that a load cannot do without.
pub(crate) fn check(plan: &Plan) -> anyhow::Result<()> {
    ensure!(plan.partitions > 0, "{} needs at least one partition", plan.workload);
    ensure!(plan.records > 0, "{} needs at least one record", plan.workload);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_partition_has_a_producer() {
        assert_eq!(partitions_of(1, 2, 5), [1, 3]);
        assert_eq!(partitions_of(0, 2, 5), [0, 2, 4]);
        assert_eq!(partitions_of(5, 8, 3), [2]);
    }

    #[test]
    fn shares_add_up() {
        let shares: Vec<_> = (0..3).map(|index| share(11, index, 3)).collect();
        assert_eq!(shares, [4, 4, 3]);
    }
}

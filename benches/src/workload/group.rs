//! `group`: a member joins a consumer group under a steady load, and leaves again: how long the partitions
//! that stay where they are have no record meanwhile, beside the same without a change.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use plimsoll_client::{AckFuture, Admin, Client, GroupConsumer, GroupPhase, Producer, Record};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::TOPIC;
use crate::bed::Bed;
use crate::pacer::Pacer;
use crate::report::{Gaps, GroupFigures, Report, Throughput, rounded};
use crate::values::Values;
use crate::{Event, Screen};

const GROUP: &str = "plimsoll-bench";
/// How often the member joins and leaves; gaps are those of all rounds.
const ROUNDS: u32 = 5;
/// This long before the first change, uncounted.
const WARM_UP: Duration = Duration::from_secs(2);
/// For so long a group that nobody joins is watched, in each round.
const BEFORE: Duration = Duration::from_secs(1);
/// What belongs to a change beside the time until the group is settled.
const AFTER: Duration = Duration::from_millis(500);
const SETTLED_WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Records whose acknowledgements are not yet awaited: about a second of them.
const WINDOW: usize = 20_000;

/// One partition as its records arrive.
#[derive(Debug, Clone, Default)]
struct Arrivals {
    last: Option<Instant>,
    longest: Duration,
    by: Option<u32>,
    /// Another member reads it than when the watch began.
    has_moved: bool,
}

/// All partitions as their records arrive.
struct Watch(Vec<Mutex<Arrivals>>);

impl Watch {
    fn new(partitions: u32) -> Self {
        Self((0..partitions).map(|_| Mutex::default()).collect())
    }

    fn of(&self, partition: u32) -> MutexGuard<'_, Arrivals> {
        self.0[partition as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn arrived(&self, partition: u32, by: u32, now: Instant) {
        let mut arrivals = self.of(partition);
        if let Some(last) = arrivals.last {
            arrivals.longest = arrivals.longest.max(now.saturating_duration_since(last));
        }
        arrivals.has_moved |= arrivals.by.is_some_and(|before| before != by);
        (arrivals.last, arrivals.by) = (Some(now), Some(by));
    }

    /// Begins anew. The gap that this falls into counts in full.
    fn mark(&self) {
        for partition in 0..self.0.len() as u32 {
            let mut arrivals = self.of(partition);
            (arrivals.longest, arrivals.has_moved) = (Duration::ZERO, false);
        }
    }

    /// The longest gap of each partition that is read by whom it was, and how many others there are.
    fn kept(&self, now: Instant) -> (Vec<Duration>, u32) {
        let (mut gaps, mut moved) = (Vec::new(), 0);
        for partition in 0..self.0.len() as u32 {
            let arrivals = self.of(partition);
            if arrivals.has_moved {
                moved += 1;
            } else {
                let open = arrivals.last.map(|last| now.saturating_duration_since(last));
                gaps.push(arrivals.longest.max(open.unwrap_or(Duration::MAX)));
            }
        }
        (gaps, moved)
    }
}

/// A member that takes whatever comes.
struct Member {
    stop: oneshot::Sender<()>,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Member {
    async fn join(bed: &Bed<'_>, number: u32, watch: &Arc<Watch>) -> anyhow::Result<Self> {
        let client = bed.client().await?;
        let name = format!("member-{number}");
        let consumer = client.group_consumer(GROUP).topics([TOPIC]).name(name).build().await?;
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(take(client, consumer, number, Arc::clone(watch), stopped));
        Ok(Self { stop, task })
    }

    async fn leave(self) -> anyhow::Result<()> {
        // One that has failed says why below.
        let _ = self.stop.send(());
        self.task.await?
    }
}

async fn take(
    _client: Client,
    mut consumer: GroupConsumer,
    number: u32,
    watch: Arc<Watch>,
    mut stopped: oneshot::Receiver<()>,
) -> anyhow::Result<()> {
    loop {
        tokio::select! {
            biased;
            _ = &mut stopped => return Ok(consumer.leave().await?),
            record = consumer.next() => {
                let record = record.context("the membership has ended")??;
                watch.arrived(record.partition, number, Instant::now());
            }
        }
    }
}

/// Sends a record to each partition, so many times a second, until it is told to stop; how many.
fn send(
    producer: Producer,
    partitions: u32,
    mut values: Values,
    rate: NonZeroU32,
    stop: &AtomicBool,
    runtime: &Handle,
) -> anyhow::Result<(Producer, u64)> {
    let rounds_per_s =
        NonZeroU32::new(rate.get() / partitions).context("a rate of a record each")?;
    let pacer = Pacer::new(rounds_per_s);
    let mut window: VecDeque<AckFuture> = VecDeque::with_capacity(WINDOW);
    let mut sent = 0;
    for round in 0.. {
        pacer.wait(round);
        if stop.load(Ordering::Relaxed) {
            break;
        }
        for partition in 0..partitions {
            let record = Record::new(Bytes::copy_from_slice(values.next_value()));
            window.push_back(runtime.block_on(producer.enqueue_to(partition, &record))?);
            sent += 1;
        }
        while window.len() > WINDOW {
            let ack = window.pop_front().context("the window is full")?;
            runtime.block_on(ack)?;
        }
    }
    for ack in window {
        runtime.block_on(ack)?;
    }
    Ok((producer, sent))
}

pub(super) async fn measure(bed: &Bed<'_>, screen: Screen<'_>) -> anyhow::Result<Report> {
    let plan = bed.plan;
    let rate = plan.rate.context("a plan of group has a rate")?;
    let (partitions, members) = (plan.partitions, plan.members);
    ensure!(members > 0, "group needs --members of at least 1");
    ensure!(partitions > members, "group needs more --partitions than --members");
    ensure!(rate.get() >= partitions, "group needs a --rate of at least a record per partition");
    bed.create_topic(TOPIC).await?;
    let client = bed.client().await?;
    let admin = client.admin();
    let watch = Arc::new(Watch::new(partitions));
    screen(Event::Step("members join"));
    let mut group = Vec::new();
    for number in 0..members {
        group.push(Member::join(bed, number, &watch).await?);
    }
    settle(&admin, members, partitions).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let began = Instant::now();
    let sending = {
        let producer = client.producer(TOPIC).build().await?;
        let values = Values::new(plan.record_bytes, 1);
        let (stop, runtime) = (Arc::clone(&stop), Handle::current());
        tokio::task::spawn_blocking(move || {
            send(producer, partitions, values, rate, &stop, &runtime)
        })
    };
    tokio::time::sleep(WARM_UP).await;

    let (mut before, mut joining, mut leaving) = (Vec::new(), Vec::new(), Vec::new());
    let (mut moved, mut settled) = (0, Vec::new());
    for round in 0..ROUNDS {
        screen(Event::Step(&format!("a member joins and leaves, {} of {ROUNDS}", round + 1)));
        watch.mark();
        tokio::time::sleep(BEFORE).await;
        let (gaps, strayed) = watch.kept(Instant::now());
        ensure!(strayed == 0, "{strayed} partitions moved although nobody joined");
        before.extend(gaps);

        watch.mark();
        let join = Instant::now();
        let newcomer = Member::join(bed, members, &watch).await?;
        settle(&admin, members + 1, partitions).await?;
        settled.push(join.elapsed());
        tokio::time::sleep(AFTER).await;
        let (gaps, gone) = watch.kept(Instant::now());
        joining.extend(gaps);
        moved = moved.max(gone);

        watch.mark();
        newcomer.leave().await?;
        settle(&admin, members, partitions).await?;
        tokio::time::sleep(AFTER).await;
        leaving.extend(watch.kept(Instant::now()).0);
    }
    stop.store(true, Ordering::Relaxed);
    let (producer, sent) = sending.await??;
    producer.close().await?;
    let seconds = began.elapsed().as_secs_f64();
    for member in group {
        member.leave().await?;
    }
    admin.group(GROUP).delete(false).await?;
    bed.delete_topic(TOPIC).await?;
    settled.sort();
    let bytes = sent * u64::from(plan.record_bytes);
    let throughput = Throughput { records: sent, bytes, seconds };
    let mut report = Report::new(plan).with_throughput(throughput, None);
    report.group = GroupFigures {
        members: Some(members),
        gap_ms: Gaps::of(joining),
        gap_before_ms: Gaps::of(before),
        gap_leave_ms: Gaps::of(leaving),
        moved: Some(moved),
        settled_ms: settled.last().map(|longest| rounded(longest.as_secs_f64() * 1e3, 1)),
    };
    Ok(report)
}

/// Waits until so many members own all partitions.
async fn settle(admin: &Admin, members: u32, partitions: u32) -> anyhow::Result<()> {
    let began = Instant::now();
    let group = admin.group(GROUP);
    loop {
        let described = group.describe().await?;
        let owned: usize = described
            .members
            .iter()
            .flat_map(|member| &member.owns)
            .map(|topic| topic.partitions.len())
            .sum();
        if described.info.phase == GroupPhase::Settled
            && described.info.members == members
            && owned == partitions as usize
        {
            return Ok(());
        }
        ensure!(began.elapsed() < SETTLED_WITHIN, "not settled in time: {described:?}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partition_that_another_member_reads_is_not_kept() {
        let (watch, began) = (Watch::new(2), Instant::now());
        let at = |milliseconds| began + Duration::from_millis(milliseconds);
        watch.arrived(0, 1, at(0));
        watch.arrived(1, 1, at(0));
        watch.mark();
        watch.arrived(0, 1, at(30));
        watch.arrived(0, 1, at(40));
        watch.arrived(1, 2, at(40));
        assert_eq!(watch.kept(at(41)), (vec![Duration::from_millis(30)], 1));
        assert_eq!(watch.kept(at(90)).0, [Duration::from_millis(50)], "a gap that lasts counts");
    }
}

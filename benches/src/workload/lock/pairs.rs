//! Clients that take a lock of their own and give it back, one pair after the other, beside raw journal writes
//! and, where one is given, the locks of etcd.
//!
//! Slices of all that is compared alternate, so that all see the same disk. A pair is two entries of a log, one
//! after the other: its floor is two journal writes.

use std::num::NonZeroU32;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use plimsoll_client::Locks;
use tokio::task::JoinSet;

use super::NAMESPACE;
use crate::bed::Bed;
use crate::etcd::{self, Etcd, EtcdClient, Way};
use crate::journal_write::{JournalProbe, JournalWrite};
use crate::load::share;
use crate::percentiles::{Latencies, Percentiles};
use crate::report::{EtcdFigures, LockFigures, Report, rounded};
use crate::{Event, Screen};

/// Slices of each, alternating.
const SLICES: u64 = 5;
/// Of the load that comes before, uncounted, on each side and in each way.
const WARM_UP: u64 = 10;
/// As fast as they go: the pairs know no schedule either.
const NO_SCHEDULE: NonZeroU32 = NonZeroU32::MAX;

/// `local` is the directory of the measured node, where there is one on this machine.
pub(in super::super) async fn measure(
    bed: &Bed<'_>,
    local: Option<&Path>,
    screen: Screen<'_>,
) -> anyhow::Result<Report> {
    let plan = bed.plan;
    let mut probe = local.map(JournalProbe::new).transpose()?;
    let warm_up = plan.records.div_ceil(WARM_UP);
    let mut beside = match &plan.etcd {
        Some(url) => Some(EtcdSide::prepare(url, plan.clients, warm_up, screen).await?),
        None => None,
    };
    screen(Event::Step("warming up"));
    bed.create_lock_namespace(NAMESPACE).await?;
    let OwnSide { side: mut own, connections } = OwnSide::prepare(bed, warm_up, screen).await?;
    screen(Event::Step(match beside {
        Some(_) => "measuring journal writes, etcd and the broker in turns",
        None => "measuring journal writes and the broker in turns",
    }));
    for slice in 0..SLICES {
        let pairs = share(plan.records, slice, SLICES);
        if let Some(idle) = probe.take() {
            probe = Some(write_slice(idle, pairs.max(1)).await?);
        }
        if let Some(etcd) = &mut beside {
            etcd.side.run(pairs).await?;
        }
        own.run(pairs).await?;
    }

    let mut report = Report::new(plan);
    report.records = own.latencies.samples();
    report.seconds = rounded(own.took.as_secs_f64(), 6);
    report.latency_us = own.latencies.percentiles();
    let journal_write = probe.and_then(|probe| probe.figures());
    report.journal_write_us = Some(journal_write);
    let etcd = beside.as_ref().map(EtcdSide::figures);
    report.lock = LockFigures {
        clients: Some(plan.clients),
        connections: Some(connections),
        pairs_per_s: Some(rounded(own.pairs_per_s(), 1)),
        ratio_to_two_writes: of_two_writes(report.latency_us, journal_write),
        etcd,
        ratio_to_etcd: beside
            .as_ref()
            .map(|etcd| rounded(own.pairs_per_s() / etcd.side.pairs_per_s(), 3)),
        ..LockFigures::default()
    };
    close(own.lockers).await;
    if let Some(etcd) = beside {
        etcd.end().await?;
    }
    bed.delete_lock_namespace(NAMESPACE).await?;
    Ok(report)
}

fn of_two_writes(pair: Option<Percentiles>, write: Option<JournalWrite>) -> Option<f64> {
    Some(rounded(pair?.p50 / (2.0 * write?.p50), 3))
}

async fn write_slice(mut probe: JournalProbe, writes: u64) -> anyhow::Result<JournalProbe> {
    let writing = tokio::task::spawn_blocking(move || {
        probe.measure(writes, NO_SCHEDULE)?;
        anyhow::Ok(probe)
    });
    writing.await?
}

/// A client with a lock that nobody else wants.
trait Locker: Send + 'static {
    /// Takes the lock and gives it back, each awaited until it is known.
    fn pair(&self) -> impl Future<Output = anyhow::Result<()>> + Send;
}

/// A lock of ours, with a session.
struct OwnLock {
    locks: Locks,
    name: String,
}

/// Our clients, over a connection each or over one, whichever is the faster: etcd is given the same choice.
struct OwnSide {
    connections: u32,
    side: Side<OwnLock>,
}

impl OwnSide {
    async fn prepare(bed: &Bed<'_>, pairs: u64, screen: Screen<'_>) -> anyhow::Result<Self> {
        let clients = bed.plan.clients;
        let mut fastest: Option<Self> = None;
        for connections in ways_to_connect(clients) {
            let tried = Self::tried(bed, connections, pairs).await?;
            if clients > 1 {
                screen(Event::Note(&format!(
                    "plimsoll, connections: {connections}: {:.1} pairs/s while it warms up",
                    tried.side.pairs_per_s(),
                )));
            }
            if let Some(slower) = keep_faster(&mut fastest, tried, |it| it.side.pairs_per_s()) {
                slower.end().await;
            }
        }
        let mut fastest = fastest.expect("each way was tried");
        fastest.side.forget();
        Ok(fastest)
    }

    async fn tried(bed: &Bed<'_>, connections: u32, pairs: u64) -> anyhow::Result<Self> {
        let mut shared = Vec::new();
        for _ in 0..connections {
            shared.push(bed.client().await?);
        }
        let locks = (0..bed.plan.clients).zip(shared.iter().cycle()).map(|(index, client)| {
            OwnLock { locks: client.locks(NAMESPACE), name: format!("lock-{index}") }
        });
        let mut side = Side::new(locks.collect());
        // Once before: a session is opened at its first use.
        side.run(u64::from(bed.plan.clients)).await?;
        side.forget();
        side.run(pairs).await?;
        Ok(Self { connections, side })
    }

    async fn end(self) {
        close(self.side.lockers).await;
    }
}

/// Ends the sessions.
async fn close(own: Vec<OwnLock>) {
    for lock in own {
        lock.locks.close().await;
    }
}

/// Keeps the faster of two; gives the other one, if there is.
fn keep_faster<T>(fastest: &mut Option<T>, tried: T, speed: impl Fn(&T) -> f64) -> Option<T> {
    match fastest {
        Some(best) if speed(best) >= speed(&tried) => Some(tried),
        _ => fastest.replace(tried),
    }
}

/// How many connections are tried: one for each client, and one for all.
fn ways_to_connect(clients: u32) -> Vec<u32> {
    if clients > 1 { vec![clients, 1] } else { vec![1] }
}

impl Locker for OwnLock {
    async fn pair(&self) -> anyhow::Result<()> {
        let guard = self.locks.lock(self.name.as_str()).acquire().await?;
        Ok(guard.release().await?)
    }
}

/// A lock of etcd.
struct EtcdLock {
    client: EtcdClient,
    way: Way,
    name: String,
}

impl Locker for EtcdLock {
    async fn pair(&self) -> anyhow::Result<()> {
        let key: Bytes = self.client.lock(self.way, &self.name).await?;
        self.client.unlock(self.way, &key).await
    }
}

/// All clients of one service of locks, and what was counted of them.
struct Side<L> {
    lockers: Vec<L>,
    latencies: Latencies,
    took: Duration,
}

impl<L: Locker> Side<L> {
    fn new(lockers: Vec<L>) -> Self {
        Self { lockers, latencies: Latencies::new(), took: Duration::ZERO }
    }

    /// All clients at once, each with its part of the pairs, one after the other.
    async fn run(&mut self, pairs: u64) -> anyhow::Result<()> {
        let clients = self.lockers.len() as u64;
        let began = Instant::now();
        let mut working = JoinSet::new();
        for (index, locker) in self.lockers.drain(..).enumerate() {
            working.spawn(take_turns(locker, share(pairs, index as u64, clients)));
        }
        while let Some(done) = working.join_next().await {
            let (locker, latencies) = done??;
            self.latencies.merge(&latencies);
            self.lockers.push(locker);
        }
        self.took += began.elapsed();
        Ok(())
    }

    /// What was counted so far was not to be.
    fn forget(&mut self) {
        (self.latencies, self.took) = (Latencies::new(), Duration::ZERO);
    }

    fn pairs_per_s(&self) -> f64 {
        self.latencies.samples() as f64 / self.took.as_secs_f64()
    }
}

async fn take_turns<L: Locker>(locker: L, pairs: u64) -> anyhow::Result<(L, Latencies)> {
    let mut latencies = Latencies::new();
    for _ in 0..pairs {
        let began = Instant::now();
        locker.pair().await?;
        latencies.record(began.elapsed());
    }
    Ok((locker, latencies))
}

/// Etcd, in whichever way is the fastest for it.
struct EtcdSide {
    version: String,
    way: Way,
    connections: u32,
    side: Side<EtcdLock>,
}

impl EtcdSide {
    /// Tries each way with a connection for each client and with one for all, and keeps the fastest.
    async fn prepare(
        url: &str,
        clients: u32,
        pairs: u64,
        screen: Screen<'_>,
    ) -> anyhow::Result<Self> {
        let etcd = Etcd::at(url).await?;
        let mut fastest: Option<Self> = None;
        for connections in ways_to_connect(clients) {
            for way in Way::ALL {
                screen(Event::Step(&format!("warming up etcd: {}", way.name())));
                let tried = Self::tried(&etcd, way, clients, connections, pairs).await?;
                screen(Event::Note(&format!(
                    "etcd {}, {}, connections: {connections}: {:.1} pairs/s while it warms up",
                    etcd.version,
                    way.name(),
                    tried.side.pairs_per_s(),
                )));
                if let Some(slower) = keep_faster(&mut fastest, tried, |it| it.side.pairs_per_s()) {
                    slower.end().await?;
                }
            }
        }
        let mut fastest = fastest.expect("each way was tried");
        fastest.side.forget();
        Ok(fastest)
    }

    async fn tried(
        etcd: &Etcd,
        way: Way,
        clients: u32,
        connections: u32,
        pairs: u64,
    ) -> anyhow::Result<Self> {
        let clients = etcd.clients(clients, connections == 1).await?;
        let locks = clients.into_iter().enumerate().map(|(index, client)| {
            let name = format!("{NAMESPACE}/lock-{index}");
            EtcdLock { client, way, name }
        });
        let mut side = Side::new(locks.collect());
        // Once before: what a connection costs at first is not the way's.
        side.run(u64::from(connections)).await?;
        side.forget();
        side.run(pairs).await?;
        Ok(Self { version: etcd.version.clone(), way, connections, side })
    }

    fn figures(&self) -> EtcdFigures {
        EtcdFigures {
            version: self.version.clone(),
            way: self.way.name(),
            connections: self.connections,
            pairs_per_s: rounded(self.side.pairs_per_s(), 1),
            latency_us: self.side.latencies.percentiles(),
        }
    }

    /// Ends the leases.
    async fn end(self) -> anyhow::Result<()> {
        etcd::close(self.side.lockers.into_iter().map(|lock| lock.client).collect()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd::fake::{FakeEtcd, VERSION};

    #[tokio::test]
    async fn etcd_is_tried_in_each_way_and_only_the_fastest_is_kept() {
        let (fake, url) = FakeEtcd::start().await;
        let mut etcd = EtcdSide::prepare(&url, 3, 9, &|_| {}).await.unwrap();
        assert_eq!(fake.left(), (3, 0), "the leases of the others have ended");
        assert_eq!(etcd.side.latencies.samples(), 0, "what warms up does not count");
        etcd.side.run(10).await.unwrap();
        let figures = etcd.figures();
        assert_eq!((figures.version.as_str(), etcd.side.latencies.samples()), (VERSION, 10));
        assert!(figures.connections == 1 || figures.connections == 3, "{figures:?}");
        assert!(figures.pairs_per_s > 0.0);
        etcd.end().await.unwrap();
        assert_eq!(fake.left(), (0, 0));
    }

    #[test]
    fn a_pair_is_compared_with_two_writes() {
        let pair = Percentiles { p50: 250.0, p99: 1.0, p999: 1.0, max: 1.0 };
        let write = JournalWrite { p50: 50.0, p99: 1.0 };
        assert_eq!(of_two_writes(Some(pair), Some(write)), Some(2.5));
        assert_eq!(of_two_writes(Some(pair), None), None);
    }
}

//! `failover --locks`: how long no lock is handed over when the node that leads its namespace is killed, and
//! that nothing of a lock is lost by it.
//!
//! A client holds two locks, and others wait for both in a known order. Each round kills the leader's node, of
//! which nobody is told. Then one of the locks is released: measured is the time from just before the kill until
//! its holder has the answer and the first who waits has the lock. The other lock must be as it was. In the end
//! of the round both go through their whole line. What must not happen ([`Turns`]) is an error, not a figure.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use plimsoll_client::{Admin, LockGuard, Locks};
use plimsoll_protocol::api::{Durability, namespace_topic};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{NAMESPACE, lined_up};
use crate::bed::{Bed, binary};
use crate::options::{Fault, Options, Plan};
use crate::report::{ClusterFigures, LockFigures, Report, Unavailable, rounded};
use crate::runtimes::Runtimes;
use crate::serve_cluster::{ServeCluster, commands};
use crate::workload::refuse_connect;
use crate::{Event, Screen};

/// The lock that is released behind the kill.
const HANDED: &str = "handed-over";
/// The lock that stays held.
const KEPT: &str = "kept";
/// A hand-over that takes longer has failed.
const HANDED_OVER_WITHIN: Duration = Duration::from_secs(60);

pub(in super::super) async fn measure(
    plan: &Plan,
    options: &Options,
    runtimes: &Runtimes,
    directory: &Path,
    screen: Screen<'_>,
) -> anyhow::Result<Report> {
    refuse_connect(plan, options)?;
    ensure!(
        plan.nodes >= 3 && plan.replicas >= 3,
        "failover needs a majority that survives: at least --nodes 3 with --replicas 3"
    );
    // A node that is told to end answers the release before it hands over: there would be nothing to measure.
    ensure!(plan.fault == Some(Fault::Kill), "--locks measures --fault kill only");
    ensure!(plan.durability == Durability::Durable, "locks are durable");
    screen(Event::Step("starting the nodes"));
    let commands = commands(binary(options)?, directory, plan.nodes, &plan.node_settings)?;
    let mut cluster = ServeCluster::start(commands, plan.transport).await?;
    let config = cluster.client_config()?;
    Bed::connected(plan, runtimes, &config, directory)?.create_lock_namespace(NAMESPACE).await?;
    let topic = namespace_topic(NAMESPACE)?.to_string();
    let client = cluster.client().await?;
    let admin = client.admin();
    let mut sessions = Vec::new();
    for session in 0..=plan.waiters as usize {
        sessions.push(cluster.client().await?.locks(NAMESPACE).label(label(session)));
    }
    let (mut handed, mut kept) = (Line::new(HANDED), Line::new(KEPT));

    let began = Instant::now();
    let mut gaps = Vec::new();
    for round in 1..=plan.rounds {
        screen(Event::Step(&format!("kill of a leader's node, {round} of {}", plan.rounds)));
        cluster.wait_until_well(&client).await?;
        for line in [&mut handed, &mut kept] {
            line.form(&sessions, &admin).await?;
        }
        let leader = cluster.wait_for_leader(&client, &topic, 0).await?;
        let killed = Instant::now();
        cluster.kill(leader)?;
        let about = || format!("round {round}, node {leader} was killed");
        handed.hand_over().await.with_context(about)?;
        let gap = killed.elapsed();
        kept.ensure_unchanged(&admin).await.with_context(about)?;
        for line in [&mut handed, &mut kept] {
            line.run_down().await.with_context(about)?;
        }
        let milliseconds = gap.as_secs_f64() * 1e3;
        screen(Event::Note(&format!("kill {round}: node {leader}, {milliseconds:.1} ms")));
        gaps.push(gap);
        cluster.restart(leader)?;
    }
    let seconds = began.elapsed().as_secs_f64();
    cluster.check_alive()?;
    for locks in sessions {
        locks.close().await;
    }

    let mut report = Report::new(plan);
    report.records = handed.turns.grants + kept.turns.grants;
    report.seconds = rounded(seconds, 6);
    report.cluster = ClusterFigures {
        fault: Some(Fault::Kill.name()),
        rounds: Some(plan.rounds),
        ..ClusterFigures::default()
    };
    report.lock = LockFigures {
        waiters: Some(plan.waiters),
        failover_ms: Unavailable::of(gaps),
        ..LockFigures::default()
    };
    Ok(report)
}

/// Who has this place in a line: the first holds the lock.
fn label(place: usize) -> String {
    match place {
        0 => "holder".to_owned(),
        place => format!("waiter {place}"),
    }
}

/// A lock, who holds it, and those who wait for it.
struct Line {
    lock: &'static str,
    turns: Turns,
    /// Of who holds the lock.
    guard: Option<LockGuard>,
    waiting: JoinSet<anyhow::Result<(Grant, LockGuard)>>,
}

impl Line {
    fn new(lock: &'static str) -> Self {
        Self { lock, turns: Turns::new(lock), guard: None, waiting: JoinSet::new() }
    }

    /// The first of the sessions takes the lock, the others line up behind it.
    async fn form(&mut self, sessions: &[Locks], admin: &Admin) -> anyhow::Result<()> {
        self.turns.begin();
        for (place, locks) in sessions.iter().enumerate() {
            let lock = locks.lock(self.lock);
            self.waiting.spawn(async move {
                let guard = lock.acquire().await.with_context(|| label(place))?;
                Ok((Grant { place, token: guard.token(), at: Instant::now() }, guard))
            });
            match place {
                0 => self.take_turn().await?,
                place => lined_up(admin, self.lock, u32::try_from(place)?).await?,
            }
        }
        Ok(())
    }

    /// Waits until somebody has the lock, which must be who is next.
    async fn take_turn(&mut self) -> anyhow::Result<()> {
        let granted = timeout(HANDED_OVER_WITHIN, self.waiting.join_next()).await;
        let granted = granted.with_context(|| {
            format!("nobody has lock {} within {HANDED_OVER_WITHIN:?}", self.lock)
        })?;
        let (grant, guard) = granted.context("nobody waits")???;
        self.turns.granted(grant)?;
        self.guard = Some(guard);
        Ok(())
    }

    /// The holder releases the lock, and the next has it: returns when both know.
    async fn hand_over(&mut self) -> anyhow::Result<()> {
        let releasing = self.release()?;
        let (released, taken) = tokio::join!(releasing, self.take_turn());
        // Two who hold it weigh more than a release that failed.
        taken.and(released)
    }

    /// Has the lock released. Fails at once if somebody else has it already.
    fn release(&mut self) -> anyhow::Result<impl Future<Output = anyhow::Result<()>> + use<>> {
        if let Some(granted) = self.waiting.try_join_next() {
            let (grant, _) = granted??;
            self.turns.granted(grant)?;
        }
        let (lock, guard) = (self.lock, self.guard.take().context("nobody holds the lock")?);
        ensure!(guard.is_held(), "lock {lock} was lost to who held it");
        self.turns.releasing(Instant::now());
        Ok(async move { guard.release().await.with_context(|| format!("releasing lock {lock}")) })
    }

    /// Everybody who waits has the lock and releases it.
    async fn run_down(&mut self) -> anyhow::Result<()> {
        while !self.waiting.is_empty() {
            self.hand_over().await?;
        }
        self.release()?.await
    }

    /// Fails unless the first holds the lock, under the same token, and all others wait in order: as the client
    /// knows it, and as the node that leads now shows it.
    async fn ensure_unchanged(&mut self, admin: &Admin) -> anyhow::Result<()> {
        let lock = self.lock;
        let guard = self.guard.as_ref().context("nobody holds the lock")?;
        ensure!(guard.is_held(), "lock {lock} was lost to who held it");
        let shown = admin.locks(NAMESPACE).describe(lock).await?;
        let holders: Vec<_> =
            shown.holders.iter().map(|found| (found.label.clone(), found.token)).collect();
        ensure!(
            holders == [(label(0), guard.token())],
            "lock {lock} was held by {} under {}; now by {holders:?}",
            label(0),
            guard.token()
        );
        let waiters: Vec<_> = shown.waiters.iter().map(|found| found.label.clone()).collect();
        let expected: Vec<_> = (1..=self.waiting.len()).map(label).collect();
        ensure!(waiters == expected, "for lock {lock} there waited {expected:?}; now {waiters:?}");
        match self.waiting.try_join_next() {
            Some(left) => bail!("{} waits for lock {lock} no more", label(left??.0.place)),
            None => Ok(()),
        }
    }
}

/// What a client was told.
#[derive(Debug, Clone, Copy)]
struct Grant {
    place: usize,
    token: u64,
    at: Instant,
}

/// Who is next, and what was granted before: judges each grant of a lock.
struct Turns {
    lock: &'static str,
    next: usize,
    /// When the holder began to give the lock back; `None` while it is held.
    released: Option<Instant>,
    /// The latest, of all rounds.
    token: u64,
    grants: u64,
}

impl Turns {
    fn new(lock: &'static str) -> Self {
        Self { lock, next: 0, released: None, token: 0, grants: 0 }
    }

    /// Nobody has the lock; the first of a line takes it next.
    fn begin(&mut self) {
        (self.next, self.released) = (0, Some(Instant::now()));
    }

    /// The holder is about to give the lock back.
    fn releasing(&mut self, now: Instant) {
        self.released = Some(now);
    }

    /// Somebody has the lock.
    ///
    /// # Errors
    /// When it is held, it is another's turn, or the token is not larger than all before.
    fn granted(&mut self, grant: Grant) -> anyhow::Result<()> {
        let (lock, who, token) = (self.lock, label(grant.place), grant.token);
        let was_free = self.released.take().is_some_and(|released| released <= grant.at);
        ensure!(was_free, "lock {lock} was granted to {who} (token {token}) while it was held");
        let expected = label(self.next);
        ensure!(grant.place == self.next, "lock {lock} was granted to {who} before {expected}");
        ensure!(
            token > self.token,
            "lock {lock} was granted to {who} under token {token}, which is not above {}",
            self.token
        );
        self.token = token;
        self.next += 1;
        self.grants += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(place: usize, token: u64) -> Grant {
        Grant { place, token, at: Instant::now() }
    }

    /// A lock that the first of its line holds under token 5.
    fn held() -> Turns {
        let mut turns = Turns::new("l");
        turns.begin();
        turns.granted(grant(0, 5)).unwrap();
        turns
    }

    #[test]
    fn grants_in_order_are_counted_over_rounds() {
        let mut turns = held();
        turns.releasing(Instant::now());
        turns.granted(grant(1, 9)).unwrap();
        turns.begin();
        turns.granted(grant(0, 10)).unwrap();
        assert_eq!((turns.grants, turns.token), (3, 10));
    }

    #[test]
    fn a_grant_of_a_held_lock_fails() {
        let told = held().granted(grant(1, 9)).unwrap_err().to_string();
        assert!(told.contains("to waiter 1 (token 9) while it was held"), "{told}");
        // It was told after the release began, and granted before it.
        let (early, mut turns) = (grant(1, 9), held());
        turns.releasing(early.at + Duration::from_millis(1));
        turns.granted(early).unwrap_err();
    }

    #[test]
    fn a_grant_out_of_turn_or_under_an_old_token_fails() {
        let mut turns = held();
        turns.releasing(Instant::now());
        let told = turns.granted(grant(2, 9)).unwrap_err().to_string();
        assert!(told.contains("to waiter 2 before waiter 1"), "{told}");
        // That of a former round counts too.
        let mut turns = held();
        turns.begin();
        let told = turns.granted(grant(0, 5)).unwrap_err().to_string();
        assert!(told.contains("under token 5, which is not above 5"), "{told}");
    }
}

//! One lock that many wait for: how long it is from the release of its holder until the next one has it.
//!
//! Each holder keeps the lock for a moment, in which the one before it lines up again: so there are always as
//! many waiters, and a hand-over shares the log with nothing else. The durable produce that it is compared with
//! has the same moments of rest between its records.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use plimsoll_client::{Lock, LockGuard, Producer, Record};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{NAMESPACE, lined_up};
use crate::bed::Bed;
use crate::percentiles::Latencies;
use crate::report::{LockFigures, Report, rounded};
use crate::table::grouped;
use crate::values::Values;
use crate::workload::TOPIC;
use crate::{Event, Screen};

const LOCK: &str = "lock";
/// Connections that the waiters are shared out among; each has a session of its own, which waits for a lock
/// once.
const CONNECTIONS: u32 = 10;
/// How long a holder keeps the lock.
const HOLD: Duration = Duration::from_millis(2);
/// Records of the produce that hand-overs are compared with, before and after.
const PRODUCES: u64 = 500;
/// Of those that come before, uncounted.
const WARM_UP_PRODUCES: u64 = 100;

pub(in super::super) async fn measure(bed: &Bed<'_>, screen: Screen<'_>) -> anyhow::Result<Report> {
    let plan = bed.plan;
    screen(Event::Step("measuring durable produces"));
    bed.create_topic(TOPIC).await?;
    let producer = bed.client().await?.producer(TOPIC).build().await?;
    let mut values = Values::new(plan.record_bytes, 1);
    produce(&producer, &mut values, WARM_UP_PRODUCES).await?;
    let mut produces = produce(&producer, &mut values, PRODUCES).await?;

    screen(Event::Step("waiters line up"));
    bed.create_lock_namespace(NAMESPACE).await?;
    let (line, first) = Line::new(bed).await?;
    screen(Event::Step("handing the lock over"));
    let began = Instant::now();
    let handed = line.hand_over(first).await?;
    let seconds = began.elapsed().as_secs_f64();
    if handed.out_of_turn > 0 {
        let out_of_turn = grouped(handed.out_of_turn);
        screen(Event::Note(&format!(
            "{out_of_turn} grants were not in the order of the round before"
        )));
    }
    bed.delete_lock_namespace(NAMESPACE).await?;

    screen(Event::Step("measuring durable produces again"));
    produces.merge(&produce(&producer, &mut values, PRODUCES).await?);
    producer.close().await?;
    bed.delete_topic(TOPIC).await?;

    let (handover_us, produce_us) = (handed.latencies.percentiles(), produces.percentiles());
    let mut report = Report::new(plan);
    report.records = handed.latencies.samples();
    report.seconds = rounded(seconds, 6);
    report.lock = LockFigures {
        waiters: Some(plan.waiters),
        handover_us,
        produce_us,
        ratio_to_produce: handover_us
            .zip(produce_us)
            .map(|(handover, produce)| rounded(handover.p99 / produce.p50, 3)),
        ..LockFigures::default()
    };
    Ok(report)
}

/// Records one by one, with a rest before each: how long until each was acknowledged.
async fn produce(
    producer: &Producer,
    values: &mut Values,
    records: u64,
) -> anyhow::Result<Latencies> {
    let mut latencies = Latencies::new();
    for _ in 0..records {
        tokio::time::sleep(HOLD).await;
        let record = Record::new(Bytes::copy_from_slice(values.next_value()));
        let began = Instant::now();
        producer.send(record).await?;
        latencies.record(began.elapsed());
    }
    Ok(latencies)
}

/// Those who want the lock: one has it, the others wait.
struct Line {
    locks: Vec<plimsoll_client::Locks>,
    waiting: JoinSet<anyhow::Result<()>>,
    turns: Arc<Turns>,
}

/// What the hand-overs came to.
struct Handed {
    latencies: Latencies,
    /// Grants to another than who was granted the lock in the same place of the round before.
    out_of_turn: u64,
}

impl Line {
    /// Takes the lock, and returns with its guard when everybody else waits.
    async fn new(bed: &Bed<'_>) -> anyhow::Result<(Self, LockGuard)> {
        let plan = bed.plan;
        let mut clients = Vec::new();
        for _ in 0..CONNECTIONS.min(plan.waiters) {
            clients.push(bed.client().await?);
        }
        let sessions = clients.iter().cycle().take(plan.waiters as usize + 1);
        let locks: Vec<_> = sessions.map(|client| client.locks(NAMESPACE)).collect();
        let first = locks[0].lock(LOCK).acquire().await?;
        let turns = Arc::new(Turns::new(plan.waiters, plan.records, first.token()));
        let mut waiting = JoinSet::new();
        for waiter in 1..=plan.waiters {
            let lock = locks[waiter as usize].lock(LOCK);
            waiting.spawn(take_turns(lock, waiter, Arc::clone(&turns)));
        }
        lined_up(&bed.client().await?.admin(), LOCK, plan.waiters).await?;
        Ok((Self { locks, waiting, turns }, first))
    }

    /// Gives the lock to the first of the line, and joins its end; so does each, until it was handed over as
    /// often as the plan says.
    async fn hand_over(mut self, first: LockGuard) -> anyhow::Result<Handed> {
        let mut done = self.turns.done.subscribe();
        self.turns.releasing();
        first.release().await?;
        let lock = self.locks[0].lock(LOCK);
        self.waiting.spawn(take_turns(lock, 0, Arc::clone(&self.turns)));
        tokio::select! {
            ended = done.wait_for(|done| *done) => drop(ended?),
            Some(failed) = self.waiting.join_next() => {
                failed??;
                bail!("a waiter left the line");
            }
        }
        self.waiting.shutdown().await;
        for locks in self.locks {
            locks.close().await;
        }
        Ok(self.turns.handed())
    }
}

/// Waits for the lock, keeps it for a moment, gives it to the next and waits again.
async fn take_turns(lock: Lock, waiter: u32, turns: Arc<Turns>) -> anyhow::Result<()> {
    loop {
        let guard = lock.clone().acquire().await?;
        turns.granted(waiter, guard.token(), Instant::now())?;
        tokio::time::sleep(HOLD).await;
        turns.releasing();
        guard.release().await?;
    }
}

/// Who has had the lock, and how long each hand-over took.
struct Turns {
    /// In a round everybody has it once.
    round: usize,
    wanted: u64,
    state: Mutex<State>,
    done: watch::Sender<bool>,
}

struct State {
    /// When the holder began to give the lock back; `None` while it is held.
    released: Option<Instant>,
    token: u64,
    latencies: Latencies,
    order: Vec<u32>,
}

impl Turns {
    fn new(waiters: u32, wanted: u64, token: u64) -> Self {
        let state = State { released: None, token, latencies: Latencies::new(), order: Vec::new() };
        let (done, _) = watch::channel(false);
        Self { round: waiters as usize + 1, wanted, state: Mutex::new(state), done }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The holder is about to give the lock back.
    fn releasing(&self) {
        self.state().released = Some(Instant::now());
    }

    /// The next has it.
    ///
    /// # Errors
    /// When another has it still, or the token has not grown: such a lock has no figures.
    fn granted(&self, waiter: u32, token: u64, now: Instant) -> anyhow::Result<()> {
        let mut state = self.state();
        let released = state.released.take().context("two have the lock at the same time")?;
        ensure!(token > state.token, "token {token} was granted after {}", state.token);
        state.token = token;
        if state.latencies.samples() == self.wanted {
            return Ok(());
        }
        state.latencies.record(now.saturating_duration_since(released));
        state.order.push(waiter);
        if state.latencies.samples() == self.wanted {
            self.done.send_replace(true);
        }
        Ok(())
    }

    fn handed(&self) -> Handed {
        let state = self.state();
        let rounds = state.order.iter().zip(state.order.iter().skip(self.round));
        let out_of_turn = rounds.filter(|(before, now)| before != now).count() as u64;
        Handed { latencies: state.latencies.clone(), out_of_turn }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Grants to `waiters` in this order, each with the next token.
    fn turns_of(waiters: u32, order: &[u32]) -> Turns {
        let turns = Turns::new(waiters, order.len() as u64, 0);
        for (token, waiter) in (1..).zip(order) {
            turns.releasing();
            turns.granted(*waiter, token, Instant::now()).unwrap();
        }
        turns
    }

    #[test]
    fn a_round_in_another_order_than_the_one_before_is_noticed() {
        let in_turn = turns_of(2, &[1, 2, 0, 1, 2, 0, 1]);
        assert!(*in_turn.done.borrow());
        let handed = in_turn.handed();
        assert_eq!((handed.latencies.samples(), handed.out_of_turn), (7, 0));
        assert_eq!(turns_of(2, &[1, 2, 0, 2, 1, 0]).handed().out_of_turn, 2);
    }

    #[test]
    fn a_grant_while_another_holds_or_with_an_old_token_fails() {
        let turns = turns_of(2, &[1]);
        let told = turns.granted(2, 9, Instant::now()).unwrap_err().to_string();
        assert!(told.contains("two have the lock"), "{told}");
        turns.releasing();
        let told = turns.granted(2, 1, Instant::now()).unwrap_err().to_string();
        assert!(told.contains("token 1 was granted after 1"), "{told}");
    }
}

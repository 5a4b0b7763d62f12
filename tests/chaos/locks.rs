//! Clients of few locks: they try and wait, write under what they are granted into a topic that it guards, write
//! once more when they hold it no longer, and note what they were told.
//!
//! What ends a hold besides its release can do so at the earliest when its client last saw that its lease ran: the
//! client's view of the lease ends before the server's, and its session says goodbye behind that.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Buf, Bytes};
use plimsoll_client::{
    Client, ClientConfig, Fence, LockError, LockGuard, Locks, NewLockNamespace, Producer,
    ProducerOptions, Record, SendError, StartPosition,
};
use plimsoll_linearizability::Outcome;
use plimsoll_linearizability::invariants::{
    AcceptedWrite, FencedWrite, Grant, Hold, fenced_writes, guarded_writes, mutual_exclusion,
    tokens_rise,
};
use plimsoll_linearizability::lock::{Leases, LockOp, LockRet, Request};
use plimsoll_tests::{Random, eventually, within};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::rounds::{Clock, Named, Rounds, Turn};

/// What the locks guard, with its settings.
pub(crate) const GUARDED: (&str, &[&str]) = ("guarded", &["segment-bytes=1MiB"]);
pub(crate) const GUARDED_PARTITIONS: u32 = 2;
const NAMESPACE: &str = "chaos";
const CLIENTS: u32 = 4;
const LOCKS_AT_ONCE: usize = 3;
const TURNS: usize = 12;
/// Some outages outlast it, so that locks are lost, and most elections do not.
const LEASE: Duration = Duration::from_secs(3);
/// Waits are at most so long.
const WAIT_MS_MAX: u64 = 3_000;
/// Writes of one hold, at most.
const WRITES_MAX: u64 = 3;
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(8);
/// How often a holder looks whether it still is one.
const LOOK_EVERY: Duration = Duration::from_millis(5);
const PACE: Duration = Duration::from_millis(10);
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(50);

/// What was asked of a lock, and answered.
pub(crate) type LockHistory = Named<LockOp, LockRet>;

/// The clients.
#[derive(Debug)]
pub(crate) struct LockClients {
    seen: Arc<Seen>,
    stop: watch::Sender<bool>,
    running: JoinSet<()>,
}

/// What all clients saw.
#[derive(Debug)]
pub(crate) struct Seen {
    rounds: Rounds<LockOp, LockRet>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    requests: u64,
    grants: Vec<Grant>,
    holds: Vec<Hold>,
    writes: Vec<Write>,
    /// When each holder knew last that it holds.
    sure_until: BTreeMap<Request, u64>,
}

/// A write under a lock. Its record carries its number.
#[derive(Debug)]
struct Write {
    fence: String,
    token: u64,
    invoked: u64,
    became: Became,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Became {
    Unknown,
    Refused,
    Acked { partition: u32, offset: Option<u64> },
}

struct LockClient {
    number: u32,
    config: ClientConfig,
    seen: Arc<Seen>,
    random: Random,
    /// Of an earlier hold.
    former: Option<Pen>,
}

/// What writes under one grant.
struct Pen {
    producer: Producer,
    fence: String,
    token: u64,
}

/// A lock that is held.
struct Held {
    guard: LockGuard,
    turn: Turn,
    request: Request,
    from: u64,
    /// When it was last known to be held.
    sure_until: u64,
}

/// Makes the namespace.
pub(crate) async fn create_namespace(client: &Client) {
    let admin = client.admin();
    within("create", admin.create_lock_namespace(NewLockNamespace::new(NAMESPACE)))
        .await
        .expect("a namespace");
}

impl LockClients {
    /// Begins. The namespace and the guarded topic must be there.
    pub(crate) fn start(config: &ClientConfig, clock: Clock, random: &mut Random) -> Self {
        let rounds = Rounds::new(clock, "lock", LOCKS_AT_ONCE, TURNS);
        let seen = Arc::new(Seen { rounds, state: Mutex::default() });
        let (stop, stopped) = watch::channel(false);
        let mut running = JoinSet::new();
        for number in 0..CLIENTS {
            let (config, seen) = (config.clone(), Arc::clone(&seen));
            let random = Random::seeded(random.next_u64());
            let client = LockClient { number, config, seen, random, former: None };
            running.spawn(client.run(stopped.clone()));
        }
        Self { seen, stop, running }
    }

    /// Ends it when every operation has its outcome.
    pub(crate) async fn finish(self) -> Arc<Seen> {
        self.stop.send_replace(true);
        within("the last locks", self.running.join_all()).await;
        self.seen
    }
}

impl LockClient {
    async fn run(mut self, stopped: watch::Receiver<bool>) {
        let mut attempts = tokio::time::interval(BETWEEN_ATTEMPTS);
        let client = loop {
            attempts.tick().await;
            if let Ok(client) = Client::connect(self.config.clone()).await {
                break client;
            }
        };
        let locks = client.locks(NAMESPACE).lease(LEASE);
        let mut pace = tokio::time::interval(PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !*stopped.borrow() {
            pace.tick().await;
            if self.random.once_in(3)
                && let Some(former) = self.former.take()
            {
                self.former = self.write(former).await;
            }
            if let Some(held) = self.acquire(&locks).await {
                self.hold(&client, held).await;
            }
        }
        locks.close().await;
    }

    async fn acquire(&mut self, locks: &Locks) -> Option<Held> {
        let turn = self.seen.rounds.turn(self.random.within(0..LOCKS_AT_ONCE as u64) as usize);
        let request = self.seen.new_request();
        let lock = locks.lock(&turn.name).guards([GUARDED.0]);
        let invoked = self.seen.rounds.clock().now();
        let (op, acquired) = if self.random.once_in(3) {
            (LockOp::TryAcquire { request }, lock.try_acquire().await)
        } else {
            let wait = Duration::from_millis(self.random.within(100..WAIT_MS_MAX));
            (LockOp::Acquire { request }, lock.wait(wait).acquire().await)
        };
        let outcome = match &acquired {
            Ok(guard) => Outcome::Ok(LockRet::Granted { token: guard.token() }),
            Err(LockError::Taken { .. }) => Outcome::Ok(LockRet::Taken),
            Err(LockError::InUse { .. } | LockError::Input(_)) => Outcome::Failed,
            // Of a wait that ended, too: it may have been granted, and given up before that was told.
            Err(_) => Outcome::Unknown,
        };
        let completed = self.seen.rounds.note(&turn, self.number, invoked, op, outcome);
        let guard = acquired.ok()?;
        let (fence, token) = (turn.name.clone(), guard.token());
        let grant = Grant { fence, request: request.0, token, invoked, completed };
        self.seen.state().grants.push(grant);
        Some(Held { guard, turn, request, from: completed, sure_until: invoked })
    }

    /// Writes under a lock, and gives it back.
    async fn hold(&mut self, client: &Client, mut held: Held) {
        let clock = self.seen.rounds.clock();
        let writes = self.random.within(0..WRITES_MAX + 1);
        if writes > 0 {
            let taking = take_pen(client, held.guard.fence());
            let mut pen = held.sure(clock, taking).await;
            for _ in 0..writes {
                let Some(with) = pen.take() else { break };
                pen = held.sure(clock, self.write(with)).await;
            }
            self.former = pen.or(self.former.take());
        }
        held.look(clock);
        let Held { guard, turn, request, from, sure_until } = held;
        let (fence, token) = (turn.name.clone(), guard.token());
        {
            let mut state = self.seen.state();
            state.sure_until.insert(request, sure_until);
            state.holds.push(Hold { fence, token, from, until: sure_until });
        }
        // Given back in the background, now and then.
        if self.random.once_in(20) {
            return drop(guard);
        }
        let invoked = clock.now();
        let told = match guard.release().await {
            Ok(()) => LockRet::Released,
            Err(LockError::NotHolder { .. }) => LockRet::NotHolder,
            // It may still be: that is among what may end a hold.
            Err(_) => return,
        };
        let op = LockOp::Release { token };
        self.seen.rounds.note(&turn, self.number, invoked, op, Outcome::Ok(told));
    }

    /// Writes a record. What it was written with, where that can write more.
    async fn write(&mut self, pen: Pen) -> Option<Pen> {
        let partition = self.random.within(0..u64::from(GUARDED_PARTITIONS)) as u32;
        let number = self.seen.writing(&pen);
        let record = Record::new(Bytes::copy_from_slice(&number.to_le_bytes()));
        let outcome = match pen.producer.enqueue_to(partition, &record).await {
            Ok(ack) => ack.await,
            Err(error) => Err(error),
        };
        let (became, pen) = match outcome {
            Ok(ack) => {
                assert_eq!(ack.partition, partition);
                (Became::Acked { partition, offset: ack.offset.map(|offset| offset.0) }, Some(pen))
            }
            Err(SendError::StaleFence { highest }) => {
                // Its own token was seen before the grant was told: only a later one shuts it out.
                assert!(highest > pen.token, "{} is stale by {highest}", pen.token);
                (Became::Refused, None)
            }
            Err(error) if error.is_definite() => (Became::Refused, None),
            Err(_) => (Became::Unknown, None),
        };
        self.seen.state().writes[number as usize].became = became;
        pen
    }
}

async fn take_pen(client: &Client, fence: Fence) -> Option<Pen> {
    let options =
        ProducerOptions { delivery_timeout: DELIVERY_TIMEOUT, ..ProducerOptions::default() };
    let building = client.producer(GUARDED.0).options(options).fence(fence.clone()).build();
    let producer = building.await.ok()?;
    Some(Pen { producer, fence: fence.lock, token: fence.token })
}

impl Held {
    /// Does something and looks meanwhile whether the lock is held.
    async fn sure<T>(&mut self, clock: Clock, doing: impl Future<Output = T>) -> T {
        let mut doing = std::pin::pin!(doing);
        let mut looks = tokio::time::interval(LOOK_EVERY);
        loop {
            tokio::select! {
                biased;
                done = &mut doing => return done,
                _ = looks.tick() => self.look(clock),
            }
        }
    }

    fn look(&mut self, clock: Clock) {
        let now = clock.now();
        if self.guard.is_held() {
            self.sure_until = now;
        }
    }
}

impl Seen {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn new_request(&self) -> Request {
        let mut state = self.state();
        state.requests += 1;
        Request(state.requests)
    }

    /// Notes that a record is about to be sent; its number.
    fn writing(&self, pen: &Pen) -> u64 {
        let invoked = self.rounds.clock().now();
        let (fence, token) = (pen.fence.clone(), pen.token);
        let mut state = self.state();
        state.writes.push(Write { fence, token, invoked, became: Became::Unknown });
        state.writes.len() as u64 - 1
    }

    /// All histories.
    pub(crate) fn histories(&self) -> Vec<LockHistory> {
        self.rounds.take()
    }

    /// When holds can have ended by themselves.
    pub(crate) fn leases(&self) -> Leases {
        // Counted from when a holder knew last that it holds, they need no length. One that was never told of is
        // counted from when it was asked for.
        let mut leases = Leases::new(0);
        for (request, sure_until) in &self.state().sure_until {
            leases.renewed(*request, *sure_until);
        }
        leases
    }

    /// Judges what was granted and written in all, by the logs of the guarded topic. What that was, in words.
    ///
    /// # Panics
    /// When something is wrong.
    pub(crate) async fn check(&self, client: &Client) -> String {
        let mut logs = Vec::new();
        for partition in 0..GUARDED_PARTITIONS {
            logs.push(read_numbers(client, partition).await);
        }
        let state = self.state();
        tokens_rise(&state.grants).unwrap_or_else(|wrong| panic!("{wrong}"));
        mutual_exclusion(&state.holds).unwrap_or_else(|wrong| panic!("{wrong}"));
        let accepted = |write: &Write| match write.became {
            Became::Acked { .. } => Some(AcceptedWrite {
                fence: write.fence.clone(),
                token: write.token,
                invoked: write.invoked,
            }),
            Became::Unknown | Became::Refused => None,
        };
        let accepted: Vec<_> = state.writes.iter().filter_map(accepted).collect();
        guarded_writes(&state.grants, &accepted).unwrap_or_else(|wrong| panic!("{wrong}"));
        let mut places = BTreeMap::new();
        for (partition, log) in (0..).zip(&logs) {
            let stored = (0..).zip(log).map(|(position, number)| {
                let Write { fence, token, .. } = &state.writes[*number as usize];
                FencedWrite { fence: fence.clone(), token: *token, position }
            });
            let stored: Vec<_> = stored.collect();
            fenced_writes(&stored).unwrap_or_else(|wrong| panic!("{partition}: {wrong}"));
            for (offset, number) in (0..).zip(log) {
                let twice = places.insert(*number, (partition, offset));
                assert_eq!(twice, None, "write {number} is stored twice");
            }
        }
        for (number, write) in (0..).zip(&state.writes) {
            let place = places.get(&number);
            match write.became {
                Became::Unknown => {}
                Became::Refused => assert_eq!(place, None, "{number}, refused: {write:?}"),
                Became::Acked { partition, offset } => {
                    let at = place.filter(|at| at.0 == partition);
                    let at = at.unwrap_or_else(|| panic!("{number} is lost: {write:?}"));
                    assert!(offset.is_none_or(|offset| at.1 == offset), "{number}: {write:?}");
                }
            }
        }
        let refused = state.writes.iter().filter(|write| write.became == Became::Refused).count();
        format!(
            "{} grants, {} writes under them acknowledged, {refused} refused, {} in all",
            state.grants.len(),
            accepted.len(),
            state.writes.len(),
        )
    }
}

/// The numbers of the writes in a partition, from offset 0 on.
async fn read_numbers(client: &Client, partition: u32) -> Vec<u64> {
    let mut consumer = eventually("a consumer", async || {
        let builder = client.consumer(GUARDED.0).partitions([partition]);
        builder.from(StartPosition::Earliest).bounded().build().await.ok()
    })
    .await;
    let mut numbers = Vec::new();
    while let Some(found) = within("the next record", consumer.next()).await {
        let found = found.expect("what is stored can be read");
        assert_eq!(found.offset.0, numbers.len() as u64, "not the next offset");
        let mut value = found.record.value.expect("every record has a value");
        numbers.push(value.try_get_u64_le().expect("its number"));
    }
    numbers
}

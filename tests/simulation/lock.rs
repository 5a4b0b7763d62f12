//! Locks beside the topic: clients that take them, write under them, give them back, are stopped for longer than
//! their lease, crash, and an operator in each of them who takes locks away.

use std::collections::BTreeMap;
use std::time::Duration;

use plimsoll_client::{
    Client, ErrorCode, Fence, GrantFilter, Kv, LockError, LockGuard, Locks, NewLockNamespace,
    Record, RequestError,
};
use plimsoll_linearizability::lock::{Leases, LockOp, LockRet, Request};
use plimsoll_linearizability::{Call, Outcome};
use plimsoll_log::disk::sim::SplitMix;
use plimsoll_transport::SimulatedHost;
use tokio::time::{Instant, sleep, timeout};

use crate::clock::SimClock;
use crate::history::{History, News, RecordName};
use crate::judged::{Round, Rounds};
use crate::kv::make_map;
use crate::workload::{REQUEST_TIMEOUT, Work, connect_by};

/// The namespace.
pub const NAMESPACE: &str = "n";
/// Its topic.
pub const NAMESPACE_TOPIC: &str = "__locks.n";
/// What is written under locks, and guarded by most of them.
pub const GUARDED: &str = "w";

/// Holders number what they write apart from others.
const FIRST_HOLDER: u32 = 10_000;
/// What a client takes off its lease: see LOCKS.md.
const MARGIN_MS: u64 = 50;

/// What is to be done with the locks of a world.
#[derive(Debug, Clone, Copy)]
pub struct LockWork {
    /// Clients, each in a process of its own.
    pub holders: u32,
    /// Locks in use at once.
    pub places: u64,
    /// The leases of their sessions, in milliseconds: at least 1,000.
    pub lease_ms: u64,
    /// Partitions of what is written under them.
    pub partitions: u32,
}

impl LockWork {
    /// How long a client counts a lease: the keeper counts longer, by any clock that the promise is for.
    #[must_use]
    pub fn believed_ms(&self) -> u64 {
        self.lease_ms - self.lease_ms / 100 - MARGIN_MS
    }
}

/// What happened to a lock, as clients were told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockNews {
    /// A client was told that it holds it.
    Granted {
        /// Which.
        lock: Round,
        /// Which acquire it was.
        request: u64,
        /// Under which token.
        token: u64,
        /// When it was asked for.
        invoked: u64,
        /// Whether the lock guards what is written under it.
        guards: bool,
    },
    /// By the clock of its holder it is held until then, if it is not renewed.
    HeldUntil {
        /// Which.
        lock: Round,
        /// Under which token.
        token: u64,
        /// In milliseconds of the world.
        until: u64,
    },
    /// Its holder gives it back, or holds it for lost.
    GivenUp {
        /// Which.
        lock: Round,
        /// Under which token.
        token: u64,
    },
    /// An operator takes it from who holds it under a token, or from whoever does.
    Forced {
        /// Which.
        lock: Round,
        /// Under which.
        token: Option<u64>,
    },
    /// It was looked at.
    Shown {
        /// Which.
        lock: Round,
        /// How many hold it.
        holders: usize,
        /// How many wait for it.
        waiters: usize,
    },
    /// A client sends a record under its fence.
    Writing {
        /// Which record.
        record: RecordName,
        /// Under which lock.
        lock: Round,
        /// With which token.
        token: u64,
    },
}

/// What was asked of locks and answered.
#[derive(Debug)]
pub struct LockRecords {
    /// The operations.
    pub rounds: Rounds<LockOp, LockRet>,
    /// When leases can end at the earliest.
    pub leases: Leases,
    requests: u64,
    /// The last token that a client was told of, by place.
    last: BTreeMap<u64, (Round, u64)>,
}

impl Default for LockRecords {
    fn default() -> Self {
        let (rounds, last) = (Rounds::default(), BTreeMap::new());
        Self { rounds, leases: Leases::new(0), requests: 0, last }
    }
}

/// An operation that is under way.
#[derive(Debug, Clone, Copy)]
struct Asked {
    round: Round,
    call: Call,
    at_ms: u64,
}

impl History {
    fn ask_lock(&self, client: u32, round: Round, op: LockOp) -> Asked {
        let mut state = self.lock();
        let at_ms = state.now_ms;
        let call = state.locks.rounds.of(round).invoke(client, at_ms, op);
        Asked { round, call, at_ms }
    }

    fn answer_lock(&self, asked: Asked, outcome: Outcome<LockRet>) {
        let mut state = self.lock();
        let now_ms = state.now_ms;
        state.locks.rounds.of(asked.round).complete(asked.call, now_ms, outcome);
    }

    fn new_request(&self) -> Request {
        let mut state = self.lock();
        state.locks.requests += 1;
        Request(state.locks.requests)
    }

    fn tell_of_lock(&self, news: LockNews) {
        self.lock().fresh.push(News::Lock(news));
    }
}

/// A lock that is held.
struct Held {
    guard: LockGuard,
    round: Round,
    request: Request,
}

/// A client that works with locks.
struct Holder {
    client: Client,
    history: History,
    work: LockWork,
    random: SplitMix,
    /// Its number in histories.
    number: u32,
    guarded: Kv,
    writes: u64,
}

/// Makes the namespace, however long it takes.
async fn make_namespace(client: &Client, work: &Work) {
    loop {
        let namespace = NewLockNamespace {
            replicas: work.replicas,
            if_not_exists: true,
            ..NewLockNamespace::new(NAMESPACE)
        };
        match client.admin().create_lock_namespace(namespace).await {
            Ok(_) => return,
            Err(error) => tracing::debug!(%error, "the namespace cannot be made"),
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// Works with locks until the history is over.
pub async fn work_with_locks(
    host: SimulatedHost,
    history: History,
    seed: u64,
    clock: SimClock,
    (work, locks): (Work, LockWork),
) {
    let mut random = SplitMix::new(seed);
    let client = connect_by(&host, random.number(), &work, Some(clock)).await;
    make_map(&client, GUARDED, locks.partitions, &work).await;
    make_namespace(&client, &work).await;
    let (number, guarded) = (history.begin_client(), client.kv(GUARDED));
    let work = locks;
    let mut holder = Holder { client, history, work, random, number, guarded, writes: 0 };
    while !holder.is_over() {
        let session = holder.session();
        for _ in 0..1 + holder.random.below(30) {
            if holder.is_over() {
                break;
            }
            holder.turn(&session).await;
            holder.pause(20).await;
        }
        if holder.random.chance(50) {
            session.close().await;
        }
    }
    holder.history.lock().ended += 1;
}

impl Holder {
    fn is_over(&self) -> bool {
        self.history.lock().is_over
    }

    fn session(&self) -> Locks {
        let locks = self.client.locks(NAMESPACE).label(format!("holder {}", self.number));
        locks.lease(Duration::from_millis(self.work.lease_ms))
    }

    async fn pause(&mut self, most_ms: u64) {
        sleep(Duration::from_millis(self.random.below(most_ms))).await;
    }

    async fn turn(&mut self, session: &Locks) {
        let place = self.random.below(self.work.places);
        match self.random.below(100) {
            0..6 => self.force(place).await,
            6..12 => self.describe(place).await,
            _ => {
                if let Some(held) = self.acquire(session, place).await {
                    self.hold(held).await;
                }
            }
        }
    }

    /// An operator takes a lock away: mostly from who is known to have had it last.
    async fn force(&mut self, place: u64) {
        let Some((round, token)) = self.history.lock().locks.last.get(&place).copied() else {
            return;
        };
        let token = self.random.chance(80).then_some(token);
        // Sent again it may do its work twice, so there is another one beside it.
        let op = token.map_or(LockOp::ForceRelease, |token| LockOp::Release { token });
        self.history.tell_of_lock(LockNews::Forced { lock: round, token });
        let asked = self.history.ask_lock(self.number, round, op);
        let admin = self.client.admin().locks(NAMESPACE);
        let whose = GrantFilter { token, ..GrantFilter::default() };
        let told = admin.force_release(&name(round), whose, "an operator").await;
        let outcome = match told {
            // Whether it was held is not told.
            Ok(()) => Outcome::Ok(LockRet::Ended),
            Err(error) => match error.code() {
                Some(ErrorCode::NotLockHolder | ErrorCode::UnknownLock) => {
                    Outcome::Ok(LockRet::NotHolder)
                }
                _ => Outcome::Unknown,
            },
        };
        let is_known = !matches!(outcome, Outcome::Unknown);
        self.history.answer_lock(asked, outcome);
        if is_known {
            self.history.lock().locks.rounds.of(round).may_happen(asked.at_ms, op);
        }
    }

    async fn describe(&mut self, place: u64) {
        let round = self.history.lock().locks.rounds.current(place);
        let asked = self.history.ask_lock(self.number, round, LockOp::Describe);
        let told = self.client.admin().locks(NAMESPACE).describe(&name(round)).await;
        let outcome = match told {
            Ok(lock) => {
                let (holders, waiters) = (lock.holders.len(), lock.waiters.len());
                self.history.tell_of_lock(LockNews::Shown { lock: round, holders, waiters });
                let token = lock.holders.first().map(|holder| holder.token);
                Outcome::Ok(LockRet::Holder { token })
            }
            Err(error) if error.code() == Some(ErrorCode::UnknownLock) => {
                Outcome::Ok(LockRet::Holder { token: None })
            }
            Err(_) => Outcome::Failed,
        };
        self.history.answer_lock(asked, outcome);
    }

    /// Takes a lock, or waits for it.
    async fn acquire(&mut self, session: &Locks, place: u64) -> Option<Held> {
        let round = self.history.lock().locks.rounds.current(place);
        let request = self.history.new_request();
        let (tries, wait_ms) = (self.random.chance(35), self.random.below(2 * self.work.lease_ms));
        let op = match tries {
            true => LockOp::TryAcquire { request },
            false => LockOp::Acquire { request },
        };
        let asked = self.history.ask_lock(self.number, round, op);
        let guards = if is_guarding(round) { &[GUARDED][..] } else { &[] };
        let lock = session.lock(name(round)).guards(guards.iter().copied());
        let acquiring = async {
            match tries {
                true => lock.try_acquire().await,
                false => lock.wait(Duration::from_millis(wait_ms)).acquire().await,
            }
        };
        // Some lose their patience before, and drop the future.
        let patience = match self.random.chance(10) {
            true => self.random.below(500),
            false => u64::from(u32::MAX),
        };
        let told = timeout(Duration::from_millis(patience), acquiring).await;
        let waited_ms = self.history.lock().now_ms - asked.at_ms;
        let outcome = match &told {
            Ok(Ok(guard)) => Outcome::Ok(LockRet::Granted { token: guard.token() }),
            Ok(Err(error)) => refused(error, (!tries).then_some(wait_ms), waited_ms),
            Err(_) => Outcome::Unknown,
        };
        if matches!(outcome, Outcome::Unknown) {
            self.history.lock().locks.leases.given_up(request, asked.at_ms);
        }
        self.history.answer_lock(asked, outcome);
        let guard = told.ok()?.ok()?;
        let token = guard.token();
        self.history.lock().locks.last.insert(place, (round, token));
        self.history.tell_of_lock(LockNews::Granted {
            lock: round,
            request: request.0,
            token,
            invoked: asked.at_ms,
            guards: is_guarding(round),
        });
        Some(Held { guard, round, request })
    }

    /// Notes until when the lock is held by the client's own clock.
    fn look(&self, held: &Held) {
        // Clocks of clients show the world's time.
        let until = held.guard.held_until().0.as_millis();
        let until = u64::try_from(until).unwrap_or(u64::MAX);
        let (lock, token) = (held.round, held.guard.token());
        self.history.lock().locks.leases.counted_until(held.request, until);
        self.history.tell_of_lock(LockNews::HeldUntil { lock, token, until });
    }

    /// Holds a lock for a while, writes under it, and gives it back.
    async fn hold(&mut self, held: Held) {
        let hold_ms = match self.random.below(10) {
            0..7 => self.random.below(30),
            7..9 => self.random.below(200),
            _ => self.random.below(self.work.lease_ms),
        };
        let until = Instant::now() + Duration::from_millis(hold_ms);
        let (round, token, fence) = (held.round, held.guard.token(), held.guard.fence());
        let mut writes = self.random.below(3);
        let is_watched = self.random.chance(25);
        let mut lost = Box::pin(held.guard.lost());
        loop {
            self.look(&held);
            if writes > 0 && self.random.chance(50) {
                writes -= 1;
                self.write(round, fence.clone());
            }
            if !held.guard.is_held() || Instant::now() >= until {
                break;
            }
            let pause = Duration::from_millis(1 + self.random.below(20));
            tokio::select! {
                biased;
                _ = &mut lost, if is_watched => break,
                () = sleep(pause) => {}
            }
        }
        drop(lost);
        self.history.tell_of_lock(LockNews::GivenUp { lock: round, token });
        self.give_back(held).await;
        // As somebody does who looked at the lock before he was stopped.
        if self.random.chance(50) {
            self.pause(60).await;
            self.write(round, fence);
        }
    }

    async fn give_back(&mut self, Held { guard, round, .. }: Held) {
        // Nothing is sent where it is lost.
        if !guard.is_held() {
            return;
        }
        let release = LockOp::Release { token: guard.token() };
        let asked = self.history.ask_lock(self.number, round, release);
        let outcome = match self.random.chance(15) {
            true => {
                drop(guard);
                Outcome::Unknown
            }
            false => match guard.release().await {
                Ok(()) => Outcome::Ok(LockRet::Released),
                Err(LockError::NotHolder { .. }) => Outcome::Ok(LockRet::NotHolder),
                Err(_) => Outcome::Unknown,
            },
        };
        self.history.answer_lock(asked, outcome);
    }

    /// Writes a record under a fence, in a task of its own.
    fn write(&mut self, round: Round, fence: Fence) {
        let record = RecordName { producer: FIRST_HOLDER + self.number, number: self.writes };
        self.writes += 1;
        self.history.tell_of_lock(LockNews::Writing { record, lock: round, token: fence.token });
        let (key, value) = (format!("under {round}"), record.value(0));
        if self.random.chance(50) {
            let guarded = self.guarded.with_fence(fence);
            tokio::spawn(async move {
                if let Err(error) = guarded.put(key, value).await {
                    tracing::debug!(%error, "a fenced change is not stored, or not known to be");
                }
            });
        } else {
            let builder = self.client.producer(GUARDED).fence(fence);
            tokio::spawn(async move {
                let Ok(producer) = builder.build().await else { return };
                let record = Record::new(value).with_key(key).with_timestamp_ms(1);
                if let Err(error) = producer.send(record).await {
                    tracing::debug!(%error, "a fenced record is not stored, or not known to be");
                }
            });
        }
    }
}

fn name(round: Round) -> String {
    format!("lock-{round}")
}

/// Locks of one place in four guard nothing.
fn is_guarding(round: Round) -> bool {
    round.place % 4 != 3
}

/// What an acquire that came to nothing says. `wait_ms`: how long it was to wait, if it was; it took
/// `waited_ms`.
fn refused(error: &LockError, wait_ms: Option<u64>, waited_ms: u64) -> Outcome<LockRet> {
    let request_timeout_ms = u64::try_from(REQUEST_TIMEOUT.as_millis()).unwrap_or(u64::MAX);
    match error {
        LockError::Taken { .. } => Outcome::Ok(LockRet::Taken),
        // Before that time it was the node that ended the wait; later the client gave it up, and it may have
        // been granted until then.
        LockError::TimedOut { .. }
            if wait_ms.is_some_and(|wait_ms| waited_ms < wait_ms + request_timeout_ms) =>
        {
            Outcome::Failed
        }
        // The session's own earlier claim is in the way.
        LockError::Input(_) | LockError::InUse { .. } => Outcome::Failed,
        // No session: the acquire was not sent.
        LockError::Request(RequestError::Timeout { .. }) => Outcome::Failed,
        _ => Outcome::Unknown,
    }
}

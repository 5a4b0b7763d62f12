//! The task of one namespace: it owns the keeper, and writes what that wants written.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use plimsoll_locks::command::LocksEntry;
use plimsoll_locks::keeper::{AskError, GuardWork, Keeper, Reply as Outcome, Ticket};
use plimsoll_locks::state::{Answer, Event, Locks, SessionSummary};
use plimsoll_locks::time::Monotonic;
use plimsoll_protocol::error::{ErrorCode, ErrorResponse};
use plimsoll_protocol::ids::{LogId, Term, TopicName};
use plimsoll_replication::{Group, ProduceError, ProposeError};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::handle::{Command, Described, Grant, GrantFilter, Heard, Reply};
use super::{events, refused};
use crate::broker::Broker;
use crate::led::{
    AGAIN_AFTER, AWAKE_EVERY, AbortOnDrop, COMMANDS_PER_TURN, End, Proposal, while_led,
};
use crate::per_name::LockCounters;
use crate::refusals;

/// How long what happened waits to be published with what happens next. Each publication is a write of the
/// journal, which the next release would wait for: it goes right behind an entry that is written anyway.
const PUBLISH_AFTER: Duration = Duration::from_millis(5);
/// How much longer it waits for such an entry.
const PUBLISH_WITHIN: Duration = Duration::from_millis(5);
/// So much is published at once.
const PUBLISH_AT_ONCE: usize = 400;

/// What a task is made with.
pub(super) struct Begin {
    pub(super) broker: Arc<Broker>,
    pub(super) group: Arc<Group>,
    pub(super) namespace_id: u64,
    pub(super) term: Term,
    pub(super) counters: Arc<LockCounters>,
}

/// Whom to answer once something is committed.
enum Waiter {
    Done(Reply<()>),
    Granted(Reply<Grant>),
    Cancelled(Reply<Option<Grant>>),
    Deleted(Reply<BTreeSet<TopicName>>),
}

impl Waiter {
    /// Who asked may have gone away.
    fn answer(self, outcome: &Outcome) {
        let grant =
            |grant: plimsoll_locks::state::Grant| Grant { token: grant.token, slot: grant.slot };
        let other = |answer: &Answer| match answer {
            Answer::Refused(refusal) => refused::refused(refusal),
            Answer::Taken(by) => refused::taken(by),
            _ => refusals::bug("a lock answered something else"),
        };
        match self {
            Self::Done(reply) => drop(reply.send(match outcome {
                Outcome::Answer(Answer::Opened { .. } | Answer::Released | Answer::Done) => Ok(()),
                // It has ended already, which is what was asked for.
                Outcome::Answer(Answer::Ignored) => Ok(()),
                Outcome::Answer(answer) => Err(other(answer)),
                Outcome::TimedOut | Outcome::Superseded => Err(refusals::bug("nobody waits")),
            })),
            Self::Deleted(reply) => drop(reply.send(match outcome {
                Outcome::Answer(Answer::Deleted { guards }) => Ok(guards.clone()),
                Outcome::Answer(answer) => Err(other(answer)),
                Outcome::TimedOut | Outcome::Superseded => Err(refusals::bug("nobody waits")),
            })),
            Self::Granted(reply) => drop(reply.send(match outcome {
                Outcome::Answer(Answer::Granted(it)) => Ok(grant(*it)),
                Outcome::Answer(Answer::Cancelled) => Err(ErrorResponse::new(
                    ErrorCode::LockTaken,
                    "the wait was cancelled by its session: nothing of it is held",
                )),
                Outcome::Answer(answer) => Err(other(answer)),
                Outcome::TimedOut => Err(refused::timed_out()),
                Outcome::Superseded => Err(ErrorResponse::new(
                    ErrorCode::InvalidArgument,
                    "the same acquire was asked for again since, and is answered there",
                )),
            })),
            Self::Cancelled(reply) => drop(reply.send(match outcome {
                Outcome::Answer(Answer::Granted(it)) => Ok(Some(grant(*it))),
                // Over, or never begun: nothing of it is held.
                Outcome::Answer(
                    Answer::Cancelled
                    | Answer::Released
                    | Answer::Taken(_)
                    | Answer::Done
                    | Answer::Ignored,
                ) => Ok(None),
                Outcome::Answer(answer) => Err(other(answer)),
                Outcome::TimedOut | Outcome::Superseded => Err(refusals::bug("nobody waits")),
            })),
        }
    }
}

/// An entry that is being written.
struct InFlight {
    entry: LocksEntry,
    proposal: Proposal,
}

/// Events that are being written. Dropped, they are not proposed any more.
type Publishing = AbortOnDrop<Result<(), ProduceError>>;

struct Runner {
    broker: Arc<Broker>,
    group: Arc<Group>,
    namespace_id: u64,
    term: Term,
    counters: Arc<LockCounters>,
    keeper: Keeper,
    waiters: BTreeMap<Ticket, Waiter>,
    /// Entries that are being written, the oldest first.
    in_flight: VecDeque<InFlight>,
    publishing: Option<Publishing>,
    /// When what happened is to be published.
    publish_at: Option<Instant>,
    /// Not before: there was no majority.
    publish_after: Option<Instant>,
    propose_after: Option<Instant>,
    raising: JoinSet<(GuardWork, bool)>,
}

/// Runs the keeper until this node leads its partition no more.
pub(super) async fn run(begin: Begin, mut commands: mpsc::UnboundedReceiver<Command>) -> End {
    let (broker, group, term) = (Arc::clone(&begin.broker), Arc::clone(&begin.group), begin.term);
    let running = async {
        let runner = match Runner::begin(begin).await {
            Ok(runner) => runner,
            Err(end) => return end,
        };
        match runner.run(&mut commands).await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    };
    while_led(&broker, &group, term, running).await
}

impl Runner {
    async fn begin(begin: Begin) -> Result<Self, End> {
        let Begin { broker, group, namespace_id, term, counters } = begin;
        // Behind this entry lies whatever an earlier task of this term proposed and did not live to see.
        group.control(LocksEntry::default().encode(), term).await?;
        let now = broker.now().monotonic;
        let made = group.with_locks(|locks, _| Keeper::new(locks, now));
        Ok(Self {
            broker,
            group,
            namespace_id,
            term,
            counters,
            keeper: made.ok_or(End::Deposed)?,
            waiters: BTreeMap::new(),
            in_flight: VecDeque::new(),
            publishing: None,
            publish_at: None,
            publish_after: None,
            propose_after: None,
            raising: JoinSet::new(),
        })
    }

    async fn run(
        mut self,
        commands: &mut mpsc::UnboundedReceiver<Command>,
    ) -> Result<Infallible, End> {
        let mut awake = Instant::now();
        loop {
            let now = self.broker.now().monotonic;
            self.keeper.tick(now);
            let proposed = self.propose(now)?;
            self.publish(proposed)?;
            self.raise()?;
            if awake.elapsed() >= AWAKE_EVERY {
                awake = Instant::now();
                if self.with(|_, locks| locks.sessions().next().is_some())? {
                    self.group.keep_awake();
                }
            }
            let deadline = self.deadline(now).min(awake + AWAKE_EVERY);
            tokio::select! {
                biased;
                outcome = Proposal::outcome(self.in_flight.front_mut().map(|it| &mut it.proposal)) => {
                    self.written(outcome)?;
                }
                outcome = published(&mut self.publishing) => self.events_written(outcome)?,
                command = commands.recv() => {
                    self.carry_out(command.ok_or(End::Stopping)?)?;
                    for _ in 0..COMMANDS_PER_TURN {
                        let Ok(command) = commands.try_recv() else { break };
                        self.carry_out(command)?;
                    }
                }
                Some(raised) = self.raising.join_next() => {
                    match raised {
                        Ok((work, true)) => self.keeper.guards_raised(work),
                        Ok((work, false)) => self.keeper.guards_failed(work),
                        Err(error) => {
                            return Err(End::Failed(refusals::bug(&format!("raising floors: {error}"))));
                        }
                    }
                }
                () = sleep_until(deadline) => {}
            }
        }
    }

    fn with<T>(&mut self, look: impl FnOnce(&mut Keeper, &Locks) -> T) -> Result<T, End> {
        let (group, keeper) = (&self.group, &mut self.keeper);
        group.with_locks(|locks, _| look(keeper, locks)).ok_or(End::Deposed)
    }

    /// When there is something to do though nobody asks.
    fn deadline(&self, now: Monotonic) -> Instant {
        let due = self.keeper.deadline().map_or(u64::MAX, |due| due.0.saturating_sub(now.0));
        let due = Instant::now() + Duration::from_millis(due).min(AWAKE_EVERY);
        let publish_at = self.publish_at.filter(|_| self.publishing.is_none());
        let publish_at = self.publish_after.or(publish_at);
        [self.propose_after, publish_at].into_iter().flatten().fold(due, Instant::min)
    }

    /// Writes what the keeper wants, behind what is being written. Says whether it began to.
    fn propose(&mut self, now: Monotonic) -> Result<bool, End> {
        let waits = self.propose_after.is_some_and(|at| Instant::now() < at);
        // Entries are applied in the order in which the keeper gave them: none may be overtaken.
        if waits || !self.in_flight.iter().all(|it| it.proposal.is_proposed()) {
            return Ok(false);
        }
        self.propose_after = None;
        let Some(entry) = self.with(|keeper, locks| keeper.next_entry(locks, now))? else {
            return Ok(false);
        };
        let proposal = Proposal::new(&self.group, entry.encode(), self.term);
        self.in_flight.push_back(InFlight { entry, proposal });
        Ok(true)
    }

    /// The oldest entry was written, or was not.
    fn written(&mut self, outcome: Result<LogId, ProposeError>) -> Result<(), End> {
        let Some(InFlight { entry, .. }) = self.in_flight.pop_front() else { return Ok(()) };
        match outcome {
            Ok(id) => {
                let now = self.broker.now().monotonic;
                let (keeper, counters) = (&mut self.keeper, &self.counters);
                let followed = self.group.with_locks(|locks, outcomes| {
                    // Applied late, other leaders' entries may lie behind it: its answers are gone.
                    let applied = outcomes.of(id)?;
                    counters.add(&applied.tally);
                    Some(keeper.applied(&entry, applied, locks, now))
                });
                for (ticket, outcome) in followed.ok_or(End::Deposed)?.ok_or(End::Unknown)? {
                    if let Some(waiter) = self.waiters.remove(&ticket) {
                        waiter.answer(&outcome);
                    }
                }
                Ok(())
            }
            // It certainly did not enter the log.
            Err(ProposeError::NoQuorum(_)) => {
                if !self.in_flight.is_empty() {
                    // What was proposed behind it may have entered: another task looks at the log anew.
                    return Err(End::Unknown);
                }
                self.keeper.refused(entry);
                self.propose_after = Some(Instant::now() + AGAIN_AFTER);
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Publishes what happened, a moment after the first of it, behind an entry that was just `proposed` if
    /// one comes in time.
    fn publish(&mut self, proposed: bool) -> Result<(), End> {
        if self.publishing.is_some() {
            return Ok(());
        }
        let waiting = self.with(|_, locks| locks.unpublished().len())?;
        if waiting == 0 {
            self.publish_at = None;
            return Ok(());
        }
        let now = Instant::now();
        if self.publish_after.is_some_and(|after| now < after) {
            return Ok(());
        }
        self.publish_after = None;
        let at = *self.publish_at.get_or_insert_with(|| now + PUBLISH_AFTER + PUBLISH_WITHIN);
        let due = if proposed { now + PUBLISH_WITHIN >= at } else { now >= at };
        if waiting < PUBLISH_AT_ONCE && !due {
            return Ok(());
        }
        self.publish_at = None;
        let batch = self.with(|keeper, locks| {
            let next = keeper.next_events(locks);
            next.map(|events: Vec<&Event>| events::batch(&events))
        })?;
        if let Some((batch, header)) = batch {
            let group = Arc::clone(&self.group);
            self.publishing = Some(AbortOnDrop(tokio::spawn(async move {
                group.produce(batch, header).await?.await.map(drop)
            })));
        }
        Ok(())
    }

    fn events_written(&mut self, outcome: Result<(), ProduceError>) -> Result<(), End> {
        self.publishing = None;
        match outcome {
            Ok(()) => {
                self.keeper.events_done();
                Ok(())
            }
            Err(ProduceError::NoQuorum(_)) => {
                self.keeper.events_done();
                self.publish_after = Some(Instant::now() + AGAIN_AFTER);
                Ok(())
            }
            Err(ProduceError::NotLeader(_)) => Err(End::Deposed),
            Err(ProduceError::Unknown) => Err(End::Unknown),
            Err(ProduceError::Group(error)) => Err(End::Failed(refusals::open(&error))),
            Err(error) => Err(End::Failed(refusals::bug(&format!("publishing events: {error}")))),
        }
    }

    /// Has floors raised for what was granted; each again after a pause where that failed.
    fn raise(&mut self) -> Result<(), End> {
        while let Some(work) = self.with(Keeper::poll_guard_work)? {
            let (broker, namespace_id) = (Arc::clone(&self.broker), self.namespace_id);
            self.raising.spawn(async move {
                let raised = broker.raise_guards(namespace_id, &work).await;
                if let Err(error) = &raised {
                    tracing::debug!(lock = %work.lock, %error, "floors of a guarded topic not raised yet");
                    sleep(AGAIN_AFTER).await;
                }
                (work, raised.is_ok())
            });
        }
        Ok(())
    }

    /// Whoever asked is answered when it is written; at once where it is refused.
    fn wait(&mut self, asked: Result<Ticket, AskError>, waiter: Waiter) {
        match asked {
            Ok(ticket) => drop(self.waiters.insert(ticket, waiter)),
            Err(error) => {
                let error = refused::ask(&error);
                match waiter {
                    Waiter::Done(reply) => drop(reply.send(Err(error))),
                    Waiter::Granted(reply) => drop(reply.send(Err(error))),
                    Waiter::Cancelled(reply) => drop(reply.send(Err(error))),
                    Waiter::Deleted(reply) => drop(reply.send(Err(error))),
                }
            }
        }
    }

    fn carry_out(&mut self, command: Command) -> Result<(), End> {
        let now = self.broker.now().monotonic;
        match command {
            Command::Open { session, lease, label, reply } => {
                let asked =
                    self.with(|keeper, locks| keeper.open(locks, session, lease, label, now))?;
                self.wait(asked, Waiter::Done(reply));
            }
            Command::KeepAlive { session, reply } => {
                let kept = self.with(|keeper, locks| keeper.keep_alive(locks, session, now))?;
                let kept = kept.map_err(|gone| refused::ask(&gone.into()));
                drop(reply.send(kept));
            }
            Command::Close { session, reply } => {
                let asked = self.with(|keeper, locks| keeper.close(locks, session, now))?;
                self.wait(asked, Waiter::Done(reply));
            }
            Command::Acquire { acquire, patience, reply } => {
                let asked =
                    self.with(|keeper, locks| keeper.acquire(locks, *acquire, patience, now))?;
                self.wait(asked, Waiter::Granted(reply));
            }
            Command::Cancel { session, request, reply } => {
                let asked =
                    self.with(|keeper, locks| keeper.cancel(locks, session, request, now))?;
                self.wait(asked, Waiter::Cancelled(reply));
            }
            Command::Release { who, grant, reply } => {
                let asked = self.with(|keeper, locks| keeper.release(locks, who, grant, now))?;
                self.wait(asked, Waiter::Done(reply));
            }
            Command::ForceRelease { lock, grants, by, reply } => {
                let found = self.with(|_, locks| locks.describe(&lock, 0))?;
                match found.map(|found| grants.holders(&found)) {
                    None => drop(reply.send(Err(unknown_lock(lock.as_str())))),
                    Some(held) if held.is_empty() => drop(reply.send(Err(ErrorResponse::new(
                        ErrorCode::NotLockHolder,
                        format!("nobody holds lock {lock}{grants}; nothing was released"),
                    )))),
                    Some(held) => {
                        // All: also who is granted it until this is written.
                        let whose = if grants == GrantFilter::ALL { &[] } else { held.as_slice() };
                        let asked = self.keeper.force_release(&lock, whose, &by);
                        self.wait(asked.map_err(AskError::from), Waiter::Done(reply));
                    }
                }
            }
            Command::SetValue { session, lock, token, value, reply } => {
                let asked = self.with(|keeper, locks| {
                    keeper.set_value(locks, session, (lock, token), value, now)
                })?;
                self.wait(asked, Waiter::Done(reply));
            }
            Command::Delete { lock, forced, by, reply } => {
                let asked = self.keeper.delete(lock, forced, by);
                self.wait(asked.map_err(AskError::from), Waiter::Deleted(reply));
            }
            Command::List { after, count, reply } => {
                let listed = self.with(|_, locks| locks.list(after.as_ref(), count))?;
                drop(reply.send(listed));
            }
            Command::Describe { lock, waiters, reply } => {
                let described = self.with(|keeper, locks| {
                    let lock = locks.describe(&lock, waiters)?;
                    let left = |holder: &plimsoll_locks::state::HolderDescription| {
                        keeper.lease_left_ms(holder.id, now)
                    };
                    let leases_left_ms = lock.holders.iter().map(left).collect();
                    Some(Described { lock, leases_left_ms })
                })?;
                drop(reply.send(described));
            }
            Command::Sessions { after, count, reply } => {
                let listed = self.with(|keeper, locks| {
                    let listed = locks.list_sessions(after, count).into_iter();
                    let heard = |session: SessionSummary| {
                        let lease_left_ms = keeper.lease_left_ms(session.id, now);
                        Heard { session, lease_left_ms }
                    };
                    listed.map(heard).collect()
                })?;
                drop(reply.send(listed));
            }
            Command::Check { lock, slot, token, reply } => {
                let state = self.with(|_, locks| locks.token_state(&lock, slot, token))?;
                let _ = reply.send(state);
            }
        }
        Ok(())
    }
}

/// No lock of this name is in use.
pub(crate) fn unknown_lock(lock: &str) -> ErrorResponse {
    let message = format!(
        "no lock {lock:?} is held, waited for or guards a topic; `plimsoll lock list` lists those that are"
    );
    ErrorResponse::new(ErrorCode::UnknownLock, message)
}

/// How the publication went; never, where there is none. May be cancelled.
async fn published(publishing: &mut Option<Publishing>) -> Result<(), ProduceError> {
    match publishing {
        Some(AbortOnDrop(writing)) => (&mut *writing).await.unwrap_or(Err(ProduceError::Unknown)),
        None => std::future::pending().await,
    }
}

//! The task of one partition of `__groups`: it owns the coordinator, and writes what that proposes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use plimsoll_groups::command::GroupsEntry;
use plimsoll_groups::coordinator::{
    Assignment, Coordinator, Limits, Reply as Outcome, Ticket, Topics,
};
use plimsoll_groups::ids::{Epoch, GroupName, MemberId, TopicId, TopicPartition};
use plimsoll_groups::state::{Answer, Groups};
use plimsoll_groups::time::Monotonic;
use plimsoll_protocol::error::ErrorResponse;
use plimsoll_protocol::ids::Term;
use plimsoll_replication::{Group, ProposeError};
use plimsoll_state::catalog::Catalog;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::handle::{Command, Reply};
use super::refused;
use crate::broker::Broker;
use crate::led::{AGAIN_AFTER, AWAKE_EVERY, COMMANDS_PER_TURN, End, Proposal, while_led};
use crate::refusals;

/// The table of all topics is made anew that seldom at least: many are created or deleted at once.
const TOPICS_EVERY: Duration = Duration::from_millis(100);

/// What a task is made with.
pub(super) struct Begin {
    pub(super) broker: Arc<Broker>,
    pub(super) group: Arc<Group>,
    pub(super) term: Term,
}

/// Whom to answer once something is committed.
enum Waiter {
    Joined(Reply<Assignment>),
    Done(Reply<()>),
    Committed(Reply<Vec<TopicPartition>>),
}

impl Waiter {
    /// Who asked may have gone away.
    fn answer(self, outcome: Result<Outcome, ErrorResponse>) {
        let other = || refusals::bug("a consumer group answered something else");
        match self {
            Self::Joined(reply) => drop(reply.send(outcome.and_then(|outcome| match outcome {
                Outcome::Joined(assignment) => Ok(assignment),
                _ => Err(other()),
            }))),
            Self::Done(reply) => drop(reply.send(outcome.map(drop))),
            Self::Committed(reply) => drop(reply.send(outcome.and_then(|outcome| match outcome {
                Outcome::Committed { not_owned } => Ok(not_owned),
                _ => Err(other()),
            }))),
        }
    }
}

/// A heartbeat whose answer waits for a change.
struct Held {
    assignment: Assignment,
    until: Monotonic,
    reply: Reply<Assignment>,
}

type Member = (GroupName, MemberId);

/// The heartbeats whose answers wait.
#[derive(Default)]
struct Waiting {
    held: BTreeMap<Member, Held>,
    until: BTreeSet<(Monotonic, Member)>,
}

impl Waiting {
    fn hold(&mut self, member: Member, held: Held) {
        self.until.insert((held.until, member.clone()));
        self.held.insert(member, held);
    }

    fn take(&mut self, member: &Member) -> Option<Held> {
        let held = self.held.remove(member)?;
        self.until.remove(&(held.until, member.clone()));
        Some(held)
    }

    /// The next one that has waited for long enough.
    fn take_due(&mut self, now: Monotonic) -> Option<(Member, Held)> {
        let (_, member) = self.until.first().filter(|(until, _)| *until <= now)?.clone();
        let held = self.take(&member)?;
        Some((member, held))
    }
}

/// An entry that is being written.
struct InFlight {
    entry: GroupsEntry,
    proposal: Proposal,
}

struct Runner {
    broker: Arc<Broker>,
    group: Arc<Group>,
    term: Term,
    coordinator: Coordinator,
    waiters: BTreeMap<Ticket, (GroupName, Waiter)>,
    waiting: Waiting,
    in_flight: Option<InFlight>,
    propose_after: Option<Instant>,
    topics_after: Option<Instant>,
}

/// Runs the coordinator until this node leads its partition no more.
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
    async fn begin(Begin { broker, group, term }: Begin) -> Result<Self, End> {
        // Behind this entry lies whatever an earlier task of this term proposed and did not live to see.
        group.control(GroupsEntry::default().encode(), term).await?;
        let topics = topics(&broker.catalog());
        let now = broker.now().monotonic;
        let made =
            group.with_groups(|groups, _| Coordinator::new(Limits::default(), topics, groups, now));
        Ok(Self {
            broker,
            group,
            term,
            coordinator: made.ok_or(End::Deposed)?,
            waiters: BTreeMap::new(),
            waiting: Waiting::default(),
            in_flight: None,
            propose_after: None,
            topics_after: None,
        })
    }

    async fn run(
        mut self,
        commands: &mut mpsc::UnboundedReceiver<Command>,
    ) -> Result<std::convert::Infallible, End> {
        let mut catalog = self.broker.catalog_changes();
        // It may have changed since the coordinator was made.
        catalog.mark_changed();
        let mut awake = Instant::now();
        loop {
            let now = self.broker.now();
            self.topics_after.take_if(|at| *at <= Instant::now());
            self.with(|coordinator, groups| coordinator.advance(groups, now))?;
            self.propose()?;
            self.push()?;
            self.answer_late(now.monotonic)?;
            if awake.elapsed() >= AWAKE_EVERY {
                awake = Instant::now();
                if self.with(|_, groups| groups.iter().any(|(_, it)| !it.members().is_empty()))? {
                    self.group.keep_awake();
                }
            }
            let deadline = self.deadline(now.monotonic).min(awake + AWAKE_EVERY);
            tokio::select! {
                biased;
                outcome = Proposal::outcome(self.in_flight.as_mut().map(|it| &mut it.proposal)) => {
                    self.written(outcome.map(drop))?;
                }
                command = commands.recv() => {
                    self.carry_out(command.ok_or(End::Stopping)?)?;
                    for _ in 0..COMMANDS_PER_TURN {
                        let Ok(command) = commands.try_recv() else { break };
                        self.carry_out(command)?;
                    }
                }
                changed = catalog.changed(), if self.topics_after.is_none() => {
                    if changed.is_err() {
                        return Err(End::Stopping);
                    }
                    let topics = topics(&catalog.borrow_and_update());
                    let now = self.broker.now().monotonic;
                    self.with(|coordinator, groups| coordinator.set_topics(topics, groups, now))?;
                    self.topics_after = Some(Instant::now() + TOPICS_EVERY);
                }
                () = sleep_until(deadline) => {}
            }
        }
    }

    fn with<T>(&mut self, look: impl FnOnce(&mut Coordinator, &Groups) -> T) -> Result<T, End> {
        let (group, coordinator) = (&self.group, &mut self.coordinator);
        group.with_groups(|groups, _| look(coordinator, groups)).ok_or(End::Deposed)
    }

    /// When there is something to do though nobody asks.
    fn deadline(&self, now: Monotonic) -> Instant {
        let due = self.coordinator.next_deadline();
        let late = self.waiting.until.first().map(|(until, _)| *until);
        let due = due.into_iter().chain(late).min();
        let due = due.map_or(u64::MAX, |due| due.0.saturating_sub(now.0));
        let due = Instant::now() + Duration::from_millis(due).min(AWAKE_EVERY);
        [self.propose_after, self.topics_after].into_iter().flatten().fold(due, Instant::min)
    }

    /// Writes what the coordinator wants, when nothing is being written.
    fn propose(&mut self) -> Result<(), End> {
        let waits = self.propose_after.is_some_and(|at| Instant::now() < at);
        if self.in_flight.is_some() || waits {
            return Ok(());
        }
        self.propose_after = None;
        if let Some(entry) = self.with(Coordinator::propose)? {
            let proposal = Proposal::new(&self.group, entry.encode(), self.term);
            self.in_flight = Some(InFlight { entry, proposal });
        }
        Ok(())
    }

    fn written(&mut self, outcome: Result<(), ProposeError>) -> Result<(), End> {
        let Some(InFlight { entry, .. }) = self.in_flight.take() else { return Ok(()) };
        match outcome {
            Ok(()) => {
                let now = self.broker.now().monotonic;
                let (coordinator, waiters) = (&mut self.coordinator, &mut self.waiters);
                let term = self.term;
                let followed = self.group.with_groups(|groups, last| {
                    // Applied late, other leaders' entries may lie behind it: its answers are gone.
                    if last.entry.is_none_or(|entry| entry.term != term) {
                        return Err(End::Unknown);
                    }
                    follow(coordinator, waiters, &entry, &last.answers, groups, now)
                });
                followed.ok_or(End::Deposed)?
            }
            // It certainly did not enter the log.
            Err(ProposeError::NoQuorum(_)) => {
                self.coordinator.refused(entry);
                self.propose_after = Some(Instant::now() + AGAIN_AFTER);
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Answers heartbeats whose members should do something else now.
    fn push(&mut self) -> Result<(), End> {
        while let Some((group, id, assignment)) = self.with(Coordinator::poll_changed)? {
            if let Some(held) = self.waiting.take(&(group, id)) {
                // A member that is gone asks again.
                let _ = held.reply.send(Ok(assignment));
            }
        }
        Ok(())
    }

    /// Answers heartbeats that have waited for long enough: nothing has changed.
    fn answer_late(&mut self, now: Monotonic) -> Result<(), End> {
        while let Some(((group, id), held)) = self.waiting.take_due(now) {
            let epoch = held.assignment.epoch;
            let answer = self.with(|_, groups| {
                let member = groups.member(&group, id);
                match member.is_some_and(|member| member.joined <= epoch) {
                    true => Ok(held.assignment),
                    false => Err(refused::fenced(id, &group, groups)),
                }
            })?;
            let _ = held.reply.send(answer);
        }
        Ok(())
    }

    fn carry_out(&mut self, command: Command) -> Result<(), End> {
        let now = self.broker.now().monotonic;
        match command {
            Command::Join { group, member, spec, reply } => {
                self.end_held(&group, member)?;
                let asked = self.with(|machine, groups| {
                    let asked = machine.join(groups, &group, member, spec, now);
                    asked.map_err(|error| refused::join(&error))
                })?;
                self.wait(asked, group, Waiter::Joined(reply));
            }
            Command::Heartbeat { group, member, epoch, owned, reply } => {
                self.heartbeat(group, member, epoch, &owned, reply, now)?;
            }
            Command::Leave { group, member, epoch, reply } => {
                self.end_held(&group, member)?;
                let asked =
                    self.with(|machine, groups| machine.leave(groups, &group, member, epoch))?;
                match asked.map_err(|error| refused::heartbeat(&error)).transpose() {
                    Some(asked) => self.wait(asked, group, Waiter::Done(reply)),
                    None => drop(reply.send(Ok(()))),
                }
            }
            Command::Commit { group, by, offsets, reply } => {
                let asked = self.with(|machine, groups| {
                    let asked = machine.commit(groups, &group, by, offsets, now);
                    asked.map_err(|error| refused::commit(&error, &group, groups))
                })?;
                self.wait(asked, group, Waiter::Committed(reply));
            }
            Command::Reset { group, offsets, forced, reply } => {
                let asked = self.with(|machine, groups| {
                    let asked = machine.reset(groups, &group, offsets, forced, now);
                    asked.map_err(|error| refused::commit(&error, &group, groups))
                })?;
                self.wait(asked, group, Waiter::Done(reply));
            }
            Command::Delete { group, forced, reply } => {
                let asked = self.with(|machine, groups| {
                    let asked = machine.delete(groups, &group, forced);
                    asked.map_err(|error| refused::commit(&error, &group, groups))
                })?;
                self.wait(asked, group, Waiter::Done(reply));
            }
            Command::List { after, count, reply } => {
                let list = |machine: &mut Coordinator, groups: &Groups| {
                    machine.list(groups, after.as_ref(), count)
                };
                drop(reply.send(self.with(list)?));
            }
            Command::Describe { group, reply } => {
                let described =
                    self.with(|machine, groups| machine.describe(groups, &group, now))?;
                drop(reply.send(described));
            }
        }
        Ok(())
    }

    /// A heartbeat of before is of a membership that ends.
    fn end_held(&mut self, group: &GroupName, member: MemberId) -> Result<(), End> {
        if let Some(held) = self.waiting.take(&(group.clone(), member)) {
            let fenced = self.with(|_, groups| refused::fenced(member, group, groups))?;
            let _ = held.reply.send(Err(fenced));
        }
        Ok(())
    }

    /// Whoever asked is answered when it is written; at once where it is refused.
    fn wait(&mut self, asked: Result<Ticket, ErrorResponse>, group: GroupName, waiter: Waiter) {
        match asked {
            Ok(ticket) => drop(self.waiters.insert(ticket, (group, waiter))),
            Err(error) => waiter.answer(Err(error)),
        }
    }

    fn heartbeat(
        &mut self,
        group: GroupName,
        member: MemberId,
        epoch: Epoch,
        owned: &[TopicPartition],
        reply: Reply<Assignment>,
        now: Monotonic,
    ) -> Result<(), End> {
        let key = (group, member);
        if let Some(earlier) = self.waiting.take(&key) {
            // The member speaks again: this was what it should do when it spoke before.
            let _ = earlier.reply.send(Ok(earlier.assignment));
        }
        let heard = self.with(|machine, groups| {
            machine.heartbeat(groups, &key.0, member, epoch, Some(owned), now)
        })?;
        match heard {
            Ok(assignment) => {
                let is_so = assignment.epoch == epoch
                    && assignment.partitions.len() == owned.len()
                    && owned.iter().all(|at| assignment.partitions.binary_search(at).is_ok());
                if is_so {
                    let until = now.plus(assignment.heartbeat_ms.into());
                    self.waiting.hold(key, Held { assignment, until, reply });
                } else {
                    let _ = reply.send(Ok(assignment));
                }
            }
            Err(error) => drop(reply.send(Err(refused::heartbeat(&error)))),
        }
        Ok(())
    }
}

/// Tells the coordinator that its entry is folded, and answers those who wait for it.
fn follow(
    coordinator: &mut Coordinator,
    waiters: &mut BTreeMap<Ticket, (GroupName, Waiter)>,
    entry: &GroupsEntry,
    answers: &[Answer],
    groups: &Groups,
    now: Monotonic,
) -> Result<(), End> {
    if entry.commands().count() != answers.len() {
        // A snapshot came in between: what was answered is not known here.
        return Err(End::Unknown);
    }
    for (ticket, outcome) in coordinator.applied(entry, answers, groups, now) {
        let Some((group, waiter)) = waiters.remove(&ticket) else { continue };
        waiter.answer(match outcome {
            Outcome::Refused(refusal) => Err(refused::refused(&refusal, &group, groups)),
            outcome => Ok(outcome),
        });
    }
    Ok(())
}

fn topics(catalog: &Catalog) -> Topics {
    let partitions = catalog.topics().map(|(_, meta)| {
        (TopicId(meta.topic_id), u32::try_from(meta.partitions.len()).unwrap_or(u32::MAX))
    });
    Topics { partitions: partitions.collect(), next: TopicId(catalog.next_topic_id()) }
}

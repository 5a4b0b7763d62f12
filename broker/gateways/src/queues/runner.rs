//! The task of one queue: it owns the delivery machine, and does what that asks for.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use plimsoll_delivery::command::{QueueCommand, QueueEntry, SubscriptionId};
use plimsoll_delivery::config::QueueConfig;
use plimsoll_delivery::dispatch::{ConsumerId, Delivery, Dispatcher, Limits, Outcome, SettleError};
use plimsoll_delivery::state::QueueState;
use plimsoll_delivery::time::Now;
use plimsoll_protocol::api::QueueStanding;
use plimsoll_protocol::ids::{Offset, Term};
use plimsoll_replication::{Group, ProposeError};
use plimsoll_state::catalog::Catalog;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::consumers::Consumers;
use super::dead_letters::DeadLetters;
use super::expiry::Expiry;
use super::handle::{Attached, Command, Delivered, Gate, Pulled, QueueHandle, Settled, Settling};
use super::records::{Found, Records};
use super::registry::QueueName;
use super::settings;
use crate::broker::Broker;
use crate::led::{AGAIN_AFTER, AWAKE_EVERY, COMMANDS_PER_TURN, End, Proposal, while_led};

/// Reads that one turn makes, of each kind, before messages go out.
const READS_PER_TURN: usize = 8;
/// How often time is looked at while an entry is being written.
const WRITING_PAUSE: Duration = Duration::from_millis(5);

/// Whom to answer once an entry is committed.
enum Waiter {
    Settled(oneshot::Sender<Settled>, Settled),
    Cancelled(oneshot::Sender<bool>),
    Purged(oneshot::Sender<u64>, u64),
}

impl Waiter {
    /// Who asked may have gone away.
    fn answer(self) {
        match self {
            Self::Settled(reply, refused) => drop(reply.send(refused)),
            Self::Cancelled(reply) => drop(reply.send(true)),
            Self::Purged(reply, messages) => drop(reply.send(messages)),
        }
    }
}

/// An entry that is being written.
struct InFlight {
    entry: QueueEntry,
    waiters: Vec<Waiter>,
    proposal: Proposal,
}

/// See the module.
pub(super) struct Runner {
    broker: Arc<Broker>,
    group: Arc<Group>,
    name: QueueName,
    id: SubscriptionId,
    topic_id: u64,
    term: Term,
    config: QueueConfig,
    dispatcher: Dispatcher,
    records: Records,
    /// The offset after the last record that the machine was told of.
    told: Offset,
    consumers: Consumers,
    dead_letters: DeadLetters,
    /// Where it ends when nobody uses it.
    expiry: Option<Expiry>,
    gate: Arc<Gate>,
    to_itself: mpsc::WeakUnboundedSender<Command>,
    in_flight: Option<InFlight>,
    /// Whose settlements gather for the next entry.
    gathering: Vec<Waiter>,
    /// An entry is to be proposed again: whose settlements are in it.
    again: Option<Vec<Waiter>>,
    propose_after: Option<Instant>,
    /// Consumers that asked for one message, which must be read first.
    pulls: VecDeque<(ConsumerId, oneshot::Sender<Option<Pulled>>)>,
    /// Handed out, and to be read from the log first.
    unread: VecDeque<Delivery>,
}

/// What a task is made with.
pub(super) struct Begin {
    pub(super) broker: Arc<Broker>,
    pub(super) group: Arc<Group>,
    pub(super) name: QueueName,
    pub(super) id: SubscriptionId,
    pub(super) topic_id: u64,
    pub(super) term: Term,
    pub(super) config: QueueConfig,
    pub(super) from_latest: bool,
    pub(super) gate: Arc<Gate>,
    /// The task's own way in, for consumers' handles; it does not keep the task.
    pub(super) to_itself: mpsc::WeakUnboundedSender<Command>,
}

/// Runs the queue until this node leads it no more.
pub(super) async fn run(begin: Begin, mut commands: mpsc::UnboundedReceiver<Command>) -> End {
    let (broker, group, term) = (Arc::clone(&begin.broker), Arc::clone(&begin.group), begin.term);
    let running = async {
        let runner = match Runner::begin(begin).await {
            Ok(runner) => runner,
            Err(end) => return end,
        };
        runner.run(&mut commands).await
    };
    while_led(&broker, &group, term, running).await
}

impl Runner {
    /// Sees to it that the partition's state has the queue, configured as the catalog says.
    async fn begin(begin: Begin) -> Result<Self, End> {
        let Begin { broker, group, name, id, topic_id, term, config, from_latest, gate, to_itself } =
            begin;
        let found = group.with_queues(|queues| queues.get(id).map(drop)).ok_or(End::Deposed)?;
        let start = match from_latest {
            true => *group.high_watermark().borrow(),
            false => group.log().bounds().log_start_offset,
        };
        // Also where nothing changes: behind this entry lies whatever an earlier task of this term proposed
        // and did not live to see.
        let boxed = Box::new(config.clone());
        let command = match found {
            Some(()) => QueueCommand::Configure { config: boxed },
            None => QueueCommand::Open { start, config: boxed },
        };
        let entry = QueueEntry { subscription: id, commands: vec![command] };
        propose(&group, &entry, term).await?;
        let keyed = config.mode == plimsoll_delivery::config::Mode::KeyShared;
        let made = group.with_queues(|queues| {
            let state = queues.get(id)?;
            Some((Dispatcher::new(id, state, Limits::default()), state.end()))
        });
        let (mut dispatcher, told) = made.flatten().ok_or(End::Deposed)?;
        let log_start = group.log().bounds().log_start_offset;
        if log_start > Offset(0) {
            with_state(&group, id, |state| dispatcher.log_starts_at(log_start, state))?;
        }
        let dead_letters = DeadLetters::new(&broker, &name, config.dead_letter.as_ref());
        let expiring = match id {
            SubscriptionId::QUEUE => {
                broker.expiring().of(&broker.catalog()).get(&name.topic).cloned()
            }
            _ => None,
        };
        let expiry = expiring.map(|queue| Expiry::new(queue, broker.now().monotonic));
        Ok(Self {
            broker,
            group,
            name,
            id,
            topic_id,
            term,
            config,
            dispatcher,
            records: Records::new(keyed),
            told,
            consumers: Consumers::default(),
            dead_letters,
            expiry,
            gate,
            to_itself,
            in_flight: None,
            gathering: Vec::new(),
            again: None,
            propose_after: None,
            pulls: VecDeque::new(),
            unread: VecDeque::new(),
        })
    }

    async fn run(mut self, commands: &mut mpsc::UnboundedReceiver<Command>) -> End {
        // Before the look: what changes after it is news.
        let mut catalog = self.broker.catalog_changes();
        // It may have changed since the queue was asked for.
        catalog.mark_changed();
        let mut watermark = self.group.high_watermark();
        let mut awake = Instant::now();
        let mut copies = JoinSet::new();
        loop {
            let busy = match self.turn(&mut watermark).await {
                Ok(busy) => busy,
                Err(end) => return end,
            };
            let orders = self.dead_letters.next(&mut self.dispatcher);
            if !orders.is_empty() {
                copies.spawn(self.dead_letters.copy(&self.group, orders));
            }
            let deadline = match self.deadline() {
                Some(_) if awake.elapsed() >= AWAKE_EVERY => {
                    self.group.keep_awake();
                    awake = Instant::now();
                    self.deadline()
                }
                deadline => deadline,
            };
            let wait = async {
                match (busy, deadline) {
                    (true, _) => tokio::task::yield_now().await,
                    (false, Some(at)) => sleep_until(at).await,
                    (false, None) => std::future::pending().await,
                }
            };
            let is_ending = self.expiry.as_ref().is_some_and(Expiry::is_ending);
            tokio::select! {
                biased;
                outcome = in_flight(&mut self.in_flight) => {
                    if let Some(end) = self.written(outcome) {
                        return end;
                    }
                }
                () = Expiry::ended(&mut self.expiry) => {
                    // Before anybody is served again: it may be gone.
                    let catalog = self.broker.catalog();
                    if let Some(end) = self.follow(&catalog).await {
                        return end;
                    }
                }
                command = commands.recv(), if !is_ending => {
                    let Some(command) = command else { return End::Stopping };
                    self.carry_out(command);
                    for _ in 0..COMMANDS_PER_TURN {
                        let Ok(command) = commands.try_recv() else { break };
                        self.carry_out(command);
                    }
                }
                Some(copied) = copies.join_next() => {
                    self.dead_letters.made();
                    match copied {
                        Ok(offsets) => {
                            offsets.into_iter().for_each(|offset| self.dispatcher.copied(offset));
                        }
                        // The next task orders them again.
                        Err(error) => tracing::error!(%error, "the copies of dead letters failed"),
                    }
                }
                changed = watermark.changed() => {
                    if changed.is_err() {
                        return End::Deposed;
                    }
                }
                changed = catalog.changed() => {
                    if changed.is_err() {
                        return End::Stopping;
                    }
                    let catalog = catalog.borrow_and_update().clone();
                    if let Some(end) = self.follow(&catalog).await {
                        return end;
                    }
                }
                () = wait => {}
            }
        }
    }

    fn now(&self) -> Now {
        self.broker.now()
    }

    /// Begins the lease of a queue that ends unused anew while it is used, and ends it where it was not.
    fn expire(&mut self) {
        let now = self.now().monotonic;
        let Some(expiry) = &mut self.expiry else { return };
        match self.dispatcher.consumers() > 0 || !self.pulls.is_empty() {
            true => expiry.used(now),
            false => expiry.end_if_due(&self.broker, &self.group, self.term, now),
        }
    }

    /// Somebody uses the queue in this moment.
    fn used(&mut self, now: Now) {
        if let Some(expiry) = &mut self.expiry {
            expiry.used(now.monotonic);
        }
    }

    fn with_state<T>(
        &mut self,
        look: impl FnOnce(&mut Dispatcher, &QueueState) -> T,
    ) -> Result<T, End> {
        let (group, dispatcher) = (&self.group, &mut self.dispatcher);
        with_state(group, self.id, |state| look(dispatcher, state))
    }

    /// Does what can be done now. Answers whether there is more.
    async fn turn(&mut self, watermark: &mut watch::Receiver<Offset>) -> Result<bool, End> {
        let mut busy = self.tell(watermark).await?;
        let now = self.now();
        self.with_state(|dispatcher, state| dispatcher.advance(state, now))?;
        busy |= self.read_on().await?;
        self.pull().await?;
        // What went out makes room for what is to be read.
        busy |= self.deliver().await?;
        self.propose();
        self.expire();
        let length = self.dispatcher.len();
        let unsettled = self.with_state(|_, state| (state.unsettled_bytes(), state.unsettled()))?;
        let bytes = unsettled.0 / unsettled.1.max(1) * length;
        self.gate.length.store(length, Ordering::Relaxed);
        self.gate.bytes.store(bytes, Ordering::Relaxed);
        self.gate.counted.store(self.told.0, Ordering::Release);
        let has_delayed_max =
            self.dispatcher.admit(true).is_err() && self.dispatcher.admit(false).is_ok();
        self.gate.has_delayed_max.store(has_delayed_max, Ordering::Relaxed);
        Ok(busy)
    }

    /// Tells the machine of what was committed since.
    async fn tell(&mut self, watermark: &mut watch::Receiver<Offset>) -> Result<bool, End> {
        let upto = *watermark.borrow_and_update();
        for _ in 0..READS_PER_TURN {
            if self.told >= upto {
                return Ok(false);
            }
            let firsts = self.records.read(&self.group, self.told, upto).await?;
            let now = self.now();
            for first in &firsts {
                let Some(batch) = self.records.batch(*first) else { continue };
                for message in batch.messages() {
                    if message.offset >= self.told {
                        self.dispatcher.appended(message, now);
                        self.told = Offset(message.offset.0 + 1);
                    }
                }
            }
            if firsts.is_empty() {
                return Ok(false);
            }
        }
        Ok(self.told < upto)
    }

    /// Reads what the machine wants to know of older messages.
    async fn read_on(&mut self) -> Result<bool, End> {
        for _ in 0..READS_PER_TURN {
            let Some(want) = self.with_state(Dispatcher::wants)? else { return Ok(false) };
            let firsts = match self.records.read(&self.group, want.from, self.told).await {
                Ok(firsts) => firsts,
                Err(error) => {
                    let start = self.group.log().bounds().log_start_offset;
                    if want.from >= start {
                        return Err(error.into());
                    }
                    // Retention was shorter than the subscription.
                    self.with_state(|dispatcher, state| dispatcher.log_starts_at(start, state))?;
                    continue;
                }
            };
            if firsts.is_empty() {
                return Ok(false);
            }
            let now = self.now();
            let (records, dispatcher) = (&self.records, &mut self.dispatcher);
            with_state(&self.group, self.id, |state| {
                for first in firsts {
                    let Some(batch) = records.batch(first) else { continue };
                    for message in batch.messages().filter(|message| message.offset >= want.from) {
                        if !dispatcher.read(message, state, now) {
                            return;
                        }
                    }
                }
            })?;
        }
        Ok(true)
    }

    /// Serves those who asked for one message, as long as what they may get need not be read first.
    async fn pull(&mut self) -> Result<(), End> {
        let now = self.now();
        while let Some((consumer, reply)) = self.pulls.pop_front() {
            let Some(delivery) = self.dispatcher.pull(consumer, now) else {
                if !self.dispatcher.is_empty() && self.wants_more() {
                    self.pulls.push_front((consumer, reply));
                    return Ok(());
                }
                // Who asked may have gone away.
                let _ = reply.send(None);
                continue;
            };
            let Some(found) = self.record(&delivery).await? else {
                // Retention took it: the next one, if there is one.
                self.give_back(&delivery, Outcome::Reject);
                self.pulls.push_front((consumer, reply));
                continue;
            };
            let left = self.dispatcher.len();
            let pulled = Pulled { message: delivered(&delivery, found), left };
            if reply.send(Some(pulled)).is_err() {
                self.give_back(&delivery, Outcome::Release { delay_ms: Some(0) });
            }
        }
        Ok(())
    }

    fn wants_more(&mut self) -> bool {
        matches!(self.with_state(Dispatcher::wants), Ok(Some(_)))
    }

    /// Hands out what is ready to those who have room.
    async fn deliver(&mut self) -> Result<bool, End> {
        let now = self.now();
        let mut has_delivered = false;
        loop {
            while let Some(delivery) = self.unread.pop_front() {
                self.deliver_unread(delivery).await?;
            }
            let Some(delivery) = self.dispatcher.poll(now) else { break };
            has_delivered = true;
            match self.records.find(delivery.offset) {
                Some(found) => self.hand_over(&delivery, found),
                None => self.unread.push_back(delivery),
            }
        }
        for consumer in self.consumers.flush() {
            self.dispatcher.set_prefetch(consumer, 0, 0);
        }
        Ok(has_delivered)
    }

    fn hand_over(&mut self, delivery: &Delivery, found: Found) {
        if self.consumers.deliver(delivery.consumer, delivered(delivery, found)) {
            self.dispatcher.set_prefetch(delivery.consumer, 0, 0);
        }
    }

    /// A message that was read longer ago than is kept.
    async fn deliver_unread(&mut self, delivery: Delivery) -> Result<(), End> {
        match self.record(&delivery).await? {
            Some(found) => self.hand_over(&delivery, found),
            // Retention took it away between its reading and its turn.
            None => self.give_back(&delivery, Outcome::Reject),
        }
        Ok(())
    }

    /// The record of a delivery; none where the log no longer has it.
    async fn record(&mut self, delivery: &Delivery) -> Result<Option<Found>, End> {
        let offset = delivery.offset;
        if self.records.find(offset).is_none()
            && let Err(error) = self.records.read(&self.group, offset, self.told).await
            && offset >= self.group.log().bounds().log_start_offset
        {
            return Err(error.into());
        }
        Ok(self.records.find(offset))
    }

    fn give_back(&mut self, delivery: &Delivery, outcome: Outcome) {
        let (Delivery { consumer, offset, attempt, .. }, now) = (*delivery, self.now());
        // Its consumer may be gone, which gives it back as well.
        let _ = self.dispatcher.settle(consumer, offset, attempt, outcome, now);
    }

    /// Proposes what has gathered, unless something is being written.
    fn propose(&mut self) {
        if self.in_flight.is_some() {
            return;
        }
        if self.propose_after.take_if(|at| Instant::now() >= *at).is_none()
            && self.propose_after.is_some()
        {
            return;
        }
        let now = self.now();
        // What is proposed again comes before what has gathered since.
        let waiters = self.again.take().unwrap_or_else(|| std::mem::take(&mut self.gathering));
        match self.dispatcher.propose(now) {
            Some(entry) => {
                #[cfg(feature = "planted")]
                let waiters = answered_already(waiters);
                let proposal = Proposal::new(&self.group, entry.encode(), self.term);
                self.in_flight = Some(InFlight { entry, waiters, proposal });
            }
            // Nothing had to be written for them.
            None => waiters.into_iter().for_each(Waiter::answer),
        }
    }

    /// An entry was written, or was not.
    fn written(&mut self, outcome: Result<(), ProposeError>) -> Option<End> {
        let InFlight { entry, waiters, .. } = self.in_flight.take()?;
        match outcome {
            Ok(()) => {
                let now = self.now();
                let told =
                    self.with_state(|dispatcher, state| dispatcher.applied(&entry, state, now));
                waiters.into_iter().for_each(Waiter::answer);
                told.err()
            }
            // It certainly did not enter the log, and this node may lead on.
            Err(ProposeError::NoQuorum(_)) => {
                self.dispatcher.refused(entry);
                self.again = Some(waiters);
                self.propose_after = Some(Instant::now() + AGAIN_AFTER);
                None
            }
            Err(error) => Some(error.into()),
        }
    }

    /// When to look again if nothing else happens.
    fn deadline(&mut self) -> Option<Instant> {
        let now = self.now();
        let due = self.dispatcher.next_deadline(now);
        let expiry = self.expiry.as_ref().filter(|expiry| !expiry.is_ending());
        let unused = expiry.filter(|_| self.dispatcher.consumers() == 0).map(Expiry::due);
        let due = [due, unused].into_iter().flatten().min();
        let due = due.map(|due| {
            Instant::now() + Duration::from_millis(due.0.saturating_sub(now.monotonic.0))
        });
        // What waits for the entry that is being written is due when that is.
        let pause = (self.in_flight.is_some() || self.propose_after.is_some())
            .then(|| Instant::now() + WRITING_PAUSE);
        let due = due.map(|due| pause.map_or(due, |pause| due.max(pause)));
        let awake = (due.is_some() || !self.consumers.is_empty() || !self.dead_letters.is_idle())
            .then(|| Instant::now() + AWAKE_EVERY);
        [due, self.propose_after, awake].into_iter().flatten().min()
    }

    fn carry_out(&mut self, command: Command) {
        let now = self.now();
        match command {
            Command::Attach { spec, name, reply } => {
                self.used(now);
                let attached = self.dispatcher.attach(spec).map(|consumer| {
                    let commands = self.to_itself.upgrade().expect("somebody has just used it");
                    let queue = QueueHandle { commands, gate: Arc::clone(&self.gate) };
                    let (attached, deliveries, backlog) =
                        Attached::new(consumer, self.config.lease_ms, queue);
                    self.consumers.insert(consumer, name, spec, deliveries, backlog);
                    attached
                });
                // Where nobody takes it, its end says so to this task.
                let _ = reply.send(attached);
            }
            Command::Detach { consumer } => self.detach(consumer, now),
            Command::Resume { consumer } => {
                if let Some(known) = self.consumers.get(consumer) {
                    let (count, bytes) = (known.spec.prefetch_count, known.spec.prefetch_bytes);
                    self.dispatcher.set_prefetch(consumer, count, bytes);
                }
            }
            Command::Prefetch { consumer, count, bytes } => {
                if let Some(known) = self.consumers.get_mut(consumer) {
                    (known.spec.prefetch_count, known.spec.prefetch_bytes) = (count, bytes);
                    // One that is held back gets its own when it has taken what waits.
                    if !known.is_held_back() {
                        self.dispatcher.set_prefetch(consumer, count, bytes);
                    }
                }
            }
            Command::Settle { consumer, items, reply } => {
                let mut refused = Vec::new();
                let all = items.len();
                for Settling { offset, attempt, outcome } in items {
                    #[cfg(feature = "planted")]
                    let outcome = accepted_already(outcome);
                    let settled = self.dispatcher.settle(consumer, offset, attempt, outcome, now);
                    refused.extend(settled.err());
                }
                match refused.len() == all {
                    true => drop(reply.send(refused)),
                    false => self.gathering.push(Waiter::Settled(reply, refused)),
                }
            }
            Command::Extend { consumer, items, lease_ms, reply } => {
                let extend = |(offset, attempt)| {
                    self.dispatcher.extend(consumer, offset, attempt, lease_ms, now).err()
                };
                let refused: Vec<SettleError> = items.into_iter().filter_map(extend).collect();
                let _ = reply.send(refused);
            }
            Command::Pull { consumer, reply } => {
                self.used(now);
                self.pulls.push_back((consumer, reply));
            }
            Command::Retire { consumer, reply } => {
                self.used(now);
                self.dispatcher.retire(consumer);
                if let Some(known) = self.consumers.get_mut(consumer) {
                    // One that was held back resumes with nothing.
                    (known.spec.prefetch_count, known.spec.prefetch_bytes) = (0, 0);
                }
                let _ = reply.send(self.dispatcher.consumers());
            }
            Command::Cancel { offset, reply } => {
                match self.with_state(|dispatcher, state| dispatcher.cancel(offset, state)) {
                    Ok(true) => self.gathering.push(Waiter::Cancelled(reply)),
                    Ok(false) | Err(_) => drop(reply.send(false)),
                }
            }
            Command::Purge { reply } => {
                let messages = self.dispatcher.purge();
                self.gathering.push(Waiter::Purged(reply, messages));
            }
            Command::Explain { offset, reply } => {
                let found =
                    self.with_state(|dispatcher, state| dispatcher.explain(offset, state, now));
                if let Ok(found) = found {
                    use plimsoll_delivery::dispatch::Explanation::{Granting, Held};
                    let consumer = match found {
                        Held { consumer, .. } | Granting { consumer } => {
                            self.consumers.get(consumer).map(|known| known.name.clone())
                        }
                        _ => None,
                    };
                    let consumers = self.dispatcher.consumers();
                    let letters = self.dead_letters.destination();
                    let told = settings::explained(found, consumer, consumers, letters, now);
                    let _ = reply.send(told);
                }
            }
            Command::Describe { is_use, reply } => {
                if is_use {
                    self.used(now);
                }
                if let Ok(standing) = self.with_state(standing) {
                    let _ = reply.send(standing);
                }
            }
        }
    }

    fn detach(&mut self, consumer: ConsumerId, now: Now) {
        // Until now. Who only held something or asks for single messages used it when it did.
        if self.dispatcher.consumers() > 0 {
            self.used(now);
        }
        self.dispatcher.detach(consumer, now);
        self.consumers.remove(consumer);
        self.pulls.retain(|(waiting, _)| *waiting != consumer);
    }

    /// Does as the catalog says now.
    async fn follow(&mut self, catalog: &Catalog) -> Option<End> {
        let topic = catalog.topic(&self.name.topic);
        let topic = topic.filter(|topic| topic.topic_id == self.topic_id);
        let wanted = topic.and_then(|topic| topic.subscriptions.get(&self.name.subscription));
        let Some(wanted) = wanted.filter(|wanted| wanted.id == self.id.0) else {
            return Some(End::Deleted);
        };
        let config = settings::config(&wanted.settings);
        if config == self.config {
            return None;
        }
        // One entry at a time: what is being written goes first.
        if self.in_flight.is_some() {
            let outcome = in_flight(&mut self.in_flight).await;
            if let Some(end) = self.written(outcome) {
                return Some(end);
            }
        }
        let command = QueueCommand::Configure { config: Box::new(config.clone()) };
        let entry = QueueEntry { subscription: self.id, commands: vec![command] };
        if let Err(error) = propose(&self.group, &entry, self.term).await {
            return Some(error.into());
        }
        if !self.dispatcher.reconfigure(&config) {
            return Some(End::Reconfigured);
        }
        self.dead_letters.set_target(config.dead_letter.as_ref());
        self.config = config;
        None
    }
}

fn delivered(delivery: &Delivery, found: Found) -> Delivered {
    Delivered {
        offset: delivery.offset,
        attempt: delivery.attempt,
        base_timestamp_ms: found.base_timestamp_ms,
        record: found.record,
    }
}

fn standing(dispatcher: &mut Dispatcher, state: &QueueState) -> QueueStanding {
    let delayed = dispatcher.delayed() as u64;
    QueueStanding {
        ready: dispatcher.len().saturating_sub(delayed),
        held: dispatcher.held(),
        delayed,
        dead: state.buried().count() as u64,
        unsettled: state.unsettled(),
        unsettled_bytes: state.unsettled_bytes(),
        consumers: dispatcher.consumers(),
        floor: state.floor(),
        end: state.end(),
    }
}

fn with_state<T>(
    group: &Group,
    id: SubscriptionId,
    look: impl FnOnce(&QueueState) -> T,
) -> Result<T, End> {
    group.with_queues(|queues| queues.get(id).map(look)).flatten().ok_or(End::Deposed)
}

async fn propose(group: &Arc<Group>, entry: &QueueEntry, term: Term) -> Result<(), ProposeError> {
    group.control(entry.encode(), term).await
}

/// How what is being written went; never, while nothing is.
async fn in_flight(in_flight: &mut Option<InFlight>) -> Result<(), ProposeError> {
    Proposal::outcome(in_flight.as_mut().map(|writing| &mut writing.proposal)).await.map(drop)
}

/// With the bug planted: who waits for an entry is answered, and nobody waits for it.
#[cfg(feature = "planted")]
fn answered_already(waiters: Vec<Waiter>) -> Vec<Waiter> {
    if !plimsoll_log::planted::is_planted(plimsoll_log::planted::Bug::AnswerUnsettled) {
        return waiters;
    }
    waiters.into_iter().for_each(Waiter::answer);
    Vec::new()
}

/// With the bug planted: what is given back is done.
#[cfg(feature = "planted")]
fn accepted_already(outcome: Outcome) -> Outcome {
    let is_planted = plimsoll_log::planted::is_planted(plimsoll_log::planted::Bug::SettleReleased);
    match outcome {
        Outcome::Release { .. } if is_planted => Outcome::Accept,
        outcome => outcome,
    }
}

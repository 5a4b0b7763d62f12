//! A partition with one queue: the log, the fold, the leader's machine, consumers and a clock.

use std::collections::BTreeMap;

use plimsoll_delivery::command::{QueueCommand, QueueEntry, SubscriptionId};
use plimsoll_delivery::config::{Mode, Overflow, QueueConfig};
use plimsoll_delivery::dispatch::{
    ConsumerId, ConsumerSpec, DeadLetterOrder, Delivery, Dispatcher, Limits, Message, Outcome,
};
use plimsoll_delivery::state::Queues;
use plimsoll_delivery::time::{Monotonic, Now, UnixMs};
use plimsoll_protocol::ids::Offset;

use crate::Step;
use crate::checks::Checks;

const QUEUE: SubscriptionId = SubscriptionId(0);

/// An entry of the log, as every replica folds it.
enum Logged {
    Records(u32),
    Control(Vec<u8>, UnixMs),
}

pub(crate) struct World {
    config: QueueConfig,
    limits: Limits,
    log: Vec<Logged>,
    messages: Vec<Message>,
    queues: Queues,
    dispatcher: Dispatcher,
    proposed: Option<QueueEntry>,
    consumers: Vec<ConsumerId>,
    held: Vec<Delivery>,
    orders: Vec<DeadLetterOrder>,
    copies: BTreeMap<Offset, u32>,
    now: u64,
    checks: Checks,
}

impl World {
    pub(crate) fn new(config: QueueConfig, limits: Limits) -> Self {
        let open = QueueCommand::Open { start: Offset(0), config: Box::new(config.clone()) };
        let entry = QueueEntry { subscription: QUEUE, commands: vec![open] };
        let mut queues = Queues::default();
        queues.apply(&entry, UnixMs(0));
        let dispatcher = Dispatcher::new(QUEUE, queues.get(QUEUE).unwrap(), limits);
        Self {
            checks: Checks::new(config.clone()),
            config,
            limits,
            log: vec![Logged::Control(entry.encode().to_vec(), UnixMs(0))],
            messages: Vec::new(),
            queues,
            dispatcher,
            proposed: None,
            consumers: Vec::new(),
            held: Vec::new(),
            orders: Vec::new(),
            copies: BTreeMap::new(),
            now: 1_000_000,
        }
    }

    fn now(&self) -> Now {
        Now { monotonic: Monotonic(self.now - 999_000), unix: UnixMs(self.now as i64) }
    }

    pub(crate) fn take(&mut self, step: &Step) {
        match *step {
            Step::Append { count, key, priority, delay, life } => {
                for _ in 0..count {
                    self.append(key, priority, delay, life);
                }
                self.log.push(Logged::Records(count.into()));
            }
            Step::Attach { prefetch, priority } => self.attach(prefetch.into(), priority.into()),
            Step::Detach(which) => {
                if let Some(consumer) = pick(&self.consumers, which) {
                    self.consumers.retain(|&other| other != consumer);
                    self.held.retain(|delivery| delivery.consumer != consumer);
                    self.checks.let_go_all_of(consumer, self.now().monotonic);
                    self.dispatcher.detach(consumer, self.now());
                }
            }
            Step::Deliver(most) => self.deliver(most.into()),
            Step::Accept(which) => self.settle(which, Outcome::Accept),
            Step::Release { which, delay } => {
                self.settle(which, Outcome::Release { delay_ms: delay.map(u64::from) });
            }
            Step::Reject(which) => self.settle(which, Outcome::Reject),
            Step::Extend(which) => {
                if let Some(delivery) = pick(&self.held, which) {
                    let Delivery { consumer, offset, attempt, .. } = delivery;
                    let now = self.now();
                    if let Ok(until) = self.dispatcher.extend(consumer, offset, attempt, None, now)
                    {
                        self.checks.extended(offset, until);
                    }
                }
            }
            Step::SettleStale(which) => {
                if let Some(delivery) = pick(&self.held, which) {
                    let Delivery { consumer, offset, attempt, .. } = delivery;
                    // The next one may be granted and not delivered yet.
                    let (wrong, now) = (attempt + 2, self.now());
                    let said =
                        self.dispatcher.settle(consumer, offset, wrong, Outcome::Accept, now);
                    assert!(said.is_err(), "attempt {wrong} of {offset} was never delivered");
                }
            }
            Step::Pass(ms) => {
                self.now += u64::from(ms);
                let now = self.now();
                self.dispatcher.advance(self.queues.get(QUEUE).unwrap(), now);
            }
            Step::Propose => self.propose(),
            Step::Commit => self.commit(),
            Step::Refuse => {
                if let Some(entry) = self.proposed.take() {
                    self.dispatcher.refused(entry);
                }
            }
            Step::ChangeLeader { committed } => self.change_leader(committed),
            Step::Cancel(which) => {
                if !self.messages.is_empty() {
                    let offset = Offset(u64::from(which) % self.messages.len() as u64);
                    let state = self.queues.get(QUEUE).unwrap();
                    if self.dispatcher.cancel(offset, state) {
                        self.checks.decided(offset);
                    }
                }
            }
            Step::Purge => {
                self.dispatcher.purge();
                self.checks.purged(Offset(self.messages.len() as u64));
            }
            Step::CopyDeadLetter => self.copy_dead_letters(),
        }
        self.check_explanations();
    }

    fn append(&mut self, key: u8, priority: u8, delay: u16, life: u16) {
        let in_ms = |ms: u16| (ms > 0).then(|| self.now().unix.plus(ms.into()));
        let message = Message {
            offset: Offset(self.messages.len() as u64),
            key: (key > 0).then_some(key.into()),
            priority,
            deliver_at: in_ms(delay),
            expires_at: in_ms(life),
            appended_at: self.now().unix,
            bytes: 100,
        };
        self.messages.push(message);
        self.checks.appended(message);
        self.queues.appended(1, 100);
        self.dispatcher.appended(&message, self.now());
    }

    fn attach(&mut self, prefetch_count: u32, priority: i32) {
        let spec = ConsumerSpec { prefetch_count, priority, ..ConsumerSpec::default() };
        self.consumers.push(self.dispatcher.attach(spec).unwrap());
    }

    /// Serves every read, so that the machine knows all that it can know.
    fn serve_reads(&mut self) {
        for _ in 0..10_000 {
            let state = self.queues.get(QUEUE).unwrap();
            let Some(want) = self.dispatcher.wants(state) else { return };
            assert!(want.from < want.upto && want.upto <= state.end());
            let from = want.from.0 as usize;
            let upto = self.messages.len().min(from + 7);
            for message in &self.messages[from..upto] {
                if !self.dispatcher.read(message, state, self.now()) && message.offset >= want.upto
                {
                    break;
                }
            }
        }
        panic!("the same is wanted again and again");
    }

    fn deliver(&mut self, most: usize) {
        let now = self.now();
        self.dispatcher.advance(self.queues.get(QUEUE).unwrap(), now);
        for _ in 0..most {
            self.serve_reads();
            let Some(delivery) = self.dispatcher.poll(self.now()) else { return };
            let state = self.queues.get(QUEUE).unwrap();
            self.checks.delivered(&delivery, state, self.now(), self.limits);
            self.held.retain(|held| held.offset != delivery.offset);
            self.held.push(delivery);
        }
    }

    fn settle(&mut self, which: u8, outcome: Outcome) {
        let Some(delivery) = pick(&self.held, which) else { return };
        let Delivery { consumer, offset, attempt, .. } = delivery;
        self.held.retain(|held| held.offset != offset);
        match self.dispatcher.settle(consumer, offset, attempt, outcome, self.now()) {
            Ok(()) => self.checks.settled(&delivery, outcome),
            Err(error) => {
                let gone = self.checks.is_over(&delivery, self.now().monotonic);
                assert!(gone, "{error}, though its lease is not over");
            }
        }
    }

    fn propose(&mut self) {
        if self.proposed.is_none() {
            self.proposed = self.dispatcher.propose(self.now());
        }
    }

    fn commit(&mut self) {
        let Some(entry) = self.proposed.take() else { return };
        self.write(&entry);
        let state = self.queues.get(QUEUE).unwrap();
        self.dispatcher.applied(&entry, state, self.now());
        while let Some(order) = self.dispatcher.poll_dead_letter() {
            self.checks.ordered(&order, state);
            self.orders.push(order);
        }
    }

    fn write(&mut self, entry: &QueueEntry) {
        let bytes = entry.encode().to_vec();
        let read = QueueEntry::decode(&bytes).unwrap();
        assert_eq!(&read, entry);
        let at = self.now().unix;
        self.queues.apply(&read, at);
        self.checks.committed(entry);
        self.log.push(Logged::Control(bytes, at));
    }

    fn change_leader(&mut self, committed: bool) {
        if let Some(entry) = self.proposed.take()
            && committed
        {
            self.write(&entry);
        }
        self.replay();
        self.checks.leader_changed(self.queues.get(QUEUE).unwrap());
        self.consumers.clear();
        self.held.clear();
        self.orders.clear();
        self.now += 200;
        let state = self.queues.get(QUEUE).unwrap();
        self.dispatcher = Dispatcher::new(QUEUE, state, self.limits);
        while let Some(order) = self.dispatcher.poll_dead_letter() {
            self.orders.push(order);
        }
    }

    /// Another replica folds the same log to the same state and the same bytes.
    fn replay(&mut self) {
        let mut replica = Queues::default();
        for entry in &self.log {
            match entry {
                Logged::Records(count) => {
                    for _ in 0..*count {
                        replica.appended(1, 100);
                    }
                }
                Logged::Control(bytes, at) => {
                    replica.apply(&QueueEntry::decode(bytes).unwrap(), *at);
                }
            }
        }
        assert_eq!(replica, self.queues);
        let bytes = replica.encode();
        assert_eq!(bytes, self.queues.encode());
        self.queues = Queues::decode(&bytes).unwrap();
        assert_eq!(replica, self.queues);
        assert_eq!(self.queues.encode(), bytes);
    }

    fn copy_dead_letters(&mut self) {
        for order in std::mem::take(&mut self.orders) {
            *self.copies.entry(order.offset).or_default() += 1;
            self.dispatcher.copied(order.offset);
        }
    }

    fn check_explanations(&mut self) {
        let now = self.now();
        for offset in (0..=self.messages.len() as u64).map(Offset) {
            let state = self.queues.get(QUEUE).unwrap();
            let said = self.dispatcher.explain(offset, state, now);
            self.checks.explained(offset, &said, state);
        }
    }

    /// Everybody behaves from now on: everything must come to an end.
    pub(crate) fn finish(&mut self) {
        self.attach(64, 0);
        for _ in 0..3_000 {
            self.deliver(1_000);
            while !self.held.is_empty() {
                self.settle(0, Outcome::Accept);
            }
            self.copy_dead_letters();
            self.propose();
            self.commit();
            if self.queues.get(QUEUE).unwrap().unsettled() == 0 {
                break;
            }
            self.now += 100;
        }
        self.replay();
        let state = self.queues.get(QUEUE).unwrap();
        assert_eq!(state.unsettled(), 0, "messages are stuck: {:?}", self.dispatcher);
        assert_eq!(state.floor(), Offset(self.messages.len() as u64));
        assert_eq!((state.marked(), state.unsettled_bytes()), (0, 0));
        assert_eq!((self.dispatcher.held(), self.dispatcher.len()), (0, 0));
        let drops = self.config.overflow == Overflow::DropHead;
        self.checks.finished(&self.copies, drops && self.config.mode == Mode::Shared);
    }
}

fn pick<T: Copy>(list: &[T], which: u8) -> Option<T> {
    (!list.is_empty()).then(|| list[usize::from(which) % list.len()])
}

//! What the tests stand on.

use plimsoll_delivery::command::{QueueCommand, QueueEntry, SubscriptionId};
use plimsoll_delivery::config::QueueConfig;
use plimsoll_delivery::dispatch::{
    ConsumerId, ConsumerSpec, Delivery, Dispatcher, Explanation, Limits, Message, Outcome,
    SettleError,
};
use plimsoll_delivery::state::Queues;
use plimsoll_delivery::time::{Monotonic, Now, UnixMs};
use plimsoll_protocol::ids::Offset;

pub(crate) const QUEUE: SubscriptionId = SubscriptionId(0);

/// A queue, its machine, its log and a clock.
pub(crate) struct Bed {
    pub(crate) queues: Queues,
    pub(crate) machine: Dispatcher,
    pub(crate) log: Vec<Message>,
    pub(crate) ms: u64,
}

impl Bed {
    pub(crate) fn new(config: QueueConfig) -> Self {
        let open = QueueCommand::Open { start: Offset(0), config: Box::new(config) };
        let mut queues = Queues::default();
        queues.apply(&QueueEntry { subscription: QUEUE, commands: vec![open] }, UnixMs(0));
        let machine = Dispatcher::new(QUEUE, queues.get(QUEUE).unwrap(), Limits::default());
        Self { queues, machine, log: Vec::new(), ms: 1_000 }
    }

    pub(crate) fn now(&self) -> Now {
        Now { monotonic: Monotonic(self.ms), unix: UnixMs(self.ms as i64) }
    }

    pub(crate) fn message(&self) -> Message {
        Message {
            offset: Offset(self.log.len() as u64),
            key: None,
            priority: 0,
            deliver_at: None,
            expires_at: None,
            appended_at: self.now().unix,
            bytes: 100,
        }
    }

    pub(crate) fn append(&mut self, message: Message) {
        self.log.push(message);
        self.queues.appended(1, 100);
        self.machine.appended(&message, self.now());
    }

    pub(crate) fn append_plain(&mut self, count: u64) {
        (0..count).for_each(|_| self.append(self.message()));
    }

    pub(crate) fn attach(&mut self, prefetch_count: u32) -> ConsumerId {
        let spec = ConsumerSpec { prefetch_count, ..ConsumerSpec::default() };
        self.machine.attach(spec).unwrap()
    }

    pub(crate) fn pass(&mut self, ms: u64) {
        self.ms += ms;
        let now = self.now();
        self.machine.advance(self.queues.get(QUEUE).unwrap(), now);
    }

    pub(crate) fn deliver(&mut self) -> Vec<Delivery> {
        let mut all = Vec::new();
        loop {
            while let Some(want) = self.machine.wants(self.queues.get(QUEUE).unwrap()) {
                for offset in want.from.0..want.upto.0 {
                    let state = self.queues.get(QUEUE).unwrap();
                    if !self.machine.read(&self.log[offset as usize], state, self.now()) {
                        break;
                    }
                }
            }
            let Some(delivery) = self.machine.poll(self.now()) else { return all };
            all.push(delivery);
        }
    }

    pub(crate) fn offsets(&mut self) -> Vec<u64> {
        self.deliver().iter().map(|delivery| delivery.offset.0).collect()
    }

    pub(crate) fn settle(
        &mut self,
        delivery: &Delivery,
        outcome: Outcome,
    ) -> Result<(), SettleError> {
        let Delivery { consumer, offset, attempt, .. } = *delivery;
        self.machine.settle(consumer, offset, attempt, outcome, self.now())
    }

    pub(crate) fn write(&mut self) -> Vec<QueueCommand> {
        let mut written = Vec::new();
        while let Some(entry) = self.machine.propose(self.now()) {
            self.queues.apply(&entry, self.now().unix);
            self.machine.applied(&entry, self.queues.get(QUEUE).unwrap(), self.now());
            written.extend(entry.commands);
        }
        written
    }

    pub(crate) fn explain(&mut self, offset: u64) -> Explanation {
        self.machine.explain(Offset(offset), self.queues.get(QUEUE).unwrap(), self.now())
    }

    pub(crate) fn unsettled(&self) -> u64 {
        self.queues.get(QUEUE).unwrap().unsettled()
    }
}

//! Single facts about the delivery machine, one test each. Random histories: `model`.

use plimsoll_delivery::command::{QueueCommand, QueueEntry, Reason, SubscriptionId};
use plimsoll_delivery::config::{Mode, Overflow, QueueConfig};
use plimsoll_delivery::dispatch::{
    AttachError, ConsumerId, ConsumerSpec, Delivery, Dispatcher, Explanation, Full, Limits,
    Message, Outcome, SettleError,
};
use plimsoll_delivery::state::Queues;
use plimsoll_delivery::time::{Monotonic, Now, UnixMs};
use plimsoll_protocol::ids::Offset;

const QUEUE: SubscriptionId = SubscriptionId(0);

struct Bed {
    queues: Queues,
    machine: Dispatcher,
    log: Vec<Message>,
    ms: u64,
}

impl Bed {
    fn new(config: QueueConfig) -> Self {
        let open = QueueCommand::Open { start: Offset(0), config: Box::new(config) };
        let mut queues = Queues::default();
        queues.apply(&QueueEntry { subscription: QUEUE, commands: vec![open] }, UnixMs(0));
        let machine = Dispatcher::new(QUEUE, queues.get(QUEUE).unwrap(), Limits::default());
        Self { queues, machine, log: Vec::new(), ms: 1_000 }
    }

    fn now(&self) -> Now {
        Now { monotonic: Monotonic(self.ms), unix: UnixMs(self.ms as i64) }
    }

    fn message(&self) -> Message {
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

    fn append(&mut self, message: Message) {
        self.log.push(message);
        self.queues.appended(1, 100);
        self.machine.appended(&message, self.now());
    }

    fn append_plain(&mut self, count: u64) {
        (0..count).for_each(|_| self.append(self.message()));
    }

    fn attach(&mut self, prefetch_count: u32) -> ConsumerId {
        let spec = ConsumerSpec { prefetch_count, ..ConsumerSpec::default() };
        self.machine.attach(spec).unwrap()
    }

    fn pass(&mut self, ms: u64) {
        self.ms += ms;
        let now = self.now();
        self.machine.advance(self.queues.get(QUEUE).unwrap(), now);
    }

    fn deliver(&mut self) -> Vec<Delivery> {
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

    fn offsets(&mut self) -> Vec<u64> {
        self.deliver().iter().map(|delivery| delivery.offset.0).collect()
    }

    fn settle(&mut self, delivery: &Delivery, outcome: Outcome) -> Result<(), SettleError> {
        let Delivery { consumer, offset, attempt, .. } = *delivery;
        self.machine.settle(consumer, offset, attempt, outcome, self.now())
    }

    fn write(&mut self) -> Vec<QueueCommand> {
        let mut written = Vec::new();
        while let Some(entry) = self.machine.propose(self.now()) {
            self.queues.apply(&entry, self.now().unix);
            self.machine.applied(&entry, self.queues.get(QUEUE).unwrap(), self.now());
            written.extend(entry.commands);
        }
        written
    }

    fn explain(&mut self, offset: u64) -> Explanation {
        self.machine.explain(Offset(offset), self.queues.get(QUEUE).unwrap(), self.now())
    }

    fn unsettled(&self) -> u64 {
        self.queues.get(QUEUE).unwrap().unsettled()
    }
}

#[test]
fn expired_lease_makes_the_message_ready_and_refuses_its_old_holder() {
    let mut bed = Bed::new(QueueConfig { lease_ms: 1_000, ..QueueConfig::default() });
    bed.attach(1);
    bed.append_plain(1);
    let first = bed.deliver()[0];
    assert_eq!((first.attempt, first.until), (1, Monotonic(2_000)));
    bed.pass(999);
    assert_eq!(bed.offsets(), []);
    bed.pass(33);
    let again = bed.deliver()[0];
    assert_eq!((again.offset, again.attempt), (first.offset, 2));
    let stale = SettleError::StaleAttempt { offset: Offset(0), attempt: 1, current: 2 };
    assert_eq!(bed.settle(&first, Outcome::Accept), Err(stale));
    bed.settle(&again, Outcome::Accept).unwrap();
    let twice = SettleError::NotHeld { offset: Offset(0) };
    assert_eq!(bed.settle(&again, Outcome::Accept), Err(twice));
    bed.write();
    assert_eq!(bed.unsettled(), 0);
}

#[test]
fn extended_lease_counts_from_the_extension() {
    let mut bed = Bed::new(QueueConfig { lease_ms: 1_000, ..QueueConfig::default() });
    let consumer = bed.attach(1);
    bed.append_plain(1);
    bed.deliver();
    bed.pass(900);
    let until = bed.machine.extend(consumer, Offset(0), 1, Some(5_000), bed.now()).unwrap();
    assert_eq!(until, Monotonic(6_900));
    bed.pass(4_900);
    assert_eq!(bed.offsets(), []);
    assert!(matches!(bed.explain(0), Explanation::Held { attempt: 1, .. }));
    bed.pass(200);
    assert_eq!(bed.offsets(), [0]);
}

#[test]
fn leader_that_was_stalled_gives_the_time_back_before_it_ends_leases() {
    let mut bed = Bed::new(QueueConfig { lease_ms: 1_000, ..QueueConfig::default() });
    bed.attach(1);
    bed.append_plain(1);
    let held = bed.deliver()[0];
    bed.pass(60_000);
    bed.settle(&held, Outcome::Accept).unwrap();
    bed.append_plain(1);
    assert_eq!(bed.offsets(), [1]);
    bed.pass(1_000);
    bed.pass(64);
    assert_eq!(bed.offsets(), [1], "the next lease has its ordinary length");
}

#[test]
fn messages_go_to_the_highest_priority_that_has_room_and_in_turn_within_it() {
    let mut bed = Bed::new(QueueConfig::default());
    let low = bed.attach(10);
    let spec = ConsumerSpec { prefetch_count: 2, priority: 5, ..ConsumerSpec::default() };
    let high = [bed.machine.attach(spec).unwrap(), bed.machine.attach(spec).unwrap()];
    bed.append_plain(6);
    let all = bed.deliver();
    let who: Vec<_> = all.iter().map(|delivery| delivery.consumer).collect();
    assert_eq!(who, [high[0], high[1], high[0], high[1], low, low]);
    bed.settle(&all[1], Outcome::Accept).unwrap();
    bed.append_plain(2);
    let who: Vec<_> = bed.deliver().iter().map(|delivery| delivery.consumer).collect();
    assert_eq!(who, [high[1], low]);
}

#[test]
fn prefetch_by_bytes_lets_the_last_message_reach_over() {
    let mut bed = Bed::new(QueueConfig::default());
    let spec = ConsumerSpec { prefetch_bytes: 250, ..ConsumerSpec::default() };
    bed.machine.attach(spec).unwrap();
    bed.append_plain(5);
    let held = bed.deliver();
    assert_eq!(held.len(), 3);
    bed.settle(&held[0], Outcome::Accept).unwrap();
    assert_eq!(bed.offsets(), [3]);
}

#[test]
fn consumer_without_prefetch_gets_what_it_asks_for() {
    let mut bed = Bed::new(QueueConfig::default());
    let consumer = bed.attach(0);
    bed.append_plain(2);
    assert_eq!(bed.offsets(), []);
    assert_eq!(bed.machine.pull(consumer, bed.now()).unwrap().offset, Offset(0));
    bed.machine.set_prefetch(consumer, 5, 1_000);
    assert_eq!(bed.offsets(), [1]);
}

#[test]
fn message_of_a_consumer_that_settles_itself_is_gone_when_delivered() {
    let mut bed = Bed::new(QueueConfig::default());
    let spec = ConsumerSpec { settles_itself: true, ..ConsumerSpec::default() };
    let consumer = bed.machine.attach(spec).unwrap();
    bed.append_plain(300);
    assert_eq!(bed.offsets().len(), 300, "it never holds anything");
    bed.machine.detach(consumer, bed.now());
    assert_eq!(bed.write().len(), 1);
    assert_eq!(bed.unsettled(), 0);
}

#[test]
fn exclusive_consumer_is_alone() {
    let mut bed = Bed::new(QueueConfig::default());
    let other = bed.attach(1);
    let exclusive = ConsumerSpec { exclusive: true, ..ConsumerSpec::default() };
    assert_eq!(bed.machine.attach(exclusive), Err(AttachError::NotAlone { others: 1 }));
    bed.machine.detach(other, bed.now());
    bed.machine.attach(exclusive).unwrap();
    assert_eq!(bed.machine.attach(ConsumerSpec::default()), Err(AttachError::HasExclusive));
}

#[test]
fn single_active_consumer_gets_everything_until_it_goes() {
    let mut bed = Bed::new(QueueConfig { single_active: true, ..QueueConfig::default() });
    let [first, second] = [bed.attach(2), bed.attach(9)];
    bed.append_plain(3);
    let all = bed.deliver();
    assert!(all.len() == 2 && all.iter().all(|delivery| delivery.consumer == first));
    bed.machine.detach(first, bed.now());
    let all = bed.deliver();
    let what: Vec<_> = all.iter().map(|d| (d.consumer, d.offset.0, d.attempt)).collect();
    assert_eq!(what, [(second, 0, 2), (second, 1, 2), (second, 2, 1)]);
}

#[test]
fn failed_message_waits_longer_each_time_and_then_is_a_dead_letter() {
    let mut bed = Bed::new(QueueConfig {
        attempts_max: 3,
        backoff_ms: 100,
        dead_letter: Some("dead".into()),
        ..QueueConfig::default()
    });
    bed.attach(1);
    bed.append_plain(1);
    for wait in [100, 200] {
        let delivery = bed.deliver()[0];
        bed.settle(&delivery, Outcome::Release { delay_ms: None }).unwrap();
        bed.write();
        let until = UnixMs(bed.now().unix.0 + wait);
        assert_eq!(bed.explain(0), Explanation::Delayed { until, attempts: delivery.attempt });
        bed.pass(wait as u64 - 1);
        assert_eq!(bed.offsets(), []);
        bed.pass(1);
    }
    let last = bed.deliver()[0];
    assert_eq!(last.attempt, 3);
    bed.settle(&last, Outcome::Release { delay_ms: None }).unwrap();
    bed.write();
    let order = bed.machine.poll_dead_letter().unwrap();
    assert_eq!((order.attempts, order.reason), (3, Reason::AttemptsExhausted));
    let reason = Reason::AttemptsExhausted;
    assert_eq!(bed.explain(0), Explanation::DeadLettered { reason, attempts: 3 });
    // A new leader orders the copy again: the old one may not have made it.
    let state = bed.queues.get(QUEUE).unwrap();
    let mut next = Dispatcher::new(QUEUE, state, Limits::default());
    assert_eq!(next.poll_dead_letter(), Some(order));
    bed.machine.copied(Offset(0));
    bed.write();
    assert!(matches!(bed.explain(0), Explanation::Ended(end) if end.reason == reason));
    assert_eq!(bed.unsettled(), 0);
}

#[test]
fn failing_key_blocks_only_itself() {
    let mut bed = Bed::new(QueueConfig { mode: Mode::KeyShared, ..QueueConfig::default() });
    bed.attach(10);
    for key in [7, 7, 8, 7, 8] {
        bed.append(Message { key: Some(key), ..bed.message() });
    }
    let first = bed.deliver();
    assert_eq!(first.iter().map(|d| d.offset.0).collect::<Vec<_>>(), [0, 2]);
    assert_eq!(bed.explain(3), Explanation::BehindKey { of: Offset(0), ahead: 1 });
    bed.settle(&first[0], Outcome::Release { delay_ms: Some(5_000) }).unwrap();
    bed.settle(&first[1], Outcome::Accept).unwrap();
    bed.write();
    assert_eq!(bed.offsets(), [4]);
    bed.pass(5_000);
    assert_eq!(bed.offsets(), [0]);
}

#[test]
fn cancelled_message_frees_its_key_even_while_it_waits() {
    let mut bed = Bed::new(QueueConfig { mode: Mode::KeyShared, ..QueueConfig::default() });
    bed.attach(10);
    for _ in 0..2 {
        bed.append(Message { key: Some(7), ..bed.message() });
    }
    let first = bed.deliver()[0];
    assert!(!bed.machine.cancel(Offset(0), bed.queues.get(QUEUE).unwrap()), "it is held");
    bed.settle(&first, Outcome::Release { delay_ms: Some(60_000) }).unwrap();
    bed.write();
    assert!(bed.machine.cancel(Offset(0), bed.queues.get(QUEUE).unwrap()));
    assert!(!bed.machine.cancel(Offset(0), bed.queues.get(QUEUE).unwrap()), "it is cancelled");
    bed.write();
    assert_eq!(bed.offsets(), [1]);
}

#[test]
fn queue_of_a_million_loads_a_window_and_goes_on_in_order() {
    let mut bed = Bed::new(QueueConfig::default());
    bed.append_plain(1_000_000);
    assert!(bed.machine.memory_bytes() < 2 << 20, "{} bytes", bed.machine.memory_bytes());
    let ready = Explanation::Waiting { ahead: 999_999, consumer_has_room: false };
    assert_eq!(bed.explain(999_999), ready);
    bed.attach(1_000);
    let mut next = 0;
    for _ in 0..30 {
        for delivery in bed.deliver() {
            assert_eq!(delivery.offset.0, next);
            next += 1;
            bed.settle(&delivery, Outcome::Accept).unwrap();
        }
        bed.write();
    }
    assert_eq!((next, bed.unsettled()), (30_000, 970_000));
    assert!(bed.machine.memory_bytes() < 2 << 20);
}

#[test]
fn higher_level_goes_first_even_when_it_is_far_behind_in_the_log() {
    let mut bed = Bed::new(QueueConfig { levels: 10, ..QueueConfig::default() });
    bed.append_plain(20_000);
    bed.append(Message { priority: 200, ..bed.message() });
    bed.append(Message { priority: 3, ..bed.message() });
    bed.attach(3);
    assert_eq!(bed.offsets(), [20_000, 20_001, 0]);
    let state = bed.queues.get(QUEUE).unwrap();
    bed.machine = Dispatcher::new(QUEUE, state, Limits::default());
    bed.attach(3);
    assert_eq!(bed.offsets(), [20_000, 20_001, 0], "a new leader that has read the log");
}

#[test]
fn time_to_live_of_queue_and_message_ends_what_nobody_took() {
    let mut bed = Bed::new(QueueConfig { ttl_ms: Some(500), ..QueueConfig::default() });
    bed.append_plain(1);
    bed.append(Message { expires_at: Some(UnixMs(1_100)), ..bed.message() });
    bed.append_plain(1);
    assert_eq!(bed.machine.next_deadline(bed.now()), Some(Monotonic(1_500)));
    bed.pass(200);
    assert_eq!(bed.explain(1), Explanation::Expired);
    bed.attach(1);
    let held = bed.deliver()[0];
    bed.pass(10_000);
    bed.write();
    assert_eq!(bed.unsettled(), 1, "what is held does not expire");
    bed.settle(&held, Outcome::Release { delay_ms: None }).unwrap();
    assert_eq!(bed.offsets(), []);
    bed.write();
    assert!(matches!(bed.explain(0), Explanation::Ended(end) if end.reason == Reason::Expired));
}

#[test]
fn full_queue_refuses_or_loses_its_head() {
    let limit = |overflow| QueueConfig { length_max: Some(3), overflow, ..QueueConfig::default() };
    let mut bed = Bed::new(limit(Overflow::Reject));
    bed.append_plain(3);
    assert_eq!(bed.machine.admit(false), Err(Full::Length { length: 3, length_max: 3 }));
    bed.attach(1);
    bed.deliver();
    assert_eq!(bed.machine.admit(false), Ok(()), "what is held does not count");

    let mut bed = Bed::new(limit(Overflow::DropHead));
    bed.append_plain(5);
    assert_eq!(bed.machine.admit(false), Ok(()));
    bed.pass(0);
    bed.write();
    assert_eq!((bed.unsettled(), bed.machine.len()), (3, 3));
    bed.attach(9);
    assert_eq!(bed.offsets(), [2, 3, 4]);

    let mut bed = Bed::new(QueueConfig { bytes_max: Some(250), ..limit(Overflow::DropHead) });
    bed.append_plain(5);
    bed.pass(0);
    bed.attach(9);
    assert_eq!(bed.offsets(), [3, 4]);
}

#[test]
fn purge_ends_all_but_what_is_held() {
    let mut bed = Bed::new(QueueConfig::default());
    bed.attach(2);
    bed.append_plain(4);
    bed.append(Message { deliver_at: Some(UnixMs(9_000)), ..bed.message() });
    let held = bed.deliver();
    assert_eq!(bed.machine.purge(), 3);
    bed.append_plain(1);
    bed.write();
    assert_eq!((bed.unsettled(), bed.machine.delayed()), (3, 0));
    bed.settle(&held[0], Outcome::Release { delay_ms: None }).unwrap();
    assert_eq!(bed.offsets(), [0]);
}

#[test]
fn records_that_the_log_lost_are_written_as_lost() {
    let mut bed = Bed::new(QueueConfig { levels: 2, ..QueueConfig::default() });
    bed.append_plain(10_000);
    let state = bed.queues.get(QUEUE).unwrap();
    bed.machine = Dispatcher::new(QUEUE, state, Limits::default());
    bed.machine.log_starts_at(Offset(9_990), state);
    bed.write();
    assert_eq!((bed.unsettled(), bed.machine.len()), (10, 10));
    assert!(matches!(bed.explain(5), Explanation::Ended(end) if end.reason == Reason::Lost));
    bed.attach(100);
    assert_eq!(bed.offsets(), (9_990..10_000).collect::<Vec<_>>());
}

#[test]
fn attempts_are_written_within_their_time_when_nothing_else_is() {
    let mut bed = Bed::new(QueueConfig::default());
    bed.attach(5);
    bed.append_plain(3);
    bed.deliver();
    assert_eq!(bed.write(), []);
    assert_eq!(bed.machine.next_deadline(bed.now()), Some(Monotonic(1_050)));
    bed.pass(50);
    assert!(matches!(&bed.write()[..], [QueueCommand::Acquire { items }] if items.len() == 1));
    let state = bed.queues.get(QUEUE).unwrap();
    assert_eq!((state.mark(Offset(0)).attempts, state.marked()), (1, 3));
    bed.machine = Dispatcher::new(QUEUE, state, Limits::default());
    bed.attach(5);
    assert!(bed.deliver().iter().all(|delivery| delivery.attempt == 2));
}

#[test]
fn entry_that_did_not_enter_the_log_is_proposed_again_first() {
    let mut bed = Bed::new(QueueConfig::default());
    bed.attach(5);
    bed.append_plain(2);
    let held = bed.deliver();
    bed.settle(&held[0], Outcome::Accept).unwrap();
    let entry = bed.machine.propose(bed.now()).unwrap();
    bed.settle(&held[1], Outcome::Accept).unwrap();
    bed.machine.refused(entry.clone());
    assert_eq!(bed.machine.propose(bed.now()), Some(entry.clone()));
    bed.machine.refused(entry);
    bed.write();
    assert_eq!(bed.unsettled(), 0);
}

#[test]
fn changed_configuration_is_taken_in_place_unless_its_shape_changes() {
    let mut bed = Bed::new(QueueConfig::default());
    bed.attach(1);
    bed.append_plain(1);
    let longer = QueueConfig { lease_ms: 90_000, ..QueueConfig::default() };
    assert!(bed.machine.reconfigure(&longer));
    assert_eq!(bed.deliver()[0].until, Monotonic(91_000));
    assert!(!bed.machine.reconfigure(&QueueConfig { levels: 2, ..longer }));
}

//! Who gets messages, how long they have them, and what is written of it.

use plimsoll_delivery::command::QueueCommand;
use plimsoll_delivery::config::QueueConfig;
use plimsoll_delivery::dispatch::{
    AttachError, ConsumerSpec, Dispatcher, Explanation, Limits, Outcome, SettleError,
};
use plimsoll_delivery::time::Monotonic;
use plimsoll_protocol::ids::Offset;

use crate::bed::{Bed, QUEUE};

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

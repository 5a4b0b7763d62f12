//! Which message goes when, and how messages end.

use plimsoll_delivery::command::Reason;
use plimsoll_delivery::config::{Mode, Overflow, QueueConfig};
use plimsoll_delivery::dispatch::{Dispatcher, Explanation, Full, Limits, Message, Outcome};
use plimsoll_delivery::time::{Monotonic, UnixMs};
use plimsoll_protocol::ids::Offset;

use crate::bed::{Bed, QUEUE};

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
fn bytes_of_messages_of_different_sizes_are_limited_too() {
    let overflow = Overflow::DropHead;
    let limited = QueueConfig { bytes_max: Some(50_000), overflow, ..QueueConfig::default() };
    let mut bed = Bed::new(limited);
    for number in 0..6_000 {
        let bytes = if number % 2 == 0 { 1_000 } else { 20 };
        bed.append(Message { bytes, ..bed.message() });
        if number % 2_000 == 0 {
            bed.pass(0);
            bed.write();
        }
    }
    bed.pass(0);
    bed.write();
    // 510 bytes each.
    assert!((90..=100).contains(&bed.unsettled()), "{}", bed.unsettled());
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

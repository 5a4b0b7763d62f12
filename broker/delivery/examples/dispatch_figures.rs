//! Measures what a message costs the machine and the fold, and what memory the unpleasant patterns take.
//!
//! `cargo run --profile test -p plimsoll-delivery --example dispatch_figures` (or `--release`). Figures are
//! printed, never asserted; QUEUES.md holds those of the reference machine.
#![expect(clippy::print_stdout, reason = "a program that prints tables")]
#![expect(clippy::disallowed_methods, reason = "it measures time; the crate itself must not")]

use std::time::{Duration, Instant};

use plimsoll_delivery::command::{QueueCommand, QueueEntry, SubscriptionId};
use plimsoll_delivery::config::{Counting, Mode, QueueConfig};
use plimsoll_delivery::dispatch::{ConsumerSpec, Delivery, Dispatcher, Limits, Message, Outcome};
use plimsoll_delivery::offsets::Run;
use plimsoll_delivery::settled::Settled;
use plimsoll_delivery::state::Queues;
use plimsoll_delivery::time::{Monotonic, Now, UnixMs};
use plimsoll_protocol::ids::Offset;

const QUEUE: SubscriptionId = SubscriptionId(0);

/// What is measured apart.
#[derive(Default)]
struct Times {
    append: Duration,
    deliver: Duration,
    settle: Duration,
    write: Duration,
}

struct Bed {
    queues: Queues,
    dispatcher: Dispatcher,
    now: Now,
    end: u64,
    entry_bytes: u64,
}

impl Bed {
    fn new(config: QueueConfig, consumers: u32, prefetch_count: u32) -> Self {
        let open = QueueCommand::Open { start: Offset(0), config: Box::new(config) };
        let mut queues = Queues::default();
        let now = Now { monotonic: Monotonic(0), unix: UnixMs(1_750_000_000_000) };
        queues.apply(&QueueEntry { subscription: QUEUE, commands: vec![open] }, now.unix);
        let state = queues.get(QUEUE).expect("it was opened");
        let mut dispatcher = Dispatcher::new(QUEUE, state, Limits::default());
        let spec = ConsumerSpec { prefetch_count, ..ConsumerSpec::default() };
        for _ in 0..consumers {
            dispatcher.attach(spec).expect("nobody is exclusive");
        }
        Self { queues, dispatcher, now, end: 0, entry_bytes: 0 }
    }

    fn message(&self, offset: u64, keys: u64, levels: u64, delay_ms: u64) -> Message {
        let mixed = offset.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
        Message {
            offset: Offset(offset),
            key: (keys > 0).then(|| mixed % keys.max(1)),
            priority: (mixed % levels) as u8,
            deliver_at: (delay_ms > 0).then(|| self.now.unix.plus(1 + mixed % delay_ms)),
            expires_at: None,
            appended_at: self.now.unix,
            bytes: 1_000,
        }
    }

    fn append(&mut self, message: &Message) {
        self.end += 1;
        self.queues.appended(1, 1_000);
        self.dispatcher.appended(message, self.now);
    }

    fn accept(&mut self, delivery: &Delivery) {
        let Delivery { consumer, offset, attempt, .. } = *delivery;
        let said = self.dispatcher.settle(consumer, offset, attempt, Outcome::Accept, self.now);
        said.expect("it is held");
    }

    /// One entry, as from the proposal to what follows its commit.
    fn write(&mut self) {
        while let Some(entry) = self.dispatcher.propose(self.now) {
            let body = entry.encode();
            self.entry_bytes += body.len() as u64;
            let read = QueueEntry::decode(&body).expect("it was encoded just now");
            self.queues.apply(&read, self.now.unix);
            let state = self.queues.get(QUEUE).expect("it was opened");
            self.dispatcher.applied(&entry, state, self.now);
        }
    }
}

/// Sends, delivers and settles in rounds, as consumers do that keep up: `round` messages per entry.
fn steady(what: &str, config: QueueConfig, keys: u64, round: u64, messages: u64) {
    let levels = u64::from(config.levels);
    let before = config.counting == Counting::Before;
    let mut bed = Bed::new(config, 4, 1_000);
    let mut times = Times::default();
    let mut held = Vec::new();
    let mut done = 0;
    for _ in 0..messages / round {
        bed.now.monotonic = bed.now.monotonic.plus(1);
        bed.now.unix = bed.now.unix.plus(1);
        let batch: Vec<_> = (0..round).map(|i| bed.message(bed.end + i, keys, levels, 0)).collect();
        let began = Instant::now();
        for message in &batch {
            bed.append(message);
        }
        times.append += began.elapsed();
        // Where keys hold each other up a batch takes several turns.
        loop {
            let began = Instant::now();
            held.extend(std::iter::from_fn(|| bed.dispatcher.poll(bed.now)));
            times.deliver += began.elapsed();
            if before {
                let began = Instant::now();
                bed.write();
                times.write += began.elapsed();
                held.extend(std::iter::from_fn(|| bed.dispatcher.poll(bed.now)));
            }
            if held.is_empty() {
                break;
            }
            let began = Instant::now();
            for delivery in held.drain(..) {
                bed.accept(&delivery);
                done += 1;
            }
            times.settle += began.elapsed();
            let began = Instant::now();
            bed.write();
            times.write += began.elapsed();
        }
    }
    let per = |time: Duration| time.as_nanos() as f64 / f64::from(done.max(1) as u32);
    let all = times.append + times.deliver + times.settle + times.write;
    println!(
        "{what:44} {:7.0} {:7.0} {:7.0} {:7.0} {:8.0} {:9.2}",
        per(times.append),
        per(times.deliver),
        per(times.settle),
        per(times.write),
        per(all),
        bed.entry_bytes as f64 / f64::from(done.max(1) as u32),
    );
}

fn delayed(messages: u64) {
    let mut bed = Bed::new(QueueConfig::default(), 4, 1_000);
    let mut all = Vec::new();
    let began = Instant::now();
    for _ in 0..messages {
        let message = bed.message(bed.end, 0, 1, 100_000);
        all.push(message);
        bed.append(&message);
    }
    let append = began.elapsed();
    let bytes = bed.dispatcher.memory_bytes();
    let mut done = 0;
    let began = Instant::now();
    for _ in 0..110_000 {
        bed.now.unix = bed.now.unix.plus(1);
        bed.now.monotonic = bed.now.monotonic.plus(1);
        bed.dispatcher.advance(bed.queues.get(QUEUE).expect("it was opened"), bed.now);
        loop {
            let state = bed.queues.get(QUEUE).expect("it was opened");
            while let Some(want) = bed.dispatcher.wants(state) {
                for message in &all[want.from.0 as usize..want.upto.0 as usize] {
                    bed.dispatcher.read(message, state, bed.now);
                }
            }
            let Some(delivery) = bed.dispatcher.poll(bed.now) else { break };
            bed.accept(&delivery);
            done += 1;
        }
        bed.write();
    }
    println!(
        "{messages} delayed: {:.0} ns to take one, {:.1} MB ({:.1} bytes each); {done} delivered and \
         settled, {:.0} ns each",
        append.as_nanos() as f64 / messages as f64,
        bytes as f64 / 1e6,
        bytes as f64 / messages as f64,
        began.elapsed().as_nanos() as f64 / f64::from(done.max(1)),
    );
}

fn backlog(messages: u64) {
    for levels in [1, 10] {
        let config = QueueConfig { levels, ..QueueConfig::default() };
        let mut bed = Bed::new(config, 0, 0);
        let began = Instant::now();
        for _ in 0..messages {
            let message = bed.message(bed.end, 0, levels.into(), 0);
            bed.append(&message);
        }
        let append = began.elapsed();
        let bytes = bed.dispatcher.memory_bytes();
        let state = bed.queues.get(QUEUE).expect("it was opened");
        let mut leader = Dispatcher::new(QUEUE, state, Limits::default());
        let began = Instant::now();
        let mut read = 0;
        while let Some(want) = leader.wants(state) {
            let mut message = bed.message(bed.end, 0, levels.into(), 0);
            let mut offset = want.from.0;
            while offset < want.upto.0 {
                message.offset = Offset(offset);
                message.priority = (offset % u64::from(levels)) as u8;
                read += 1;
                offset += 1;
                if !leader.read(&message, state, bed.now) || read % 1_000 == 0 {
                    break;
                }
            }
            if read >= messages {
                break;
            }
        }
        println!(
            "{messages} ready at {levels} levels, no consumer: {:.0} ns to take one, {:.2} MB; a new \
             leader looks at {read} in {:.0} ms",
            append.as_nanos() as f64 / messages as f64,
            bytes as f64 / 1e6,
            began.elapsed().as_secs_f64() * 1e3,
        );
    }
    let mut bed = Bed::new(QueueConfig { mode: Mode::KeyShared, ..QueueConfig::default() }, 1, 1);
    for _ in 0..messages.min(1_000_000) {
        let message = bed.message(bed.end, 1, 1, 0);
        bed.append(&message);
        bed.dispatcher.poll(bed.now);
    }
    println!(
        "{} messages behind one key: {:.2} MB",
        messages.min(1_000_000),
        bed.dispatcher.memory_bytes() as f64 / 1e6
    );
}

/// Whether an offset is settled.
type Pattern = fn(u64) -> bool;

fn settled() {
    let patterns: [(&str, Pattern); 4] = [
        ("all but the first", |offset| offset > 0),
        ("every other one", |offset| offset % 2 == 1),
        ("two of three", |offset| offset % 3 > 0),
        ("every thousandth", |offset| offset % 1_000 == 1),
    ];
    for (what, is_settled) in patterns {
        let offsets: Vec<u64> = (0..10_000_000).filter(|&offset| is_settled(offset)).collect();
        let mut settled = Settled::default();
        let began = Instant::now();
        for &offset in &offsets {
            settled.settle(Run::one(Offset(offset)));
        }
        println!(
            "settled of 10,000,000: {what:18} {:9} bytes, {:.0} ns each",
            settled.memory_bytes(),
            began.elapsed().as_nanos() as f64 / offsets.len() as f64,
        );
    }
}

fn main() {
    println!(
        "ns per message{:30} append deliver  settle   write      all bytes/msg in the log",
        ""
    );
    let config = QueueConfig::default;
    let messages = 2_000_000;
    steady("shared, 100 per entry", config(), 0, 100, messages);
    steady("shared, 1,000 per entry", config(), 0, 1_000, messages);
    steady("shared, 1 per entry", config(), 0, 1, messages / 4);
    let before = QueueConfig { counting: Counting::Before, ..config() };
    steady("shared, attempts before, 100 per entry", before, 0, 100, messages);
    let levels = QueueConfig { levels: 10, ..config() };
    steady("10 levels, 100 per entry", levels, 0, 100, messages);
    let keys = || QueueConfig { mode: Mode::KeyShared, ..config() };
    steady("key-shared, 10,000 keys, 100 per entry", keys(), 10_000, 100, messages);
    steady("key-shared, 10 keys, 100 per entry", keys(), 10, 100, messages / 10);
    println!();
    delayed(1_000_000);
    backlog(10_000_000);
    println!();
    settled();
}

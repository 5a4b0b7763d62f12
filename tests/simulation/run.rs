//! One seed from beginning to end: calm, faults, healing, and everything must be well.

use std::fmt;
use std::time::Duration;

use plimsoll_log::disk::sim::SplitMix;
use plimsoll_protocol::api::{QueueCounting, QueueMode, QueueSettings};

use crate::checks::Checks;
use crate::equality::unequal_replica;
use crate::invariants::Committed;
use crate::judged::Judged;
use crate::kv::KeyWork;
use crate::lock::LockWork;
use crate::messages::Counts;
use crate::nemesis::{KINDS, Kind};
use crate::node::SimNode;
use crate::queue::{LETTERS, QueueWork};
use crate::trace::Trace;
use crate::workload::{Work, audit};
use crate::world::{Setting, World};

/// Nothing goes wrong before every node is of the cluster and clients were served; this long it takes at
/// most, in milliseconds.
const CALM_MS_MAX: u64 = 15_000;
/// Everything serves again this long after it was healed: ten times the liveness timeout.
pub const HEALED_WITHIN_MS: u64 = 5000;
/// A node that is asked to end waits this long for clients that do not let go, and is started again.
const LEFT_WITHIN_MS: u64 = 12_000;
/// Replicas that are moved are where they shall be this long after the last record.
const MOVED_WITHIN_MS: u64 = 30_000;
/// Time for clients to settle what they have sent, and for the last reader.
const SETTLED_WITHIN_MS: u64 = 60_000;

/// How a seed is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Length {
    /// How long faults come, in milliseconds.
    pub faulty_ms: u64,
}

/// What came of a seed that went well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Of everything that happened.
    pub trace: u64,
    /// What the hash is over.
    pub events: u64,
    /// Virtual time, in milliseconds.
    pub world_ms: u64,
    /// Records sent, acknowledged, and delivered.
    pub records: (u64, u64, u64),
    /// Reads to the end that began, and those that got there.
    pub reads: (u64, u64),
    /// Messages of the queue, where there is one.
    pub messages: Counts,
    /// Histories of locks and keys, where there are any.
    pub judged: Judged,
    /// Faults, by kind.
    pub faults: Vec<(Kind, u32)>,
    /// The last events, where they were kept.
    pub recent: String,
}

/// What went wrong with a seed, and how to see it again.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// When, in milliseconds of the world.
    pub at_ms: u64,
    /// What.
    pub what: String,
    /// The hash of what happened before.
    pub trace: u64,
    /// The last events, where they were kept.
    pub recent: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, at_ms, what, trace, recent } = self;
        write!(
            f,
            "seed {seed} at {at_ms} ms: {what}\n{recent}trace {trace:016x}; to see it again:\n  \
             PLIMSOLL_SEED={seed} cargo test -p plimsoll-simulation --test simulation one_seed -- \
             --nocapture"
        )
    }
}

/// One of so many.
fn lot(random: &mut SplitMix, count: u64) -> usize {
    usize::try_from(random.below(count)).unwrap_or(0)
}

/// The world that a seed stands for.
#[must_use]
pub fn setting(seed: u64) -> Setting {
    let mut random = SplitMix::new(seed ^ 0x5eed);
    let has_operator = random.chance(40);
    // Where replicas are moved there is room for it.
    let nodes = match has_operator {
        true => [3, 4, 4, 5, 5, 7][lot(&mut random, 6)],
        false => [1, 3, 3, 3, 3, 5][lot(&mut random, 6)],
    };
    // A few kinds at a time: what comes together most often is found by seeds, not by each of them.
    let kinds = KINDS.into_iter().filter(|_| random.chance(40)).collect::<Vec<_>>();
    // Groups sleep where producers pause for longer than that.
    let pause_ms_max = [200, 200, 200, 3000][lot(&mut random, 4)];
    let sleep_ms_max = [800, 20_000][lot(&mut random, 2)];
    // What follows has dice of its own: seeds without a queue stay the worlds that they were.
    let queue = queue_work(&mut SplitMix::new(seed ^ 0x90e0), &kinds);
    let has_group = SplitMix::new(seed ^ 0x6709).chance(25);
    Setting {
        locks: lock_work(&mut SplitMix::new(seed ^ 0x10c5)),
        keys: key_work(&mut SplitMix::new(seed ^ 0x6e95)),
        queue,
        members: if has_group { 2 } else { 0 },
        nodes,
        producers: 1 + u32::try_from(random.below(2)).unwrap_or(0),
        consumers: 1,
        readers: 1,
        has_operator,
        work: Work {
            nodes,
            partitions: 1 + u32::try_from(random.below(3)).unwrap_or(0),
            replicas: u16::try_from(nodes.min(3)).unwrap_or(1),
            padding_max: [0, 100, 3000][lot(&mut random, 3)],
            pause_ms_max: 20 + random.below(pause_ms_max),
        },
        // Above the pauses of whoever tries again: each attempt wakes a group, which elects anew.
        sleep_after: Duration::from_millis(1000 + random.below(sleep_ms_max)),
        kinds: if kinds.is_empty() { vec![Kind::PowerLoss] } else { kinds },
        fault_pause_ms_max: 100 + random.below(2000),
    }
}

/// The queue of a world, if it has one.
fn queue_work(random: &mut SplitMix, kinds: &[Kind]) -> Option<QueueWork> {
    if !random.chance(40) {
        return None;
    }
    // A delay is of the wall clock: one that was an hour early would never end here.
    let may_delay = !kinds.contains(&Kind::ClockJump);
    let is_keyed = random.chance(50);
    let attempts_max = [0, 0, 2, 4][lot(random, 4)];
    let settings = QueueSettings {
        mode: if is_keyed { QueueMode::KeyShared } else { QueueMode::Shared },
        counting: [QueueCounting::Behind, QueueCounting::Before][lot(random, 2)],
        levels: if is_keyed { 1 } else { [1, 3][lot(random, 2)] },
        lease_ms: 100 + u32::try_from(random.below(1500)).unwrap_or(0),
        attempts_max,
        backoff_ms: if may_delay { [0, 0, 50][lot(random, 3)] } else { 0 },
        backoff_ms_max: 1000,
        dead_letter: (attempts_max > 0 || random.chance(30)).then(|| LETTERS.to_owned()),
        ..QueueSettings::default()
    };
    Some(QueueWork {
        partitions: 1 + u32::try_from(random.below(2)).unwrap_or(0),
        settings,
        keys: if is_keyed { 1 + random.below(6) } else { 0 },
        senders: 1,
        receivers: 2,
        delay_ms_max: if may_delay { [0, 300][lot(random, 2)] } else { 0 },
        // Where messages of a key go in order, one that waits for its time is passed by the others.
        later_ms_max: if may_delay && !is_keyed { [0, 1500][lot(random, 2)] } else { 0 },
        life_ms_max: if may_delay { [0, 1500][lot(random, 2)] } else { 0 },
    })
}

/// The locks of a world, if it has some.
fn lock_work(random: &mut SplitMix) -> Option<LockWork> {
    random.chance(60).then(|| LockWork {
        holders: 2 + u32::try_from(random.below(3)).unwrap_or(0),
        places: 2 + random.below(4),
        lease_ms: 1000 + random.below(800),
        partitions: 1 + u32::try_from(random.below(2)).unwrap_or(0),
    })
}

/// The keys of a world, if it has some.
fn key_work(random: &mut SplitMix) -> Option<KeyWork> {
    random.chance(60).then(|| KeyWork {
        clients: 2 + u32::try_from(random.below(3)).unwrap_or(0),
        places: 1 + random.below(4),
        partitions: 1 + u32::try_from(random.below(2)).unwrap_or(0),
    })
}

/// Runs a seed, which these checks judge.
///
/// # Errors
/// What went wrong.
pub fn run(seed: u64, length: Length, checks: Checks, is_verbose: bool) -> Result<Report, Failure> {
    let trace = if is_verbose { Trace::verbose() } else { Trace::default() };
    let mut world = World::new(seed, &setting(seed), checks, trace);
    match live(&mut world, length) {
        Ok(report) => Ok(report),
        Err(what) => Err(Failure {
            seed,
            at_ms: world.now_ms(),
            what: format!("{what}{}", exits(&world)),
            trace: world.with_trace(Trace::hash),
            recent: world.with_trace(Trace::recent),
        }),
    }
}

fn exits(world: &World) -> String {
    match world.exits() {
        [] => String::new(),
        exits => format!("\nprocesses that ended by themselves:\n  {}", exits.join("\n  ")),
    }
}

fn live(world: &mut World, length: Length) -> Result<Report, String> {
    let is_ready = |world: &World| world.history().lock().acked > 0 && world.is_complete();
    if !world.run_until(CALM_MS_MAX, is_ready)? {
        return Err("nobody was served although nothing went wrong".to_owned());
    }
    world.begin_faults();
    world.run_until(length.faulty_ms, |_| false)?;
    world.heal();
    let all_stay = |world: &World| world.nodes().iter().all(SimNode::stays);
    if !world.run_until(LEFT_WITHIN_MS, all_stay)? {
        let late: Vec<_> = world.nodes().iter().filter(|node| !node.stays()).collect();
        return Err(format!("{late:?} did not end within {LEFT_WITHIN_MS} ms"));
    }
    let acked = world.history().lock().acked;
    if !world.run_until(HEALED_WITHIN_MS, |world| world.history().lock().acked > acked)? {
        return Err(format!("nothing was stored within {HEALED_WITHIN_MS} ms of being healed"));
    }
    world.history().lock().is_over = true;
    let everybody = world.clients();
    if !world.run_until(SETTLED_WITHIN_MS, |world| world.history().lock().ended >= everybody)? {
        return Err("clients did not come to an end".to_owned());
    }
    let judged = world.judge()?;
    drain_queue(world)?;
    read_rest_in_group(world)?;
    let within_ms = if world.has_moves() { MOVED_WITHIN_MS } else { HEALED_WITHIN_MS };
    if !world.run_until(within_ms, |world| unequal_replica(world).is_none())? {
        let unequal = unequal_replica(world).unwrap_or_default();
        return Err(format!("not equal {within_ms} ms after the last record: {unequal}"));
    }
    read_everything(world)?;
    let state = world.history().lock();
    let sent = u64::try_from(state.sent.len()).unwrap_or(u64::MAX);
    if state.acked * 4 < sent {
        let acked = state.acked;
        return Err(format!("rejected: {acked} of {sent} records were stored, that shows nothing"));
    }
    Ok(Report {
        trace: world.with_trace(Trace::hash),
        events: world.with_trace(Trace::events),
        world_ms: world.now_ms(),
        records: (sent, state.acked, state.seen),
        reads: state.reads,
        messages: state.messages,
        judged,
        faults: world.nemesis().done().iter().map(|(kind, count)| (*kind, *count)).collect(),
        recent: world.with_trace(Trace::recent),
    })
}

/// A consumer of the queue who comes last gets everything that has not ended.
fn drain_queue(world: &mut World) -> Result<(), String> {
    let ended = world.history().lock().ended;
    if !world.begin_draining(201) {
        return Ok(());
    }
    let is_drained =
        world.run_until(SETTLED_WITHIN_MS, |world| world.history().lock().ended > ended)?;
    world.drained()?;
    match is_drained {
        true => Ok(()),
        false => Err("the queue says that messages are left, and gives none".to_owned()),
    }
}

/// A member who comes last reads everything that its group has not read.
fn read_rest_in_group(world: &mut World) -> Result<(), String> {
    let ended = world.history().lock().ended;
    if !world.begin_reading_rest(202) {
        return Ok(());
    }
    let has_read_all =
        world.run_until(SETTLED_WITHIN_MS, |world| world.history().lock().ended > ended)?;
    world.group_has_read_all()?;
    match has_read_all {
        true => Ok(()),
        false => Err("the group's last member has not read everything".to_owned()),
    }
}

/// A reader who comes last gets everything that was ever committed.
fn read_everything(world: &mut World) -> Result<(), String> {
    let stored: u64 = {
        let ledger = world.observer().ledger();
        let partitions = ledger.partitions.keys();
        let counts = partitions.filter_map(|partition| ledger.partition(*partition));
        counts.map(|committed: &Committed| committed.records.len() as u64).sum()
    };
    let (seen, ended) = {
        let state = world.history().lock();
        (state.seen, state.ended)
    };
    let history = world.history().clone();
    world.spawn_client(200, |host| Box::pin(audit(host, history)));
    if !world.run_until(SETTLED_WITHIN_MS, |world| world.history().lock().ended > ended)? {
        return Err("the last reader did not come to an end".to_owned());
    }
    let read = world.history().lock().seen - seen;
    match read == stored {
        true => Ok(()),
        false => Err(format!("the last reader got {read} records, {stored} are committed")),
    }
}

//! What goes wrong, when, and when it is right again; drawn from the seed.

use std::collections::BTreeMap;

use plimsoll_log::disk::sim::{CrashPlan, Effect, Fault, Operation, SplitMix};

use crate::node::StorageTime;
use crate::process::RIGHT_RATE;
use crate::world::World;

/// What may go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `kill -9`.
    Kill,
    /// The machine loses power: what was not synced may be lost or torn.
    PowerLoss,
    /// A write or sync fails; the node ends itself, and its machine may lose power then.
    DiskError,
    /// It is asked to end, and started again.
    Restart,
    /// SIGSTOP, and SIGCONT later.
    Stop,
    /// Nothing gets from one host to another, in one direction or both.
    Cut,
    /// Packets take long.
    Delay,
    /// Connections break.
    Reset,
    /// Storage work takes long.
    SlowDisk,
    /// No room on the disk.
    FullDisk,
    /// A wall clock jumps.
    ClockJump,
    /// A clock goes fast or slowly.
    ClockRate,
    /// Every node is asked to end and started again, one after the other.
    Roll,
    /// Another node joins.
    Join,
}

/// Every kind.
pub const KINDS: [Kind; 14] = [
    Kind::Kill,
    Kind::PowerLoss,
    Kind::DiskError,
    Kind::Restart,
    Kind::Stop,
    Kind::Cut,
    Kind::Delay,
    Kind::Reset,
    Kind::SlowDisk,
    Kind::FullDisk,
    Kind::ClockJump,
    Kind::ClockRate,
    Kind::Roll,
    Kind::Join,
];

/// So many nodes join at most.
const JOINS_MAX: u32 = 2;

/// One thing that is done to the world.
#[derive(Clone, Copy, Debug)]
enum Deed {
    /// Something of its own choice, and the next choice later.
    Choose,
    Start(usize),
    Resume(usize),
    Mend,
    FairWeather,
    UsualDisk(usize),
    RightClock(usize),
    /// This one is asked to end, then the next.
    Roll(usize),
    /// Some node proposes the last one, until it is taken in.
    TakeIn,
}

/// See the module.
#[derive(Debug)]
pub struct Nemesis {
    random: SplitMix,
    kinds: Vec<Kind>,
    pause_ms_max: u64,
    agenda: BTreeMap<(u64, u64), Deed>,
    planned: u64,
    done: BTreeMap<Kind, u32>,
    /// Clocks go equally fast, as far as leases of locks rely on it.
    clocks_agree: bool,
}

/// By how much a clock goes too fast or too slow where clocks agree, in nanoseconds per millisecond: two of them
/// differ by less than a hundredth.
const AGREEING_RATE: u64 = RIGHT_RATE / 250;

impl Nemesis {
    /// One that knows these kinds of faults, with at most so long between two.
    #[must_use]
    pub fn new(seed: u64, kinds: Vec<Kind>, pause_ms_max: u64) -> Self {
        let (random, agenda, done) = (SplitMix::new(seed), BTreeMap::new(), BTreeMap::new());
        Self { random, kinds, pause_ms_max, agenda, planned: 0, done, clocks_agree: false }
    }

    /// The same, whose clocks go equally fast within a hundredth.
    #[must_use]
    pub fn with_clocks_that_agree(self) -> Self {
        Self { clocks_agree: true, ..self }
    }

    /// Begins, with the first fault soon.
    pub(crate) fn begin(&mut self, now_ms: u64) {
        if !self.kinds.is_empty() {
            self.later(now_ms, self.pause_ms_max, Deed::Choose);
        }
    }

    /// How often each kind of fault came.
    #[must_use]
    pub fn done(&self) -> &BTreeMap<Kind, u32> {
        &self.done
    }

    fn plan(&mut self, at_ms: u64, deed: Deed) {
        self.planned += 1;
        self.agenda.insert((at_ms, self.planned), deed);
    }

    fn later(&mut self, now_ms: u64, most_ms: u64, deed: Deed) {
        let after = 1 + self.random.below(most_ms);
        self.plan(now_ms + after, deed);
    }

    /// A process has ended: it is started again after a while.
    pub(crate) fn ended(&mut self, now_ms: u64, node: usize) {
        self.later(now_ms, 1500, Deed::Start(node));
    }

    /// Does what is due.
    pub(crate) fn act(&mut self, world: &mut World) {
        while let Some(first) = self.agenda.first_entry()
            && first.key().0 <= world.now_ms()
        {
            let deed = first.remove();
            self.carry_out(deed, world);
        }
    }

    fn carry_out(&mut self, deed: Deed, world: &mut World) {
        match deed {
            Deed::Choose => {
                self.choose(world);
                self.later(world.now_ms(), self.pause_ms_max, Deed::Choose);
            }
            Deed::Start(node) => world.start_node(node),
            Deed::Resume(node) => world.resume_node(node),
            Deed::Mend => world.weather().mend(),
            Deed::FairWeather => world.weather().set_delay_ms(0, 1, 0),
            Deed::UsualDisk(node) => usual_disk(world, node),
            Deed::RightClock(node) => world.set_clock(node, RIGHT_RATE, 0),
            Deed::Roll(node) if node < world.nodes().len() => {
                world.node_mut(node).ask_to_leave();
                self.later(world.now_ms(), 1500, Deed::Roll(node + 1));
            }
            Deed::Roll(_) => {}
            Deed::TakeIn if !world.is_complete() => {
                let before = world.nodes().len() as u64;
                let by = usize::try_from(self.random.below(before - 1)).unwrap_or(0);
                world.nodes()[by].take_in(before..before + 1);
                self.later(world.now_ms(), 1000, Deed::TakeIn);
            }
            Deed::TakeIn => {}
        }
    }

    fn choose(&mut self, world: &mut World) {
        let count = u64::try_from(self.kinds.len()).unwrap_or(1);
        let kind = self.kinds[usize::try_from(self.random.below(count)).unwrap_or(0)];
        let nodes = u64::try_from(world.nodes().len()).unwrap_or(1);
        let node = usize::try_from(self.random.below(nodes)).unwrap_or(0);
        if !world.nodes()[node].is_running() {
            return;
        }
        let joined = self.done.get(&Kind::Join).copied().unwrap_or(0);
        if kind == Kind::Join && (joined >= JOINS_MAX || !world.is_complete()) {
            return;
        }
        *self.done.entry(kind).or_default() += 1;
        let now_ms = world.now_ms();
        world.note("fault", &[kind as u64, node as u64]);
        match kind {
            Kind::Kill => {
                world.kill_node(node, None);
                self.later(now_ms, 2000, Deed::Start(node));
            }
            Kind::PowerLoss => {
                let plan = self.crash_plan();
                world.kill_node(node, Some(&plan));
                self.later(now_ms, 2000, Deed::Start(node));
            }
            Kind::DiskError => {
                let which = if self.random.chance(50) { Operation::Write } else { Operation::Sync };
                let nth = 1 + self.random.below(6);
                world.nodes()[node].disk.inject(Fault::new(which, nth, Effect::Eio).once());
            }
            Kind::Restart => world.node_mut(node).ask_to_leave(),
            Kind::Stop => {
                world.stop_node(node);
                self.later(now_ms, 3000, Deed::Resume(node));
            }
            Kind::Cut => self.cut(world),
            Kind::Delay => {
                let least = self.random.below(20);
                let most = least + self.random.below(100);
                let late = self.random.below(10);
                world.weather().set_delay_ms(least, most, late);
                self.later(now_ms, 2000, Deed::FairWeather);
            }
            Kind::Reset => {
                let connections = world.network().connections_of(world.nodes()[node].ip);
                for connection in connections {
                    if self.random.chance(60) {
                        world.network().break_connection(connection, "reset");
                    }
                }
            }
            Kind::SlowDisk => {
                let least = 5 + self.random.below(50);
                let most = least + self.random.below(200);
                world.node_mut(node).storage_time = StorageTime { least, most };
                self.later(now_ms, 2000, Deed::UsualDisk(node));
            }
            Kind::FullDisk => {
                let disk = &world.nodes()[node].disk;
                disk.set_capacity(disk.used_bytes() + (self.random.below(64) << 10));
                self.later(now_ms, 2000, Deed::UsualDisk(node));
            }
            Kind::ClockJump => {
                let hours = i64::try_from(self.random.below(3)).unwrap_or(0) - 1;
                world.set_clock(node, RIGHT_RATE, hours * 3_600_000);
                self.later(now_ms, 3000, Deed::RightClock(node));
            }
            Kind::ClockRate => {
                let rate = match self.clocks_agree {
                    true => RIGHT_RATE - AGREEING_RATE + self.random.below(2 * AGREEING_RATE + 1),
                    false => RIGHT_RATE / 2 + self.random.below(RIGHT_RATE * 3 / 2),
                };
                world.set_clock(node, rate, 0);
                self.later(now_ms, 3000, Deed::RightClock(node));
            }
            Kind::Roll => self.later(now_ms, 100, Deed::Roll(0)),
            Kind::Join => {
                world.add_node();
                self.later(now_ms, 100, Deed::TakeIn);
            }
        }
    }

    fn crash_plan(&mut self) -> CrashPlan {
        if self.random.chance(30) {
            return CrashPlan::NOTHING;
        }
        CrashPlan::random(self.random.number())
    }

    fn cut(&mut self, world: &mut World) {
        let hosts = world.hosts();
        let count = u64::try_from(hosts.len()).unwrap_or(1);
        let mut draw = || hosts[usize::try_from(self.random.below(count)).unwrap_or(0)];
        let (one, other) = (draw(), draw());
        if one == other {
            return;
        }
        world.weather().cut(one, other);
        if self.random.chance(50) {
            world.weather().cut(other, one);
        }
        self.later(world.now_ms(), 3000, Deed::Mend);
    }

    /// Whether the machine of a process that ended itself loses its power, too.
    pub(crate) fn aftermath(&mut self) -> Option<CrashPlan> {
        self.random.chance(50).then(|| self.crash_plan())
    }

    /// Nothing goes wrong any more, and everything is right again.
    pub(crate) fn heal(&mut self, world: &mut World) {
        // Who is about to join still does.
        self.agenda.retain(|_, deed| matches!(deed, Deed::TakeIn));
        self.kinds.clear();
        world.weather().set_delay_ms(0, 1, 0);
        world.weather().mend();
        for node in 0..world.nodes().len() {
            usual_disk(world, node);
            world.set_clock(node, RIGHT_RATE, 0);
            world.resume_node(node);
            world.start_node(node);
        }
    }
}

fn usual_disk(world: &mut World, node: usize) {
    let node = world.node_mut(node);
    node.storage_time = StorageTime { least: 0, most: 2 };
    node.disk.heal();
    node.disk.set_capacity(1 << 40);
}

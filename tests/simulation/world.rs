//! A world: hosts, their processes, the network between them, in steps of a millisecond.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use plimsoll_linearizability::lock::Leases;
use plimsoll_log::disk::sim::{CrashPlan, SplitMix};
use plimsoll_protocol::ids::NodeId;
use plimsoll_transport::{SimulatedHost, SimulatedNetwork};

use crate::checks::Checks;
use crate::clock::SimClock;
use crate::group::{consume_in_group, read_rest_in_group};
use crate::history::History;
use crate::invariants::Observer;
use crate::judged::{Judged, Troubles, judge};
use crate::kv::{KeyWork, work_with_keys};
use crate::lock::{LockWork, work_with_locks};
use crate::nemesis::{Kind, Nemesis};
use crate::node::SimNode;
use crate::operate::operate;
use crate::panics;
use crate::process::{Process, RIGHT_RATE};
use crate::queue::{QueueWork, drain, receive, send};
use crate::reads::read_to_the_end;
use crate::trace::Trace;
use crate::weather::Weather;
use crate::workload::{Work, client_ip, consume, produce};

/// What a world consists of.
#[derive(Debug, Clone)]
pub struct Setting {
    /// Nodes.
    pub nodes: u64,
    /// Producers, each in a process of its own.
    pub producers: u32,
    /// Consumers, each in a process of its own.
    pub consumers: u32,
    /// Readers to the end, each in a process of its own.
    pub readers: u32,
    /// Whether there is an operator, in a process of its own.
    pub has_operator: bool,
    /// What they do.
    pub work: Work,
    /// The queue that some more clients work with.
    pub queue: Option<QueueWork>,
    /// Members of a consumer group that reads the topic, each in a process of its own.
    pub members: u32,
    /// The locks that some more clients work with.
    pub locks: Option<LockWork>,
    /// The keys that some more clients work with.
    pub keys: Option<KeyWork>,
    /// Groups without traffic for this long are put to sleep.
    pub sleep_after: Duration,
    /// Faults that may come.
    pub kinds: Vec<Kind>,
    /// Longest time between two faults, in milliseconds.
    pub fault_pause_ms_max: u64,
}

struct ClientHost {
    ip: IpAddr,
    process: Process,
    crashes: Option<Crashes>,
    /// It does not run although it lives (SIGSTOP).
    is_stopped: bool,
}

impl ClientHost {
    fn step(&mut self) {
        match self.is_stopped {
            true => self.process.step_stopped(),
            false => self.process.step(),
        }
    }

    fn resume(&mut self) {
        if std::mem::take(&mut self.is_stopped) {
            self.process.resume();
        }
    }
}

/// When a client is killed and started again, or stopped for a while, while there are faults.
struct Crashes {
    random: SplitMix,
    next_ms: u64,
    /// When it goes on that was stopped.
    resume_ms: u64,
    role: Role,
}

/// What a client does that is killed now and then.
#[derive(Debug, Clone)]
enum Role {
    /// It consumes the queue.
    Receiver(Work, QueueWork),
    /// It reads the topic in a group.
    Member(Work),
    /// It works with locks.
    Holder(Work, LockWork),
    /// It works with keys.
    Mapper(Work, KeyWork),
}

impl Role {
    /// Begins it in a process. `clock` is that of the process.
    fn begin(
        self,
        process: &Process,
        clock: SimClock,
        (host, history, seed): (SimulatedHost, History, u64),
    ) {
        match self {
            Self::Receiver(work, queue) => {
                process.spawn(receive(host, history, seed, (work, queue)));
            }
            Self::Member(work) => process.spawn(consume_in_group(host, history, seed, work)),
            Self::Holder(work, locks) => {
                process.spawn(work_with_locks(host, history, seed, clock, (work, locks)));
            }
            Self::Mapper(work, keys) => {
                process.spawn(work_with_keys(host, history, seed, clock, (work, keys)));
            }
        }
    }

    /// Longest time for which it is stopped, in milliseconds; 0: it is killed only.
    fn stop_ms_max(&self) -> u64 {
        match self {
            Self::Receiver(..) | Self::Member(_) => 0,
            Self::Holder(_, locks) => 5 * locks.lease_ms / 2,
            Self::Mapper(..) => 1000,
        }
    }
}

/// The number of the first member's host, above those of other clients.
const FIRST_MEMBER: u64 = 100;
/// The same of those who work with locks, and with keys.
const FIRST_HOLDER: u64 = 120;
const FIRST_MAPPER: u64 = 140;

/// A process whose storage has failed ends within this, whatever it was doing.
const FAILED_WITHIN_MS: u64 = 1500;

/// Longest time between two crashes of a client, in milliseconds.
const CRASH_PAUSE_MS_MAX: u64 = 4000;

impl Crashes {
    fn new(role: Role, seed: u64) -> Self {
        Self { random: SplitMix::new(seed), next_ms: 0, resume_ms: 0, role }
    }

    fn plan(&mut self, now_ms: u64) {
        self.next_ms = now_ms + 1 + self.random.below(CRASH_PAUSE_MS_MAX);
    }
}

/// See the module.
pub struct World {
    now_ms: u64,
    random: SplitMix,
    network: SimulatedNetwork,
    weather: Weather,
    nodes: Vec<SimNode>,
    clients: Vec<ClientHost>,
    history: History,
    trace: Arc<Mutex<Trace>>,
    observer: Observer,
    checks: Checks,
    nemesis: Nemesis,
    exits: Vec<String>,
    has_operator: bool,
    is_faulty: bool,
    /// What the clients of the queue do.
    queue: Option<(Work, QueueWork)>,
    /// What the members of the group do.
    group: Option<Work>,
    /// When something was dead, stopped or cut off.
    troubles: Troubles,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World").field("now_ms", &self.now_ms).finish_non_exhaustive()
    }
}

impl World {
    /// A world in which the nodes begin to start and the clients begin to dial. No fault comes before
    /// [`World::begin_faults`].
    #[must_use]
    pub fn new(seed: u64, setting: &Setting, checks: Checks, trace: Trace) -> Self {
        panics::listen();
        let mut random = SplitMix::new(seed);
        let trace = Arc::new(Mutex::new(trace));
        let weather = Weather::new(random.number(), Arc::clone(&trace));
        let network = SimulatedNetwork::new(weather.clone());
        let mut nodes = Vec::new();
        for number in 1..=setting.nodes {
            let mut node = SimNode::new(number, random.number(), setting.sleep_after);
            node.start(&network, 0);
            nodes.push(node);
        }
        nodes[0].take_in(2..setting.nodes + 1);
        let history = History::default();
        let mut clients = Vec::new();
        let Setting { producers, consumers, readers, .. } = *setting;
        let all = producers + consumers + readers + u32::from(setting.has_operator);
        for number in 0..all {
            let ip = client_ip(u64::from(number) + 1);
            let host = network.start_host(ip);
            let process = Process::new(SimClock::default(), 0);
            let (history, work, seed) = (history.clone(), setting.work.clone(), random.number());
            if number < producers {
                process.spawn(produce(host, history, number, seed, work));
            } else if number < producers + consumers {
                process.spawn(consume(host, history, number - producers, seed, work));
            } else if number < producers + consumers + readers {
                process.spawn(read_to_the_end(host, history, number - producers, seed, work));
            } else {
                process.spawn(operate(host, history, seed, work));
            }
            clients.push(ClientHost { ip, process, crashes: None, is_stopped: false });
        }
        let queue = setting.queue.clone().map(|queue| (setting.work.clone(), queue));
        if let Some(works) = &queue {
            let (senders, receivers) = (works.1.senders, works.1.receivers);
            for number in 0..senders + receivers {
                let ip = client_ip(u64::from(all + number) + 1);
                let host = network.start_host(ip);
                let clock = SimClock::default();
                let process = Process::new(clock.clone(), 0);
                let (history, works, seed) = (history.clone(), works.clone(), random.number());
                let crashes = if number < senders {
                    process.spawn(send(host, history, number, seed, works));
                    None
                } else {
                    let role = Role::Receiver(works.0, works.1);
                    role.clone().begin(&process, clock, (host, history, seed));
                    Some(Crashes::new(role, random.number()))
                };
                clients.push(ClientHost { ip, process, crashes, is_stopped: false });
            }
        }
        if let Some(locks) = &setting.locks {
            history.lock().locks.leases = Leases::new(locks.believed_ms());
        }
        for (number, role) in roles(setting) {
            let ip = client_ip(number);
            let host = network.start_host(ip);
            let clock = SimClock::default();
            let process = Process::new(clock.clone(), 0);
            role.clone().begin(&process, clock, (host, history.clone(), random.number()));
            let crashes = Some(Crashes::new(role, random.number()));
            clients.push(ClientHost { ip, process, crashes, is_stopped: false });
        }
        let (kinds, pause) = (setting.kinds.clone(), setting.fault_pause_ms_max);
        let mut nemesis = Nemesis::new(random.number(), kinds, pause);
        if setting.locks.is_some() {
            nemesis = nemesis.with_clocks_that_agree();
        }
        Self {
            now_ms: 0,
            random,
            network,
            weather,
            nodes,
            clients,
            history,
            trace,
            observer: Observer::new(checks.invariants()),
            checks,
            nemesis,
            exits: Vec::new(),
            has_operator: setting.has_operator,
            is_faulty: false,
            queue,
            group: (setting.members > 0).then(|| setting.work.clone()),
            troubles: Troubles::default(),
        }
    }

    /// Milliseconds since the beginning.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// The nodes.
    #[must_use]
    pub fn nodes(&self) -> &[SimNode] {
        &self.nodes
    }

    pub(crate) fn node_mut(&mut self, node: usize) -> &mut SimNode {
        &mut self.nodes[node]
    }

    /// The network.
    #[must_use]
    pub fn network(&self) -> &SimulatedNetwork {
        &self.network
    }

    /// The network's weather.
    #[must_use]
    pub fn weather(&self) -> &Weather {
        &self.weather
    }

    /// What clients did and saw.
    #[must_use]
    pub fn history(&self) -> &History {
        &self.history
    }

    /// What was committed.
    #[must_use]
    pub fn observer(&self) -> &Observer {
        &self.observer
    }

    /// The faults that came.
    #[must_use]
    pub fn nemesis(&self) -> &Nemesis {
        &self.nemesis
    }

    /// Why processes ended by themselves.
    #[must_use]
    pub fn exits(&self) -> &[String] {
        &self.exits
    }

    /// Whether replicas are moved.
    #[must_use]
    pub fn has_moves(&self) -> bool {
        self.has_operator || self.nemesis.done().contains_key(&Kind::Join)
    }

    /// How many clients there are.
    #[must_use]
    pub fn clients(&self) -> u32 {
        u32::try_from(self.clients.len()).unwrap_or(u32::MAX)
    }

    /// Addresses of all hosts.
    #[must_use]
    pub fn hosts(&self) -> Vec<IpAddr> {
        let nodes = self.nodes.iter().map(|node| node.ip);
        nodes.chain(self.clients.iter().map(|client| client.ip)).collect()
    }

    /// Notes something in the trace.
    pub fn note(&self, what: &str, numbers: &[u64]) {
        let mut trace = self.trace.lock().unwrap_or_else(PoisonError::into_inner);
        trace.note(self.now_ms, what, numbers);
    }

    /// Looks at the trace.
    pub fn with_trace<T>(&self, look: impl FnOnce(&Trace) -> T) -> T {
        look(&self.trace.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn start_node(&mut self, node: usize) {
        if !self.nodes[node].is_running() {
            self.note("start", &[node as u64]);
            self.nodes[node].start(&self.network, self.now_ms);
        }
    }

    /// Another host begins to run a node, which nobody has taken in yet.
    pub(crate) fn add_node(&mut self) {
        let number = self.nodes.len() as u64 + 1;
        self.note("add", &[number]);
        let mut node = SimNode::new(number, self.random.number(), self.nodes[0].sleep_after);
        node.start(&self.network, self.now_ms);
        self.nodes.push(node);
    }

    /// Whether the last node is of the cluster, as another one knows.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        let last = NodeId(self.nodes.len() as u64);
        let knows = |node: &SimNode| node.broker()?.catalog().node(last).map(drop);
        self.nodes.iter().any(|node| knows(node).is_some())
    }

    pub(crate) fn kill_node(&mut self, node: usize, power: Option<&CrashPlan>) {
        let ip = self.nodes[node].ip;
        // A host whose power fails says nothing; the kernel of one that lives resets connections.
        let resets = match power {
            Some(_) => Vec::new(),
            None => self.network.connections_of(ip),
        };
        self.nodes[node].kill(&self.network, power);
        for connection in resets {
            self.network.break_connection(connection, "the peer's process ended");
        }
        self.note("killed", &[node as u64, u64::from(power.is_some())]);
    }

    pub(crate) fn stop_node(&mut self, node: usize) {
        self.nodes[node].is_stopped = true;
    }

    pub(crate) fn resume_node(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        if std::mem::take(&mut node.is_stopped)
            && let Some(process) = node.process()
        {
            process.resume();
        }
    }

    pub(crate) fn set_clock(&mut self, node: usize, rate: u64, offset_ms: i64) {
        let node = &mut self.nodes[node];
        node.clock.set_offset_ms(offset_ms);
        if let Some(process) = node.process() {
            process.set_rate(rate);
        }
    }

    /// From now on there are faults.
    pub fn begin_faults(&mut self) {
        self.with_nemesis(|nemesis, world| nemesis.begin(world.now_ms()));
        self.is_faulty = true;
        let crashes = self.clients.iter_mut().filter_map(|client| client.crashes.as_mut());
        crashes.for_each(|crashes| crashes.plan(self.now_ms));
        self.note("faults", &[]);
    }

    /// Ends the faults and makes everything right.
    pub fn heal(&mut self) {
        self.with_nemesis(Nemesis::heal);
        self.is_faulty = false;
        self.clients.iter_mut().for_each(ClientHost::resume);
        self.note("healed", &[]);
    }

    fn with_nemesis(&mut self, act: impl FnOnce(&mut Nemesis, &mut Self)) {
        let idle = Nemesis::new(0, Vec::new(), 1);
        let mut nemesis = std::mem::replace(&mut self.nemesis, idle);
        act(&mut nemesis, self);
        self.nemesis = nemesis;
    }

    /// A millisecond passes.
    ///
    /// # Errors
    /// What was broken, in words.
    pub fn step(&mut self) -> Result<(), String> {
        self.now_ms += 1;
        self.history.lock().now_ms = self.now_ms;
        self.weather.pass(self.now_ms);
        self.with_nemesis(Nemesis::act);
        if self.is_faulty {
            self.crash_clients();
        }
        if self.is_troubled() {
            self.troubles.note(self.now_ms);
        }
        let nodes = self.nodes.len();
        let mut order: Vec<usize> = (0..nodes + self.clients.len()).collect();
        for at in (1..order.len()).rev() {
            let other = self.random.below(at as u64 + 1);
            order.swap(at, usize::try_from(other).unwrap_or(at));
        }
        for which in order {
            match which.checked_sub(nodes) {
                Some(client) => self.clients[client].step(),
                None => {
                    if let Some(worked) = self.nodes[which].step(self.now_ms) {
                        let numbers =
                            [which as u64, worked.writes, worked.written_bytes, worked.syncs];
                        self.note("storage", &numbers);
                    }
                }
            }
        }
        if let Some(panic) = panics::take() {
            return Err(format!("a task panicked: {panic}"));
        }
        {
            let mut trace = self.trace.lock().unwrap_or_else(PoisonError::into_inner);
            self.observer.look(self.now_ms, &self.nodes, &self.history, &mut trace)?;
        }
        let late = self.nodes.iter().find(|node| node.failed_for_ms > FAILED_WITHIN_MS);
        if let Some(late) = late {
            return Err(format!("{late:?} runs on {FAILED_WITHIN_MS} ms after its storage failed"));
        }
        self.bury_processes();
        Ok(())
    }

    /// Whether a process is dead or stopped, or hosts are cut off from each other.
    fn is_troubled(&self) -> bool {
        self.nodes.iter().any(|node| node.is_stopped || !node.is_running())
            || self.clients.iter().any(|client| client.is_stopped)
            || self.weather.is_cut()
    }

    /// Clients whose time has come are killed (`kill -9`) and started again, or stopped for a while.
    fn crash_clients(&mut self) {
        for client in &mut self.clients {
            let Some(crashes) = client.crashes.as_mut() else { continue };
            if client.is_stopped && crashes.resume_ms <= self.now_ms {
                client.is_stopped = false;
                client.process.resume();
            }
            if crashes.next_ms > self.now_ms {
                continue;
            }
            crashes.plan(self.now_ms);
            let stop_ms_max = crashes.role.stop_ms_max();
            if stop_ms_max > 0 && crashes.random.chance(60) {
                client.is_stopped = true;
                crashes.resume_ms = self.now_ms + 1 + crashes.random.below(stop_ms_max);
                continue;
            }
            self.troubles.note(self.now_ms);
            client.is_stopped = false;
            let resets = self.network.connections_of(client.ip);
            self.network.kill(client.ip);
            let host = self.network.start_host(client.ip);
            let clock = SimClock::default();
            client.process = Process::new(clock.clone(), self.now_ms);
            for connection in resets {
                self.network.break_connection(connection, "the client's process ended");
            }
            let (seed, history) = (crashes.random.number(), self.history.clone());
            crashes.role.clone().begin(&client.process, clock, (host, history, seed));
        }
    }

    /// Judges what was asked of locks and keys and answered, once all clients have ended.
    ///
    /// # Errors
    /// What no order of the operations explains, or was not decided.
    pub(crate) fn judge(&self) -> Result<Judged, String> {
        judge(&self.history.lock(), &self.troubles, &self.checks)
    }

    /// Whether there is a queue; then its last consumer begins, and takes everything.
    pub(crate) fn begin_draining(&mut self, number: u64) -> bool {
        let Some(works) = self.queue.clone() else { return false };
        let history = self.history.clone();
        self.spawn_client(number, |host| Box::pin(drain(host, history, works)));
        true
    }

    /// The last consumer of the queue has taken all that it could get.
    ///
    /// # Errors
    /// What is broken, in words.
    pub(crate) fn drained(&mut self) -> Result<(), String> {
        self.observer.drained()
    }

    /// Whether there is a group; then its last member begins, and reads what is left.
    pub(crate) fn begin_reading_rest(&mut self, number: u64) -> bool {
        let Some(work) = self.group.clone() else { return false };
        let history = self.history.clone();
        self.spawn_client(number, |host| Box::pin(read_rest_in_group(host, history, work)));
        true
    }

    /// The last member of the group has read all that it could get.
    ///
    /// # Errors
    /// What is broken, in words.
    pub(crate) fn group_has_read_all(&mut self) -> Result<(), String> {
        self.observer.group_has_read_all()
    }

    /// Processes that have ended by themselves leave their hosts.
    fn bury_processes(&mut self) {
        for node in 0..self.nodes.len() {
            if !self.nodes[node].is_running() {
                continue;
            }
            let Some(why) = self.nodes[node].exited() else { continue };
            self.exits.push(format!("{} ms, node {}: {why}", self.now_ms, node + 1));
            let now_ms = self.now_ms;
            self.with_nemesis(|nemesis, world| {
                let power = nemesis.aftermath();
                world.nodes[node].disk.heal();
                world.kill_node(node, power.as_ref());
                nemesis.ended(now_ms, node);
            });
        }
    }

    /// Steps until `is_done`, at most `most_ms`. Whether it was.
    ///
    /// # Errors
    /// As [`World::step`].
    pub fn run_until(
        &mut self,
        most_ms: u64,
        mut is_done: impl FnMut(&Self) -> bool,
    ) -> Result<bool, String> {
        let end_ms = self.now_ms + most_ms;
        while self.now_ms < end_ms {
            self.step()?;
            if self.now_ms.is_multiple_of(20) && is_done(self) {
                return Ok(true);
            }
        }
        Ok(is_done(self))
    }

    /// Starts a task in a client's process.
    pub(crate) fn spawn_client(
        &mut self,
        number: u64,
        task: impl FnOnce(SimulatedHost) -> futures_util::future::BoxFuture<'static, ()>,
    ) {
        let ip = client_ip(number);
        let host = self.network.start_host(ip);
        let mut process = Process::new(SimClock::default(), 0);
        process.set_rate(RIGHT_RATE);
        process.spawn(task(host));
        self.clients.push(ClientHost { ip, process, crashes: None, is_stopped: false });
    }
}

/// Clients that are killed and stopped, with the numbers of their hosts.
fn roles(setting: &Setting) -> Vec<(u64, Role)> {
    let work = &setting.work;
    let members = (0..u64::from(setting.members))
        .map(|number| (FIRST_MEMBER + number, Role::Member(work.clone())));
    let holders = setting.locks.iter().flat_map(|locks| {
        (0..u64::from(locks.holders))
            .map(|number| (FIRST_HOLDER + number, Role::Holder(work.clone(), *locks)))
    });
    let mappers = setting.keys.iter().flat_map(|keys| {
        (0..u64::from(keys.clients))
            .map(|number| (FIRST_MAPPER + number, Role::Mapper(work.clone(), *keys)))
    });
    members.chain(holders).chain(mappers).collect()
}

impl Drop for World {
    fn drop(&mut self) {
        // In this order nothing that is dropped says anything to anybody.
        for ip in self.hosts() {
            self.network.kill(ip);
        }
    }
}

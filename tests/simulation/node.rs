//! A node of a world: a host with a disk, and the process that runs on it now and then.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures_util::FutureExt as _;
use plimsoll_gateways::Broker;
use plimsoll_log::disk::sim::{CrashPlan, SimDisk, SplitMix};
use plimsoll_log::{Identity, Store, StoreConfig};
use plimsoll_node::config::NodeConfig;
use plimsoll_node::{Node, Simulated, Surroundings};
use plimsoll_peers::{BoxFuture, Dial, DialError};
use plimsoll_protocol::ids::NodeId;
use plimsoll_protocol::peer::MemberAddress;
use plimsoll_state::catalog::{CatalogCommand, CatalogReply, NodeSpec};
use plimsoll_transport::{
    Connection, SimulatedHost, SimulatedNetwork, TransportConfig, TransportKind,
};
use tokio::sync::Notify;

use crate::clock::SimClock;
use crate::process::Process;

/// Where every node listens.
pub const PORT: u16 = 7420;

/// The cluster of every world.
const CLUSTER: [u8; 16] = *b"simulated worlds";

/// The address that a node is dialed at.
#[must_use]
pub fn node_address(number: u64) -> SocketAddr {
    SocketAddr::new(node_ip(number), PORT)
}

/// Dials other nodes over the simulated network.
struct PeerDial {
    host: SimulatedHost,
    own: NodeId,
}

impl Dial for PeerDial {
    fn dial<'a>(
        &'a self,
        address: &'a str,
        to: NodeId,
        _kind: TransportKind,
    ) -> BoxFuture<'a, Result<Connection, DialError>> {
        async move {
            let config = TransportConfig::default();
            let socket = address.parse().map_err(|error| DialError::Resolve {
                address: address.to_owned(),
                source: std::io::Error::other(error),
            })?;
            Ok(self.host.dial_node(socket, self.own, to, &config).await?)
        }
        .boxed()
    }
}

/// How long a unit of storage work takes, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct StorageTime {
    /// At least.
    pub least: u64,
    /// At most.
    pub most: u64,
}

/// What the world looks at while the process runs. Weak, so that nothing of a node outlives it.
#[derive(Default)]
struct Insight {
    store: Option<Weak<Store>>,
    broker: Option<Weak<Broker>>,
    exited: Option<String>,
    /// Of a process that has failed: its clients have seen what the observer must still find.
    failed: Option<Arc<Store>>,
}

/// See the module.
pub struct SimNode {
    /// Counted from 1.
    pub number: u64,
    /// Its host's address.
    pub ip: IpAddr,
    /// What it keeps.
    pub disk: SimDisk,
    /// Its host's clock.
    pub clock: SimClock,
    /// How long its storage takes.
    pub storage_time: StorageTime,
    /// How many processes there have been.
    pub life: u32,
    /// It does not run although it lives (SIGSTOP).
    pub is_stopped: bool,
    is_leaving: bool,
    process: Option<Process>,
    insight: Arc<Mutex<Insight>>,
    leave: Arc<Notify>,
    random: SplitMix,
    storage_due_ms: Option<u64>,
    /// For how long its process has run on with a storage that has failed, in milliseconds.
    pub failed_for_ms: u64,
    look_around_ms: u64,
    /// Its groups without traffic for this long are put to sleep.
    pub sleep_after: Duration,
}

impl std::fmt::Debug for SimNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimNode")
            .field("number", &self.number)
            .field("life", &self.life)
            .finish_non_exhaustive()
    }
}

/// The address of a node's host.
#[must_use]
pub fn node_ip(number: u64) -> IpAddr {
    let last = u8::try_from(number).unwrap_or(u8::MAX);
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, last))
}

impl SimNode {
    /// A host that runs nothing yet.
    #[must_use]
    pub fn new(number: u64, seed: u64, sleep_after: Duration) -> Self {
        let mut random = SplitMix::new(seed);
        Self {
            number,
            ip: node_ip(number),
            disk: SimDisk::new(random.number()),
            clock: SimClock::default(),
            storage_time: StorageTime { least: 0, most: 2 },
            life: 0,
            is_stopped: false,
            is_leaving: false,
            process: None,
            insight: Arc::default(),
            leave: Arc::default(),
            random,
            storage_due_ms: None,
            failed_for_ms: 0,
            look_around_ms: 0,
            sleep_after,
        }
    }

    fn insight(&self) -> MutexGuard<'_, Insight> {
        self.insight.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts its process.
    pub fn start(&mut self, network: &SimulatedNetwork, now_ms: u64) {
        self.life += 1;
        self.is_stopped = false;
        self.is_leaving = false;
        self.insight = Arc::default();
        self.leave = Arc::default();
        self.storage_due_ms = None;
        self.failed_for_ms = 0;
        self.look_around_ms = now_ms + 1000;
        let process = Process::new(self.clock.clone(), now_ms);
        let opened = {
            let insight = Arc::clone(&self.insight);
            move |store: &Arc<Store>| {
                let mut insight = insight.lock().unwrap_or_else(PoisonError::into_inner);
                insight.store = Some(Arc::downgrade(store));
            }
        };
        let host = network.start_host(self.ip);
        let own = NodeId(self.number);
        // Who joined was told of the first node.
        let first = MemberAddress { node: NodeId(1), address: node_address(1).to_string() };
        let identity = Identity { cluster_id: CLUSTER, node_id: own };
        let around = Surroundings {
            disk: Arc::new(self.disk.clone()),
            clock: Arc::new(self.clock.clone()),
            simulated: Some(Simulated {
                host: host.clone(),
                dial: Arc::new(PeerDial { host, own }),
                members: (self.number > 1).then_some(first).into_iter().collect(),
                seed: self.random.number(),
                store: StoreConfig { identity: Some(identity), ..small_store() },
                opened: Box::new(opened),
            }),
        };
        let (insight, leave) = (Arc::clone(&self.insight), Arc::clone(&self.leave));
        process.spawn(live(self.config(), around, insight, leave));
        self.process = Some(process);
    }

    fn config(&self) -> NodeConfig {
        NodeConfig {
            listen: node_address(self.number),
            sleep_after: self.sleep_after,
            ..NodeConfig::default()
        }
    }

    /// Has the catalog take nodes of these numbers in, one after the other, as their joining does it.
    pub fn take_in(&self, numbers: Range<u64>) {
        if let Some(process) = &self.process {
            process.spawn(take_in(Arc::clone(&self.insight), numbers));
        }
    }

    /// Whether a process runs on it.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// Why its process has ended by itself, if it has.
    #[must_use]
    pub fn exited(&self) -> Option<String> {
        self.insight().exited.clone()
    }

    /// Asks its process to end in order.
    pub fn ask_to_leave(&mut self) {
        self.is_leaving = true;
        self.leave.notify_one();
    }

    /// Whether a process runs on it that was not asked to end.
    #[must_use]
    pub fn stays(&self) -> bool {
        self.is_running() && !self.is_leaving
    }

    /// Its process's store, once it is open.
    #[must_use]
    pub fn store(&self) -> Option<Arc<Store>> {
        self.insight().store.as_ref().and_then(Weak::upgrade)
    }

    /// What its process's sessions share, once it serves.
    #[must_use]
    pub fn broker(&self) -> Option<Arc<Broker>> {
        self.insight().broker.as_ref().and_then(Weak::upgrade)
    }

    /// Its process, to be slowed down or stopped.
    pub fn process(&mut self) -> Option<&mut Process> {
        self.process.as_mut()
    }

    /// Its process ends at once. `power` says that the whole machine does, and what its disk keeps;
    /// `None`: what was written stays.
    pub fn kill(&mut self, network: &SimulatedNetwork, power: Option<&CrashPlan>) {
        network.kill(self.ip);
        let kept = match power {
            Some(plan) => self.disk.crash(plan),
            None => self.disk.kill_process(),
        };
        self.disk.power_off();
        self.disk = kept;
        self.insight = Arc::default();
        self.is_stopped = false;
        self.process = None;
    }

    /// A millisecond passes: storage work that is due, then the process.
    pub fn step(&mut self, now_ms: u64) -> Option<StorageWork> {
        // What it logs says who, and when.
        let _span = tracing::info_span!("step", node = self.number, now_ms).entered();
        if self.is_stopped {
            if let Some(process) = &mut self.process {
                process.step_stopped();
            }
            return None;
        }
        let worked = self.work_on_storage(now_ms);
        if let Some(process) = &mut self.process {
            process.step();
        }
        let has_failed = self.store().is_some_and(|store| store.fatal().is_some());
        self.failed_for_ms += u64::from(has_failed && self.is_running());
        worked
    }

    fn work_on_storage(&mut self, now_ms: u64) -> Option<StorageWork> {
        let store = self.store()?;
        if now_ms >= self.look_around_ms {
            self.look_around_ms = now_ms + 1000;
            store.look_around();
        }
        if !store.is_work_due() {
            self.storage_due_ms = None;
            return None;
        }
        let StorageTime { least, most } = self.storage_time;
        let random = &mut self.random;
        let due_ms = *self
            .storage_due_ms
            .get_or_insert_with(|| now_ms + least + random.below(most - least + 1));
        if due_ms > now_ms {
            return None;
        }
        self.storage_due_ms = None;
        store.step();
        let stats = self.disk.stats();
        Some(StorageWork {
            writes: stats.writes,
            written_bytes: stats.written_bytes,
            syncs: stats.syncs,
        })
    }
}

/// What a disk has done, for the trace.
#[derive(Debug, Clone, Copy)]
pub struct StorageWork {
    /// Writes so far.
    pub writes: u64,
    /// Bytes so far.
    pub written_bytes: u64,
    /// Syncs so far.
    pub syncs: u64,
}

/// Small files, so that a short run rolls, recycles, places and makes checkpoints.
fn small_store() -> StoreConfig {
    StoreConfig {
        journal_file_bytes: 256 << 10,
        journal_bytes_max: 8 * (256 << 10),
        journal_reserve_bytes: 16 << 10,
        block_bytes: 64 << 10,
        checkpoint_after_bytes: 256 << 10,
        segment_step_bytes_min: 16 << 10,
        segment_step_bytes_max: 128 << 10,
        index_interval_bytes: 4096,
        free_bytes_min: 0,
        unwritten_bytes_max: 256 << 10,
        place_bytes_min: 8 << 10,
        place_item_bytes_min: 2 << 10,
        place_bytes_max: 64 << 10,
        ..StoreConfig::default()
    }
}

/// The life of a process.
async fn live(
    config: NodeConfig,
    around: Surroundings,
    insight: Arc<Mutex<Insight>>,
    leave: Arc<Notify>,
) {
    let look = || insight.lock().unwrap_or_else(PoisonError::into_inner);
    let node = match Node::start_in(config, around).await {
        Ok(node) => node,
        Err(error) => {
            look().exited = Some(format!("it did not start: {error}"));
            return;
        }
    };
    look().broker = Some(Arc::downgrade(node.broker()));
    let ending = tokio::select! {
        biased;
        failed = node.failed() => Some(failed.to_string()),
        () = leave.notified() => None,
    };
    match ending {
        Some(failed) => {
            let mut insight = look();
            insight.exited = Some(failed);
            insight.failed = insight.store.as_ref().and_then(Weak::upgrade);
        }
        None => {
            node.shutdown().await;
            look().exited = Some("it was asked to".to_owned());
        }
    }
}

/// Proposes nodes one after the other, so that they get these numbers.
async fn take_in(insight: Arc<Mutex<Insight>>, mut numbers: Range<u64>) {
    while !numbers.is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let broker = insight.lock().unwrap_or_else(PoisonError::into_inner).broker.clone();
        let Some(broker) = broker.as_ref().and_then(Weak::upgrade) else { continue };
        if !broker.catalog().is_set_up() {
            continue;
        }
        let next = numbers.start;
        let spec = NodeSpec {
            address: node_address(next).to_string(),
            rack: None,
            weight_hundredths: 100,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let command =
            CatalogCommand::AddNode { join_id: u128::from(next), spec, takes_address: false };
        match broker.propose(command).await {
            Ok(CatalogReply::Node { node, .. }) => {
                assert_eq!(node, NodeId(next), "nodes are numbered in the order of their joining");
                numbers.start += 1;
            }
            Ok(reply) => panic!("node {next} was not taken in: {reply:?}"),
            Err(error) => tracing::debug!(%error, "not taken in yet"),
        }
    }
}

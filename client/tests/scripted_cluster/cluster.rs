//! A cluster of scripted nodes on a simulated network: one topic whose partitions have one log each,
//! which all nodes share as if every record were replicated at once. Who leads, who tells what of it, who
//! is silent or gone: the test says so.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use plimsoll_client::{AddressSource, Client, ClientConfig, ConnectError, Dial, Trust};
use plimsoll_protocol::api::ApiKey;
use plimsoll_protocol::batch::{BatchLimits, RecordBatch, validate_produced};
use plimsoll_protocol::error::ErrorCode;
use plimsoll_transport::{
    Connection, Fabric, Packet, SimulatedHost, SimulatedNetwork, TransportConfig,
};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::node;

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 1, 1));

fn host_of(node: u64) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, u8::try_from(node).unwrap()))
}

/// Delivers at once, but what is from or to a silenced host: that is kept.
#[derive(Clone, Default)]
struct Wire(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    silent: BTreeSet<IpAddr>,
    packets: VecDeque<Packet>,
}

impl Fabric for Wire {
    fn carry(&self, packet: Packet) {
        let mut kept = self.0.lock().unwrap();
        let is_silent = |address: SocketAddr| kept.silent.contains(&address.ip());
        if is_silent(packet.from()) || is_silent(packet.to()) {
            kept.packets.push_back(packet);
            return;
        }
        drop(kept);
        packet.deliver();
    }
}

/// One partition's records and what is known of its producers.
#[derive(Default)]
pub(crate) struct Log {
    /// Whole batches with their first offset.
    pub(crate) batches: Vec<(u64, Bytes)>,
    /// Values in offset order.
    pub(crate) values: Vec<Bytes>,
    /// Per producer: epoch, next sequence, and where each batch was stored.
    producers: HashMap<u64, (u32, u64, HashMap<u64, u64>)>,
}

/// Who leads a partition, as somebody believes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Leader {
    pub(crate) node: Option<u64>,
    pub(crate) term: u64,
}

/// One node as the test wants it.
#[derive(Debug, Clone)]
pub(crate) struct NodePlan {
    pub(crate) address: SocketAddr,
    pub(crate) rack: Option<String>,
    /// Who it believes leads each partition.
    pub(crate) believes: Vec<Leader>,
    /// Whether it names the leader when it refuses.
    pub(crate) hints: bool,
    /// It goes down: it names the leader once, and says from then on only that it goes.
    pub(crate) leaves: bool,
    /// Refuses to store, with this, although it leads.
    pub(crate) refuses: Option<ErrorCode>,
    /// Stores the next batch and is killed before it answers.
    pub(crate) dies_storing: bool,
    /// Does not answer what it stores; everything else it does.
    pub(crate) withholds: bool,
    /// What it can show of each log.
    pub(crate) shows: u64,
}

pub(crate) struct State {
    pub(crate) logs: Vec<Log>,
    pub(crate) leaders: Vec<Leader>,
    pub(crate) nodes: BTreeMap<u64, NodePlan>,
    pub(crate) epoch: u64,
    pub(crate) next_producer: u64,
    /// Requests by node and API.
    pub(crate) seen: BTreeMap<(u64, ApiKey), usize>,
}

#[derive(Clone)]
pub(crate) struct Cluster {
    network: SimulatedNetwork,
    wire: Wire,
    state: Arc<Mutex<State>>,
    /// Counts changes of any kind.
    changes: watch::Sender<u64>,
    running: Arc<Mutex<BTreeMap<u64, AbortHandle>>>,
}

impl Cluster {
    /// Three nodes, of which the first leads everything.
    pub(crate) fn start(partitions: usize) -> Self {
        let wire = Wire::default();
        let cluster = Self {
            network: SimulatedNetwork::new(wire.clone()),
            wire,
            state: Arc::new(Mutex::new(State {
                logs: (0..partitions).map(|_| Log::default()).collect(),
                leaders: vec![Leader { node: Some(1), term: 1 }; partitions],
                nodes: BTreeMap::new(),
                epoch: 1,
                next_producer: 0,
                seen: BTreeMap::new(),
            })),
            changes: watch::Sender::new(0),
            running: Arc::default(),
        };
        for node in 1..=3 {
            cluster.start_node(node);
        }
        cluster
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Everything a waiting task of a node may wait for has changed.
    pub(crate) fn touch(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Changes the plan of a node.
    pub(crate) fn plan(&self, node: u64, change: impl FnOnce(&mut NodePlan)) {
        change(self.state().nodes.get_mut(&node).unwrap());
        self.touch();
    }

    /// Starts a node at a port that it never had.
    pub(crate) fn start_node(&self, node: u64) {
        let host = self.network.start_host(host_of(node));
        let address = {
            let mut state = self.state();
            let port = 7000 + u16::try_from(state.epoch).unwrap();
            let address = SocketAddr::new(host.ip(), port);
            let believes = state.leaders.clone();
            let plan = state.nodes.entry(node).or_insert_with(|| NodePlan {
                address,
                rack: Some(format!("r{node}")),
                believes: Vec::new(),
                hints: true,
                leaves: false,
                refuses: None,
                dies_storing: false,
                withholds: false,
                shows: u64::MAX,
            });
            (plan.address, plan.believes, plan.dies_storing) = (address, believes, false);
            state.epoch += 1;
            address
        };
        let listener = host.listen(address.port(), TransportConfig::default()).unwrap();
        let cluster = self.clone();
        let serving = tokio::spawn(node::serve(cluster, node, listener));
        self.running.lock().unwrap().insert(node, serving.abort_handle());
        self.touch();
    }

    /// Ends a node without a word. Others lead what it led when the test says so.
    pub(crate) fn kill(&self, node: u64) {
        self.network.kill(host_of(node));
        if let Some(task) = self.running.lock().unwrap().remove(&node) {
            task.abort();
        }
    }

    /// Nothing from or to this node arrives any more, and nobody is told.
    pub(crate) fn silence(&self, node: u64) {
        self.wire.0.lock().unwrap().silent.insert(host_of(node));
    }

    /// Everything that was kept arrives, in its order.
    pub(crate) fn wake(&self, node: u64) {
        let packets = {
            let mut kept = self.wire.0.lock().unwrap();
            kept.silent.remove(&host_of(node));
            std::mem::take(&mut kept.packets)
        };
        for packet in packets {
            self.wire.carry(packet);
        }
    }

    /// Makes `node` the leader of a partition; those of `told` know it.
    pub(crate) fn lead(&self, partition: usize, node: u64, told: &[u64]) {
        let mut state = self.state();
        let term = state.leaders[partition].term + 1;
        let leader = Leader { node: Some(node), term };
        state.leaders[partition] = leader;
        for node in told {
            state.nodes.get_mut(node).unwrap().believes[partition] = leader;
        }
        drop(state);
        self.touch();
    }

    /// What was stored in a partition was never committed: the next leader does not have it.
    pub(crate) fn forget(&self, partition: usize) {
        self.state().logs[partition] = Log::default();
    }

    /// All nodes know who leads.
    pub(crate) fn tell_all(&self) {
        let mut state = self.state();
        let leaders = state.leaders.clone();
        for plan in state.nodes.values_mut() {
            plan.believes.clone_from(&leaders);
        }
        drop(state);
        self.touch();
    }

    /// Requests of an API that a node got.
    pub(crate) fn seen(&self, node: u64, api: ApiKey) -> usize {
        self.state().seen.get(&(node, api)).copied().unwrap_or(0)
    }

    /// Requests of an API that all nodes got.
    pub(crate) fn seen_by_all(&self, api: ApiKey) -> usize {
        let state = self.state();
        state.seen.iter().filter(|((_, seen), _)| *seen == api).map(|(_, count)| count).sum()
    }

    pub(crate) fn values(&self, partition: usize) -> Vec<Bytes> {
        self.state().logs[partition].values.clone()
    }

    /// How a client reaches this cluster: by the addresses of these nodes.
    pub(crate) fn config(&self, seeds: &[u64]) -> ClientConfig {
        let state = self.state();
        let addresses = seeds.iter().map(|node| state.nodes[node].address.to_string());
        let addresses = addresses.collect::<Vec<_>>().join(",");
        let mut config = ClientConfig::new(addresses, Trust::Nobody);
        config.dial = Some(Arc::new(SimulatedDial(self.network.start_host(CLIENT))));
        config.seed = Some(7);
        config
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect(self.config(&[1, 2, 3])).await.unwrap()
    }
}

#[derive(Debug)]
struct SimulatedDial(SimulatedHost);

impl Dial for SimulatedDial {
    fn dial<'a>(
        &'a self,
        address: &'a str,
        _source: AddressSource,
    ) -> BoxFuture<'a, Result<Connection, ConnectError>> {
        async move {
            let fail = |reason: String| ConnectError::Dial { address: address.to_owned(), reason };
            let target = address.parse().map_err(|error| fail(format!("{error}")))?;
            let dialed = self.0.dial(target, &TransportConfig::default()).await;
            dialed.map_err(|error| fail(error.to_string()))
        }
        .boxed()
    }
}

impl Log {
    /// The broker's rules of de-duplication, written as plainly as possible. Gives the first offset.
    pub(crate) fn store(&mut self, payload: &Bytes) -> Result<(u64, bool), ErrorCode> {
        let header = validate_produced(payload, &BatchLimits::default()).unwrap();
        let end = self.values.len() as u64;
        let known = self.producers.get(&header.producer_id.0);
        if known.is_none() && header.base_sequence != 0 {
            return Err(ErrorCode::UnknownProducer);
        }
        let (epoch, next, _) = known.cloned().unwrap_or((header.producer_epoch, 0, HashMap::new()));
        if header.producer_epoch < epoch {
            return Err(ErrorCode::StaleProducerEpoch);
        }
        let next = if header.producer_epoch > epoch { 0 } else { next };
        if header.base_sequence < next {
            let known = &self.producers[&header.producer_id.0].2;
            return Ok((known[&header.base_sequence], true));
        }
        if header.base_sequence > next {
            return Err(ErrorCode::OutOfOrderSequence);
        }
        let (batch, _) = RecordBatch::parse(payload.clone()).unwrap();
        for record in batch.records(1 << 20).unwrap() {
            self.values.push(record.unwrap().record.value.unwrap());
        }
        self.batches.push((end, payload.clone()));
        let entry = self.producers.entry(header.producer_id.0).or_default();
        if header.producer_epoch > epoch {
            entry.2.clear();
        }
        entry.0 = header.producer_epoch;
        entry.1 = header.end_sequence();
        entry.2.insert(header.base_sequence, end);
        Ok((end, false))
    }
}

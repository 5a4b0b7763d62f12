//! Nodes on a simulated network, with a trace of what each was told.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use plimsoll_peers::{
    BoxFuture, Dial, DialError, Handler, IncomingSession, LivenessConfig, LivenessEvent, PeerAddr,
    PeerLimits, Peers, PeersConfig,
};
use plimsoll_protocol::ids::{GroupId, NodeId, Term};
use plimsoll_protocol::peer::{
    AnyPeerMessage, AnyPeerRequest, AnyPeerResponse, Append, Appended, PeerFailure,
    PeerFailureCode, PeerRefusal, RaftVote,
};
use plimsoll_transport::{
    Connection, FrameReceiver, FrameSender, SimulatedHost, SimulatedNetwork, TransportConfig,
    TransportKind,
};
use tokio::sync::broadcast::error::TryRecvError;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::fabric::{Random, Weather};

const PORT: u16 = 7420;
const CLUSTER: [u8; 16] = *b"simulated-nodes!";

type Trace = Arc<Mutex<Vec<String>>>;

pub(crate) struct World {
    pub(crate) fabric: Weather,
    network: SimulatedNetwork,
    nodes: BTreeMap<u64, Running>,
    lives: BTreeMap<u64, u64>,
    count: u64,
    seed: u64,
    began: Instant,
    trace: Trace,
}

struct Running {
    peers: Peers,
    events: tokio::sync::broadcast::Receiver<LivenessEvent>,
    accepting: JoinHandle<()>,
}

fn ip(node: u64) -> IpAddr {
    IpAddr::from([10, 0, 0, u8::try_from(node).unwrap()])
}

fn node_at(address: SocketAddr) -> NodeId {
    match address.ip() {
        IpAddr::V4(ip) => NodeId(u64::from(ip.octets()[3])),
        IpAddr::V6(_) => NodeId(0),
    }
}

impl World {
    pub(crate) fn new(count: u64, seed: u64) -> World {
        let fabric = Weather::new(seed);
        let mut world = World {
            network: SimulatedNetwork::new(fabric.clone()),
            fabric,
            nodes: BTreeMap::new(),
            lives: BTreeMap::new(),
            count,
            seed,
            began: Instant::now(),
            trace: Arc::default(),
        };
        for node in 1..=count {
            world.start(node);
        }
        world
    }

    /// Starts a node in its next life, if it does not run.
    pub(crate) fn start(&mut self, node: u64) {
        if self.nodes.contains_key(&node) {
            return;
        }
        let incarnation = self.lives.entry(node).and_modify(|life| *life += 1).or_insert(1);
        let host = self.network.start_host(ip(node));
        let random = Mutex::new(Random::new(self.seed ^ (node << 32) ^ *incarnation));
        let config = PeersConfig {
            node: NodeId(node),
            cluster_id: CLUSTER,
            incarnation: *incarnation,
            boot_nonce: node * 1000 + *incarnation,
            version: "simulated".to_owned(),
            transport: TransportKind::Quic,
            liveness: LivenessConfig::default(),
            limits: PeerLimits::default(),
            random: Arc::new(move || random.lock().unwrap().next()),
            wall_clock: Arc::new(|| 0),
        };
        let trace = Arc::clone(&self.trace);
        let handler = Arc::new(Tracer { me: node, began: self.began, trace });
        let listener = host.listen(PORT, TransportConfig::default()).unwrap();
        let peers = Peers::new(config, Arc::new(Dialer(host)), handler);
        let serving = peers.clone();
        let accepting = tokio::spawn(async move {
            while let Some(incoming) = listener.accept().await {
                if let Ok(connection) = incoming.handshake().await {
                    let node = node_at(connection.remote_addr());
                    serving.serve(connection, node);
                }
            }
        });
        let others = (1..=self.count).map(|other| PeerAddr {
            node: NodeId(other),
            address: SocketAddr::new(ip(other), PORT).to_string(),
        });
        peers.set_peers(others.collect());
        let events = peers.events();
        self.nodes.insert(node, Running { peers, events, accepting });
    }

    /// Ends a node without a word to the others.
    pub(crate) fn kill(&mut self, node: u64) {
        if let Some(running) = self.nodes.remove(&node) {
            self.network.kill(ip(node));
            running.accepting.abort();
            // Its tasks end in a world of their own: nothing of theirs reaches anybody.
            tokio::spawn(async move { running.peers.shutdown().await });
        }
    }

    pub(crate) fn running(&self, node: u64) -> Option<Peers> {
        self.nodes.get(&node).map(|running| running.peers.clone())
    }

    pub(crate) fn peers(&self, node: u64) -> Peers {
        self.running(node).unwrap()
    }

    pub(crate) async fn pass(&mut self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    /// What a node was told of since this was last asked.
    pub(crate) fn events(&mut self, node: u64) -> Vec<LivenessEvent> {
        let running = self.nodes.get_mut(&node).unwrap();
        let mut events = Vec::new();
        loop {
            match running.events.try_recv() {
                Ok(event) => events.push(event),
                Err(TryRecvError::Lagged(_)) => {}
                Err(_) => return events,
            }
        }
    }

    pub(crate) fn assert_all_reached(&self) {
        for (node, running) in &self.nodes {
            let (view, status) = (running.peers.view(), running.peers.status());
            for other in (1..=self.count).map(NodeId) {
                assert!(view.reaches(other), "seed {}, {node} to {other}: {status:#?}", self.seed);
            }
            assert!(status.iter().all(|status| status.linked && status.up));
        }
    }

    pub(crate) fn take_trace(mut self) -> Vec<String> {
        let mut trace = std::mem::take(&mut *self.trace.lock().unwrap());
        for node in 1..=self.count {
            trace.push(format!("{node}: {:?}", self.events(node)));
        }
        trace
    }
}

struct Dialer(SimulatedHost);

impl Dial for Dialer {
    fn dial<'a>(
        &'a self,
        address: &'a str,
        _to: NodeId,
        _kind: TransportKind,
    ) -> BoxFuture<'a, Result<Connection, DialError>> {
        Box::pin(async move {
            let address = address.parse().unwrap();
            Ok(self.0.dial(address, &TransportConfig::default()).await?)
        })
    }
}

struct Tracer {
    me: u64,
    began: Instant,
    trace: Trace,
}

impl Tracer {
    fn note(&self, what: &str) {
        let line = format!("{:?} {}: {what}", self.began.elapsed(), self.me);
        self.trace.lock().unwrap().push(line);
    }
}

impl Handler for Tracer {
    fn request(
        &self,
        from: NodeId,
        request: AnyPeerRequest,
    ) -> BoxFuture<'static, Result<AnyPeerResponse, PeerFailure>> {
        self.note(&format!("asked by {from}: {}", request.api()));
        let failure = PeerFailure::new(PeerFailureCode::Unsupported, "only links are simulated");
        Box::pin(async move { Err(failure) })
    }

    fn message(&self, from: NodeId, message: AnyPeerMessage) {
        self.note(&format!("told by {from}: {message:?}"));
    }

    fn session(&self, from: NodeId, group: GroupId, mut session: IncomingSession) {
        self.note(&format!("session of {from} for {group}"));
        tokio::spawn(async move {
            while session.recv().await.is_some() {
                if session.send(Appended::Ok(None)).is_err() {
                    return;
                }
            }
        });
    }

    fn linked(&self, node: NodeId) {
        self.note(&format!("linked to {node}"));
    }

    fn unlinked(&self, node: NodeId) {
        self.note(&format!("no longer linked to {node}"));
    }

    fn seed(&self, from: NodeId, _sender: FrameSender, _receiver: FrameReceiver) {
        self.note(&format!("seed from {from}"));
    }

    fn refused(&self, by: NodeId, refusal: PeerRefusal) {
        self.note(&format!("refused by {by}: {refusal}"));
    }
}

/// An append without entries.
pub(crate) fn append(epoch: u64) -> Append {
    let vote = RaftVote { term: Term(1), node: NodeId(1), committed: true };
    Append { group: GroupId(1), epoch, vote, prev: None, commit: None, entries: Vec::new() }
}

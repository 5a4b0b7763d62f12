//! Nodes of one cluster: an authority, a listener and `Peers` each, and a handler that records.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use plimsoll_peers::{
    BoxFuture, Dial, DialError, Handler, IncomingSession, LivenessConfig, PeerAddr, PeerLimits,
    Peers, PeersConfig, SocketDial,
};
use plimsoll_protocol::batch::{BatchHeader, EntryKind};
use plimsoll_protocol::ids::{GroupId, LogId, LogIndex, NodeId, Term};
use plimsoll_protocol::peer::{
    AnyPeerMessage, AnyPeerRequest, AnyPeerResponse, Append, ForwardReply, PeerFailure,
    PeerFailureCode, PeerRefusal, RaftVote,
};
use plimsoll_transport::{
    Connection, FrameReceiver, FrameSender, Listener, NodeIdentity, NodeTls, Protocol, ServerTls,
    TransportConfig, TransportKind,
};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

pub(crate) const KINDS: [TransportKind; 2] = [TransportKind::Quic, TransportKind::Tls];
pub(crate) const CLUSTER: [u8; 16] = *b"cluster-of-three";
/// Far above what any step takes; only a hang gets there.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Signs certificates of nodes.
pub(crate) struct Authority {
    params: CertificateParams,
    key: KeyPair,
    pem: String,
}

impl Authority {
    pub(crate) fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { params, key, pem }
    }

    pub(crate) fn node(&self, node: NodeId) -> NodeTls {
        let uri = NodeIdentity { cluster_id: CLUSTER, node }.uri();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.subject_alt_names.push(SanType::URI(uri.as_str().try_into().unwrap()));
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let issuer = Issuer::from_params(&self.params, &self.key);
        let chain = params.signed_by(&key, &issuer).unwrap().pem();
        let key = key.serialize_pem();
        NodeTls::from_pem(chain.as_bytes(), key.as_bytes(), self.pem.as_bytes()).unwrap()
    }
}

/// What a node has seen.
pub(crate) enum Seen {
    Message(NodeId, AnyPeerMessage),
    Session(NodeId, GroupId, IncomingSession),
    Linked(NodeId),
    Unlinked(NodeId),
    Seed(NodeId, Box<(FrameSender, FrameReceiver)>),
    Client(NodeId, Box<(FrameSender, FrameReceiver)>),
    Refused(NodeId, PeerRefusal),
}

struct Recorder {
    seen: mpsc::UnboundedSender<Seen>,
    /// Requests whose command is "wait" are answered once this says so.
    gate: watch::Receiver<bool>,
    /// The next link is told of in vain.
    panics: Arc<AtomicBool>,
}

impl Handler for Recorder {
    /// `Forward` is answered with its own command, all else not at all.
    fn request(
        &self,
        from: NodeId,
        request: AnyPeerRequest,
    ) -> BoxFuture<'static, Result<AnyPeerResponse, PeerFailure>> {
        let mut gate = self.gate.clone();
        Box::pin(async move {
            let AnyPeerRequest::Forward(forward) = request else {
                let message = format!("node {from} asked for something else");
                return Err(PeerFailure::new(PeerFailureCode::Refused, message));
            };
            assert!(&forward.command[..] != b"panic", "as the test asked for");
            if &forward.command[..] == b"wait" {
                gate.wait_for(|open| *open).await.unwrap();
            }
            let applied = LogId::new(Term(1), LogIndex(2));
            Ok(ForwardReply { applied, reply: forward.command }.into())
        })
    }

    fn message(&self, from: NodeId, message: AnyPeerMessage) {
        let _ = self.seen.send(Seen::Message(from, message));
    }

    fn session(&self, from: NodeId, group: GroupId, session: IncomingSession) {
        let _ = self.seen.send(Seen::Session(from, group, session));
    }

    fn linked(&self, node: NodeId) {
        assert!(!self.panics.swap(false, Ordering::Relaxed), "as the test asked for");
        let _ = self.seen.send(Seen::Linked(node));
    }

    fn unlinked(&self, node: NodeId) {
        let _ = self.seen.send(Seen::Unlinked(node));
    }

    fn seed(&self, from: NodeId, sender: FrameSender, receiver: FrameReceiver) {
        let _ = self.seen.send(Seen::Seed(from, Box::new((sender, receiver))));
    }

    fn client(&self, from: NodeId, sender: FrameSender, receiver: FrameReceiver) {
        let _ = self.seen.send(Seen::Client(from, Box::new((sender, receiver))));
    }

    fn refused(&self, by: NodeId, refusal: PeerRefusal) {
        let _ = self.seen.send(Seen::Refused(by, refusal));
    }
}

/// Keeps every connection that was dialed, so that a test can cut it, and dials nobody while it is
/// told not to.
pub(crate) struct Cutter {
    inner: SocketDial,
    dialed: Mutex<Vec<Connection>>,
    pub(crate) open: watch::Sender<bool>,
}

impl Cutter {
    pub(crate) fn cut(&self) {
        for connection in self.dialed.lock().unwrap().drain(..) {
            connection.close(99, "cut");
        }
    }
}

impl Dial for Cutter {
    fn dial<'a>(
        &'a self,
        address: &'a str,
        to: NodeId,
        kind: TransportKind,
    ) -> BoxFuture<'a, Result<Connection, DialError>> {
        Box::pin(async move {
            let mut open = self.open.subscribe();
            let _ = open.wait_for(|open| *open).await;
            let connection = self.inner.dial(address, to, kind).await?;
            self.dialed.lock().unwrap().push(connection.clone());
            Ok(connection)
        })
    }
}

/// What may differ from node to node.
#[derive(Clone)]
pub(crate) struct Options {
    pub(crate) kind: TransportKind,
    pub(crate) cluster_id: [u8; 16],
    pub(crate) incarnation: u64,
    pub(crate) boot_nonce: u64,
    pub(crate) liveness: LivenessConfig,
    pub(crate) limits: PeerLimits,
}

impl Options {
    pub(crate) fn new(kind: TransportKind) -> Options {
        // Many nodes share two cores with other tests: silence is borne for long.
        let liveness =
            LivenessConfig { interval: Duration::from_millis(50), timeout: Duration::from_secs(5) };
        Options {
            kind,
            cluster_id: CLUSTER,
            incarnation: 1,
            boot_nonce: 7,
            liveness,
            limits: PeerLimits::default(),
        }
    }
}

pub(crate) struct TestNode {
    pub(crate) id: NodeId,
    pub(crate) peers: Peers,
    pub(crate) address: SocketAddr,
    pub(crate) seen: mpsc::UnboundedReceiver<Seen>,
    pub(crate) gate: watch::Sender<bool>,
    /// Has it panic when it is told of its next link.
    pub(crate) panics: Arc<AtomicBool>,
    pub(crate) cutter: Arc<Cutter>,
    listener: Arc<Listener>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Drop for TestNode {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl TestNode {
    pub(crate) fn start(authority: &Authority, id: u64, options: &Options) -> TestNode {
        let id = NodeId(id);
        let identity = authority.node(id);
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let server = ServerTls::from_pem(chain.as_bytes(), key.as_bytes()).unwrap();
        let server = server.with_nodes(identity.clone()).unwrap();
        let transport = TransportConfig::default();
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap(), &server, transport.clone());
        let listener = Arc::new(listener.unwrap());
        let (seen_by, seen) = mpsc::unbounded_channel();
        let (gate, gated) = watch::channel(false);
        let state = AtomicU64::new(id.0);
        let random = move || {
            // Weyl's sequence, mixed: enough for pauses and the numbers of links.
            let weyl = state.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
            (weyl ^ (weyl >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9)
        };
        let config = PeersConfig {
            node: id,
            cluster_id: options.cluster_id,
            incarnation: options.incarnation,
            boot_nonce: options.boot_nonce,
            version: "0.1.0-test".to_owned(),
            transport: options.kind,
            liveness: options.liveness,
            limits: options.limits,
            random: Arc::new(random),
            wall_clock: Arc::new(|| 1_750_000_000_000),
        };
        let cutter = Arc::new(Cutter {
            inner: SocketDial::new(identity, transport),
            dialed: Mutex::default(),
            open: watch::channel(true).0,
        });
        let panics = Arc::<AtomicBool>::default();
        let handler = Recorder { seen: seen_by, gate: gated, panics: Arc::clone(&panics) };
        let handler = Arc::new(handler);
        let peers = Peers::new(config, Arc::clone(&cutter) as Arc<dyn Dial>, handler);
        let accepting = tokio::spawn(accept(Arc::clone(&listener), peers.clone()));
        let address = listener.local_addr();
        TestNode { id, peers, address, seen, gate, panics, cutter, listener, accepting }
    }

    pub(crate) fn addr(&self) -> PeerAddr {
        PeerAddr { node: self.id, address: self.address.to_string() }
    }

    pub(crate) fn know(&self, others: &[&TestNode]) {
        self.peers.set_peers(others.iter().map(|other| other.addr()).collect());
    }

    /// Ends everything of it, as the end of its process would but told to the others.
    pub(crate) async fn stop(self) {
        self.peers.shutdown().await;
        self.listener.shut_down(0, "stopped").await;
    }

    /// What it sees next.
    pub(crate) async fn next(&mut self) -> Seen {
        timeout(PATIENCE, self.seen.recv()).await.unwrap().unwrap()
    }

    /// The next session that is opened to it; what else happens is passed over.
    pub(crate) async fn next_session(&mut self) -> (NodeId, GroupId, IncomingSession) {
        loop {
            if let Seen::Session(from, group, session) = self.next().await {
                return (from, group, session);
            }
        }
    }

    /// Waits until it was told of a link to `node`.
    pub(crate) async fn next_linked(&mut self, node: NodeId) {
        loop {
            if matches!(self.next().await, Seen::Linked(linked) if linked == node) {
                return;
            }
        }
    }

    pub(crate) async fn next_unlinked(&mut self, node: NodeId) {
        loop {
            if matches!(self.next().await, Seen::Unlinked(unlinked) if unlinked == node) {
                return;
            }
        }
    }

    pub(crate) async fn next_refusal(&mut self) -> (NodeId, PeerRefusal) {
        loop {
            if let Seen::Refused(by, refusal) = self.next().await {
                return (by, refusal);
            }
        }
    }

    /// Waits until the view is as wanted.
    pub(crate) async fn until_view(&self, wanted: impl Fn(&plimsoll_peers::View) -> bool) {
        let mut view = self.peers.liveness();
        let seen = view.wait_for(|view| wanted(view));
        timeout(PATIENCE, seen).await.unwrap().unwrap();
    }

    /// Waits until it reaches the others.
    pub(crate) async fn until_reaches(&self, others: &[NodeId]) {
        self.until_view(|view| others.iter().all(|other| view.reaches(*other))).await;
    }
}

async fn accept(listener: Arc<Listener>, peers: Peers) {
    while let Some(incoming) = listener.accept().await {
        let peers = peers.clone();
        tokio::spawn(async move {
            let Ok(connection) = incoming.handshake().await else { return };
            assert_eq!(connection.protocol(), Protocol::Node);
            let certified = connection.peer_node().unwrap();
            peers.serve(connection, certified);
        });
    }
}

/// Nodes 1 to `count`, which know each other and reach each other.
pub(crate) async fn cluster(count: u64, options: &Options) -> Vec<TestNode> {
    let authority = Authority::new();
    let nodes: Vec<_> = (1..=count).map(|id| TestNode::start(&authority, id, options)).collect();
    let all: Vec<_> = nodes.iter().collect();
    for node in &nodes {
        node.know(&all);
    }
    let ids: Vec<_> = nodes.iter().map(|node| node.id).collect();
    for node in &nodes {
        node.until_reaches(&ids).await;
    }
    nodes
}

/// An entry with a body of `bytes`.
pub(crate) fn entry(index: u64, bytes: usize) -> (BatchHeader, Bytes) {
    let body = Bytes::from(vec![(index % 251) as u8; bytes]);
    let mut header = BatchHeader::for_entry(EntryKind::Control, &body);
    header.index = LogIndex(index);
    header.term = Term(3);
    (header, body)
}

pub(crate) fn id(index: u64) -> LogId {
    LogId::new(Term(3), LogIndex(index))
}

/// An append of one entry.
pub(crate) fn append(group: GroupId, index: u64, bytes: usize) -> Append {
    Append {
        group,
        epoch: 1,
        vote: RaftVote { term: Term(3), node: NodeId(1), committed: true },
        prev: index.checked_sub(1).map(id),
        commit: None,
        entries: vec![entry(index, bytes)],
    }
}

/// Statuses by node.
pub(crate) fn statuses(node: &TestNode) -> BTreeMap<NodeId, plimsoll_peers::PeerStatus> {
    node.peers.status().into_iter().map(|status| (status.node, status)).collect()
}

//! Nodes of one cluster in one thread of virtual time: whole hosts over simulated disks, linked by
//! real links over a simulated network.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use bytes::Bytes;
use plimsoll_log::disk::sim::{CrashPlan, SimDisk};
use plimsoll_log::{Driver, GroupOptions, Store};
use plimsoll_peers::{
    BoxFuture, Dial, DialError, LivenessConfig, PeerAddr, PeerLimits, Peers, PeersConfig,
};
use plimsoll_protocol::api::{NodeState, TopicConfig};
use plimsoll_protocol::ids::{GroupId, NodeId, Offset, TopicName};
use plimsoll_replication::{
    Blocking, Group, GroupKind, Host, HostConfig, Placed, Placements, ProduceError, Produced,
    Random as _, Role, SeededRandom,
};
use plimsoll_state::catalog::{
    CatalogCommand, CatalogReply, JoinSecret, NodeSpec, PlacementChange, planning,
};
use plimsoll_transport::{Connection, TransportConfig, TransportKind};
use plimsoll_transport::{Fabric, Packet, SimulatedHost, SimulatedNetwork};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::{DURABLE, Producer, TestClock, propose, small_store};

const PORT: u16 = 7421;

/// How long anything may take, in virtual time.
const PATIENCE: Duration = Duration::from_secs(60);

fn ip(node: u64) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, u8::try_from(node).expect("a small id")).into()
}

fn node_at(ip: IpAddr) -> u64 {
    let IpAddr::V4(ip) = ip else { panic!("addresses are of version 4") };
    ip.octets()[3].into()
}

/// Delivers at once, but for what is cut: that is held back, without anybody noticing.
#[derive(Clone, Default)]
pub struct Cuts(Arc<Mutex<Held>>);

#[derive(Default)]
struct Held {
    cut: BTreeSet<(u64, u64)>,
    packets: Vec<Packet>,
}

impl Fabric for Cuts {
    fn carry(&self, packet: Packet) {
        let way = (node_at(packet.from().ip()), node_at(packet.to().ip()));
        {
            let mut held = self.0.lock().expect("not poisoned");
            if held.cut.contains(&way) {
                held.packets.push(packet);
                return;
            }
        }
        packet.deliver();
    }
}

impl Cuts {
    /// Nothing gets from one node to the other.
    pub fn one_way(&self, from: u64, to: u64) {
        self.0.lock().expect("not poisoned").cut.insert((from, to));
    }

    pub fn isolate(&self, node: u64, others: impl IntoIterator<Item = u64>) {
        for other in others {
            self.one_way(node, other);
            self.one_way(other, node);
        }
    }

    /// Everything goes again; what was held back arrives late.
    pub fn heal(&self) {
        let packets = {
            let mut held = self.0.lock().expect("not poisoned");
            held.cut.clear();
            std::mem::take(&mut held.packets)
        };
        packets.into_iter().for_each(Packet::deliver);
    }
}

struct TestDial(SimulatedHost);

impl Dial for TestDial {
    fn dial<'a>(
        &'a self,
        address: &'a str,
        _to: NodeId,
        _kind: TransportKind,
    ) -> BoxFuture<'a, Result<Connection, DialError>> {
        Box::pin(async move {
            let address: SocketAddr = address.parse().expect("a socket address");
            Ok(self.0.dial(address, &TransportConfig::default()).await?)
        })
    }
}

/// The placements of a node's own copy of the catalog.
struct OwnCatalog(Weak<Host>, GroupOptions);

impl Placements for OwnCatalog {
    fn placed(&self, group: GroupId) -> Option<Placed> {
        let catalog = self.0.upgrade()?.held(GroupId::CATALOG)?.catalog();
        let set = catalog.replica_set(group)?;
        Some(Placed { options: self.1, wanted: set.wanted.clone(), birth: set.birth.clone() })
    }

    fn epoch(&self) -> u64 {
        let host = self.0.upgrade();
        let group = host.and_then(|host| host.held(GroupId::CATALOG));
        group.map_or(0, |group| group.catalog().epoch())
    }
}

/// One life of a node.
pub struct Member {
    pub host: Arc<Host>,
    pub peers: Peers,
    pub catalog: Arc<Group>,
    pub clock: Arc<TestClock>,
    pub disk: SimDisk,
    stepper: JoinHandle<()>,
    acceptor: JoinHandle<()>,
}

pub struct Cluster {
    network: SimulatedNetwork,
    pub cuts: Cuts,
    pub members: BTreeMap<u64, Member>,
    size: u64,
    options: GroupOptions,
    incarnations: BTreeMap<u64, u64>,
    seed: u64,
}

impl Cluster {
    /// A cluster of so many nodes, all active.
    pub async fn new(size: u64) -> Self {
        Self::with_options(size, DURABLE).await
    }

    /// The same, with partitions of these options.
    pub async fn with_options(size: u64, options: GroupOptions) -> Self {
        let cuts = Cuts::default();
        let network = SimulatedNetwork::new(cuts.clone());
        let (members, incarnations) = (BTreeMap::new(), BTreeMap::new());
        let mut cluster = Self { network, cuts, members, size, options, incarnations, seed: 1 };
        for node in 1..=size {
            cluster.start(node, SimDisk::new(node)).await;
        }
        let first = cluster.host(1);
        let spec = |node: u64| NodeSpec {
            address: SocketAddr::new(ip(node), PORT).to_string(),
            rack: None,
            weight_hundredths: 100,
            version: "test".to_owned(),
        };
        let set_up = CatalogCommand::SetUp {
            node: NodeId(1),
            spec: spec(1),
            join_secret: JoinSecret::default(),
        };
        first.command(&set_up).await.expect("the first node is known");
        for node in 2..=size {
            let add = CatalogCommand::AddNode {
                join_id: node.into(),
                spec: spec(node),
                takes_address: false,
            };
            let reply = first.command(&add).await.expect("another node is known");
            assert_eq!(reply, CatalogReply::Node { node: NodeId(node), existed: false });
        }
        for node in 1..=size {
            cluster
                .until("every node has the catalog with every node active", || {
                    let catalog = cluster.members[&node].catalog.catalog();
                    u64::from(catalog.count(NodeState::Active)) == size
                })
                .await;
        }
        cluster
    }

    pub async fn start(&mut self, node: u64, disk: SimDisk) {
        let config = plimsoll_log::StoreConfig { free_bytes_min: 0, ..small_store() };
        let on_fatal = Box::new(|_: &plimsoll_log::FatalError| {});
        let store = Store::open(Arc::new(disk.clone()), config, Driver::Manual, on_fatal)
            .expect("the store opens");
        let stepped = store.clone();
        let stepper = tokio::spawn(async move {
            loop {
                while stepped.step() {}
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        self.seed += 1;
        let random = Arc::new(SeededRandom::new(self.seed));
        let config = HostConfig {
            founder: node == 1,
            blocking: Blocking::Inline,
            wake_timeout: Duration::from_secs(5),
            random: random.clone(),
            ..HostConfig::default()
        };
        let clock = Arc::new(TestClock::default());
        let host = Host::new(store, NodeId(node), clock.clone(), config);
        host.set_placements(Arc::new(OwnCatalog(Arc::downgrade(&host), self.options)));
        let process = self.network.start_host(ip(node));
        let incarnation = self.incarnations.entry(node).or_insert(0);
        *incarnation += 1;
        let peers = Peers::new(
            PeersConfig {
                node: NodeId(node),
                cluster_id: [7; 16],
                incarnation: *incarnation,
                boot_nonce: random.next_u64(),
                version: "test".to_owned(),
                transport: TransportKind::Quic,
                liveness: LivenessConfig::default(),
                limits: PeerLimits::default(),
                random: Arc::new(move || random.next_u64()),
                wall_clock: Arc::new(|| 0),
            },
            Arc::new(TestDial(process.clone())),
            host.handler(),
        );
        host.attach(peers.clone());
        let listener = process.listen(PORT, TransportConfig::default()).expect("a free port");
        let served = peers.clone();
        let acceptor = tokio::spawn(async move {
            while let Some(incoming) = listener.accept().await {
                let from = node_at(incoming.remote_addr().ip());
                if let Ok(connection) = incoming.handshake().await {
                    served.serve(connection, NodeId(from));
                }
            }
        });
        let others = (1..=self.size).filter(|other| *other != node);
        let address = |node: u64| SocketAddr::new(ip(node), PORT).to_string();
        peers.set_peers(
            others.map(|node| PeerAddr { node: NodeId(node), address: address(node) }).collect(),
        );
        let catalog = host
            .group(GroupId::CATALOG, GroupKind::Catalog, DURABLE)
            .await
            .expect("the metadata group wakes");
        self.members.insert(node, Member { host, peers, catalog, clock, disk, stepper, acceptor });
    }

    /// Another node joins, with an empty disk; returns once it is active.
    pub async fn join(&mut self) -> u64 {
        let node = self.size + 1;
        let address = |node: u64| SocketAddr::new(ip(node), PORT).to_string();
        let spec = NodeSpec {
            address: address(node),
            rack: None,
            weight_hundredths: 100,
            version: "test".to_owned(),
        };
        let add = CatalogCommand::AddNode { join_id: node.into(), spec, takes_address: false };
        let reply = self.host(1).command(&add).await.expect("another node is known");
        assert_eq!(reply, CatalogReply::Node { node: NodeId(node), existed: false });
        self.size = node;
        self.start(node, SimDisk::new(node)).await;
        for (own, member) in &self.members {
            let others = (1..=self.size).filter(|other| other != own);
            let others = others.map(|node| PeerAddr { node: NodeId(node), address: address(node) });
            member.peers.set_peers(others.collect());
        }
        self.until("the new node is active", || {
            let catalog = self.members[&node].catalog.catalog();
            u64::from(catalog.count(NodeState::Active)) == node
        })
        .await;
        node
    }

    pub fn host(&self, node: u64) -> Arc<Host> {
        self.members[&node].host.clone()
    }

    /// Waits for a fact.
    pub async fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let waiting = async {
            while !holds() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("in vain: {what}"));
    }

    /// Makes a topic with one partition on so many nodes, and waits until every node knows it.
    pub async fn topic(&self, name: &str, replicas: u16) -> GroupId {
        let host = self.members.values().next().expect("a node").host.clone();
        let catalog = host.held(GroupId::CATALOG).expect("held").catalog();
        let placement = planning::place_topic(&catalog, 1, replicas).expect("places");
        let create = CatalogCommand::CreateTopic {
            topic: TopicName::new(name).expect("a name"),
            partitions: 1,
            replicas,
            config: TopicConfig::default(),
            if_not_exists: false,
            placement: Some(placement),
        };
        let reply = host.command(&create).await.expect("an answer");
        let CatalogReply::Created { topic, .. } = reply else { panic!("{reply:?}") };
        let group = topic.partitions[0];
        self.until("every node knows the topic", || {
            let known = |member: &Member| member.catalog.catalog().locate(group).is_some();
            self.members.values().all(known)
        })
        .await;
        group
    }

    /// The nodes that hold something of the group.
    pub fn holders(&self, group: GroupId) -> BTreeSet<u64> {
        let holds = |node: &u64| {
            let log = self.members[node].host.store().group(group);
            log.is_some_and(|log| log.bounds().last.is_some())
        };
        self.members.keys().copied().filter(holds).collect()
    }

    /// Has the catalog want a group on these nodes.
    pub async fn place(&self, group: GroupId, nodes: &[u64]) {
        let host = self.members.values().next().expect("a node").host.clone();
        let wanted: Vec<NodeId> = nodes.iter().copied().map(NodeId).collect();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let catalog = host.held(GroupId::CATALOG).expect("held").catalog();
            let base = catalog.placement_epoch();
            let change = PlacementChange { group, wanted: wanted.clone().into() };
            let command = CatalogCommand::SetPlacement { base, changes: vec![change] };
            match host.command(&command).await.expect("an answer") {
                CatalogReply::Done => return,
                reply => assert!(Instant::now() < deadline, "{reply:?}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub fn group(&self, node: u64, group: GroupId) -> Arc<Group> {
        self.host(node).open(group, GroupKind::Partition, self.options).expect("the group opens")
    }

    /// Hands a batch to whatever node leads, as a client does: with retries, until it is stored.
    pub async fn produce(&self, group: GroupId, batch: &Bytes) -> Produced {
        let deadline = Instant::now() + PATIENCE;
        let mut next = 0;
        let mut hint = None;
        loop {
            let nodes: Vec<u64> = self.members.keys().copied().collect();
            let node = hint.take().unwrap_or_else(|| {
                next += 1;
                nodes[next % nodes.len()]
            });
            let at = self.group(node, group);
            let outcome =
                timeout(Duration::from_secs(3), async { propose(&at, batch).await?.await });
            match outcome.await {
                Ok(Ok(produced)) => return produced,
                Ok(Err(ProduceError::NotLeader(error))) => {
                    hint = error.leader.map(|node| node.0).filter(|n| nodes.contains(n));
                }
                Ok(Err(ProduceError::NoQuorum(_) | ProduceError::Unknown)) | Err(_) => {}
                Ok(Err(error)) => panic!("{error}"),
            }
            assert!(Instant::now() < deadline, "nobody takes the batch");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The node that leads the group, once there is one.
    pub async fn leader(&self, group: GroupId) -> u64 {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let leads = |member: &Member| {
                let group = member.host.held(group)?;
                let role = *group.role().borrow();
                role.led_term()
            };
            let led = self.members.iter().filter_map(|(node, m)| Some((leads(m)?, *node)));
            if let Some((_, node)) = led.max() {
                return node;
            }
            assert!(Instant::now() < deadline, "nobody leads");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until the replica on a node has committed up to `offset`.
    pub async fn caught_up(&self, node: u64, group: GroupId, offset: Offset) {
        let at = self.group(node, group);
        self.until("the replica catches up", || *at.high_watermark().borrow() >= offset).await;
    }

    /// The process ends without a word; its disk stays.
    pub async fn kill(&mut self, node: u64) -> SimDisk {
        let member = self.members.remove(&node).expect("it runs");
        self.network.kill(ip(node));
        member.acceptor.abort();
        member.host.abort().await;
        member.peers.shutdown().await;
        member.host.store().close();
        member.stepper.abort();
        member.disk
    }

    /// As [`Cluster::kill`], and the power fails: what was not synced is gone.
    pub async fn power_failure(&mut self, node: u64) -> SimDisk {
        let survived = self.members[&node].disk.crash(&CrashPlan::NOTHING);
        self.members[&node].disk.power_off();
        self.kill(node).await;
        survived
    }

    pub fn role(&self, node: u64, group: GroupId) -> Role {
        let held = self.host(node).held(group);
        held.map_or(Role::Asleep, |group| *group.role().borrow())
    }
}

/// Values in a row.
pub fn numbered(producer: &mut Producer, count: usize) -> Vec<Bytes> {
    (0..count)
        .map(|_| {
            let value = producer.next.to_string();
            producer.batch(&[&value])
        })
        .collect()
}

/// Has `count` such batches stored, one after the other.
pub async fn store(cluster: &Cluster, group: GroupId, producer: &mut Producer, count: usize) {
    for batch in numbered(producer, count) {
        cluster.produce(group, &batch).await;
    }
}

//! What a start makes ready around an open store: certificates, addresses, groups, links.

use std::sync::Arc;
use std::time::SystemTime;

use plimsoll_gateways::{Broker, NodeIdentity};
use plimsoll_log::Store;
use plimsoll_peers::{Dial, LivenessConfig, PeerLimits, Peers, PeersConfig, SocketDial};
use plimsoll_replication::{Blocking, Host, HostConfig};
use plimsoll_transport::{Fingerprint, Listener, NodeTls, ServerTls, TransportKind};
use tokio::sync::watch;

use crate::certificates::{self, Certificates};
use crate::cluster::PeerHandler;
use crate::config::{NodeConfig, PeerTransport};
use crate::error::{NodeFailed, StartError};
use crate::origin::Origin;
use crate::surroundings::Surroundings;

/// See the module.
pub(crate) struct Opened {
    /// None in a simulation.
    pub(crate) certificates: Option<Certificates>,
    pub(crate) listener: Arc<Listener>,
    pub(crate) plaintext: Option<Arc<Listener>>,
    pub(crate) host: Arc<Host>,
    pub(crate) broker: Arc<Broker>,
    pub(crate) peers: Peers,
}

/// Makes everything ready that a store needs around it.
pub(crate) async fn open_on(
    config: &NodeConfig,
    store: &Arc<Store>,
    around: &Surroundings,
    origin: &Origin,
    tell: watch::Sender<Option<NodeFailed>>,
) -> Result<Opened, StartError> {
    let (certificates, listener, plaintext, dial) = match &around.simulated {
        Some(simulated) => {
            let listener = simulated.host.listen(config.listen.port(), config.transport())?;
            (None, Arc::new(listener), None, Arc::clone(&simulated.dial))
        }
        None => {
            let prepare = {
                let (config, identity, now) = (config.clone(), store.identity(), SystemTime::now());
                move || certificates::prepare(&config, config.listen, &identity, now)
            };
            let certificates = Blocking::Pool.run(prepare).await?;
            let (listener, plaintext, dial) = bind(config, origin, &certificates)?;
            (Some(certificates), listener, plaintext, dial)
        }
    };
    let (host, broker) = open_broker(config, store, around, origin).await?;
    let authority = certificates.as_ref().map(|made| made.cluster_pem.as_bytes());
    if let Some(authority) = authority.and_then(Fingerprint::of_pem) {
        broker.set_authority(authority);
    }
    let handler =
        Arc::new(PeerHandler { inner: host.handler(), broker: Arc::downgrade(&broker), tell });
    let peers = Peers::new(links(config, store, around), dial, handler);
    host.attach(peers.clone());
    broker.attach(peers.clone());
    Ok(Opened { certificates, listener, plaintext, host, broker, peers })
}

type Bound = (Arc<Listener>, Option<Arc<Listener>>, Arc<dyn Dial>);

/// Binds the node's addresses.
fn bind(
    config: &NodeConfig,
    origin: &Origin,
    certificates: &Certificates,
) -> Result<Bound, StartError> {
    let (clients, nodes) = (&certificates.clients, &certificates.nodes);
    let nodes = NodeTls::from_pem(
        nodes.chain_pem.as_bytes(),
        nodes.key_pem.as_bytes(),
        certificates.cluster_pem.as_bytes(),
    )?;
    let tls = ServerTls::from_pem(clients.chain_pem.as_bytes(), clients.key_pem.as_bytes())?
        .with_nodes(nodes.clone())?;
    let listener = Listener::bind(origin.listen(config), &tls, config.transport())?;
    let plaintext = match config.listen_plaintext {
        Some(address) => Some(Arc::new(Listener::bind_plaintext(address, config.transport())?)),
        None => None,
    };
    let dial = SocketDial::new(nodes, config.peer_connections());
    Ok((Arc::new(listener), plaintext, Arc::new(dial)))
}

/// How this node talks to others.
fn links(config: &NodeConfig, store: &Store, around: &Surroundings) -> PeersConfig {
    let identity = store.identity();
    let (random, clock) = (around.random(), Arc::clone(&around.clock));
    PeersConfig {
        node: identity.node_id,
        cluster_id: identity.cluster_id,
        incarnation: store.incarnation(),
        boot_nonce: store.boot_nonce(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        transport: match config.peer_transport {
            PeerTransport::Quic => TransportKind::Quic,
            PeerTransport::Tls => TransportKind::Tls,
        },
        liveness: LivenessConfig {
            interval: config.liveness_interval,
            timeout: config.liveness_timeout,
        },
        limits: PeerLimits::default(),
        random: Arc::new(move || random.next_u64()),
        wall_clock: Arc::new(move || clock.unix_ms()),
    }
}

/// Opens the groups of a store and wakes the catalog.
async fn open_broker(
    config: &NodeConfig,
    store: &Arc<Store>,
    around: &Surroundings,
    origin: &Origin,
) -> Result<(Arc<Host>, Arc<Broker>), StartError> {
    let identity = store.identity();
    let host_config = HostConfig {
        founder: origin.founder(),
        drain_timeout: config.shutdown_timeout,
        move_bytes_per_second: config.move_bytes_per_second.0,
        moves_max: config.moves_max,
        blocking: around.blocking(),
        random: around.random(),
        ..HostConfig::default()
    };
    let clock = Arc::clone(&around.clock);
    let host = Host::new(Arc::clone(store), identity.node_id, clock, host_config);
    let named = NodeIdentity {
        node_id: identity.node_id,
        cluster_id: hex(&identity.cluster_id),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let started = Broker::start(Arc::clone(store), Arc::clone(&host), named, config.limits()).await;
    match started {
        Ok(broker) => {
            host.set_placements(broker.placements());
            Ok((host, broker))
        }
        Err(error) => {
            host.abort().await;
            Err(error.into())
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

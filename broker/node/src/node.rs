//! One node: opens its storage, answers on its sockets, keeps house, ends in order.
//!
//! Order of a start: the data directory is locked, storage is recovered, certificates are made ready,
//! addresses are bound, the catalog is woken; only then connections are taken in. Order of an end:
//! no new connections, sessions finish what they have, groups leave their state with the log, the
//! store makes a checkpoint. Several nodes can run in one process; there are no globals.

use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use futures_util::FutureExt as _;
use plimsoll_gateways::{Broker, MaintenanceConfig, NodeIdentity, StrangerPlace, maintain, native};
use plimsoll_log::disk::Disk;
use plimsoll_log::disk::real::{OpenOptions, RealDisk, install_sigbus_handler};
use plimsoll_log::{FatalError, Store};
use plimsoll_replication::{Blocking, Clock, Host, HostConfig, SystemClock};
use plimsoll_transport::{Incoming, Listener, ServerTls};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::certificates::{self, Certificates};
use crate::config::NodeConfig;
use crate::error::{NodeFailed, StartError};
use crate::surroundings::Surroundings;

/// Far above what tasks that were ended take to go.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(10);

/// A running node. Dropping it is as [`Node::abort`], without waiting for it.
pub struct Node {
    config: NodeConfig,
    /// None in the simulation.
    certificates: Option<Certificates>,
    listener: Arc<Listener>,
    plaintext: Option<Arc<Listener>>,
    broker: Arc<Broker>,
    host: Arc<Host>,
    store: Arc<Store>,
    /// Only to see when the last user of the disk, and with it the lock, is gone.
    disk: Weak<dyn Disk>,
    failed: watch::Receiver<Option<NodeFailed>>,
    tasks: Tasks,
    blocking: Blocking,
}

/// What runs beside the sessions; ended when dropped.
struct Tasks {
    accepting: JoinSet<()>,
    maintenance: JoinSet<()>,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("addr", &self.addr()).finish_non_exhaustive()
    }
}

impl Node {
    /// Starts a node on this machine's disk and clock. It answers when this returns.
    ///
    /// # Errors
    /// [`StartError`] by cause. What was opened is closed again; nothing was deleted.
    pub async fn start(config: NodeConfig) -> Result<Self, StartError> {
        config.check()?;
        let data = config.data.clone();
        let disk = Blocking::Pool.run(move || RealDisk::open(data, OpenOptions::default())).await?;
        if !disk.has_direct_access() {
            tracing::info!(
                data = %config.data.display(),
                "the file system has no direct access; durable writes take two to three times as long"
            );
        }
        // A map of a file that another process cut short would end this one without a word.
        if let Err(error) = install_sigbus_handler() {
            tracing::warn!(%error, "no handler for SIGBUS");
        }
        Self::start_on(config, Arc::new(disk), Arc::new(SystemClock::new())).await
    }

    /// Starts a node on a given disk and clock. Certificates are files of `config.data` all the
    /// same.
    ///
    /// # Errors
    /// As [`Node::start`].
    pub async fn start_on(
        config: NodeConfig,
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StartError> {
        Self::start_in(config, Surroundings::real(disk, clock)).await
    }

    /// Starts a node in the surroundings given.
    ///
    /// # Errors
    /// As [`Node::start`].
    pub async fn start_in(config: NodeConfig, around: Surroundings) -> Result<Self, StartError> {
        config.check()?;
        let (disk, clock) = (Arc::clone(&around.disk), Arc::clone(&around.clock));
        let blocking = around.blocking();
        let disk_in_use = Arc::downgrade(&disk);
        let (tell, failed) = watch::channel(None);
        let tell_of_tasks = tell.clone();
        let store = {
            let (config, driver) = (around.store_config(config.store()), around.driver());
            let on_fatal = move |error: &FatalError| {
                tell.send_replace(Some(NodeFailed::Storage(error.to_string().into())));
            };
            let open = move || Store::open(disk, config, driver, Box::new(on_fatal));
            blocking.run(open).await?
        };
        if let Some(simulated) = &around.simulated {
            (simulated.opened)(&store);
        }
        let opened = open_on(&config, &store, &around).await;
        let (certificates, (listener, plaintext), (host, broker)) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                blocking.run(move || store.close()).await;
                return Err(error);
            }
        };
        let mut tasks = Tasks { accepting: JoinSet::new(), maintenance: JoinSet::new() };
        for listener in std::iter::once(&listener).chain(&plaintext) {
            let accepting = accept(Arc::clone(listener), Arc::clone(&broker));
            let accepting = vital("taking connections in", accepting, tell_of_tasks.clone());
            tasks.accepting.spawn(accepting);
        }
        let maintenance = MaintenanceConfig {
            sleep_after: config.sleep_after,
            retention_interval: config.retention_interval,
        };
        let maintaining = maintain(Arc::clone(&broker), clock, maintenance);
        let maintaining = async move {
            maintaining.await;
            Ok(())
        };
        tasks.maintenance.spawn(vital("maintenance", maintaining, tell_of_tasks));
        tracing::info!(
            node = %store.identity().node_id,
            listen = %listener.local_addr(),
            data = %config.data.display(),
            topics = broker.catalog().len(),
            "node started"
        );
        Ok(Self {
            config,
            certificates,
            listener,
            plaintext,
            broker,
            host,
            store,
            disk: disk_in_use,
            failed,
            tasks,
            blocking,
        })
    }

    /// Where it listens with QUIC and TLS.
    pub fn addr(&self) -> SocketAddr {
        self.listener.local_addr()
    }

    /// Where it listens without encryption, if it does.
    pub fn tcp_addr(&self) -> Option<SocketAddr> {
        self.plaintext.as_ref().map(|listener| listener.local_addr())
    }

    /// The authority that clients should trust, PEM. `None` where the operator brought a certificate
    /// and did not say who signed it.
    pub fn ca_pem(&self) -> Option<&str> {
        self.certificates.as_ref()?.authority_pem.as_deref()
    }

    /// The file with [`Node::ca_pem`].
    pub fn authority_path(&self) -> Option<PathBuf> {
        match self.is_self_signed() {
            true => Some(self.config.data.join("tls").join("ca.pem")),
            false => self.config.tls_authority.clone(),
        }
    }

    /// Whether the node made its own authority.
    pub fn is_self_signed(&self) -> bool {
        self.config.tls_certificate.is_none()
    }

    /// Its data directory.
    pub fn data(&self) -> &Path {
        &self.config.data
    }

    /// What its sessions share: counters, limits, groups.
    pub fn broker(&self) -> &Arc<Broker> {
        &self.broker
    }

    /// Waits until the node's storage, or a task that it cannot do without, has failed. The process
    /// should end then, at once: nothing can be made good by waiting.
    pub async fn failed(&self) -> NodeFailed {
        let mut failed = self.failed.clone();
        let told = failed.wait_for(Option::is_some).await.map(|reason| reason.clone());
        match told {
            Ok(Some(failed)) => failed,
            // The store was closed without a failure, so none will come.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    /// Ends in order: takes no more connections, lets sessions finish for at most
    /// `shutdown_timeout`, leaves the groups' state with the log, makes a checkpoint.
    pub async fn shutdown(mut self) {
        self.broker.stop();
        self.listener.close();
        if let Some(plaintext) = &self.plaintext {
            plaintext.close();
        }
        if timeout(self.config.shutdown_timeout, self.broker.drained()).await.is_err() {
            tracing::warn!("some clients did not let go in time; their connections are cut");
        }
        let cut = self.listener.shut_down(600, "the node is shutting down");
        // A peer that is gone cannot be told.
        let _ = timeout(Duration::from_secs(1), cut).await;
        self.tasks.accepting.shutdown().await;
        self.tasks.maintenance.shutdown().await;
        // Each ends with the groups that it is at; the next start removes the others.
        let mut deletions = self.broker.take_deletions();
        // One that panics must not keep the others, nor the store, from their end.
        let ended = async {
            while let Some(ended) = deletions.join_next().await {
                if let Err(error) = ended {
                    tracing::error!(%error, "a topic's deletion failed; the next start goes on with it");
                }
            }
        };
        let _ = timeout(self.config.shutdown_timeout, ended).await;
        drop(deletions);
        self.host.shutdown().await;
        let store = Arc::clone(&self.store);
        self.blocking.run(move || store.close()).await;
        self.release().await;
    }

    /// Ends as if the process had been killed: nothing is finished, flushed or checkpointed. The
    /// data directory can be opened again when this returns.
    pub async fn abort(mut self) {
        self.listener.close();
        self.tasks.accepting.shutdown().await;
        self.tasks.maintenance.shutdown().await;
        self.broker.take_deletions().shutdown().await;
        self.host.abort().await;
        self.release().await;
    }

    /// Drops the store and waits until nobody uses its directory any more.
    async fn release(self) {
        let Self { listener, plaintext, broker, host, store, disk, blocking, .. } = self;
        // Tells QUIC's peers, and frees the ports.
        drop((listener, plaintext, broker, host));
        let released = async {
            // Tasks of sessions were ended; the runtime drops what they held within moments.
            while Arc::strong_count(&store) > 1 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            // Joins the store's threads.
            blocking.run(move || drop(store)).await;
            while disk.strong_count() > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        if timeout(RELEASE_TIMEOUT, released).await.is_err() {
            tracing::error!("the data directory is still in use by this process; this is a bug");
        }
    }
}

/// The node's addresses.
type Listeners = (Arc<Listener>, Option<Arc<Listener>>);
/// What answers on them.
type Brokers = (Arc<Host>, Arc<Broker>);

/// Makes everything ready that a store needs around it.
async fn open_on(
    config: &NodeConfig,
    store: &Arc<Store>,
    around: &Surroundings,
) -> Result<(Option<Certificates>, Listeners, Brokers), StartError> {
    let (certificates, listeners) = match &around.simulated {
        Some(simulated) => {
            let listener = simulated.host.listen(config.listen.port(), config.transport())?;
            (None, (Arc::new(listener), None))
        }
        None => {
            let prepare = {
                let (config, identity, now) = (config.clone(), store.identity(), SystemTime::now());
                move || certificates::prepare(&config, config.listen, &identity, now)
            };
            let certificates = Blocking::Pool.run(prepare).await?;
            let listeners = bind(config, &certificates)?;
            (Some(certificates), listeners)
        }
    };
    let brokers = open_broker(config, store, around).await?;
    Ok((certificates, listeners, brokers))
}

/// Binds the node's addresses.
fn bind(config: &NodeConfig, certificates: &Certificates) -> Result<Listeners, StartError> {
    let shown = &certificates.clients;
    let tls = ServerTls::from_pem(shown.chain_pem.as_bytes(), shown.key_pem.as_bytes())?;
    let listener = Listener::bind(config.listen, &tls, config.transport())?;
    let plaintext = match config.listen_plaintext {
        Some(address) => Some(Arc::new(Listener::bind_plaintext(address, config.transport())?)),
        None => None,
    };
    Ok((Arc::new(listener), plaintext))
}

/// Opens the groups of a store and wakes the catalog.
async fn open_broker(
    config: &NodeConfig,
    store: &Arc<Store>,
    around: &Surroundings,
) -> Result<Brokers, StartError> {
    let identity = store.identity();
    let host_config = HostConfig {
        drain_timeout: config.shutdown_timeout,
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
        Ok(broker) => Ok((host, broker)),
        Err(error) => {
            host.abort().await;
            Err(error.into())
        }
    }
}

/// Takes connections in; each is served by a task of its own, which ends with this one. An error says
/// that the listener has ended by itself.
async fn accept(listener: Arc<Listener>, broker: Arc<Broker>) -> Result<(), &'static str> {
    let mut sessions = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            incoming = listener.accept() => match incoming {
                Some(incoming) => {
                    let Some((incoming, stranger)) = receive(incoming, &broker) else { continue };
                    let broker = Arc::clone(&broker);
                    sessions.spawn(async move {
                        match incoming.handshake().await {
                            Ok(connection) => native::serve(connection, broker, stranger).await,
                            Err(error) => tracing::debug!(%error, "no connection"),
                        }
                    });
                }
                None if listener.is_closed() => break,
                None => return Err("the UDP socket failed"),
            },
            Some(_) = sessions.join_next() => {}
        }
    }
    while sessions.join_next().await.is_some() {}
    Ok(())
}

/// Runs a task without which the node is of no use. Should it fail or panic, that is told, so that
/// the process ends in place of running on without it.
async fn vital(
    what: &'static str,
    work: impl Future<Output = Result<(), &'static str>>,
    tell: watch::Sender<Option<NodeFailed>>,
) {
    let outcome = AssertUnwindSafe(work).catch_unwind().await;
    if let Err(reason) = outcome.unwrap_or(Err("it panicked; this is a bug")) {
        tracing::error!(what, reason, "the node cannot go on");
        tell.send_replace(Some(NodeFailed::Task { what, reason }));
    }
}

/// Finds a place for a peer before anything is spent on it; `None` where it was sent away.
fn receive(incoming: Incoming, broker: &Broker) -> Option<(Incoming, StrangerPlace)> {
    let address = incoming.remote_addr().ip();
    let incoming = match broker.wants_proof_of(address) {
        true => incoming.prove_address().err()?,
        false => incoming,
    };
    match broker.take_stranger(address) {
        Some(stranger) => Some((incoming, stranger)),
        None => {
            incoming.refuse();
            None
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_vital_task_that_ends_badly_fails_the_node_and_one_that_is_done_does_not() {
        let (tell, told) = watch::channel(None);
        vital("a", async { Ok(()) }, tell.clone()).await;
        assert!(told.borrow().is_none());
        vital("b", async { Err("broken") }, tell.clone()).await;
        let reason = || told.borrow().as_ref().map(NodeFailed::to_string);
        assert_eq!(reason().as_deref(), Some("b ended: broken"));
        vital("c", async { panic!("a bug") }, tell).await;
        assert!(reason().is_some_and(|told| told.starts_with("c ended: it panicked")));
    }
}

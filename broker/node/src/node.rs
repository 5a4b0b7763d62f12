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
use std::time::Duration;

use futures_util::FutureExt as _;
use plimsoll_gateways::{Broker, JoinToken, MaintenanceConfig, maintain};
use plimsoll_log::disk::Disk;
use plimsoll_log::disk::real::{OpenOptions, RealDisk, install_sigbus_handler};
use plimsoll_log::{FatalError, Store, StoreConfig};
use plimsoll_peers::Peers;
use plimsoll_replication::{Blocking, Clock, Host, SystemClock};
use plimsoll_transport::Listener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::accept::{Reception, accept};
use crate::amqp::{self, AmqpAddresses};
use crate::certificates::Certificates;
use crate::cluster::{Introduction, introduce, keep_links};
use crate::config::NodeConfig;
use crate::error::{NodeFailed, StartError};
use crate::join::Gate;
use crate::open::{Opened, open_on};
use crate::origin::Origin;
use crate::surroundings::Surroundings;

/// Far above what tasks that were ended take to go.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(10);
/// A node that is alone has its catalog long before.
const ALONE_WITHIN: Duration = Duration::from_secs(2);

/// A running node. Dropping it is as [`Node::abort`], without waiting for it.
pub struct Node {
    config: NodeConfig,
    /// None in the simulation.
    certificates: Option<Certificates>,
    listener: Arc<Listener>,
    plaintext: Option<Arc<Listener>>,
    amqp: AmqpAddresses,
    broker: Arc<Broker>,
    host: Arc<Host>,
    peers: Peers,
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
        let origin = Origin::find(&config, &around).await?;
        let store = {
            let store_config = StoreConfig { identity: origin.identity, ..config.store() };
            let (config, driver) = (around.store_config(store_config), around.driver());
            let on_fatal = move |error: &FatalError| {
                tell.send_replace(Some(NodeFailed::Storage(error.to_string().into())));
            };
            let open = move || Store::open(disk, config, driver, Box::new(on_fatal));
            blocking.run(open).await?
        };
        if let Some(simulated) = &around.simulated {
            (simulated.opened)(&store);
        }
        let opened = open_on(&config, &store, &around, &origin, tell_of_tasks.clone()).await;
        let Opened { certificates, listener, plaintext, host, broker, peers } = match opened {
            Ok(opened) => opened,
            Err(error) => {
                blocking.run(move || store.close()).await;
                return Err(error);
            }
        };
        let amqp = match amqp::bind(&config, certificates.as_ref()).await {
            Ok(listeners) => listeners,
            Err(error) => {
                host.abort().await;
                blocking.run(move || store.close()).await;
                return Err(error);
            }
        };
        let mut tasks = Tasks { accepting: JoinSet::new(), maintenance: JoinSet::new() };
        let gate = certificates.as_ref().map(|_| Gate {
            broker: Arc::clone(&broker),
            data: config.data.clone(),
            identity: store.identity(),
        });
        let reception = Reception { broker: Arc::clone(&broker), peers: peers.clone(), gate };
        for listener in std::iter::once(&listener).chain(&plaintext) {
            let accepting = accept(Arc::clone(listener), reception.clone());
            let accepting = vital("taking connections in", accepting, tell_of_tasks.clone());
            tasks.accepting.spawn(accepting);
        }
        let amqp_addresses = amqp.as_ref().map(|amqp| amqp.addresses()).unwrap_or_default();
        if let Some(amqp) = amqp {
            let serving = amqp.serve(Arc::clone(&broker));
            tasks.accepting.spawn(vital("AMQP", serving, tell_of_tasks.clone()));
        }
        let maintenance = MaintenanceConfig {
            sleep_after: config.sleep_after,
            retention_interval: config.retention_interval,
            compaction_bytes_per_s: config.compaction_bytes_per_s.0,
        };
        let maintaining = maintain(Arc::clone(&broker), clock, maintenance);
        let mut spawn = |what, work| {
            tasks.maintenance.spawn(vital(what, work, tell_of_tasks.clone()));
        };
        spawn("maintenance", maintaining.map(Ok).boxed());
        let linking = keep_links(Arc::clone(&broker), peers.clone(), origin.members.clone());
        spawn("keeping links", linking.map(Ok).boxed());
        let introduction = Introduction {
            node: store.identity().node_id,
            spec: origin.spec(&config, listener.local_addr()),
            founder: origin.founder(),
            new_secret: origin.new_secret,
            data: certificates.as_ref().map(|_| config.data.clone()),
        };
        let tell = tell_of_tasks.clone();
        let tell_removed = move || {
            tell_unless_storage(&tell, NodeFailed::Removed);
        };
        let introducing = introduce(Arc::clone(&broker), introduction, tell_removed);
        spawn("introducing itself", introducing.map(Ok).boxed());
        if origin.founder() {
            // Alone, the cluster is there when this returns. Among others, a majority of them may not
            // have been started yet: nobody is to wait here for that.
            let mut failing = failed.clone();
            tokio::select! {
                biased;
                // Storage that fails meanwhile ends the process at once.
                _ = failing.wait_for(Option::is_some) => {}
                _ = timeout(ALONE_WITHIN, is_set_up(&broker, &host)) => {}
            }
        }
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
            amqp: amqp_addresses,
            broker,
            host,
            peers,
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

    /// Where it listens for AMQP, if it does.
    pub fn amqp_addresses(&self) -> AmqpAddresses {
        self.amqp
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

    /// What allows another node to join, once the cluster has its first node. `None`: the node ends
    /// before.
    pub async fn join_token(&self) -> Option<JoinToken> {
        let mut catalog = self.broker.catalog_changes();
        catalog.wait_for(|catalog| catalog.is_set_up()).await.ok()?;
        self.broker.join_token()
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

    /// Waits until the node's storage has failed, also while the node is shutting down.
    pub fn storage_failed(&self) -> impl Future<Output = NodeFailed> + Send + use<> {
        let mut failed = self.failed.clone();
        async move {
            let of_storage =
                |failed: &Option<NodeFailed>| matches!(failed, Some(NodeFailed::Storage(_)));
            let told = failed.wait_for(of_storage).await.map(|reason| reason.clone());
            match told {
                Ok(Some(failed)) => failed,
                // The store was closed without a failure, so none will come.
                Ok(None) | Err(_) => std::future::pending().await,
            }
        }
    }

    /// Ends in order: hands over what it leads while it still answers, takes no more connections, lets
    /// sessions finish for at most `shutdown_timeout`, leaves the groups' state with the log, makes a
    /// checkpoint. Where its storage fails before that, it ends as [`Node::abort`]: nobody is to be kept waiting by
    /// a node that can neither store anything nor hand it over.
    pub async fn shutdown(mut self) {
        let failed = self.storage_failed();
        tokio::select! {
            biased;
            failed = failed => {
                tracing::error!(%failed, "the storage failed while the node was shutting down; it ends at once");
                return self.abort().await;
            }
            () = self.let_go() => {}
        }
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
        self.unlink().await;
        let store = Arc::clone(&self.store);
        self.blocking.run(move || store.close()).await;
        self.release().await;
    }

    /// Hands over what it leads, and lets sessions finish.
    async fn let_go(&self) {
        if timeout(self.config.shutdown_timeout, self.host.leave()).await.is_err() {
            tracing::warn!("not everything was handed over in time; the others elect leaders");
        }
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
    }

    /// Ends as if the process had been killed: nothing is finished, flushed or checkpointed. The
    /// data directory can be opened again when this returns.
    pub async fn abort(mut self) {
        self.listener.close();
        self.tasks.accepting.shutdown().await;
        self.tasks.maintenance.shutdown().await;
        self.broker.take_deletions().shutdown().await;
        self.host.abort().await;
        // For tasks that only read, and so do not see that their group has ended.
        self.broker.stop();
        self.unlink().await;
        self.release().await;
    }

    async fn unlink(&self) {
        if timeout(RELEASE_TIMEOUT, self.peers.shutdown()).await.is_err() {
            tracing::error!("not every link has ended; this is a bug");
        }
    }

    /// Drops the store and waits until nobody uses its directory any more.
    async fn release(self) {
        let Self { listener, plaintext, broker, host, peers, store, disk, blocking, .. } = self;
        // Tells QUIC's peers, and frees the ports.
        drop((listener, plaintext, broker, host, peers));
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

/// Waits until the catalog has its first node and is known to be fresh.
async fn is_set_up(broker: &Broker, host: &Host) {
    let mut catalog = broker.catalog_changes();
    let known = catalog.wait_for(|catalog| catalog.is_set_up()).await.is_ok();
    let mut confirmed = host.catalog_confirmed();
    // Either ends only with the node.
    let _ = known && confirmed.wait_for(|confirmed| *confirmed).await.is_ok();
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
        tell_unless_storage(&tell, NodeFailed::Task { what, reason });
    }
}

/// Says why the node cannot go on, unless its storage has failed: then that is why.
fn tell_unless_storage(tell: &watch::Sender<Option<NodeFailed>>, failed: NodeFailed) {
    tell.send_if_modified(|told| {
        let has_storage = matches!(told, Some(NodeFailed::Storage(_)));
        if !has_storage {
            *told = Some(failed);
        }
        !has_storage
    });
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

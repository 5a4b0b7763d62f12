//! What a node stands on. The machine, as a rule; in the simulation a disk, a clock, a network and
//! random numbers that a seed determines, and no thread but the one that it runs on.

use std::sync::Arc;

use plimsoll_log::disk::Disk;
use plimsoll_log::{Driver, Store, StoreConfig};
use plimsoll_peers::Dial;
use plimsoll_protocol::peer::MemberAddress;
use plimsoll_replication::{Blocking, Clock, Random, SeededRandom, SystemRandom};
use plimsoll_transport::SimulatedHost;

/// See the module.
pub struct Surroundings {
    /// Where its data lies.
    pub disk: Arc<dyn Disk>,
    /// Its clock.
    pub clock: Arc<dyn Clock>,
    /// Present in the simulation.
    pub simulated: Option<Simulated>,
}

/// Is told of a store.
pub(crate) type Opened = Box<dyn Fn(&Arc<Store>) + Send + Sync>;

/// What takes the place of sockets, threads and chance.
pub struct Simulated {
    /// It listens there, at the port of `listen`, and shows no certificate.
    pub host: SimulatedHost,
    /// How it reaches other nodes.
    pub dial: Arc<dyn Dial>,
    /// The members that it was told of when it joined; none for the node that made the cluster. Whose
    /// directory it is, `store.identity` says.
    pub members: Vec<MemberAddress>,
    /// Of everything random in this life of the node.
    pub seed: u64,
    /// The storage's settings, in place of the node's; its seed is the one above.
    pub store: StoreConfig,
    /// Told of the store when it is open and nobody uses it yet: whoever is told runs its work, by
    /// [`Store::step`].
    pub opened: Opened,
}

impl std::fmt::Debug for Surroundings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Surroundings").field("disk", &self.disk).finish_non_exhaustive()
    }
}

impl Surroundings {
    /// This machine's network, threads and random numbers, beside a disk and a clock.
    #[must_use]
    pub fn real(disk: Arc<dyn Disk>, clock: Arc<dyn Clock>) -> Self {
        Self { disk, clock, simulated: None }
    }

    pub(crate) fn blocking(&self) -> Blocking {
        if self.simulated.is_some() { Blocking::Inline } else { Blocking::Pool }
    }

    pub(crate) fn driver(&self) -> Driver {
        if self.simulated.is_some() { Driver::Manual } else { Driver::Threads }
    }

    pub(crate) fn random(&self) -> Arc<dyn Random> {
        match &self.simulated {
            Some(simulated) => Arc::new(SeededRandom::new(simulated.seed)),
            None => Arc::new(SystemRandom::new()),
        }
    }

    pub(crate) fn store_config(&self, usual: StoreConfig) -> StoreConfig {
        match &self.simulated {
            Some(simulated) => {
                StoreConfig { seed: Some(simulated.seed), ..simulated.store.clone() }
            }
            None => usual,
        }
    }
}

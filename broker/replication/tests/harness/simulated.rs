//! A node's groups over the simulated disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use plimsoll_log::disk::sim::{CrashPlan, SimDisk};
use plimsoll_log::{Driver, GroupOptions, Store, StoreConfig};
use plimsoll_protocol::ids::{GroupId, NodeId};
use plimsoll_replication::{Group, GroupKind, Host, HostConfig};

use super::TestClock;

/// One life of a node whose disk forgets what was not synced.
pub struct SimNode {
    pub host: Arc<Host>,
    pub clock: Arc<TestClock>,
    pub disk: SimDisk,
    stop: Arc<AtomicBool>,
    stepper: Option<JoinHandle<()>>,
}

impl SimNode {
    pub fn new(seed: u64) -> Self {
        Self::over(SimDisk::new(seed))
    }

    pub fn over(disk: SimDisk) -> Self {
        let config = StoreConfig { free_bytes_min: 0, ..super::small_store() };
        let on_fatal = Box::new(|_: &plimsoll_log::FatalError| {});
        let store = Store::open(Arc::new(disk.clone()), config, Driver::Manual, on_fatal)
            .expect("the store opens");
        let clock = Arc::new(TestClock::default());
        let host = Host::new(store.clone(), NodeId(1), clock.clone(), HostConfig::default());
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let stepper = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                if !store.step() {
                    std::thread::yield_now();
                }
            }
        });
        Self { host, clock, disk, stop, stepper: Some(stepper) }
    }

    pub async fn group(&self, id: GroupId, options: GroupOptions) -> Arc<Group> {
        self.host.group(id, GroupKind::of(id), options).await.expect("the group wakes")
    }

    /// The power fails; the next life finds what the plan lets survive.
    pub async fn power_failure(self, plan: &CrashPlan) -> Self {
        self.power_failure_with(plan, |_| {}).await
    }

    /// As [`SimNode::power_failure`], with something done to what survived.
    pub async fn power_failure_with(self, plan: &CrashPlan, then: impl FnOnce(&SimDisk)) -> Self {
        let survived = self.disk.crash(plan);
        then(&survived);
        self.disk.power_off();
        self.host.abort().await;
        drop(self);
        Self::over(survived)
    }
}

impl Drop for SimNode {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(stepper) = self.stepper.take() {
            let _ = stepper.join();
        }
    }
}

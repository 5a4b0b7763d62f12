//! Where the tasks of the measured node and of its clients run.

use std::future::Future;
use std::io;
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};

use crate::options::Layout;

/// Grace for tasks that block a thread when the measurement is over.
const SHUTDOWN: Duration = Duration::from_secs(5);

/// The runtimes of one measurement, each with a worker per core.
#[derive(Debug)]
pub(crate) struct Runtimes {
    clients: Option<Runtime>,
    /// Only with [`Layout::Split`].
    node: Option<Runtime>,
}

impl Runtimes {
    pub(crate) fn new(layout: Layout) -> io::Result<Self> {
        let build = |name: &str| Builder::new_multi_thread().enable_all().thread_name(name).build();
        let node = match layout {
            Layout::Shared => None,
            Layout::Split => Some(build("node")?),
        };
        Ok(Self { clients: Some(build("bench")?), node })
    }

    /// Where the node and the accepting ends of raw streams run.
    pub(crate) fn node(&self) -> &Handle {
        self.node.as_ref().unwrap_or(self.clients()).handle()
    }

    /// Runs the measurement; what it spawns runs where the clients do.
    pub(crate) fn block_on<F: Future>(&self, measurement: F) -> F::Output {
        self.clients().block_on(measurement)
    }

    fn clients(&self) -> &Runtime {
        self.clients.as_ref().expect("present until dropped")
    }
}

impl Drop for Runtimes {
    fn drop(&mut self) {
        for runtime in [self.clients.take(), self.node.take()].into_iter().flatten() {
            runtime.shutdown_timeout(SHUTDOWN);
        }
    }
}

//! A process: a tokio runtime of its own that lives as long as it is stepped.
//!
//! Its time is tokio's paused clock, driven by the world. A step runs everything that is ready, then
//! lets the clock come to the end of the step; tokio advances a paused clock only when nothing is
//! ready, so a step is a discrete-event simulation of one millisecond.

use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;

use crate::clock::SimClock;

/// See the module. Dropping it ends it as `kill -9` does: every task is dropped where it stands.
#[derive(Debug)]
pub struct Process {
    runtime: Runtime,
    clock: SimClock,
    /// The runtime's time when the machine's clock showed `boot_ms`.
    began: Instant,
    boot_ms: u64,
    /// The process's own time, in millionths of a millisecond.
    own_nanos: u64,
    /// Its time as far as the runtime has been run.
    run_ms: u64,
    /// Nanoseconds of its own per millisecond of the world.
    rate: u64,
}

/// The rate of a clock that goes right.
pub const RIGHT_RATE: u64 = 1_000_000;

impl Process {
    /// A process that has not run yet. `boot_ms` is what its machine's clock shows.
    ///
    /// # Panics
    /// When the system gives no memory for a runtime.
    #[must_use]
    pub fn new(clock: SimClock, boot_ms: u64) -> Self {
        let runtime = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime without threads and sockets needs nothing of the system");
        let began = runtime.block_on(async { Instant::now() });
        clock.set_monotonic_ms(boot_ms);
        let own_nanos = boot_ms * RIGHT_RATE;
        Self { runtime, clock, began, boot_ms, own_nanos, run_ms: boot_ms, rate: RIGHT_RATE }
    }

    /// Starts a task in it.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        drop(self.runtime.spawn(task));
    }

    /// Its own time, in milliseconds since its machine started.
    #[must_use]
    pub fn own_ms(&self) -> u64 {
        self.run_ms
    }

    /// How fast its clock goes from now on, in nanoseconds per millisecond of the world.
    pub fn set_rate(&mut self, rate: u64) {
        self.rate = rate;
    }

    /// A millisecond of the world passes, and the process runs.
    pub fn step(&mut self) {
        self.own_nanos += self.rate;
        let until_ms = self.own_nanos / RIGHT_RATE;
        if until_ms > self.run_ms {
            self.run_until(until_ms);
        }
    }

    /// A millisecond of the world passes, and the process is stopped (SIGSTOP): its clock goes on.
    pub fn step_stopped(&mut self) {
        self.own_nanos += self.rate;
    }

    /// It goes on after having been stopped: the clock jumps, and everything that was due is late.
    pub fn resume(&mut self) {
        let until_ms = self.own_nanos / RIGHT_RATE;
        let missed = Duration::from_millis(until_ms.saturating_sub(self.run_ms));
        self.clock.set_monotonic_ms(until_ms);
        self.runtime.block_on(async { tokio::time::advance(missed).await });
        self.run_ms = until_ms;
    }

    fn run_until(&mut self, until_ms: u64) {
        self.clock.set_monotonic_ms(self.run_ms);
        let until = self.began + Duration::from_millis(until_ms - self.boot_ms);
        self.runtime.block_on(async { tokio::time::sleep_until(until).await });
        self.run_ms = until_ms;
    }
}

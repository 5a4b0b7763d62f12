//! A process's clock: its own monotonic time, and a wall clock that is off by some amount.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use plimsoll_client::{LeaseClock, LeaseTime, WallClock};
use plimsoll_replication::Clock;

/// When every simulation begins, by a right wall clock: 2026-01-01.
pub(crate) const BEGINNING_UNIX_MS: i64 = 1_767_225_600_000;

/// Clones show the same time.
#[derive(Clone, Debug, Default)]
pub struct SimClock(Arc<State>);

#[derive(Debug, Default)]
struct State {
    /// Milliseconds of the process's own time.
    monotonic_ms: AtomicU64,
    /// Wall clock less the right time.
    offset_ms: AtomicI64,
}

impl SimClock {
    /// Sets the process's own time.
    pub fn set_monotonic_ms(&self, ms: u64) {
        self.0.monotonic_ms.store(ms, Ordering::Relaxed);
    }

    /// Sets how far the wall clock is off.
    pub fn set_offset_ms(&self, ms: i64) {
        self.0.offset_ms.store(ms, Ordering::Relaxed);
    }
}

impl Clock for SimClock {
    fn unix_ms(&self) -> i64 {
        let own = i64::try_from(self.0.monotonic_ms.load(Ordering::Relaxed)).unwrap_or(i64::MAX);
        BEGINNING_UNIX_MS + own + self.0.offset_ms.load(Ordering::Relaxed)
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.0.monotonic_ms.load(Ordering::Relaxed))
    }
}

/// As `CLOCK_BOOTTIME` of a machine: it goes on while a process is stopped.
impl LeaseClock for SimClock {
    fn now(&self) -> LeaseTime {
        LeaseTime(self.monotonic())
    }
}

impl WallClock for SimClock {
    fn unix_ms(&self) -> i64 {
        Clock::unix_ms(self)
    }
}

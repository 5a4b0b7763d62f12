//! The clock by which the holder of a lock counts: it only goes forward, and it goes on while the machine is
//! suspended.

use std::time::Duration;

/// A time on a [`LeaseClock`], counted from a moment that the clock chose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LeaseTime(pub Duration);

impl LeaseTime {
    /// So much later.
    #[must_use]
    pub fn plus(self, after: Duration) -> Self {
        Self(self.0.saturating_add(after))
    }

    /// How long it is from `earlier` to this; zero where this is not later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// Tells the time to who holds locks. [`crate::ClientConfig::lease_clock`] takes one, for simulations.
pub trait LeaseClock: std::fmt::Debug + Send + Sync {
    /// The time now.
    ///
    /// Invariant: never less than it was before, and not slower than real time by more than a hundredth, also
    /// while the process is stopped or the machine is suspended.
    fn now(&self) -> LeaseTime;
}

/// The system's. Source: clock_gettime(2), `CLOCK_BOOTTIME`.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct BootClock;

impl LeaseClock for BootClock {
    fn now(&self) -> LeaseTime {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        let clock = rustix::time::ClockId::Boottime;
        // Elsewhere the monotonic clock is the nearest there is; that of macOS counts suspension.
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        let clock = rustix::time::ClockId::Monotonic;
        let time = rustix::time::clock_gettime(clock);
        let seconds = u64::try_from(time.tv_sec).expect("the machine was not booted in the future");
        let nanos = u32::try_from(time.tv_nsec).expect("a second has fewer than 2^32 nanoseconds");
        LeaseTime(Duration::new(seconds, nanos))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_of_the_system_goes_forward() {
        let before = BootClock.now();
        let later = BootClock.now();
        assert!(before > LeaseTime::default() && later >= before);
        assert_eq!(before.since(later.plus(Duration::from_secs(1))), Duration::ZERO);
    }
}

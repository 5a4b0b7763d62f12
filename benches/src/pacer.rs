//! A schedule of evenly spaced moments, kept to a few microseconds.
//!
//! Timers of the runtime are a millisecond coarse, and a sleep ends up to 100 µs late; both would
//! be counted as latency. So the pacing thread sleeps until shortly before a moment and spins the
//! rest. A moment that has passed is returned at once: a stall delays what follows, and what
//! follows counts its latency from when it should have begun.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

/// How long before a moment the sleep ends and the spinning begins: above what Linux adds to a
/// sleep (50 µs of timer slack and the wake-up of a core).
const SPIN: Duration = Duration::from_micros(120);

/// Moments `1/rate` apart, beginning when it was made.
#[derive(Debug)]
pub(crate) struct Pacer {
    began: Instant,
    rate: NonZeroU32,
}

impl Pacer {
    /// A schedule that begins now.
    pub(crate) fn new(rate: NonZeroU32) -> Self {
        Self { began: Instant::now(), rate }
    }

    /// The moment of number `index`.
    pub(crate) fn moment(&self, index: u64) -> Instant {
        let nanoseconds = u128::from(index) * 1_000_000_000 / u128::from(self.rate.get());
        let nanoseconds = u64::try_from(nanoseconds).expect("a schedule ends within 584 years");
        self.began + Duration::from_nanos(nanoseconds)
    }

    /// Blocks the thread until the moment of number `index`, and returns that moment.
    pub(crate) fn wait(&self, index: u64) -> Instant {
        let moment = self.moment(index);
        let left = moment.saturating_duration_since(Instant::now());
        if left > SPIN {
            std::thread::sleep(left - SPIN);
        }
        while Instant::now() < moment {
            std::hint::spin_loop();
        }
        moment
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_do_not_drift() {
        let pacer = Pacer::new(NonZeroU32::new(3).unwrap());
        assert_eq!(pacer.moment(3) - pacer.moment(0), Duration::from_secs(1));
        assert_eq!(pacer.moment(3_000_000) - pacer.moment(0), Duration::from_secs(1_000_000));
    }

    #[test]
    fn a_moment_is_never_early_and_a_late_one_is_not_moved() {
        let pacer = Pacer::new(NonZeroU32::new(1_000).unwrap());
        let moment = pacer.wait(5);
        assert!(Instant::now() >= moment);
        assert_eq!(pacer.wait(1), pacer.moment(1));
    }
}

//! Pauses between attempts: doubling up to a bound, with jitter of half.

use std::time::Duration;

use crate::partitioner::SplitMix64;

/// No pause is longer, but where the first is.
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// See the module.
#[derive(Debug)]
pub(crate) struct Backoff {
    first: Duration,
    attempts: u32,
    random: SplitMix64,
}

impl Backoff {
    pub(crate) fn new(first: Duration, seed: u64) -> Self {
        Self { first, attempts: 0, random: SplitMix64(seed) }
    }

    pub(crate) fn reset(&mut self) {
        self.attempts = 0;
    }

    pub(crate) fn next_pause(&mut self) -> Duration {
        let whole = (self.first * (1 << self.attempts.min(5))).min(PAUSE_MAX.max(self.first));
        self.attempts = self.attempts.saturating_add(1);
        let half = whole / 2;
        half + half.mul_f64(self.random.below(1024) as f64 / 1024.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_to_half_a_second_and_begin_anew_after_a_success() {
        let mut backoff = Backoff::new(Duration::from_millis(20), 7);
        for expected in [20, 40, 80, 160, 320, 500, 500, 500] {
            let whole = Duration::from_millis(expected);
            let pause = backoff.next_pause();
            assert!(whole / 2 <= pause && pause <= whole, "{pause:?} of {whole:?}");
        }
        backoff.reset();
        assert!(backoff.next_pause() <= Duration::from_millis(20));
    }
}

//! Randomness as an argument: what spreads things in time gets a [`Random`].

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Mutex;
use std::time::Duration;

/// Where random numbers come from. Nothing here needs them to be hard to guess.
pub trait Random: Send + Sync + fmt::Debug + 'static {
    /// The next number, of all 64 bits.
    fn next_u64(&self) -> u64;
}

/// A time from 0 up to, and without, `limit`.
pub(crate) fn below(random: &dyn Random, limit: Duration) -> Duration {
    let limit = u64::try_from(limit.as_micros()).unwrap_or(u64::MAX).max(1);
    Duration::from_micros(random.next_u64() % limit)
}

/// A sequence that its seed determines (SplitMix64).
#[derive(Debug)]
pub struct SeededRandom(Mutex<u64>);

impl SeededRandom {
    /// The sequence of this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(seed))
    }
}

impl Random for SeededRandom {
    fn next_u64(&self) -> u64 {
        let mut state = self.0.lock().expect("nothing panics while it holds the state");
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// A sequence of a seed that the operating system gave.
#[derive(Debug)]
pub struct SystemRandom(SeededRandom);

impl SystemRandom {
    /// A sequence that no other process has.
    #[must_use]
    pub fn new() -> Self {
        // The standard library seeds its hashers from the operating system.
        Self(SeededRandom::new(RandomState::new().hash_one(0_u8)))
    }
}

impl Default for SystemRandom {
    fn default() -> Self {
        Self::new()
    }
}

impl Random for SystemRandom {
    fn next_u64(&self) -> u64 {
        self.0.next_u64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_seeds_give_equal_sequences_within_bounds() {
        let (a, b) = (SeededRandom::new(7), SeededRandom::new(7));
        let limit = Duration::from_millis(20);
        let mut largest = Duration::ZERO;
        for _ in 0..1000 {
            let drawn = below(&a, limit);
            assert_eq!(drawn, below(&b, limit));
            assert!(drawn < limit);
            largest = largest.max(drawn);
        }
        assert!(largest > limit / 2);
    }
}

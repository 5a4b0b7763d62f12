//! Random numbers for salts and the identity: the operating system's, or a simulation's seed.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

/// A source of random numbers (SplitMix64). Not for secrets: a salt only has to differ from the one
/// before it.
#[derive(Debug)]
pub(crate) struct Random {
    state: AtomicU64,
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

impl Random {
    pub(crate) fn new(seed: Option<u64>) -> Self {
        // The keys of a `RandomState` come from the operating system.
        let seed = seed.unwrap_or_else(|| RandomState::new().build_hasher().finish());
        Self { state: AtomicU64::new(seed) }
    }

    /// The next number.
    pub(crate) fn next(&self) -> u64 {
        let mut z = self.state.fetch_add(GOLDEN, Ordering::Relaxed).wrapping_add(GOLDEN);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn salt(&self) -> Salt {
        Salt(self.next())
    }
}

/// Random number of one file. Every checksum in the file starts from it, so bytes that an earlier
/// life left in the same place never validate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Salt(pub(crate) u64);

impl Salt {
    /// What checksums start from.
    #[must_use]
    pub(crate) fn crc_start(self) -> u32 {
        crc32fast::hash(&self.0.to_le_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_numbers() {
        let (a, b) = (Random::new(Some(1)), Random::new(Some(1)));
        assert_eq!(a.next(), b.next());
        assert_ne!(a.next(), a.next());
        assert_ne!(Random::new(None).next(), Random::new(None).next());
    }
}

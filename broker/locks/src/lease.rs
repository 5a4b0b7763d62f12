//! When a lease ends, as its holder counts.
//!
//! The keeper counts a lease from when what the holder sent *came*, the holder from before it *sent* it,
//! and the holder takes a margin off. So the holder's lease ends first, by the margin at least, whatever
//! the network did, as long as the clocks of both run equally fast within a hundredth:
//!
//! ```text
//!  holder   sent ├────────────── lease - margin ──────┤ stops
//!  keeper        ····came ├──────────────────── lease ─────────────────┤ may expire it
//! ```
//! Both clocks only go forward and count the time that a machine is suspended (`CLOCK_BOOTTIME`): a
//! holder that was paused finds its lease over when it looks, without asking anybody.

use crate::ids::LeaseMs;
use crate::time::Monotonic;

/// The part of the margin that does not depend on the lease, in milliseconds: clocks of coarse ticks,
/// and the time from a look at the clock to the act.
pub const MARGIN_MS: u64 = 50;

/// What the holder takes off, in milliseconds: a hundredth of the lease, for clocks of unequal rates,
/// and [`MARGIN_MS`].
#[must_use]
pub fn margin_ms(lease: LeaseMs) -> u64 {
    lease.ms().div_ceil(100) + MARGIN_MS
}

/// When the holder has to stop, if the last keep-alive, or the opening, that was *answered* with
/// success was begun at `before_sent`: read from the holder's clock before anything of it was sent, on
/// the first attempt that may have been the one answered.
///
/// Invariant: not later than the keeper's `came + lease`, less the margin, for any `came >= before_sent`.
#[must_use]
pub fn holder_ends(before_sent: Monotonic, lease: LeaseMs) -> Monotonic {
    before_sent.plus(lease.ms() - margin_ms(lease))
}

/// How often a holder should say that it is alive, in milliseconds: a quarter of its lease, so that it
/// may fail twice and still has a quarter to hear the third answer.
#[must_use]
pub fn keep_alive_ms(lease: LeaseMs) -> u64 {
    lease.ms() / 4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holder_stops_a_hundredth_and_fifty_ms_before_its_lease() {
        let lease = LeaseMs::new(10_000).unwrap();
        assert_eq!(margin_ms(lease), 150);
        assert_eq!(holder_ends(Monotonic(7), lease), Monotonic(9_857));
        let shortest = LeaseMs::new(1_000).unwrap();
        assert_eq!(holder_ends(Monotonic(0), shortest), Monotonic(940));
    }

    #[test]
    fn slow_clock_of_a_holder_is_within_the_margin() {
        for ms in [1_000, 1_001, 12_345, 600_000] {
            let lease = LeaseMs::new(ms).unwrap();
            // The holder's clock runs slower by nearly a hundredth: it stops later than it believes.
            let believed = holder_ends(Monotonic(0), lease).0;
            assert!(believed * 1_010 / 1_000 < lease.ms(), "lease {ms}");
        }
    }
}

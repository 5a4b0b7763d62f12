//! When leases end: one list of slots per moment, moments in a sorted map.
//!
//! A heap would keep an entry for each message settled long before its lease ends: millions at 80,000
//! a second. Here a settled message leaves its list in O(1), and the map has one item per tick in use:
//! at most 940 for leases of 30 s.
//!
//! Invariant: no lease ends before its time, and none more than a tick after it, as long as the
//! machine is asked. A machine that was not asked for longer than [`STALL_MS`] gives the time back.

use std::collections::BTreeMap;

use super::slots::{Link, List, Slots};
use crate::time::Monotonic;

/// Milliseconds of a tick.
const TICK_MS: u64 = 32;

/// A leader that comes so much too late was stalled itself; who holds a lease is not to blame.
const STALL_MS: u64 = 1_000;

/// The leases of a queue.
#[derive(Debug, Default)]
pub(super) struct Leases {
    ends: BTreeMap<u64, List>,
    /// Time given back after stalls.
    given_back_ms: u64,
}

impl Leases {
    /// Begins a lease that ends at `end`.
    pub(super) fn begin(&mut self, slots: &mut Slots, index: u32, end: Monotonic) {
        let tick = end.0.saturating_sub(self.given_back_ms).div_ceil(TICK_MS);
        slots[index].lease_tick = tick;
        let list = self.ends.entry(tick).or_insert(List::EMPTY);
        slots.push_back(list, Link::Lease, index);
    }

    /// Ends a lease before its time.
    pub(super) fn cancel(&mut self, slots: &mut Slots, index: u32) {
        let tick = slots[index].lease_tick;
        let list = self.ends.get_mut(&tick).expect("a lease is in the list of its end");
        slots.unlink(list, Link::Lease, index);
        if *list == List::EMPTY {
            self.ends.remove(&tick);
        }
    }

    /// When the lease of this slot ends.
    pub(super) fn end(&self, slots: &Slots, index: u32) -> Monotonic {
        self.moment(slots[index].lease_tick)
    }

    /// When the first lease ends.
    pub(super) fn first_end(&self) -> Option<Monotonic> {
        self.ends.keys().next().map(|&tick| self.moment(tick))
    }

    /// Gives back the time that the leader was stalled, and [`STALL_MS`] to hear what was said meanwhile.
    pub(super) fn notice_stall(&mut self, now: Monotonic) {
        if let Some(end) = self.first_end() {
            let late = now.0.saturating_sub(end.0);
            if late > STALL_MS {
                self.given_back_ms += late + STALL_MS;
            }
        }
    }

    /// A lease that is over, which the caller must [`Leases::cancel`].
    pub(super) fn first_over(&self, now: Monotonic) -> Option<u32> {
        let (&tick, list) = self.ends.iter().next()?;
        (self.moment(tick) <= now).then_some(list.head)
    }

    fn moment(&self, tick: u64) -> Monotonic {
        Monotonic(tick.saturating_mul(TICK_MS).saturating_add(self.given_back_ms))
    }
}

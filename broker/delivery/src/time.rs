//! The two kinds of time that a queue is told: it never asks for either.

/// Milliseconds of a clock that only goes forward, also while the machine is suspended
/// (`CLOCK_BOOTTIME`), from any beginning. Leases are counted in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Monotonic(pub u64);

/// Milliseconds since 1970 (UTC). Delays and lives of messages are in it: they are written into
/// records and control entries, and another node must read the same from them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct UnixMs(pub i64);

/// Both, read at the same moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Now {
    /// What leases are counted in.
    pub monotonic: Monotonic,
    /// What delays and lives are counted in.
    pub unix: UnixMs,
}

impl Monotonic {
    /// So many milliseconds later.
    #[must_use]
    pub fn plus(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }
}

impl UnixMs {
    /// So many milliseconds later.
    #[must_use]
    pub fn plus(self, ms: u64) -> Self {
        Self(self.0.saturating_add_unsigned(ms))
    }

    /// How long until `self`, from `now`; 0 when it is past.
    #[must_use]
    pub fn ms_from(self, now: Self) -> u64 {
        u64::try_from(self.0.saturating_sub(now.0)).unwrap_or(0)
    }
}

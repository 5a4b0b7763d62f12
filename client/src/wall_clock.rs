//! What time it is, as records tell it that say nothing else.

use std::time::{SystemTime, UNIX_EPOCH};

/// Tells the time of day. [`crate::ClientConfig::wall_clock`] takes one, for simulations.
pub trait WallClock: std::fmt::Debug + Send + Sync {
    /// Milliseconds since 1970 (UTC).
    fn unix_ms(&self) -> i64;
}

/// The system's.
pub(crate) fn unix_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

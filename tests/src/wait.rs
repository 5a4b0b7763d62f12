//! Waiting for a condition, never for a time.

use std::time::{Duration, Instant};

/// Longest wait for something that happens within milliseconds on an idle machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Waits until `look` finds what it looks for, and returns it.
///
/// # Panics
/// When it has not found it within [`PATIENCE`].
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let began = Instant::now();
    let mut pauses = tokio::time::interval(LOOK_EVERY);
    loop {
        pauses.tick().await;
        if let Some(found) = look().await {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain: {what}");
    }
}

/// The outcome of something that must not hang.
///
/// # Panics
/// When it has no outcome within [`PATIENCE`].
pub async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(outcome) => outcome,
        Err(_) => panic!("no outcome within {PATIENCE:?}: {what}"),
    }
}

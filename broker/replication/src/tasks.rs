//! Tasks that a host cannot do without.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt as _;

/// Between a panic and the next beginning.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Runs a task beside everything else. Should it panic, that is told and it begins anew: without it
/// the node would look healthy and never learn what it is there to learn.
pub(crate) fn keep_running<F>(what: &'static str, begin: impl Fn() -> F + Send + 'static)
where
    F: Future<Output = ()> + Send + 'static,
{
    tokio::spawn(async move {
        while AssertUnwindSafe(begin()).catch_unwind().await.is_err() {
            tracing::error!(what, "a task panicked, which is a bug; it begins anew");
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    });
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_begins_anew_and_one_that_is_done_does_not() {
        static BEGUN: AtomicUsize = AtomicUsize::new(0);
        let (tell, mut told) = mpsc::unbounded_channel();
        keep_running("a test", move || {
            let tell = tell.clone();
            async move {
                let begun = BEGUN.fetch_add(1, Ordering::Relaxed);
                assert!(begun > 1, "as the test wants");
                tell.send(begun).unwrap();
            }
        });
        assert_eq!(told.recv().await, Some(2));
        assert_eq!(told.recv().await, None, "the task and what it held are gone");
    }
}

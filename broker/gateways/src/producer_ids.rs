//! Producer ids that nobody had before, from blocks that the catalog gives out.

use std::ops::Range;

use plimsoll_protocol::error::ErrorResponse;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::refusals;

/// What is left of the last block. One asks for the next; those who wait for it meanwhile share a
/// failure, so that a thousand producers that begin while the catalog has no leader are told so after
/// one attempt, not after one each.
#[derive(Debug, Default)]
pub(crate) struct ProducerIds(Mutex<Left>);

#[derive(Debug, Default)]
struct Left {
    ids: Range<u64>,
    /// When the last attempt to get a block failed, and why.
    failed: Option<(Instant, ErrorResponse)>,
}

impl ProducerIds {
    /// The next id; `block` gets more where none is left.
    ///
    /// # Errors
    /// Those of `block`.
    pub(crate) async fn next(
        &self,
        block: impl Future<Output = Result<Range<u64>, ErrorResponse>>,
    ) -> Result<u64, ErrorResponse> {
        let asked = Instant::now();
        let mut left = self.0.lock().await;
        if left.ids.is_empty() {
            if let Some((at, error)) = &left.failed
                && *at > asked
            {
                return Err(error.clone());
            }
            match block.await {
                Ok(ids) => left.ids = ids,
                Err(error) => {
                    left.failed = Some((Instant::now(), error.clone()));
                    return Err(error);
                }
            }
        }
        left.ids.next().ok_or_else(|| refusals::bug("an empty block of producer ids"))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use futures_util::future::join_all;
    use plimsoll_protocol::error::ErrorCode;
    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn those_who_wait_for_a_block_share_its_failure_and_the_next_who_comes_tries_again() {
        let (ids, attempts) = (ProducerIds::default(), AtomicUsize::new(0));
        let failing = || async {
            attempts.fetch_add(1, Ordering::Relaxed);
            sleep(Duration::from_secs(10)).await;
            Err(ErrorResponse::new(ErrorCode::NoQuorum, "nobody"))
        };
        let told = join_all((0..100).map(|_| ids.next(failing()))).await;
        assert!(told.iter().all(Result::is_err));
        assert_eq!(attempts.load(Ordering::Relaxed), 1);
        assert_eq!(ids.next(async { Ok(7..9) }).await, Ok(7));
        assert_eq!(ids.next(failing()).await, Ok(8));
        assert!(ids.next(failing()).await.is_err());
        assert_eq!(attempts.load(Ordering::Relaxed), 2);
    }
}

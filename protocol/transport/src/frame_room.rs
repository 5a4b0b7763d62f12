//! Room for frames that have begun and are not complete: what peers may make a node keep by
//! announcing a large frame and sending it slowly, or not to its end.
//!
//! A large frame takes room for all of its bytes before more than its begin is read, so that a frame
//! that has room can always be completed; frames without room wait, and flow control makes their
//! peers wait. Room is given back when the frame is done with. While somebody waits for room of the
//! node, a frame that has it must get on: that is what [`FrameRoom::new`]'s `stall_timeout` is for.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

/// While others wait, a frame must get on by this many bytes within the stall timeout.
const PROGRESS_BYTES_MIN: usize = 64 << 10;

/// What unfinished frames of all connections of a node may take together.
#[derive(Debug)]
pub struct FrameRoom {
    bytes: Arc<Semaphore>,
    bytes_max: usize,
    waiting: AtomicUsize,
    stall_timeout: Duration,
}

/// A connection's share of a node's [`FrameRoom`]; clones share it.
#[derive(Clone, Debug)]
pub struct ConnectionFrameRoom {
    node: Arc<FrameRoom>,
    own: Arc<Semaphore>,
    own_bytes_max: usize,
}

/// Room that one frame has; given back when dropped.
#[derive(Debug)]
pub struct HeldRoom {
    // In this order: who waits for both waits for the connection's first.
    _node: OwnedSemaphorePermit,
    _own: OwnedSemaphorePermit,
    progress: Progress,
}

/// How far a frame was when it was last looked at, and when it is looked at next.
#[derive(Debug)]
struct Progress {
    received_bytes: usize,
    look_at: Instant,
}

/// The frame did not get on while others waited for its room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stalled;

impl FrameRoom {
    /// Room for `bytes_max` bytes, at least 1. While somebody waits for it, a frame that has got on
    /// by less than 64 KiB within `stall_timeout` ends its connection.
    #[must_use]
    pub fn new(bytes_max: usize, stall_timeout: Duration) -> Arc<FrameRoom> {
        let bytes_max = clamp(bytes_max);
        Arc::new(FrameRoom {
            bytes: Arc::new(Semaphore::new(bytes_max)),
            bytes_max,
            waiting: AtomicUsize::new(0),
            stall_timeout,
        })
    }

    /// The share of one connection, `bytes_max` at most. A frame larger than either limit takes all
    /// there is.
    #[must_use]
    pub fn connection(self: &Arc<Self>, bytes_max: usize) -> ConnectionFrameRoom {
        let own_bytes_max = clamp(bytes_max);
        let own = Arc::new(Semaphore::new(own_bytes_max));
        ConnectionFrameRoom { node: Arc::clone(self), own, own_bytes_max }
    }

    /// Bytes that are taken.
    #[must_use]
    pub fn taken_bytes(&self) -> usize {
        self.bytes_max - self.bytes.available_permits()
    }

    /// Frames that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }
}

fn clamp(bytes_max: usize) -> usize {
    bytes_max.clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize))
}

async fn acquire(
    semaphore: &Arc<Semaphore>,
    bytes: usize,
    bytes_max: usize,
) -> OwnedSemaphorePermit {
    let bytes = u32::try_from(bytes.min(bytes_max)).expect("limits fit 32 bits");
    let permit = Arc::clone(semaphore).acquire_many_owned(bytes).await;
    permit.expect("these semaphores are never closed")
}

/// One of [`FrameRoom::waiting`] for as long as it lives.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl ConnectionFrameRoom {
    /// Waits for room for a frame of `total_bytes`, of which `received_bytes` are here. May be
    /// cancelled.
    pub(crate) async fn take(&self, total_bytes: usize, received_bytes: usize) -> HeldRoom {
        // The own limit first: whoever waits for it must not hold a share of the node's.
        let own = acquire(&self.own, total_bytes, self.own_bytes_max).await;
        let node = {
            let _waiting = Waiting::new(&self.node.waiting);
            acquire(&self.node.bytes, total_bytes, self.node.bytes_max).await
        };
        let look_at = Instant::now() + self.node.stall_timeout;
        HeldRoom { _node: node, _own: own, progress: Progress { received_bytes, look_at } }
    }

    /// Reads on for a frame that has room, of which `received_bytes` are here. May be cancelled
    /// where `read` may.
    pub(crate) async fn watch<T>(
        &self,
        held: &mut HeldRoom,
        received_bytes: usize,
        read: impl Future<Output = T>,
    ) -> Result<T, Stalled> {
        let mut read = pin!(read);
        loop {
            // A read that is ready comes before the time that is up.
            if let Ok(outcome) = timeout_at(held.progress.look_at, read.as_mut()).await {
                return Ok(outcome);
            }
            let got_on_by = received_bytes - held.progress.received_bytes;
            if got_on_by < PROGRESS_BYTES_MIN && self.node.waiting() > 0 {
                return Err(Stalled);
            }
            let look_at = Instant::now() + self.node.stall_timeout;
            held.progress = Progress { received_bytes, look_at };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    const STALL: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn a_frame_waits_for_its_connection_first_and_holds_nothing_of_the_node_meanwhile() {
        let room = FrameRoom::new(100, STALL);
        let (first, second) = (room.connection(60), room.connection(60));
        let held = first.take(50, 0).await;
        let mut more = Box::pin(first.take(20, 0));
        assert!(tokio::time::timeout(STALL, &mut more).await.is_err(), "its connection is full");
        assert_eq!((room.taken_bytes(), room.waiting()), (50, 0));
        let other = second.take(50, 0).await;
        assert_eq!(room.taken_bytes(), 100);
        drop(held);
        let more = more.await;
        drop((other, more));
        assert_eq!(room.taken_bytes(), 0);
        let all = second.take(1 << 30, 0).await;
        assert_eq!(room.taken_bytes(), 100, "a frame above the limit takes all there is");
        drop(all);
    }

    #[tokio::test(start_paused = true)]
    async fn a_frame_that_stalls_is_given_up_only_while_others_wait() {
        let room = FrameRoom::new(100, STALL);
        let (slow, other) = (room.connection(100), room.connection(100));
        let mut held = slow.take(100, 0).await;
        let mut stalled = Box::pin(slow.watch(&mut held, 10, pending::<()>()));
        assert!(tokio::time::timeout(STALL * 100, &mut stalled).await.is_err(), "nobody waits");
        let waiting = tokio::spawn(async move { other.take(1, 0).await });
        assert_eq!(stalled.await, Err(Stalled));
        drop(held);
        waiting.await.expect("its room is free now");
    }

    #[tokio::test(start_paused = true)]
    async fn a_frame_that_gets_on_is_not_given_up_and_one_that_trickles_is() {
        let room = FrameRoom::new(1 << 20, STALL);
        let (slow, other) = (room.connection(1 << 20), room.connection(1 << 20));
        let mut held = slow.take(1 << 20, 0).await;
        let waiting = tokio::spawn(async move { other.take(1, 0).await });
        tokio::task::yield_now().await;
        assert_eq!(room.waiting(), 1);
        let mut received = 0;
        let pause = || tokio::time::sleep(STALL - Duration::from_millis(1));
        for _ in 0..10 {
            slow.watch(&mut held, received, pause()).await.expect("it gets on");
            received += PROGRESS_BYTES_MIN;
        }
        let mut trickled = 0;
        while slow.watch(&mut held, received, pause()).await.is_ok() {
            received += 1;
            trickled += 1;
            assert!(trickled < 5, "a byte now and then is no progress");
        }
        assert_eq!(slow.watch(&mut held, received, ready(())).await, Ok(()), "what is here counts");
        drop(held);
        waiting.await.expect("its room is free now");
    }
}

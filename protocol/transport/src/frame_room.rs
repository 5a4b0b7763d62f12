//! Room for frames that have begun and are not complete: what peers may make a node keep by
//! announcing a large frame and sending it slowly, or not to its end.
//!
//! A large frame takes room for all of its bytes before more than its begin is read, so that a frame
//! that has room can always be completed; frames without room wait, and flow control makes their
//! peers wait. Room is given back when the frame is done with. While somebody waits for room that a
//! connection has, the connection must get on: that is what [`FrameRoom::new`]'s `stall_timeout` is
//! for. It is measured per connection, because frames on many streams share one peer's link. What a
//! peer can hold so is bounded: its frames come to their end at the pace that is asked of it, and
//! for further ones it stands behind those who wait.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

/// While somebody waits, a connection must get on by this many bytes within the stall timeout.
const PROGRESS_BYTES_MIN: usize = 64 << 10;
/// While other connections may be among those who wait, also by this part of what it holds.
const PROGRESS_PART: usize = 16;

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
    share: Arc<Share>,
}

#[derive(Debug)]
struct Share {
    node: Arc<FrameRoom>,
    own: Arc<Semaphore>,
    own_bytes_max: usize,
    /// Frames that wait for `own`.
    waiting: AtomicUsize,
    progress: Mutex<Progress>,
}

/// How a connection got on since it was last looked at, and when it is looked at next.
#[derive(Debug)]
struct Progress {
    /// Of frames that have room and are not complete.
    unfinished_bytes: usize,
    /// The least that `unfinished_bytes` was: what came later had less time.
    least_unfinished_bytes: usize,
    got_on_by_bytes: usize,
    look_at: Instant,
}

/// Room that one frame has; given back when dropped.
#[derive(Debug)]
pub struct HeldRoom {
    // In this order: who waits for both waits for the connection's first.
    _node: OwnedSemaphorePermit,
    _own: OwnedSemaphorePermit,
    share: Arc<Share>,
    total_bytes: usize,
    /// What the connection's progress knows of; `None` once the frame is complete.
    counted_bytes: Option<usize>,
}

/// The peer did not get on while others waited for the room that it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stalled;

impl FrameRoom {
    /// Room for `bytes_max` bytes, at least 1. While somebody waits for room that a connection has,
    /// the connection ends if it has got on by less than 64 KiB within `stall_timeout`, or, while
    /// frames wait for room of the node, by less than a sixteenth of what it has.
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
        ConnectionFrameRoom {
            share: Arc::new(Share {
                node: Arc::clone(self),
                own: Arc::new(Semaphore::new(own_bytes_max)),
                own_bytes_max,
                waiting: AtomicUsize::new(0),
                progress: Mutex::new(Progress {
                    unfinished_bytes: 0,
                    least_unfinished_bytes: 0,
                    got_on_by_bytes: 0,
                    look_at: Instant::now(),
                }),
            }),
        }
    }

    /// Bytes that are taken.
    #[must_use]
    pub fn taken_bytes(&self) -> usize {
        self.bytes_max - self.bytes.available_permits()
    }

    /// Frames that wait for room of the node; those that wait for their connection's are not among
    /// them.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }
}

fn clamp(bytes_max: usize) -> usize {
    bytes_max.clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize))
}

/// Takes `bytes`, as one of `waiting` only if they are not there at once.
async fn acquire(
    semaphore: &Arc<Semaphore>,
    bytes: usize,
    bytes_max: usize,
    waiting: &AtomicUsize,
) -> OwnedSemaphorePermit {
    let bytes = u32::try_from(bytes.min(bytes_max)).expect("limits fit 32 bits");
    // Finds nothing while others wait: what becomes free is theirs.
    if let Ok(permit) = Arc::clone(semaphore).try_acquire_many_owned(bytes) {
        return permit;
    }
    let _waiting = Waiting::new(waiting);
    let permit = Arc::clone(semaphore).acquire_many_owned(bytes).await;
    permit.expect("these semaphores are never closed")
}

/// One of those who wait for as long as it lives.
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
        let Share { node, own, own_bytes_max, waiting, .. } = &*self.share;
        // The own limit first: whoever waits for it must not hold a share of the node's.
        let own = acquire(own, total_bytes, *own_bytes_max, waiting).await;
        let of_node = acquire(&node.bytes, total_bytes, node.bytes_max, &node.waiting).await;
        self.share.progress().begin(total_bytes, Instant::now() + node.stall_timeout);
        HeldRoom {
            _node: of_node,
            _own: own,
            share: Arc::clone(&self.share),
            total_bytes,
            counted_bytes: Some(received_bytes),
        }
    }
}

impl Share {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().expect("no code panics while it holds this lock")
    }

    /// What the connection must get on by in the time that is over.
    fn wanted_bytes(&self, held_bytes: usize) -> usize {
        if self.node.waiting() > 0 {
            PROGRESS_BYTES_MIN.max(held_bytes / PROGRESS_PART)
        } else if self.waiting.load(Ordering::Relaxed) > 0 {
            // Nobody else suffers. But what waits unread may be all that flow control allows, and
            // then nothing would ever come of the frames that have room.
            PROGRESS_BYTES_MIN
        } else {
            0
        }
    }

    /// Judges the time that is over, if it is; gives when to look again.
    fn look(&self, now: Instant) -> Result<Instant, Stalled> {
        let mut progress = self.progress();
        if now >= progress.look_at {
            if progress.got_on_by_bytes < self.wanted_bytes(progress.least_unfinished_bytes) {
                return Err(Stalled);
            }
            progress.begin_anew(now + self.node.stall_timeout);
        }
        Ok(progress.look_at)
    }
}

impl Progress {
    fn begin_anew(&mut self, look_at: Instant) {
        self.least_unfinished_bytes = self.unfinished_bytes;
        self.got_on_by_bytes = 0;
        self.look_at = look_at;
    }

    /// A frame has room from now on. `look_at` is for the first one.
    fn begin(&mut self, total_bytes: usize, look_at: Instant) {
        let is_first = self.unfinished_bytes == 0;
        self.unfinished_bytes += total_bytes;
        if is_first {
            self.begin_anew(look_at);
        }
    }

    fn end(&mut self, total_bytes: usize) {
        self.unfinished_bytes -= total_bytes;
        self.least_unfinished_bytes = self.least_unfinished_bytes.min(self.unfinished_bytes);
    }
}

impl HeldRoom {
    /// Reads on for a frame that has room, of which `received_bytes` are here. May be cancelled
    /// where `read` may.
    pub(crate) async fn watch<T>(
        &mut self,
        received_bytes: usize,
        read: impl Future<Output = T>,
    ) -> Result<T, Stalled> {
        let mut look_at = {
            let counted = self.counted_bytes.replace(received_bytes).unwrap_or(received_bytes);
            let mut progress = self.share.progress();
            progress.got_on_by_bytes += received_bytes - counted;
            progress.look_at
        };
        let mut read = pin!(read);
        loop {
            // A read that is ready comes before the time that is up.
            if let Ok(outcome) = timeout_at(look_at, read.as_mut()).await {
                return Ok(outcome);
            }
            look_at = self.share.look(Instant::now())?;
        }
    }

    /// The frame is complete: its peer has no more to send of it.
    pub(crate) fn complete(&mut self) {
        if let Some(counted) = self.counted_bytes.take() {
            let mut progress = self.share.progress();
            progress.got_on_by_bytes += self.total_bytes - counted;
            progress.end(self.total_bytes);
        }
    }

    /// Keeps the room of a complete frame while `work` goes on. To be used where `work` may wait for
    /// the peer: it is given up after the stall timeout if others wait for room of the node by then
    /// and `waits_for_peer` says that it is the peer who lets them wait. May be cancelled where
    /// `work` may.
    ///
    /// # Errors
    /// [`Stalled`] where it was given up: the connection is to be ended.
    pub async fn keep_while<T>(
        &self,
        work: impl Future<Output = T>,
        waits_for_peer: impl Fn() -> bool,
    ) -> Result<T, Stalled> {
        let mut work = pin!(work);
        loop {
            if let Ok(done) = timeout(self.share.node.stall_timeout, work.as_mut()).await {
                return Ok(done);
            }
            if self.share.node.waiting() > 0 && waits_for_peer() {
                return Err(Stalled);
            }
        }
    }
}

impl Drop for HeldRoom {
    fn drop(&mut self) {
        // One that was never completed was no progress, but is not waited for any more either.
        if self.counted_bytes.is_some() {
            self.share.progress().end(self.total_bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio::time::sleep;

    use super::*;

    const STALL: Duration = Duration::from_secs(10);
    const MIB: usize = 1 << 20;

    #[tokio::test(start_paused = true)]
    async fn a_frame_waits_for_its_connection_first_and_holds_nothing_of_the_node_meanwhile() {
        let room = FrameRoom::new(100, STALL);
        let (first, second) = (room.connection(60), room.connection(60));
        let held = first.take(50, 0).await;
        let mut more = Box::pin(first.take(20, 0));
        assert!(timeout(STALL, &mut more).await.is_err(), "its connection is full");
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
        let mut stalled = Box::pin(held.watch(10, pending::<()>()));
        assert!(timeout(STALL * 100, &mut stalled).await.is_err(), "nobody waits");
        let waiting = tokio::spawn(async move { other.take(1, 0).await });
        assert_eq!(stalled.await, Err(Stalled));
        drop(held);
        waiting.await.expect("its room is free now");
    }

    /// A connection whose unread bytes were all of its window once waited for itself for ever.
    #[tokio::test(start_paused = true)]
    async fn a_connection_that_waits_for_its_own_room_and_gets_on_with_nothing_is_given_up() {
        let room = FrameRoom::new(1000, STALL);
        let own = room.connection(100);
        let mut held = own.take(60, 0).await;
        let waits = own.clone();
        let _waiting = tokio::spawn(async move { waits.take(60, 0).await });
        tokio::task::yield_now().await;
        assert_eq!(room.waiting(), 0, "there is room of the node");
        assert_eq!(held.watch(10, pending::<()>()).await, Err(Stalled));
    }

    #[tokio::test(start_paused = true)]
    async fn a_frame_that_gets_on_is_not_given_up_and_one_that_trickles_is() {
        let room = FrameRoom::new(MIB, STALL);
        let (slow, other) = (room.connection(MIB), room.connection(MIB));
        let mut held = slow.take(MIB, 0).await;
        let waiting = tokio::spawn(async move { other.take(1, 0).await });
        tokio::task::yield_now().await;
        assert_eq!(room.waiting(), 1);
        let mut received = 0;
        let pause = || sleep(STALL - Duration::from_millis(1));
        for _ in 0..10 {
            held.watch(received, pause()).await.expect("it gets on");
            received += PROGRESS_BYTES_MIN;
        }
        let mut trickled = 0;
        while held.watch(received, pause()).await.is_ok() {
            received += 1;
            trickled += 1;
            assert!(trickled < 5, "a byte now and then is no progress");
        }
        assert_eq!(held.watch(received, ready(())).await, Ok(()), "what is here counts");
        drop(held);
        waiting.await.expect("its room is free now");
    }

    /// 64 KiB in the time once were enough, so that 32 MiB could be kept for 43 minutes.
    #[tokio::test(start_paused = true)]
    async fn who_holds_much_must_get_on_in_proportion_while_others_wait() {
        let room = FrameRoom::new(32 * MIB, STALL);
        let (slow, other) = (room.connection(32 * MIB), room.connection(32 * MIB));
        let mut held = slow.take(32 * MIB, 0).await;
        let waiting = tokio::spawn(async move { other.take(1, 0).await });
        tokio::task::yield_now().await;
        let begun = Instant::now();
        let mut received = 0;
        while received < 32 * MIB && held.watch(received, sleep(STALL)).await.is_ok() {
            received += 2 * MIB;
        }
        assert_eq!(received, 32 * MIB, "a sixteenth in the time is enough");
        assert!(begun.elapsed() <= STALL * 17);
        held.complete();
        drop(held);
        waiting.await.expect("its room is free now");

        let trickling = room.connection(32 * MIB);
        let mut held = trickling.take(32 * MIB, 0).await;
        let waiting = tokio::spawn(async move { slow.take(1, 0).await });
        tokio::task::yield_now().await;
        let mut received = 0;
        while held.watch(received, sleep(STALL)).await.is_ok() {
            received += PROGRESS_BYTES_MIN;
            assert!(received < 5 * PROGRESS_BYTES_MIN, "that would take 85 minutes");
        }
        drop(held);
        waiting.await.expect("its room is free now");
    }

    /// A slow link was once asked for 64 KiB on each of its streams.
    #[tokio::test(start_paused = true)]
    async fn frames_of_one_connection_share_what_is_asked_of_it() {
        let room = FrameRoom::new(4 * MIB, STALL);
        let (slow, other) = (room.connection(4 * MIB), room.connection(4 * MIB));
        let (mut quiet, mut busy) = (slow.take(MIB, 0).await, slow.take(3 * MIB, 0).await);
        let waiting = tokio::spawn(async move { other.take(1, 0).await });
        tokio::task::yield_now().await;
        let mut nothing_comes = Box::pin(quiet.watch(0, pending::<()>()));
        let mut received = 0;
        while received < 3 * MIB {
            let reading = busy.watch(received, sleep(STALL / 2));
            tokio::select! {
                outcome = reading => outcome.expect("its connection gets on"),
                outcome = &mut nothing_comes => panic!("given up: {outcome:?}"),
            }
            received += 256 << 10;
        }
        busy.complete();
        drop(busy);
        waiting.await.expect("its room is free now");
        let second = room.connection(4 * MIB);
        let _waiting = tokio::spawn(async move { second.take(4 * MIB, 0).await });
        assert_eq!(nothing_comes.await, Err(Stalled), "now nothing comes of the connection");
    }

    #[tokio::test(start_paused = true)]
    async fn frames_that_came_late_in_the_time_are_not_held_against_their_connection() {
        let room = FrameRoom::new(32 * MIB, STALL);
        let (own, other) = (room.connection(32 * MIB), room.connection(32 * MIB));
        let mut small = own.take(100, 0).await;
        small.watch(50, sleep(STALL - Duration::from_millis(1))).await.expect("nobody waits");
        let mut large = own.take(31 * MIB, 0).await;
        small.complete();
        drop(small);
        let waiting = tokio::spawn(async move { other.take(2 * MIB, 0).await });
        tokio::task::yield_now().await;
        large
            .watch(PROGRESS_BYTES_MIN, sleep(Duration::from_millis(2)))
            .await
            .expect("it just came");
        drop(large);
        waiting.await.expect("its room is free now");
    }

    #[tokio::test(start_paused = true)]
    async fn a_complete_frame_is_kept_as_long_as_its_peer_lets_nobody_wait() {
        let room = FrameRoom::new(100, STALL);
        let (own, other) = (room.connection(100), room.connection(100));
        let mut held = own.take(100, 0).await;
        held.complete();
        let kept = timeout(STALL * 100, held.keep_while(pending::<()>(), || true)).await;
        assert!(kept.is_err(), "nobody waits");
        let waiting = tokio::spawn(async move { other.take(1, 0).await });
        tokio::task::yield_now().await;
        let kept = timeout(STALL * 100, held.keep_while(pending::<()>(), || false)).await;
        assert!(kept.is_err(), "it is not the peer who lets them wait");
        assert_eq!(held.keep_while(sleep(STALL / 2), || true).await, Ok(()));
        assert_eq!(held.keep_while(pending::<()>(), || true).await, Err(Stalled));
        drop(held);
        waiting.await.expect("its room is free now");
    }
}

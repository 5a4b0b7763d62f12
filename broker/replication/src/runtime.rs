//! The async runtime as openraft sees it: tokio's, but a sleep shorter than a timer tick is none.
//!
//! openraft spaces the news of completed writes by sleeping until 1 us after the last one. tokio
//! rounds a sleep up to its millisecond tick, so two completions in quick succession would make the
//! second one, and every producer that waits for it, a millisecond late. Everything else is tokio's.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use openraft::OptionalSend;
use openraft::rt::AsyncRuntime;
use openraft_rt_tokio::TokioRuntime;

/// Sleeps shorter than this end at once. Nothing of openraft's timing is meant so finely.
const SHORTEST_SLEEP: Duration = Duration::from_micros(100);

/// tokio's runtime; see the module.
#[derive(Debug)]
pub struct Runtime(TokioRuntime);

/// A sleep, or none.
#[derive(Debug)]
pub struct Sleep(Option<Pin<Box<tokio::time::Sleep>>>);

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().map_or(Poll::Ready(()), |sleep| sleep.as_mut().poll(cx))
    }
}

type Instant = <TokioRuntime as AsyncRuntime>::Instant;

impl AsyncRuntime for Runtime {
    type JoinError = <TokioRuntime as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::JoinHandle<T>;
    type Sleep = Sleep;
    type Instant = Instant;
    type TimeoutError = <TokioRuntime as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> =
        <TokioRuntime as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = <TokioRuntime as AsyncRuntime>::ThreadLocalRng;
    type Mpsc = <TokioRuntime as AsyncRuntime>::Mpsc;
    type Watch = <TokioRuntime as AsyncRuntime>::Watch;
    type Oneshot = <TokioRuntime as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        TokioRuntime::spawn(future)
    }

    fn sleep(duration: Duration) -> Sleep {
        let is_long = duration >= SHORTEST_SLEEP;
        Sleep(is_long.then(|| Box::pin(TokioRuntime::sleep(duration))))
    }

    fn sleep_until(deadline: Instant) -> Sleep {
        let now = <Instant as openraft::Instant>::now();
        let is_long = deadline >= now + SHORTEST_SLEEP;
        Sleep(is_long.then(|| Box::pin(TokioRuntime::sleep_until(deadline))))
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        TokioRuntime::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        TokioRuntime::is_panic(join_error)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        TokioRuntime::thread_rng()
    }

    fn new(threads: usize) -> Self {
        Self(TokioRuntime::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The one sleep on openraft's commit path must not reach tokio's timer: with time standing
    /// still it would never end by itself.
    #[tokio::test(start_paused = true)]
    async fn sleep_shorter_than_a_tick_takes_no_time() {
        let before = tokio::time::Instant::now();
        let now = <Instant as openraft::Instant>::now();
        Runtime::sleep_until(now + Duration::from_micros(1)).await;
        Runtime::sleep_until(now).await;
        assert_eq!(tokio::time::Instant::now(), before);
        Runtime::sleep_until(now + Duration::from_millis(5)).await;
        assert!(tokio::time::Instant::now() >= before + Duration::from_millis(5));
    }
}

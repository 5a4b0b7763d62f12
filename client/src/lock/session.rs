//! The session of a client in a namespace: opened at first use, kept alive, and ended with its last handle. It
//! is no connection: it lives on over any number of them, and ends by the clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use plimsoll_protocol::api::{
    CancelLockRequest, CloseLockSessionRequest, KeepLockSessionRequest, OpenLockSessionRequest,
    ReleaseLockRequest,
};
use plimsoll_protocol::error::ErrorCode;
use plimsoll_protocol::ids::TopicName;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{sleep, timeout};

use super::ask::Ask;
use super::clock::{LeaseClock, LeaseTime};
use super::error::{About, LockError, LossCause};
use super::lease::Lease;
use crate::client::Shared;
use crate::error::RequestError;
use crate::metadata::Interest;
use crate::pulse::Owed;

/// Timers do not count the time of a suspended machine: whoever waits for the lease's end looks at its clock as
/// often as this.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often a session says that it is alive, in parts of its lease.
const KEEPS_PER_LEASE: u32 = 3;
/// Between keep-alives that were refused for a reason that time may cure.
const REFUSED_PAUSE: Duration = Duration::from_millis(500);

/// Where a namespace is, and what it takes to ask there.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) shared: Arc<Shared>,
    pub(super) clock: Arc<dyn LeaseClock>,
    pub(super) namespace: String,
    pub(super) topic: TopicName,
}

/// A session. Ends with its last handle: what it holds is given up then.
pub(super) struct Session {
    pub(super) core: Arc<Core>,
    keeping: AbortHandle,
}

/// What the tasks of a session share. It does not keep the session open.
pub(super) struct Core {
    pub(super) place: Place,
    pub(super) id: u128,
    lease: watch::Sender<Lease>,
    lease_length: Duration,
    requests: AtomicU64,
    /// Where its last words are said from, whatever thread drops it.
    runtime: Handle,
    /// Keeps the leader of the namespace known.
    _interest: Arc<Interest>,
}

impl Session {
    /// Opens a session that may be silent for `lease_ms`.
    ///
    /// # Errors
    /// When the node refuses it, or nobody answers for as long as a request may take.
    pub(super) async fn open(
        place: Place,
        lease_ms: u32,
        label: String,
    ) -> Result<Arc<Self>, LockError> {
        let interest = place.shared.take_interest(&place.topic).await;
        let id = place.shared.unique();
        let mut ask = Ask::new(&place);
        let request = || OpenLockSessionRequest {
            namespace: place.namespace.clone(),
            session: id,
            lease_ms,
            label: label.clone(),
        };
        let after = place.shared.config().request_timeout;
        let opening = timeout(after, ask.until_answered(request, Owed::Answer)).await;
        let opened = opening.unwrap_or(Err(RequestError::Timeout { after }));
        let about = About { namespace: &place.namespace, lock: "", token: 0 };
        let opened = opened.map_err(|error| LockError::of(error, about))?;
        let lease_length = Duration::from_millis(opened.answer.lease_ms.into());
        let core = Arc::new(Core {
            lease: watch::Sender::new(Lease::begin(opened.sent, lease_length)),
            lease_length,
            place,
            id,
            requests: AtomicU64::new(0),
            runtime: Handle::current(),
            _interest: interest,
        });
        let keeping = tokio::spawn(Arc::clone(&core).keep(opened.sent)).abort_handle();
        Ok(Arc::new(Self { core, keeping }))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.keeping.abort();
        if self.core.end(LossCause::Closed) {
            // Best effort: the lease ends by itself.
            self.core.runtime.spawn(Arc::clone(&self.core).say_goodbye());
        }
    }
}

impl Core {
    /// Looks at the clock: why the session is over, if it is. Asks nobody.
    pub(super) fn over(&self) -> Option<LossCause> {
        let now = self.place.clock.now();
        let lease = *self.lease.borrow();
        if lease.is_over(now) && lease.over().is_none() {
            self.lease.send_if_modified(|lease| lease.look(now));
        }
        self.lease.borrow().over()
    }

    /// When it ends if it is not renewed.
    pub(super) fn lease_ends(&self) -> LeaseTime {
        self.lease.borrow().ends()
    }

    /// The session is over. Whether it was not before.
    pub(super) fn end(&self, why: LossCause) -> bool {
        self.lease.send_if_modified(|lease| lease.end(why))
    }

    /// Waits until the session is over, by the clock or by what the node said.
    pub(super) async fn ended(&self) -> LossCause {
        let mut changes = self.lease.subscribe();
        loop {
            if let Some(why) = self.over() {
                return why;
            }
            let ends = changes.borrow_and_update().ends();
            tokio::select! {
                biased;
                // The sender lives as long as this.
                _ = changes.changed() => {}
                () = self.sleep_until(ends) => {}
            }
        }
    }

    /// What an end of the session is to who asked for something.
    pub(super) fn session_over(&self, cause: LossCause) -> LockError {
        LockError::SessionOver { namespace: self.place.namespace.clone(), cause }
    }

    /// A number that no other acquire of the session has.
    pub(super) fn next_request(&self) -> u64 {
        self.requests.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The time between two keep-alives.
    pub(super) fn keep_every(&self) -> Duration {
        self.lease_length / KEEPS_PER_LEASE
    }

    /// By the clock of leases.
    async fn sleep_until(&self, at: LeaseTime) {
        loop {
            let left = at.since(self.place.clock.now());
            if left.is_zero() {
                return;
            }
            // A timer of Tokio counts whole milliseconds.
            sleep(left.clamp(Duration::from_millis(1), LOOK_EVERY)).await;
        }
    }

    /// Says that the session is alive until it is not.
    async fn keep(self: Arc<Self>, mut renewed: LeaseTime) {
        let mut ask = Ask::new(&self.place);
        let why = loop {
            let keeping = async {
                self.sleep_until(renewed.plus(self.keep_every())).await;
                let request = || KeepLockSessionRequest {
                    namespace: self.place.namespace.clone(),
                    session: self.id,
                };
                ask.until_answered(request, Owed::Answer).await
            };
            let outcome = tokio::select! {
                biased;
                why = self.ended() => break why,
                outcome = keeping => outcome,
            };
            match outcome {
                Ok(answered) => {
                    renewed = answered.sent;
                    let lease = Duration::from_millis(answered.answer.lease_ms.into());
                    let now = self.place.clock.now();
                    self.lease.send_if_modified(|held| held.renew(renewed, lease, now));
                }
                Err(error) if is_gone(&error) => {
                    self.end(LossCause::SessionGone);
                }
                Err(error) => {
                    let namespace = &self.place.namespace;
                    tracing::warn!(namespace, %error, "a session was not renewed, trying again");
                    sleep(REFUSED_PAUSE).await;
                }
            }
        };
        let namespace = &self.place.namespace;
        match why {
            LossCause::Closed => tracing::debug!(namespace, "a session of locks was closed"),
            why => tracing::warn!(namespace, %why, "a session in a namespace of locks is over"),
        }
        if why == LossCause::LeaseRanOut {
            // The node may have heard more than was answered, and would keep the locks for longer.
            self.say_goodbye().await;
        }
    }

    /// Has the node end the session, unless it has by the time that it would by itself.
    async fn say_goodbye(self: Arc<Self>) {
        let mut ask = Ask::new(&self.place);
        let request = || CloseLockSessionRequest {
            namespace: self.place.namespace.clone(),
            session: self.id,
        };
        let closing = ask.until_answered(request, Owed::Answer);
        if let Ok(Err(error)) = timeout(self.lease_length, closing).await
            && !is_gone(&error)
        {
            tracing::debug!(%error, "a session was not closed, its lease ends it");
        }
    }

    /// Ends the session and waits until the node has, for as long as a request may take.
    pub(super) async fn close(self: &Arc<Self>) {
        if self.end(LossCause::Closed) {
            let after = self.place.shared.config().request_timeout;
            let _ = timeout(after, Arc::clone(self).say_goodbye()).await;
        }
    }

    /// Gives up what became, or becomes, of an acquire. An answer is certain; so is the end of the session.
    pub(super) async fn cancel(&self, request: u64, lock: &str) -> Result<(), RequestError> {
        let mut ask = Ask::new(&self.place);
        let request = || CancelLockRequest {
            namespace: self.place.namespace.clone(),
            session: self.id,
            request,
            lock: lock.to_owned(),
        };
        self.until_over(ask.until_answered(request, Owed::Answer)).await
    }

    /// Gives a lock back. An answer is certain; so is the end of the session.
    pub(super) async fn release(
        &self,
        request: u64,
        lock: &str,
        token: u64,
    ) -> Result<(), RequestError> {
        let mut ask = Ask::new(&self.place);
        let message = || ReleaseLockRequest {
            namespace: self.place.namespace.clone(),
            session: self.id,
            request,
            lock: lock.to_owned(),
            token,
        };
        self.until_over(ask.until_answered(message, Owed::Answer)).await
    }

    /// Does something until it is done, or until the session is over, by which it is done as well.
    async fn until_over<T>(
        &self,
        doing: impl Future<Output = Result<T, RequestError>>,
    ) -> Result<(), RequestError> {
        let outcome = tokio::select! {
            biased;
            outcome = doing => outcome.map(drop),
            _ = self.ended() => return Ok(()),
        };
        match outcome {
            Err(error) if is_gone(&error) => {
                self.end(LossCause::SessionGone);
                Ok(())
            }
            outcome => outcome,
        }
    }

    /// Does something in the background that outlives who asked for it.
    pub(super) fn spawn<T: Send + 'static>(
        &self,
        doing: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.runtime.spawn(doing)
    }
}

/// Whether a refusal says that there is no such session (any more).
pub(super) fn is_gone(error: &RequestError) -> bool {
    // Not where the namespace is unknown: a node may only have missed that it was made.
    error.code() == Some(ErrorCode::SessionGone)
}

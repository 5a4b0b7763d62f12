//! A lock that is wanted: how, and for how long it is waited for.
//!
//! The same request, by its number, is sent until there is an answer: over broken connections and to whoever
//! leads. Where there is none, or the caller waits no longer, what came of it is given up in the background, so
//! that nothing is held that nobody knows of.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use plimsoll_protocol::api::{AcquireLockRequest, LockGrant, LockMode};
use plimsoll_protocol::ids::TopicName;
use tokio::time::{Instant, sleep_until, timeout};

use super::ask::Ask;
use super::error::{About, LockError};
use super::guard::LockGuard;
use super::session::{Core, Session, is_gone};
use super::{LockInputError, Locks, bounds};
use crate::error::RequestError;
use crate::pulse::Owed;

/// A lock of a namespace, to be configured and acquired.
///
/// The first use of a lock decides what it is, until it is free again: exclusive, with readers and writers, a
/// semaphore, or an election.
#[derive(Debug, Clone)]
pub struct Lock {
    locks: Locks,
    name: String,
    mode: LockMode,
    permits: u32,
    value: String,
    guards: Vec<String>,
    wait: Option<Duration>,
}

impl Lock {
    pub(super) fn new(locks: Locks, name: String) -> Self {
        Self {
            locks,
            name,
            mode: LockMode::Exclusive,
            permits: 0,
            value: String::new(),
            guards: Vec::new(),
            wait: None,
        }
    }

    fn mode(self, mode: LockMode) -> Self {
        Self { mode, permits: 0, value: String::new(), ..self }
    }

    /// Held by one session at a time. The default.
    #[must_use]
    pub fn exclusive(self) -> Self {
        self.mode(LockMode::Exclusive)
    }

    /// Held by any number of readers, while no writer holds it.
    #[must_use]
    pub fn read(self) -> Self {
        self.mode(LockMode::Read)
    }

    /// Held by one writer, while no reader holds it.
    #[must_use]
    pub fn write(self) -> Self {
        self.mode(LockMode::Write)
    }

    /// One of so many permits, 1 to 1,024. Each permit is a slot with tokens of its own.
    #[must_use]
    pub fn permit_of(self, permits: u32) -> Self {
        Self { permits, ..self.mode(LockMode::Permit) }
    }

    /// Held by the leader of an election. `value`, at most 1,024 bytes, is what observers see, such as an
    /// address.
    #[must_use]
    pub fn lead(self, value: impl Into<String>) -> Self {
        Self { value: value.into(), ..self.mode(LockMode::Lead) }
    }

    /// Topics that the lock guards from now on: before it is granted, their partitions refuse what former
    /// holders write with their fence.
    #[must_use]
    pub fn guards<T: Into<String>>(self, topics: impl IntoIterator<Item = T>) -> Self {
        Self { guards: topics.into_iter().map(Into::into).collect(), ..self }
    }

    /// How long [`Lock::acquire`] waits. Default: for ever.
    #[must_use]
    pub fn wait(self, wait: Duration) -> Self {
        Self { wait: Some(wait), ..self }
    }

    /// Takes the lock if it is free.
    ///
    /// # Errors
    /// As [`Lock::acquire`]; [`LockError::Taken`] where others hold it or wait for it.
    pub async fn try_acquire(self) -> Result<LockGuard, LockError> {
        self.wait(Duration::ZERO).acquire().await
    }

    /// Takes the lock, or waits for it in the order of arrival. Whoever drops the future gives up what came of
    /// it.
    ///
    /// # Errors
    /// Something out of bounds, no such namespace, or a lock of another kind. A wait that ended
    /// ([`LockError::TimedOut`]), or that the session did not outlive. [`LockError::OutcomeUnknown`] where no node answers for as long
    /// as a request may take beyond the wait; without a limit to the wait, nodes are asked until the session is
    /// over.
    pub async fn acquire(self) -> Result<LockGuard, LockError> {
        let began = Instant::now();
        let guards = self.check()?;
        let session = self.locks.session().await?;
        let wanted = Wanted {
            request: session.core.next_request(),
            lock: self.name,
            mode: self.mode,
            permits: self.permits,
            value: self.value.into(),
            guards,
            wait: self.wait,
            // A wait of centuries is one for ever.
            until: self.wait.and_then(|wait| began.checked_add(wait)),
        };
        let mut claim = Claim { session, wanted, is_open: true };
        let outcome = claim.settle().await;
        // What is not known is given up when the claim is dropped.
        claim.is_open = matches!(outcome, Err(LockError::OutcomeUnknown { .. }));
        let grant = outcome?;
        Ok(LockGuard::new(Arc::clone(&claim.session), claim.wanted.clone(), grant))
    }

    /// What can be known to be wrong before anything is sent.
    fn check(&self) -> Result<Vec<TopicName>, LockInputError> {
        bounds::lock_name(&self.name)?;
        bounds::value(&self.value)?;
        if self.mode == LockMode::Permit {
            bounds::permits(self.permits)?;
        }
        bounds::guards(&self.guards)
    }
}

/// One acquire: what is sent until it is answered.
#[derive(Clone)]
pub(super) struct Wanted {
    pub(super) request: u64,
    pub(super) lock: String,
    pub(super) mode: LockMode,
    permits: u32,
    value: Bytes,
    guards: Vec<TopicName>,
    wait: Option<Duration>,
    until: Option<Instant>,
}

impl Wanted {
    /// The request, to wait for as long as is left.
    pub(super) fn message(&self, core: &Core, now: Instant) -> AcquireLockRequest {
        let wait_ms = match (self.wait, self.until) {
            (Some(Duration::ZERO), _) => Some(0),
            // One that is sent again late is still one that waits.
            (_, Some(until)) => {
                let left = until.saturating_duration_since(now).as_millis();
                Some(u64::try_from(left).unwrap_or(u64::MAX).max(1))
            }
            (_, None) => None,
        };
        AcquireLockRequest {
            namespace: core.place.namespace.clone(),
            session: core.id,
            request: self.request,
            lock: self.lock.clone(),
            mode: self.mode,
            permits: self.permits,
            value: self.value.clone(),
            guards: self.guards.clone(),
            wait_ms,
        }
    }

    fn about<'a>(&'a self, core: &'a Core) -> About<'a> {
        About { namespace: &core.place.namespace, lock: &self.lock, token: 0 }
    }

    fn timed_out(&self) -> LockError {
        let waited = self.wait.unwrap_or_default();
        LockError::TimedOut { lock: self.lock.clone(), waited }
    }

    fn waits(&self) -> bool {
        self.wait != Some(Duration::ZERO)
    }
}

/// An acquire that is on its way: given up when it is dropped while it is open.
struct Claim {
    session: Arc<Session>,
    wanted: Wanted,
    is_open: bool,
}

impl Claim {
    async fn settle(&self) -> Result<LockGrant, LockError> {
        let (core, wanted) = (&*self.session.core, &self.wanted);
        let after = core.place.shared.config().request_timeout;
        let patience = async {
            match wanted.until {
                // The node ends the wait; this is for one that does not answer.
                Some(until) => sleep_until(until + after).await,
                None => std::future::pending().await,
            }
        };
        let mut ask = Ask::new(&core.place);
        let message = || wanted.message(core, Instant::now());
        let owed = if wanted.waits() { Owed::News } else { Owed::Answer };
        let outcome = tokio::select! {
            biased;
            why = core.ended() => return Err(core.session_over(why)),
            outcome = ask.until_answered(message, owed) => outcome,
            () = patience => return Err(self.give_up(RequestError::Timeout { after }).await),
        };
        match outcome {
            // The answer may have lain there while this process was stopped.
            Ok(answered) => match core.over() {
                None => Ok(answered.answer),
                Some(why) => Err(core.session_over(why)),
            },
            Err(error) => Err(self.refused(error).await),
        }
    }

    async fn refused(&self, error: RequestError) -> LockError {
        let (core, wanted) = (&*self.session.core, &self.wanted);
        if is_gone(&error) {
            core.end(super::LossCause::SessionGone);
        }
        match &error {
            RequestError::Refused(_) | RequestError::Connect(_) => {}
            // An answer that cannot be read may have been a grant.
            _ => return self.give_up(error).await,
        }
        match LockError::of(error, wanted.about(core)) {
            LockError::Taken { .. } if wanted.waits() => wanted.timed_out(),
            other => other,
        }
    }

    /// Nobody answers: the wait is over, or it is not known what became of it.
    async fn give_up(&self, reason: RequestError) -> LockError {
        let (core, wanted) = (&*self.session.core, &self.wanted);
        let after = core.place.shared.config().request_timeout;
        match timeout(after, core.cancel(wanted.request, &wanted.lock)).await {
            Ok(Ok(())) => wanted.timed_out(),
            _ => {
                let doing = format!("acquire lock {}", wanted.lock);
                LockError::OutcomeUnknown { doing, reason }
            }
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.is_open {
            return;
        }
        let (session, request) = (Arc::clone(&self.session), self.wanted.request);
        let lock = std::mem::take(&mut self.wanted.lock);
        // The session stays open until this is certain, or over.
        self.session.core.spawn(async move {
            if let Err(error) = session.core.cancel(request, &lock).await {
                let namespace = &session.core.place.namespace;
                tracing::warn!(namespace, lock, %error, "an acquire that nobody waits for was not given up");
            }
        });
    }
}

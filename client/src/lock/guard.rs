//! A lock that is held: its token, whether it still is, and its end.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use plimsoll_protocol::api::{
    AcquireLockRequest, DescribeLockRequest, Fence, LockGrant, LockMode, SetLockValueRequest,
};
use plimsoll_protocol::error::ErrorCode;
use plimsoll_protocol::ids::PartitionIndex;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::acquire::Wanted;
use super::ask::Ask;
use super::bounds;
use super::clock::LeaseTime;
use super::error::{About, LockError, LockLost, LossCause};
use super::session::{Core, Session, is_gone};
use crate::error::RequestError;
use crate::pulse::Owed;

/// A lock is held, until this is dropped or the lock is lost.
///
/// What is done under the lock is safe from former holders where it shows [`LockGuard::fence`]: looking at
/// [`LockGuard::is_held`] first leaves the time between the look and the deed.
///
/// Dropped, it is given back in the background; [`LockGuard::release`] waits until the node knows.
#[must_use = "the lock is given back when this is dropped"]
pub struct LockGuard {
    session: Arc<Session>,
    held: Arc<Held>,
}

/// A grant, shared with who waits for its loss.
struct Held {
    wanted: Wanted,
    grant: LockGrant,
    ended: watch::Sender<Option<LossCause>>,
}

impl LockGuard {
    pub(super) fn new(session: Arc<Session>, wanted: Wanted, grant: LockGrant) -> Self {
        let held = Arc::new(Held { wanted, grant, ended: watch::Sender::new(None) });
        Self { session, held }
    }

    /// The lock's name.
    pub fn name(&self) -> &str {
        &self.held.wanted.lock
    }

    /// The fencing token of the grant: larger than that of every grant of the lock before. Readers that hold it
    /// together may share one.
    pub fn token(&self) -> u64 {
        self.held.grant.token
    }

    /// Which permit, of a semaphore, counted from 0; else 0.
    pub fn slot(&self) -> u32 {
        self.held.grant.slot
    }

    /// What a write shows to be refused where a later holder has been seen.
    pub fn fence(&self) -> Fence {
        let Held { wanted, grant, .. } = &*self.held;
        let lock = match wanted.mode {
            LockMode::Permit => format!("{}#{}", wanted.lock, grant.slot),
            _ => wanted.lock.clone(),
        };
        Fence { namespace: self.session.core.place.namespace.clone(), lock, token: grant.token }
    }

    /// Whether it is held, as far as this process can know: a look at the clock, nothing is asked. Ends by
    /// itself before others can have the lock, also while the process was stopped or the machine suspended.
    /// Does not know of an operator who took it away, unless [`LockGuard::lost`] is awaited.
    pub fn is_held(&self) -> bool {
        self.held.over(&self.session.core).is_none()
    }

    /// Until when it is held if the session is not renewed before: a time of the clock by which leases are
    /// counted ([`crate::ClientConfig::lease_clock`]). For who hands a deadline on to others.
    pub fn held_until(&self) -> LeaseTime {
        self.session.core.lease_ends()
    }

    /// Resolves when the lock is held no longer: its lease ran out by the clock of this process, the node said
    /// that it is over, an operator took it away, or it was given back.
    ///
    /// While it is awaited the node is asked every third of the lease whether an operator took it, which costs
    /// one read. Of readers that share a token it is not noticed that one of them was taken away.
    pub fn lost(&self) -> impl Future<Output = LockLost> + Send + 'static {
        let (core, held) = (Arc::clone(&self.session.core), Arc::clone(&self.held));
        async move {
            let why = held.ended(&core).await;
            held.lost(&core, why)
        }
    }

    /// Changes what the observers of an election see.
    ///
    /// # Errors
    /// When the lock is lost or no election, the value is longer than 1,024 bytes, or nobody answers.
    pub async fn set_value(&self, value: impl Into<String>) -> Result<(), LockError> {
        let value = value.into();
        bounds::value(&value)?;
        let (core, held) = (&*self.session.core, &*self.held);
        held.check(core)?;
        let after = core.place.shared.config().request_timeout;
        let mut ask = Ask::new(&core.place);
        let value = Bytes::from(value);
        let request = || SetLockValueRequest {
            namespace: core.place.namespace.clone(),
            session: core.id,
            lock: held.wanted.lock.clone(),
            token: held.grant.token,
            value: value.clone(),
        };
        let asked = timeout(after, ask.until_answered(request, Owed::Answer));
        let outcome = asked.await.unwrap_or(Err(RequestError::Timeout { after }));
        outcome.map(drop).map_err(|error| match error {
            RequestError::Timeout { .. } => {
                let doing = format!("change the value of lock {}", held.wanted.lock);
                LockError::OutcomeUnknown { doing, reason: error }
            }
            error => held.refused(core, error),
        })
    }

    /// Gives the lock back and waits until the node has. Whoever drops the future leaves it to the background.
    ///
    /// # Errors
    /// [`LockError::Lost`] where it was lost before, so what was done last may not have been under the lock.
    /// [`LockError::NotHolder`] where the node knows that. [`LockError::OutcomeUnknown`] where nobody answers
    /// in time: the lock ends with the session then.
    pub async fn release(self) -> Result<(), LockError> {
        let (core, held) = (&*self.session.core, &*self.held);
        held.check(core)?;
        let after = core.place.shared.config().request_timeout;
        held.end(LossCause::Released);
        let outcome = timeout(after, self.give_back()).await;
        match outcome {
            Ok(Ok(Ok(()))) => match core.over() {
                None => Ok(()),
                Some(why) => Err(held.lost(core, why).into()),
            },
            Ok(Ok(Err(error))) => Err(held.refused(core, error)),
            _ => {
                let doing = format!("release lock {}", held.wanted.lock);
                let reason = RequestError::Timeout { after };
                Err(LockError::OutcomeUnknown { doing, reason })
            }
        }
    }

    /// Has the lock given back by a task of its own, which keeps the session open meanwhile.
    fn give_back(&self) -> tokio::task::JoinHandle<Result<(), RequestError>> {
        let (session, held) = (Arc::clone(&self.session), Arc::clone(&self.held));
        self.session.core.spawn(async move {
            session.core.release(held.wanted.request, &held.wanted.lock, held.grant.token).await
        })
    }
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        if self.held.over(&self.session.core).is_none() {
            self.held.end(LossCause::Released);
            drop(self.give_back());
        }
    }
}

impl Held {
    /// Why it is held no longer, as far as is known.
    fn over(&self, core: &Core) -> Option<LossCause> {
        let own = *self.ended.borrow();
        own.or_else(|| core.over())
    }

    fn end(&self, why: LossCause) {
        self.ended.send_if_modified(|ended| {
            let is_first = ended.is_none();
            ended.get_or_insert(why);
            is_first
        });
    }

    fn lost(&self, core: &Core, why: LossCause) -> LockLost {
        let namespace = core.place.namespace.clone();
        LockLost { namespace, lock: self.wanted.lock.clone(), token: self.grant.token, why }
    }

    fn check(&self, core: &Core) -> Result<(), LockLost> {
        self.over(core).map_or(Ok(()), |why| Err(self.lost(core, why)))
    }

    /// What a refusal means for the lock.
    fn refused(&self, core: &Core, error: RequestError) -> LockError {
        if is_gone(&error) {
            core.end(LossCause::SessionGone);
        }
        let (namespace, lock) = (&core.place.namespace, &self.wanted.lock);
        let error = LockError::of(error, About { namespace, lock, token: self.grant.token });
        if matches!(error, LockError::NotHolder { .. }) {
            self.end(LossCause::TakenAway);
        }
        error
    }

    async fn ended(&self, core: &Core) -> LossCause {
        let mut ended = self.ended.subscribe();
        tokio::select! {
            biased;
            // The sender lives as long as this.
            Ok(why) = ended.wait_for(Option::is_some) => why.unwrap_or(LossCause::Released),
            why = core.ended() => why,
            () = self.taken_away(core) => {
                self.end(LossCause::TakenAway);
                LossCause::TakenAway
            }
        }
    }

    /// Asks every now and then, until the lock is known to be taken away.
    async fn taken_away(&self, core: &Core) {
        loop {
            let pause: Duration = core.keep_every();
            sleep(pause).await;
            // Readers of one phase share their token: the grant of another looks like this one.
            let is_told_apart = self.wanted.mode != LockMode::Read;
            if is_told_apart && self.is_seen_held(core).await {
                continue;
            }
            if self.is_refused_again(core).await {
                return;
            }
        }
    }

    /// Whether the grant is there, as the node shows it; `true` also where that cannot be learned.
    async fn is_seen_held(&self, core: &Core) -> bool {
        let (place, lock) = (&core.place, self.wanted.lock.clone());
        let request = DescribeLockRequest { namespace: place.namespace.clone(), lock };
        let asking =
            place.shared.request_leader(&place.topic, PartitionIndex(0), request, Owed::Answer);
        match asking.await {
            Ok((described, _)) => described
                .holders
                .iter()
                .any(|holder| holder.token == self.grant.token && holder.slot == self.grant.slot),
            Err(error) => error.code() != Some(ErrorCode::UnknownLock),
        }
    }

    /// What was acquired, asked for once more, is still granted to who has it. Whether it is not, for certain: a
    /// node that has just begun to lead may have shown what was before.
    async fn is_refused_again(&self, core: &Core) -> bool {
        let place = &core.place;
        // Of a grant that is over this is refused: a number that was used is not granted anew.
        let message =
            AcquireLockRequest { wait_ms: Some(0), ..self.wanted.message(core, Instant::now()) };
        let asking =
            place.shared.request_leader(&place.topic, PartitionIndex(0), message, Owed::Answer);
        match asking.await {
            Ok((grant, _)) => grant.token != self.grant.token,
            Err(error) if is_gone(&error) => {
                core.end(LossCause::SessionGone);
                false
            }
            Err(RequestError::Refused(refusal)) => !refusal.code.is_retriable(),
            Err(_) => false,
        }
    }
}

impl std::fmt::Debug for LockGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LockGuard").field("fence", &self.fence()).finish_non_exhaustive()
    }
}

//! Asks the leader of a namespace, again and again until there is an answer that holds: locks stay with their
//! session while the namespace changes its leader, and a request that is sent again has the answer of the
//! first.

use std::sync::Arc;
use std::time::Duration;

use plimsoll_protocol::api::Request;
use tokio::time::{Instant, timeout};

use super::clock::{LeaseClock, LeaseTime};
use super::session::Place;
use crate::client::Shared;
use crate::error::RequestError;
use crate::pulse::Owed;
use crate::route::Route;
use crate::trouble::{Told, Trouble};

/// How long an answer that is due at once may take before others are asked who leads.
const DOUBTED_AFTER: Duration = Duration::from_secs(1);

/// One request after the other. See the module.
pub(super) struct Ask {
    shared: Arc<Shared>,
    clock: Arc<dyn LeaseClock>,
    route: Route,
    trouble: Trouble,
}

/// An answer.
pub(super) struct Answered<T> {
    pub(super) answer: T,
    /// From before what it answers was sent.
    pub(super) sent: LeaseTime,
}

impl Ask {
    pub(super) fn new(place: &Place) -> Self {
        let shared = Arc::clone(&place.shared);
        let route = Route::new(Arc::clone(&shared), place.topic.clone(), 0);
        let clock = Arc::clone(&place.clock);
        Self { shared, clock, route, trouble: Trouble::none(Told::default()) }
    }

    /// Asks until there is an answer, or a refusal that repeating does not help against. `request` makes what is
    /// sent, anew for each attempt. Without end while nobody answers: the caller sees to that.
    pub(super) async fn until_answered<R>(
        &mut self,
        request: impl Fn() -> R,
        owed: Owed,
    ) -> Result<Answered<R::Response>, RequestError>
    where
        R: Request + Send + Sync + 'static,
    {
        loop {
            match self.once(&request, owed).await {
                Ok(Some(answered)) => {
                    self.route.succeeded();
                    self.trouble.over();
                    return Ok(answered);
                }
                Ok(None) => self.route.leader_changed(),
                Err(error) if error.is_retriable() => self.route.failed(&error),
                Err(error) => return Err(error),
            }
            self.route.pause().await;
        }
    }

    /// One attempt; nothing when another node leads before it is answered.
    async fn once<R>(
        &mut self,
        request: &impl Fn() -> R,
        owed: Owed,
    ) -> Result<Option<Answered<R::Response>>, RequestError>
    where
        R: Request + Send + Sync + 'static,
    {
        let after = self.shared.config().request_timeout;
        let reached = timeout(after, self.route.link()).await;
        let link = match reached.unwrap_or(Err(RequestError::Timeout { after })) {
            Ok(link) => link,
            Err(error) => return Err(self.met(error)),
        };
        // What is kept back until there is news is in doubt only when the cluster tells of another leader.
        let doubtful = (owed == Owed::Answer).then(|| Instant::now() + DOUBTED_AFTER);
        let sent = self.clock.now();
        let asking = link.control().request_owed(request(), owed);
        let outcome = tokio::select! {
            biased;
            outcome = asking => outcome,
            () = self.route.moved(doubtful) => return Ok(None),
        };
        match outcome {
            Ok((answer, _)) => Ok(Some(Answered { answer, sent })),
            Err(error) => Err(self.met(error)),
        }
    }

    fn met(&mut self, error: RequestError) -> RequestError {
        if error.is_retriable()
            && let Some(reason) = self.trouble.meet(error.to_string(), Instant::now())
        {
            tracing::warn!(reason, "the leader of a namespace of locks is not heard, trying again");
        }
        error
    }
}

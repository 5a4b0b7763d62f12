//! Locks: leases with fencing tokens.
//!
//! ```text
//!  mod      Locks: what shares a session             session  opened, kept alive, ended
//!  acquire  Lock: how it is wanted, until it is had   guard    LockGuard: that it is held, and until when
//!  lease    when the holder's view ends (pure)        clock    by which clock
//!  ask      one request, again until it is answered   admin    namespaces, what an operator does
//!  event    what happened to a lock                   watch    its stream; the leader of an election
//!  bounds   what may be asked for                     error
//! ```
//! A guard says nothing about what the former holder does: it may have been stopped before it looked. What a
//! lock protects is safe where each write shows its [`crate::Fence`].

mod acquire;
mod admin;
mod ask;
mod bounds;
mod clock;
mod error;
mod event;
mod guard;
mod lease;
mod session;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use plimsoll_protocol::ids::TopicName;

pub use acquire::Lock;
pub use admin::{GrantFilter, LockAdmin, NewLockNamespace};
pub use bounds::LockInputError;
pub(crate) use clock::BootClock;
pub use clock::{LeaseClock, LeaseTime};
pub use error::{LockError, LockEventError, LockLost, LossCause};
pub use event::{LockEvent, LockEventHolder, LockEventKind};
pub use guard::LockGuard;
pub use watch::{ElectionLeader, ElectionObserver, LockWatch};

use crate::client::{Client, Shared};
use session::{Place, Session};

const LEASE_DEFAULT: Duration = Duration::from_secs(10);

/// The locks of a namespace, of one session.
///
/// The session is opened when the first lock is acquired, and shared by all locks of this and its clones. It is
/// kept alive every third of its lease, and ends with the last clone and guard: what it holds and waits for is
/// given up then. A session that has ended (the process was stopped, no node answered) loses all its locks; the
/// next acquire opens a new one.
#[derive(Clone)]
pub struct Locks {
    shared: Arc<Shared>,
    namespace: String,
    lease: Duration,
    label: Option<String>,
    session: Arc<tokio::sync::Mutex<Option<Arc<Session>>>>,
}

impl Locks {
    fn new(shared: Arc<Shared>, namespace: String) -> Self {
        let session = Arc::default();
        Self { shared, namespace, lease: LEASE_DEFAULT, label: None, session }
    }

    /// How long the session may be silent before its locks go to others, 1 s to 10 min. Default 10 s. Longer:
    /// the locks of a process that died stay held for longer. Shorter: a pause of the process or the network
    /// costs them. The result has a session of its own.
    #[must_use]
    pub fn lease(self, lease: Duration) -> Self {
        Self { lease, session: Arc::default(), ..self }
    }

    /// Who this is, for people who look at the lock: 1 to 255 bytes. Default: the client's name and the number
    /// of the process. The result has a session of its own.
    #[must_use]
    pub fn label(self, label: impl Into<String>) -> Self {
        Self { label: Some(label.into()), session: Arc::default(), ..self }
    }

    /// A lock of the namespace, to be acquired.
    pub fn lock(&self, name: impl Into<String>) -> Lock {
        Lock::new(self.clone(), name.into())
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Ends the session, with all that it holds and waits for, also of clones and guards, and waits until the
    /// node knows.
    pub async fn close(self) {
        if let Some(session) = self.session.lock().await.take() {
            session.core.close().await;
        }
    }

    fn topic(&self) -> Result<TopicName, LockInputError> {
        bounds::namespace(&self.namespace)
    }

    /// The session, a new one where there is none or it is over.
    async fn session(&self) -> Result<Arc<Session>, LockError> {
        let lease_ms = bounds::lease(self.lease)?;
        let label = self.label.clone().unwrap_or_else(|| self.default_label());
        bounds::label(&label)?;
        let place = Place {
            clock: self.shared.lease_clock(),
            namespace: self.namespace.clone(),
            topic: self.topic()?,
            shared: Arc::clone(&self.shared),
        };
        let mut held = self.session.lock().await;
        if let Some(session) = held.as_ref().filter(|session| session.core.over().is_none()) {
            return Ok(Arc::clone(session));
        }
        let session = Session::open(place, lease_ms, label).await?;
        *held = Some(Arc::clone(&session));
        Ok(session)
    }

    fn default_label(&self) -> String {
        const NAME_BYTES: usize = 200;
        let name = self.shared.config().client_name.replace(char::is_control, "?");
        let mut end = name.len().min(NAME_BYTES);
        while !name.is_char_boundary(end) {
            end -= 1;
        }
        format!("{}-{}", &name[..end], std::process::id())
    }
}

impl Client {
    /// The locks of a namespace, which share one session.
    pub fn locks(&self, namespace: impl Into<String>) -> Locks {
        Locks::new(Arc::clone(self.shared()), namespace.into())
    }

    /// One lock of a namespace, with a session of its own. For more than one, and for other options, see
    /// [`Client::locks`].
    pub fn lock(&self, namespace: impl Into<String>, name: impl Into<String>) -> Lock {
        self.locks(namespace).lock(name)
    }
}

impl std::fmt::Debug for Locks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Locks").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

//! What sessions ask a namespace's task for.

use std::collections::BTreeSet;
use std::fmt;

use plimsoll_locks::command::Acquire;
use plimsoll_locks::ids::{
    Label, LeaseMs, LockName, RequestId, SessionId, SessionNumber, Token, Value,
};
use plimsoll_locks::keeper::Patience;
use plimsoll_locks::state::{LockDescription, LockSummary, SessionSummary, TokenState};
use plimsoll_protocol::error::ErrorResponse;
use plimsoll_protocol::ids::TopicName;
use plimsoll_replication::Group;
use tokio::sync::oneshot;

use crate::led::{LedTask, TaskGone};

/// Where the outcome of a request goes.
pub(super) type Reply<T> = oneshot::Sender<Result<T, ErrorResponse>>;

/// A grant, as its holder is told it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) token: Token,
    pub(crate) slot: Option<u32>,
}

/// A lock as it is, and how long the sessions of its holders live unheard, in milliseconds, in their order.
#[derive(Debug)]
pub(crate) struct Described {
    pub(crate) lock: LockDescription,
    pub(crate) leases_left_ms: Vec<u64>,
}

/// A session, and how long it lives unheard, in milliseconds.
#[derive(Debug)]
pub(crate) struct Heard {
    pub(crate) session: SessionSummary,
    pub(crate) lease_left_ms: u64,
}

/// What a task is asked for. A task that ends answers nothing.
pub(super) enum Command {
    Open { session: SessionId, lease: LeaseMs, label: Label, reply: Reply<()> },
    KeepAlive { session: SessionId, reply: Reply<u64> },
    Close { session: SessionId, reply: Reply<()> },
    Acquire { acquire: Box<Acquire>, patience: Patience, reply: Reply<Grant> },
    Cancel { session: SessionId, request: RequestId, reply: Reply<Option<Grant>> },
    Release { who: (SessionId, RequestId), grant: (LockName, Token), reply: Reply<()> },
    ForceRelease { lock: LockName, grants: GrantFilter, by: Label, reply: Reply<()> },
    SetValue { session: SessionId, lock: LockName, token: Token, value: Value, reply: Reply<()> },
    Delete { lock: LockName, forced: bool, by: Label, reply: Reply<BTreeSet<TopicName>> },
    List { after: Option<LockName>, count: usize, reply: oneshot::Sender<Vec<LockSummary>> },
    Describe { lock: LockName, waiters: usize, reply: oneshot::Sender<Option<Described>> },
    Sessions { after: Option<SessionNumber>, count: usize, reply: oneshot::Sender<Vec<Heard>> },
    Check { lock: LockName, slot: Option<u32>, token: Token, reply: oneshot::Sender<TokenState> },
}

/// Of which grants of a lock an operator speaks: those that are all that is named here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GrantFilter {
    /// Readers of one phase share it; so may permits that were granted together.
    pub(crate) token: Option<Token>,
    pub(crate) session: Option<SessionNumber>,
}

impl GrantFilter {
    pub(super) const ALL: Self = Self { token: None, session: None };

    /// Who holds the lock under such a grant.
    pub(super) fn holders(self, lock: &LockDescription) -> Vec<SessionNumber> {
        let of_these = lock.holders.iter().filter(|holder| {
            self.token.is_none_or(|token| holder.token == token)
                && self.session.is_none_or(|session| holder.session == session)
        });
        of_these.map(|holder| holder.session).collect()
    }
}

/// ` under token 7 by session 3`.
impl fmt::Display for GrantFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(token) = self.token {
            write!(f, " under token {token}")?;
        }
        self.session.map_or(Ok(()), |session| write!(f, " by session {session}"))
    }
}

/// A namespace's task. Cheap to clone; the task goes on without handles.
#[derive(Clone)]
pub(crate) struct KeeperHandle(pub(super) LedTask<Command>);

type Asked<T> = Result<Result<T, ErrorResponse>, TaskGone>;

impl KeeperHandle {
    /// Whether this node leads `home` in the term of the task still: with a read that was linearizable before,
    /// it has led from that read's begin on.
    pub(crate) fn leads(&self, home: &Group) -> bool {
        self.0.leads(home)
    }

    /// See [`plimsoll_locks::keeper::Keeper::open`].
    pub(crate) async fn open(&self, session: SessionId, lease: LeaseMs, label: Label) -> Asked<()> {
        self.0.ask(|reply| Command::Open { session, lease, label, reply }).await
    }

    /// Hears a session at once. Nobody may be told so before it is certain that this node led after this call.
    pub(crate) fn keep_alive(
        &self,
        session: SessionId,
    ) -> impl Future<Output = Asked<u64>> + use<> {
        self.0.ask(move |reply| Command::KeepAlive { session, reply })
    }

    /// See [`plimsoll_locks::keeper::Keeper::close`].
    pub(crate) async fn close(&self, session: SessionId) -> Asked<()> {
        self.0.ask(|reply| Command::Close { session, reply }).await
    }

    /// Answers when the lock is held, or it is certain that it is not.
    pub(crate) async fn acquire(&self, acquire: Acquire, patience: Patience) -> Asked<Grant> {
        let acquire = Box::new(acquire);
        self.0.ask(|reply| Command::Acquire { acquire, patience, reply }).await
    }

    /// Ends a wait; answers with the grant where it was granted before, which stays.
    pub(crate) async fn cancel(
        &self,
        session: SessionId,
        request: RequestId,
    ) -> Asked<Option<Grant>> {
        self.0.ask(|reply| Command::Cancel { session, request, reply }).await
    }

    /// See [`plimsoll_locks::keeper::Keeper::release`].
    pub(crate) async fn release(
        &self,
        who: (SessionId, RequestId),
        grant: (LockName, Token),
    ) -> Asked<()> {
        self.0.ask(|reply| Command::Release { who, grant, reply }).await
    }

    /// Takes a lock away from those who hold it under these grants.
    pub(crate) async fn force_release(
        &self,
        lock: LockName,
        grants: GrantFilter,
        by: Label,
    ) -> Asked<()> {
        self.0.ask(|reply| Command::ForceRelease { lock, grants, by, reply }).await
    }

    /// See [`plimsoll_locks::keeper::Keeper::set_value`].
    pub(crate) async fn set_value(
        &self,
        session: SessionId,
        lock: LockName,
        token: Token,
        value: Value,
    ) -> Asked<()> {
        self.0.ask(|reply| Command::SetValue { session, lock, token, value, reply }).await
    }

    /// Answers with the topics that the lock guarded. See [`plimsoll_locks::keeper::Keeper::delete`].
    pub(crate) async fn delete(
        &self,
        lock: LockName,
        forced: bool,
        by: Label,
    ) -> Asked<BTreeSet<TopicName>> {
        self.0.ask(|reply| Command::Delete { lock, forced, by, reply }).await
    }

    /// At most `count` locks behind `after`, by name.
    pub(crate) async fn list(
        &self,
        after: Option<LockName>,
        count: usize,
    ) -> Result<Vec<LockSummary>, TaskGone> {
        self.0.ask(|reply| Command::List { after, count, reply }).await
    }

    /// At most `count` sessions behind `after`, by number.
    pub(crate) async fn sessions(
        &self,
        after: Option<SessionNumber>,
        count: usize,
    ) -> Result<Vec<Heard>, TaskGone> {
        self.0.ask(|reply| Command::Sessions { after, count, reply }).await
    }

    /// All there is to say about a lock, with at most `waiters` who wait.
    pub(crate) async fn describe(
        &self,
        lock: LockName,
        waiters: usize,
    ) -> Result<Option<Described>, TaskGone> {
        self.0.ask(|reply| Command::Describe { lock, waiters, reply }).await
    }

    /// What is known of a token.
    pub(crate) async fn check(
        &self,
        lock: LockName,
        slot: Option<u32>,
        token: Token,
    ) -> Result<TokenState, TaskGone> {
        self.0.ask(|reply| Command::Check { lock, slot, token, reply }).await
    }
}

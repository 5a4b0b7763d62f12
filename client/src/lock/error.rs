//! What goes wrong with locks, by what the caller does about it.

use std::time::Duration;

use plimsoll_protocol::error::ErrorCode;
use thiserror::Error;

use super::bounds::LockInputError;
use crate::error::{BuildError, ConsumeError, RequestError, ServerError};

/// Why something was not done with a lock.
#[derive(Debug, Clone, Error)]
pub enum LockError {
    /// What was asked for is out of bounds. Nothing was sent.
    #[error(transparent)]
    Input(#[from] LockInputError),
    /// There is no such namespace.
    #[error("there is no namespace {namespace} of locks; create it first")]
    UnknownNamespace {
        /// The namespace that was asked for.
        namespace: String,
    },
    /// Somebody else holds it, and it was not to be waited for.
    #[error("lock {lock} is taken: {reason}")]
    Taken {
        /// The lock.
        lock: String,
        /// The token of who holds it, where the node says so.
        token: Option<u64>,
        /// Who holds it, in the node's words.
        reason: String,
    },
    /// It was waited for in vain. Nothing is held.
    #[error("lock {lock} was not to be had within {waited:?}")]
    TimedOut {
        /// The lock.
        lock: String,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The lock is held or waited for by the same session, or is of another kind, such as a semaphore.
    #[error("{reason}")]
    InUse {
        /// The lock.
        lock: String,
        /// By whom, or of which kind, in the node's words.
        reason: String,
    },
    /// The session has ended, and with it everything that it held or waited for.
    #[error("the session in namespace {namespace} is over: {cause}; its locks are given up")]
    SessionOver {
        /// The namespace.
        namespace: String,
        /// Why.
        cause: LossCause,
    },
    /// The lock was lost before.
    #[error(transparent)]
    Lost(#[from] LockLost),
    /// The node says that this session does not hold the lock under this token.
    #[error("lock {lock} is not held under token {token}: {reason}")]
    NotHolder {
        /// The lock.
        lock: String,
        /// The token.
        token: u64,
        /// Who holds it, in the node's words.
        reason: String,
    },
    /// No answer came in time, so it is not known what became of it. What may be held of it is given up in the
    /// background, at the latest by the end of the session.
    #[error("no answer in time to: {doing}; whatever came of it is being given up ({reason})")]
    OutcomeUnknown {
        /// What was to be done.
        doing: String,
        /// What was seen last.
        reason: RequestError,
    },
    /// It was refused for another reason, or nobody answers.
    #[error(transparent)]
    Request(RequestError),
}

/// Why a lock is held no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
pub enum LossCause {
    /// The session was not renewed in time, by the client's own clock: the process or the machine stood still,
    /// or no node answered.
    #[error("it was not renewed before its lease ran out")]
    LeaseRanOut,
    /// The node says that the session has ended.
    #[error("the node says that the session has ended")]
    SessionGone,
    /// The session was closed by this process.
    #[error("the session was closed")]
    Closed,
    /// An operator took the lock away or deleted it.
    #[error("it was taken away by an operator")]
    TakenAway,
    /// It was given back by this process.
    #[error("it was given back")]
    Released,
}

/// A lock is held no longer, and another may hold it already: what it protected must stop.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("lock {lock} of namespace {namespace} (token {token}) is lost: {why}")]
pub struct LockLost {
    /// The lock's namespace.
    pub namespace: String,
    /// The lock.
    pub lock: String,
    /// The fencing token under which it was held.
    pub token: u64,
    /// Why.
    pub why: LossCause,
}

/// Why what happens to locks cannot be told.
#[derive(Debug, Clone, Error)]
pub enum LockEventError {
    /// The namespace's topic cannot be read on.
    #[error(transparent)]
    Consume(#[from] ConsumeError),
    /// A record of it is not an event: node and client may differ in version.
    #[error("what happened to lock {lock} (offset {offset}) cannot be read: {reason}")]
    Malformed {
        /// The lock.
        lock: String,
        /// The record's offset.
        offset: u64,
        /// What is wrong with it.
        reason: String,
    },
}

/// What a request was about, for errors.
#[derive(Debug, Clone, Copy)]
pub(super) struct About<'a> {
    pub(super) namespace: &'a str,
    pub(super) lock: &'a str,
    pub(super) token: u64,
}

impl LockError {
    /// What a refusal means for who asked.
    pub(super) fn of(error: RequestError, about: About<'_>) -> Self {
        let RequestError::Refused(ServerError { code, message, detail, .. }) = &error else {
            return Self::Request(error);
        };
        let (namespace, lock) = (about.namespace.to_owned(), about.lock.to_owned());
        let reason = message.clone();
        match code {
            ErrorCode::UnknownNamespace | ErrorCode::UnknownTopic => {
                Self::UnknownNamespace { namespace }
            }
            ErrorCode::LockTaken => Self::Taken { lock, token: *detail, reason },
            ErrorCode::LockInUse => Self::InUse { lock, reason },
            ErrorCode::SessionGone => {
                Self::SessionOver { namespace, cause: LossCause::SessionGone }
            }
            ErrorCode::NotLockHolder => Self::NotHolder { lock, token: about.token, reason },
            _ => Self::Request(error),
        }
    }

    /// The same of a reader of the namespace's topic that could not be made.
    pub(super) fn of_reader(error: BuildError, namespace: &str) -> Self {
        match error {
            BuildError::Request(error) => Self::of(error, About { namespace, lock: "", token: 0 }),
            error => unreachable!("a reader with default options is refused: {error}"),
        }
    }
}

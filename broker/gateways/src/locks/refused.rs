//! Errors of the machine as answers: one stable code each.

use plimsoll_locks::fence::FenceError;
use plimsoll_locks::keeper::AskError;
use plimsoll_locks::state::{Bound, Occupant, Refusal};
use plimsoll_protocol::error::{ErrorCode, ErrorResponse};

/// A value of a request is out of its bounds.
pub(crate) fn invalid(error: &dyn std::error::Error) -> ErrorResponse {
    ErrorResponse::new(ErrorCode::InvalidArgument, error.to_string())
}

pub(super) fn ask(error: &AskError) -> ErrorResponse {
    let code = match error {
        AskError::SessionGone(_) => ErrorCode::SessionGone,
        AskError::Busy(_) => ErrorCode::TooManyInFlight,
        AskError::TooManyGuards(_) => ErrorCode::InvalidArgument,
    };
    ErrorResponse::new(code, error.to_string())
}

pub(super) fn taken(by: &Occupant) -> ErrorResponse {
    let Occupant { label, session, token } = by;
    let message = format!(
        "the lock is held by {label} (session {session}) under token {token}; wait for it, or try later"
    );
    ErrorResponse::new(ErrorCode::LockTaken, message).with_offset(token.0)
}

pub(super) fn timed_out() -> ErrorResponse {
    let message = "the lock was not granted within the time to wait, and the wait is over: wait longer, or \
                   look who holds it (plimsoll lock describe)";
    ErrorResponse::new(ErrorCode::LockTaken, message)
}

/// What the log refused.
pub(super) fn refused(refusal: &Refusal) -> ErrorResponse {
    let code = match refusal {
        Refusal::SessionGone => ErrorCode::SessionGone,
        Refusal::NotHolder { .. } => ErrorCode::NotLockHolder,
        Refusal::AlreadyHeld { .. }
        | Refusal::AlreadyWaiting { .. }
        | Refusal::OtherKind { .. }
        | Refusal::InUse { .. } => ErrorCode::LockInUse,
        Refusal::RequestForgotten { .. }
        | Refusal::RequestOver { .. }
        | Refusal::RequestReused { .. }
        | Refusal::NotElection { .. }
        | Refusal::TooMany { bound: Bound::Guards } => ErrorCode::InvalidArgument,
        // Not to be repeated as it is: the acquire is over, and another takes another number.
        Refusal::TooMany { .. } | Refusal::Busy => ErrorCode::LocksFull,
    };
    ErrorResponse::new(code, refusal.to_string())
}

pub(super) fn fence(error: &FenceError, namespace: &str) -> ErrorResponse {
    match error {
        FenceError::Stale(stale) => ErrorResponse::new(
            ErrorCode::StaleFence,
            format!(
                "the fence is stale: token {} of lock {namespace}/{} is over, {} has been seen here since; \
                 nothing was written: the lock is lost, stop and acquire it again",
                stale.token, stale.lock, stale.highest
            ),
        )
        .with_offset(stale.highest.0),
        FenceError::Full(_) => ErrorResponse::new(ErrorCode::LocksFull, error.to_string()),
    }
}

//! Errors of the machine as answers: one stable code each.

use plimsoll_groups::coordinator::{CommitError, HeartbeatError, JoinError};
use plimsoll_groups::ids::{GroupName, MemberId};
use plimsoll_groups::state::{Groups, Refusal};
use plimsoll_protocol::error::{ErrorCode, ErrorResponse};

use crate::refusals::bug;

pub(super) fn join(error: &JoinError) -> ErrorResponse {
    let code = match error {
        JoinError::Spec(_) => ErrorCode::InvalidArgument,
        JoinError::TooManyGroups(_) | JoinError::GroupFull { .. } => ErrorCode::GroupFull,
        JoinError::Busy(_) => ErrorCode::TooManyInFlight,
    };
    ErrorResponse::new(code, error.to_string())
}

pub(super) fn heartbeat(error: &HeartbeatError) -> ErrorResponse {
    let code = match error {
        HeartbeatError::FencedMember { .. } => ErrorCode::FencedMember,
        HeartbeatError::FencedInstance { .. } => ErrorCode::FencedInstance,
    };
    ErrorResponse::new(code, error.to_string())
}

pub(super) fn commit(error: &CommitError, name: &GroupName, groups: &Groups) -> ErrorResponse {
    let code = match error {
        CommitError::Partitions { .. }
        | CommitError::Metadata { .. }
        | CommitError::TooLong { .. } => ErrorCode::InvalidArgument,
        CommitError::TopicDeleted { .. } => ErrorCode::UnknownTopic,
        CommitError::OffsetsFull { .. } | CommitError::TooManyGroups(_) => ErrorCode::GroupFull,
        CommitError::Busy(_) => ErrorCode::TooManyInFlight,
        CommitError::Refused(refusal) => return refused(refusal, name, groups),
    };
    ErrorResponse::new(code, error.to_string())
}

/// What the log refused.
pub(super) fn refused(refusal: &Refusal, name: &GroupName, groups: &Groups) -> ErrorResponse {
    let code = match refusal {
        Refusal::Fenced { member } => return fenced(*member, name, groups),
        Refusal::HasMembers { .. } => ErrorCode::GroupInUse,
        Refusal::UnknownGroup => ErrorCode::UnknownGroup,
        Refusal::Owned { .. } | Refusal::Stale => return bug(&refusal.to_string()),
    };
    ErrorResponse::new(code, format!("{name}: {refusal}"))
}

/// Somebody is no member. Where another has its place, it must not take that back by joining again.
pub(super) fn fenced(member: MemberId, name: &GroupName, groups: &Groups) -> ErrorResponse {
    let group = name.clone();
    let successor = groups.get(name).and_then(|group| group.successor(member));
    heartbeat(&match successor {
        Some((by, successor)) => HeartbeatError::FencedInstance {
            group,
            member,
            by,
            instance: successor.spec.instance.clone().unwrap_or_default(),
        },
        None => HeartbeatError::FencedMember { group, member },
    })
}

//! How errors of the layers below become answers: one stable code each, and a sentence that says
//! what happened, to what, and what to do. The matches are exhaustive on purpose.

use plimsoll_log::ReadError;
use plimsoll_protocol::api::ConfigError;
use plimsoll_protocol::batch::BatchError;
use plimsoll_protocol::error::{ErrorCode, ErrorResponse};
use plimsoll_protocol::ids::{Offset, PartitionIndex, TopicName};
use plimsoll_replication::{
    FreshnessError, NotLeader, OpenGroupError, ProduceError, ProposeError, TransferError,
};
use plimsoll_state::catalog::CatalogRefusal;
use plimsoll_state::catalog::amqp::AmqpRefusal;
use plimsoll_state::catalog::planning::PlanError;

pub(crate) fn unknown_topic(topic: &TopicName) -> ErrorResponse {
    ErrorResponse::new(
        ErrorCode::UnknownTopic,
        format!("there is no topic {topic}: create it first (plimsoll topic create {topic})"),
    )
}

/// Of a topic that the local catalog does not have, while the catalog may be old.
pub(crate) fn catching_up(topic: &TopicName) -> ErrorResponse {
    ErrorResponse::new(
        ErrorCode::NotReady,
        format!(
            "this node cannot be sure now whether there is a topic {topic}: it was just started, or \
             reaches no majority of the catalog's nodes; try again, or ask another node"
        ),
    )
}

pub(crate) fn shutting_down() -> ErrorResponse {
    ErrorResponse::new(ErrorCode::ShuttingDown, "the node is shutting down: connect again later")
}

/// Of a queue whose task ended while it was asked.
pub(crate) fn queue_moved() -> ErrorResponse {
    let message = "the queue has another leader now, or is being changed: try again";
    ErrorResponse::new(ErrorCode::NotLeader, message)
}

pub(crate) fn bug(what: &str) -> ErrorResponse {
    tracing::error!(what, "this should not happen");
    ErrorResponse::new(ErrorCode::Internal, format!("the node failed: {what}; this is a bug"))
}

pub(crate) fn below_log_start(offset: Offset, log_start: Offset) -> ErrorResponse {
    ErrorResponse::new(
        ErrorCode::OffsetOutOfRange,
        format!(
            "offset {offset} was dropped by retention: the log starts at {log_start} now; read from \
             there (earliest)"
        ),
    )
    .with_offset(log_start.0)
}

/// What is wrong with a produced batch.
pub(crate) fn batch(
    error: &BatchError,
    topic: &TopicName,
    partition: PartitionIndex,
) -> ErrorResponse {
    let code = error.code();
    let mut reason = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        reason = format!("{reason}: {cause}");
        source = cause.source();
    }
    let advice = match code {
        ErrorCode::BatchTooLarge => {
            "send smaller batches, or raise batch-bytes-max of the topic or the node"
        }
        ErrorCode::UnsupportedCompression => "use none, lz4 or zstd",
        _ => "nothing of it was stored; the producer or the way to the node damaged it",
    };
    let message = format!("batch for {topic}/{partition} refused: {reason}; {advice}");
    ErrorResponse::new(code, message)
}

pub(crate) fn config(error: &ConfigError) -> ErrorResponse {
    ErrorResponse::new(ErrorCode::InvalidConfig, error.to_string())
}

pub(crate) fn catalog(refusal: &CatalogRefusal) -> ErrorResponse {
    let code = match refusal {
        CatalogRefusal::TopicExists { .. } => ErrorCode::TopicExists,
        CatalogRefusal::UnknownTopic { topic } => return unknown_topic(topic),
        CatalogRefusal::CompactedQueue { .. } => ErrorCode::InvalidConfig,
        CatalogRefusal::TooManyTopics | CatalogRefusal::TooManySubscriptions { .. } => {
            ErrorCode::TooManyPartitions
        }
        CatalogRefusal::UnknownSubscription { .. } => ErrorCode::UnknownQueue,
        CatalogRefusal::PartitionsOutOfRange { asked: 0 }
        | CatalogRefusal::FewerPartitions { .. }
        | CatalogRefusal::NoReplicas
        | CatalogRefusal::TooManyReplicas { .. }
        | CatalogRefusal::ProducerIdsOutOfRange { .. }
        | CatalogRefusal::AddressTaken { .. }
        | CatalogRefusal::InvalidNode { .. }
        | CatalogRefusal::NodeNotActive { .. }
        | CatalogRefusal::TooManyNodes
        | CatalogRefusal::NodeIdsUsedUp
        | CatalogRefusal::SetUpAlready { .. } => ErrorCode::InvalidArgument,
        CatalogRefusal::Amqp { refusal } => amqp(refusal),
        CatalogRefusal::PartitionsOutOfRange { .. } => ErrorCode::TooManyPartitions,
        CatalogRefusal::NotEnoughNodes { .. } => ErrorCode::NotEnoughNodes,
        CatalogRefusal::StalePlacement { .. } => ErrorCode::StalePlacement,
        CatalogRefusal::UnknownNode { .. } | CatalogRefusal::NodeRemoved { .. } => {
            ErrorCode::UnknownNode
        }
        CatalogRefusal::NodeInUse { .. } => ErrorCode::NodeInUse,
        CatalogRefusal::LastNode { .. } => ErrorCode::RemovalLosesQuorum,
        CatalogRefusal::NotSetUp => ErrorCode::NotReady,
        CatalogRefusal::DeletedSince => ErrorCode::UnknownTopic,
        CatalogRefusal::Unreadable { .. }
        | CatalogRefusal::InvalidPlacement { .. }
        | CatalogRefusal::PlacementMissing
        | CatalogRefusal::TooManyChanges { .. }
        | CatalogRefusal::UnknownGroup { .. }
        | CatalogRefusal::LevelFalls { .. }
        | CatalogRefusal::LevelTooLow { .. } => ErrorCode::Internal,
    };
    ErrorResponse::new(code, refusal.to_string())
}

fn amqp(refusal: &AmqpRefusal) -> ErrorCode {
    match refusal {
        AmqpRefusal::UnknownVhost { .. } => ErrorCode::UnknownVhost,
        AmqpRefusal::UnknownUser { .. } => ErrorCode::UnknownUser,
        AmqpRefusal::UnknownExchange { .. }
        | AmqpRefusal::UnknownQueue { .. }
        | AmqpRefusal::ReservedExchange { .. }
        | AmqpRefusal::NoName { .. }
        | AmqpRefusal::ExchangeInUse { .. }
        | AmqpRefusal::TooMany { .. }
        | AmqpRefusal::TooLong { .. }
        | AmqpRefusal::NoPassword { .. }
        | AmqpRefusal::TopicHoldsQueue { .. } => ErrorCode::InvalidArgument,
    }
}

/// Why there is no placement.
pub(crate) fn plan(error: &PlanError) -> ErrorResponse {
    match error {
        PlanError::Refused(refusal) => catalog(refusal),
        PlanError::Place(_) => bug(&error.to_string()),
    }
}

/// This node's replica failed; there are others.
pub(crate) fn unusable_here(error: &dyn std::error::Error) -> ErrorResponse {
    let message = format!("{error}: this node's replica is shut off; ask another node");
    ErrorResponse::new(ErrorCode::NotLeader, message)
}

pub(crate) fn read(error: &ReadError) -> ErrorResponse {
    match error {
        ReadError::BeforeStart { offset, log_start } => below_log_start(*offset, *log_start),
        ReadError::Damaged(_) | ReadError::Quarantined(_) | ReadError::State { .. } => {
            ErrorResponse::new(
                ErrorCode::Quarantined,
                format!(
                    "{error}; the partition is shut off, nothing of it is deleted: run `plimsoll log \
                     verify` on the node's data directory"
                ),
            )
        }
        ReadError::Medium { .. } => {
            ErrorResponse::new(ErrorCode::StorageFailed, format!("{error}; check the node's disk"))
        }
        // Readers ask for offsets only; these concern Raft's reading by index.
        ReadError::Purged { .. } | ReadError::PastEnd { .. } => bug(&error.to_string()),
    }
}

pub(crate) fn open(error: &OpenGroupError) -> ErrorResponse {
    let code = match error {
        OpenGroupError::Quarantined { .. }
        | OpenGroupError::DamagedState { .. }
        | OpenGroupError::MissingEntries { .. } => ErrorCode::Quarantined,
        OpenGroupError::Storage { .. } => ErrorCode::StorageFailed,
        OpenGroupError::NotReady { .. } => ErrorCode::NotReady,
        OpenGroupError::NotPlaced { .. } => ErrorCode::NotLeader,
        OpenGroupError::Deleted { .. } => ErrorCode::UnknownTopic,
        OpenGroupError::ShuttingDown => return shutting_down(),
    };
    let advice = match code {
        ErrorCode::Quarantined => {
            "the partition is shut off, nothing of it is deleted: run `plimsoll log verify` on the \
             node's data directory"
        }
        ErrorCode::StorageFailed => "check the node's disk and its log",
        ErrorCode::NotReady => "try again",
        ErrorCode::NotLeader => "ask another node",
        _ => "its topic was deleted; create it anew",
    };
    ErrorResponse::new(code, format!("{error}: {advice}"))
}

fn not_leader(error: &NotLeader) -> ErrorResponse {
    let response = ErrorResponse::new(ErrorCode::NotLeader, error.to_string());
    match error.leader {
        Some(leader) => response.with_leader(leader, error.address.clone().unwrap_or_default()),
        None => response,
    }
}

/// Why a read cannot be as fresh as it must be.
pub(crate) fn fresh(error: &FreshnessError) -> ErrorResponse {
    match error {
        FreshnessError::NotLeader(error) => not_leader(error),
        FreshnessError::NoQuorum(error) => {
            ErrorResponse::new(ErrorCode::NoQuorum, error.to_string())
        }
        FreshnessError::TooStale { .. } => ErrorResponse::new(
            ErrorCode::TooStale,
            format!("{error}: ask another replica or the leader, or allow more"),
        ),
        FreshnessError::Group(error) => open(error),
    }
}

/// Why leadership was not handed over.
pub(crate) fn transfer(error: &TransferError) -> ErrorResponse {
    let code = match error {
        TransferError::NotLeader => ErrorCode::NotLeader,
        TransferError::NoVoter { .. } => ErrorCode::InvalidArgument,
        TransferError::NobodyReady | TransferError::NotTaken { .. } => ErrorCode::NotReady,
        TransferError::Group(error) => return open(error),
    };
    ErrorResponse::new(code, error.to_string())
}

/// The topic takes nothing without a fence.
pub(crate) fn fence_required(topic: &TopicName) -> ErrorResponse {
    let message = format!(
        "topic {topic} takes nothing without a fence (require-fence=true): write under a lock, and show the \
         token of its grant"
    );
    ErrorResponse::new(ErrorCode::FenceRequired, message)
}

/// Why a batch was not stored.
pub(crate) fn produce(
    error: &ProduceError,
    topic: &TopicName,
    partition: PartitionIndex,
) -> ErrorResponse {
    let code = match error {
        ProduceError::OutOfOrderSequence { .. } => ErrorCode::OutOfOrderSequence,
        ProduceError::StaleProducerEpoch { .. } => ErrorCode::StaleProducerEpoch,
        ProduceError::UnknownProducer => ErrorCode::UnknownProducer,
        ProduceError::DuplicateSequence => ErrorCode::DuplicateSequence,
        ProduceError::Unknown => ErrorCode::Timeout,
        ProduceError::NotLeader(error) => return not_leader(error),
        ProduceError::NoQuorum(_) => ErrorCode::NoQuorum,
        ProduceError::Group(error) => return open(error),
    };
    let response = ErrorResponse::new(code, format!("{topic}/{partition}: {error}"));
    match error {
        ProduceError::OutOfOrderSequence { expected } => response.with_offset(*expected),
        _ => response,
    }
}

/// Why a command of the catalog was not carried out.
pub(crate) fn propose(error: &ProposeError) -> ErrorResponse {
    match error {
        ProposeError::NotLeader(error) => not_leader(error),
        ProposeError::NoQuorum(error) => ErrorResponse::new(ErrorCode::NoQuorum, error.to_string()),
        ProposeError::Unknown => ErrorResponse::new(ErrorCode::Timeout, error.to_string()),
        ProposeError::Group(error) => open(error),
    }
}

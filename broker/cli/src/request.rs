//! A request that was refused or got no answer, in words and as an exit code.

use plimsoll_client::RequestError;
use plimsoll_protocol::error::ErrorCode;
use plimsoll_protocol::ids::{TopicName, TopicNameError};

use crate::connection;
use crate::exit::Exit;
use crate::failure::Failure;

/// Why `doing` ("create topic `orders`") did not happen, and what to do.
pub(crate) fn request_failure(doing: &str, error: &RequestError) -> Failure {
    failure(doing, error, |code| hint_for(code).map(str::to_owned))
}

/// The same of a queue, or of a subscription.
pub(crate) fn queue_failure(doing: &str, error: &RequestError) -> Failure {
    failure(doing, error, |code| queue_hint_for(code).map(str::to_owned))
}

/// The same with a hint of the caller's own.
pub(crate) fn failure(
    doing: &str,
    error: &RequestError,
    hint: impl FnOnce(ErrorCode) -> Option<String>,
) -> Failure {
    let exit = match error {
        RequestError::Connect(error) => connection::exit_of(error),
        RequestError::Refused(refusal) => exit_of(refusal.code),
        _ => Exit::Failed,
    };
    let failure = Failure::new(exit, format!("cannot {doing}: {error}"));
    failure.maybe_hint(error.code().and_then(hint).as_deref())
}

/// The name of a topic that is there: also one that belongs to Plimsoll, as those of AMQP's queues do.
pub(crate) fn known_topic(text: &str) -> Result<TopicName, TopicNameError> {
    TopicName::internal(text)
}

/// The exit code of a refusal.
pub(crate) fn exit_of(code: ErrorCode) -> Exit {
    match code {
        ErrorCode::UnknownTopic
        | ErrorCode::UnknownQueue
        | ErrorCode::UnknownGroup
        | ErrorCode::UnknownPartition
        | ErrorCode::UnknownVhost
        | ErrorCode::UnknownUser
        | ErrorCode::UnknownNamespace
        | ErrorCode::UnknownLock
        | ErrorCode::UnknownNode => Exit::NotFound,
        _ => Exit::Failed,
    }
}

/// What a user of this binary can do about a refusal that concerns a queue.
pub(crate) fn queue_hint_for(code: ErrorCode) -> Option<&'static str> {
    Some(match code {
        ErrorCode::UnknownTopic | ErrorCode::UnknownQueue => {
            "`plimsoll queue list` shows the queues, `plimsoll queue create NAME` makes one"
        }
        ErrorCode::UnknownPartition => {
            "`plimsoll queue describe NAME` shows the partitions, which are counted from 0"
        }
        ErrorCode::TopicExists => {
            "`--if-not-exists` accepts a queue that is there, `plimsoll queue alter` changes it"
        }
        ErrorCode::InvalidConfig => "`plimsoll queue create --help` lists the settings",
        other => return hint_for(other),
    })
}

/// What a user of this binary can do about a refusal, where that is more than the node can know.
pub(crate) fn hint_for(code: ErrorCode) -> Option<&'static str> {
    Some(match code {
        ErrorCode::UnknownTopic => {
            "`plimsoll topic list` shows the topics, `plimsoll topic create NAME` makes one"
        }
        ErrorCode::UnknownPartition => {
            "`plimsoll topic describe NAME` shows the partitions, which are counted from 0"
        }
        ErrorCode::UnknownVhost => {
            "`plimsoll amqp vhost list` shows the virtual hosts, `plimsoll amqp vhost create NAME` makes one"
        }
        ErrorCode::UnknownUser => {
            "`plimsoll amqp user list` shows the users, `plimsoll amqp user create NAME` makes one"
        }
        ErrorCode::UserExists => {
            "`plimsoll amqp user passwd` changes a password, `plimsoll amqp user tags` the tags"
        }
        ErrorCode::UnknownNamespace => {
            "`plimsoll lock namespace list` shows the namespaces, `plimsoll lock namespace create NAME` \
             makes one"
        }
        ErrorCode::NamespaceExists => "`--if-not-exists` accepts a namespace that is there",
        ErrorCode::NoQuorum => {
            "`plimsoll cluster status` shows which nodes are down; start them, nothing is lost"
        }
        ErrorCode::NotEnoughNodes => "`plimsoll cluster token` shows how a node is added",
        ErrorCode::NodeInUse => "`plimsoll cluster status --watch` shows when it is empty",
        ErrorCode::RemovalLosesQuorum => {
            "`plimsoll cluster status` shows which nodes are down; start them, or wait for the moves"
        }
        ErrorCode::StalePlacement => "another change came first: try again",
        ErrorCode::TopicExists => {
            "`--if-not-exists` accepts a topic that is there, `plimsoll topic alter` changes it"
        }
        ErrorCode::InvalidConfig => "`plimsoll topic create --help` lists the settings",
        ErrorCode::OffsetOutOfRange => {
            "`--from earliest` begins at the first record there is; a time in milliseconds is \
             written with an @ before it"
        }
        ErrorCode::LowDiskSpace => {
            "free some space on the node's disk, delete topics, or shorten their retention with \
             `plimsoll topic alter NAME --config retention-ms=1h`"
        }
        ErrorCode::Quarantined => {
            "stop the node and run `plimsoll log verify DIR` on its data directory to see the damage"
        }
        ErrorCode::StaleFence => {
            "another holder has the lock now, and what it does counts: stop, or take the lock again"
        }
        ErrorCode::UnknownFence => {
            "--fence or PLIMSOLL_FENCE names a grant that the lock does not know"
        }
        ErrorCode::FenceRequired => {
            "--fence or PLIMSOLL_FENCE names the lock that is held: NAMESPACE/LOCK/TOKEN"
        }
        ErrorCode::NotCompacted => {
            "`plimsoll topic create NAME --compact` makes a topic for keys and values, `plimsoll topic \
             alter NAME --config cleanup=compact` turns this one into it"
        }
        ErrorCode::OffsetCompacted => {
            "without --from what is there is read first, and nothing is missed"
        }
        ErrorCode::KeyRequired => {
            "the topic is compacted: --key or --key-separator gives records a key"
        }
        ErrorCode::UnsupportedVersion => "use a client and a node of the same version",
        ErrorCode::Internal => "please report it with what the node logged at that moment",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use plimsoll_client::ServerError;

    #[test]
    fn unknown_topic_is_not_found() {
        let refusal = ServerError {
            code: ErrorCode::UnknownTopic,
            message: "there is no topic `orders`".to_owned(),
            leader: None,
            detail: None,
        };
        let failure = request_failure("describe topic orders", &RequestError::Refused(refusal));
        assert_eq!(failure.exit(), Exit::NotFound);
        let text = failure.to_string();
        assert!(text.starts_with("cannot describe topic orders: there is no topic"), "{text}");
        assert!(text.contains("plimsoll topic create"), "{text}");
    }
}

//! `plimsoll kv`: a compacted topic as a map of keys and values.

mod change;
mod history;
mod read;
mod render;
mod watch;

use clap::{Args, Subcommand};
use plimsoll_client::{BuildError, ErrorCode, KvError};
use plimsoll_protocol::ids::TopicName;

use crate::connection::ConnectionArgs;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::produce::build_failure;
use crate::request::{exit_of, hint_for, request_failure};

const AFTER_HELP: &str = "\
Examples:
  plimsoll topic create settings --compact
  plimsoll kv put settings colour blue
  plimsoll kv get settings colour
  plimsoll kv cas settings colour 0 red
  plimsoll kv scan settings
  plimsoll kv watch settings";

/// Of a watch from a revision that is still to come.
const AHEAD: &str = "--from-now watches what comes next, whatever its revision; without --from what is there is read first";

/// Keys and values: a compacted topic as a map
///
/// A key's value is its last record, and the record's offset in the key's partition its revision. Revisions of
/// one key grow; those of keys in different partitions do not compare. Reads see everything that was
/// acknowledged before; with --stale what any replica has.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_HELP)]
pub(crate) struct KvArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(subcommand)]
    command: KvCommand,
}

#[derive(Debug, Subcommand)]
enum KvCommand {
    Get(read::GetArgs),
    Put(change::PutArgs),
    Cas(change::CasArgs),
    Delete(change::DeleteArgs),
    Scan(read::ScanArgs),
    Watch(watch::WatchArgs),
    History(history::HistoryArgs),
}

impl KvArgs {
    pub(crate) async fn run(self) -> Result<Exit, Failure> {
        let connection = &self.connection;
        match self.command {
            KvCommand::Get(args) => args.run(connection).await,
            KvCommand::Put(args) => args.run(connection).await,
            KvCommand::Cas(args) => args.run(connection).await,
            KvCommand::Delete(args) => args.run(connection).await,
            KvCommand::Scan(args) => args.run(connection).await,
            KvCommand::Watch(args) => args.run(connection).await,
            KvCommand::History(args) => args.run(connection).await,
        }
    }
}

/// Why `doing` ("put colour of settings") did not happen, and what to do.
fn kv_failure(doing: &str, topic: &TopicName, error: &KvError) -> Failure {
    let text = format!("cannot {doing}: {error}");
    match error {
        KvError::Request(error) => request_failure(doing, error),
        KvError::Build(error @ BuildError::Request(_)) => build_failure(doing, error),
        KvError::Build(_) => Failure::new(Exit::Usage, text),
        KvError::Conflict { revision: Some(_) } => Failure::new(Exit::Conflict, text)
            .hint(format!("`plimsoll kv get {topic} KEY --json` shows what it has now")),
        KvError::Conflict { revision: None } => Failure::new(Exit::Conflict, text)
            .hint("`plimsoll kv put --if-absent` gives a value to a key that has none"),
        KvError::StaleFence { .. } => {
            Failure::new(Exit::Failed, text).maybe_hint(hint_for(ErrorCode::StaleFence))
        }
        KvError::Unknown { .. } => Failure::new(Exit::Failed, text)
            .hint(format!("`plimsoll kv get {topic} KEY` shows whether it is")),
        KvError::Compacted { .. } => {
            Failure::new(Exit::Failed, text).maybe_hint(hint_for(ErrorCode::OffsetCompacted))
        }
        KvError::TooLarge(_) => Failure::new(Exit::Failed, text),
        KvError::Consume(_) => {
            let code = error.code();
            let exit = code.map_or(Exit::Failed, exit_of);
            let hint = match code {
                Some(ErrorCode::OffsetOutOfRange) => Some(AHEAD),
                code => code.and_then(hint_for),
            };
            Failure::new(exit, text).maybe_hint(hint)
        }
    }
}

#[cfg(test)]
mod tests {
    use plimsoll_client::{ConsumeError, RequestError, Revision, ServerError};

    use super::*;

    #[test]
    fn failures_say_what_the_key_has_and_what_to_do() {
        let topic = "settings".parse().unwrap();
        let told = |error: &KvError| {
            let failure = kv_failure("put colour of settings", &topic, error);
            (failure.exit(), failure.to_string())
        };
        let (exit, text) = told(&KvError::Conflict { revision: Some(Revision(7)) });
        assert_eq!(exit, Exit::Conflict);
        assert!(text.contains("revision 7") && text.contains("kv get settings"), "{text}");
        let (exit, text) = told(&KvError::Conflict { revision: None });
        assert_eq!(exit, Exit::Conflict);
        assert!(text.contains("no value") && text.contains("--if-absent"), "{text}");
        let (_, text) = told(&KvError::StaleFence { highest: 12 });
        assert!(text.contains("seen of it is 12"), "{text}");
        let refusal =
            |code| ServerError { code, message: "refused".to_owned(), leader: None, detail: None };
        let (_, text) = told(&RequestError::from(refusal(ErrorCode::NotCompacted)).into());
        assert!(text.contains("--compact"), "{text}");
        let (exit, _) = told(&RequestError::from(refusal(ErrorCode::UnknownTopic)).into());
        assert_eq!(exit, Exit::NotFound);
    }

    #[test]
    fn a_watch_that_cannot_begin_is_told_what_it_can_do() {
        let topic = "settings".parse().unwrap();
        let told = |error: &KvError| kv_failure("watch settings", &topic, error).to_string();
        let source = ServerError {
            code: ErrorCode::OffsetOutOfRange,
            message: "above the high watermark".to_owned(),
            leader: None,
            detail: Some(7),
        };
        let text = told(&KvError::Consume(ConsumeError::Refused { partition: 0, source }));
        assert!(text.contains("--from-now") && !text.contains('@'), "{text}");
        let (wanted, first) = (Some(Revision(2)), Some(Revision(9)));
        let text = told(&KvError::Compacted { partition: 0, wanted, first });
        assert!(text.contains("revision 2 on") && text.contains("revision 9"), "{text}");
        assert!(text.contains("without --from"), "{text}");
    }
}

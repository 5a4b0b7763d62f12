//! `plimsoll topic delete`: asks before it destroys.

use clap::Args;
use plimsoll_client::{Admin, RequestError};
use plimsoll_protocol::error::ErrorCode;
use plimsoll_protocol::ids::TopicName;

use crate::confirm::confirm;
use crate::connection::ConnectionArgs;
use crate::exit::Exit;
use crate::failure::{Failure, note};
use crate::request::request_failure;

const AFTER_HELP: &str = "\
Examples:
  plimsoll topic delete orders
  plimsoll topic delete orders clicks --yes
  plimsoll topic delete scratch --yes --if-exists";

/// Delete topics with all their records
///
/// Asks first on a terminal; elsewhere --yes is needed. Subscriptions of a deleted topic end with
/// an error. The records cannot be brought back.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_HELP)]
pub(super) struct DeleteArgs {
    /// The topics
    #[arg(required = true, value_name = "TOPIC")]
    topics: Vec<TopicName>,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    /// Succeed when there is no such topic
    #[arg(long)]
    if_exists: bool,
}

impl DeleteArgs {
    pub(super) async fn run(self, connection: &ConnectionArgs) -> Result<Exit, Failure> {
        let names: Vec<_> = self.topics.iter().map(TopicName::as_str).collect();
        let names = names.join(", ");
        let question = format!("Delete {names} and all records in it?");
        confirm(self.yes, &question, &format!("deleting {names}"), "deleted")?;
        connection.with_client(async |client| self.delete(&client.admin()).await).await
    }

    async fn delete(&self, admin: &Admin) -> Result<Exit, Failure> {
        for (deleted, topic) in self.topics.iter().enumerate() {
            match admin.delete_topic(topic.as_str()).await {
                Ok(()) => note(&format!("deleted topic {topic}")),
                Err(error) if self.if_exists && is_unknown(&error) => {
                    note(&format!("there is no topic {topic}"));
                }
                Err(error) => {
                    let failure = request_failure(&format!("delete topic {topic}"), &error);
                    return Err(if deleted > 0 {
                        failure.with_exit(Exit::Partly)
                    } else {
                        failure
                    });
                }
            }
        }
        Ok(Exit::Done)
    }
}

fn is_unknown(error: &RequestError) -> bool {
    error.code() == Some(ErrorCode::UnknownTopic)
}

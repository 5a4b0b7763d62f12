//! `plimsoll amqp queue`.

use clap::{Args, Subcommand};
use plimsoll_client::AmqpQueueInfo;
use serde::Serialize;

use crate::connection::ConnectionArgs;
use crate::exit::Exit;
use crate::failure::{Failure, note};
use crate::output::Output;
use crate::request::request_failure;
use crate::table::Table;

const AFTER_HELP: &str = "\
Examples:
  plimsoll amqp queue list
  plimsoll amqp queue list --vhost harbour --json
  plimsoll queue explain __amqp.0cd527539e0d831c9a9a78c809c9e72e 17";

/// List queues of AMQP clients
///
/// AMQP's own clients declare and delete them. Each lies in a topic, by whose name `plimsoll queue`
/// describes it, peeks, receives and explains.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_HELP)]
pub(super) struct QueueArgs {
    #[command(subcommand)]
    command: QueueCommand,
}

#[derive(Debug, Subcommand)]
enum QueueCommand {
    List(ListArgs),
}

/// List queues, with the topics that hold them
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_HELP)]
struct ListArgs {
    /// Only those of this virtual host
    #[arg(long, value_name = "NAME")]
    vhost: Option<String>,
    /// Print a JSON object per line
    #[arg(long)]
    json: bool,
}

/// A queue as `--json` prints it.
#[derive(Debug, Serialize)]
struct QueueJson<'a> {
    vhost: &'a str,
    queue: &'a str,
    topic: &'a str,
    created_ms: i64,
    durable: bool,
    auto_delete: bool,
    exclusive: bool,
}

impl QueueArgs {
    pub(super) async fn run(self, connection: &ConnectionArgs) -> Result<Exit, Failure> {
        match self.command {
            QueueCommand::List(args) => args.run(connection).await,
        }
    }
}

impl ListArgs {
    async fn run(self, connection: &ConnectionArgs) -> Result<Exit, Failure> {
        let queues = connection
            .with_client(async |client| {
                let listed = client.admin().list_amqp_queues(self.vhost.as_deref()).await;
                listed.map_err(|error| request_failure("list queues of AMQP", &error))
            })
            .await?;
        let mut output = Output::stdout();
        if self.json {
            queues.iter().try_for_each(|queue| {
                let AmqpQueueInfo { name, topic, created_ms, durable, auto_delete, exclusive } =
                    queue;
                output.json(&QueueJson {
                    vhost: &name.vhost,
                    queue: &name.queue,
                    topic,
                    created_ms: *created_ms,
                    durable: *durable,
                    auto_delete: *auto_delete,
                    exclusive: *exclusive,
                })
            })?;
        } else if queues.is_empty() {
            note("no queues of AMQP; its clients declare them");
        } else {
            let mut table = Table::new(&["VHOST", "QUEUE", "TOPIC", "LIFE"]);
            for queue in &queues {
                let AmqpQueueInfo { name, topic, .. } = queue;
                table.row(vec![name.vhost.clone(), name.queue.clone(), topic.clone(), life(queue)]);
            }
            table.lines().iter().try_for_each(|line| output.line(line))?;
        }
        output.flush()?;
        Ok(Exit::Done)
    }
}

/// How long it lasts, in AMQP's words.
fn life(queue: &AmqpQueueInfo) -> String {
    let kinds = [
        (queue.durable, "durable"),
        (queue.auto_delete, "auto-delete"),
        (queue.exclusive, "exclusive"),
    ];
    let words: Vec<_> = kinds.iter().filter(|(is, _)| *is).map(|(_, word)| *word).collect();
    if words.is_empty() { "transient".to_owned() } else { words.join(",") }
}

//! `plimsoll topic`: create, list, describe, alter, delete.

mod delete;
mod render;

use clap::{ArgGroup, Args, Subcommand};
use plimsoll_client::NewTopic;
use plimsoll_protocol::api::{ConfigChange, TOPIC_CONFIG_KEYS, TopicConfig};
use plimsoll_protocol::error::ErrorCode;
use plimsoll_protocol::ids::TopicName;

use crate::connection::ConnectionArgs;
use crate::exit::Exit;
use crate::failure::{Failure, note};
use crate::output::Output;
use crate::request::{known_topic, request_failure};
use delete::DeleteArgs;

const AFTER_HELP: &str = "\
Examples:
  plimsoll topic create orders --partitions 12
  plimsoll topic list
  plimsoll topic describe orders
  plimsoll topic alter orders --config retention-ms=30d
  plimsoll topic delete orders";

/// Create, list, describe, alter and delete topics
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_HELP)]
pub(crate) struct TopicArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(subcommand)]
    command: TopicCommand,
}

#[derive(Debug, Subcommand)]
enum TopicCommand {
    Create(CreateArgs),
    List(ListArgs),
    Describe(DescribeArgs),
    Alter(AlterArgs),
    Delete(DeleteArgs),
}

/// Create a topic
///
/// The number of partitions can be raised later, never lowered; raising it moves keys to other
/// partitions.
#[derive(Debug, Args)]
#[command(after_long_help = create_help())]
struct CreateArgs {
    /// Its name: 1 to 255 of A-Z a-z 0-9 . _ -
    topic: TopicName,
    /// How many partitions; each is ordered in itself, and they are worked on in parallel
    #[arg(long, short, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    partitions: u32,
    /// How many nodes keep each partition; with 3 it goes on when one of them is gone [default: 3, or one on
    /// each node where there are fewer]
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    replicas: Option<u16>,
    /// A setting; may be given several times
    #[arg(long, short, value_name = "KEY=VALUE")]
    config: Vec<String>,
    /// Keep the last record of each key, and no other: --config cleanup=compact
    #[arg(long)]
    compact: bool,
    /// Succeed when the topic exists already, and leave it as it is
    #[arg(long)]
    if_not_exists: bool,
    /// Print the topic as a JSON object
    #[arg(long)]
    json: bool,
}

/// List topics
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  plimsoll topic list\n  plimsoll topic list orders.\n  \
                             plimsoll topic list --json | jq -r .name")]
struct ListArgs {
    /// Only topics whose name begins with this
    prefix: Option<String>,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

/// Show a topic, its settings and where each partition stands
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  plimsoll topic describe orders\n  \
                             plimsoll topic describe orders --json | jq .partitions[0].high_watermark")]
struct DescribeArgs {
    /// The topic
    #[arg(value_parser = known_topic)]
    topic: TopicName,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

/// Change a topic's settings or raise its number of partitions
///
/// All changes take effect together, or none does.
#[derive(Debug, Args)]
#[command(after_long_help = alter_help())]
#[command(group(ArgGroup::new("changes").args(["partitions", "config"]).required(true).multiple(true)))]
struct AlterArgs {
    /// The topic
    topic: TopicName,
    /// The new number of partitions; it can only grow, and keys move to other partitions
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    partitions: Option<u32>,
    /// A setting; KEY=default goes back to its default; may be given several times
    #[arg(long, short, value_name = "KEY=VALUE")]
    config: Vec<String>,
    /// Print the topic as a JSON object
    #[arg(long)]
    json: bool,
}

/// The settings of a topic, for the help pages.
fn settings_help() -> String {
    let mut text = String::from("Settings (--config KEY=VALUE):");
    for key in TOPIC_CONFIG_KEYS {
        text.push_str(&format!("\n  {}  (default {}; {})", key.name, key.default, key.bounds));
        text.push_str(&format!("\n      {}", key.meaning));
    }
    text
}

fn create_help() -> String {
    format!(
        "{}\n\nExamples:\n  plimsoll topic create orders --partitions 12 --replicas 3\n  \
         plimsoll topic create clicks -p 4 -c durability=memory -c retention-ms=1h\n  \
         plimsoll topic create audit --config retention-ms=none --if-not-exists\n  \
         plimsoll topic create settings --compact",
        settings_help()
    )
}

fn alter_help() -> String {
    format!(
        "{}\n\nExamples:\n  plimsoll topic alter orders --partitions 24\n  \
         plimsoll topic alter orders --config retention-ms=30d --config retention-bytes=10GiB\n  \
         plimsoll topic alter orders --config retention-bytes=default",
        settings_help()
    )
}

impl TopicArgs {
    pub(crate) async fn run(self) -> Result<Exit, Failure> {
        match self.command {
            TopicCommand::Create(args) => args.run(&self.connection).await,
            TopicCommand::List(args) => args.run(&self.connection).await,
            TopicCommand::Describe(args) => args.run(&self.connection).await,
            TopicCommand::Alter(args) => args.run(&self.connection).await,
            TopicCommand::Delete(args) => args.run(&self.connection).await,
        }
    }
}

impl CreateArgs {
    async fn run(self, connection: &ConnectionArgs) -> Result<Exit, Failure> {
        let compact = self.compact.then_some("cleanup=compact");
        // What is said by --config is more exact.
        let pairs = compact.into_iter().chain(self.config.iter().map(String::as_str));
        let config = TopicConfig::from_pairs(pairs).map_err(|error| usage(&error))?;
        let topic = NewTopic {
            name: self.topic.to_string(),
            partitions: self.partitions,
            replicas: self.replicas.unwrap_or(0),
            config,
            if_not_exists: false,
        };
        let mut existed = false;
        let made = connection
            .with_client(async |client| {
                let admin = client.admin();
                let mut outcome = admin.create_topic(topic.clone()).await;
                // Asked in two steps, so that it can be told whether the topic was there before.
                if let Err(error) = &outcome
                    && error.code() == Some(ErrorCode::TopicExists)
                    && self.if_not_exists
                {
                    existed = true;
                    outcome = admin.create_topic(NewTopic { if_not_exists: true, ..topic }).await;
                }
                let doing = format!("create topic {}", self.topic);
                outcome.map_err(|error| request_failure(&doing, &error))
            })
            .await?;
        if self.json {
            return render::print_json(&render::TopicJson::of(&made));
        }
        let verb = if existed { "there is already topic" } else { "created topic" };
        note(&format!("{verb} {}", render::one_line(&made)));
        Ok(Exit::Done)
    }
}

impl ListArgs {
    async fn run(self, connection: &ConnectionArgs) -> Result<Exit, Failure> {
        let topics = connection
            .with_client(async |client| {
                let listed = client.admin().list_topics(self.prefix.as_deref()).await;
                listed.map_err(|error| request_failure("list topics", &error))
            })
            .await?;
        let mut output = Output::stdout();
        if self.json {
            topics.iter().try_for_each(|topic| output.json(&render::TopicJson::of(topic)))?;
        } else if !topics.is_empty() {
            render::table(&topics).lines().iter().try_for_each(|line| output.line(line))?;
        }
        output.flush()?;
        if topics.is_empty() && !self.json {
            match &self.prefix {
                Some(prefix) => note(&format!("no topic begins with {prefix}")),
                None => note("no topics yet; `plimsoll topic create NAME` makes one"),
            }
        }
        Ok(Exit::Done)
    }
}

impl DescribeArgs {
    async fn run(self, connection: &ConnectionArgs) -> Result<Exit, Failure> {
        let described = connection
            .with_client(async |client| {
                let described = client.admin().describe_topic(self.topic.as_str()).await;
                let doing = format!("describe topic {}", self.topic);
                described.map_err(|error| request_failure(&doing, &error))
            })
            .await?;
        if self.json {
            return render::print_json(&render::DescribedJson::of(&described));
        }
        let mut output = Output::stdout();
        render::described(&described).iter().try_for_each(|line| output.line(line))?;
        output.flush()?;
        Ok(Exit::Done)
    }
}

impl AlterArgs {
    async fn run(self, connection: &ConnectionArgs) -> Result<Exit, Failure> {
        let changes: Vec<ConfigChange> = self
            .config
            .iter()
            .map(|text| ConfigChange::parse(text))
            .collect::<Result<_, _>>()
            .map_err(|error| usage(&error))?;
        // Checked here too, so that a slip is told before anything is sent.
        TopicConfig::default().with_changes(&changes).map_err(|error| usage(&error))?;
        let changed = connection
            .with_client(async |client| {
                let name = self.topic.as_str();
                let changed = client.admin().alter_topic(name, self.partitions, changes).await;
                changed.map_err(|error| request_failure(&format!("alter topic {name}"), &error))
            })
            .await?;
        if self.json {
            return render::print_json(&render::TopicJson::of(&changed));
        }
        note(&format!("changed topic {}", render::one_line(&changed)));
        Ok(Exit::Done)
    }
}

/// A slip on the command line that the parser of arguments could not see.
fn usage(error: &impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Usage, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_lists_every_setting() {
        for key in TOPIC_CONFIG_KEYS {
            assert!(create_help().contains(key.name), "{}", key.name);
            assert!(alter_help().contains(key.meaning), "{}", key.name);
        }
    }
}

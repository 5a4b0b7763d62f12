//! Making, changing and ending queues and subscriptions.

use clap::Args;
use plimsoll_client::{ConfigChange, NewQueue, QueueSettings, TopicConfig};
use plimsoll_protocol::api::Durability;
use plimsoll_protocol::ids::TopicName;

use super::render::{QueueJson, list, one_line};
use super::{SubscriptionArgs, find_queue, settings_help, usage};
use crate::confirm::confirm;
use crate::connection::ConnectionArgs;
use crate::exit::Exit;
use crate::failure::{Failure, note};
use crate::output::Output;
use crate::request::{known_topic, queue_failure};

fn create_help() -> String {
    format!(
        "{}\n\nExamples:\n  plimsoll queue create jobs\n  plimsoll queue create jobs --replicas 3 -c \
         attempts=5 -c backoff=1s -c dead-letter=jobs.dead\n  plimsoll queue create orders \
         --partitions 8 -c mode=key-shared --if-not-exists",
        settings_help()
    )
}

/// Create a queue
///
/// Where dead letters go to a topic that does not exist, a queue of that name is created too.
#[derive(Debug, Args)]
#[command(after_long_help = create_help())]
pub(super) struct CreateArgs {
    /// Its name
    queue: TopicName,
    /// Number of partitions; order holds within one
    #[arg(long, short, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..))]
    partitions: u32,
    /// Copies of each partition, on different nodes [default: 3, or one on each node where there are fewer]
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    replicas: Option<u16>,
    /// A setting; may be given several times
    #[arg(long, short, value_name = "KEY=VALUE")]
    config: Vec<String>,
    /// Keep messages in memory only: faster, and a power failure loses what was not written back
    #[arg(long)]
    memory: bool,
    /// Succeed when the queue exists; it stays as it is
    #[arg(long)]
    if_not_exists: bool,
    /// Print the queue as a JSON object
    #[arg(long)]
    json: bool,
}

impl CreateArgs {
    pub(super) async fn run(self, connection: &ConnectionArgs) -> Result<Exit, Failure> {
        let settings = QueueSettings::from_pairs(self.config.iter().map(String::as_str))
            .map_err(|error| usage(&error))?;
        let durability = if self.memory { Durability::Memory } else { Durability::Durable };
        let queue = NewQueue {
            name: self.queue.to_string(),
            partitions: self.partitions,
            replicas: self.replicas.unwrap_or(0),
            settings,
            config: TopicConfig { durability, ..TopicConfig::default() },
            if_not_exists: self.if_not_exists,
        };
        let made = connection
            .with_client(async |client| {
                let made = client.admin().create_queue(queue).await;
                made.map_err(|error| queue_failure(&format!("create queue {}", self.queue), &error))
            })
            .await?;
        tell(&made, "created queue", self.json)
    }
}

fn tell(queue: &plimsoll_client::QueueInfo, done: &str, json: bool) -> Result<Exit, Failure> {
    if json {
        let mut output = Output::stdout();
        output.json(&QueueJson::of(queue))?;
        output.flush()?;
    } else {
        note(&format!("{done} {}", one_line(queue)));
    }
    Ok(Exit::Done)
}

/// List queues and subscriptions
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  plimsoll queue list\n  plimsoll queue list --prefix \
                             orders. --json | jq -r .queue")]
pub(super) struct ListArgs {
    /// Only those of topics whose name begins with this
    #[arg(long, value_name = "TEXT")]
    prefix: Option<String>,
    /// Print a JSON object per line
    #[arg(long)]
    json: bool,
}

impl ListArgs {
    pub(super) async fn run(self, connection: &ConnectionArgs) -> Result<Exit, Failure> {
        let queues = connection
            .with_client(async |client| {
                let listed = client.admin().list_queues(self.prefix.as_deref()).await;
                listed.map_err(|error| queue_failure("list queues", &error))
            })
            .await?;
        let mut output = Output::stdout();
        if self.json {
            queues.iter().try_for_each(|queue| output.json(&QueueJson::of(queue)))?;
        } else if !queues.is_empty() {
            list(&queues).lines().iter().try_for_each(|line| output.line(line))?;
        }
        output.flush()?;
        if queues.is_empty() && !self.json {
            note(&match &self.prefix {
                Some(prefix) => format!("no queues whose topic's name begins with {prefix:?}"),
                None => "no queues yet; `plimsoll queue create NAME` makes one".to_owned(),
            });
        }
        Ok(Exit::Done)
    }
}

fn alter_help() -> String {
    format!(
        "{}\n\nExamples:\n  plimsoll queue alter jobs -c attempts=10\n  plimsoll queue alter jobs -c \
         ttl=1h -c dead-letter=default",
        settings_help()
    )
}

/// Change how a queue or a subscription behaves
///
/// All changes take effect together, or none does. Another mode, other priorities or another value of
/// single-active make its consumers attach anew.
#[derive(Debug, Args)]
#[command(after_long_help = alter_help())]
pub(super) struct AlterArgs {
    /// The queue, or the topic of the subscription
    queue: TopicName,
    #[command(flatten)]
    subscription: SubscriptionArgs,
    /// A setting; KEY=default goes back to its default; may be given several times
    #[arg(long, short, value_name = "KEY=VALUE", required = true)]
    config: Vec<String>,
    /// Print the queue as a JSON object
    #[arg(long)]
    json: bool,
}

fn changes(config: &[String]) -> Result<Vec<ConfigChange>, Failure> {
    // Checked here too, so that a slip is told before anything is sent.
    for pair in config {
        QueueSettings::from_pairs([pair.as_str()]).map_err(|error| usage(&error))?;
    }
    let changes = config.iter().map(|text| ConfigChange::parse(text));
    changes.collect::<Result<_, _>>().map_err(|error| usage(&error))
}

impl AlterArgs {
    pub(super) async fn run(self, connection: &ConnectionArgs) -> Result<Exit, Failure> {
        let changes = changes(&self.config)?;
        let changed = connection
            .with_client(async |client| {
                let queue =
                    client.admin().queue(self.queue.as_str(), &*self.subscription.subscription);
                let changed = queue.put(changes, false).await;
                changed
                    .map_err(|error| queue_failure(&format!("alter queue {}", self.queue), &error))
            })
            .await?;
        tell(&changed, "changed", self.json)
    }
}

fn subscribe_help() -> String {
    format!(
        "{}\n\nExamples:\n  plimsoll queue subscribe orders billing\n  plimsoll queue subscribe orders \
         audit --from-latest -c attempts=3",
        settings_help()
    )
}

/// Make a subscription on a topic that settles message by message
///
/// It begins at what can still be read, or with --from-latest at what comes from now on. Records stay as
/// long as the topic's retention says: what is dropped before it is settled is lost to the subscription.
#[derive(Debug, Args)]
#[command(after_long_help = subscribe_help())]
pub(super) struct SubscribeArgs {
    /// The topic
    topic: TopicName,
    /// The subscription's name
    name: String,
    /// A setting; may be given several times
    #[arg(long, short, value_name = "KEY=VALUE")]
    config: Vec<String>,
    /// Begin at what comes from now on
    #[arg(long)]
    from_latest: bool,
    /// Print the subscription as a JSON object
    #[arg(long)]
    json: bool,
}

impl SubscribeArgs {
    pub(super) async fn run(self, connection: &ConnectionArgs) -> Result<Exit, Failure> {
        if self.name.is_empty() {
            return Err(usage(&"a subscription needs a name"));
        }
        let changes = changes(&self.config)?;
        let made = connection
            .with_client(async |client| {
                let queue = client.admin().queue(self.topic.as_str(), &*self.name);
                let made = queue.put(changes, self.from_latest).await;
                made.map_err(|error| queue_failure(&format!("subscribe to {}", self.topic), &error))
            })
            .await?;
        tell(&made, "subscribed:", self.json)
    }
}

/// End a subscription
///
/// Its account of what is settled is forgotten. Asks first on a terminal; elsewhere --yes is needed. A
/// queue itself ends by `plimsoll queue delete`.
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  plimsoll queue unsubscribe orders billing --yes")]
pub(super) struct UnsubscribeArgs {
    /// The topic
    topic: TopicName,
    /// The subscription's name
    name: String,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

impl UnsubscribeArgs {
    pub(super) async fn run(self, connection: &ConnectionArgs) -> Result<Exit, Failure> {
        let what = format!("subscription {} of {}", self.name, self.topic);
        confirm(self.yes, &format!("End {what}?"), &format!("ending {what}"), "ended")?;
        connection
            .with_client(async |client| {
                let ended = client.admin().queue(self.topic.as_str(), &*self.name).delete().await;
                ended.map_err(|error| queue_failure(&format!("end {what}"), &error))
            })
            .await?;
        note(&format!("ended {what}"));
        Ok(Exit::Done)
    }
}

/// End all messages of a queue that no consumer holds
///
/// Asks first on a terminal; elsewhere --yes is needed. They are not dead letters: they are gone.
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  plimsoll queue purge jobs --yes")]
pub(super) struct PurgeArgs {
    /// The queue, or the topic of the subscription
    #[arg(value_parser = known_topic)]
    queue: TopicName,
    #[command(flatten)]
    subscription: SubscriptionArgs,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

impl PurgeArgs {
    pub(super) async fn run(self, connection: &ConnectionArgs) -> Result<Exit, Failure> {
        let queue = &self.queue;
        let question = format!("End all messages of {queue}?");
        confirm(self.yes, &question, &format!("purging {queue}"), "purged")?;
        let gone = connection
            .with_client(async |client| {
                let doing = format!("purge {queue}");
                let failed = |error| queue_failure(&doing, &error);
                let admin = client.admin();
                let described = admin.describe_topic(queue.as_str()).await.map_err(failed)?;
                let handle = admin.queue(queue.as_str(), &*self.subscription.subscription);
                let mut gone = 0;
                for partition in 0..described.topic.partitions {
                    gone += handle.purge(partition).await.map_err(failed)?;
                }
                Ok(gone)
            })
            .await?;
        note(&format!("{gone} messages of {queue} are gone"));
        Ok(Exit::Done)
    }
}

/// Delete a queue and all of its messages
///
/// Subscriptions of its topic go with it; where its dead letters went stays. Asks first on a terminal;
/// elsewhere --yes is needed.
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  plimsoll queue delete jobs --yes")]
pub(super) struct DeleteArgs {
    /// The queue
    queue: TopicName,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

impl DeleteArgs {
    pub(super) async fn run(self, connection: &ConnectionArgs) -> Result<Exit, Failure> {
        let queue = &self.queue;
        let question = format!("Delete queue {queue} and all of its messages?");
        confirm(self.yes, &question, &format!("deleting {queue}"), "deleted")?;
        connection
            .with_client(async |client| {
                let doing = format!("delete queue {queue}");
                let failed = |error| queue_failure(&doing, &error);
                let admin = client.admin();
                if find_queue(&admin, queue, "").await.map_err(failed)?.is_none() {
                    return Err(Failure::new(Exit::NotFound, format!("there is no queue {queue}"))
                        .hint("`plimsoll queue list` lists queues; `plimsoll topic delete` is for topics"));
                }
                admin.delete_topic(queue.as_str()).await.map_err(failed)
            })
            .await?;
        note(&format!("deleted queue {queue}"));
        Ok(Exit::Done)
    }
}

#[cfg(test)]
mod tests {
    use plimsoll_protocol::api::QUEUE_CONFIG_KEYS;

    use super::*;

    #[test]
    fn help_lists_every_setting() {
        for key in QUEUE_CONFIG_KEYS {
            for help in [create_help(), alter_help(), subscribe_help()] {
                assert!(help.contains(key.name) && help.contains(key.meaning), "{}", key.name);
            }
        }
    }
}

//! Looking at queues and messages without taking anything.

use clap::Args;
use plimsoll_client::{MessageId, Offset};
use plimsoll_protocol::ids::TopicName;

use super::render::{ExplanationJson, MessageJson, QueueJson, StandingJson, standings};
use super::{SubscriptionArgs, find_queue};
use crate::connection::ConnectionArgs;
use crate::exit::Exit;
use crate::failure::{Failure, note};
use crate::output::Output;
use crate::request::{known_topic, queue_failure};

/// Show a queue: its settings, and how each partition stands
#[derive(Debug, Args)]
#[command(
    after_long_help = "Examples:\n  plimsoll queue describe jobs\n  plimsoll queue describe \
                             orders -s billing --json | jq '[.partitions[].unsettled] | add'"
)]
pub(super) struct DescribeArgs {
    /// The queue, or the topic of the subscription
    #[arg(value_parser = known_topic)]
    queue: TopicName,
    #[command(flatten)]
    subscription: SubscriptionArgs,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

#[derive(serde::Serialize)]
struct DescribedJson<'a> {
    #[serde(flatten)]
    queue: QueueJson<'a>,
    #[serde(rename = "partition_standings")]
    standings: &'a [StandingJson],
}

impl DescribeArgs {
    pub(super) async fn run(self, connection: &ConnectionArgs) -> Result<Exit, Failure> {
        let (queue, subscription) = (&self.queue, self.subscription.subscription.as_str());
        let (info, found) = connection
            .with_client(async |client| {
                let doing = format!("describe queue {queue}");
                let failed = |error| queue_failure(&doing, &error);
                let admin = client.admin();
                let found = find_queue(&admin, queue, subscription).await.map_err(failed)?;
                let info = found.ok_or_else(|| {
                    let what = match subscription {
                        "" => format!("there is no queue {queue}"),
                        _ => format!("{queue} has no subscription {subscription}"),
                    };
                    Failure::new(Exit::NotFound, what)
                        .hint("`plimsoll queue list` lists queues and subscriptions")
                })?;
                let handle = admin.queue(queue.as_str(), subscription);
                let mut found = Vec::new();
                for partition in 0..info.partitions {
                    let standing = handle.standing(partition).await.map_err(failed)?;
                    found.push(StandingJson::of(partition, &standing));
                }
                Ok((info, found))
            })
            .await?;
        let mut output = Output::stdout();
        if self.json {
            output.json(&DescribedJson { queue: QueueJson::of(&info), standings: &found })?;
        } else {
            output.line(&super::render::one_line(&info))?;
            standings(&found).lines().iter().try_for_each(|line| output.line(line))?;
        }
        output.flush()?;
        Ok(Exit::Done)
    }
}

/// Print messages that are not settled, without taking them
#[derive(Debug, Args)]
#[command(
    after_long_help = "Examples:\n  plimsoll queue peek jobs\n  plimsoll queue peek jobs.dead \
                             --count 1 --json | jq .headers"
)]
pub(super) struct PeekArgs {
    /// The queue, or the topic of the subscription
    #[arg(value_parser = known_topic)]
    queue: TopicName,
    #[command(flatten)]
    subscription: SubscriptionArgs,
    /// The partition
    #[arg(long, short, value_name = "N", default_value_t = 0)]
    partition: u32,
    /// The first offset to look at
    #[arg(long, value_name = "OFFSET", default_value_t = 0)]
    from: u64,
    /// How many
    #[arg(long, short = 'n', value_name = "N", default_value_t = 10)]
    count: u32,
    /// Print a JSON object per line
    #[arg(long)]
    json: bool,
}

impl PeekArgs {
    pub(super) async fn run(self, connection: &ConnectionArgs) -> Result<Exit, Failure> {
        let queue = self.queue.as_str();
        let mut output = Output::stdout();
        connection
            .with_client(async |client| {
                let handle = client.admin().queue(queue, &*self.subscription.subscription);
                let (mut from, mut left) = (Offset(self.from), self.count);
                while left > 0 {
                    let looked = handle.peek(self.partition, from, left).await;
                    let (messages, next) = looked
                        .map_err(|error| queue_failure(&format!("peek into {queue}"), &error))?;
                    if messages.is_empty() {
                        break;
                    }
                    for message in &messages {
                        let id = (self.partition, message.offset);
                        if self.json {
                            let (attempts, record) = (message.attempts, &message.record);
                            output.json(&MessageJson::of(queue, id.0, id.1, attempts, record))?;
                        } else {
                            output.bytes(format!("{}:{}\t", id.0, id.1).as_bytes())?;
                            output.bytes(message.record.value.as_deref().unwrap_or_default())?;
                            output.bytes(b"\n")?;
                        }
                    }
                    left -= u32::try_from(messages.len()).unwrap_or(left).min(left);
                    from = next;
                }
                Ok(())
            })
            .await?;
        output.flush()?;
        Ok(Exit::Done)
    }
}

/// Say why a message is not delivered
///
/// Answers where it stands: waiting behind what, delayed until when, held by whom until when, behind which
/// message of its key, expired, or given up and why.
#[derive(Debug, Args)]
#[command(
    after_long_help = "Examples:\n  plimsoll queue explain jobs 0:17\n  plimsoll queue explain \
                             jobs 17 --json"
)]
pub(super) struct ExplainArgs {
    /// The queue, or the topic of the subscription
    #[arg(value_parser = known_topic)]
    queue: TopicName,
    /// The message: PARTITION:OFFSET, or OFFSET in partition 0
    id: MessageId,
    #[command(flatten)]
    subscription: SubscriptionArgs,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

impl ExplainArgs {
    pub(super) async fn run(self, connection: &ConnectionArgs) -> Result<Exit, Failure> {
        let told = connection
            .with_client(async |client| {
                let queue = self.queue.as_str();
                let handle = client.admin().queue(queue, &*self.subscription.subscription);
                let told = handle.explain(self.id).await;
                told.map_err(|error| queue_failure(&format!("explain message {}", self.id), &error))
            })
            .await?;
        let mut output = Output::stdout();
        if self.json {
            output.json(&ExplanationJson::of(self.id.to_string(), &told))?;
        } else {
            output.line(&format!("{} {}: {}", self.id, told.standing, told.text))?;
        }
        output.flush()?;
        Ok(Exit::Done)
    }
}

/// End a message that no consumer holds
///
/// Also one that waits for its time. It is not a dead letter: it is gone.
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  plimsoll queue cancel jobs 0:17")]
pub(super) struct CancelArgs {
    /// The queue, or the topic of the subscription
    #[arg(value_parser = known_topic)]
    queue: TopicName,
    /// The message: PARTITION:OFFSET, or OFFSET in partition 0
    id: MessageId,
    #[command(flatten)]
    subscription: SubscriptionArgs,
}

impl CancelArgs {
    pub(super) async fn run(self, connection: &ConnectionArgs) -> Result<Exit, Failure> {
        let left = connection
            .with_client(async |client| {
                let queue = self.queue.as_str();
                let handle = client.admin().queue(queue, &*self.subscription.subscription);
                let doing = format!("cancel message {}", self.id);
                let failed = |error| queue_failure(&doing, &error);
                match handle.cancel(self.id).await.map_err(failed)? {
                    true => Ok(None),
                    false => handle.explain(self.id).await.map(Some).map_err(failed),
                }
            })
            .await?;
        match left {
            None => note(&format!("cancelled message {} of {}", self.id, self.queue)),
            Some(why) => {
                let text = format!("message {} was not cancelled: {}", self.id, why.text);
                return Err(Failure::new(Exit::Failed, text));
            }
        }
        Ok(Exit::Done)
    }
}

//! `plimsoll queue send`: messages in, their ids out.

use std::io::BufRead;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use plimsoll_client::{Ack, Client, Producer, Record, SendError};
use plimsoll_protocol::batch::Header;
use plimsoll_protocol::ids::TopicName;

use super::queue_build_failure;
use crate::clock::{now_ms, parse_time};
use crate::connection::ConnectionArgs;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Output;
use crate::produce::parse_header;
use crate::quantity::parse_duration;
use crate::request::{exit_of, known_topic, queue_failure, queue_hint_for};

const AFTER_HELP: &str = "\
Examples:
  plimsoll queue send jobs resize-17 resize-18
  plimsoll queue send jobs reminder --delay 90s --priority 5
  seq 1 1000 | plimsoll queue send jobs --ttl 1h

Prints the id of each message when it is stored, as durably as the queue says: PARTITION:OFFSET, as
`plimsoll queue explain` and `cancel` take it. For many messages `plimsoll produce` is as good.";

/// Send messages to a queue
///
/// Each argument is a message; without any, each line of standard input is one.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_HELP)]
pub(super) struct SendArgs {
    /// The queue
    #[arg(value_parser = known_topic)]
    queue: TopicName,
    /// The messages
    #[arg(value_name = "MESSAGE")]
    messages: Vec<String>,
    /// The key of the messages: in a key-shared queue those of one key go in order
    #[arg(long, short, value_name = "TEXT")]
    key: Option<String>,
    /// Deliver them not before this has passed
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, conflicts_with = "at")]
    delay: Option<Duration>,
    /// Deliver them not before this time, such as 2026-11-21T08:30:00Z
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
    /// End them when they were not taken within this
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    ttl: Option<Duration>,
    /// Larger is sooner, where the queue has priorities
    #[arg(long, value_name = "N")]
    priority: Option<u8>,
    /// A header of every message; may be given several times
    #[arg(long, short = 'H', value_name = "NAME=VALUE", value_parser = parse_header)]
    header: Vec<Header>,
    /// Send everything to this partition
    #[arg(long, value_name = "N")]
    partition: Option<u32>,
    /// Print a JSON object per message
    #[arg(long)]
    json: bool,
}

#[derive(serde::Serialize)]
struct SentJson {
    id: String,
    partition: u32,
    offset: Option<u64>,
}

impl SendArgs {
    pub(super) async fn run(self, connection: &ConnectionArgs) -> Result<Exit, Failure> {
        let deliver_at_ms = match (&self.at, self.delay) {
            (Some(text), _) => {
                Some(parse_time(text, now_ms()).map_err(|error| super::usage(&error))?)
            }
            (None, Some(delay)) => Some(later(delay)),
            (None, None) => None,
        };
        connection.with_client(async |client| self.send(client, deliver_at_ms).await).await
    }

    /// A plain topic would take messages too, and nobody would be handed them.
    async fn check_is_queue(&self, client: &Client) -> Result<(), Failure> {
        let doing = format!("send to queue {}", self.queue);
        let admin = client.admin();
        let listed = admin.list_queues(Some(self.queue.as_str())).await;
        let listed = listed.map_err(|error| queue_failure(&doing, &error))?;
        if let Some(info) = listed.iter().find(|info| info.topic == self.queue) {
            let Some(unknown) = self.partition.filter(|at| *at >= info.partitions) else {
                return Ok(());
            };
            let text = format!("cannot {doing}: it has no partition {unknown}");
            return Err(Failure::new(Exit::NotFound, text)
                .hint(format!("it has {}, which are counted from 0", info.partitions)));
        }
        let described = admin.describe_topic(self.queue.as_str()).await;
        described.map_err(|error| queue_failure(&doing, &error))?;
        let text = format!("{} is a topic without subscriptions: no queue", self.queue);
        Err(Failure::new(Exit::NotFound, text).hint("`plimsoll produce` sends to topics"))
    }

    async fn send(&self, client: &Client, deliver_at_ms: Option<i64>) -> Result<Exit, Failure> {
        self.check_is_queue(client).await?;
        let producer = client.producer(self.queue.as_str()).build().await;
        let producer = producer
            .map_err(|error| queue_build_failure(&format!("use queue {}", self.queue), &error))?;
        let mut output = Output::stdout();
        if self.messages.is_empty() {
            let lines: Vec<Vec<u8>> = std::io::stdin()
                .lock()
                .split(b'\n')
                .collect::<Result<_, _>>()
                .map_err(|error| Failure::new(Exit::Failed, format!("cannot read: {error}")))?;
            let values = lines.into_iter().map(Bytes::from);
            self.send_all(&producer, values, deliver_at_ms, &mut output).await?;
        } else {
            let values = self.messages.iter().map(|message| Bytes::from(message.clone()));
            self.send_all(&producer, values, deliver_at_ms, &mut output).await?;
        }
        output.flush()?;
        Ok(Exit::Done)
    }

    async fn send_all(
        &self,
        producer: &Producer,
        values: impl Iterator<Item = Bytes>,
        deliver_at_ms: Option<i64>,
        output: &mut Output,
    ) -> Result<(), Failure> {
        let failed = |error: &SendError| {
            let text = format!("cannot send to {}: {error}", self.queue);
            let SendError::Refused(refusal) = error else {
                return Failure::new(Exit::Failed, text);
            };
            let hint = queue_hint_for(refusal.code);
            Failure::new(exit_of(refusal.code), text).maybe_hint(hint)
        };
        let mut acks = Vec::new();
        for value in values {
            let record = Record {
                key: self.key.clone().map(Bytes::from),
                value: Some(value),
                headers: self.header.clone(),
                timestamp_ms: now_ms(),
                deliver_at_ms,
                expires_at_ms: self.ttl.map(later),
                priority: self.priority,
                group_key: None,
            };
            let queued = match self.partition {
                Some(partition) => producer.enqueue_to(partition, &record).await,
                None => producer.enqueue(record).await,
            };
            acks.push(queued.map_err(|error| failed(&error))?);
        }
        for ack in acks {
            let ack: Ack = ack.await.map_err(|error| failed(&error))?;
            let offset = ack.offset.map(|offset| offset.0);
            let id = format!("{}:{}", ack.partition, offset.unwrap_or_default());
            if self.json {
                output.json(&SentJson { id, partition: ack.partition, offset })?;
            } else {
                output.line(&id)?;
            }
        }
        Ok(())
    }
}

fn later(by: Duration) -> i64 {
    now_ms().saturating_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX))
}

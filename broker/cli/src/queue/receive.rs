//! `plimsoll queue receive`: messages out, settled as asked.

use std::collections::VecDeque;
use std::time::Duration;

use clap::{Args, ValueEnum};
use plimsoll_client::{
    Client, ConsumeError, ErrorCode, Message, QueueConsumer, SettleError, Settlement,
};
use plimsoll_protocol::ids::TopicName;
use tokio::time::timeout;

use super::render::MessageJson;
use super::{SubscriptionArgs, queue_build_failure};
use crate::connection::ConnectionArgs;
use crate::exit::Exit;
use crate::failure::{Failure, note};
use crate::fence::FenceArgs;
use crate::interrupt::Interrupt;
use crate::output::Output;
use crate::quantity::{parse_bytes, parse_duration};
use crate::request::{exit_of, known_topic, queue_hint_for};

const AFTER_HELP: &str = "\
Examples:
  plimsoll queue receive jobs
  plimsoll queue receive jobs --count 1 --settle release --delay 10s
  plimsoll queue receive jobs --follow --json | jq -r .value

A message is settled when its line is written, and the command ends when that is stored. Without --follow it ends
when none came for --wait.";

/// Settlements that may be under way.
const SETTLEMENTS_MAX: usize = 10_000;

/// What becomes of the messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Settle {
    /// They are done
    Accept,
    /// They are delivered again
    Release,
    /// They go where dead letters go, or are dropped
    Reject,
}

/// Receive messages of a queue, and settle them
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_HELP)]
pub(super) struct ReceiveArgs {
    /// The queue, or the topic of the subscription
    #[arg(value_parser = known_topic)]
    queue: TopicName,
    #[command(flatten)]
    subscription: SubscriptionArgs,
    /// End after so many messages
    #[arg(long, short = 'n', value_name = "N")]
    count: Option<u64>,
    /// Wait for more until Ctrl-C
    #[arg(long, short)]
    follow: bool,
    /// How long to wait for a message
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = parse_duration)]
    wait: Duration,
    /// What becomes of the messages
    #[arg(long, value_enum, default_value_t = Settle::Accept)]
    settle: Settle,
    /// With --settle release: when they are delivered again
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    delay: Option<Duration>,
    /// Messages that are held at once
    #[arg(long, value_name = "N", default_value_t = 100)]
    prefetch: u32,
    /// Bytes beyond which no more are held; the last message may reach over it
    #[arg(long, value_name = "SIZE", default_value = "16MiB", value_parser = parse_bytes)]
    prefetch_bytes: u64,
    #[command(flatten)]
    fence: FenceArgs,
    /// Print a JSON object per message, with its id and attempt
    #[arg(long)]
    json: bool,
}

/// What one consumer came to.
struct Window {
    received: u64,
    lost: u64,
    /// There is no more, or somebody has had enough.
    is_last: bool,
}

impl ReceiveArgs {
    pub(super) async fn run(self, connection: &ConnectionArgs) -> Result<Exit, Failure> {
        connection.with_client(async |client| self.receive(client).await).await
    }

    async fn receive(&self, client: &Client) -> Result<Exit, Failure> {
        let mut interrupt = Interrupt::listen()?;
        let mut output = Output::stdout();
        let (mut received, mut lost) = (0, 0);
        while let Some(most) = self.window(received) {
            let window = self.receive_window(client, most, &mut interrupt, &mut output).await?;
            received += window.received;
            lost += window.lost;
            if window.is_last {
                break;
            }
        }
        let messages = if received == 1 { "message" } else { "messages" };
        note(&format!("{received} {messages} of {}", self.queue));
        if lost > 0 {
            let what = format!("of {lost} messages it is not known whether they are settled");
            return Err(Failure::new(Exit::Partly, what).hint("they may be delivered again"));
        }
        Ok(Exit::Done)
    }

    /// How many messages the next consumer receives at most; `None` when enough were received. Where they are
    /// counted no more are taken than are printed: one that is handed out for nothing has one attempt less.
    fn window(&self, received: u64) -> Option<u64> {
        let Some(count) = self.count else { return Some(u64::MAX) };
        let left = count.saturating_sub(received);
        (left > 0).then(|| left.min(self.prefetch.max(1).into()))
    }

    /// Receives with a consumer of its own. Where the messages are counted, they are settled when all of them
    /// are there and the consumer is handed out no more.
    async fn receive_window(
        &self,
        client: &Client,
        most: u64,
        interrupt: &mut Interrupt,
        output: &mut Output,
    ) -> Result<Window, Failure> {
        let prefetch = self.prefetch.max(1).min(u32::try_from(most).unwrap_or(u32::MAX));
        let mut builder = client
            .queue_consumer(self.queue.as_str())
            .subscription(&*self.subscription.subscription)
            .prefetch(prefetch)
            .prefetch_bytes(self.prefetch_bytes);
        if let Some(fence) = &self.fence.fence {
            builder = builder.fence(fence.clone());
        }
        let mut consumer = builder
            .build()
            .await
            .map_err(|error| queue_build_failure(&format!("use queue {}", self.queue), &error))?;
        let (mut held, mut settlements) = (Vec::new(), VecDeque::new());
        let mut window = Window { received: 0, lost: 0, is_last: false };
        while window.received < most {
            let message = tokio::select! {
                biased;
                () = interrupt.asked() => None,
                message = self.next(&mut consumer, output) => message?,
            };
            let Some(message) = message else {
                window.is_last = true;
                break;
            };
            self.print(&message, output)?;
            window.received += 1;
            match self.count {
                Some(_) => held.push(message),
                None => settlements.push_back(self.settle(&message)),
            }
            if settlements.len() > SETTLEMENTS_MAX
                && let Some(oldest) = settlements.pop_front()
            {
                window.lost += outcome(oldest).await?;
            }
        }
        output.flush()?;
        if self.count.is_some() {
            consumer.retire().await;
        }
        settlements.extend(held.iter().map(|message| self.settle(message)));
        for settlement in settlements {
            window.lost += outcome(settlement).await?;
        }
        Ok(window)
    }

    fn settle(&self, message: &Message) -> Settlement {
        match self.settle {
            Settle::Accept => message.accept(),
            Settle::Release => message.release(self.delay),
            Settle::Reject => message.reject(),
        }
    }

    /// The next message; none when the time to wait is over, or the queue has ended.
    async fn next(
        &self,
        consumer: &mut QueueConsumer,
        output: &mut Output,
    ) -> Result<Option<Message>, Failure> {
        let next = consumer.next();
        tokio::pin!(next);
        // What was printed is seen before a wait begins.
        let message = match futures_util::poll!(&mut next) {
            std::task::Poll::Ready(message) => message,
            std::task::Poll::Pending => {
                output.flush()?;
                match self.follow {
                    true => next.await,
                    false => match timeout(self.wait, next).await {
                        Ok(message) => message,
                        Err(_) => return Ok(None),
                    },
                }
            }
        };
        message.transpose().map_err(|error| failure(&self.queue, &error))
    }

    fn print(&self, message: &Message, output: &mut Output) -> Result<(), Failure> {
        if self.json {
            let (queue, record) = (self.queue.as_str(), &message.record);
            let (partition, offset) = (message.partition, message.offset);
            return output.json(&MessageJson::of(
                queue,
                partition,
                offset,
                message.attempt,
                record,
            ));
        }
        output.bytes(message.record.value.as_deref().unwrap_or_default())?;
        output.bytes(b"\n")
    }
}

/// How many messages it is not known of whether they are settled.
async fn outcome(settlement: Settlement) -> Result<u64, Failure> {
    match settlement.await {
        Ok(()) => Ok(0),
        Err(SettleError::Refused(error)) => {
            Err(Failure::new(Exit::Failed, format!("not settled: {error}")))
        }
        Err(error @ SettleError::StaleFence { .. }) => {
            Err(Failure::new(Exit::Failed, error.to_string())
                .maybe_hint(queue_hint_for(ErrorCode::StaleFence)))
        }
        Err(SettleError::NotHeld | SettleError::Unknown) => Ok(1),
    }
}

/// Why nothing (more) is received of a queue.
pub(super) fn failure(queue: &TopicName, error: &ConsumeError) -> Failure {
    let text = format!("{queue}: {error}");
    let ConsumeError::Refused { source, .. } = error else {
        return Failure::new(Exit::Failed, text);
    };
    Failure::new(exit_of(source.code), text).maybe_hint(queue_hint_for(source.code))
}

//! `plimsoll kv watch`: changes of keys as they come.

use std::time::Duration;

use clap::Args;
use plimsoll_client::{Client, KvError, Revision, Watch, WatchFrom, WatchItem};
use plimsoll_protocol::ids::TopicName;
use tokio::time::timeout;

use super::kv_failure;
use super::render::{print_event, print_loaded};
use crate::connection::ConnectionArgs;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::output::Output;
use crate::quantity::parse_duration;
use crate::request::{known_topic, request_failure};

const AFTER_HELP: &str = "\
Examples:
  plimsoll kv watch settings                        what is there, then every change
  plimsoll kv watch settings user. --from-now --json
  plimsoll kv watch settings colour --exact --from 18 --count 1 --wait 30s

A line is the revision, what happened (present, put, deleted), the key and the value, with tabs between. Behind
everything that was there when it began comes `-` and `loaded`, which --count does not count (in JSON
`\"event\":\"loaded\"`). It goes on until Ctrl-C, --count or --wait. Changes that are gone by compaction cannot be
watched from: without --from what is there is read first, and nothing is missed.";

/// Print changes of keys as they come
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_HELP)]
pub(super) struct WatchArgs {
    /// The topic
    #[arg(value_parser = known_topic)]
    topic: TopicName,
    /// Only keys that begin with this
    #[arg(default_value = "", hide_default_value = true)]
    prefix: String,
    /// Only the key that is this, and not those that begin with it
    #[arg(long, requires = "prefix")]
    exact: bool,
    /// Begin with the change of this revision; needs --exact or --partition where there are several partitions,
    /// as their revisions do not compare
    #[arg(long, value_name = "REVISION", conflicts_with = "from_now")]
    from: Option<Revision>,
    /// With --from: only this partition
    #[arg(long, value_name = "N", requires = "from", conflicts_with = "exact")]
    partition: Option<u32>,
    /// Only what happens from now on
    #[arg(long)]
    from_now: bool,
    /// End after so many keys and changes
    #[arg(long, short = 'n', value_name = "N")]
    count: Option<u64>,
    /// End when nothing came for so long
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    wait: Option<Duration>,
    /// Print a JSON object per line
    #[arg(long)]
    json: bool,
}

impl WatchArgs {
    pub(super) async fn run(self, connection: &ConnectionArgs) -> Result<Exit, Failure> {
        let mut interrupt = Interrupt::listen()?;
        let mut output = Output::stdout();
        connection
            .with_client(async |client| self.print(client, &mut interrupt, &mut output).await)
            .await?;
        output.flush()?;
        Ok(Exit::Done)
    }

    async fn start(&self, client: &Client) -> Result<WatchFrom, Failure> {
        let Some(revision) = self.from else {
            return Ok(if self.from_now { WatchFrom::Now } else { WatchFrom::Present });
        };
        if self.exact {
            return Ok(WatchFrom::Revision(revision));
        }
        let partition = match self.partition {
            Some(partition) => partition,
            None => {
                let described = client.admin().describe_topic(self.topic.as_str()).await;
                let described = described
                    .map_err(|error| request_failure(&format!("watch {}", self.topic), &error))?;
                if described.topic.partitions > 1 {
                    let partitions = described.topic.partitions;
                    let text = format!(
                        "{} has {partitions} partitions, whose revisions do not compare",
                        self.topic
                    );
                    return Err(Failure::new(Exit::Usage, text)
                        .hint("--partition N says whose revision it is, --exact watches one key"));
                }
                0
            }
        };
        Ok(WatchFrom::Positions(vec![(partition, revision)]))
    }

    async fn print(
        &self,
        client: &Client,
        interrupt: &mut Interrupt,
        output: &mut Output,
    ) -> Result<(), Failure> {
        let from = self.start(client).await?;
        let failed =
            |error: KvError| kv_failure(&format!("watch {}", self.topic), &self.topic, &error);
        let kv = client.kv(self.topic.as_str());
        let watch = match self.exact {
            true => kv.watch_key(&self.prefix, from).await,
            false => kv.watch(&self.prefix, from).await,
        };
        let mut watch = watch.map_err(failed)?;
        let mut left = self.count.unwrap_or(u64::MAX);
        while left > 0 {
            let item = tokio::select! {
                biased;
                () = interrupt.asked() => None,
                item = self.next(&mut watch, output) => item?,
            };
            let Some(item) = item else { return Ok(()) };
            match item.map_err(failed)? {
                WatchItem::Event(event) => {
                    print_event(&event, self.json, output)?;
                    left -= 1;
                }
                WatchItem::Loaded => print_loaded(self.json, output)?,
            }
        }
        Ok(())
    }

    /// The next change; none when the time to wait is over.
    async fn next(
        &self,
        watch: &mut Watch,
        output: &mut Output,
    ) -> Result<Option<Result<WatchItem, KvError>>, Failure> {
        let next = watch.next_item();
        tokio::pin!(next);
        // What was printed is seen before a wait begins.
        match futures_util::poll!(&mut next) {
            std::task::Poll::Ready(item) => Ok(item),
            std::task::Poll::Pending => {
                output.flush()?;
                Ok(match self.wait {
                    None => next.await,
                    Some(wait) => timeout(wait, next).await.unwrap_or(None),
                })
            }
        }
    }
}

//! `plimsoll consume`: records of a topic on standard output.

mod group;
mod render;
mod start;

use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use futures_util::FutureExt;
use plimsoll_client::{
    Admin, Client, ConsumeError, ConsumedRecord, Consumer, ErrorCode, Isolation, StartPosition,
};
use plimsoll_protocol::batch::Record;
use plimsoll_protocol::ids::TopicName;

use crate::connection::ConnectionArgs;
use crate::exit::Exit;
use crate::failure::{Failure, note};
use crate::fence::FenceArgs;
use crate::interrupt::Interrupt;
use crate::output::Output;
use crate::produce::build_failure;
use crate::progress::{Measure, Progress, figures};
use crate::quantity::{elapsed_text, parse_duration};
use crate::request::{exit_of, hint_for, known_topic};
use crate::separator::Separator;
use render::{Field, OutputFormat, Renderer};
use start::parse_start;

const AFTER_HELP: &str = "\
Examples:
  Everything there is:
    plimsoll consume orders

  The first five, with their keys:
    plimsoll consume orders --count 5 --show key

  What came in the last hour, and then whatever comes:
    plimsoll consume orders --from -1h --follow

  From a moment on, from an offset of one partition:
    plimsoll consume orders --from 2026-11-21T08:30:00Z
    plimsoll consume orders --partition 3 --from 1500

  From a replica in this rack that is at most a second behind:
    plimsoll consume orders --nearest eu-1a --max-staleness 1s

  As one of several that share the topic, going on where the group has come:
    plimsoll consume orders --group billing

  For a script:
    plimsoll consume orders --format json | jq -r 'select(.key == \"customer-7\") | .value'

--from takes:
  earliest              the first record that there still is (the default)
  latest                only what comes from now on (the default with --follow)
  1500                  an offset, in every partition that is read
  2026-11-21T08:30:00Z  a time, RFC 3339; 2026-11-21 is midnight UTC
  -1h30m, \"1h30m ago\"   so long ago; units ms s m h d w
  @1795250000000        milliseconds since 1970

Without --follow it ends at what was stored when it began. With --group it goes on until Ctrl-C or --count, and
commits what it has printed about once a second: records may be printed twice when a member dies, by two
members. --from latest says that a group that has committed nothing begins at the end. Within a partition records come in order;
between partitions there is none.

Every option can also be given as PLIMSOLL_CONSUME_<OPTION>, such as PLIMSOLL_CONSUME_FORMAT=json;
the connection's options are named without the command.

Exit codes: 0 all that was asked for, or the reader of the output had enough; 4 some partitions
could not be read to the end; others as `plimsoll --help`.";

/// How long nothing must come before it is asked whether the node is still there.
const SILENCE: Duration = Duration::from_secs(5);

/// What reads may miss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ReadLevel {
    /// Nothing that was acknowledged before the command began
    Linearizable,
    /// What its replica has not heard of yet
    Committed,
}

/// Print a topic's records
///
/// Writes records to standard output, one per line, and a summary to standard error.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_HELP)]
pub(crate) struct ConsumeArgs {
    /// The topic
    #[arg(value_parser = known_topic)]
    topic: TopicName,

    /// Where to begin: earliest, latest, an offset, a time, or -1h
    #[arg(long, value_name = "START", value_parser = parse_start, allow_hyphen_values = true)]
    from: Option<StartPosition>,

    /// End after so many records
    #[arg(long, short = 'n', value_name = "N")]
    count: Option<u64>,

    /// Do not end at the last record; wait for more until Ctrl-C
    #[arg(long, short)]
    follow: bool,

    /// How records are printed
    #[arg(long, value_enum, default_value_t = OutputFormat::Text)]
    format: OutputFormat,

    /// What to print before the value of a text line
    #[arg(long, value_enum, value_name = "FIELD,...", value_delimiter = ',')]
    show: Vec<Field>,

    /// What to print behind each field of --show; escapes \t \0 \\ \xNN
    #[arg(long, value_name = "TEXT", default_value = "\\t")]
    separator: Separator,

    /// Only these partitions
    #[arg(long, value_name = "N,...", value_delimiter = ',')]
    partition: Vec<u32>,

    /// What the reads may miss: nothing that was acknowledged before (linearizable: asks a majority first), or
    /// what was acknowledged a moment ago (committed)
    #[arg(long, value_enum, value_name = "LEVEL", default_value_t = ReadLevel::Committed)]
    read: ReadLevel,

    /// Read from the nearest replica that follows a leader, in place of the leader; of this rack, if it is given
    #[arg(long, value_name = "RACK", num_args = 0..=1, default_missing_value = "")]
    nearest: Option<String>,

    /// With --nearest: leave a replica that is further behind than this
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, requires = "nearest")]
    max_staleness: Option<Duration>,

    /// As a member of this consumer group: its members share the partitions
    #[arg(long, short, value_name = "GROUP", conflicts_with_all = ["partition", "follow", "read", "nearest"])]
    group: Option<String>,

    /// A name that outlives this process, one for each: it finds its partitions when it is back
    #[arg(long, value_name = "NAME", requires = "group")]
    instance: Option<String>,

    #[command(flatten)]
    fence: FenceArgs,

    /// No progress bar and no summary; errors are still told
    #[arg(long, short)]
    quiet: bool,

    #[command(flatten)]
    connection: ConnectionArgs,
}

impl ConsumeArgs {
    pub(crate) async fn run(self) -> Result<Exit, Failure> {
        let mut interrupt = Interrupt::listen()?;
        self.connection.with_client(async |client| self.read(client, &mut interrupt).await).await
    }

    async fn read(&self, client: &Client, interrupt: &mut Interrupt) -> Result<Exit, Failure> {
        if let Some(group) = &self.group {
            return self.share(group, client, interrupt).await;
        }
        let consumer = self.consumer(client).await?;
        // On a terminal the records themselves show how far it is.
        let visible = !self.quiet && !Output::is_terminal() && !self.follow;
        let patience = self.connection.config()?.request_timeout;
        let mut reading = Reading {
            consumer,
            admin: client.admin(),
            output: Output::stdout(),
            renderer: self.renderer(),
            progress: Progress::start(Measure::Records(Some(0)), visible),
            not_before: match self.from {
                Some(StartPosition::Time(ms)) => Some(ms),
                _ => None,
            },
            begun: Vec::new(),
            left: self.count.unwrap_or(u64::MAX),
            follow: self.follow,
            patience,
            records: 0,
            bytes: 0,
            failed: Vec::new(),
        };
        let began = Instant::now();
        let ended = reading.all(interrupt).await;
        reading.progress.end();
        ended?;
        self.tell_figures(reading.records, reading.bytes, began);
        reading.verdict(interrupt.is_asked())
    }

    fn renderer(&self) -> Renderer {
        Renderer {
            topic: self.topic.to_string(),
            format: self.format,
            show: self.show.clone(),
            separator: self.separator.clone(),
        }
    }

    fn tell_figures(&self, records: u64, bytes: u64, began: Instant) {
        if !self.quiet {
            let elapsed = began.elapsed();
            let figures = figures(records, bytes, elapsed);
            note(&format!("consumed {figures} in {} from {}", elapsed_text(elapsed), self.topic));
        }
    }

    async fn consumer(&self, client: &Client) -> Result<Consumer, Failure> {
        let default = if self.follow { StartPosition::Latest } else { StartPosition::Earliest };
        let mut builder = client.consumer(self.topic.as_str()).from(self.from.unwrap_or(default));
        if !self.partition.is_empty() {
            builder = builder.partitions(self.partition.iter().copied());
        }
        if !self.follow {
            builder = builder.bounded();
        }
        if self.read == ReadLevel::Linearizable {
            builder = builder.isolation(Isolation::Linearizable);
        }
        if let Some(rack) = &self.nearest {
            builder = builder.prefer_nearest(Some(rack.clone()).filter(|rack| !rack.is_empty()));
        }
        if let Some(bound) = self.max_staleness {
            builder = builder.max_staleness(bound);
        }
        builder
            .build()
            .await
            .map_err(|error| build_failure(&format!("consume {}", self.topic), &error))
    }
}

/// A run of `consume`.
struct Reading {
    consumer: Consumer,
    admin: Admin,
    output: Output,
    renderer: Renderer,
    progress: Progress,
    /// Records of the first batch that are older than the time asked for are left out.
    not_before: Option<i64>,
    /// Partitions that have had a record at or after that time.
    begun: Vec<u32>,
    left: u64,
    follow: bool,
    /// How long a node that does not answer is waited for, when there is an end to reach.
    patience: Duration,
    records: u64,
    bytes: u64,
    failed: Vec<ConsumeError>,
}

impl Reading {
    /// Prints records until the end, the count, or a signal.
    async fn all(&mut self, interrupt: &mut Interrupt) -> Result<(), Failure> {
        while self.left > 0 && !interrupt.is_asked() {
            // What is at hand is taken without giving up the thread; only then is the output
            // flushed, so that whoever reads it sees everything while this waits.
            let next = match self.consumer.next().now_or_never() {
                Some(next) => next,
                None => {
                    self.output.flush()?;
                    self.show_progress();
                    let waited = tokio::select! {
                        waited = wait(&mut self.consumer, &self.admin, self.follow, self.patience)
                            => waited,
                        () = interrupt.asked() => break,
                    };
                    waited?
                }
            };
            match next {
                None => break,
                Some(Ok(record)) => self.print(&record)?,
                Some(Err(error)) => self.failed.push(error),
            }
        }
        self.output.flush()
    }

    fn print(&mut self, consumed: &ConsumedRecord) -> Result<(), Failure> {
        let record = &consumed.record;
        if let Some(not_before) = self.not_before
            && !self.begun.contains(&consumed.partition)
        {
            if record.timestamp_ms < not_before {
                return Ok(());
            }
            self.begun.push(consumed.partition);
        }
        self.renderer.print(&mut self.output, consumed.partition, consumed.offset, record)?;
        self.records += 1;
        self.bytes += counted_bytes(record);
        self.left -= 1;
        if self.records.is_multiple_of(4_096) {
            self.show_progress();
        }
        Ok(())
    }

    fn show_progress(&self) {
        let lag: u64 =
            self.consumer.progress().iter().filter_map(plimsoll_client::Progress::lag).sum();
        let expected = self.records + lag.min(self.left);
        if expected == 0 {
            // Nothing is known yet.
            return;
        }
        self.progress.expect(expected);
        self.progress.show(self.records, self.records, self.bytes);
    }

    /// How the process should end.
    fn verdict(self, interrupted: bool) -> Result<Exit, Failure> {
        if let Some(first) = self.failed.first() {
            let others = match self.failed.len() {
                1 => String::new(),
                count => format!(" (and {} more partitions)", count - 1),
            };
            let (exit, hint) = match first {
                ConsumeError::Refused { source, .. } => {
                    (exit_of(source.code), hint_for(source.code))
                }
                ConsumeError::OffsetOutOfRange { .. } => {
                    (Exit::Failed, hint_for(ErrorCode::OffsetOutOfRange))
                }
                ConsumeError::Damaged { .. } => (Exit::Failed, hint_for(ErrorCode::Quarantined)),
            };
            let exit = if self.records > 0 { Exit::Partly } else { exit };
            let failure = Failure::new(
                exit,
                format!("cannot consume {}: {first}{others}", self.renderer.topic),
            );
            return Err(failure.maybe_hint(hint));
        }
        if interrupted && !self.follow {
            return Err(Failure::new(Exit::Partly, "interrupted before the last record"));
        }
        Ok(Exit::Done)
    }
}

/// What counts as a record's bytes: key and value.
fn counted_bytes(record: &Record) -> u64 {
    let len = |bytes: &Option<bytes::Bytes>| bytes.as_ref().map_or(0, |bytes| bytes.len() as u64);
    len(&record.key) + len(&record.value)
}

/// Waits for the next record. A consumer reconnects for ever; a person wants to know that it does,
/// and a script that it is in vain.
async fn wait(
    consumer: &mut Consumer,
    admin: &Admin,
    follow: bool,
    patience: Duration,
) -> Result<Option<Result<ConsumedRecord, ConsumeError>>, Failure> {
    let mut gone_since: Option<Instant> = None;
    let mut began = Instant::now();
    loop {
        tokio::select! {
            next = consumer.next() => return Ok(next),
            () = tokio::time::sleep(SILENCE.min(patience)) => {}
        }
        // The records that a ping overtakes stay in the consumer.
        let Err(error) = admin.ping().await else {
            if gone_since.take().is_some() {
                note("the node is back");
                began = Instant::now();
                continue;
            }
            if !follow && began.elapsed() >= patience {
                let waiting = consumer.progress().iter().filter(|one| one.lag() != Some(0));
                let waiting: Vec<_> = waiting.map(|one| one.partition.to_string()).collect();
                let text = format!(
                    "nothing came for {} of partitions that are not read to their end: {}",
                    elapsed_text(patience),
                    waiting.join(", ")
                );
                return Err(Failure::new(Exit::Unreachable, text).hint(
                    "`plimsoll cluster status` shows partitions without a leader; --follow waits for \
                     ever; --timeout says how long to wait otherwise",
                ));
            }
            continue;
        };
        match gone_since {
            None => {
                note(&format!("the node does not answer, trying again: {error}"));
                gone_since = Some(Instant::now());
            }
            Some(since) if !follow && since.elapsed() >= patience => {
                let text = format!("gave up waiting for the node: {error}");
                return Err(Failure::new(Exit::Unreachable, text)
                    .hint("--follow waits for ever; --timeout says how long to wait otherwise"));
            }
            Some(_) => {}
        }
    }
}

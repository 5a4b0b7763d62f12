//! `plimsoll produce`: lines in, acknowledged records out.

mod delivery;
mod feed;
mod lines;
mod pacer;
mod parse;
mod report;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::{Args, ValueEnum};
use plimsoll_client::{AckLevel, BuildError, Client, Compression, Partitioner, Producer};
use plimsoll_protocol::batch::Header;
use plimsoll_protocol::ids::TopicName;

use crate::connection::ConnectionArgs;
use crate::exit::Exit;
use crate::failure::{Failure, note};
use crate::fence::FenceArgs;
use crate::interrupt::Interrupt;
use crate::progress::Progress;
use crate::quantity::{parse_bytes, parse_duration};
use crate::request::request_failure;
use crate::separator::Separator;
use delivery::Delivery;
use feed::{Feed, Source};
use pacer::{Pacer, parse_rate};
pub(crate) use parse::parse_header;
use parse::{InputFormat, LineParser};
use report::Outcome;

const AFTER_HELP: &str = "\
Examples:
  Each line is a record:
    seq 1 100000 | plimsoll produce orders

  Key and value, from a file, compressed:
    plimsoll produce orders --key-separator : --compression zstd orders.txt

  Headers, and 100 records per second at most:
    plimsoll produce orders --header source=import --rate 100 < orders.txt

  Exact copies of another topic's records, whatever their bytes:
    plimsoll consume orders --format json | plimsoll produce copy --format json

  What is typed, line by line, until Ctrl-D:
    plimsoll produce orders

Every option can also be given as PLIMSOLL_PRODUCE_<OPTION>, such as PLIMSOLL_PRODUCE_ACKS=leader;
the connection's options are named without the command.

A record counts as stored when the node has acknowledged it at the level of --acks, and as durably
as the topic says. Records that are sent again after a lost connection are stored once. Of a record
whose outcome is unknown the summary says so: it may be stored.

Exit codes: 0 all stored; 4 some stored, and the message says how many; others as `plimsoll --help`.";

/// Store lines of text, or records in JSON, in a topic
///
/// Reads the files, or standard input, and stores one record per line. A line ends with a line feed;
/// all bytes before it are the value, a carriage return too. Ends when everything read
/// is acknowledged, with a summary on standard error. Shows a progress bar on a terminal.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_HELP)]
pub(crate) struct ProduceArgs {
    /// The topic
    topic: TopicName,

    /// Files to read, in this order; `-` is standard input, which is the default
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,

    /// What a line is
    #[arg(long, value_enum, default_value_t = InputFormat::Text)]
    format: InputFormat,

    /// A line is KEY SEPARATOR VALUE; escapes \t \0 \\ \xNN
    ///
    /// The key ends where the separator begins for the first time. A line without it is refused.
    #[arg(long, short = 'k', value_name = "SEPARATOR")]
    key_separator: Option<Separator>,

    /// The key of every record that has none of its own
    #[arg(long, value_name = "TEXT")]
    key: Option<String>,

    /// A header of every record; may be given several times
    #[arg(long, short = 'H', value_name = "NAME=VALUE", value_parser = parse_header)]
    header: Vec<Header>,

    /// When a record counts as stored
    #[arg(long, value_enum, default_value_t = Acks::Quorum)]
    acks: Acks,

    /// How batches are compressed; consumers need not know
    #[arg(long, value_enum, default_value_t = CompressionKind::None)]
    compression: CompressionKind,

    /// Send everything to this partition; wins over --partitioner
    #[arg(long, value_name = "N")]
    partition: Option<u32>,

    /// Which partition a record goes to
    ///
    /// hash: by its key, without a key as sticky (the default). sticky: one partition until a batch
    /// is full, then another. random. round-robin. weighted:1,2,3: random, by a weight per
    /// partition. range:g,p: by the key's order, with the keys where partitions 1, 2, ... begin.
    #[arg(long, value_name = "RULE", default_value = "hash", value_parser = parse_partitioner)]
    partitioner: Partitioner,

    /// At most so many records per second
    #[arg(long, value_name = "RECORDS", value_parser = parse_rate)]
    rate: Option<f64>,

    /// How long a batch waits for more records although it could be sent
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = parse_duration)]
    linger: Duration,

    /// Bytes at which a batch is full
    #[arg(long, value_name = "SIZE", default_value = "1MiB", value_parser = parse_bytes)]
    batch_bytes: u64,

    /// Go on after a line or record that is refused, and count them
    #[arg(long)]
    keep_going: bool,

    /// No progress bar and no summary; errors are still told
    #[arg(long, short)]
    quiet: bool,

    /// Print the summary as a JSON object on standard output
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    fence: FenceArgs,

    #[command(flatten)]
    connection: ConnectionArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Acks {
    /// Not waiting: the node has it, whatever comes then
    None,
    /// The partition's leader has it, as durable as the topic says
    Leader,
    /// A majority of the replicas has it, as durable as the topic says
    Quorum,
}

impl From<Acks> for AckLevel {
    fn from(acks: Acks) -> Self {
        match acks {
            Acks::None => Self::None,
            Acks::Leader => Self::Leader,
            Acks::Quorum => Self::Quorum,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CompressionKind {
    /// As they are
    None,
    /// Cheap
    Lz4,
    /// Smaller, slower
    Zstd,
}

impl From<CompressionKind> for Compression {
    fn from(kind: CompressionKind) -> Self {
        match kind {
            CompressionKind::None => Self::None,
            CompressionKind::Lz4 => Self::Lz4,
            CompressionKind::Zstd => Self::Zstd,
        }
    }
}

/// Reads a partitioner: a word, or a word with its numbers or keys.
fn parse_partitioner(text: &str) -> Result<Partitioner, String> {
    let (rule, list) = match text.split_once(':') {
        Some((rule, list)) => (rule, Some(list)),
        None => (text, None),
    };
    match (rule, list) {
        ("hash", None) => Ok(Partitioner::Hash),
        ("sticky", None) => Ok(Partitioner::Sticky),
        ("random", None) => Ok(Partitioner::Random),
        ("round-robin", None) => Ok(Partitioner::RoundRobin),
        ("weighted", Some(list)) => list
            .split(',')
            .map(|weight| weight.parse().map_err(|_| format!("{weight:?} is not a weight")))
            .collect::<Result<_, _>>()
            .map(Partitioner::Weighted),
        ("range", Some(list)) => Ok(Partitioner::Range(
            list.split(',').map(|key| Bytes::copy_from_slice(key.as_bytes())).collect(),
        )),
        _ => Err(format!(
            "{text:?} is not a rule; there are hash, sticky, random, round-robin, \
             weighted:W0,W1,... and range:KEY1,KEY2,..."
        )),
    }
}

/// How long an interrupted command may take to end without a word.
const PATIENCE: Duration = Duration::from_secs(1);

impl ProduceArgs {
    pub(crate) async fn run(self) -> Result<Exit, Failure> {
        // Before anything else, so that a wrong file name changes nothing.
        let sources = Source::open_all(&self.files)?;
        let mut interrupt = Interrupt::listen()?;
        let outcome = self
            .connection
            .with_client(async |client| self.deliver(client, sources, &mut interrupt).await)
            .await?;
        // Records that are not stored are worse news than a summary that nobody reads.
        let printed = if self.json { outcome.print_json() } else { Ok(()) };
        if !self.json && !self.quiet {
            outcome.tell();
        }
        outcome.verdict().and_then(|exit| printed.map(|()| exit))
    }

    async fn deliver(
        &self,
        client: &Client,
        sources: Vec<Source>,
        interrupt: &mut Interrupt,
    ) -> Result<Outcome<'_>, Failure> {
        let producer = self.producer(client).await?;
        if sources.iter().any(Source::is_terminal) && !self.quiet {
            note("reading records from the terminal, one per line; Ctrl-D ends");
        }
        let progress = Progress::start(feed::measure(&sources), !self.quiet);
        let names = sources.iter().map(Source::name).collect();
        let mut feed = Feed::start(sources, self.parser());
        let mut delivery = Delivery::new(producer, self.partition, names, self.keep_going);
        let began = Instant::now();
        let mut pacer = self.rate.map(|rate| Pacer::new(rate, tokio::time::Instant::now()));
        let fed = deliver_all(&mut feed, &mut delivery, &mut pacer, &progress, interrupt).await;
        finish(&mut delivery, interrupt, &progress).await;
        progress.end();
        Ok(Outcome {
            topic: self.topic.as_str(),
            tally: delivery.into_tally(),
            elapsed: began.elapsed(),
            interrupted: interrupt.is_asked(),
            fed,
        })
    }

    fn parser(&self) -> LineParser {
        LineParser {
            format: self.format,
            key_separator: self.key_separator.clone(),
            key: self.key.clone().map(Bytes::from),
            headers: self.header.clone(),
        }
    }

    async fn producer(&self, client: &Client) -> Result<Producer, Failure> {
        let mut builder = client
            .producer(self.topic.as_str())
            .acks(self.acks.into())
            .compression(self.compression.into())
            .partitioner(self.partitioner.clone())
            .linger(self.linger)
            .batch_bytes(usize::try_from(self.batch_bytes).unwrap_or(usize::MAX));
        if let Some(fence) = &self.fence.fence {
            builder = builder.fence(fence.clone());
        }
        let building = builder.build().await;
        building.map_err(|error| build_failure(&format!("produce to {}", self.topic), &error))
    }
}

/// Hands records on until the input ends, something makes it pointless to go on, or somebody wants
/// it to end.
async fn deliver_all(
    feed: &mut Feed,
    delivery: &mut Delivery,
    pacer: &mut Option<Pacer>,
    progress: &Progress,
    interrupt: &mut Interrupt,
) -> Result<(), Failure> {
    let mut input_bytes = 0;
    loop {
        let group = tokio::select! {
            biased;
            () = interrupt.asked() => return Ok(()),
            group = feed.next(), if delivery.has_room() => group,
            () = delivery.some_settled(), if delivery.is_waiting() => {
                if delivery.should_stop() {
                    return Ok(());
                }
                progress.show(input_bytes, delivery.acknowledged(), delivery.bytes());
                continue;
            }
        };
        let Some(group) = group.transpose()? else { return Ok(()) };
        input_bytes += group.input_bytes;
        for (line, record) in (group.first_line..).zip(group.records) {
            if let Some(pacer) = pacer {
                let turn = pacer.turn(tokio::time::Instant::now());
                tokio::select! {
                    () = interrupt.asked() => return Ok(()),
                    () = tokio::time::sleep_until(turn) => {}
                }
            }
            tokio::select! {
                biased;
                () = delivery.send(group.source, line, record) => {}
                () = interrupt.asked() => return Ok(()),
            }
            if delivery.should_stop() {
                return Ok(());
            }
        }
        delivery.take_settled().await;
        progress.show(input_bytes, delivery.acknowledged(), delivery.bytes());
    }
}

/// Waits until every record has its outcome. Whoever asked for an end and does not get it is told
/// what is waited for.
async fn finish(delivery: &mut Delivery, interrupt: &mut Interrupt, progress: &Progress) {
    let mut finished = std::pin::pin!(delivery.finish());
    let kept_waiting = async {
        interrupt.asked().await;
        tokio::time::sleep(PATIENCE).await;
    };
    tokio::select! {
        biased;
        () = &mut finished => return,
        () = kept_waiting => {}
    }
    progress.tell(
        "waiting for the node to acknowledge what was sent; interrupt once more to end at once, \
         which leaves unknown what of it is stored",
    );
    finished.await;
}

/// A producer or consumer that could not be made, in words.
pub(crate) fn build_failure(doing: &str, error: &BuildError) -> Failure {
    match error {
        BuildError::Request(error) => request_failure(doing, error),
        BuildError::Option { option, .. } if *option == "partitions" => {
            Failure::new(Exit::NotFound, format!("cannot {doing}: {error}")).hint(
                "`plimsoll topic describe NAME` shows the partitions, which are counted from 0",
            )
        }
        error => Failure::new(Exit::Usage, format!("cannot {doing}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitioners_are_read() {
        assert_eq!(parse_partitioner("hash"), Ok(Partitioner::Hash));
        assert_eq!(parse_partitioner("round-robin"), Ok(Partitioner::RoundRobin));
        assert_eq!(parse_partitioner("weighted:1,0,3"), Ok(Partitioner::Weighted(vec![1, 0, 3])));
        let range = Partitioner::Range(vec![Bytes::from_static(b"g"), Bytes::from_static(b"p")]);
        assert_eq!(parse_partitioner("range:g,p"), Ok(range));
        for bad in ["", "roundrobin", "hash:1", "weighted", "weighted:a", "weighted:", "range"] {
            assert!(parse_partitioner(bad).is_err(), "{bad}");
        }
    }
}

//! `plimsoll demo`: what the broker promises, shown on this machine in a few seconds.
//!
//! A node in a process of its own, the lines of a file produced over QUIC, the node killed with
//! SIGKILL half-way and started again on the same directory, everything consumed and compared line
//! by line. The producer is not told of the kill: it goes on by itself.

use std::fs;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use plimsoll_bench::Scratch;
use plimsoll_bench::percentiles::Latencies;
use plimsoll_bench::serve_process::{ServeCommand, ServeProcess};
use plimsoll_client::{
    AckFuture, Client, NewTopic, Producer, Record, SendError, StartPosition, TransportKind,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::exit::Exit;
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::output::Output;
use crate::progress::{Measure, Progress};
use crate::quantity::{bytes_text, elapsed_text, per_second, thousands};

/// What is sent when no file is named: this repository's description of itself.
const DEFAULT_FILE: (&str, &str) = ("ARCHITECTURE.md", include_str!("../../../ARCHITECTURE.md"));
const TOPIC: &str = "demo";
/// Records on their way at once: enough for large batches, few enough for honest latencies.
const WINDOW: usize = 4_096;
/// The file is held in memory, to compare with.
const FILE_BYTES_MAX: u64 = 1 << 30;
/// The journal of a fresh node, and room to spare.
const DISK_BYTES: u64 = 1_000_000_000;
/// A client that takes longer to find the restarted node has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// Show durability: produce a file, kill -9 the node half-way, restart it, consume and compare
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// The file whose lines are sent, one record each [default: a file of the repository]
    file: Option<PathBuf>,
    /// Send the file again and again until there are this many records
    #[arg(long, value_name = "N", default_value_t = 200_000)]
    records: u64,
}

impl DemoArgs {
    pub(crate) async fn run(self) -> Result<Exit, Failure> {
        let lines = Lines::load(self.file.as_deref(), self.records)?;
        let mut interrupt = Interrupt::listen()?;
        tokio::select! {
            outcome = demonstrate(&lines) => outcome,
            // The node's process and the temporary directory end with the scope.
            () = interrupt.asked() => Err(Failure::new(Exit::Failed, "interrupted")),
        }
    }
}

/// The lines to send, over and over.
struct Lines {
    name: String,
    lines: Vec<Bytes>,
    records: u64,
}

impl Lines {
    fn load(file: Option<&Path>, at_least: u64) -> Result<Self, Failure> {
        let (name, text) = match file {
            None => (DEFAULT_FILE.0.to_owned(), Bytes::from_static(DEFAULT_FILE.1.as_bytes())),
            Some(path) => (path.display().to_string(), read(path)?),
        };
        let mut lines: Vec<_> =
            text.split(|byte| *byte == b'\n').map(|line| text.slice_ref(line)).collect();
        // What follows the last line feed is a line only if there is something.
        lines.pop_if(|last| last.is_empty());
        if lines.is_empty() {
            return Err(Failure::new(Exit::Usage, format!("{name} has no lines to send")));
        }
        let count = lines.len() as u64;
        let records = at_least.div_ceil(count).max(1) * count;
        Ok(Self { name, lines, records })
    }

    fn get(&self, record: u64) -> &Bytes {
        &self.lines[(record % self.lines.len() as u64) as usize]
    }

    fn rounds(&self) -> u64 {
        self.records / self.lines.len() as u64
    }

    fn bytes(&self) -> u64 {
        self.rounds() * self.lines.iter().map(|line| line.len() as u64).sum::<u64>()
    }
}

fn read(path: &Path) -> Result<Bytes, Failure> {
    let size = fs::metadata(path).map_err(|error| Failure::of_file("read", path, &error))?.len();
    if size > FILE_BYTES_MAX {
        return Err(Failure::new(
            Exit::Usage,
            format!("{} has {}, the demo holds at most 1 GiB", path.display(), bytes_text(size)),
        )
        .hint("`plimsoll produce TOPIC < FILE` takes files of any size"));
    }
    Ok(fs::read(path).map_err(|error| Failure::of_file("read", path, &error))?.into())
}

/// What is told of each step.
struct Story {
    output: Output,
    bold: (&'static str, &'static str),
}

impl Story {
    fn new() -> Self {
        let coloured = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let bold = if coloured { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
        Self { output: Output::stdout(), bold }
    }

    fn line(&mut self, text: &str) -> Result<(), Failure> {
        self.output.line(text)?;
        self.output.flush()
    }

    fn step(&mut self, name: &str, text: &str) -> Result<(), Failure> {
        let (on, off) = self.bold;
        self.line(&format!("  {on}{name:<9}{off} {text}"))
    }
}

async fn demonstrate(lines: &Lines) -> Result<Exit, Failure> {
    let mut story = Story::new();
    story.line(&format!("\n{}\n", describe(lines)))?;
    let scratch = Scratch::new(None, DISK_BYTES + 3 * lines.bytes())
        .map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
    let binary = std::env::current_exe().map_err(anyhow::Error::from)?;
    let node = ServeCommand::new(&binary, scratch.path()).map_err(anyhow::Error::from)?;

    let (began, mut process) = (Instant::now(), node.start()?);
    let client = node.connect(&mut process, TransportKind::Quic).await?;
    story.step(
        "start",
        &format!(
            "a node of its own, QUIC on {}, data in {}: {}",
            node.address(),
            node.data_directory().display(),
            elapsed_text(began.elapsed())
        ),
    )?;
    client.admin().create_topic(NewTopic::new(TOPIC)).await.map_err(anyhow::Error::from)?;

    let mut process = produce(lines, &client, &node, process, &mut story).await?;
    let took = consume(lines, &client).await?;
    story.step("consume", &rate(lines.records, lines.bytes(), took))?;
    story.step("compare", "every record equals its line, in order: none lost, none twice")?;
    process.check_alive()?;
    story.line("\nEverything that was acknowledged is there. Next: plimsoll serve --data DIR\n")?;
    Ok(Exit::Done)
}

fn describe(lines: &Lines) -> String {
    let (name, rounds) = (&lines.name, lines.rounds());
    let count = lines.lines.len() as u64;
    let (records, bytes) = (thousands(lines.records), bytes_text(lines.bytes()));
    let plural = if count == 1 { "line" } else { "lines" };
    match rounds {
        1 => format!("{name}: {records} {plural}, {bytes}, a record each"),
        _ => format!(
            "{name}: {} {plural}, sent {} times: {records} records, {bytes}",
            thousands(count),
            thousands(rounds)
        ),
    }
}

fn rate(records: u64, bytes: u64, took: Duration) -> String {
    format!(
        "{} records in {}: {} records/s, {}/s",
        thousands(records),
        elapsed_text(took),
        thousands(per_second(records, took)),
        bytes_text(per_second(bytes, took))
    )
}

/// A record on its way.
struct Sent {
    index: u64,
    since: Instant,
    ack: AckFuture,
    _place: OwnedSemaphorePermit,
}

/// Produces everything, and kills and restarts the node when half is acknowledged.
async fn produce(
    lines: &Lines,
    client: &Client,
    node: &ServeCommand,
    process: ServeProcess,
    story: &mut Story,
) -> Result<ServeProcess, Failure> {
    let producer = client.producer(TOPIC).build().await.map_err(anyhow::Error::from)?;
    let sent = Arc::new(AtomicU64::new(0));
    let (queue, acks) = mpsc::channel(WINDOW);
    let sending = send_all(lines, producer, Arc::clone(&sent), queue);
    let half = lines.records.div_ceil(2);
    let bar = Progress::start(Measure::Records(Some(lines.records)), true);
    let acknowledging = async {
        // Gone with this block, so that the sender is not left waiting.
        let mut acks = acks;
        let (mut process, mut latencies) = (process, Latencies::new());
        let (mut bytes, mut again) = (0, 0);
        let mut began = Instant::now();
        let mut killed: Option<(Instant, u64)> = None;
        while let Some(Sent { index, since, ack, .. }) = acks.recv().await {
            let ack = tokio::time::timeout(PATIENCE, ack).await.map_err(|_| {
                Failure::new(Exit::Failed, format!("no acknowledgement within {PATIENCE:?}"))
            })?;
            let ack = ack.map_err(not_acknowledged)?;
            latencies.record(since.elapsed());
            again += u64::from(ack.duplicate);
            bytes += lines.get(index).len() as u64;
            bar.show(index + 1, index + 1, bytes);
            match killed {
                // What was sent before the kill may have been acknowledged before it.
                Some((when, sent_before)) if index >= sent_before => {
                    bar.end();
                    story.step("restart", &restarted(when.elapsed(), again))?;
                    (killed, began, bytes) = (None, Instant::now(), 0);
                }
                _ => {}
            }
            if index + 1 == half {
                bar.end();
                story
                    .step("produce", &first_half(index + 1, bytes, began.elapsed(), &latencies))?;
                process.kill().map_err(anyhow::Error::from)?;
                let sent_before = sent.load(Ordering::Relaxed);
                killed = Some((Instant::now(), sent_before));
                process = node.start()?;
                let in_flight = thousands(sent_before - half);
                story.step("kill -9", &format!("with {in_flight} records on their way"))?;
            }
        }
        bar.end();
        if let Some((when, _)) = killed {
            story.step("restart", &restarted(when.elapsed(), again))?;
        }
        let rest = lines.records - half;
        story.step("produce", &format!("the rest: {}", rate(rest, bytes, began.elapsed())))?;
        Ok(process)
    };
    let sending = async { sending.await.map_err(not_acknowledged) };
    let ((), process) = tokio::try_join!(sending, acknowledging)?;
    Ok(process)
}

async fn send_all(
    lines: &Lines,
    producer: Producer,
    sent: Arc<AtomicU64>,
    queue: mpsc::Sender<Sent>,
) -> Result<(), SendError> {
    let window = Arc::new(Semaphore::new(WINDOW));
    for index in 0..lines.records {
        let place = Arc::clone(&window).acquire_owned().await.expect("it is never closed");
        let (record, since) = (Record::new(lines.get(index).clone()), Instant::now());
        let ack = producer.enqueue(record).await?;
        sent.store(index + 1, Ordering::Relaxed);
        if queue.send(Sent { index, since, ack, _place: place }).await.is_err() {
            // The other side has failed and says why.
            return Ok(());
        }
    }
    producer.close().await
}

#[allow(clippy::needless_pass_by_value, reason = "it is handed to map_err")]
fn not_acknowledged(error: SendError) -> Failure {
    Failure::new(Exit::Failed, format!("a record was not acknowledged: {error}"))
}

fn first_half(records: u64, bytes: u64, took: Duration, latencies: &Latencies) -> String {
    let figures = rate(records, bytes, took);
    match latencies.percentiles() {
        Some(found) => format!(
            "{figures}, acknowledged durable: p50 {:.1} ms, p99 {:.1} ms",
            found.p50 / 1e3,
            found.p99 / 1e3
        ),
        None => figures,
    }
}

fn restarted(took: Duration, again: u64) -> String {
    let first = format!("first acknowledgement after {}", elapsed_text(took));
    match again {
        0 => first,
        _ => format!("{first}; {} records came twice and were stored once", thousands(again)),
    }
}

/// Reads everything back and compares it with what was sent.
async fn consume(lines: &Lines, client: &Client) -> Result<Duration, Failure> {
    let began = Instant::now();
    let builder = client.consumer(TOPIC).from(StartPosition::Earliest).bounded();
    let mut consumer = builder.build().await.map_err(anyhow::Error::from)?;
    let bar = Progress::start(Measure::Records(Some(lines.records)), true);
    let (mut records, mut bytes) = (0, 0);
    while let Some(found) = consumer.next().await {
        let found = found.map_err(anyhow::Error::from)?;
        let value = found.record.value.unwrap_or_default();
        if found.offset.0 != records || records >= lines.records || value != lines.get(records) {
            bar.end();
            return Err(differs(lines, records, found.offset.0, &value));
        }
        records += 1;
        bytes += value.len() as u64;
        bar.show(records, records, bytes);
    }
    bar.end();
    if records != lines.records {
        let text = format!("{} records were acknowledged and {records} are there", lines.records);
        return Err(Failure::new(Exit::Failed, text));
    }
    Ok(began.elapsed())
}

fn differs(lines: &Lines, expected: u64, offset: u64, value: &[u8]) -> Failure {
    let wanted = if expected < lines.records {
        format!("{:?}", String::from_utf8_lossy(lines.get(expected)))
    } else {
        "the end".to_owned()
    };
    let found = String::from_utf8_lossy(value);
    Failure::new(
        Exit::Failed,
        format!("record {expected}: {wanted} was sent, offset {offset} is {found:?}"),
    )
    .hint("this is a bug; please report it with this output")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn lines_are_repeated_up_to_a_whole_round() {
        let file = file("one\n\nthree");
        let lines = Lines::load(Some(file.path()), 10).unwrap();
        assert_eq!((lines.records, lines.rounds(), lines.bytes()), (12, 4, 32));
        assert_eq!(lines.get(4), &Bytes::new());
        assert_eq!(lines.get(11), "three");
    }

    #[test]
    fn a_long_file_is_sent_once() {
        let lines = Lines::load(Some(file("a\nb\nc\n").path()), 2).unwrap();
        assert_eq!(lines.records, 3);
    }

    #[test]
    fn a_file_without_lines_is_refused() {
        assert_eq!(Lines::load(Some(file("").path()), 1).err().unwrap().exit(), Exit::Usage);
        let missing = Lines::load(Some(Path::new("/nowhere/at/all")), 1).err().unwrap();
        assert_eq!(missing.exit(), Exit::NotFound);
    }

    #[test]
    fn the_default_file_is_worth_showing() {
        let lines = Lines::load(None, 1).unwrap();
        assert!(lines.records > 50);
    }
}

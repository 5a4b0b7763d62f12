//! `plimsoll demo`: what the broker promises, shown on this machine in a few seconds.
//!
//! Three nodes, each in a process of its own; the lines of a file produced over QUIC to a topic with
//! three replicas; half-way the node that leads is killed with SIGKILL, and started again when another
//! has taken over; everything is consumed and compared line by line. The producer is told of nothing:
//! it finds the new leader by itself.

mod lines;
mod story;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use plimsoll_bench::Scratch;
use plimsoll_bench::percentiles::Latencies;
use plimsoll_bench::serve_cluster::{ServeCluster, commands};
use plimsoll_client::{
    AckFuture, Client, NewTopic, Producer, Record, SendError, StartPosition, TransportKind,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::exit::Exit;
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::progress::{Measure, Progress};
use crate::quantity::{bytes_text, elapsed_text, per_second, thousands};
use lines::Lines;
use story::Story;

const TOPIC: &str = "demo";
/// Nodes, and replicas of the topic.
const NODES: u16 = 3;
/// Records on their way at once: enough for large batches, few enough for honest latencies.
const WINDOW: usize = 4_096;
/// The journal of a fresh node, and room to spare.
const DISK_BYTES: u64 = 1_000_000_000;
/// A client that takes longer to find the new leader has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// Show failover: produce a file to three nodes, kill -9 the leader half-way, consume and compare
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
            // The nodes' processes and the temporary directory end with the scope.
            () = interrupt.asked() => Err(Failure::new(Exit::Failed, "interrupted")),
        }
    }
}

async fn demonstrate(lines: &Lines) -> Result<Exit, Failure> {
    let mut story = Story::new();
    story.line(&format!("\n{}\n", lines.describe()))?;
    let scratch = Scratch::new(None, u64::from(NODES) * (DISK_BYTES + 3 * lines.bytes()))
        .map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
    let binary = std::env::current_exe().map_err(anyhow::Error::from)?;
    let began = Instant::now();
    let commands =
        commands(&binary, scratch.path(), u32::from(NODES), &[]).map_err(anyhow::Error::from)?;
    let ports: Vec<_> = commands.iter().map(|node| node.address().port().to_string()).collect();
    let mut cluster = ServeCluster::start(commands, TransportKind::Quic).await?;
    story.step(
        "start",
        &format!(
            "{NODES} nodes, QUIC on 127.0.0.1, ports {}, data in {}: {}",
            ports.join(" "),
            scratch.path().display(),
            elapsed_text(began.elapsed())
        ),
    )?;
    let client = cluster.client().await?;
    let topic = NewTopic { replicas: NODES, ..NewTopic::new(TOPIC) };
    client.admin().create_topic(topic).await.map_err(anyhow::Error::from)?;

    let restarted = produce(lines, &client, &mut cluster, &mut story).await?;
    cluster.wait_until_well(&client).await?;
    story.step(
        "rejoin",
        &format!("it has all records, {} after its start", elapsed_text(restarted.elapsed())),
    )?;
    let took = consume(lines, &client).await?;
    story.step("consume", &rate(lines.records, lines.bytes(), took))?;
    story.step("compare", "every record equals its line, in order: none lost, none twice")?;
    cluster.check_alive()?;
    story.line("\nEverything that was acknowledged is there. Next: plimsoll serve --data DIR\n")?;
    Ok(Exit::Done)
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

/// Produces everything, and kills the node that leads when half is acknowledged. When another one has
/// taken over it is started again; returns when that was.
async fn produce(
    lines: &Lines,
    client: &Client,
    cluster: &mut ServeCluster,
    story: &mut Story,
) -> Result<Instant, Failure> {
    let producer = client.producer(TOPIC).build().await.map_err(anyhow::Error::from)?;
    let sent = Arc::new(AtomicU64::new(0));
    let (queue, acks) = mpsc::channel(WINDOW);
    let sending = send_all(lines, producer, Arc::clone(&sent), queue);
    let sending = async { sending.await.map_err(not_acknowledged) };
    let mut killing = Killing { lines, client, cluster, story, restarted: None };
    let ((), ()) = tokio::try_join!(sending, killing.acknowledge(&sent, acks))?;
    Ok(killing.restarted.expect("half of the records comes before all of them"))
}

/// The side that takes the acknowledgements and ends the leader.
struct Killing<'a> {
    lines: &'a Lines,
    client: &'a Client,
    cluster: &'a mut ServeCluster,
    story: &'a mut Story,
    restarted: Option<Instant>,
}

/// A node that was killed.
struct Killed {
    node: usize,
    when: Instant,
    /// Records sent before it.
    sent: u64,
}

impl Killing<'_> {
    /// Takes `acks` with it, so that the sender is not left waiting when this fails.
    async fn acknowledge(
        &mut self,
        sent: &AtomicU64,
        mut acks: mpsc::Receiver<Sent>,
    ) -> Result<(), Failure> {
        let lines = self.lines;
        let half = lines.records.div_ceil(2);
        let bar = Progress::start(Measure::Records(Some(lines.records)), true);
        let mut latencies = Latencies::new();
        let (mut bytes, mut again) = (0, 0);
        let mut began = Instant::now();
        let mut killed: Option<Killed> = None;
        while let Some(Sent { index, since, ack, .. }) = acks.recv().await {
            let ack = tokio::time::timeout(PATIENCE, ack).await.map_err(|_| {
                Failure::new(Exit::Failed, format!("no acknowledgement within {PATIENCE:?}"))
            })?;
            let ack = ack.map_err(not_acknowledged)?;
            latencies.record(since.elapsed());
            again += u64::from(ack.duplicate);
            bytes += lines.get(index).len() as u64;
            bar.show(index + 1, index + 1, bytes);
            // What was sent before the kill may have been acknowledged before it.
            if let Some(gone) = killed.take_if(|killed| index >= killed.sent) {
                bar.end();
                self.restart(&gone, again)?;
                (began, bytes) = (Instant::now(), 0);
            }
            if index + 1 == half {
                bar.end();
                let text = first_half(index + 1, bytes, began.elapsed(), &latencies);
                self.story.step("produce", &text)?;
                killed = Some(self.kill(sent, half).await?);
            }
        }
        bar.end();
        if let Some(gone) = killed {
            self.restart(&gone, again)?;
        }
        let rest = lines.records - half;
        self.story.step("produce", &format!("the rest: {}", rate(rest, bytes, began.elapsed())))
    }

    async fn kill(&mut self, sent: &AtomicU64, acknowledged: u64) -> Result<Killed, Failure> {
        let node = self.cluster.wait_for_leader(self.client, TOPIC, 0).await?;
        self.cluster.kill(node)?;
        let (when, sent) = (Instant::now(), sent.load(Ordering::Relaxed));
        let port = self.cluster.command(node).address().port();
        let in_flight = thousands(sent - acknowledged);
        let text = format!("the leader, port {port}, with {in_flight} records on their way");
        self.story.step("kill -9", &text)?;
        Ok(Killed { node, when, sent })
    }

    fn restart(&mut self, killed: &Killed, again: u64) -> Result<(), Failure> {
        let first = format!(
            "another node leads; first acknowledgement after {}",
            elapsed_text(killed.when.elapsed())
        );
        let text = match again {
            0 => first,
            _ => format!("{first}; {} records came twice and were stored once", thousands(again)),
        };
        self.story.step("failover", &text)?;
        self.cluster.restart(killed.node)?;
        self.restarted = Some(Instant::now());
        self.story.step("restart", "the killed node, on the same directory")
    }
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

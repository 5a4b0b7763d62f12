//! `plimsoll bench`: the words of the command line for the harness in `plimsoll-bench`, and its
//! figures on the screen: columns for people, one JSON object per line for programs.
//!
//! With `--json` standard output carries objects and nothing else; the machine, the settings and
//! the progress go to standard error.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use clap::builder::PossibleValue;
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use plimsoll_bench::{Durability, Event, Fault, Layout, Options, Plan, Report, Workload, table};

use crate::connection::ConnectionArgs;
use crate::exit::Exit;
use crate::failure::{Failure, note};
use crate::output::Output;
use crate::quantity::parse_bytes;

const AFTER_HELP: &str = "\
Without --connect or --context an embedded node is measured, in a temporary directory on a real disk;
with --nodes N a cluster of N `plimsoll serve` processes on this machine.
Each figure stands beside its limit: the raw stream through the same socket code, in the same run.
Every option can also be given as PLIMSOLL_BENCH_<OPTION>, those of the connection too, such as
PLIMSOLL_BENCH_TRANSPORT=tcp; PLIMSOLL_CONNECT and PLIMSOLL_CONTEXT alone do not make it leave this
machine.

Examples:
  plimsoll bench produce consume
  plimsoll bench produce --transport tcp --durability memory --json
  plimsoll bench partitions --partitions 1,1000
  plimsoll bench latency --rate 500 --connect broker.example.org:7420 --ca ca.pem
  plimsoll bench restart --bytes 10GB
  plimsoll bench produce latency --nodes 3
  plimsoll bench failover --rounds 20 --json
  plimsoll bench failover --locks --rounds 20
  plimsoll bench idle --nodes 3 --partitions 1000,10000
  plimsoll bench group --members 8 --partitions 64
  plimsoll bench amqp --url amqp://guest:guest@127.0.0.1:5672/%2f
  plimsoll bench lock --etcd http://127.0.0.1:2379
  plimsoll bench lock --clients 50 --nodes 3 --etcd http://127.0.0.1:2379 --json
  plimsoll bench lock --handover --waiters 1000
  plimsoll bench compaction --records 10000000 --keys 100000

`amqp` measures through the client library lapin: durable quorum queues, persistent messages of 1000 bytes,
each confirmed, at most 1000 of a sender's on their way; a receiver holds 1000 at most and acknowledges 100
at a time. With --url the figures are those of the broker there; the same load then runs on embedded nodes,
and `ratio` is theirs to its. The queues are deleted at the end.

`lock` takes a lock that nobody else wants and gives it back, --records times in all; its latency is that of
both together, and it stands beside two 4 KiB writes to a journal. With --etcd the same is done with etcd's
locks, in turns, one lease for each client: by the transaction that `etcdctl lock` sends, or by etcd's own
service for locks, with a connection for each client or one for all, whichever is the fastest of these in the
warm-up. With --handover there is one lock, and --waiters wait for it all the time; each holds it for 2 ms, and
`handover_us` is from its release to the next one's grant.

`failover --locks` has a namespace of locks on three nodes or more: a client holds two locks, and --waiters others
wait for both in a known order. In each round the node that leads the namespace is killed (SIGKILL), then the
holder releases one of the locks. `failover_ms` is from just before the kill until both have come: the answer to
the holder, and to the first who waits its grant. What the operating system needs to end the process counts, and
so does the clients' search for the new leader. It is an error, and the command fails, when somebody is granted a
lock before its holder released it, the other lock is lost to its holder or its line, somebody is granted a lock
out of turn, or a token is not larger than all before it.

`compaction` updates --keys at random, --records times, in a compacted topic, and before and after that in one
that is not: `append_ratio` is the rate of the one to the mean of the other. `disk_ratio` is what the segments
take when nothing is left to compact, to the encoded size of the last record of each key.";

/// Measure throughput, latency, restart, memory and failover, each beside its limit
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_HELP)]
pub(crate) struct BenchArgs {
    /// What is measured, one after the other
    #[arg(required = true, value_name = "WORKLOAD")]
    workloads: Vec<WorkloadArg>,
    /// What an acknowledgement means: `durable` (journaled) or `memory` [default: durable]
    #[arg(long, value_name = "KIND", value_parser = parse_durability)]
    durability: Option<Durability>,
    /// Producers, and consumers, each with a connection of its own [default: 2]
    #[arg(long, value_name = "N")]
    producers: Option<NonZeroU32>,
    /// Partitions [default: 2]; for `partitions` and `idle` a list, measured one by one
    #[arg(long, value_name = "N,...", value_delimiter = ',')]
    partitions: Vec<u32>,
    /// Bytes of a record's value [default: 1000; of single records 100]
    #[arg(long, value_name = "N")]
    record_bytes: Option<NonZeroU32>,
    /// Records in a batch [default: 1000; for `partitions` 100]
    #[arg(long, value_name = "N")]
    batch_records: Option<NonZeroU32>,
    /// Records in all; of `lock` pairs or hand-overs [default: by workload]
    #[arg(long, value_name = "N")]
    records: Option<u64>,
    /// With how much `restart` fills its partitions [default: 10GB]
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes, conflicts_with = "records")]
    bytes: Option<u64>,
    /// Records per second of `latency` [default: 1000, of a cluster 500], `rebalance` and `failover`
    /// [default: 500], `delay` [default: 10000], `group` [default: 8000] and `end-to-end` [default: no
    /// limit]
    #[arg(long, value_name = "N")]
    rate: Option<NonZeroU32>,
    /// Tasks of `singles` [default: 64]
    #[arg(long, value_name = "N")]
    tasks: Option<NonZeroU32>,
    /// Records that each task of `singles` awaits together [default: 16]
    #[arg(long, value_name = "N")]
    window: Option<NonZeroU32>,
    /// Queues of `queue` and `amqp` [default: 1]
    #[arg(long, value_name = "N")]
    queues: Option<NonZeroU32>,
    /// Who sends to each queue, each with a connection of its own [default: 4; of several of `amqp` 1]
    #[arg(long, value_name = "N")]
    senders: Option<NonZeroU32>,
    /// Who receives from each queue, likewise [default: as --senders]
    #[arg(long, value_name = "N")]
    receivers: Option<NonZeroU32>,
    /// Members of the group of `group`, before one more joins [default: 8]
    #[arg(long, value_name = "N")]
    members: Option<NonZeroU32>,
    /// Clients of `lock`, each with a connection, a session and a lock of its own [default: 1]
    #[arg(long, value_name = "N", conflicts_with = "handover")]
    clients: Option<NonZeroU32>,
    /// An etcd that `lock` measures in turns with ours, such as http://127.0.0.1:2379
    #[arg(long, value_name = "URL", value_parser = parse_etcd, conflicts_with = "handover")]
    etcd: Option<String>,
    /// Have `lock` hand one lock from waiter to waiter
    #[arg(long, group = "waited_for")]
    handover: bool,
    /// Have `failover` hold locks and wait for them, in place of sending records
    #[arg(long, group = "waited_for")]
    locks: bool,
    /// Who waits for the lock of --handover [default: 1000], or for those of --locks [default: 5]
    #[arg(long, value_name = "N", requires = "waited_for")]
    waiters: Option<NonZeroU32>,
    /// Keys of `compaction` [default: 100000]
    #[arg(long, value_name = "N")]
    keys: Option<NonZeroU32>,
    /// A broker that `amqp` measures too, before embedded nodes, such as
    /// amqp://guest:guest@127.0.0.1:5672/%2f
    #[arg(long, value_name = "URL", value_parser = parse_url)]
    #[arg(conflicts_with_all = ["connect", "context"])]
    url: Option<String>,
    /// Measure the broker at --url only
    #[arg(long, requires = "url")]
    url_only: bool,
    /// Nodes; with more than one each is a process [default: 1; of `failover`, `rebalance` 3]
    #[arg(long, value_name = "N", value_parser = parse_nodes)]
    #[arg(conflicts_with_all = ["connect", "context"])]
    nodes: Option<NonZeroU32>,
    /// Replicas of each partition [default: 3, or as many as there are nodes]
    #[arg(long, value_name = "N")]
    replicas: Option<NonZeroU32>,
    /// Rounds of `failover` [default: 20]
    #[arg(long, value_name = "N")]
    rounds: Option<NonZeroU32>,
    /// How `failover` ends nodes: `kill` (SIGKILL) or `stop` (SIGTERM) [default: both, one by one;
    /// of --locks kill, the only way]
    #[arg(long, value_name = "KIND", value_parser = parse_fault)]
    fault: Option<Fault>,
    /// Any setting of `plimsoll config reference` for nodes that are processes, repeatable
    #[arg(long = "set", value_name = "KEY=VALUE", conflicts_with_all = ["connect", "context"])]
    node_settings: Vec<String>,
    /// Where the temporary directory of embedded nodes is made [default: on a real disk]
    #[arg(long, value_name = "DIR", conflicts_with_all = ["connect", "context"])]
    data_dir: Option<PathBuf>,
    /// Runtimes of the embedded node and the clients: `shared`, or `split` [default: shared]
    #[arg(long, value_name = "KIND", value_parser = parse_layout, hide_short_help = true)]
    layout: Option<Layout>,
    /// One JSON object per line and workload
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// A [`Workload`] as clap lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct WorkloadArg(Workload);

impl ValueEnum for WorkloadArg {
    fn value_variants<'a>() -> &'a [Self] {
        const ALL: &[WorkloadArg] = &{
            let mut all = [WorkloadArg(Workload::ALL[0]); Workload::ALL.len()];
            let mut at = 0;
            while at < all.len() {
                all[at] = WorkloadArg(Workload::ALL[at]);
                at += 1;
            }
            all
        };
        ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.0.name()).help(self.0.summary()))
    }
}

fn parse_durability(word: &str) -> Result<Durability, String> {
    match word {
        "durable" => Ok(Durability::Durable),
        "memory" => Ok(Durability::Memory),
        _ => Err("write durable or memory".to_owned()),
    }
}

fn parse_layout(word: &str) -> Result<Layout, String> {
    match word {
        "shared" => Ok(Layout::Shared),
        "split" => Ok(Layout::Split),
        _ => Err("write shared or split".to_owned()),
    }
}

fn parse_fault(word: &str) -> Result<Fault, String> {
    let found = Fault::ALL.into_iter().find(|fault| fault.name() == word);
    found.ok_or_else(|| "write kill or stop".to_owned())
}

fn parse_url(word: &str) -> Result<String, String> {
    match word.starts_with("amqp://") || word.starts_with("amqps://") {
        true => Ok(word.to_owned()),
        false => Err("write amqp://USER:PASSWORD@HOST:PORT/VHOST".to_owned()),
    }
}

fn parse_etcd(word: &str) -> Result<String, String> {
    let address = word.strip_prefix("http://").map(|rest| rest.trim_end_matches('/'));
    match address.and_then(|address| address.rsplit_once(':')) {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
            Ok(word.to_owned())
        }
        _ => Err("write http://HOST:PORT".to_owned()),
    }
}

/// A cluster on one machine.
fn parse_nodes(word: &str) -> Result<NonZeroU32, String> {
    match word.parse() {
        Ok(nodes @ 1..=9) => Ok(NonZeroU32::new(nodes).expect("1 to 9")),
        _ => Err("write a number from 1 to 9".to_owned()),
    }
}

impl BenchArgs {
    pub(crate) fn run(self) -> Result<Exit, Failure> {
        let workloads: Vec<_> = self.workloads.iter().map(|word| word.0).collect();
        let options = self.options()?;
        plimsoll_node::raise_file_limit();
        let screen = Mutex::new(BenchScreen::new(self.json));
        let lock = || screen.lock().unwrap_or_else(PoisonError::into_inner);
        let measured =
            plimsoll_bench::run(&workloads, &options, &|event: Event<'_>| lock().show(&event));
        // What was measured before a failure holds, so it is shown.
        lock().end()?;
        measured?;
        Ok(Exit::Done)
    }

    fn options(&self) -> Result<Options, Failure> {
        let elsewhere = self.connection.connect.is_some() || self.connection.context.is_some();
        let connect = elsewhere.then(|| self.connection.config()).transpose()?;
        let transport = connect.as_ref().map(|config| config.transport);
        let binary = std::env::current_exe()
            .map_err(|error| Failure::new(Exit::Failed, format!("where am I? {error}")))?;
        Ok(Options {
            transport: transport.or(self.connection.transport),
            durability: self.durability,
            producers: self.producers,
            partitions: self.partitions.clone(),
            record_bytes: self.record_bytes,
            batch_records: self.batch_records,
            records: self.records,
            bytes: self.bytes,
            rate: self.rate,
            tasks: self.tasks,
            window: self.window,
            queues: self.queues,
            senders: self.senders,
            receivers: self.receivers,
            members: self.members,
            clients: self.clients,
            handover: self.handover,
            locks: self.locks,
            waiters: self.waiters,
            etcd: self.etcd.clone(),
            keys: self.keys,
            url: self.url.clone(),
            url_only: self.url_only,
            nodes: self.nodes,
            replicas: self.replicas,
            rounds: self.rounds,
            fault: self.fault,
            node_settings: self.node_settings.clone(),
            connect,
            data_dir: self.data_dir.clone(),
            layout: self.layout,
            binary: Some(binary),
        })
    }
}

/// Shows what happens: progress on standard error, figures on standard output.
struct BenchScreen {
    json: bool,
    output: Output,
    /// The first failure to write; nothing is written after it.
    written: Result<(), Failure>,
    spinner: ProgressBar,
    /// Of the workload that is being measured.
    plans: Vec<Plan>,
    reports: Vec<Report>,
}

impl BenchScreen {
    fn new(json: bool) -> Self {
        let spinner = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
        let style = ProgressStyle::with_template("{spinner} {elapsed:>4}  {msg}");
        spinner.set_style(style.expect("the template is a constant"));
        spinner.enable_steady_tick(std::time::Duration::from_millis(100));
        let output = Output::stdout();
        Self { json, output, written: Ok(()), spinner, plans: vec![], reports: vec![] }
    }

    fn show(&mut self, event: &Event<'_>) {
        match event {
            Event::Machine(machine) => self.tell(&format!("machine: {machine}")),
            Event::Note(text) => self.tell(&format!("note: {text}")),
            Event::Step(text) => self.spinner.set_message((*text).to_owned()),
            Event::Plan(plan) => {
                let another = self.plans.last().is_some_and(|last| last.workload != plan.workload);
                if another {
                    self.show_figures();
                }
                self.plans.push((*plan).clone());
                if self.json {
                    self.tell(&format!("repeat: {}", plan.command()));
                }
            }
            Event::Report(report) if self.json => self.write(&report.to_json()),
            Event::Report(report) => self.reports.push((*report).clone()),
        }
    }

    /// The columns of one workload, when all its plans are measured.
    fn show_figures(&mut self) {
        let (plans, reports) = (std::mem::take(&mut self.plans), std::mem::take(&mut self.reports));
        if !reports.is_empty() {
            self.write("");
            self.write(table::figures(&reports).trim_end());
            self.write(table::footing(&plans[..reports.len()]).trim_end());
        }
    }

    fn tell(&mut self, text: &str) {
        if self.json {
            self.spinner.suspend(|| note(text));
        } else {
            self.write(text);
        }
    }

    /// One line or several, at once: the next may take minutes.
    fn write(&mut self, text: &str) {
        let Self { output, written, spinner, .. } = self;
        if written.is_ok() {
            *written = spinner.suspend(|| output.line(text).and_then(|()| output.flush()));
        }
    }

    fn end(&mut self) -> Result<(), Failure> {
        self.show_figures();
        self.spinner.finish_and_clear();
        std::mem::replace(&mut self.written, Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        bench: BenchArgs,
    }

    fn parse(line: &str) -> Result<BenchArgs, clap::Error> {
        let words = std::iter::once("bench").chain(line.split_whitespace());
        Ok(Line::try_parse_from(words)?.bench)
    }

    #[test]
    fn workloads_and_settings_are_read() {
        let args =
            parse("produce end-to-end --partitions 1,10 --durability memory --json").unwrap();
        assert_eq!(
            args.workloads,
            [WorkloadArg(Workload::Produce), WorkloadArg(Workload::EndToEnd)]
        );
        let options = args.options().unwrap();
        assert_eq!(options.partitions, [1, 10]);
        assert_eq!(options.durability, Some(Durability::Memory));
        assert!(options.connect.is_none());
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for line in [
            "",
            "throughput",
            "produce --producers 0",
            "produce --durability maybe",
            "produce --connect a:1 --data-dir /tmp",
            "restart --records 5 --bytes 10GB",
            "produce --nodes 0",
            "produce --nodes 10",
            "produce --connect a:1 --nodes 3",
            "failover --fault crash",
            "amqp --url 127.0.0.1:5672",
            "amqp --url-only",
            "amqp --url amqp://a --connect a:1",
            "lock --clients 0",
            "lock --waiters 5",
            "lock --handover --clients 5",
            "failover --locks --handover",
            "failover --locks --waiters 0",
            "lock --handover --etcd http://127.0.0.1:2379",
            "lock --etcd 127.0.0.1:2379",
            "lock --etcd https://127.0.0.1:2379",
            "lock --etcd http://127.0.0.1",
            "compaction --keys 0",
        ] {
            parse(line).unwrap_err();
        }
    }

    #[test]
    fn a_cluster_is_described_by_its_nodes() {
        let line = "failover --nodes 5 --replicas 3 --rounds 4 --fault stop --set a=1 --set b=2";
        let options = parse(line).unwrap().options().unwrap();
        assert_eq!(options.nodes, NonZeroU32::new(5));
        assert_eq!((options.fault, options.rounds), (Some(Fault::Stop), NonZeroU32::new(4)));
        assert_eq!(options.node_settings, ["a=1", "b=2"]);
        let plan = &options.plans(Workload::Failover)[0];
        assert_eq!((plan.nodes, plan.replicas), (5, 3));
    }

    #[test]
    fn locks_are_of_clients_or_handed_over() {
        let line = "lock --clients 50 --nodes 3 --etcd http://127.0.0.1:2379/";
        let plan = &parse(line).unwrap().options().unwrap().plans(Workload::Lock)[0];
        assert_eq!((plan.clients, plan.waiters, plan.nodes), (50, 0, 3));
        assert_eq!(plan.etcd.as_deref(), Some("http://127.0.0.1:2379/"));
        let line = "lock --handover --waiters 7";
        let plan = &parse(line).unwrap().options().unwrap().plans(Workload::Lock)[0];
        assert_eq!((plan.clients, plan.waiters), (0, 7));
    }

    #[test]
    fn a_failover_is_of_records_or_of_locks() {
        let options = parse("failover --locks --waiters 3").unwrap().options().unwrap();
        let plan = &options.plans(Workload::Failover)[0];
        assert_eq!((plan.locks, plan.waiters, plan.rate), (true, 3, None));
        let options = parse("failover").unwrap().options().unwrap();
        assert!(!options.plans(Workload::Failover)[0].locks);
    }

    #[test]
    fn a_compaction_has_keys() {
        let options = parse("compaction --keys 5 --records 50").unwrap().options().unwrap();
        let plan = &options.plans(Workload::Compaction)[0];
        assert_eq!((plan.keys, plan.records), (5, 50));
        assert_eq!(options.plans(Workload::Produce)[0].keys, 0);
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(parse("restart --bytes 1GB").unwrap().bytes, Some(1_000_000_000));
    }
}

//! The benchmark harness behind `plimsoll bench`: workloads, figures, and the limit that a figure
//! is compared with.
//!
//! ```text
//!  options      what was asked, the defaults of each workload, the command that repeats it
//!  workload/*   produce, consume, end-to-end, latency, partitions, restart, transport, singles, idle,
//!               failover, rebalance, queue, delay, amqp, group, lock, compaction
//!  bed          an embedded or a running node, or a cluster, under load
//!  served       a node in its own process     serve_process, serve_cluster   the processes
//!  amqp_broker  a broker under AMQP: nodes in their processes, or one at a URL
//!  etcd         etcd's locks: a client that is no framework
//!  load         producers of whole batches    steady   single records, whatever happens
//!  keys         keys of updates, and what of them is live
//!  pacer        a schedule kept to 10 us
//!  warm_memory  memory that the host has given
//!  raw_stream   the same socket code without a broker         journal_write   the raw 4 KiB write
//!  report       the figures as JSON                           table    the figures for people
//! ```
//!
//! Rules of measurement:
//! - The limit is measured in the same run, before and after the broker, with as many connections
//!   and writes of the same size, in the same process on the same runtimes; the mean is taken.
//! - The same load runs once uncounted before it counts, and the memory that both need is touched
//!   before: what a virtual machine touches for the first time costs seconds per GB, and would be
//!   measured instead of the broker.
//! - What was acknowledged is counted again at the end; a load that is not there has no figure.
//! - Latencies of a schedule count from the moment that was due, so that stalls count.
//! - Data lies on a real disk, unless the user names another place.

pub mod journal_write;
pub mod machine;
pub mod options;
pub mod percentiles;
pub mod report;
pub mod scratch;
pub mod serve_cluster;
pub mod serve_process;
pub mod table;
pub mod values;

mod amqp_broker;
mod bed;
mod etcd;
mod keys;
mod load;
mod pacer;
mod raw_stream;
mod runtimes;
mod served;
mod steady;
mod warm_memory;
mod workload;

use std::path::Path;

use anyhow::{Context as _, bail};

pub use machine::Machine;
pub use options::{Fault, Layout, Options, Plan, Workload};
pub use plimsoll_protocol::api::Durability;
pub use report::Report;
pub use scratch::Scratch;

use runtimes::Runtimes;

/// What happens while workloads are measured, in this order: the machine, then for each plan the
/// plan, its steps and notes, and its report.
#[derive(Debug)]
pub enum Event<'a> {
    /// What it is measured on.
    Machine(&'a Machine),
    /// What is measured next.
    Plan(&'a Plan),
    /// What is being done now.
    Step(&'a str),
    /// Something that belongs to the figures and is none of the fields.
    Note(&'a str),
    /// The figures.
    Report(&'a Report),
}

/// Whoever shows the events.
pub type Screen<'a> = &'a (dyn Fn(Event<'_>) + Sync);

/// Measures workloads one after the other. Blocks the thread; may be called within a runtime.
///
/// # Errors
/// The first failure. What was reported before it holds.
pub fn run(workloads: &[Workload], options: &Options, screen: Screen<'_>) -> anyhow::Result<()> {
    // A thread of its own: a runtime must not be entered from within another.
    std::thread::scope(|scope| {
        let measuring = scope.spawn(|| run_here(workloads, options, screen));
        measuring.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn run_here(workloads: &[Workload], options: &Options, screen: Screen<'_>) -> anyhow::Result<()> {
    let plans: Vec<_> = workloads.iter().flat_map(|workload| options.plans(*workload)).collect();
    let on_disk = |plan: &Plan| match plan.workload {
        Workload::Transport => false,
        Workload::Amqp => !options.url_only,
        _ => options.connect.is_none(),
    };
    let peak_bytes = plans.iter().filter(|plan| on_disk(plan)).map(peak_bytes).max();
    let scratch = match peak_bytes {
        Some(bytes) => Scratch::new(options.data_dir.as_deref(), bytes)?,
        // Only a certificate lies in it.
        None => Scratch::new(Some(&std::env::temp_dir()), 0)?,
    };
    screen(Event::Machine(&Machine::here(peak_bytes.map(|_| scratch.path()))));
    if options.connect.is_some() {
        screen(Event::Note(
            "the raw stream is measured between two ends in this process, and not at all where \
             the node is on another machine",
        ));
    }
    for (index, plan) in plans.iter().enumerate() {
        screen(Event::Plan(plan));
        let directory = scratch.path().join(format!("{}-{index}", plan.workload));
        std::fs::create_dir(&directory)?;
        let report = measure(plan, options, &directory, screen)
            .with_context(|| format!("workload {}", plan.workload))?;
        screen(Event::Report(&report));
        std::fs::remove_dir_all(&directory)?;
    }
    Ok(())
}

fn measure(
    plan: &Plan,
    options: &Options,
    directory: &Path,
    screen: Screen<'_>,
) -> anyhow::Result<Report> {
    let runtimes = Runtimes::new(plan.layout)?;
    runtimes.block_on(async {
        tokio::select! {
            report = workload::measure(plan, options, &runtimes, directory, screen) => report,
            interrupted = tokio::signal::ctrl_c() => {
                interrupted?;
                // Returning, so that child processes and temporary files go.
                bail!("interrupted")
            }
        }
    })
}

/// Bytes that a plan's nodes hold at most: the journals, the topic, and what comes beside it.
fn peak_bytes(plan: &Plan) -> u64 {
    const JOURNAL_AND_RESERVE_BYTES: u64 = 1_200_000_000;
    const RESTART_LOAD_BYTES: u64 = 5_000_000_000;
    let beside = match plan.workload {
        // The topic of the warm-up, until its files are gone.
        Workload::Produce | Workload::Partitions | Workload::EndToEnd | Workload::Singles => {
            plan.value_bytes()
        }
        // The topic that is not compacted, until its files are gone, and what small records take beside
        // their values.
        Workload::Compaction => plan.value_bytes().saturating_mul(2),
        Workload::Restart => RESTART_LOAD_BYTES,
        _ => 0,
    };
    let values = plan.value_bytes().saturating_add(beside);
    // `rebalance` has one node more in the end, and `latency` one beside.
    let nodes = match plan.workload {
        Workload::Latency | Workload::Rebalance if plan.nodes > 1 => plan.nodes + 1,
        _ => plan.nodes,
    };
    let copies = (values / 10 * 11).saturating_mul(u64::from(plan.replicas.min(nodes)));
    copies.saturating_add(JOURNAL_AND_RESERVE_BYTES.saturating_mul(u64::from(nodes)))
}

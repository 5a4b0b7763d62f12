//! `plimsoll status`: who the node is and what it counts.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use crate::connection::ConnectionArgs;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Output;
use crate::quantity::{bytes_text, elapsed_text, thousands};
use crate::request::request_failure;
use crate::table::Table;

const AFTER_HELP: &str = "\
Examples:
  plimsoll status
  plimsoll status --json | jq .counters.connections_open
  until plimsoll status --timeout 1s; do :; done    # wait for a node that starts
  plimsoll status | grep namespace=.jobs            # the counters of one namespace of locks

A node that leads a namespace of locks tells what it holds and has done for it (lock_sessions_open, locks_held,
lock_waiters, lock_grants, lock_releases, lock_sessions_expired, lock_forced_releases), each node the stale fences
that it refused (stale_fences_refused) and the compactions of its replicas (compaction_...). They count from the
node's start; a sum over all nodes is that of the cluster. ops/README.md has all of them.";

/// Show a node's identity, version, uptime and counters
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_HELP)]
pub(crate) struct StatusArgs {
    /// Print a JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: ConnectionArgs,
}

#[derive(Debug, Serialize)]
struct StatusJson<'a> {
    node_id: u64,
    cluster_id: &'a str,
    version: &'a str,
    uptime_ms: u64,
    counters: BTreeMap<&'a str, u64>,
}

impl StatusArgs {
    pub(crate) async fn run(self) -> Result<Exit, Failure> {
        let status = self
            .connection
            .with_client(async |client| {
                let status = client.admin().node_status().await;
                status.map_err(|error| request_failure("ask the node for its status", &error))
            })
            .await?;
        let mut output = Output::stdout();
        if self.json {
            output.json(&StatusJson {
                node_id: status.node_id.0,
                cluster_id: &status.cluster_id,
                version: &status.version,
                uptime_ms: status.uptime_ms,
                counters: status
                    .counters
                    .iter()
                    .map(|counter| (counter.name.as_str(), counter.value))
                    .collect(),
            })?;
        } else {
            output.line(&format!("node      {}", status.node_id))?;
            output.line(&format!("cluster   {}", status.cluster_id))?;
            output.line(&format!("version   {}", status.version))?;
            let uptime = elapsed_text(Duration::from_millis(status.uptime_ms));
            output.line(&format!("up for    {uptime}\n"))?;
            let mut table = Table::new(&["COUNTER", ">VALUE"]);
            for counter in &status.counters {
                // What it is of stands behind it in braces.
                let what = counter.name.split('{').next().unwrap_or_default();
                let value = if what.ends_with("_bytes") {
                    bytes_text(counter.value)
                } else {
                    thousands(counter.value)
                };
                table.row(vec![counter.name.clone(), value]);
            }
            table.lines().iter().try_for_each(|line| output.line(line))?;
        }
        output.flush()?;
        Ok(Exit::Done)
    }
}

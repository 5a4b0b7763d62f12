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
  until plimsoll status --timeout 1s; do :; done    # wait for a node that starts";

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
                let value = if counter.name.ends_with("_bytes") {
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

//! `plimsoll cluster status`, once or again and again.

use std::time::Duration;

use clap::Args;
use plimsoll_client::Client;
use plimsoll_protocol::api::ClusterStatusResponse;

use super::{json, render};
use crate::connection::ConnectionArgs;
use crate::exit::Exit;
use crate::failure::{Failure, note};
use crate::interrupt::Interrupt;
use crate::output::Output;
use crate::quantity::parse_duration;
use crate::request::request_failure;

const AFTER_HELP: &str = "\
Examples:
  plimsoll cluster status
  plimsoll cluster status --watch
  plimsoll cluster status --json | jq .unwell_total
  until plimsoll cluster status --json | jq -e '.moves_total == 0'; do :; done";

/// Back to the first cell of an empty screen.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// Show nodes, leaders, replicas, what lags and what moves
///
/// Of the nodes, what is up, heard and off the clock is the view of the node that answers.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_HELP)]
pub(super) struct StatusArgs {
    /// Show it again and again, until Ctrl-C
    #[arg(long, short)]
    watch: bool,
    /// How often with --watch
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = parse_duration)]
    interval: Duration,
    /// Print a JSON object; with --watch one per line
    #[arg(long)]
    json: bool,
}

impl StatusArgs {
    pub(super) async fn run(self, connection: &ConnectionArgs) -> Result<Exit, Failure> {
        let mut output = Output::stdout();
        if !self.watch {
            let status = connection.with_client(ask).await?;
            self.print(&status, &mut output)?;
            return Ok(Exit::Done);
        }
        let mut interrupt = Interrupt::listen()?;
        connection
            .with_client(async |client: &Client| {
                self.watch(client, &mut output, &mut interrupt).await
            })
            .await
    }

    async fn watch(
        &self,
        client: &Client,
        output: &mut Output,
        interrupt: &mut Interrupt,
    ) -> Result<Exit, Failure> {
        let mut answered = false;
        while !interrupt.is_asked() {
            let asked = tokio::select! {
                biased;
                () = interrupt.asked() => break,
                asked = ask(client) => asked,
            };
            match asked {
                Ok(status) => {
                    if Output::is_terminal() && !self.json {
                        output.bytes(CLEAR.as_bytes())?;
                    } else if answered && !self.json {
                        output.line("")?;
                    }
                    self.print(&status, output)?;
                    answered = true;
                }
                // A cluster is watched because nodes come and go: another may answer next time.
                Err(failure) if answered => note(&failure.to_string()),
                Err(failure) => return Err(failure),
            }
            tokio::select! {
                biased;
                () = interrupt.asked() => break,
                () = tokio::time::sleep(self.interval) => {}
            }
        }
        Ok(Exit::Done)
    }

    fn print(&self, status: &ClusterStatusResponse, output: &mut Output) -> Result<(), Failure> {
        if self.json {
            output.json(&json::StatusJson::of(status))?;
        } else {
            render::status(status).iter().try_for_each(|line| output.line(line))?;
        }
        output.flush()
    }
}

async fn ask(client: &Client) -> Result<ClusterStatusResponse, Failure> {
    let status = client.admin().cluster_status().await;
    status.map_err(|error| request_failure("ask for the status of the cluster", &error))
}

//! `plimsoll cluster remove`: asks before a node goes for good.

use clap::Args;
use plimsoll_client::Client;
use plimsoll_protocol::ids::NodeId;

use super::{json, print_json, render};
use crate::confirm::confirm;
use crate::connection::ConnectionArgs;
use crate::exit::Exit;
use crate::failure::{Failure, note};
use crate::output::Output;
use crate::request::request_failure;

const AFTER_HELP: &str = "\
Examples:
  plimsoll cluster drain 3                    # first, while it lives
  plimsoll cluster remove 3
  plimsoll cluster remove 3 --force --yes     # dead, and too few others for its replicas";

/// Take a node out of the cluster, for good
///
/// A live node has to be drained and empty. The replicas of a dead one are made anew on the others.
/// Its number is never used again: to have the machine back, join it with an empty directory. Refused
/// where a partition would lose its quorum. Asks first on a terminal; elsewhere --yes is needed.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_HELP)]
pub(super) struct RemoveArgs {
    /// The node's number, as `plimsoll cluster status` shows it
    node: u64,
    /// Also where the other nodes are too few: partitions have fewer replicas then
    #[arg(long)]
    force: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    /// Print what is moved as a JSON object
    #[arg(long)]
    json: bool,
}

impl RemoveArgs {
    pub(super) async fn run(self, connection: &ConnectionArgs) -> Result<Exit, Failure> {
        let node = self.node;
        let question = format!("Remove node {node} for good?");
        confirm(self.yes, &question, &format!("removing node {node}"), "removed")?;
        let removal = connection
            .with_client(async |client: &Client| {
                let removal = client.admin().remove_node(NodeId(node), self.force).await;
                let doing = format!("remove node {node}");
                removal.map_err(|error| request_failure(&doing, &error))
            })
            .await?;
        if self.json {
            return print_json(&json::RemovalJson::of(node, &removal));
        }
        if removal.plan.changes_total > 0 {
            let mut output = Output::stdout();
            render::plan(&removal.plan).iter().try_for_each(|line| output.line(line))?;
            output.flush()?;
        }
        note(&if removal.removed {
            format!("removed node {node}")
        } else {
            format!(
                "node {node} goes as soon as its replicas are made anew elsewhere; `plimsoll cluster \
                 status --watch` shows it"
            )
        });
        Ok(Exit::Done)
    }
}

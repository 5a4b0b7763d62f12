//! `plimsoll cluster`: its nodes, where partitions are, and what moves.

mod json;
mod remove;
mod render;
mod watch;

use clap::{Args, Subcommand};
use plimsoll_client::Client;
use plimsoll_protocol::api::ClusterPlanResponse;
use plimsoll_protocol::ids::{NodeId, TopicName};
use serde::Serialize;

use crate::connection::ConnectionArgs;
use crate::exit::Exit;
use crate::failure::{Failure, note};
use crate::output::Output;
use crate::request::request_failure;
use remove::RemoveArgs;
pub(crate) use render::nodes_text;
use watch::StatusArgs;

const AFTER_HELP: &str = "\
Examples:
  plimsoll cluster status
  plimsoll cluster plan
  plimsoll cluster drain 3
  plimsoll cluster remove 3
  plimsoll cluster token";

/// Show the nodes and where partitions are; move, drain, remove
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_HELP)]
pub(crate) struct ClusterArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(subcommand)]
    command: ClusterCommand,
}

#[derive(Debug, Subcommand)]
enum ClusterCommand {
    Status(StatusArgs),
    Plan(PlanArgs),
    Rebalance(RebalanceArgs),
    Drain(DrainArgs),
    Remove(RemoveArgs),
    TransferLeader(TransferLeaderArgs),
    Token(TokenArgs),
}

/// Show what a rebalance would move, and move nothing
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  plimsoll cluster plan\n  \
                             plimsoll cluster plan --json | jq .replicas_moved")]
struct PlanArgs {
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

/// Move replicas to where they belong, as few as the rules allow
///
/// Newcomers get their share, draining nodes are emptied, replicas that were lost are made anew.
/// Ends when that is decided; `plimsoll cluster status --watch` shows the moves.
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  plimsoll cluster rebalance\n  \
                             plimsoll cluster rebalance --json")]
struct RebalanceArgs {
    /// Print what is moved as a JSON object
    #[arg(long)]
    json: bool,
}

/// Move everything away from a node, before it is stopped or removed
///
/// Leaders go first, then replicas, each copied before it is given up. Refused where the other nodes
/// are too few for the replicas that topics ask for.
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  plimsoll cluster drain 3\n  \
                             plimsoll cluster drain 3 --undo")]
struct DrainArgs {
    /// The node's number, as `plimsoll cluster status` shows it
    node: u64,
    /// Let it have replicas again: it gets its share some seconds later, or at once by `cluster rebalance`
    #[arg(long)]
    undo: bool,
    /// Print what is moved as a JSON object
    #[arg(long)]
    json: bool,
}

/// Hand the leadership of a partition to another of its replicas
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  plimsoll cluster transfer-leader orders 0\n  \
                             plimsoll cluster transfer-leader orders 0 --to 2")]
struct TransferLeaderArgs {
    /// The topic
    topic: TopicName,
    /// The partition, counted from 0
    partition: u32,
    /// The node that shall lead; default: the preferred one of the others
    #[arg(long, value_name = "NODE")]
    to: Option<u64>,
    /// Print who leads as a JSON object
    #[arg(long)]
    json: bool,
}

/// Show what a new node needs to join
///
/// Whoever has the token can add a node, and with it read everything: keep it as a password.
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  plimsoll cluster token\n  \
                             plimsoll cluster token --json | jq -r .token")]
struct TokenArgs {
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

impl ClusterArgs {
    pub(crate) async fn run(self) -> Result<Exit, Failure> {
        let connection = &self.connection;
        match self.command {
            ClusterCommand::Status(args) => args.run(connection).await,
            ClusterCommand::Plan(args) => args.run(connection).await,
            ClusterCommand::Rebalance(args) => args.run(connection).await,
            ClusterCommand::Drain(args) => args.run(connection).await,
            ClusterCommand::Remove(args) => args.run(connection).await,
            ClusterCommand::TransferLeader(args) => args.run(connection).await,
            ClusterCommand::Token(args) => args.run(connection).await,
        }
    }
}

impl PlanArgs {
    async fn run(self, connection: &ConnectionArgs) -> Result<Exit, Failure> {
        let plan = connection
            .with_client(async |client: &Client| {
                let plan = client.admin().cluster_plan().await;
                plan.map_err(|error| request_failure("plan a rebalance", &error))
            })
            .await?;
        if plan.changes_total == 0 && !self.json {
            note("every replica is where it belongs; a rebalance would move nothing");
            return Ok(Exit::Done);
        }
        show_plan(&plan, self.json)
    }
}

impl RebalanceArgs {
    async fn run(self, connection: &ConnectionArgs) -> Result<Exit, Failure> {
        let plan = connection
            .with_client(async |client: &Client| {
                let plan = client.admin().rebalance().await;
                plan.map_err(|error| request_failure("rebalance", &error))
            })
            .await?;
        moving("rebalance", &plan, self.json)
    }
}

impl DrainArgs {
    async fn run(self, connection: &ConnectionArgs) -> Result<Exit, Failure> {
        let node = self.node;
        let plan = connection
            .with_client(async |client: &Client| {
                let drained = client.admin().drain_node(NodeId(node), !self.undo).await;
                let doing = match self.undo {
                    true => format!("end the drain of node {node}"),
                    false => format!("drain node {node}"),
                };
                drained.map_err(|error| request_failure(&doing, &error))
            })
            .await?;
        if self.undo && !self.json {
            note(&format!(
                "node {node} may have replicas again; it gets its share in some seconds, or at once by \
                 `plimsoll cluster rebalance`"
            ));
            return Ok(Exit::Done);
        }
        moving(&format!("drain of node {node}"), &plan, self.json)
    }
}

impl TransferLeaderArgs {
    async fn run(self, connection: &ConnectionArgs) -> Result<Exit, Failure> {
        let (topic, partition) = (self.topic.as_str(), self.partition);
        let led = connection
            .with_client(async |client: &Client| {
                let to = self.to.map(NodeId);
                let led = client.admin().transfer_leader(topic, partition, to).await;
                let doing = format!("hand over the leadership of {topic}/{partition}");
                led.map_err(|error| request_failure(&doing, &error))
            })
            .await?;
        if self.json {
            return print_json(&json::LeaderJson::of(topic, partition, &led));
        }
        note(&format!("node {} leads {topic}/{partition} in term {}", led.leader, led.term));
        Ok(Exit::Done)
    }
}

impl TokenArgs {
    async fn run(self, connection: &ConnectionArgs) -> Result<Exit, Failure> {
        let token = connection
            .with_client(async |client: &Client| {
                let token = client.admin().join_token().await;
                token.map_err(|error| request_failure("ask for the join token", &error))
            })
            .await?;
        if self.json {
            return print_json(&json::TokenJson::of(&token));
        }
        let mut output = Output::stdout();
        output.line(&token.token)?;
        output.flush()?;
        let address = token.addresses.first().map_or("HOST:PORT", String::as_str);
        note(&format!(
            "on the new machine: plimsoll serve --data DIR --join {address} --join-token TOKEN"
        ));
        Ok(Exit::Done)
    }
}

/// Says what was decided; the moves themselves follow.
fn moving(what: &str, plan: &ClusterPlanResponse, json: bool) -> Result<Exit, Failure> {
    if plan.changes_total == 0 && !json {
        note(&format!("{what}: nothing has to move"));
        return Ok(Exit::Done);
    }
    show_plan(plan, json)?;
    if !json {
        note("the moves have begun; `plimsoll cluster status --watch` shows them");
    }
    Ok(Exit::Done)
}

fn show_plan(plan: &ClusterPlanResponse, json: bool) -> Result<Exit, Failure> {
    if json {
        return print_json(&json::PlanJson::of(plan));
    }
    let mut output = Output::stdout();
    render::plan(plan).iter().try_for_each(|line| output.line(line))?;
    output.flush()?;
    Ok(Exit::Done)
}

/// Prints one object.
fn print_json(object: &impl Serialize) -> Result<Exit, Failure> {
    let mut output = Output::stdout();
    output.json(object)?;
    output.flush()?;
    Ok(Exit::Done)
}

//! `plimsoll group delete`: asks before it destroys.

use clap::Args;
use plimsoll_client::ErrorCode;

use crate::confirm::confirm;
use crate::connection::ConnectionArgs;
use crate::exit::Exit;
use crate::failure::{Failure, note};
use crate::request::request_failure;

const AFTER_HELP: &str = "\
Examples:
  plimsoll group delete billing
  plimsoll group delete billing --yes --force";

/// Delete a group with its committed offsets
///
/// Asks first on a terminal; elsewhere --yes is needed. Whoever joins a group of this name later begins as in a
/// new one. Refused while the group has members, unless --force is given.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_HELP)]
pub(super) struct DeleteArgs {
    /// The group
    group: String,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    /// Also one with members: they stop, and those that still run join a new group of this name
    #[arg(long)]
    force: bool,
}

impl DeleteArgs {
    pub(super) async fn run(self, connection: &ConnectionArgs) -> Result<Exit, Failure> {
        let group = &self.group;
        let question = format!("Delete group {group} and how far it has come?");
        confirm(self.yes, &question, &format!("deleting group {group}"), "deleted")?;
        connection
            .with_client(async |client| {
                let deleted = client.admin().group(&**group).delete(self.force).await;
                deleted.map_err(|error| {
                    let failure = request_failure(&format!("delete group {group}"), &error);
                    match error.code() {
                        Some(ErrorCode::GroupInUse) => failure.hint(
                            "stop its members first (`plimsoll group describe` shows them), or --force",
                        ),
                        _ => failure,
                    }
                })
            })
            .await?;
        note(&format!("deleted group {group}"));
        Ok(Exit::Done)
    }
}

//! `plimsoll group list`.

use clap::Args;

use super::render::{GroupJson, list};
use crate::connection::ConnectionArgs;
use crate::exit::Exit;
use crate::failure::{Failure, note};
use crate::output::Output;
use crate::request::request_failure;

/// List consumer groups
#[derive(Debug, Args)]
#[command(
    after_long_help = "Examples:\n  plimsoll group list\n  plimsoll group list --json | jq -r \
                             'select(.members == 0) | .group'"
)]
pub(super) struct ListArgs {
    /// Print a JSON object per line
    #[arg(long)]
    json: bool,
}

impl ListArgs {
    pub(super) async fn run(self, connection: &ConnectionArgs) -> Result<Exit, Failure> {
        let groups = connection
            .with_client(async |client| {
                let listed = client.admin().list_groups().await;
                listed.map_err(|error| request_failure("list groups", &error))
            })
            .await?;
        let mut output = Output::stdout();
        if self.json {
            groups.iter().try_for_each(|group| output.json(&GroupJson::of(group)))?;
        } else if !groups.is_empty() {
            list(&groups).lines().iter().try_for_each(|line| output.line(line))?;
        }
        output.flush()?;
        if groups.is_empty() && !self.json {
            note("no consumer groups yet; `plimsoll consume TOPIC --group NAME` begins one");
        }
        Ok(Exit::Done)
    }
}

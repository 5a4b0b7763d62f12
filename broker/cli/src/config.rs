//! `plimsoll config`: the reference of a node's settings.

use clap::{Args, Subcommand};

use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Output;

/// Show what a node can be configured with
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  plimsoll config reference | less
  plimsoll config reference > CONFIG.md")]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print every setting with its meaning, default and bounds, in Markdown
    Reference,
}

impl ConfigArgs {
    pub(crate) fn run(self) -> Result<Exit, Failure> {
        let ConfigCommand::Reference = self.command;
        let mut output = Output::stdout();
        output.bytes(plimsoll_node::config::reference_page().as_bytes())?;
        output.flush()?;
        Ok(Exit::Done)
    }
}

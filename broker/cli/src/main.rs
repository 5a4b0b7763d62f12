//! The `plimsoll` binary: one command line for the node, its client and the tools around them.
//!
//! ```text
//!  cli           the commands, the variables of their options
//!  connection    which node, whom to trust      request   refusals in words
//!  topic produce consume status                 talk to a node through plimsoll-client
//!  context       saved addresses                completions
//!  exit failure output progress table           what a person or a script sees of it
//!  quantity clock separator base64 record_json  how values are written
//! ```
//!
//! Promises: results go to standard output, everything else to standard error; a failure says what
//! happened, to what, and what to do; exit codes mean the same for every command ([`exit`]).

mod base64;
mod cli;
mod clock;
mod completions;
mod connection;
mod consume;
mod context;
mod exit;
mod failure;
mod interrupt;
mod logging;
mod output;
mod produce;
mod progress;
mod quantity;
mod record_json;
mod request;
mod separator;
mod status;
mod table;
mod topic;

use std::process::ExitCode;

fn main() -> ExitCode {
    let command = cli::Cli::read().command;
    logging::start(command.log_default());
    match command.run() {
        Ok(exit) => exit.into(),
        Err(failure) => {
            failure.tell();
            failure.exit().into()
        }
    }
}

//! The `plimsoll` binary: one command line for the node, its client and the tools around them.
//!
//! ```text
//!  cli           the commands, the variables of their options
//!  connection    which node, whom to trust      request   refusals in words
//!  serve config  a node, its settings           log       its data directory, offline
//!  topic produce consume kv status cluster amqp  talk to nodes through plimsoll-client
//!  context       saved addresses                completions
//!  demo bench    what it promises, shown and measured
//!  exit failure output progress table confirm   what a person or a script sees of it
//!  quantity clock separator base64 record_json  how values are written
//! ```
//!
//! Promises: results go to standard output, everything else to standard error; a failure says what
//! happened, to what, and what to do; exit codes mean the same for every command ([`exit`]).

mod amqp;
mod base64;
mod bench;
mod cli;
mod clock;
mod cluster;
mod completions;
mod config;
mod confirm;
mod connection;
mod consume;
mod context;
mod demo;
mod exit;
mod failure;
mod fence;
mod group;
mod interrupt;
mod kv;
mod log;
mod logging;
mod output;
mod produce;
mod progress;
mod quantity;
mod queue;
mod record_json;
mod request;
mod separator;
mod serve;
mod status;
mod table;
mod topic;

use std::process::ExitCode;

fn main() -> ExitCode {
    let command = cli::Cli::read().command;
    if let Some(default) = command.log_default() {
        logging::start(default);
    }
    match command.run() {
        Ok(exit) => exit.into(),
        Err(failure) => {
            failure.tell();
            failure.exit().into()
        }
    }
}

//! `plimsoll context`: the nodes that this user knows by name.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use plimsoll_client::TransportKind;
use plimsoll_client::context::{self, Context};
use serde::Serialize;

use crate::connection::{Authority, check_address, context_failure, read_authority};
use crate::exit::Exit;
use crate::failure::{Failure, note};
use crate::output::Output;
use crate::table::Table;

const AFTER_HELP: &str = "\
Examples:
  plimsoll context list
  plimsoll context add prod --address broker.example.com:7420 --ca prod-ca.pem
  plimsoll context use prod
  plimsoll topic list --context local

Files:
  contexts/NAME.toml and current, in $PLIMSOLL_CONFIG_DIR, else $XDG_CONFIG_HOME/plimsoll,
  else ~/.config/plimsoll. `plimsoll serve` writes the context `local` and makes it current.";

/// Save, choose and list the nodes to talk to
///
/// A context is an address and whom to trust there, saved under a name. Commands use the current
/// one unless --context or --connect says otherwise.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_HELP)]
pub(crate) struct ContextArgs {
    #[command(subcommand)]
    command: ContextCommand,
}

#[derive(Debug, Subcommand)]
enum ContextCommand {
    List(ListArgs),
    Show(ShowArgs),
    Add(AddArgs),
    Use(UseArgs),
    Remove(RemoveArgs),
}

/// List the saved contexts; a star marks the current one
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  plimsoll context list\n  plimsoll context list --json")]
struct ListArgs {
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

/// Print one context as a JSON object, its authority included
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  plimsoll context show\n  plimsoll context show prod")]
struct ShowArgs {
    /// The context; default: the current one
    name: Option<String>,
}

const ADD_HELP: &str = "\
Examples:
  plimsoll context add prod --address broker.example.com:7420 --ca prod-ca.pem
  plimsoll context add lab --address 192.0.2.7:7420 --server-name localhost \\
      --ca sha256:8f434346648f6b96df89dda901c5176b10a6d83961dd3c1ac88b59b2dc327aa4
  plimsoll context add raw --address 192.0.2.7:7421 --transport tcp";

/// Save a context
///
/// The authority is copied into the context, so that its file is not needed any more. Nothing is
/// connected to. A context of the same name is replaced only with --replace.
#[derive(Debug, Args)]
#[command(after_long_help = ADD_HELP)]
struct AddArgs {
    /// Its name: letters, digits, `.`, `_`, `-`
    name: String,
    /// The node's address
    #[arg(long, value_name = "HOST:PORT")]
    address: String,
    /// Whom to trust: the authority's PEM file, or sha256:HEX of its or the node's certificate
    #[arg(long, value_name = "FILE|sha256:HEX", required_unless_present = "transport")]
    ca: Option<Authority>,
    /// What carries the bytes: quic, tls, or tcp without encryption
    #[arg(long, value_name = "KIND", default_value_t = TransportKind::Quic)]
    transport: TransportKind,
    /// The name that the node's certificate must carry; default: the host of the address
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,
    /// Replace a context of the same name
    #[arg(long)]
    replace: bool,
    /// Make it the current one
    #[arg(long = "use")]
    choose: bool,
}

/// Make a context the current one
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  plimsoll context use prod")]
struct UseArgs {
    /// The context
    name: String,
}

/// Remove a context; the node is not touched
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  plimsoll context remove lab")]
struct RemoveArgs {
    /// The context
    name: String,
}

/// A context as `context list --json` prints it.
#[derive(Debug, Serialize)]
struct ContextJson<'a> {
    name: &'a str,
    current: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transport: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

impl ContextArgs {
    pub(crate) fn run(self) -> Result<Exit, Failure> {
        let directory = context::config_dir().map_err(|error| context_failure(&error))?;
        let book = Book { directory };
        match self.command {
            ContextCommand::List(args) => book.list(args.json),
            ContextCommand::Show(args) => book.show(args.name.as_deref()),
            ContextCommand::Add(args) => book.add(args),
            ContextCommand::Use(args) => book.choose(&args.name),
            ContextCommand::Remove(args) => book.remove(&args.name),
        }
    }
}

/// The saved contexts of one directory.
struct Book {
    directory: PathBuf,
}

impl Book {
    fn current(&self) -> Result<String, Failure> {
        let current = context::current(&self.directory).map_err(|error| context_failure(&error))?;
        Ok(current.unwrap_or_else(|| context::LOCAL.to_owned()))
    }

    fn list(&self, json: bool) -> Result<Exit, Failure> {
        let names = context::list(&self.directory).map_err(|error| context_failure(&error))?;
        let current = self.current()?;
        let mut output = Output::stdout();
        let mut table = Table::new(&["", "CONTEXT", "ADDRESS", "TRANSPORT"]);
        for name in &names {
            let saved = context::load(&self.directory, Some(name));
            let is_current = *name == current;
            if json {
                output.json(&ContextJson {
                    name,
                    current: is_current,
                    address: saved.as_ref().ok().map(|saved| saved.address.as_str()),
                    transport: saved.as_ref().ok().map(|saved| saved.transport.as_str()),
                    problem: saved.as_ref().err().map(ToString::to_string),
                })?;
                continue;
            }
            let (address, transport) = match saved {
                Ok(saved) => (saved.address, saved.transport),
                Err(error) => (format!("({error})"), String::new()),
            };
            let star = if is_current { "*" } else { "" };
            table.row(vec![star.to_owned(), name.clone(), address, transport]);
        }
        if !json && !names.is_empty() {
            table.lines().iter().try_for_each(|line| output.line(line))?;
        }
        output.flush()?;
        if !json && names.is_empty() {
            note("no contexts yet: `plimsoll serve` saves one, and so does `plimsoll context add`");
        }
        Ok(Exit::Done)
    }

    fn show(&self, name: Option<&str>) -> Result<Exit, Failure> {
        let saved =
            context::load(&self.directory, name).map_err(|error| context_failure(&error))?;
        let mut output = Output::stdout();
        output.json(&saved)?;
        output.flush()?;
        Ok(Exit::Done)
    }

    fn add(&self, args: AddArgs) -> Result<Exit, Failure> {
        let known = context::list(&self.directory).map_err(|error| context_failure(&error))?;
        if known.contains(&args.name) && !args.replace {
            return Err(Failure::new(
                Exit::Failed,
                format!("context {} exists already", args.name),
            )
            .hint("--replace writes over it"));
        }
        check_address(&args.address)?;
        let (ca_pem, fingerprint) = match args.ca {
            Some(Authority::File(path)) => (Some(read_authority(&path)?), None),
            Some(Authority::Fingerprint(fingerprint)) => (None, Some(fingerprint.to_string())),
            None if args.transport == TransportKind::Tcp => (None, None),
            None => {
                return Err(Failure::new(
                    Exit::Usage,
                    "nothing says whom to trust at this address",
                )
                .hint("give the authority: --ca FILE or --ca sha256:HEX"));
            }
        };
        let saved = Context {
            address: args.address,
            server_name: args.server_name,
            transport: args.transport.to_string(),
            ca_pem,
            fingerprint,
        };
        let path = context::save(&self.directory, &args.name, &saved)
            .map_err(|error| context_failure(&error))?;
        note(&format!("saved context {} in {}", args.name, path.display()));
        if args.choose {
            return self.choose(&args.name);
        }
        Ok(Exit::Done)
    }

    fn choose(&self, name: &str) -> Result<Exit, Failure> {
        context::set_current(&self.directory, name).map_err(|error| context_failure(&error))?;
        note(&format!("commands now talk to context {name}"));
        Ok(Exit::Done)
    }

    fn remove(&self, name: &str) -> Result<Exit, Failure> {
        context::remove(&self.directory, name).map_err(|error| context_failure(&error))?;
        note(&format!("removed context {name}"));
        Ok(Exit::Done)
    }
}

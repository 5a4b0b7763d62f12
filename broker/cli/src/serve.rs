//! `plimsoll serve`: a node in the foreground until a signal or a failure that it cannot outlive.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use clap::Args;
use plimsoll_client::Fingerprint;
use plimsoll_client::context::{self, LOCAL};
use plimsoll_node::config::NodeConfig;
use plimsoll_node::{Node, NodeFailed, StartError};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::exit::Exit;
use crate::failure::Failure;
use crate::logging;

/// Most addresses that the context `local` has.
const ADDRESSES_MAX: usize = 8;
/// In the user's configuration directory: what allows to join the cluster of the node that was
/// started last.
const TOKEN_FILE: &str = "local.token";

/// Run a node in the foreground, until a signal ends it
///
/// Prints where it listens and how to connect, and leaves its address and authority in the user's
/// configuration directory, so that other commands on this machine need no option.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  plimsoll serve --data /var/lib/plimsoll
  plimsoll serve --data DIR --listen 0.0.0.0:7420 --set tls_names=broker.example.org
  plimsoll serve --data DIR2 --listen 127.0.0.1:7421 --join 127.0.0.1:7420
  plimsoll serve --config /etc/plimsoll.toml
  PLIMSOLL_SLEEP_AFTER=5m plimsoll serve --data DIR

What is logged is chosen by PLIMSOLL_LOG (error, warn, info, debug; default info). \
SIGTERM or Ctrl-C ends it in order: requests are finished, a checkpoint is made. A second one ends it \
at once; that is safe too, the next start only reads a little more.")]
pub(crate) struct ServeArgs {
    /// Data directory; made if missing [default: plimsoll-data] [env: PLIMSOLL_DATA]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Address for QUIC (UDP) and TLS (TCP) [default: 127.0.0.1:7420] [env: PLIMSOLL_LISTEN]
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<String>,
    /// Another address for TCP without encryption; off unless named [env: PLIMSOLL_LISTEN_PLAINTEXT]
    #[arg(long, value_name = "ADDR:PORT")]
    listen_plaintext: Option<String>,
    /// Address for AMQP 0-9-1 without encryption, such as 127.0.0.1:5672; off unless named
    /// [env: PLIMSOLL_LISTEN_AMQP]
    #[arg(long, value_name = "ADDR:PORT")]
    listen_amqp: Option<String>,
    /// Address for AMQP 0-9-1 over TLS, such as 0.0.0.0:5671; off unless named
    /// [env: PLIMSOLL_LISTEN_AMQPS]
    #[arg(long, value_name = "ADDR:PORT")]
    listen_amqps: Option<String>,
    /// Become a member of the cluster of the node at this address; at the first start of DIR only
    /// [env: PLIMSOLL_JOIN]
    #[arg(long, value_name = "HOST:PORT")]
    join: Option<String>,
    /// What `plimsoll cluster token` prints on a member's machine [default: the one that a node of
    /// this user left on this machine] [env: PLIMSOLL_JOIN_TOKEN]
    #[arg(long, value_name = "TOKEN", hide_env_values = true)]
    join_token: Option<String>,
    /// Where clients and other nodes reach this node [default: where it listens]
    /// [env: PLIMSOLL_ADVERTISE]
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// What fails together with this node: replicas are spread over racks [env: PLIMSOLL_RACK]
    #[arg(long, value_name = "NAME")]
    rack: Option<String>,
    /// Share of the partitions that this node takes, in hundredths [default: 100]
    /// [env: PLIMSOLL_WEIGHT]
    #[arg(long, value_name = "N")]
    weight: Option<String>,
    /// A TOML file of settings
    #[arg(long, value_name = "FILE", env = "PLIMSOLL_CONFIG")]
    config: Option<PathBuf>,
    /// Any setting of `plimsoll config reference`, repeatable
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// Do not leave address and authority in the user's configuration directory
    #[arg(long)]
    no_context: bool,
    /// Threads that serve connections; 0 takes one per core
    #[arg(long, value_name = "N", env = "PLIMSOLL_THREADS", default_value_t = 0)]
    threads: usize,
}

impl ServeArgs {
    /// Runs the node until it is told to end.
    pub(crate) fn run(self) -> Result<Exit, Failure> {
        let config = self.node_config()?;
        // What openraft and the transports have to say that matters is said by the crates above them.
        logging::start("info,openraft=off,quinn=off,quinn_proto=warn,rustls=warn");
        plimsoll_node::raise_file_limit();
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        if self.threads > 0 {
            builder.worker_threads(self.threads);
        }
        let runtime = builder.enable_all().build().map_err(|error| {
            Failure::new(Exit::Failed, format!("cannot start threads: {error}"))
        })?;
        let outcome = runtime.block_on(serve(config, self.no_context));
        // Blocking reads of a cold disk may still run; nothing waits for them.
        runtime.shutdown_timeout(Duration::from_millis(200));
        outcome
    }

    /// The configuration in force: defaults, file, environment, flags.
    fn node_config(&self) -> Result<NodeConfig, Failure> {
        let usage = |error: plimsoll_node::config::ConfigError| {
            Failure::new(Exit::Usage, error.to_string())
        };
        let mut config = NodeConfig::default();
        if let Some(file) = &self.config {
            config.read_file(file).map_err(usage)?;
        }
        config.read_environment(|name| std::env::var(name).ok()).map_err(usage)?;
        if let Some(data) = &self.data {
            config.data.clone_from(data);
        }
        let flags = [
            ("listen", &self.listen),
            ("listen_plaintext", &self.listen_plaintext),
            ("listen_amqp", &self.listen_amqp),
            ("listen_amqps", &self.listen_amqps),
            ("join", &self.join),
            ("join_token", &self.join_token),
            ("advertise", &self.advertise),
            ("rack", &self.rack),
            ("weight", &self.weight),
        ];
        for (key, value) in flags {
            if let Some(value) = value {
                let flag = format!("--{}", key.replace('_', "-"));
                config.set(key, value, &flag).map_err(usage)?;
            }
        }
        for setting in &self.settings {
            let Some((key, value)) = setting.split_once('=') else {
                return Err(Failure::new(Exit::Usage, format!("--set {setting}: no `=` in it"))
                    .hint("write --set key=value, for example --set sleep_after=1m"));
            };
            config.set(key.trim(), value, "--set").map_err(usage)?;
        }
        if config.join.is_some() && config.join_token.is_none() {
            // That of a node of this user; where there is none, joining says what is missing.
            config.join_token = context::config_dir()
                .ok()
                .and_then(|directory| std::fs::read_to_string(directory.join(TOKEN_FILE)).ok())
                .map(|token| token.trim().to_owned());
        }
        config.check().map_err(usage)?;
        Ok(config)
    }
}

async fn serve(config: NodeConfig, no_context: bool) -> Result<Exit, Failure> {
    // Before anything is open, so that an early signal is not lost.
    let mut signals = Signals::new()?;
    let shutdown_timeout = config.shutdown_timeout;
    let data = config.data.clone();
    let node = tokio::select! {
        node = Node::start(config) => node.map_err(|error| explain(&data, &error))?,
        _ = signals.next() => return Ok(Exit::Done),
    };
    announce(&node, &data, no_context);
    let exit = match run(&node, &mut signals, no_context).await {
        None => Exit::Done,
        // Nothing is wrong with it, and whoever had it removed may wait for its answer.
        Some(removed @ NodeFailed::Removed) => {
            why(&removed).tell();
            Exit::Failed
        }
        Some(fatal) => end_after(&fatal),
    };
    let storage_failed = node.storage_failed();
    tokio::select! {
        biased;
        // Nothing is in order then, whatever is left to do.
        fatal = storage_failed => end_after(&fatal),
        () = node.shutdown() => {}
        _ = signals.next() => {
            tracing::warn!("ended at once by a second signal");
            std::process::exit(i32::from(Exit::Failed as u8));
        }
        // The node keeps its own deadline; this one holds even if that fails.
        () = tokio::time::sleep(shutdown_timeout + Duration::from_secs(30)) => {
            return Err(Failure::new(Exit::Failed, "the shutdown did not end in time"));
        }
    }
    tracing::info!("ended in order");
    Ok(exit)
}

/// Lets the node run until a signal, or until it fails.
async fn run(node: &Node, signals: &mut Signals, no_context: bool) -> Option<NodeFailed> {
    let mut leaving = pin!(leave_token(node, no_context));
    let mut left = false;
    loop {
        tokio::select! {
            name = signals.next() => {
                tracing::info!(signal = name, "shutting down; a second signal ends at once");
                return None;
            }
            fatal = node.failed() => return Some(fatal),
            () = &mut leaving, if !left => left = true,
        }
    }
}

/// Leaves for this user what allows to join the node's cluster, once the cluster has it.
async fn leave_token(node: &Node, no_context: bool) {
    if no_context {
        return;
    }
    let Some(token) = node.join_token().await else { return };
    let left = context::config_dir().map_err(std::io::Error::other).and_then(|directory| {
        let mut options = std::fs::OpenOptions::new();
        options.create(true).truncate(true).write(true).mode(0o600);
        options.open(directory.join(TOKEN_FILE))?.write_all(token.to_string().as_bytes())
    });
    if let Err(error) = left {
        tracing::warn!(%error, "no join token was left for other nodes of this user");
    }
}

/// Ends the process because the node cannot go on: at once, without another write.
fn end_after(fatal: &NodeFailed) -> ! {
    why(fatal).tell();
    std::process::exit(i32::from(Exit::Failed as u8));
}

fn why(fatal: &NodeFailed) -> Failure {
    Failure::new(Exit::Failed, format!("the node stops: {fatal}")).hint(fatal.advice())
}

/// A node that did not start, in words.
fn explain(data: &Path, error: &StartError) -> Failure {
    let stored = matches!(error, StartError::Storage(_) | StartError::Catalog(_));
    // The files of the store are named from the data directory on.
    let text = if stored { format!("{}: {error}", data.display()) } else { error.to_string() };
    let failure = Failure::new(Exit::Failed, text);
    match error.advice() {
        Some(advice) => failure.hint(advice),
        None => failure,
    }
}

/// Prints where the node listens, and leaves a context for the clients of this user.
fn announce(node: &Node, data: &Path, no_context: bool) {
    let local = dialable(node.addr());
    let mut lines = vec![
        format!("plimsoll {} serves {}", env!("CARGO_PKG_VERSION"), data.display()),
        format!("  QUIC and TLS on {}", node.addr()),
    ];
    if let Some(plain) = node.tcp_addr() {
        lines.push(format!("  TCP without encryption on {plain}"));
    }
    let amqp = node.amqp_addresses();
    if let Some(plain) = amqp.plain {
        lines.push(format!("  AMQP 0-9-1 on {plain}"));
    }
    if let Some(tls) = amqp.tls {
        lines.push(format!("  AMQP 0-9-1 over TLS on {tls}"));
    }
    let authority = node.authority_path();
    let ca = authority.map_or_else(String::new, |path| {
        // To be pasted anywhere, not only in this directory.
        let path = std::path::absolute(&path).unwrap_or(path);
        format!(" --ca {}", path.display())
    });
    let fingerprint = node.ca_pem().and_then(|pem| Fingerprint::of_pem(pem.as_bytes()));
    let remote = if node.addr().ip().is_loopback() { "" } else { " (elsewhere: this host's name)" };
    lines.push(format!("  connect{remote}: plimsoll topic list --connect {local}{ca}"));
    if let Some(fingerprint) = fingerprint.filter(|_| node.is_self_signed()) {
        lines.push(format!("  or, without that file: --ca {fingerprint}"));
    }
    if !no_context {
        match save_context(node, local) {
            Ok(true) => lines.push("  on this machine: plimsoll topic list".to_owned()),
            Ok(false) => {
                lines.push(format!("  on this machine: plimsoll topic list --context {LOCAL}"));
            }
            Err(error) => tracing::warn!(%error, "no context was left for clients"),
        }
    }
    let mut out = std::io::stdout().lock();
    // A closed stdout is no reason not to serve.
    let _ = writeln!(out, "{}", lines.join("\n")).and_then(|()| out.flush());
}

/// Saves the context `local`; tells whether it is the one that commands take by default.
fn save_context(node: &Node, local: SocketAddr) -> Result<bool, context::ContextError> {
    let directory = context::config_dir()?;
    let before = context::load(&directory, Some(LOCAL)).ok();
    if let Some(other) = before.as_ref().filter(|before| is_of_another(before, node.ca_pem())) {
        context::save(&directory, LOCAL_BEFORE, other)?;
        tracing::warn!(
            addresses = %other.address,
            "the context `local` was of another cluster, and is now of this node's; that one is kept as \
             `{LOCAL_BEFORE}`. If this node should be of that cluster, stop it and start it with --join"
        );
    }
    let saved = context::Context {
        address: with_others(local, node.ca_pem(), before.as_ref()),
        server_name: Some("localhost".to_owned()).filter(|_| node.is_self_signed()),
        transport: "quic".to_owned(),
        ca_pem: node.ca_pem().map(str::to_owned),
        fingerprint: None,
    };
    context::save(&directory, LOCAL, &saved)?;
    // A context that the user chose stays chosen.
    let current = context::current(&directory)?;
    let chosen =
        current.filter(|name| name != LOCAL && context::load(&directory, Some(name)).is_ok());
    if chosen.is_none() {
        context::set_current(&directory, LOCAL)?;
    }
    Ok(chosen.is_none())
}

/// What a context is kept as that another cluster's takes the place of.
const LOCAL_BEFORE: &str = "local-before";

/// Whether a context trusts another authority than this one.
fn is_of_another(before: &context::Context, ca: Option<&str>) -> bool {
    let authority = |pem: &str| Fingerprint::of_pem(pem.as_bytes());
    let before = before.ca_pem.as_deref().and_then(authority);
    before.is_some() && before != ca.and_then(authority)
}

/// The address of a node, and behind it those that the context had before, if they are of the same
/// cluster: commands on this machine go on while any of them runs.
fn with_others(local: SocketAddr, ca: Option<&str>, before: Option<&context::Context>) -> String {
    let authority = |pem: &str| Fingerprint::of_pem(pem.as_bytes());
    let known = |before: &&context::Context| {
        let ca = ca.and_then(authority);
        ca.is_some() && ca == before.ca_pem.as_deref().and_then(authority)
    };
    let local = local.to_string();
    let others = before.filter(known).into_iter().flat_map(context::Context::addresses);
    let others = others.filter(|other| *other != local);
    let all: Vec<&str> =
        std::iter::once(local.as_str()).chain(others).take(ADDRESSES_MAX).collect();
    all.join(",")
}

/// An address that a client of this machine can dial.
fn dialable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|error| {
                Failure::new(Exit::Failed, format!("cannot listen for signals: {error}"))
            })
        };
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_names_the_nodes_of_one_cluster() {
        let pem = |base64: &str| {
            format!("-----BEGIN CERTIFICATE-----\n{base64}\n-----END CERTIFICATE-----\n")
        };
        let (ours, theirs) = (pem("b3Vycw=="), pem("dGhlaXJz"));
        let before = |address: &str, ca: &str| context::Context {
            address: address.to_owned(),
            server_name: None,
            transport: "quic".to_owned(),
            ca_pem: Some(ca.to_owned()),
            fingerprint: None,
        };
        let local: SocketAddr = "127.0.0.1:2".parse().unwrap();
        let found =
            |before: &context::Context| with_others(local, Some(ours.as_str()), Some(before));
        assert_eq!(found(&before("127.0.0.1:1", &ours)), "127.0.0.1:2,127.0.0.1:1");
        assert_eq!(found(&before("127.0.0.1:1,127.0.0.1:2", &ours)), "127.0.0.1:2,127.0.0.1:1");
        assert_eq!(found(&before("127.0.0.1:1", &theirs)), "127.0.0.1:2");
        assert_eq!(with_others(local, None, Some(&before("127.0.0.1:1", &ours))), "127.0.0.1:2");
        let many: Vec<_> = (10..30).map(|port| format!("127.0.0.1:{port}")).collect();
        let kept = found(&before(&many.join(","), &ours));
        assert_eq!(kept.split(',').count(), ADDRESSES_MAX);
    }

    #[test]
    fn an_unspecified_address_is_dialed_on_this_machine() {
        assert_eq!(dialable("0.0.0.0:7".parse().unwrap()), "127.0.0.1:7".parse().unwrap());
        assert_eq!(dialable("[::]:7".parse().unwrap()), "[::1]:7".parse().unwrap());
        assert_eq!(dialable("10.0.0.1:7".parse().unwrap()), "10.0.0.1:7".parse().unwrap());
    }
}

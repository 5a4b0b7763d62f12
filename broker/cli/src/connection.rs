//! Which node a command talks to, whom it trusts, and what to tell when that fails.
//!
//! A flag wins over a variable, and both win over the saved context. Where `--context` is given as
//! a flag the variables are not looked at, so that what the context says is what is used.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use plimsoll_client::context::{self, Context, ContextError};
use plimsoll_client::{Client, ClientConfig, ConnectError, Fingerprint, TransportKind, Trust};

use crate::exit::Exit;
use crate::failure::Failure;
use crate::quantity::parse_duration;

/// The headline of these options in a help page.
pub(crate) const HEADING: &str = "Connection";

/// Time to tell the node that the connection is done with.
const GOODBYE: Duration = Duration::from_millis(20);

/// Options of every command that talks to a node.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ConnectionArgs {
    /// A node's address, in place of a saved context
    ///
    /// Without --ca, the authority of the current context is trusted. [env: PLIMSOLL_CONNECT]
    #[arg(long, value_name = "HOST:PORT", help_heading = HEADING, global = true)]
    pub(crate) connect: Option<String>,

    /// Whom to trust: the authority's PEM file, or sha256:HEX of its or the node's certificate
    ///
    /// A node that made its own authority keeps it in DIR/tls/ca.pem of its data directory, and
    /// prints its fingerprint when it starts. That stays the same when the node's certificate is
    /// renewed. [env: PLIMSOLL_CA]
    #[arg(long, value_name = "FILE|sha256:HEX", help_heading = HEADING, global = true)]
    pub(crate) ca: Option<Authority>,

    /// A saved context (plimsoll context list); default: the current one
    ///
    /// `plimsoll serve` saves the context `local` when it starts. [env: PLIMSOLL_CONTEXT]
    #[arg(
        long,
        value_name = "NAME",
        help_heading = HEADING,
        global = true,
        conflicts_with = "connect"
    )]
    pub(crate) context: Option<String>,

    /// What carries the bytes: quic, tls, or tcp without encryption; default: quic
    ///
    /// QUIC and TLS share a port number; plaintext TCP has an address of its own and only where
    /// the node was started with --listen-plaintext. [env: PLIMSOLL_TRANSPORT]
    #[arg(long, value_name = "KIND", help_heading = HEADING, global = true)]
    pub(crate) transport: Option<TransportKind>,

    /// The name that the node's certificate must carry; default: the host of the address
    ///
    /// [env: PLIMSOLL_SERVER_NAME]
    #[arg(long, value_name = "NAME", help_heading = HEADING, global = true)]
    pub(crate) server_name: Option<String>,

    /// How long to wait for a connection, and for the answer to a request; default: 10s and 30s
    ///
    /// [env: PLIMSOLL_TIMEOUT]
    #[arg(
        long,
        value_name = "DURATION",
        value_parser = parse_duration,
        help_heading = HEADING,
        global = true
    )]
    pub(crate) timeout: Option<Duration>,
}

/// Whom to trust.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Authority {
    /// An authority's certificate in a PEM file.
    File(PathBuf),
    /// SHA-256 of a certificate.
    Fingerprint(Fingerprint),
}

impl std::str::FromStr for Authority {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            Err("name a PEM file, or sha256: and the fingerprint".to_owned())
        } else if text.starts_with("sha256:") {
            text.parse().map(Self::Fingerprint).map_err(|error| format!("{error}"))
        } else {
            Ok(Self::File(PathBuf::from(text)))
        }
    }
}

/// Where a command finds what its flags do not say.
pub(crate) struct Surroundings<'a> {
    /// Looks up an environment variable; an empty one counts as none.
    pub(crate) variable: &'a dyn Fn(&str) -> Option<String>,
    /// The user's configuration directory, where there is one.
    pub(crate) directory: Option<&'a Path>,
}

impl ConnectionArgs {
    /// Connects to the node, does some work, and says goodbye, so that the node need not find out
    /// by itself.
    pub(crate) async fn with_client<T>(
        &self,
        work: impl AsyncFnOnce(&Client) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let client = self.connect().await?;
        let outcome = work(&client).await;
        // The goodbye leaves at once; waiting for QUIC to forget the connection as well would make
        // every command a tenth of a second longer.
        let _ = tokio::time::timeout(GOODBYE, client.close()).await;
        outcome
    }

    /// Connects to the node.
    async fn connect(&self) -> Result<Client, Failure> {
        let config = self.config()?;
        let kind = config.transport;
        let address = config.address();
        Client::connect(config).await.map_err(|error| connect_failure(&error, &address, kind))
    }

    /// Everything that a connection needs to know, from this process' surroundings.
    pub(crate) fn config(&self) -> Result<ClientConfig, Failure> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let directory = context::config_dir().ok();
        self.resolve(&Surroundings { variable: &variable, directory: directory.as_deref() })
    }

    fn resolve(&self, around: &Surroundings<'_>) -> Result<ClientConfig, Failure> {
        let merged = self.with_variables(around)?;
        let saved = |name: Option<&str>| match around.directory {
            Some(directory) => context::load(directory, name),
            None => Err(ContextError::NoDirectory),
        };
        let mut config = match &merged.connect {
            Some(address) => {
                check_address(address)?;
                let known = || saved(None).ok().and_then(|saved| trust_of(&saved));
                let plaintext = merged.transport == Some(TransportKind::Tcp);
                let trust = match &merged.ca {
                    Some(authority) => authority.trust()?,
                    None if plaintext => Trust::Nobody,
                    None => known().ok_or_else(|| {
                        Failure::new(
                            Exit::Usage,
                            format!("nothing says whom to trust at {address}"),
                        )
                        .hint(
                            "give the authority: --ca FILE (DIR/tls/ca.pem of the node's data \
                                 directory) or --ca sha256:HEX (printed when the node starts)",
                        )
                    })?,
                };
                ClientConfig::new(address.clone(), trust)
            }
            None => {
                let saved =
                    saved(merged.context.as_deref()).map_err(|error| context_failure(&error))?;
                let mut config =
                    ClientConfig::from_saved(&saved).map_err(|error| context_failure(&error))?;
                if let Some(authority) = &merged.ca {
                    config.trust = authority.trust()?;
                }
                config
            }
        };
        if let Some(transport) = merged.transport {
            config.transport = transport;
        }
        if merged.server_name.is_some() {
            config.server_name.clone_from(&merged.server_name);
        }
        if let Some(timeout) = merged.timeout {
            config.connect_timeout = timeout;
            config.request_timeout = timeout;
        }
        config.client_name = format!("plimsoll-cli/{}", env!("CARGO_PKG_VERSION"));
        Ok(config)
    }

    /// These options with the blanks filled from the environment.
    fn with_variables(&self, around: &Surroundings<'_>) -> Result<Self, Failure> {
        let mut merged = self.clone();
        if let Some(timeout) = read(around, "PLIMSOLL_TIMEOUT", parse_duration)? {
            merged.timeout.get_or_insert(timeout);
        }
        if self.context.is_some() {
            return Ok(merged);
        }
        if merged.connect.is_none() {
            merged.connect = (around.variable)("PLIMSOLL_CONNECT");
        }
        if merged.connect.is_none() {
            merged.context = (around.variable)("PLIMSOLL_CONTEXT");
        }
        if merged.ca.is_none() {
            merged.ca = read(around, "PLIMSOLL_CA", str::parse)?;
        }
        if merged.transport.is_none() {
            merged.transport = read(around, "PLIMSOLL_TRANSPORT", str::parse)?;
        }
        if merged.server_name.is_none() {
            merged.server_name = (around.variable)("PLIMSOLL_SERVER_NAME");
        }
        Ok(merged)
    }
}

fn read<T, E: std::fmt::Display>(
    around: &Surroundings<'_>,
    name: &str,
    parse: impl Fn(&str) -> Result<T, E>,
) -> Result<Option<T>, Failure> {
    match (around.variable)(name).map(|text| parse(&text)).transpose() {
        Ok(value) => Ok(value),
        Err(error) => {
            Err(Failure::new(Exit::Usage, format!("environment variable {name}: {error}"))
                .hint("correct it, or remove it with `unset`"))
        }
    }
}

impl Authority {
    fn trust(&self) -> Result<Trust, Failure> {
        match self {
            Self::File(path) => read_authority(path).map(Trust::CaPem),
            Self::Fingerprint(fingerprint) => Ok(Trust::Fingerprint(*fingerprint)),
        }
    }
}

/// An authority's PEM text, checked enough to notice a wrong file before anything is tried.
pub(crate) fn read_authority(path: &Path) -> Result<String, Failure> {
    let hint = "a node keeps its authority in DIR/tls/ca.pem of its data directory";
    let pem = std::fs::read_to_string(path)
        .map_err(|error| Failure::of_file("read the authority", path, &error).hint(hint))?;
    if Fingerprint::of_pem(pem.as_bytes()).is_none() {
        let text = format!("{} holds no certificate in PEM form", path.display());
        return Err(Failure::new(Exit::Failed, text).hint(hint));
    }
    Ok(pem)
}

fn trust_of(saved: &Context) -> Option<Trust> {
    match ClientConfig::from_saved(saved).ok()?.trust {
        Trust::Nobody => None,
        trust => Some(trust),
    }
}

/// An address without a port is the most common slip; it is told before anything is tried. Addresses of
/// several nodes have commas between.
pub(crate) fn check_address(addresses: &str) -> Result<(), Failure> {
    addresses.split(',').map(str::trim).try_for_each(check_one_address)
}

fn check_one_address(address: &str) -> Result<(), Failure> {
    let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port);
    if port.is_some_and(|port| port.parse::<u16>().is_ok_and(|port| port > 0)) {
        return Ok(());
    }
    Err(Failure::new(Exit::Usage, format!("{address:?} is not HOST:PORT"))
        .hint("write for example localhost:7420, 192.0.2.7:7420 or [::1]:7420"))
}

/// A context that cannot be used, in words.
pub(crate) fn context_failure(error: &ContextError) -> Failure {
    let exit = match error {
        ContextError::Unknown { .. } => Exit::NotFound,
        ContextError::NoDirectory | ContextError::InvalidName { .. } => Exit::Usage,
        _ => Exit::Failed,
    };
    Failure::new(exit, error.to_string())
}

/// The exit code of a connection that was not made.
pub(crate) fn exit_of(error: &ConnectError) -> Exit {
    match error {
        ConnectError::Config(_) => Exit::Failed,
        _ => Exit::Unreachable,
    }
}

/// No connection, in words.
pub(crate) fn connect_failure(error: &ConnectError, address: &str, kind: TransportKind) -> Failure {
    let text = error.to_string();
    let failure = Failure::new(exit_of(error), text.clone());
    match error {
        ConnectError::Dial { .. } if text.contains("certificate") || text.contains("trust") => {
            failure.hint(
                "another node or a new data directory has another authority: give it with --ca, or \
                 choose its context with --context",
            )
        }
        ConnectError::Dial { .. } | ConnectError::Timeout { .. } if kind == TransportKind::Tcp => {
            failure.hint(
                "plaintext TCP has an address of its own, which the node prints when it is started \
                 with --listen-plaintext ADDRESS",
            )
        }
        ConnectError::Timeout { .. } if kind == TransportKind::Quic => failure
            .hint(format!("something on the way to {address} may block UDP: try --transport tls")),
        ConnectError::Dial { .. } | ConnectError::Timeout { .. } => failure.hint(
            "start a node with `plimsoll serve --data DIR`, or name the right one with --connect \
             HOST:PORT",
        ),
        _ => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    const FINGERPRINT: &str =
        "sha256:8f434346648f6b96df89dda901c5176b10a6d83961dd3c1ac88b59b2dc327aa4";
    const PEM: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";

    fn directory_with(name: &str, address: &str) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let saved = Context {
            address: address.to_owned(),
            server_name: Some("localhost".to_owned()),
            transport: "tls".to_owned(),
            ca_pem: Some(PEM.to_owned()),
            fingerprint: None,
        };
        context::save(directory.path(), name, &saved).unwrap();
        context::set_current(directory.path(), name).unwrap();
        directory
    }

    fn resolve(
        args: &ConnectionArgs,
        variables: &[(&str, &str)],
        directory: Option<&Path>,
    ) -> Result<ClientConfig, Failure> {
        let variables: HashMap<_, _> = variables.iter().copied().collect();
        let variable = |name: &str| variables.get(name).map(|value| (*value).to_owned());
        args.resolve(&Surroundings { variable: &variable, directory })
    }

    #[test]
    fn without_options_the_current_context_is_used() {
        let directory = directory_with("home", "127.0.0.1:7");
        let config = resolve(&ConnectionArgs::default(), &[], Some(directory.path())).unwrap();
        assert_eq!(config.address(), "127.0.0.1:7");
        assert_eq!(config.transport, TransportKind::Tls);
        assert_eq!(config.server_name.as_deref(), Some("localhost"));
        assert!(matches!(config.trust, Trust::CaPem(pem) if pem == PEM));
    }

    #[test]
    fn without_context_the_message_says_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let none = ConnectionArgs::default();
        let failure = resolve(&none, &[], Some(directory.path())).unwrap_err();
        assert_eq!(failure.exit(), Exit::NotFound);
        assert!(failure.to_string().contains("plimsoll serve"), "{failure}");
        assert_eq!(resolve(&none, &[], None).unwrap_err().exit(), Exit::Usage);
    }

    #[test]
    fn flags_win_over_variables_and_variables_over_the_context() {
        let directory = directory_with("home", "127.0.0.1:7");
        let path = Some(directory.path());
        let variables = [
            ("PLIMSOLL_CONNECT", "variable:1"),
            ("PLIMSOLL_CA", FINGERPRINT),
            ("PLIMSOLL_TRANSPORT", "quic"),
            ("PLIMSOLL_TIMEOUT", "3s"),
        ];
        let config = resolve(&ConnectionArgs::default(), &variables, path).unwrap();
        assert_eq!(config.address(), "variable:1");
        assert_eq!(config.request_timeout, Duration::from_secs(3));
        assert!(
            matches!(config.trust, Trust::Fingerprint(given) if given.to_string() == FINGERPRINT)
        );
        let flags = ConnectionArgs {
            connect: Some("flag:2".to_owned()),
            transport: Some(TransportKind::Tls),
            ..ConnectionArgs::default()
        };
        let config = resolve(&flags, &variables, path).unwrap();
        assert_eq!((config.address(), config.transport), ("flag:2".to_owned(), TransportKind::Tls));
    }

    #[test]
    fn context_flag_takes_no_address_or_authority_from_variables() {
        let directory = directory_with("home", "127.0.0.1:7");
        let flags =
            ConnectionArgs { context: Some("home".to_owned()), ..ConnectionArgs::default() };
        let variables = [("PLIMSOLL_CONNECT", "variable:1"), ("PLIMSOLL_CA", FINGERPRINT)];
        let config = resolve(&flags, &variables, Some(directory.path())).unwrap();
        assert_eq!(config.address(), "127.0.0.1:7");
        assert!(matches!(config.trust, Trust::CaPem(_)));
    }

    #[test]
    fn address_alone_trusts_the_authority_of_the_current_context() {
        let directory = directory_with("home", "127.0.0.1:7");
        let flags =
            ConnectionArgs { connect: Some("other:2".to_owned()), ..ConnectionArgs::default() };
        let config = resolve(&flags, &[], Some(directory.path())).unwrap();
        assert!(matches!(config.trust, Trust::CaPem(_)));
        assert_eq!(config.server_name, None);
        assert_eq!(config.transport, TransportKind::Quic);
        let failure = resolve(&flags, &[], None).unwrap_err();
        assert!(failure.to_string().contains("--ca FILE"), "{failure}");
    }

    #[test]
    fn wrong_authority_is_told_before_anything_is_tried() {
        let directory = tempfile::tempdir().unwrap();
        let missing = read_authority(&directory.path().join("ca.pem")).unwrap_err();
        assert_eq!(missing.exit(), Exit::NotFound);
        let path = directory.path().join("other");
        std::fs::write(&path, "not a certificate").unwrap();
        let failure = read_authority(&path).unwrap_err();
        assert!(failure.to_string().contains("no certificate"), "{failure}");
        assert!(read_authority(directory.path()).is_err());
    }

    #[test]
    fn plaintext_needs_nobody_to_trust() {
        let flags = ConnectionArgs {
            connect: Some("other:2".to_owned()),
            transport: Some(TransportKind::Tcp),
            ..ConnectionArgs::default()
        };
        assert!(matches!(resolve(&flags, &[], None).unwrap().trust, Trust::Nobody));
    }

    #[test]
    fn addresses_need_host_and_port() {
        for good in ["localhost:7420", "192.0.2.7:1", "[::1]:7420"] {
            check_address(good).unwrap();
        }
        for bad in ["", "localhost", ":7420", "localhost:", "localhost:0", "localhost:65536"] {
            assert_eq!(check_address(bad).unwrap_err().exit(), Exit::Usage, "{bad}");
        }
    }

    #[test]
    fn wrong_variable_is_named() {
        let failure = resolve(&ConnectionArgs::default(), &[("PLIMSOLL_TRANSPORT", "udp")], None)
            .unwrap_err();
        assert_eq!(failure.exit(), Exit::Usage);
        assert!(failure.to_string().contains("PLIMSOLL_TRANSPORT"), "{failure}");
    }
}

//! Reaching an address: the one place where the client opens connections. A simulation puts its own
//! [`Dial`] here.

use std::fmt;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use plimsoll_transport::{ClientTls, Connection, DialError, TransportConfig, TransportKind};

use crate::config::{ClientConfig, Trust};
use crate::error::ConnectError;

/// Where an address comes from. Both are trusted alike; it decides by which name a node's certificate
/// is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AddressSource {
    /// [`ClientConfig::addresses`].
    Configured,
    /// A node of the cluster named it.
    Cluster,
}

/// What opens connections.
pub trait Dial: fmt::Debug + Send + Sync {
    /// Connects to `HOST:PORT`. The caller bounds the time, by dropping the future.
    ///
    /// # Errors
    /// [`ConnectError::Resolve`] and [`ConnectError::Dial`].
    fn dial<'a>(
        &'a self,
        address: &'a str,
        source: AddressSource,
    ) -> BoxFuture<'a, Result<Connection, ConnectError>>;
}

/// The usual one: QUIC, TLS or TCP over sockets.
#[derive(Debug)]
pub(crate) struct SocketDial {
    kind: TransportKind,
    tls: Option<ClientTls>,
    server_name: Option<String>,
    transport: TransportConfig,
}

impl SocketDial {
    /// Reads whom to trust.
    pub(crate) fn new(config: &ClientConfig) -> Result<Self, ConnectError> {
        let unusable = |reason: String| ConnectError::Config(reason);
        let tls = match &config.trust {
            Trust::CaPem(pem) => ClientTls::trusting_pem(pem.as_bytes())
                .map(Some)
                .map_err(|error| unusable(format!("the authority cannot be used: {error}")))?,
            Trust::CaFile(path) => {
                let pem = std::fs::read(path).map_err(|error| {
                    unusable(format!(
                        "cannot read the authority's file {}: {error}; it is DIR/tls/ca.pem of the \
                         node's data directory",
                        path.display()
                    ))
                })?;
                ClientTls::trusting_pem(&pem)
                    .map(Some)
                    .map_err(|error| unusable(format!("{}: {error}", path.display())))?
            }
            Trust::Fingerprint(fingerprint) => ClientTls::trusting_fingerprint(*fingerprint)
                .map(Some)
                .map_err(|error| unusable(error.to_string()))?,
            Trust::Nobody if config.transport == TransportKind::Tcp => None,
            Trust::Nobody => {
                return Err(unusable(
                    "TLS needs an authority or a fingerprint to trust: give --ca FILE".to_owned(),
                ));
            }
        };
        Ok(Self {
            kind: config.transport,
            tls,
            server_name: config.server_name.clone(),
            transport: config.connection.clone(),
        })
    }

    /// The names that a node's certificate may carry, the first to be tried first. A name that was
    /// configured may be that of one node only, so that the others of its cluster are known by their
    /// host too; an address that was configured goes with its name alone.
    fn names<'a>(&'a self, address: &'a str, source: AddressSource) -> Vec<&'a str> {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        match (self.server_name.as_deref(), source) {
            (None, _) => vec![host],
            (Some(name), AddressSource::Configured) => vec![name],
            (Some(name), AddressSource::Cluster) if name == host => vec![name],
            (Some(name), AddressSource::Cluster) => vec![name, host],
        }
    }

    async fn connect(
        &self,
        address: &str,
        source: AddressSource,
    ) -> Result<Connection, ConnectError> {
        let resolve =
            |reason: String| ConnectError::Resolve { address: address.to_owned(), reason };
        let mut candidates = tokio::net::lookup_host(address)
            .await
            .map_err(|error| resolve(error.to_string()))?
            .peekable();
        if candidates.peek().is_none() {
            return Err(resolve("no address has this name".to_owned()));
        }
        let names = self.names(address, source);
        let mut last = String::new();
        for candidate in candidates {
            for name in &names {
                let (tls, config) = (self.tls.as_ref(), &self.transport);
                match Connection::dial(self.kind, candidate, name, tls, config).await {
                    Ok(connection) => return Ok(connection),
                    Err(error) => {
                        last = error.to_string();
                        if !matches!(error, DialError::Certificate { .. }) {
                            break;
                        }
                    }
                }
            }
        }
        Err(ConnectError::Dial { address: address.to_owned(), reason: last })
    }
}

impl Dial for SocketDial {
    fn dial<'a>(
        &'a self,
        address: &'a str,
        source: AddressSource,
    ) -> BoxFuture<'a, Result<Connection, ConnectError>> {
        self.connect(address, source).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(server_name: Option<&str>, address: &str, source: AddressSource) -> Vec<String> {
        let mut config = ClientConfig::plaintext(address);
        config.server_name = server_name.map(str::to_owned);
        let dial = SocketDial::new(&config).unwrap();
        dial.names(address, source).into_iter().map(str::to_owned).collect()
    }

    #[test]
    fn a_node_is_known_by_the_host_of_its_address_or_by_the_name_that_was_configured() {
        use AddressSource::{Cluster, Configured};
        assert_eq!(names(None, "[::1]:7420", Cluster), ["::1"]);
        assert_eq!(names(None, "node.example:7420", Configured), ["node.example"]);
        assert_eq!(names(Some("localhost"), "192.0.2.7:1", Configured), ["localhost"]);
        assert_eq!(names(Some("localhost"), "192.0.2.7:1", Cluster), ["localhost", "192.0.2.7"]);
        assert_eq!(names(Some("a"), "a:1", Cluster), ["a"]);
    }

    #[test]
    fn tls_without_anybody_to_trust_is_refused_at_once() {
        let config = ClientConfig::new("a:1", Trust::Nobody);
        assert!(matches!(SocketDial::new(&config), Err(ConnectError::Config(_))));
    }

    /// A node that proves itself with a certificate for these names, and keeps its connections.
    fn listen(authority: &rcgen::CertifiedIssuer<'_, rcgen::KeyPair>, names: &[&str]) -> String {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(names).unwrap();
        let certificate = params.signed_by(&key, authority).unwrap();
        let chain = vec![certificate.der().to_vec(), authority.der().to_vec()];
        let tls = plimsoll_transport::ServerTls::from_pkcs8(chain, key.serialize_der()).unwrap();
        let address = "127.0.0.1:0".parse().unwrap();
        let listener =
            plimsoll_transport::Listener::bind(address, &tls, TransportConfig::default()).unwrap();
        let address = listener.local_addr().to_string();
        tokio::spawn(async move {
            let mut held = Vec::new();
            while let Some(incoming) = listener.accept().await {
                held.push(incoming.handshake().await);
            }
        });
        address
    }

    /// Nodes of one cluster have certificates of their own, signed by one authority.
    #[tokio::test]
    async fn one_authority_or_its_fingerprint_is_trust_in_all_nodes_of_a_cluster() {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
        let key = rcgen::KeyPair::generate().unwrap();
        let authority = rcgen::CertifiedIssuer::self_signed(params, key).unwrap();
        let fingerprint = plimsoll_transport::Fingerprint::of_der(authority.der());
        for trust in [Trust::CaPem(authority.pem()), Trust::Fingerprint(fingerprint)] {
            for kind in [TransportKind::Quic, TransportKind::Tls] {
                let first = listen(&authority, &["first.example"]);
                let second = listen(&authority, &["127.0.0.1", "second.example"]);
                let mut config = ClientConfig::new(first.clone(), trust.clone());
                (config.transport, config.server_name) = (kind, Some("first.example".to_owned()));
                let dial = SocketDial::new(&config).unwrap();
                dial.dial(&first, AddressSource::Configured).await.unwrap();
                dial.dial(&second, AddressSource::Cluster).await.unwrap();
                let refused = dial.dial(&second, AddressSource::Configured).await.unwrap_err();
                assert!(refused.to_string().contains("certificate"), "{refused}");
                dial.dial(&first, AddressSource::Cluster).await.unwrap();
            }
        }
    }
}

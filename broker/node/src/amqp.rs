//! Listening for AMQP 0-9-1, plain and TLS, where the settings ask for it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use plimsoll_gateways::amqp::{AmqpServer, follow};
use plimsoll_gateways::{Broker, StrangerPlace};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use crate::certificates::Certificates;
use crate::config::NodeConfig;
use crate::error::StartError;

/// A listener that cannot take a connection, mostly for want of files, tries again after this.
const AGAIN_AFTER: Duration = Duration::from_millis(50);

/// Bound addresses.
pub(crate) struct AmqpListeners {
    plain: Option<TcpListener>,
    tls: Option<(TcpListener, TlsAcceptor)>,
    handshake_timeout: Duration,
    connections: Arc<Semaphore>,
}

/// Where a node listens for AMQP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AmqpAddresses {
    /// Without encryption.
    pub plain: Option<SocketAddr>,
    /// TLS.
    pub tls: Option<SocketAddr>,
}

/// Binds what the settings name.
pub(crate) async fn bind(
    config: &NodeConfig,
    certificates: Option<&Certificates>,
) -> Result<Option<AmqpListeners>, StartError> {
    let Some(certificates) = certificates else { return Ok(None) };
    let plain = match config.listen_amqp {
        Some(address) => Some(listen(address).await?),
        None => None,
    };
    let tls = match config.listen_amqps {
        Some(address) => Some((listen(address).await?, acceptor(certificates)?)),
        None => None,
    };
    let connections = Arc::new(Semaphore::new(config.connections_max));
    let listeners =
        AmqpListeners { plain, tls, handshake_timeout: config.handshake_timeout, connections };
    Ok((listeners.plain.is_some() || listeners.tls.is_some()).then_some(listeners))
}

async fn listen(address: SocketAddr) -> Result<TcpListener, StartError> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|source| StartError::Amqp { address, source })
}

fn acceptor(certificates: &Certificates) -> Result<TlsAcceptor, StartError> {
    let unreadable = |error: rustls::pki_types::pem::Error| {
        StartError::AmqpTls(rustls::Error::General(error.to_string()))
    };
    let clients = &certificates.clients;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(clients.chain_pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(unreadable)?;
    let key = PrivateKeyDer::from_pem_slice(clients.key_pem.as_bytes()).map_err(unreadable)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(StartError::AmqpTls)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

impl AmqpListeners {
    pub(crate) fn addresses(&self) -> AmqpAddresses {
        let address = |listener: &TcpListener| listener.local_addr().ok();
        AmqpAddresses {
            plain: self.plain.as_ref().and_then(address),
            tls: self.tls.as_ref().and_then(|(listener, _)| address(listener)),
        }
    }

    /// Takes connections until the broker stops and they have ended.
    pub(crate) async fn serve(self, broker: Arc<Broker>) -> Result<(), &'static str> {
        let server = AmqpServer::new(Arc::clone(&broker));
        let following = follow(Arc::clone(server.broker()));
        let accepting = self.accept(&server);
        tokio::pin!(following, accepting);
        // Both end when the broker stops.
        tokio::join!(following, accepting);
        Ok(())
    }

    async fn accept(&self, server: &AmqpServer) {
        let mut sessions = JoinSet::new();
        let stopping = server.stopping();
        tokio::pin!(stopping);
        loop {
            tokio::select! {
                biased;
                () = &mut stopping => break,
                Some(_) = sessions.join_next() => {}
                (accepted, tls) = self.next() => match accepted {
                    Ok((stream, peer)) => {
                        let Ok(place) = Arc::clone(&self.connections).try_acquire_owned() else {
                            tracing::debug!(%peer, "a connection of AMQP was refused: there are too many");
                            continue;
                        };
                        let Some(stranger) = server.take_stranger(peer) else { continue };
                        let (server, within) = (server.clone(), self.handshake_timeout);
                        sessions.spawn(serve(server, (stream, peer, stranger), tls, within, place));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a connection of AMQP cannot be taken in");
                        sleep(AGAIN_AFTER).await;
                    }
                },
            }
        }
        while sessions.join_next().await.is_some() {}
    }

    async fn next(&self) -> (io::Result<(TcpStream, SocketAddr)>, Option<TlsAcceptor>) {
        let plain = async {
            match &self.plain {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        let tls = async {
            match &self.tls {
                Some((listener, acceptor)) => (listener.accept().await, Some(acceptor.clone())),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            accepted = tls => accepted,
            accepted = plain => (accepted, None),
        }
    }
}

async fn serve(
    server: AmqpServer,
    (stream, peer, stranger): (TcpStream, SocketAddr, StrangerPlace),
    tls: Option<TlsAcceptor>,
    handshake_within: Duration,
    _place: OwnedSemaphorePermit,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "a connection of AMQP has ended");
        return;
    }
    match tls {
        None => server.serve(stream, peer, stranger).await,
        Some(acceptor) => match timeout(handshake_within, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => server.serve(stream, peer, stranger).await,
            Ok(Err(error)) => tracing::debug!(%peer, %error, "no TLS for AMQP"),
            Err(_) => tracing::debug!(%peer, "no TLS for AMQP in time"),
        },
    }
}

//! What a node has once for all its AMQP connections.

use std::collections::HashMap;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use plimsoll_amqp::session::{ChannelKey, End, SessionConfig, server_named};
use plimsoll_amqp::shortstr::ShortStr;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use crate::backend::Backend;
use crate::config::GatewayConfig;
use crate::connection;
use crate::host::Host;
use crate::inbox::{Event, Inbox};
use crate::logins::Failures;

/// A message for a consumer of direct replies.
///
/// Source: RabbitMQ, "Direct Reply-to".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The address: the routing key that it was published with.
    pub address: ShortStr,
    /// Its properties, encoded.
    pub properties: Bytes,
    /// Its body.
    pub body: Bytes,
}

impl Reply {
    pub(crate) fn bytes(&self) -> usize {
        self.address.len() + self.properties.len() + self.body.len()
    }
}

/// A channel that takes direct replies.
#[derive(Debug, Clone)]
pub(crate) struct ReplyAddress {
    pub(crate) inbox: Inbox,
    pub(crate) channel: ChannelKey,
    /// Bytes that the channel has not taken yet.
    pub(crate) waiting: Arc<AtomicUsize>,
}

/// The AMQP gateway of a node.
pub struct Gateway {
    pub(crate) config: GatewayConfig,
    pub(crate) session_config: Arc<SessionConfig>,
    pub(crate) backend: Arc<dyn Backend>,
    hosts: Mutex<HashMap<ShortStr, Arc<Host>>>,
    replies: Mutex<HashMap<ShortStr, ReplyAddress>>,
    failures: Mutex<Failures>,
    began: Instant,
}

/// What begins every address of a direct reply, before the number of its node.
const ADDRESS_PREFIX: &str = plimsoll_amqp::routing::DIRECT_REPLY_PREFIX;

impl Gateway {
    /// The gateway in front of this broker.
    #[must_use]
    pub fn new(backend: Arc<dyn Backend>, config: GatewayConfig) -> Arc<Self> {
        Arc::new(Self {
            session_config: Arc::new(config.session.clone()),
            config,
            backend,
            hosts: Mutex::default(),
            replies: Mutex::default(),
            failures: Mutex::default(),
            began: Instant::now(),
        })
    }

    /// Serves one connection, plain or TLS, until it has ended; why it did. `opened` is called when its
    /// virtual host is open: it is no connection of a stranger from then on. When `stopping` is done, the
    /// client is told so and has the time of a close to agree. Nothing is left behind when this future
    /// is done; one that is dropped before leaves it to [`Backend::abandoned`].
    pub async fn serve<S>(
        self: &Arc<Self>,
        stream: S,
        peer: SocketAddr,
        opened: impl FnOnce() + Send,
        stopping: impl Future<Output = ()> + Send,
    ) -> Option<End>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        connection::run(Arc::clone(self), stream, peer, opened, stopping).await
    }

    /// Whether somebody at this address may log in now.
    pub(crate) fn may_log_in(&self, peer: IpAddr) -> bool {
        let most = self.config.login_failures_max;
        lock(&self.failures).may_try(peer, most, self.began.elapsed())
    }

    pub(crate) fn login_failed(&self, peer: IpAddr) {
        lock(&self.failures).failed(peer, self.began.elapsed());
    }

    /// Gives a direct reply to the channel that it is for, where that is one of this node; false where
    /// there is none, or too much waits for it.
    pub fn take_reply(&self, reply: Reply) -> bool {
        let Some(to) = lock(&self.replies).get(&reply.address).cloned() else { return false };
        let bytes = reply.bytes();
        let waiting = to.waiting.fetch_add(bytes, Ordering::Relaxed);
        let taken = waiting <= self.config.reply_bytes_max
            && to.inbox.send(Event::Replied { channel: to.channel, reply });
        if !taken {
            to.waiting.fetch_sub(bytes, Ordering::Relaxed);
        }
        taken
    }

    /// Gives a reply to whom it is for, here or on another node; false where nobody is known.
    pub(crate) fn send_reply(&self, reply: Reply) -> bool {
        match node_of(&reply.address) {
            Some(node) if node != self.backend.node() => self.backend.forward_reply(node, reply),
            _ => self.take_reply(reply),
        }
    }

    /// Whether this address is that of a channel, as far as this node knows.
    pub(crate) fn takes_replies(&self, address: &str) -> bool {
        match node_of(address) {
            Some(node) if node != self.backend.node() => true,
            _ => lock(&self.replies).contains_key(address),
        }
    }

    /// Gives a channel an address for replies.
    pub(crate) fn open_address(&self, address: ReplyAddress) -> ShortStr {
        let prefix = format!("{ADDRESS_PREFIX}{:x}", self.backend.node());
        let name = server_named(&prefix, self.backend.random());
        lock(&self.replies).insert(name.clone(), address);
        name
    }

    pub(crate) fn close_address(&self, address: &str) {
        lock(&self.replies).remove(address);
    }

    /// The virtual host of this name, shared by its connections.
    pub(crate) fn host(&self, vhost: &ShortStr) -> Option<Arc<Host>> {
        if let Some(host) = lock(&self.hosts).get(vhost)
            && !host.is_deleted()
        {
            return Some(Arc::clone(host));
        }
        let Some(latest) = self.backend.host(vhost) else {
            lock(&self.hosts).remove(vhost);
            return None;
        };
        let host = Arc::new(Host::new(vhost.clone(), latest));
        lock(&self.hosts).insert(vhost.clone(), Arc::clone(&host));
        Some(host)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The number of the node in an address, as in `amq.rabbitmq.reply-to.1f-...`.
fn node_of(address: &str) -> Option<u64> {
    let (node, _) = address.strip_prefix(ADDRESS_PREFIX)?.split_once('-')?;
    u64::from_str_radix(node, 16).ok()
}

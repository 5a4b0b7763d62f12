//! Virtual hosts as the gateway has them: made anew where the catalog's changed, queues kept.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use plimsoll_amqp::routing::{Binding, Destination, ExchangeShape, QueueShape, Rule};
use plimsoll_amqp::shortstr::ShortStr;
use plimsoll_amqp::table::FieldTable;
use plimsoll_amqp_gateway::catalog::{
    BindingEntry, ConnectionId, ExchangeEntry, HostSnapshot, Owner, PermissionPatterns, QueueEntry,
};
use plimsoll_protocol::ids::NodeId;
use plimsoll_state::catalog::Catalog;
use plimsoll_state::catalog::amqp::{self as stored, AmqpText, Vhost};
use tokio::sync::watch;

/// The type whose messages wait before they are routed.
const DELAYED: &str = "x-delayed-message";

/// See the module.
pub(super) struct Hosts {
    me: NodeId,
    known: Mutex<Shown>,
    /// Grows when users or permissions changed, or a virtual host was deleted.
    access: watch::Sender<u64>,
}

/// What connections were shown.
#[derive(Default)]
struct Shown {
    hosts: HashMap<String, Known>,
    /// The epochs of the newest copy of the catalog that was shown: of everything, of users and permissions.
    epoch: u64,
    access_epoch: u64,
}

struct Known {
    /// [`Vhost::created_ms`]: one that was deleted and made again is another.
    created_ms: i64,
    /// [`Vhost::changed`] and the epoch of permissions that the snapshot is of.
    of: (u64, u64),
    latest: watch::Sender<Arc<HostSnapshot>>,
}

pub(super) fn short(text: &AmqpText) -> ShortStr {
    ShortStr::cut(text.as_str())
}

pub(super) fn text(text: &str) -> AmqpText {
    AmqpText::try_from(text).expect("a short string of AMQP is short")
}

fn table(bytes: &bytes::Bytes) -> FieldTable {
    // It was a table when it was declared.
    FieldTable::parse(bytes.clone()).unwrap_or_default()
}

impl Hosts {
    pub(super) fn new(me: NodeId) -> Self {
        Self { me, known: Mutex::default(), access: watch::Sender::new(0) }
    }

    /// Grows when users or permissions changed, or a virtual host was deleted.
    pub(super) fn access(&self) -> watch::Receiver<u64> {
        self.access.subscribe()
    }

    fn known(&self) -> MutexGuard<'_, Shown> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A virtual host as it is now and as it changes; none where there is none. The catalog is looked at once
    /// nothing is being refreshed: what an older copy shows would stay.
    pub(super) fn watch(
        &self,
        catalog: impl FnOnce() -> Arc<Catalog>,
        name: &str,
    ) -> Option<watch::Receiver<Arc<HostSnapshot>>> {
        let mut known = self.known();
        let catalog = catalog();
        let vhost = catalog.amqp().vhost(name)?;
        if let Some(known) = known.hosts.get(name) {
            return Some(known.latest.subscribe());
        }
        let access = catalog.amqp().access_epoch();
        let snapshot = Arc::new(self.snapshot(&catalog, name, vhost, &HashMap::new()));
        let (latest, receiver) = watch::channel(snapshot);
        let (of, created_ms) = ((vhost.changed(), access), vhost.created_ms());
        known.hosts.insert(name.to_owned(), Known { created_ms, of, latest });
        Some(receiver)
    }

    /// Shows connections what changed. Those of a host that is gone see its end.
    pub(super) fn refresh(&self, catalog: &Catalog) {
        let (epoch, access) = (catalog.amqp().epoch(), catalog.amqp().access_epoch());
        let mut shown = self.known();
        // An older copy of the catalog must not take back what a newer one has shown.
        if epoch < shown.epoch {
            return;
        }
        shown.epoch = epoch;
        let hosts_before = shown.hosts.len();
        shown.hosts.retain(|name, known| {
            let vhost = catalog.amqp().vhost(name);
            let vhost = vhost.filter(|vhost| vhost.created_ms() == known.created_ms);
            let Some(vhost) = vhost else { return false };
            let of = (vhost.changed(), access);
            if of > known.of {
                known.of = of;
                let queues = known.latest.borrow().queues.clone();
                let before = queues.into_iter().map(|queue| (queue.declaration, queue)).collect();
                let snapshot = self.snapshot(catalog, name, vhost, &before);
                known.latest.send_replace(Arc::new(snapshot));
            }
            true
        });
        if shown.hosts.len() < hosts_before || shown.access_epoch < access {
            shown.access_epoch = access;
            self.access.send_modify(|changes| *changes += 1);
        }
    }

    fn snapshot(
        &self,
        catalog: &Catalog,
        name: &str,
        vhost: &Vhost,
        before: &HashMap<u64, Arc<QueueEntry>>,
    ) -> HostSnapshot {
        let exchanges = vhost.exchanges().filter_map(|(name, exchange)| {
            Some(ExchangeEntry { name: short(name), shape: exchange_shape(exchange)? })
        });
        let queues = vhost.queues().filter_map(|(name, queue)| {
            before
                .get(&queue.declaration)
                .cloned()
                .or_else(|| self.queue(name, queue).map(Arc::new))
        });
        let bindings = vhost.bindings().map(|(source, binding)| BindingEntry {
            source: short(source),
            binding: Binding {
                destination: match &binding.destination {
                    stored::Destination::Queue { name } => Destination::Queue(short(name)),
                    stored::Destination::Exchange { name } => Destination::Exchange(short(name)),
                },
                key: short(&binding.key),
                arguments: table(&binding.arguments),
            },
        });
        let permissions = catalog.amqp().users().filter_map(|(user, meta)| {
            let patterns = meta.permissions.get(name)?;
            let patterns = PermissionPatterns {
                configure: patterns.configure.clone(),
                write: patterns.write.clone(),
                read: patterns.read.clone(),
            };
            Some((user.as_str().to_owned(), patterns))
        });
        HostSnapshot {
            generation: catalog.amqp().epoch(),
            exchanges: exchanges.collect(),
            queues: queues.collect(),
            bindings: bindings.collect(),
            permissions: permissions.collect(),
        }
    }

    fn queue(&self, name: &AmqpText, queue: &stored::Queue) -> Option<QueueEntry> {
        let spec = &queue.spec;
        let shape = QueueShape {
            durable: spec.durable,
            auto_delete: spec.auto_delete,
            exclusive: spec.connection.is_some(),
            arguments: table(&spec.arguments),
        };
        let owner = spec.connection.map(|connection| match spec.node == self.me {
            true => Owner::Here(ConnectionId(connection)),
            false => Owner::Elsewhere,
        });
        let topic = Arc::from(spec.topic.as_str());
        let entry = QueueEntry::new(short(name), shape, owner, topic, queue.declaration);
        // Its arguments were checked before it was declared, by this or a newer build.
        entry.inspect_err(|error| tracing::warn!(%name, %error, "a queue cannot be used here")).ok()
    }
}

fn exchange_shape(exchange: &stored::Exchange) -> Option<ExchangeShape> {
    let arguments = table(&exchange.arguments);
    let delayed = exchange.kind.as_str() == DELAYED;
    let rule = match delayed {
        true => {
            arguments.find("x-delayed-type").and_then(|inner| Rule::from_name(inner.as_text()?))
        }
        false => Rule::from_name(exchange.kind.as_str()),
    };
    Some(ExchangeShape {
        rule: rule?,
        delayed,
        durable: exchange.durable,
        auto_delete: exchange.auto_delete,
        internal: exchange.internal,
        arguments,
    })
}

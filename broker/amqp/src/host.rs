//! A virtual host as connections use it: the snapshot of the catalog folded for routing, once for all
//! connections, and again when it has changed.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use plimsoll_amqp::error::{Fault, ReplyCode, Resource};
use plimsoll_amqp::routing::{Destination, Rule, Topology};
use plimsoll_amqp::shortstr::ShortStr;
use tokio::sync::watch;

use crate::catalog::{HostSnapshot, QueueEntry};
use crate::permissions::{Permission, Permissions};

/// A snapshot, folded. Never changes.
#[derive(Debug)]
pub struct Folded {
    generation: u64,
    vhost: ShortStr,
    /// Exchanges and bindings.
    pub topology: Topology,
    queues: HashMap<ShortStr, Arc<QueueEntry>>,
    permissions: HashMap<String, Arc<Permissions>>,
    /// Exchanges that may look at headers, or lead to one that does.
    by_headers: HashSet<ShortStr>,
}

impl Folded {
    /// Folds a snapshot. Patterns that `before` had are not compiled again.
    #[must_use]
    pub fn new(vhost: &ShortStr, snapshot: &HostSnapshot, before: Option<&Self>) -> Self {
        let mut topology = Topology::new(vhost.clone());
        for exchange in &snapshot.exchanges {
            let folded = topology.declare_exchange(&exchange.name, exchange.shape.clone());
            if let Err(fault) = folded
                && !exchange.name.starts_with("amq.")
                && !exchange.name.is_empty()
            {
                tracing::warn!(vhost = &**vhost, %fault, "exchange of the catalog is left out");
            }
        }
        for queue in &snapshot.queues {
            topology.add_queue(queue.name.clone());
        }
        for entry in &snapshot.bindings {
            let (source, binding) = (&entry.source, entry.binding.clone());
            let folded =
                topology.bind(source, binding.destination, binding.key, &binding.arguments);
            if let Err(fault) = folded {
                tracing::warn!(vhost = &**vhost, %fault, "binding of the catalog is left out");
            }
        }
        let compiled = |(user, patterns): &(String, _)| {
            let known = before.and_then(|before| before.permissions.get(user));
            let permissions = match known {
                Some(known) if known.patterns() == patterns => Arc::clone(known),
                _ => Arc::new(Permissions::new(patterns.clone())),
            };
            (user.clone(), permissions)
        };
        Self {
            generation: snapshot.generation,
            vhost: vhost.clone(),
            by_headers: by_headers(&topology, snapshot),
            topology,
            queues: snapshot.queues.iter().map(|q| (q.name.clone(), Arc::clone(q))).collect(),
            permissions: snapshot.permissions.iter().map(compiled).collect(),
        }
    }

    /// The virtual host's name.
    #[must_use]
    pub fn vhost(&self) -> &ShortStr {
        &self.vhost
    }

    /// Whether exchange and keys alone decide where a message goes.
    #[must_use]
    pub fn routes_by_key(&self, exchange: &str) -> bool {
        !self.by_headers.contains(exchange)
    }

    /// The queue of this name.
    #[must_use]
    pub fn find_queue(&self, name: &str) -> Option<&Arc<QueueEntry>> {
        self.queues.get(name)
    }

    /// The queue of this name.
    ///
    /// # Errors
    /// 404.
    pub fn queue(&self, name: &str) -> Result<&Arc<QueueEntry>, Fault> {
        self.find_queue(name).ok_or_else(|| Resource::queue(name, &self.vhost).not_found())
    }

    /// Whether the user may come in at all.
    #[must_use]
    pub fn lets_in(&self, user: &str) -> bool {
        self.permissions.contains_key(user)
    }

    /// Whether the user may do this with a queue.
    ///
    /// # Errors
    /// 403.
    pub fn check_queue(&self, user: &str, what: Permission, name: &str) -> Result<(), Fault> {
        self.check(user, what, Resource::queue(name, &self.vhost))
    }

    /// Whether the user may do this with an exchange.
    ///
    /// # Errors
    /// 403.
    pub fn check_exchange(&self, user: &str, what: Permission, name: &str) -> Result<(), Fault> {
        self.check(user, what, Resource::exchange(name, &self.vhost))
    }

    fn check(&self, user: &str, what: Permission, resource: Resource<'_>) -> Result<(), Fault> {
        match self.permissions.get(user) {
            Some(permissions) => permissions.check(user, what, resource),
            None => {
                let text = format!("access to vhost '{}' refused for user '{user}'", self.vhost);
                Err(Fault::new(ReplyCode::AccessRefused, text))
            }
        }
    }
}

/// All exchanges that lead anywhere but to queues, and headers exchanges, where one of those has
/// bindings; else none.
fn by_headers(topology: &Topology, snapshot: &HostSnapshot) -> HashSet<ShortStr> {
    let by_headers = |source: &ShortStr| {
        topology.exchange_shape(source).is_ok_and(|shape| shape.rule == Rule::Headers)
    };
    if !snapshot.bindings.iter().any(|entry| by_headers(&entry.source)) {
        return HashSet::new();
    }
    let indirect = snapshot.bindings.iter().filter(|entry| {
        matches!(entry.binding.destination, Destination::Exchange(_)) || by_headers(&entry.source)
    });
    let with_alternate = snapshot
        .exchanges
        .iter()
        .filter(|exchange| exchange.shape.arguments.find("alternate-exchange").is_some());
    let sources = indirect.map(|entry| entry.source.clone());
    sources.chain(with_alternate.map(|exchange| exchange.name.clone())).collect()
}

/// A virtual host that connections share.
#[derive(Debug)]
pub(crate) struct Host {
    vhost: ShortStr,
    latest: watch::Receiver<Arc<HostSnapshot>>,
    folded: Mutex<Arc<Folded>>,
}

impl Host {
    pub(crate) fn new(vhost: ShortStr, latest: watch::Receiver<Arc<HostSnapshot>>) -> Self {
        let snapshot = Arc::clone(&latest.borrow());
        let folded = Mutex::new(Arc::new(Folded::new(&vhost, &snapshot, None)));
        Self { vhost, latest, folded }
    }

    /// Whether the catalog has deleted it.
    pub(crate) fn is_deleted(&self) -> bool {
        self.latest.has_changed().is_err()
    }

    /// To see changes without a lock.
    pub(crate) fn watch(&self) -> watch::Receiver<Arc<HostSnapshot>> {
        self.latest.clone()
    }

    pub(crate) fn vhost(&self) -> &ShortStr {
        &self.vhost
    }

    /// As it is now. Who comes first after a change folds it, others wait for that.
    pub(crate) fn now(&self) -> Arc<Folded> {
        let snapshot = Arc::clone(&self.latest.borrow());
        let mut folded = self.folded.lock().unwrap_or_else(PoisonError::into_inner);
        if snapshot.generation > folded.generation {
            *folded = Arc::new(Folded::new(&self.vhost, &snapshot, Some(&folded)));
        }
        Arc::clone(&folded)
    }
}

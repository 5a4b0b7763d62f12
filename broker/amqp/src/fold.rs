//! The snapshot of a virtual host, folded for routing and permissions, and brought from one snapshot to
//! the next by what differs: a fold costs some microseconds per binding, and catalogs change often.
//!
//! Invariant: what was brought to a snapshot routes as what was folded from it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use plimsoll_amqp::error::{Fault, ReplyCode, Resource};
use plimsoll_amqp::routing::{Binding, Destination, Rule, Topology};
use plimsoll_amqp::shortstr::ShortStr;

use crate::catalog::{BindingEntry, HostSnapshot, PermissionPatterns, QueueEntry};
use crate::permissions::{Permission, Permissions};

/// A snapshot, folded.
#[derive(Debug)]
pub struct Folded {
    of: Arc<HostSnapshot>,
    vhost: ShortStr,
    /// Exchanges and bindings.
    pub topology: Topology,
    queues: HashMap<ShortStr, Arc<QueueEntry>>,
    permissions: HashMap<String, Permissions>,
    /// Exchanges that may look at headers, or lead to one that does.
    by_headers: HashSet<ShortStr>,
}

impl Folded {
    /// Folds a snapshot.
    #[must_use]
    pub fn new(vhost: &ShortStr, snapshot: Arc<HostSnapshot>) -> Self {
        let mut folded = Self {
            of: Arc::default(),
            vhost: vhost.clone(),
            topology: Topology::new(vhost.clone()),
            queues: HashMap::new(),
            permissions: HashMap::new(),
            by_headers: HashSet::new(),
        };
        let nothing = HostSnapshot::default();
        if !folded.apply(&nothing, &snapshot) {
            let vhost = &**vhost;
            tracing::warn!(vhost, "the catalog's exchanges or bindings contradict each other");
        }
        folded.finish(&nothing, &snapshot);
        folded.of = snapshot;
        folded
    }

    /// Brings it to another snapshot.
    pub fn update(&mut self, snapshot: Arc<HostSnapshot>) {
        let before = std::mem::take(&mut self.of);
        if !self.apply(&before, &snapshot) {
            *self = Self::new(&self.vhost.clone(), snapshot);
            return;
        }
        self.finish(&before, &snapshot);
        self.of = snapshot;
    }

    /// Which snapshot it is of.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.of.generation
    }

    /// Makes the changes from one snapshot to another: first what is new, so that no exchange deletes
    /// itself between the last of its old bindings and the first new one. False where that does not lead
    /// to the other snapshot: an exchange was deleted and declared again.
    fn apply(&mut self, before: &HostSnapshot, after: &HostSnapshot) -> bool {
        let exchanges = difference(&before.exchanges, &after.exchanges, |one| &one.name);
        let queues =
            difference(&before.queues, &after.queues, |queue| (&queue.name, queue.declaration));
        let bindings = difference(&before.bindings, &after.bindings, |binding| binding);
        for exchange in &exchanges.both {
            let shape = self.topology.exchange_shape(&exchange.name);
            if shape.is_ok_and(|shape| *shape != exchange.shape) && !is_own(&exchange.name) {
                return false;
            }
        }
        let mut is_whole = true;
        for exchange in exchanges.new {
            let declared = self.topology.declare_exchange(&exchange.name, exchange.shape.clone());
            is_whole &= declared.is_ok() || is_own(&exchange.name);
        }
        for queue in queues.new {
            self.topology.add_queue(queue.name.clone());
            self.queues.insert(queue.name.clone(), Arc::clone(queue));
        }
        for BindingEntry { source, binding } in bindings.new {
            let Binding { destination, key, arguments } = binding.clone();
            let bound = self.topology.bind(source, destination, key, &arguments);
            is_whole &= bound == Ok(true);
        }
        for BindingEntry { source, binding } in bindings.gone {
            let Binding { destination, key, arguments } = binding.clone();
            self.topology.unbind(source, destination, key, &arguments);
        }
        for queue in queues.gone {
            let known = self.queues.get(&queue.name);
            if known.is_some_and(|known| known.declaration == queue.declaration) {
                self.queues.remove(&queue.name);
                self.topology.remove_queue(&queue.name);
            }
        }
        for exchange in exchanges.gone {
            // Of one that only a used one would keep there is nothing to refuse.
            is_whole &= self.topology.delete_exchange(&exchange.name, false).is_ok();
        }
        let mut there = after.exchanges.iter();
        is_whole && there.all(|exchange| self.topology.exchange_shape(&exchange.name).is_ok())
    }

    /// What follows from the rest.
    fn finish(&mut self, before: &HostSnapshot, after: &HostSnapshot) {
        if before.exchanges != after.exchanges || before.bindings != after.bindings {
            self.by_headers = by_headers(&self.topology, after);
        }
        if before.permissions == after.permissions {
            return;
        }
        let mut known = std::mem::take(&mut self.permissions);
        let compiled = |(user, patterns): &(String, PermissionPatterns)| {
            let same = known.remove(user).filter(|known| known.patterns() == patterns);
            (user.clone(), same.unwrap_or_else(|| Permissions::new(patterns.clone())))
        };
        self.permissions = after.permissions.iter().map(compiled).collect();
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

/// Whether it is an exchange that each virtual host has.
fn is_own(exchange: &str) -> bool {
    exchange.is_empty() || exchange.starts_with("amq.")
}

/// What differs between two lists.
struct Difference<'a, T> {
    gone: Vec<&'a T>,
    new: Vec<&'a T>,
    /// What has the same key in both, and may differ otherwise: as it is in the second.
    both: Vec<&'a T>,
}

/// Compares two lists whose elements have different keys. What stands at the same place from the front
/// or from the back, and is equal, is not looked at again.
fn difference<'a, T: PartialEq, K: Ord + 'a>(
    before: &'a [T],
    after: &'a [T],
    key: impl Fn(&'a T) -> K,
) -> Difference<'a, T> {
    let front = before.iter().zip(after).take_while(|(one, other)| one == other).count();
    let (before, after) = (&before[front..], &after[front..]);
    let ends = before.iter().rev().zip(after.iter().rev());
    let back = ends.take_while(|(one, other)| one == other).count();
    let (before, after) = (&before[..before.len() - back], &after[..after.len() - back]);
    let keys_before: BTreeSet<K> = before.iter().map(&key).collect();
    let keys_after: BTreeSet<K> = after.iter().map(&key).collect();
    let (both, new) = after.iter().partition(|one| keys_before.contains(&key(one)));
    let gone = before.iter().filter(|one| !keys_after.contains(&key(one))).collect();
    Difference { gone, new, both }
}

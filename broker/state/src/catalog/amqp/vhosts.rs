//! Virtual hosts.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::bindings::Bindings;
use super::exchanges::Exchange;
use super::limits::{AmqpKind, check_name};
use super::queues::Queue;
use super::refusal::AmqpRefusal;
use super::reply::AmqpReply;
use super::text::AmqpText;
use super::{AmqpObjects, Binding, Destination};
use crate::catalog::Catalog;

/// A virtual host: exchanges, queues and bindings. A clone does not change any more.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Vhost {
    pub(super) created_ms: i64,
    pub(super) changed: u64,
    pub(super) exchanges: Arc<BTreeMap<AmqpText, Arc<Exchange>>>,
    pub(super) queues: Arc<BTreeMap<AmqpText, Arc<Queue>>>,
    pub(super) bindings: Bindings,
    /// Bytes of the arguments of all of these. Derived, never stored.
    pub(super) argument_bytes: usize,
}

impl Vhost {
    /// When it was made, unix ms; 0 for the one that is there from the beginning.
    #[must_use]
    pub fn created_ms(&self) -> i64 {
        self.created_ms
    }

    /// [`AmqpObjects::epoch`] after its last change. One that is deleted and made again has a greater
    /// one: equal numbers mean equal contents.
    #[must_use]
    pub fn changed(&self) -> u64 {
        self.changed
    }

    /// The exchange of this name; none for those that every virtual host has.
    #[must_use]
    pub fn exchange(&self, name: &str) -> Option<&Arc<Exchange>> {
        self.exchanges.get(name)
    }

    /// All exchanges that were declared, by name.
    pub fn exchanges(&self) -> impl Iterator<Item = (&AmqpText, &Arc<Exchange>)> {
        self.exchanges.iter()
    }

    /// The queue of this name.
    #[must_use]
    pub fn queue(&self, name: &str) -> Option<&Arc<Queue>> {
        self.queues.get(name)
    }

    /// All queues, by name.
    pub fn queues(&self) -> impl Iterator<Item = (&AmqpText, &Arc<Queue>)> {
        self.queues.iter()
    }

    /// All bindings, each with its source, by source and destination.
    pub fn bindings(&self) -> impl Iterator<Item = (&AmqpText, &Binding)> {
        self.bindings.iter()
    }

    /// The bindings of an exchange, by destination.
    pub fn bindings_from(&self, source: &str) -> impl Iterator<Item = &Binding> {
        self.bindings.from(source)
    }

    /// The bindings to a queue or an exchange, each with its source.
    pub fn bindings_to<'a>(
        &'a self,
        destination: &'a Destination,
    ) -> impl Iterator<Item = (&'a AmqpText, &'a Binding)> {
        self.bindings.to(destination)
    }

    /// Takes a queue away, with the bindings to it and the exchanges that delete themselves for it.
    pub(super) fn remove_queue(&mut self, name: &AmqpText) -> Option<Arc<Queue>> {
        let queue = Arc::make_mut(&mut self.queues).remove(name)?;
        self.argument_bytes -= queue.spec.arguments.len();
        let unused = self.remove_bindings_to(&Destination::Queue { name: name.clone() });
        self.remove_exchanges(unused);
        Some(queue)
    }

    /// Removes exchanges that were declared, and those that delete themselves because of it.
    pub(super) fn remove_exchanges(&mut self, mut names: Vec<AmqpText>) {
        while let Some(name) = names.pop() {
            let Some(exchange) = Arc::make_mut(&mut self.exchanges).remove(&name) else { continue };
            self.argument_bytes -= exchange.arguments.len();
            self.argument_bytes -= self.bindings.remove_from(&name);
            names.extend(self.remove_bindings_to(&Destination::Exchange { name }));
        }
    }

    /// Removes a binding; false where there is none.
    pub(super) fn remove_binding(&mut self, source: &AmqpText, binding: &Binding) -> bool {
        if !self.bindings.remove(source, binding) {
            return false;
        }
        self.argument_bytes -= binding.arguments.len();
        if self.is_done(source) {
            self.remove_exchanges(vec![source.clone()]);
        }
        true
    }

    /// Gives the exchanges that delete themselves now.
    fn remove_bindings_to(&mut self, destination: &Destination) -> Vec<AmqpText> {
        let (mut sources, bytes) = self.bindings.remove_to(destination);
        self.argument_bytes -= bytes;
        sources.retain(|source| self.is_done(source));
        sources
    }

    /// Whether an exchange deletes itself, now that a binding of it is gone.
    fn is_done(&self, exchange: &AmqpText) -> bool {
        let auto_delete = self.exchanges.get(exchange).is_some_and(|exchange| exchange.auto_delete);
        auto_delete && !self.bindings.has_source(exchange)
    }
}

impl AmqpObjects {
    pub(super) fn known_vhost(&self, name: &AmqpText) -> Result<&Arc<Vhost>, AmqpRefusal> {
        self.vhosts.get(name).ok_or_else(|| AmqpRefusal::UnknownVhost { vhost: name.clone() })
    }

    /// Changes a virtual host that is known to be there.
    pub(super) fn change<R>(
        &mut self,
        vhost: &AmqpText,
        change: impl FnOnce(&mut Vhost) -> R,
    ) -> R {
        self.epoch += 1;
        let vhost =
            Arc::make_mut(&mut self.vhosts).get_mut(vhost).expect("the virtual host was just seen");
        let vhost = Arc::make_mut(vhost);
        vhost.changed = self.epoch;
        change(vhost)
    }

    pub(super) fn create_vhost(
        &mut self,
        name: AmqpText,
        created_ms: i64,
    ) -> Result<AmqpReply, AmqpRefusal> {
        check_name("virtual host", &name)?;
        if self.vhosts.contains_key(&name) {
            return Ok(AmqpReply::Done { changed: false });
        }
        self.check_room(AmqpKind::Vhosts)?;
        self.epoch += 1;
        let vhost = Vhost { created_ms, changed: self.epoch, ..Vhost::default() };
        Arc::make_mut(&mut self.vhosts).insert(name, Arc::new(vhost));
        Ok(AmqpReply::Done { changed: true })
    }
}

impl Catalog {
    pub(super) fn delete_vhost(&mut self, name: &AmqpText) -> Result<AmqpReply, AmqpRefusal> {
        let vhost = Arc::clone(self.amqp.known_vhost(name)?);
        Arc::make_mut(&mut self.amqp.vhosts).remove(name);
        self.amqp.epoch += 1;
        self.amqp.clear_vhost(name);
        Ok(self.delete_topics_of(vhost.queues.values()))
    }
}

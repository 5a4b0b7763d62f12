//! Where messages go: the exchanges, bindings and queue names of one virtual host, as a pure value.
//! Whoever folds the same declarations in the same order routes the same way.
//!
//! ```text
//!  exchange     types of exchanges, what was declared       equivalence  is it what was declared before?
//!  topic        a trie of patterns                          headers      tables against tables
//!  bindings     which exchange leads where                  keys         CC, BCC
//!  arguments    what a queue's arguments ask for            checks       may it be declared or bound?
//! ```
//!
//! Invariants: a route visits each exchange once, so cycles end; a queue gets a message once however
//! many ways lead to it; a binding's ends exist. It does not know what queues hold, who may do what,
//! or what is durable.

mod arguments;
mod bindings;
mod checks;
mod equivalence;
mod exchange;
mod headers;
mod keys;
mod topic;

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{Fault, ReplyCode, Resource};
use crate::shortstr::ShortStr;
use crate::table::{FieldTable, TableRef};

pub use arguments::{Overflow, QueueArguments, QueueKind, StreamStart};
pub use bindings::{Binding, Destination};
pub use equivalence::{QueueShape, check_queue, locked};
pub use exchange::{ExchangeShape, ExchangeType, Rule};
pub use headers::{headers_match, sorted as sorted_arguments};
pub use keys::{MessageKeys, without_bcc};
pub use topic::Trie;

use bindings::{Bindings, count_down};

/// The prefix of the keys that lead to a consumer of direct replies.
pub const DIRECT_REPLY_PREFIX: &str = "amq.rabbitmq.reply-to.";

/// The exchanges that every virtual host has. Source: AMQP 0-9-1, 3.1.3; RabbitMQ, "Exchanges".
const PREDECLARED: [(&str, Rule); 6] = [
    ("", Rule::Direct),
    ("amq.direct", Rule::Direct),
    ("amq.fanout", Rule::Fanout),
    ("amq.topic", Rule::Topic),
    ("amq.headers", Rule::Headers),
    ("amq.match", Rule::Headers),
];

#[derive(Debug, Clone)]
struct Exchange {
    shape: ExchangeShape,
    /// Where messages go that it has no way for.
    alternate: Option<ShortStr>,
    bindings: Bindings,
}

/// Where a message goes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Routes {
    /// Its queues.
    pub queues: BTreeSet<ShortStr>,
    /// Keys of consumers of direct replies.
    pub direct_replies: Vec<ShortStr>,
}

impl Routes {
    /// Whether it goes nowhere: a mandatory message is returned.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queues.is_empty() && self.direct_replies.is_empty()
    }
}

/// What went with something that was removed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Removed {
    /// Exchanges, those that delete themselves too.
    pub exchanges: Vec<ShortStr>,
    /// Bindings, each with its source.
    pub bindings: Vec<(ShortStr, Binding)>,
}

/// The exchanges, bindings and queue names of one virtual host.
#[derive(Debug, Clone)]
pub struct Topology {
    vhost: ShortStr,
    exchanges: BTreeMap<ShortStr, Exchange>,
    queues: BTreeSet<ShortStr>,
    /// Which exchanges have bindings to a destination, and how many.
    sources: BTreeMap<Destination, BTreeMap<ShortStr, usize>>,
}

impl Topology {
    /// A virtual host with the exchanges that each has.
    #[must_use]
    pub fn new(vhost: ShortStr) -> Self {
        let exchanges = PREDECLARED
            .into_iter()
            .map(|(name, rule)| (ShortStr::cut(name), Exchange::new(ExchangeShape::durable(rule))))
            .collect();
        Self { vhost, exchanges, queues: BTreeSet::new(), sources: BTreeMap::new() }
    }

    fn exchange(&self, name: &str) -> Result<&Exchange, Fault> {
        let missing = || Resource::exchange(name, &self.vhost).not_found();
        self.exchanges.get(name).ok_or_else(missing)
    }

    /// What was declared under this name.
    ///
    /// # Errors
    /// 404.
    pub fn exchange_shape(&self, name: &str) -> Result<&ExchangeShape, Fault> {
        self.exchange(name).map(|exchange| &exchange.shape)
    }

    /// The exchange that a client publishes to.
    ///
    /// # Errors
    /// 404; 403 where it is internal.
    pub fn publishable(&self, name: &str) -> Result<&ExchangeShape, Fault> {
        let shape = self.exchange_shape(name)?;
        if shape.internal {
            let exchange = Resource::exchange(name, &self.vhost);
            let text = format!("cannot publish to internal {exchange}");
            return Err(Fault::new(ReplyCode::AccessRefused, text));
        }
        Ok(shape)
    }

    /// Whether there is a queue of this name.
    #[must_use]
    pub fn has_queue(&self, name: &str) -> bool {
        self.queues.contains(name)
    }

    /// Makes an exchange; false where it is there already, as it was declared.
    ///
    /// # Errors
    /// 406 where it is there and was declared otherwise, or what was declared makes no sense; 403 for
    /// a reserved name.
    pub fn declare_exchange(
        &mut self,
        name: &ShortStr,
        shape: ExchangeShape,
    ) -> Result<bool, Fault> {
        if self.check_declared(name, &shape)? {
            return Ok(false);
        }
        let alternate = shape.alternate(Resource::exchange(name, &self.vhost))?;
        let exchange = Exchange { alternate, ..Exchange::new(shape) };
        self.exchanges.insert(name.clone(), exchange);
        Ok(true)
    }

    /// Deletes an exchange and its bindings; nothing where there is none.
    ///
    /// # Errors
    /// 406 where it has bindings and only an unused one is to be deleted.
    pub fn delete_exchange(&mut self, name: &str, if_unused: bool) -> Result<Removed, Fault> {
        let mut removed = Removed::default();
        let Some((name, _)) = self.exchanges.get_key_value(name) else { return Ok(removed) };
        if if_unused {
            self.check_unused(name)?;
        }
        let name = name.clone();
        self.remove_exchanges(vec![name], &mut removed);
        Ok(removed)
    }

    /// Tells of a queue; false where it was known.
    pub fn add_queue(&mut self, name: ShortStr) -> bool {
        self.queues.insert(name)
    }

    /// Takes a queue away, with all bindings to it.
    pub fn remove_queue(&mut self, name: &str) -> Removed {
        let mut removed = Removed::default();
        if let Some(name) = self.queues.take(name) {
            let unused = self.remove_bindings_to(&Destination::Queue(name), &mut removed);
            self.remove_exchanges(unused, &mut removed);
        }
        removed
    }

    /// Binds; false where this binding is there already.
    ///
    /// # Errors
    /// 404 where one of its ends is missing; 406 where its arguments make no sense.
    pub fn bind(
        &mut self,
        source: &str,
        destination: Destination,
        key: ShortStr,
        arguments: &FieldTable,
    ) -> Result<bool, Fault> {
        self.check_bound(source, &destination, arguments)?;
        let binding = Binding { destination, key, arguments: headers::sorted(arguments) };
        let (source, exchange) = self.entry(source);
        let destination = binding.destination.clone();
        if !exchange.bindings.insert(binding) {
            return Ok(false);
        }
        *self.sources.entry(destination).or_default().entry(source).or_default() += 1;
        Ok(true)
    }

    /// Undoes a binding; nothing where there is none.
    ///
    /// Source: RabbitMQ, "AMQP 0-9-1 Errata": unbinding what is not bound is no error.
    pub fn unbind(
        &mut self,
        source: &str,
        destination: Destination,
        key: ShortStr,
        arguments: &FieldTable,
    ) -> Removed {
        let mut removed = Removed::default();
        if !self.exchanges.contains_key(source) {
            return removed;
        }
        let binding = Binding { destination, key, arguments: headers::sorted(arguments) };
        let (source, exchange) = self.entry(source);
        if !exchange.bindings.remove(&binding) {
            return removed;
        }
        let unused = exchange.is_done().then(|| source.clone());
        self.forget_source(&binding.destination, &source);
        removed.bindings.push((source, binding));
        self.remove_exchanges(unused.into_iter().collect(), &mut removed);
        removed
    }

    /// The bindings of an exchange, in no order that means anything.
    pub fn bindings(&self, source: &str) -> impl Iterator<Item = &Binding> {
        self.exchanges.get(source).into_iter().flat_map(|exchange| exchange.bindings.iter())
    }

    /// Where a message goes that is published to this exchange. An exchange that leads nowhere hands
    /// it to its alternate; each exchange is visited once.
    ///
    /// Source: RabbitMQ, "Alternate Exchanges", "Exchange to Exchange Bindings", "Direct Reply-to".
    #[must_use]
    pub fn route(&self, exchange: &str, message: &MessageKeys<'_>) -> Routes {
        let mut routes = Routes::default();
        if exchange.is_empty() {
            for key in message.keys() {
                if key.starts_with(DIRECT_REPLY_PREFIX) {
                    routes.direct_replies.push(ShortStr::cut(key));
                } else if let Some(queue) = self.queues.get(key) {
                    routes.queues.insert(queue.clone());
                }
            }
            return routes;
        }
        let (mut seen, mut work) = (BTreeSet::from([exchange]), vec![exchange]);
        while let Some(name) = work.pop() {
            let Some(exchange) = self.exchanges.get(name) else { continue };
            let mut leads_nowhere = true;
            exchange.bindings.visit(message, |destination| {
                leads_nowhere = false;
                match destination {
                    Destination::Queue(queue) => {
                        if !routes.queues.contains(queue) {
                            routes.queues.insert(queue.clone());
                        }
                    }
                    Destination::Exchange(next) => {
                        if seen.insert(next) {
                            work.push(next);
                        }
                    }
                }
            });
            if let Some(alternate) = &exchange.alternate
                && leads_nowhere
                && seen.insert(alternate)
            {
                work.push(alternate);
            }
        }
        routes
    }

    /// How long a message waits before it is routed, where its exchange is of type
    /// `x-delayed-message` and the header asks for it, in milliseconds.
    #[must_use]
    pub fn delay_ms(&self, exchange: &str, headers: Option<TableRef<'_>>) -> Option<u64> {
        if !self.exchanges.get(exchange)?.shape.delayed {
            return None;
        }
        let delay = headers?.find("x-delay")?.as_integer()?;
        u64::try_from(delay).ok().filter(|delay| *delay > 0)
    }

    /// An exchange that is known to be there, with its own name.
    fn entry(&mut self, name: &str) -> (ShortStr, &mut Exchange) {
        let (own, _) = self.exchanges.get_key_value(name).expect("the exchange is there");
        let own = own.clone();
        (own, self.exchanges.get_mut(name).expect("the exchange is there"))
    }

    /// One binding of `source` to `destination` is gone.
    fn forget_source(&mut self, destination: &Destination, source: &ShortStr) {
        let Some(sources) = self.sources.get_mut(destination) else { return };
        count_down(sources, source);
        if sources.is_empty() {
            self.sources.remove(destination);
        }
    }

    /// Removes all bindings to a destination; gives the exchanges that delete themselves for it.
    fn remove_bindings_to(
        &mut self,
        destination: &Destination,
        removed: &mut Removed,
    ) -> Vec<ShortStr> {
        let mut unused = Vec::new();
        for source in self.sources.remove(destination).unwrap_or_default().into_keys() {
            let Some(exchange) = self.exchanges.get_mut(&source) else { continue };
            let gone = exchange.bindings.remove_to(destination);
            removed.bindings.extend(gone.into_iter().map(|binding| (source.clone(), binding)));
            if exchange.is_done() {
                unused.push(source);
            }
        }
        unused
    }

    /// Removes exchanges, and those that delete themselves because of it.
    fn remove_exchanges(&mut self, mut names: Vec<ShortStr>, removed: &mut Removed) {
        while let Some(name) = names.pop() {
            let Some(exchange) = self.exchanges.remove(&name) else { continue };
            for binding in exchange.bindings.into_all() {
                self.forget_source(&binding.destination, &name);
                removed.bindings.push((name.clone(), binding));
            }
            names.extend(self.remove_bindings_to(&Destination::Exchange(name.clone()), removed));
            removed.exchanges.push(name);
        }
    }
}

impl Exchange {
    fn new(shape: ExchangeShape) -> Self {
        Self { alternate: None, bindings: Bindings::new(shape.rule), shape }
    }

    /// Whether it deletes itself, now that a binding of it is gone.
    fn is_done(&self) -> bool {
        self.shape.auto_delete && self.bindings.is_empty()
    }
}

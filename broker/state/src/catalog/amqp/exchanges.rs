//! Exchanges.

use std::sync::Arc;

use bytes::Bytes;

use super::AmqpObjects;
use super::limits::AmqpKind;
use super::refusal::AmqpRefusal;
use super::reply::AmqpReply;
use super::text::AmqpText;
use super::vhosts::Vhost;
use crate::catalog::variants::wire_fields;

/// The exchanges that every virtual host has, besides the default one, whose name is empty.
///
/// Source: AMQP 0-9-1, 3.1.3; RabbitMQ, "Exchanges".
pub const PREDECLARED_EXCHANGES: [&str; 5] =
    ["amq.direct", "amq.fanout", "amq.topic", "amq.headers", "amq.match"];

/// Names that begin like this are not for those who declare.
const RESERVED_PREFIX: &str = "amq.";

/// What an exchange was declared as. It never changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// Its type, as it was named.
    pub kind: AmqpText,
    /// Whether it outlives the cluster's stop.
    pub durable: bool,
    /// Whether it goes with the last binding that it is the source of.
    pub auto_delete: bool,
    /// Whether only exchanges publish to it.
    pub internal: bool,
    /// Its arguments, an encoded field table: at most
    /// [`ARGUMENTS_BYTES_MAX`](super::ARGUMENTS_BYTES_MAX) bytes.
    pub arguments: Bytes,
}

wire_fields!(Exchange {
    kind: AmqpText,
    durable: bool,
    auto_delete: bool,
    internal: bool,
    arguments: Bytes,
});

pub(super) fn is_reserved(name: &AmqpText) -> bool {
    name.is_empty() || name.as_str().starts_with(RESERVED_PREFIX)
}

impl Vhost {
    /// Whether there is an exchange that can be an end of a binding: declared, or there from the
    /// beginning. The default exchange cannot.
    pub(super) fn has_exchange(&self, name: &AmqpText) -> bool {
        self.exchanges.contains_key(name) || PREDECLARED_EXCHANGES.contains(&name.as_str())
    }
}

impl AmqpObjects {
    pub(super) fn declare_exchange(
        &mut self,
        vhost: &AmqpText,
        name: AmqpText,
        exchange: Exchange,
    ) -> Result<AmqpReply, AmqpRefusal> {
        if let Some(existing) = self.known_vhost(vhost)?.exchanges.get(&name) {
            return Ok(AmqpReply::Exchange { exchange: Arc::clone(existing), existed: true });
        }
        if is_reserved(&name) {
            return Err(AmqpRefusal::ReservedExchange { exchange: name });
        }
        self.check_room(AmqpKind::Exchanges)?;
        self.check_arguments(&exchange.arguments)?;
        let exchange = Arc::new(exchange);
        self.change(vhost, |vhost| {
            vhost.argument_bytes += exchange.arguments.len();
            Arc::make_mut(&mut vhost.exchanges).insert(name, Arc::clone(&exchange));
        });
        Ok(AmqpReply::Exchange { exchange, existed: false })
    }

    pub(super) fn delete_exchange(
        &mut self,
        vhost: &AmqpText,
        name: &AmqpText,
        if_unused: bool,
    ) -> Result<AmqpReply, AmqpRefusal> {
        let known = self.known_vhost(vhost)?;
        if is_reserved(name) {
            return Err(AmqpRefusal::ReservedExchange { exchange: name.clone() });
        }
        let changed = known.exchanges.contains_key(name);
        if if_unused && known.bindings.has_source(name) {
            let (vhost, exchange) = (vhost.clone(), name.clone());
            return Err(AmqpRefusal::ExchangeInUse { vhost, exchange });
        }
        if changed {
            self.change(vhost, |vhost| vhost.remove_exchanges(vec![name.clone()]));
        }
        Ok(AmqpReply::Done { changed })
    }

    /// Removes all exchanges that are not durable.
    pub(super) fn forget_exchanges(&mut self) {
        let vhosts: Vec<AmqpText> = self.vhosts.keys().cloned().collect();
        for vhost in vhosts {
            let exchanges = self.vhosts[&vhost].exchanges();
            let meant = exchanges.filter(|(_, exchange)| !exchange.durable);
            let names: Vec<AmqpText> = meant.map(|(name, _)| name.clone()).collect();
            if !names.is_empty() {
                self.change(&vhost, |vhost| vhost.remove_exchanges(names));
            }
        }
    }
}

//! The objects of AMQP as bytes, as they stand in the catalog from its version 3 on.
//!
//! ```text
//! epoch u64 | access epoch u64 | next declaration u64
//! vhosts u32, of each: name | created i64 | changed u64
//!                      | exchanges u32, of each: name | exchange
//!                      | queues u32, of each: name | queue
//!                      | bindings u32, of each: source | binding
//! users u32, of each: name | password | tags | permissions u32, of each: vhost | patterns
//! ```
//! Names rise, and so do the bindings of a virtual host: the same objects give the same bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use plimsoll_protocol::wire::{Decode, Encode, Reader};

use super::bindings::{Binding, Bindings};
use super::exchanges::{Exchange, is_reserved};
use super::limits::{ARGUMENTS_BYTES_MAX, AmqpKind};
use super::queues::Queue;
use super::text::AmqpText;
use super::users::{PasswordHash, Permissions, User};
use super::vhosts::Vhost;
use super::{AmqpObjects, Catalog};
use crate::catalog::replicas::put_count;
use crate::catalog::topics::TopicMeta;
use crate::decode::{DecodeStateError, count};

const NAME_BYTES_MIN: usize = AmqpText::BYTES_MIN;
const VHOST_BYTES_MIN: usize = NAME_BYTES_MIN + 8 + 8 + 4 + 4 + 4;
const USER_BYTES_MIN: usize = NAME_BYTES_MIN + PasswordHash::BYTES_MIN + 4 + 4;

const KINDS: [AmqpKind; 7] = [
    AmqpKind::Vhosts,
    AmqpKind::Users,
    AmqpKind::Permissions,
    AmqpKind::Exchanges,
    AmqpKind::Queues,
    AmqpKind::Bindings,
    AmqpKind::ArgumentBytes,
];

impl AmqpObjects {
    pub(in crate::catalog) fn encode(&self, out: &mut BytesMut) {
        self.epoch.encode(out);
        self.access_epoch.encode(out);
        self.next_declaration.encode(out);
        put_count(self.vhosts.len(), out);
        for (name, vhost) in self.vhosts.iter() {
            name.encode(out);
            vhost.encode(out);
        }
        put_count(self.users.len(), out);
        for (name, user) in self.users.iter() {
            name.encode(out);
            user.password.encode(out);
            user.tags.encode(out);
            put_count(user.permissions.len(), out);
            for (vhost, permissions) in &user.permissions {
                vhost.encode(out);
                permissions.encode(out);
            }
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeStateError> {
        let (epoch, access_epoch) = (u64::decode(reader)?, u64::decode(reader)?);
        let next_declaration = u64::decode(reader)?;
        let vhosts = named(reader, VHOST_BYTES_MIN, |reader| {
            Vhost::decode(reader, epoch, next_declaration).map(Arc::new)
        })?;
        let users = named(reader, USER_BYTES_MIN, |reader| {
            let password = PasswordHash::decode(reader)?;
            let tags = Vec::decode(reader)?;
            let bytes_min = NAME_BYTES_MIN + Permissions::BYTES_MIN;
            let permissions = named(reader, bytes_min, |reader| Ok(Decode::decode(reader)?))?;
            let user = User { password, tags, permissions };
            user.check().map_err(|_| invalid("users are within their bounds"))?;
            if !permissions_are_within(&user, &vhosts) {
                return Err(invalid("permissions are for known virtual hosts"));
            }
            Ok(Arc::new(user))
        })?;
        let (vhosts, users) = (Arc::new(vhosts), Arc::new(users));
        let objects = Self { vhosts, users, epoch, access_epoch, next_declaration };
        if access_epoch > epoch {
            return Err(invalid("an epoch was reached before"));
        }
        if KINDS.into_iter().any(|kind| objects.count(kind) > kind.most()) {
            return Err(invalid("objects of AMQP are within their maximum"));
        }
        Ok(objects)
    }
}

impl Catalog {
    /// Reads the objects of AMQP; the topics were read before.
    pub(in crate::catalog) fn decode_amqp(
        &mut self,
        reader: &mut Reader<'_>,
    ) -> Result<(), DecodeStateError> {
        let objects = AmqpObjects::decode(reader)?;
        let mut seen = BTreeSet::new();
        for (_, vhost) in objects.vhosts() {
            for (_, queue) in vhost.queues() {
                let topic = self.topic(&queue.spec.topic);
                if !topic.is_some_and(is_of_a_queue) || !seen.insert(&queue.spec.topic) {
                    return Err(invalid("each queue has a topic of its own, of one partition"));
                }
            }
        }
        self.amqp = objects;
        Ok(())
    }
}

impl Vhost {
    fn encode(&self, out: &mut BytesMut) {
        self.created_ms.encode(out);
        self.changed.encode(out);
        put_count(self.exchanges.len(), out);
        for (name, exchange) in self.exchanges.iter() {
            name.encode(out);
            exchange.encode(out);
        }
        put_count(self.queues.len(), out);
        for (name, queue) in self.queues.iter() {
            name.encode(out);
            queue.encode(out);
        }
        put_count(self.bindings.len(), out);
        for (source, binding) in self.bindings.iter() {
            source.encode(out);
            binding.encode(out);
        }
    }

    fn decode(
        reader: &mut Reader<'_>,
        epoch: u64,
        next_declaration: u64,
    ) -> Result<Self, DecodeStateError> {
        let (created_ms, changed) = (i64::decode(reader)?, u64::decode(reader)?);
        if changed > epoch {
            return Err(invalid("an epoch was reached before"));
        }
        let mut argument_bytes = 0;
        let mut check_arguments = |arguments: &Bytes| {
            argument_bytes += arguments.len();
            let fits = arguments.len() <= ARGUMENTS_BYTES_MAX;
            if fits { Ok(()) } else { Err(invalid("arguments are within their maximum")) }
        };
        let exchanges = named(reader, NAME_BYTES_MIN + Exchange::BYTES_MIN, |reader| {
            let exchange = Exchange::decode(reader)?;
            check_arguments(&exchange.arguments)?;
            Ok(Arc::new(exchange))
        })?;
        if exchanges.keys().any(is_reserved) {
            return Err(invalid("exchanges that every virtual host has are not declared"));
        }
        let queues = named(reader, NAME_BYTES_MIN + Queue::BYTES_MIN, |reader| {
            let queue = Queue::decode(reader)?;
            check_arguments(&queue.spec.arguments)?;
            if queue.declaration >= next_declaration {
                return Err(invalid("ids were handed out before"));
            }
            Ok(Arc::new(queue))
        })?;
        let (exchanges, queues) = (Arc::new(exchanges), Arc::new(queues));
        let mut vhost = Self { created_ms, changed, exchanges, queues, ..Self::default() };
        let mut bindings = Bindings::default();
        let mut last = None;
        for _ in 0..count(reader, NAME_BYTES_MIN + Binding::BYTES_MIN)? {
            let (source, binding) = (AmqpText::decode(reader)?, Binding::decode(reader)?);
            check_arguments(&binding.arguments)?;
            let ends = vhost.check_ends(&AmqpText::default(), &source, &binding.destination);
            ends.map_err(|_| invalid("both ends of a binding are there"))?;
            let this = Some((source, binding));
            if last >= this {
                return Err(invalid("bindings rise"));
            }
            let (source, binding) = this.clone().expect("it was just put in");
            bindings.insert(source, binding);
            last = this;
        }
        vhost.bindings = bindings;
        vhost.argument_bytes = argument_bytes;
        Ok(vhost)
    }
}

fn is_of_a_queue(topic: &Arc<TopicMeta>) -> bool {
    topic.partitions.len() == 1
}

fn permissions_are_within(user: &User, vhosts: &BTreeMap<AmqpText, Arc<Vhost>>) -> bool {
    user.permissions.keys().all(|vhost| vhosts.contains_key(vhost))
}

/// Reads things by name, the names rising and none empty.
fn named<T>(
    reader: &mut Reader<'_>,
    bytes_min: usize,
    mut read: impl FnMut(&mut Reader<'_>) -> Result<T, DecodeStateError>,
) -> Result<BTreeMap<AmqpText, T>, DecodeStateError> {
    let mut all: BTreeMap<AmqpText, T> = BTreeMap::new();
    for _ in 0..count(reader, bytes_min)? {
        let name = AmqpText::decode(reader)?;
        let last = all.last_key_value();
        if name.is_empty() || last.is_some_and(|(last, _)| *last >= name) {
            return Err(invalid("names rise"));
        }
        let value = read(reader)?;
        all.insert(name, value);
    }
    Ok(all)
}

fn invalid(rule: &'static str) -> DecodeStateError {
    DecodeStateError::Invalid { rule }
}

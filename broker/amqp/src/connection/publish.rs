//! Publishes: where a message goes, receipts of the queues it went to, and its confirm.
//!
//! Invariants: a publish is told once, when the last of its queues has answered; it is confirmed as
//! taken only if all of them have it; what was routed nowhere is returned before it is confirmed.
//!
//! Source: RabbitMQ, "Publishers", "Direct Reply-to".

use std::collections::HashMap;
use std::sync::Arc;

use plimsoll_amqp::error::{Fault, ReplyCode, Resource};
use plimsoll_amqp::properties::Properties;
use plimsoll_amqp::routing::MessageKeys;
use plimsoll_amqp::session::{ChannelKey, Confirmation, Publish, Returned};
use plimsoll_amqp::shortstr::ShortStr;

use super::Connection;
use crate::catalog::QueueEntry;
use crate::gateway::Reply;
use crate::inbox::{Published, Receipt};
use crate::message::take_fence;
use crate::permissions::Permission;

/// What a client writes into `reply-to` for direct replies.
const REPLY_TO: &str = "amq.rabbitmq.reply-to";
/// Routes that are kept; when there are as many, all are forgotten.
const ROUTES_MAX: usize = 1024;

/// A publish whose queues have not all answered.
#[derive(Debug)]
struct InFlight {
    channel: ChannelKey,
    number: Option<u64>,
    /// Queues that have not answered.
    waits: u32,
    refused: bool,
    /// Why the channel is to end: a queue refused the lock that it was published under.
    fault: Option<Arc<str>>,
    bytes: usize,
}

/// The publishes in flight of a connection, by their tokens.
#[derive(Debug, Default)]
pub(super) struct Publishes {
    all: Vec<Option<InFlight>>,
    free: Vec<u32>,
    bytes: usize,
}

impl Publishes {
    pub(super) fn len(&self) -> usize {
        self.all.len() - self.free.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    fn begin(&mut self, publish: InFlight) -> u32 {
        self.bytes += publish.bytes;
        if let Some(token) = self.free.pop() {
            self.all[token as usize] = Some(publish);
            return token;
        }
        self.all.push(Some(publish));
        u32::try_from(self.all.len() - 1).expect("publishes in flight are bounded")
    }

    /// A queue has answered; gives the publish when it was the last.
    fn answered(&mut self, token: u32, outcome: Published) -> Option<InFlight> {
        let place = &mut self.all[token as usize];
        let publish = place.as_mut().expect("a receipt tells once");
        match outcome {
            Published::Stored | Published::Deleted => {}
            Published::Full | Published::Unknown => publish.refused = true,
            Published::Refused(why) => {
                publish.refused = true;
                publish.fault = Some(why);
            }
        }
        publish.waits -= 1;
        if publish.waits > 0 {
            return None;
        }
        self.free.push(token);
        self.bytes -= publish.bytes;
        place.take()
    }
}

/// Where messages with an exchange and a key go.
#[derive(Debug, Clone)]
struct Route {
    queues: Arc<[Arc<QueueEntry>]>,
    delayed: bool,
}

/// Routes that were found with one state of the virtual host, so that it was checked that the user may
/// use them, too.
#[derive(Default)]
pub(super) struct RouteCache {
    of: u64,
    routes: HashMap<ShortStr, HashMap<ShortStr, Route>>,
    count: usize,
}

impl RouteCache {
    fn find(&mut self, generation: u64, exchange: &str, key: &str) -> Option<Route> {
        if self.of != generation || self.count >= ROUTES_MAX {
            self.routes.clear();
            self.count = 0;
            self.of = generation;
        }
        self.routes.get(exchange)?.get(key).cloned()
    }

    fn insert(&mut self, exchange: &ShortStr, key: &ShortStr, route: Route) {
        self.routes.entry(exchange.clone()).or_default().insert(key.clone(), route);
        self.count += 1;
    }
}

impl Connection {
    pub(super) fn publish(&mut self, key: ChannelKey, publish: Publish) {
        if let Err(fault) = self.try_publish(key, publish) {
            self.session.refuse(key, fault);
        }
    }

    /// Whether the user may publish to the exchange.
    ///
    /// # Errors
    /// 404, 403.
    pub(super) fn check_publish(&self, exchange: &str) -> Result<(), Fault> {
        let user = self.user();
        let folded = self.host().read();
        folded.topology.publishable(exchange)?;
        folded.check_exchange(&user.name, Permission::Write, exchange)
    }

    /// Routes a message and gives it to its queues.
    ///
    /// # Errors
    /// Why the channel ends.
    pub(super) fn try_publish(
        &mut self,
        key: ChannelKey,
        mut publish: Publish,
    ) -> Result<(), Fault> {
        self.name_reply_address(key, &mut publish);
        let fence = take_fence(&mut publish.content)?;
        let (route, replies) = self.route(&publish)?;
        let mut replied = false;
        for address in replies {
            let content = &publish.content;
            let (properties, body) = (content.encoded.clone(), content.body.clone());
            replied |= self.gateway.send_reply(Reply { address, properties, body });
        }
        if route.queues.is_empty() {
            if publish.mandatory && !replied {
                self.return_message(key, &publish);
            }
            if let Some(number) = publish.number {
                self.session.confirm(key, number, Confirmation::Taken);
            }
            return Ok(());
        }
        self.store(key, &publish, fence, &route);
        Ok(())
    }

    fn return_message(&mut self, key: ChannelKey, publish: &Publish) {
        let returned = Returned {
            code: ReplyCode::NoRoute,
            exchange: publish.exchange.clone(),
            routing_key: publish.routing_key.clone(),
            properties: publish.content.encoded.clone(),
            body: publish.content.body.clone(),
        };
        self.session.return_message(key, returned);
    }

    fn store(
        &mut self,
        key: ChannelKey,
        publish: &Publish,
        fence: Option<Arc<str>>,
        route: &Route,
    ) {
        let headers = publish.content.properties.headers.as_ref();
        let delay_ms = match route.delayed {
            true => {
                let headers = headers.map(|table| table.fields());
                self.host().read().topology.delay_ms(&publish.exchange, headers)
            }
            false => None,
        };
        let record = self.names.record(publish, self.backend.unix_ms(), delay_ms, fence);
        let waits = u32::try_from(route.queues.len()).expect("queues are bounded");
        let (number, bytes) = (publish.number, publish.bytes());
        let in_flight =
            InFlight { channel: key, number, waits, refused: false, fault: None, bytes };
        let token = self.publishes.begin(in_flight);
        self.channels.entry(key).or_default().in_flight += 1;
        let Some((last, others)) = route.queues.split_last() else { return };
        for queue in others {
            let receipt = Receipt::new(self.inbox.clone(), token);
            self.backend.publish(queue, record.clone().for_queue(queue), receipt);
        }
        let receipt = Receipt::new(self.inbox.clone(), token);
        self.backend.publish(last, record.for_queue(last), receipt);
    }

    /// The queues and the addresses of direct replies of a message.
    fn route(&mut self, publish: &Publish) -> Result<(Route, Vec<ShortStr>), Fault> {
        let Publish { exchange, routing_key, content, .. } = publish;
        let generation = self.generation();
        let keys = MessageKeys::new(routing_key, &content.properties)?;
        let has_one_key = keys.keys().nth(1).is_none();
        let known = self.routes.find(generation, exchange, routing_key);
        if let Some(route) = known.filter(|_| has_one_key) {
            return Ok((route, Vec::new()));
        }
        let (user, host) = (self.user(), Arc::clone(self.host()));
        let folded = host.read();
        let shape = folded.topology.publishable(exchange)?;
        folded.check_exchange(&user.name, Permission::Write, exchange)?;
        let routes = folded.topology.route(exchange, &keys);
        let queues = routes.queues.iter().filter_map(|name| folded.find_queue(name).cloned());
        let route = Route { queues: queues.collect(), delayed: shape.delayed };
        if has_one_key && folded.routes_by_key(exchange) && routes.direct_replies.is_empty() {
            self.routes.insert(exchange, routing_key, route.clone());
        }
        Ok((route, routes.direct_replies))
    }

    /// Puts the address of the channel's consumer of direct replies where the client asks for it.
    fn name_reply_address(&self, key: ChannelKey, publish: &mut Publish) {
        let properties = &mut publish.content.properties;
        if properties.reply_to.as_deref() != Some(REPLY_TO) {
            return;
        }
        // The session has refused those without a consumer.
        let replies = self.channels.get(&key).and_then(|channel| channel.replies.as_ref());
        let Some(replies) = replies else { return };
        properties.reply_to = Some(replies.address.clone());
        publish.content.encoded = Properties::to_bytes(&publish.content.properties);
    }

    /// A queue has answered a publish.
    pub(super) fn published(&mut self, token: u32, outcome: Published) {
        let Some(done) = self.publishes.answered(token, outcome) else { return };
        let key = done.channel;
        if let Some(number) = done.number {
            let told = if done.refused { Confirmation::Refused } else { Confirmation::Taken };
            self.session.confirm(key, number, told);
        }
        if let Some(why) = done.fault {
            self.session.refuse(key, Fault::new(ReplyCode::PreconditionFailed, &*why));
        }
        let Some(channel) = self.channels.get_mut(&key) else { return };
        channel.in_flight -= 1;
        channel.refused |= done.refused;
        if channel.in_flight == 0
            && let Some(ask) = channel.barrier.take()
        {
            self.at_barrier(key, ask);
        }
    }

    /// The queue that a client consumes or gets from.
    ///
    /// # Errors
    /// 403, 404, 405.
    pub(super) fn readable(&self, name: &str) -> Result<Arc<QueueEntry>, Fault> {
        let user = self.user();
        let folded = self.host().read();
        folded.check_queue(&user.name, Permission::Read, name)?;
        let queue = folded.queue(name)?;
        super::actor::check_access(queue, self.id, folded.vhost())?;
        Ok(Arc::clone(queue))
    }

    /// 406 for a transaction of which a part was refused, in RabbitMQ's words.
    pub(super) fn partial_commit() -> Fault {
        Fault::new(ReplyCode::PreconditionFailed, "partial tx completion")
    }

    /// 403: somebody is alone with the queue.
    pub(super) fn in_exclusive_use(&self, queue: &QueueEntry) -> Fault {
        let vhost = self.view.as_ref().map(|view| view.host.vhost().clone()).unwrap_or_default();
        let queue = Resource::queue(&queue.name, &vhost);
        Fault::new(ReplyCode::AccessRefused, format!("{queue} in exclusive use"))
    }
}

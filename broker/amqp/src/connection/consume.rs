//! Consumers and who gets messages one by one: how they begin, what they are delivered, how they end.
//!
//! Source: RabbitMQ, "Consumers", "Consumer Cancel Notification", "Consumer Prefetch".

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use plimsoll_amqp::error::{Fault, ReplyCode, Resource};
use plimsoll_amqp::routing::StreamStart;
use plimsoll_amqp::session::{Answer, ChannelKey, Consume};
use plimsoll_amqp::shortstr::ShortStr;
use tokio::sync::Semaphore;

use super::actor::{not_of_streams, queue_fault};
use super::holder::{AGAIN, Get, Holder, Purpose, settled};
use super::{Connection, Finished, Replies};
use crate::backend::{
    AttachError, Attachment, ConsumerEnd, ConsumerSpec, Outcome, Pulled, QueueError,
};
use crate::catalog::QueueEntry;
use crate::gateway::ReplyAddress;
use crate::inbox::ConsumerPort;

const REPLY_TO: &str = "amq.rabbitmq.reply-to";
/// Queues that a connection takes messages from one by one, until it gives up those that are idle.
const GETTERS_MAX: usize = 64;
/// How long a consumer waits at most before it attaches again.
const AGAIN_MAX: Duration = Duration::from_secs(2);

fn moved() -> Fault {
    Fault::new(ReplyCode::NotFound, "the queue has moved; ask again")
}

impl Connection {
    pub(super) fn consume(&mut self, key: ChannelKey, consume: Consume) {
        if &*consume.queue == REPLY_TO {
            return self.consume_replies(key, consume.consumer_tag);
        }
        match self.consumer_of(key, &consume) {
            Err(fault) => self.session.answer(key, Answer::Refused(fault)),
            Ok(holder) => {
                let id = self.attach(holder, Duration::ZERO);
                let channel = self.channels.entry(key).or_default();
                channel.consumers.insert(consume.consumer_tag, id);
            }
        }
    }

    fn consumer_of(&self, key: ChannelKey, consume: &Consume) -> Result<Holder, Fault> {
        let queue = self.readable(&consume.queue)?;
        let priority = match consume.arguments.find("x-priority") {
            None => 0,
            Some(value) => value.as_integer().ok_or_else(|| {
                let resource = Resource::queue(&queue.name, self.host().vhost()).to_string();
                let kind = value.type_name();
                let text = format!(
                    "invalid arg 'x-priority' for {resource}: {{unacceptable_type,{kind}}}"
                );
                Fault::new(ReplyCode::PreconditionFailed, text)
            })?,
        };
        let start = match queue.is_stream() {
            true => Some(self.stream_start(&queue, consume)?),
            false => None,
        };
        let config = &self.gateway.config;
        let unlimited =
            || u32::try_from(config.session.unsettled_per_channel_max).unwrap_or(u32::MAX);
        let windows = [consume.prefetch, consume.window].into_iter().filter(|window| *window > 0);
        let prefetch_count = match consume.no_ack {
            true => config.no_ack_window,
            false => windows.map(u32::from).min().unwrap_or_else(unlimited),
        };
        let priority = priority.clamp(i32::MIN.into(), i32::MAX.into());
        let spec = ConsumerSpec {
            prefetch_count: prefetch_count.max(1),
            priority: i32::try_from(priority).expect("it is in range"),
            exclusive: consume.exclusive,
            start,
        };
        let mut holder = Holder::new(key, queue, spec, Purpose::Begin);
        holder.tag = Some(consume.consumer_tag.clone());
        holder.no_ack = consume.no_ack;
        Ok(holder)
    }

    /// Where a consumer of a stream begins. It must say how much it takes at a time, and settle it.
    ///
    /// Source: RabbitMQ, "Streams", consuming; its codes.
    fn stream_start(&self, queue: &QueueEntry, consume: &Consume) -> Result<StreamStart, Fault> {
        let resource = Resource::queue(&queue.name, self.host().vhost());
        let refused = |code, text| Err(Fault::new(code, text));
        if consume.prefetch == 0 {
            let text = format!("consumer prefetch count is not set for '{resource}'");
            return refused(ReplyCode::PreconditionFailed, text);
        }
        if consume.window > 0 {
            let text = format!("{resource} does not support global qos");
            return refused(ReplyCode::NotImplemented, text);
        }
        if consume.no_ack {
            return Err(not_of_streams("automatic acknowledgement", queue, self.host().vhost()));
        }
        StreamStart::read(&consume.arguments, resource)
    }

    fn consume_replies(&mut self, key: ChannelKey, consumer_tag: ShortStr) {
        let waiting = Arc::new(AtomicUsize::new(0));
        let inbox = self.inbox.clone();
        let address = ReplyAddress { inbox, channel: key, waiting: Arc::clone(&waiting) };
        let address = self.gateway.open_address(address);
        let replies = Replies { consumer_tag, address, waiting, queue: VecDeque::new() };
        self.channels.entry(key).or_default().replies = Some(replies);
        self.session.answer(key, Answer::Done);
    }

    /// Attaches, after a while; gives the holder's number.
    fn attach(&mut self, mut holder: Holder, after: Duration) -> u32 {
        let id = self.next_holder;
        self.next_holder = self.next_holder.wrapping_add(1);
        let bytes_max = self.bytes_max();
        holder.room = Arc::new(Semaphore::new(bytes_max as usize));
        let port = ConsumerPort::new(self.inbox.clone(), id, Arc::clone(&holder.room), bytes_max);
        let (backend, queue, spec) =
            (Arc::clone(&self.backend), Arc::clone(&holder.queue), holder.spec);
        self.holders.insert(id, holder);
        self.operations.push(Box::pin(async move {
            if !after.is_zero() {
                tokio::time::sleep(after).await;
            }
            let result = backend.attach(Arc::clone(&queue), spec, port).await;
            Finished::Attached { holder: id, queue, result }
        }));
        id
    }

    pub(super) fn bytes_max(&self) -> u32 {
        self.gateway.config.consumer_bytes_max.max(1)
    }

    pub(super) fn attached(
        &mut self,
        id: u32,
        queue: Arc<QueueEntry>,
        result: Result<Arc<dyn Attachment>, AttachError>,
    ) {
        let Some(holder) = self.holders.get_mut(&id) else {
            // It was cancelled, or its channel ended, meanwhile.
            if let Ok(attachment) = result {
                self.detach(vec![(attachment, queue, true)], None);
            }
            return;
        };
        let key = holder.channel;
        let purpose = std::mem::replace(&mut holder.purpose, Purpose::GoOn);
        let attachment = match result {
            Ok(attachment) => attachment,
            Err(error) => return self.not_attached(id, purpose, &error),
        };
        holder.attachment = Some(Arc::clone(&attachment));
        holder.again = AGAIN;
        match purpose {
            Purpose::Begin => self.session.answer(key, Answer::Done),
            Purpose::GoOn => {}
            Purpose::Get(get) => {
                self.getters.insert(queue.name.clone(), id);
                self.pull(id, attachment, get);
            }
        }
        self.activate(id);
        let ended = self.holders.get_mut(&id).and_then(|holder| holder.ended.take());
        if let Some(end) = ended {
            self.holder_ended(id, end);
        }
    }

    fn not_attached(&mut self, id: u32, purpose: Purpose, error: &AttachError) {
        let Some(holder) = self.holders.remove(&id) else { return };
        let fault = |connection: &Self| match error {
            AttachError::InUse => connection.in_exclusive_use(&holder.queue),
            AttachError::Queue(error) => connection.fault_of(&holder.queue, error),
        };
        match purpose {
            Purpose::Get(get) => {
                let fault = fault(self);
                self.session.answer(get.channel, Answer::Refused(fault));
            }
            Purpose::Begin => {
                let fault = fault(self);
                if let Some(channel) = self.channels.get_mut(&holder.channel) {
                    channel.consumers.retain(|_, holder| *holder != id);
                }
                self.session.answer(holder.channel, Answer::Refused(fault));
            }
            Purpose::GoOn => match error {
                AttachError::Queue(QueueError::Unavailable { .. }) => self.go_on(id, holder),
                _ => self.cancelled(id, &holder),
            },
        }
    }

    fn fault_of(&self, queue: &QueueEntry, error: &QueueError) -> Fault {
        let vhost = self.view.as_ref().map(|view| view.host.vhost().clone()).unwrap_or_default();
        queue_fault(error, &queue.name, &vhost)
    }

    /// A holder has ended by itself.
    pub(super) fn holder_ended(&mut self, id: u32, end: ConsumerEnd) {
        let Some(holder) = self.holders.get_mut(&id) else { return };
        if holder.attachment.is_none() {
            holder.ended = Some(end);
            return;
        }
        let Some(mut holder) = self.holders.remove(&id) else { return };
        holder.room.close();
        if holder.tag.is_none() {
            if self.getters.get(&holder.queue.name) == Some(&id) {
                self.getters.remove(&holder.queue.name);
            }
            return;
        }
        if holder.retired {
            return;
        }
        let is_there = self
            .host()
            .read()
            .find_queue(&holder.queue.name)
            .is_some_and(|queue| queue.declaration == holder.queue.declaration);
        if end == ConsumerEnd::Deleted || !is_there {
            return self.cancelled(id, &holder);
        }
        holder.waiting.clear();
        holder.held = 0;
        holder.attachment = None;
        self.go_on(id, holder);
    }

    /// Attaches again what had been holder `id`.
    fn go_on(&mut self, id: u32, mut holder: Holder) {
        let after = holder.again;
        holder.again = (after * 2).min(AGAIN_MAX);
        holder.purpose = Purpose::GoOn;
        holder.ended = None;
        let (key, tag) = (holder.channel, holder.tag.clone());
        let new = self.attach(holder, after);
        let consumers = self.channels.get_mut(&key).map(|channel| &mut channel.consumers);
        if let (Some(consumers), Some(tag)) = (consumers, tag)
            && let Some(known) = consumers.get_mut(&tag).filter(|known| **known == id)
        {
            *known = new;
        }
    }

    /// Tells the client that its consumer has ended with its queue.
    fn cancelled(&mut self, id: u32, holder: &Holder) {
        let Some(tag) = &holder.tag else { return };
        if let Some(channel) = self.channels.get_mut(&holder.channel)
            && channel.consumers.get(tag) == Some(&id)
        {
            channel.consumers.remove(tag);
            self.session.cancel_consumer(holder.channel, tag);
        }
    }

    /// The client ends a consumer.
    pub(super) fn cancel(&mut self, key: ChannelKey, consumer_tag: &str) {
        let channel = self.channels.entry(key).or_default();
        if let Some(replies) = channel.replies.take_if(|own| &*own.consumer_tag == consumer_tag) {
            self.gateway.close_address(&replies.address);
            return self.session.answer(key, Answer::Done);
        }
        let id = channel.consumers.remove(consumer_tag);
        let bytes_max = self.bytes_max();
        let holder = id.and_then(|id| Some((id, self.holders.get_mut(&id)?)));
        let Some((id, holder)) = holder else {
            return self.session.answer(key, Answer::Done);
        };
        let Some(attachment) = holder.attachment.clone() else {
            // It is taken away once it is attached.
            self.holders.remove(&id);
            return self.session.answer(key, Answer::Done);
        };
        let queue = Arc::clone(&holder.queue);
        if holder.held == 0 {
            holder.room.close();
            self.holders.remove(&id);
            return self.detach(vec![(attachment, queue, true)], Some(key));
        }
        holder.release_waiting(bytes_max);
        holder.retired = true;
        let actor = self.actor();
        self.detaching += 1;
        self.operations.push(Box::pin(async move {
            if attachment.retire().await == 0 && queue.shape.auto_delete {
                actor.delete_unused(&queue).await;
            }
            Finished::Detached(Some(key))
        }));
    }

    /// Takes consumers and getters (not `true`) away, and auto-delete queues with their last consumer;
    /// then the channel is answered.
    pub(super) fn detach(
        &mut self,
        gone: Vec<(Arc<dyn Attachment>, Arc<QueueEntry>, bool)>,
        answered: Option<ChannelKey>,
    ) {
        let actor = self.actor();
        self.detaching += 1;
        self.operations.push(Box::pin(async move {
            for (attachment, queue, is_consumer) in gone {
                let left = attachment.detach().await;
                if is_consumer && left == 0 && queue.shape.auto_delete {
                    actor.delete_unused(&queue).await;
                }
            }
            Finished::Detached(answered)
        }));
    }

    pub(super) fn get(&mut self, key: ChannelKey, queue: &str, no_ack: bool) {
        let queue = match self.readable(queue) {
            Ok(queue) => queue,
            Err(fault) => return self.session.answer(key, Answer::Refused(fault)),
        };
        if queue.is_stream() {
            let fault = not_of_streams("basic.get", &queue, self.host().vhost());
            return self.session.answer(key, Answer::Refused(fault));
        }
        let known = self.getters.get(&queue.name).copied();
        let known = known.and_then(|id| Some((id, self.holders.get(&id)?)));
        if let Some((id, holder)) = known
            && holder.queue.declaration == queue.declaration
            && let Some(attachment) = holder.attachment.clone()
        {
            return self.pull(id, attachment, Get { channel: key, no_ack, is_fresh: false });
        }
        self.get_afresh(key, queue, no_ack);
    }

    fn get_afresh(&mut self, key: ChannelKey, queue: Arc<QueueEntry>, no_ack: bool) {
        if self.getters.len() >= GETTERS_MAX {
            self.detach_idle_getters();
        }
        let spec = ConsumerSpec { prefetch_count: 0, priority: 0, exclusive: false, start: None };
        let get = Get { channel: key, no_ack, is_fresh: true };
        self.attach(Holder::new(key, queue, spec, Purpose::Get(get)), Duration::ZERO);
    }

    /// Gives up those that hold nothing and are not asked: a client may look into many queues.
    fn detach_idle_getters(&mut self) {
        let Self { getters, holders, .. } = self;
        let mut gone = Vec::new();
        getters.retain(|_, id| {
            let holder = holders.get(id);
            let is_idle = holder.is_some_and(|holder| holder.held == 0 && holder.asked == 0);
            if is_idle && let Some(holder) = holders.remove(id) {
                gone.extend(holder.attachment.map(|attachment| (attachment, holder.queue, false)));
            }
            !is_idle
        });
        self.detach(gone, None);
    }

    fn pull(&mut self, id: u32, attachment: Arc<dyn Attachment>, get: Get) {
        if let Some(holder) = self.holders.get_mut(&id) {
            holder.asked += 1;
        }
        self.operations.push(Box::pin(async move {
            let result = attachment.pull().await;
            Finished::Pulled { holder: id, get, result }
        }));
    }

    pub(super) fn pulled(&mut self, id: u32, get: Get, result: Result<Option<Pulled>, QueueError>) {
        let Get { channel: key, no_ack, is_fresh } = get;
        let is_live = self.session.is_live(key);
        let Some(holder) = self.holders.get_mut(&id) else {
            // It has ended meanwhile, and so what it held is in the queue again.
            let is_there = result.is_ok_and(|pulled| pulled.is_none());
            let answer = if is_there { Answer::Message(None) } else { Answer::Refused(moved()) };
            return self.session.answer(key, answer);
        };
        holder.asked -= 1;
        match result {
            Ok(None) => self.session.answer(key, Answer::Message(None)),
            Ok(Some(Pulled { delivery, messages_left })) => {
                let outcome = if is_live { Outcome::Accept } else { Outcome::Release };
                if no_ack || !is_live {
                    let settled = settled(&delivery, outcome);
                    holder.attachment.iter().for_each(|one| one.settle(vec![settled]));
                } else {
                    holder.held += 1;
                }
                let left = u32::try_from(messages_left).unwrap_or(u32::MAX);
                let delivered = holder.names.delivered(delivery, id, &holder.queue);
                self.session.answer(key, Answer::Message(Some((delivered, left))));
            }
            Err(QueueError::Unavailable { .. }) if !is_fresh => {
                let queue = Arc::clone(&holder.queue);
                self.holder_ended(id, ConsumerEnd::Moved);
                self.get_afresh(key, queue, no_ack);
            }
            Err(error) => {
                let queue = Arc::clone(&holder.queue);
                let fault = self.fault_of(&queue, &error);
                self.session.answer(key, Answer::Refused(fault));
            }
        }
    }
}

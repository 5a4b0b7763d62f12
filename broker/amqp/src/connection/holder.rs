//! A *holder* is one attachment to a queue: of a consumer, or of the connection's gets from that queue. A
//! message that is with the client is named by its holder, so that what is said of it after the holder
//! has ended reaches nobody.
//!
//! Invariants: what waits in a holder is within the room that its port gave; a message is in its queue,
//! in one holder, or with the client.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use plimsoll_amqp::session::ChannelKey;
use plimsoll_amqp::shortstr::ShortStr;
use tokio::sync::Semaphore;

use super::Connection;
use crate::backend::{Attachment, ConsumerEnd, ConsumerSpec, Delivery, Outcome, Settled};
use crate::catalog::QueueEntry;
use crate::message::LastNames;

/// How long it waits before it attaches again, at first.
pub(super) const AGAIN: Duration = Duration::from_millis(50);

/// One attachment to a queue.
pub(super) struct Holder {
    pub(super) channel: ChannelKey,
    /// None: it takes messages one by one, for all channels.
    pub(super) tag: Option<ShortStr>,
    pub(super) queue: Arc<QueueEntry>,
    pub(super) spec: ConsumerSpec,
    pub(super) no_ack: bool,
    /// None until it is attached.
    pub(super) attachment: Option<Arc<dyn Attachment>>,
    pub(super) purpose: Purpose,
    pub(super) room: Arc<Semaphore>,
    /// Deliveries that the client has no room for.
    pub(super) waiting: VecDeque<Delivery>,
    /// It ended before it was attached.
    pub(super) ended: Option<ConsumerEnd>,
    /// Messages that are with the client.
    pub(super) held: usize,
    /// Gets that it has not answered.
    pub(super) asked: usize,
    /// Its consumer was cancelled: it only holds.
    pub(super) retired: bool,
    /// Whether it is in the connection's list of those with deliveries.
    queued: bool,
    /// How long the next try to attach waits.
    pub(super) again: Duration,
    pub(super) names: LastNames,
}

/// What is to be done once it is attached.
#[derive(Clone, Copy)]
pub(super) enum Purpose {
    /// The client is answered.
    Begin,
    Get(Get),
    /// It had ended, and goes on.
    GoOn,
}

/// A `basic.get`.
#[derive(Clone, Copy)]
pub(super) struct Get {
    pub(super) channel: ChannelKey,
    pub(super) no_ack: bool,
    /// Whether the attachment is new, so that another one would not help.
    pub(super) is_fresh: bool,
}

impl Holder {
    pub(super) fn new(
        channel: ChannelKey,
        queue: Arc<QueueEntry>,
        spec: ConsumerSpec,
        purpose: Purpose,
    ) -> Self {
        Self {
            channel,
            tag: None,
            queue,
            spec,
            no_ack: false,
            attachment: None,
            purpose,
            room: Arc::new(Semaphore::new(0)),
            waiting: VecDeque::new(),
            ended: None,
            held: 0,
            asked: 0,
            retired: false,
            queued: false,
            again: AGAIN,
            names: LastNames::default(),
        }
    }

    /// Whether it is a consumer for its queue: whether the queue may be unused without it.
    pub(super) fn is_consumer(&self) -> bool {
        self.tag.is_some() && !self.retired
    }

    /// Whether it is that of a consumer, or was.
    pub(super) fn is_of_consumer(&self) -> bool {
        self.tag.is_some()
    }

    /// Puts back what was delivered and not passed on.
    pub(super) fn release_waiting(&mut self, bytes_max: u32) {
        let mut cost = 0;
        let released = self.waiting.drain(..).map(|delivery| {
            cost += delivery.cost(bytes_max) as usize;
            settled(&delivery, Outcome::Release)
        });
        let released: Vec<_> = released.collect();
        self.room.add_permits(cost);
        if let Some(attachment) = self.attachment.as_ref().filter(|_| !released.is_empty()) {
            attachment.settle(released);
        }
    }
}

pub(super) fn settled(delivery: &Delivery, outcome: Outcome) -> Settled {
    Settled { offset: delivery.offset, attempt: delivery.attempt, outcome }
}

impl Connection {
    /// The broker delivers.
    pub(super) fn delivered(&mut self, id: u32, delivery: Delivery) {
        let bytes_max = self.bytes_max();
        let Some(holder) = self.holders.get_mut(&id) else { return };
        holder.waiting.push_back(delivery);
        if holder.retired {
            holder.release_waiting(bytes_max);
        } else {
            self.activate(id);
        }
    }

    /// Notes that a holder may have something to pass on.
    pub(super) fn activate(&mut self, id: u32) {
        let Some(holder) = self.holders.get_mut(&id) else { return };
        if !holder.queued && !holder.waiting.is_empty() && holder.attachment.is_some() {
            holder.queued = true;
            self.active.push_back(id);
        }
    }

    /// Passes on what consumers have room for.
    pub(super) fn pass_on(&mut self) {
        if std::mem::take(&mut self.room_grew) {
            self.active.extend(self.stalled.drain(..));
            let replying = self.channels.iter().filter(|(_, channel)| channel.replies.is_some());
            for key in replying.map(|(key, _)| *key).collect::<Vec<_>>() {
                self.pass_on_replies(key);
            }
        }
        while let Some(id) = self.active.pop_front() {
            self.pass_on_of(id);
        }
    }

    fn pass_on_of(&mut self, id: u32) {
        let bytes_max = self.bytes_max();
        let Some(holder) = self.holders.get_mut(&id) else { return };
        let (Some(tag), Some(attachment)) = (&holder.tag, &holder.attachment) else { return };
        let (mut cost, mut done) = (0, Vec::new());
        while !holder.waiting.is_empty() && self.session.room(holder.channel, tag) > 0 {
            let Some(delivery) = holder.waiting.pop_front() else { break };
            cost += delivery.cost(bytes_max) as usize;
            let accepted = settled(&delivery, Outcome::Accept);
            let delivered = holder.names.delivered(delivery, id, &holder.queue);
            match self.session.deliver(holder.channel, tag, delivered) {
                Ok(_) if holder.no_ack => done.push(accepted),
                Ok(_) => holder.held += 1,
                Err(_) => done.push(Settled { outcome: Outcome::Release, ..accepted }),
            }
        }
        holder.room.add_permits(cost);
        if !done.is_empty() {
            attachment.settle(done);
        }
        holder.queued = !holder.waiting.is_empty();
        if holder.queued {
            self.stalled.push(id);
        }
    }
}

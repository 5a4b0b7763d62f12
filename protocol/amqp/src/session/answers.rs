//! What the broker answers and sends: answers to requests, deliveries, returned messages, confirms,
//! refusals.
//!
//! Invariant: whatever comes for a channel life that has ended is ignored, except that who delivers is
//! told, because the message is still the broker's.

use bytes::Bytes;
use thiserror::Error;

use super::channel::{Consumer, Mode, Wait};
use super::request::{Answer, Ask, ChannelKey, Confirmation, Delivery, Outcome, Settlement};
use super::{Phase, Session};
use crate::error::{Fault, ReplyCode};
use crate::methods::*;
use crate::shortstr::ShortStr;

/// A delivery has nobody to go to: the channel or consumer is gone. The message goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the consumer is gone")]
pub struct ConsumerGone;

/// A message that no queue took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Returned {
    /// Why; [`ReplyCode::NoRoute`].
    pub code: ReplyCode,
    /// The exchange that it was published to.
    pub exchange: ShortStr,
    /// The key that it was published with.
    pub routing_key: ShortStr,
    /// Its properties, encoded.
    pub properties: Bytes,
    /// Its body.
    pub body: Bytes,
}

impl Session {
    /// Answers the request that `key` waits for.
    ///
    /// # Panics
    /// When it does not wait for an answer of this kind: the gateway mixed up requests.
    pub fn answer(&mut self, key: ChannelKey, answer: Answer) {
        if key.number == 0 {
            return self.answer_connection(answer);
        }
        let Some((channel, mut host)) = self.channel(key) else { return };
        let (wait, method) = channel.waiting.take().expect("an answer belongs to a request");
        let host = &mut host;
        match (wait, answer) {
            (wait, Answer::Refused(fault)) => {
                if let Wait::Close = wait {
                    return self.channel_closed(key);
                }
                return self.fail(key.number, fault.blamed_on(method));
            }
            (Wait::Done(ok), Answer::Done) => {
                if let Some(ok) = ok {
                    channel.send(host, ok);
                }
            }
            (
                Wait::DeclareQueue { no_wait },
                Answer::Queue { name, message_count, consumer_count },
            ) => {
                channel.last_queue = name.clone();
                if !no_wait {
                    let ok = QueueDeclareOk { queue: name, message_count, consumer_count };
                    channel.send(host, ok);
                }
            }
            (Wait::Purge { no_wait }, Answer::Count(message_count)) => {
                if !no_wait {
                    channel.send(host, QueuePurgeOk { message_count });
                }
            }
            (Wait::Delete { no_wait }, Answer::Count(message_count)) => {
                if !no_wait {
                    channel.send(host, QueueDeleteOk { message_count });
                }
            }
            (Wait::Consume { consumer, terms, no_wait }, Answer::Done) => {
                let begun = Consumer { serial: consumer.serial, terms, in_flight: 0 };
                channel.consumers.insert(consumer.tag.clone(), begun);
                if !no_wait {
                    channel.send(host, BasicConsumeOk { consumer_tag: consumer.tag });
                }
            }
            (Wait::Get { .. }, Answer::Message(None)) => {
                channel.send(host, BasicGetEmpty::default());
            }
            (Wait::Get { no_ack }, Answer::Message(Some((delivery, message_count)))) => {
                let delivery_tag = match no_ack {
                    true => channel.tags.next(),
                    false => channel.tags.wait(delivery.message, None),
                };
                let Delivery { redelivered, exchange, routing_key, properties, body, .. } =
                    delivery;
                let method =
                    BasicGetOk { delivery_tag, redelivered, exchange, routing_key, message_count };
                let frame_bytes_max = host.frame_bytes_max;
                host.output.content(
                    key.number,
                    &method.into(),
                    &properties,
                    &body,
                    frame_bytes_max,
                );
            }
            (Wait::Commit, Answer::Done) => channel.send(host, TxCommitOk {}),
            (Wait::Close, _) => return self.channel_closed(key),
            (wait, answer) => panic!("{answer:?} does not answer {wait:?}"),
        }
        self.work_off(key);
    }

    /// Carries out what waited for the answer.
    fn work_off(&mut self, key: ChannelKey) {
        while let Some((channel, _)) = self.channel(key) {
            if channel.waiting.is_some() {
                return;
            }
            let Some(command) = channel.backlog.pop_front() else {
                if let Some(fault) = channel.doomed.take() {
                    self.fail(key.number, fault);
                }
                return;
            };
            self.backlog_bytes -= command.bytes();
            if let Err(fault) = self.execute(key, command) {
                return self.fail(key.number, fault);
            }
            // What came after a close does not count.
            if let Some((channel, _)) = self.channel(key)
                && channel.is_closed_by_client()
            {
                channel.doomed = None;
                let dropped = channel.drop_backlog();
                self.backlog_bytes -= dropped;
            }
        }
    }

    fn channel_closed(&mut self, key: ChannelKey) {
        self.channels.remove(&key.number);
        self.output.method(key.number, &ChannelCloseOk {}.into());
    }

    fn answer_connection(&mut self, answer: Answer) {
        match (self.phase, answer) {
            (Phase::LoggingIn(_), Answer::Login { may_impersonate }) => {
                self.may_impersonate = may_impersonate;
                self.logged_in = true;
                self.phase = Phase::Tuning;
                let tune = ConnectionTune {
                    channel_max: self.config.channel_max,
                    frame_max: self.config.frame_bytes_max,
                    heartbeat: self.config.heartbeat_s,
                };
                self.send(&tune.into());
            }
            (Phase::LoggingIn(mechanism), Answer::Refused(_)) => {
                self.fail_connection(Self::login_refused(mechanism));
            }
            (Phase::OpeningHost, Answer::Done) => {
                self.phase = Phase::Running;
                self.phase_deadline = None;
                self.send(&ConnectionOpenOk::default().into());
            }
            (Phase::OpeningHost, Answer::Refused(fault)) => {
                self.fail_connection(fault.blamed_on(ConnectionOpen::ID));
            }
            (Phase::UpdatingSecret, Answer::Done) => {
                self.phase = Phase::Running;
                self.send(&ConnectionUpdateSecretOk {}.into());
            }
            (Phase::UpdatingSecret, Answer::Refused(fault)) => {
                self.fail_connection(fault.blamed_on(ConnectionUpdateSecret::ID));
            }
            (Phase::ClosedByClient, _) => {
                self.send(&ConnectionCloseOk {}.into());
                self.finish();
            }
            (Phase::Closing | Phase::Lingering | Phase::Finished, _) => {}
            (phase, answer) => panic!("{answer:?} does not answer anything in {phase:?}"),
        }
    }

    /// Refuses what was not waited for: a publish, or the channel as a whole. Requests of the channel
    /// that were not taken yet go, but for its settlements, and what a commit would have settled is put
    /// back; those taken need not be carried out, with the duty that a commit has.
    pub fn refuse(&mut self, key: ChannelKey, fault: Fault) {
        if self.channel(key).is_none() {
            return;
        }
        self.requests.retain_mut(|request| {
            if request.channel != key {
                return true;
            }
            if let Ask::Commit { settlements, .. } = &mut request.ask {
                let settlements = std::mem::take(settlements);
                let deliveries = settlements.into_iter().flat_map(|one| one.deliveries).collect();
                let outcome = Outcome::Requeue;
                request.ask = Ask::Settle(Settlement { outcome, deliveries });
            }
            matches!(request.ask, Ask::Settle(_) | Ask::CloseChannel { .. })
        });
        self.fail(key.number, fault);
    }

    /// Whether this life of the channel goes on: whether what it asked is still wanted.
    #[must_use]
    pub fn is_live(&self, key: ChannelKey) -> bool {
        let channel = self.channels.get(&key.number);
        channel.is_some_and(|channel| {
            channel.key == key && !channel.closing && !channel.is_closed_by_client()
        })
    }

    /// How many messages the consumer takes now: what its own window and the channel's leave, nothing
    /// while much waits to be sent.
    #[must_use]
    pub fn room(&self, key: ChannelKey, consumer_tag: &str) -> usize {
        let full = self.output.bytes() > self.config.output_bytes_max;
        match self.channels.get(&key.number) {
            Some(channel) if channel.key == key && !channel.closing && !full => {
                channel.room(consumer_tag, &self.config)
            }
            _ => 0,
        }
    }

    /// Delivers a message to a consumer that has [`Session::room`]; gives its delivery tag.
    ///
    /// # Errors
    /// [`ConsumerGone`].
    pub fn deliver(
        &mut self,
        key: ChannelKey,
        consumer_tag: &str,
        delivery: Delivery,
    ) -> Result<u64, ConsumerGone> {
        let (channel, mut host) = self.channel(key).ok_or(ConsumerGone)?;
        channel.deliver(&mut host, consumer_tag, delivery).ok_or(ConsumerGone)
    }

    /// Ends a consumer whose queue is gone. Clients that understand it are told.
    ///
    /// Source: RabbitMQ, "Consumer Cancel Notification".
    pub fn cancel_consumer(&mut self, key: ChannelKey, consumer_tag: &str) {
        let told = self.capabilities.consumer_cancel_notify;
        let Some((channel, mut host)) = self.channel(key) else { return };
        let Some((consumer_tag, _)) = channel.consumers.remove_entry(consumer_tag) else { return };
        if told {
            channel.send(&mut host, BasicCancel { consumer_tag, no_wait: true });
        }
    }

    /// Gives a mandatory message back that no queue took: before it is confirmed or committed.
    pub fn return_message(&mut self, key: ChannelKey, returned: Returned) {
        let Some((channel, host)) = self.channel(key) else { return };
        let Returned { code, exchange, routing_key, properties, body } = returned;
        let (reply_code, reply_text) = (code.number(), ShortStr::cut(code.name()));
        let method = BasicReturn { reply_code, reply_text, exchange, routing_key };
        let number = channel.key.number;
        host.output.content(number, &method.into(), &properties, &body, host.frame_bytes_max);
    }

    /// Confirms a publish that has this number. Sent with the next output, many in few frames.
    pub fn confirm(&mut self, key: ChannelKey, number: u64, confirmation: Confirmation) {
        let Some((channel, _)) = self.channel(key) else { return };
        if channel.confirm(number, confirmation) {
            self.unconfirmed.push(key);
        }
    }

    pub(super) fn tell_confirms(&mut self) {
        for key in std::mem::take(&mut self.unconfirmed) {
            if let Some((channel, host)) = self.channel(key) {
                channel.tell_confirms(host.output);
            }
        }
    }

    /// How many publishes of the channel wait to be confirmed or committed, and deliveries to be
    /// settled: what an operator asks of a channel.
    #[must_use]
    pub fn depth(&self, key: ChannelKey) -> Option<Depth> {
        let channel = self.channels.get(&key.number).filter(|channel| channel.key == key)?;
        let uncommitted = match &channel.mode {
            Mode::Transaction(transaction) => transaction.publishes.len(),
            _ => 0,
        };
        let (consumers, unsettled) = (channel.consumers.len(), channel.tags.len());
        Some(Depth { consumers, unsettled, uncommitted })
    }
}

/// What a channel has open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Depth {
    /// Its consumers.
    pub consumers: usize,
    /// Deliveries that wait to be settled.
    pub unsettled: usize,
    /// Publishes that wait for a commit.
    pub uncommitted: usize,
}

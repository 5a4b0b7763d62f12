//! One channel: what it has open, what it waits for, which deliveries are its own.
//!
//! Invariants: a channel that waits for an answer carries nothing out, its commands wait in order; a
//! window counts a delivery from its sending until its settlement left for the broker, for a
//! transaction: until its commit. Knows nothing of the connection's phase.

use std::collections::{BTreeMap, VecDeque};

use super::config::SessionConfig;
use super::confirms::{Confirms, Told};
use super::request::{
    Ask, ChannelKey, Confirmation, Delivery, Outcome, Publish, Request, Settled, Settlement,
};
use super::unsettled::{ConsumerRef, Tags, Unsettled};
use crate::content::{Assembler, Command};
use crate::error::{Fault, MethodId};
use crate::methods::{BasicAck, BasicDeliver, BasicNack, Method};
use crate::output::Output;
use crate::shortstr::ShortStr;

/// What a channel uses of its connection.
pub(super) struct Host<'a> {
    pub(super) config: &'a SessionConfig,
    pub(super) output: &'a mut Output,
    pub(super) requests: &'a mut VecDeque<Request>,
    pub(super) names: &'a mut super::names::Names,
    pub(super) user: &'a str,
    pub(super) may_impersonate: bool,
    pub(super) vhost: &'a str,
    pub(super) frame_bytes_max: u32,
}

/// Which answer a channel waits for, and what it says to the client then.
#[derive(Debug)]
pub(super) enum Wait {
    /// `Done`; then this is sent.
    Done(Option<Method>),
    DeclareQueue {
        no_wait: bool,
    },
    Purge {
        no_wait: bool,
    },
    Delete {
        no_wait: bool,
    },
    Consume {
        consumer: ConsumerRef,
        terms: Terms,
        no_wait: bool,
    },
    Get {
        no_ack: bool,
    },
    Commit,
    Close,
}

/// How a consumer consumes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    pub(super) no_ack: bool,
    pub(super) prefetch: u16,
    /// Whether it takes direct replies.
    pub(super) replies: bool,
}

#[derive(Debug)]
pub(super) struct Consumer {
    pub(super) serial: u32,
    pub(super) terms: Terms,
    pub(super) in_flight: usize,
}

/// What `confirm.select` or `tx.select` made of it.
#[derive(Debug)]
pub(super) enum Mode {
    Plain,
    Confirm(Confirms),
    Transaction(Transaction),
}

/// What waits for a commit.
#[derive(Debug, Default)]
pub(super) struct Transaction {
    pub(super) publishes: Vec<Publish>,
    pub(super) settlements: Vec<(Outcome, Vec<Unsettled>)>,
    pub(super) bytes: usize,
}

#[derive(Debug)]
pub(super) struct Channel {
    pub(super) key: ChannelKey,
    /// The server closed it and waits for close-ok.
    pub(super) closing: bool,
    pub(super) assembler: Assembler,
    pub(super) backlog: VecDeque<Command>,
    /// Why it ends once the backlog is worked off.
    pub(super) doomed: Option<Fault>,
    /// What is waited for, and the method that asked.
    pub(super) waiting: Option<(Wait, MethodId)>,
    /// What an empty queue name means.
    pub(super) last_queue: ShortStr,
    pub(super) consumers: BTreeMap<ShortStr, Consumer>,
    pub(super) serial: u32,
    pub(super) tags: Tags,
    /// Window of consumers that begin from now on; 0: none.
    pub(super) prefetch: u16,
    /// Window of all consumers together; 0: none.
    pub(super) window: u16,
    pub(super) in_flight: usize,
    pub(super) mode: Mode,
}

impl Channel {
    pub(super) fn new(key: ChannelKey) -> Self {
        Self {
            key,
            closing: false,
            assembler: Assembler::default(),
            backlog: VecDeque::new(),
            doomed: None,
            waiting: None,
            last_queue: ShortStr::EMPTY,
            consumers: BTreeMap::new(),
            serial: 0,
            tags: Tags::new(),
            prefetch: 0,
            window: 0,
            in_flight: 0,
            mode: Mode::Plain,
        }
    }

    /// Whether what the client sends is thrown away.
    pub(super) fn is_leaving(&self) -> bool {
        self.closing || self.doomed.is_some() || self.is_closed_by_client()
    }

    /// Whether it ended already, for the broker.
    pub(super) fn is_closed_by_client(&self) -> bool {
        matches!(self.waiting, Some((Wait::Close, _)))
    }

    pub(super) fn send(&self, host: &mut Host<'_>, method: impl Into<Method>) {
        host.output.method(self.key.number, &method.into());
    }

    pub(super) fn ask(&self, host: &mut Host<'_>, ask: Ask) {
        host.requests.push_back(Request { channel: self.key, ask });
    }

    /// Asks for something that is answered.
    pub(super) fn ask_and_wait(
        &mut self,
        host: &mut Host<'_>,
        ask: Ask,
        wait: Wait,
        method: MethodId,
    ) {
        assert!(self.waiting.is_none(), "a channel waits for one answer at a time");
        self.waiting = Some((wait, method));
        self.ask(host, ask);
    }

    /// How many deliveries this consumer takes now.
    pub(super) fn room(&self, tag: &str, config: &SessionConfig) -> usize {
        let Some(consumer) = self.consumers.get(tag) else { return 0 };
        if consumer.terms.no_ack {
            return usize::MAX;
        }
        let within = |window: u16, used: usize| match window {
            0 => usize::MAX,
            _ => usize::from(window).saturating_sub(used),
        };
        within(consumer.terms.prefetch, consumer.in_flight)
            .min(within(self.window, self.in_flight))
            .min(config.unsettled_per_channel_max.saturating_sub(self.tags.len()))
    }

    /// Sends a delivery; none where the consumer is gone.
    pub(super) fn deliver(
        &mut self,
        host: &mut Host<'_>,
        tag: &str,
        delivery: Delivery,
    ) -> Option<u64> {
        let (consumer_tag, serial) = {
            let (tag, consumer) = self.consumers.get_key_value(tag)?;
            (tag.clone(), consumer.serial)
        };
        let consumer = self.consumers.get_mut(tag)?;
        let delivery_tag = if consumer.terms.no_ack {
            self.tags.next()
        } else {
            consumer.in_flight += 1;
            self.in_flight += 1;
            let consumer = ConsumerRef { tag: consumer_tag.clone(), serial };
            self.tags.wait(delivery.message, Some(consumer))
        };
        let Delivery { redelivered, exchange, routing_key, properties, body, .. } = delivery;
        let method =
            BasicDeliver { consumer_tag, delivery_tag, redelivered, exchange, routing_key };
        let frame_bytes_max = host.frame_bytes_max;
        host.output.content(self.key.number, &method.into(), &properties, &body, frame_bytes_max);
        Some(delivery_tag)
    }

    /// A settlement by the client.
    ///
    /// # Errors
    /// 406 when the tag is not unsettled, or the transaction is full.
    pub(super) fn settle(
        &mut self,
        host: &mut Host<'_>,
        outcome: Outcome,
        tag: u64,
        multiple: bool,
    ) -> Result<(), Fault> {
        let taken = self.tags.take(tag, multiple)?;
        if taken.is_empty() {
            return Ok(());
        }
        let Mode::Transaction(transaction) = &mut self.mode else {
            self.settle_now(host, outcome, &taken);
            return Ok(());
        };
        transaction.grow(taken.len() * size_of::<Unsettled>(), host.config)?;
        match transaction.settlements.last_mut() {
            Some((last, list)) if *last == outcome => list.extend(taken),
            _ => transaction.settlements.push((outcome, taken)),
        }
        Ok(())
    }

    /// Tells the broker, in the last request where that is one like this.
    pub(super) fn settle_now(
        &mut self,
        host: &mut Host<'_>,
        outcome: Outcome,
        taken: &[Unsettled],
    ) {
        let settled = self.leave_windows(taken);
        if let Some(Request { channel, ask: Ask::Settle(last) }) = host.requests.back_mut()
            && *channel == self.key
            && last.outcome == outcome
        {
            last.deliveries.extend(settled);
            return;
        }
        self.ask(host, Ask::Settle(Settlement { outcome, deliveries: settled }));
    }

    pub(super) fn leave_windows(&mut self, taken: &[Unsettled]) -> Vec<Settled> {
        for reference in taken.iter().filter_map(|one| one.consumer.as_ref()) {
            self.in_flight = self.in_flight.saturating_sub(1);
            if let Some(consumer) = self.consumers.get_mut(&reference.tag)
                && consumer.serial == reference.serial
            {
                consumer.in_flight = consumer.in_flight.saturating_sub(1);
            }
        }
        taken.iter().map(Unsettled::settled).collect()
    }

    /// What the broker made of a publish; whether it is the first to be told next.
    pub(super) fn confirm(&mut self, number: u64, confirmation: Confirmation) -> bool {
        match &mut self.mode {
            Mode::Confirm(confirms) => {
                confirms.settle(number, confirmation) && confirms.has_one_fresh()
            }
            _ => false,
        }
    }

    /// Sends the confirmations that wait.
    pub(super) fn tell_confirms(&mut self, output: &mut Output) {
        let number = self.key.number;
        let Mode::Confirm(confirms) = &mut self.mode else { return };
        confirms.tell(|Told { confirmation, number: delivery_tag, multiple }| {
            let method = match confirmation {
                Confirmation::Taken => BasicAck { delivery_tag, multiple }.into(),
                Confirmation::Refused => {
                    BasicNack { delivery_tag, multiple, requeue: false }.into()
                }
            };
            output.method(number, &method);
        });
    }

    /// Gives up all that it has; what the broker is to take back.
    pub(super) fn give_up(&mut self) -> Ask {
        let mut unsettled = self.tags.take_all();
        if let Mode::Transaction(transaction) = &mut self.mode {
            let transaction = std::mem::take(transaction);
            unsettled.extend(transaction.settlements.into_iter().flat_map(|(_, list)| list));
            unsettled.sort_by_key(|one| one.tag);
        }
        self.in_flight = 0;
        Ask::CloseChannel {
            consumers: std::mem::take(&mut self.consumers).into_keys().collect(),
            unsettled: unsettled.iter().map(Unsettled::settled).collect(),
        }
    }

    /// Throws away what waits; how many bytes that was.
    pub(super) fn drop_backlog(&mut self) -> usize {
        self.assembler = Assembler::default();
        std::mem::take(&mut self.backlog).iter().map(Command::bytes).sum()
    }
}

impl Transaction {
    /// Makes room for `bytes` more.
    ///
    /// # Errors
    /// 406 when it would hold more than allowed.
    pub(super) fn grow(&mut self, bytes: usize, config: &SessionConfig) -> Result<(), Fault> {
        self.bytes += bytes;
        if self.bytes <= config.transaction_bytes_max {
            return Ok(());
        }
        let text = format!(
            "transaction of {} bytes is larger than the maximum of {}",
            self.bytes, config.transaction_bytes_max
        );
        Err(Fault::new(crate::error::ReplyCode::PreconditionFailed, text))
    }
}

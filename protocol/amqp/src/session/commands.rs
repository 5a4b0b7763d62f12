//! What each method of a client on a channel does: what the session knows is answered at once, the
//! rest becomes a request of the broker.
//!
//! Source: RabbitMQ's behaviour for each method; texts as it words them.

use super::channel::{Channel, Host, Mode, Terms, Transaction, Wait};
use super::confirms::Confirms;
use super::request::{Ask, Consume, Outcome};
use super::unsettled::ConsumerRef;
use crate::content::{Command, unimplemented};
use crate::error::{Fault, ReplyCode, Resource};
use crate::methods::*;
use crate::shortstr::ShortStr;

/// The queue that stands for the consumer of direct replies.
pub(super) const REPLY_TO: &str = "amq.rabbitmq.reply-to";

fn refused<T>(code: ReplyCode, text: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::new(code, text))
}

/// Names without line ends: RabbitMQ takes them out of names that are declared, bound or deleted.
fn one_line(name: &mut ShortStr) {
    if name.contains(['\r', '\n']) {
        *name = ShortStr::cut(&name.replace(['\r', '\n'], ""));
    }
}

/// The name of an exchange that is declared, bound or deleted: on one line, and not the default one's.
fn exchange_name(exchange: &mut ShortStr) -> Result<(), Fault> {
    one_line(exchange);
    if exchange.is_empty() {
        let text = "operation not permitted on the default exchange";
        return refused(ReplyCode::AccessRefused, text);
    }
    Ok(())
}

/// What is sent when it is done, unless the client asked not to wait.
fn done(no_wait: bool, ok: impl Into<Method>) -> Wait {
    Wait::Done((!no_wait).then(|| ok.into()))
}

impl Channel {
    /// Carries out one command.
    ///
    /// # Errors
    /// Why the channel or the connection ends.
    pub(super) fn execute(&mut self, command: Command, host: &mut Host<'_>) -> Result<(), Fault> {
        let id = command.method.id();
        let Command { method, content } = command;
        match (method, content) {
            (Method::BasicPublish(publish), Some(content)) => self.publish(publish, content, host),
            (method, _) => self.run(method, host),
        }
        .map_err(|fault| fault.blamed_on(id))
    }

    fn run(&mut self, method: Method, host: &mut Host<'_>) -> Result<(), Fault> {
        let id = method.id();
        let (ask, wait) = match method {
            Method::ChannelOpen(_) => {
                return refused(ReplyCode::ChannelError, "second 'channel.open' seen");
            }
            Method::ChannelFlow(ChannelFlow { active: true }) => {
                self.send(host, ChannelFlowOk { active: true });
                return Ok(());
            }
            Method::ChannelFlow(_) => return refused(ReplyCode::NotImplemented, "active=false"),
            Method::ChannelFlowOk(_) | Method::BasicCancelOk(_) => return Ok(()),
            Method::ChannelClose(_) => {
                self.tell_confirms(host.output);
                (self.give_up(), Wait::Close)
            }
            Method::AccessRequest(_) => {
                self.send(host, AccessRequestOk { ticket: 1 });
                return Ok(());
            }
            Method::ExchangeDeclare(mut declare) => {
                exchange_name(&mut declare.exchange)?;
                let wait = done(declare.no_wait, ExchangeDeclareOk {});
                (Ask::DeclareExchange(declare), wait)
            }
            Method::ExchangeDelete(mut delete) => {
                exchange_name(&mut delete.exchange)?;
                if delete.exchange.starts_with("amq.") {
                    let exchange = Resource::exchange(&delete.exchange, host.vhost);
                    let text = format!("deletion of system {exchange} not allowed");
                    return refused(ReplyCode::AccessRefused, text);
                }
                let wait = done(delete.no_wait, ExchangeDeleteOk {});
                (Ask::DeleteExchange(delete), wait)
            }
            Method::ExchangeBind(mut bind) => {
                exchange_name(&mut bind.source)?;
                exchange_name(&mut bind.destination)?;
                let wait = done(bind.no_wait, ExchangeBindOk {});
                (Ask::BindExchange(bind), wait)
            }
            Method::ExchangeUnbind(mut unbind) => {
                exchange_name(&mut unbind.source)?;
                exchange_name(&mut unbind.destination)?;
                let wait = done(unbind.no_wait, ExchangeUnbindOk {});
                (Ask::UnbindExchange(unbind), wait)
            }
            Method::QueueDeclare(mut declare) => {
                one_line(&mut declare.queue);
                declarable(&declare, host.vhost)?;
                let wait = Wait::DeclareQueue { no_wait: declare.no_wait };
                (Ask::DeclareQueue(declare), wait)
            }
            Method::QueueBind(mut bind) => {
                self.bound_names(&mut bind.queue, &mut bind.routing_key, &mut bind.exchange)?;
                let wait = done(bind.no_wait, QueueBindOk {});
                (Ask::BindQueue(bind), wait)
            }
            Method::QueueUnbind(mut unbind) => {
                self.bound_names(&mut unbind.queue, &mut unbind.routing_key, &mut unbind.exchange)?;
                (Ask::UnbindQueue(unbind), done(false, QueueUnbindOk {}))
            }
            Method::QueuePurge(mut purge) => {
                self.name_queue(&mut purge.queue)?;
                let wait = Wait::Purge { no_wait: purge.no_wait };
                (Ask::PurgeQueue(purge), wait)
            }
            Method::QueueDelete(mut delete) => {
                self.name_queue(&mut delete.queue)?;
                one_line(&mut delete.queue);
                let wait = Wait::Delete { no_wait: delete.no_wait };
                (Ask::DeleteQueue(delete), wait)
            }
            Method::BasicConsume(consume) => self.consume(consume, host)?,
            Method::BasicCancel(cancel) => {
                let BasicCancel { consumer_tag, no_wait } = cancel;
                let ok = BasicCancelOk { consumer_tag: consumer_tag.clone() };
                if self.consumers.remove(&consumer_tag).is_none() {
                    if !no_wait {
                        self.send(host, ok);
                    }
                    return Ok(());
                }
                (Ask::Cancel { consumer_tag }, done(no_wait, ok))
            }
            Method::BasicGet(mut get) => {
                self.name_queue(&mut get.queue)?;
                if !get.no_ack && self.tags.len() >= host.config.unsettled_per_channel_max {
                    let text = format!("{} deliveries are not settled", self.tags.len());
                    return refused(ReplyCode::PreconditionFailed, text);
                }
                let BasicGet { queue, no_ack, .. } = get;
                (Ask::Get { queue, no_ack }, Wait::Get { no_ack })
            }
            Method::TxCommit(_) => self.commit()?,
            other => return self.run_at_once(other, host),
        };
        self.ask_and_wait(host, ask, wait, id);
        Ok(())
    }

    /// The methods that no answer is waited for.
    fn run_at_once(&mut self, method: Method, host: &mut Host<'_>) -> Result<(), Fault> {
        match method {
            Method::BasicQos(qos) => self.qos(&qos, host),
            Method::BasicAck(BasicAck { delivery_tag, multiple }) => {
                self.settle(host, Outcome::Accept, delivery_tag, multiple)
            }
            Method::BasicNack(BasicNack { delivery_tag, multiple, requeue }) => {
                self.settle(host, refusal(requeue), delivery_tag, multiple)
            }
            Method::BasicReject(BasicReject { delivery_tag, requeue }) => {
                self.settle(host, refusal(requeue), delivery_tag, false)
            }
            Method::BasicRecover(BasicRecover { requeue }) => {
                self.recover(requeue, host)?;
                self.send(host, BasicRecoverOk {});
                Ok(())
            }
            Method::BasicRecoverAsync(BasicRecoverAsync { requeue }) => self.recover(requeue, host),
            Method::ConfirmSelect(ConfirmSelect { no_wait }) => {
                match self.mode {
                    Mode::Transaction(_) => {
                        let text = "cannot switch from tx to confirm mode";
                        return refused(ReplyCode::PreconditionFailed, text);
                    }
                    Mode::Plain => self.mode = Mode::Confirm(Confirms::new()),
                    Mode::Confirm(_) => {}
                }
                if !no_wait {
                    self.send(host, ConfirmSelectOk {});
                }
                Ok(())
            }
            Method::TxSelect(_) => {
                match self.mode {
                    Mode::Confirm(_) => {
                        let text = "cannot switch from confirm to tx mode";
                        return refused(ReplyCode::PreconditionFailed, text);
                    }
                    Mode::Plain => self.mode = Mode::Transaction(Transaction::default()),
                    Mode::Transaction(_) => {}
                }
                self.send(host, TxSelectOk {});
                Ok(())
            }
            Method::TxRollback(_) => {
                let transaction = std::mem::take(self.transaction()?);
                for (_, taken) in transaction.settlements {
                    self.tags.put_back(taken);
                }
                self.send(host, TxRollbackOk {});
                Ok(())
            }
            other => Err(unimplemented(other.id())),
        }
    }

    fn name_queue(&self, queue: &mut ShortStr) -> Result<(), Fault> {
        if queue.is_empty() {
            if self.last_queue.is_empty() {
                return refused(ReplyCode::NotFound, "no previously declared queue");
            }
            *queue = self.last_queue.clone();
        }
        Ok(())
    }

    /// An empty queue means the last one, and with it an empty key means its name.
    fn bound_names(
        &self,
        queue: &mut ShortStr,
        key: &mut ShortStr,
        exchange: &mut ShortStr,
    ) -> Result<(), Fault> {
        let by_name = queue.is_empty() && key.is_empty();
        self.name_queue(queue)?;
        if by_name {
            *key = queue.clone();
        }
        one_line(queue);
        exchange_name(exchange)
    }

    fn consume(
        &mut self,
        mut consume: BasicConsume,
        host: &mut Host<'_>,
    ) -> Result<(Ask, Wait), Fault> {
        self.name_queue(&mut consume.queue)?;
        let BasicConsume { queue, consumer_tag, no_ack, exclusive, no_wait, arguments, .. } =
            consume;
        if self.consumers.contains_key(&consumer_tag) {
            let text = format!("attempt to reuse consumer tag '{consumer_tag}'");
            return refused(ReplyCode::NotAllowed, text);
        }
        let most = host.config.consumers_per_channel_max;
        if self.consumers.len() >= most {
            let text = format!("reached maximum ({most}) of consumers per channel");
            return refused(ReplyCode::NotAllowed, text);
        }
        let replies = &*queue == REPLY_TO;
        if replies && !no_ack {
            let text = "reply consumer cannot acknowledge";
            return refused(ReplyCode::PreconditionFailed, text);
        }
        if replies && self.takes_replies() {
            return refused(ReplyCode::PreconditionFailed, "reply consumer already set");
        }
        let tag = match consumer_tag.is_empty() {
            true => host.names.consumer_tag(),
            false => consumer_tag,
        };
        self.serial += 1;
        let consumer = ConsumerRef { tag: tag.clone(), serial: self.serial };
        let (prefetch, window) = (self.prefetch, self.window);
        let wait = Wait::Consume { consumer, terms: Terms { no_ack, prefetch, replies }, no_wait };
        let consumer_tag = tag;
        let consume =
            Consume { queue, consumer_tag, no_ack, exclusive, prefetch, window, arguments };
        Ok((Ask::Consume(consume), wait))
    }

    pub(super) fn takes_replies(&self) -> bool {
        self.consumers.values().any(|consumer| consumer.terms.replies)
    }

    /// RabbitMQ's meaning of `global`: without it the window of each consumer that begins later, with
    /// it the window of all consumers of the channel. Source: RabbitMQ, "Consumer Prefetch".
    fn qos(&mut self, qos: &BasicQos, host: &mut Host<'_>) -> Result<(), Fault> {
        if qos.prefetch_size != 0 {
            let text = format!("prefetch_size!=0 ({})", qos.prefetch_size);
            return refused(ReplyCode::NotImplemented, text);
        }
        if qos.global {
            self.window = qos.prefetch_count;
        } else {
            self.prefetch = qos.prefetch_count;
            self.window = 0;
        }
        self.send(host, BasicQosOk {});
        Ok(())
    }

    fn recover(&mut self, requeue: bool, host: &mut Host<'_>) -> Result<(), Fault> {
        if !requeue {
            return refused(ReplyCode::NotImplemented, "requeue=false");
        }
        let taken = self.tags.take_all();
        if !taken.is_empty() {
            self.settle_now(host, Outcome::Requeue, &taken);
        }
        Ok(())
    }
}

fn refusal(requeue: bool) -> Outcome {
    if requeue { Outcome::Requeue } else { Outcome::Discard }
}

/// Whether a queue of this name can be asked for.
fn declarable(declare: &QueueDeclare, vhost: &str) -> Result<(), Fault> {
    let name = &declare.queue;
    if declare.passive && name.is_empty() {
        return Err(Resource::queue(name, vhost).not_found());
    }
    if !declare.passive && name.starts_with("amq.") && !name.starts_with(REPLY_TO) {
        let text = format!("queue name '{name}' contains reserved prefix 'amq.*'");
        return refused(ReplyCode::AccessRefused, text);
    }
    Ok(())
}

//! Declarations and what else is asked of the catalog and of whole queues: who may, whether it fits
//! what is there, then the change.
//!
//! Source: RabbitMQ, "Access Control", the table of what each operation asks for; its texts.

use std::sync::Arc;

use plimsoll_amqp::error::{Fault, ReplyCode, Resource};
use plimsoll_amqp::methods::{
    ExchangeBind, ExchangeDeclare, ExchangeDelete, ExchangeUnbind, QueueBind, QueueDeclare,
    QueueDelete, QueuePurge, QueueUnbind,
};
use plimsoll_amqp::routing::{
    Binding, Destination, ExchangeShape, QueueArguments, QueueShape, check_queue, locked,
};
use plimsoll_amqp::session::{Answer, Ask, server_named};
use plimsoll_amqp::shortstr::ShortStr;
use plimsoll_amqp::table::FieldTable;

use crate::backend::{QueueError, Refusal};
use crate::catalog::{
    BindingEntry, Change, Changed, ConnectionId, ExchangeEntry, Owner, QueueEntry, User,
};
use crate::fold::Folded;
use crate::gateway::Gateway;
use crate::host::Host;
use crate::permissions::Permission::{Configure, Read, Write};

/// The queue that stands for direct replies, and the prefix of their addresses.
const REPLY_TO: &str = "amq.rabbitmq.reply-to";
/// How often a declaration is tried again when others declare and delete the same name meanwhile.
const TRIES: usize = 8;

/// A connection, as declarations need it.
#[derive(Clone)]
pub(super) struct Actor {
    pub(super) gateway: Arc<Gateway>,
    pub(super) host: Arc<Host>,
    pub(super) user: Arc<User>,
    pub(super) id: ConnectionId,
}

/// What is said of a queue that cannot be worked with.
///
/// Source: RabbitMQ says 404 too where the node of a durable queue is down.
pub(super) fn queue_fault(error: &QueueError, name: &str, vhost: &str) -> Fault {
    let queue = Resource::queue(name, vhost);
    match error {
        QueueError::Deleted => queue.not_found(),
        QueueError::Unavailable { reason } => {
            Fault::new(ReplyCode::NotFound, format!("{queue} is not available: {reason}"))
        }
    }
}

/// What queues have and streams do not.
pub(super) fn not_of_streams(what: &str, queue: &QueueEntry, vhost: &str) -> Fault {
    let queue = Resource::queue(&queue.name, vhost);
    let text = format!("{what} not supported by stream queues {queue}");
    Fault::new(ReplyCode::NotImplemented, text)
}

/// Whether this connection may use the queue.
///
/// # Errors
/// 405 where it is another's.
pub(super) fn check_access(queue: &QueueEntry, id: ConnectionId, vhost: &str) -> Result<(), Fault> {
    match queue.owner {
        Some(owner) if owner != Owner::Here(id) => Err(locked(Resource::queue(&queue.name, vhost))),
        _ => Ok(()),
    }
}

impl Actor {
    /// Carries out what is asked.
    ///
    /// # Errors
    /// What the client is told.
    pub(super) async fn perform(self, ask: Ask) -> Result<Answer, Fault> {
        match ask {
            Ask::DeclareExchange(declare) => self.declare_exchange(declare).await,
            Ask::DeleteExchange(delete) => self.delete_exchange(delete).await,
            Ask::BindExchange(bind) => {
                let ExchangeBind { source, destination, routing_key, arguments, .. } = bind;
                self.bind(source, Destination::Exchange(destination), routing_key, arguments).await
            }
            Ask::UnbindExchange(unbind) => {
                let ExchangeUnbind { source, destination, routing_key, arguments, .. } = unbind;
                let destination = Destination::Exchange(destination);
                self.unbind(source, destination, routing_key, arguments).await
            }
            Ask::BindQueue(bind) => {
                let QueueBind { queue, exchange, routing_key, arguments, .. } = bind;
                self.bind(exchange, Destination::Queue(queue), routing_key, arguments).await
            }
            Ask::UnbindQueue(unbind) => {
                let QueueUnbind { queue, exchange, routing_key, arguments, .. } = unbind;
                self.unbind(exchange, Destination::Queue(queue), routing_key, arguments).await
            }
            Ask::DeclareQueue(declare) => self.declare_queue(declare).await,
            Ask::DeleteQueue(delete) => self.delete_queue(delete).await,
            Ask::PurgeQueue(purge) => self.purge(purge).await,
            other => unreachable!("{other:?} is not asked of the catalog"),
        }
    }

    fn vhost(&self) -> &ShortStr {
        self.host.vhost()
    }

    fn user(&self) -> &str {
        &self.user.name
    }

    async fn change(&self, change: Change) -> Result<Changed, Fault> {
        let changed = self.gateway.backend.change(self.vhost().clone(), change).await;
        changed.map_err(|refusal| match refusal {
            Refusal::Fault(fault) => fault,
            Refusal::Unavailable { .. } => {
                Fault::new(ReplyCode::InternalError, refusal.to_string())
            }
        })
    }

    async fn declare_exchange(&self, declare: ExchangeDeclare) -> Result<Answer, Fault> {
        let name = &declare.exchange;
        if declare.passive {
            return self.host.read().topology.exchange_shape(name).map(|_| Answer::Done);
        }
        let shape = ExchangeShape::of(&declare)?;
        self.host.read().check_exchange(self.user(), Configure, name)?;
        for _ in 0..TRIES {
            if self.exchange_is_there(name, &shape)? {
                return Ok(Answer::Done);
            }
            let entry = ExchangeEntry { name: name.clone(), shape: shape.clone() };
            if self.change(Change::DeclareExchange(entry)).await? == Changed::Made {
                return Ok(Answer::Done);
            }
        }
        Err(too_busy(Resource::exchange(name, self.vhost())))
    }

    /// Whether the exchange is there as it is declared; false: this user may make it.
    fn exchange_is_there(&self, name: &ShortStr, shape: &ExchangeShape) -> Result<bool, Fault> {
        let folded = self.host.read();
        if folded.topology.check_declared(name, shape)? {
            return Ok(true);
        }
        if let Some(alternate) = text(&shape.arguments, "alternate-exchange") {
            folded.check_exchange(self.user(), Read, name)?;
            folded.check_exchange(self.user(), Write, &alternate)?;
        }
        Ok(false)
    }

    async fn delete_exchange(&self, delete: ExchangeDelete) -> Result<Answer, Fault> {
        let ExchangeDelete { exchange: name, if_unused, .. } = delete;
        {
            let folded = self.host.read();
            folded.check_exchange(self.user(), Configure, &name)?;
            if if_unused {
                folded.topology.check_unused(&name)?;
            }
        }
        self.change(Change::DeleteExchange { name, if_unused }).await?;
        Ok(Answer::Done)
    }

    /// The permissions to bind or unbind: to write into where it leads, to read from where it comes.
    fn check_binding(
        &self,
        folded: &Folded,
        source: &str,
        destination: &Destination,
    ) -> Result<(), Fault> {
        match destination {
            Destination::Queue(queue) => folded.check_queue(self.user(), Write, queue)?,
            Destination::Exchange(exchange) => {
                folded.check_exchange(self.user(), Write, exchange)?;
            }
        }
        folded.check_exchange(self.user(), Read, source)?;
        if let Destination::Queue(queue) = destination
            && let Some(queue) = folded.find_queue(queue)
        {
            check_access(queue, self.id, self.vhost())?;
        }
        Ok(())
    }

    async fn bind(
        &self,
        source: ShortStr,
        destination: Destination,
        key: ShortStr,
        arguments: FieldTable,
    ) -> Result<Answer, Fault> {
        {
            let folded = self.host.read();
            self.check_binding(&folded, &source, &destination)?;
            folded.topology.check_bound(&source, &destination, &arguments)?;
        }
        let binding = Binding { destination, key, arguments };
        self.change(Change::Bind(BindingEntry { source, binding })).await?;
        Ok(Answer::Done)
    }

    async fn unbind(
        &self,
        source: ShortStr,
        destination: Destination,
        key: ShortStr,
        arguments: FieldTable,
    ) -> Result<Answer, Fault> {
        self.check_binding(&self.host.read(), &source, &destination)?;
        self.change(Change::Unbind { source, destination, key, arguments }).await?;
        Ok(Answer::Done)
    }

    async fn declare_queue(&self, declare: QueueDeclare) -> Result<Answer, Fault> {
        let name = &declare.queue;
        if name.starts_with(REPLY_TO) {
            return self.find_reply_consumer(name);
        }
        if declare.passive {
            let queue = Arc::clone(self.host.read().queue(name)?);
            check_access(&queue, self.id, self.vhost())?;
            return self.describe(queue, declare.no_wait).await;
        }
        let name = match name.is_empty() {
            true => server_named("amq.gen", self.gateway.backend.random()),
            false => name.clone(),
        };
        self.host.read().check_queue(self.user(), Configure, &name)?;
        let shape = QueueShape::of(&declare);
        for _ in 0..TRIES {
            if let Some(queue) = self.queue_that_is_there(&name, &shape)? {
                return self.describe(queue, declare.no_wait).await;
            }
            let owner = shape.exclusive.then_some(self.id);
            let change = Change::DeclareQueue {
                name: name.clone(),
                shape: shape.clone(),
                owner,
                declared_by: self.id,
            };
            if self.change(change).await? == Changed::Made {
                return Ok(Answer::Queue { name, message_count: 0, consumer_count: 0 });
            }
        }
        Err(too_busy(Resource::queue(&name, self.vhost())))
    }

    /// The queue, where it is there as it is declared; none: this user may make it.
    fn queue_that_is_there(
        &self,
        name: &ShortStr,
        shape: &QueueShape,
    ) -> Result<Option<Arc<QueueEntry>>, Fault> {
        let folded = self.host.read();
        let resource = Resource::queue(name, self.vhost());
        if let Some(queue) = folded.find_queue(name) {
            let is_owner = queue.owner == Some(Owner::Here(self.id));
            check_queue(&queue.shape, shape, is_owner, resource)?;
            return Ok(Some(Arc::clone(queue)));
        }
        let arguments = QueueArguments::read(&shape.arguments, resource)?;
        arguments.kind.check(shape, resource)?;
        if let Some(exchange) = &arguments.dead_letter_exchange {
            folded.check_queue(self.user(), Read, name)?;
            folded.check_exchange(self.user(), Write, exchange)?;
        }
        Ok(None)
    }

    fn find_reply_consumer(&self, name: &ShortStr) -> Result<Answer, Fault> {
        if &**name != REPLY_TO && !self.gateway.takes_replies(name) {
            return Err(Resource::queue(name, self.vhost()).not_found());
        }
        Ok(Answer::Queue { name: name.clone(), message_count: 0, consumer_count: 1 })
    }

    /// The queue and what it has; who does not wait is not told, so nobody is asked, but for a queue that
    /// ends when it is not used.
    async fn describe(&self, queue: Arc<QueueEntry>, no_wait: bool) -> Result<Answer, Fault> {
        let name = queue.name.clone();
        if no_wait {
            if queue.arguments.expires_ms.is_some() {
                // It is a use of the queue all the same. Who does not wait is not told that it failed.
                let _ = self.gateway.backend.counts(queue).await;
            }
            return Ok(Answer::Queue { name, message_count: 0, consumer_count: 0 });
        }
        let counts = self.gateway.backend.counts(queue).await;
        let counts = counts.map_err(|error| queue_fault(&error, &name, self.vhost()))?;
        let message_count = count(counts.messages);
        Ok(Answer::Queue { name, message_count, consumer_count: counts.consumers })
    }

    async fn delete_queue(&self, delete: QueueDelete) -> Result<Answer, Fault> {
        let QueueDelete { queue: name, if_unused, if_empty, .. } = delete;
        self.host.read().check_queue(self.user(), Configure, &name)?;
        let queue = self.host.read().find_queue(&name).cloned();
        let Some(queue) = queue else { return Ok(Answer::Count(0)) };
        check_access(&queue, self.id, self.vhost())?;
        if if_unused && queue.is_stream() {
            // Its readers are known to their nodes only.
            return Err(not_of_streams("queue.delete with if-unused", &queue, self.vhost()));
        }
        let resource = Resource::queue(&name, self.vhost());
        let refused = |what: &str| {
            Err(Fault::new(ReplyCode::PreconditionFailed, format!("{resource} {what}")))
        };
        let counts = match self.gateway.backend.counts(Arc::clone(&queue)).await {
            Ok(counts) if if_unused && counts.consumers > 0 => return refused("in use"),
            Ok(counts) if if_empty && counts.messages > 0 => return refused("not empty"),
            Ok(counts) => counts,
            Err(QueueError::Deleted) => return Ok(Answer::Count(0)),
            // What nobody can count can be deleted only where the count does not matter.
            Err(error) if if_unused || if_empty => {
                return Err(queue_fault(&error, &name, self.vhost()));
            }
            Err(_) => Default::default(),
        };
        let declaration = queue.declaration;
        self.change(Change::DeleteQueue { name, declaration }).await?;
        Ok(Answer::Count(count(counts.messages)))
    }

    async fn purge(&self, purge: QueuePurge) -> Result<Answer, Fault> {
        let name = purge.queue;
        self.host.read().check_queue(self.user(), Read, &name)?;
        let queue = Arc::clone(self.host.read().queue(&name)?);
        check_access(&queue, self.id, self.vhost())?;
        if queue.is_stream() {
            return Err(not_of_streams("queue.purge", &queue, self.vhost()));
        }
        let purged = self.gateway.backend.purge(queue).await;
        let purged = purged.map_err(|error| queue_fault(&error, &name, self.vhost()))?;
        Ok(Answer::Count(count(purged)))
    }

    /// Deletes a queue that has lost its last consumer.
    pub(super) async fn delete_unused(&self, queue: &QueueEntry) {
        let (name, declaration) = (queue.name.clone(), queue.declaration);
        if let Err(fault) = self.change(Change::DeleteQueue { name, declaration }).await {
            tracing::warn!(queue = &*queue.name, %fault, "auto-delete queue was not deleted");
        }
    }

    /// Deletes the exclusive queues of the connection.
    pub(super) async fn forget(&self) {
        if let Err(fault) = self.change(Change::ForgetOwner(self.id)).await {
            tracing::warn!(%fault, "exclusive queues of an AMQP connection were not deleted");
        }
    }
}

fn text(arguments: &FieldTable, name: &str) -> Option<ShortStr> {
    arguments.find(name).and_then(|value| value.as_text().map(ShortStr::cut))
}

/// A count as the protocol can say it.
fn count(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn too_busy(resource: Resource<'_>) -> Fault {
    let text = format!("{resource} is declared and deleted by others all the time");
    Fault::new(ReplyCode::InternalError, text)
}

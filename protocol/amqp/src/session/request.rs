//! What a session asks of the broker, and what the broker answers and sends.
//!
//! A request comes from [`Session::poll_request`](super::Session::poll_request), in the order in which
//! the client asked. Requests of one channel are to be carried out in this order; those of different
//! channels need no order. Each says whether it is answered.

use bytes::Bytes;

use crate::auth::{Credentials, Mechanism};
use crate::content::Content;
use crate::error::Fault;
use crate::methods::{
    ExchangeBind, ExchangeDeclare, ExchangeDelete, ExchangeUnbind, QueueBind, QueueDeclare,
    QueueDelete, QueuePurge, QueueUnbind,
};
use crate::shortstr::ShortStr;
use crate::table::FieldTable;

/// One life of a channel: numbers are used again, lives are not. Answers to a life that has ended are
/// ignored, so the broker need not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelKey {
    /// The channel's number; 0 is the connection itself.
    pub number: u16,
    /// Which of its lives.
    pub life: u32,
}

impl ChannelKey {
    /// The connection itself.
    pub const CONNECTION: Self = Self { number: 0, life: 0 };
}

/// The broker's own name of a message that it delivered; the session only gives it back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageRef {
    /// Which queue, as the broker counts them for this connection.
    pub queue: u64,
    /// Which message of it.
    pub message: u64,
}

/// What the broker is asked for on behalf of one channel or the connection.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Who asks, to be given with the answer.
    pub channel: ChannelKey,
    /// What for.
    pub ask: Ask,
}

/// What is asked. Names are resolved: an empty queue name where the last declared queue is meant does
/// not come here, except in `DeclareQueue`, where the broker finds a name (see
/// [`server_named`](super::server_named)).
#[derive(Debug, Clone, PartialEq)]
pub enum Ask {
    /// May this user come in? Answer: [`Answer::Login`] or [`Answer::Refused`]. On the connection.
    Login {
        /// How the response was given.
        mechanism: Mechanism,
        /// Who.
        credentials: Credentials,
        /// What the client says of itself.
        client_properties: FieldTable,
    },
    /// May the user open this virtual host? Answer: [`Answer::Done`]. On the connection.
    OpenHost {
        /// Its name.
        vhost: ShortStr,
    },
    /// The login's new secret. Answer: [`Answer::Done`]. On the connection.
    UpdateSecret {
        /// The secret.
        secret: Bytes,
        /// Why, in the client's words.
        reason: ShortStr,
    },
    /// The connection has ended: exclusive queues go, before the answer. Answer: [`Answer::Done`]. The
    /// last request of a session.
    CloseConnection,
    /// The channel has ended. Answer: [`Answer::Done`], after the consumers are gone and the unsettled
    /// messages back in their queues.
    CloseChannel {
        /// Its consumers.
        consumers: Vec<ShortStr>,
        /// Deliveries that were not settled, in order.
        unsettled: Vec<Settled>,
    },
    /// Answer: [`Answer::Done`].
    DeclareExchange(ExchangeDeclare),
    /// Answer: [`Answer::Done`], also where there is none.
    DeleteExchange(ExchangeDelete),
    /// Answer: [`Answer::Done`].
    BindExchange(ExchangeBind),
    /// Answer: [`Answer::Done`], also where there is none.
    UnbindExchange(ExchangeUnbind),
    /// Answer: [`Answer::Queue`]. With `no_wait` its counts are not looked at. A name that begins with
    /// `amq.rabbitmq.reply-to` asks whether that consumer of direct replies is there.
    DeclareQueue(QueueDeclare),
    /// Answer: [`Answer::Done`].
    BindQueue(QueueBind),
    /// Answer: [`Answer::Done`], also where there is none.
    UnbindQueue(QueueUnbind),
    /// Answer: [`Answer::Count`].
    PurgeQueue(QueuePurge),
    /// Answer: [`Answer::Count`], also where there is none.
    DeleteQueue(QueueDelete),
    /// Answer: [`Answer::Done`], before the first delivery.
    Consume(Consume),
    /// Answer: [`Answer::Done`], after the last delivery.
    Cancel {
        /// Whose end it is.
        consumer_tag: ShortStr,
    },
    /// Answer: [`Answer::Message`].
    Get {
        /// The queue.
        queue: ShortStr,
        /// Whether the message is settled by being sent.
        no_ack: bool,
    },
    /// No answer; [`Session::refuse`](super::Session::refuse) where it may not be, and
    /// [`Session::confirm`](super::Session::confirm) where it has a number.
    Publish(Publish),
    /// A publish that waits for its commit: is the exchange there, may the user write to it? No
    /// answer; refused like a publish.
    CheckPublish {
        /// Where it would go.
        exchange: ShortStr,
        /// With which key.
        routing_key: ShortStr,
    },
    /// No answer.
    Settle(Settlement),
    /// Publishes, then settlements, in order. Answer: [`Answer::Done`], once all are durable. From when
    /// it is taken its deliveries are the broker's: where it is refused or not carried out, none of it
    /// counts, and the broker puts them back.
    Commit {
        /// What was published.
        publishes: Vec<Publish>,
        /// What was settled.
        settlements: Vec<Settlement>,
    },
}

/// A consumer to begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consume {
    /// Its queue; `amq.rabbitmq.reply-to` for direct replies.
    pub queue: ShortStr,
    /// Its tag, never empty.
    pub consumer_tag: ShortStr,
    /// Whether messages are settled by being sent.
    pub no_ack: bool,
    /// Whether it wants to be the only one.
    pub exclusive: bool,
    /// Deliveries that it takes unsettled; 0: no limit of its own. See
    /// [`Session::room`](super::Session::room).
    pub prefetch: u16,
    /// Deliveries that all consumers of the channel take unsettled together, as it is now; 0: no limit.
    pub window: u16,
    /// Its arguments.
    pub arguments: FieldTable,
}

/// A message to route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    /// To which exchange.
    pub exchange: ShortStr,
    /// With which key.
    pub routing_key: ShortStr,
    /// Whether it comes back where no queue takes it.
    pub mandatory: bool,
    /// Its number, to be confirmed once it is durable; none: not to be confirmed.
    pub number: Option<u64>,
    /// Properties and body. They are slices of the frames that they came in: who keeps a small one for
    /// long copies it.
    pub content: Box<Content>,
}

impl Publish {
    /// About what it holds of memory.
    #[must_use]
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + self.content.bytes()
    }
}

/// What is to become of deliveries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Done: the message goes.
    Accept,
    /// Back into the queue, redelivered.
    Requeue,
    /// Not wanted: to the dead letter exchange, or dropped.
    Discard,
}

/// One delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// The message.
    pub message: MessageRef,
    /// The consumer that had it; none: `basic.get`.
    pub consumer_tag: Option<ShortStr>,
}

/// Deliveries with one outcome, oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settlement {
    /// What is to become of them.
    pub outcome: Outcome,
    /// Which.
    pub deliveries: Vec<Settled>,
}

/// What the broker answers.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// It was done.
    Done,
    /// The user is who it says.
    Login {
        /// Whether it may send messages in the name of others.
        may_impersonate: bool,
    },
    /// The queue is there.
    Queue {
        /// Its name, found by the broker where none was given.
        name: ShortStr,
        /// Messages that are ready.
        message_count: u32,
        /// Its consumers.
        consumer_count: u32,
    },
    /// So many messages.
    Count(u32),
    /// A message, or none. The number of those left is told to the client.
    Message(Option<(Delivery, u32)>),
    /// It may not be, or cannot.
    Refused(Fault),
}

/// A message to deliver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The broker's name of it.
    pub message: MessageRef,
    /// Whether it was delivered before.
    pub redelivered: bool,
    /// The exchange that it was published to.
    pub exchange: ShortStr,
    /// The key that it was published with.
    pub routing_key: ShortStr,
    /// Its properties, encoded.
    pub properties: Bytes,
    /// Its body.
    pub body: Bytes,
}

/// What became of a publish that has a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confirmation {
    /// It is safe, or no queue wants it.
    Taken,
    /// It was refused or lost.
    Refused,
}

//! Why a command about the objects of AMQP was not carried out.

use plimsoll_protocol::ids::TopicName;
use thiserror::Error;

use super::limits::AmqpKind;
use super::text::AmqpText;
use crate::catalog::variants::wire_variants;

wire_variants! {
    /// Why a command about the objects of AMQP was not carried out. Nothing was changed. The texts are
    /// for operators; what a client of AMQP reads is the gateway's.
    #[derive(Error)]
    pub enum AmqpRefusal as "refusal of AMQP" {
        /// No virtual host has the name.
        #[error("there is no virtual host '{vhost}'")]
        UnknownVhost = 1 {
            /// The name.
            vhost: AmqpText,
        },
        /// No user has the name.
        #[error("there is no user '{user}'")]
        UnknownUser = 2 {
            /// The name.
            user: AmqpText,
        },
        /// No exchange of the virtual host has the name.
        #[error("there is no exchange '{exchange}' in virtual host '{vhost}'")]
        UnknownExchange = 3 {
            /// The virtual host.
            vhost: AmqpText,
            /// The name.
            exchange: AmqpText,
        },
        /// No queue of the virtual host has the name.
        #[error("there is no queue '{queue}' in virtual host '{vhost}'")]
        UnknownQueue = 4 {
            /// The virtual host.
            vhost: AmqpText,
            /// The name.
            queue: AmqpText,
        },
        /// The exchange is one that every virtual host has, or would be named like one.
        #[error(
            "the exchange '{exchange}' can be neither declared nor deleted: names that are empty or \
             begin with 'amq.' are those of exchanges that every virtual host has"
        )]
        ReservedExchange = 5 {
            /// Its name.
            exchange: AmqpText,
        },
        /// The name is empty.
        #[error("a {what} needs a name")]
        NoName = 6 {
            /// Of what.
            what: String,
        },
        /// The exchange has bindings, and was to be deleted only without.
        #[error("exchange '{exchange}' in virtual host '{vhost}' has bindings")]
        ExchangeInUse = 7 {
            /// The virtual host.
            vhost: AmqpText,
            /// The exchange.
            exchange: AmqpText,
        },
        /// There are as many as allowed.
        #[error("{} {kind} are the most there can be; delete some first", kind.most())]
        TooMany = 8 {
            /// Of what.
            kind: AmqpKind,
        },
        /// A field has more bytes than it can have.
        #[error("a {what} has at most {bytes_max} bytes, not {bytes}")]
        TooLong = 9 {
            /// Of what.
            what: String,
            /// What it has.
            bytes: u32,
            /// What it can have.
            bytes_max: u32,
        },
        /// A user is to be made, and its password was not given.
        #[error("there is no user '{user}' yet, and a new one needs a password")]
        NoPassword = 10 {
            /// The user.
            user: AmqpText,
        },
        /// The topic is that of a queue, and is deleted with it; its partitions are one.
        #[error(
            "topic {topic} holds queue '{queue}' of virtual host '{vhost}': it has one partition, and \
             is deleted with the queue"
        )]
        TopicHoldsQueue = 11 {
            /// The topic.
            topic: TopicName,
            /// The virtual host.
            vhost: AmqpText,
            /// The queue.
            queue: AmqpText,
        },
    }
}

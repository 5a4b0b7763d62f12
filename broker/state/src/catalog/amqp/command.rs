//! Commands about the objects of AMQP, as they stand in [`CatalogCommand::Amqp`].
//!
//! [`CatalogCommand::Amqp`]: crate::catalog::CatalogCommand::Amqp

use plimsoll_protocol::api::{QueueSettings, TopicConfig};
use plimsoll_protocol::ids::NodeId;

use super::bindings::Binding;
use super::exchanges::Exchange;
use super::queues::QueueSpec;
use super::text::AmqpText;
use super::users::{PasswordHash, Permissions};
use crate::catalog::ProposedPlacement;
use crate::catalog::variants::wire_variants;

wire_variants! {
    /// A change of the objects of AMQP. What is there already, or is gone already, as it was asked
    /// for is no refusal; the answer says so.
    pub enum AmqpCommand as "command of AMQP" {
        /// Makes a virtual host.
        CreateVhost = 1 {
            /// Its name.
            vhost: AmqpText,
        },
        /// Removes a virtual host with its exchanges, queues, their topics, bindings and permissions.
        DeleteVhost = 2 {
            /// Its name.
            vhost: AmqpText,
        },
        /// Makes a user, or changes one.
        PutUser = 3 {
            /// Its name.
            user: AmqpText,
            /// Its password; left out it stays as it is. A new user needs one.
            password: Option<PasswordHash>,
            /// Its tags; left out they stay as they are.
            tags: Option<Vec<AmqpText>>,
        },
        /// Removes a user and its permissions. What it declared stays.
        DeleteUser = 4 {
            /// Its name.
            user: AmqpText,
        },
        /// Says what a user may do in a virtual host.
        SetPermissions = 5 {
            /// The user.
            user: AmqpText,
            /// The virtual host.
            vhost: AmqpText,
            /// What it may do. That the patterns are patterns was checked by whoever proposes.
            permissions: Permissions,
        },
        /// Shuts a user out of a virtual host.
        ClearPermissions = 6 {
            /// The user.
            user: AmqpText,
            /// The virtual host.
            vhost: AmqpText,
        },
        /// Makes an exchange where there is none of the name. That its type and arguments make sense
        /// was checked by whoever proposes; whether one that is there is equivalent, it checks by the
        /// answer.
        DeclareExchange = 7 {
            /// The virtual host.
            vhost: AmqpText,
            /// Its name.
            name: AmqpText,
            /// What it is to be.
            exchange: Exchange,
        },
        /// Removes an exchange and its bindings.
        DeleteExchange = 8 {
            /// The virtual host.
            vhost: AmqpText,
            /// Its name.
            name: AmqpText,
            /// Only if it is the source of no binding.
            if_unused: bool,
        },
        /// Makes a queue where there is none of the name, and the topic of one partition that holds
        /// it. Arguments and equivalence are checked as those of exchanges.
        DeclareQueue = 9 {
            /// The virtual host.
            vhost: AmqpText,
            /// Its name.
            name: AmqpText,
            /// What it is to be.
            queue: QueueSpec,
            /// Replicas of its topic.
            replicas: u16,
            /// The configuration of its topic.
            config: TopicConfig,
            /// How it behaves.
            settings: QueueSettings,
            /// Where the partition belongs, of [`place_topic`]. May be left out where there is at
            /// most one node.
            ///
            /// [`place_topic`]: crate::catalog::planning::place_topic
            placement: Option<ProposedPlacement>,
        },
        /// Removes a queue, its bindings and its topic.
        DeleteQueue = 10 {
            /// The virtual host.
            vhost: AmqpText,
            /// Its name.
            name: AmqpText,
            /// Which declaration of the name is meant: a queue that was declared since stays.
            declaration: u64,
        },
        /// Binds.
        Bind = 11 {
            /// The virtual host.
            vhost: AmqpText,
            /// The exchange that messages come from.
            source: AmqpText,
            /// What it is to be.
            binding: Binding,
        },
        /// Undoes a binding.
        Unbind = 12 {
            /// The virtual host.
            vhost: AmqpText,
            /// The exchange that messages come from.
            source: AmqpText,
            /// What it is.
            binding: Binding,
        },
        /// Removes the exclusive queues of a connection that has ended.
        ForgetOwner = 13 {
            /// The node it was connected to.
            node: NodeId,
            /// The number that the node gave it.
            connection: u64,
        },
        /// Removes what does not outlive a node that has ended or begins anew: the exclusive queues
        /// of its connections, and the queues that are not durable and were declared there.
        ForgetTransient = 14 {
            /// The node.
            node: NodeId,
            /// All exchanges too that are not durable: no other node was up.
            exchanges: bool,
        },
        /// Makes a stream where there is no queue of the name: as a queue, but its records stay as long as
        /// its topic's configuration says, whoever has read them.
        DeclareStream = 15 {
            /// The virtual host.
            vhost: AmqpText,
            /// Its name.
            name: AmqpText,
            /// What it is to be.
            queue: QueueSpec,
            /// Replicas of its topic.
            replicas: u16,
            /// The configuration of its topic.
            config: TopicConfig,
            /// As of a queue.
            placement: Option<ProposedPlacement>,
        },
    }
}

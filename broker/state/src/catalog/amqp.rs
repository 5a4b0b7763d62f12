//! What the gateway of AMQP 0-9-1 has the catalog remember: virtual hosts with their exchanges, queues
//! and bindings, and users with their permissions.
//!
//! It is plain data. What an exchange type or an argument means, whether a declaration is equivalent
//! to one that is there, how a password is hashed and what a pattern matches is the gateway's: it
//! checks before it proposes, and folds a [`Vhost`] into a topology when [`Vhost::changed`] has grown.
//!
//! ```text
//!  command, reply, refusal   what is asked for, what came of it, why not
//!  vhosts, exchanges, queues, bindings, users   what there is, and what is carried out
//!  limits      how much there may be        encoding   all of it as bytes
//!  text        names and keys
//! ```
//!
//! A virtual host `/` and a user `guest` are there from the beginning, and may be deleted. The
//! exchanges that every virtual host has are not listed; they can be bound, and neither declared nor
//! deleted.
//!
//! Invariants: a queue has one topic of one partition, which no other queue has and which is made and
//! deleted with it; both ends of a binding exist; permissions are for virtual hosts that exist; an
//! exchange that deletes itself has gone with its last binding. Below [`LEVEL_QUEUES`] all is as in the
//! beginning.

use std::collections::BTreeMap;
use std::sync::Arc;

mod bindings;
mod command;
mod encoding;
mod exchanges;
mod limits;
mod queues;
mod refusal;
mod reply;
mod text;
mod users;
mod vhosts;

pub use bindings::{Binding, Destination};
pub use command::AmqpCommand;
pub use exchanges::{Exchange, PREDECLARED_EXCHANGES};
pub use limits::{
    ARGUMENTS_BYTES_MAX, ARGUMENTS_TOTAL_BYTES_MAX, AmqpKind, BINDINGS_MAX, EXCHANGES_MAX,
    PASSWORD_HASH_BYTES_MAX, PATTERN_BYTES_MAX, PERMISSIONS_MAX, QUEUES_MAX, TAGS_MAX, USERS_MAX,
    VHOSTS_MAX,
};
pub use queues::{Queue, QueueSpec};
pub use refusal::AmqpRefusal;
pub use reply::AmqpReply;
pub use text::{AmqpText, AmqpTextTooLong, TEXT_BYTES_MAX};
pub use users::{PasswordHash, Permissions, User};
pub use vhosts::Vhost;

pub(super) use queues::NewQueue;
pub(super) use reply::AmqpAnswer;

use super::refusal::CatalogRefusal;
use super::{Catalog, CatalogReply};

/// The level of the cluster from which on commands about the objects of AMQP are carried out, and its
/// snapshots hold them. See [`super::planning::raise_level`].
pub const LEVEL_QUEUES: u16 = 2;

/// The virtual host that is there from the beginning.
const FIRST_VHOST: &str = "/";
/// The user that is there from the beginning.
const FIRST_USER: &str = "guest";

/// The objects of AMQP. Cloning is cheap; a clone does not change any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AmqpObjects {
    vhosts: Arc<BTreeMap<AmqpText, Arc<Vhost>>>,
    users: Arc<BTreeMap<AmqpText, Arc<User>>>,
    epoch: u64,
    access_epoch: u64,
    next_declaration: u64,
}

impl Default for AmqpObjects {
    fn default() -> Self {
        let vhost = AmqpText::known(FIRST_VHOST);
        let user = User::guest(vhost.clone());
        Self {
            vhosts: Arc::new([(vhost, Arc::default())].into()),
            users: Arc::new([(AmqpText::known(FIRST_USER), Arc::new(user))].into()),
            epoch: 0,
            access_epoch: 0,
            next_declaration: 1,
        }
    }
}

impl AmqpObjects {
    /// The virtual host of this name.
    #[must_use]
    pub fn vhost(&self, name: &str) -> Option<&Arc<Vhost>> {
        self.vhosts.get(name)
    }

    /// All virtual hosts, by name.
    pub fn vhosts(&self) -> impl Iterator<Item = (&AmqpText, &Arc<Vhost>)> {
        self.vhosts.iter()
    }

    /// The user of this name.
    #[must_use]
    pub fn user(&self, name: &str) -> Option<&Arc<User>> {
        self.users.get(name)
    }

    /// All users, by name.
    pub fn users(&self) -> impl Iterator<Item = (&AmqpText, &Arc<User>)> {
        self.users.iter()
    }

    /// Grows with each change of anything here.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// [`AmqpObjects::epoch`] after the last change of a user or a permission: whoever remembers what
    /// a user may do asks anew when it has grown.
    #[must_use]
    pub fn access_epoch(&self) -> u64 {
        self.access_epoch
    }
}

impl Catalog {
    /// The objects of AMQP.
    #[must_use]
    pub fn amqp(&self) -> &AmqpObjects {
        &self.amqp
    }

    pub(super) fn apply_amqp(
        &mut self,
        command: AmqpCommand,
        now: i64,
    ) -> Result<CatalogReply, CatalogRefusal> {
        self.check_level(LEVEL_QUEUES)?;
        let amqp = &mut self.amqp;
        let done = match command {
            AmqpCommand::CreateVhost { vhost } => amqp.create_vhost(vhost, now),
            AmqpCommand::DeleteVhost { vhost } => self.delete_vhost(&vhost),
            AmqpCommand::PutUser { user, password, tags } => amqp.put_user(user, password, tags),
            AmqpCommand::DeleteUser { user } => amqp.delete_user(&user),
            AmqpCommand::SetPermissions { user, vhost, permissions } => {
                amqp.set_permissions(&user, vhost, permissions)
            }
            AmqpCommand::ClearPermissions { user, vhost } => amqp.clear_permissions(&user, &vhost),
            AmqpCommand::DeclareExchange { vhost, name, exchange } => {
                amqp.declare_exchange(&vhost, name, exchange)
            }
            AmqpCommand::DeleteExchange { vhost, name, if_unused } => {
                amqp.delete_exchange(&vhost, &name, if_unused)
            }
            AmqpCommand::DeclareQueue {
                vhost,
                name,
                queue,
                replicas,
                config,
                settings,
                placement,
            } => {
                let settings = Some(settings);
                let new = NewQueue { vhost, name, queue, replicas, config, settings, placement };
                return self.declare_queue(new, now).map(CatalogReply::Amqp);
            }
            AmqpCommand::DeclareStream { vhost, name, queue, replicas, config, placement } => {
                let settings = None;
                let new = NewQueue { vhost, name, queue, replicas, config, settings, placement };
                return self.declare_queue(new, now).map(CatalogReply::Amqp);
            }
            AmqpCommand::DeleteQueue { vhost, name, declaration } => {
                self.delete_queue(&vhost, &name, declaration)
            }
            AmqpCommand::Bind { vhost, source, binding } => amqp.bind(&vhost, source, binding),
            AmqpCommand::Unbind { vhost, source, binding } => {
                amqp.unbind(&vhost, &source, &binding)
            }
            AmqpCommand::ForgetOwner { node, connection } => {
                Ok(self.forget_owner(node, connection))
            }
            AmqpCommand::ForgetTransient { node, exchanges } => {
                Ok(self.forget_transient(node, exchanges))
            }
        };
        match done {
            Ok(reply) => Ok(CatalogReply::Amqp(reply)),
            Err(refusal) => Err(refusal.into()),
        }
    }
}

#[cfg(test)]
mod queue_tests;
#[cfg(test)]
mod tests;

//! Users, and what they may do in which virtual host.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::AmqpObjects;
use super::limits::{
    AmqpKind, PASSWORD_HASH_BYTES_MAX, PATTERN_BYTES_MAX, check_bytes, check_count, check_name,
};
use super::refusal::AmqpRefusal;
use super::reply::AmqpReply;
use super::text::AmqpText;
use crate::catalog::variants::wire_fields;

/// What a password is checked against. Hashing and checking is done by whoever proposes and asks.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash {
    /// The name of the algorithm.
    pub algorithm: AmqpText,
    /// What it makes of the password, salt and parameters included: at most
    /// [`PASSWORD_HASH_BYTES_MAX`](super::PASSWORD_HASH_BYTES_MAX) bytes.
    pub hash: Bytes,
}

impl PasswordHash {
    /// Name of the algorithm whose password is the text `guest`, and which has no hash.
    pub const GUEST: &str = "guest";

    /// That of the user `guest` as long as nobody gave it another.
    #[must_use]
    pub fn of_guest() -> Self {
        Self { algorithm: AmqpText::known(Self::GUEST), hash: Bytes::new() }
    }
}

/// The hash is a secret, and never printed.
impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PasswordHash").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

wire_fields!(PasswordHash { algorithm: AmqpText, hash: Bytes });

/// What a user may do in a virtual host: patterns for names of exchanges and queues, each of at most
/// [`PATTERN_BYTES_MAX`](super::PATTERN_BYTES_MAX) bytes.
///
/// Source: RabbitMQ, "Access Control", which says what operation needs which permission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permissions {
    /// What it may declare and delete.
    pub configure: String,
    /// What it may publish to.
    pub write: String,
    /// What it may consume from.
    pub read: String,
}

wire_fields!(Permissions { configure: String, write: String, read: String });

impl Permissions {
    /// Everything.
    #[must_use]
    pub fn all() -> Self {
        let every = || ".*".to_owned();
        Self { configure: every(), write: every(), read: every() }
    }

    fn check(&self) -> Result<(), AmqpRefusal> {
        [&self.configure, &self.write, &self.read].into_iter().try_for_each(|pattern| {
            check_bytes("pattern of a permission", pattern.len(), PATTERN_BYTES_MAX)
        })
    }
}

/// A user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// What its password is checked against.
    pub password: PasswordHash,
    /// What it is: `administrator`, `management` and so on. At most
    /// [`TAGS_MAX`](super::TAGS_MAX).
    pub tags: Vec<AmqpText>,
    /// What it may do, by virtual host; it may not enter others.
    pub permissions: BTreeMap<AmqpText, Permissions>,
}

impl User {
    /// The user that is there from the beginning.
    pub(super) fn guest(vhost: AmqpText) -> Self {
        Self {
            password: PasswordHash::of_guest(),
            tags: vec![AmqpText::known("administrator")],
            permissions: [(vhost, Permissions::all())].into(),
        }
    }

    pub(super) fn check(&self) -> Result<(), AmqpRefusal> {
        check_bytes("hash of a password", self.password.hash.len(), PASSWORD_HASH_BYTES_MAX)?;
        check_count(AmqpKind::Tags, self.tags.len())?;
        self.permissions.values().try_for_each(Permissions::check)
    }
}

impl AmqpObjects {
    pub(super) fn put_user(
        &mut self,
        name: AmqpText,
        password: Option<PasswordHash>,
        tags: Option<Vec<AmqpText>>,
    ) -> Result<AmqpReply, AmqpRefusal> {
        check_name("user", &name)?;
        let existing = self.users.get(&name);
        let user = match (existing, password) {
            (None, None) => return Err(AmqpRefusal::NoPassword { user: name }),
            (None, Some(password)) => {
                self.check_room(AmqpKind::Users)?;
                User { password, tags: tags.unwrap_or_default(), permissions: BTreeMap::new() }
            }
            (Some(user), password) => User {
                password: password.unwrap_or_else(|| user.password.clone()),
                tags: tags.unwrap_or_else(|| user.tags.clone()),
                permissions: user.permissions.clone(),
            },
        };
        user.check()?;
        let changed = existing.is_none_or(|existing| **existing != user);
        if changed {
            Arc::make_mut(&mut self.users).insert(name, Arc::new(user));
            self.access_changed();
        }
        Ok(AmqpReply::Done { changed })
    }

    pub(super) fn delete_user(&mut self, name: &AmqpText) -> Result<AmqpReply, AmqpRefusal> {
        self.known_user(name)?;
        Arc::make_mut(&mut self.users).remove(name);
        self.access_changed();
        Ok(AmqpReply::Done { changed: true })
    }

    pub(super) fn set_permissions(
        &mut self,
        user: &AmqpText,
        vhost: AmqpText,
        permissions: Permissions,
    ) -> Result<AmqpReply, AmqpRefusal> {
        let existing = self.known_user(user)?.permissions.get(&vhost);
        self.known_vhost(&vhost)?;
        permissions.check()?;
        if existing.is_none() {
            self.check_room(AmqpKind::Permissions)?;
        }
        let changed = existing != Some(&permissions);
        if changed {
            self.change_permissions(user, |all| all.insert(vhost, permissions));
        }
        Ok(AmqpReply::Done { changed })
    }

    pub(super) fn clear_permissions(
        &mut self,
        user: &AmqpText,
        vhost: &AmqpText,
    ) -> Result<AmqpReply, AmqpRefusal> {
        let changed = self.known_user(user)?.permissions.contains_key(vhost);
        self.known_vhost(vhost)?;
        if changed {
            self.change_permissions(user, |all| all.remove(vhost));
        }
        Ok(AmqpReply::Done { changed })
    }

    /// The virtual host is gone, and what anybody may do there.
    pub(super) fn clear_vhost(&mut self, vhost: &AmqpText) {
        let allowed = self.users.iter().filter(|(_, user)| user.permissions.contains_key(vhost));
        let allowed: Vec<_> = allowed.map(|(name, _)| name.clone()).collect();
        for user in allowed {
            self.change_permissions(&user, |all| all.remove(vhost));
        }
    }

    fn change_permissions(
        &mut self,
        user: &AmqpText,
        change: impl FnOnce(&mut BTreeMap<AmqpText, Permissions>) -> Option<Permissions>,
    ) {
        let user = Arc::make_mut(&mut self.users).get_mut(user).expect("the user was just seen");
        change(&mut Arc::make_mut(user).permissions);
        self.access_changed();
    }

    fn access_changed(&mut self) {
        self.epoch += 1;
        self.access_epoch = self.epoch;
    }

    fn known_user(&self, name: &AmqpText) -> Result<&Arc<User>, AmqpRefusal> {
        self.users.get(name).ok_or_else(|| AmqpRefusal::UnknownUser { user: name.clone() })
    }
}

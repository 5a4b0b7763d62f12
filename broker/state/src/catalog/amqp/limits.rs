//! How much of everything there may be. Part of the fold: every replica refuses at the same number.

use std::fmt;

use bytes::Bytes;

use super::AmqpObjects;
use super::refusal::AmqpRefusal;
use super::text::AmqpText;
use crate::catalog::variants::wire_variants;

/// Most virtual hosts.
pub const VHOSTS_MAX: usize = 1_000;
/// Most users.
pub const USERS_MAX: usize = 10_000;
/// Most permissions: pairs of a user and a virtual host.
pub const PERMISSIONS_MAX: usize = 20_000;
/// Most exchanges of all virtual hosts, those not counted that each has from the beginning.
pub const EXCHANGES_MAX: usize = 50_000;
/// Most queues of all virtual hosts.
pub const QUEUES_MAX: usize = 50_000;
/// Most bindings of all virtual hosts.
pub const BINDINGS_MAX: usize = 500_000;
/// Most bytes of the arguments of one exchange, queue or binding.
pub const ARGUMENTS_BYTES_MAX: usize = 4 << 10;
/// Most bytes of all arguments together: they are in every copy and snapshot of the catalog.
pub const ARGUMENTS_TOTAL_BYTES_MAX: usize = 64 << 20;
/// Most bytes of one pattern of a permission.
pub const PATTERN_BYTES_MAX: usize = 512;
/// Most bytes of the hash of a password, its salt included.
pub const PASSWORD_HASH_BYTES_MAX: usize = 512;
/// Most tags of a user.
pub const TAGS_MAX: usize = 16;

wire_variants! {
    /// What is counted and bounded.
    #[derive(Copy)]
    pub enum AmqpKind as "kind of object" {
        /// Virtual hosts: [`VHOSTS_MAX`].
        Vhosts = 1,
        /// Users: [`USERS_MAX`].
        Users = 2,
        /// Permissions: [`PERMISSIONS_MAX`].
        Permissions = 3,
        /// Exchanges: [`EXCHANGES_MAX`].
        Exchanges = 4,
        /// Queues: [`QUEUES_MAX`].
        Queues = 5,
        /// Bindings: [`BINDINGS_MAX`].
        Bindings = 6,
        /// Bytes of all arguments: [`ARGUMENTS_TOTAL_BYTES_MAX`].
        ArgumentBytes = 7,
        /// Tags of one user: [`TAGS_MAX`].
        Tags = 8,
    }
}

impl AmqpKind {
    /// How many there may be.
    #[must_use]
    pub fn most(self) -> usize {
        match self {
            Self::Vhosts => VHOSTS_MAX,
            Self::Users => USERS_MAX,
            Self::Permissions => PERMISSIONS_MAX,
            Self::Exchanges => EXCHANGES_MAX,
            Self::Queues => QUEUES_MAX,
            Self::Bindings => BINDINGS_MAX,
            Self::ArgumentBytes => ARGUMENTS_TOTAL_BYTES_MAX,
            Self::Tags => TAGS_MAX,
        }
    }
}

impl fmt::Display for AmqpKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Vhosts => "virtual hosts",
            Self::Users => "users",
            Self::Permissions => "permissions",
            Self::Exchanges => "exchanges",
            Self::Queues => "queues",
            Self::Bindings => "bindings",
            Self::ArgumentBytes => "bytes of arguments",
            Self::Tags => "tags of one user",
        })
    }
}

impl AmqpObjects {
    /// How many there are; tags are counted where they are given.
    pub(super) fn count(&self, kind: AmqpKind) -> usize {
        let vhosts = self.vhosts.values();
        match kind {
            AmqpKind::Vhosts => self.vhosts.len(),
            AmqpKind::Users => self.users.len(),
            AmqpKind::Permissions => self.users.values().map(|user| user.permissions.len()).sum(),
            AmqpKind::Exchanges => vhosts.map(|vhost| vhost.exchanges.len()).sum(),
            AmqpKind::Queues => vhosts.map(|vhost| vhost.queues.len()).sum(),
            AmqpKind::Bindings => vhosts.map(|vhost| vhost.bindings.len()).sum(),
            AmqpKind::ArgumentBytes => vhosts.map(|vhost| vhost.argument_bytes).sum(),
            AmqpKind::Tags => 0,
        }
    }

    /// Whether one more fits.
    pub(super) fn check_room(&self, kind: AmqpKind) -> Result<(), AmqpRefusal> {
        check_count(kind, self.count(kind) + 1)
    }

    /// Whether these arguments of a new object fit.
    pub(super) fn check_arguments(&self, arguments: &Bytes) -> Result<(), AmqpRefusal> {
        check_bytes("table of arguments", arguments.len(), ARGUMENTS_BYTES_MAX)?;
        let kind = AmqpKind::ArgumentBytes;
        check_count(kind, self.count(kind) + arguments.len())
    }
}

pub(super) fn check_count(kind: AmqpKind, count: usize) -> Result<(), AmqpRefusal> {
    if count <= kind.most() { Ok(()) } else { Err(AmqpRefusal::TooMany { kind }) }
}

pub(super) fn check_bytes(what: &str, bytes: usize, bytes_max: usize) -> Result<(), AmqpRefusal> {
    if bytes <= bytes_max {
        return Ok(());
    }
    let number = |count| u32::try_from(count).unwrap_or(u32::MAX);
    let (bytes, bytes_max) = (number(bytes), number(bytes_max));
    Err(AmqpRefusal::TooLong { what: what.to_owned(), bytes, bytes_max })
}

pub(super) fn check_name(what: &str, name: &AmqpText) -> Result<(), AmqpRefusal> {
    if name.is_empty() { Err(AmqpRefusal::NoName { what: what.to_owned() }) } else { Ok(()) }
}

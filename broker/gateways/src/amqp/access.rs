//! Changes of AMQP's objects that no client of AMQP asks for: virtual hosts, users and permissions by administrators
//! through the native protocol, and the end of queues that nobody uses.

use std::hash::{BuildHasher as _, RandomState};

use bytes::Bytes;
use plimsoll_amqp_gateway::passwords::PasswordHash;
use plimsoll_protocol::error::ErrorResponse;
use plimsoll_state::catalog::amqp::{self as stored, AmqpCommand, AmqpReply};
use plimsoll_state::catalog::{CatalogCommand, CatalogReply};

use super::hosts::text;
use crate::broker::Broker;
use crate::refusals;

/// The name of the only hash that is made, as RabbitMQ's definitions have it.
const ALGORITHM: &str = "rabbit_password_hashing_sha256";

/// What is kept of a password: salted anew each time, so that equal passwords do not look equal.
pub(crate) fn hashed(password: &str) -> stored::PasswordHash {
    // A salt must differ from others, and need not be hard to guess.
    let salt = RandomState::new().hash_one(0_u8).to_le_bytes();
    let salt = *salt.first_chunk().expect("8 bytes begin with 4");
    let hash = PasswordHash::of(password.as_bytes(), salt);
    stored::PasswordHash {
        algorithm: text(ALGORITHM),
        hash: Bytes::copy_from_slice(hash.as_bytes()),
    }
}

impl Broker {
    /// Carries out a command about AMQP's objects that is answered by what it changed or removed; whether that was
    /// anything. In force for this node's connections when this returns.
    ///
    /// Precondition: it declares nothing.
    ///
    /// # Errors
    /// Where it was refused, or its outcome is unknown.
    pub(crate) async fn change_amqp(&self, command: AmqpCommand) -> Result<bool, ErrorResponse> {
        self.raise_level().await?;
        let reply = self.command(CatalogCommand::Amqp { command }).await?;
        self.letters().hosts().refresh(&self.catalog());
        match reply {
            CatalogReply::Amqp(AmqpReply::Done { changed }) => Ok(changed),
            CatalogReply::Amqp(AmqpReply::Removed { groups }) => {
                // What fails is told where it fails, and removed at the next start.
                let _ = self.remove_groups(groups.iter().copied()).await;
                Ok(true)
            }
            _ => Err(refusals::bug("the catalog answered a change of objects of AMQP")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn password_is_kept_as_a_hash_with_a_salt_of_its_own() {
        let (one, other) = (hashed("s3cret"), hashed("s3cret"));
        assert_ne!(one.hash, other.hash);
        for kept in [one, other] {
            assert!(!kept.hash.windows(6).any(|part| part == b"s3cret"));
            let read = PasswordHash::try_from(&kept.hash[..]).expect("it is one");
            assert!(read.verify(b"s3cret") && !read.verify(b"S3cret"));
        }
    }
}

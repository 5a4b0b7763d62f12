//! Hashes of passwords in RabbitMQ's format, so that its users can be taken over: 4 bytes of salt, then
//! SHA-256 of salt and password.
//!
//! Invariant: comparing takes the same time whatever differs. Source: RabbitMQ, "Credentials and
//! Passwords", computing password hash.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{Context, SHA256};
use thiserror::Error;

const SALT_BYTES: usize = 4;
const HASH_BYTES: usize = 32;
const ALL_BYTES: usize = SALT_BYTES + HASH_BYTES;

/// A salted hash.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PasswordHash([u8; ALL_BYTES]);

/// A text or bytes are no such hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a password hash is 36 bytes: 4 of salt and 32 of SHA-256; as a text, their base64")]
pub struct NoPasswordHash;

impl PasswordHash {
    /// The hash of a password with a salt, which is random.
    #[must_use]
    pub fn of(password: &[u8], salt: [u8; SALT_BYTES]) -> Self {
        let mut context = Context::new(&SHA256);
        context.update(&salt);
        context.update(password);
        let mut all = [0; ALL_BYTES];
        let (head, tail) = all.split_at_mut(SALT_BYTES);
        head.copy_from_slice(&salt);
        tail.copy_from_slice(context.finish().as_ref());
        Self(all)
    }

    /// Salt and hash.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; ALL_BYTES] {
        &self.0
    }

    /// Reads the base64 that RabbitMQ's definitions have as `password_hash`.
    ///
    /// # Errors
    /// [`NoPasswordHash`].
    pub fn from_base64(text: &str) -> Result<Self, NoPasswordHash> {
        let bytes = STANDARD.decode(text).map_err(|_| NoPasswordHash)?;
        Self::try_from(&bytes[..])
    }

    /// The base64 of it.
    #[must_use]
    pub fn to_base64(&self) -> String {
        STANDARD.encode(self.0)
    }

    /// Whether this is the password.
    #[must_use]
    pub fn verify(&self, password: &[u8]) -> bool {
        let mut salt = [0; SALT_BYTES];
        salt.copy_from_slice(&self.0[..SALT_BYTES]);
        let other = Self::of(password, salt);
        let differing = self.0.iter().zip(other.0).fold(0, |all, (one, other)| all | (one ^ other));
        std::hint::black_box(differing) == 0
    }
}

impl TryFrom<&[u8]> for PasswordHash {
    type Error = NoPasswordHash;

    fn try_from(bytes: &[u8]) -> Result<Self, NoPasswordHash> {
        bytes.try_into().map(Self).map_err(|_| NoPasswordHash)
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RabbitMQ's documentation: `test12` with the salt 908DC60A.
    #[test]
    fn hash_of_the_documentation_is_read_and_verified() {
        let text = "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR";
        let hash = PasswordHash::from_base64(text).unwrap();
        assert_eq!(hash, PasswordHash::of(b"test12", [0x90, 0x8d, 0xc6, 0x0a]));
        assert_eq!(hash.to_base64(), text);
        assert!(hash.verify(b"test12"));
        assert!(!hash.verify(b"test13") && !hash.verify(b""));
        for wrong in ["", "kI3GCqW5", "not base64!"] {
            assert_eq!(PasswordHash::from_base64(wrong), Err(NoPasswordHash));
        }
    }

    #[test]
    fn hash_is_not_shown() {
        assert_eq!(format!("{:?}", PasswordHash::of(b"x", [0; 4])), "PasswordHash(..)");
    }
}

//! What allows a node to join: whom it may trust, and a secret of the cluster.

use std::fmt;
use std::str::FromStr;

use plimsoll_transport::Fingerprint;
use thiserror::Error;

/// The version of the notation.
const PREFIX: &str = "PLM1";
/// Bytes of the secret.
const SECRET_BYTES: usize = 32;

/// A join token, written `PLM1-<fingerprint of the authority>-<secret>`, both in hexadecimal digits.
/// Whoever has it can become a member, and a member can read everything.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// The cluster's authority: the one who joins trusts nobody else.
    pub authority: Fingerprint,
    /// The secret of the cluster.
    pub secret: [u8; SECRET_BYTES],
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}-")?;
        self.authority.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("-")?;
        self.secret.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken").field("authority", &self.authority).finish_non_exhaustive()
    }
}

/// A text that is no join token. It does not repeat the text, which may be half a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "not a join token: expected {PREFIX}-, 64 hexadecimal digits, -, and 64 more; \
     `plimsoll cluster token` on a member's machine prints it"
)]
pub struct InvalidJoinToken;

impl FromStr for JoinToken {
    type Err = InvalidJoinToken;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.trim().splitn(3, '-');
        let (Some(PREFIX), Some(authority), Some(secret)) =
            (parts.next(), parts.next(), parts.next())
        else {
            return Err(InvalidJoinToken);
        };
        Ok(Self { authority: Fingerprint(digits(authority)?), secret: digits(secret)? })
    }
}

/// Exactly 64 hexadecimal digits.
fn digits(text: &str) -> Result<[u8; 32], InvalidJoinToken> {
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(InvalidJoinToken);
    }
    // Not by the fingerprint's own notation, which allows more.
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let pair = std::str::from_utf8(pair).map_err(|_| InvalidJoinToken)?;
        *byte = u8::from_str_radix(pair, 16).map_err(|_| InvalidJoinToken)?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_as_it_was_written_and_hides_its_secret() {
        let token = JoinToken { authority: Fingerprint([0xa1; 32]), secret: [0x5c; 32] };
        let text = token.to_string();
        assert_eq!(text.parse(), Ok(token.clone()));
        assert_eq!(format!(" {text}\n").parse(), Ok(token.clone()));
        assert!(!format!("{token:?}").contains("5c5c"));
    }

    #[test]
    fn anything_else_is_refused() {
        let good = JoinToken { authority: Fingerprint([1; 32]), secret: [2; 32] }.to_string();
        for bad in ["", "PLM1", "PLM1--", &good[..good.len() - 1], &good[1..], &format!("{good}0")]
        {
            assert_eq!(bad.parse::<JoinToken>(), Err(InvalidJoinToken), "{bad}");
        }
        assert!(good.replace("PLM1", "PLM2").parse::<JoinToken>().is_err());
        assert!(good.replace("01", "+1").parse::<JoinToken>().is_err());
    }
}

//! Reading encoded state: bounded by the bytes at hand, every failure a typed error.

use bytes::Bytes;
use thiserror::Error;

/// Why bytes are not the state that they should be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DecodeStateError {
    /// The bytes end before the state does.
    #[error("the encoded state ends {missing} bytes too early")]
    Truncated {
        /// Bytes that are missing for the next field, at least.
        missing: usize,
    },
    /// Bytes follow the end of the state.
    #[error("{extra} bytes follow the end of the encoded state")]
    TrailingBytes {
        /// How many.
        extra: usize,
    },
    /// A version that this build does not know.
    #[error(
        "the state has format version {version}; this build reads up to {known}: use a newer build"
    )]
    UnknownVersion {
        /// The version found.
        version: u8,
        /// The newest one known.
        known: u8,
    },
    /// A list claims more items than the bytes at hand can hold.
    #[error("a list of {what} claims {count} items, which do not fit into the bytes at hand")]
    CountTooLarge {
        /// What is listed.
        what: &'static str,
        /// The claim.
        count: u32,
    },
    /// A field has a value that no encoder writes.
    #[error("the encoded state breaks a rule: {what}")]
    Invalid {
        /// The rule.
        what: &'static str,
    },
}

/// A cursor over encoded state.
#[derive(Debug)]
pub(crate) struct StateReader<'a> {
    rest: &'a [u8],
}

impl<'a> StateReader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], DecodeStateError> {
        let Some((head, rest)) = self.rest.split_first_chunk::<N>() else {
            return Err(DecodeStateError::Truncated { missing: N - self.rest.len() });
        };
        self.rest = rest;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DecodeStateError> {
        self.take::<1>().map(|b| b[0])
    }

    pub(crate) fn u16(&mut self) -> Result<u16, DecodeStateError> {
        self.take().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeStateError> {
        self.take().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, DecodeStateError> {
        self.take().map(u64::from_le_bytes)
    }

    /// A flag: 0 or 1, nothing else.
    pub(crate) fn flag(&mut self) -> Result<bool, DecodeStateError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeStateError::Invalid { what: "a flag is 0 or 1" }),
        }
    }

    /// Length of a list whose items take at least `item_bytes_min` bytes each.
    pub(crate) fn count(
        &mut self,
        what: &'static str,
        item_bytes_min: usize,
    ) -> Result<usize, DecodeStateError> {
        let count = self.u32()?;
        let fits =
            (count as usize).checked_mul(item_bytes_min).is_some_and(|n| n <= self.rest.len());
        if fits { Ok(count as usize) } else { Err(DecodeStateError::CountTooLarge { what, count }) }
    }

    /// Bytes behind a u32 length.
    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], DecodeStateError> {
        let length = self.u32()? as usize;
        let Some((head, rest)) = self.rest.split_at_checked(length) else {
            return Err(DecodeStateError::Truncated { missing: length - self.rest.len() });
        };
        self.rest = rest;
        Ok(head)
    }

    /// As [`StateReader::bytes`], owned.
    pub(crate) fn owned_bytes(&mut self) -> Result<Bytes, DecodeStateError> {
        self.bytes().map(Bytes::copy_from_slice)
    }

    /// All that is left.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(crate) fn finish(self) -> Result<(), DecodeStateError> {
        match self.rest.len() {
            0 => Ok(()),
            extra => Err(DecodeStateError::TrailingBytes { extra }),
        }
    }
}

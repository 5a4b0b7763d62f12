//! The body of a membership entry.
//!
//! ```text
//! version u8 = 1
//! configs u32, each: voters u32, each: node id u64      (two configs while voters change)
//! nodes   u32, each: node id u64 | address_bytes u16 | address utf-8
//!                    | has_rack u8 | [rack_bytes u16 | rack utf-8]
//! ```
//! All numbers little-endian; node ids in rising order.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{BufMut, Bytes, BytesMut};
use thiserror::Error;

use crate::types::{Member, Membership};

const VERSION: u8 = 1;

/// Why bytes are not a membership.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum MembershipError {
    /// The bytes end early, or more follow, or a text is not UTF-8, or a count cannot be true.
    #[error("the membership entry is damaged")]
    Malformed,
    /// Written by a newer build.
    #[error("the membership entry has version {version}; this build reads version {VERSION}")]
    UnknownVersion {
        /// The version found.
        version: u8,
    },
    /// A voter is not among the nodes.
    #[error("the membership entry names a voter that is not among its nodes")]
    UnknownVoter,
}

/// The membership that a group is born with: these voters and nobody else. It names no addresses, so
/// every first replica writes the same bytes.
pub(crate) fn of_birth(voters: impl IntoIterator<Item = u64>) -> Membership {
    let nodes: BTreeMap<_, _> = voters.into_iter().map(|id| (id, Member::default())).collect();
    Membership::from(nodes)
}

/// The body of the entry that puts `membership` into force.
pub(crate) fn encode(membership: &Membership) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(VERSION);
    let configs = membership.get_joint_config();
    put_count(&mut out, configs.len());
    for config in configs {
        put_count(&mut out, config.len());
        for node in config {
            out.put_u64_le(*node);
        }
    }
    put_count(&mut out, membership.nodes().count());
    for (id, member) in membership.nodes() {
        out.put_u64_le(*id);
        put_text(&mut out, &member.address);
        match &member.rack {
            None => out.put_u8(0),
            Some(rack) => {
                out.put_u8(1);
                put_text(&mut out, rack);
            }
        }
    }
    out.freeze()
}

fn put_count(out: &mut BytesMut, count: usize) {
    out.put_u32_le(u32::try_from(count).expect("a group has few members"));
}

fn put_text(out: &mut BytesMut, text: &str) {
    out.put_u16_le(u16::try_from(text.len()).expect("addresses and racks are checked to be short"));
    out.put_slice(text.as_bytes());
}

/// Reads what [`encode`] wrote.
pub(crate) fn decode(bytes: &[u8]) -> Result<Membership, MembershipError> {
    let mut reader = Reader { rest: bytes };
    match reader.u8()? {
        VERSION => {}
        version => return Err(MembershipError::UnknownVersion { version }),
    }
    let mut configs = Vec::new();
    for _ in 0..reader.count(4)? {
        let mut voters = BTreeSet::new();
        for _ in 0..reader.count(8)? {
            voters.insert(reader.u64()?);
        }
        configs.push(voters);
    }
    let mut nodes = BTreeMap::new();
    for _ in 0..reader.count(8 + 2 + 1)? {
        let id = reader.u64()?;
        let address = reader.text()?;
        let rack = match reader.u8()? {
            0 => None,
            1 => Some(reader.text()?),
            _ => return Err(MembershipError::Malformed),
        };
        nodes.insert(id, Member { address, rack });
    }
    if !reader.rest.is_empty() {
        return Err(MembershipError::Malformed);
    }
    Membership::new(configs, nodes).map_err(|_| MembershipError::UnknownVoter)
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], MembershipError> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(MembershipError::Malformed)?;
        self.rest = rest;
        Ok(*head)
    }

    fn u8(&mut self) -> Result<u8, MembershipError> {
        self.take::<1>().map(|b| b[0])
    }

    fn u64(&mut self) -> Result<u64, MembershipError> {
        self.take().map(u64::from_le_bytes)
    }

    fn count(&mut self, item_bytes_min: usize) -> Result<usize, MembershipError> {
        let count = self.take().map(u32::from_le_bytes)? as usize;
        let fits = count.checked_mul(item_bytes_min).is_some_and(|n| n <= self.rest.len());
        if fits { Ok(count) } else { Err(MembershipError::Malformed) }
    }

    fn text(&mut self) -> Result<String, MembershipError> {
        let length = usize::from(self.take().map(u16::from_le_bytes)?);
        let (head, rest) = self.rest.split_at_checked(length).ok_or(MembershipError::Malformed)?;
        self.rest = rest;
        String::from_utf8(head.to_vec()).map_err(|_| MembershipError::Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Membership {
        let nodes = BTreeMap::from([
            (1, Member { address: "a:7421".into(), rack: Some("r1".into()) }),
            (2, Member { address: String::new(), rack: None }),
            (9, Member { address: "c:1".into(), rack: None }),
        ]);
        Membership::new(vec![BTreeSet::from([1]), BTreeSet::from([1, 2])], nodes).unwrap()
    }

    #[test]
    fn membership_is_read_back_as_it_was_written() {
        for membership in [Membership::default(), example()] {
            assert_eq!(decode(&encode(&membership)).unwrap(), membership);
        }
    }

    #[test]
    fn no_truncation_or_changed_byte_makes_it_panic() {
        let bytes = encode(&example());
        for end in 0..bytes.len() {
            assert!(decode(&bytes[..end]).is_err(), "cut at {end}");
        }
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut changed = bytes.to_vec();
                changed[at] ^= 1 << bit;
                let _ = decode(&changed);
            }
        }
    }
}

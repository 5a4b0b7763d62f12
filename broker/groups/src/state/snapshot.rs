//! The state as bytes: also the compacted form of the partition's log.
//!
//! ```text
//!  byte 0   version, 1
//!  then     the last epoch u64 | groups u32, of each:
//!             name | generation u64 | quiet since i64
//!             members u32, by id, of each: id u128 | joined u64 | epoch u64 | predecessor? u128
//!                                          spec | owned u32, of each: topic u64 | partition u32 | since u64
//!             offsets u32, by partition, of each: topic u64 | partition u32 | offset u64 | at i64 | text?
//! ```

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use plimsoll_protocol::ids::Offset;
use plimsoll_protocol::wire::{Decode, Encode, Reader};

use super::{Committed, GroupState, Groups, Member};
use crate::codec::{DecodeGroupsError, count, invalid, version};
use crate::command::{decode_metadata, decode_name, decode_spec, encode_spec, put_metadata};
use crate::ids::{Epoch, MemberId, TopicPartition};
use crate::time::UnixMs;

const VERSION: u8 = 1;

impl Groups {
    /// The groups as bytes: the same groups give the same bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(VERSION);
        self.epoch.encode(&mut out);
        (self.by_name.len() as u32).encode(&mut out);
        for (name, group) in &self.by_name {
            name.as_str().encode(&mut out);
            group.encode_to(&mut out);
        }
        out.freeze()
    }

    /// Reads what [`Groups::encode`] wrote.
    ///
    /// # Errors
    /// When the bytes are not encoded groups of a version that this build knows.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeGroupsError> {
        let mut reader = Reader::new(bytes);
        version(&mut reader, "state", VERSION)?;
        let epoch = Epoch::decode(&mut reader)?;
        if epoch.0 > u64::MAX / 2 {
            return invalid("epochs are counted from 1, one per change");
        }
        let mut by_name = BTreeMap::new();
        for _ in 0..count(&mut reader, 27)? {
            let name = decode_name(&mut reader)?;
            if by_name.last_key_value().is_some_and(|(last, _)| *last >= name) {
                return invalid("groups rise by name");
            }
            let group = GroupState::decode_from(&mut reader)?;
            if group.generation > epoch || group.is_gone() {
                return invalid("a group has something, and no epoch that was not given away");
            }
            by_name.insert(name, group);
        }
        match reader.remaining() {
            0 => Ok(Self { epoch, by_name }),
            extra => Err(DecodeGroupsError::TrailingBytes { extra }),
        }
    }
}

impl GroupState {
    fn encode_to(&self, out: &mut BytesMut) {
        self.generation.encode(out);
        self.quiet_since.0.encode(out);
        (self.members.len() as u32).encode(out);
        for (id, member) in &self.members {
            id.encode(out);
            member.joined.encode(out);
            member.epoch.encode(out);
            member.predecessor.encode(out);
            encode_spec(&member.spec, out);
            (member.owns.len() as u32).encode(out);
            for (at, since) in &member.owns {
                at.encode(out);
                since.encode(out);
            }
        }
        (self.offsets.len() as u32).encode(out);
        for (at, item) in &self.offsets {
            at.encode(out);
            item.offset.encode(out);
            item.at.0.encode(out);
            put_metadata(item.metadata.as_deref(), out);
        }
    }

    fn decode_from(reader: &mut Reader<'_>) -> Result<Self, DecodeGroupsError> {
        let mut group = Self {
            generation: Epoch::decode(reader)?,
            quiet_since: UnixMs(i64::decode(reader)?),
            ..Self::default()
        };
        for _ in 0..count(reader, 50)? {
            group.decode_member(reader)?;
        }
        let instances = group.members.values().filter_map(|member| member.spec.instance.as_ref());
        let mut instances: Vec<_> = instances.collect();
        instances.sort_unstable();
        if instances.windows(2).any(|pair| pair[0] == pair[1]) {
            return invalid("no two members have the same instance");
        }
        for _ in 0..count(reader, 29)? {
            let at = TopicPartition::decode(reader)?;
            if group.offsets.last_key_value().is_some_and(|(last, _)| *last >= at) {
                return invalid("committed offsets rise by partition");
            }
            let offset = Offset::decode(reader)?;
            let time = UnixMs(i64::decode(reader)?);
            let metadata = decode_metadata(reader)?;
            group.offsets.insert(at, Committed { offset, metadata, at: time });
        }
        Ok(group)
    }

    fn decode_member(&mut self, reader: &mut Reader<'_>) -> Result<(), DecodeGroupsError> {
        let id = MemberId::decode(reader)?;
        if self.members.last_key_value().is_some_and(|(last, _)| *last >= id) {
            return invalid("members rise by id");
        }
        let mut member = Member {
            joined: Epoch::decode(reader)?,
            epoch: Epoch::decode(reader)?,
            predecessor: Option::decode(reader)?,
            spec: decode_spec(reader)?,
            owns: BTreeMap::new(),
        };
        if !(member.joined <= member.epoch && member.epoch <= self.generation) {
            return invalid("a member joined, then got its latest epoch, not after the group");
        }
        for _ in 0..count(reader, 20)? {
            let at = TopicPartition::decode(reader)?;
            let since = Epoch::decode(reader)?;
            if member.owns.last_key_value().is_some_and(|(last, _)| *last >= at) {
                return invalid("what a member owns rises");
            }
            if !(member.joined..=member.epoch).contains(&since) {
                return invalid("a member owns since an epoch of its own");
            }
            if self.owners.insert(at, id).is_some() {
                return invalid("a partition has one owner");
            }
            member.owns.insert(at, since);
        }
        self.members.insert(id, member);
        Ok(())
    }
}

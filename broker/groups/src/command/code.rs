//! Commands as bytes: a number, then the fields, each with a fixed width.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use plimsoll_protocol::ids::Offset;
use plimsoll_protocol::wire::{Decode, Encode, Reader};

use super::{
    CLIENT_BYTES_MAX, Committer, GroupCommand, METADATA_BYTES_MAX, MemberSpec, OffsetCommit,
    Removal,
};
use crate::codec::{DecodeGroupsError, invalid, rising, text};
use crate::ids::{Epoch, MemberId, TopicId, TopicPartition};
use crate::time::UnixMs;

impl GroupCommand {
    /// The shortest command: a deletion.
    pub(super) const BYTES_MIN: usize = 2;

    pub(super) fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Join { member, spec } => {
                out.put_u8(1);
                member.encode(out);
                encode_spec(spec, out);
            }
            Self::Remove { member, epoch, why } => {
                out.put_u8(2);
                member.encode(out);
                epoch.encode(out);
                out.put_u8(*why as u8);
            }
            Self::Grant { member, partitions } => {
                out.put_u8(3);
                member.encode(out);
                put_list(partitions, out, TopicPartition::encode);
            }
            Self::Release { member, epoch, partitions } => {
                out.put_u8(4);
                member.encode(out);
                epoch.encode(out);
                put_list(partitions, out, TopicPartition::encode);
            }
            Self::Commit { by, offsets } => {
                out.put_u8(5);
                by.encode(out);
                put_list(offsets, out, |item, out| {
                    item.at.encode(out);
                    item.offset.encode(out);
                    put_metadata(item.metadata.as_deref(), out);
                });
            }
            Self::Reset { offsets, forced } => {
                out.put_u8(6);
                forced.encode(out);
                put_list(offsets, out, |(at, offset), out| {
                    at.encode(out);
                    offset.encode(out);
                });
            }
            Self::Forget { topic } => {
                out.put_u8(7);
                topic.encode(out);
            }
            Self::Expire { quiet_since } => {
                out.put_u8(8);
                quiet_since.0.encode(out);
            }
            Self::Delete { forced } => {
                out.put_u8(9);
                forced.encode(out);
            }
        }
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeGroupsError> {
        Ok(match u8::decode(reader)? {
            1 => {
                let member = MemberId::decode(reader)?;
                Self::Join { member, spec: Box::new(decode_spec(reader)?) }
            }
            2 => Self::Remove {
                member: MemberId::decode(reader)?,
                epoch: Epoch::decode(reader)?,
                why: decode_removal(reader)?,
            },
            3 => Self::Grant {
                member: MemberId::decode(reader)?,
                partitions: decode_partitions(reader)?,
            },
            4 => Self::Release {
                member: MemberId::decode(reader)?,
                epoch: Epoch::decode(reader)?,
                partitions: decode_partitions(reader)?,
            },
            5 => Self::Commit {
                by: Option::decode(reader)?,
                offsets: rising(reader, 21, |reader| {
                    let at = TopicPartition::decode(reader)?;
                    let offset = Offset::decode(reader)?;
                    Ok((at, OffsetCommit { at, offset, metadata: decode_metadata(reader)? }))
                })?,
            },
            6 => Self::Reset {
                forced: bool::decode(reader)?,
                offsets: rising(reader, 13, |reader| {
                    let at = TopicPartition::decode(reader)?;
                    Ok((at, (at, Option::decode(reader)?)))
                })?,
            },
            7 => Self::Forget { topic: TopicId::decode(reader)? },
            8 => Self::Expire { quiet_since: UnixMs(i64::decode(reader)?) },
            9 => Self::Delete { forced: bool::decode(reader)? },
            number => return Err(DecodeGroupsError::UnknownValue { what: "command", number }),
        })
    }
}

impl Encode for Committer {
    fn encode(&self, out: &mut BytesMut) {
        self.member.encode(out);
        self.epoch.encode(out);
    }
}

impl Decode for Committer {
    const BYTES_MIN: usize = 24;

    fn decode(reader: &mut Reader<'_>) -> Result<Self, plimsoll_protocol::wire::DecodeError> {
        Ok(Self { member: MemberId::decode(reader)?, epoch: Epoch::decode(reader)? })
    }
}

fn put_list<T>(items: &[T], out: &mut BytesMut, mut put: impl FnMut(&T, &mut BytesMut)) {
    (items.len() as u32).encode(out);
    items.iter().for_each(|item| put(item, out));
}

fn decode_partitions(reader: &mut Reader<'_>) -> Result<Vec<TopicPartition>, DecodeGroupsError> {
    rising(reader, TopicPartition::BYTES_MIN, |reader| {
        let at = TopicPartition::decode(reader)?;
        Ok((at, at))
    })
}

fn decode_removal(reader: &mut Reader<'_>) -> Result<Removal, DecodeGroupsError> {
    let number = u8::decode(reader)?;
    Removal::ALL
        .into_iter()
        .find(|&why| why as u8 == number)
        .ok_or(DecodeGroupsError::UnknownValue { what: "way to end a membership", number })
}

pub(crate) fn put_metadata(metadata: Option<&str>, out: &mut BytesMut) {
    metadata.is_some().encode(out);
    if let Some(metadata) = metadata {
        metadata.encode(out);
    }
}

pub(crate) fn decode_metadata(
    reader: &mut Reader<'_>,
) -> Result<Option<Arc<str>>, DecodeGroupsError> {
    let there = bool::decode(reader)?;
    there.then(|| text(reader, METADATA_BYTES_MAX).map(Arc::from)).transpose()
}

pub(crate) fn encode_spec(spec: &MemberSpec, out: &mut BytesMut) {
    spec.client.encode(out);
    spec.instance.encode(out);
    spec.session_ms.encode(out);
    spec.rebalance_ms.encode(out);
    (spec.topics.len() as u32).encode(out);
    spec.topics.iter().for_each(|topic| topic.encode(out));
}

pub(crate) fn decode_spec(reader: &mut Reader<'_>) -> Result<MemberSpec, DecodeGroupsError> {
    let client = text(reader, CLIENT_BYTES_MAX)?;
    let instance = bool::decode(reader)?;
    let instance = instance.then(|| text(reader, CLIENT_BYTES_MAX)).transpose()?;
    let session_ms = u32::decode(reader)?;
    let rebalance_ms = u32::decode(reader)?;
    let topics = rising(reader, TopicId::BYTES_MIN, |reader| {
        let topic = TopicId::decode(reader)?;
        Ok((topic, topic))
    })?;
    let topics: BTreeSet<_> = topics.into_iter().collect();
    let spec = MemberSpec { client, instance, topics, session_ms, rebalance_ms };
    if spec.check().is_err() {
        return invalid("a member is within its bounds");
    }
    Ok(spec)
}

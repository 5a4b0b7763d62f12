//! Commands as bytes: a number, then the fields.

use std::collections::BTreeSet;

use bytes::{BufMut, BytesMut};
use plimsoll_protocol::ids::{LogIndex, TopicName};
use plimsoll_protocol::wire::{Decode, Encode, Reader};

use super::{Acquire, GUARDS_MAX, LockCommand, Want};
use crate::codec::{DecodeLocksError, count, invalid};
use crate::ids::{Label, LeaseMs, LockName, Permits, RequestId, SessionId, Token, Value};

impl LockCommand {
    pub(super) fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::OpenSession { session, lease, label } => {
                out.put_u8(1);
                session.encode(out);
                lease.encode(out);
                label.encode(out);
            }
            Self::CloseSession { session } => {
                out.put_u8(2);
                session.encode(out);
            }
            Self::Expire { session, seen } => {
                out.put_u8(3);
                session.encode(out);
                seen.encode(out);
            }
            Self::Acquire(acquire) => {
                out.put_u8(4);
                acquire.session.encode(out);
                acquire.request.encode(out);
                acquire.lock.encode(out);
                encode_want(&acquire.want, out);
                encode_guards(&acquire.guards, out);
                acquire.wait.encode(out);
            }
            Self::CancelWait { session, request } => {
                out.put_u8(5);
                session.encode(out);
                request.encode(out);
            }
            Self::Release { session, request, lock, token } => {
                out.put_u8(6);
                session.encode(out);
                request.encode(out);
                lock.encode(out);
                token.encode(out);
            }
            Self::ForceRelease { lock, whose, by } => {
                out.put_u8(7);
                lock.encode(out);
                whose.encode(out);
                by.encode(out);
            }
            Self::SetValue { session, lock, token, value } => {
                out.put_u8(8);
                session.encode(out);
                lock.encode(out);
                token.encode(out);
                value.encode(out);
            }
            Self::GuardsRaised { lock, slot, token, topics } => {
                out.put_u8(9);
                lock.encode(out);
                slot.encode(out);
                token.encode(out);
                encode_guards(topics, out);
            }
            Self::DeleteLock { lock, forced, by } => {
                out.put_u8(10);
                lock.encode(out);
                forced.encode(out);
                by.encode(out);
            }
        }
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeLocksError> {
        Ok(match u8::decode(reader)? {
            1 => Self::OpenSession {
                session: SessionId::decode(reader)?,
                lease: LeaseMs::decode(reader)?,
                label: Label::decode(reader)?,
            },
            2 => Self::CloseSession { session: SessionId::decode(reader)? },
            3 => Self::Expire {
                session: SessionId::decode(reader)?,
                seen: LogIndex::decode(reader)?,
            },
            4 => Self::Acquire(Box::new(Acquire {
                session: SessionId::decode(reader)?,
                request: RequestId::decode(reader)?,
                lock: LockName::decode(reader)?,
                want: decode_want(reader)?,
                guards: decode_guards(reader)?,
                wait: bool::decode(reader)?,
            })),
            5 => Self::CancelWait {
                session: SessionId::decode(reader)?,
                request: RequestId::decode(reader)?,
            },
            6 => Self::Release {
                session: SessionId::decode(reader)?,
                request: RequestId::decode(reader)?,
                lock: LockName::decode(reader)?,
                token: Token::decode(reader)?,
            },
            7 => Self::ForceRelease {
                lock: LockName::decode(reader)?,
                whose: Option::decode(reader)?,
                by: Label::decode(reader)?,
            },
            8 => Self::SetValue {
                session: SessionId::decode(reader)?,
                lock: LockName::decode(reader)?,
                token: Token::decode(reader)?,
                value: Value::decode(reader)?,
            },
            9 => {
                let lock = LockName::decode(reader)?;
                let slot = Option::decode(reader)?;
                let token = Token::decode(reader)?;
                let topics = decode_guards(reader)?;
                if topics.is_empty() {
                    return invalid("floors were raised somewhere");
                }
                Self::GuardsRaised { lock, slot, token, topics }
            }
            10 => Self::DeleteLock {
                lock: LockName::decode(reader)?,
                forced: bool::decode(reader)?,
                by: Label::decode(reader)?,
            },
            number => return Err(DecodeLocksError::UnknownValue { what: "command", number }),
        })
    }
}

pub(crate) fn encode_want(want: &Want, out: &mut BytesMut) {
    match want {
        Want::Exclusive => out.put_u8(1),
        Want::Read => out.put_u8(2),
        Want::Write => out.put_u8(3),
        Want::Permit { of } => {
            out.put_u8(4);
            of.encode(out);
        }
        Want::Lead { value } => {
            out.put_u8(5);
            value.encode(out);
        }
    }
}

pub(crate) fn decode_want(reader: &mut Reader<'_>) -> Result<Want, DecodeLocksError> {
    Ok(match u8::decode(reader)? {
        1 => Want::Exclusive,
        2 => Want::Read,
        3 => Want::Write,
        4 => Want::Permit { of: Permits::decode(reader)? },
        5 => Want::Lead { value: Value::decode(reader)? },
        number => {
            return Err(DecodeLocksError::UnknownValue { what: "way to want a lock", number });
        }
    })
}

pub(crate) fn encode_guards(guards: &BTreeSet<TopicName>, out: &mut BytesMut) {
    (guards.len() as u32).encode(out);
    guards.iter().for_each(|topic| topic.encode(out));
}

pub(crate) fn decode_guards(
    reader: &mut Reader<'_>,
) -> Result<BTreeSet<TopicName>, DecodeLocksError> {
    let mut guards = BTreeSet::new();
    for _ in 0..count(reader, TopicName::BYTES_MIN)? {
        let topic = TopicName::decode(reader)?;
        if guards.len() == GUARDS_MAX || guards.last().is_some_and(|last| *last >= topic) {
            return invalid("guards rise, and are as many as may be");
        }
        guards.insert(topic);
    }
    Ok(guards)
}

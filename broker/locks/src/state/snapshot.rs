//! The state as bytes.
//!
//! ```text
//!  byte 0   version, 1
//!  then     last entry u64 | sessions begun u64 | next arrival u64 | next event u64
//!           sessions u32, by id, of each:
//!             id u128 | number u64 | lease u32 | label | opened i64 | renewed u64 | floor u64
//!             ended u32, by request, of each: request u64 | how u8 and its fields
//!           locks u32, by name, of each:
//!             name | kind u8 (permits u32) | highest token u64 | guards u32, topics
//!             holders u32, by session, of each: session u128 | request u64 | token u64 | slot? u32
//!                        since i64 | reads u8 | value? | unraised u32, topics
//!             waiters u32, by arrival, of each: arrival u64 | session u128 | request u64 | want | since i64
//!           events u32, the last one before next event, of each:
//!             lock | what u8 | who? (label | session u64 | token? u64 | slot? u32) | by? label | at i64
//!             holder? (label | session u64 | token u64 | value?)
//! ```

use bytes::{BufMut, Bytes, BytesMut};
use plimsoll_protocol::ids::LogIndex;
use plimsoll_protocol::wire::{Decode, Encode, Reader};

use super::event::{Event, EventHolder, What, Who};
use super::{ENDED_MAX, Ended, Holder, Lock, Locks, Occupant, Session, Waiter};
use crate::codec::{DecodeLocksError, count, invalid, version};
use crate::command::{Kind, decode_guards, decode_want, encode_guards, encode_want};
use crate::ids::{
    Label, LeaseMs, LockName, Permits, RequestId, SessionId, SessionNumber, Token, Value,
};
use crate::time::UnixMs;

const VERSION: u8 = 1;

impl Locks {
    /// The locks as bytes: the same locks give the same bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(VERSION);
        self.last.encode(&mut out);
        self.sessions_begun.encode(&mut out);
        self.next_arrival.encode(&mut out);
        self.next_event.encode(&mut out);
        (self.sessions.len() as u32).encode(&mut out);
        for (id, session) in &self.sessions {
            id.encode(&mut out);
            encode_session(session, &mut out);
        }
        (self.locks.len() as u32).encode(&mut out);
        for (name, lock) in &self.locks {
            name.encode(&mut out);
            encode_lock(lock, &mut out);
        }
        (self.outbox.len() as u32).encode(&mut out);
        for event in &self.outbox {
            encode_event(event, &mut out);
        }
        out.freeze()
    }

    /// Reads what [`Locks::encode`] wrote.
    ///
    /// # Errors
    /// When the bytes are not encoded locks of a version that this build knows.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeLocksError> {
        let mut reader = Reader::new(bytes);
        version(&mut reader, "state", VERSION)?;
        let mut state = Self {
            last: LogIndex::decode(&mut reader)?,
            sessions_begun: u64::decode(&mut reader)?,
            next_arrival: u64::decode(&mut reader)?,
            next_event: u64::decode(&mut reader)?,
            ..Self::default()
        };
        if [state.sessions_begun, state.next_arrival, state.next_event].iter().any(|&n| n >> 63 > 0)
        {
            return invalid("what is counted is counted from 0");
        }
        for _ in 0..count(&mut reader, 59)? {
            let id = SessionId::decode(&mut reader)?;
            if state.sessions.last_key_value().is_some_and(|(last, _)| *last >= id) {
                return invalid("sessions rise by id");
            }
            let session = decode_session(&mut reader)?;
            if session.number.0 > state.sessions_begun || session.renewed > state.last {
                return invalid("a session began, and spoke last, in an entry that was folded");
            }
            state.sessions.insert(id, session);
        }
        for _ in 0..count(&mut reader, 24)? {
            let name = LockName::decode(&mut reader)?;
            if state.locks.last_key_value().is_some_and(|(last, _)| *last >= name) {
                return invalid("locks rise by name");
            }
            let lock = state.decode_lock(&name, &mut reader)?;
            state.locks.insert(name, lock);
        }
        let events = count(&mut reader, 15)? as u64;
        let Some(first) = state.next_event.checked_sub(events) else {
            return invalid("events are counted from 0");
        };
        for number in first..state.next_event {
            state.outbox.push_back(decode_event(&mut reader, number)?);
        }
        match reader.remaining() {
            0 => Ok(state),
            extra => Err(DecodeLocksError::TrailingBytes { extra }),
        }
    }

    fn decode_lock(
        &mut self,
        name: &LockName,
        reader: &mut Reader<'_>,
    ) -> Result<Lock, DecodeLocksError> {
        let mut lock = Lock::new(decode_kind(reader)?);
        lock.highest = Token::decode(reader)?;
        if lock.highest > Token::from(self.last) {
            return invalid("a token is of an entry that was folded");
        }
        lock.guards = decode_guards(reader)?;
        for _ in 0..count(reader, 47)? {
            let id = SessionId::decode(reader)?;
            if lock.holders.last_key_value().is_some_and(|(last, _)| *last >= id) {
                return invalid("holders rise by session");
            }
            let holder = decode_holder(reader)?;
            check_holder(&lock, &holder)?;
            self.claim(id, holder.request, name)?;
            lock.holders.insert(id, holder);
        }
        for _ in 0..count(reader, 41)? {
            let arrival = u64::decode(reader)?;
            if lock.waiters.last_key_value().is_some_and(|(last, _)| *last >= arrival)
                || arrival >= self.next_arrival
            {
                return invalid("waiters rise by arrival");
            }
            let session = SessionId::decode(reader)?;
            let request = RequestId::decode(reader)?;
            let want = decode_want(reader)?;
            let since = UnixMs(i64::decode(reader)?);
            if want.kind() != lock.kind || lock.holders.contains_key(&session) {
                return invalid("a waiter wants what the lock is, and has it not");
            }
            if lock.waiters.is_empty() && lock.room(&want).is_some() {
                return invalid("the head of a line waits for what cannot be granted");
            }
            if lock.waiting.insert(session, arrival).is_some() {
                return invalid("a session waits for a lock once");
            }
            self.claim(session, request, name)?;
            lock.waiters.insert(arrival, Waiter { session, request, want, since, once: false });
        }
        if lock.is_idle() {
            return invalid("a lock that is remembered is used");
        }
        Ok(lock)
    }

    fn claim(
        &mut self,
        id: SessionId,
        request: RequestId,
        name: &LockName,
    ) -> Result<(), DecodeLocksError> {
        let Some(session) = self.sessions.get_mut(&id) else {
            return invalid("who holds or waits is a session that is there");
        };
        if session.ended.contains_key(&request)
            || session.claims.insert(request, name.clone()).is_some()
        {
            return invalid("an acquire is of one lock, and not over");
        }
        self.claims += 1;
        Ok(())
    }
}

fn check_holder(lock: &Lock, holder: &Holder) -> Result<(), DecodeLocksError> {
    let first = lock.holders.values().next();
    let fits = match lock.kind {
        Kind::Exclusive | Kind::Election => first.is_none(),
        // The first reader speaks for all.
        Kind::ReadWrite => {
            first.is_none_or(|it| it.reads && holder.reads && it.token == holder.token)
        }
        Kind::Semaphore { permits } => holder.slot.is_some_and(|slot| {
            slot < permits.count() && lock.holders.values().all(|it| it.slot != Some(slot))
        }),
    };
    let semaphore = matches!(lock.kind, Kind::Semaphore { .. });
    let as_its_kind = holder.slot.is_some() == semaphore
        && (lock.kind == Kind::ReadWrite || !holder.reads)
        && holder.value.is_some() == (lock.kind == Kind::Election);
    if !fits || !as_its_kind {
        return invalid("a lock has the holders that its kind allows");
    }
    if holder.token > lock.highest || !holder.unraised.is_subset(&lock.guards) {
        return invalid("a grant is none after the last, and waits for what the lock guards");
    }
    Ok(())
}

fn encode_option<T>(value: Option<&T>, out: &mut BytesMut, encode: impl FnOnce(&T, &mut BytesMut)) {
    value.is_some().encode(out);
    if let Some(value) = value {
        encode(value, out);
    }
}

fn decode_option<T>(
    reader: &mut Reader<'_>,
    decode: impl FnOnce(&mut Reader<'_>) -> Result<T, DecodeLocksError>,
) -> Result<Option<T>, DecodeLocksError> {
    bool::decode(reader)?.then(|| decode(reader)).transpose()
}

fn encode_session(session: &Session, out: &mut BytesMut) {
    session.number.encode(out);
    session.lease.encode(out);
    session.label.encode(out);
    session.opened.0.encode(out);
    session.renewed.encode(out);
    session.floor.encode(out);
    (session.ended.len() as u32).encode(out);
    for (request, ended) in &session.ended {
        request.encode(out);
        match ended {
            Ended::Taken(by) => {
                out.put_u8(1);
                by.label.encode(out);
                by.session.encode(out);
                by.token.encode(out);
            }
            Ended::Released => out.put_u8(2),
            Ended::Cancelled => out.put_u8(3),
            Ended::Forced => out.put_u8(4),
            Ended::Refused => out.put_u8(5),
        }
    }
}

fn decode_session(reader: &mut Reader<'_>) -> Result<Session, DecodeLocksError> {
    let mut session = Session {
        number: SessionNumber::decode(reader)?,
        lease: LeaseMs::decode(reader)?,
        label: Label::decode(reader)?,
        opened: UnixMs(i64::decode(reader)?),
        renewed: LogIndex::decode(reader)?,
        claims: Default::default(),
        ended: Default::default(),
        floor: RequestId::decode(reader)?,
    };
    for _ in 0..count(reader, 9)? {
        let request = RequestId::decode(reader)?;
        let rises = session.ended.last_key_value().is_none_or(|(last, _)| *last < request);
        if !rises || session.ended.len() == ENDED_MAX {
            return invalid("acquires that are over rise, and are as many as are remembered");
        }
        let ended = match u8::decode(reader)? {
            1 => Ended::Taken(Occupant {
                label: Label::decode(reader)?,
                session: SessionNumber::decode(reader)?,
                token: Token::decode(reader)?,
            }),
            2 => Ended::Released,
            3 => Ended::Cancelled,
            4 => Ended::Forced,
            5 => Ended::Refused,
            number => {
                return Err(DecodeLocksError::UnknownValue { what: "end of an acquire", number });
            }
        };
        session.ended.insert(request, ended);
    }
    Ok(session)
}

fn encode_lock(lock: &Lock, out: &mut BytesMut) {
    match lock.kind {
        Kind::Exclusive => out.put_u8(1),
        Kind::ReadWrite => out.put_u8(2),
        Kind::Semaphore { permits } => {
            out.put_u8(3);
            permits.encode(out);
        }
        Kind::Election => out.put_u8(4),
    }
    lock.highest.encode(out);
    encode_guards(&lock.guards, out);
    (lock.holders.len() as u32).encode(out);
    for (id, holder) in &lock.holders {
        id.encode(out);
        holder.request.encode(out);
        holder.token.encode(out);
        holder.slot.encode(out);
        holder.since.0.encode(out);
        holder.reads.encode(out);
        encode_option(holder.value.as_ref(), out, Value::encode);
        encode_guards(&holder.unraised, out);
    }
    (lock.waiters.len() as u32).encode(out);
    for (arrival, waiter) in &lock.waiters {
        arrival.encode(out);
        waiter.session.encode(out);
        waiter.request.encode(out);
        encode_want(&waiter.want, out);
        waiter.since.0.encode(out);
    }
}

fn decode_kind(reader: &mut Reader<'_>) -> Result<Kind, DecodeLocksError> {
    Ok(match u8::decode(reader)? {
        1 => Kind::Exclusive,
        2 => Kind::ReadWrite,
        3 => Kind::Semaphore { permits: Permits::decode(reader)? },
        4 => Kind::Election,
        number => return Err(DecodeLocksError::UnknownValue { what: "kind of lock", number }),
    })
}

fn decode_holder(reader: &mut Reader<'_>) -> Result<Holder, DecodeLocksError> {
    Ok(Holder {
        request: RequestId::decode(reader)?,
        token: Token::decode(reader)?,
        slot: Option::decode(reader)?,
        since: UnixMs(i64::decode(reader)?),
        reads: bool::decode(reader)?,
        value: decode_option(reader, Value::decode)?,
        unraised: decode_guards(reader)?,
    })
}

fn encode_event(event: &Event, out: &mut BytesMut) {
    event.lock.encode(out);
    out.put_u8(event.what as u8);
    encode_option(event.who.as_ref(), out, |who, out| {
        who.label.encode(out);
        who.session.encode(out);
        who.token.encode(out);
        who.slot.encode(out);
    });
    encode_option(event.by.as_ref(), out, Label::encode);
    event.at.0.encode(out);
    encode_option(event.holder.as_ref(), out, |holder, out| {
        holder.label.encode(out);
        holder.session.encode(out);
        holder.token.encode(out);
        encode_option(holder.value.as_ref(), out, Value::encode);
    });
}

fn decode_event(reader: &mut Reader<'_>, number: u64) -> Result<Event, DecodeLocksError> {
    let lock = LockName::decode(reader)?;
    let what = u8::decode(reader)?;
    let known = What::ALL.into_iter().find(|&it| it as u8 == what);
    let unknown = DecodeLocksError::UnknownValue { what: "event of a lock", number: what };
    let what = known.ok_or(unknown)?;
    let who = decode_option(reader, |reader| {
        Ok(Who {
            label: Label::decode(reader)?,
            session: SessionNumber::decode(reader)?,
            token: Option::decode(reader)?,
            slot: Option::decode(reader)?,
        })
    })?;
    let by = decode_option(reader, Label::decode)?;
    let at = UnixMs(i64::decode(reader)?);
    let holder = decode_option(reader, |reader| {
        Ok(EventHolder {
            label: Label::decode(reader)?,
            session: SessionNumber::decode(reader)?,
            token: Token::decode(reader)?,
            value: decode_option(reader, Value::decode)?,
        })
    })?;
    Ok(Event { number, lock, what, who, by, at, holder })
}

//! Changes of locks, to be published as records of the namespace's topic.
//!
//! The fold numbers them and keeps those that are not yet records; the leader appends them as records of
//! the producer [`EVENTS_PRODUCER`], whose sequence numbers are the events' numbers. The fold of such a
//! records entry says `published`. So a new leader, once it has folded everything of its predecessors,
//! knows which are missing and publishes each once.
//!
//! A record: the key is the lock's name, the value is JSON. Each tells who holds the lock after it, because
//! compaction keeps the last of each lock only. That of a lock that is forgotten is a tombstone, without a
//! value: names that are used once leave nothing behind.
//! ```text
//! {"event":7,"lock":"db","what":"released","label":"web-1","session":3,"token":41,"time_ms":1700000000000,
//!  "holder":{"label":"web-2","session":4,"token":52,"value":"10.0.0.2:80"}}
//! ```

use plimsoll_protocol::ids::ProducerId;
use serde::Serialize;

use super::Lock;
use crate::ids::{Label, LockName, SessionNumber, Token, Value};
use crate::state::Session;
use crate::time::UnixMs;

/// The producer of events in the topic of a namespace. The catalog gives no client this id.
pub const EVENTS_PRODUCER: ProducerId = ProducerId(u64::MAX);

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum What {
    /// Somebody holds it.
    Granted = 1,
    /// Somebody waits for it.
    Waiting = 2,
    /// A holder gave it back.
    Released = 3,
    /// A holder or waiter closed its session.
    SessionClosed = 4,
    /// The session of a holder or waiter was silent for longer than its lease.
    Expired = 5,
    /// An operator took it from a holder, or from a waiter the hope.
    Forced = 6,
    /// A waiter waits no longer.
    Cancelled = 7,
    /// The leader changed its value.
    Value = 8,
    /// An operator had it forgotten.
    Deleted = 9,
    /// Nobody holds it or waits for it, and it guards nothing: compaction may take its last record, too.
    Forgotten = 10,
}

impl What {
    /// Everything that may happen, by number.
    pub const ALL: [Self; 10] = [
        Self::Granted,
        Self::Waiting,
        Self::Released,
        Self::SessionClosed,
        Self::Expired,
        Self::Forced,
        Self::Cancelled,
        Self::Value,
        Self::Deleted,
        Self::Forgotten,
    ];
}

/// To whom something happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Who {
    /// Whose session it is.
    pub label: Label,
    /// The session.
    pub session: SessionNumber,
    /// Under which token it holds, or held.
    pub token: Option<Token>,
    /// Which permit of a semaphore.
    pub slot: Option<u32>,
}

/// Who holds a lock after an event; one of them, where several do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventHolder {
    /// Whose session it is.
    pub label: Label,
    /// The session.
    pub session: SessionNumber,
    /// Under which token it holds.
    pub token: Token,
    /// What a leader wants observers to see.
    pub value: Option<Value>,
}

impl EventHolder {
    pub(super) fn of(
        lock: &Lock,
        sessions: &std::collections::BTreeMap<crate::ids::SessionId, Session>,
    ) -> Option<Self> {
        let (id, holder) = lock.holders.first_key_value()?;
        let session = sessions.get(id)?;
        Some(Self {
            label: session.label.clone(),
            session: session.number,
            token: holder.token,
            value: holder.value.clone(),
        })
    }
}

/// One change of one lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Counted from 0 in each namespace, without gaps.
    pub number: u64,
    /// Of which lock.
    pub lock: LockName,
    /// What happened.
    pub what: What,
    /// To whom; to nobody when the lock is deleted or forgotten.
    pub who: Option<Who>,
    /// By which operator.
    pub by: Option<Label>,
    /// When, by the leader's clock.
    pub at: UnixMs,
    /// Who holds the lock after it.
    pub holder: Option<EventHolder>,
}

#[derive(Serialize)]
struct Json<'a> {
    event: u64,
    lock: &'a str,
    what: What,
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    slot: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<&'a str>,
    time_ms: i64,
    holder: Option<JsonHolder<'a>>,
}

#[derive(Serialize)]
struct JsonHolder<'a> {
    label: &'a str,
    session: u64,
    token: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a str>,
}

impl Event {
    /// The key of the record.
    #[must_use]
    pub fn key(&self) -> &str {
        self.lock.as_str()
    }

    /// The value of the record; none, a tombstone, when the lock is forgotten.
    #[must_use]
    pub fn value(&self) -> Option<String> {
        if self.what == What::Forgotten {
            return None;
        }
        let who = self.who.as_ref();
        let json = Json {
            event: self.number,
            lock: self.lock.as_str(),
            what: self.what,
            label: who.map(|who| who.label.as_str()),
            session: who.map(|who| who.session.0),
            token: who.and_then(|who| who.token).map(|token| token.0),
            slot: who.and_then(|who| who.slot),
            by: self.by.as_ref().map(Label::as_str),
            time_ms: self.at.0,
            holder: self.holder.as_ref().map(|holder| JsonHolder {
                label: holder.label.as_str(),
                session: holder.session.0,
                token: holder.token.0,
                value: holder.value.as_ref().map(Value::as_str),
            }),
        };
        Some(serde_json::to_string(&json).expect("texts and numbers are JSON"))
    }
}

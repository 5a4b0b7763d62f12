//! What happened to a lock, as the records of its namespace's topic tell: the key is the lock's name, the value
//! is JSON, and none where the lock was deleted. Source: `broker/locks/src/state/event.rs`.
//!
//! Fields that this build does not know are passed over, those that are missing are none, and what has happened
//! may be something that a later node tells.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::error::LockEventError;
use crate::consumer::ConsumedRecord;

/// One change of one lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockEvent {
    /// The lock.
    pub lock: String,
    /// Where it stands in the namespace's topic.
    pub offset: u64,
    /// What happened.
    pub what: LockEventKind,
    /// Whose session it happened to, for people.
    pub label: Option<String>,
    /// That session, by the number that people see of it.
    pub session: Option<u64>,
    /// Under which token it holds, or held.
    pub token: Option<u64>,
    /// Which permit of a semaphore.
    pub slot: Option<u32>,
    /// By which operator.
    pub by: Option<String>,
    /// When, in milliseconds since 1970 (UTC), by the node's clock.
    pub time_ms: i64,
    /// Who holds the lock after it; one of them, where several do.
    pub holder: Option<LockEventHolder>,
}

/// Who holds a lock after an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockEventHolder {
    /// Whose session it is, for people.
    #[serde(default)]
    pub label: String,
    /// That session.
    #[serde(default)]
    pub session: u64,
    /// Under which token it holds.
    #[serde(default)]
    pub token: u64,
    /// What a leader wants its observers to see.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

/// What happened to a lock.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LockEventKind {
    /// Somebody holds it.
    Granted,
    /// Somebody waits for it.
    Waiting,
    /// A holder gave it back.
    Released,
    /// A holder or waiter closed its session.
    SessionClosed,
    /// The session of a holder or waiter was silent for longer than its lease.
    Expired,
    /// An operator took it away.
    Forced,
    /// A waiter waits no longer.
    Cancelled,
    /// The leader changed its value.
    Value,
    /// An operator had it forgotten.
    Deleted,
    /// Something that this build has no name for.
    Other(String),
}

impl LockEventKind {
    /// Its name, as in the record.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Granted => "granted",
            Self::Waiting => "waiting",
            Self::Released => "released",
            Self::SessionClosed => "session_closed",
            Self::Expired => "expired",
            Self::Forced => "forced",
            Self::Cancelled => "cancelled",
            Self::Value => "value",
            Self::Deleted => "deleted",
            Self::Other(name) => name,
        }
    }

    fn of(name: String) -> Self {
        let known = [
            Self::Granted,
            Self::Waiting,
            Self::Released,
            Self::SessionClosed,
            Self::Expired,
            Self::Forced,
            Self::Cancelled,
            Self::Value,
            Self::Deleted,
        ];
        known.into_iter().find(|kind| kind.as_str() == name).unwrap_or(Self::Other(name))
    }
}

impl fmt::Display for LockEventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The value of a record.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Json {
    what: String,
    label: Option<String>,
    session: Option<u64>,
    token: Option<u64>,
    slot: Option<u32>,
    by: Option<String>,
    time_ms: Option<i64>,
    holder: Option<LockEventHolder>,
}

/// The lock that a record is of.
pub(super) fn lock_of(record: &ConsumedRecord) -> String {
    let key = record.record.key.as_deref().unwrap_or_default();
    String::from_utf8_lossy(key).into_owned()
}

impl LockEvent {
    /// Reads a record of a namespace's topic; none where it only says that compaction may forget the lock.
    pub(super) fn read(record: &ConsumedRecord) -> Result<Option<Self>, LockEventError> {
        let (lock, offset) = (lock_of(record), record.offset.0);
        let Some(value) = &record.record.value else { return Ok(None) };
        // A list would pass for an event whose fields all are missing.
        let json = match serde_json::from_slice::<serde_json::Map<_, _>>(value)
            .and_then(|fields| serde_json::from_value::<Json>(fields.into()))
        {
            Ok(json) => json,
            Err(error) => {
                let reason = error.to_string();
                return Err(LockEventError::Malformed { lock, offset, reason });
            }
        };
        Ok(Some(Self {
            lock,
            offset,
            what: LockEventKind::of(json.what),
            label: json.label,
            session: json.session,
            token: json.token,
            slot: json.slot,
            by: json.by,
            time_ms: json.time_ms.unwrap_or(record.append_time_ms),
            holder: json.holder,
        }))
    }
}

#[cfg(test)]
mod tests {
    use plimsoll_protocol::batch::Record;
    use plimsoll_protocol::ids::Offset;

    use super::*;

    fn record(value: Option<&str>) -> ConsumedRecord {
        let mut record = Record::new(value.unwrap_or_default().to_owned()).with_key("db");
        if value.is_none() {
            record.value = None;
        }
        ConsumedRecord { partition: 0, offset: Offset(7), append_time_ms: 5, record }
    }

    #[test]
    fn events_are_read_as_the_node_writes_them() {
        let text = r#"{"event":7,"lock":"db","what":"released","label":"web-1","session":3,"token":41,
            "time_ms":1700000000000,"holder":{"label":"web-2","session":4,"token":52,"value":"10.0.0.2:80"}}"#;
        let event = LockEvent::read(&record(Some(text))).unwrap().unwrap();
        assert_eq!((event.lock.as_str(), event.offset), ("db", 7));
        assert_eq!((event.what, event.token), (LockEventKind::Released, Some(41)));
        let holder = event.holder.unwrap();
        assert_eq!((holder.token, holder.value.as_deref()), (52, Some("10.0.0.2:80")));
    }

    #[test]
    fn what_is_new_or_missing_is_no_failure() {
        let read = |text| LockEvent::read(&record(text)).unwrap();
        let event = read(Some(r#"{"what":"painted","colour":"red"}"#)).unwrap();
        assert_eq!(event.what, LockEventKind::Other("painted".to_owned()));
        assert_eq!((event.time_ms, event.holder), (5, None));
        let event = read(Some(r#"{"holder":{"session":1}}"#)).unwrap();
        assert_eq!(event.holder.unwrap().token, 0);
        assert_eq!(read(None), None, "the lock is forgotten");
    }

    #[test]
    fn what_is_no_event_says_where_it_stands() {
        for text in ["", "[]", "{\"token\":-1}", "nonsense"] {
            let error = LockEvent::read(&record(Some(text))).unwrap_err();
            assert!(
                matches!(error, LockEventError::Malformed { offset: 7, .. }),
                "{text}: {error}"
            );
        }
    }
}

//! A change of a key, whose condition is judged against every record before it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use plimsoll_protocol::api::KvCondition;
use plimsoll_protocol::batch::BatchHeader;
use plimsoll_protocol::error::{ErrorCode, ErrorResponse};
use plimsoll_protocol::ids::Offset;
use plimsoll_replication::{DecidedError, FencePass, ProduceError, Produced, Tip};
use tokio::time::timeout;

use super::gates::Passed;
use super::index::{Horizon, Slot};
use super::view::{Named, View};
use crate::broker::Broker;
use crate::refusals;

/// How long a condition may hold up the partition while records before it are applied.
const DECIDE_MAX: Duration = Duration::from_secs(1);
/// How long a change waits for earlier ones of its key.
const GATE_MAX: Duration = Duration::from_secs(10);
/// How long it may wait for a majority.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// Bytes of a key that a message shows.
const KEY_SHOWN_BYTES: usize = 128;

/// What must be true of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Condition {
    /// What a client asks for.
    Asked(KvCondition),
    /// Its last record has this offset, and its time is over.
    Expired(Offset),
}

/// A change of one key.
#[derive(Debug)]
pub(crate) struct Put {
    /// A batch of one record, checked.
    pub(crate) batch: Bytes,
    pub(crate) header: BatchHeader,
    pub(crate) condition: Condition,
    /// The lock under which it is made.
    pub(crate) pass: Option<FencePass>,
}

/// A change that is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Changed {
    pub(crate) produced: Produced,
    /// What the key had before; not known of one that was stored earlier.
    pub(crate) before: Option<Offset>,
}

impl View {
    /// Waits until a key may be changed: earlier changes of it have their outcomes, and what is committed is
    /// known. It comes before [`View::put`], which holds others up.
    ///
    /// # Errors
    /// Where that takes too long.
    pub(crate) async fn turn(&self, key: Bytes) -> Result<Passed<'_>, ErrorResponse> {
        let passed = timeout(GATE_MAX, self.gates.pass(key)).await;
        let passed =
            passed.map_err(|_| self.late("earlier changes of the key are not stored yet"))?;
        self.catch_up().await?;
        Ok(passed)
    }

    /// Stores a change where its condition holds, and waits for its outcome.
    ///
    /// # Errors
    /// Where it was not stored, or that is not known (`Timeout`).
    pub(crate) async fn put(
        &self,
        broker: &Arc<Broker>,
        turn: Passed<'_>,
        put: Put,
    ) -> Result<Changed, ErrorResponse> {
        let Put { batch, header, condition, pass } = put;
        let key = turn.key();
        let before = Mutex::new(None);
        let decide = |tip| {
            let (condition, before) = (&condition, &before);
            async move {
                let had = self.decide(broker, tip, key, condition).await?;
                *before.lock().unwrap_or_else(PoisonError::into_inner) = had;
                Ok::<_, ErrorResponse>(())
            }
        };
        let Named { topic, partition, .. } = &self.named;
        let refused =
            |error: &ProduceError| broker.located(refusals::produce(error, topic, *partition));
        let mut is_fresh = !matches!(condition, Condition::Asked(_));
        let pending = loop {
            let (batch, pass) = (batch.clone(), pass.as_ref());
            match self.group.produce_decided(batch, header, pass, decide).await {
                Ok(pending) => break pending,
                // A refusal tells what the key has, so it is a read: a leader that was replaced a moment ago may
                // still have its lease, and not know what its successor has stored. Judged anew behind a read
                // index it knows whatever was stored when this was asked for.
                Err(DecidedError::Decided(error))
                    if error.code == ErrorCode::RevisionConflict && !is_fresh =>
                {
                    let fresh = self.group.linearizable().await;
                    fresh.map_err(|error| broker.located(refusals::fresh(&error)))?;
                    is_fresh = true;
                }
                Err(DecidedError::Decided(error)) => return Err(error),
                Err(DecidedError::Produce(error)) => return Err(refused(&error)),
            }
        };
        // It has its place in the log.
        drop(pass);
        let stored = timeout(ANSWER_MAX, pending).await.unwrap_or(Err(ProduceError::Unknown));
        let produced = stored.map_err(|error| refused(&error))?;
        let before = before.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(Changed { produced, before: before.filter(|_| !produced.duplicate) })
    }

    /// Judges a change that comes behind `tip`; gives what the key has.
    async fn decide(
        &self,
        broker: &Broker,
        tip: Tip,
        key: &Bytes,
        condition: &Condition,
    ) -> Result<Option<Offset>, ErrorResponse> {
        let needed = self.ahead().needed(tip, key);
        match timeout(DECIDE_MAX, self.reach(needed)).await {
            Ok(reached) => reached?,
            Err(_) => return Err(self.late("records before it are not stored yet")),
        }
        let last = self.index().last(key);
        let horizon = self.horizon(broker);
        let had =
            judge(condition, last, horizon).map_err(|has| self.conflict(key, condition, has))?;
        self.ahead().proposed(tip, key.clone(), self.upto());
        Ok(had)
    }

    fn late(&self, why: &str) -> ErrorResponse {
        let Named { topic, partition, .. } = &self.named;
        let message = format!("{topic}/{partition}: {why}; nothing was changed, try again");
        ErrorResponse::new(ErrorCode::NotReady, message)
    }

    fn conflict(&self, key: &[u8], condition: &Condition, has: Option<Offset>) -> ErrorResponse {
        let Named { topic, partition, .. } = &self.named;
        let asked = match condition {
            Condition::Asked(KvCondition::Revision(revision)) => {
                format!("to have revision {revision}")
            }
            Condition::Asked(KvCondition::Absent(_)) => "to be absent".to_owned(),
            Condition::Asked(KvCondition::Present(_)) => "to be present".to_owned(),
            Condition::Asked(KvCondition::Always(_)) => "to be anything".to_owned(),
            Condition::Expired(revision) => format!("to have expired with revision {revision}"),
        };
        let is = match has {
            Some(revision) => format!("has revision {revision}"),
            None => "has no value".to_owned(),
        };
        let message = format!(
            "key {} of {topic}/{partition} was asked {asked} and {is}: read it, then decide anew",
            shown(key)
        );
        let error = ErrorResponse::new(ErrorCode::RevisionConflict, message);
        match has {
            Some(revision) => error.with_offset(revision.0),
            None => error,
        }
    }
}

/// A key as people can read it.
fn shown(key: &[u8]) -> String {
    let end = key.len().min(KEY_SHOWN_BYTES);
    let more = if end < key.len() { "..." } else { "" };
    format!("{:?}{more}", String::from_utf8_lossy(&key[..end]))
}

/// The revision that a key has, which is told either way.
fn judge(
    condition: &Condition,
    last: Option<Slot>,
    horizon: Horizon,
) -> Result<Option<Offset>, Option<Offset>> {
    let live = last.filter(|slot| slot.is_live(horizon)).map(|slot| slot.offset);
    let holds = match condition {
        Condition::Asked(KvCondition::Always(_)) => true,
        Condition::Asked(KvCondition::Absent(_)) => live.is_none(),
        Condition::Asked(KvCondition::Present(_)) => live.is_some(),
        #[cfg(feature = "planted")]
        Condition::Asked(KvCondition::Revision(_))
            if plimsoll_log::planted::is_planted(plimsoll_log::planted::Bug::CompareNothing) =>
        {
            live.is_some()
        }
        Condition::Asked(KvCondition::Revision(revision)) => live == Some(*revision),
        Condition::Expired(revision) => {
            last.is_some_and(|slot| slot.offset == *revision && slot.is_expired(horizon.now_ms))
        }
    };
    if holds { Ok(live) } else { Err(live) }
}

#[cfg(test)]
mod tests {
    use plimsoll_protocol::api::Done;

    use super::*;

    fn slot(expires_ms: Option<i64>) -> Slot {
        Slot { offset: Offset(7), written_ms: 0, expires_ms, value_bytes: 0 }
    }

    #[test]
    fn conditions_see_what_lives_and_only_that() {
        let horizon = Horizon { now_ms: 100, log_start: Offset(0) };
        let asked = |condition, last| judge(&Condition::Asked(condition), last, horizon);
        let (live, expired) = (Some(slot(None)), Some(slot(Some(100))));
        let seven = Some(Offset(7));
        assert_eq!(asked(KvCondition::Always(Done {}), live), Ok(seven));
        assert_eq!(asked(KvCondition::Always(Done {}), expired), Ok(None));
        assert_eq!(asked(KvCondition::Absent(Done {}), live), Err(seven));
        assert_eq!(asked(KvCondition::Absent(Done {}), expired), Ok(None));
        assert_eq!(asked(KvCondition::Present(Done {}), None), Err(None));
        assert_eq!(asked(KvCondition::Present(Done {}), live), Ok(seven));
        assert_eq!(asked(KvCondition::Revision(Offset(7)), live), Ok(seven));
        assert_eq!(asked(KvCondition::Revision(Offset(6)), live), Err(seven));
        assert_eq!(asked(KvCondition::Revision(Offset(7)), expired), Err(None));
        let swept = |revision, last| judge(&Condition::Expired(Offset(revision)), last, horizon);
        assert_eq!(swept(7, expired), Ok(None));
        assert_eq!(swept(7, live), Err(seven));
        assert_eq!(swept(6, expired), Err(None));
        let taken = Horizon { log_start: Offset(8), ..horizon };
        assert_eq!(judge(&Condition::Asked(KvCondition::Absent(Done {})), live, taken), Ok(None));
    }

    #[test]
    fn a_key_is_shown_as_text_and_not_all_of_a_long_one() {
        assert_eq!(shown(b"a/b"), "\"a/b\"");
        assert_eq!(shown(&[b'x'; 500]).len(), KEY_SHOWN_BYTES + 5);
        assert!(shown(&[0xff, b'a']).contains('a'));
    }
}

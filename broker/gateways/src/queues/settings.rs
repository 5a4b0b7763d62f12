//! Settings as the delivery machine has them, and what it says for people.

use bytes::Bytes;
use plimsoll_delivery::command::Reason;
use plimsoll_delivery::config::{Counting, Mode, Overflow, QueueConfig};
use plimsoll_delivery::dispatch::Explanation;
use plimsoll_delivery::time::Now;
use plimsoll_protocol::api::{
    MessageExplanation, MessageStanding, QueueCounting, QueueMode, QueueOverflow, QueueSettings,
};

/// The machine's configuration of these settings.
pub(super) fn config(settings: &QueueSettings) -> QueueConfig {
    QueueConfig {
        mode: match settings.mode {
            QueueMode::Shared => Mode::Shared,
            QueueMode::KeyShared => Mode::KeyShared,
        },
        counting: match settings.counting {
            QueueCounting::Behind => Counting::Behind,
            QueueCounting::Before => Counting::Before,
        },
        single_active: settings.single_active,
        levels: settings.levels,
        lease_ms: settings.lease_ms,
        attempts_max: settings.attempts_max,
        backoff_ms: settings.backoff_ms,
        backoff_ms_max: settings.backoff_ms_max,
        ttl_ms: settings.ttl_ms,
        length_max: settings.length_max,
        bytes_max: settings.bytes_max,
        overflow: match settings.overflow {
            QueueOverflow::Reject => Overflow::Reject,
            QueueOverflow::DropHead => Overflow::DropHead,
        },
        dead_letter: settings.dead_letter.as_ref().map(|topic| Bytes::from(topic.clone())),
    }
}

/// Whether what ends so is a dead letter, where there is a place for them.
const fn is_copied(reason: Reason) -> bool {
    match reason {
        Reason::Rejected | Reason::AttemptsExhausted | Reason::Expired | Reason::LengthExceeded => {
            true
        }
        Reason::Cancelled | Reason::Purged | Reason::Lost => false,
    }
}

/// Where a message stands, with a sentence for people. `consumer` is who has it, if somebody has; `letters` where
/// dead letters go, if they go anywhere.
pub(super) fn explained(
    found: Explanation,
    consumer: Option<String>,
    consumers: u32,
    letters: Option<String>,
    now: Now,
) -> MessageExplanation {
    let mut told = MessageExplanation {
        standing: MessageStanding::Unknown,
        text: String::new(),
        reason: None,
        attempts: None,
        at_ms: None,
        behind: None,
        ahead: None,
        consumer,
    };
    let who = told.consumer.clone().unwrap_or_else(|| "a consumer".to_owned());
    (told.standing, told.text) = match found {
        Explanation::Unknown => {
            (MessageStanding::Unknown, "there is no such message yet".to_owned())
        }
        Explanation::Settled => (
            MessageStanding::Settled,
            "it was accepted, or ended otherwise longer ago than is remembered".to_owned(),
        ),
        Explanation::Ended(ended) => {
            told.reason = Some(ended.reason.as_str().to_owned());
            told.attempts = Some(ended.attempts);
            told.at_ms = Some(ended.at.0);
            let text =
                format!("it ended after {} deliveries: {}", ended.attempts, ended.reason.as_str());
            match letters.filter(|_| is_copied(ended.reason)) {
                Some(letters) => {
                    (MessageStanding::DeadLettered, format!("{text}; its copy went to {letters}"))
                }
                None => (MessageStanding::Ended, format!("{text}; no copy was kept")),
            }
        }
        Explanation::DeadLettered { reason, attempts } => {
            told.reason = Some(reason.as_str().to_owned());
            told.attempts = Some(attempts);
            let text = format!(
                "it was given up after {attempts} deliveries ({}) and is being copied to {}",
                reason.as_str(),
                letters.as_deref().unwrap_or("where dead letters go")
            );
            (MessageStanding::DeadLettered, text)
        }
        Explanation::Held { attempt, until, .. } => {
            let left = until.0.saturating_sub(now.monotonic.0);
            told.attempts = Some(attempt);
            told.at_ms = Some(now.unix.plus(left).0);
            let text = format!("{who} has it in attempt {attempt}, for {left} ms more");
            (MessageStanding::Held, text)
        }
        Explanation::Granting { .. } => {
            (MessageStanding::Held, format!("it is meant for {who}; the attempt is being written"))
        }
        Explanation::Ending => {
            (MessageStanding::Ending, "what became of it is being written".to_owned())
        }
        Explanation::Delayed { until, attempts } => {
            told.attempts = Some(attempts);
            told.at_ms = Some(until.0);
            let text = format!(
                "it waits for its time, {} ms more; it was delivered {attempts} times",
                until.ms_from(now.unix)
            );
            (MessageStanding::Delayed, text)
        }
        Explanation::BehindKey { of, ahead } => {
            told.behind = Some(of);
            told.ahead = Some(ahead);
            let text = format!(
                "it waits for message {of}, which has the same key and its turn; {ahead} more of the \
                 key are before it"
            );
            (MessageStanding::BehindKey, text)
        }
        Explanation::Expired => {
            let text = "its life is over; it ends when it comes to the head of the queue";
            (MessageStanding::Expired, text.to_owned())
        }
        Explanation::Waiting { ahead, consumer_has_room } => {
            told.ahead = Some(ahead);
            let text = match (ahead, consumer_has_room, consumers) {
                (_, _, 0) => {
                    format!("it is ready behind {ahead} others; nobody consumes the queue")
                }
                (_, false, _) => format!(
                    "it is ready behind {ahead} others; none of the {consumers} consumers takes more \
                     until it settles what it holds"
                ),
                (0, true, _) => "it is ready and goes out next".to_owned(),
                (_, true, _) => format!("it is ready; {ahead} others go first"),
            };
            (MessageStanding::Waiting, text)
        }
    };
    told
}

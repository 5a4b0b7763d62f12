//! The end of a queue that nobody uses (`x-expires` of AMQP).
//!
//! The queue's task at the leader keeps a lease in memory: a use begins it anew, and where it is over the queue is
//! deleted. A use is what it is in RabbitMQ: a consumer as long as it is there, a message that is asked for
//! (`basic.get`), and a declaration of the queue that is there already, passive or not. Publishing is none, and
//! neither is looking at it through the native protocol.
//!
//! Why there: every use comes by the task already, also from other nodes, so that none costs a write. A declaration
//! through another node than the leader's attaches there in passing.
//!
//! What follows from it:
//! * A new leader begins the lease anew, as RabbitMQ does when it restarts: a queue lives longer than it
//!   was declared with, never shorter.
//! * A group with such a queue does not sleep, or nobody would see the end of the lease. It is woken within a second
//!   after it was declared or its nodes were started, also where nobody asks for it.
//! * A leader that was deposed and does not know it yet must not delete a queue that is used elsewhere: it asks a
//!   majority first. Meanwhile the task puts off what it is asked for, for [`ENDING_MAX`] at most, so that
//!   who comes in that moment finds the queue gone rather than losing it.
//!
//! Source: RabbitMQ, "Time-to-Live and Expiration", queue TTL.

use std::sync::Arc;
use std::time::Duration;

use plimsoll_delivery::time::Monotonic;
use plimsoll_protocol::ids::Term;
use plimsoll_replication::{Group, Role};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use crate::amqp::Expiring;
use crate::broker::Broker;

/// How long the task waits for an attempt to delete the queue; it may still come to its end.
const ENDING_MAX: Duration = Duration::from_secs(2);
/// How long after an attempt that did not delete it the next one is made.
const AGAIN_AFTER_MS: u64 = 5000;

/// See the module.
pub(super) struct Expiry {
    queue: Expiring,
    /// When it ends unless it is used.
    due: Monotonic,
    ending: Option<Ending>,
}

/// An attempt to delete the queue, and how long it is waited for.
struct Ending {
    attempt: JoinHandle<()>,
    until: Instant,
}

impl Drop for Ending {
    /// One that took too long must not delete a queue that is used again since, nor one that another node leads
    /// now.
    fn drop(&mut self) {
        self.attempt.abort();
    }
}

impl Expiry {
    /// A lease that begins now.
    pub(super) fn new(queue: Expiring, now: Monotonic) -> Self {
        let mut expiry = Self { queue, due: now, ending: None };
        expiry.used(now);
        expiry
    }

    /// It is used now.
    pub(super) fn used(&mut self, now: Monotonic) {
        let ms = u64::try_from(self.queue.unused_max.as_millis()).unwrap_or(u64::MAX);
        self.due = Monotonic(now.0.saturating_add(ms));
    }

    /// When it ends unless it is used.
    pub(super) fn due(&self) -> Monotonic {
        self.due
    }

    /// Whether it is being deleted.
    pub(super) fn is_ending(&self) -> bool {
        self.ending.is_some()
    }

    /// Begins to delete the queue where its lease is over.
    pub(super) fn end_if_due(
        &mut self,
        broker: &Arc<Broker>,
        group: &Arc<Group>,
        term: Term,
        now: Monotonic,
    ) {
        if self.is_ending() || now < self.due {
            return;
        }
        self.due = Monotonic(now.0.saturating_add(AGAIN_AFTER_MS));
        let (broker, group) = (Arc::clone(broker), Arc::clone(group));
        let queue = self.queue.clone();
        let attempt = tokio::spawn(end(broker, group, term, queue));
        self.ending = Some(Ending { attempt, until: Instant::now() + ENDING_MAX });
    }

    /// Waits until an attempt to delete it is over; for ever while there is none. May be cancelled.
    pub(super) async fn ended(expiry: &mut Option<Self>) {
        match expiry.as_mut().and_then(|expiry| expiry.ending.as_mut()) {
            Some(ending) => {
                // What did not delete it is tried again, whatever the reason.
                let _ = timeout_at(ending.until, &mut ending.attempt).await;
                if let Some(expiry) = expiry {
                    expiry.ending = None;
                }
            }
            None => std::future::pending().await,
        }
    }
}

async fn end(broker: Arc<Broker>, group: Arc<Group>, term: Term, queue: Expiring) {
    if group.linearizable().await.is_err() || *group.role().borrow() != (Role::Leader { term }) {
        return;
    }
    // It is about to be removed.
    drop(group);
    match broker.change_amqp(queue.end()).await {
        Ok(_) => tracing::debug!(?queue, "a queue that nobody used has ended"),
        Err(error) => tracing::warn!(?queue, %error, "a queue that nobody uses is still there"),
    }
}

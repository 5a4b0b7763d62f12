//! Dead letters of AMQP's queues: to their exchange, and from there to the queues that it leads to.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use plimsoll_amqp_gateway::dead_letters::{Death, dead_letter};
use plimsoll_amqp_gateway::fold::Folded;
use plimsoll_amqp_gateway::message::Stored;
use plimsoll_delivery::command::Reason;
use plimsoll_protocol::batch::{BatchBuilder, PushOutcome, Record};
use plimsoll_protocol::error::ErrorResponse;
use plimsoll_protocol::ids::{NodeId, TopicName};

use super::backend::topic_of;
use super::changes::is_deleted;
use super::hosts::{Hosts, short};
use super::publisher::{limits, push};
use crate::broker::Broker;
use crate::queues::finished;

/// What a queue of AMQP has where others have the topic of their dead letters. No topic is called so.
pub(super) const TARGET: &str = "amqp:";

/// What it takes to route a dead letter.
pub(crate) struct Letters {
    hosts: Hosts,
    folds: Mutex<HashMap<String, Folded>>,
}

impl Letters {
    pub(crate) fn new(me: NodeId) -> Self {
        Self { hosts: Hosts::new(me), folds: Mutex::default() }
    }

    pub(super) fn hosts(&self) -> &Hosts {
        &self.hosts
    }

    /// Whether dead letters go where this sends them.
    pub(crate) fn is_target(target: &[u8]) -> bool {
        target == TARGET.as_bytes()
    }

    /// Sends a dead letter of the queue that `topic` holds on; done once it is stored in every queue that it
    /// leads to, of which there may be none.
    ///
    /// # Errors
    /// Where one of them does not take it now. Sent again it may be there twice.
    pub(crate) async fn send(
        &self,
        broker: &Broker,
        topic: &TopicName,
        record: Record,
        reason: Reason,
    ) -> Result<(), ErrorResponse> {
        for (target, batch) in self.batches(broker, topic, [(record, reason)]) {
            match broker.store_anywhere(&target, 0, batch).await {
                Ok(_) => {}
                // It was deleted meanwhile: nobody misses the message.
                Err(error) if is_deleted(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Dead letters as they lie in the queues that they lead to: one batch for the topic of each, in order.
    pub(crate) fn batches(
        &self,
        broker: &Broker,
        topic: &TopicName,
        letters: impl IntoIterator<Item = (Record, Reason)>,
    ) -> Vec<(TopicName, Bytes)> {
        let catalog = broker.catalog();
        let Some((vhost, name, _)) = catalog.queue_of(topic) else { return Vec::new() };
        self.hosts.refresh(&catalog);
        let latest = self.hosts.watch(|| broker.catalog(), vhost.as_str());
        let Some(latest) = latest else { return Vec::new() };
        let snapshot = latest.borrow().clone();
        let mut folds = self.folds.lock().unwrap_or_else(PoisonError::into_inner);
        let folded = folds
            .entry(vhost.as_str().to_owned())
            .or_insert_with(|| Folded::new(&short(vhost), snapshot.clone()));
        folded.update(snapshot);
        let Some(queue) = folded.find_queue(name.as_str()) else { return Vec::new() };
        let now_ms = broker.host().clock().unix_ms();
        let mut batches: BTreeMap<TopicName, BatchBuilder> = BTreeMap::new();
        for (record, reason) in letters {
            let Some(death) = death(reason) else { continue };
            let headers =
                record.headers.into_iter().map(|header| (header.name.to_string(), header.value));
            let value = record.value.unwrap_or_default();
            let stored = Stored::new(value, record.timestamp_ms, headers);
            let Some(letter) = dead_letter(queue, &stored, death, now_ms) else { continue };
            for target in letter.route(&folded.topology) {
                let Some(target) = folded.find_queue(&target) else { continue };
                let Ok(topic) = topic_of(target) else { continue };
                let builder = batches.entry(topic).or_insert_with(|| BatchBuilder::new(limits()));
                if push(builder, &letter.record(target, now_ms)) != Ok(PushOutcome::Added) {
                    tracing::error!(queue = %name, "a dead letter is too large for its headers");
                }
            }
        }
        let finished =
            batches.into_iter().map(|(target, builder)| (target, finished(builder, topic)));
        finished.filter_map(|(target, batch)| Some((target, batch?))).collect()
    }
}

/// What a client is told of why a message died; none of those that ended on purpose, or are not there.
fn death(reason: Reason) -> Option<Death> {
    match reason {
        Reason::Rejected => Some(Death::Rejected),
        Reason::AttemptsExhausted => Some(Death::DeliveryLimit),
        Reason::Expired => Some(Death::Expired),
        Reason::LengthExceeded => Some(Death::MaxLength),
        Reason::Cancelled | Reason::Purged | Reason::Lost => None,
    }
}

//! Dead letters of AMQP's queues: to their exchange, and from there to the queues that it leads to.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use plimsoll_amqp_gateway::dead_letters::{Death, dead_letter};
use plimsoll_amqp_gateway::fold::Folded;
use plimsoll_amqp_gateway::message::Stored;
use plimsoll_delivery::command::Reason;
use plimsoll_protocol::batch::{BatchBuilder, Compression, PushOutcome, Record};
use plimsoll_protocol::error::ErrorResponse;
use plimsoll_protocol::ids::{NodeId, ProducerId, TopicName};

use super::backend::topic_of;
use super::hosts::{Hosts, short};
use super::publisher::{limits, push};
use crate::broker::Broker;

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
        for (target, batch) in self.routed(broker, topic, record, reason) {
            match broker.store_anywhere(&target, 0, batch).await {
                Ok(_) => {}
                // It was deleted meanwhile: nobody misses the message.
                Err(error) if super::changes::is_deleted(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn routed(
        &self,
        broker: &Broker,
        topic: &TopicName,
        record: Record,
        reason: Reason,
    ) -> Vec<(TopicName, Bytes)> {
        let death = match reason {
            Reason::Rejected => Death::Rejected,
            Reason::AttemptsExhausted => Death::DeliveryLimit,
            Reason::Expired => Death::Expired,
            Reason::LengthExceeded => Death::MaxLength,
            // These ended on purpose, or are not there.
            Reason::Cancelled | Reason::Purged | Reason::Lost => return Vec::new(),
        };
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
        let headers =
            record.headers.into_iter().map(|header| (header.name.to_string(), header.value));
        let stored = Stored::new(record.value.unwrap_or_default(), record.timestamp_ms, headers);
        let Some(letter) = dead_letter(queue, &stored, death, now_ms) else { return Vec::new() };
        let mut routed = Vec::new();
        for target in letter.route(&folded.topology) {
            let Some(target) = folded.find_queue(&target) else { continue };
            let Ok(topic) = topic_of(target) else { continue };
            let mut builder = BatchBuilder::new(limits());
            match push(&mut builder, &letter.record(target, now_ms)) {
                Ok(PushOutcome::Added) => {
                    routed.push((topic, builder.finish(ProducerId::NONE, 0, 0, Compression::None)));
                }
                _ => tracing::error!(queue = %name, "a dead letter is too large for its headers"),
            }
        }
        routed
    }
}

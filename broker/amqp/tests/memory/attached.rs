//! Consumers of [`Memory`](super::Memory), as the gateway has them.

use std::sync::{Arc, Mutex};

use plimsoll_amqp_gateway::backend::*;
use plimsoll_amqp_gateway::dead_letters::Death;

use super::state::{Queue, State};

/// A consumer's end of [`Memory`].
pub(super) struct Attached {
    pub(super) state: Arc<Mutex<State>>,
    pub(super) topic: Arc<str>,
    pub(super) id: u64,
}

impl Attached {
    fn settle_now(&self, settled: &[Settled]) {
        let mut state = self.state.lock().unwrap();
        let mut rejected = Vec::new();
        let Some(queue) = state.queues.get_mut(&self.topic) else { return };
        let entry = Arc::clone(&queue.entry);
        let Some(consumer) = queue.consumers.get_mut(&self.id) else { return };
        for one in settled {
            let is_held = consumer.held.get(&one.offset).is_some_and(|m| m.attempts == one.attempt);
            let Some(message) = is_held.then(|| consumer.held.remove(&one.offset)).flatten() else {
                continue;
            };
            match one.outcome {
                Outcome::Accept => {}
                Outcome::Release => drop(queue.ready.insert(message.place(), message)),
                Outcome::Reject => rejected.push(message),
            }
        }
        for message in rejected {
            state.bury(&entry, &message, Death::Rejected);
        }
        state.serve(&self.topic);
    }

    fn leave(&self) -> u32 {
        let mut state = self.state.lock().unwrap();
        let Some(queue) = state.queues.get_mut(&self.topic) else { return u32::MAX };
        if let Some(consumer) = queue.consumers.remove(&self.id) {
            queue.ready.extend(consumer.held.into_values().map(|one| (one.place(), one)));
        }
        let left = queue.counting();
        state.serve(&self.topic);
        left
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Attachment for Attached {
    fn settle(&self, settled: Vec<Settled>) {
        self.settle_now(&settled);
    }

    fn settle_durably(&self, settled: Vec<Settled>) -> BoxFuture<'_, ()> {
        Box::pin(async move { self.settle_now(&settled) })
    }

    fn pull(&self) -> BoxFuture<'_, Result<Option<Pulled>, QueueError>> {
        Box::pin(async move {
            let mut state = self.state.lock().unwrap();
            let queue = state.queues.get_mut(&self.topic).ok_or(QueueError::Deleted)?;
            let Queue { ready, consumers, .. } = queue;
            let moved = || QueueError::Unavailable { reason: "it has moved".to_owned() };
            let consumer = consumers.get_mut(&self.id).ok_or_else(moved)?;
            let Some((_, mut message)) = ready.pop_first() else { return Ok(None) };
            message.attempts += 1;
            let (offset, attempt) = (message.offset, message.attempts);
            let delivery = Delivery { offset, attempt, record: message.stored() };
            consumer.held.insert(offset, message);
            Ok(Some(Pulled { delivery, messages_left: ready.len() as u64 }))
        })
    }

    fn retire(&self) -> BoxFuture<'_, u32> {
        Box::pin(async move {
            let mut state = self.state.lock().unwrap();
            let Some(queue) = state.queues.get_mut(&self.topic) else { return u32::MAX };
            if let Some(consumer) = queue.consumers.get_mut(&self.id) {
                consumer.retired = true;
            }
            let left = queue.counting();
            state.serve(&self.topic);
            left
        })
    }

    fn detach(&self) -> BoxFuture<'_, u32> {
        Box::pin(async move { self.leave() })
    }
}

//! The consumers of one queue: where their deliveries go, in frames.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use plimsoll_delivery::dispatch::{ConsumerId, ConsumerSpec};
use tokio::sync::mpsc;

use super::handle::{BACKLOG_BYTES_MAX, Backlog, Delivered};

/// Bytes of records that go to a consumer at once.
const GATHERED_BYTES: usize = 64 << 10;
/// Messages that do.
const GATHERED: usize = 512;

pub(super) struct Consumer {
    pub(super) name: String,
    pub(super) spec: ConsumerSpec,
    deliveries: mpsc::UnboundedSender<Vec<Delivered>>,
    backlog: Arc<Backlog>,
    gathered: Vec<Delivered>,
    gathered_bytes: usize,
}

/// See the module.
#[derive(Default)]
pub(super) struct Consumers {
    all: HashMap<ConsumerId, Consumer>,
    /// Those with something gathered.
    touched: Vec<ConsumerId>,
}

impl Consumers {
    pub(super) fn insert(
        &mut self,
        id: ConsumerId,
        name: String,
        spec: ConsumerSpec,
        deliveries: mpsc::UnboundedSender<Vec<Delivered>>,
        backlog: Arc<Backlog>,
    ) {
        let (gathered, gathered_bytes) = (Vec::new(), 0);
        let consumer = Consumer { name, spec, deliveries, backlog, gathered, gathered_bytes };
        self.all.insert(id, consumer);
    }

    pub(super) fn remove(&mut self, id: ConsumerId) {
        self.all.remove(&id);
    }

    pub(super) fn get(&self, id: ConsumerId) -> Option<&Consumer> {
        self.all.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: ConsumerId) -> Option<&mut Consumer> {
        self.all.get_mut(&id)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Gathers a message for its consumer, and sends what has gathered when it is enough. Whether the consumer
    /// must get nothing more for now.
    pub(super) fn deliver(&mut self, id: ConsumerId, message: Delivered) -> bool {
        let Some(consumer) = self.all.get_mut(&id) else { return false };
        if consumer.gathered.is_empty() {
            self.touched.push(id);
        }
        consumer.gathered_bytes += message.record.len();
        consumer.gathered.push(message);
        if consumer.gathered_bytes >= GATHERED_BYTES || consumer.gathered.len() >= GATHERED {
            consumer.send();
            return consumer.spec.settles_itself && consumer.must_wait();
        }
        false
    }

    /// Sends everything that has gathered. Names those that must get nothing more for now.
    pub(super) fn flush(&mut self) -> Vec<ConsumerId> {
        let mut held_back = Vec::new();
        for id in self.touched.drain(..) {
            let Some(consumer) = self.all.get_mut(&id) else { continue };
            consumer.send();
            if consumer.spec.settles_itself && consumer.must_wait() {
                held_back.push(id);
            }
        }
        held_back
    }
}

impl Consumer {
    pub(super) fn is_held_back(&self) -> bool {
        self.backlog.is_held_back.load(Ordering::Acquire)
    }

    /// Whether too much waits for it; then its session says when it is less.
    fn must_wait(&self) -> bool {
        let Backlog { bytes, is_held_back } = &*self.backlog;
        if bytes.load(Ordering::Acquire) <= BACKLOG_BYTES_MAX
            || is_held_back.swap(true, Ordering::AcqRel)
        {
            return false;
        }
        // What the session took before it could see the mark, it says nothing of.
        bytes.load(Ordering::Acquire) > BACKLOG_BYTES_MAX / 2
            || !is_held_back.swap(false, Ordering::AcqRel)
    }

    fn send(&mut self) {
        if self.gathered.is_empty() {
            return;
        }
        self.backlog.bytes.fetch_add(self.gathered_bytes, Ordering::AcqRel);
        self.gathered_bytes = 0;
        // A session that is gone says so by its own command.
        let _ = self.deliveries.send(std::mem::take(&mut self.gathered));
    }
}

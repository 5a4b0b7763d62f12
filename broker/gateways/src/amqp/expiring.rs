//! Queues of AMQP that end when nobody uses them (`x-expires`), by the topics that hold them.
//!
//! Looked for anew only when an object of AMQP has changed: queues' tasks and the look after queues ask each time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use plimsoll_amqp::error::Resource;
use plimsoll_amqp::routing::QueueArguments;
use plimsoll_amqp::table::FieldTable;
use plimsoll_protocol::ids::TopicName;
use plimsoll_state::catalog::Catalog;
use plimsoll_state::catalog::amqp::{AmqpCommand, AmqpText};

/// A queue that ends when nobody uses it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Expiring {
    vhost: AmqpText,
    name: AmqpText,
    declaration: u64,
    /// How long it may be unused; at least 1 ms.
    pub(crate) unused_max: Duration,
}

impl Expiring {
    /// The command that ends it, and no other queue of its name.
    pub(crate) fn end(&self) -> AmqpCommand {
        AmqpCommand::DeleteQueue {
            vhost: self.vhost.clone(),
            name: self.name.clone(),
            declaration: self.declaration,
        }
    }
}

/// Those of a catalog.
pub(crate) type ExpiringByTopic = BTreeMap<TopicName, Expiring>;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct ExpiringQueues {
    /// What was found last, and at which epoch of the objects of AMQP.
    last: Mutex<Option<(u64, Arc<ExpiringByTopic>)>>,
}

impl ExpiringQueues {
    /// Those of this catalog.
    pub(crate) fn of(&self, catalog: &Catalog) -> Arc<ExpiringByTopic> {
        let epoch = catalog.amqp().epoch();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, found)) = &*last
            && *of == epoch
        {
            return Arc::clone(found);
        }
        let found = Arc::new(find(catalog));
        *last = Some((epoch, Arc::clone(&found)));
        found
    }
}

fn find(catalog: &Catalog) -> ExpiringByTopic {
    let mut found = BTreeMap::new();
    for (vhost, objects) in catalog.amqp().vhosts() {
        for (name, queue) in objects.queues() {
            if let Some(unused_max) = unused_max(&queue.spec.arguments) {
                let (vhost, name) = (vhost.clone(), name.clone());
                let declaration = queue.declaration;
                let expiring = Expiring { vhost, name, declaration, unused_max };
                found.insert(queue.spec.topic.clone(), expiring);
            }
        }
    }
    found
}

fn unused_max(arguments: &Bytes) -> Option<Duration> {
    if arguments.is_empty() {
        return None;
    }
    // They were checked before the queue was declared, by this or a newer build.
    let table = FieldTable::parse(arguments.clone()).ok()?;
    table.find("x-expires")?;
    let read = QueueArguments::read(&table, Resource::queue("", "")).ok()?;
    read.expires_ms.map(|ms| Duration::from_millis(ms.into()))
}

#[cfg(test)]
mod tests {
    use plimsoll_amqp::table::{FieldValue, TableBuilder};

    use super::*;

    #[test]
    fn time_is_that_of_the_argument() {
        let bytes = |table: FieldTable| Bytes::copy_from_slice(table.as_bytes());
        assert_eq!(unused_max(&Bytes::new()), None);
        let other = TableBuilder::new().text("x-queue-type", "quorum").build().unwrap();
        assert_eq!(unused_max(&bytes(other)), None);
        let ending = TableBuilder::new().field("x-expires", FieldValue::I32(1500)).build().unwrap();
        assert_eq!(unused_max(&bytes(ending)), Some(Duration::from_millis(1500)));
    }
}

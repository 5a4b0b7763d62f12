//! Messages that died: what becomes of one that a queue gives up, with `x-death` and its like, where it
//! goes, and that it does not go round for ever. Pure: the broker gives the dead letter and publishes
//! what comes out.
//!
//! Source: RabbitMQ, "Dead Letter Exchanges": effects on messages, routing, cycles.

use bytes::Bytes;
use plimsoll_amqp::properties::Properties;
use plimsoll_amqp::routing::{MessageKeys, Topology};
use plimsoll_amqp::shortstr::ShortStr;
use plimsoll_amqp::table::{ArrayBuilder, FieldTable, FieldValue, TableBuilder, TableRef};

use crate::backend::Record;
use crate::catalog::QueueEntry;
use crate::message::{self, Stored};

/// Why a message died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    /// A consumer did not want it.
    Rejected,
    /// Its time, or the queue's, was over.
    Expired,
    /// The queue was too long.
    MaxLength,
    /// It was delivered too often.
    DeliveryLimit,
}

impl Death {
    /// Its name in the headers.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::MaxLength => "maxlen",
            Self::DeliveryLimit => "delivery_limit",
        }
    }
}

/// A message on its way to a dead letter exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// The exchange that it goes to.
    pub exchange: ShortStr,
    /// Its key there.
    pub routing_key: ShortStr,
    /// Its properties, with the headers that say how it died.
    pub properties: Properties,
    /// Its body.
    pub body: Bytes,
    death: Death,
}

const X_DEATH: &str = "x-death";

/// What becomes of a message that `queue` gave up at `now_ms` (since 1970); none: it is dropped, the
/// queue has no dead letter exchange.
#[must_use]
pub fn dead_letter(
    queue: &QueueEntry,
    record: &Stored,
    death: Death,
    now_ms: i64,
) -> Option<DeadLetter> {
    let exchange = queue.arguments.dead_letter_exchange.clone()?;
    let mut properties = record.properties();
    let from = record.exchange();
    let own_key = record.routing_key(&queue.name);
    let routing_key = queue.arguments.dead_letter_routing_key.clone();
    let expiration = properties.expiration.take();
    let headers = properties.headers.take().unwrap_or_default();
    let event = event(&headers, queue, &own_key, &from, death, expiration.as_ref(), now_ms);
    let deaths = deaths(headers.fields(), &event);

    let ours = |name: &[u8]| {
        name == X_DEATH.as_bytes()
            || name.starts_with(b"x-last-death-")
            || name == b"BCC"
            || name == b"CC" && routing_key.is_some()
    };
    let mut table = headers
        .fields()
        .iter()
        .filter(|(name, _)| !ours(name))
        .fold(TableBuilder::new(), |table, (name, value)| table.field(name, value))
        .field(X_DEATH, deaths.as_value());
    let facts = [("queue", &*queue.name), ("reason", death.name()), ("exchange", &*from)];
    for (what, value) in facts {
        let first = format!("x-first-death-{what}");
        if headers.find(&first).is_none() {
            table = table.text(&first, value);
        }
        table = table.text(&format!("x-last-death-{what}"), value);
    }
    properties.headers = Some(table.build().expect("as deep as it was, or four"));
    let routing_key = routing_key.unwrap_or(own_key);
    Some(DeadLetter { exchange, routing_key, properties, body: record.value.clone(), death })
}

/// The entry of this death, where there is none of this queue and reason yet.
fn event(
    headers: &FieldTable,
    queue: &QueueEntry,
    own_key: &ShortStr,
    from: &ShortStr,
    death: Death,
    expiration: Option<&ShortStr>,
    now_ms: i64,
) -> FieldTable {
    let mut keys = ArrayBuilder::default();
    keys.push(FieldValue::LongStr(own_key.as_bytes()));
    if let Some(FieldValue::Array(copies)) = headers.find("CC") {
        copies.iter().for_each(|key| keys.push(key));
    }
    let mut event = TableBuilder::new()
        .field("count", FieldValue::I64(1))
        .text("reason", death.name())
        .text("queue", &queue.name)
        .field("time", FieldValue::Timestamp(u64::try_from(now_ms / 1000).unwrap_or(0)))
        .text("exchange", from)
        .field("routing-keys", keys.as_value());
    if let Some(expiration) = expiration {
        event = event.text("original-expiration", expiration);
    }
    event.build().expect("a table with an array of texts")
}

fn events<'a>(headers: TableRef<'a>) -> impl Iterator<Item = TableRef<'a>> {
    let deaths = match headers.find(X_DEATH) {
        Some(FieldValue::Array(deaths)) => Some(deaths),
        _ => None,
    };
    let tables = |value| match value {
        FieldValue::Table(event) => Some(event),
        _ => None,
    };
    deaths.into_iter().flat_map(|deaths| deaths.iter()).filter_map(tables)
}

/// The deaths of the message with this one: a queue and reason is there once, with a count, and the
/// latest is the first.
fn deaths(headers: TableRef<'_>, event: &FieldTable) -> ArrayBuilder {
    let event = event.fields();
    let same = |other: &TableRef<'_>| {
        other.find("queue") == event.find("queue") && other.find("reason") == event.find("reason")
    };
    let mut all = ArrayBuilder::default();
    let known = events(headers).find(same);
    match known {
        None => all.push(FieldValue::Table(event)),
        Some(known) => {
            let count = known.find("count").and_then(|count| count.as_integer()).unwrap_or(0);
            let counted = known
                .iter()
                .filter(|(name, _)| *name != b"count")
                .fold(TableBuilder::new(), |table, (name, value)| table.field(name, value))
                .field("count", FieldValue::I64(count.saturating_add(1)))
                .build()
                .expect("fields of a table that was read");
            all.push(FieldValue::Table(counted.fields()));
        }
    }
    for other in events(headers).filter(|other| !same(other)) {
        all.push(FieldValue::Table(other));
    }
    all
}

impl DeadLetter {
    /// The queues that it goes to: none where the exchange is missing. A queue that it has been in
    /// already, without that anybody rejected it since, does not get it again.
    #[must_use]
    pub fn route(&self, topology: &Topology) -> Vec<ShortStr> {
        let Ok(keys) = MessageKeys::new(&self.routing_key, &self.properties) else {
            return Vec::new();
        };
        let routes = topology.route(&self.exchange, &keys);
        routes.queues.into_iter().filter(|queue| !self.is_cycle(queue)).collect()
    }

    fn is_cycle(&self, queue: &str) -> bool {
        let Some(headers) = self.properties.headers.as_ref() else { return false };
        if self.death == Death::Rejected {
            return false;
        }
        let text = |text: &str, value: Option<FieldValue<'_>>| {
            value == Some(FieldValue::LongStr(text.as_bytes()))
        };
        for event in events(headers.fields()) {
            if text(Death::Rejected.name(), event.find("reason")) {
                return false;
            }
            if text(queue, event.find("queue")) {
                return true;
            }
        }
        false
    }

    /// The record to append to one of those queues.
    #[must_use]
    pub fn record(&self, queue: &QueueEntry, now_ms: i64) -> Record {
        let bytes = |text: &ShortStr| Bytes::copy_from_slice(text.as_bytes());
        let (exchange, routing_key) = (bytes(&self.exchange), bytes(&self.routing_key));
        let (encoded, body) = (self.properties.to_bytes(), self.body.clone());
        message::record(exchange, routing_key, encoded, body, &self.properties, now_ms, None)
            .for_queue(queue)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use plimsoll_amqp::routing::QueueShape;

    use super::*;

    fn s(text: &str) -> ShortStr {
        ShortStr::cut(text)
    }

    fn queue(name: &str, arguments: &[(&str, &str)]) -> QueueEntry {
        let arguments = arguments
            .iter()
            .fold(TableBuilder::new(), |table, (name, value)| table.text(name, value))
            .build()
            .unwrap();
        let shape = QueueShape { arguments, ..QueueShape::default() };
        QueueEntry::new(s(name), shape, None, Arc::from(name), 1).unwrap()
    }

    fn stored(properties: &Properties) -> Stored {
        let record = message::record(
            Bytes::from_static(b"ex"),
            Bytes::from_static(b"key"),
            properties.to_bytes(),
            Bytes::from_static(b"body"),
            properties,
            0,
            None,
        );
        Stored::new(record.value, 0, record.headers)
    }

    fn again(letter: &DeadLetter, into: &QueueEntry) -> Stored {
        let record = letter.record(into, 0);
        Stored::new(record.value, 0, record.headers)
    }

    #[test]
    fn without_exchange_it_is_dropped() {
        let record = stored(&Properties::default());
        assert_eq!(dead_letter(&queue("q", &[]), &record, Death::Expired, 0), None);
    }

    #[test]
    fn headers_say_how_it_died_and_its_life_is_over() {
        let queue = queue("q", &[("x-dead-letter-exchange", "dlx")]);
        let properties = Properties { expiration: Some(s("60")), ..Properties::default() };
        let letter = dead_letter(&queue, &stored(&properties), Death::Expired, 5_000).unwrap();
        assert_eq!((&*letter.exchange, &*letter.routing_key), ("dlx", "key"));
        assert_eq!(letter.properties.expiration, None);
        assert_eq!(letter.record(&queue, 0).expires_at_ms, None);
        let headers = letter.properties.headers.unwrap();
        for when in ["first", "last"] {
            let find = |what: &str| headers.find(&format!("x-{when}-death-{what}"));
            assert_eq!(find("queue"), Some(FieldValue::LongStr(b"q")));
            assert_eq!(find("reason"), Some(FieldValue::LongStr(b"expired")));
            assert_eq!(find("exchange"), Some(FieldValue::LongStr(b"ex")));
        }
        let event = events(headers.fields()).next().unwrap();
        assert_eq!(event.find("count"), Some(FieldValue::I64(1)));
        assert_eq!(event.find("time"), Some(FieldValue::Timestamp(5)));
        assert_eq!(event.find("original-expiration"), Some(FieldValue::LongStr(b"60")));
        let Some(FieldValue::Array(keys)) = event.find("routing-keys") else { panic!("{event:?}") };
        assert_eq!(keys.iter().collect::<Vec<_>>(), [FieldValue::LongStr(b"key")]);
    }

    #[test]
    fn same_death_is_counted_and_the_latest_is_first() {
        let one = queue("one", &[("x-dead-letter-exchange", "dlx")]);
        let two = queue("two", &[("x-dead-letter-exchange", "dlx")]);
        let record = stored(&Properties::default());
        let letter = dead_letter(&one, &record, Death::Rejected, 0).unwrap();
        let letter = dead_letter(&two, &again(&letter, &two), Death::Expired, 0).unwrap();
        let letter = dead_letter(&one, &again(&letter, &one), Death::Rejected, 0).unwrap();
        let headers = letter.properties.headers.unwrap();
        let seen: Vec<_> = events(headers.fields())
            .map(|event| {
                let queue = event.find("queue").unwrap().as_text().unwrap().to_owned();
                (queue, event.find("count").unwrap().as_integer().unwrap())
            })
            .collect();
        assert_eq!(seen, [("one".to_owned(), 2), ("two".to_owned(), 1)]);
        assert_eq!(headers.find("x-first-death-queue"), Some(FieldValue::LongStr(b"one")));
    }

    #[test]
    fn own_key_replaces_keys_of_the_sender() {
        let arguments = [("x-dead-letter-exchange", ""), ("x-dead-letter-routing-key", "dead")];
        let mut copies = ArrayBuilder::default();
        copies.push(FieldValue::LongStr(b"copy"));
        let headers = TableBuilder::new().field("CC", copies.as_value()).build().unwrap();
        let record = stored(&Properties { headers: Some(headers), ..Properties::default() });
        let mut topology = Topology::new(s("/"));
        topology.add_queue(s("dead"));
        topology.add_queue(s("copy"));
        topology.add_queue(s("key"));

        let letter = dead_letter(&queue("q", &arguments), &record, Death::Rejected, 0).unwrap();
        assert_eq!(letter.route(&topology), [s("dead")]);
        let letter =
            dead_letter(&queue("q", &arguments[..1]), &record, Death::Rejected, 0).unwrap();
        assert_eq!(letter.route(&topology), [s("copy"), s("key")]);
    }

    #[test]
    fn message_does_not_go_round_unless_somebody_rejected_it() {
        let retry = [("x-dead-letter-exchange", ""), ("x-dead-letter-routing-key", "work")];
        let wait = [("x-dead-letter-exchange", ""), ("x-dead-letter-routing-key", "wait")];
        let (work, wait) = (queue("work", &wait), queue("wait", &retry));
        let mut topology = Topology::new(s("/"));
        topology.add_queue(s("work"));
        topology.add_queue(s("wait"));
        let record = stored(&Properties::default());
        for (death, goes_on) in [(Death::Rejected, true), (Death::Expired, false)] {
            let letter = dead_letter(&work, &record, death, 0).unwrap();
            assert_eq!(letter.route(&topology), [s("wait")]);
            let letter = dead_letter(&wait, &again(&letter, &wait), Death::Expired, 0).unwrap();
            assert_eq!(letter.route(&topology).len(), usize::from(goes_on), "{death:?}");
        }
        // Into itself.
        let own = [("x-dead-letter-exchange", ""), ("x-dead-letter-routing-key", "work")];
        let letter = dead_letter(&queue("work", &own), &record, Death::Expired, 0).unwrap();
        assert!(letter.route(&topology).is_empty());
    }
}

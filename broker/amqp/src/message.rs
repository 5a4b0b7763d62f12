//! AMQP messages as records that native clients can read, and records as AMQP messages.
//!
//! ```text
//!  AMQP                         record
//!  body                    <->  value
//!  exchange                <->  header `amqp-exchange`
//!  routing key             <->  header `amqp-routing-key`
//!  properties, encoded     <->  header `amqp-properties`, without BCC
//!  property priority        ->  priority, at most the queue's highest
//!  property expiration      ->  expires at
//!  header x-delay           ->  deliver at, where the exchange is of type `x-delayed-message`
//!  header x-fence           ->  the lock that it is published under; not stored
//!  headers, as long strings <-  the other headers, of native producers
//!  timestamp, in seconds    <-  timestamp, of native producers
//!  header x-delivery-count  <-  attempts before this one, where there were any
//!  header x-stream-offset   <-  offset, of streams
//! ```

use std::sync::Arc;

use bytes::Bytes;
use plimsoll_amqp::content::Content;
use plimsoll_amqp::error::{Fault, ReplyCode};
use plimsoll_amqp::properties::Properties;
use plimsoll_amqp::session::{Delivery as Delivered, MessageRef, Publish, expiration_ms};
use plimsoll_amqp::shortstr::ShortStr;
use plimsoll_amqp::table::{FieldTable, FieldValue, TableBuilder};

use crate::backend::{Delivery, Record};
use crate::catalog::QueueEntry;

/// The record header with the exchange.
pub const EXCHANGE_HEADER: &str = "amqp-exchange";
/// The record header with the routing key.
pub const ROUTING_KEY_HEADER: &str = "amqp-routing-key";
/// The record header with the encoded properties.
pub const PROPERTIES_HEADER: &str = "amqp-properties";

/// The message header with the number of deliveries before this one.
const DELIVERY_COUNT: &str = "x-delivery-count";
/// The message header with the lock that a message is published under: `namespace/lock/token`.
const FENCE: &str = "x-fence";
/// The message header with its place in a stream.
const STREAM_OFFSET: &str = "x-stream-offset";
/// Bytes of a native record's headers that are delivered; those beyond are left out, so that they fit
/// into one frame.
const NATIVE_HEADERS_BYTES_MAX: usize = 64 << 10;

/// A record as it is stored, the headers of AMQP apart from the others.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stored {
    /// The value.
    pub value: Bytes,
    /// When it was made, in milliseconds since 1970.
    pub timestamp_ms: i64,
    exchange: Option<Bytes>,
    routing_key: Option<Bytes>,
    properties: Option<Bytes>,
    headers: Vec<(Bytes, Bytes)>,
}

impl Stored {
    /// A record with these headers, names and values. Allocates for headers that are not AMQP's only.
    pub fn new<N: AsRef<[u8]>>(
        value: Bytes,
        timestamp_ms: i64,
        headers: impl IntoIterator<Item = (N, Bytes)>,
    ) -> Self {
        let mut stored = Self { value, timestamp_ms, ..Self::default() };
        for (name, value) in headers {
            match name.as_ref() {
                name if name == EXCHANGE_HEADER.as_bytes() => stored.exchange = Some(value),
                name if name == ROUTING_KEY_HEADER.as_bytes() => stored.routing_key = Some(value),
                name if name == PROPERTIES_HEADER.as_bytes() => stored.properties = Some(value),
                name => stored.headers.push((Bytes::copy_from_slice(name), value)),
            }
        }
        stored
    }

    /// Bytes of its parts.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let length = |part: &Option<Bytes>| part.as_ref().map_or(0, Bytes::len);
        let headers: usize =
            self.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        let own = length(&self.exchange) + length(&self.routing_key) + length(&self.properties);
        self.value.len() + own + headers
    }

    /// The exchange that it was published to; empty for native producers.
    #[must_use]
    pub fn exchange(&self) -> ShortStr {
        self.exchange.as_deref().map(short).unwrap_or_default()
    }

    /// The key that it was published with, for native producers the queue's name.
    #[must_use]
    pub fn routing_key(&self, queue: &ShortStr) -> ShortStr {
        self.routing_key.as_deref().map_or_else(|| queue.clone(), short)
    }

    /// Its properties; where they are missing or make no sense, those that a native record has.
    #[must_use]
    pub fn properties(&self) -> Properties {
        let read = self.properties.as_ref().and_then(|encoded| Properties::read(encoded).ok());
        read.unwrap_or_else(|| self.native_properties())
    }

    fn native_properties(&self) -> Properties {
        let mut left = NATIVE_HEADERS_BYTES_MAX;
        let fitting = self.headers.iter().take_while(|(name, value)| {
            let bytes = name.len() + value.len();
            let fits = bytes <= left;
            left = left.saturating_sub(bytes);
            fits
        });
        let table = fitting
            .fold(TableBuilder::new(), |table, (name, value)| {
                table.field(name, FieldValue::LongStr(value))
            })
            .build()
            .expect("a table of long strings");
        let seconds = u64::try_from(self.timestamp_ms / 1000).ok();
        Properties {
            headers: (!table.is_empty()).then_some(table),
            timestamp: seconds,
            delivery_mode: Some(2),
            ..Properties::default()
        }
    }

    /// Its properties as a reader of a stream gets them.
    fn read_properties(&self, offset: u64) -> Bytes {
        let mut properties = self.properties();
        let offset = FieldValue::I64(i64::try_from(offset).unwrap_or(i64::MAX));
        properties.headers = Some(with_header(properties.headers.as_ref(), STREAM_OFFSET, offset));
        properties.to_bytes()
    }

    /// Its properties as a consumer gets them.
    fn delivered_properties(&self, attempt: u32) -> Bytes {
        let encoded = self.properties.as_ref();
        if attempt <= 1
            && let Some(encoded) = encoded.filter(|encoded| Properties::read(encoded).is_ok())
        {
            return encoded.clone();
        }
        let mut properties = self.properties();
        if attempt > 1 {
            let count = FieldValue::I64(i64::from(attempt) - 1);
            properties.headers =
                Some(with_header(properties.headers.as_ref(), DELIVERY_COUNT, count));
        }
        properties.to_bytes()
    }
}

fn short(bytes: &[u8]) -> ShortStr {
    ShortStr::cut(&String::from_utf8_lossy(bytes))
}

/// The same headers with one more, in place of one of the same name.
pub(crate) fn with_header(
    headers: Option<&FieldTable>,
    name: &str,
    value: FieldValue<'_>,
) -> FieldTable {
    without_header(headers, name)
        .field(name, value)
        .build()
        .expect("fields of a table that was read, and a flat one or one as deep as they")
}

/// The headers but those of this name.
fn without_header(headers: Option<&FieldTable>, name: &str) -> TableBuilder {
    let others = headers.into_iter().flat_map(|headers| headers.fields().iter());
    others
        .filter(|(other, _)| *other != name.as_bytes())
        .fold(TableBuilder::new(), |table, (name, value)| table.field(name, value))
}

/// Takes the lock off a message that it is published under, and the header with it: who publishes anew what was
/// delivered does not do that under the lock of another.
///
/// # Errors
/// 406 where the header is no text.
pub(crate) fn take_fence(content: &mut Content) -> Result<Option<Arc<str>>, Fault> {
    let Some(headers) = &content.properties.headers else { return Ok(None) };
    let fence = match headers.find(FENCE) {
        None => return Ok(None),
        Some(FieldValue::LongStr(text)) => std::str::from_utf8(text).ok().map(Arc::from),
        Some(_) => None,
    };
    let fence = fence.ok_or_else(|| {
        let text = "header x-fence must be a text, NAMESPACE/LOCK/TOKEN";
        Fault::new(ReplyCode::PreconditionFailed, text)
    })?;
    let others = without_header(Some(headers), FENCE).build();
    content.properties.headers = Some(others.expect("fields of a table that was read"));
    content.encoded = content.properties.to_bytes();
    Ok(Some(fence))
}

/// A name that was seen last, in the form that is wanted next: most messages of a connection have the
/// same exchange, many the same key.
#[derive(Debug, Default)]
pub(crate) struct LastName {
    text: ShortStr,
    bytes: Bytes,
}

impl LastName {
    pub(crate) fn bytes(&mut self, text: &ShortStr) -> Bytes {
        if self.text != *text {
            self.bytes = Bytes::copy_from_slice(text.as_bytes());
            self.text = text.clone();
        }
        self.bytes.clone()
    }

    fn text(&mut self, bytes: &[u8]) -> ShortStr {
        if self.text.as_bytes() != bytes {
            self.text = short(bytes);
        }
        self.text.clone()
    }
}

/// Exchange and key that were seen last.
#[derive(Debug, Default)]
pub(crate) struct LastNames {
    exchange: LastName,
    routing_key: LastName,
}

impl LastNames {
    /// The record of a message that was published so, for queues without priorities.
    ///
    /// Precondition: the session has checked the expiration.
    pub(crate) fn record(
        &mut self,
        publish: &Publish,
        now_ms: i64,
        delay_ms: Option<u64>,
        fence: Option<Arc<str>>,
    ) -> Record {
        let properties = &publish.content.properties;
        let encoded = match plimsoll_amqp::routing::without_bcc(properties) {
            Some(kept) => kept.to_bytes(),
            None => publish.content.encoded.clone(),
        };
        let exchange = self.exchange.bytes(&publish.exchange);
        let routing_key = self.routing_key.bytes(&publish.routing_key);
        let body = publish.content.body.clone();
        Record {
            deliver_at_ms: delay_ms.map(|delay| later(now_ms, delay)),
            fence,
            ..record(exchange, routing_key, encoded, body, properties, now_ms, delay_ms)
        }
    }

    /// A message as a consumer gets it.
    pub(crate) fn delivered(
        &mut self,
        delivery: Delivery,
        holder: u32,
        queue: &QueueEntry,
    ) -> Delivered {
        let Delivery { offset, attempt, record } = delivery;
        let exchange = record.exchange.as_deref().unwrap_or_default();
        Delivered {
            message: message_ref(holder, offset, attempt),
            redelivered: attempt > 1,
            exchange: self.exchange.text(exchange),
            routing_key: match &record.routing_key {
                Some(key) => self.routing_key.text(key),
                None => queue.name.clone(),
            },
            properties: match queue.is_stream() {
                true => record.read_properties(offset),
                false => record.delivered_properties(attempt),
            },
            body: record.value,
        }
    }
}

fn later(now_ms: i64, after_ms: u64) -> i64 {
    now_ms.saturating_add(i64::try_from(after_ms).unwrap_or(i64::MAX))
}

/// A record with these parts; its life begins when its delay is over.
pub(crate) fn record(
    exchange: Bytes,
    routing_key: Bytes,
    encoded: Bytes,
    value: Bytes,
    properties: &Properties,
    now_ms: i64,
    delay_ms: Option<u64>,
) -> Record {
    let begins_ms = later(now_ms, delay_ms.unwrap_or(0));
    let life_ms = expiration_ms(properties).ok().flatten();
    Record {
        value,
        headers: vec![
            (Bytes::from_static(EXCHANGE_HEADER.as_bytes()), exchange),
            (Bytes::from_static(ROUTING_KEY_HEADER.as_bytes()), routing_key),
            (Bytes::from_static(PROPERTIES_HEADER.as_bytes()), encoded),
        ],
        timestamp_ms: now_ms,
        priority: properties.priority,
        deliver_at_ms: None,
        expires_at_ms: life_ms.map(|life| later(begins_ms, life.into())),
        fence: None,
    }
}

impl Record {
    /// The record as this queue takes it: a priority that it has, or none.
    #[must_use]
    pub fn for_queue(mut self, queue: &QueueEntry) -> Self {
        let most = queue.arguments.max_priority;
        self.priority = most.map(|most| self.priority.unwrap_or(0).min(most));
        self
    }
}

/// The session's name of a delivery: who holds it, which, and which attempt.
fn message_ref(holder: u32, offset: u64, attempt: u32) -> MessageRef {
    MessageRef { queue: u64::from(holder) << 32 | u64::from(attempt), message: offset }
}

/// Holder, offset and attempt of a delivery.
pub(crate) fn of_message_ref(message: MessageRef) -> (u32, u64, u32) {
    let holder = u32::try_from(message.queue >> 32).expect("the upper half");
    (holder, message.message, message.queue as u32)
}

#[cfg(test)]
mod tests {
    use plimsoll_amqp::routing::QueueShape;

    use super::*;

    fn native() -> Stored {
        let headers = [("ship", Bytes::from_static(b"Titanic"))];
        Stored::new(Bytes::from_static(b"body"), 1_700_000_000_123, headers)
    }

    fn queue(kind: &str) -> QueueEntry {
        let arguments = TableBuilder::new().text("x-queue-type", kind).build().unwrap();
        let shape = QueueShape { durable: true, arguments, ..QueueShape::default() };
        QueueEntry::new(ShortStr::cut("q"), shape, None, "topic".into(), 1).unwrap()
    }

    #[test]
    fn reader_of_a_stream_is_told_the_offset() {
        let delivery = Delivery { offset: 7, attempt: 1, record: native() };
        let delivered = LastNames::default().delivered(delivery, 3, &queue("stream"));
        let headers = Properties::read(&delivered.properties).unwrap().headers.unwrap();
        assert_eq!(headers.find(STREAM_OFFSET), Some(FieldValue::I64(7)));
        assert_eq!(headers.find("ship"), Some(FieldValue::LongStr(b"Titanic")));
    }

    #[test]
    fn native_record_is_delivered_with_its_headers_as_text() {
        let delivery = Delivery { offset: 7, attempt: 1, record: native() };
        let delivered = LastNames::default().delivered(delivery, 3, &queue("classic"));
        assert_eq!((&*delivered.exchange, &*delivered.routing_key), ("", "q"));
        assert!(!delivered.redelivered);
        assert_eq!(of_message_ref(delivered.message), (3, 7, 1));
        let properties = Properties::read(&delivered.properties).unwrap();
        assert_eq!(properties.timestamp, Some(1_700_000_000));
        let headers = properties.headers.unwrap();
        assert_eq!(headers.find("ship"), Some(FieldValue::LongStr(b"Titanic")));
    }

    #[test]
    fn redelivery_counts_the_attempts_before() {
        let delivery = Delivery { offset: 7, attempt: 3, record: native() };
        let delivered = LastNames::default().delivered(delivery, u32::MAX, &queue("classic"));
        assert!(delivered.redelivered);
        assert_eq!(of_message_ref(delivered.message), (u32::MAX, 7, 3));
        let headers = Properties::read(&delivered.properties).unwrap().headers.unwrap();
        assert_eq!(headers.find(DELIVERY_COUNT), Some(FieldValue::I64(2)));
        assert_eq!(headers.find("ship"), Some(FieldValue::LongStr(b"Titanic")));
    }

    /// A native producer may put anything into the header of that name.
    #[test]
    fn properties_that_make_no_sense_are_not_passed_on() {
        let headers = [(PROPERTIES_HEADER, Bytes::from_static(b"\xff\xff\xff"))];
        let record = Stored::new(Bytes::new(), 0, headers);
        assert!(Properties::read(&record.delivered_properties(1)).is_ok());
    }
}

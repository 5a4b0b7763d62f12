//! The arguments of a queue, read once where it is declared: what they ask for, or why they cannot be.
//!
//! Source: RabbitMQ, "Queues", optional arguments; texts show values as Erlang terms.

use super::equivalence::{QueueShape, shown};
use crate::error::{Fault, ReplyCode, Resource};
use crate::shortstr::ShortStr;
use crate::table::{FieldTable, FieldValue};

/// Which of RabbitMQ's types of queue a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum QueueKind {
    /// What is meant where nothing is said.
    #[default]
    Classic,
    /// Replicated.
    Quorum,
    /// Read many times.
    Stream,
}

/// Arguments that every kind has.
const OF_ALL: [&str; 3] = ["x-max-length-bytes", "x-queue-leader-locator", "x-queue-type"];

impl QueueKind {
    const ALL: [Self; 3] = [Self::Classic, Self::Quorum, Self::Stream];

    /// Its name in `x-queue-type`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Classic => "classic",
            Self::Quorum => "quorum",
            Self::Stream => "stream",
        }
    }

    /// The kind that was asked for; none where it is unknown.
    #[must_use]
    pub fn of(arguments: &FieldTable) -> Option<Self> {
        let Some(value) = arguments.find("x-queue-type") else { return Some(Self::default()) };
        Self::ALL.into_iter().find(|kind| value == FieldValue::LongStr(kind.name().as_bytes()))
    }

    /// The arguments that mean something to it, in the order in which they are compared.
    pub fn arguments(self) -> impl Iterator<Item = &'static str> {
        let own: &[&str] = match self {
            Self::Classic => &[
                "x-expires",
                "x-message-ttl",
                "x-dead-letter-exchange",
                "x-dead-letter-routing-key",
                "x-max-length",
                "x-max-priority",
                "x-overflow",
                "x-queue-mode",
                "x-queue-version",
                "x-single-active-consumer",
            ],
            Self::Quorum => &[
                "x-dead-letter-exchange",
                "x-dead-letter-routing-key",
                "x-dead-letter-strategy",
                "x-expires",
                "x-max-length",
                "x-max-in-memory-length",
                "x-max-in-memory-bytes",
                "x-overflow",
                "x-single-active-consumer",
                "x-quorum-initial-group-size",
                "x-delivery-limit",
                "x-message-ttl",
            ],
            Self::Stream => &[
                "x-max-age",
                "x-stream-max-segment-size-bytes",
                "x-initial-cluster-size",
                "x-stream-filter-size-bytes",
            ],
        };
        own.iter().copied().chain(OF_ALL)
    }

    /// Checks that there are queues of this kind with these properties: what is replicated outlives
    /// connections and consumers.
    ///
    /// # Errors
    /// 406 for the first that its kind does not have.
    ///
    /// Source: RabbitMQ, "Quorum Queues" and "Streams", feature comparison.
    pub fn check(self, shape: &QueueShape, queue: Resource<'_>) -> Result<(), Fault> {
        let wrong = match self {
            Self::Classic => None,
            Self::Quorum | Self::Stream if shape.auto_delete => Some("auto-delete"),
            Self::Quorum | Self::Stream if shape.exclusive => Some("exclusive-owner"),
            Self::Quorum | Self::Stream if !shape.durable => Some("non-durable"),
            Self::Quorum | Self::Stream => None,
        };
        let Some(wrong) = wrong else { return Ok(()) };
        let text = format!("invalid property '{wrong}' for {queue}");
        Err(Fault::new(ReplyCode::PreconditionFailed, text))
    }
}

/// What happens to a message that has no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overflow {
    /// The oldest goes.
    #[default]
    DropHead,
    /// The new one is refused.
    RejectPublish,
    /// The new one is refused, and goes to the dead letter exchange.
    RejectPublishDlx,
}

/// What the arguments of a queue ask for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct QueueArguments {
    /// Which kind.
    pub kind: QueueKind,
    /// Unused so long, in milliseconds, it goes. At least 1.
    pub expires_ms: Option<u32>,
    /// How long messages live, in milliseconds.
    pub message_ttl_ms: Option<u32>,
    /// Where messages go that die.
    pub dead_letter_exchange: Option<ShortStr>,
    /// With which key; else with their own.
    pub dead_letter_routing_key: Option<ShortStr>,
    /// How many messages it holds.
    pub max_length: Option<u64>,
    /// How many bytes of bodies it holds.
    pub max_length_bytes: Option<u64>,
    /// What happens beyond.
    pub overflow: Overflow,
    /// The highest priority.
    pub max_priority: Option<u8>,
    /// Whether only one consumer is served at a time.
    pub single_active_consumer: bool,
    /// How often a message is delivered again before it dies.
    pub delivery_limit: Option<u64>,
    /// Of a stream, how old its messages become at least, in milliseconds.
    pub max_age_ms: Option<u64>,
    /// Of a stream, the size of the pieces that go as a whole, in bytes.
    pub segment_bytes: Option<u64>,
    /// Of a stream, on how many nodes it lies. At least 1.
    pub replicas: Option<u64>,
}

/// An argument's value, or what is wrong with it as an Erlang term.
type Checked<T> = Result<T, String>;

fn unacceptable<T>(value: FieldValue<'_>) -> Checked<T> {
    Err(format!("{{unacceptable_type,{}}}", value.type_name()))
}

fn integer(value: FieldValue<'_>) -> Checked<i64> {
    let wrong = || format!("\"expected integer, got {}\"", value.type_name());
    value.as_integer().ok_or_else(wrong)
}

fn natural(value: FieldValue<'_>) -> Checked<u64> {
    let number = integer(value)?;
    u64::try_from(number).map_err(|_| format!("{{value_negative,{number}}}"))
}

fn time_ms(value: FieldValue<'_>) -> Checked<u32> {
    let number = natural(value)?;
    u32::try_from(number).map_err(|_| format!("{{value_too_big,{number}}}"))
}

fn time_ms_not_zero(value: FieldValue<'_>) -> Checked<u32> {
    match time_ms(value)? {
        0 => Err("{value_zero,0}".to_owned()),
        time => Ok(time),
    }
}

fn priority(value: FieldValue<'_>) -> Checked<u8> {
    let number = natural(value)?;
    u8::try_from(number).map_err(|_| format!("{{max_value_exceeded,{number}}}"))
}

fn name(value: FieldValue<'_>) -> Checked<ShortStr> {
    match value {
        FieldValue::LongStr(bytes) => Ok(ShortStr::cut(&String::from_utf8_lossy(bytes))),
        other => unacceptable(other),
    }
}

fn flag(value: FieldValue<'_>) -> Checked<bool> {
    match value {
        FieldValue::Bool(flag) => Ok(flag),
        other => unacceptable(other),
    }
}

fn overflow(value: FieldValue<'_>) -> Checked<Overflow> {
    match value {
        FieldValue::LongStr(b"drop-head") => Ok(Overflow::DropHead),
        FieldValue::LongStr(b"reject-publish") => Ok(Overflow::RejectPublish),
        FieldValue::LongStr(b"reject-publish-dlx") => Ok(Overflow::RejectPublishDlx),
        FieldValue::LongStr(_) => Err("invalid_overflow".to_owned()),
        other => unacceptable(other),
    }
}

fn age(value: FieldValue<'_>) -> Checked<u64> {
    match value {
        FieldValue::LongStr(text) => age_ms(text).ok_or_else(|| "invalid_max_age".to_owned()),
        other => unacceptable(other),
    }
}

/// A number with a unit of `Y`, `M`, `D`, `h`, `m` or `s`, in milliseconds; a month has 30 days.
fn age_ms(text: &[u8]) -> Option<u64> {
    let (unit, digits) = text.split_last()?;
    let seconds: u64 = match unit {
        b'Y' => 365 * 24 * 60 * 60,
        b'M' => 30 * 24 * 60 * 60,
        b'D' => 24 * 60 * 60,
        b'h' => 60 * 60,
        b'm' => 60,
        b's' => 1,
        _ => return None,
    };
    let number = std::str::from_utf8(digits).ok().filter(|d| d.bytes().all(|d| d.is_ascii_digit()));
    let number: u64 = number?.parse().ok()?;
    Some(number.saturating_mul(seconds).saturating_mul(1000))
}

fn count_not_zero(value: FieldValue<'_>) -> Checked<u64> {
    match natural(value)? {
        0 => Err("{value_zero,0}".to_owned()),
        number => Ok(number),
    }
}

/// Where a consumer of a stream begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StreamStart {
    /// With the first message that is there.
    First,
    /// With the last one.
    Last,
    /// With the next that is published.
    #[default]
    Next,
    /// With this one, or the nearest that there is.
    Offset(u64),
    /// With the first that was published at or after this time, in milliseconds since 1970.
    Time(i64),
    /// With the first that is at most so old, in milliseconds.
    Age(u64),
}

impl StreamStart {
    /// What a consumer's arguments ask for.
    ///
    /// # Errors
    /// 406 where `x-stream-offset` means nothing.
    ///
    /// Source: RabbitMQ, "Streams", consuming.
    pub fn read(arguments: &FieldTable, queue: Resource<'_>) -> Result<Self, Fault> {
        let Some(value) = arguments.find("x-stream-offset") else { return Ok(Self::default()) };
        let start = match value {
            FieldValue::LongStr(b"first") => Some(Self::First),
            FieldValue::LongStr(b"last") => Some(Self::Last),
            FieldValue::LongStr(b"next") => Some(Self::Next),
            FieldValue::LongStr(text) => age_ms(text).map(Self::Age),
            FieldValue::Timestamp(seconds) => {
                let ms = i64::try_from(seconds.saturating_mul(1000)).unwrap_or(i64::MAX);
                Some(Self::Time(ms))
            }
            other => other.as_integer().and_then(|at| u64::try_from(at).ok()).map(Self::Offset),
        };
        start.ok_or_else(|| {
            let text = format!("invalid arg 'x-stream-offset' for {queue}: {}", shown(value));
            Fault::new(ReplyCode::PreconditionFailed, text)
        })
    }
}

fn unknown_kind(value: FieldValue<'_>) -> String {
    match value {
        FieldValue::LongStr(bytes) => {
            format!("\"unsupported queue type '{}'\"", String::from_utf8_lossy(bytes))
        }
        other => format!("{{unacceptable_type,{}}}", other.type_name()),
    }
}

impl QueueArguments {
    /// Reads the arguments of the queue `queue`. Those that nobody knows mean nothing.
    ///
    /// # Errors
    /// 406 for the first that has an impossible value or that its kind does not have.
    pub fn read(arguments: &FieldTable, queue: Resource<'_>) -> Result<Self, Fault> {
        let refused = |text: String| Fault::new(ReplyCode::PreconditionFailed, text);
        let invalid = |argument: &str, reason: String| {
            refused(format!("invalid arg '{argument}' for {queue}: {reason}"))
        };
        let Some(kind) = QueueKind::of(arguments) else {
            let value = arguments.find("x-queue-type").expect("an unknown kind was asked for");
            return Err(invalid("x-queue-type", unknown_kind(value)));
        };
        let has = |argument: &str| kind.arguments().any(|own| own == argument);
        let mut read = Self { kind, ..Self::default() };
        macro_rules! read {
            ($($argument:literal => $check:ident: $take:expr;)+) => {$(
                if let Some(value) = arguments.find($argument).filter(|_| has($argument)) {
                    let value = $check(value).map_err(|reason| invalid($argument, reason))?;
                    let take: fn(&mut Self, _) = $take;
                    take(&mut read, value);
                }
            )+};
        }
        read! {
            "x-expires" => time_ms_not_zero: |read, time| read.expires_ms = Some(time);
            "x-message-ttl" => time_ms: |read, time| read.message_ttl_ms = Some(time);
            "x-dead-letter-exchange" => name: |read, name| read.dead_letter_exchange = Some(name);
            "x-dead-letter-routing-key" => name:
                |read, key| read.dead_letter_routing_key = Some(key);
            "x-max-length" => natural: |read, count| read.max_length = Some(count);
            "x-max-length-bytes" => natural: |read, bytes| read.max_length_bytes = Some(bytes);
            "x-max-priority" => priority: |read, priority| read.max_priority = Some(priority);
            "x-overflow" => overflow: |read, overflow| read.overflow = overflow;
            "x-single-active-consumer" => flag: |read, flag| read.single_active_consumer = flag;
            "x-delivery-limit" => natural: |read, limit| read.delivery_limit = Some(limit);
            "x-max-age" => age: |read, age| read.max_age_ms = Some(age);
            "x-stream-max-segment-size-bytes" => count_not_zero:
                |read, bytes| read.segment_bytes = Some(bytes);
            "x-initial-cluster-size" => count_not_zero:
                |read, nodes| read.replicas = Some(nodes);
        }
        if read.dead_letter_routing_key.is_some() && read.dead_letter_exchange.is_none() {
            let reason = "routing_key_but_no_dlx_defined".to_owned();
            return Err(invalid("x-dead-letter-routing-key", reason));
        }
        let of_others = |argument: &[u8]| {
            let is = |own: &str| own.as_bytes() == argument;
            !kind.arguments().any(is)
                && QueueKind::ALL.iter().any(|other| other.arguments().any(is))
        };
        if let Some((argument, _)) = arguments.fields().iter().find(|(name, _)| of_others(name)) {
            let argument = String::from_utf8_lossy(argument);
            let kind = kind.name();
            let text =
                format!("invalid arg '{argument}' for {queue} of queue type rabbit_{kind}_queue");
            return Err(refused(text));
        }
        Ok(read)
    }
}

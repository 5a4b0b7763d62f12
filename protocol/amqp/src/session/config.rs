//! What a session may do and take. Parsed and checked by who owns the configuration.

use std::time::Duration;

use crate::table::{FieldTable, FieldValue, TableBuilder};

/// Limits and offers of a session.
#[derive(Debug, Clone)]
pub struct SessionConfig {
    /// Channels that a connection may have open, offered in `tune`; 0: as many as there are numbers.
    /// Default 2047. More: more memory for a peer that opens all.
    pub channel_max: u16,
    /// Bytes of a frame, offered in `tune`; 0 or at least 4096. Default 131,072. Larger: fewer frames
    /// per body, and as much memory for each connection that sends one.
    pub frame_bytes_max: u32,
    /// Bytes of a frame before limits are agreed. Default 4096.
    pub frame_bytes_max_before_tune: u32,
    /// Seconds between signs of life, offered in `tune`; 0: none asked for. Default 60. Shorter: dead
    /// peers are seen sooner, slow ones are taken for dead.
    pub heartbeat_s: u16,
    /// Bytes of a body. Default 16 MiB.
    pub message_bytes_max: u64,
    /// Consumers of one channel. Default 1024. More: more memory for a peer that has them all.
    pub consumers_per_channel_max: usize,
    /// Unsettled deliveries of one channel, whatever was asked for by `basic.qos`. Default 65,535.
    /// Fewer: clients without prefetch wait sooner.
    pub unsettled_per_channel_max: usize,
    /// Bytes that the open transaction of one channel may hold. Default 64 MiB.
    pub transaction_bytes_max: usize,
    /// Bytes of commands that wait, on all channels together, for an answer that their channel waits
    /// for. Beyond, nothing is read from the peer. Default 1 MiB.
    pub backlog_bytes_max: usize,
    /// Bytes that wait to be sent. Beyond, nothing is delivered and nothing read. Default 4 MiB.
    pub output_bytes_max: usize,
    /// From the first byte to the open virtual host. Default 10 s.
    pub handshake_timeout: Duration,
    /// How long the answer to a close is waited for. Default 30 s.
    pub close_timeout: Duration,
    /// How long a connection that was refused without a word stays open, so that guessing passwords
    /// takes time, and one that made no sense, so that it may read why. Default 3 s.
    pub linger: Duration,
    /// What `connection.start` says of the server.
    pub server_properties: FieldTable,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self {
            channel_max: 2047,
            frame_bytes_max: 131_072,
            frame_bytes_max_before_tune: 4096,
            heartbeat_s: 60,
            message_bytes_max: 16 << 20,
            consumers_per_channel_max: 1024,
            unsettled_per_channel_max: 65_535,
            transaction_bytes_max: 64 << 20,
            backlog_bytes_max: 1 << 20,
            output_bytes_max: 4 << 20,
            handshake_timeout: Duration::from_secs(10),
            close_timeout: Duration::from_secs(30),
            linger: Duration::from_secs(3),
            server_properties: server_properties("Plimsoll", env!("CARGO_PKG_VERSION")),
        }
    }
}

/// What clients look for in `connection.start`: who the server is and what it does beyond the
/// specification.
///
/// Source: RabbitMQ, "Clients", capabilities.
#[must_use]
pub fn server_properties(product: &str, version: &str) -> FieldTable {
    let extensions = [
        "publisher_confirms",
        "exchange_exchange_bindings",
        "basic.nack",
        "consumer_cancel_notify",
        "connection.blocked",
        "consumer_priorities",
        "authentication_failure_close",
        "per_consumer_qos",
        "direct_reply_to",
    ];
    let capabilities = extensions
        .into_iter()
        .fold(TableBuilder::new(), |table, name| table.field(name, FieldValue::Bool(true)))
        .build()
        .expect("a flat table");
    TableBuilder::new()
        .field("capabilities", FieldValue::Table(capabilities.fields()))
        .text("product", product)
        .text("version", version)
        .build()
        .expect("a table in a table")
}

/// What a client said that it understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Capabilities {
    /// It wants to be told when a consumer is cancelled by the server.
    pub consumer_cancel_notify: bool,
    /// It wants to be told when publishes are blocked.
    pub connection_blocked: bool,
    /// It wants a close when its login is refused, not silence.
    pub authentication_failure_close: bool,
}

impl Capabilities {
    /// Reads them from `connection.start-ok`.
    #[must_use]
    pub fn of(client_properties: &FieldTable) -> Self {
        let told = match client_properties.find("capabilities") {
            Some(FieldValue::Table(table)) => table,
            _ => return Self::default(),
        };
        let has = |name: &str| told.find(name) == Some(FieldValue::Bool(true));
        Self {
            consumer_cancel_notify: has("consumer_cancel_notify"),
            connection_blocked: has("connection.blocked"),
            authentication_failure_close: has("authentication_failure_close"),
        }
    }
}

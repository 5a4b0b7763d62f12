//! What a node lets its clients use. Hitting a limit is backpressure or a typed error, never growth.

use std::time::Duration;

use plimsoll_protocol::batch::BatchLimits;

/// The limits of a node's gateways. Units, bounds and what gets worse in each direction stand with
/// the settings of the same names in `broker/node/CONFIG.md`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections open at once. Default 4,096. Beyond: closed with `TooManyConnections`.
    pub connections_max: usize,
    /// Connections open at once from one address. Default 1,024. Beyond: as above.
    pub connections_per_address_max: usize,
    /// Connections that have not said Hello, handshakes included. Default 1,024. Beyond: refused.
    pub unauthenticated_max: usize,
    /// As above, from one address. Default 256. Beyond: refused.
    pub unauthenticated_per_address_max: usize,
    /// Time for the first request of a connection. Default 10 s. Beyond: closed with `HelloRequired`.
    pub hello_timeout: Duration,
    /// Largest frame after `Hello`, in bytes. Default 16 MiB. Beyond: the connection is closed with
    /// `FrameTooLarge`.
    pub frame_bytes_max: u32,
    /// What one batch may be; a topic may ask for less. Beyond: `BatchTooLarge`.
    pub batch: BatchLimits,
    /// Bytes of unanswered produce requests of the node. Default 256 MiB. Beyond: reading stops.
    pub in_flight_bytes_max: usize,
    /// Bytes of unanswered produce requests of one connection. Default 32 MiB. Beyond: reading stops.
    pub connection_in_flight_bytes_max: usize,
    /// Bytes of frames that are being received, of the node. Default 256 MiB. Beyond: reading stops.
    pub receiving_bytes_max: usize,
    /// Bytes of frames that are being received, of one connection. Default 32 MiB. Beyond: as above.
    pub connection_receiving_bytes_max: usize,
    /// While frames wait for room, a connection that has some must get on within this time, by 64 KiB
    /// and a sixteenth of what it has, and read the answers that its frames wait for. Default 10 s.
    /// Beyond: the connection is closed with `Timeout`.
    pub receive_stall_timeout: Duration,
    /// Bytes of compressed batches, as they are without compression, that are checked at once.
    /// Default 256 MiB. Beyond: reading stops.
    pub checking_bytes_max: usize,
    /// Requests of one stream that are worked on at once, besides produce. Default 256. Beyond:
    /// reading stops.
    pub requests_per_stream_max: usize,
    /// Subscriptions of the node. Default 100,000. Beyond: `TooManySubscriptions`.
    pub subscriptions_max: usize,
    /// Subscriptions of one connection. Default 8,192. Beyond: as above.
    pub subscriptions_per_connection_max: usize,
    /// Payload bytes of a pushed or fetched frame, where the client asks for no less. Default 1 MiB.
    pub delivery_bytes: u32,
    /// Longest time that a fetch may wait for records. Default 60 s. Longer waits are cut to it.
    pub fetch_wait_max: Duration,
    /// Topics of the node. Default 100,000. Beyond: `TooManyPartitions`.
    pub topics_max: usize,
    /// Partitions of one topic. Default 100,000. Beyond: `TooManyPartitions`.
    pub partitions_per_topic_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 4096,
            connections_per_address_max: 1024,
            unauthenticated_max: 1024,
            unauthenticated_per_address_max: 256,
            hello_timeout: Duration::from_secs(10),
            frame_bytes_max: 16 << 20,
            batch: BatchLimits::default(),
            in_flight_bytes_max: 256 << 20,
            connection_in_flight_bytes_max: 32 << 20,
            receiving_bytes_max: 256 << 20,
            connection_receiving_bytes_max: 32 << 20,
            receive_stall_timeout: Duration::from_secs(10),
            checking_bytes_max: 256 << 20,
            requests_per_stream_max: 256,
            subscriptions_max: 100_000,
            subscriptions_per_connection_max: 8192,
            delivery_bytes: 1 << 20,
            fetch_wait_max: Duration::from_secs(60),
            topics_max: 100_000,
            partitions_per_topic_max: 100_000,
        }
    }
}

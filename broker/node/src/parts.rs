//! The settings of a node as each layer below wants them.

use plimsoll_gateways::Limits;
use plimsoll_log::StoreConfig;
use plimsoll_protocol::batch::BatchLimits;
use plimsoll_protocol::peer::PEER_FRAME_BYTES_MAX;
use plimsoll_transport::TransportConfig;

use crate::config::NodeConfig;

impl NodeConfig {
    /// For connections.
    pub(crate) fn transport(&self) -> TransportConfig {
        TransportConfig {
            max_frame_bytes: self.frame_bytes_max.as_u32(),
            handshake_timeout: self.handshake_timeout,
            // Before the bound on those that have not said Hello is reached, nobody has to wait.
            handshakes_max: self.unauthenticated_max,
            idle_timeout: self.idle_timeout,
            streams_max: self.streams_per_connection_max,
            ..TransportConfig::default()
        }
    }

    /// For connections to other nodes: as large as their frames.
    pub(crate) fn peer_connections(&self) -> TransportConfig {
        TransportConfig { max_frame_bytes: PEER_FRAME_BYTES_MAX, ..self.transport() }
    }

    /// For sessions.
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            connections_max: self.connections_max,
            connections_per_address_max: self.connections_per_address_max,
            unauthenticated_max: self.unauthenticated_max,
            unauthenticated_per_address_max: self.unauthenticated_per_address_max,
            hello_timeout: self.hello_timeout,
            frame_bytes_max: self.frame_bytes_max.as_u32(),
            batch: BatchLimits {
                batch_bytes_max: self.batch_bytes_max.as_u32(),
                record_count_max: self.batch_records_max,
                records_bytes_max: self.records_bytes_max.as_u32(),
                ..BatchLimits::default()
            },
            in_flight_bytes_max: self.in_flight_bytes_max.as_usize(),
            connection_in_flight_bytes_max: self.connection_in_flight_bytes_max.as_usize(),
            receiving_bytes_max: self.receiving_bytes_max.as_usize(),
            connection_receiving_bytes_max: self.connection_receiving_bytes_max.as_usize(),
            receive_stall_timeout: self.receive_stall_timeout,
            checking_bytes_max: self.checking_bytes_max.as_usize(),
            requests_per_stream_max: self.requests_per_stream_max as usize,
            subscriptions_max: self.subscriptions_max,
            subscriptions_per_connection_max: self.subscriptions_per_connection_max,
            delivery_bytes: self.delivery_bytes.as_u32(),
            topics_max: self.topics_max,
            partitions_per_topic_max: self.partitions_per_topic_max,
            ..Limits::default()
        }
    }

    /// For the storage.
    pub(crate) fn store(&self) -> StoreConfig {
        // Files are written in whole blocks.
        let whole = |bytes: u64| bytes.next_multiple_of(4096);
        StoreConfig {
            journal_file_bytes: whole(self.journal_file_bytes.0),
            journal_bytes_max: whole(self.journal_bytes_max.0),
            checkpoint_after_bytes: self.checkpoint_bytes.0,
            checkpoint_after: self.checkpoint_interval,
            index_interval_bytes: self.index_interval_bytes.0,
            open_segments_max: self.open_segments_max,
            free_bytes_min: self.free_bytes_min.0,
            unwritten_bytes_max: whole(self.unwritten_bytes_max.0),
            ..StoreConfig::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_settings_are_ones_that_the_storage_takes() {
        let mut config = NodeConfig::default();
        for (key, value) in [
            ("batch_bytes_max", "4 KiB"),
            ("journal_file_bytes", "1 MiB"),
            ("journal_bytes_max", "4 MiB"),
            ("checkpoint_bytes", "1 MiB"),
            ("unwritten_bytes_max", "4 MiB"),
            ("index_interval_bytes", "4 KiB"),
            ("open_segments_max", "16"),
        ] {
            config.set(key, value, "test").unwrap();
        }
        config.check().unwrap();
        config.store().check().unwrap();
        NodeConfig::default().store().check().unwrap();
    }
}

//! What the gateway may hold, and how its sessions behave. Checked by who owns the configuration.

use plimsoll_amqp::session::SessionConfig;

/// Settings of the gateway.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    /// Those of the sessions.
    pub session: SessionConfig,
    /// Users that may come only from this machine. Default: `guest`, whose password is known to all.
    pub loopback_users: Vec<String>,
    /// Logins from one address (of IPv6: one network of 64 bits) that may fail in a minute; more are
    /// refused unseen until it is over. Default 30; 0: any number. Fewer: clients with an old password
    /// shut out their neighbours behind the same address.
    pub login_failures_max: u32,
    /// Bytes of publishes of one connection that are not stored yet; beyond, nothing is read from it.
    /// Default 16 MiB, at least 1. More: more memory per publisher; fewer: publishers wait sooner.
    pub publish_bytes_max: usize,
    /// The same as a number of publishes. Default 10,000, at least 1.
    pub publishes_max: usize,
    /// Bytes of deliveries of one consumer that the connection has not taken yet; the broker waits
    /// beyond. A message larger than that goes alone. Default 256 KiB, 1 to 1 GiB.
    pub consumer_bytes_max: u32,
    /// Messages that a consumer without acknowledgements is sent ahead. Default 1,000, at least 1.
    pub no_ack_window: u32,
    /// Bytes of direct replies that wait for one channel; more are dropped. Default 16 MiB.
    pub reply_bytes_max: usize,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            session: SessionConfig::default(),
            loopback_users: vec!["guest".to_owned()],
            login_failures_max: 30,
            publish_bytes_max: 16 << 20,
            publishes_max: 10_000,
            consumer_bytes_max: 256 << 10,
            no_ack_window: 1_000,
            reply_bytes_max: 16 << 20,
        }
    }
}

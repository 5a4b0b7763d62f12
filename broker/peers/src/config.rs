//! What links may cost and how patient they are.

use std::sync::Arc;
use std::time::Duration;

use plimsoll_protocol::ids::NodeId;
use plimsoll_transport::TransportKind;

/// How often nodes show that they live, and how long silence is borne.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LivenessConfig {
    /// Between two signs of life. Default 100 ms. Shorter costs CPU on every node for every other,
    /// longer needs a longer timeout.
    pub interval: Duration,
    /// A node that was silent for this long is down. Default 500 ms; at least four intervals. Shorter
    /// suspects nodes that only paused, longer leaves groups without a leader for longer.
    pub timeout: Duration,
}

impl Default for LivenessConfig {
    fn default() -> Self {
        Self { interval: Duration::from_millis(100), timeout: Duration::from_millis(500) }
    }
}

/// What a link may cost. Each bound is per link, that is per other node. The bounds of append sessions
/// must be the same on every node: a receiver closes the link of a sender that goes beyond them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerLimits {
    /// Unanswered bytes of one append session; a single larger frame is allowed alone. Default 8 MiB.
    /// At most `link_append_bytes_max`.
    pub session_bytes_max: usize,
    /// Unanswered appends of one session. Default 64, which is openraft's pipeline.
    pub session_requests_max: usize,
    /// Unanswered bytes of all append sessions together. Default 64 MiB: the memory that another node
    /// may make this one keep. Smaller slows down a link with a long round trip.
    pub link_append_bytes_max: usize,
    /// Append sessions. Default 20,000: the awake groups that two nodes share.
    pub sessions_max: usize,
    /// Requests of the other node that are being carried out, and requests to it that are unanswered,
    /// each. Default 4,096; beyond it the answer is `Busy`.
    pub requests_max: usize,
    /// Bytes waiting to be sent on the control stream. Default 16 MiB.
    pub control_bytes_max: usize,
    /// Append lanes on QUIC, 1..=64. Default 4. Where a connection has one stream there is one lane.
    pub lanes: u8,
    /// Deadline of a link's handshake and of its further streams. Default 3 s. Shorter finds a node
    /// that is back sooner, longer bears slower networks.
    pub handshake_timeout: Duration,
    /// The first pause before a node is dialed again. Default 50 ms; doubled up to `redial_max`.
    pub redial_min: Duration,
    /// The longest pause before a node is dialed again. Default 1 s.
    pub redial_max: Duration,
}

impl Default for PeerLimits {
    fn default() -> Self {
        Self {
            session_bytes_max: 8 << 20,
            session_requests_max: 64,
            link_append_bytes_max: 64 << 20,
            sessions_max: 20_000,
            requests_max: 4_096,
            control_bytes_max: 16 << 20,
            lanes: 4,
            handshake_timeout: Duration::from_secs(3),
            redial_min: Duration::from_millis(50),
            redial_max: Duration::from_secs(1),
        }
    }
}

/// A source of random numbers; in a simulation a seeded one.
pub type RandomSource = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Milliseconds since 1970 (UTC).
pub type WallClock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// Who this node is, and how it talks to the others.
#[derive(Clone)]
pub struct PeersConfig {
    /// This node.
    pub node: NodeId,
    /// Its cluster.
    pub cluster_id: [u8; 16],
    /// How often its data directory was opened, this time included.
    pub incarnation: u64,
    /// Random number of this life of the node.
    pub boot_nonce: u64,
    /// Its version, for people.
    pub version: String,
    /// How other nodes are dialed: [`TransportKind::Quic`] or [`TransportKind::Tls`]; plain TCP
    /// carries no proof of identity.
    pub transport: TransportKind,
    /// Signs of life.
    pub liveness: LivenessConfig,
    /// What links may cost.
    pub limits: PeerLimits,
    /// For pauses and the numbers of links.
    pub random: RandomSource,
    /// Told to others, who warn when theirs is far off.
    pub wall_clock: WallClock,
}

impl std::fmt::Debug for PeersConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PeersConfig")
            .field("node", &self.node)
            .field("incarnation", &self.incarnation)
            .field("transport", &self.transport)
            .field("liveness", &self.liveness)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

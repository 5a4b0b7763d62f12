//! What the host of a node's groups is told, with defaults and bounds.

use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;
use std::time::Duration;

use openraft::{Config, ConfigError, SnapshotPolicy, StepDownPolicy};
use plimsoll_log::Durability;
use plimsoll_placement::MoveLimits;

use crate::random::{Random, SystemRandom};

/// Where work that may block goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Blocking {
    /// To tokio's pool of blocking threads.
    #[default]
    Pool,
    /// Nowhere: it is done on the task that asks, so that a simulation needs one thread only.
    Inline,
}

impl Blocking {
    /// Does `work` where it may block; a panic of it is one here.
    pub async fn run<T: Send + 'static>(self, work: impl FnOnce() -> T + Send + 'static) -> T {
        match self {
            Self::Inline => work(),
            Self::Pool => match tokio::task::spawn_blocking(work).await {
                Ok(done) => done,
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    // The runtime is going down with everything on it.
                    Err(_) => std::future::pending().await,
                },
            },
        }
    }
}

/// Settings of a [`Host`](crate::Host).
#[derive(Debug, Clone)]
pub struct HostConfig {
    /// Whether this node made the cluster: then the metadata group is born here, with this node as
    /// its only voter. A node that joined is fed it by the others. Default true.
    pub founder: bool,
    /// Proposals of one group that wait for Raft, at least 1. Default 1024. A producer that finds
    /// the queue full waits. Larger: more memory in a burst; smaller: smaller appends.
    pub proposals_max: u64,
    /// How long waking a group may take before its caller gets an error; the group may be ready at
    /// the next attempt. Default 30 s. With several voters: how long a proposal waits for the group
    /// to find its leader, at most 1 s of it.
    pub wake_timeout: Duration,
    /// How long a shutdown waits for proposals in flight. Default 5 s. Those that are not over by
    /// then have an unknown outcome.
    pub drain_timeout: Duration,
    /// How fast this node sends segments to others, all transfers together, in bytes per second, at
    /// least 1; where it drives moves, also how many bytes of copies it begins per second. Default
    /// 64 MiB. Larger: moves end sooner; smaller: clients wait less beside them.
    pub move_bytes_per_second: u64,
    /// Replicas that are copied at a time in the whole cluster, where this node drives moves, at least
    /// 1; a node receives and sends at most 2 of them. Default 8. More: faster; fewer: less in the way
    /// of clients.
    pub moves_max: u32,
    /// Where waking a group reads its state. Default: the pool.
    pub blocking: Blocking,
    /// What spreads elections in time. Default: the operating system's.
    pub random: Arc<dyn Random>,
}

impl Default for HostConfig {
    fn default() -> Self {
        Self {
            founder: true,
            proposals_max: 1024,
            wake_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(5),
            move_bytes_per_second: 64 << 20,
            moves_max: 8,
            blocking: Blocking::default(),
            random: Arc::new(SystemRandom::new()),
        }
    }
}

/// How long after the last word of a node it is taken for dead, in ms; the nodes' exchange of signs
/// of life has this timeout by default.
const LIVENESS_TIMEOUT_MS: u64 = 500;
const LIVENESS_INTERVAL_MS: u64 = 100;
/// Deadline of a heartbeat, a read index round included.
const HEARTBEAT_MS: u64 = 200;
/// Deadline of a vote.
const ELECTION_MIN_MS: u64 = 250;
/// Every lease of openraft.
const LEASE_MS: u64 = 400;

const _: () = assert!(
    HEARTBEAT_MS < ELECTION_MIN_MS && ELECTION_MIN_MS < LEASE_MS && LEASE_MS < LIVENESS_TIMEOUT_MS,
    "a lease lapses before the node that held it is taken for dead"
);
const _: () = assert!(LIVENESS_TIMEOUT_MS >= LEASE_MS + LIVENESS_INTERVAL_MS);

/// How long a leader with other voters may go on proposing after the last word of a quorum.
pub(crate) const LEASE: Duration = Duration::from_millis(LEASE_MS);

/// How long a leader waits for a quorum to renew its lease.
pub(crate) const LEASE_RENEWAL_MAX: Duration = Duration::from_millis(ELECTION_MIN_MS);

impl HostConfig {
    /// What moves of replicas may take at a time.
    pub(crate) fn move_limits(&self) -> MoveLimits {
        let defaults = MoveLimits::default();
        MoveLimits {
            copies_max: NonZeroU32::new(self.moves_max).unwrap_or(NonZeroU32::MIN),
            bytes_per_second: NonZeroU64::new(self.move_bytes_per_second),
            ..defaults
        }
    }

    /// openraft's configuration of every group: no timers, bounded queues. A member of a group
    /// without durability may come back with less than it answered for, after a power failure: its
    /// leader feeds it anew instead of asking it for ever for what it had.
    pub(crate) fn raft(&self, durability: Durability) -> Result<Arc<Config>, ConfigError> {
        let proposals_max = self.proposals_max.max(1);
        let config = Config {
            cluster_name: "plimsoll".to_owned(),
            heartbeat_interval: HEARTBEAT_MS,
            heartbeat_min_interval: Some(0),
            election_timeout_min: ELECTION_MIN_MS,
            election_timeout_max: LEASE_MS,
            // Who lives is a fact about nodes; elections are called by the groups' keepers.
            enable_tick: false,
            enable_heartbeat: false,
            enable_elect: false,
            enable_pre_vote: Some(true),
            // With it an idle leader could send no heartbeat at all (CLUSTER.md, D4).
            quorum_loss_probe_interval: None,
            // A restarted leader counts its log as committed only after an election.
            enable_leader_restore: Some(false),
            allow_log_reversion: Some(durability == Durability::Memory),
            removed_leader_step_down: StepDownPolicy::Never,
            // Appends are cut by bytes; the default of 300 would cut single records first.
            max_payload_entries: 4096,
            backoff: "50ms 100ms 200ms ...500ms".to_owned(),
            // Retention and purging are the host's: a snapshot alone purges nothing under members that
            // are a few entries behind.
            snapshot_policy: SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: u64::MAX,
            install_snapshot_timeout: 60_000,
            // The defaults are 65,536 each, per group.
            api_channel_size: Some(proposals_max),
            api_batch_capacity: proposals_max,
            notification_channel_size: Some(1024),
            state_machine_channel_size: Some(128),
            ..Config::default()
        };
        config.validate().map(Arc::new)
    }
}

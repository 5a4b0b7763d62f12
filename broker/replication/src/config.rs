//! What the host of a node's groups is told, with defaults and bounds.

use std::sync::Arc;
use std::time::Duration;

use openraft::{Config, ConfigError, SnapshotPolicy, StepDownPolicy};

use crate::types::Member;

/// Settings of a [`Host`](crate::Host).
#[derive(Debug, Clone)]
pub struct HostConfig {
    /// How other members of a group reach this node; goes into the membership of groups that it
    /// creates. Default: no address.
    pub member: Member,
    /// Proposals of one group that wait for Raft, at least 1. Default 1024. A producer that finds
    /// the queue full waits. Larger: more memory in a burst; smaller: smaller appends.
    pub proposals_max: u64,
    /// How long waking a group may take before its caller gets an error; the group may be ready at
    /// the next attempt. Default 30 s.
    pub wake_timeout: Duration,
    /// How long a shutdown waits for proposals in flight. Default 5 s. Those that are not over by
    /// then have an unknown outcome.
    pub drain_timeout: Duration,
}

impl Default for HostConfig {
    fn default() -> Self {
        Self {
            member: Member::default(),
            proposals_max: 1024,
            wake_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(5),
        }
    }
}

/// Shortest time without a leader before a group with peers elects another.
const ELECTION_MS: u64 = 600;

impl HostConfig {
    /// openraft's configuration of every group: no timers, bounded queues.
    pub(crate) fn raft(&self) -> Result<Arc<Config>, ConfigError> {
        let election_timeout_max = 2 * ELECTION_MS;
        let proposals_max = self.proposals_max.max(1);
        let config = Config {
            cluster_name: "plimsoll".to_owned(),
            heartbeat_interval: ELECTION_MS / 3,
            election_timeout_min: ELECTION_MS,
            election_timeout_max,
            // A group with one voter needs no time at all; liveness of others is a matter of nodes.
            enable_tick: false,
            enable_heartbeat: false,
            enable_elect: false,
            enable_pre_vote: Some(true),
            quorum_loss_probe_interval: Some(2 * election_timeout_max),
            // A restarted leader counts its log as committed only after an election.
            enable_leader_restore: Some(false),
            removed_leader_step_down: StepDownPolicy::Never,
            // Retention and purging are the host's.
            snapshot_policy: SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: 0,
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

//! The bounds of a coordinator.

/// How much a coordinator allows. What is beyond it is refused, with the bound in the refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Groups in this partition of `__groups`; default 10,000. More: memory, and a longer sweep.
    pub groups_max: usize,
    /// Members of one group; default 1,000. More: to say who should own what takes longer.
    pub members_max: usize,
    /// Partitions in which one group has committed offsets; default 100,000, about 100 bytes each.
    pub offsets_max: usize,
    /// Partitions in one commit; default 10,000.
    pub commit_partitions_max: usize,
    /// Bytes of one commit, mostly metadata; default 262,144. Below `pending_bytes_max`.
    pub commit_bytes_max: usize,
    /// Bytes of requests that wait for the next entry; default 1,048,576. All go into one entry, so this
    /// and two large requests bound its size. Less: more requests must be tried again under load.
    pub pending_bytes_max: usize,
    /// How long committed offsets outlive the last member, or the last commit without one, in
    /// milliseconds; default 7 days.
    pub offsets_retention_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            groups_max: 10_000,
            members_max: 1_000,
            offsets_max: 100_000,
            commit_partitions_max: 10_000,
            commit_bytes_max: 262_144,
            pending_bytes_max: 1_048_576,
            offsets_retention_ms: 7 * 24 * 60 * 60 * 1_000,
        }
    }
}

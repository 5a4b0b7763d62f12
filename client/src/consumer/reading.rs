//! What a consumer's records may have missed, and which replica it reads from.

use plimsoll_protocol::api::Isolation;

/// How the partitions of a consumer are read.
#[derive(Debug, Clone)]
pub(crate) struct Reading {
    pub(crate) isolation: Isolation,
    pub(crate) max_staleness_ms: Option<u32>,
    /// `Some`: from the nearest replica, of this rack if it is named. `None`: from the leader.
    pub(crate) nearest: Option<Option<String>>,
    /// Nothing may have gone by compaction from the start on: who must see each change.
    pub(crate) whole: bool,
}

impl Default for Reading {
    fn default() -> Self {
        Self {
            isolation: Isolation::Committed,
            max_staleness_ms: None,
            nearest: None,
            whole: false,
        }
    }
}

//! Whether a leader still hears enough of its group to lead it.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::error::NoQuorum;
use crate::group::Group;
use crate::role::Role;

impl Group {
    /// Ends when this node leads the group and has not reached a majority of its voters for `limit`.
    /// openraft's leader does not step down for that, so its role does not tell. May be cancelled.
    pub async fn cut_off(&self, limit: Duration) -> NoQuorum {
        let neighbours = &self.around().neighbours;
        let mut changes = neighbours.changes();
        let mut since = None;
        loop {
            if self.reaches_its_voters() {
                since = None;
                changes.changed().await;
                continue;
            }
            let deadline = *since.get_or_insert_with(Instant::now) + limit;
            tokio::select! {
                biased;
                () = sleep_until(deadline) => return NoQuorum { group: self.id() },
                () = changes.changed() => {}
            }
        }
    }

    /// True also where this node does not lead, or the group sleeps: then it claims nothing.
    fn reaches_its_voters(&self) -> bool {
        let Some(instance) = self.instance() else { return true };
        let standing = instance.standing.borrow();
        !matches!(standing.role, Role::Leader { .. })
            || standing.configs.is_empty()
            || self.around().neighbours.reaches_majority(&standing.configs)
    }
}

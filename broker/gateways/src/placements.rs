//! Where groups lie, as this node's copy of the catalog says.

use std::sync::Arc;

use plimsoll_protocol::ids::GroupId;
use plimsoll_replication::{Placed, Placements};
use plimsoll_state::catalog::Catalog;
use tokio::sync::watch;

use crate::broker::group_options;

/// See the module.
#[derive(Debug)]
pub(crate) struct CatalogPlacements(pub(crate) watch::Receiver<Arc<Catalog>>);

impl Placements for CatalogPlacements {
    fn placed(&self, group: GroupId) -> Option<Placed> {
        let catalog = self.0.borrow();
        let located = catalog.locate(group)?;
        let replicas = located.topic.replica_set(located.partition)?;
        Some(Placed {
            options: group_options(&located.topic.config),
            wanted: Arc::clone(&replicas.wanted),
            birth: replicas.birth.clone(),
        })
    }

    fn epoch(&self) -> u64 {
        self.0.borrow().epoch()
    }
}

//! A virtual host that connections share: the catalog's snapshot folded once for all of them, and what
//! has changed folded again by who comes first.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use plimsoll_amqp::shortstr::ShortStr;
use tokio::sync::watch;

use crate::catalog::HostSnapshot;
use crate::fold::Folded;

/// A virtual host.
#[derive(Debug)]
pub(crate) struct Host {
    vhost: ShortStr,
    latest: watch::Receiver<Arc<HostSnapshot>>,
    folded: RwLock<Folded>,
}

impl Host {
    pub(crate) fn new(vhost: ShortStr, latest: watch::Receiver<Arc<HostSnapshot>>) -> Self {
        let snapshot = Arc::clone(&latest.borrow());
        let folded = RwLock::new(Folded::new(&vhost, snapshot));
        Self { vhost, latest, folded }
    }

    /// Whether the catalog has deleted it.
    pub(crate) fn is_deleted(&self) -> bool {
        self.latest.has_changed().is_err()
    }

    /// To see changes without a lock.
    pub(crate) fn watch(&self) -> watch::Receiver<Arc<HostSnapshot>> {
        self.latest.clone()
    }

    pub(crate) fn vhost(&self) -> &ShortStr {
        &self.vhost
    }

    /// As it is now. Not to be held for long: who folds a change waits for it.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Folded> {
        let latest = Arc::clone(&self.latest.borrow());
        let folded = self.folded.read().unwrap_or_else(PoisonError::into_inner);
        if folded.generation() >= latest.generation {
            return folded;
        }
        drop(folded);
        let mut folded = self.folded.write().unwrap_or_else(PoisonError::into_inner);
        if folded.generation() < latest.generation {
            folded.update(latest);
        }
        drop(folded);
        self.folded.read().unwrap_or_else(PoisonError::into_inner)
    }
}

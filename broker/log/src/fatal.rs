//! The end of a store: the first failed write or sync of what must be durable. Nothing is retried,
//! every later completion gets the same error. Beside it, the end of a single group.

use std::io;
use std::sync::{Arc, OnceLock};

use thiserror::Error;

/// Why something will never be durable: the store stopped, or the group is gone.
#[derive(Debug, Error)]
pub enum FatalError {
    /// The medium failed.
    #[error(
        "{operation} of {path} failed: {source}; the store stopped, because it can no longer say what \
         is on stable storage. Check the disk, then start again: what was acknowledged is kept"
    )]
    Medium {
        /// What was being done.
        operation: &'static str,
        /// To which file, relative to the data directory.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// A thread of the store failed: a bug.
    #[error(
        "the thread {thread} failed, which is a bug; the store stopped. Start again: what was \
         acknowledged is kept"
    )]
    Panicked {
        /// Its name.
        thread: &'static str,
    },
    /// The store was closed before this was done.
    #[error("the store was closed")]
    Closed,
    /// The group was deleted before it was asked for. Stops nothing else.
    #[error("the group was deleted")]
    Deleted,
}

impl FatalError {
    pub(crate) fn medium(operation: &'static str, path: &str, source: io::Error) -> Self {
        Self::Medium { operation, path: path.to_owned(), source }
    }
}

/// The error of a sync, as one that nobody takes for a lack of room that passes. Delayed allocation and
/// quotas can fail a sync with ENOSPC; what was to be synced may be gone then, and the next sync
/// succeeds without it.
pub(crate) fn of_sync(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::StorageFull => io::Error::other(error),
        _ => error,
    }
}

/// Called with the outcome once an operation is durable, in the order of the operations.
pub type Completion = Box<dyn FnOnce(Result<(), Arc<FatalError>>) + Send>;

/// Told once, by the thread that saw the failure.
pub(crate) type OnFatal = Box<dyn Fn(&FatalError) + Send + Sync>;

/// Holds the first fatal error.
pub(crate) struct FatalState {
    first: OnceLock<Arc<FatalError>>,
    on_fatal: OnFatal,
}

impl FatalState {
    pub(crate) fn new(on_fatal: OnFatal) -> Self {
        Self { first: OnceLock::new(), on_fatal }
    }

    pub(crate) fn get(&self) -> Option<Arc<FatalError>> {
        self.first.get().cloned()
    }

    pub(crate) fn is_set(&self) -> bool {
        self.first.get().is_some()
    }

    /// Notes the first error and tells of it; a later one changes nothing.
    pub(crate) fn raise(&self, error: FatalError) -> Arc<FatalError> {
        let error = Arc::new(error);
        if self.first.set(error.clone()).is_ok() {
            tracing::error!(%error, "storage failed");
            (self.on_fatal)(&error);
        }
        self.get().expect("it was just set, here or before")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn only_the_first_error_is_told() {
        let told = Arc::new(AtomicUsize::new(0));
        let counter = told.clone();
        let state = FatalState::new(Box::new(move |_| {
            counter.fetch_add(1, Ordering::Relaxed);
        }));
        assert!(!state.is_set());
        state.raise(FatalError::medium("sync", "a", io::Error::other("EIO")));
        let again = state.raise(FatalError::Closed);
        assert!(matches!(*again, FatalError::Medium { .. }));
        assert_eq!(told.load(Ordering::Relaxed), 1);
    }
}

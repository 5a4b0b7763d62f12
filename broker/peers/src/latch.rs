//! Something that happens once and that many may wait for.
//!
//! Waiters wake in the order in which they came. tokio's `watch` wakes several receivers in an order
//! that it draws by chance, and two runs of a simulation would differ.

use std::sync::OnceLock;

use tokio::sync::Notify;

/// A value that is set once.
#[derive(Debug)]
pub(crate) struct Latch<T> {
    value: OnceLock<T>,
    set: Notify,
}

impl<T> Default for Latch<T> {
    fn default() -> Self {
        Self { value: OnceLock::new(), set: Notify::new() }
    }
}

impl<T> Latch<T> {
    /// Sets the value, if nobody has: whether it was this call.
    pub(crate) fn set(&self, value: T) -> bool {
        let first = self.value.set(value).is_ok();
        if first {
            self.set.notify_waiters();
        }
        first
    }

    pub(crate) fn is_set(&self) -> bool {
        self.value.get().is_some()
    }

    /// Waits until the value is set. May be cancelled.
    pub(crate) async fn wait(&self) -> &T {
        loop {
            let set = self.set.notified();
            tokio::pin!(set);
            // From here on no call of `set` is missed.
            set.as_mut().enable();
            if let Some(value) = self.value.get() {
                return value;
            }
            set.await;
        }
    }
}

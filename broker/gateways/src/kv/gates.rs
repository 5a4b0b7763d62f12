//! Changes of one key go one after the other, of several keys beside each other: so that who must wait for an
//! earlier change of its key does so before it holds up a partition.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::OwnedMutexGuard;

type Waiting = HashMap<Bytes, Arc<tokio::sync::Mutex<()>>>;

/// The keys that are being changed.
#[derive(Debug, Default)]
pub(crate) struct Gates(Mutex<Waiting>);

/// The right to change a key. Given back when dropped.
#[derive(Debug)]
pub(crate) struct Passed<'a> {
    gates: &'a Gates,
    key: Bytes,
    held: Option<OwnedMutexGuard<()>>,
}

impl Gates {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for those that came earlier with the same key. May be cancelled.
    pub(crate) async fn pass(&self, key: Bytes) -> Passed<'_> {
        let gate = Arc::clone(self.waiting().entry(key.clone()).or_default());
        // Made before the wait: who goes away while it waits has to clear up, too.
        let mut passed = Passed { gates: self, key, held: None };
        passed.held = Some(gate.lock_owned().await);
        passed
    }
}

impl Passed<'_> {
    /// The key.
    pub(crate) fn key(&self) -> &Bytes {
        &self.key
    }
}

impl Drop for Passed<'_> {
    fn drop(&mut self) {
        let mut waiting = self.gates.waiting();
        self.held = None;
        // A gate that somebody waits at is also his.
        if waiting.get(&self.key).is_some_and(|gate| Arc::strong_count(gate) == 1) {
            waiting.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn one_key_is_changed_by_one_at_a_time_and_nothing_of_it_is_kept() {
        let gates = Gates::default();
        let first = gates.pass(Bytes::from("a")).await;
        let other = gates.pass(Bytes::from("b")).await;
        let mut second = Box::pin(gates.pass(Bytes::from("a")));
        assert!(second.as_mut().now_or_never().is_none());
        drop(first);
        drop(second.await);
        drop(other);
        assert!(gates.waiting().is_empty());
    }

    #[tokio::test]
    async fn who_goes_away_while_it_waits_leaves_nothing_behind() {
        let gates = Gates::default();
        let first = gates.pass(Bytes::from("a")).await;
        let mut second = Box::pin(gates.pass(Bytes::from("a")));
        assert!(second.as_mut().now_or_never().is_none());
        drop(first);
        drop(second);
        assert!(gates.waiting().is_empty());
    }
}

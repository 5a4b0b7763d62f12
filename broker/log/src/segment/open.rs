//! Which segments stay open: the ones used last, up to a limit. A group holds its segments weakly, so
//! what is dropped here is closed as soon as no reader uses it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::SegmentName;
use super::file::Segment;
use crate::parking::Mutex;

/// The segments kept open.
#[derive(Debug)]
pub(crate) struct OpenSegments {
    held: Mutex<Vec<Arc<Segment>>>,
    max: usize,
    clock: AtomicU64,
}

impl OpenSegments {
    pub(crate) fn new(max: usize) -> Self {
        Self { held: Mutex::new(Vec::new()), max, clock: AtomicU64::new(0) }
    }

    /// Keeps a segment that was just opened; the ones not used for longest go.
    pub(crate) fn hold(&self, segment: Arc<Segment>) {
        self.touch(&segment);
        let mut held = self.held.lock();
        held.push(segment);
        if held.len() > self.max {
            // An eighth at once, so that this is rare.
            let gone = (self.max / 8).max(1);
            held.sort_unstable_by_key(|segment| segment.used.load(Ordering::Relaxed));
            let dropped: Vec<_> = held.drain(..gone).collect();
            drop(held);
            drop(dropped);
        }
    }

    /// Notes a use.
    pub(crate) fn touch(&self, segment: &Segment) {
        segment.used.store(self.clock.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Closes a segment that is going to be removed.
    pub(crate) fn forget(&self, name: SegmentName) {
        let mut held = self.held.lock();
        if let Some(at) = held.iter().position(|segment| segment.name() == name) {
            let gone = held.swap_remove(at);
            drop(held);
            drop(gone);
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.held.lock().len()
    }
}

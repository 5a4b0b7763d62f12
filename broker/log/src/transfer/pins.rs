//! Segment files that must stay although no log has them any more: somebody is sending them.

use std::collections::BTreeMap;

use crate::parking::Mutex;
use crate::segment::SegmentName;

/// How many hold each file.
#[derive(Debug, Default)]
pub(crate) struct Pins(Mutex<BTreeMap<SegmentName, u32>>);

impl Pins {
    pub(crate) fn add(&self, name: SegmentName) {
        *self.0.lock().entry(name).or_default() += 1;
    }

    pub(crate) fn release(&self, name: SegmentName) {
        let mut pins = self.0.lock();
        if let Some(count) = pins.get_mut(&name) {
            *count -= 1;
            if *count == 0 {
                pins.remove(&name);
            }
        }
    }

    pub(crate) fn holds(&self, name: SegmentName) -> bool {
        self.0.lock().contains_key(&name)
    }
}

//! A high watermark never goes back: not on a node within a life, and not as a consumer sees it. It is
//! never past what is committed.

use std::collections::BTreeMap;

use plimsoll_protocol::ids::GroupId;

use super::{Event, Invariant, Ledger, Life};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct HighWatermarkMonotonic {
    watermarks: BTreeMap<(Life, GroupId), u64>,
    /// The offset that each consumer got last, by consumer and partition.
    consumers: BTreeMap<((u32, u32), u32), u64>,
}

impl Invariant for HighWatermarkMonotonic {
    fn name(&self) -> &'static str {
        "high_watermark_monotonic"
    }

    fn judge(&mut self, event: &Event<'_>, ledger: &Ledger) -> Result<(), String> {
        match event {
            Event::HighWatermark { at, group, offset } => {
                let before = self.watermarks.insert((*at, *group), *offset).unwrap_or(0);
                if *offset < before {
                    return Err(format!(
                        "the high watermark of {group} at {at:?} went from {before} to {offset}"
                    ));
                }
                let committed = ledger.group(*group).and_then(|all| all.last());
                let end =
                    committed.map_or(0, |last| last.base_offset + u64::from(last.record_count));
                match *offset > end {
                    false => Ok(()),
                    true => Err(format!(
                        "the high watermark of {group} at {at:?} is {offset}, and {end} is committed"
                    )),
                }
            }
            Event::Seen(seen) => {
                let key = (seen.consumer, seen.partition);
                let before = self.consumers.insert(key, seen.offset);
                let next = before.map_or(0, |before| before + 1);
                match seen.offset == next {
                    true => Ok(()),
                    false => Err(format!("{seen:?} came after offset {before:?}")),
                }
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::planted::*;
    use super::*;
    use crate::history::Seen;

    #[test]
    fn a_watermark_that_goes_back_or_too_far_is_seen() {
        let ledger = ledger(&[entry(id(1, 1), 0, 3)]);
        let at = |life, offset| Event::HighWatermark { at: life, group: GROUP, offset };
        let fine = [at(life(1, 1), 2), at(life(1, 1), 3), at(life(1, 2), 1)];
        let rules = HighWatermarkMonotonic::default;
        assert_fires(rules(), &ledger, &fine, &at(life(1, 1), 2));
        assert_fires(rules(), &ledger, &fine, &at(life(2, 1), 4));
    }

    #[test]
    fn a_consumer_that_skips_or_gets_again_is_seen() {
        let seen = |consumer, offset| {
            Event::Seen(Seen { consumer, partition: 0, offset, record: name(offset) })
        };
        let fine = [seen((0, 1), 0), seen((0, 1), 1), seen((0, 2), 0)];
        for broken in [seen((0, 1), 3), seen((0, 1), 1), seen((0, 3), 1)] {
            let rules = HighWatermarkMonotonic::default();
            assert_fires(rules, &Ledger::default(), &fine, &broken);
        }
    }
}

//! A read to the end misses nothing that its level says it has: a linearizable one nothing that was
//! acknowledged before it began, one of bounded staleness nothing that was acknowledged so long before,
//! a committed one nothing that the leader who answers had shown to be committed by then.
//!
//! Which leader answers is not seen from outside: it is one that led at some time while the read was
//! under way, so the least that one of them had shown is what counts. Where nobody led all the time,
//! the group slept, and a sleeping group has everything everywhere.

use std::collections::BTreeMap;

use plimsoll_protocol::ids::GroupId;

use super::{Event, Invariant, Ledger, Life};
use crate::history::Partition;
use crate::reads::Level;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct ReadsAreFresh {
    /// The high watermark of each leader.
    leaders: BTreeMap<(GroupId, Life), u64>,
    /// Every process's, leader or not.
    watermarks: BTreeMap<(GroupId, Life), u64>,
    reads: BTreeMap<u64, Read>,
}

#[derive(Debug)]
struct Read {
    partition: Partition,
    level: Level,
    acked_end: u64,
    /// The least that one who led since it began had shown.
    shown: Option<u64>,
}

impl Invariant for ReadsAreFresh {
    fn name(&self) -> &'static str {
        "reads_are_fresh"
    }

    fn judge(&mut self, event: &Event<'_>, ledger: &Ledger) -> Result<(), String> {
        match event {
            Event::HighWatermark { at, group, offset } => {
                self.watermarks.insert((*group, *at), *offset);
                if let Some(shown) = self.leaders.get_mut(&(*group, *at)) {
                    *shown = *offset;
                }
            }
            Event::Leads { at, group, .. } => {
                let shown = self.watermarks.get(&(*group, *at)).copied().unwrap_or(0);
                self.leaders.insert((*group, *at), shown);
                for read in self.reads.values_mut() {
                    if ledger.partitions.get(&read.partition) == Some(group) {
                        read.shown = Some(read.shown.map_or(shown, |least| least.min(shown)));
                    }
                }
            }
            Event::LeadsNoMore { at, group } => {
                self.leaders.remove(&(*group, *at));
            }
            Event::ReadBegins { read, partition, level, acked_end } => {
                let group = ledger.partitions.get(partition);
                let leaders = self.leaders.iter().filter(|((led, _), _)| Some(led) == group);
                let shown = leaders.map(|(_, shown)| *shown).min();
                let (partition, level, acked_end) = (*partition, *level, *acked_end);
                self.reads.insert(*read, Read { partition, level, acked_end, shown });
            }
            Event::ReadEnds { read, end } => {
                let Some(began) = self.reads.remove(read) else { return Ok(()) };
                let owed = match began.level {
                    Level::Committed => began.shown.unwrap_or(began.acked_end),
                    Level::Linearizable | Level::Stale(_) => began.acked_end,
                };
                if let Some(end) = end
                    && *end < owed
                {
                    return Err(format!(
                        "read {read} came to offset {end}, not to {owed}: {began:?}"
                    ));
                }
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use plimsoll_protocol::ids::Term;

    use super::super::planted::*;
    use super::*;

    fn begins(level: Level, acked_end: u64) -> Event<'static> {
        Event::ReadBegins { read: 1, partition: 0, level, acked_end }
    }

    fn leads(node: u64) -> Event<'static> {
        let (at, term) = (life(node, 1), Term(1));
        Event::Leads { at, group: GROUP, term, last: None, term_at_committed: None }
    }

    fn shows(node: u64, offset: u64) -> Event<'static> {
        Event::HighWatermark { at: life(node, 1), group: GROUP, offset }
    }

    fn ends(end: u64) -> Event<'static> {
        Event::ReadEnds { read: 1, end: Some(end) }
    }

    #[test]
    fn a_read_that_misses_what_was_acknowledged_is_seen() {
        for level in [Level::Linearizable, Level::Stale(50), Level::Committed] {
            let ledger = ledger(&[entry(id(1, 1), 0, 9)]);
            let fine = [begins(level, 9), ends(9), begins(level, 9)];
            assert_fires(ReadsAreFresh::default(), &ledger, &fine, &ends(8));
        }
    }

    #[test]
    fn a_committed_read_has_what_a_leader_had_shown() {
        let ledger = ledger(&[entry(id(1, 1), 0, 9)]);
        let fine = [
            shows(1, 5),
            leads(1),
            shows(2, 9),
            // The first one is deposed and does not know it.
            leads(2),
            begins(Level::Committed, 9),
            ends(5),
            Event::LeadsNoMore { at: life(1, 1), group: GROUP },
            begins(Level::Committed, 9),
        ];
        assert_fires(ReadsAreFresh::default(), &ledger, &fine, &ends(8));
    }
}

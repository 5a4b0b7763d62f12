//! Placing: large appends are written straight into their segments and synced there, and the journal
//! block that acknowledges them only refers to them. So they are written once, and not twice.
//!
//! The order that makes it safe: the materialiser writes the entries, the journal thread syncs their
//! segments, and only then writes the block. A block that refers to bytes therefore proves that they
//! are on stable storage. Until that block has come the segments are ahead of the journal, and no
//! checkpoint is taken: see [`Materialiser::is_placing`](super::materialiser::Materialiser::is_placing).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use plimsoll_protocol::ids::{GroupId, LogId, LogIndex, Offset};

use super::queue::Item;
use crate::config::{Durability, StoreConfig};
use crate::entry::{Change, LogEntry, Placed};
use crate::group::GroupLog;
use crate::segment::file::Segment;

/// Groups whose entries one commit places. Each is a sync of its own.
const GROUPS_MAX: usize = 8;

/// What an item costs a look, so that looking ahead has an end where items carry no entries.
const LOOK_BYTES: u64 = 64;

/// Entries of one item that are to be placed.
pub(crate) struct Part {
    pub(crate) group: Arc<GroupLog>,
    /// The log's branch after the append.
    pub(crate) branch: u64,
    pub(crate) entries: Vec<LogEntry>,
}

/// What became of the parts, in their order.
pub(crate) struct Placement {
    pub(crate) parts: Vec<PlacedPart>,
    /// There was no room for all of them.
    pub(crate) is_full: bool,
}

impl Placement {
    /// Nothing was placed: there is no room.
    pub(crate) fn refusing(parts: Vec<Part>) -> Self {
        let left = |part: Part| PlacedPart { extents: Vec::new(), left: part.entries };
        Self { parts: parts.into_iter().map(left).collect(), is_full: true }
    }
}

/// What became of one part.
#[derive(Default)]
pub(crate) struct PlacedPart {
    /// Where its first entries lie.
    pub(crate) extents: Vec<Extent>,
    /// The others, for which there was no room.
    pub(crate) left: Vec<LogEntry>,
}

/// Entries of one group that lie one behind the other in a segment.
pub(crate) struct Extent {
    pub(crate) segment: Arc<Segment>,
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) first: LogIndex,
    pub(crate) entries: u32,
    pub(crate) last: LogId,
    pub(crate) end_offset: Offset,
}

impl Extent {
    /// What the journal says of it.
    pub(crate) fn record(&self) -> Placed {
        Placed {
            segment: self.segment.name().id,
            salt: self.segment.header().salt,
            from: self.from,
            to: self.to,
            first: self.first,
            entries: self.entries,
            last: self.last,
            end_offset: self.end_offset,
        }
    }

    /// Takes in what lies directly behind it; gives back what does not.
    pub(crate) fn join(&mut self, next: Extent) -> Option<Extent> {
        let follows = Arc::ptr_eq(&self.segment, &next.segment) && self.to == next.from;
        let Some(entries) = self.entries.checked_add(next.entries).filter(|_| follows) else {
            return Some(next);
        };
        self.to = next.to;
        self.entries = entries;
        self.last = next.last;
        self.end_offset = next.end_offset;
        None
    }
}

/// Adds an extent behind the others.
pub(crate) fn push_extent(extents: &mut Vec<Extent>, next: Extent) {
    let rest = match extents.last_mut() {
        Some(last) => last.join(next),
        None => Some(next),
    };
    extents.extend(rest);
}

/// Which groups a commit places.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// All their entries are placed.
    now: BTreeSet<GroupId>,
    /// Worth it once a change in front of their entries is in the journal.
    later: BTreeSet<GroupId>,
}

/// What waits of one group.
#[derive(Default)]
struct Waiting {
    large_bytes: u64,
    /// In front of what was counted stands a change that must be materialised first.
    is_changed: bool,
    is_planned: bool,
}

impl Plan {
    /// Looks at what waits, in order.
    pub(crate) fn of(pending: &VecDeque<Item>, config: &StoreConfig) -> Self {
        let mut plan = Self::default();
        if config.place_bytes_min == u64::MAX {
            return plan;
        }
        let mut waiting: BTreeMap<GroupId, Waiting> = BTreeMap::new();
        // What neither fits the block nor is placed does not matter yet.
        let (mut small, mut large) = (0, 0);
        let large_max = config.place_bytes_max.saturating_add(config.block_bytes);
        for item in pending {
            let bytes = item.change.entry_bytes();
            let is_large = bytes >= config.place_item_bytes_min.max(1);
            *(if is_large { &mut large } else { &mut small }) += LOOK_BYTES + bytes;
            if small > config.block_bytes || large > large_max {
                break;
            }
            if item.durability != Durability::Durable {
                continue;
            }
            match &item.change {
                Change::Committed(_) => {}
                Change::Entries(_) => {
                    if !is_large {
                        continue;
                    }
                    let group = item.group.id();
                    let waiting = waiting.entry(group).or_default();
                    waiting.large_bytes += bytes;
                    let is_worth = waiting.large_bytes >= config.place_bytes_min;
                    if !is_worth || waiting.is_planned {
                        continue;
                    }
                    if waiting.is_changed {
                        plan.later.insert(group);
                    } else if plan.now.len() < GROUPS_MAX {
                        waiting.is_planned = plan.now.insert(group);
                    }
                }
                // A commit ends where the durability changes.
                Change::Options(options) if options.durability != item.durability => break,
                _ => {
                    let waiting = waiting.entry(item.group.id()).or_default();
                    waiting.is_changed = true;
                    waiting.large_bytes = 0;
                }
            }
        }
        plan
    }

    /// Whether entries of this group are placed.
    pub(crate) fn places(&self, group: GroupId) -> bool {
        self.now.contains(&group)
    }

    /// Whether entries of this group wait for the next commit once it was changed in this one.
    pub(crate) fn waits_after_change(&self, group: GroupId) -> bool {
        self.now.contains(&group) || self.later.contains(&group)
    }
}

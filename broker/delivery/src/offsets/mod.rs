//! A set of offsets whose memory is bounded by its span, whatever the pattern.
//!
//! Blocks of 4,096 offsets: full ones coalesce into one item however many they are, the others are a
//! few runs or a bitmap. So 10,000,000 members around one that is missing are three items, and every
//! other offset of them is one bit per offset; nothing costs more.
//!
//! ```text
//!  part   one block: runs or bits        run   a range of offsets, and lists of them
//!  code   a set as bytes
//! ```
//!
//! Invariant: no item is empty, no part is full, and no two full items touch.
//! The set does not know what its members mean: settled, or waiting in a backlog.

mod code;
mod part;
mod run;

use std::collections::BTreeMap;

use plimsoll_protocol::ids::Offset;

pub(crate) use code::{decode_runs, decode_set, encode_runs, encode_set};
use part::{BLOCK, Part};
pub use run::{Run, Runs};

/// One or many blocks, from the block that is its key in the map.
#[derive(Debug, Clone)]
enum Span {
    /// So many blocks of which every offset is a member.
    Full(u64),
    /// One block of which some are.
    Part(Part),
}

/// A set of offsets.
#[derive(Debug, Clone, Default)]
pub struct OffsetSet {
    spans: BTreeMap<u64, Span>,
    len: u64,
}

impl PartialEq for OffsetSet {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.runs().eq(other.runs())
    }
}

impl Eq for OffsetSet {}

impl OffsetSet {
    /// The empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many offsets are members.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether `offset` is a member.
    #[must_use]
    pub fn contains(&self, offset: Offset) -> bool {
        self.next_in(offset) == Some(offset)
    }

    /// The lowest member.
    #[must_use]
    pub fn first(&self) -> Option<Offset> {
        self.next_in(Offset(0))
    }

    /// The lowest member at `at` or above.
    #[must_use]
    pub fn next_in(&self, at: Offset) -> Option<Offset> {
        let (block, position) = place(at.0);
        match self.spans.range(..=block).next_back() {
            Some((&from, Span::Full(blocks))) if block - from < *blocks => return Some(at),
            Some((&from, Span::Part(part))) if from == block => {
                if let Some(found) = part.next_in(position) {
                    return Some(Offset(block * BLOCK + u64::from(found)));
                }
            }
            _ => {}
        }
        let (&block, span) = self.spans.range(block.checked_add(1)?..).next()?;
        let position = match span {
            Span::Full(_) => 0,
            Span::Part(part) => part.next_in(0).expect("no item is empty"),
        };
        Some(Offset(block * BLOCK + u64::from(position)))
    }

    /// The lowest offset at `at` or above that is not a member.
    #[must_use]
    pub fn next_absent(&self, at: Offset) -> Offset {
        let mut at = at.0;
        loop {
            let (block, position) = place(at);
            let upto = match self.spans.range(..=block).next_back() {
                Some((&from, Span::Full(blocks))) if block - from < *blocks => {
                    (from + blocks).saturating_mul(BLOCK)
                }
                Some((&from, Span::Part(part))) if from == block => {
                    (block * BLOCK).saturating_add(u64::from(part.next_absent(position)))
                }
                _ => at,
            };
            if upto == at || upto % BLOCK != 0 {
                return Offset(upto);
            }
            at = upto;
        }
    }

    /// The members as runs, from the lowest; each as long as it can be.
    pub fn runs(&self) -> impl Iterator<Item = Run> + '_ {
        let mut at = Offset(0);
        std::iter::from_fn(move || {
            let from = self.next_in(at)?;
            at = self.next_absent(from);
            Some(Run { from, upto: at })
        })
    }

    /// Members below `at`. Takes a step per block: for answers to people, not for every message.
    #[must_use]
    pub fn count_below(&self, at: Offset) -> u64 {
        let (block, position) = place(at.0);
        self.spans
            .range(..=block)
            .map(|(&from, span)| match span {
                Span::Full(blocks) => (at.0 - from * BLOCK).min(blocks.saturating_mul(BLOCK)),
                Span::Part(part) if from == block => u64::from(part.count_below(position)),
                Span::Part(part) => u64::from(part.len()),
            })
            .sum()
    }

    /// Makes the offsets of `run` members; says how many were not.
    pub fn insert_run(&mut self, run: Run) -> u64 {
        let before = self.len;
        split(run, |work| match work {
            Work::Within { block, from, upto } => self.insert_within(block, from, upto),
            Work::Blocks { from, upto } => self.insert_blocks(from, upto),
        });
        self.len - before
    }

    /// Makes `offset` a member; says whether it was not.
    pub fn insert(&mut self, offset: Offset) -> bool {
        let (block, position) = place(offset.0);
        let before = self.len;
        self.insert_within(block, position, position + 1);
        self.len > before
    }

    /// Makes the offsets of `run` members no more; says how many were.
    pub fn remove_run(&mut self, run: Run) -> u64 {
        let before = self.len;
        split(run, |work| match work {
            Work::Within { block, from, upto } => self.remove_within(block, from, upto),
            Work::Blocks { from, upto } => self.remove_blocks(from, upto),
        });
        before - self.len
    }

    /// Makes `offset` a member no more; says whether it was.
    pub fn remove(&mut self, offset: Offset) -> bool {
        let (block, position) = place(offset.0);
        let before = self.len;
        self.remove_within(block, position, position + 1);
        self.len < before
    }

    /// Removes every member below `at`; says how many.
    pub fn remove_below(&mut self, at: Offset) -> u64 {
        match self.first() {
            Some(from) if from < at => self.remove_run(Run { from, upto: at }),
            _ => 0,
        }
    }

    /// Bytes of memory, near enough for a metric.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let parts = self.spans.values().map(|span| match span {
            Span::Full(_) => 0,
            Span::Part(part) => part.heap_bytes(),
        });
        self.spans.len() * (size_of::<u64>() + size_of::<Span>()) * 3 / 2 + parts.sum::<usize>()
    }

    fn insert_within(&mut self, block: u64, from: u16, upto: u16) {
        match self.spans.range_mut(..=block).next_back() {
            Some((&begin, Span::Full(blocks))) if block - begin < *blocks => return,
            Some((&begin, Span::Part(part))) if begin == block => {
                self.len += u64::from(part.insert(from, upto));
                if u64::from(part.len()) == BLOCK {
                    self.insert_blocks(block, block + 1);
                }
                return;
            }
            _ => {}
        }
        let mut part = Part::empty();
        self.len += u64::from(part.insert(from, upto));
        self.spans.insert(block, Span::Part(part));
    }

    /// Makes whole blocks full, and one item with the full ones at both sides.
    fn insert_blocks(&mut self, mut from: u64, mut upto: u64) {
        self.remove_blocks(from, upto);
        self.len += (upto - from) * BLOCK;
        if let Some((&begin, Span::Full(blocks))) = self.spans.range(..from).next_back()
            && begin + blocks == from
        {
            from = begin;
        }
        if let Some(Span::Full(blocks)) = self.spans.get(&upto) {
            let behind = upto + blocks;
            self.spans.remove(&upto);
            upto = behind;
        }
        self.spans.insert(from, Span::Full(upto - from));
    }

    fn remove_within(&mut self, block: u64, from: u16, upto: u16) {
        if let Some((&begin, Span::Full(blocks))) = self.spans.range(..=block).next_back()
            && block - begin < *blocks
        {
            self.cut(block);
            self.cut(block + 1);
            self.spans.insert(block, Span::Part(Part::full()));
        }
        if let Some(Span::Part(part)) = self.spans.get_mut(&block) {
            self.len -= u64::from(part.remove(from, upto));
            if part.len() == 0 {
                self.spans.remove(&block);
            }
        }
    }

    fn remove_blocks(&mut self, from: u64, upto: u64) {
        self.cut(from);
        self.cut(upto);
        while let Some((&block, span)) = self.spans.range(from..upto).next() {
            self.len -= match span {
                Span::Full(blocks) => blocks * BLOCK,
                Span::Part(part) => u64::from(part.len()),
            };
            self.spans.remove(&block);
        }
    }

    /// Makes sure that no item reaches over the begin of `block`.
    fn cut(&mut self, block: u64) {
        if let Some((&begin, Span::Full(blocks))) = self.spans.range_mut(..block).next_back()
            && begin + *blocks > block
        {
            let behind = begin + *blocks - block;
            *blocks = block - begin;
            self.spans.insert(block, Span::Full(behind));
        }
    }
}

fn place(offset: u64) -> (u64, u16) {
    (offset / BLOCK, (offset % BLOCK) as u16)
}

/// What of a run lies in one block, and which blocks it fills.
enum Work {
    Within { block: u64, from: u16, upto: u16 },
    Blocks { from: u64, upto: u64 },
}

fn split(run: Run, mut each: impl FnMut(Work)) {
    if run.is_empty() {
        return;
    }
    let ((first, from), (last, upto)) = (place(run.from.0), place(run.upto.0));
    if first == last {
        return each(Work::Within { block: first, from, upto });
    }
    let whole = if from == 0 { first } else { first + 1 };
    if from != 0 {
        each(Work::Within { block: first, from, upto: part::BLOCK_LEN });
    }
    if whole < last {
        each(Work::Blocks { from: whole, upto: last });
    }
    if upto != 0 {
        each(Work::Within { block: last, from: 0, upto });
    }
}

#[cfg(test)]
mod tests;

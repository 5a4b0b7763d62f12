//! One block of 4,096 offsets of which some, but not all, are members: a few runs, or a bitmap.
//!
//! Invariant: the bytes of a part are at most those of the bitmap (512) plus a small constant, so no
//! pattern of members costs more than one bit per offset of the blocks that it touches.

/// Offsets per block.
pub(super) const BLOCK: u64 = 4096;

/// The same as [`BLOCK`], for positions in a block.
pub(super) const BLOCK_LEN: u16 = 4096;

/// More runs than these are a bitmap: 32 runs take 128 bytes.
const RUNS_MAX: usize = 32;

/// A bitmap with at most so many members, or so many that are missing, becomes runs again. Well below
/// [`RUNS_MAX`], so that a block does not change its form back and forth.
const FEW: u16 = 12;

const WORDS: usize = BLOCK as usize / 64;

/// Which positions of a block are members. Two parts with the same members may differ in form:
/// compare [`Part::next_in`] and [`Part::next_absent`], not the bytes.
#[derive(Debug, Clone)]
pub(super) enum Part {
    /// From (inclusive) and upto (exclusive), rising, never touching.
    Runs(Vec<(u16, u16)>),
    /// A bit per position, and how many are set.
    Bits(Box<[u64; WORDS]>, u16),
}

impl Part {
    /// A part without members.
    pub(super) fn empty() -> Self {
        Self::Runs(Vec::new())
    }

    /// A part in which every position is a member.
    pub(super) fn full() -> Self {
        Self::Runs(vec![(0, BLOCK_LEN)])
    }

    /// How many positions are members.
    pub(super) fn len(&self) -> u16 {
        match self {
            Self::Runs(runs) => runs.iter().map(|(from, upto)| upto - from).sum(),
            Self::Bits(_, len) => *len,
        }
    }

    /// Makes `from..upto` members; says how many were not.
    pub(super) fn insert(&mut self, from: u16, upto: u16) -> u16 {
        let before = self.len();
        match self {
            Self::Runs(runs) => {
                let first = runs.partition_point(|run| run.1 < from);
                let behind = runs.partition_point(|run| run.0 <= upto);
                let merged = match runs.get(first..behind) {
                    Some([a, .., b]) => (a.0.min(from), b.1.max(upto)),
                    Some([a]) => (a.0.min(from), a.1.max(upto)),
                    _ => (from, upto),
                };
                runs.splice(first..behind, [merged]);
            }
            Self::Bits(words, len) => {
                for (word, mask) in masks(from, upto) {
                    *len += (mask & !words[word]).count_ones() as u16;
                    words[word] |= mask;
                }
            }
        }
        self.reshape();
        self.len() - before
    }

    /// Makes `from..upto` members no more; says how many were.
    pub(super) fn remove(&mut self, from: u16, upto: u16) -> u16 {
        let before = self.len();
        match self {
            Self::Runs(runs) => {
                let first = runs.partition_point(|run| run.1 <= from);
                let behind = runs.partition_point(|run| run.0 < upto);
                if first < behind {
                    let left = (runs[first].0, from);
                    let right = (upto, runs[behind - 1].1);
                    let kept = [left, right].into_iter().filter(|run| run.0 < run.1);
                    runs.splice(first..behind, kept);
                }
            }
            Self::Bits(words, len) => {
                for (word, mask) in masks(from, upto) {
                    *len -= (mask & words[word]).count_ones() as u16;
                    words[word] &= !mask;
                }
            }
        }
        self.reshape();
        before - self.len()
    }

    /// The first member at `at` or behind it.
    pub(super) fn next_in(&self, at: u16) -> Option<u16> {
        match self {
            Self::Runs(runs) => {
                runs.get(runs.partition_point(|run| run.1 <= at)).map(|run| run.0.max(at))
            }
            Self::Bits(words, _) => next_bit(words, at, 0),
        }
    }

    /// The first position at `at` or behind it that is not a member; [`BLOCK_LEN`] when there is none.
    pub(super) fn next_absent(&self, at: u16) -> u16 {
        match self {
            Self::Runs(runs) => match runs.get(runs.partition_point(|run| run.1 <= at)) {
                Some(run) if run.0 <= at => run.1,
                _ => at,
            },
            Self::Bits(words, _) => next_bit(words, at, u64::MAX).unwrap_or(BLOCK_LEN),
        }
    }

    /// Members below `at`.
    pub(super) fn count_below(&self, at: u16) -> u16 {
        match self {
            Self::Runs(runs) => {
                runs.iter().map(|run| run.1.min(at).saturating_sub(run.0)).sum::<u16>()
            }
            Self::Bits(words, _) => {
                masks(0, at).map(|(word, mask)| (words[word] & mask).count_ones() as u16).sum()
            }
        }
    }

    /// The members as runs.
    pub(super) fn runs(&self) -> impl Iterator<Item = (u16, u16)> + '_ {
        let mut at = 0;
        std::iter::from_fn(move || {
            let from = self.next_in(at)?;
            at = self.next_absent(from);
            Some((from, at))
        })
    }

    /// The bitmap, when the part has that form.
    pub(super) fn words(&self) -> Option<&[u64; WORDS]> {
        match self {
            Self::Runs(_) => None,
            Self::Bits(words, _) => Some(words),
        }
    }

    /// The part with this bitmap.
    pub(super) fn from_words(word: impl FnMut(usize) -> u64) -> Self {
        let words = Box::new(std::array::from_fn(word));
        let len = words.iter().map(|word| word.count_ones() as u16).sum();
        let mut part = Self::Bits(words, len);
        part.reshape();
        part
    }

    /// Bytes that the part takes besides its place in a map.
    pub(super) fn heap_bytes(&self) -> usize {
        match self {
            Self::Runs(runs) => runs.capacity() * size_of::<(u16, u16)>(),
            Self::Bits(..) => size_of::<[u64; WORDS]>(),
        }
    }

    /// Takes the form that is smaller.
    fn reshape(&mut self) {
        match self {
            Self::Runs(runs) if runs.len() > RUNS_MAX => {
                let mut words = Box::new([0; WORDS]);
                for &(from, upto) in &*runs {
                    for (word, mask) in masks(from, upto) {
                        words[word] |= mask;
                    }
                }
                *self = Self::Bits(words, self.len());
            }
            Self::Bits(_, len) if *len <= FEW || *len >= BLOCK_LEN - FEW => {
                let runs = self.runs().collect();
                *self = Self::Runs(runs);
            }
            _ => {}
        }
    }
}

/// The words that `from..upto` lies in, each with the bits that belong to it.
fn masks(from: u16, upto: u16) -> impl Iterator<Item = (usize, u64)> {
    let (from, upto) = (usize::from(from), usize::from(upto));
    (from / 64..upto.div_ceil(64)).map(move |word| {
        let low = from.saturating_sub(word * 64);
        let high = (upto - word * 64).min(64);
        (word, (u64::MAX << low) & (u64::MAX >> (64 - high)))
    })
}

/// The first position at `at` or behind it whose bit is set in `words ^ flip`.
fn next_bit(words: &[u64; WORDS], at: u16, flip: u64) -> Option<u16> {
    let mut word = usize::from(at / 64);
    let mut bits = (words.get(word)? ^ flip) & (u64::MAX << (at % 64));
    while bits == 0 {
        word += 1;
        bits = words.get(word)? ^ flip;
    }
    Some(word as u16 * 64 + bits.trailing_zeros() as u16)
}

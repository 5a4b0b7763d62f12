//! The node's one ordered stream of durable writes.
//!
//! A journal is a sequence of *blocks*, numbered without gaps, in preallocated files of fixed size.
//! A block is one group commit: one direct write that begins on a page of its own. [`block`] knows
//! the bytes of a block, [`record`] those of the changes in it, [`file`] those of a file, [`writer`]
//! appends, [`replay`] reads back and tells a torn tail from damage.

pub(crate) mod block;
pub(crate) mod file;
pub(crate) mod record;
pub(crate) mod replay;
pub(crate) mod writer;

/// Number of a journal file; later files have larger numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct FileSeq(pub(crate) u64);

/// Number of a block. The first block of a store is 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct BlockSeq(pub(crate) u64);

impl BlockSeq {
    pub(crate) fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// A place between two blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct JournalPosition {
    /// The file of the block before.
    pub(crate) file: FileSeq,
    /// Byte position after that block; the next one begins here or in a later file.
    pub(crate) offset: u64,
    /// The block that comes next.
    pub(crate) next_block: BlockSeq,
}

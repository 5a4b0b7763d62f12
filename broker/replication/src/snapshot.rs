//! What a snapshot of a group is between openraft and here: its folded state. It goes to another node as a
//! seed, with the segments of the log, see [`crate::seeds`].

use std::fmt;

use bytes::Bytes;

/// A snapshot of a group.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct GroupSnapshot {
    /// The encoded fold.
    pub(crate) state: Bytes,
}

impl fmt::Debug for GroupSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GroupSnapshot({} bytes of state)", self.state.len())
    }
}

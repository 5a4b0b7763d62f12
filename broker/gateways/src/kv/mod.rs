//! Compacted topics as maps: the last record of each key is its value.
//!
//! ```text
//!  index      which keys there are, and where the last record of each lies; no I/O
//!  view       one task per partition: follows the log, keeps the index
//!  registry   which views are at work on this node
//!  values     values, read from the log
//!  ahead      what was proposed and is not applied yet, as far as conditions need it
//!  gates      changes of one key one after the other, of several keys beside each other
//!  put        a change whose condition is decided against every record before it
//!  sweep      tombstones for keys whose time is over
//! ```
//! A view is made on demand on any node with a replica, and goes when nobody has asked for it for a while. It
//! keeps keys and offsets, no values: compaction leaves the last record of each key at its offset.
//!
//! Invariant: a condition is judged against every record before the one that it admits, whoever wrote them.

mod ahead;
mod gates;
mod index;
mod put;
mod registry;
mod sweep;
mod values;
mod view;

pub(crate) use index::{Horizon, PageMax, Slot};
pub(crate) use put::{Condition, Put};
pub(crate) use registry::Views;
pub(crate) use values::read_values;
pub(crate) use view::View;

//! Plimsoll's bytes: record batches, frames, requests and error codes, without I/O.
//!
//! ```text
//!  ids        numbers and names, each its own type
//!  varint     variable-length integers of the records section
//!  batch      the one batch format: wire, Raft entry, disk and consumer share the bytes
//!  wire       fixed-width fields, strings, lists: how bodies are written and read
//!  frame      the unit of a stream: 16-byte header, body, payload
//!  api        a request and a response per API key, version negotiation, topic configuration
//!  error      stable error codes, and the body of an error frame
//! ```
//!
//! Every byte is drawn in `protocol/FORMAT.md`. All numbers are little-endian.
//!
//! Invariants: no decoder panics on any input; none allocates more than a small multiple of the bytes
//! at hand, or, for a compressed section, of the bytes it has produced; every length is checked against
//! what remains before it is used. The crate knows no socket, file, clock, thread or random source
//! (`clippy.toml` holds that).

pub mod api;
pub mod batch;
pub mod error;
pub mod frame;
#[doc(hidden)]
pub mod fuzzing;
pub mod ids;
pub mod varint;
pub mod wire;

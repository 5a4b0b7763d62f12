//! Plimsoll's bytes: record batches, frames, requests and error codes, without I/O.
//!
//! ```text
//!  ids        numbers and names, each its own type
//!  varint     variable-length integers of the records section
//!  batch      the one batch format: wire, Raft entry, disk and consumer share the bytes
//!  wire       fixed-width fields, strings, lists: how bodies are written and read
//!  frame      the unit of a stream: 16-byte header, body, payload
//!  api        a request and a response per API key, version negotiation, topic configuration
//!  peer       what nodes of one cluster say to each other
//!  error      stable error codes, and the body of an error frame
//! ```
//!
//! Every byte is drawn in `protocol/FORMAT.md`. All numbers are little-endian.
//!
//! Invariants: no decoder panics on any input; none allocates more than a small multiple of the bytes
//! at hand, or, for a compressed section, of the bytes it has produced; every length is checked against
//! what remains before it is used. The crate knows no socket, file, clock, thread or random source
//! (`clippy.toml` holds that).
//!
//! # A batch from the producer to the consumer
//! ```
//! use plimsoll_protocol::batch::*;
//! use plimsoll_protocol::ids::ProducerId;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let limits = BatchLimits::default();
//! let mut builder = BatchBuilder::new(limits.clone());
//! let record = Record::new("loaded to the line").with_key("ship-7").with_timestamp_ms(1_750_000_000_000);
//! assert_eq!(builder.push(&record)?, PushOutcome::Added);
//! let sent = builder.finish(ProducerId(1), 0, 0, Compression::Lz4);
//!
//! // The broker checks it, and gives it its place beside the producer's bytes.
//! let header = validate_produced(&sent, &limits)?;
//! assert_eq!(header.record_count, 1);
//!
//! // The consumer reads slices of what it received.
//! for batch in iterate_batches(sent) {
//!     for delivered in batch?.records(limits.records_bytes_max as usize)? {
//!         assert_eq!(delivered?.record, record);
//!     }
//! }
//! # Ok(())
//! # }
//! ```

pub mod api;
pub mod batch;
pub mod error;
pub mod frame;
#[doc(hidden)]
pub mod fuzzing;
pub mod ids;
pub mod peer;
pub mod varint;
pub mod wire;

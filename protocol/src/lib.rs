//! Plimsoll's bytes: record batches, frames, requests and error codes, without I/O.

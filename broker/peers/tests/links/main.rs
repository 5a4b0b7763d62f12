//! Links between nodes in one process, over the loopback interface, by QUIC and by TLS.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod appends;
mod cluster;
mod hostile;
mod identity;
mod lifecycle;
mod requests;
mod silence;

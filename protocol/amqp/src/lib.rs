//! AMQP 0-9-1 as RabbitMQ speaks it, without I/O: bytes in, requests for the broker and bytes out.
//!
//! ```text
//!  wire        fields: numbers, strings, bits         shortstr   names
//!  table       field tables and arrays, in place      error      codes, texts, who is to blame
//!  methods     the table of all methods               properties content headers
//!  frame       frames, protocol header            content    methods with their contents
//!  output      bytes to send                      auth       responses of a login
//!  heartbeat   when to send, when dead            session    the state of a connection
//!  routing     exchanges and bindings of one virtual host, and what was declared
//! ```
//!
//! Invariants: nothing that a peer sends makes this crate panic, recurse without a bound, or allocate
//! more than a small multiple of the bytes at hand; every violation has the code with which RabbitMQ
//! answers it. The crate knows no socket, clock, thread or random source (`clippy.toml` holds that),
//! and no queue, log or user: those are the broker's.
//!
//! `AMQP.md` says what is supported, how a gateway drives a session, and where RabbitMQ, and so this
//! crate, differs from the specification.

pub mod auth;
pub mod content;
mod erlang;
pub mod error;
pub mod frame;
pub mod heartbeat;
pub mod methods;
pub mod output;
pub mod properties;
pub mod routing;
pub mod session;
pub mod shortstr;
pub mod table;
pub mod wire;

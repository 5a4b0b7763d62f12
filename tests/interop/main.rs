//! The AMQP 0-9-1 gateway as a client of RabbitMQ sees it: the client is `lapin`, and no crate of
//! Plimsoll is used. What a case says holds for RabbitMQ as well; where a documented difference
//! (`protocol/amqp/AMQP.md`, `broker/amqp/GATEWAY.md`) shows, the case takes both and says so.
//!
//! ```text
//!  PLIMSOLL_INTEROP_URL      amqp://guest:guest@host:port/%2f   of a server that runs; else one is started
//!  PLIMSOLL_INTEROP_TLS_URL  amqps://guest:guest@host:port/%2f  of the same server; with a URL and without
//!  PLIMSOLL_INTEROP_CA       a file of PEM certificates         these the cases of TLS have nothing to do
//!  PLIMSOLL_INTEROP_BINARY   a `plimsoll` to start instead of the one that cargo builds
//! ```
//!
//! A case is one test function. Rows of tables are functions too, made by a macro, so that each has
//! its own name and its own result.

mod access;
mod bindings;
mod channels;
mod client;
mod connections;
mod consumers;
mod contents;
mod dead_letters;
mod delays;
mod exchanges;
mod fences;
mod fetching;
mod lifetimes;
mod publishing;
mod queue_ends;
mod queues;
mod replies;
mod routing;
mod server;
mod settlements;
mod streams;
mod tls;
mod transactions;

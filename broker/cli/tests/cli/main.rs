//! The real binary, as a user and as a script meets it: against a node that it serves itself, in a
//! temporary directory, on a free port.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "what helps a test may fail the test, and say why"
)]

mod amqp;
mod bench;
mod consuming;
mod failing;
mod groups;
mod kv;
mod locks;
mod logs;
mod node;
mod offline;
mod producing;
mod queues;
mod topics;

//! The node process: configuration, certificates, sockets, maintenance, shutdown.

pub mod certificates;
pub mod config;

//! The node process: configuration, certificates, sockets, maintenance, shutdown.

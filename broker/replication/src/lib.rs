//! Raft groups over the log: openraft's log store, state machine and the host of a node's groups.

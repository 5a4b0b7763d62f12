//! Protocol sessions of a node: the native gateway.

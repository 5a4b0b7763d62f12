//! Tests of whole nodes: integration, crash, power loss, hostile input.

//! The checker accepts what a server that does one thing at a time can answer, and nothing else.

mod interleave;
mod keys;
mod locks;
mod naive;
mod planted_kv;
mod planted_lock;
mod properties;
mod script;
mod several_keys;
mod size;

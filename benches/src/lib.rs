//! The benchmark harness behind `plimsoll bench`.

pub mod journal_write;
pub mod machine;
pub mod options;
pub mod percentiles;
pub mod report;
pub mod scratch;
pub mod serve_process;
pub mod table;
pub mod values;

mod pacer;
mod raw_stream;
mod runtimes;

pub use options::{Layout, Options, Plan, Workload};
pub use plimsoll_protocol::api::Durability;

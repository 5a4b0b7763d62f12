//! `--fence`: the lock under which something is written.

use clap::Args;
use plimsoll_client::Fence;

/// The lock under which something is written.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct FenceArgs {
    /// The grant of a lock under which it is done: refused once a later holder was seen
    #[arg(long, value_name = "NAMESPACE/LOCK/TOKEN", env = "PLIMSOLL_FENCE", value_parser = Fence::parse)]
    pub(crate) fence: Option<Fence>,
}

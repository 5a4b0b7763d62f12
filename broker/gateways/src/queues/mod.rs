//! Queues on this node: for each partition of a queue, or of a subscription, that this node leads and that
//! is used, one task that owns its delivery machine.
//!
//! ```text
//!  registry      which tasks there are; begins one when it is asked for, sees to those nobody asks for
//!  handle        what sessions say to a task, and get from it
//!  anywhere      a queue wherever it is led; leader_link: the stream to another node that leads some
//!  runner        the task: commands, deliveries, control entries, time
//!  records       records of the log for the machine and for consumers, read once where that is possible
//!  consumers     who gets what; those that settle by being delivered are held back here
//!  dead_letters  copies of what was given up
//!  expiry        the end of a queue that nobody uses
//!  peek          a look at messages without taking them
//!  settings      settings of the catalog as the machine has them, and why a message is not delivered
//! ```
//!
//! Invariants: there is at most one task for a queue and term; it ends when this node leads the partition
//! in that term no more, and with it all deliveries of before. Whoever holds a handle sees that end as the
//! end of its channel. `broker/delivery/QUEUES.md` has the rules that the tasks keep.

mod anywhere;
mod consumers;
mod dead_letters;
mod expiry;
mod handle;
mod leader_link;
mod peek;
mod records;
mod registry;
mod runner;
mod settings;

pub(crate) use anywhere::{AnyAttached, AnyConsumer, AnyQueue};
pub(crate) use dead_letters::finished;
pub(crate) use handle::Admitted;
pub use handle::{Attached, Delivered, Pulled, QueueGone, QueueHandle, Settled, Settling};
pub(crate) use leader_link::LeaderLinks;
pub(crate) use peek::peek;
pub(crate) use records::{DECOMPRESSED_BYTES_MAX, batches};
pub use registry::keep_queues;
pub(crate) use registry::{QueueLimits, QueueName, Registry, subscription_of};

//! The AMQP gateway's broker: what `plimsoll-amqp-gateway` asks for, over queues, catalog and log.
//!
//! ```text
//!  access     virtual hosts, users and permissions, as administrators change them
//!  backend    the calls of the gateway, and a task that follows the catalog for it
//!  hosts      virtual hosts of the catalog as the gateway has them
//!  changes    changes of the catalog that clients ask for
//!  publisher  one task per queue that is published to: records into batches, outcomes back
//!  consumer   a consumer of a queue for a connection
//!  stream     a reader of a stream for a connection
//!  expiring   queues that end when nobody uses them
//!  server     what listeners hand connections to
//!  letters    dead letters of AMQP's queues, to their exchange
//! ```
//!
//! A queue of AMQP is a topic of one partition, which native clients read and settle as well. It is worked
//! with through any node: what another one leads is asked of it (`queues/anywhere`), and a consumer whose
//! queue gets another leader attaches there.

mod access;
mod backend;
mod changes;
mod consumer;
mod expiring;
mod hosts;
mod letters;
mod publisher;
mod server;
mod stream;

pub(crate) use access::hashed;
pub use backend::{AmqpBroker, follow};
pub(crate) use changes::is_deleted;
pub(crate) use expiring::{Expiring, ExpiringQueues};
pub(crate) use letters::Letters;
pub use server::AmqpServer;

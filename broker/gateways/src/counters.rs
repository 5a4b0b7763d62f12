//! What the gateways have done since the start, as numbers that only grow, and gauges of what is
//! open now. `NodeStatus` shows them.

use std::sync::atomic::{AtomicU64, Ordering};

/// A struct of counters that can say its names and values.
macro_rules! counters {
    ($(#[doc = $about:literal])+ $vis:vis $set:ident {
        $($(#[doc = $doc:literal])+ $name:ident),+ $(,)?
    }) => {
        $(#[doc = $about])+
        #[derive(Debug, Default)]
        $vis struct $set {
            $($(#[doc = $doc])+ $vis $name: $crate::counters::Counter,)+
        }

        impl $set {
            /// Name and value of each, in the order of their declaration.
            $vis fn values(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.value())),+]
            }
        }
    };
}

pub(crate) use counters;

counters! {
    /// The counters of a node's gateways.
    pub Counters {
        /// Connections of the native protocol open now.
        connections_open,
        /// Connections of AMQP with an open virtual host now.
        amqp_connections_open,
        /// Connections taken in.
        connections_accepted,
        /// Connections refused because of a limit.
        connections_refused,
        /// Connections refused before their handshake, because too many had not said Hello.
        strangers_refused,
        /// Connections refused without a word, because too many were just being told why.
        connections_dropped,
        /// Connections closed because of what the peer sent.
        connections_broken,
        /// Requests read, of all kinds.
        requests,
        /// Requests answered with an error.
        requests_refused,
        /// Batches acknowledged to producers, repeated ones included.
        batches_produced,
        /// Records acknowledged to producers, repeated ones included.
        records_produced,
        /// Bytes of the batches acknowledged to producers.
        bytes_produced,
        /// Batches that were stored before and acknowledged again.
        batches_repeated,
        /// Values of keys that were asked for.
        kv_gets,
        /// Pages of keys that were asked for.
        kv_scans,
        /// Changes of keys acknowledged, repeated ones included.
        kv_puts,
        /// Changes of keys refused because the key had another revision.
        kv_conflicts,
        /// Subscriptions open now.
        subscriptions_open,
        /// Bytes of batches sent to consumers, by subscription or fetch.
        bytes_delivered,
        /// Connection tasks that ended in a panic: bugs.
        panics,
    }
}

/// One number that many tasks change.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds to it.
    pub fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    /// Takes from it (gauges only).
    pub fn subtract(&self, amount: u64) {
        self.0.fetch_sub(amount, Ordering::Relaxed);
    }

    /// The value now.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

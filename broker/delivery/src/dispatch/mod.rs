//! The delivery machine of one queue: only the partition's leader has it, in memory.
//!
//! ```text
//!  intake      records come in: appended, or read again from the log; what it wants to read
//!  delivering  whose turn it is, and what it gets; consumers come and go
//!  settling    what consumers say about what they hold; what ends otherwise
//!  timing      leases, delays and lives that are over; when to look again
//!  proposals   what is to be written into the log, and what to do once it is
//!  explain     why a message is not delivered
//!
//!  slots, levels, keys, delayed, leases, consumers, pending    what it remembers, one idea each
//! ```
//!
//! Order of calls: [`Dispatcher::new`] once the leader has applied its own first entry; then
//! [`Dispatcher::appended`] for every committed record in order, and
//! * after anything: [`Dispatcher::poll`] until it gives nothing, [`Dispatcher::propose`] when no entry
//!   of this queue is being written (while one is, the next gathers), [`Dispatcher::wants`] when no
//!   read is under way, [`Dispatcher::advance`] at [`Dispatcher::next_deadline`];
//! * when the proposed entry is applied: the fold first, then [`Dispatcher::applied`], then the answers
//!   to the consumers whose settlements were in it;
//! * when it certainly did not enter the log: [`Dispatcher::refused`]. When that is unknown, or this node
//!   leads no more, the dispatcher is dropped.
//!
//! Invariants: a message is in one delivery at most; one whose end was decided is not delivered again by
//! this leader; among what is known to be ready, the highest level goes first, and in it the lowest
//! offset; of a key, one message at a time. Memory is bounded by [`Limits`], the prefetch of the
//! consumers, 16 bytes per delayed message and the index of the levels.
//! The machine does not know records' contents, where they lie, connections, or other partitions.

mod consumers;
mod delayed;
mod delivering;
mod explain;
mod intake;
mod keys;
mod leases;
mod levels;
mod pending;
mod proposals;
mod settling;
mod slots;
mod timing;

use std::collections::VecDeque;

use plimsoll_protocol::ids::Offset;

use crate::command::{Reason, SubscriptionId};
use crate::config::{Mode, QueueConfig};
use crate::offsets::OffsetSet;
use crate::state::QueueState;
use crate::time::UnixMs;

pub use consumers::{AttachError, ConsumerId, ConsumerSpec};
pub use delivering::Delivery;
pub use explain::Explanation;
pub use intake::{Full, Message, Want};
pub use settling::{Outcome, SettleError};

use consumers::Consumers;
use delayed::Delayed;
use keys::Keys;
use leases::Leases;
use levels::Level;
use pending::Pending;
use slots::Slots;

/// How much a dispatcher keeps in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Ready messages that are loaded, per level; default 4,096. More: larger reads, and 100 bytes each.
    pub window: usize,
    /// Messages with consumers; default 262,144. Consumers without a prefetch share it.
    pub held_max: u64,
    /// Messages that wait behind others of their key and are loaded; default 4,096.
    pub waiting_max: usize,
    /// Those that are not, 8 bytes each; default 1,000,000. Beyond it the log is not read on, and a
    /// failing key may hold up keys that begin only there.
    pub parked_max: usize,
    /// Delayed messages, 16 bytes each; default 10,000,000. Beyond it no new one is admitted.
    pub delayed_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            window: 4_096,
            held_max: 262_144,
            waiting_max: 4_096,
            parked_max: 1_000_000,
            delayed_max: 10_000_000,
        }
    }
}

/// A message that is to be copied to where dead letters go. When the copy is committed:
/// [`Dispatcher::copied`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeadLetterOrder {
    /// Which.
    pub offset: Offset,
    /// How often it was delivered.
    pub attempts: u32,
    /// Why it was given up.
    pub reason: Reason,
}

/// The delivery machine of one queue in one partition.
#[derive(Debug)]
pub struct Dispatcher {
    subscription: SubscriptionId,
    config: QueueConfig,
    limits: Limits,
    slots: Slots,
    levels: Vec<Level>,
    keys: Keys,
    delayed: Delayed,
    leases: Leases,
    consumers: Consumers,
    /// What is not known yet: `scan..scan_end`. Invariant: `scan <= scan_end <= end`.
    scan: Offset,
    scan_end: Offset,
    /// The offset after the last record that was told.
    end: Offset,
    /// Below it the log can be read no more.
    log_start: Offset,
    /// Whether the next read goes on with the scan rather than fill a level.
    scan_is_next: bool,
    /// Messages that are not settled, by the fold.
    unsettled: u64,
    /// About how many bytes one of them has.
    mean_scaled: u128,
    /// Messages that are with consumers, or about to be.
    held: u64,
    /// Loaded messages whose end or delay is decided and not applied.
    ending: u64,
    /// Messages whose end is decided and not applied, and that are not loaded.
    loose: OffsetSet,
    /// Dead letters that are not known to be copied.
    buried: OffsetSet,
    pending: Pending,
    /// Deliveries whose attempt is written ([`crate::config::Counting::Before`]).
    granted: VecDeque<Delivery>,
    orders: VecDeque<DeadLetterOrder>,
    /// Whether a bounded step left work that is due.
    unfinished: bool,
}

impl Dispatcher {
    /// The machine of a new leader. Nothing is with a consumer; what is unsettled is read from the log
    /// in the order of its offsets and delivered meanwhile. Dead letters that wait are ordered again.
    #[must_use]
    pub fn new(subscription: SubscriptionId, state: &QueueState, limits: Limits) -> Self {
        let config = state.config().clone();
        let mut buried = OffsetSet::new();
        let mut orders = VecDeque::new();
        for (offset, attempts, reason) in state.buried() {
            buried.insert(offset);
            orders.push_back(DeadLetterOrder { offset, attempts, reason });
        }
        Self {
            subscription,
            limits,
            slots: Slots::default(),
            levels: (0..config.levels).map(|_| Level::default()).collect(),
            keys: Keys::default(),
            delayed: Delayed::default(),
            leases: Leases::default(),
            consumers: Consumers::new(config.single_active),
            scan: state.floor(),
            scan_end: state.end(),
            end: state.end(),
            log_start: Offset(0),
            scan_is_next: true,
            unsettled: state.unsettled(),
            mean_scaled: intake::scaled(state.unsettled_bytes())
                / u128::from(state.unsettled().max(1)),
            held: 0,
            ending: 0,
            loose: OffsetSet::new(),
            buried,
            pending: Pending::default(),
            granted: VecDeque::new(),
            orders,
            unfinished: false,
            config,
        }
    }

    /// How many messages are ready or wait: all that are unsettled, but for what consumers hold, what is
    /// being ended, and dead letters.
    #[must_use]
    pub fn len(&self) -> u64 {
        let gone = self.held + self.ending + self.loose.len() + self.buried.len();
        self.unsettled.saturating_sub(gone)
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many messages are with consumers, or about to be.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.held
    }

    /// How many messages wait for their time, as far as the log is read.
    #[must_use]
    pub fn delayed(&self) -> usize {
        self.delayed.len()
    }

    /// The next dead letter to copy.
    pub fn poll_dead_letter(&mut self) -> Option<DeadLetterOrder> {
        self.orders.pop_front()
    }

    /// Takes a configuration that was committed. Answers false when it has other levels or another
    /// mode: then a new dispatcher is needed, as after a change of the leader.
    #[must_use]
    pub fn reconfigure(&mut self, config: &QueueConfig) -> bool {
        let now = &self.config;
        let fits = (now.levels, now.mode, now.single_active)
            == (config.levels, config.mode, config.single_active);
        if fits {
            self.config = config.clone();
        }
        fits
    }

    /// Bytes of memory, near enough for a metric.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let backlogs = self.levels.iter().map(|level| level.backlog.memory_bytes());
        self.slots.memory_bytes()
            + self.keys.memory_bytes()
            + self.delayed.memory_bytes()
            + backlogs.sum::<usize>()
            + self.loose.memory_bytes()
            + self.buried.memory_bytes()
    }

    fn keyed(&self) -> bool {
        self.config.mode == Mode::KeyShared
    }

    /// The end of a message's life, from its own and the queue's.
    fn end_of_life(&self, message: &Message) -> UnixMs {
        let own = message.expires_at.unwrap_or(UnixMs(i64::MAX));
        let queues = self.config.ttl_ms.map(|ttl| message.appended_at.plus(ttl));
        queues.map_or(own, |end| end.min(own))
    }
}

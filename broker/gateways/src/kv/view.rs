//! One partition as a map: a task that follows its log up to the high watermark, and what it knows by then.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use plimsoll_log::LogCursor;
use plimsoll_protocol::batch::BatchError;
use plimsoll_protocol::error::{ErrorCode, ErrorResponse};
use plimsoll_protocol::ids::{Offset, PartitionIndex, TopicName};
use plimsoll_replication::{Group, Role};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, timeout};

use super::ahead::Ahead;
use super::gates::Gates;
use super::index::{Horizon, Index};
use crate::broker::Broker;
use crate::native::{Chunk, step};
use crate::queues::{DECOMPRESSED_BYTES_MAX, batches};
use crate::refusals;

/// What the keys of one view may take of memory.
const VIEW_BYTES_MAX: usize = 512 << 20;
/// What those of all views of a node may.
const VIEWS_BYTES_MAX: usize = 2 << 30;
/// A view that nobody has asked for so long goes.
const IDLE: Duration = Duration::from_secs(600);
/// How long a view with too many keys says so, before the log is read again for whoever asks.
const FULL_FOR: Duration = Duration::from_secs(60);
/// How often it is looked whether the view is still wanted, and what retention took.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How long a request waits for a view to have come far enough.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes that one read of the log asks for.
const READ_BYTES: usize = 256 << 10;
/// Records that are folded before readers get their turn.
const RECORDS_AT_ONCE: usize = 1024;

/// Which partition of which topic a view is of.
#[derive(Debug, Clone)]
pub(crate) struct Named {
    pub(crate) topic: TopicName,
    pub(crate) topic_id: u64,
    pub(crate) partition: PartitionIndex,
}

/// How far a view has come.
#[derive(Debug, Clone)]
struct Standing {
    /// Every record below is folded.
    upto: Offset,
    /// It comes no further.
    over: Option<ErrorResponse>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct View {
    pub(super) group: Arc<Group>,
    pub(super) named: Named,
    pub(super) gates: Gates,
    index: Mutex<Index>,
    ahead: Mutex<Ahead>,
    standing: watch::Sender<Standing>,
    used: Mutex<Instant>,
    charge: Charge,
}

/// What a view takes of the memory that all may.
#[derive(Debug)]
struct Charge {
    total: Arc<AtomicUsize>,
    own: AtomicUsize,
}

impl Charge {
    /// Changes what is taken; whether that is still allowed.
    fn set(&self, bytes: usize) -> bool {
        let before = self.own.swap(bytes, Ordering::Relaxed);
        let total = if bytes >= before {
            self.total.fetch_add(bytes - before, Ordering::Relaxed) + (bytes - before)
        } else {
            self.total.fetch_sub(before - bytes, Ordering::Relaxed) - (before - bytes)
        };
        bytes <= VIEW_BYTES_MAX && total <= VIEWS_BYTES_MAX
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// Why a view ended.
#[derive(Debug)]
pub(super) enum End {
    /// Nobody has used it for long.
    Unused,
    /// Its topic is gone or is compacted no more, or its replica was taken away.
    Gone,
    /// The node stops.
    Stopping,
    /// The log cannot be read, or has too many keys.
    Failed(ErrorResponse),
}

/// What one read of the log came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Read {
    /// There was something, and it is folded.
    Folded,
    /// There is nothing more for now.
    Nothing,
    /// The log was cut, or replaced by another one.
    OtherLog,
}

impl From<ErrorResponse> for End {
    fn from(error: ErrorResponse) -> Self {
        Self::Failed(error)
    }
}

impl View {
    pub(super) fn new(group: Arc<Group>, named: Named, total: Arc<AtomicUsize>) -> Arc<Self> {
        Arc::new(Self {
            group,
            named,
            gates: Gates::default(),
            index: Mutex::default(),
            ahead: Mutex::new(Ahead::new()),
            standing: watch::Sender::new(Standing { upto: Offset(0), over: None }),
            used: Mutex::new(Instant::now()),
            charge: Charge { total, own: AtomicUsize::new(0) },
        })
    }

    /// What it knows. Held up is its task: be short.
    pub(crate) fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn ahead(&self) -> MutexGuard<'_, Ahead> {
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every record below is folded; of those behind perhaps some.
    pub(crate) fn upto(&self) -> Offset {
        self.standing.borrow().upto
    }

    /// What readers of this moment take for there.
    pub(crate) fn horizon(&self, broker: &Broker) -> Horizon {
        Horizon {
            now_ms: broker.now().unix.0,
            log_start: self.group.log().bounds().log_start_offset,
        }
    }

    /// Waits until every record below `offset` is folded. May be cancelled.
    ///
    /// # Errors
    /// Where the view ends before.
    pub(super) async fn reach(&self, offset: Offset) -> Result<(), ErrorResponse> {
        let mut standing = self.standing.subscribe();
        let reached = |standing: &Standing| standing.upto >= offset || standing.over.is_some();
        match standing.wait_for(reached).await {
            Ok(standing) => match &standing.over {
                Some(error) => Err(error.clone()),
                None => Ok(()),
            },
            Err(_) => Err(refusals::shutting_down()),
        }
    }

    /// Waits until it has everything that is committed here now.
    ///
    /// # Errors
    /// Where that takes too long, or the view ends before.
    pub(crate) async fn catch_up(&self) -> Result<(), ErrorResponse> {
        let goal = *self.group.high_watermark().borrow();
        match timeout(PATIENCE, self.reach(goal)).await {
            Ok(reached) => reached,
            Err(_) => {
                let Named { topic, partition, .. } = &self.named;
                let message = format!(
                    "the keys of {topic}/{partition} are being read: up to offset {} of {goal}; try again",
                    self.upto()
                );
                Err(ErrorResponse::new(ErrorCode::NotReady, message))
            }
        }
    }

    pub(super) fn touch(&self) {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Whether nobody asked for it for long. Times that end are seen to for as long as this node may lead.
    pub(super) fn is_idle(&self) -> bool {
        let used = *self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let may_lead = matches!(*self.group.role().borrow(), Role::Leader { .. } | Role::Asleep);
        used.elapsed() >= IDLE && !(may_lead && self.index().has_expiring())
    }

    /// Says that it comes no further.
    pub(super) fn end(&self, why: ErrorResponse) {
        self.standing.send_modify(|standing| standing.over = Some(why));
    }

    /// Follows the log until something ends that. `is_idle` decides whether nobody wants it any more.
    pub(super) async fn follow(&self, broker: &Broker, is_idle: impl Fn() -> bool) -> End {
        let outcome = tokio::select! {
            biased;
            () = async { broker.stopping().wait().await } => End::Stopping,
            _ = broker.dropped(&self.group) => End::Gone,
            () = self.unwanted(broker, is_idle) => End::Unused,
            () = self.topic_gone(broker) => End::Gone,
            end = self.run() => end,
        };
        if let End::Failed(error) = &outcome
            && error.code == ErrorCode::LocksFull
        {
            *self.index() = Index::default();
            self.charge.set(0);
            self.end(error.clone());
            // Or each request would have the whole log read again.
            tokio::select! {
                biased;
                () = async { broker.stopping().wait().await } => {}
                () = tokio::time::sleep(FULL_FOR) => {}
            }
        }
        outcome
    }

    async fn run(&self) -> End {
        let mut watermark = self.group.high_watermark();
        let log = self.group.log();
        let branch = log.branch();
        let start = log.bounds().log_start_offset;
        let mut cursor = log.cursor(start);
        self.come_to(start);
        loop {
            let upto = *watermark.borrow_and_update();
            if upto < self.upto() {
                // The replica is fed anew.
                return End::Gone;
            }
            match self.read(&mut cursor, upto, branch).await {
                Ok(Read::Folded) => {}
                // What was folded may be of records that the log in its place does not have, and whose
                // tombstones it has no more.
                Ok(Read::OtherLog) => return End::Gone,
                Ok(Read::Nothing) => {
                    if watermark.changed().await.is_err() {
                        return End::Gone;
                    }
                }
                // Retention was faster than the reader.
                Err(error) if error.code == ErrorCode::OffsetOutOfRange => return End::Gone,
                Err(error) => return End::Failed(error),
            }
        }
    }

    /// Reads on and folds, as long as the log is of this branch.
    async fn read(
        &self,
        cursor: &mut LogCursor,
        upto: Offset,
        branch: u64,
    ) -> Result<Read, ErrorResponse> {
        let chunk = step(&self.group, cursor, upto, READ_BYTES).await?;
        // Behind the read: a log that is replaced after this is seen the next time.
        if self.group.log().branch() != branch {
            return Ok(Read::OtherLog);
        }
        let Some(Chunk { payload, next_offset }) = chunk else { return Ok(Read::Nothing) };
        let unreadable =
            |error: BatchError| refusals::bug(&format!("a stored batch cannot be read: {error}"));
        for batch in batches(payload) {
            let batch = batch.map_err(unreadable)?;
            let mut records = batch.records(DECOMPRESSED_BYTES_MAX).map_err(unreadable)?;
            loop {
                let more = self.index().take(&batch.header, &mut records, RECORDS_AT_ONCE);
                if !more.map_err(unreadable)? {
                    break;
                }
                tokio::task::yield_now().await;
            }
            let bytes = self.index().bytes();
            if !self.charge.set(bytes) {
                return Err(self.too_large(bytes));
            }
        }
        self.come_to(next_offset);
        Ok(Read::Folded)
    }

    fn come_to(&self, upto: Offset) {
        self.standing.send_modify(|standing| standing.upto = upto);
    }

    fn too_large(&self, bytes: usize) -> ErrorResponse {
        let Named { topic, partition, .. } = &self.named;
        ErrorResponse::new(
            ErrorCode::LocksFull,
            format!(
                "the keys of {topic}/{partition} take {} MiB of this node's memory; {} are allowed for one \
                 partition and {} for all: delete keys, make them shorter, or use a topic with more \
                 partitions; it is read again in a minute",
                bytes >> 20,
                VIEW_BYTES_MAX >> 20,
                VIEWS_BYTES_MAX >> 20
            ),
        )
    }

    /// Ends once nobody wants it; forgets now and then what retention took.
    async fn unwanted(&self, broker: &Broker, is_idle: impl Fn() -> bool) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut known_start = Offset(0);
        loop {
            look.tick().await;
            if is_idle() {
                return;
            }
            let log_start = self.horizon(broker).log_start;
            if log_start > known_start {
                known_start = log_start;
                self.index().drop_below(log_start);
            }
        }
    }

    async fn topic_gone(&self, broker: &Broker) {
        let mut catalog = broker.catalog_changes();
        loop {
            let is_there =
                catalog.borrow_and_update().topic(&self.named.topic).is_some_and(|meta| {
                    meta.topic_id == self.named.topic_id && meta.config.rules.cleanup.compacts()
                });
            if !is_there || catalog.changed().await.is_err() {
                return;
            }
        }
    }
}

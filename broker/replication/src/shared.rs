//! What the tasks of an awake group share: its fold, its admission, and what it publishes.
//!
//! The fold and the admission change together under one short lock, so a batch is always either in
//! flight or stored, never neither.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use plimsoll_delivery::state::Queues;
use plimsoll_groups::state::Groups;
use plimsoll_locks::fence::{Fence, FenceError, Judgement};
use plimsoll_locks::ids::NamespaceId;
use plimsoll_locks::state::Locks;
use plimsoll_log::{GroupLog, LogEntry, StateSource};
use plimsoll_protocol::batch::BatchHeader;
use plimsoll_protocol::ids::{LogId, Offset, Term};
use plimsoll_state::admission::{Admission, Admitted, ProposalToken};
use plimsoll_state::catalog::Catalog;
use plimsoll_state::partition::{GroupsAnswers, LocksOutcomes, Progress};
use plimsoll_state::producers::Verdict;
use thiserror::Error;
use tokio::sync::{Notify, oneshot, watch};

use crate::fold::{Fold, GroupKind};
use crate::retention::Given;
use crate::role::Role;
use crate::types::Applied;

/// What a group shows to readers. It outlives the group's sleep.
#[derive(Debug, Clone)]
pub(crate) struct Published {
    pub(crate) high_watermark: watch::Sender<Offset>,
    pub(crate) catalog: watch::Sender<Arc<Catalog>>,
    pub(crate) role: watch::Sender<Role>,
    /// How many runs of proposals there were: see [`Tip::run`].
    runs: Arc<AtomicU64>,
}

/// Where the log will end once everything that was proposed is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tip {
    /// The offset behind the last record that is in the log or was proposed. Where a proposal was refused
    /// it is too large, until the next run.
    pub end: Offset,
    /// Counts how often this node began anew to reckon so: with a term, and when it was found out what
    /// became of proposals whose outcome was not known. In between, records get into the log only by
    /// proposals of this group, one behind the other. No two are alike while the node runs.
    pub run: u64,
}

impl Published {
    pub(crate) fn new() -> Self {
        Self {
            high_watermark: watch::Sender::new(Offset(0)),
            catalog: watch::Sender::new(Arc::default()),
            role: watch::Sender::new(Role::Asleep),
            runs: Arc::default(),
        }
    }

    fn publish_offset(&self, offset: Offset) {
        self.high_watermark.send_if_modified(|published| {
            let higher = offset > *published;
            *published = offset.max(*published);
            higher
        });
    }
}

/// The fold does not take a committed entry: the replica holds something else than the others, or it is
/// a bug.
#[derive(Debug, Error)]
#[error("entry {entry} is committed and cannot be applied to what this replica holds")]
pub(crate) struct CannotApply {
    entry: LogId,
}

/// What becomes of a batch that wants to be proposed.
pub(crate) enum Begin {
    /// Propose it now: it comes behind this. It counts as outstanding until its
    /// [`crate::reply::Reply`] is over.
    Propose(Tip),
    /// The same batch is in flight: this is its outcome.
    InFlight(oneshot::Receiver<Applied>),
    /// It is judged without a proposal.
    Verdict(Verdict),
    /// A proposal's outcome is unknown: wait for [`Shared::certain`].
    Doubtful,
}

/// See the module.
pub(crate) struct Shared {
    state: Mutex<State>,
    /// Proposals whose reply is not over.
    outstanding: AtomicUsize,
    given_up: AtomicBool,
    /// Told when something was applied or is over, while somebody waits for it.
    moved: Notify,
    published: Published,
    log: Arc<GroupLog>,
}

struct State {
    fold: Fold,
    admission: Admission,
    /// A proposal may or may not be in the log: nothing is admitted until all of it is applied.
    doubtful: bool,
    /// The last term that this node began to lead in.
    begun: Option<Term>,
    /// Kept while this node leads.
    tip: Tip,
    /// Up to here readers see what is folded. The fold may be ahead of it: it is published piece by
    /// piece.
    shown: Option<LogId>,
    /// The catalog changed since it was last published.
    catalog_changed: bool,
    /// Retries that wait for a batch in flight.
    waiting: BTreeMap<ProposalToken, Vec<oneshot::Sender<Applied>>>,
}

impl State {
    fn judge(&mut self, header: &BatchHeader) -> Begin {
        if self.doubtful {
            return Begin::Doubtful;
        }
        let producers = self.fold.producers().expect("only partitions take batches");
        match self.admission.admit(producers, header) {
            Admitted::Verdict(Verdict::Accept) => Begin::Propose(self.tip),
            Admitted::Verdict(verdict) => Begin::Verdict(verdict),
            Admitted::InFlightDuplicate(token) => {
                let (sender, receiver) = oneshot::channel();
                self.waiting.entry(token).or_default().push(sender);
                Begin::InFlight(receiver)
            }
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("outstanding", &self.outstanding).finish_non_exhaustive()
    }
}

impl Shared {
    pub(crate) fn new(fold: Fold, published: Published, log: Arc<GroupLog>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                fold,
                admission: Admission::new(),
                doubtful: false,
                begun: None,
                tip: Tip { end: Offset(0), run: 0 },
                shown: None,
                catalog_changed: true,
                waiting: BTreeMap::new(),
            }),
            outstanding: AtomicUsize::new(0),
            given_up: AtomicBool::new(false),
            moved: Notify::new(),
            published,
            log,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A fold that failed in the middle of an entry is never stored or shown, see `is_broken`; those
        // who only settle what was in flight must not fail as well.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the fold is worth nothing any more: folding an entry failed, or it was given up.
    pub(crate) fn is_broken(&self) -> bool {
        self.state.is_poisoned() || self.given_up.load(Ordering::Acquire)
    }

    /// The log is dropped, and the fold with it: the replica shows nothing until it is fed anew. The one
    /// case in which the high watermark goes back.
    pub(crate) fn give_up(&self) {
        // Under the lock of whoever publishes.
        let _state = self.state();
        self.given_up.store(true, Ordering::Release);
        self.published.high_watermark.send_replace(Offset(0));
    }

    pub(crate) fn kind(&self) -> GroupKind {
        self.state().fold.kind()
    }

    pub(crate) fn progress(&self) -> Progress {
        self.state().fold.progress().clone()
    }

    /// What `look` sees of the partition's queues. Held up is whoever folds or proposes: be short.
    pub(crate) fn with_queues<T>(&self, look: impl FnOnce(&Queues) -> T) -> T {
        look(self.state().fold.queues().expect("only partitions have queues"))
    }

    /// What `look` sees of the partition's consumer groups. As [`Shared::with_queues`].
    pub(crate) fn with_groups<T>(&self, look: impl FnOnce(&Groups, &GroupsAnswers) -> T) -> T {
        let state = self.state();
        let (groups, answers) = state.fold.groups().expect("only partitions have groups");
        look(groups, answers)
    }

    /// What `look` sees of the partition's locks. As [`Shared::with_queues`].
    pub(crate) fn with_locks<T>(&self, look: impl FnOnce(&Locks, &LocksOutcomes) -> T) -> T {
        let state = self.state();
        let (locks, outcome) = state.fold.locks().expect("only partitions have locks");
        look(locks, outcome)
    }

    /// What the partition's floors say of a fence.
    pub(crate) fn check_fence(&self, fence: &Fence) -> Result<Judgement, FenceError> {
        self.state().fold.floors().expect("only partitions have floors").check(fence)
    }

    /// The namespaces of which the partition keeps floors.
    pub(crate) fn floor_namespaces(&self) -> Vec<NamespaceId> {
        let state = self.state();
        state.fold.floors().map_or_else(Vec::new, |floors| floors.namespaces().collect())
    }

    /// The fold as bytes, with its progress.
    pub(crate) fn encode(&self) -> (Progress, Bytes) {
        let state = self.state();
        (state.fold.progress().clone(), state.fold.encode())
    }

    /// Replaces the fold: a snapshot was installed. What was in flight is answered by nobody.
    pub(crate) fn replace(&self, fold: Fold) {
        let mut state = self.state();
        state.fold = fold;
        state.catalog_changed = true;
        state.admission.reset();
        state.waiting.clear();
    }

    /// This node leads anew and has folded everything that its log held when the term began: nothing
    /// of an earlier term is in flight any more, for whatever of it is not in the log is refused.
    /// Once for a term: a second time would forget what is in flight in it.
    pub(crate) fn begin_term(&self, term: Term) {
        let mut state = self.state();
        if state.begun.replace(term) >= Some(term) {
            return;
        }
        state.admission.reset();
        state.doubtful = false;
        state.waiting.clear();
        self.begin_run(&mut state);
    }

    /// Everything that the log holds is folded, and nothing is on its way.
    fn begin_run(&self, state: &mut State) {
        let run = self.published.runs.fetch_add(1, Ordering::Relaxed) + 1;
        state.tip = Tip { end: state.fold.progress().high_watermark, run };
    }

    /// Judges a batch and, when it is to be proposed, counts it as outstanding and in flight.
    pub(crate) fn begin(&self, header: &BatchHeader) -> Begin {
        self.begin_in(&mut self.state(), header)
    }

    /// As [`Shared::begin`], where the batch still comes behind `tip`.
    pub(crate) fn begin_at(&self, tip: Tip, header: &BatchHeader) -> Option<Begin> {
        let mut state = self.state();
        (state.tip == tip).then(|| self.begin_in(&mut state, header))
    }

    fn begin_in(&self, state: &mut State, header: &BatchHeader) -> Begin {
        let begin = state.judge(header);
        if let Begin::Propose(_) = begin {
            state.admission.proposed(header);
            let end = state.tip.end.0.saturating_add(u64::from(header.record_count));
            state.tip.end = Offset(end);
            self.outstanding.fetch_add(1, Ordering::Relaxed);
        }
        begin
    }

    /// As [`Shared::begin`], and counts nothing.
    pub(crate) fn judge(&self, header: &BatchHeader) -> Begin {
        self.state().judge(header)
    }

    /// Waits until a proposal's outcome is unknown.
    pub(crate) async fn doubt(&self) {
        loop {
            let moved = self.moved.notified();
            if self.state().doubtful {
                return;
            }
            moved.await;
        }
    }

    /// Whether the batch would not be proposed: it is stored or in flight already, or is refused.
    pub(crate) fn is_known(&self, header: &BatchHeader) -> bool {
        let state = self.state();
        let producers = state.fold.producers().expect("only partitions take batches");
        state.admission.admit(producers, header) != Admitted::Verdict(Verdict::Accept)
    }

    /// Counts a control entry as outstanding.
    pub(crate) fn begin_control(&self) {
        self.outstanding.fetch_add(1, Ordering::Relaxed);
    }

    /// A proposal ended. Unless it was committed, its batch may or may not be in the log.
    pub(crate) fn proposal_over(&self, committed: bool) {
        if !committed {
            let mut state = self.state();
            state.doubtful = true;
            state.waiting.clear();
        }
        self.outstanding.fetch_sub(1, Ordering::Release);
        self.moved.notify_waiters();
    }

    pub(crate) fn outstanding(&self) -> usize {
        self.outstanding.load(Ordering::Acquire)
    }

    /// Waits until no proposal is outstanding.
    pub(crate) async fn idle(&self) {
        loop {
            let moved = self.moved.notified();
            if self.outstanding() == 0 {
                return;
            }
            moved.await;
        }
    }

    /// Whether the log no longer holds all of its entries.
    pub(crate) fn is_purged(&self) -> bool {
        self.log.bounds().purged.is_some()
    }

    /// The last entry that is folded.
    pub(crate) fn applied(&self) -> Option<LogId> {
        self.state().fold.progress().applied
    }

    /// The last entry that readers see the effect of.
    pub(crate) fn shown(&self) -> Option<LogId> {
        self.state().shown
    }

    /// Waits until an entry with the index of `id` is folded and readers see it.
    pub(crate) async fn shown_at_least(&self, id: LogId) {
        loop {
            let moved = self.moved.notified();
            if self.shown().is_some_and(|shown| shown.index >= id.index) {
                return;
            }
            moved.await;
        }
    }

    /// Waits until it is known what the log holds, so that admission can begin anew: nothing is
    /// outstanding, and everything in the log is applied.
    pub(crate) async fn certain(&self) {
        loop {
            let moved = self.moved.notified();
            if self.outstanding() == 0 {
                let last = self.log.bounds().last;
                let mut state = self.state();
                if !state.doubtful {
                    return;
                }
                if state.fold.progress().applied >= last {
                    state.admission.reset();
                    state.doubtful = false;
                    self.begin_run(&mut state);
                    return;
                }
            }
            moved.await;
        }
    }

    /// Folds one committed entry; where that fails the replica is quarantined, and nothing of the fold is
    /// kept.
    pub(crate) fn try_apply(
        &self,
        entry: &LogEntry,
    ) -> Result<(Applied, Vec<oneshot::Sender<Applied>>), CannotApply> {
        // What is left half done is behind a mutex that is then poisoned.
        let applied = catch_unwind(AssertUnwindSafe(|| self.apply(entry)));
        applied.map_err(|_| {
            self.log.set_quarantined("an entry that is committed cannot be applied");
            CannotApply { entry: entry.id() }
        })
    }

    /// Folds one committed entry. Returns what it gave, and the retries that wait for the same.
    pub(crate) fn apply(&self, entry: &LogEntry) -> (Applied, Vec<oneshot::Sender<Applied>>) {
        let header = &entry.header;
        let mut state = self.state();
        let base_offset = state.fold.progress().high_watermark;
        let reply = state.fold.apply(entry);
        state.catalog_changed |= reply.is_some();
        let mut waiting = Vec::new();
        if header.producer_id.is_some()
            && let Some(token) = state.admission.applied(header)
            && !state.waiting.is_empty()
        {
            waiting = state.waiting.remove(&token).unwrap_or_default();
        }
        let append_time_ms = header.append_time_ms;
        (Applied { base_offset, append_time_ms, reply: reply.map(Box::new) }, waiting)
    }

    /// Shows readers what was applied.
    pub(crate) fn publish(&self) {
        let applied = {
            let mut state = self.state();
            if self.is_broken() {
                return;
            }
            let state = &mut *state;
            let progress = state.fold.progress();
            let shown = progress.high_watermark;
            #[cfg(feature = "planted")]
            let shown = plimsoll_log::planted::shown_too_early(shown);
            self.published.publish_offset(shown);
            if let Fold::Catalog(catalog) = &state.fold
                && std::mem::take(&mut state.catalog_changed)
            {
                self.published.catalog.send_replace(Arc::new(catalog.catalog().clone()));
            }
            state.shown = progress.applied;
            state.shown
        };
        if let Some(applied) = applied {
            self.log.applied(applied);
        }
        self.moved.notify_waiters();
    }

    /// Stores the state with the log, to be found again when the group wakes.
    pub(crate) fn store(&self) -> Option<Given> {
        if self.is_broken() {
            return None;
        }
        let (progress, bytes, kept_from) = {
            let state = self.state();
            (state.fold.progress().clone(), state.fold.encode(), state.fold.kept_from())
        };
        self.store_as(progress.applied, bytes);
        progress.applied.map(|applied| Given { applied, kept_from })
    }

    /// Stores a state that was encoded earlier.
    pub(crate) fn store_as(&self, applied: Option<LogId>, bytes: Bytes) {
        if let Some(applied) = applied {
            self.log.put_state(applied, bytes);
        }
    }
}

impl StateSource for Shared {
    fn encode_state(&self) -> Option<(LogId, Bytes)> {
        if self.is_broken() {
            return None;
        }
        let (progress, bytes) = self.encode();
        progress.applied.map(|applied| (applied, bytes))
    }
}

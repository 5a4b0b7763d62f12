//! What the tasks of partitions that this node leads have in common: those of queues, and those of the
//! coordinators of consumer groups. Each owns a machine, and writes one control entry at a time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use plimsoll_delivery::time::{Monotonic, Now, UnixMs};
use plimsoll_protocol::error::ErrorResponse;
use plimsoll_protocol::ids::{GroupId, LogId, Term};
use plimsoll_replication::{Group, PendingControl, ProposeError, Role};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::broker::Broker;
use crate::refusals;
use crate::routing::CUT_OFF_AFTER;

/// Commands that one turn takes.
pub(crate) const COMMANDS_PER_TURN: usize = 256;
/// A task with something to do later says so often that its partition does not sleep.
pub(crate) const AWAKE_EVERY: Duration = Duration::from_secs(1);
/// How long after a proposal that found no majority it is made again.
pub(crate) const AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Why a task ended; its handles see only that it did.
#[derive(Debug)]
pub(crate) enum End {
    /// This node leads the partition in this term no more, or the group sleeps.
    Deposed,
    /// This node believes that it leads, and hears no majority: another one may serve already.
    CutOff,
    /// The topic, or the subscription, is gone.
    Deleted,
    /// It behaves so differently now that its machine is made anew.
    Reconfigured,
    /// The node stops.
    Stopping,
    /// The log cannot be read, or written.
    Failed(ErrorResponse),
    /// An entry may or may not be in the log.
    Unknown,
}

impl From<ErrorResponse> for End {
    fn from(error: ErrorResponse) -> Self {
        Self::Failed(error)
    }
}

impl From<ProposeError> for End {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::NotLeader(_) => Self::Deposed,
            ProposeError::NoQuorum(_) | ProposeError::Unknown => Self::Unknown,
            ProposeError::Group(error) => Self::Failed(refusals::open(&error)),
        }
    }
}

/// Runs a task until this node stops, or does not lead its partition in `term` any more, or hears too few of
/// its voters to know.
pub(crate) async fn while_led(
    broker: &Broker,
    group: &Group,
    term: Term,
    running: impl Future<Output = End>,
) -> End {
    let mut role = group.role();
    let mut stopping = broker.stopping();
    let deposed = async {
        // An error says that the group is gone, which is the same.
        let _ = role.wait_for(|role| *role != Role::Leader { term }).await;
    };
    tokio::select! {
        biased;
        () = stopping.wait() => End::Stopping,
        () = deposed => End::Deposed,
        _ = group.cut_off(CUT_OFF_AFTER) => End::CutOff,
        end = running => end,
    }
}

/// The task has ended: this node leads the partition no more, or stops. Whether something that was asked for
/// is so is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TaskGone;

/// A task of a partition, as sessions ask it. Cheap to clone; the task goes on without handles.
pub(crate) struct LedTask<C> {
    commands: mpsc::UnboundedSender<C>,
    /// In which this node leads the partition.
    term: Term,
}

impl<C> Clone for LedTask<C> {
    fn clone(&self) -> Self {
        Self { commands: self.commands.clone(), term: self.term }
    }
}

impl<C> LedTask<C> {
    /// Whether this node leads `home` in the term of the task still: with a read that was linearizable before,
    /// it has led from that read's begin on.
    pub(crate) fn leads(&self, home: &Group) -> bool {
        *home.role().borrow() == Role::Leader { term: self.term }
    }

    fn is_over(&self) -> bool {
        self.commands.is_closed()
    }

    /// Asks at once; the answer comes when it is waited for.
    pub(crate) fn ask<T, F: FnOnce(oneshot::Sender<T>) -> C>(
        &self,
        command: F,
    ) -> impl Future<Output = Result<T, TaskGone>> + use<C, T, F> {
        let (reply, answer) = oneshot::channel();
        // A task that has ended drops what it is sent, and with it the other end of the answer.
        let _ = self.commands.send(command(reply));
        async { answer.await.map_err(|_| TaskGone) }
    }
}

/// Which tasks of one kind are at work on this node: at most one for a partition and term.
pub(crate) struct LedTasks<C> {
    running: Arc<Mutex<BTreeMap<GroupId, LedTask<C>>>>,
}

impl<C> Default for LedTasks<C> {
    fn default() -> Self {
        Self { running: Arc::default() }
    }
}

impl<C: Send + 'static> LedTasks<C> {
    /// The task of a partition, which is begun where it does not run; none where this node does not lead. It
    /// ends when what `begin` made does.
    pub(crate) fn of<F>(
        &self,
        group: &Arc<Group>,
        what: &'static str,
        begin: impl FnOnce(Term, mpsc::UnboundedReceiver<C>) -> F,
    ) -> Option<LedTask<C>>
    where
        F: Future<Output = End> + Send + 'static,
    {
        let id = group.id();
        let mut running = locked(&self.running);
        if let Some(task) = running.get(&id).filter(|task| !task.is_over()) {
            return Some(task.clone());
        }
        let Role::Leader { term } = *group.role().borrow() else { return None };
        let (commands, received) = mpsc::unbounded_channel();
        let task = LedTask { commands, term };
        running.insert(id, task.clone());
        drop(running);
        let (all, work) = (Arc::clone(&self.running), begin(term, received));
        tokio::spawn(async move {
            // Its commands are dropped with it: who waits for an answer sees the end.
            match work.await {
                End::Failed(error) => tracing::warn!(group = %id, what, %error, "a task stopped"),
                end => tracing::debug!(group = %id, what, ?end, "a task ended"),
            }
            let mut running = locked(&all);
            if running.get(&id).is_some_and(LedTask::is_over) {
                running.remove(&id);
            }
        });
        Some(task)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An entry that is being written. It gets on while who proposed it is busy: what cannot be proposed at once,
/// because others wait for the same group, is by a task. Dropped before that, it is not proposed any more: it
/// must not lie behind what another task of the term begins with.
#[derive(Debug)]
pub(crate) enum Proposal {
    /// It is on its way into the log.
    Proposed(PendingControl),
    /// It may not be proposed yet.
    Proposing(AbortOnDrop<Result<LogId, ProposeError>>),
    /// It was not proposed.
    Refused(Option<ProposeError>),
}

impl Proposal {
    pub(crate) fn new(group: &Arc<Group>, body: Bytes, term: Term) -> Self {
        let group = Arc::clone(group);
        let mut proposing = Box::pin(async move { group.propose_control(body, term).await });
        // A task for each would cost two changes of tasks on the way of each entry.
        match proposing.as_mut().now_or_never() {
            Some(Ok(pending)) => Self::Proposed(pending),
            Some(Err(error)) => Self::Refused(Some(error)),
            None => {
                Self::Proposing(AbortOnDrop(tokio::spawn(async move { proposing.await?.await })))
            }
        }
    }

    /// Whether its place in the log is settled: what is proposed behind it comes to lie behind it.
    pub(crate) fn is_proposed(&self) -> bool {
        matches!(self, Self::Proposed(_))
    }

    /// Which entry it became; never, where there is none. May be cancelled; not to be asked again once it has
    /// answered.
    pub(crate) async fn outcome(proposal: Option<&mut Self>) -> Result<LogId, ProposeError> {
        match proposal {
            Some(Self::Proposed(pending)) => pending.await,
            Some(Self::Proposing(AbortOnDrop(writing))) => {
                writing.await.unwrap_or(Err(ProposeError::Unknown))
            }
            Some(Self::Refused(error)) => Err(error.take().unwrap_or(ProposeError::Unknown)),
            None => std::future::pending().await,
        }
    }
}

/// A task that ends with who waits for it.
#[derive(Debug)]
pub(crate) struct AbortOnDrop<T>(pub(crate) JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Broker {
    /// The time, as machines are told it.
    pub(crate) fn now(&self) -> Now {
        let clock = self.host().clock();
        let ms = clock.monotonic().as_millis();
        Now {
            monotonic: Monotonic(u64::try_from(ms).unwrap_or(u64::MAX)),
            unix: UnixMs(clock.unix_ms()),
        }
    }
}

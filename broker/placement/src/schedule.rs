//! Which steps to make now: a few copies at a time, within a budget of bytes.
//!
//! Order of calls: [`next_moves`] with the members as they are; carry the steps out; remember each
//! in [`InProgress`] until its outcome is known (done, failed, or given up); call again when
//! anything has changed or at [`Scheduled::retry_at_ms`]. After a crash begin with an empty
//! [`InProgress`] and a fresh [`ByteBudget`]: what had begun is seen in the members.

use std::collections::{BTreeMap, BTreeSet};
use std::num::{NonZeroU32, NonZeroU64};

use plimsoll_protocol::ids::{GroupId, NodeId};

use crate::actual::{Actual, Members};
use crate::plan::Plan;
use crate::step::{Next, Step, StepRefused, next_step};

/// How much may move at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MoveLimits {
    /// Copies in all; default 8. More: faster, and more in the way of producers.
    pub copies_max: NonZeroU32,
    /// Copies that one node receives, and copies that one node sends as leader; default 2.
    pub copies_per_node_max: NonZeroU32,
    /// Bytes of copies begun per second, in all, averaged; `None`: no limit. Default 64 MiB.
    pub bytes_per_second: Option<NonZeroU64>,
}

impl Default for MoveLimits {
    fn default() -> Self {
        Self {
            copies_max: const { NonZeroU32::new(8).expect("not 0") },
            copies_per_node_max: const { NonZeroU32::new(2).expect("not 0") },
            bytes_per_second: NonZeroU64::new(64 << 20),
        }
    }
}

/// Steps that were begun and whose outcome is not known yet: at most one per partition.
pub type InProgress = BTreeMap<GroupId, Step>;

/// Bytes that may be copied now: fills with time, up to what one second gives.
///
/// A copy may begin when the budget is not in debt, and takes its whole estimate at once, so one that
/// is larger than a second's worth is followed by a pause and never starves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ByteBudget {
    available: i128,
    filled_at_ms: u64,
}

const MS_PER_SECOND: i128 = 1000;

impl ByteBudget {
    /// One second's worth, as of now. In thousandths of a byte, so that no call loses a remainder.
    #[must_use]
    pub fn full(limits: &MoveLimits, now_ms: u64) -> Self {
        let most = limits.bytes_per_second.map_or(0, |rate| i128::from(rate.get()) * MS_PER_SECOND);
        Self { available: most, filled_at_ms: now_ms }
    }

    /// A clock that went back gives nothing and takes nothing.
    fn fill(&mut self, rate: NonZeroU64, now_ms: u64) {
        let rate = i128::from(rate.get());
        let passed = i128::from(now_ms.saturating_sub(self.filled_at_ms));
        self.filled_at_ms = self.filled_at_ms.max(now_ms);
        self.available = (self.available + passed * rate).min(rate * MS_PER_SECOND);
    }

    /// Takes a copy's bytes, or says in how many milliseconds it may be asked again.
    fn take(&mut self, rate: NonZeroU64, bytes: u64) -> Result<(), u64> {
        if self.available > 0 {
            self.available -= i128::from(bytes) * MS_PER_SECOND;
            return Ok(());
        }
        let rate = i128::from(rate.get());
        let wait = (-self.available) / rate + 1;
        Err(u64::try_from(wait).unwrap_or(u64::MAX))
    }
}

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scheduled {
    /// Steps to begin, at most one per partition, each of a partition without one in progress.
    pub steps: Vec<(GroupId, Step)>,
    /// Moves that cannot go on because of what they would risk.
    pub refused: Vec<StepRefused>,
    /// Moves that wait: for a copy, a node, a leader, a limit, or the budget.
    pub waiting: usize,
    /// When the budget lets the next copy begin, if that is all that is waited for.
    pub retry_at_ms: Option<u64>,
}

/// The steps to begin now.
///
/// Steps that copy nothing (promote, transfer, remove) are never held back: they end what was begun.
/// Copies begin in the plan's order as far as the limits and the budget go; a copy that a busy node
/// holds back lets later ones pass.
#[must_use]
pub fn next_moves(
    plan: &Plan,
    actual: &Actual,
    in_progress: &InProgress,
    healthy: &BTreeSet<NodeId>,
    limits: &MoveLimits,
    budget: &mut ByteBudget,
    now_ms: u64,
) -> Scheduled {
    if let Some(rate) = limits.bytes_per_second {
        budget.fill(rate, now_ms);
    }
    let mut busy = Busy::count(actual, in_progress);
    let mut scheduled = Scheduled::default();
    for one in plan.moves() {
        let Some(members) = actual.get(&one.group) else { continue };
        if in_progress.contains_key(&one.group) {
            scheduled.waiting += 1;
            continue;
        }
        match next_step(one.group, members, &one.wanted, healthy) {
            Next::Done => {}
            Next::Wait(_) => scheduled.waiting += 1,
            Next::Refused(reason) => scheduled.refused.push(reason),
            Next::Step(step @ Step::AddLearner(to)) => {
                if !busy.has_room(limits, members.leader, to) {
                    scheduled.waiting += 1;
                    continue;
                }
                let taken = limits
                    .bytes_per_second
                    .map_or(Ok(()), |rate| budget.take(rate, one.bytes_per_copy));
                if let Err(wait_ms) = taken {
                    scheduled.waiting += 1;
                    scheduled.retry_at_ms = Some(now_ms.saturating_add(wait_ms));
                    continue;
                }
                busy.add(members.leader, to);
                scheduled.steps.push((one.group, step));
            }
            Next::Step(step) => scheduled.steps.push((one.group, step)),
        }
    }
    scheduled
}

/// Copies that are under way.
#[derive(Debug, Default)]
struct Busy {
    all: u32,
    receiving: BTreeMap<NodeId, u32>,
    sending: BTreeMap<NodeId, u32>,
}

impl Busy {
    /// A learner is a copy, whoever began it; so is one that was asked for and is not yet seen.
    fn count(actual: &Actual, in_progress: &InProgress) -> Self {
        let mut busy = Self::default();
        for (group, members) in actual {
            for &learner in members.learners.keys() {
                busy.add(members.leader, learner);
            }
            if let Some(&Step::AddLearner(to)) = in_progress.get(group)
                && !is_member(members, to)
            {
                busy.add(members.leader, to);
            }
        }
        busy
    }

    fn add(&mut self, from: Option<NodeId>, to: NodeId) {
        self.all += 1;
        *self.receiving.entry(to).or_default() += 1;
        if let Some(from) = from {
            *self.sending.entry(from).or_default() += 1;
        }
    }

    fn has_room(&self, limits: &MoveLimits, from: Option<NodeId>, to: NodeId) -> bool {
        let below = |count: Option<&u32>| {
            count.copied().unwrap_or_default() < limits.copies_per_node_max.get()
        };
        self.all < limits.copies_max.get()
            && below(self.receiving.get(&to))
            && from.is_none_or(|from| below(self.sending.get(&from)))
    }
}

fn is_member(members: &Members, node: NodeId) -> bool {
    members.voters.contains(&node) || members.learners.contains_key(&node)
}

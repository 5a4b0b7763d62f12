//! What sessions ask a coordinator's task for.

use plimsoll_groups::command::{Committer, MemberSpec, OffsetCommit};
use plimsoll_groups::coordinator::{Assignment, GroupDescription, GroupSummary};
use plimsoll_groups::ids::{Epoch, GroupName, MemberId, TopicPartition};
use plimsoll_protocol::error::ErrorResponse;
use plimsoll_protocol::ids::Offset;
use plimsoll_replication::Group;
use tokio::sync::oneshot;

use crate::led::{LedTask, TaskGone};

/// Where the outcome of a request goes.
pub(super) type Reply<T> = oneshot::Sender<Result<T, ErrorResponse>>;

/// What a task is asked for. A task that ends answers nothing.
pub(super) enum Command {
    Join {
        group: GroupName,
        member: MemberId,
        spec: MemberSpec,
        reply: Reply<Assignment>,
    },
    Heartbeat {
        group: GroupName,
        member: MemberId,
        epoch: Epoch,
        owned: Vec<TopicPartition>,
        reply: Reply<Assignment>,
    },
    Leave {
        group: GroupName,
        member: MemberId,
        epoch: Epoch,
        reply: Reply<()>,
    },
    Commit {
        group: GroupName,
        by: Option<Committer>,
        offsets: Vec<OffsetCommit>,
        reply: Reply<Vec<TopicPartition>>,
    },
    Reset {
        group: GroupName,
        offsets: Vec<(TopicPartition, Option<Offset>)>,
        forced: bool,
        reply: Reply<()>,
    },
    Delete {
        group: GroupName,
        forced: bool,
        reply: Reply<()>,
    },
    List {
        after: Option<GroupName>,
        count: usize,
        reply: oneshot::Sender<Vec<GroupSummary>>,
    },
    Describe {
        group: GroupName,
        reply: oneshot::Sender<Option<GroupDescription>>,
    },
}

/// A coordinator's task. Cheap to clone; the task goes on without handles.
#[derive(Clone)]
pub(crate) struct CoordinatorHandle(pub(super) LedTask<Command>);

type Asked<T> = Result<Result<T, ErrorResponse>, TaskGone>;

impl CoordinatorHandle {
    /// Whether this node leads `home` in the term of the task still: with a read that was linearizable before,
    /// it has led from that read's begin on.
    pub(crate) fn leads(&self, home: &Group) -> bool {
        self.0.leads(home)
    }

    /// See [`plimsoll_groups::coordinator::Coordinator::join`].
    pub(crate) async fn join(
        &self,
        group: GroupName,
        member: MemberId,
        spec: MemberSpec,
    ) -> Asked<Assignment> {
        self.0.ask(|reply| Command::Join { group, member, spec, reply }).await
    }

    /// Hears a member at once. The answer waits while it is what the member says already, for as long as its
    /// heartbeats are apart. Nobody may be told it before it is certain that this node led after this call.
    pub(crate) fn heartbeat(
        &self,
        group: GroupName,
        member: MemberId,
        epoch: Epoch,
        owned: Vec<TopicPartition>,
    ) -> impl Future<Output = Asked<Assignment>> + use<> {
        self.0.ask(move |reply| Command::Heartbeat { group, member, epoch, owned, reply })
    }

    /// See [`plimsoll_groups::coordinator::Coordinator::leave`].
    pub(crate) async fn leave(
        &self,
        group: GroupName,
        member: MemberId,
        epoch: Epoch,
    ) -> Asked<()> {
        self.0.ask(|reply| Command::Leave { group, member, epoch, reply }).await
    }

    /// Commits offsets, and answers which of them were not the committer's to commit.
    pub(crate) async fn commit(
        &self,
        group: GroupName,
        by: Option<Committer>,
        offsets: Vec<OffsetCommit>,
    ) -> Asked<Vec<TopicPartition>> {
        self.0.ask(|reply| Command::Commit { group, by, offsets, reply }).await
    }

    /// See [`plimsoll_groups::coordinator::Coordinator::reset`].
    pub(crate) async fn reset(
        &self,
        group: GroupName,
        offsets: Vec<(TopicPartition, Option<Offset>)>,
        forced: bool,
    ) -> Asked<()> {
        self.0.ask(|reply| Command::Reset { group, offsets, forced, reply }).await
    }

    /// See [`plimsoll_groups::coordinator::Coordinator::delete`].
    pub(crate) async fn delete(&self, group: GroupName, forced: bool) -> Asked<()> {
        self.0.ask(|reply| Command::Delete { group, forced, reply }).await
    }

    /// At most `count` groups behind `after`, by name.
    pub(crate) async fn list(
        &self,
        after: Option<GroupName>,
        count: usize,
    ) -> Result<Vec<GroupSummary>, TaskGone> {
        self.0.ask(|reply| Command::List { after, count, reply }).await
    }

    /// All there is to say about a group, if there is one.
    pub(crate) async fn describe(
        &self,
        group: GroupName,
    ) -> Result<Option<GroupDescription>, TaskGone> {
        self.0.ask(|reply| Command::Describe { group, reply }).await
    }
}

//! What sessions ask a coordinator's task for.

use plimsoll_groups::command::{Committer, MemberSpec, OffsetCommit};
use plimsoll_groups::coordinator::{Assignment, GroupDescription, GroupSummary};
use plimsoll_groups::ids::{Epoch, GroupName, MemberId, TopicPartition};
use plimsoll_protocol::error::ErrorResponse;
use plimsoll_protocol::ids::{Offset, Term};
use plimsoll_replication::{Group, Role};
use tokio::sync::{mpsc, oneshot};

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

/// The task has ended: this node leads the partition no more, or stops. Whether something that was asked for
/// is so is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CoordinatorGone;

/// A coordinator's task. Cheap to clone; the task goes on without handles.
#[derive(Debug, Clone)]
pub(crate) struct CoordinatorHandle {
    pub(super) commands: mpsc::UnboundedSender<Command>,
    /// In which this node leads the partition.
    pub(super) term: Term,
}

type Asked<T> = Result<Result<T, ErrorResponse>, CoordinatorGone>;

impl CoordinatorHandle {
    /// Whether this node leads `home` in the term of the task still: with a read that was linearizable before,
    /// it has led from that read's begin on.
    pub(crate) fn leads(&self, home: &Group) -> bool {
        *home.role().borrow() == Role::Leader { term: self.term }
    }

    pub(super) fn is_over(&self) -> bool {
        self.commands.is_closed()
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, CoordinatorGone> {
        let (reply, answer) = oneshot::channel();
        // A task that has ended drops what it is sent, and with it the other end of the answer.
        let _ = self.commands.send(command(reply));
        answer.await.map_err(|_| CoordinatorGone)
    }

    /// See [`plimsoll_groups::coordinator::Coordinator::join`].
    pub(crate) async fn join(
        &self,
        group: GroupName,
        member: MemberId,
        spec: MemberSpec,
    ) -> Asked<Assignment> {
        self.ask(|reply| Command::Join { group, member, spec, reply }).await
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
        let (reply, answer) = oneshot::channel();
        // As for every other one.
        let _ = self.commands.send(Command::Heartbeat { group, member, epoch, owned, reply });
        async { answer.await.map_err(|_| CoordinatorGone) }
    }

    /// See [`plimsoll_groups::coordinator::Coordinator::leave`].
    pub(crate) async fn leave(
        &self,
        group: GroupName,
        member: MemberId,
        epoch: Epoch,
    ) -> Asked<()> {
        self.ask(|reply| Command::Leave { group, member, epoch, reply }).await
    }

    /// Commits offsets, and answers which of them were not the committer's to commit.
    pub(crate) async fn commit(
        &self,
        group: GroupName,
        by: Option<Committer>,
        offsets: Vec<OffsetCommit>,
    ) -> Asked<Vec<TopicPartition>> {
        self.ask(|reply| Command::Commit { group, by, offsets, reply }).await
    }

    /// See [`plimsoll_groups::coordinator::Coordinator::reset`].
    pub(crate) async fn reset(
        &self,
        group: GroupName,
        offsets: Vec<(TopicPartition, Option<Offset>)>,
        forced: bool,
    ) -> Asked<()> {
        self.ask(|reply| Command::Reset { group, offsets, forced, reply }).await
    }

    /// See [`plimsoll_groups::coordinator::Coordinator::delete`].
    pub(crate) async fn delete(&self, group: GroupName, forced: bool) -> Asked<()> {
        self.ask(|reply| Command::Delete { group, forced, reply }).await
    }

    /// At most `count` groups behind `after`, by name.
    pub(crate) async fn list(
        &self,
        after: Option<GroupName>,
        count: usize,
    ) -> Result<Vec<GroupSummary>, CoordinatorGone> {
        self.ask(|reply| Command::List { after, count, reply }).await
    }

    /// All there is to say about a group, if there is one.
    pub(crate) async fn describe(
        &self,
        group: GroupName,
    ) -> Result<Option<GroupDescription>, CoordinatorGone> {
        self.ask(|reply| Command::Describe { group, reply }).await
    }
}

//! What a program has of its membership: records, and commits.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_util::Stream;
use plimsoll_protocol::api::OffsetCommit;
use plimsoll_protocol::batch::Record;
use plimsoll_protocol::ids::{Offset, TopicName};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::error::{CommitError, GroupError};
use super::member::{Command, Reply};
use super::sharing::{Grant, Sharing};
use crate::consumer::batches::{Batches, TakenRecord};
use crate::consumer::subscription::Event;
use crate::error::ConsumeError;

/// A record with its place.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupRecord {
    /// Its topic.
    pub topic: TopicName,
    /// Its partition.
    pub partition: u32,
    /// Its offset.
    pub offset: Offset,
    /// When the node took it, in milliseconds since 1970 (UTC).
    pub append_time_ms: i64,
    /// Key, value, headers, timestamp. They share the memory of the frame that they came in.
    pub record: Record,
}

/// A member of a consumer group, as a [`Stream`] of the records of what it owns, each partition in order.
///
/// A record counts as processed when the next one is asked for. A partition that goes to another member is
/// given up then, and no earlier: nothing of it is handed out after. So whoever needs longer than the
/// group's rebalance timeout for one record loses what it owns, and joins again.
///
/// It finds the group's coordinator, and the partitions' leaders, again by itself. The stream ends with an
/// error that ends the membership; an error of a partition ends only that partition.
///
/// When it is dropped, what is processed is committed (if it commits by itself) and the member leaves, in the
/// background, while the runtime lives; [`GroupConsumer::leave`] waits for it. A member with an instance name
/// stays one until its session is over, so that it finds its partitions when it is back.
pub struct GroupConsumer {
    pub(super) group: String,
    pub(super) sharing: Arc<Sharing>,
    pub(super) receiver: mpsc::Receiver<(u64, Event)>,
    pub(super) commands: mpsc::UnboundedSender<Command>,
    pub(super) current: Option<(Grant, Batches)>,
    pub(super) decompressed_max: usize,
}

impl GroupConsumer {
    /// The next record; what was handed out before is processed. `None` when the membership has ended. May be
    /// cancelled.
    ///
    /// # Errors
    /// What ended a partition, or the membership.
    pub async fn next(&mut self) -> Option<Result<GroupRecord, GroupError>> {
        poll_fn(|context| self.poll_record(context)).await
    }

    /// Commits everything that was handed out, all of which counts as processed. Stored when this returns.
    ///
    /// # Errors
    /// When something of it is another member's now, the session was over before, or the coordinator
    /// refused.
    pub async fn commit(&self) -> Result<(), CommitError> {
        self.sharing.processed();
        self.ask(|reply| Command::Commit { offsets: None, reply }).await
    }

    /// Commits these offsets: the next record to read, of each partition, whatever was handed out. A
    /// consumer that commits by itself goes on to commit what is processed.
    ///
    /// # Errors
    /// As [`GroupConsumer::commit`].
    pub async fn commit_offsets(&self, offsets: Vec<OffsetCommit>) -> Result<(), CommitError> {
        self.ask(|reply| Command::Commit { offsets: Some(offsets), reply }).await
    }

    /// The topics and partitions that it owns now and has not been asked to give up, in order.
    #[must_use]
    pub fn assignment(&self) -> Vec<(TopicName, u32)> {
        self.sharing.assignment()
    }

    /// The group.
    #[must_use]
    pub fn group(&self) -> &str {
        &self.group
    }

    /// Commits what is processed (if it commits by itself), the last record included, and leaves the group,
    /// even with an instance name: its partitions go to the others at once.
    ///
    /// # Errors
    /// When the last commit failed, or the group did not hear of it within five seconds: it goes on without
    /// this member after its session.
    pub async fn leave(self) -> Result<(), CommitError> {
        self.end(true).await
    }

    /// As [`GroupConsumer::leave`], but a member with an instance name stays one: what it owns waits for it
    /// until its session is over.
    ///
    /// # Errors
    /// As [`GroupConsumer::leave`].
    pub async fn close(self) -> Result<(), CommitError> {
        self.end(false).await
    }

    async fn end(self, leaves: bool) -> Result<(), CommitError> {
        self.sharing.processed();
        self.ask(|reply| Command::End { leaves, reply }).await
    }

    async fn ask(&self, command: impl FnOnce(Reply) -> Command) -> Result<(), CommitError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).map_err(|_| CommitError::Ended)?;
        answer.await.unwrap_or(Err(CommitError::Ended))
    }

    fn poll_record(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<GroupRecord, GroupError>>> {
        self.sharing.processed();
        loop {
            if let Some((grant, batches)) = &mut self.current {
                match batches.next_record(self.decompressed_max) {
                    Some(Ok(taken)) => {
                        if let Some(record) = hand_out(&self.sharing, *grant, taken) {
                            return Poll::Ready(Some(Ok(record)));
                        }
                        self.current = None;
                    }
                    Some(Err(error)) => {
                        let (grant, offset) = (*grant, batches.from);
                        let reason = error.to_string().into();
                        self.current = None;
                        // Nothing more is handed out of it: a gap would go unnoticed.
                        let Some((topic, partition)) = self.sharing.spoil(grant) else { continue };
                        let source = ConsumeError::Damaged { partition, offset, reason };
                        return Poll::Ready(Some(Err(GroupError::Partition { topic, source })));
                    }
                    None => {
                        self.sharing.passed(*grant, batches.next);
                        self.current = None;
                    }
                }
                continue;
            }
            match ready!(self.receiver.poll_recv(context)) {
                Some((grant, Event::Began { start, .. })) => self.sharing.began(grant, start),
                Some((grant, Event::Batches { payload, from, until, next, .. })) => {
                    if self.sharing.is_live(grant) {
                        self.current = Some((grant, Batches::new(payload, from, until, next)));
                    }
                }
                Some((grant, Event::Failed(source))) => {
                    if let Some((topic, _)) = self.sharing.spoil(grant) {
                        return Poll::Ready(Some(Err(GroupError::Partition { topic, source })));
                    }
                }
                None => return Poll::Ready(self.sharing.take_end().map(Err)),
            }
        }
    }
}

fn hand_out(sharing: &Sharing, grant: Grant, taken: TakenRecord) -> Option<GroupRecord> {
    let TakenRecord { offset, append_time_ms, record } = taken;
    let (topic, partition) = sharing.hand_out(grant, Offset(offset.0 + 1), Instant::now())?;
    Some(GroupRecord { topic, partition, offset, append_time_ms, record })
}

impl Stream for GroupConsumer {
    type Item = Result<GroupRecord, GroupError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll_record(context)
    }
}

impl std::fmt::Debug for GroupConsumer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GroupConsumer").field("group", &self.group).finish_non_exhaustive()
    }
}

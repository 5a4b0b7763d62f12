//! `plimsoll consume --group`: as a member of a consumer group.

use std::time::{Duration, Instant};

use futures_util::FutureExt;
use plimsoll_client::{
    Client, CommitError, ConsumeError, ErrorCode, GroupConsumer, GroupError, GroupRecord,
    StartPosition,
};

use super::render::Renderer;
use super::{ConsumeArgs, counted_bytes};
use crate::exit::Exit;
use crate::failure::{Failure, note};
use crate::interrupt::Interrupt;
use crate::output::Output;
use crate::produce::build_failure;
use crate::request::{exit_of, hint_for, request_failure};

/// How often it commits what it has printed.
const COMMIT_EVERY: Duration = Duration::from_secs(1);

/// A run as a member.
struct Membership<'a> {
    consumer: GroupConsumer,
    output: Output,
    renderer: Renderer,
    left: u64,
    records: u64,
    bytes: u64,
    /// Something was handed out since the last commit.
    is_dirty: bool,
    committed_at: Instant,
    failed: Vec<ConsumeError>,
    args: &'a ConsumeArgs,
}

impl ConsumeArgs {
    /// Prints what the group's other members do not get, until Ctrl-C or `--count`.
    pub(super) async fn share(
        &self,
        group: &str,
        client: &Client,
        interrupt: &mut Interrupt,
    ) -> Result<Exit, Failure> {
        let start = self.from.unwrap_or(StartPosition::Earliest);
        if !matches!(start, StartPosition::Earliest | StartPosition::Latest) {
            return Err(Failure::new(
                Exit::Usage,
                "with --group, --from is earliest or latest: it says where a group begins that has \
                 committed nothing",
            )
            .hint("`plimsoll group reset` says where a group reads on"));
        }
        // What it has printed it commits when the output is flushed, and not before.
        let topics = [self.topic.as_str()];
        let mut builder = client.group_consumer(group).topics(topics).from(start).manual_commit();
        if let Some(instance) = &self.instance {
            builder = builder.instance(instance);
        }
        if let Some(fence) = &self.fence.fence {
            builder = builder.fence(fence.clone());
        }
        let doing = format!("consume {} as a member of group {group}", self.topic);
        let consumer = builder.build().await.map_err(|error| build_failure(&doing, &error))?;
        let mut membership = Membership {
            consumer,
            output: Output::stdout(),
            renderer: self.renderer(),
            left: self.count.unwrap_or(u64::MAX),
            records: 0,
            bytes: 0,
            is_dirty: false,
            committed_at: Instant::now(),
            failed: Vec::new(),
            args: self,
        };
        let began = Instant::now();
        membership.all(interrupt).await?;
        membership.end(began).await
    }
}

impl Membership<'_> {
    async fn all(&mut self, interrupt: &mut Interrupt) -> Result<(), Failure> {
        while self.left > 0 && !interrupt.is_asked() {
            let next = match self.consumer.next().now_or_never() {
                Some(next) => next,
                None => {
                    self.output.flush()?;
                    self.commit_if_due().await?;
                    let due = self.is_dirty.then_some(self.committed_at + COMMIT_EVERY);
                    let due = due.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
                    tokio::select! {
                        biased;
                        next = self.consumer.next() => next,
                        () = interrupt.asked() => break,
                        () = tokio::time::sleep_until(due.into()) => continue,
                    }
                }
            };
            match next {
                None => break,
                Some(Ok(record)) => self.print(&record).await?,
                Some(Err(GroupError::Partition { source, .. })) => {
                    note(&format!(
                        "cannot go on with a partition of {}: {source}",
                        self.args.topic
                    ));
                    self.failed.push(source);
                }
                Some(Err(error @ GroupError::FencedInstance { .. })) => {
                    return Err(Failure::new(Exit::Failed, error.to_string()).hint(
                        "--instance names one process; without it each is a member of its own",
                    ));
                }
                Some(Err(GroupError::Refused { group, source })) => {
                    return Err(request_failure(&format!("stay a member of {group}"), &source));
                }
            }
        }
        self.output.flush()
    }

    async fn print(&mut self, consumed: &GroupRecord) -> Result<(), Failure> {
        let record = &consumed.record;
        self.renderer.print(&mut self.output, consumed.partition, consumed.offset, record)?;
        self.records += 1;
        self.bytes += counted_bytes(record);
        self.left -= 1;
        self.is_dirty = true;
        if self.records.is_multiple_of(4_096) && self.committed_at.elapsed() >= COMMIT_EVERY {
            self.output.flush()?;
            self.commit_if_due().await?;
        }
        Ok(())
    }

    /// Commits what is printed; what fails now is committed later, or printed again by somebody.
    async fn commit_if_due(&mut self) -> Result<(), Failure> {
        if self.is_dirty && self.committed_at.elapsed() >= COMMIT_EVERY {
            if let Err(error) = self.consumer.commit().await {
                self.tell(&error)?;
            }
            (self.is_dirty, self.committed_at) = (false, Instant::now());
        }
        Ok(())
    }

    /// Whoever has lost the lock goes on no more.
    fn tell(&self, error: &CommitError) -> Result<(), Failure> {
        if let CommitError::StaleFence { .. } = error {
            return Err(Failure::new(Exit::Failed, error.to_string())
                .maybe_hint(hint_for(ErrorCode::StaleFence)));
        }
        note(&format!("{error}; records may be printed again by another member"));
        Ok(())
    }

    async fn end(mut self, began: Instant) -> Result<Exit, Failure> {
        if self.is_dirty
            && let Err(error) = self.consumer.commit().await
        {
            self.tell(&error)?;
        }
        // A member with an instance name stays one, to be back.
        if let Err(error) = self.consumer.close().await {
            note(&format!("the group hears of the end later: {error}"));
        }
        self.args.tell_figures(self.records, self.bytes, began);
        let Some(first) = self.failed.pop() else { return Ok(Exit::Done) };
        let (code, exit) = match &first {
            ConsumeError::Refused { source, .. } => (Some(source.code), exit_of(source.code)),
            _ => (None, Exit::Failed),
        };
        let exit = if self.records > 0 { Exit::Partly } else { exit };
        let failure = Failure::new(exit, format!("cannot consume {}: {first}", self.args.topic));
        Err(match code.and_then(hint_for) {
            Some(hint) => failure.hint(hint),
            None => failure,
        })
    }
}

//! `plimsoll group reset`: moves the committed offsets of a group.

use clap::{ArgGroup, Args};
use plimsoll_client::{Admin, ErrorCode, Offset, OffsetReset, RequestError, StartPosition};
use plimsoll_protocol::ids::{PartitionIndex, TopicName};
use serde::Serialize;

use crate::clock::{now_ms, parse_time};
use crate::connection::ConnectionArgs;
use crate::exit::Exit;
use crate::failure::{Failure, note};
use crate::output::Output;
use crate::request::request_failure;
use crate::table::Table;

const AFTER_HELP: &str = "\
Examples:
  plimsoll group reset billing --topic orders --to-earliest --dry-run
  plimsoll group reset billing --topic orders --to-time 2026-11-21T08:30:00Z
  plimsoll group reset billing --topic orders --to-time -1h --partition 3,4
  plimsoll group reset billing --topic orders --shift-by -100

Stop the group's members first: those that run go on from where they are, and commit over it (--force
resets all the same). --to-time takes what `plimsoll consume --from` takes as a time. An offset below the
log's start or above its end becomes that start or end.";

/// Set where a group reads on
///
/// Refused while the group has members, unless --force is given.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_HELP)]
#[command(group = ArgGroup::new("where").required(true).args([
    "to_earliest", "to_latest", "to_offset", "to_time", "shift_by",
]))]
pub(super) struct ResetArgs {
    /// The group
    group: String,
    /// The topic
    #[arg(long, value_name = "TOPIC")]
    topic: TopicName,
    /// Only these partitions
    #[arg(long, short, value_name = "N,...", value_delimiter = ',')]
    partition: Vec<u32>,
    /// To the first record that there still is
    #[arg(long)]
    to_earliest: bool,
    /// To the end: only what comes from now on
    #[arg(long)]
    to_latest: bool,
    /// To this offset, in every partition that is reset
    #[arg(long, value_name = "OFFSET")]
    to_offset: Option<u64>,
    /// To the first records of this time or later
    #[arg(long, value_name = "TIME", allow_hyphen_values = true,
          value_parser = |text: &str| parse_time(text, now_ms()))]
    to_time: Option<i64>,
    /// So many records on, or back (-100)
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    shift_by: Option<i64>,
    /// Only show what would be set
    #[arg(long)]
    dry_run: bool,
    /// Also while the group has members
    #[arg(long)]
    force: bool,
    /// Print a JSON object per partition
    #[arg(long)]
    json: bool,
}

/// What becomes of one partition.
#[derive(Debug, Serialize)]
struct MoveJson<'a> {
    topic: &'a str,
    partition: u32,
    before: Option<u64>,
    after: u64,
    dry_run: bool,
}

impl ResetArgs {
    pub(super) async fn run(self, connection: &ConnectionArgs) -> Result<Exit, Failure> {
        let moves =
            connection.with_client(async |client| self.reset(&client.admin()).await).await?;
        let mut output = Output::stdout();
        if self.json {
            moves.iter().try_for_each(|one| output.json(one))?;
        } else if !moves.is_empty() {
            table(&moves).lines().iter().try_for_each(|line| output.line(line))?;
        }
        output.flush()?;
        let (count, group) = (moves.len(), &self.group);
        let plural = if count == 1 { "" } else { "s" };
        if !moves.is_empty() && moves.iter().all(|one| one.before.is_none()) {
            note(&format!("group {group} has read nothing of {} before", self.topic));
        }
        note(&if self.dry_run {
            format!("{count} partition{plural} of {group} would be set; nothing was done")
        } else {
            format!("set group {group} in {count} partition{plural} of {}", self.topic)
        });
        Ok(Exit::Done)
    }

    async fn reset(&self, admin: &Admin) -> Result<Vec<MoveJson<'_>>, Failure> {
        let doing = format!("reset group {}", self.group);
        let failed = |error| self.failure(&doing, &error);
        let described = admin.describe_topic(self.topic.as_str()).await.map_err(failed)?;
        let known = described.topic.partitions;
        if let Some(unknown) = self.partition.iter().find(|partition| **partition >= known) {
            let text = format!("cannot {doing}: topic {} has no partition {unknown}", self.topic);
            return Err(Failure::new(Exit::NotFound, text)
                .hint(format!("it has {known}, which are counted from 0")));
        }
        let mut partitions = self.partition.clone();
        if partitions.is_empty() {
            partitions.extend(0..known);
        }
        partitions.sort_unstable();
        partitions.dedup();
        let group = admin.group(&*self.group);
        let committed = group.offsets().await.map_err(failed)?;
        let mut moves = Vec::new();
        for partition in partitions {
            let before = committed
                .iter()
                .find(|at| at.topic == self.topic && at.partition == PartitionIndex(partition));
            let before = before.map(|at| at.offset.0);
            if let Some(after) = self.target(admin, partition, before).await.map_err(failed)? {
                let (topic, dry_run) = (self.topic.as_str(), self.dry_run);
                moves.push(MoveJson { topic, partition, before, after, dry_run });
            } else {
                note(&format!("partition {partition}: nothing is committed, it is not shifted"));
            }
        }
        if !self.dry_run && !moves.is_empty() {
            let resets = moves.iter().map(|one| OffsetReset {
                topic: self.topic.clone(),
                partition: PartitionIndex(one.partition),
                offset: Some(Offset(one.after)),
            });
            group.reset(resets.collect(), self.force).await.map_err(failed)?;
        }
        Ok(moves)
    }

    /// Where the group reads on in a partition; `None` where it has to have come somewhere for that.
    async fn target(
        &self,
        admin: &Admin,
        partition: u32,
        before: Option<u64>,
    ) -> Result<Option<u64>, RequestError> {
        let third = self.to_time.map_or(StartPosition::Latest, StartPosition::Time);
        let positions = vec![StartPosition::Earliest, StartPosition::Latest, third];
        let offsets = admin.offsets(self.topic.as_str(), partition, positions).await?;
        let [earliest, latest, at_time] = offsets[..] else {
            let reason = "three offsets were asked for".into();
            return Err(RequestError::MalformedAnswer { reason });
        };
        let within = |offset: u64| offset.clamp(earliest.0, latest.0.max(earliest.0));
        Ok(if self.to_earliest {
            Some(earliest.0)
        } else if self.to_latest {
            Some(latest.0)
        } else if self.to_time.is_some() {
            Some(at_time.0)
        } else if let Some(offset) = self.to_offset {
            Some(within(offset))
        } else {
            let by = self.shift_by.unwrap_or_default();
            before.map(|before| within(before.saturating_add_signed(by)))
        })
    }

    fn failure(&self, doing: &str, error: &RequestError) -> Failure {
        let failure = request_failure(doing, error);
        match error.code() {
            Some(ErrorCode::GroupInUse) => failure.hint(
                "stop its members first (`plimsoll group describe` shows them), or --force: they go on \
                 from where they are",
            ),
            _ => failure,
        }
    }
}

fn table(moves: &[MoveJson<'_>]) -> Table {
    let mut table = Table::new(&["TOPIC", ">PARTITION", ">BEFORE", ">AFTER"]);
    for one in moves {
        table.row(vec![
            one.topic.to_owned(),
            one.partition.to_string(),
            one.before.map_or_else(|| "-".to_owned(), |before| before.to_string()),
            one.after.to_string(),
        ]);
    }
    table
}

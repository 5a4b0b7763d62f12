//! `plimsoll log inspect`: what there is.

use std::path::PathBuf;

use clap::Args;
use plimsoll_log::inspect::Inspector;
use plimsoll_protocol::ids::GroupId;

use super::{inspect_failure, is_in_use, open, or_end, render};
use crate::exit::Exit;
use crate::failure::{Failure, note};
use crate::output::Output;

const AFTER_HELP: &str = "\
Examples:
  plimsoll log inspect ./data
  plimsoll log inspect ./data --group 3
  plimsoll log inspect ./data --group 3 --batches | less
  plimsoll log inspect ./data --json | jq 'select(.kind == \"group\")'

Group 0 is the catalog of topics, every other group is a partition; `plimsoll topic describe NAME
--json` says which. With --json each line is an object whose `kind` is store, checkpoint,
journal-file, group, segment, block, batch or damage.";

/// List what a data directory holds: checkpoints, journal, groups, segments, batches
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_HELP)]
pub(super) struct InspectArgs {
    /// The data directory
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// Only this group, with its segments
    #[arg(long, value_name = "N")]
    group: Option<u64>,
    /// Every batch in the segments, with what its checksums say
    #[arg(long)]
    batches: bool,
    /// Every block of the journal
    #[arg(long)]
    blocks: bool,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

impl InspectArgs {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let inspector = open(&self.directory)?;
        let mut output = Output::stdout();
        let groups = self.groups(&inspector)?;
        if self.json {
            render::json(&mut output, inspector.report(), &groups, self.group.is_none())?;
        } else {
            let lines = render::lines(inspector.report(), &groups, self.group.is_none());
            lines.iter().try_for_each(|line| output.line(line))?;
        }
        if self.blocks {
            self.print_blocks(&inspector, &mut output)?;
        }
        if self.batches {
            for &group in &groups {
                self.print_batches(&inspector, group, &mut output)?;
            }
        }
        output.flush()?;
        if !inspector.report().damaged.is_empty() {
            note("there is damage; `plimsoll log verify` checks everything");
            if is_in_use(&self.directory) {
                note(
                    "a node uses this directory: it may only seem so; stop the node and look again",
                );
            }
        }
        Ok(Exit::Done)
    }

    fn groups(&self, inspector: &Inspector) -> Result<Vec<GroupId>, Failure> {
        let known = &inspector.report().groups;
        match self.group.map(GroupId) {
            None => Ok(known.keys().copied().collect()),
            Some(group) if known.contains_key(&group) => Ok(vec![group]),
            Some(group) => {
                let unknown = plimsoll_log::inspect::InspectError::UnknownGroup(group);
                Err(inspect_failure(&self.directory, &unknown))
            }
        }
    }

    fn print_blocks(&self, inspector: &Inspector, output: &mut Output) -> Result<(), Failure> {
        if !self.json {
            output.line("\nBLOCK  FILE  BYTE  SIZE  RECORDS")?;
        }
        inspector
            .blocks(&mut |block| {
                or_end(if self.json {
                    output.json(&render::BlockJson::of(block))
                } else {
                    output.line(&render::block_line(block))
                });
            })
            .map_err(|error| inspect_failure(&self.directory, &error))
    }

    fn print_batches(
        &self,
        inspector: &Inspector,
        group: GroupId,
        output: &mut Output,
    ) -> Result<(), Failure> {
        // A group that only the journal knows yet has no segments to walk over.
        if inspector.report().groups.get(&group).is_none_or(|report| report.segments.is_empty()) {
            return Ok(());
        }
        if !self.json {
            output.line(&format!("\ngroup {group}\n{}", render::BATCH_TITLES))?;
        }
        inspector
            .batches(group, &mut |batch| {
                or_end(if self.json {
                    output.json(&render::BatchJson::of(group, batch))
                } else {
                    output.line(&render::batch_line(batch))
                });
            })
            .map_err(|error| inspect_failure(&self.directory, &error))
    }
}

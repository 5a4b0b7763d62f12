//! `plimsoll log verify`: whether every byte is as it was written.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use plimsoll_log::inspect::{DamagedPlace, Verification};
use serde::Serialize;

use super::{inspect_failure, is_in_use, open};
use crate::exit::Exit;
use crate::failure::{Failure, note};
use crate::output::Output;
use crate::progress::{Measure, Progress};
use crate::quantity::{bytes_text, elapsed_text, per_second, thousands};

const AFTER_HELP: &str = "\
Examples:
  plimsoll log verify ./data
  plimsoll log verify ./data --json | jq 'select(.kind == \"damage\")'

Checked are all checksums and that every log is without gaps: checkpoints, the journal, and the
segments up to the ends that the newest checkpoint records. Each damaged place is one line: the file,
the byte, what is wrong. Nothing is repaired and nothing deleted.

Exit codes: 0 no damage; 5 damage was found; 3 it is no data directory.";

/// Check every checksum of a data directory, and name each damaged place
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_HELP)]
pub(super) struct VerifyArgs {
    /// The data directory
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// Print damage, and a summary, as one JSON object per line
    #[arg(long)]
    json: bool,
    /// No progress bar and no summary; damage is still told
    #[arg(long, short)]
    quiet: bool,
}

/// A damaged place in JSON.
#[derive(Debug, Serialize)]
pub(super) struct DamageJson<'a> {
    kind: &'static str,
    path: &'a str,
    position: Option<u64>,
    what: &'a str,
}

#[derive(Debug, Serialize)]
struct SummaryJson<'a> {
    kind: &'static str,
    groups: u64,
    segments: u64,
    batches: u64,
    bytes: u64,
    blocks: u64,
    placed: u64,
    damaged: usize,
    notes: &'a [String],
    seconds: f64,
}

impl<'a> DamageJson<'a> {
    pub(super) fn of(place: &'a DamagedPlace) -> Self {
        Self { kind: "damage", path: &place.path, position: place.position, what: &place.what }
    }
}

/// `segments/...: byte 4096: the checksum is wrong`.
pub(super) fn damage_line(place: &DamagedPlace) -> String {
    match place.position {
        Some(position) => format!("{}: byte {position}: {}", place.path, place.what),
        None => format!("{}: {}", place.path, place.what),
    }
}

impl VerifyArgs {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let began = Instant::now();
        let inspector = open(&self.directory)?;
        let progress = Progress::start(Measure::Bytes(Some(0)), !self.quiet);
        let verified = inspector.verify(&mut |now| {
            progress.expect(now.bytes_total);
            progress.say(
                now.bytes,
                &format!(
                    "{} of {} segments, {}",
                    thousands(now.segments),
                    thousands(now.segments_total),
                    bytes_text(now.bytes)
                ),
            );
        });
        progress.end();
        let found = verified.map_err(|error| inspect_failure(&self.directory, &error))?;
        self.print(&found, began)?;
        if found.damaged.is_empty() {
            return Ok(Exit::Done);
        }
        let count = found.damaged.len();
        let places = if count == 1 { "place is" } else { "places are" };
        let text = format!("{}: {count} {places} damaged", self.directory.display());
        let failure = Failure::new(Exit::Damaged, text);
        Err(if is_in_use(&self.directory) {
            failure
                .hint("a node uses this directory, so it may only seem so: stop it and try again")
        } else {
            failure.hint(
                "copy the directory before anything else is done with it, and check the disk \
                 (dmesg, smartctl)",
            )
        })
    }

    fn print(&self, found: &Verification, began: Instant) -> Result<(), Failure> {
        let mut output = Output::stdout();
        if self.json {
            found.damaged.iter().try_for_each(|place| output.json(&DamageJson::of(place)))?;
            output.json(&SummaryJson {
                kind: "verified",
                groups: found.groups,
                segments: found.segments,
                batches: found.batches,
                bytes: found.bytes,
                blocks: found.blocks,
                placed: found.placed,
                damaged: found.damaged.len(),
                notes: &found.notes,
                seconds: began.elapsed().as_secs_f64(),
            })?;
            return output.flush();
        }
        found.damaged.iter().try_for_each(|place| output.line(&damage_line(place)))?;
        output.flush()?;
        if self.quiet {
            return Ok(());
        }
        found.notes.iter().for_each(|text| note(&format!("note: {text}")));
        note(&format!(
            "checked {} batches, {} in {} segments of {} groups, and {} journal blocks in {}, {}/s",
            thousands(found.batches + found.placed),
            bytes_text(found.bytes),
            thousands(found.segments),
            thousands(found.groups),
            thousands(found.blocks),
            elapsed_text(began.elapsed()),
            bytes_text(per_second(found.bytes, began.elapsed())),
        ));
        if found.damaged.is_empty() {
            note("no damage");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_place_has_file_byte_and_reason() {
        let mut place = DamagedPlace {
            path: "segments/1-0.segment".to_owned(),
            position: Some(4_096),
            what: "the header's checksum is wrong".to_owned(),
        };
        let line = damage_line(&place);
        assert_eq!(line, "segments/1-0.segment: byte 4096: the header's checksum is wrong");
        let json = serde_json::to_value(DamageJson::of(&place)).unwrap();
        assert_eq!((&json["kind"], &json["position"]), (&"damage".into(), &4_096.into()));
        place.position = None;
        assert_eq!(damage_line(&place), "segments/1-0.segment: the header's checksum is wrong");
    }
}

//! How a run of `produce` ended: figures for people and scripts, and the verdict as an exit code.

use std::time::Duration;

use plimsoll_client::{ErrorCode, SendError};
use serde::Serialize;

use super::delivery::Tally;
use crate::exit::Exit;
use crate::failure::{Failure, note};
use crate::output::Output;
use crate::progress::figures;
use crate::quantity::{elapsed_text, per_second, thousands};
use crate::request::{exit_of, hint_for};

/// Everything that is known at the end.
#[derive(Debug)]
pub(super) struct Outcome<'a> {
    pub(super) topic: &'a str,
    pub(super) tally: Tally,
    pub(super) elapsed: Duration,
    /// Whether somebody wanted it to end before the input did.
    pub(super) interrupted: bool,
    /// Whether the input could be read.
    pub(super) fed: Result<(), Failure>,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct SummaryJson<'a> {
    topic: &'a str,
    records: u64,
    bytes: u64,
    seconds: f64,
    records_per_s: u64,
    mb_per_s: f64,
    reached: Option<&'static str>,
    durability: Option<&'static str>,
    duplicates: u64,
    unreadable: u64,
    not_stored: u64,
    unknown: u64,
    interrupted: bool,
    partitions: Vec<PartitionJson>,
}

#[derive(Debug, Serialize)]
struct PartitionJson {
    partition: usize,
    records: u64,
    first_offset: Option<u64>,
    last_offset: Option<u64>,
}

impl Outcome<'_> {
    /// Prints the figures as one JSON object.
    pub(super) fn print_json(&self) -> Result<(), Failure> {
        let tally = &self.tally;
        let partition = |(partition, tally): (usize, &super::delivery::PartitionTally)| {
            let offsets = tally.offsets;
            PartitionJson {
                partition,
                records: tally.records,
                first_offset: offsets.map(|(first, _)| first),
                last_offset: offsets.map(|(_, last)| last),
            }
        };
        let used = tally.partitions.iter().enumerate().filter(|(_, tally)| tally.records > 0);
        let mut output = Output::stdout();
        output.json(&SummaryJson {
            topic: self.topic,
            records: tally.acknowledged,
            bytes: tally.bytes,
            seconds: self.elapsed.as_secs_f64(),
            records_per_s: per_second(tally.acknowledged, self.elapsed),
            mb_per_s: per_second(tally.bytes, self.elapsed) as f64 / 1e6,
            reached: tally.reached.map(|reached| reached.as_str()),
            durability: tally.durability.map(|durability| durability.as_str()),
            duplicates: tally.duplicates,
            unreadable: tally.unreadable,
            not_stored: tally.not_stored,
            unknown: tally.unknown,
            interrupted: self.interrupted,
            partitions: used.map(partition).collect(),
        })?;
        output.flush()
    }

    /// Tells the figures on standard error.
    pub(super) fn tell(&self) {
        note(&self.sentence());
    }

    fn sentence(&self) -> String {
        let tally = &self.tally;
        let mut text = format!(
            "produced {} in {} to {}",
            figures(tally.acknowledged, tally.bytes, self.elapsed),
            elapsed_text(self.elapsed),
            self.topic,
        );
        if let (Some(reached), Some(durability)) = (tally.reached, tally.durability) {
            text.push_str(&format!("; acknowledged: {reached}, {durability}"));
        }
        if tally.duplicates > 0 {
            let count = thousands(tally.duplicates);
            text.push_str(&format!("; {count} were sent again and stored once"));
        }
        text
    }

    /// How the process should end.
    pub(super) fn verdict(self) -> Result<Exit, Failure> {
        let tally = &self.tally;
        let stored = thousands(tally.acknowledged);
        let partly = tally.acknowledged > 0;
        let grade =
            |failure: Failure| if partly { failure.with_exit(Exit::Partly) } else { failure };
        if let Some(problem) = &tally.first_problem {
            let missed = [
                (tally.unreadable, "not readable"),
                (tally.not_stored, "not stored"),
                (tally.unknown, "perhaps stored"),
            ];
            let missed: Vec<_> = missed
                .iter()
                .filter(|(count, _)| *count > 0)
                .map(|(count, what)| format!("{} {what}", thousands(*count)))
                .collect();
            let text =
                format!("{} (records: {stored} stored, {})", problem.text, missed.join(", "));
            return Err(grade(with_advice(text, problem.error.as_ref())));
        }
        if let Err(failure) = self.fed {
            let told = format!("{stored} records before that are stored");
            return Err(grade(if partly { failure.hint(told) } else { failure }));
        }
        if self.interrupted {
            let text = format!("interrupted; {stored} records are stored, the rest was not sent");
            return Err(Failure::new(Exit::Partly, text));
        }
        Ok(Exit::Done)
    }
}

fn with_advice(text: String, error: Option<&SendError>) -> Failure {
    match error {
        None => {
            Failure::new(Exit::Failed, text).hint("--keep-going skips such lines and counts them")
        }
        Some(SendError::Refused(refusal)) => {
            Failure::new(exit_of(refusal.code), text).maybe_hint(hint_for(refusal.code))
        }
        Some(SendError::UnknownPartition { .. }) => Failure::new(Exit::NotFound, text)
            .hint("`plimsoll topic describe NAME` shows the partitions, which are counted from 0"),
        Some(SendError::TooLarge(_)) => Failure::new(Exit::Failed, text).hint(
            "`plimsoll topic alter NAME --config batch-bytes-max=15MiB` raises what the topic \
             takes, up to the node's own limit",
        ),
        Some(SendError::OutcomeUnknown { .. } | SendError::Fenced) => {
            Failure::new(Exit::Failed, text).hint(
                "consume the end of the topic to see what is stored before sending the rest again",
            )
        }
        Some(SendError::StaleFence { .. }) => {
            Failure::new(Exit::Failed, text).maybe_hint(hint_for(ErrorCode::StaleFence))
        }
        Some(_) => Failure::new(Exit::Failed, text),
    }
}

#[cfg(test)]
mod tests {
    use super::super::delivery::Problem;
    use super::*;
    use plimsoll_client::{AckLevel, Durability};

    fn outcome(tally: Tally) -> Outcome<'static> {
        let elapsed = Duration::from_millis(500);
        Outcome { topic: "orders", tally, elapsed, interrupted: false, fed: Ok(()) }
    }

    fn stored(acknowledged: u64) -> Tally {
        Tally {
            acknowledged,
            bytes: 6_890_000,
            reached: Some(AckLevel::Quorum),
            durability: Some(Durability::Durable),
            ..Tally::default()
        }
    }

    #[test]
    fn summary_says_how_much_how_fast_and_how_safe() {
        assert_eq!(
            outcome(stored(100_000)).sentence(),
            "produced 100,000 records, 6.89 MB, 200,000 records/s, 13.8 MB/s in 500 ms to orders; \
             acknowledged: quorum, durable"
        );
        assert_eq!(outcome(stored(100_000)).verdict().unwrap(), Exit::Done);
    }

    #[test]
    fn some_stored_and_some_not_is_partly() {
        let problem = || {
            Some(Problem {
                text: "standard input, line 3: not stored: the disk is full".to_owned(),
                error: Some(SendError::Closed),
            })
        };
        let tally = Tally { not_stored: 1, first_problem: problem(), ..stored(2) };
        let failure = outcome(tally).verdict().unwrap_err();
        assert_eq!(failure.exit(), Exit::Partly);
        assert!(failure.to_string().contains("2 stored, 1 not stored"), "{failure}");
        let none = Tally { not_stored: 1, first_problem: problem(), ..Tally::default() };
        assert_eq!(outcome(none).verdict().unwrap_err().exit(), Exit::Failed);
    }

    #[test]
    fn unknown_outcome_is_never_called_a_failure_to_store() {
        let error = SendError::OutcomeUnknown { reason: "connection lost".into() };
        let problem = Problem { text: "line 1: outcome unknown".to_owned(), error: Some(error) };
        let tally = Tally { unknown: 7, first_problem: Some(problem), ..Tally::default() };
        let text = outcome(tally).verdict().unwrap_err().to_string();
        assert!(text.contains("7 perhaps stored"), "{text}");
        assert!(!text.contains("not stored"), "{text}");
    }

    #[test]
    fn interruption_tells_what_is_stored() {
        let interrupted = Outcome { interrupted: true, ..outcome(stored(5)) };
        let failure = interrupted.verdict().unwrap_err();
        assert_eq!(failure.exit(), Exit::Partly);
        assert!(failure.to_string().contains("5 records are stored"), "{failure}");
    }
}

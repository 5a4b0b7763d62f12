//! What the committed control entries of a queue add up to: the plainest fold of them, as a twin of the
//! product's.

use std::collections::BTreeMap;

use plimsoll_delivery::command::{QueueCommand, Reason};
use plimsoll_delivery::config::{Counting, QueueConfig};
use plimsoll_delivery::offsets::Run;
use plimsoll_protocol::ids::LogId;

/// See the module.
#[derive(Debug, Default)]
pub struct Worked {
    /// Messages that are settled, with the entry that did it.
    pub ended: BTreeMap<u64, LogId>,
    /// Messages that were given up for dead letters, settled by now or not, with entry and reason.
    pub buried: BTreeMap<u64, (LogId, Reason)>,
    /// Attempts as they were written, also of what is settled.
    pub attempts: BTreeMap<u64, u32>,
    /// How often a leader's task began, or was told of another configuration.
    pub begun: u64,
    config: Option<QueueConfig>,
}

impl Worked {
    /// When the message was settled or given up: it is not delivered again.
    #[must_use]
    pub fn over(&self, offset: u64) -> Option<LogId> {
        let buried = self.buried.get(&offset).map(|(id, _)| *id);
        [buried, self.ended.get(&offset).copied()].into_iter().flatten().min()
    }

    /// Attempts after which a message is given up; 0: never.
    #[must_use]
    pub fn attempts_max(&self) -> u32 {
        self.config.as_ref().map_or(0, |config| config.attempts_max)
    }

    /// Whether attempts are written before a message is handed out.
    #[must_use]
    pub fn counts_before(&self) -> bool {
        self.config.as_ref().is_some_and(|config| config.counting == Counting::Before)
    }

    /// Folds a command of the entry `id`.
    pub fn fold(&mut self, id: LogId, command: &QueueCommand) {
        match command {
            QueueCommand::Configure { config } | QueueCommand::Open { config, .. } => {
                self.begun += 1;
                self.config = Some((**config).clone());
            }
            QueueCommand::Settle { .. }
            | QueueCommand::Drop { .. }
            | QueueCommand::Cancel { .. } => {
                for offset in named(command) {
                    self.ended.entry(offset).or_insert(id);
                }
            }
            QueueCommand::Acquire { items } => {
                items.iter().for_each(|item| self.count(item.run, item.attempt));
            }
            QueueCommand::Release { items } => {
                items.iter().for_each(|item| self.count(Run::one(item.offset), item.attempt));
            }
            QueueCommand::DeadLetter { items } => {
                for item in items {
                    self.count(item.run, item.attempts);
                    for offset in item.run.offsets() {
                        self.buried.entry(offset.0).or_insert((id, item.reason));
                    }
                }
            }
            QueueCommand::Purge { .. } | QueueCommand::Close => {}
        }
    }

    fn count(&mut self, run: Run, attempts: u32) {
        for offset in run.offsets() {
            let noted = self.attempts.entry(offset.0).or_insert(0);
            *noted = attempts.max(*noted);
        }
    }
}

/// The messages that a command names, by offset.
#[must_use]
pub(super) fn named(command: &QueueCommand) -> Vec<u64> {
    let runs: Vec<Run> = match command {
        QueueCommand::Settle { runs } | QueueCommand::Drop { runs, .. } => runs.iter().collect(),
        QueueCommand::Acquire { items } => items.iter().map(|item| item.run).collect(),
        QueueCommand::Release { items } => items.iter().map(|item| Run::one(item.offset)).collect(),
        QueueCommand::DeadLetter { items } => items.iter().map(|item| item.run).collect(),
        QueueCommand::Cancel { offset } => vec![Run::one(*offset)],
        QueueCommand::Purge { .. }
        | QueueCommand::Configure { .. }
        | QueueCommand::Open { .. }
        | QueueCommand::Close => Vec::new(),
    };
    runs.iter().flat_map(Run::offsets).map(|offset| offset.0).collect()
}

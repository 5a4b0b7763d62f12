//! A group's folded state: kept beside the log in the checkpoints.

use std::sync::Weak;

use bytes::Bytes;
use plimsoll_protocol::ids::LogId;

use super::GroupLog;
use super::error::ReadError;
use super::front::StateSlot;

/// Gives a group's state when a checkpoint is made.
pub trait StateSource: Send + Sync + 'static {
    /// The state and the last entry that is folded into it; `None` where nothing was folded yet. Called
    /// by the checkpoint thread, which holds no lock then.
    fn encode_state(&self) -> Option<(LogId, Bytes)>;
}

impl GroupLog {
    /// Stores the folded state; the next checkpoint holds it.
    pub fn put_state(&self, applied: LogId, state: Bytes) {
        self.front.lock().state = StateSlot::Held(applied, state);
        self.list_as_changed();
    }

    /// The state stored last, by [`GroupLog::put_state`] or at a checkpoint. Blocks where it must be
    /// read back.
    ///
    /// # Errors
    /// When the checkpoint cannot be read.
    pub fn state(&self) -> Result<Option<(LogId, Bytes)>, ReadError> {
        let slot = self.front.lock().state.clone();
        match slot {
            StateSlot::None => Ok(None),
            StateSlot::Held(applied, state) => Ok(Some((applied, state))),
            StateSlot::Stored(_) => self.shared.stored_state(self.id()),
        }
    }

    /// Who is asked for the state at a checkpoint.
    pub fn set_state_source(&self, source: Option<Weak<dyn StateSource>>) {
        *self.state_source.lock() = source;
    }

    /// The state that goes into a checkpoint beside the log as of so many installations.
    pub(crate) fn state_for_checkpoint(&self, installs: u64) -> StateSlot {
        let asked = self.encode_state();
        let front = self.front.lock();
        if front.installs != installs {
            let before = front.states_before.iter().find(|(count, _)| *count == installs);
            return before.map_or(StateSlot::None, |(_, state)| state.clone());
        }
        match asked {
            // The source still folds the log that was replaced.
            Some((applied, _)) if front.installs > 0 && front.state.applied() > Some(applied) => {
                front.state.clone()
            }
            Some((applied, state)) => StateSlot::Held(applied, state),
            None => front.state.clone(),
        }
    }

    /// The state is in the newest checkpoint, beside the log as of so many installations.
    pub(crate) fn state_stored(&self, installs: u64, applied: LogId, state: &Bytes) {
        let mut front = self.front.lock();
        let newer = matches!(&front.state, StateSlot::Held(held, _) if *held != applied);
        if newer || front.installs != installs {
            return;
        }
        let small = state.len() <= self.shared.config.state_in_memory_bytes_max;
        front.state = match small {
            true => StateSlot::Held(applied, state.clone()),
            false => StateSlot::Stored(applied),
        };
    }

    /// The newest checkpoint holds the log as of so many installations.
    pub(crate) fn log_stored(&self, installs: u64) {
        self.front.lock().states_before.retain(|(count, _)| *count >= installs);
    }

    /// Asks the source.
    fn encode_state(&self) -> Option<(LogId, Bytes)> {
        let source = self.state_source.lock().clone();
        source.and_then(|source| source.upgrade())?.encode_state()
    }
}

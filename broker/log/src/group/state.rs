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
    /// Stores the folded state. The next checkpoint holds it, once the entries that are folded into it
    /// are on stable storage; until then it holds the one before. See [`GroupLog::may_keep_state`].
    pub fn put_state(&self, applied: LogId, state: Bytes) {
        self.front.lock().put_state(applied, state);
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

    /// Whether a checkpoint would hold a state that is folded up to `applied`: where the entries are
    /// durable, only once they are. A majority may have committed an entry that this node's journal does not
    /// have yet; a state that is ahead of its log would cost all of the log after a crash.
    #[must_use]
    pub fn may_keep_state(&self, applied: LogId) -> bool {
        self.front.lock().may_keep(applied)
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
                front.kept_state()
            }
            Some((applied, state)) if front.may_keep(applied) => StateSlot::Held(applied, state),
            Some(_) | None => front.kept_state(),
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use plimsoll_protocol::batch::EntryKind;
    use plimsoll_protocol::ids::{GroupId, LogIndex, Term};

    use super::*;
    use crate::disk::sim::{CrashPlan, SimDisk};
    use crate::{Driver, GroupOptions, LogEntry, Store, StoreConfig};

    struct Source(LogId);

    impl StateSource for Source {
        fn encode_state(&self) -> Option<(LogId, Bytes)> {
            Some((self.0, Bytes::from_static(b"state")))
        }
    }

    fn open(disk: SimDisk) -> Arc<Store> {
        let config = StoreConfig { free_bytes_min: 0, ..StoreConfig::default() };
        Store::open(Arc::new(disk), config, Driver::Manual, Box::new(|_| {})).unwrap()
    }

    /// A follower is told that an entry is committed before its own journal has it. A checkpoint took the
    /// state with that entry in; after a crash the log ended before its state, and all of it was given up.
    #[test]
    fn state_is_not_ahead_of_the_journal_in_a_checkpoint() {
        let disk = SimDisk::new(1);
        let store = open(disk.clone());
        let group = store.create_group(GroupId(1), GroupOptions::default()).unwrap();
        let id = |index| LogId::new(Term(1), LogIndex(index));
        let append = |index| {
            let entry = LogEntry::new(EntryKind::Blank, id(index), Bytes::from_static(b"body"));
            group.append(vec![entry], Box::new(|_| {})).unwrap();
        };
        append(0);
        store.checkpoint_now();
        let source = Arc::new(Source(id(1)));
        let weak: Weak<Source> = Arc::downgrade(&source);
        group.set_state_source(Some(weak));
        append(1);
        assert_eq!(group.state_for_checkpoint(0), StateSlot::None, "its entry is queued only");
        assert!(!group.may_keep_state(id(1)) && group.may_keep_state(id(0)));
        while store.step() {}
        let kept = StateSlot::Held(id(1), Bytes::from_static(b"state"));
        assert_eq!(group.state_for_checkpoint(0), kept);
        store.checkpoint_now();
        let store = open(disk.crash(&CrashPlan::NOTHING));
        let group = store.group(GroupId(1)).unwrap();
        assert_eq!(group.state().unwrap().map(|(applied, _)| applied), Some(id(1)));
        assert_eq!(group.bounds().last, Some(id(1)));
    }
}

//! The folded state of a group, kept in checkpoints.

use std::sync::{Arc, Mutex, Weak};

use bytes::Bytes;
use plimsoll_log::StateSource;
use plimsoll_protocol::ids::LogId;

use crate::support::*;

struct Source(Mutex<(LogId, Bytes)>);

impl StateSource for Source {
    fn encode_state(&self) -> Option<(LogId, Bytes)> {
        Some(self.0.lock().unwrap().clone())
    }
}

#[test]
fn a_state_is_kept_small_or_large() {
    let directory = tempfile::tempdir().unwrap();
    for bytes in [10, 100_000] {
        let state = Bytes::from(vec![bytes as u8; bytes]);
        let store = open(directory.path());
        let group = store.create_group(GROUP, small_segments()).unwrap();
        fill(&group, 1, 1, 10);
        let applied = group.bounds().last.unwrap();
        group.put_state(applied, state.clone());
        assert_eq!(group.state().unwrap(), Some((applied, state.clone())));
        store.checkpoint_now();
        assert_eq!(group.state().unwrap(), Some((applied, state.clone())));
        // Carried over by checkpoints of other things.
        fill(&group, 1, 1, 10);
        store.checkpoint_now();
        store.create_group(plimsoll_protocol::ids::GroupId(99), small_segments()).unwrap();
        store.checkpoint_now();
        assert_eq!(group.state().unwrap(), Some((applied, state.clone())));
        drop((store, group));
        let store = open(directory.path());
        let group = store.group(GROUP).unwrap();
        assert_eq!(group.state().unwrap(), Some((applied, state)));
    }
}

#[test]
fn a_source_is_asked_at_a_checkpoint_and_at_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let group = store.create_group(GROUP, small_segments()).unwrap();
    fill(&group, 1, 5, 10);
    let source = Arc::new(Source(Mutex::new((log_id(1, 2), Bytes::from_static(b"two")))));
    let weak: Weak<dyn StateSource> = Arc::downgrade(&source) as Weak<dyn StateSource>;
    group.set_state_source(Some(weak));
    store.checkpoint_now();
    assert_eq!(group.state().unwrap(), Some((log_id(1, 2), Bytes::from_static(b"two"))));
    fill(&group, 1, 1, 10);
    *source.0.lock().unwrap() = (log_id(1, 4), Bytes::from_static(b"four"));
    store.close();
    drop((store, group));
    let store = open(directory.path());
    let state = store.group(GROUP).unwrap().state().unwrap();
    assert_eq!(state, Some((log_id(1, 4), Bytes::from_static(b"four"))));
}

#[test]
fn committed_marks_are_kept() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let group = store.create_group(GROUP, small_segments()).unwrap();
    fill(&group, 1, 5, 10);
    group.save_committed(log_id(1, 3));
    assert_eq!(group.committed(), Some(log_id(1, 3)));
    store.close();
    drop((store, group));
    assert_eq!(open(directory.path()).group(GROUP).unwrap().committed(), Some(log_id(1, 3)));
}

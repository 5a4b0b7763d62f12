//! Groups that are kept in memory: fast, and a killed process loses nothing.

use plimsoll_log::{Durability, GroupOptions, Retention, Vote};
use plimsoll_protocol::ids::{LogIndex, NodeId, Offset, Term};

use crate::support::*;

fn in_memory() -> GroupOptions {
    GroupOptions { durability: Durability::Memory, ..small_segments() }
}

#[test]
fn entries_do_not_pass_the_journal_and_survive_the_process() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let group = store.create_group(GROUP, in_memory()).unwrap();
    fill(&group, 1, 300, 1000);
    assert!(store.stats().journaled_bytes < 50_000);
    let before = entries(&group, 0);
    drop((store, group));
    for _ in 0..2 {
        let store = open(directory.path());
        let group = store.group(GROUP).unwrap();
        assert_same(&entries(&group, 0), &before);
        assert_eq!(group.bounds().log_end_offset, Offset(600));
    }
    let store = open(directory.path());
    let group = store.group(GROUP).unwrap();
    fill(&group, 2, 5, 100);
    drop((store, group));
    let store = open(directory.path());
    assert_eq!(entries(&store.group(GROUP).unwrap(), 0).len(), 305);
}

/// Raft notes how far it has committed after every append. The note went to the journal, and the next
/// append waited for that write: memory was as slow as the disk, 300 MB/s in place of 850.
#[test]
fn committed_marks_do_not_make_the_appends_wait_for_the_disk() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let group = store.create_group(GROUP, in_memory()).unwrap();
    fill(&group, 1, 1, 100);
    let before = store.stats().blocks;
    for _ in 0..20 {
        group.save_committed(group.bounds().last.unwrap());
        fill(&group, 1, 1, 100);
    }
    assert_eq!(store.stats().blocks, before);
    assert_eq!(group.committed().map(|id| id.index), Some(LogIndex(19)));
}

#[test]
fn a_truncated_tail_never_returns() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let group = store.create_group(GROUP, in_memory()).unwrap();
    fill(&group, 1, 100, 1000);
    let vote = Vote { term: Term(5), voted_for: NodeId(1), committed: true };
    group.save_vote(vote, nobody());
    group.truncate_after(Some(LogIndex(39)), nobody()).unwrap();
    // The new leader's entries are older than its term.
    fill(&group, 3, 10, 200);
    group.truncate_after(Some(LogIndex(44)), nobody()).unwrap();
    fill(&group, 4, 3, 200);
    let expected = entries(&group, 0);
    assert_eq!(expected.len(), 48);
    drop((store, group));
    for _ in 0..3 {
        let store = open(directory.path());
        let group = store.group(GROUP).unwrap();
        assert_same(&entries(&group, 0), &expected);
        assert_eq!(group.vote(), Some(vote));
    }
}

#[test]
fn durability_can_be_changed_in_both_directions() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let group = store.create_group(GROUP, in_memory()).unwrap();
    for round in 0..3 {
        fill(&group, 1, 40, 1000);
        let options = if round % 2 == 0 { small_segments() } else { in_memory() };
        store.set_options(GROUP, options).unwrap();
        assert_eq!(group.options(), options);
        fill(&group, 1, 40, 1000);
        let before = entries(&group, 0);
        assert_eq!(before.len() as u64, 80 * (round + 1));
    }
    let before = entries(&group, 0);
    drop((store, group));
    let store = open(directory.path());
    let group = store.group(GROUP).unwrap();
    assert_same(&entries(&group, 0), &before);
    assert_eq!(group.options().durability, Durability::Durable);
}

#[test]
fn a_clean_end_needs_no_search() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let group = store.create_group(GROUP, in_memory()).unwrap();
    fill(&group, 1, 10, 1000);
    store.close();
    drop((store, group));
    let store = open(directory.path());
    assert_eq!(store.stats().open_segments, 0);
    let group = store.group(GROUP).unwrap();
    // Used after a clean end, then killed.
    fill(&group, 1, 10, 1000);
    drop((store, group));
    let store = open(directory.path());
    assert_eq!(entries(&store.group(GROUP).unwrap(), 0).len(), 20);
}

/// Retention, then a reset, then a kill before the next checkpoint: the reset was recovered first and
/// the retention after it, so that the log began at an offset that it no longer held.
#[test]
fn a_log_that_was_reset_after_retention_begins_where_the_reset_said() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let group = store.create_group(GROUP, in_memory()).unwrap();
    fill(&group, 1, 200, 1000);
    store.checkpoint_now();
    let policy = Retention { max_age_ms: None, max_bytes: Some(50_000) };
    assert!(group.retain(&policy, 0, Offset(400)).segments > 0);
    let (done, told) = completion();
    group.reset_to(log_id(2, 299), Offset(1000), done);
    wait(&told).unwrap();
    fill(&group, 2, 3, 100);
    let (before, bounds) = (entries(&group, 300), group.bounds());
    assert_eq!(bounds.log_start_offset, Offset(1000));
    drop((store, group));
    let store = open(directory.path());
    let group = store.group(GROUP).unwrap();
    assert_eq!(group.bounds().log_start_offset, Offset(1000));
    assert_eq!(group.bounds().purged, bounds.purged);
    assert_eq!(group.first_kept_index(), LogIndex(300));
    assert_same(&entries(&group, 300), &before);
    assert_eq!(headers(&read_all(&group, Offset(1000))).len(), 3);
}

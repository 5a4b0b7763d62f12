//! What was appended is read, before and after reopening; votes; truncation.

use plimsoll_log::{Driver, Durability, GroupOptions, Vote};
use plimsoll_protocol::ids::{LogIndex, NodeId, Offset, Term};

use crate::support::*;

#[test]
fn entries_are_read_at_once_and_after_reopening() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let group = store.create_group(GROUP, small_segments()).unwrap();
    let (done, told) = completion();
    group.append(vec![blank(1, 0), records(1, 1, 3, 100)], done).unwrap();
    assert_eq!(entries(&group, 0).len(), 2);
    assert_eq!(group.bounds().log_end_offset, Offset(3));
    wait(&told).unwrap();
    fill(&group, 1, 200, 1000);
    let before = entries(&group, 0);
    assert_eq!(before.len(), 202);
    store.checkpoint_now();
    assert!(group.bounds().segments > 3);
    let read = headers(&read_all(&group, Offset(0)));
    assert_eq!(read.len(), 201);
    drop(store);
    drop(group);

    let store = open(directory.path());
    let group = store.group(GROUP).unwrap();
    assert_same(&entries(&group, 0), &before);
    assert_eq!(headers(&read_all(&group, Offset(0))), read);
    assert_eq!(group.bounds().log_end_offset, Offset(403));
    store.close();
    drop((store, group));

    let store = open(directory.path());
    let group = store.group(GROUP).unwrap();
    assert_same(&entries(&group, 0), &before);
    fill(&group, 2, 3, 10);
    assert_eq!(group.bounds().last, Some(log_id(2, 204)));
}

#[test]
fn a_vote_is_kept_and_completes_after_what_was_queued_before() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    for durability in [Durability::Durable, Durability::Memory] {
        let id = plimsoll_protocol::ids::GroupId(durability as u64);
        let group =
            store.create_group(id, GroupOptions { durability, ..small_segments() }).unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        for index in 0..50 {
            let tell = tell.clone();
            group
                .append(
                    vec![records(1, index, 1, 2000)],
                    Box::new(move |_| tell.send(index).unwrap()),
                )
                .unwrap();
        }
        let vote = Vote { term: Term(4), voted_for: NodeId(9), committed: true };
        group.save_vote(vote, Box::new(move |_| tell.send(50).unwrap()));
        let order: Vec<u64> = told.iter().collect();
        assert_eq!(order, (0..=50).collect::<Vec<_>>());
        assert_eq!(group.vote(), Some(vote));
    }
    drop(store);
    let store = open(directory.path());
    for id in store.groups() {
        assert_eq!(store.group(id).unwrap().vote().unwrap().term, Term(4));
        assert_eq!(store.group(id).unwrap().bounds().last, Some(log_id(1, 49)));
    }
}

#[test]
fn a_truncated_tail_never_returns() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let group = store.create_group(GROUP, small_segments()).unwrap();
    fill(&group, 1, 100, 1000);
    for index in 100..110 {
        group.append(vec![records(1, index, 2, 1000)], nobody()).unwrap();
    }
    group.truncate_after(Some(LogIndex(59)), nobody()).unwrap();
    assert_eq!(group.bounds().last, Some(log_id(1, 59)));
    assert_eq!(group.bounds().log_end_offset, Offset(120));
    fill(&group, 2, 5, 300);
    let expected = entries(&group, 0);
    assert_eq!(expected.len(), 65);
    assert_eq!(headers(&read_all(&group, Offset(0))).len(), 65);
    drop((store, group));
    for _ in 0..2 {
        let store = open(directory.path());
        let group = store.group(GROUP).unwrap();
        assert_same(&entries(&group, 0), &expected);
        assert_eq!(headers(&read_all(&group, Offset(0))).len(), 65);
    }
}

#[test]
fn a_store_without_threads_says_when_they_would_be_at_work() {
    let directory = tempfile::tempdir().unwrap();
    let store = try_open(directory.path(), small_config(), Driver::Manual).unwrap();
    let group = store.create_group(GROUP, small_segments()).unwrap();
    while store.is_work_due() {
        assert!(store.step());
    }
    let (done, told) = completion();
    group.append(vec![blank(1, 0)], done).unwrap();
    assert!(store.is_work_due());
    while store.is_work_due() {
        assert!(store.step());
    }
    wait(&told).unwrap();
    assert_eq!(store.stats().checkpoints, 0);
    store.look_around();
    assert!(store.is_work_due());
    while store.is_work_due() {
        assert!(store.step());
    }
    assert_eq!(store.stats().checkpoints, 1);
    store.look_around();
    assert!(!store.is_work_due(), "the checkpoint holds everything");
}

//! What cannot be provoked from outside of a group: who holds its lock, what is in doubt, what fails.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::raft::AppendEntriesRequest;
use plimsoll_log::disk::sim::SimDisk;
use plimsoll_log::{Driver, Durability, FatalError, GroupOptions, Store, StoreConfig};
use plimsoll_protocol::batch::{BatchHeader, EntryKind};
use plimsoll_protocol::ids::{GroupId, LogId, LogIndex, NodeId, Term};
use plimsoll_protocol::peer::NotHere;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::config::{Blocking, HostConfig};
use crate::types::{RaftVote, Types, to_raft};
use crate::{FreshnessError, Group, GroupKind, Host, OpenGroupError, SystemClock};

const GROUP: GroupId = GroupId(1);
/// How long anything may take, in virtual time.
const PATIENCE: Duration = Duration::from_secs(60);

/// A node alone, whose store is stepped by a task that can be stopped.
struct Alone {
    host: Arc<Host>,
    stepper: JoinHandle<()>,
}

impl Alone {
    fn new() -> Self {
        let config = StoreConfig { free_bytes_min: 0, ..StoreConfig::default() };
        let on_fatal = Box::new(|_: &FatalError| {});
        let disk = Arc::new(SimDisk::new(1));
        let store = Store::open(disk, config, Driver::Manual, on_fatal).unwrap();
        let stepped = store.clone();
        let stepper = tokio::spawn(async move {
            loop {
                while stepped.step() {}
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        let config = HostConfig { blocking: Blocking::Inline, ..HostConfig::default() };
        let host = Host::new(store, NodeId(1), Arc::new(SystemClock::default()), config);
        Self { host, stepper }
    }

    async fn group(&self) -> Arc<Group> {
        self.group_with(Durability::Durable).await
    }

    async fn group_with(&self, durability: Durability) -> Arc<Group> {
        let options = GroupOptions { durability, ..GroupOptions::default() };
        self.host.group(GROUP, GroupKind::Partition, options).await.unwrap()
    }
}

async fn in_time<T>(what: impl Future<Output = T>) -> T {
    timeout(PATIENCE, what).await.expect("it takes too long")
}

/// A batch of no producer.
fn batch() -> (Bytes, BatchHeader) {
    let id = LogId::new(Term(0), LogIndex(0));
    let entry = plimsoll_log::LogEntry::new(EntryKind::Records, id, Bytes::from_static(b"body"));
    let mut whole = bytes::BytesMut::zeroed(plimsoll_protocol::batch::BATCH_HEADER_BYTES);
    whole.extend_from_slice(&entry.body);
    (whole.freeze(), entry.header)
}

/// A producer that waited until it was known what the log holds kept everybody else waiting.
#[tokio::test(start_paused = true)]
async fn producer_in_doubt_does_not_keep_the_lock() {
    let node = Alone::new();
    let group = node.group().await;
    node.stepper.abort();
    let (first, header) = batch();
    let pending = group.produce(first.clone(), header).await.unwrap();
    let shared = group.instance().unwrap().shared;
    shared.begin_control();
    shared.proposal_over(false);
    let second = tokio::spawn({
        let group = group.clone();
        async move { group.produce(first, header).await }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!second.is_finished(), "it is not known whether the first batch is stored");
    assert!(in_time(group.status()).await.awake);
    drop((pending, second));
}

/// A linearizable read that did not end kept every later one waiting for the next round.
#[tokio::test(start_paused = true)]
async fn linearizable_read_ends_also_where_the_lock_is_held() {
    let node = Alone::new();
    let group = node.group().await;
    let held = group.lock().await;
    for _ in 0..2 {
        let error = in_time(group.linearizable()).await.unwrap_err();
        let is_late =
            matches!(error, FreshnessError::Group(OpenGroupError::NotReady { group: GROUP, .. }));
        assert!(is_late, "{error}");
    }
    drop(held);
    in_time(group.linearizable()).await.unwrap();
}

/// What a leader of this term sends that takes its follower to have this entry.
fn append(term: Term, prev: LogId) -> AppendEntriesRequest<Types> {
    AppendEntriesRequest {
        vote: RaftVote::new_committed(term.0, 2),
        prev_log_id: Some(to_raft(prev)),
        entries: Vec::new(),
        leader_commit: None,
    }
}

/// A group with one record, the last entry that is applied in it, and the term after its own.
async fn one_record(node: &Alone, durability: Durability) -> (Arc<Group>, LogId, Term) {
    let group = node.group_with(durability).await;
    let (first, header) = batch();
    let pending = group.produce(first, header).await.unwrap();
    in_time(pending).await.unwrap();
    let kept = group.instance().unwrap().shared.applied().unwrap();
    let later = Term(group.log().vote().unwrap().term.0 + 1);
    (group, kept, later)
}

#[tokio::test(start_paused = true)]
async fn durable_replica_whose_leader_takes_back_what_is_committed_is_shut_off() {
    let node = Alone::new();
    let (group, kept, later) = one_record(&node, Durability::Durable).await;
    let shared = group.instance().unwrap().shared;
    let other = LogId::new(later, kept.index);
    let before = LogId::new(kept.term, LogIndex(kept.index.0 - 1));
    let behind = LogId::new(later, LogIndex(kept.index.0 + 1));
    for (term, prev) in [(later, kept), (later, before), (later, behind), (Term(0), other)] {
        let taken_back = group.taken_back(&shared, &append(term, prev)).await;
        assert!(taken_back.is_none(), "{prev} of a leader in term {term}: {taken_back:?}");
    }
    for index in [kept.index, before.index] {
        let prev = LogId::new(later, index);
        let taken_back = group.taken_back(&shared, &append(later, prev)).await.unwrap();
        assert_eq!(group.give_up(taken_back, || {}).await, NotHere::Quarantined);
    }
    assert!(group.log().is_quarantined().is_some());
    assert_eq!(group.log().bounds().last, Some(kept), "nothing is deleted");
}

/// Two sessions may see the same, and the second comes when the replica has begun anew.
#[tokio::test(start_paused = true)]
async fn replica_in_memory_is_given_up_once() {
    let node = Alone::new();
    let (group, kept, later) = one_record(&node, Durability::Memory).await;
    let shared = group.instance().unwrap().shared;
    let request = append(later, LogId::new(later, kept.index));
    let first = group.taken_back(&shared, &request).await.unwrap();
    let second = group.taken_back(&shared, &request).await.unwrap();
    assert_eq!(group.give_up(first, || {}).await, NotHere::NoSession);
    assert!(group.instance().is_none() && group.log().bounds().last.is_none());
    assert!(group.log().vote().is_some(), "it never votes twice in a term");
    in_time(group.wake()).await.unwrap();
    let began = group.log().bounds();
    assert_eq!(group.give_up(second, || {}).await, NotHere::NoSession);
    assert!(group.instance().is_some());
    assert_eq!(group.log().bounds(), began);
}

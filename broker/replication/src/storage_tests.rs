//! openraft's own storage suite over the real store and the simulated disk, and the promises that
//! the suite does not ask for.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use bytes::Bytes;
use futures_util::StreamExt;
use openraft::alias::{LogIdOf, VoteOf};
use openraft::entry::{RaftEntry, RaftPayload};
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{OptionalSend, StorageError};
use plimsoll_log::disk::Disk;
use plimsoll_log::disk::real::{OpenOptions, RealDisk};
use plimsoll_log::disk::sim::CrashPlan;
use plimsoll_log::disk::sim::SimDisk;
use plimsoll_log::{Driver, Durability, FatalError, GroupLog, GroupOptions, Store, StoreConfig};
use plimsoll_protocol::ids::GroupId;

use crate::fold::{Fold, GroupKind};
use crate::log_store::{LogReader, LogStore};
use crate::shared::{Published, Shared};
use crate::state_machine::StateMachine;
use crate::types::{Entry, Payload, Proposal, RaftLogId, RaftVote, Types, to_raft};

fn small() -> StoreConfig {
    StoreConfig {
        journal_file_bytes: 1 << 20,
        journal_bytes_max: 8 << 20,
        free_bytes_min: 0,
        ..StoreConfig::default()
    }
}

fn open(disk: Arc<dyn Disk>, driver: Driver) -> Arc<Store> {
    let on_fatal = Box::new(|error: &FatalError| panic!("{error}"));
    Store::open(disk, small(), driver, on_fatal).unwrap()
}

fn group(store: &Store, durability: Durability) -> Arc<GroupLog> {
    let options = GroupOptions { durability, segment_bytes: 64 << 10 };
    store.create_group(GroupId(1), options).unwrap()
}

fn storage(log: &Arc<GroupLog>) -> (LogStore, StateMachine) {
    let shared = Shared::new(Fold::empty(GroupKind::Partition), Published::new(), log.clone());
    (LogStore::new(log.clone(), shared.clone()), StateMachine::new(shared))
}

/// The suite begins some logs at index 1 or 2, which Raft never does: the entries before are filled
/// with blanks.
struct FromZero {
    log: Arc<GroupLog>,
    store: LogStore,
}

impl RaftLogStorage<Types> for FromZero {
    type LogReader = LogReader;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        self.store.get_log_state().await
    }

    async fn get_log_reader(&mut self) -> LogReader {
        self.store.get_log_reader().await
    }

    async fn save_vote(&mut self, vote: &VoteOf<Types>) -> Result<(), io::Error> {
        self.store.save_vote(vote).await
    }

    async fn save_committed(&mut self, id: Option<LogIdOf<Types>>) -> Result<(), io::Error> {
        self.store.save_committed(id).await
    }

    async fn read_committed(&mut self) -> Result<Option<LogIdOf<Types>>, io::Error> {
        self.store.read_committed().await
    }

    async fn append<I>(&mut self, entries: I, done: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<_> = entries.into_iter().collect();
        let from = self.log.bounds().last.map_or(0, |last| last.index.0 + 1);
        let missing = (from..entries[0].index()).map(|index| blank(0, index));
        self.store.append(missing.chain(entries.clone()).collect::<Vec<_>>(), done).await
    }

    async fn truncate_after(&mut self, last: Option<LogIdOf<Types>>) -> Result<(), io::Error> {
        self.store.truncate_after(last).await
    }

    async fn purge(&mut self, upto: LogIdOf<Types>) -> Result<(), io::Error> {
        self.store.purge(upto).await
    }
}

/// Which disk, and who runs the store.
enum Medium {
    Real(Durability),
    Simulated(Durability),
}

/// What a store of the suite stands on; dropped after it.
struct Ground {
    _directory: Option<tempfile::TempDir>,
    _stepper: Option<Stepper>,
}

impl StoreBuilder<Types, FromZero, StateMachine, Ground> for Medium {
    async fn build(&self) -> Result<(Ground, FromZero, StateMachine), StorageError<Types>> {
        let (ground, log) = match self {
            Self::Real(durability) => {
                let directory = tempfile::tempdir().unwrap();
                let disk = RealDisk::open(directory.path(), OpenOptions::default()).unwrap();
                let store = open(Arc::new(disk), Driver::Threads);
                let log = group(&store, *durability);
                let stepper = Stepper { stop: Arc::default(), _store: store, thread: None };
                (Ground { _directory: Some(directory), _stepper: Some(stepper) }, log)
            }
            Self::Simulated(durability) => {
                let store = open(Arc::new(SimDisk::new(7)), Driver::Manual);
                let log = group(&store, *durability);
                (Ground { _directory: None, _stepper: Some(Stepper::start(store)) }, log)
            }
        };
        let (store, machine) = storage(&log);
        Ok((ground, FromZero { log, store }, machine))
    }
}

/// Steps a store until it is dropped.
struct Stepper {
    stop: Arc<AtomicBool>,
    _store: Arc<Store>,
    thread: Option<JoinHandle<()>>,
}

impl Stepper {
    fn start(store: Arc<Store>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let stepped = store.clone();
        let run = move || {
            while !stopped.load(Ordering::Relaxed) {
                if !stepped.step() {
                    std::thread::yield_now();
                }
            }
        };
        Self { stop, _store: store, thread: Some(std::thread::spawn(run)) }
    }
}

impl Drop for Stepper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openraft_suite_passes_over_the_real_disk() {
    Suite::test_all(Medium::Real(Durability::Durable)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openraft_suite_passes_over_the_real_disk_without_durability() {
    Suite::test_all(Medium::Real(Durability::Memory)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openraft_suite_passes_over_the_simulated_disk() {
    Suite::test_all(Medium::Simulated(Durability::Durable)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openraft_suite_passes_over_the_simulated_disk_without_durability() {
    Suite::test_all(Medium::Simulated(Durability::Memory)).await.unwrap();
}

fn log_id(term: u64, index: u64) -> RaftLogId {
    use plimsoll_protocol::ids::{LogId, LogIndex, Term};
    to_raft(LogId::new(Term(term), LogIndex(index)))
}

fn blank(term: u64, index: u64) -> Entry {
    Entry::new(log_id(term, index), Payload::blank())
}

fn sized(term: u64, index: u64, bytes: usize) -> Entry {
    let proposal = Proposal::control(Bytes::from(vec![7; bytes]), 0);
    Entry::new(log_id(term, index), Payload::normal(proposal))
}

async fn append(store: &mut LogStore, entries: Vec<Entry>) {
    let (sender, flushed) = oneshot_of_openraft();
    store.append(entries, IOFlushed::signal(sender)).await.unwrap();
    flushed.await.unwrap().unwrap();
}

type Flushed = openraft::alias::OneshotReceiverOf<Types, Result<(), io::Error>>;

fn oneshot_of_openraft() -> (openraft::alias::OneshotSenderOf<Types, Result<(), io::Error>>, Flushed)
{
    use openraft::type_config::TypeConfigExt;
    Types::oneshot()
}

/// A `save_vote` that returns while an earlier append is not durable makes a follower acknowledge
/// entries that are not on disk: openraft keeps one mark for both.
#[tokio::test]
async fn vote_is_a_barrier_for_every_append_before_it() {
    for durability in [Durability::Durable, Durability::Memory] {
        let disk = SimDisk::new(1);
        let store = open(Arc::new(disk.clone()), Driver::Manual);
        let log = group(&store, durability);
        let (mut storage, _machine) = storage(&log);
        let (sender, mut flushed) = oneshot_of_openraft();
        let entries = (0..50).map(|index| sized(1, index, 3000)).collect::<Vec<_>>();
        storage.append(entries, IOFlushed::signal(sender)).await.unwrap();
        let vote = RaftVote::new(9, 1);
        let saving = tokio::spawn(async move {
            storage.save_vote(&vote).await.unwrap();
            storage
        });
        let mut steps = 0;
        loop {
            tokio::task::yield_now().await;
            if saving.is_finished() {
                break;
            }
            let was_flushed = flushed.try_recv().is_ok();
            assert!(store.step() || was_flushed, "the vote waits for nothing");
            steps += 1;
        }
        saving.await.unwrap();
        assert!(steps > 0, "the vote returned before anything was written");
        // At this moment the power fails, and nothing that was not synced survives.
        let survived = open(Arc::new(disk.crash(&CrashPlan::NOTHING)), Driver::Manual);
        let log = survived.group(GroupId(1)).unwrap();
        assert_eq!(log.vote().unwrap().term.0, 9);
        if durability == Durability::Durable {
            assert_eq!(log.bounds().last.unwrap().index.0, 49, "entries before the vote are gone");
        }
    }
}

#[tokio::test]
async fn limited_read_is_bounded_by_bytes_and_never_empty() {
    let store = open(Arc::new(SimDisk::new(2)), Driver::Manual);
    let _stepper = Stepper::start(store.clone());
    let (mut storage, _machine) = storage(&group(&store, Durability::Durable));
    let large = 600 << 10;
    append(&mut storage, (0..12).map(|index| sized(1, index, large)).collect()).await;
    let mut reader = storage.get_log_reader().await;
    let first = reader.limited_get_log_entries(0, 12).await.unwrap();
    assert!((1..12).contains(&first.len()), "{} entries of 600 KiB", first.len());
    for start in 0..12 {
        let read = reader.limited_get_log_entries(start, start + 1).await.unwrap();
        assert_eq!(read.len(), 1);
        assert_eq!(read[0].index(), start);
    }
    assert_eq!(reader.try_get_log_entries(..).await.unwrap().len(), 12, "this one is not bounded");
    let streamed = reader.entries_stream(3..).await.map(|e| e.unwrap().index());
    assert_eq!(streamed.collect::<Vec<_>>().await, (3..12).collect::<Vec<_>>());
}

#[tokio::test]
async fn leader_bounded_stream_stops_when_the_vote_changes() {
    let store = open(Arc::new(SimDisk::new(3)), Driver::Manual);
    let _stepper = Stepper::start(store.clone());
    let (mut storage, _machine) = storage(&group(&store, Durability::Durable));
    let vote = RaftVote::new_committed(1, 1);
    storage.save_vote(&vote).await.unwrap();
    append(&mut storage, (0..20).map(|index| sized(1, index, 600 << 10)).collect()).await;
    let mut reader = storage.get_log_reader().await;
    let mut stream = reader.leader_bounded_stream(vote.leader_id, 0..20).await;
    assert!(stream.next().await.unwrap().is_ok());
    storage.save_vote(&RaftVote::new(2, 1)).await.unwrap();
    let rest: Vec<_> = stream.collect().await;
    let (refused, entries) = rest.split_last().unwrap();
    assert!(refused.is_err(), "the stream went on under another leader");
    assert!(entries.len() < 19 && entries.iter().all(Result::is_ok));
}

#[tokio::test]
async fn truncated_suffix_is_gone_after_a_crash_and_indexes_are_used_again() {
    let disk = SimDisk::new(4);
    let store = open(Arc::new(disk.clone()), Driver::Manual);
    let stepper = Stepper::start(store.clone());
    let (mut storage, _machine) = storage(&group(&store, Durability::Durable));
    append(&mut storage, (0..20).map(|index| sized(1, index, 100)).collect()).await;
    storage.truncate_after(Some(log_id(1, 4))).await.unwrap();
    append(&mut storage, (5..8).map(|index| sized(2, index, 50)).collect()).await;
    drop((stepper, storage, store));
    let store = open(Arc::new(disk.crash(&CrashPlan::NOTHING)), Driver::Manual);
    let (mut storage, _machine) = self::storage(&store.group(GroupId(1)).unwrap());
    let state = storage.get_log_state().await.unwrap();
    assert_eq!(state.last_log_id, Some(log_id(2, 7)));
    let mut reader = storage.get_log_reader().await;
    let ids: Vec<_> =
        reader.try_get_log_entries(..).await.unwrap().iter().map(RaftEntry::log_id).collect();
    let expected = (0..5).map(|i| log_id(1, i)).chain((5..8).map(|i| log_id(2, i)));
    assert_eq!(ids, expected.collect::<Vec<_>>());
    let keys = reader.get_key_log_ids(log_id(1, 0)..=log_id(2, 7)).await.unwrap();
    assert_eq!(keys, [log_id(1, 4), log_id(2, 7)]);
}

#[tokio::test]
async fn failed_journal_reaches_openraft_as_an_error() {
    use plimsoll_log::disk::sim::{Effect, Fault, Operation};

    let disk = SimDisk::new(5);
    let on_fatal = Box::new(|_: &FatalError| {});
    let store = Store::open(Arc::new(disk.clone()), small(), Driver::Manual, on_fatal).unwrap();
    let (mut storage, _machine) = storage(&group(&store, Durability::Durable));
    while store.step() {}
    disk.inject(Fault::new(Operation::Write, 1, Effect::Eio));
    let (sender, flushed) = oneshot_of_openraft();
    storage.append([blank(1, 0)], IOFlushed::signal(sender)).await.unwrap();
    while store.step() {}
    assert!(flushed.await.unwrap().is_err());
    let _stepper = Stepper::start(store.clone());
    assert!(storage.save_vote(&RaftVote::new(3, 1)).await.is_err());
}

/// Whoever waited for an entry was told as soon as it was folded, and then read the high watermark of
/// before: what is folded is shown piece by piece.
#[tokio::test]
async fn entry_is_waited_for_until_readers_see_it() {
    use futures_util::FutureExt;

    let store = open(Arc::new(SimDisk::new(6)), Driver::Manual);
    let log = group(&store, Durability::Durable);
    let published = Published::new();
    let shared = Shared::new(Fold::empty(GroupKind::Partition), published.clone(), log);
    let entry = blank(1, 0);
    let id = crate::types::from_raft(&entry.log_id());
    let mut shown = Box::pin(shared.shown_at_least(id));
    shared.apply(entry.stored());
    assert_eq!(shared.applied(), Some(id));
    assert!(shown.as_mut().now_or_never().is_none(), "nothing of it is published");
    assert_eq!(shared.shown(), None);
    shared.publish();
    shown.await;
}

/// A panic in the fold ended the checkpoint thread, or the node's maintenance, when they next asked for
/// the state.
#[tokio::test]
async fn entry_that_cannot_be_applied_shuts_the_replica_off_and_nothing_else() {
    use openraft::storage::RaftStateMachine;
    use plimsoll_log::StateSource;

    let store = open(Arc::new(SimDisk::new(8)), Driver::Manual);
    let log = group(&store, Durability::Durable);
    let shared = Shared::new(Fold::empty(GroupKind::Partition), Published::new(), log.clone());
    let mut machine = StateMachine::new(shared.clone());
    // The second one goes back.
    let entries = [blank(1, 0), blank(1, 0)].map(|entry| Ok((entry, None)));
    machine.apply(futures_util::stream::iter(entries)).await.unwrap_err();
    assert!(log.is_quarantined().is_some());
    assert!(shared.encode_state().is_none() && shared.store().is_none());
    shared.proposal_over(false);
}

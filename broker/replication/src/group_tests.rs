//! What cannot be provoked from outside of a group: who holds its lock, what is in doubt, what fails.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use plimsoll_log::disk::sim::SimDisk;
use plimsoll_log::{Driver, FatalError, GroupOptions, Store, StoreConfig};
use plimsoll_protocol::batch::{BatchHeader, EntryKind};
use plimsoll_protocol::ids::{GroupId, LogId, LogIndex, NodeId, Term};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::config::{Blocking, HostConfig};
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
        let options = GroupOptions::default();
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

//! Producer identities for the changes of a map: a node knows a change that is sent again by its sequence.
//!
//! A sequence may only be followed by the next one when its outcome is certain. So a lane has at most one
//! change under way in a partition, and there are several lanes, so that changes need not wait for each other.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard};

use plimsoll_protocol::api::{InitProducerRequest, ProducerIdentity};
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};

use super::Map;
use super::put::Writer;
use crate::error::RequestError;
use crate::requests::Repeat;

/// Changes of one partition that are under way at once.
const LANES: usize = 16;

/// See the module. One per map of a client.
#[derive(Default)]
pub(super) struct Lanes {
    /// Asked for when a lane is used first.
    identities: [OnceCell<ProducerIdentity>; LANES],
    berths: Mutex<BTreeMap<u32, Arc<Berth>>>,
}

/// The lanes of one partition.
struct Berth {
    /// A permit per lane.
    turns: Arc<Semaphore>,
    moored: Mutex<Moored>,
}

/// Writers that nobody uses. The one that was used last is used next, so that a map that is seldom changed
/// has one identity.
#[derive(Default)]
struct Moored {
    writers: Vec<Writer>,
    made: usize,
}

impl Berth {
    fn moored(&self) -> MutexGuard<'_, Moored> {
        self.moored.lock().expect("no code panics while it holds this lock")
    }
}

/// A writer for one change. Whatever becomes of the change, the writer goes back when this is dropped.
pub(super) struct TakenWriter {
    berth: Arc<Berth>,
    /// `Some` until it is dropped.
    writer: Option<Writer>,
    _turn: OwnedSemaphorePermit,
}

impl Lanes {
    /// Waits for a lane of the partition.
    pub(super) async fn take(&self, map: &Map, partition: u32) -> TakenWriter {
        let berth = {
            let mut berths = self.berths.lock().expect("no code panics while it holds this lock");
            let made = || {
                let turns = Arc::new(Semaphore::new(LANES));
                Arc::new(Berth { turns, moored: Mutex::default() })
            };
            Arc::clone(berths.entry(partition).or_insert_with(made))
        };
        let turn = Arc::clone(&berth.turns).acquire_owned().await;
        let turn = turn.expect("this semaphore is never closed");
        let writer = {
            let mut moored = berth.moored();
            match moored.writers.pop() {
                Some(writer) => writer,
                None => {
                    moored.made += 1;
                    assert!(
                        moored.made <= LANES,
                        "a writer is made only where all others are used"
                    );
                    Writer::new(map, partition, moored.made - 1)
                }
            }
        };
        TakenWriter { berth, writer: Some(writer), _turn: turn }
    }

    /// The identity with which a lane begins in each partition.
    pub(super) async fn identity(
        &self,
        map: &Map,
        lane: usize,
    ) -> Result<ProducerIdentity, RequestError> {
        let asked = self.identities[lane].get_or_try_init(|| {
            map.shared.request(InitProducerRequest { existing: None }, Repeat::Freely)
        });
        asked.await.cloned()
    }
}

impl Deref for TakenWriter {
    type Target = Writer;

    fn deref(&self) -> &Writer {
        self.writer.as_ref().expect("it is there until it is dropped")
    }
}

impl DerefMut for TakenWriter {
    fn deref_mut(&mut self) -> &mut Writer {
        self.writer.as_mut().expect("it is there until it is dropped")
    }
}

impl Drop for TakenWriter {
    fn drop(&mut self) {
        // Before the turn, which is given back after this.
        self.berth.moored().writers.extend(self.writer.take());
    }
}

//! A node's store: its groups, and the three pieces of machinery behind them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;

use plimsoll_protocol::ids::GroupId;
use thiserror::Error;

use crate::boot::{self, Boot};
use crate::config::{Driver, GroupOptions, StoreConfig};
use crate::disk::Disk;
use crate::entry::{Change, Marks};
use crate::fatal::{Completion, FatalError};
use crate::group::GroupLog;
use crate::group::back::Back;
use crate::group::front::StateSlot;
use crate::header::Identity;
use crate::parking::{Mutex, RwLock};
use crate::segment::SegmentId;
use crate::transfer::import::ImportSlot;

pub(crate) mod checkpointer;
pub(crate) mod commit;
pub(crate) mod materialiser;
pub(crate) mod open;
pub(crate) mod placing;
pub(crate) mod queue;
pub(crate) mod recovery;
pub(crate) mod shared;
pub(crate) mod space;
pub(crate) mod stepper;
pub(crate) mod threads;

use open::OpenError;
use shared::Shared;
use space::SpaceState;
use stepper::Stepper;

/// All groups of a node on one disk.
///
/// Dropped without [`Store::close`], it stops at once, as a killed process would: what was
/// acknowledged is kept, what was not may be lost.
#[derive(Debug)]
pub struct Store {
    shared: Arc<Shared>,
    groups: RwLock<BTreeMap<GroupId, Arc<GroupLog>>>,
    /// Deleted in this life, or not yet gone in full; their numbers are not given out again.
    deleted: Mutex<BTreeSet<GroupId>>,
    /// Their logs, while the deletion is under way.
    deleting: Mutex<BTreeMap<GroupId, Weak<GroupLog>>>,
    stepper: Option<Mutex<Stepper>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    imports: Mutex<BTreeMap<GroupId, ImportSlot>>,
    boot: Mutex<Boot>,
    boot_nonce: u64,
}

/// Why a group cannot be made or changed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StoreError {
    /// There is no such group.
    #[error("there is no group {0}")]
    UnknownGroup(GroupId),
    /// Numbers of deleted groups are not used again.
    #[error("group {0} was deleted; group numbers are never used again")]
    Deleted(GroupId),
    /// The store stopped.
    #[error("the store stopped: {reason}")]
    Stopped {
        /// The error that stopped it.
        reason: String,
    },
}

/// Figures of a store since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StoreStats {
    /// Journal blocks written: group commits.
    pub blocks: u64,
    /// Bytes of those blocks.
    pub journaled_bytes: u64,
    /// Bytes written into segments.
    pub materialised_bytes: u64,
    /// Of these, bytes that the journal only refers to.
    pub placed_bytes: u64,
    /// Bytes on the way from the journal to the segments now.
    pub unwritten_bytes: u64,
    /// Checkpoints made.
    pub checkpoints: u64,
    /// Segments held open now.
    pub open_segments: usize,
    /// Journal files there are now.
    pub journal_files: usize,
    /// Their size.
    pub journal_file_bytes: u64,
}

impl Store {
    /// Opens the store on a disk; makes an empty one where the disk is empty. `on_fatal` is called
    /// once, when the medium fails: the process should end then.
    ///
    /// # Errors
    /// When what is on the disk cannot be used; see [`OpenError`]. Nothing was cut or deleted then.
    pub fn open(
        disk: Arc<dyn Disk>,
        config: StoreConfig,
        driver: Driver,
        on_fatal: Box<dyn Fn(&FatalError) + Send + Sync>,
    ) -> Result<Arc<Self>, OpenError> {
        let opened = open::open(disk, config, on_fatal)?;
        let shared = opened.shared.clone();
        let groups = RwLock::new(opened.groups.clone());
        let deleted = Mutex::new(opened.deleted.clone());
        let boot = Mutex::new(opened.boot);
        let boot_nonce = shared.random.next();
        let stepper = Stepper::new(opened);
        let (stepper, threads) = match driver {
            Driver::Manual => (Some(Mutex::new(stepper)), Vec::new()),
            Driver::Threads => (None, threads::start(stepper)),
        };
        let threads = Mutex::new(threads);
        let deleting = Mutex::new(BTreeMap::new());
        let imports = Mutex::new(BTreeMap::new());
        Ok(Arc::new(Self {
            shared,
            groups,
            deleted,
            deleting,
            stepper,
            threads,
            imports,
            boot,
            boot_nonce,
        }))
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    pub(crate) fn imports(&self) -> &Mutex<BTreeMap<GroupId, ImportSlot>> {
        &self.imports
    }

    /// Whose data this is.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.shared.identity
    }

    /// Counts the starts of this directory: larger than at every earlier opening, with gaps. Durable.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.boot.lock().incarnation
    }

    /// A random number of this opening, on no disk: of two processes that run on copies of one directory
    /// each has another one.
    #[must_use]
    pub fn boot_nonce(&self) -> u64 {
        self.boot_nonce
    }

    /// Whether a power failure may have taken entries of [`Memory`](crate::Durability::Memory) groups that
    /// this node had acknowledged: it was not closed, and the machine was started since. Stays true, over
    /// restarts too, until [`Store::settle_power_loss`].
    #[must_use]
    pub fn was_power_loss_possible(&self) -> bool {
        self.boot.lock().power_loss_since.is_some()
    }

    /// What a power failure may have taken is there again, or known to be lost: it is forgotten, durably.
    /// Blocks on the disk.
    ///
    /// # Errors
    /// When that cannot be written. It is not forgotten then.
    pub fn settle_power_loss(&self) -> io::Result<()> {
        let mut boot = self.boot.lock();
        if boot.power_loss_since.is_none() {
            return Ok(());
        }
        let settled = Boot { power_loss_since: None, ..*boot };
        boot::write(&*self.shared.disk, &self.shared.identity, &settled)?;
        *boot = settled;
        Ok(())
    }

    /// Numbers of all groups, ascending.
    #[must_use]
    pub fn groups(&self) -> Vec<GroupId> {
        self.groups.read().keys().copied().collect()
    }

    /// A group's log.
    #[must_use]
    pub fn group(&self, id: GroupId) -> Option<Arc<GroupLog>> {
        self.groups.read().get(&id).cloned()
    }

    /// A group's log; made where there is none. What is appended to it is durable only together with
    /// its creation. The options of a group that is there are left as they are.
    ///
    /// # Errors
    /// When a group with this number was deleted, or the store stopped.
    pub fn create_group(
        &self,
        id: GroupId,
        options: GroupOptions,
    ) -> Result<Arc<GroupLog>, StoreError> {
        let mut groups = self.groups.write();
        if let Some(group) = groups.get(&id) {
            return Ok(group.clone());
        }
        if self.deleted.lock().contains(&id) {
            return Err(StoreError::Deleted(id));
        }
        if self.shared.gave_up() {
            let reason = self.shared.end_of_service().to_string();
            return Err(StoreError::Stopped { reason });
        }
        let marks = Marks::new(options);
        let back = Back::new(marks, [], SegmentId(0));
        let group = GroupLog::new(id, self.shared.clone(), marks, back, StateSlot::None);
        group.change(Change::Create(options), None);
        groups.insert(id, group.clone());
        Ok(group)
    }

    /// Changes a group's options. A change of durability takes a checkpoint and holds later changes of
    /// all groups back until it is written, on a full disk until there is room for it.
    ///
    /// # Errors
    /// When there is no such group.
    pub fn set_options(&self, id: GroupId, options: GroupOptions) -> Result<(), StoreError> {
        let group = self.group(id).ok_or(StoreError::UnknownGroup(id))?;
        group.set_options(options);
        Ok(())
    }

    /// Deletes a group; its files go once no checkpoint names them. `done` is called once it will not
    /// come back, at once where there is no such group.
    pub fn delete_group(&self, id: GroupId, done: Completion) {
        let gone = {
            let mut groups = self.groups.write();
            let mut deleting = self.deleting.lock();
            deleting.retain(|_, group| group.strong_count() > 0);
            match groups.remove(&id) {
                Some(group) => {
                    self.deleted.lock().insert(id);
                    deleting.insert(id, Arc::downgrade(&group));
                    Some(group)
                }
                None => deleting.get(&id).and_then(Weak::upgrade),
            }
        };
        match gone {
            Some(group) => group.delete(done),
            None => done(Ok(())),
        }
    }

    /// Takes a replica's log, state and files away; its options and its vote stay, and so does its number: it
    /// may come back by an import. Its instance must have ended. `done` is called once the log will not come
    /// back, at once where there is no such group.
    pub fn drop_replica(&self, id: GroupId, done: Completion) {
        match self.group(id) {
            Some(group) => group.drop_log(done),
            None => done(Ok(())),
        }
    }

    /// Whether there is room for records.
    #[must_use]
    pub fn space(&self) -> SpaceState {
        self.shared.space.state()
    }

    /// The error that stopped the store, if one did.
    #[must_use]
    pub fn fatal(&self) -> Option<Arc<FatalError>> {
        self.shared.fatal.get()
    }

    /// With [`Driver::Manual`]: does one unit of work, a group commit, the materialising of one, or a
    /// checkpoint that is due. False where there is nothing to do, or nothing that can be done.
    pub fn step(&self) -> bool {
        self.stepper.as_ref().is_some_and(|stepper| stepper.lock().step())
    }

    /// With [`Driver::Manual`]: whether the threads of a store that has some would be at work now. What
    /// nobody waits for does not count: it goes with the next block.
    pub fn is_work_due(&self) -> bool {
        self.stepper.as_ref().is_some_and(|stepper| stepper.lock().is_work_due())
    }

    /// With [`Driver::Manual`]: what is otherwise done every few seconds: measures the space, makes the
    /// next journal file, and has the next steps make a checkpoint where one would hold anything new.
    pub fn look_around(&self) {
        if let Some(stepper) = &self.stepper {
            stepper.lock().look_around();
        }
    }

    /// Makes a checkpoint of everything done up to now, and waits for it. Returns without one
    /// where the store stopped, or the disk is full (with [`Driver::Manual`]).
    pub fn checkpoint_now(&self) {
        match &self.stepper {
            Some(stepper) => stepper.lock().checkpoint_all(false),
            None => {
                self.shared.queue.flush(|| self.shared.gave_up());
                let number = self.shared.requests.ask();
                self.shared.requests.wait_for(number, || self.shared.gave_up());
            }
        }
    }

    /// Ends the store in order: everything queued is written, a last checkpoint is made, the threads
    /// end. What comes later is refused. Further calls do nothing. On a full disk it does not wait for
    /// space: what was acknowledged is kept, what still had to be written ends with an error.
    pub fn close(&self) {
        if self.shared.closing.swap(true, Ordering::Relaxed) {
            return;
        }
        self.shared.queue.close();
        self.shared.wake_waiters();
        match &self.stepper {
            Some(stepper) => stepper.lock().checkpoint_all(true),
            None => self.join(),
        }
        self.shared.aborted.store(true, Ordering::Relaxed);
        if let Some(stepper) = &self.stepper {
            stepper.lock().fail();
        }
        self.shared.fail_queued();
    }

    fn join(&self) {
        let threads = std::mem::take(&mut *self.threads.lock());
        for thread in threads {
            if thread.thread().id() == std::thread::current().id() {
                // The last owner is a completion on one of our own threads: it ends by itself.
                continue;
            }
            if thread.join().is_err() {
                tracing::error!("a thread of the store panicked");
            }
        }
    }

    /// Figures since the store was opened.
    #[must_use]
    pub fn stats(&self) -> StoreStats {
        let counters = &self.shared.counters;
        let (journal_file_bytes, journal_files) = self.shared.journal_files.size();
        StoreStats {
            blocks: counters.blocks.load(Ordering::Relaxed),
            journaled_bytes: counters.journaled_bytes.load(Ordering::Relaxed),
            materialised_bytes: counters.materialised_bytes.load(Ordering::Relaxed),
            placed_bytes: counters.placed_bytes.load(Ordering::Relaxed),
            unwritten_bytes: self.shared.material.bytes(),
            checkpoints: counters.checkpoints.load(Ordering::Relaxed),
            open_segments: self.shared.open_segments.count(),
            journal_files,
            journal_file_bytes,
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.shared.aborted.store(true, Ordering::Relaxed);
        self.shared.wake_all();
        self.join();
        self.shared.fail_queued();
    }
}

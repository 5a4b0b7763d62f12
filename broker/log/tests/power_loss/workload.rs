//! Short random workloads over a store on a recording disk. A seed is a workload.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use plimsoll_log::disk::Disk;
use plimsoll_log::disk::sim::{Record, SimDisk, SplitMix};
use plimsoll_log::{
    Completion, Driver, Durability, FatalError, GroupLog, GroupOptions, ImportError, LogEntry,
    OpenError, Retention, SpaceState, Store, StoreConfig, Vote,
};
use plimsoll_protocol::ids::{GroupId, LogId, LogIndex, NodeId, Offset, Term};

use crate::batches;
use crate::imports::{self, Source};
use crate::observed::{find_version, observe, shown_version};
use crate::versions::{GroupVersion, Mark, Promise, Version, Versions};

/// The smallest files that are allowed, so that a few dozen appends roll segments, fill journal
/// files and use old ones again.
pub(crate) fn config(seed: u64) -> StoreConfig {
    StoreConfig {
        journal_file_bytes: 64 << 10,
        journal_bytes_max: 192 << 10,
        journal_reserve_bytes: 8 << 10,
        block_bytes: 16 << 10,
        checkpoint_after_bytes: 48 << 10,
        segment_step_bytes_min: 8 << 10,
        segment_step_bytes_max: 16 << 10,
        index_interval_bytes: 4 << 10,
        open_segments_max: 8,
        free_bytes_min: 0,
        unwritten_bytes_max: 64 << 10,
        tail_cache_bytes_max: 8 << 10,
        place_bytes_min: 2 << 10,
        place_item_bytes_min: 1 << 10,
        place_bytes_max: 12 << 10,
        state_in_memory_bytes_max: 64,
        seed: Some(seed),
        ..StoreConfig::default()
    }
}

/// Opens a store that does nothing by itself. A fatal error is a failure of the test.
pub(crate) fn open(disk: &SimDisk, seed: u64) -> Result<Arc<Store>, OpenError> {
    let on_fatal: OnFatal = Box::new(|error| panic!("the store stopped: {error}"));
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    Store::open(disk, config(seed), Driver::Manual, on_fatal)
}

type OnFatal = Box<dyn Fn(&FatalError) + Send + Sync>;

/// Lets a store do all the work that it has.
pub(crate) fn run_until_idle(store: &Store) {
    let steps = (0..100_000).take_while(|_| store.step()).count();
    assert!(steps < 100_000, "the store never comes to rest");
}

/// A recorded workload, and what may be found after a crash in it.
pub(crate) struct Recorded {
    pub(crate) record: Record,
    pub(crate) versions: Versions,
    /// Bytes that the journal only referred to.
    pub(crate) placed_bytes: u64,
    /// Logs that were brought in.
    pub(crate) imported: u64,
    /// The disk as it was left: cleanly closed.
    pub(crate) disk: SimDisk,
}

/// Runs the workload of a seed. With [`Driver::Threads`] the operations of the disk come in another
/// order each time; what may be found after a crash is known all the same.
pub(crate) fn record(seed: u64, operations: usize, driver: Driver) -> Recorded {
    let disk = SimDisk::new(seed);
    let recording = disk.record();
    let mut run = Run::begin(disk, seed, driver);
    for _ in 0..operations {
        run.operate();
    }
    run.close();
    let Run { versions, log, placed_bytes, imported, .. } = run;
    let record = recording.finish();
    Recorded { record, versions, placed_bytes, imported, disk: log.disk }
}

/// What became of a workload on a disk that fails.
pub(crate) struct FaultyRun {
    pub(crate) versions: Versions,
    /// What must be found afterwards.
    pub(crate) promise: Promise,
    /// The store said that it stopped, or did not open.
    pub(crate) has_stopped: bool,
}

/// Runs the workload of a seed on a disk that may fail, until the store stops or all is done.
pub(crate) fn run_on(disk: SimDisk, seed: u64, operations: usize) -> FaultyRun {
    let mut run = Run::begin(disk, seed, Driver::Manual);
    for _ in 0..operations {
        if run.is_over() {
            break;
        }
        run.operate();
    }
    if !run.is_over() {
        run.finish_on_healed_disk();
    }
    let Run { versions, log, .. } = run;
    FaultyRun { versions, promise: log.promise(), has_stopped: log.has_failed() }
}

/// Where a run notes what was issued and what was acknowledged: in the recording, and here.
#[derive(Clone)]
struct Notes {
    disk: SimDisk,
    promise: Arc<Mutex<Promise>>,
    failed: Arc<AtomicBool>,
    /// Completions that were given away and not called.
    waiting: Arc<(Mutex<usize>, Condvar)>,
}

impl Notes {
    fn add_waiting(&self) {
        *self.waiting.0.lock().expect("no test panics in it") += 1;
    }

    fn end_waiting(&self) {
        *self.waiting.0.lock().expect("no test panics in it") -= 1;
        self.waiting.1.notify_all();
    }

    fn wait(&self) {
        let waiting = self.waiting.0.lock().expect("no test panics in it");
        let is_waiting = |waiting: &mut usize| *waiting > 0;
        drop(self.waiting.1.wait_while(waiting, is_waiting).expect("no test panics in it"));
    }

    fn note(&self, mark: Mark) {
        let is_late = self.has_failed() && !matches!(mark, Mark::Issued(_));
        assert!(!is_late, "{mark:?} was acknowledged after the store had stopped");
        self.disk.mark(mark.to_number());
        self.promise.lock().expect("no test panics in it").note(mark);
    }

    fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    fn promise(&self) -> Promise {
        *self.promise.lock().expect("no test panics in it")
    }
}

/// A workload under way.
pub(crate) struct Run {
    random: SplitMix,
    log: Notes,
    driver: Driver,
    store: Option<Arc<Store>>,
    versions: Versions,
    now_ms: i64,
    next_group: u64,
    /// Large appends are placed, in most lives.
    is_placing: bool,
    placed_bytes: u64,
    /// A log that is brought in, and for which group.
    source: Option<(GroupId, Source)>,
    /// Logs that were brought in to their end.
    imported: u64,
}

impl Run {
    fn begin(disk: SimDisk, seed: u64, driver: Driver) -> Self {
        let mut run = Self {
            random: SplitMix::new(seed),
            log: Notes {
                disk,
                promise: Arc::default(),
                failed: Arc::default(),
                waiting: Arc::default(),
            },
            driver,
            store: None,
            versions: Versions::new(),
            now_ms: 1_000_000,
            next_group: 0,
            is_placing: !seed.is_multiple_of(4),
            placed_bytes: 0,
            source: None,
            imported: 0,
        };
        run.open();
        if !run.is_over() {
            run.create_group();
            run.create_group();
        }
        run
    }

    fn store(&self) -> &Arc<Store> {
        self.store.as_ref().expect("open between operations")
    }

    fn open(&mut self) {
        // A full disk heals while it is tried again.
        for _ in 0..20 {
            let (seed, failed) = (self.random.number(), self.log.failed.clone());
            let mut config = config(seed);
            if !self.is_placing || seed.is_multiple_of(6) {
                config.place_bytes_min = u64::MAX;
            }
            let on_fatal: OnFatal = Box::new(move |_| failed.store(true, Ordering::Relaxed));
            let disk: Arc<dyn Disk> = Arc::new(self.log.disk.clone());
            match Store::open(disk, config, self.driver, on_fatal) {
                Ok(store) => {
                    self.store = Some(store);
                    return;
                }
                Err(OpenError::Full { .. }) => {}
                Err(error) => {
                    let is_fault = error.to_string().contains("os error 5");
                    assert!(is_fault, "an undamaged store opens: {error}");
                    break;
                }
            }
        }
        self.log.failed.store(true, Ordering::Relaxed);
    }

    /// Waits until everything that was asked for is done.
    fn settle(&self) {
        match self.driver {
            Driver::Manual => run_until_idle(self.store()),
            Driver::Threads => self.log.wait(),
        }
    }

    fn is_over(&self) -> bool {
        self.store.is_none() || self.log.has_failed()
    }

    /// What waited for space is done once there is some; then everything is acknowledged.
    fn finish_on_healed_disk(&mut self) {
        self.log.disk.heal();
        self.settle();
        self.close();
        self.open();
        if !self.is_over() {
            let newest = self.versions.newest_id();
            self.log.note(Mark::Acknowledged(newest));
            self.log.note(Mark::InMemory(newest));
            self.adopt();
        }
    }

    /// Notes that an operation is about to lead to `version`.
    fn issue(&mut self, version: Version) -> usize {
        let id = self.versions.push(version);
        self.log.note(Mark::Issued(id));
        id
    }

    /// A completion that notes the acknowledgement.
    fn acknowledge(&self, mark: Mark) -> Completion {
        let log = self.log.clone();
        log.add_waiting();
        Box::new(move |outcome| {
            match outcome {
                Ok(()) => log.note(mark),
                // The process was killed before, or the medium failed and the store said so.
                Err(error) => {
                    let is_end = matches!(*error, FatalError::Closed) || log.has_failed();
                    assert!(is_end, "the store failed: {error}");
                }
            }
            log.end_waiting();
        })
    }

    /// Changes one group in a new version; returns the group and the version's number.
    fn change(
        &mut self,
        id: GroupId,
        change: impl FnOnce(&mut GroupVersion),
    ) -> (Arc<GroupLog>, usize) {
        let mut version = self.versions.newest().clone();
        let mut group = (*version[&id]).clone();
        change(&mut group);
        version.insert(id, Arc::new(group));
        let group = self.store().group(id).expect("it was created");
        (group, self.issue(version))
    }

    fn pick(&mut self) -> Option<(GroupId, Arc<GroupVersion>)> {
        let groups = self.versions.newest();
        let count = groups.len() as u64;
        if count == 0 {
            return None;
        }
        let (id, version) = groups.iter().nth(self.random.below(count) as usize)?;
        Some((*id, version.clone()))
    }

    fn operate(&mut self) {
        match self.random.below(100) {
            0..37 => self.append(),
            37..40 => self.import(),
            40..48 => self.vote(),
            48..55 => self.replace_tail(),
            55..59 => self.save_committed(),
            59..63 => self.purge(),
            63..67 => self.retain(),
            67..70 => self.put_state(),
            70..84 => drop(self.store().step()),
            84..89 => run_until_idle(&self.store().clone()),
            89..92 => self.checkpoint(),
            92 => self.create_group(),
            93..95 => self.set_options(),
            95 => self.delete_group(),
            96 => self.kill(),
            97 => self.close_and_open(),
            _ if self.random.chance(50) => self.reset(),
            _ => self.drop_replica(),
        }
    }

    fn create_group(&mut self) {
        let id = GroupId(self.next_group);
        self.next_group += 1;
        let memory = self.random.chance(25) && id.0 > 0;
        let options = GroupOptions {
            durability: if memory { Durability::Memory } else { Durability::Durable },
            segment_bytes: (8 + 8 * self.random.below(3)) << 10,
        };
        let mut version = self.versions.newest().clone();
        version.insert(id, Arc::new(GroupVersion::new(options)));
        self.issue(version);
        let created = self.store().create_group(id, options);
        assert!(created.is_ok() || self.log.has_failed(), "{created:?}");
    }

    fn set_options(&mut self) {
        let Some((id, version)) = self.pick() else { return };
        let segment_bytes = (8 + 8 * self.random.below(3)) << 10;
        let durability = match version.options.durability {
            same if self.random.chance(60) => same,
            Durability::Durable => Durability::Memory,
            Durability::Memory => Durability::Durable,
        };
        let options = GroupOptions { durability, segment_bytes };
        self.change(id, |group| group.set_options(options));
        self.store().set_options(id, options).expect("it was created");
    }

    fn delete_group(&mut self) {
        let Some((id, _)) = self.pick() else { return };
        if self.versions.newest().len() < 2 {
            return;
        }
        let mut version = self.versions.newest().clone();
        version.remove(&id);
        let issued = self.issue(version);
        self.store().delete_group(id, self.acknowledge(Mark::Acknowledged(issued)));
    }

    /// Entries that follow the last one, in the term of the group's vote.
    fn entries(&mut self, version: &GroupVersion, count: u64, term: Term) -> Vec<LogEntry> {
        let mut entries: Vec<LogEntry> = Vec::new();
        let mut offset = version.end_offset();
        for number in 0..count {
            let id = LogId::new(term, LogIndex(version.next_index() + number));
            let bytes = match self.random.below(10) {
                0 => 6000 + self.random.below(4000),
                1..4 => 1000 + self.random.below(2000),
                _ => self.random.below(600),
            };
            self.now_ms += self.random.below(1000) as i64;
            let mut entry = if self.random.chance(80) {
                batches::records(&mut self.random, id, bytes as usize, self.now_ms)
            } else {
                batches::other(&mut self.random, id, bytes as usize)
            };
            entry.header.base_offset = offset;
            offset = entry.header.end_offset();
            entries.push(entry);
        }
        entries
    }

    fn append(&mut self) {
        let Some((id, version)) = self.pick() else { return };
        let count = 1 + self.random.below(3);
        let term = version.vote.map_or(Term(0), |vote| vote.term);
        self.append_entries(id, &version, count, term);
    }

    fn append_entries(&mut self, id: GroupId, version: &GroupVersion, count: u64, term: Term) {
        let last_term = version.last().map_or(Term(0), |last| last.term);
        let entries = self.entries(version, count, term.max(last_term));
        // An append may be spread over two blocks, and so be there in part: a version per entry.
        let group = self.store().group(id).expect("it was created");
        for entry in &entries {
            let entry = Arc::new(entry.clone());
            self.change(id, |group| group.append(entry));
        }
        let issued = self.versions.newest_id();
        let mark =
            if version.is_memory() { Mark::InMemory(issued) } else { Mark::Acknowledged(issued) };
        group.append(entries, self.acknowledge(mark)).expect("they follow the last one");
    }

    fn vote(&mut self) {
        let Some((id, version)) = self.pick() else { return };
        let now = version.vote.map_or(Term(0), |vote| vote.term);
        let committed = self.random.chance(30) && version.vote.is_some();
        let term = if committed { now } else { Term(now.0 + 1 + self.random.below(3)) };
        let voted_for = NodeId(self.random.below(3));
        self.save_vote(id, Vote { term, voted_for, committed });
    }

    fn save_vote(&mut self, id: GroupId, vote: Vote) {
        let (group, issued) = self.change(id, |group| group.vote = Some(vote));
        group.save_vote(vote, self.acknowledge(Mark::Acknowledged(issued)));
    }

    /// What a follower does when a new leader's log is another one: vote, truncation, new entries.
    fn replace_tail(&mut self) {
        let Some((id, version)) = self.pick() else { return };
        // A log that was brought in may be of a later term than the vote.
        let last_term = version.last().map_or(Term(0), |last| last.term);
        let term = Term(version.vote.map_or(last_term, |vote| vote.term.max(last_term)).0 + 1);
        self.save_vote(id, Vote { term, voted_for: NodeId(9), committed: true });
        // Nothing committed is ever truncated.
        let first = version.first_unpurged().max(version.committed.map_or(0, |id| id.index.0 + 1));
        let first = first.max(version.first_index());
        let end = version.next_index();
        if first >= end {
            return;
        }
        let next = first + self.random.below(end - first);
        let last_kept = next.checked_sub(1).map(LogIndex);
        let (group, issued) = self.change(id, |group| group.truncate(last_kept));
        group
            .truncate_after(last_kept, self.acknowledge(Mark::Acknowledged(issued)))
            .expect("what is kept was not purged");
        if self.random.chance(20) {
            return;
        }
        // The new leader's entries are older than its own term as often as not.
        let version = self.versions.newest()[&id].clone();
        let oldest = version.last().map_or(Term(0), |last| last.term);
        let of_term = if self.random.chance(50) {
            term
        } else {
            Term(oldest.0 + self.random.below(term.0 - oldest.0 + 1))
        };
        let count = 1 + self.random.below(3);
        self.append_entries(id, &version, count, of_term);
    }

    /// The last entry of a group that is out of danger.
    fn acknowledged_last(&mut self, id: GroupId) -> Option<LogId> {
        self.settle();
        self.versions.newest().get(&id)?.last()
    }

    fn save_committed(&mut self) {
        let Some((id, _)) = self.pick() else { return };
        let Some(last) = self.acknowledged_last(id) else { return };
        let (group, _) = self.change(id, |group| group.committed = Some(last));
        group.applied(last);
        group.save_committed(last);
    }

    fn purge(&mut self) {
        let Some((id, version)) = self.pick() else { return };
        let Some(committed) = version.committed else { return };
        let first = version.first_unpurged();
        if committed.index.0 < first {
            return;
        }
        let index = first + self.random.below(committed.index.0 + 1 - first);
        let Some(entry) = version.entry(index) else { return };
        let upto = entry.id();
        let (group, issued) = self.change(id, |group| group.purged = Some(upto));
        group.purge(upto, self.acknowledge(Mark::Acknowledged(issued)));
    }

    fn retain(&mut self) {
        let Some((id, version)) = self.pick() else { return };
        let Some(committed) = version.committed else { return };
        let Some(entry) = version.entry(committed.index.0) else { return };
        let upto = entry.header.end_offset();
        // What goes depends on where segments end, and the group says it when the call returns; by
        // then the threads may have written it.
        let policy = if self.random.chance(50) {
            Retention { max_age_ms: None, max_bytes: Some(8 << 10) }
        } else {
            Retention { max_age_ms: Some(10_000), max_bytes: None }
        };
        let group = self.store().group(id).expect("it was created");
        self.log.note(Mark::Issued(self.versions.newest_id() + 1));
        group.retain(&policy, self.now_ms, upto);
        let bounds = group.bounds();
        assert!(bounds.log_start_offset <= upto, "retention went past what is committed");
        self.change(id, |group| {
            group.start_offset = bounds.log_start_offset;
            group.purged = bounds.purged;
        });
    }

    fn put_state(&mut self) {
        let Some((id, version)) = self.pick() else { return };
        let Some(committed) = version.committed else { return };
        let bytes = 10 + self.random.below(200) as usize;
        let state = batches::noise(&mut self.random, committed, bytes);
        let put = (committed, state.clone());
        let (group, _) = self.change(id, |group| group.states.push(put));
        group.put_state(committed, state);
    }

    fn checkpoint(&mut self) {
        self.settle();
        self.store().checkpoint_now();
        self.settle();
        let (newest, promise) = (self.versions.newest_id(), self.log.promise());
        let is_full = matches!(self.store().space(), SpaceState::Low { .. });
        if !self.log.has_failed() && !is_full && promise.acknowledged.max(promise.in_memory) > 0 {
            self.log.note(Mark::Checkpointed(newest));
        }
    }

    fn reset(&mut self) {
        let Some((id, version)) = self.pick() else { return };
        let Some(last) = version.last() else { return };
        let last = LogId::new(last.term, LogIndex(last.index.0 + 5));
        let offset = Offset(version.end_offset().0 + 100);
        let (group, issued) = self.change(id, |group| {
            group.before = Some(last);
            group.before_offset = offset;
            group.entries.clear();
            group.durable_next = group.next_index();
            group.purged = Some(last);
            group.start_offset = offset;
        });
        group.reset_to(last, offset, self.acknowledge(Mark::Acknowledged(issued)));
        // What came before is not asked for again, and what comes next may be committed.
        self.change(id, |group| group.committed = Some(last));
        group.save_committed(last);
    }

    fn drop_replica(&mut self) {
        let Some((id, _)) = self.pick() else { return };
        let (_, issued) = self.change(id, GroupVersion::drop_log);
        self.store().drop_replica(id, self.acknowledge(Mark::Acknowledged(issued)));
    }

    /// Brings a log in from elsewhere, over one that is there or into nothing; sometimes only a part of it,
    /// which a later call goes on with.
    fn import(&mut self) {
        let is_left = |run: &Self| run.source.as_ref().is_some_and(|(id, _)| run.is_usable(*id));
        if !(is_left(self) && self.random.chance(70)) {
            let id = match self.pick() {
                Some((id, _)) if self.random.chance(70) => id,
                _ => {
                    self.next_group += 1;
                    GroupId(self.next_group - 1)
                }
            };
            let seed = self.random.number();
            self.source = Some((id, Source::new(seed, &mut self.random)));
        } else if let Some((_, source)) = &mut self.source {
            source.extend(&mut self.random, 0);
        }
        let (id, source) = self.source.take().expect("it was just made");
        if self.import_from(id, &source).is_none() {
            self.source = Some((id, source));
        }
    }

    fn is_usable(&self, id: GroupId) -> bool {
        self.versions.newest().contains_key(&id) || id.0 + 1 == self.next_group
    }

    /// Nothing where it did not come to its end.
    fn import_from(&mut self, id: GroupId, source: &Source) -> Option<()> {
        let export = source.export(&mut self.random);
        let upto = export.manifest().last;
        let options = GroupOptions { segment_bytes: 16 << 10, ..GroupOptions::default() };
        let limit = if self.random.chance(35) { self.random.below(20_000) } else { u64::MAX };
        let sent = self.store().import(id, options, export.manifest().clone()).and_then(|mut i| {
            let is_all = imports::send(&export, &mut i, &mut self.random, limit)?;
            Ok((i, is_all))
        });
        let import = match sent {
            Ok((import, true)) => import,
            Ok((_, false)) => return None,
            Err(error) => {
                expect_fault(&error);
                return None;
            }
        };
        let before = self.versions.newest().clone();
        if !before.contains_key(&id) {
            let mut version = before.clone();
            version.insert(id, Arc::new(GroupVersion::new(options)));
            self.issue(version);
        }
        let bytes = 10 + self.random.below(200) as usize;
        let state = batches::noise(&mut self.random, upto, bytes);
        let mut version = self.versions.newest().clone();
        let installed = source.installed(upto, &version[&id], (upto, state.clone()));
        version.insert(id, Arc::new(installed));
        let issued = self.issue(version);
        match import.finish(upto, state, self.acknowledge(Mark::Acknowledged(issued))) {
            Ok(_) => {
                self.imported += 1;
                Some(())
            }
            Err(error) => {
                if !self.log.has_failed() {
                    expect_fault(&error);
                }
                // Nothing came of it.
                self.issue(before);
                None
            }
        }
    }

    /// The process dies and the next one finds what was written; what was only queued is lost.
    fn kill(&mut self) {
        self.placed_bytes += self.store().stats().placed_bytes;
        self.store = None;
        self.open();
        if !self.is_over() {
            self.adopt();
        }
    }

    fn close_and_open(&mut self) {
        self.close();
        if self.log.has_failed() {
            return;
        }
        self.open();
        if !self.is_over() {
            self.adopt();
        }
    }

    fn close(&mut self) {
        self.store().close();
        self.placed_bytes += self.store().stats().placed_bytes;
        self.store = None;
    }

    /// Finds out which version the reopened store shows and goes on from there.
    fn adopt(&mut self) {
        let observed = observe(self.store()).expect("an undamaged store is readable");
        let found = find_version(&observed, &self.versions, &self.log.promise(), true)
            .unwrap_or_else(|differences| panic!("after reopening:\n{differences}"));
        let version = shown_version(self.versions.version(found), &observed);
        let id = self.issue(version);
        self.log.note(Mark::Acknowledged(id));
        self.log.note(Mark::InMemory(id));
    }
}

/// What a recovered store is asked to go on with: one entry and a vote per group.
pub(crate) fn go_on(store: &Store, versions: &mut Versions, random: &mut SplitMix) {
    let mut version = versions.newest().clone();
    for (id, group) in &mut version {
        let log = store.group(*id).expect("it was just observed");
        let group = Arc::make_mut(group);
        let last_term = group.last().map_or(Term(0), |last| last.term);
        let term = Term(group.vote.map_or(Term(0), |vote| vote.term).max(last_term).0 + 1);
        let vote = Vote { term, voted_for: NodeId(7), committed: true };
        group.vote = Some(vote);
        log.save_vote(vote, completion());
        let mut entry = batches::records(
            random,
            LogId::new(term, LogIndex(group.next_index())),
            500,
            2_000_000,
        );
        entry.header.base_offset = group.end_offset();
        group.append(Arc::new(entry.clone()));
        log.append(vec![entry], completion()).expect("it follows the last one");
    }
    versions.push(version);
    run_until_idle(store);
}

/// Nothing but the disk ends an import.
fn expect_fault(error: &ImportError) {
    let is_fault = matches!(error, ImportError::Full { .. })
        || error.to_string().contains("os error 5")
        || error.to_string().contains("os error 28")
        || error.to_string().contains("sync of this file failed");
    assert!(is_fault, "an import failed: {error}");
}

fn completion() -> Completion {
    Box::new(|outcome| outcome.expect("nothing fails here"))
}

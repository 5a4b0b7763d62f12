//! Logs of another store, for a workload to bring in.

use std::sync::Arc;

use plimsoll_log::disk::sim::{SimDisk, SplitMix};
use plimsoll_log::{
    Driver, GroupLog, GroupOptions, Import, ImportError, LogExport, Retention, Store, StoreConfig,
};
use plimsoll_protocol::ids::{GroupId, LogId, LogIndex, Term};

use crate::batches;
use crate::versions::GroupVersion;
use crate::workload::{config, run_until_idle};

/// Its number in its own store says nothing to the receiver.
const GROUP: GroupId = GroupId(77);

/// A log elsewhere, and its naive twin.
pub(crate) struct Source {
    store: Arc<Store>,
    group: Arc<GroupLog>,
    version: GroupVersion,
    now_ms: i64,
}

impl Source {
    pub(crate) fn new(seed: u64, random: &mut SplitMix) -> Self {
        let disk = Arc::new(SimDisk::new(seed));
        let on_fatal = Box::new(|error: &_| panic!("the source stopped: {error}"));
        let config = StoreConfig { place_bytes_min: u64::MAX, ..config(seed) };
        let store = Store::open(disk, config, Driver::Manual, on_fatal).expect("a new store");
        let segment_bytes = (8 + 8 * random.below(3)) << 10;
        let options = GroupOptions { segment_bytes, ..GroupOptions::default() };
        let group = store.create_group(GROUP, options).expect("a new group");
        let version = GroupVersion::new(options);
        let mut source = Self { store, group, version, now_ms: 1_000_000 };
        source.extend(random, 5);
        if random.chance(40) {
            source.retain();
        }
        source
    }

    /// Appends some entries, and applies them.
    pub(crate) fn extend(&mut self, random: &mut SplitMix, least: u64) {
        for _ in 0..least + random.below(12) {
            let last = self.version.last();
            let term = Term(last.map_or(1, |last| last.term.0) + random.below(2));
            let id = LogId::new(term, LogIndex(self.version.next_index()));
            self.now_ms += random.below(1000) as i64;
            let bytes = random.below(4000) as usize;
            let mut entry = match random.chance(80) {
                true => batches::records(random, id, bytes, self.now_ms),
                false => batches::other(random, id, bytes),
            };
            entry.header.base_offset = self.version.end_offset();
            self.version.append(Arc::new(entry.clone()));
            let done = Box::new(|outcome: Result<_, _>| outcome.expect("nothing fails here"));
            self.group.append(vec![entry], done).expect("it follows the last one");
        }
        run_until_idle(&self.store);
        self.group.applied(self.last());
    }

    fn retain(&mut self) {
        let policy = Retention { max_age_ms: None, max_bytes: Some(9 << 10) };
        self.group.retain(&policy, self.now_ms, self.version.end_offset());
        run_until_idle(&self.store);
        let bounds = self.group.bounds();
        let first = self.group.first_kept_index().0;
        self.version.start_offset = bounds.log_start_offset;
        let gone = (first - self.version.first_index()) as usize;
        if let Some(before) = gone.checked_sub(1) {
            let before = &self.version.entries[before];
            self.version.before_offset = before.header.end_offset();
            self.version.before = Some(before.id());
            self.version.entries.drain(..gone);
        }
    }

    fn last(&self) -> LogId {
        self.version.last().expect("it has entries")
    }

    /// All of it, or up to some entry.
    pub(crate) fn export(&self, random: &mut SplitMix) -> LogExport {
        let mut upto = self.last();
        if random.chance(30) {
            let count = self.version.entries.len() as u64;
            if let Some(entry) = self.version.entries.get(random.below(count.max(1)) as usize) {
                upto = entry.id();
            }
        }
        self.group.export(upto).expect("it is applied")
    }

    /// What a group is once this has taken the place of its log.
    pub(crate) fn installed(
        &self,
        upto: LogId,
        before: &GroupVersion,
        state: (LogId, bytes::Bytes),
    ) -> GroupVersion {
        let mut version = GroupVersion {
            options: before.options,
            vote: before.vote,
            committed: Some(upto),
            purged: self.version.before,
            installs: before.installs + 1,
            has_state: true,
            states: vec![state],
            ..self.version.clone()
        };
        let kept = upto.index.0 + 1 - version.first_index();
        version.entries.truncate(kept as usize);
        version.durable_next = version.next_index();
        version
    }
}

/// Sends what is missing in pieces; with `limit`, stops behind so many bytes. Whether all was sent.
pub(crate) fn send(
    export: &LogExport,
    import: &mut Import,
    random: &mut SplitMix,
    limit: u64,
) -> Result<bool, ImportError> {
    let mut sent = 0;
    for (segment, mut at) in import.has().into_iter().enumerate() {
        loop {
            if sent >= limit {
                return Ok(false);
            }
            let most = 1000 + random.below(8000) as usize;
            let piece = export.read(segment, at, most).expect("the source is readable");
            if piece.is_empty() {
                break;
            }
            import.write(segment, at, &piece)?;
            at += piece.len() as u64;
            sent += piece.len() as u64;
        }
    }
    Ok(true)
}

//! Everything that a store shows of its groups, read by every way that there is, and compared with a
//! version of the naive twin.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use plimsoll_log::{GroupLog, GroupOptions, LogBounds, LogEntry, ReadError, ReadStep, Store, Vote};
use plimsoll_protocol::batch::{BatchHeader, EntryKind, iterate_batches};
use plimsoll_protocol::ids::{GroupId, LogId};

use crate::versions::{GroupVersion, Promise, Version, VersionId, Versions};

/// What a group shows.
#[derive(Debug, PartialEq)]
pub(crate) struct ObservedGroup {
    pub(crate) options: GroupOptions,
    pub(crate) vote: Option<Vote>,
    pub(crate) committed: Option<LogId>,
    pub(crate) bounds: LogBounds,
    /// Read as Raft does, from the first entry that was not purged.
    pub(crate) entries: Vec<LogEntry>,
    /// Read as a consumer does, from the start of the log.
    pub(crate) batches: Vec<LogEntry>,
    pub(crate) state: Option<(LogId, Bytes)>,
}

/// What a store shows.
pub(crate) type Observed = BTreeMap<GroupId, ObservedGroup>;

/// Reads everything.
pub(crate) fn observe(store: &Store) -> Result<Observed, ReadError> {
    let mut observed = Observed::new();
    for id in store.groups() {
        let group = store.group(id).expect("a listed group is there");
        observed.insert(id, observe_group(&group)?);
    }
    Ok(observed)
}

fn observe_group(group: &GroupLog) -> Result<ObservedGroup, ReadError> {
    let bounds = group.bounds();
    Ok(ObservedGroup {
        options: group.options(),
        vote: group.vote(),
        committed: group.committed(),
        entries: read_as_raft(group, &bounds)?,
        batches: read_as_consumer(group, &bounds)?,
        state: group.state()?,
        bounds,
    })
}

fn read_as_raft(group: &GroupLog, bounds: &LogBounds) -> Result<Vec<LogEntry>, ReadError> {
    let mut next = bounds.purged.map_or(0, |purged| purged.index.0 + 1);
    let end = bounds.last.map_or(0, |last| last.index.0 + 1);
    let mut entries = Vec::new();
    while next < end {
        let read = group.read_entries(next..end, 3000)?;
        assert!(!read.is_empty(), "a range that is not empty gives at least one entry");
        next += read.len() as u64;
        entries.extend(read);
    }
    Ok(entries)
}

fn read_as_consumer(group: &GroupLog, bounds: &LogBounds) -> Result<Vec<LogEntry>, ReadError> {
    let mut cursor = group.cursor(bounds.log_start_offset);
    let mut batches = Vec::new();
    loop {
        match group.read(&mut cursor, bounds.log_end_offset, 3000)? {
            ReadStep::CaughtUp => return Ok(batches),
            ReadStep::Cold(range) => range.load()?,
            ReadStep::Batches { chunks, next_offset } => {
                let before = batches.len();
                let whole: Vec<u8> = chunks.concat();
                for batch in iterate_batches(whole.into()) {
                    let batch = batch.expect("whole batches are read");
                    batch.check_body_crc().expect("checked batches are read");
                    batches.push(LogEntry { header: batch.header, body: batch.body });
                }
                assert!(batches.len() > before, "at least one batch is read");
                let end = batches.last().map(|batch| batch.header.end_offset());
                assert_eq!(end, Some(next_offset));
            }
        }
    }
}

/// The one version, among those that were promised, that the store shows.
///
/// # Errors
/// For each candidate what is different.
pub(crate) fn find_version(
    observed: &Observed,
    versions: &Versions,
    promise: &Promise,
    after_kill: bool,
) -> Result<VersionId, String> {
    let mut differences = Vec::new();
    for id in (promise.acknowledged..=promise.issued).rev() {
        match difference(observed, versions, id, promise, after_kill) {
            None => return Ok(id),
            Some(difference) => differences.push(format!("  not version {id}: {difference}")),
        }
    }
    Err(differences.join("\n"))
}

fn difference(
    observed: &Observed,
    versions: &Versions,
    id: VersionId,
    promise: &Promise,
    after_kill: bool,
) -> Option<String> {
    let version: &Version = versions.version(id);
    let (theirs, ours): (Vec<_>, Vec<_>) = (observed.keys().collect(), version.keys().collect());
    if theirs != ours {
        return Some(format!("groups {theirs:?} instead of {ours:?}"));
    }
    version.iter().find_map(|(group, version)| {
        let shown = &observed[group];
        let mut safe = versions.safe_index(*group, promise.checkpointed, id);
        if after_kill {
            safe = safe.max(versions.safe_index(*group, promise.in_memory, id));
        }
        let found = if version.is_memory() {
            let marks = versions.committed_marks(*group, id);
            memory_difference(shown, version, safe.max(version.durable_next), &marks)
        } else {
            durable_difference(shown, version)
        };
        let states = || states_put(versions, *group, id, promise.issued);
        found
            .or_else(|| {
                let is_missing = version.has_state && shown.state.is_none();
                is_missing.then(|| "the state that came with the log is missing".to_owned())
            })
            .or_else(|| state_difference(shown, states()))
            .map(|difference| format!("group {group}: {difference}"))
    })
}

macro_rules! same {
    ($what:expr, $shown:expr, $expected:expr) => {
        let (shown, expected) = (&$shown, &$expected);
        if shown != expected {
            return Some(format!("{} is {shown:?} instead of {expected:?}", $what));
        }
    };
}

fn durable_difference(shown: &ObservedGroup, version: &GroupVersion) -> Option<String> {
    same!("options", shown.options, version.options);
    same!("vote", shown.vote, version.vote);
    same!("committed", shown.committed, version.committed);
    same!("purged", shown.bounds.purged, version.purged);
    same!("last", shown.bounds.last, version.last());
    same!("log start", shown.bounds.log_start_offset, version.start_offset);
    same!("log end", shown.bounds.log_end_offset, version.end_offset());
    entries_difference(shown, version, version.next_index())
}

/// A memory group keeps a prefix of its entries after a power failure and an older one of its committed
/// marks, and everything else exactly.
fn memory_difference(
    shown: &ObservedGroup,
    version: &GroupVersion,
    safe: u64,
    committed: &[Option<LogId>],
) -> Option<String> {
    same!("options", shown.options, version.options);
    same!("vote", shown.vote, version.vote);
    if !committed.contains(&shown.committed) {
        return Some(format!("committed is {:?}, not one of {committed:?}", shown.committed));
    }
    same!("purged", shown.bounds.purged, version.purged);
    same!("log start", shown.bounds.log_start_offset, version.start_offset);
    let next = shown.bounds.last.map_or(0, |last| last.index.0 + 1);
    if next < safe || next > version.next_index() {
        let end = version.next_index();
        return Some(format!("next index is {next}, outside of {safe}..={end}"));
    }
    if let Some(last) = next.checked_sub(1).and_then(|last| version.entry(last)) {
        same!("last", shown.bounds.last, Some(last.id()));
        same!("log end", shown.bounds.log_end_offset, last.header.end_offset());
    }
    entries_difference(shown, version, next)
}

fn entries_difference(shown: &ObservedGroup, version: &GroupVersion, end: u64) -> Option<String> {
    let indexes = version.first_unpurged().max(version.first_index())..end;
    same!(
        "number of entries",
        shown.entries.len() as u64,
        indexes.end.saturating_sub(indexes.start)
    );
    for (index, entry) in indexes.zip(&shown.entries) {
        let expected = version.entry(index)?;
        if let Some(difference) = entry_difference(entry, expected) {
            return Some(format!("entry {index}: {difference}"));
        }
    }
    let kept = (version.first_index()..end).filter_map(|index| version.entry(index));
    let expected = kept.filter(|entry| {
        entry.header.kind == EntryKind::Records && entry.header.end_offset() > version.start_offset
    });
    let expected: Vec<_> = expected.collect();
    same!("number of batches", shown.batches.len(), expected.len());
    for (batch, expected) in shown.batches.iter().zip(expected) {
        if let Some(difference) = entry_difference(batch, expected) {
            return Some(format!("batch at offset {}: {difference}", expected.header.base_offset));
        }
    }
    None
}

fn entry_difference(shown: &LogEntry, expected: &LogEntry) -> Option<String> {
    // Each file seals its headers with its own salt.
    let header = |entry: &LogEntry| BatchHeader { header_crc: 0, ..entry.header };
    same!("header", header(shown), header(expected));
    if shown.body != expected.body {
        return Some(format!("other bytes, of an entry of {} bytes", expected.bytes()));
    }
    None
}

/// States are not journaled: one that was put after the version may be in a checkpoint already. But never
/// one of another log.
fn states_put(
    versions: &Versions,
    group: GroupId,
    from: VersionId,
    upto: VersionId,
) -> impl Iterator<Item = &(LogId, Bytes)> {
    let groups = (from..=upto).filter_map(move |id| versions.version(id).get(&group));
    let installs = versions.version(from).get(&group).map(|group| group.installs);
    groups.filter(move |group| Some(group.installs) == installs).flat_map(|group| &group.states)
}

fn state_difference<'a>(
    shown: &ObservedGroup,
    mut put: impl Iterator<Item = &'a (LogId, Bytes)>,
) -> Option<String> {
    let state = shown.state.as_ref()?;
    if put.any(|put| put == state) {
        return None;
    }
    Some(format!("the state of {} was never put", state.0))
}

/// The version that a store shows: without the entries and committed marks that its memory groups lost,
/// and with a state that was put after it and is in a checkpoint all the same.
pub(crate) fn shown_version(version: &Version, observed: &Observed) -> Version {
    let mut version = version.clone();
    for (id, group) in &mut version {
        let next = observed[id].bounds.last.map_or(0, |last| last.index.0 + 1);
        if next < group.next_index() {
            let kept = next.saturating_sub(group.first_index());
            Arc::make_mut(group).entries.truncate(kept as usize);
        }
        if group.committed != observed[id].committed {
            Arc::make_mut(group).committed = observed[id].committed;
        }
        if let Some(state) = &observed[id].state {
            Arc::make_mut(group).states.push(state.clone());
        }
    }
    version
}

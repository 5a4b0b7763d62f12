//! Makes checkpoints, and does everything else that may take its time: syncing segments, writing
//! indexes, removing files, making the next journal file ready.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use bytes::Bytes;
use plimsoll_protocol::ids::{GroupId, LogId};

use super::materialiser::{Capture, CapturedGroup};
use super::shared::Shared;
use crate::checkpoint::codec::{CheckpointHeader, check_piece, put_piece, read_piece};
use crate::checkpoint::file::{self, CheckpointBuilder};
use crate::checkpoint::{CheckpointFile, CheckpointSeq, GroupRecord};
use crate::disk::Mode;
use crate::fatal::{FatalError, of_sync};
use crate::group::GroupLog;
use crate::group::front::StateSlot;
use crate::journal::FileSeq;
use crate::journal::writer::Prepared;
use crate::segment::file::Segment;
use crate::segment::{Retired, SegmentInfo, SegmentName, header};

/// The checkpoint thread's state.
pub(crate) struct Checkpointer {
    shared: Arc<Shared>,
    next_seq: CheckpointSeq,
    /// Kept checkpoints, oldest first, and the journal file each needs.
    kept: VecDeque<(CheckpointSeq, FileSeq)>,
    /// Files that are no part of a log, with the first checkpoint that does not name them.
    retired: VecDeque<(CheckpointSeq, Retired)>,
    /// Of these, the ones that nothing names any more and that somebody is sending.
    sent: Vec<SegmentName>,
    /// From captures whose checkpoint could not be written.
    leftover: Leftover,
    /// Threads that sync segments at once.
    sync_threads: usize,
}

#[derive(Default)]
struct Leftover {
    unsynced: Vec<Arc<Segment>>,
    sealed: Vec<(Arc<GroupLog>, SegmentInfo)>,
    retired: Vec<Retired>,
}

/// How many segments are synced at once where there are many; mostly they wait for the disk.
const SYNC_THREADS: usize = 8;
const SEGMENTS_PER_SYNC_THREAD: usize = 8;

/// Checkpoints that are kept.
const KEPT: usize = 2;

/// What became of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Written,
    /// No room for it; nothing is lost, the next one holds everything.
    Full,
    /// The store stopped.
    Failed,
}

impl Checkpointer {
    pub(crate) fn new(
        shared: Arc<Shared>,
        next_seq: CheckpointSeq,
        kept: VecDeque<(CheckpointSeq, FileSeq)>,
        retired: impl IntoIterator<Item = Retired>,
    ) -> Self {
        let retired = retired.into_iter().map(|name| (next_seq, name)).collect();
        Self {
            shared,
            next_seq,
            kept,
            retired,
            sent: Vec::new(),
            leftover: Leftover::default(),
            sync_threads: 1,
        }
    }

    /// Lets many segments be synced at once: a file system makes many syncs durable together.
    pub(crate) fn sync_in_parallel(&mut self) {
        self.sync_threads = SYNC_THREADS;
    }

    /// Whether a checkpoint would change anything.
    pub(crate) fn has_work(&self) -> bool {
        !self.retired.is_empty()
            || !self.leftover.retired.is_empty()
            || self.shared.kept.is_one_wanted()
            || self.sent.iter().any(|&name| !self.shared.pins.holds(name))
            || !self.shared.changed.lock().is_empty()
    }

    /// Makes the next journal file ready; true where a checkpoint must free one first.
    pub(crate) fn prepare_journal(&mut self) -> bool {
        match self.shared.journal_files.prepare() {
            Ok(Prepared::Ready) => {
                self.shared.space.set_journal_stuck(false);
                false
            }
            Ok(Prepared::NeedsCheckpoint) => true,
            Err((_, error)) if error.kind() == io::ErrorKind::StorageFull => {
                self.shared.space.set_journal_stuck(true);
                true
            }
            Err((seq, error)) => {
                let path = crate::journal::file::path(seq);
                self.shared.fatal.raise(FatalError::medium("making", &path, error));
                false
            }
        }
    }

    /// Syncs what the capture names, then writes it down. After the `last` one no journal file may be
    /// made any more.
    pub(crate) fn run(&mut self, capture: Capture, last: bool) -> Outcome {
        let since = self.shared.counters.since_checkpoint.swap(0, Ordering::Relaxed);
        self.leftover.unsynced.extend(capture.unsynced);
        self.leftover.sealed.extend(capture.sealed);
        self.leftover.retired.extend(capture.retired);
        let header = CheckpointHeader {
            seq: self.next_seq,
            closed_before: last.then(|| self.shared.journal_files.next_seq()),
            position: capture.position,
            groups: 0,
            body_bytes: 0,
            body_crc: 0,
        };
        let states = gather_states(&capture.groups);
        let written = self.sync_segments().and_then(|()| {
            let builder = self.build(&capture.groups, &states)?;
            builder
                .write(&*self.shared.disk, &self.shared.identity, header)
                .map_err(|error| ("writing", file::path(header.seq), error))
        });
        match written {
            Ok(written) => {
                self.finish(written, capture.groups, &states);
                Outcome::Written
            }
            Err((_, _, error)) if error.kind() == io::ErrorKind::StorageFull => {
                self.shared.space.set_journal_stuck(true);
                self.shared.counters.since_checkpoint.fetch_add(since, Ordering::Relaxed);
                for captured in &capture.groups {
                    captured.group.list_as_changed();
                }
                Outcome::Full
            }
            Err((operation, path, error)) => {
                self.shared.fatal.raise(FatalError::medium(operation, &path, error));
                Outcome::Failed
            }
        }
    }

    fn sync_segments(&mut self) -> Result<(), (&'static str, String, io::Error)> {
        if self.leftover.unsynced.is_empty() {
            return Ok(());
        }
        sync_all(&self.leftover.unsynced, self.sync_threads)?;
        self.shared
            .disk
            .sync_dir(header::DIRECTORY)
            .map_err(|error| ("syncing", header::DIRECTORY.to_owned(), of_sync(error)))?;
        self.leftover.unsynced.clear();
        Ok(())
    }

    /// The new checkpoint: changed groups written anew, all others carried over.
    fn build(
        &self,
        changed: &[CapturedGroup],
        states: &BTreeMap<GroupId, State>,
    ) -> Result<CheckpointBuilder, (&'static str, String, io::Error)> {
        let mut anew: BTreeMap<GroupId, Option<&GroupRecord>> = BTreeMap::new();
        for CapturedGroup { group, record, .. } in changed {
            // A group that was deleted and made again is listed twice; what is there counts.
            let slot = anew.entry(group.id()).or_default();
            *slot = slot.or(record.as_ref());
        }
        let previous = self.shared.checkpoint.read().clone();
        let old_bytes = match &previous {
            Some(previous) => previous
                .read_all()
                .map_err(|error| ("reading", file::path(previous.header.seq), error))?,
            None => Vec::new(),
        };
        // Under the new file's checksum damage would pass for what was written, and spread to both
        // kept checkpoints. The older one may still be whole, and the journal reach back to it.
        let old_piece = |group| {
            let Some(file) = &previous else { return Ok(None) };
            let Some(place) = file.place(group) else { return Ok(None) };
            let piece = &old_bytes[place];
            match check_piece(piece) {
                Ok(found) if found == group => Ok(Some(piece)),
                Ok(_) => Err("another group's piece lies there".to_owned()),
                Err(error) => Err(error.to_string()),
            }
            .map_err(|error| {
                let error = io::Error::new(io::ErrorKind::InvalidData, error);
                ("reading", file::path(file.header.seq), error)
            })
        };
        let mut groups: Vec<GroupId> = previous.iter().flat_map(|file| file.groups()).collect();
        groups.extend(anew.keys().copied());
        groups.sort_unstable();
        groups.dedup();
        let mut builder = CheckpointBuilder::new();
        for group in groups {
            match anew.get(&group) {
                None => {
                    let piece = old_piece(group)?.expect("it is in the checkpoint before");
                    builder.add(group, |out| out.extend_from_slice(piece));
                }
                Some(None) => {}
                Some(Some(record)) => {
                    let carried = match states.get(&group) {
                        Some(State::Carried) => old_piece(group)?.and_then(carried_state),
                        _ => None,
                    };
                    let state = match states.get(&group) {
                        Some(State::New(applied, bytes)) => Some((*applied, bytes.as_ref())),
                        _ => carried,
                    };
                    builder.add(group, |out| put_piece(out, record, state));
                }
            }
        }
        Ok(builder)
    }

    /// The checkpoint is durable: what only older ones needed may go.
    fn finish(
        &mut self,
        written: CheckpointFile,
        changed: Vec<CapturedGroup>,
        states: &BTreeMap<GroupId, State>,
    ) {
        let shared = self.shared.clone();
        let header = written.header;
        self.next_seq = CheckpointSeq(header.seq.0 + 1);
        *shared.checkpoint.write() = Some(Arc::new(written));
        shared.counters.checkpoints.fetch_add(1, Ordering::Relaxed);
        for CapturedGroup { group, record, installs } in changed {
            if let Some(record) = &record {
                group.back.lock().note_checkpoint(header.seq, &record.segments);
            }
            group.log_stored(installs);
            if let Some(State::New(applied, bytes)) = states.get(&group.id()) {
                group.state_stored(installs, *applied, bytes);
            }
        }
        self.kept.push_back((header.seq, header.position.file));
        while self.kept.len() > KEPT {
            let (seq, _) = self.kept.pop_front().expect("it is not empty");
            self.remove(&file::path(seq));
        }
        let newest = self.kept.back().expect("one was just added").1;
        let older = self.kept.front().expect("one was just added").1;
        shared.journal_files.needed(newest, older);
        let oldest_kept = self.kept[0].0;
        let two_kept = self.kept.len() == KEPT;
        if two_kept {
            shared.kept.set_older(oldest_kept);
        }
        for name in std::mem::take(&mut self.leftover.retired) {
            self.retired.push_back((header.seq, name));
        }
        for name in std::mem::take(&mut self.sent) {
            self.remove_retired(Retired::Segment(name));
        }
        while let Some(&(unnamed_since, name)) = self.retired.front() {
            if unnamed_since > oldest_kept || !two_kept {
                break;
            }
            self.retired.pop_front();
            self.remove_retired(name);
        }
        for (group, info) in std::mem::take(&mut self.leftover.sealed) {
            self.write_index(&group, &info);
        }
    }

    fn remove_retired(&mut self, file: Retired) {
        match file {
            Retired::Segment(name) if self.shared.pins.holds(name) => self.sent.push(name),
            Retired::Segment(name) => {
                self.remove(&name.path());
                self.remove_if_there(&name.index_path());
            }
            Retired::State(name) => self.remove(&name.state_path()),
        }
    }

    /// Removes a file that nothing names. That it fails costs space, nothing else.
    fn remove(&self, path: &str) {
        match self.shared.disk.remove(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path, %error, "a file that is no longer needed was not removed");
            }
            _ => {}
        }
    }

    fn remove_if_there(&self, path: &str) {
        if self.shared.disk.exists(path).unwrap_or(false) {
            self.remove(path);
        }
    }

    /// Writes the index of a closed segment. Not synced: it is checked when read, and made again.
    fn write_index(&self, group: &GroupLog, info: &SegmentInfo) {
        let name = SegmentName { group: group.id(), id: info.id };
        let segment = {
            let mut back = group.back.lock();
            let at = back.segments.iter().position(|slot| slot.info == *info);
            let Some(at) = at else { return };
            back.open(&self.shared, group.id(), at)
        };
        let interval = self.shared.config.index_interval_bytes;
        let encoded =
            segment.and_then(|segment| segment.encode_index(&self.shared.identity, info, interval));
        let outcome = encoded.map_err(|error| error.to_string()).and_then(|bytes| {
            let disk = &self.shared.disk;
            let path = name.index_path();
            let write = || -> io::Result<()> {
                if disk.exists(&path)? {
                    disk.remove(&path)?;
                }
                let file = disk.create(&path, Mode::Buffered)?;
                file.allocate(bytes.len() as u64)?;
                file.write_at(0, &[&bytes])
            };
            write().map_err(|error| error.to_string())
        });
        if let Err(error) = outcome {
            tracing::debug!(path = name.index_path(), error, "index not written");
        }
    }
}

/// Syncs segments, by several threads where there are many.
fn sync_all(
    segments: &[Arc<Segment>],
    threads: usize,
) -> Result<(), (&'static str, String, io::Error)> {
    let sync = |segment: &Segment| {
        segment.sync().map_err(|error| ("syncing", segment.name().path(), error))
    };
    let threads = threads.min(segments.len() / SEGMENTS_PER_SYNC_THREAD);
    if threads < 2 {
        return segments.iter().try_for_each(|segment| sync(segment));
    }
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some(segment) = segments.get(next.fetch_add(1, Ordering::Relaxed)) {
            sync(segment)?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let own = work();
        others
            .into_iter()
            .fold(own, |outcome, other| outcome.and(other.join().expect("syncing does not panic")))
    })
}

/// The state that goes into a group's piece.
enum State {
    New(LogId, Bytes),
    /// As in the checkpoint before.
    Carried,
}

fn gather_states(groups: &[CapturedGroup]) -> BTreeMap<GroupId, State> {
    let mut states = BTreeMap::new();
    for CapturedGroup { group, record, installs } in groups {
        if record.is_none() {
            continue;
        }
        let state = match group.state_for_checkpoint(*installs) {
            StateSlot::None => continue,
            StateSlot::Held(applied, bytes) => State::New(applied, bytes),
            StateSlot::Stored(_) => State::Carried,
        };
        states.insert(group.id(), state);
    }
    states
}

fn carried_state(piece: &[u8]) -> Option<(LogId, &[u8])> {
    let (applied, range) = read_piece(piece).ok()?.state?;
    Some((applied, &piece[range]))
}

//! Opening a store: newest valid checkpoint, replay of the journal after it, and what an earlier life
//! left lying about.
//!
//! Nothing that was found is made worse here. A journal is never cut: the store goes on in a fresh
//! file. A damaged checkpoint is put aside under another name. What can be neither used nor explained
//! ends the opening with an error that names it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use plimsoll_protocol::ids::GroupId;
use thiserror::Error;

use super::checkpointer::Checkpointer;
use super::materialiser::Materialiser;
use super::queue::{MaterialQueue, Queue};
use super::recovery::Recovery;
use super::shared::{CheckpointRequests, Counters, KeptCheckpoints, Shared};
use super::space::Space;
use crate::boot::{self, Boot, Opening};
use crate::checkpoint::CheckpointSeq;
use crate::checkpoint::file::{self as checkpoint_file, CheckpointError, ReadCheckpoint};
use crate::config::{ConfigError, StoreConfig};
use crate::disk::{Disk, Mode};
use crate::fatal::{FatalError, FatalState, OnFatal};
use crate::group::GroupLog;
use crate::header::{HeaderError, Identity};
use crate::identity;
use crate::journal::record::{self, RecordError};
use crate::journal::replay::{JournalEnd, ReplayError, make_durable, replay};
use crate::journal::writer::{FoundFiles, JournalFiles, JournalWriter, Prepared};
use crate::journal::{BlockSeq, FileSeq, JournalPosition, file as journal_file};
use crate::parking::{Mutex, RwLock};
use crate::random::Random;
use crate::segment::header as segment_header;
use crate::segment::open::OpenSegments;
use crate::segment::scan::Damage;
use crate::segment::{IMPORT_GAP, Retired, SegmentName};
use crate::transfer::pins::Pins;

/// Why a store cannot be opened. Nothing was cut or deleted.
#[derive(Debug, Error)]
pub enum OpenError {
    /// A setting.
    #[error("configuration: {0}")]
    Config(#[from] ConfigError),
    /// The medium failed.
    #[error("{operation} {path} failed: {source}")]
    Medium {
        /// What was being done.
        operation: &'static str,
        /// To what.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// The file that says whose data this is cannot be used.
    #[error("{path} cannot be used: {error}. {advice}")]
    Identity {
        /// The file.
        path: &'static str,
        /// Why.
        error: HeaderError,
        /// What to do.
        advice: &'static str,
    },
    /// It is another node's, or another cluster's, than the one it was to be opened for.
    #[error(
        "this directory belongs to node {} of cluster {}, and was to be opened as node {} of cluster {}: \
         check the path given with --data, or join with an empty directory. Nothing was changed",
        found.node_id, hex(&found.cluster_id), given.node_id, hex(&given.cluster_id)
    )]
    OtherIdentity {
        /// Whose it is.
        found: Identity,
        /// Whose it was said to be.
        given: Identity,
    },
    /// There is data, and the file that says whose is missing.
    #[error(
        "{path} is missing although the directory holds data; restore that file from a backup of this \
         directory. Nothing was changed"
    )]
    IdentityMissing {
        /// The file.
        path: &'static str,
    },
    /// There are segments, and nothing says what is valid in them.
    #[error(
        "no usable checkpoint was found although the directory holds segments, and the journal does not \
         reach back to the beginning; restore {directory} from a backup. Nothing was deleted"
    )]
    NoCheckpoint {
        /// Where checkpoints lie.
        directory: &'static str,
    },
    /// The journal.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// A record of the journal makes no sense.
    #[error("{path} at byte {position}: {error}")]
    Record {
        /// The journal file.
        path: String,
        /// Where its block begins.
        position: u64,
        /// What is wrong.
        error: RecordError,
    },
    /// A record of the journal does not fit the groups.
    #[error("{path} at byte {position}: a change of group {group} {problem}")]
    Misfit {
        /// The journal file.
        path: String,
        /// Where its block begins.
        position: u64,
        /// The group.
        group: GroupId,
        /// What is wrong.
        problem: &'static str,
    },
    /// Entries that the journal only refers to are damaged.
    #[error(
        "{damage}. The block at byte {position} of {path} says that entries were on stable storage there, \
         and the journal holds no copy of them; restore this directory from a backup, or let the node \
         join its groups anew with an empty one. Nothing was cut or deleted"
    )]
    Placed {
        /// Where, and what is wrong.
        damage: Damage,
        /// The journal file.
        path: String,
        /// Where its block begins.
        position: u64,
    },
    /// It was tried without a checkpoint that is damaged, and that was not enough.
    #[error("{error}. Before that, {put_aside} was found damaged and put aside")]
    AfterDamage {
        /// The files that were renamed, now or in an earlier attempt.
        put_aside: String,
        /// What is then wrong.
        error: Box<OpenError>,
    },
    /// The disk is full.
    #[error("the disk is full: {path} could not be written; free some space and start again")]
    Full {
        /// What needed the space.
        path: String,
    },
    /// Writing failed while opening.
    #[error(transparent)]
    Fatal(#[from] FatalError),
}

/// What is handed to the threads of a store that was opened.
pub(crate) struct Opened {
    pub(crate) shared: Arc<Shared>,
    pub(crate) boot: Boot,
    pub(crate) groups: BTreeMap<GroupId, Arc<GroupLog>>,
    /// Groups that are gone, but whose files are not.
    pub(crate) deleted: BTreeSet<GroupId>,
    pub(crate) writer: JournalWriter,
    pub(crate) materialiser: Materialiser,
    pub(crate) checkpointer: Checkpointer,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn medium(operation: &'static str, path: &str) -> impl FnOnce(io::Error) -> OpenError {
    let path = path.to_owned();
    move |source| match source.kind() {
        io::ErrorKind::StorageFull => OpenError::Full { path },
        _ => OpenError::Medium { operation, path, source },
    }
}

/// Whose data a directory holds; `None` where it is new. May block on the disk.
///
/// # Errors
/// When the file that says so cannot be read.
pub fn stored_identity(disk: &dyn Disk) -> Result<Option<Identity>, OpenError> {
    match identity::load(disk).map_err(medium("reading", identity::PATH))? {
        None => Ok(None),
        Some(found) => found.map(Some).map_err(unreadable_identity),
    }
}

fn unreadable_identity(error: HeaderError) -> OpenError {
    let advice = match error {
        HeaderError::Newer { .. } => "Use the release that wrote it, or a newer one",
        _ => "Restore that file from a backup of this directory. Nothing was changed",
    };
    OpenError::Identity { path: identity::PATH, error, advice }
}

/// The identity; the given one, or a random one, where the directory is new.
fn identity(
    disk: &dyn Disk,
    random: &Random,
    given: Option<Identity>,
) -> Result<Identity, OpenError> {
    match identity::load(disk).map_err(medium("reading", identity::PATH))? {
        Some(Ok(found)) => match given {
            Some(given) if given != found => Err(OpenError::OtherIdentity { found, given }),
            _ => Ok(found),
        },
        Some(Err(error)) => Err(unreadable_identity(error)),
        None => {
            for directory in
                [journal_file::DIRECTORY, segment_header::DIRECTORY, checkpoint_file::DIRECTORY]
            {
                let names = disk.list(directory).map_err(medium("listing", directory))?;
                if !names.is_empty() {
                    return Err(OpenError::IdentityMissing { path: identity::PATH });
                }
            }
            let identity = given.unwrap_or_else(|| identity::make(random));
            identity::create(disk, &identity).map_err(medium("writing", identity::PATH))?;
            Ok(identity)
        }
    }
}

/// The newest valid checkpoint, and whether damaged ones were put aside.
fn newest_checkpoint(
    disk: &dyn Disk,
    identity: &Identity,
) -> Result<(Option<ReadCheckpoint>, bool), OpenError> {
    let mut put_aside = false;
    let directory = checkpoint_file::DIRECTORY;
    checkpoint_file::remove_unfinished(disk).map_err(medium("cleaning", directory))?;
    let listed = checkpoint_file::list(disk).map_err(medium("listing", directory))?;
    for &seq in listed.iter().rev() {
        match checkpoint_file::read(disk, identity, seq) {
            Ok(checkpoint) => return Ok((Some(checkpoint), put_aside)),
            Err(CheckpointError::Medium(source)) => {
                return Err(medium("reading", &checkpoint_file::path(seq))(source));
            }
            Err(error) => {
                let path = checkpoint_file::path(seq);
                tracing::error!(path, %error, "damaged checkpoint put aside");
                checkpoint_file::quarantine(disk, seq).map_err(medium("renaming", &path))?;
                put_aside = true;
            }
        }
    }
    Ok((None, put_aside))
}

/// Opens the store on `disk`.
pub(crate) fn open(
    disk: Arc<dyn Disk>,
    config: StoreConfig,
    on_fatal: OnFatal,
) -> Result<Opened, OpenError> {
    config.check()?;
    let asked_after = disk.clone();
    open_with(disk, config, on_fatal).map_err(|error| {
        // What is missing now may be missing because a checkpoint could not be used.
        match checkpoint_file::quarantined(&*asked_after) {
            Ok(put_aside) if !put_aside.is_empty() => {
                OpenError::AfterDamage { put_aside: put_aside.join(", "), error: Box::new(error) }
            }
            _ => error,
        }
    })
}

fn open_with(
    disk: Arc<dyn Disk>,
    config: StoreConfig,
    on_fatal: OnFatal,
) -> Result<Opened, OpenError> {
    let directories =
        [journal_file::DIRECTORY, segment_header::DIRECTORY, checkpoint_file::DIRECTORY];
    for directory in directories {
        disk.create_dir_all(directory).map_err(medium("creating", directory))?;
    }
    let random = Arc::new(Random::new(config.seed));
    let identity = identity(&*disk, &random, config.identity)?;
    disk.sync_dir("").map_err(medium("syncing", "the data directory"))?;
    let (checkpoint, put_aside) = newest_checkpoint(&*disk, &identity)?;
    // What is about to be removed is needed by the checkpoint before, should this one's name be lost.
    let directory = checkpoint_file::DIRECTORY;
    disk.sync_dir(directory).map_err(medium("syncing", directory))?;
    let shared = Arc::new(new_shared(disk, config, identity, random, on_fatal));
    recover(&shared, checkpoint, put_aside).inspect_err(|_| {
        // Groups that were listed hold what they are listed in, and with it the disk.
        shared.aborted.store(true, Ordering::Relaxed);
        shared.fail_queued();
    })
}

/// Brings everything up to date: checkpoint, journal, segments.
fn recover(
    shared: &Arc<Shared>,
    checkpoint: Option<ReadCheckpoint>,
    put_aside: bool,
) -> Result<Opened, OpenError> {
    let identity = shared.identity;
    let start = checkpoint.as_ref().map(|checkpoint| checkpoint.file.header.position);
    let mut recovery = Recovery::new(shared.clone(), start);
    if let Some(checkpoint) = &checkpoint {
        recovery.take_over(checkpoint);
    }
    let disk = shared.disk.clone();
    let end = replay(&disk, &identity, start, |block| recovery.replay(&block))?;
    if checkpoint.is_none() && end.tail.is_none() {
        let directory = segment_header::DIRECTORY;
        let segments = disk.list(directory).map_err(medium("listing", directory))?;
        let aside = checkpoint_file::quarantined(&*disk)
            .map_err(medium("listing", checkpoint_file::DIRECTORY))?;
        let is_segment = |name: &&String| name.ends_with(segment_header::EXTENSION);
        let mut logs = segments.iter().filter(is_segment);
        if !aside.is_empty()
            || logs.clone().any(|name| !is_behind_gap(name))
            || logs.next().is_some() && !reaches_back(&*disk, &identity)?
        {
            return Err(OpenError::NoCheckpoint { directory: checkpoint_file::DIRECTORY });
        }
    }
    let directory = journal_file::DIRECTORY;
    let listed = journal_file::list(&*disk).map_err(medium("listing", directory))?;
    let clean = checkpoint.as_ref().is_some_and(|checkpoint| {
        let header = checkpoint.file.header;
        // Entries of memory groups leave no trace in the journal, but every life makes a file of it.
        header.closed_before.is_some_and(|seq| listed.last().is_some_and(|&last| last < seq))
            && header.position.next_block == end.next_block
    });
    recovery.recover_memory_groups(clean)?;
    // Data is never deleted because metadata was damaged.
    let retired = if put_aside { Vec::new() } else { recovery.tidy_segments()? };

    // Votes and acknowledgements may rest on what was read back: on stable storage it must be first.
    // Everything before the last block is, because each block was built when the one before it was.
    if let Some(place) = end.last_block {
        let path = journal_file::path(place.file);
        make_durable(&*disk, place).map_err(medium("writing", &path))?;
    }
    let writer = begin_journal(shared, &end, start)?;
    let is_new = checkpoint.is_none() && end.tail.is_none();
    let boot = begin_life(shared, &writer, clean || is_new)?;
    let mut materialiser = recovery.materialiser;
    materialiser.set_position(match end.tail {
        // Nothing was read back and nothing is named: everything that comes is in the new file.
        None => writer.position(),
        Some((file, offset)) => JournalPosition { file, offset, next_block: end.next_block },
    });
    let kept = kept_checkpoints(shared, checkpoint.as_ref())?;
    let next_seq = next_checkpoint_seq(&*disk)?;
    shared.space.measure(&*disk, shared.config.free_bytes_min);
    *shared.checkpoint.write() = checkpoint.map(|checkpoint| Arc::new(checkpoint.file));
    let groups = recovery.groups;
    groups.values().for_each(|group| group.restart());
    // The first thing that is journaled: before it is durable nothing is acknowledged.
    recovery.read_on.iter().for_each(|group| group.begin_branch());
    // Files behind the gap may be those of a log that was not brought in to its end.
    let of_deleted = retired.iter().filter_map(|file| match file {
        Retired::Segment(name) => {
            (name.id.0 < IMPORT_GAP || name.id.is_of_compaction()).then_some(name.group)
        }
        Retired::State(_) => None,
    });
    let deleted = of_deleted.filter(|id| !groups.contains_key(id)).collect();
    let checkpointer = Checkpointer::new(shared.clone(), next_seq, kept, retired);
    Ok(Opened { shared: shared.clone(), boot, groups, deleted, writer, materialiser, checkpointer })
}

/// Whether a segment may be of a log that was not brought in to its end: nothing need speak of it.
fn is_behind_gap(name: &str) -> bool {
    SegmentName::parse(name, segment_header::EXTENSION)
        .is_some_and(|name| name.id.0 >= IMPORT_GAP && !name.id.is_of_compaction())
}

/// Whether the journal was never used again: where it is empty then, nothing was ever written.
fn reaches_back(disk: &dyn Disk, identity: &Identity) -> Result<bool, OpenError> {
    let directory = journal_file::DIRECTORY;
    let listed = journal_file::list(disk).map_err(medium("listing", directory))?;
    let Some(&first) = listed.first() else { return Ok(false) };
    let path = journal_file::path(first);
    let opened = journal_file::open(disk, identity, first).map_err(medium("reading", &path))?;
    Ok(opened.is_ok_and(|opened| opened.header.blocks_from == BlockSeq(1)))
}

/// Counts this opening. Nothing was acknowledged in this life before it.
fn begin_life(shared: &Shared, writer: &JournalWriter, is_clean: bool) -> Result<Boot, OpenError> {
    let opening = Opening { journal_file: writer.position().file.0, is_clean };
    boot::begin(&*shared.disk, &shared.identity, opening)
        .map_err(medium("writing", boot::PATH))?
        .map_err(|error| OpenError::Identity {
            path: boot::PATH,
            error,
            advice: "Use the release that wrote it, or a newer one",
        })
}

fn new_shared(
    disk: Arc<dyn Disk>,
    config: StoreConfig,
    identity: Identity,
    random: Arc<Random>,
    on_fatal: OnFatal,
) -> Shared {
    let file_bytes = config.journal_file_bytes;
    let block_bytes_max =
        JournalWriter::block_bytes_max(file_bytes, config.journal_reserve_bytes) as usize;
    let journal_files = Arc::new(JournalFiles::new(
        disk.clone(),
        identity,
        random.clone(),
        file_bytes,
        config.journal_bytes_max,
    ));
    Shared {
        disk,
        identity,
        random,
        entry_bytes_max: record::entry_bytes_max(block_bytes_max) as u64,
        fatal: FatalState::new(on_fatal),
        queue: Queue::default(),
        material: MaterialQueue::default(),
        journal_files,
        open_segments: OpenSegments::new(config.open_segments_max),
        pins: Pins::default(),
        changed: Mutex::new(Vec::new()),
        checkpoint: RwLock::new(None),
        kept: KeptCheckpoints::default(),
        requests: CheckpointRequests::default(),
        space: Space::default(),
        counters: Counters::default(),
        aborted: AtomicBool::new(false),
        closing: AtomicBool::new(false),
        config,
    }
}

/// Goes on in a fresh journal file: what lies behind the recovered end is left as it is.
fn begin_journal(
    shared: &Arc<Shared>,
    end: &JournalEnd,
    start: Option<JournalPosition>,
) -> Result<JournalWriter, OpenError> {
    let directory = journal_file::DIRECTORY;
    let disk = &*shared.disk;
    for name in disk.list(directory).map_err(medium("listing", directory))? {
        if name.ends_with(journal_file::UNFINISHED) {
            let path = format!("{directory}/{name}");
            disk.remove(&path).map_err(medium("removing", &path))?;
        }
    }
    let listed = journal_file::list(disk).map_err(medium("listing", directory))?;
    let needed = start.map_or(FileSeq(0), |position| position.file);
    // Files of another size cannot be used again; the ones before the checkpoint are not needed.
    let (mut unused, mut live) = (Vec::new(), Vec::new());
    for &seq in &listed {
        // Where nothing was ever written, a file that says so stays.
        let is_first = end.next_block == BlockSeq(1);
        let is_needed = seq >= needed && (is_first || !end.unused.contains(&seq));
        if is_needed {
            live.push(seq);
            continue;
        }
        let path = journal_file::path(seq);
        let fits = disk
            .open(&path, Mode::Direct)
            .and_then(|file| file.len())
            .is_ok_and(|length| length == shared.config.journal_file_bytes);
        if fits && unused.len() < 2 {
            unused.push(seq);
        } else {
            disk.remove(&path).map_err(medium("removing", &path))?;
        }
    }
    let next_seq = FileSeq(listed.last().map_or(0, |seq| seq.0) + 1);
    shared.journal_files.adopt(FoundFiles {
        live,
        unused,
        next_seq,
        next_block: end.next_block,
        needed_by_newest: needed,
        needed_by_older: needed,
    });
    let prepared = shared.journal_files.prepare_beyond_limit().map_err(|(seq, source)| {
        let path = journal_file::path(seq);
        match source.kind() {
            io::ErrorKind::StorageFull => OpenError::Full { path },
            _ => medium("making", &path)(source),
        }
    })?;
    assert_eq!(prepared, Prepared::Ready, "the limit was lifted");
    let reserve = shared.config.journal_reserve_bytes;
    JournalWriter::begin(shared.journal_files.clone(), end.next_block, reserve)
        .ok_or_else(|| OpenError::Full { path: directory.to_owned() })
}

/// The checkpoints that stay for now, and the journal file each needs.
fn kept_checkpoints(
    shared: &Shared,
    newest: Option<&ReadCheckpoint>,
) -> Result<VecDeque<(CheckpointSeq, FileSeq)>, OpenError> {
    let directory = checkpoint_file::DIRECTORY;
    let listed = checkpoint_file::list(&*shared.disk).map_err(medium("listing", directory))?;
    let Some(newest) = newest.map(|newest| newest.file.header) else { return Ok(VecDeque::new()) };
    // Journal files before the newest checkpoint may have been used again while nobody looked.
    Ok(listed
        .into_iter()
        .filter(|&seq| seq <= newest.seq)
        .map(|seq| (seq, newest.position.file))
        .collect())
}

fn next_checkpoint_seq(disk: &dyn Disk) -> Result<CheckpointSeq, OpenError> {
    let directory = checkpoint_file::DIRECTORY;
    let highest = checkpoint_file::highest_seq(disk).map_err(medium("listing", directory))?;
    Ok(CheckpointSeq(highest.map_or(0, |seq| seq.0) + 1))
}

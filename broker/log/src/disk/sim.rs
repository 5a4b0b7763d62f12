//! A disk in memory that forgets what was not synced, fails on command, and repeats itself exactly.
//!
//! ```text
//!             Disk, DiskFile, Mapping
//!                      │ checks, faults
//!                      ▼
//!  Recording ◄──────  Op ──────► Medium   what is durable, what is read, what is pending
//!      │                            │
//!   each prefix ──► Medium ──► crash(CrashPlan) ──► SimDisk   the image a process finds
//! ```
//! Stricter than a file system where the file systems differ: a name is durable only by
//! [`Disk::sync_dir`] of its own directory, a directory's own name by that of its parent; a sync of
//! a file says nothing of its name. There is no clock and no random source but the seed.

mod crash;
mod faults;
mod handle;
mod medium;
mod pages;
mod random;
mod recording;

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rustix::io::Errno;

pub use self::crash::{Choices, CrashPlan, InFlight, SurvivingData, SurvivingNames};
pub use self::faults::{Effect, Fault, Operation};
pub use self::medium::{FileId, Op};
pub use self::random::SplitMix;
pub use self::recording::{Record, Recording, Replay};

use self::faults::{Faults, Verdict};
use self::handle::SimFile;
use self::medium::{Medium, Node, parent};
use self::pages::PAGE;
use super::{BootId, Disk, DiskFile, Mode};

/// Space of a disk that was given no capacity: more than any test fills.
const CAPACITY_DEFAULT: u64 = 1 << 40;

/// A simulated disk. A clone is another handle on the same medium.
#[derive(Debug, Clone)]
pub struct SimDisk {
    shared: Arc<Shared>,
}

/// What was done on a disk so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SimStats {
    /// Calls of [`DiskFile::write_at`].
    pub writes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Calls of [`DiskFile::sync`] and [`Disk::sync_dir`].
    pub syncs: u64,
    /// Calls of [`DiskFile::read_at`].
    pub reads: u64,
    /// Pages that a slice of a map covered although they were neither written, read nor populated
    /// in this life: each would have blocked its thread on the medium.
    pub cold_touches: u64,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    medium: Medium,
    faults: Faults,
    /// The operations of the recording that is under way.
    recorded: Option<Vec<Op>>,
    capacity: u64,
    random: SplitMix,
    stats: SimStats,
    slow_time: Duration,
    powered: bool,
    /// Pages in the cache, for `cold_touches`.
    resident: BTreeMap<FileId, Vec<bool>>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A test that panicked beside this thread says so itself.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Counts a call against the faults, and carries its delay out.
    fn begin(&mut self, operation: Operation, path: &str) -> io::Result<Verdict> {
        if !self.powered {
            return Err(Errno::IO.into());
        }
        let verdict = self.faults.judge(operation, path);
        self.slow_time += verdict.slow;
        Ok(verdict)
    }

    fn carry_out(&mut self, op: Op) {
        self.medium.apply(&op);
        if let Some(recorded) = &mut self.recorded {
            recorded.push(op);
        }
    }

    /// The same for a call on an open file, which faults know by the name it has now.
    fn begin_on(&mut self, operation: Operation, file: FileId) -> io::Result<Verdict> {
        if self.faults.are_none() {
            return self.begin(operation, "");
        }
        let named = self.medium.names.iter().find(|(_, node)| **node == Node::File(file));
        let path = named.map_or_else(String::new, |(path, _)| path.clone());
        self.begin(operation, &path)
    }

    fn check_space(&self, more: u64) -> io::Result<()> {
        if self.medium.used_bytes().saturating_add(more) > self.capacity {
            return Err(Errno::NOSPC.into());
        }
        Ok(())
    }

    fn make_resident(&mut self, file: FileId, range: Range<u64>) {
        let pages = self.resident.entry(file).or_default();
        let (first, end) = (range.start as usize / PAGE, (range.end as usize).div_ceil(PAGE));
        if pages.len() < end {
            pages.resize(end, false);
        }
        pages[first..end.max(first)].fill(true);
    }

    fn count_cold(&self, file: FileId, range: Range<u64>) -> u64 {
        if range.is_empty() {
            return 0;
        }
        let pages = self.resident.get(&file).map_or(&[][..], Vec::as_slice);
        let touched = range.start as usize / PAGE..(range.end as usize).div_ceil(PAGE);
        touched.filter(|&page| !pages.get(page).copied().unwrap_or(false)).count() as u64
    }
}

impl SimDisk {
    /// An empty disk. The seed decides which sectors a failing direct write leaves behind.
    pub fn new(seed: u64) -> Self {
        Self::on_medium(Medium::new(), seed)
    }

    fn on_medium(medium: Medium, seed: u64) -> Self {
        let state = State {
            medium,
            faults: Faults::default(),
            recorded: None,
            capacity: CAPACITY_DEFAULT,
            random: SplitMix::new(seed),
            stats: SimStats::default(),
            slow_time: Duration::ZERO,
            powered: true,
            resident: BTreeMap::new(),
        };
        Self { shared: Arc::new(Shared { state: Mutex::new(state) }) }
    }

    /// The power fails now: what a process finds afterwards. This disk goes on as if nothing had
    /// happened; see [`SimDisk::power_off`].
    pub fn crash(&self, plan: &CrashPlan) -> Self {
        let mut state = self.shared.lock();
        let seed = state.random.number();
        Self::on_medium(crash::crash(&state.medium, None, plan), seed)
    }

    /// `kill -9`: what the next process finds. Everything that was written is there, and what was
    /// not synced can still be lost. This disk goes on with a medium of its own.
    pub fn kill_process(&self) -> Self {
        let mut state = self.shared.lock();
        let mut medium = state.medium.clone();
        medium.close_handles();
        let seed = state.random.number();
        Self::on_medium(medium, seed)
    }

    /// Every later call on this disk fails with EIO and changes nothing.
    pub fn power_off(&self) {
        self.shared.lock().powered = false;
    }

    /// Begins to record. One recording at a time.
    ///
    /// # Panics
    /// Where one is under way.
    pub fn record(&self) -> Recording {
        let mut state = self.shared.lock();
        assert!(state.recorded.is_none(), "a recording is under way");
        state.recorded = Some(Vec::new());
        let mut base = state.medium.clone();
        base.close_handles();
        Recording { shared: Arc::clone(&self.shared), base }
    }

    /// Notes in the recording that something was acknowledged.
    pub fn mark(&self, mark: u64) {
        self.shared.lock().carry_out(Op::Mark { mark });
    }

    /// Lets a fault come.
    pub fn inject(&self, fault: Fault) {
        self.shared.lock().faults.add(fault);
    }

    /// How many calls of a kind there were: a bound for [`Fault::new`]'s `nth`.
    pub fn calls(&self, operation: Operation) -> u64 {
        self.shared.lock().faults.calls(operation)
    }

    /// Takes direct access away, as on a file system that does not have it: a direct write is then
    /// a buffered one and a sync, and either can fail. Images of this disk are without it too.
    pub fn without_direct_access(self) -> Self {
        self.shared.lock().medium.direct_access = false;
        self
    }

    /// Takes back all faults that are still to come, and unreadable places.
    pub fn heal(&self) {
        self.shared.lock().faults.clear();
    }

    /// Sets the space of the medium; every file takes its length in whole blocks.
    pub fn set_capacity(&self, bytes: u64) {
        self.shared.lock().capacity = bytes;
    }

    /// Space taken by files that a name or a handle refers to.
    pub fn used_bytes(&self) -> u64 {
        self.shared.lock().medium.used_bytes()
    }

    /// Reading these bytes fails with EIO from now on; a slice of a map over them panics, where a
    /// process would get SIGBUS.
    ///
    /// # Errors
    /// Where there is no such file.
    pub fn make_unreadable(&self, path: &str, range: Range<u64>) -> io::Result<()> {
        let mut state = self.shared.lock();
        let file = state.medium.file(path).ok_or(Errno::NOENT)?;
        state.faults.make_unreadable(file, range);
        Ok(())
    }

    /// A bit of a file decays, counted from the file's beginning.
    ///
    /// # Errors
    /// Where there is no such file or bit.
    pub fn flip_bit(&self, path: &str, bit: u64) -> io::Result<()> {
        let mut state = self.shared.lock();
        let file = state.medium.file(path).ok_or(Errno::NOENT)?;
        if bit / 8 >= state.medium.inode(file).current.len() {
            return Err(Errno::INVAL.into());
        }
        state.carry_out(Op::FlipBit { file, bit });
        Ok(())
    }

    /// Drops the cache: from now on the files read as the medium holds them, but for what waits
    /// for a sync. After a failed sync that healed, this shows what was lost.
    pub fn drop_cache(&self) {
        let mut state = self.shared.lock();
        state.carry_out(Op::DropCache);
        state.resident.clear();
    }

    /// A whole file, as a process reads it.
    ///
    /// # Errors
    /// Where there is no such file.
    pub fn content(&self, path: &str) -> io::Result<Bytes> {
        let state = self.shared.lock();
        let file = state.medium.file(path).ok_or(Errno::NOENT)?;
        let pages = &state.medium.inode(file).current;
        let mut content = vec![0; pages.len() as usize];
        pages.read(0, &mut content);
        Ok(content.into())
    }

    /// All files with their lengths, sorted by path.
    pub fn files(&self) -> Vec<(String, u64)> {
        let state = self.shared.lock();
        let medium = &state.medium;
        let files = medium.names.iter().filter_map(|(path, node)| match node {
            Node::File(file) => Some((path.clone(), medium.inode(*file).current.len())),
            Node::Directory => None,
        });
        files.collect()
    }

    /// Whether both disks show a process the same names and bytes.
    pub fn same_content(&self, other: &Self) -> bool {
        if Arc::ptr_eq(&self.shared, &other.shared) {
            return true;
        }
        let (one, two) = (self.shared.lock(), other.shared.lock());
        let (one, two) = (&one.medium, &two.medium);
        one.names.len() == two.names.len()
            && one.names.iter().zip(&two.names).all(|((name, node), (other, theirs))| {
                name == other
                    && match (node, theirs) {
                        (Node::File(file), Node::File(theirs)) => {
                            one.inode(*file).current.same_as(&two.inode(*theirs).current)
                        }
                        (node, theirs) => node == theirs,
                    }
            })
    }

    /// What was done so far.
    pub fn stats(&self) -> SimStats {
        self.shared.lock().stats
    }

    /// How long the slow calls would have taken in all. Nothing waits here: a simulation adds it
    /// to its own clock.
    pub fn slow_time(&self) -> Duration {
        self.shared.lock().slow_time
    }

    fn open_handle(&self, state: &mut State, file: FileId, mode: Mode) -> Arc<dyn DiskFile> {
        Arc::new(SimFile::new(Arc::clone(&self.shared), state, file, mode))
    }
}

impl Disk for SimDisk {
    fn create(&self, path: &str, mode: Mode) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.shared.lock();
        state.begin(Operation::Create, path)?.check()?;
        check_new_name(&state.medium, path)?;
        state.check_space(0)?;
        let file = state.medium.next_file();
        state.carry_out(Op::Create { path: path.to_owned(), file });
        Ok(self.open_handle(&mut state, file, mode))
    }

    fn open(&self, path: &str, mode: Mode) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.shared.lock();
        state.begin(Operation::Open, path)?.check()?;
        match state.medium.names.get(path) {
            Some(Node::File(file)) => {
                let file = *file;
                Ok(self.open_handle(&mut state, file, mode))
            }
            Some(Node::Directory) => Err(Errno::ISDIR.into()),
            None => Err(Errno::NOENT.into()),
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.shared.lock();
        state.begin(Operation::Rename, to)?.check()?;
        if state.medium.file(from).is_none() {
            return Err(Errno::NOENT.into());
        }
        if parent(from) != parent(to) || state.medium.is_directory(to) {
            // A rename between directories takes two syncs and is not atomic: nobody needs it.
            return Err(Errno::XDEV.into());
        }
        if from != to {
            state.carry_out(Op::Rename { from: from.to_owned(), to: to.to_owned() });
        }
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let mut state = self.shared.lock();
        state.begin(Operation::Remove, path)?.check()?;
        match state.medium.names.get(path) {
            Some(Node::File(_)) => {
                state.carry_out(Op::Remove { path: path.to_owned() });
                Ok(())
            }
            Some(Node::Directory) => Err(Errno::ISDIR.into()),
            None => Err(Errno::NOENT.into()),
        }
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let mut state = self.shared.lock();
        state.begin(Operation::Open, dir)?.check()?;
        if !state.medium.is_directory(dir) {
            return Err(Errno::NOENT.into());
        }
        let inside =
            state.medium.names.keys().filter(|path| !path.is_empty() && parent(path) == dir);
        let mut names: Vec<String> =
            inside.map(|path| path.rsplit('/').next().unwrap_or(path).to_owned()).collect();
        names.sort_unstable();
        Ok(names)
    }

    fn create_dir_all(&self, dir: &str) -> io::Result<()> {
        let mut state = self.shared.lock();
        state.begin(Operation::Create, dir)?.check()?;
        let ends = dir.match_indices('/').map(|(at, _)| at).chain([dir.len()]);
        for end in ends.filter(|&end| end > 0) {
            match state.medium.names.get(&dir[..end]) {
                Some(Node::Directory) => {}
                Some(Node::File(_)) => return Err(Errno::NOTDIR.into()),
                None => state.carry_out(Op::CreateDir { path: dir[..end].to_owned() }),
            }
        }
        Ok(())
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let mut state = self.shared.lock();
        // A failed sync of names leaves them pending: the file system's journal did not commit.
        state.begin(Operation::SyncDir, dir)?.check()?;
        if !state.medium.is_directory(dir) {
            return Err(Errno::NOENT.into());
        }
        state.stats.syncs += 1;
        state.carry_out(Op::SyncDir { path: dir.to_owned() });
        Ok(())
    }

    fn exists(&self, path: &str) -> io::Result<bool> {
        let mut state = self.shared.lock();
        state.begin(Operation::Open, path)?.check()?;
        Ok(state.medium.names.contains_key(path))
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let state = self.shared.lock();
        Ok(state.capacity.saturating_sub(state.medium.used_bytes()))
    }

    fn boot_id(&self) -> io::Result<Option<BootId>> {
        let mut id = BootId::default();
        id[..8].copy_from_slice(&self.shared.lock().medium.boots.to_le_bytes());
        Ok(Some(id))
    }
}

fn check_new_name(medium: &Medium, path: &str) -> io::Result<()> {
    if medium.names.contains_key(path) {
        return Err(Errno::EXIST.into());
    }
    if !medium.is_directory(parent(path)) {
        return Err(Errno::NOENT.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests;

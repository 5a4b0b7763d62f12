//! Looking at a store that is not running: what is in it, and whether every byte is as it was written.
//!
//! Nothing is ever written: a read-only disk
//! ([`OpenOptions::read_only`](crate::disk::real::OpenOptions::read_only)) is enough. On the directory
//! of a running node the answers are those of different moments, and damage may be reported that is
//! none.
//!
//! Call [`Inspector::open`], then read its [`Report`], list [`Inspector::batches`] of a group, or
//! [`Inspector::verify`] everything.

mod journal;
mod report;
mod verify;

pub use journal::{BlockReport, JournalFileReport, PlacedReport};
pub use report::{
    BatchReport, CheckpointReport, GroupReport, Report, SegmentReport, StateReport, Verdict,
};
pub use verify::{DamagedPlace, Verification, VerifyProgress};

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use plimsoll_protocol::ids::GroupId;
use thiserror::Error;

use crate::checkpoint::GroupRecord;
use crate::checkpoint::file as checkpoint_file;
use crate::disk::Disk;
use crate::header::{HeaderError, Identity};
use crate::identity;
use crate::segment::file::{Segment, SegmentError};
use crate::segment::{SegmentInfo, SegmentName};

/// Why nothing can be said about a directory at all.
#[derive(Debug, Error)]
pub enum InspectError {
    /// It is not a data directory.
    #[error("there is no {path}: this is not a data directory, or it was never used")]
    NoIdentity {
        /// The missing file.
        path: &'static str,
    },
    /// The file that says whose data it is cannot be used.
    #[error("{path} cannot be used: {error}")]
    Identity {
        /// The file.
        path: &'static str,
        /// Why.
        error: HeaderError,
    },
    /// There is no such group.
    #[error("there is no group {0} in this directory")]
    UnknownGroup(GroupId),
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
}

impl InspectError {
    fn medium(operation: &'static str, path: &str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Medium { operation, path, source }
    }
}

impl From<SegmentError> for InspectError {
    fn from(error: SegmentError) -> Self {
        match error {
            SegmentError::Medium { operation, path, source } => {
                Self::Medium { operation, path, source }
            }
            SegmentError::Damaged(damage) => Self::Medium {
                operation: "reading",
                path: damage.path.clone(),
                source: io::Error::new(io::ErrorKind::InvalidData, damage),
            },
        }
    }
}

/// A store opened for looking only.
#[derive(Debug)]
pub struct Inspector {
    disk: Arc<dyn Disk>,
    identity: Identity,
    /// As the newest valid checkpoint has them.
    records: BTreeMap<GroupId, GroupRecord>,
    report: Report,
}

impl Inspector {
    /// Reads identity, checkpoints, and journal. Segments are not opened.
    ///
    /// # Errors
    /// When it is not a data directory, or cannot be read. Damage is no error: it is reported.
    pub fn open(disk: Arc<dyn Disk>) -> Result<Self, InspectError> {
        let path = identity::PATH;
        let identity = identity::load(&*disk)
            .map_err(InspectError::medium("reading", path))?
            .ok_or(InspectError::NoIdentity { path })?
            .map_err(|error| InspectError::Identity { path, error })?;
        let mut report = Report::new(identity);
        let directory = checkpoint_file::DIRECTORY;
        let listed =
            checkpoint_file::list(&*disk).map_err(InspectError::medium("listing", directory))?;
        let mut newest = None;
        for &seq in listed.iter().rev() {
            let path = checkpoint_file::path(seq);
            match checkpoint_file::read(&*disk, &identity, seq) {
                Ok(read) => {
                    report.checkpoints.push(CheckpointReport::of(path, &read.file.header));
                    newest = newest.or(Some(read));
                }
                Err(checkpoint_file::CheckpointError::Medium(source)) => {
                    return Err(InspectError::medium("reading", &path)(source));
                }
                Err(error) => {
                    report.checkpoints.push(CheckpointReport::damaged(path.clone(), &error));
                    report.damaged.push(DamagedPlace::new(path, None, error.to_string()));
                }
            }
        }
        report.quarantined = checkpoint_file::quarantined(&*disk)
            .map_err(InspectError::medium("listing", directory))?;
        let mut records = BTreeMap::new();
        for piece in newest.iter().flat_map(|newest| &newest.pieces) {
            let group = piece.record.group;
            report.groups.insert(group, GroupReport::of(&piece.record, piece.state.clone()));
            records.insert(group, piece.record.clone());
        }
        let start = newest.map(|newest| newest.file.header.position);
        journal::look(&disk, &identity, start, &mut report)?;
        for (id, swap) in std::mem::take(&mut report.swaps) {
            let record: Option<&mut GroupRecord> = records.get_mut(&id);
            // Of groups that were made after the checkpoint no segment is known.
            if record.is_some_and(|record| !record.swap(&swap)) {
                let what = format!("it replaces segments of group {id} that are not there");
                let path = crate::journal::file::DIRECTORY.to_owned();
                report.damaged.push(DamagedPlace::new(path, None, what));
            }
        }
        records.extend(std::mem::take(&mut report.installed));
        Ok(Self { disk, identity, records, report })
    }

    /// What is in the store.
    #[must_use]
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// Shows every journal block to `visit`, file by file, in order.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn blocks(&self, visit: &mut dyn FnMut(&BlockReport)) -> Result<(), InspectError> {
        journal::visit_blocks(&*self.disk, &self.identity, visit)
    }

    /// Shows every batch in the segments of a group to `visit`, in order, with what its checksums say.
    /// Goes on behind a damaged body; behind a damaged header with the next segment.
    ///
    /// # Errors
    /// When there is no such group, or a segment cannot be read.
    pub fn batches(
        &self,
        group: GroupId,
        visit: &mut dyn FnMut(&BatchReport),
    ) -> Result<(), InspectError> {
        let record = self.records.get(&group).ok_or(InspectError::UnknownGroup(group))?;
        for info in &record.segments {
            if let Ok(segment) = self.segment(group, info)? {
                verify::visit_batches(&segment, info, visit)?;
            }
        }
        Ok(())
    }

    /// Checks every checksum and that every log is without gaps, up to the recorded tails, and the
    /// whole journal. `progress` is told after each segment.
    ///
    /// # Errors
    /// When something cannot be read at all. Damage is no error: it is in the answer.
    pub fn verify(
        &self,
        progress: &mut dyn FnMut(VerifyProgress),
    ) -> Result<Verification, InspectError> {
        verify::verify(self, progress)
    }

    fn segment(
        &self,
        group: GroupId,
        info: &SegmentInfo,
    ) -> Result<Result<Segment, crate::Damage>, InspectError> {
        let name = SegmentName { group, id: info.id };
        match Segment::open(&*self.disk, &self.identity, name, info) {
            Ok(segment) => Ok(Ok(segment)),
            Err(SegmentError::Damaged(damage)) => Ok(Err(damage)),
            Err(error) => Err(error.into()),
        }
    }
}

//! Whole logs on their way from one node to another, as the segment files that they are.
//!
//! ```text
//!   GroupLog::export(upto) ─► LogExport ── manifest ──►  Store::import ─► Import
//!        pins the files        read(segment, at) ─────►  write(segment, at)    NAME.segment.tmp
//!                                                        each full segment: walked, header, sync
//!                                                        finish(state): state file, names, sync,
//!                                                                       journal record `install`
//! ```
//! Batches are copied as they are: the checksums of their headers start from the sender's salt, so the salt
//! travels with them. Before the record stands in the journal the old log is the log, and what was brought
//! in is named by nothing; after it the new one is.

pub(crate) mod export;
pub(crate) mod import;
pub(crate) mod manifest;
mod part;
pub(crate) mod pins;
pub(crate) mod state_file;

use manifest::SegmentManifest;
use plimsoll_protocol::batch::BatchHeader;

use crate::entry::Placed;
use crate::segment::file::{Segment, SegmentError};
use crate::segment::header::FIRST_BATCH_AT;
use crate::segment::scan::{Density, check_batches};

/// Checks every byte of a segment: it is what its manifest says. Blocks on the disk.
pub(crate) fn walk(
    segment: &Segment,
    manifest: &SegmentManifest,
    visit: impl FnMut(&BatchHeader),
) -> Result<(), SegmentError> {
    let expected = Placed {
        segment: segment.name().id,
        salt: segment.header().salt,
        from: FIRST_BATCH_AT,
        to: FIRST_BATCH_AT + manifest.bytes,
        first: manifest.base_index,
        // A segment of so many entries as no file can hold is found to have fewer.
        entries: u32::try_from(manifest.entries()).unwrap_or(u32::MAX),
        last: manifest.last,
        end_offset: manifest.end_offset,
    };
    let density = match manifest.compacted {
        None => Density::Full,
        Some(_) => Density::Compacted,
    };
    check_batches(segment, &expected, density, manifest.previous, manifest.base_offset, visit)
}

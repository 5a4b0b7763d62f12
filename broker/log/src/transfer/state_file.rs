//! The state that comes with an imported log: a file of its own, until a checkpoint holds it.

use std::io;

use bytes::Bytes;
use plimsoll_protocol::ids::GroupId;
use thiserror::Error;

use crate::disk::{Disk, Mode};
use crate::entry::InstalledState;
use crate::fields::FieldWriter;
use crate::header::{self, HEADER_BYTES, HeaderError, Identity};
use crate::segment::SegmentName;
use crate::segment::header::UNFINISHED;
use crate::segment::scan::{Damage, Fault};

const MAGIC: [u8; 8] = *b"PLMSTAT1";

/// Why a state cannot be read.
#[derive(Debug, Error)]
pub(crate) enum StateFileError {
    #[error(transparent)]
    Medium(#[from] io::Error),
    #[error(transparent)]
    Damaged(Damage),
}

/// Writes the file; its bytes are durable on return, its name is once the directory was synced.
pub(crate) fn write(
    disk: &dyn Disk,
    identity: &Identity,
    group: GroupId,
    state: &InstalledState,
    bytes: &[u8],
) -> io::Result<()> {
    let path = SegmentName { group, id: state.number }.state_path();
    let unfinished = format!("{path}{UNFINISHED}");
    if disk.exists(&unfinished)? {
        disk.remove(&unfinished)?;
    }
    let head = encode_header(identity, group, state);
    let file = disk.create(&unfinished, Mode::Buffered)?;
    let filled = file
        .allocate((HEADER_BYTES + bytes.len()) as u64)
        .and_then(|()| file.write_at(0, &[&head, bytes]))
        .and_then(|()| file.sync());
    if filled.is_err() {
        // The space is needed elsewhere; that it cannot be removed either changes nothing.
        let _ = disk.remove(&unfinished);
    }
    filled?;
    disk.rename(&unfinished, &path)
}

/// Reads the state back. Blocks.
pub(crate) fn read(
    disk: &dyn Disk,
    identity: &Identity,
    group: GroupId,
    state: &InstalledState,
) -> Result<Bytes, StateFileError> {
    let path = SegmentName { group, id: state.number }.state_path();
    let damaged =
        |position, fault| StateFileError::Damaged(Damage { path: path.clone(), position, fault });
    let file = match disk.open(&path, Mode::Buffered) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(damaged(0, Fault::Missing));
        }
        opened => opened?,
    };
    let length = file.len()?;
    if length.checked_sub(HEADER_BYTES as u64).is_none_or(|rest| rest < state.bytes) {
        return Err(damaged(length, Fault::Short { length }));
    }
    let mut head = vec![0; HEADER_BYTES];
    file.read_at(0, &mut head)?;
    if head != encode_header(identity, group, state) {
        return Err(damaged(0, Fault::FileHeader(HeaderError::Misplaced)));
    }
    let mut bytes = vec![0; state.bytes as usize];
    file.read_at(HEADER_BYTES as u64, &mut bytes)?;
    if crc32fast::hash(&bytes) != state.crc {
        return Err(damaged(HEADER_BYTES as u64, Fault::StateChecksum));
    }
    Ok(bytes.into())
}

/// Its fields are those of the journal record, so that the whole of it is known.
fn encode_header(identity: &Identity, group: GroupId, state: &InstalledState) -> Vec<u8> {
    header::encode(MAGIC, identity, |out| {
        out.put_u64(group.0);
        out.put_u64(state.number.0);
        out.put_log_id(state.applied);
        out.put_u64(state.bytes);
        out.put_u32(state.crc);
    })
}

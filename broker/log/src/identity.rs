//! The file that says whose data a directory holds. Written once, on first open.

use std::io;

use plimsoll_protocol::ids::NodeId;

use crate::disk::{Disk, Mode};
use crate::header::{self, HEADER_BYTES, HeaderError, Identity};
use crate::random::Random;

/// Name of the file.
pub(crate) const PATH: &str = "plimsoll.meta";
const UNFINISHED: &str = "plimsoll.meta.tmp";
const MAGIC: [u8; 8] = *b"PLMMETA1";

/// Reads the identity; `None` where there is none yet.
pub(crate) fn load(disk: &dyn Disk) -> io::Result<Option<Result<Identity, HeaderError>>> {
    let file = match disk.open(PATH, Mode::Buffered) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let mut bytes = vec![0; HEADER_BYTES.min(file.len()? as usize)];
    file.read_at(0, &mut bytes)?;
    Ok(Some(header::decode(MAGIC, &bytes).map(|(identity, _)| identity)))
}

/// A random identity.
pub(crate) fn make(random: &Random) -> Identity {
    let mut cluster_id = [0; 16];
    cluster_id[..8].copy_from_slice(&random.next().to_le_bytes());
    cluster_id[8..].copy_from_slice(&random.next().to_le_bytes());
    // Never 0, and readable: one of 2^32.
    let node_id = NodeId((random.next() >> 32).max(1));
    Identity { cluster_id, node_id }
}

/// Stores the identity of a new directory; it is durable on return.
pub(crate) fn create(disk: &dyn Disk, identity: &Identity) -> io::Result<()> {
    if disk.exists(UNFINISHED)? {
        disk.remove(UNFINISHED)?;
    }
    let file = disk.create(UNFINISHED, Mode::Buffered)?;
    let bytes = header::encode(MAGIC, identity, |_| {});
    file.allocate(bytes.len() as u64)?;
    file.write_at(0, &[&bytes])?;
    file.sync()?;
    disk.rename(UNFINISHED, PATH)?;
    disk.sync_dir("")
}

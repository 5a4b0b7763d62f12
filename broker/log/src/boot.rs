//! The file that counts the starts of a directory, and says in which start of the machine the last one
//! was: `plimsoll.boot`.
//!
//! It is written once at each opening, before anything else is done. A damaged one costs nothing: it is
//! put aside, the starts are counted on from the number of the journal file, which each of them takes
//! a new one of, and a power failure counts as possible.

use std::io;

use crate::disk::{BootId, Disk, Mode};
use crate::fields::FieldWriter;
use crate::header::{self, HEADER_BYTES, HeaderError, Identity};

/// Name of the file.
pub(crate) const PATH: &str = "plimsoll.boot";
const UNFINISHED: &str = "plimsoll.boot.tmp";
const QUARANTINE: &str = "plimsoll.boot.quarantine";
const MAGIC: [u8; 8] = *b"PLMBOOT1";

/// What the file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Boot {
    /// How often the directory was opened; later openings have larger numbers, with gaps.
    pub(crate) incarnation: u64,
    /// The machine's start, where the system tells one from another.
    pub(crate) boot_id: Option<BootId>,
    /// The first incarnation that found a power failure possible, until somebody says that what it may
    /// have taken is there again.
    pub(crate) power_loss_since: Option<u64>,
}

/// What an opening knows when it writes the file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Opening {
    /// Number of the journal file that this life begins with.
    pub(crate) journal_file: u64,
    /// The life before ended with [`Store::close`](crate::Store::close), or there was none.
    pub(crate) is_clean: bool,
}

/// Counts this opening and writes it down; it is durable on return.
pub(crate) fn begin(
    disk: &dyn Disk,
    identity: &Identity,
    opening: Opening,
) -> io::Result<Result<Boot, HeaderError>> {
    let before = match load(disk, identity)? {
        Some(Err(error @ HeaderError::Newer { .. })) => return Ok(Err(error)),
        Some(Err(error)) => {
            tracing::error!(path = PATH, %error, "damaged file put aside");
            disk.rename(PATH, QUARANTINE)?;
            None
        }
        Some(Ok(before)) => Some(before),
        None => None,
    };
    let boot_id = disk.boot_id()?;
    // The number of the journal file grows with each opening, whatever becomes of this file.
    let counted = before.map_or(0, |before| before.incarnation) + 1;
    let incarnation = counted.max(opening.journal_file);
    let is_same_boot = before.is_some_and(|before| boot_id.is_some() && before.boot_id == boot_id);
    let is_possible = !opening.is_clean && !is_same_boot;
    let power_loss_since = before
        .and_then(|before| before.power_loss_since)
        .or_else(|| is_possible.then_some(incarnation));
    let boot = Boot { incarnation, boot_id, power_loss_since };
    write(disk, identity, &boot)?;
    Ok(Ok(boot))
}

/// Reads the file; `None` where there is none.
fn load(disk: &dyn Disk, identity: &Identity) -> io::Result<Option<Result<Boot, HeaderError>>> {
    let file = match disk.open(PATH, Mode::Buffered) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let mut bytes = vec![0; HEADER_BYTES.min(file.len()? as usize)];
    file.read_at(0, &mut bytes)?;
    Ok(Some(decode(identity, &bytes)))
}

fn decode(identity: &Identity, bytes: &[u8]) -> Result<Boot, HeaderError> {
    let mut reader = header::decode_own(MAGIC, identity, bytes)?;
    let boot = Boot {
        incarnation: reader.u64("incarnation")?,
        boot_id: reader.option("boot id", |r| r.array("boot id"))?,
        power_loss_since: reader.option("power loss", |r| r.u64("power loss"))?,
    };
    reader.end()?;
    Ok(boot)
}

/// Writes the file; it is durable on return. Where it is there it is written over: all of it lies in one
/// sector, which is written whole or not at all, and a full disk has no room for a second one.
pub(crate) fn write(disk: &dyn Disk, identity: &Identity, boot: &Boot) -> io::Result<()> {
    let bytes = header::encode(MAGIC, identity, |out| {
        out.put_u64(boot.incarnation);
        out.put_option(boot.boot_id, |out, id| out.put(&id));
        out.put_option(boot.power_loss_since, Vec::put_u64);
    });
    if disk.exists(PATH)? {
        let file = disk.open(PATH, Mode::Buffered)?;
        file.write_at(0, &[&bytes])?;
        return file.sync();
    }
    if disk.exists(UNFINISHED)? {
        disk.remove(UNFINISHED)?;
    }
    let file = disk.create(UNFINISHED, Mode::Buffered)?;
    file.allocate(bytes.len() as u64)?;
    file.write_at(0, &[&bytes])?;
    file.sync()?;
    disk.rename(UNFINISHED, PATH)?;
    disk.sync_dir("")
}

#[cfg(test)]
mod tests {
    use plimsoll_protocol::ids::NodeId;

    use super::*;
    use crate::disk::sim::{CrashPlan, SimDisk};

    const OWN: Identity = Identity { cluster_id: [3; 16], node_id: NodeId(9) };

    fn open(disk: &SimDisk, journal_file: u64, is_clean: bool) -> Boot {
        begin(disk, &OWN, Opening { journal_file, is_clean }).unwrap().unwrap()
    }

    #[test]
    fn each_opening_has_a_larger_number() {
        let disk = SimDisk::new(1);
        assert_eq!(open(&disk, 1, true).incarnation, 1);
        assert_eq!(open(&disk, 4, false).incarnation, 4);
        assert_eq!(open(&disk, 2, false).incarnation, 5);
        let crashed = disk.crash(&CrashPlan::NOTHING);
        assert_eq!(open(&crashed, 3, false).incarnation, 6, "it was durable");
    }

    #[test]
    fn power_failure_is_possible_until_it_is_settled() {
        let disk = SimDisk::new(1);
        assert_eq!(open(&disk, 1, true).power_loss_since, None);
        let killed = disk.kill_process();
        assert_eq!(open(&killed, 2, false).power_loss_since, None, "the machine went on");
        let crashed = disk.crash(&CrashPlan::EVERYTHING);
        assert_eq!(open(&crashed, 2, true).power_loss_since, None, "everything was synced");
        let crashed = disk.crash(&CrashPlan::EVERYTHING);
        assert_eq!(open(&crashed, 2, false).power_loss_since, Some(2));
        let again = open(&crashed.kill_process(), 3, true);
        assert_eq!(again.power_loss_since, Some(2), "nobody has settled it");
        write(&crashed, &OWN, &Boot { power_loss_since: None, ..again }).unwrap();
        assert_eq!(open(&crashed, 4, false).power_loss_since, None);
    }

    #[test]
    fn damaged_file_is_put_aside_and_counting_goes_on() {
        let disk = SimDisk::new(1);
        open(&disk, 7, true);
        disk.flip_bit(PATH, 43 * 8).unwrap();
        let boot = open(&disk, 8, false);
        assert_eq!(boot.incarnation, 8);
        assert_eq!(boot.power_loss_since, Some(8));
        assert!(disk.files().iter().any(|(path, _)| path == QUARANTINE));
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let boot = Boot { incarnation: 4, boot_id: Some([6; 16]), power_loss_since: Some(3) };
        let disk = SimDisk::new(1);
        write(&disk, &OWN, &boot).unwrap();
        let bytes = disk.content(PATH).unwrap();
        assert_eq!(decode(&OWN, &bytes), Ok(boot));
        for bit in 0..(40 + 8 + 17 + 9 + 4) * 8 {
            let mut bad = bytes.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&OWN, &bad).is_err(), "bit {bit}");
        }
    }
}

//! Values that say who sent them and as which: what is read can be told from everything else.

use bytes::{Buf, Bytes};

use crate::random::Random;

const FILLER_BYTES_MAX: u64 = 2_000;

/// What record `sequence` of a writer carries: its number, and bytes that follow from it.
pub fn numbered_value(writer: u32, partition: u32, sequence: u64) -> Bytes {
    let seed = u64::from(writer) << 48 ^ u64::from(partition) << 40 ^ sequence;
    let mut random = Random::seeded(seed);
    let filler = random.within(0..FILLER_BYTES_MAX) as usize;
    let mut value = Vec::with_capacity(12 + filler);
    value.extend_from_slice(&writer.to_le_bytes());
    value.extend_from_slice(&sequence.to_le_bytes());
    value.extend_from_slice(&random.bytes(filler));
    value.into()
}

/// Writer and number of a stored value; `None` where it carries anything else than it must.
pub fn read_numbered(partition: u32, stored: &Bytes) -> Option<(u32, u64)> {
    let mut rest = stored.clone();
    let (writer, sequence) = (rest.try_get_u32_le().ok()?, rest.try_get_u64_le().ok()?);
    (numbered_value(writer, partition, sequence) == *stored).then_some((writer, sequence))
}

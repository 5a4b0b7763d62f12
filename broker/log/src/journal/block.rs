//! The bytes of one journal block.
//!
//! ```text
//!  0  8  magic            "PLMBLCK1"
//!  8  8  block seq
//! 16  8  durable through  every block up to this one was durable when this one was built
//! 24  4  length           header and records, without padding
//! 28  4  record count
//! 32  4  CRC-32           of bytes 0..32 and 36..length, started from the file's salt
//! 36  4  zero
//! 40  .. records: kind u8, group u64, length u32, payload
//!  .  .. zeros up to a multiple of 4096
//! ```

use thiserror::Error;

use super::BlockSeq;
use crate::disk::{AlignedBuffer, BLOCK_BYTES};

const MAGIC: [u8; 8] = *b"PLMBLCK1";
pub(crate) const BLOCK_HEADER_BYTES: usize = 40;
pub(crate) const RECORD_HEADER_BYTES: usize = 13;
const CRC_AT: usize = 32;

/// A buffer larger than this is given back after use.
const KEPT_BUFFER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Why bytes are not a valid block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum BlockError {
    /// They do not begin as a block does.
    #[error("no block begins here")]
    Magic,
    /// The length is impossible.
    #[error("the block's length {length} does not fit")]
    Length {
        /// The stored length.
        length: u32,
    },
    /// The checksum is wrong.
    #[error("the block's checksum is wrong")]
    Checksum,
    /// The checksum is right and the records do not fill the block.
    #[error("the block's records do not fill it")]
    Records,
}

/// Collects records into the one buffer that is then written.
#[derive(Debug)]
pub(crate) struct BlockBuilder {
    buffer: AlignedBuffer,
    used: usize,
    records: u32,
    /// How much of the buffer may hold bytes of an earlier block.
    soiled: usize,
    capacity: usize,
}

impl BlockBuilder {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            buffer: AlignedBuffer::new(capacity),
            used: BLOCK_HEADER_BYTES,
            records: 0,
            soiled: 0,
            capacity,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Bytes so far, as they will be written: whole pages.
    pub(crate) fn padded(&self) -> usize {
        self.used.next_multiple_of(BLOCK_BYTES)
    }

    /// Adds a record. The buffer grows where it has to.
    pub(crate) fn push(&mut self, kind: u8, group: u64, parts: &[&[u8]]) {
        let payload: usize = parts.iter().map(|part| part.len()).sum();
        let end = self.used + RECORD_HEADER_BYTES + payload;
        if end > self.buffer.as_slice().len() {
            self.grow(end);
        }
        let out = &mut self.buffer.as_mut_slice()[self.used..end];
        let length = u32::try_from(payload).expect("an entry is below 4 GiB");
        out[0] = kind;
        out[1..9].copy_from_slice(&group.to_le_bytes());
        out[9..13].copy_from_slice(&length.to_le_bytes());
        let mut at = RECORD_HEADER_BYTES;
        for part in parts {
            out[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        self.used = end;
        self.records += 1;
    }

    fn grow(&mut self, needed: usize) {
        let mut larger = AlignedBuffer::new(needed.max(self.capacity));
        larger.as_mut_slice()[..self.used].copy_from_slice(&self.buffer.as_slice()[..self.used]);
        self.buffer = larger;
        self.soiled = self.used;
    }

    /// Completes the header and the checksum; what is returned is written as it is.
    pub(crate) fn finish(&mut self, seq: BlockSeq, durable: BlockSeq, crc_start: u32) -> &[u8] {
        let (used, padded) = (self.used, self.padded());
        let length = u32::try_from(used).expect("a block is below 4 GiB");
        let out = &mut self.buffer.as_mut_slice()[..padded];
        out[0..8].copy_from_slice(&MAGIC);
        out[8..16].copy_from_slice(&seq.0.to_le_bytes());
        out[16..24].copy_from_slice(&durable.0.to_le_bytes());
        out[24..28].copy_from_slice(&length.to_le_bytes());
        out[28..32].copy_from_slice(&self.records.to_le_bytes());
        out[36..40].fill(0);
        if self.soiled > used {
            let end = self.soiled.min(padded);
            out[used..end].fill(0);
        }
        let crc = checksum(&out[..used], crc_start);
        out[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        self.soiled = self.soiled.max(used);
        out
    }

    /// Begins the next block.
    pub(crate) fn clear(&mut self) {
        self.used = BLOCK_HEADER_BYTES;
        self.records = 0;
        if self.buffer.as_slice().len() > self.capacity.max(KEPT_BUFFER_BYTES_MAX) {
            self.buffer = AlignedBuffer::new(self.capacity);
            self.soiled = 0;
        }
    }
}

/// What a block would take, counted before it is built.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct BlockSize {
    /// Records with their headers.
    records_bytes: usize,
}

impl BlockSize {
    /// Takes in `count` records of `payload` bytes each.
    pub(crate) fn add(&mut self, payload: usize, count: usize) {
        self.records_bytes += (RECORD_HEADER_BYTES + payload) * count;
    }

    /// As [`BlockSize::add`], where the block then fits: the first record `room`, which is the file's end,
    /// every other one `limit`, too.
    pub(crate) fn fit(&mut self, payload: usize, count: usize, room: u64, limit: u64) -> bool {
        let mut grown = *self;
        grown.add(payload, count);
        let is_first = self.records_bytes == 0 && count == 1;
        let most = if is_first { room } else { room.min(limit) };
        let fits = grown.padded() as u64 <= most;
        if fits {
            *self = grown;
        }
        fits
    }

    /// Bytes as they will be written: whole pages.
    pub(crate) fn padded(&self) -> usize {
        (BLOCK_HEADER_BYTES + self.records_bytes).next_multiple_of(BLOCK_BYTES)
    }
}

fn checksum(block: &[u8], crc_start: u32) -> u32 {
    let mut crc = crc32fast::Hasher::new_with_initial(crc_start);
    crc.update(&block[..CRC_AT]);
    crc.update(&block[CRC_AT + 4..]);
    crc.finalize()
}

/// What a block says of itself; its checksum is not yet checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BlockHeader {
    pub(crate) seq: BlockSeq,
    pub(crate) durable: BlockSeq,
    pub(crate) length: u32,
    pub(crate) records: u32,
}

impl BlockHeader {
    /// Reads the header of a block that may use up to `room` bytes.
    pub(crate) fn parse(bytes: &[u8], room: u64) -> Result<Self, BlockError> {
        let Some(b) = bytes.first_chunk::<BLOCK_HEADER_BYTES>() else {
            return Err(BlockError::Magic);
        };
        if b[0..8] != MAGIC {
            return Err(BlockError::Magic);
        }
        let u64_at = |at: usize| u64::from_le_bytes(*b[at..].first_chunk().expect("in the header"));
        let u32_at = |at: usize| u32::from_le_bytes(*b[at..].first_chunk().expect("in the header"));
        let header = Self {
            seq: BlockSeq(u64_at(8)),
            durable: BlockSeq(u64_at(16)),
            length: u32_at(24),
            records: u32_at(28),
        };
        if (header.length as usize) < BLOCK_HEADER_BYTES || header.padded() > room {
            return Err(BlockError::Length { length: header.length });
        }
        Ok(header)
    }

    /// Bytes it takes in the file.
    pub(crate) fn padded(&self) -> u64 {
        u64::from(self.length).next_multiple_of(BLOCK_BYTES as u64)
    }

    /// Checks the whole block; `bytes` begins with it.
    pub(crate) fn check(&self, bytes: &[u8], crc_start: u32) -> Result<(), BlockError> {
        let block =
            bytes.get(..self.length as usize).ok_or(BlockError::Length { length: self.length })?;
        let stored = u32::from_le_bytes(*block[CRC_AT..].first_chunk().expect("in the header"));
        if checksum(block, crc_start) == stored { Ok(()) } else { Err(BlockError::Checksum) }
    }
}

/// One record of a block: where its payload lies in the block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RawRecord {
    pub(crate) kind: u8,
    pub(crate) group: u64,
    pub(crate) payload: std::ops::Range<usize>,
}

/// The records of a checked block.
pub(crate) fn records(block: &[u8], header: &BlockHeader) -> Result<Vec<RawRecord>, BlockError> {
    let block = &block[..header.length as usize];
    let mut found = Vec::new();
    let mut at = BLOCK_HEADER_BYTES;
    while at < block.len() {
        let head = block.get(at..at + RECORD_HEADER_BYTES).ok_or(BlockError::Records)?;
        let group = u64::from_le_bytes(*head[1..].first_chunk().expect("13 bytes"));
        let length = u32::from_le_bytes(*head[9..].first_chunk().expect("13 bytes")) as usize;
        let start = at + RECORD_HEADER_BYTES;
        if length > block.len() - start {
            return Err(BlockError::Records);
        }
        found.push(RawRecord { kind: head[0], group, payload: start..start + length });
        at = start + length;
    }
    if found.len() == header.records as usize { Ok(found) } else { Err(BlockError::Records) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(bytes: &[u8], crc_start: u32) -> Result<(BlockHeader, Vec<RawRecord>), BlockError> {
        let header = BlockHeader::parse(bytes, bytes.len() as u64)?;
        header.check(bytes, crc_start)?;
        Ok((header, records(bytes, &header)?))
    }

    fn build(payloads: &[Vec<u8>], crc_start: u32) -> Vec<u8> {
        let mut builder = BlockBuilder::new(4096);
        for (at, payload) in payloads.iter().enumerate() {
            builder.push(at as u8, at as u64 * 7, &[payload]);
        }
        builder.finish(BlockSeq(5), BlockSeq(4), crc_start).to_vec()
    }

    proptest! {
        #[test]
        fn a_block_is_read_back(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3000), 0..12),
            salt: u32,
        ) {
            let bytes = build(&payloads, salt);
            prop_assert_eq!(bytes.len() % BLOCK_BYTES, 0);
            let (header, found) = parse(&bytes, salt).unwrap();
            prop_assert_eq!(header.seq, BlockSeq(5));
            prop_assert_eq!(header.durable, BlockSeq(4));
            let read: Vec<Vec<u8>> = found.iter().map(|r| bytes[r.payload.clone()].to_vec()).collect();
            prop_assert_eq!(read, payloads);
        }

        #[test]
        fn a_damaged_block_is_never_accepted(
            payload in prop::collection::vec(any::<u8>(), 0..6000),
            salt: u32,
            bit in any::<prop::sample::Index>(),
        ) {
            let mut bytes = build(&[payload], salt);
            let used = BlockHeader::parse(&bytes, bytes.len() as u64).unwrap().length as usize;
            let bit = bit.index(used * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(parse(&bytes, salt).is_err());
        }

        #[test]
        fn another_salt_is_another_life(payload in prop::collection::vec(any::<u8>(), 0..600)) {
            prop_assert_eq!(parse(&build(&[payload], 1), 2), Err(BlockError::Checksum));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = bytes;
            let _ = parse(&bytes, 0);
            if bytes.len() >= 8 {
                bytes[..8].copy_from_slice(&MAGIC);
                let _ = parse(&bytes, 0);
            }
        }
    }

    #[test]
    fn padding_holds_nothing_of_the_block_before() {
        let mut builder = BlockBuilder::new(8192);
        builder.push(1, 1, &[&[0xff; 7000]]);
        builder.finish(BlockSeq(1), BlockSeq(0), 0);
        builder.clear();
        builder.push(1, 1, &[b"x"]);
        let bytes = builder.finish(BlockSeq(2), BlockSeq(1), 0);
        assert_eq!(bytes.len(), 4096);
        assert!(bytes[BLOCK_HEADER_BYTES + RECORD_HEADER_BYTES + 1..].iter().all(|&b| b == 0));
    }
}

//! What a broker checks before it takes a produced batch.

use std::borrow::Cow;

use super::BatchLimits;
use super::compression::Compression;
use super::error::BatchError;
use super::gap::{self, GapError};
use super::header::{BATCH_HEADER_BYTES, BatchHeader, EntryKind};
use super::record_codec::RecordSpan;

/// Checks everything about one produced batch: sizes, version, reserved bits, the body checksum, and
/// each record. Nothing is allocated per record; a compressed section is decompressed once, within
/// `records_bytes_max`.
///
/// What the broker fills (compacted flag, term, index, base offset, append time, header checksum) is not
/// looked at. Whatever the flag says, a gap is refused, and the header that is given back is not that of
/// a compacted batch: only a broker removes records.
///
/// # Errors
/// What is wrong first. [`BatchError::code`] gives the answer to the producer.
pub fn validate_produced(batch: &[u8], limits: &BatchLimits) -> Result<BatchHeader, BatchError> {
    if batch.len() > limits.batch_bytes_max as usize {
        return Err(BatchError::TooLarge {
            bytes: batch.len() as u64,
            limit: u64::from(limits.batch_bytes_max),
        });
    }
    let mut header = BatchHeader::parse(batch)?;
    super::check_length(&header, batch.len())?;
    if header.kind != EntryKind::Records {
        return Err(BatchError::NotRecords);
    }
    let body = &batch[BATCH_HEADER_BYTES..];
    super::check_body_crc(&header, &batch[..BATCH_HEADER_BYTES], body)?;
    if header.record_count == 0 || header.record_count > limits.record_count_max {
        return Err(BatchError::CountOutOfRange {
            count: header.record_count,
            limit: limits.record_count_max,
        });
    }
    if header.base_sequence.checked_add(u64::from(header.record_count)).is_none() {
        return Err(BatchError::SequenceOverflow {
            base_sequence: header.base_sequence,
            count: header.record_count,
        });
    }
    let section = section(&header, body, limits.records_bytes_max as usize)?;
    walk(&header, &section, limits.headers_per_record_max)?;
    header.compacted = false;
    Ok(header)
}

/// The records section as it is without compression.
pub(super) fn section<'a>(
    header: &BatchHeader,
    body: &'a [u8],
    limit: usize,
) -> Result<Cow<'a, [u8]>, BatchError> {
    match header.compression {
        Compression::None => {
            if body.len() > limit {
                let (bytes, limit) = (body.len() as u64, limit as u64);
                return Err(BatchError::SectionTooLarge { bytes, limit });
            }
            if body.len() != header.records_bytes as usize {
                let (stored, actual) = (header.records_bytes, body.len() as u64);
                return Err(BatchError::SectionBytes { stored, actual });
            }
            Ok(Cow::Borrowed(body))
        }
        compression => compression.decompress(body, header.records_bytes, limit).map(Cow::Owned),
    }
}

/// Parses every record and compares count and largest timestamp with the header.
fn walk(header: &BatchHeader, section: &[u8], headers_max: u32) -> Result<(), BatchError> {
    let (mut at, mut found) = (0, 0);
    let mut max_timestamp_ms = i64::MIN;
    while at < section.len() {
        if found == header.record_count {
            return Err(BatchError::RecordCount { stored: found, actual: found, more: true });
        }
        if gap::begins(section, at) {
            let source = GapError::NotCompacted;
            return Err(BatchError::Gap { position: found, source });
        }
        let span = RecordSpan::parse(section, &mut at, headers_max)
            .map_err(|source| BatchError::Record { position: found, source })?;
        let timestamp_ms = header.base_timestamp_ms.wrapping_add(span.timestamp_delta);
        max_timestamp_ms = max_timestamp_ms.max(timestamp_ms);
        found += 1;
    }
    if found != header.record_count {
        let (stored, actual) = (header.record_count, found);
        return Err(BatchError::RecordCount { stored, actual, more: false });
    }
    if max_timestamp_ms != header.max_timestamp_ms {
        let (stored, actual) = (header.max_timestamp_ms, max_timestamp_ms);
        return Err(BatchError::MaxTimestamp { stored, actual });
    }
    Ok(())
}

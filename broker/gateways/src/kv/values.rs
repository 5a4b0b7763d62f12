//! Values of keys, read from the log.

use std::collections::BTreeMap;

use bytes::Bytes;
use plimsoll_log::LogCursor;
use plimsoll_protocol::batch::{BatchError, RecordBatch};
use plimsoll_protocol::error::{ErrorCode, ErrorResponse};
use plimsoll_protocol::ids::Offset;
use plimsoll_replication::Group;

use crate::native::{Chunk, step};
use crate::queues::{DECOMPRESSED_BYTES_MAX, batches};
use crate::refusals;

/// Bytes that one read asks for: neighbours of what is looked for most often lie in it.
const READ_BYTES: usize = 64 << 10;
/// A value may keep so much more than itself in memory until it is sent.
const KEPT_ALONG_BYTES: usize = 64 << 10;

/// The values of records, by offset, which are in order. One that is missing was compacted away since, as its
/// key has a newer record; or dropped by retention.
///
/// # Errors
/// Where the log cannot be read there.
pub(crate) async fn read_values(
    group: &Group,
    offsets: impl IntoIterator<Item = Offset>,
) -> Result<BTreeMap<Offset, Bytes>, ErrorResponse> {
    let upto = *group.high_watermark().borrow();
    let mut offsets = offsets.into_iter().peekable();
    let mut values = BTreeMap::new();
    let mut cursor: Option<LogCursor> = None;
    while let Some(&wanted) = offsets.peek() {
        let goes_on = cursor.take().filter(|cursor| cursor.next_offset() == wanted);
        let mut at = goes_on.unwrap_or_else(|| group.log().cursor(wanted));
        let chunk = match step(group, &mut at, upto, READ_BYTES).await {
            Ok(Some(chunk)) => chunk,
            Ok(None) => break,
            Err(error) if error.code == ErrorCode::OffsetOutOfRange => {
                offsets.next();
                continue;
            }
            Err(error) => return Err(error),
        };
        let Chunk { payload, next_offset } = chunk;
        for batch in batches(payload) {
            let found = batch.and_then(|batch| take_from(&batch, &mut offsets, &mut values));
            found.map_err(|error| {
                refusals::bug(&format!("a stored batch cannot be read: {error}"))
            })?;
        }
        // Whatever is behind is not there.
        while offsets.next_if(|offset| *offset < next_offset).is_some() {}
        cursor = Some(at);
    }
    Ok(values)
}

fn take_from(
    batch: &RecordBatch,
    offsets: &mut std::iter::Peekable<impl Iterator<Item = Offset>>,
    values: &mut BTreeMap<Offset, Bytes>,
) -> Result<(), BatchError> {
    let end = batch.header.end_offset();
    if offsets.peek().is_none_or(|offset| *offset >= end) {
        return Ok(());
    }
    let mut records = batch.records(DECOMPRESSED_BYTES_MAX)?;
    let section = records.section().clone();
    while let Some(offset) = offsets.next_if(|offset| *offset < end) {
        records.skip_to(offset)?;
        // The next one is behind it where it is gone; it may be wanted itself.
        let mut looking = records.clone();
        if let Some(record) = looking.next_view() {
            let (found, view) = record?;
            if found == offset
                && let Some(value) = view.value
            {
                let is_small = section.len() > value.len() + KEPT_ALONG_BYTES;
                let value = match is_small {
                    true => Bytes::copy_from_slice(value),
                    false => section.slice_ref(value),
                };
                values.insert(offset, value);
            }
        }
    }
    Ok(())
}

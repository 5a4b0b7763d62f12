//! Looking at messages that are not settled, without taking them.

use plimsoll_delivery::command::SubscriptionId;
use plimsoll_protocol::error::ErrorResponse;
use plimsoll_protocol::ids::Offset;
use plimsoll_replication::Group;

use super::handle::Delivered;
use super::records::Records;

/// At most `max` messages from `from` on, of about `bytes_max` bytes, and where to look on.
///
/// # Errors
/// Where the log cannot be read.
pub(crate) async fn peek(
    group: &Group,
    subscription: u32,
    from: Offset,
    max: usize,
    bytes_max: usize,
) -> Result<(Vec<Delivered>, Offset), ErrorResponse> {
    let id = SubscriptionId(subscription);
    let found = group.with_queues(|queues| {
        let state = queues.get(id)?;
        let mut offsets = Vec::new();
        let mut at = state.settled().next_unsettled(from);
        while at < state.end() && offsets.len() < max {
            offsets.push((at, state.mark(at).attempts));
            at = state.settled().next_unsettled(Offset(at.0 + 1));
        }
        Some((offsets, at.min(state.end()), state.end()))
    });
    let (offsets, mut next, end) = found.flatten().unwrap_or((Vec::new(), from, from));
    let mut records = Records::new(false);
    let (mut messages, mut bytes) = (Vec::new(), 0);
    for (offset, attempt) in offsets {
        if bytes >= bytes_max {
            next = offset;
            break;
        }
        if records.find(offset).is_none() {
            records.read(group, offset, end).await?;
        }
        let Some(found) = records.find(offset) else { continue };
        bytes += found.record.len();
        let base_timestamp_ms = found.base_timestamp_ms;
        messages.push(Delivered { offset, attempt, base_timestamp_ms, record: found.record });
    }
    Ok((messages, next))
}

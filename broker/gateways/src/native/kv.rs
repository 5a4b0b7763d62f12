//! Keys and values of compacted topics: reading one, listing them, changing one.

use std::sync::Arc;

use bytes::Bytes;
use plimsoll_protocol::api::{
    KvEntry, KvGetRequest, KvGetResponse, KvMeta, KvPutRequest, KvPutResponse, KvScanRequest,
    KvScanResponse,
};
use plimsoll_protocol::batch::{BatchHeader, BatchLimits, RecordBatch};
use plimsoll_protocol::error::{ErrorCode, ErrorResponse};
use plimsoll_protocol::frame::{Frame, encode_error, encode_response};
use plimsoll_protocol::ids::Offset;
use plimsoll_transport::HeldRoom;

use super::outbox::OutFrame;
use super::produce::{Passed, TakenIn, check, pass, take_in};
use super::read::{access, freshen, max_payload};
use super::session::Session;
use super::stream::{Answer, Stop, Stream, done};
use crate::broker::{Broker, Partition};
use crate::kv::{Condition, Horizon, PageMax, Put, Slot, View, read_values};
use crate::refusals;
use crate::routing::Access;

/// Longest key that can be put, in bytes: requests that name one must fit their frame.
const KEY_BYTES_MAX: usize = 32 << 10;
/// Keys in one answer.
const SCAN_COUNT_MAX: u32 = 10_000;
/// Bytes of keys and values in one answer; one key with its value comes in any case.
const SCAN_BYTES_MAX: usize = 256 << 10;
/// How often a value is looked for that was compacted away between the look-up and the reading.
const ATTEMPTS: usize = 8;

fn meta(slot: &Slot, horizon: Horizon) -> KvMeta {
    let left = |at: i64| u64::try_from(at.saturating_sub(horizon.now_ms)).unwrap_or(0);
    KvMeta {
        revision: slot.offset,
        written_ms: slot.written_ms,
        ttl_left_ms: slot.expires_ms.map(left),
    }
}

fn too_large(key: &[u8], bytes: usize, limit: usize) -> ErrorResponse {
    let key = String::from_utf8_lossy(&key[..key.len().min(128)]);
    ErrorResponse::new(
        ErrorCode::FrameTooLarge,
        format!(
            "the value of key {key:?} has {bytes} bytes, and an answer {limit} at most: raise \
             `frame_bytes_max` of the node, or read its batch with Fetch"
        ),
    )
}

fn changing() -> ErrorResponse {
    let message = "what was asked for changes faster than it is read: try again";
    ErrorResponse::new(ErrorCode::NotReady, message)
}

/// How large a value may be for an answer.
fn answer_max(broker: &Broker) -> usize {
    max_payload(u32::MAX, broker.limits().frame_bytes_max, 0)
}

/// Reads the value of a key.
pub(super) async fn get(
    session: Arc<Session>,
    request: KvGetRequest,
) -> Result<Answer<KvGetRequest>, ErrorResponse> {
    let broker = &session.broker;
    broker.counters().kv_gets.add(1);
    #[cfg(feature = "planted")]
    let request = answered_by_anybody(request);
    let access = access(request.any_replica);
    let (view, partition) = broker.view(&request.topic, request.partition, access).await?;
    freshen(broker, &partition.group, request.isolation, None).await?;
    let gone_or = |error| broker.gone_or(&request.topic, partition.topic_id, error);
    for _ in 0..ATTEMPTS {
        view.catch_up().await.map_err(gone_or)?;
        // Before the look-up, which may see more.
        let upto = view.upto();
        let horizon = view.horizon(broker);
        let slot = view.index().live(&request.key, horizon);
        let Some(slot) = slot else { return done(KvGetResponse { found: None, upto }) };
        let (bytes, limit) = (slot.value_bytes as usize, answer_max(broker));
        if bytes > limit {
            return Err(too_large(&request.key, bytes, limit));
        }
        let mut values = read_values(&partition.group, [slot.offset]).await.map_err(gone_or)?;
        if let Some(value) = values.remove(&slot.offset) {
            let found = Some(meta(&slot, horizon));
            return Ok((KvGetResponse { found, upto }, vec![value]));
        }
    }
    Err(changing())
}

/// With the bug planted: asks nobody, and does not have to lead.
#[cfg(feature = "planted")]
fn answered_by_anybody(request: KvGetRequest) -> KvGetRequest {
    match plimsoll_log::planted::is_planted(plimsoll_log::planted::Bug::StaleGet) {
        true => KvGetRequest {
            isolation: plimsoll_protocol::api::Isolation::Committed,
            any_replica: true,
            ..request
        },
        false => request,
    }
}

/// Lists keys, a page.
pub(super) async fn scan(
    session: Arc<Session>,
    request: KvScanRequest,
) -> Result<Answer<KvScanRequest>, ErrorResponse> {
    let broker = &session.broker;
    broker.counters().kv_scans.add(1);
    let access = access(request.any_replica);
    let (view, partition) = broker.view(&request.topic, request.partition, access).await?;
    freshen(broker, &partition.group, request.isolation, None).await?;
    for _ in 0..ATTEMPTS {
        let page = page(broker, &view, &partition, &request).await;
        let page =
            page.map_err(|error| broker.gone_or(&request.topic, partition.topic_id, error))?;
        if let Some(page) = page {
            return done(page);
        }
    }
    Err(changing())
}

/// A page; nothing where some of its values were compacted away before they were read.
async fn page(
    broker: &Broker,
    view: &View,
    partition: &Partition,
    request: &KvScanRequest,
) -> Result<Option<KvScanResponse>, ErrorResponse> {
    view.catch_up().await?;
    let upto = view.upto();
    let horizon = view.horizon(broker);
    let count = match request.count_max {
        0 => SCAN_COUNT_MAX,
        count => count.min(SCAN_COUNT_MAX),
    };
    let with_values = !request.keys_only;
    let max = PageMax { count: count as usize, bytes: SCAN_BYTES_MAX, with_values };
    let found = view.index().page(&request.prefix, request.after.as_deref(), horizon, max);
    let mut values = std::collections::BTreeMap::new();
    if with_values {
        if let Some((key, slot)) = found.keys.first() {
            let (bytes, limit) = (slot.value_bytes as usize, answer_max(broker) - key.len());
            if bytes > limit {
                return Err(too_large(key, bytes, limit));
            }
        }
        let mut offsets: Vec<Offset> = found.keys.iter().map(|(_, slot)| slot.offset).collect();
        offsets.sort_unstable();
        values = read_values(&partition.group, offsets).await?;
    }
    let mut entries = Vec::with_capacity(found.keys.len());
    for (key, slot) in found.keys {
        let value = match values.remove(&slot.offset) {
            Some(value) => value,
            None if with_values => return Ok(None),
            None => Bytes::new(),
        };
        entries.push(KvEntry { key, value, meta: meta(&slot, horizon) });
    }
    Ok(Some(KvScanResponse { entries, has_more: found.has_more, upto }))
}

/// Takes a change of a key in; the answer follows by the outbox. Changes of one stream run beside each other.
pub(super) async fn put(
    stream: &mut Stream,
    frame: Frame,
    received_in: Option<HeldRoom>,
) -> Result<(), Stop> {
    let Some(TakenIn { header, request, payload, room }) =
        take_in::<KvPutRequest>(stream, frame, received_in).await?
    else {
        return Ok(());
    };
    let permit = stream.permit().await;
    let (session, outbox) = (Arc::clone(&stream.session), stream.outbox.clone());
    stream.spawn(async move {
        let counters = session.broker.counters();
        let head = match change(&session, &request, payload).await {
            Ok(response) => {
                counters.kv_puts.add(1);
                encode_response::<KvPutRequest>(header.correlation, &response, 0)
            }
            Err(error) => {
                counters.kv_conflicts.add(u64::from(error.code == ErrorCode::RevisionConflict));
                counters.requests_refused.add(1);
                encode_error(&header, &error)
            }
        };
        let permits = Some(room.keep_connection());
        // A peer that is gone needs no answer.
        let _ = outbox
            .send(OutFrame { head: head.freeze(), payload: Vec::new(), permit: permits })
            .await;
        drop(permit);
    });
    Ok(())
}

async fn change(
    session: &Session,
    request: &KvPutRequest,
    batch: Bytes,
) -> Result<KvPutResponse, ErrorResponse> {
    let broker = &session.broker;
    broker.check_space()?;
    let (topic, index) = (&request.topic, request.partition);
    let (view, partition) = broker.view(topic, index, Access::Leader).await?;
    let checked = check(session, &batch, &partition.batch_limits, true).await;
    let header = checked.map_err(|unfit| unfit.refusal(topic, index))?;
    let key = only_key(&header, &batch)?;
    let gone_or = |error| broker.gone_or(topic, partition.topic_id, error);
    let turn = view.turn(key).await.map_err(gone_or)?;
    let pass = match pass(broker, topic, &partition, &header, request.fence.as_ref()).await? {
        Passed::Known(outcome) => {
            let refused = |error| broker.located(refusals::produce(&error, topic, index));
            let produced = outcome.await.map_err(refused)?;
            let (revision, before) = (produced.base_offset, None);
            return Ok(KvPutResponse { revision, before, duplicate: true });
        }
        Passed::Write(pass) => pass,
    };
    let condition = Condition::Asked(request.condition.clone());
    let put = Put { batch, header, condition, pass };
    let changed = view.put(broker, turn, put).await.map_err(gone_or)?;
    Ok(KvPutResponse {
        revision: changed.produced.base_offset,
        before: changed.before,
        duplicate: changed.produced.duplicate,
    })
}

/// The key of a checked batch that must have one record.
fn only_key(header: &BatchHeader, batch: &Bytes) -> Result<Bytes, ErrorResponse> {
    if header.record_count != 1 {
        return Err(ErrorResponse::new(
            ErrorCode::InvalidArgument,
            format!(
                "a batch of {} records, and KvPut changes one key: send one record at a time",
                header.record_count
            ),
        ));
    }
    let unreadable = |_| refusals::bug("a batch that was checked cannot be read");
    let (batch, _) = RecordBatch::parse(batch.clone()).map_err(unreadable)?;
    let decompressed_max = BatchLimits::default().records_bytes_max.max(header.records_bytes);
    let mut records = batch.records(decompressed_max as usize).map_err(unreadable)?;
    let (_, record) = records.next_view().expect("it has one record").map_err(unreadable)?;
    let key = record.key.expect("checked with the batch");
    if key.len() > KEY_BYTES_MAX {
        return Err(ErrorResponse::new(
            ErrorCode::InvalidArgument,
            format!("a key of {} bytes, {KEY_BYTES_MAX} are allowed", key.len()),
        ));
    }
    Ok(Bytes::copy_from_slice(key))
}

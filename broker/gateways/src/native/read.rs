//! Reading the log: positions, one-time fetches, and the step that subscriptions repeat.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use plimsoll_log::{LogCursor, ReadError, ReadStep};
use plimsoll_protocol::api::{
    FetchRequest, FetchResponse, Isolation, ListOffsetsRequest, ListOffsetsResponse, StartPosition,
};
use plimsoll_protocol::error::{ErrorCode, ErrorResponse};
use plimsoll_protocol::ids::Offset;
use plimsoll_replication::Group;
use tokio::time::{Instant, timeout_at};

use super::session::Session;
use super::stream::{Answer, done};
use crate::broker::Broker;
use crate::refusals;
use crate::routing::Access;

/// Positions in one request.
const POSITIONS_MAX: usize = 1024;

/// Batches that follow each other in the log.
pub(crate) struct Chunk {
    pub(crate) payload: Vec<Bytes>,
    pub(crate) next_offset: Offset,
}

impl Chunk {
    pub(super) fn bytes(&self) -> usize {
        self.payload.iter().map(Bytes::len).sum()
    }
}

/// Reads on from a cursor, up to the high watermark; `None` at its end. Cold ranges are brought in by
/// a blocking thread.
///
/// # Errors
/// Where the log cannot be read there.
pub(crate) async fn step(
    group: &Group,
    cursor: &mut LogCursor,
    upto: Offset,
    max_bytes: usize,
) -> Result<Option<Chunk>, ErrorResponse> {
    loop {
        match group
            .log()
            .read(cursor, upto, max_bytes)
            .map_err(|error| unreadable(group, &error))?
        {
            ReadStep::Batches { chunks, next_offset } => {
                return Ok(Some(Chunk { payload: chunks, next_offset }));
            }
            ReadStep::CaughtUp => return Ok(None),
            ReadStep::Cold(range) => blocking(group, move || range.load()).await?,
        }
    }
}

/// Reads what may have to come from the disk, on a thread that may wait for it. A panic there is one
/// here.
async fn blocking<T: Send + 'static>(
    group: &Group,
    work: impl FnOnce() -> Result<T, ReadError> + Send + 'static,
) -> Result<T, ErrorResponse> {
    group.blocking().run(work).await.map_err(|error| unreadable(group, &error))
}

/// Why nothing is read here: that this replica is damaged is final only where it is the only one.
fn unreadable(group: &Group, error: &ReadError) -> ErrorResponse {
    let is_of_replica = match error {
        ReadError::Damaged(_)
        | ReadError::Quarantined(_)
        | ReadError::State { .. }
        | ReadError::Medium { .. } => true,
        ReadError::BeforeStart { .. } | ReadError::Purged { .. } | ReadError::PastEnd { .. } => {
            false
        }
    };
    if is_of_replica && group.has_other_replicas() {
        return refusals::unusable_here(error);
    }
    refusals::read(error)
}

/// The high watermark and the log start as they are now.
pub(super) fn ends(group: &Group) -> (Offset, Offset) {
    let high_watermark = *group.high_watermark().borrow();
    (high_watermark, group.log().bounds().log_start_offset.min(high_watermark))
}

/// Waits until what this replica has is as fresh as the reader asks for.
///
/// # Errors
/// Where it is not, and will not be in time.
pub(super) async fn freshen(
    broker: &Broker,
    group: &Arc<Group>,
    isolation: Isolation,
    max_staleness_ms: Option<u32>,
) -> Result<(), ErrorResponse> {
    let fresh = match (isolation, max_staleness_ms) {
        (Isolation::Linearizable, _) => group.linearizable().await,
        (Isolation::Committed, Some(ms)) => {
            group.fresh_within(Duration::from_millis(u64::from(ms))).await
        }
        (Isolation::Committed, None) => return Ok(()),
    };
    fresh.map(drop).map_err(|error| broker.located(refusals::fresh(&error)))
}

/// The offset that a position means now.
///
/// # Errors
/// Where an offset lies outside of what can be read; the log start is told with it.
pub(super) async fn resolve(
    group: &Group,
    position: StartPosition,
) -> Result<Offset, ErrorResponse> {
    let (high_watermark, log_start) = ends(group);
    match position {
        StartPosition::Earliest => Ok(log_start),
        StartPosition::Latest => Ok(high_watermark),
        StartPosition::Offset(offset) if offset < log_start => {
            Err(refusals::below_log_start(offset, log_start))
        }
        StartPosition::Offset(offset) if offset > high_watermark => Err(ErrorResponse::new(
            ErrorCode::OffsetOutOfRange,
            format!(
                "offset {offset} is above the high watermark {high_watermark}: nothing was stored \
                 there yet; read from latest, or from an offset up to {high_watermark}"
            ),
        )
        .with_offset(high_watermark.0)),
        StartPosition::Offset(offset) => Ok(offset),
        StartPosition::Time(ms) => {
            let log = Arc::clone(group.log());
            let offset = blocking(group, move || log.offset_for_time(ms)).await?;
            Ok(offset.map_or(high_watermark, |offset| offset.clamp(log_start, high_watermark)))
        }
    }
}

/// Answers with batches from an offset on, waiting for the first as long as was asked.
pub(super) async fn fetch(
    session: Arc<Session>,
    request: FetchRequest,
) -> Result<Answer<FetchRequest>, ErrorResponse> {
    fetch_here(&session.broker, &request).await
}

/// The same for whoever asks this node.
///
/// # Errors
/// Where this node does not answer for the partition, or it cannot be read there.
pub(crate) async fn fetch_here(
    broker: &Broker,
    request: &FetchRequest,
) -> Result<Answer<FetchRequest>, ErrorResponse> {
    let limits = broker.limits();
    let wait = Duration::from_millis(u64::from(request.max_wait_ms)).min(limits.fetch_wait_max);
    let deadline = Instant::now() + wait;
    // Before the look-up: a topic that is deleted right after it must be news.
    let mut catalog = broker.catalog_changes();
    let access = access(request.any_replica);
    let partition = broker.partition(&request.topic, request.partition, access).await?;
    freshen(broker, &partition.group, request.isolation, request.max_staleness_ms).await?;
    let mut stopping = broker.stopping();
    let mut watermark = partition.group.high_watermark();
    let gone_or = |error| broker.gone_or(&request.topic, partition.topic_id, error);
    resolve(&partition.group, StartPosition::Offset(request.from)).await.map_err(gone_or)?;
    let mut cursor = partition.group.log().cursor(request.from);
    let max_bytes = max_payload(request.max_bytes, limits.frame_bytes_max, limits.delivery_bytes);
    loop {
        let upto = *watermark.borrow_and_update();
        if let Some(chunk) =
            step(&partition.group, &mut cursor, upto, max_bytes).await.map_err(gone_or)?
        {
            let (high_watermark, log_start_offset) = ends(&partition.group);
            let next_offset = chunk.next_offset;
            let response = FetchResponse { high_watermark, log_start_offset, next_offset };
            return Ok((response, chunk.payload));
        }
        let waited = timeout_at(deadline, async {
            tokio::select! {
                biased;
                changed = watermark.changed() => Ok(changed.is_ok()),
                deleted = broker.deleted(&mut catalog, &request.topic, partition.topic_id) => {
                    Err(deleted)
                }
                () = stopping.wait() => Ok(false),
            }
        });
        if !waited.await.unwrap_or(Ok(false))? {
            let (high_watermark, log_start_offset) = ends(&partition.group);
            let next_offset = request.from;
            return done(FetchResponse { high_watermark, log_start_offset, next_offset });
        }
    }
}

/// Who may answer a read.
pub(super) fn access(any_replica: bool) -> Access {
    if any_replica { Access::Replica } else { Access::Leader }
}

/// How many payload bytes a frame may have: what was asked for, bounded by the frame; 0 asks for the
/// node's usual size.
pub(super) fn max_payload(asked: u32, frame_bytes_max: u32, usual: u32) -> usize {
    let room_for_head = 4096;
    let asked = if asked == 0 { usual } else { asked };
    asked.min(frame_bytes_max - room_for_head) as usize
}

/// Finds the offsets of positions.
pub(super) async fn list_offsets(
    session: Arc<Session>,
    request: ListOffsetsRequest,
) -> Result<Answer<ListOffsetsRequest>, ErrorResponse> {
    offsets_here(&session.broker, &request).await
}

/// The same for whoever asks this node.
///
/// # Errors
/// Where this node does not lead the partition, or a position is none.
pub(crate) async fn offsets_here(
    broker: &Broker,
    request: &ListOffsetsRequest,
) -> Result<Answer<ListOffsetsRequest>, ErrorResponse> {
    if request.positions.len() > POSITIONS_MAX {
        return Err(ErrorResponse::new(
            ErrorCode::InvalidArgument,
            format!("{} positions, {POSITIONS_MAX} are allowed", request.positions.len()),
        ));
    }
    let partition = broker.partition(&request.topic, request.partition, Access::Leader).await?;
    let mut offsets = Vec::with_capacity(request.positions.len());
    for position in request.positions.iter().copied() {
        let offset = resolve(&partition.group, position).await;
        offsets.push(
            offset.map_err(|error| broker.gone_or(&request.topic, partition.topic_id, error))?,
        );
    }
    done(ListOffsetsResponse { offsets })
}

//! The receiver of a log.

use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use plimsoll_log::{
    Compacted, GroupLog, GroupOptions, Import, ImportError, LogManifest, SegmentManifest, Store,
};
use plimsoll_protocol::frame::{Frame, FrameFlags};
use plimsoll_protocol::ids::{GroupId, LogId, NodeId, Offset};
use plimsoll_protocol::peer::{
    PeerApi, PeerFailure, PeerFailureCode, SeedBegin, SeedEnd, SeedHeld, SeedInstalled, SeedPiece,
    SeedTaken,
};
use plimsoll_protocol::wire::Decode;
use plimsoll_transport::{FrameReceiver, FrameSender, SendError};
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::{SeedError, Stream};
use crate::fold::Fold;
use crate::host::Host;
use crate::incoming::failure;

/// How long what a transfer left is kept for another attempt.
const KEPT_FOR: Duration = Duration::from_secs(60);
/// How long the local catalog may be behind the sender's.
const CATALOG_WAIT: Duration = Duration::from_secs(1);
const CATALOG_LOOK: Duration = Duration::from_millis(20);

/// A log on its way in; none where this node has it.
struct Incoming {
    group: GroupId,
    options: GroupOptions,
    last: LogId,
    import: Option<Import>,
    /// How often the log here was taken away when this began.
    branch: u64,
}

/// Takes a log from another node, until it is in place or something fails.
pub(crate) async fn receive(
    host: Weak<Host>,
    from: NodeId,
    sender: FrameSender,
    receiver: FrameReceiver,
) {
    let mut stream = Stream { sender, receiver };
    let mut group = None;
    let outcome = take(&host, &mut stream, &mut group).await;
    if outcome.is_ok()
        && let (Some(group), Some(host)) = (group, host.upgrade())
    {
        host.arriving.end(group);
    }
    if let Err(error) = outcome {
        tracing::warn!(node = %from, group = ?group, %error, "a transfer of segments ended early");
        if let Some(group) = group {
            if let Some(host) = host.upgrade() {
                host.arriving.end(group);
            }
            sleep(KEPT_FOR).await;
            let Some(host) = host.upgrade() else { return };
            let store = host.store().clone();
            host.blocking().run(move || store.forget_import(group)).await;
        }
    }
}

async fn take(
    host: &Weak<Host>,
    stream: &mut Stream,
    group: &mut Option<GroupId>,
) -> Result<(), SeedError> {
    let first = stream.recv().await?.ok_or(SeedError::Ended)?;
    let begun = async {
        let begin: SeedBegin = body(&first, PeerApi::SeedBegin)?;
        begin_import(&up(host)?, begin).await
    };
    let mut incoming = match begun.await {
        Ok((incoming, held)) => {
            *group = Some(incoming.group);
            up(host)?.arriving.add(incoming.group, held.iter().sum());
            answer(stream, PeerApi::SeedBegin, &SeedHeld { bytes: held }).await?;
            incoming
        }
        Err(failure) => return refuse(stream, PeerApi::SeedBegin, failure).await,
    };
    loop {
        let frame = stream.recv().await?.ok_or(SeedError::Ended)?;
        if frame.header.api == PeerApi::SeedEnd.number() {
            return match finish(&up(host)?, incoming, &frame).await {
                Ok(last) => {
                    answer(stream, PeerApi::SeedEnd, &SeedInstalled { last }).await?;
                    // The answer must be out before the stream goes.
                    let _ = stream.sender.finish().await;
                    Ok(())
                }
                Err(failure) => refuse(stream, PeerApi::SeedEnd, failure).await,
            };
        }
        let bytes = u32::try_from(frame.payload.len()).map_err(|_| SeedError::Misfit)?;
        let host = up(host)?;
        match write(&host, incoming, frame).await {
            Ok(written) => {
                host.arriving.add(written.group, bytes.into());
                incoming = written;
            }
            Err(failure) => return refuse(stream, PeerApi::SeedPiece, failure).await,
        }
        answer(stream, PeerApi::SeedPiece, &SeedTaken { bytes }).await?;
    }
}

fn up(host: &Weak<Host>) -> Result<Arc<Host>, PeerFailure> {
    let going = || PeerFailure::new(PeerFailureCode::Stopping, "the node is going down");
    host.upgrade().ok_or_else(going)
}

async fn answer(
    stream: &mut Stream,
    api: PeerApi,
    body: &(impl plimsoll_protocol::wire::Encode + Sync),
) -> Result<(), SendError> {
    stream.send(api, FrameFlags::RESPONSE, body, Bytes::new()).await
}

async fn refuse(stream: &mut Stream, api: PeerApi, failure: PeerFailure) -> Result<(), SeedError> {
    stream.send(api, FrameFlags::ERROR, &failure, Bytes::new()).await?;
    let _ = stream.sender.finish().await;
    Err(failure.into())
}

fn body<T: Decode>(frame: &Frame, api: PeerApi) -> Result<T, PeerFailure> {
    let malformed = |message: String| PeerFailure::new(PeerFailureCode::Malformed, message);
    if frame.header.api != api.number() || !frame.header.flags.is_request() {
        return Err(malformed(format!("a frame of kind {} came for {api}", frame.header.api)));
    }
    frame.decode_body().map_err(|error| malformed(error.to_string()))
}

async fn begin_import(
    host: &Arc<Host>,
    begin: SeedBegin,
) -> Result<(Incoming, Vec<u64>), PeerFailure> {
    let group = begin.group;
    let options = options(host, group).await?;
    let manifest = manifest(begin);
    let store = host.store().clone();
    let begun = host.blocking().run(move || begin_in(&store, group, options, manifest)).await;
    begun.map_err(|error| import_failure(&error))
}

/// What the group's log is made with; it must lie here, by the catalog or already.
async fn options(host: &Host, group: GroupId) -> Result<GroupOptions, PeerFailure> {
    let deadline = tokio::time::Instant::now() + CATALOG_WAIT;
    loop {
        let log = host.store().group(group).filter(|log| log.bounds().last.is_some());
        if let Some(log) = log {
            return Ok(log.options());
        }
        let placed = host.around().neighbours.placed(group);
        if let Some(placed) = placed.filter(|placed| placed.wanted.contains(&host.node())) {
            return Ok(placed.options);
        }
        if tokio::time::Instant::now() >= deadline {
            let message = format!("group {group} has no place on this node by its catalog");
            return Err(PeerFailure::new(PeerFailureCode::CatalogBehind, message));
        }
        sleep(CATALOG_LOOK).await;
    }
}

fn begin_in(
    store: &Arc<Store>,
    group: GroupId,
    options: GroupOptions,
    manifest: LogManifest,
) -> Result<(Incoming, Vec<u64>), ImportError> {
    let last = manifest.last;
    let branch = store.group(group).map_or(0, |log| log.branch());
    if store.group(group).is_some_and(|log| holds(&log, last)) {
        let held = manifest.segments.iter().map(|segment| segment.bytes).collect();
        return Ok((Incoming { group, options, last, import: None, branch }, held));
    }
    let import = store.import(group, options, manifest)?;
    let held = import.has();
    Ok((Incoming { group, options, last, import: Some(import), branch }, held))
}

/// Whether the log has this entry, or had it and went on: then all before it is the same, too. May
/// block.
fn holds(log: &GroupLog, entry: LogId) -> bool {
    let bounds = log.bounds();
    bounds.purged.is_some_and(|purged| purged.index >= entry.index)
        || log.term_at(entry.index) == Some(entry.term)
}

async fn write(host: &Host, mut incoming: Incoming, frame: Frame) -> Result<Incoming, PeerFailure> {
    let piece: SeedPiece = body(&frame, PeerApi::SeedPiece)?;
    if crc32fast::hash(&frame.payload) != piece.crc {
        let message = format!("a piece of segment {} arrived damaged", piece.segment);
        return Err(PeerFailure::new(PeerFailureCode::Malformed, message));
    }
    host.blocking()
        .run(move || {
            match &mut incoming.import {
                Some(import) => import
                    .write(piece.segment as usize, piece.at, &frame.payload)
                    .map_err(|error| import_failure(&error))?,
                None => {
                    let message = "a piece came of a log that is here";
                    return Err(PeerFailure::new(PeerFailureCode::Malformed, message));
                }
            }
            Ok(incoming)
        })
        .await
}

/// Ends the group's instance, and puts the log in the place of the one that is there.
async fn finish(host: &Arc<Host>, incoming: Incoming, frame: &Frame) -> Result<LogId, PeerFailure> {
    let end: SeedEnd = body(frame, PeerApi::SeedEnd)?;
    let malformed = |message: String| PeerFailure::new(PeerFailureCode::Malformed, message);
    let Incoming { group: id, options, last, import, branch } = incoming;
    if crc32fast::hash(&frame.payload) != end.crc {
        return Err(malformed("the state arrived damaged".to_owned()));
    }
    // A copy: a slice would keep the whole frame in memory.
    let state = Bytes::copy_from_slice(&frame.payload);
    let group = host.open_for_seed(id, options).map_err(|error| failure(&error))?;
    let fold = Fold::decode(group.kind(), &state).map_err(|error| malformed(error.to_string()))?;
    if fold.progress().applied != Some(end.applied) {
        return Err(malformed("the state is not of the entry that it names".to_owned()));
    }
    let Some(import) = import else { return Ok(last) };
    let guard = group.lock().await;
    // A drop needs the same lock. What this node answered for since, perhaps beyond `last`, is gone then; a log
    // that is put here would hide that.
    if group.log().branch() != branch {
        let message = "the log here was taken away meanwhile: begin anew";
        return Err(PeerFailure::new(PeerFailureCode::Refused, message));
    }
    let guard = group.end_locked(guard).await.map_err(|error| failure(&error))?;
    let (sender, receiver) = oneshot::channel();
    let log = group.log().clone();
    let applied = end.applied;
    let finish = move || {
        if holds(&log, last) {
            // It came by itself meanwhile, and more may have come that this node has answered for.
            return Ok(false);
        }
        let done = Box::new(move |outcome| {
            // Nobody waits for it where the node is going down.
            let _ = sender.send(outcome);
        });
        import.finish(applied, state, done).map(|_| true)
    };
    let installed = host.blocking().run(finish).await.map_err(|error| import_failure(&error))?;
    if installed {
        let stopped = || PeerFailure::new(PeerFailureCode::StorageFailed, "the store stopped");
        receiver.await.map_err(|_| stopped())?.map_err(|_| stopped())?;
        host.forget_safety(id);
        group.set_dropped(false);
        host.around().neighbours.set_unfit(id, false);
        tracing::info!(group = %id, %last, "a log was taken from another node");
    }
    drop(guard);
    Ok(last)
}

fn manifest(begin: SeedBegin) -> LogManifest {
    let segments = begin.segments.into_iter().map(|segment| SegmentManifest {
        base_index: segment.base_index,
        base_offset: segment.base_offset,
        previous: segment.previous,
        last: segment.last,
        end_offset: segment.end_offset,
        salt: segment.salt,
        bytes: segment.bytes,
        compacted: compacted(segment.clean_to, segment.horizon_ms),
    });
    LogManifest {
        segments: segments.collect(),
        start_offset: begin.start_offset,
        last: begin.last,
        end_offset: begin.end_offset,
    }
}

/// A compacted segment covers offsets, so none is clean up to offset 0.
fn compacted(clean_to: Offset, horizon_ms: i64) -> Option<Compacted> {
    let horizon_ms = (horizon_ms != 0).then_some(horizon_ms);
    // When it was written is the sender's business.
    (clean_to > Offset(0)).then_some(Compacted { at_ms: 0, horizon_ms, clean_to })
}

fn import_failure(error: &ImportError) -> PeerFailure {
    let code = match error {
        ImportError::Manifest(_)
        | ImportError::Piece { .. }
        | ImportError::Damaged { .. }
        | ImportError::Incomplete { .. }
        | ImportError::State { .. } => PeerFailureCode::Malformed,
        ImportError::Busy(_) => PeerFailureCode::Busy,
        ImportError::Full { .. } => PeerFailureCode::Refused,
        ImportError::Ended | ImportError::Store(_) => PeerFailureCode::NotHere,
        ImportError::Medium { .. } => PeerFailureCode::StorageFailed,
    };
    PeerFailure::new(code, error.to_string())
}

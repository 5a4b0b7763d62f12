//! The sender of a log.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use plimsoll_log::{ExportError, GroupLog, LogExport};
use plimsoll_protocol::frame::FrameFlags;
use plimsoll_protocol::ids::{LogId, NodeId, Offset};
use plimsoll_protocol::peer::{
    PeerApi, PeerFailureCode, SeedBegin, SeedEnd, SeedHeld, SeedInstalled, SeedPiece, SeedSegment,
    SeedTaken,
};
use tokio::time::{Instant, sleep};

use super::{PIECE_BYTES, SeedError, Stream, WINDOW};
use crate::host::Surroundings;

/// How long an entry that was applied may take into its segment.
const WRITTEN_WITHIN: Duration = Duration::from_secs(5);
const WRITTEN_LOOK: Duration = Duration::from_millis(5);

/// What is sent: a log up to an entry, and the fold of it.
pub(crate) struct Seed<'a> {
    pub(crate) around: &'a Surroundings,
    pub(crate) log: &'a Arc<GroupLog>,
    pub(crate) to: NodeId,
    /// The last entry that is folded into the state, and the last one that is sent.
    pub(crate) applied: LogId,
    pub(crate) state: Bytes,
}

impl Seed<'_> {
    /// Sends the log; it is in place and durable at the receiver when this returns.
    ///
    /// # Errors
    /// [`SeedError`] by cause. What the receiver got it keeps for a while, for another attempt.
    pub(crate) async fn send(self) -> Result<(), SeedError> {
        let export = Arc::new(self.export().await?);
        let sent = self.send_export(&export).await;
        if let Err(SeedError::Refused(failure)) = &sent
            && failure.code == PeerFailureCode::Malformed
        {
            // What arrived damaged may have been sent damaged; that quarantines the group here.
            self.verify(export).await?;
        }
        sent
    }

    async fn export(&self) -> Result<LogExport, SeedError> {
        let deadline = Instant::now() + WRITTEN_WITHIN;
        loop {
            let (log, upto) = (self.log.clone(), self.applied);
            match self.around.config.blocking.run(move || log.export(upto)).await {
                Err(ExportError::TooEarly { .. }) if Instant::now() < deadline => {
                    sleep(WRITTEN_LOOK).await;
                }
                outcome => return Ok(outcome?),
            }
        }
    }

    async fn verify(&self, export: Arc<LogExport>) -> Result<(), SeedError> {
        let verify = move || {
            let segments = export.manifest().segments.len();
            (0..segments).try_for_each(|segment| export.verify(segment))
        };
        Ok(self.around.config.blocking.run(verify).await?)
    }

    async fn send_export(&self, export: &Arc<LogExport>) -> Result<(), SeedError> {
        let peers = self.around.neighbours.peers().ok_or(SeedError::Ended)?;
        let (sender, receiver) = peers.open_seed(self.to).await?;
        let mut stream = Stream { sender, receiver };
        let begin = self.begin(export);
        stream.send(PeerApi::SeedBegin, FrameFlags::REQUEST, &begin, Bytes::new()).await?;
        let held: SeedHeld = stream.answer(PeerApi::SeedBegin).await?;
        if held.bytes.len() != begin.segments.len() {
            return Err(SeedError::Misfit);
        }
        let mut unanswered: VecDeque<usize> = VecDeque::new();
        for (segment, mut at) in held.bytes.into_iter().enumerate() {
            loop {
                let piece = self.read(export, segment, at).await?;
                if piece.is_empty() {
                    break;
                }
                if unanswered.len() >= WINDOW {
                    settle(&mut stream, &mut unanswered).await?;
                }
                self.around.pacer.take(piece.len()).await;
                let number = u32::try_from(segment).map_err(|_| SeedError::Misfit)?;
                let head = SeedPiece { segment: number, at, crc: crc32fast::hash(&piece) };
                at += piece.len() as u64;
                unanswered.push_back(piece.len());
                stream.send(PeerApi::SeedPiece, FrameFlags::REQUEST, &head, piece).await?;
            }
        }
        while !unanswered.is_empty() {
            settle(&mut stream, &mut unanswered).await?;
        }
        let end = SeedEnd { applied: self.applied, crc: crc32fast::hash(&self.state) };
        stream.send(PeerApi::SeedEnd, FrameFlags::REQUEST, &end, self.state.clone()).await?;
        let installed: SeedInstalled = stream.answer(PeerApi::SeedEnd).await?;
        if installed.last != self.applied {
            return Err(SeedError::Misfit);
        }
        // What follows on this stream is nothing.
        let _ = stream.sender.finish().await;
        Ok(())
    }

    async fn read(
        &self,
        export: &Arc<LogExport>,
        segment: usize,
        at: u64,
    ) -> Result<Bytes, SeedError> {
        let export = export.clone();
        let read = move || export.read(segment, at, PIECE_BYTES);
        Ok(self.around.config.blocking.run(read).await?)
    }

    fn begin(&self, export: &LogExport) -> SeedBegin {
        let manifest = export.manifest();
        let segments = manifest.segments.iter().map(|segment| SeedSegment {
            base_index: segment.base_index,
            base_offset: segment.base_offset,
            previous: segment.previous,
            last: segment.last,
            end_offset: segment.end_offset,
            salt: segment.salt,
            bytes: segment.bytes,
            clean_to: segment.compacted.map_or(Offset(0), |compacted| compacted.clean_to),
            horizon_ms: segment.compacted.and_then(|c| c.horizon_ms).unwrap_or(0),
        });
        SeedBegin {
            group: self.log.id(),
            epoch: self.around.neighbours.epoch(),
            start_offset: manifest.start_offset,
            end_offset: manifest.end_offset,
            last: manifest.last,
            segments: segments.collect(),
        }
    }
}

/// Takes in the answer to the oldest piece.
async fn settle(stream: &mut Stream, unanswered: &mut VecDeque<usize>) -> Result<(), SeedError> {
    let taken: SeedTaken = stream.answer(PeerApi::SeedPiece).await?;
    match unanswered.pop_front() {
        Some(bytes) if bytes == taken.bytes as usize => Ok(()),
        _ => Err(SeedError::Misfit),
    }
}

//! Logs that go from one node to another as segment files: to a node that becomes a member, before it is
//! one, and to a voter that fell behind what was purged.
//!
//! ```text
//!  sender                                      receiver
//!  SeedBegin  what will be sent          ──►   space reserved for all of it
//!                                        ◄──   SeedHeld  what it has from an attempt before
//!  SeedPiece  1 MiB and its checksum     ──►   written; each full segment is checked and synced
//!                                        ◄──   SeedTaken
//!  SeedEnd    the fold                   ──►   instance ended, log and state put in place
//!                                        ◄──   SeedInstalled
//! ```
//! What is sent was applied by the sender, so it is a prefix of whatever will ever be committed, and
//! the receiver's vote stays: nothing depends on who leads. A receiver that has the last entry keeps
//! its log, which may hold more that it answered for.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use plimsoll_log::{ExportError, ReadError};
use plimsoll_peers::PeerError;
use plimsoll_protocol::frame::{Frame, FrameFlags, encode_frame};
use plimsoll_protocol::ids::{CorrelationId, GroupId};
use plimsoll_protocol::peer::{PeerApi, PeerFailure};
use plimsoll_protocol::wire::{Decode, DecodeError, Encode};
use plimsoll_transport::{FrameReceiver, FrameSender, RecvError, SendError};
use thiserror::Error;
use tokio::time::{Instant, sleep_until};

pub(crate) mod receive;
pub(crate) mod send;

/// Bytes of a piece.
const PIECE_BYTES: usize = 1 << 20;
/// Pieces that are sent ahead of their answers.
const WINDOW: usize = 8;
/// How long the other side may take for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a log did not get to another node.
#[derive(Debug, Error)]
pub(crate) enum SeedError {
    #[error(transparent)]
    Export(#[from] ExportError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Peer(#[from] PeerError),
    #[error(transparent)]
    Sent(#[from] SendError),
    #[error(transparent)]
    Received(#[from] RecvError),
    #[error("the receiver refused it: {0}")]
    Refused(#[from] PeerFailure),
    #[error("the receiver's answer cannot be read: {0}")]
    Malformed(#[from] DecodeError),
    #[error("the transfer ended before its end")]
    Ended,
    #[error("the receiver did not answer in time")]
    Silent,
    #[error("the receiver's answers do not fit what was sent")]
    Misfit,
}

/// Bounds how fast this node sends segments, all transfers together.
#[derive(Debug)]
pub(crate) struct Pacer {
    bytes_per_second: u64,
    /// When what was taken so far will have been sent.
    paid_until: Mutex<Option<Instant>>,
}

impl Pacer {
    pub(crate) fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), paid_until: Mutex::new(None) }
    }

    /// Waits until so many bytes may go.
    pub(crate) async fn take(&self, bytes: usize) {
        let begin = {
            let mut paid_until = self.paid_until.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let begin = paid_until.map_or(now, |until| until.max(now));
            let nanos =
                u128::from(bytes as u64) * 1_000_000_000 / u128::from(self.bytes_per_second);
            let nanos = u64::try_from(nanos).unwrap_or(u64::MAX);
            *paid_until = Some(begin + Duration::from_nanos(nanos));
            begin
        };
        sleep_until(begin).await;
    }
}

/// How much of each log has come that is on its way to this node.
#[derive(Debug, Default)]
pub(crate) struct Arriving(Mutex<BTreeMap<GroupId, u64>>);

impl Arriving {
    fn all(&self) -> MutexGuard<'_, BTreeMap<GroupId, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bytes that have come of a log that is on its way.
    pub(crate) fn bytes(&self, group: GroupId) -> Option<u64> {
        self.all().get(&group).copied()
    }

    fn add(&self, group: GroupId, bytes: u64) {
        *self.all().entry(group).or_default() += bytes;
    }

    fn end(&self, group: GroupId) {
        self.all().remove(&group);
    }
}

/// Both halves of the stream of a transfer.
struct Stream {
    sender: FrameSender,
    receiver: FrameReceiver,
}

impl Stream {
    async fn send(
        &mut self,
        api: PeerApi,
        flags: FrameFlags,
        body: &(impl Encode + Sync),
        payload: Bytes,
    ) -> Result<(), SendError> {
        let correlation = CorrelationId(0);
        let head = encode_frame(api, PeerApi::VERSION, flags, correlation, body, payload.len());
        let payload = if payload.is_empty() { Vec::new() } else { vec![payload] };
        self.sender.send(head.freeze(), &payload).await
    }

    async fn recv(&mut self) -> Result<Option<Frame>, RecvError> {
        self.receiver.recv().await
    }

    /// The next answer, which must be of this kind.
    async fn answer<T: Decode>(&mut self, api: PeerApi) -> Result<T, SeedError> {
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, self.recv());
        let frame = answer.await.map_err(|_| SeedError::Silent)??.ok_or(SeedError::Ended)?;
        if frame.header.flags.is_error() {
            return Err(frame.decode_body::<PeerFailure>()?.into());
        }
        if frame.header.api != api.number() || !frame.header.flags.is_response() {
            return Err(SeedError::Misfit);
        }
        Ok(frame.decode_body()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pacer_lets_no_more_through_than_its_rate() {
        let pacer = Pacer::new(1 << 20);
        let begin = Instant::now();
        for _ in 0..5 {
            pacer.take(1 << 20).await;
        }
        assert_eq!(begin.elapsed().as_secs(), 4, "the first one goes at once");
        tokio::time::sleep(Duration::from_secs(10)).await;
        let begin = Instant::now();
        pacer.take(100).await;
        assert!(begin.elapsed() < Duration::from_millis(2), "time that passed is not saved up");
    }
}

//! Frames out of a byte stream: the receiving half.
//!
//! Promises what `FrameParser` promises of memory, with [`FrameReceiver::set_room`] that all unfinished
//! large frames of a node stay within one bound, and that [`FrameReceiver::recv`] may be
//! cancelled at any time without losing a byte.

use std::io;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use plimsoll_protocol::frame::{Frame, FrameError};
use plimsoll_protocol::ids::CorrelationId;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, ReadHalf};
use tokio_rustls::TlsStream;

use crate::closing::{ClosedBy, Closing};
use crate::frame_parser::{FrameParser, Unfinished};
use crate::frame_room::{ConnectionFrameRoom, HeldRoom};
use crate::read_ahead::ReadAhead;
use crate::shared_tcp::SharedTcp;
use crate::simulated::ReceivingHalf;

/// Pieces taken from QUIC under one lock of the connection.
const PIECES: usize = 32;
/// As above, where a frame may begin that has to wait for room.
const PIECES_WITHOUT_ROOM: usize = 4;
/// Room made for one raw read.
const RAW_BYTES: usize = 64 << 10;

/// Why no further frame can be received.
#[derive(Debug, Error)]
pub enum RecvError {
    /// The peer's bytes are no frame, or one above the limit. The connection is of no more use.
    #[error("the peer sent what is no frame: {0}")]
    Frame(#[from] FrameError),
    /// The peer ended the stream inside a frame.
    #[error("the stream ended inside a frame, after {received} bytes of it")]
    Truncated {
        /// Bytes of the unfinished frame that did arrive.
        received: usize,
    },
    /// The peer did not send on while somebody waited for the room that its frames had. The
    /// connection is of no more use.
    #[error(
        "{received} of {total} bytes of a frame came and then too few, while frames waited for room"
    )]
    Stalled {
        /// The API key that the frame names.
        api: u16,
        /// The correlation id that the frame names.
        correlation: CorrelationId,
        /// Bytes of the frame that did arrive.
        received: usize,
        /// Bytes that it should have.
        total: usize,
    },
    /// The peer speaks TLS where plain TCP was expected.
    #[error("the peer speaks TLS on this plaintext connection; use transport tls (or quic)")]
    PeerSpeaksTls,
    /// The peer abandoned this stream.
    #[error("the peer reset the stream (code {code})")]
    Reset {
        /// The peer's reason, in numbers of the protocol above.
        code: u64,
    },
    /// The connection is gone.
    #[error("the connection is closed: {reason}")]
    Closed {
        /// What ended it.
        reason: String,
    },
    /// The socket failed.
    #[error("the connection failed: {0}")]
    Io(#[source] io::Error),
}

/// The receiving half of a stream.
#[derive(Debug)]
pub struct FrameReceiver {
    source: Source,
    frames: FrameParser,
    room: Room,
    closing: Arc<Closing>,
}

/// Where large frames get room from, and what the present one has. Without the first nothing bounds
/// them but the largest frame.
#[derive(Debug, Default)]
struct Room {
    of: Option<ConnectionFrameRoom>,
    held: Option<HeldRoom>,
}

impl Room {
    /// Waits until there is room for the frame that has begun, if it is one that needs any.
    async fn find(&mut self, frames: &FrameParser) {
        if self.held.is_none()
            && let Some(of) = &self.of
            && let Some(begun) = frames.unfinished()
        {
            self.held = Some(of.take(begun.total_bytes, begun.received_bytes).await);
        }
    }

    /// Pieces to take at once. Of a frame that has begun no more than a few are read before it has
    /// room, and it is not known before it is read whether one begins.
    fn pieces_max(&self) -> usize {
        if self.of.is_some() && self.held.is_none() { PIECES_WITHOUT_ROOM } else { PIECES }
    }

    /// Reads more of the frame that has begun, as long as its connection gets on.
    async fn read<T>(
        &mut self,
        begun: Option<Unfinished>,
        read: impl Future<Output = T>,
    ) -> Result<T, RecvError> {
        let (Some(held), Some(begun)) = (&mut self.held, begun) else {
            return Ok(read.await);
        };
        held.watch(begun.received_bytes, read).await.map_err(|_| RecvError::Stalled {
            api: begun.header.api,
            correlation: begun.header.correlation,
            received: begun.received_bytes,
            total: begun.total_bytes,
        })
    }
}

#[derive(Debug)]
enum Source {
    Quic {
        stream: quinn::RecvStream,
        pieces: Pieces,
    },
    Tcp(SharedTcp),
    Tls(ReadHalf<TlsStream<ReadAhead>>),
    /// The piece that is being parsed is kept beside it.
    Simulated(ReceivingHalf, Bytes),
}

/// Pieces of the stream that were taken from quinn and not yet parsed.
#[derive(Debug)]
struct Pieces {
    slots: Box<[Bytes; PIECES]>,
    next: usize,
    count: usize,
}

impl Pieces {
    fn new() -> Pieces {
        Pieces { slots: Box::new([const { Bytes::new() }; PIECES]), next: 0, count: 0 }
    }

    fn front(&mut self) -> Option<&mut Bytes> {
        while self.next < self.count && self.slots[self.next].is_empty() {
            self.slots[self.next] = Bytes::new();
            self.next += 1;
        }
        if self.next < self.count { self.slots.get_mut(self.next) } else { None }
    }

    async fn refill(
        &mut self,
        stream: &mut quinn::RecvStream,
        count_max: usize,
    ) -> Result<bool, quinn::ReadError> {
        self.next = 0;
        self.count = 0;
        match stream.read_chunks(&mut self.slots[..count_max]).await? {
            Some(count) => {
                self.count = count;
                Ok(true)
            }
            None => Ok(false),
        }
    }
}

impl FrameReceiver {
    pub(crate) fn quic(
        stream: quinn::RecvStream,
        max_frame_bytes: u32,
        closing: Arc<Closing>,
    ) -> Self {
        let source = Source::Quic { stream, pieces: Pieces::new() };
        Self::new(source, FrameParser::new(max_frame_bytes, false), closing)
    }

    pub(crate) fn tcp(stream: SharedTcp, max_frame_bytes: u32, closing: Arc<Closing>) -> Self {
        let frames = FrameParser::new(max_frame_bytes, true);
        Self::new(Source::Tcp(stream), frames, closing)
    }

    pub(crate) fn tls(
        stream: ReadHalf<TlsStream<ReadAhead>>,
        max_frame_bytes: u32,
        closing: Arc<Closing>,
    ) -> Self {
        let frames = FrameParser::new(max_frame_bytes, false);
        Self::new(Source::Tls(stream), frames, closing)
    }

    pub(crate) fn simulated(
        stream: ReceivingHalf,
        max_frame_bytes: u32,
        closing: Arc<Closing>,
    ) -> Self {
        let frames = FrameParser::new(max_frame_bytes, false);
        Self::new(Source::Simulated(stream, Bytes::new()), frames, closing)
    }

    fn new(source: Source, frames: FrameParser, closing: Arc<Closing>) -> Self {
        FrameReceiver { source, frames, room: Room::default(), closing }
    }

    /// Has large frames wait for room from now on. Without it only the largest frame bounds what the
    /// peer can make this side keep.
    pub fn set_room(&mut self, room: ConnectionFrameRoom) {
        self.room.of = Some(room);
    }

    /// The room of the frame that [`Self::recv`] has just given, if that is one that needed any. To be
    /// kept as long as the frame's bytes are; where it is not taken it goes with the next `recv`.
    pub fn take_room(&mut self) -> Option<HeldRoom> {
        match self.frames.unfinished() {
            None => {
                let mut held = self.room.held.take()?;
                held.complete();
                Some(held)
            }
            Some(_) => None,
        }
    }

    /// Sets the largest frame taken from now on, in bytes with the length field. A node sets 4 KiB
    /// before Hello and its own limit after it. A receiver starts with the configured limit.
    pub fn set_max_frame_bytes(&mut self, max_frame_bytes: u32) {
        self.frames.max_frame_bytes = max_frame_bytes;
    }

    /// The next frame, or `None` when the peer has ended the stream after a complete frame.
    /// May be cancelled.
    ///
    /// # Errors
    /// [`RecvError`] by cause. After [`RecvError::Frame`] the rest of the stream has no meaning:
    /// close the connection.
    pub async fn recv(&mut self) -> Result<Option<Frame>, RecvError> {
        // What the last frame had; a frame that was begun by a call that was cancelled keeps it.
        drop(self.take_room());
        let (frames, room) = (&mut self.frames, &mut self.room);
        let outcome = match &mut self.source {
            Source::Quic { stream, pieces } => recv_pieces(stream, pieces, frames, room).await,
            Source::Tcp(stream) => recv_bytes(stream, frames, room).await,
            Source::Tls(stream) => recv_bytes(stream, frames, room).await,
            Source::Simulated(stream, piece) => recv_simulated(stream, piece, frames, room).await,
        };
        if outcome.is_err() {
            // Nothing more comes of it, and its connection may take a moment to end.
            frames.discard();
            room.held = None;
        }
        if matches!(self.source, Source::Tcp(_) | Source::Tls(_)) {
            match &outcome {
                Ok(Some(_)) => {}
                Ok(None) => self.closing.ended(ClosedBy::Peer, "the peer ended the stream"),
                Err(RecvError::Closed { reason }) => self.closing.ended(ClosedBy::Peer, reason),
                Err(error) => self.closing.ended(ClosedBy::Failure, &error.to_string()),
            }
        }
        outcome
    }

    /// Whether the next frame is already here in full, so that `recv` would not wait. Lets a
    /// reader decide when to flush what it has gathered. May say false too often, never true.
    #[must_use]
    pub fn has_buffered_frame(&self) -> bool {
        match &self.source {
            Source::Quic { pieces, .. } => {
                let pieces = &pieces.slots[pieces.next..pieces.count];
                self.frames.has_whole_frame_in(pieces)
            }
            Source::Tcp(_) | Source::Tls(_) => self.frames.has_whole_frame(),
            Source::Simulated(_, piece) => {
                self.frames.has_whole_frame_in(std::slice::from_ref(piece))
            }
        }
    }

    /// Appends what has arrived to `buffer`, without looking for frames; returns how many bytes,
    /// 0 at the end of the stream. For measuring the bare stream; not to be mixed with `recv`.
    ///
    /// # Errors
    /// When the stream was reset or the connection failed.
    pub async fn recv_raw(&mut self, buffer: &mut BytesMut) -> Result<usize, RecvError> {
        match &mut self.source {
            Source::Quic { stream, pieces } => {
                if pieces.front().is_none()
                    && !pieces.refill(stream, PIECES).await.map_err(read_error)?
                {
                    return Ok(0);
                }
                let before = buffer.len();
                while let Some(piece) = pieces.front() {
                    buffer.put(piece);
                }
                Ok(buffer.len() - before)
            }
            Source::Tcp(stream) => {
                buffer.reserve(RAW_BYTES);
                stream.read_buf(buffer).await.map_err(io_error)
            }
            Source::Tls(stream) => {
                buffer.reserve(RAW_BYTES);
                stream.read_buf(buffer).await.map_err(io_error)
            }
            Source::Simulated(stream, piece) => {
                if piece.is_empty() {
                    *piece = stream.read().await?.unwrap_or_default();
                }
                let count = piece.len();
                buffer.put(std::mem::take(piece));
                Ok(count)
            }
        }
    }

    /// Tells the peer that nothing more is wanted from this stream. On TCP and TLS, where it is
    /// the only stream, it ends the connection.
    pub fn stop(&mut self, code: u32) {
        match &mut self.source {
            // An error says that the stream has ended already.
            Source::Quic { stream, .. } => {
                let _ = stream.stop(quinn::VarInt::from_u32(code));
            }
            Source::Tcp(_) | Source::Tls(_) => self.closing.close(code, "stream stopped"),
            Source::Simulated(stream, _) => stream.stop(code),
        }
    }
}

async fn recv_pieces(
    stream: &mut quinn::RecvStream,
    pieces: &mut Pieces,
    frames: &mut FrameParser,
    room: &mut Room,
) -> Result<Option<Frame>, RecvError> {
    loop {
        // What has come already is kept anyway; only what is still to come needs room.
        while let Some(piece) = pieces.front() {
            if let Some(frame) = frames.take_from(piece)? {
                return Ok(Some(frame));
            }
        }
        room.find(frames).await;
        let refill = pieces.refill(stream, room.pieces_max());
        if !room.read(frames.unfinished(), refill).await?.map_err(read_error)? {
            return frames.end();
        }
    }
}

async fn recv_simulated(
    stream: &mut ReceivingHalf,
    piece: &mut Bytes,
    frames: &mut FrameParser,
    room: &mut Room,
) -> Result<Option<Frame>, RecvError> {
    loop {
        while !piece.is_empty() {
            if let Some(frame) = frames.take_from(piece)? {
                return Ok(Some(frame));
            }
        }
        room.find(frames).await;
        match room.read(frames.unfinished(), stream.read()).await?? {
            Some(more) => *piece = more,
            None => return frames.end(),
        }
    }
}

async fn recv_bytes<S: AsyncRead + Unpin>(
    stream: &mut S,
    frames: &mut FrameParser,
    room: &mut Room,
) -> Result<Option<Frame>, RecvError> {
    loop {
        if let Some(frame) = frames.take()? {
            return Ok(Some(frame));
        }
        room.find(frames).await;
        let begun = frames.unfinished();
        let mut space = frames.space();
        let free = space.remaining_mut();
        let count = room.read(begun, stream.read_buf(&mut space)).await?.map_err(io_error)?;
        if count == 0 {
            return frames.end();
        }
        if count == free {
            frames.space_was_filled();
        }
    }
}

fn io_error(error: io::Error) -> RecvError {
    match error.kind() {
        // TLS without its closing alert: a peer that was killed, or somebody cut the wire.
        io::ErrorKind::UnexpectedEof
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe => {
            RecvError::Closed { reason: "the peer ended it without a goodbye".to_owned() }
        }
        _ => RecvError::Io(error),
    }
}

fn read_error(error: quinn::ReadError) -> RecvError {
    match error {
        quinn::ReadError::Reset(code) => RecvError::Reset { code: code.into_inner() },
        other => RecvError::Closed { reason: other.to_string() },
    }
}

//! Frames out of a byte stream: the receiving half.
//!
//! Promises: a frame larger than the limit is refused by its header; memory set aside ahead of
//! received bytes is at most max(64 KiB, 4 x the bytes received of this frame, the largest complete
//! frame seen on this stream); a frame keeps at most four times its own size of memory alive;
//! [`FrameReceiver::recv`] may be cancelled at any time without losing a byte.

use std::io;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use plimsoll_protocol::frame::{FRAME_HEADER_BYTES, Frame, FrameError, FrameHeader};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, ReadHalf};
use tokio_rustls::TlsStream;

use crate::closing::{ClosedBy, Closing};
use crate::read_ahead::ReadAhead;
use crate::shared_tcp::SharedTcp;

/// Read ahead of complete frames, and what one system call takes when frames are small. A block
/// begins smaller and grows when reads fill it, so that a quiet connection costs little.
const BLOCK_BYTES: usize = 64 << 10;
const BLOCK_BYTES_AT_FIRST: usize = 4 << 10;
/// A smaller frame is copied out of the block, so that it does not keep the whole block alive.
const SLICE_BYTES_MIN: usize = BLOCK_BYTES / 4;
/// The length field itself, which `frame_length` does not count.
const LENGTH_BYTES: usize = 4;
/// Pieces taken from QUIC under one lock of the connection.
const PIECES: usize = 64;

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
    closing: Arc<Closing>,
}

#[derive(Debug)]
enum Source {
    Quic { stream: quinn::RecvStream, pieces: Pieces },
    Tcp(SharedTcp),
    Tls(ReadHalf<TlsStream<ReadAhead>>),
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

    async fn refill(&mut self, stream: &mut quinn::RecvStream) -> Result<bool, quinn::ReadError> {
        self.next = 0;
        self.count = 0;
        match stream.read_chunks(&mut self.slots[..]).await? {
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
        FrameReceiver { source, frames: FrameParser::new(max_frame_bytes, false), closing }
    }

    pub(crate) fn tcp(stream: SharedTcp, max_frame_bytes: u32, closing: Arc<Closing>) -> Self {
        let frames = FrameParser::new(max_frame_bytes, true);
        FrameReceiver { source: Source::Tcp(stream), frames, closing }
    }

    pub(crate) fn tls(
        stream: ReadHalf<TlsStream<ReadAhead>>,
        max_frame_bytes: u32,
        closing: Arc<Closing>,
    ) -> Self {
        let frames = FrameParser::new(max_frame_bytes, false);
        FrameReceiver { source: Source::Tls(stream), frames, closing }
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
        let outcome = match &mut self.source {
            Source::Quic { stream, pieces } => recv_pieces(stream, pieces, &mut self.frames).await,
            Source::Tcp(stream) => recv_bytes(stream, &mut self.frames).await,
            Source::Tls(stream) => recv_bytes(stream, &mut self.frames).await,
        };
        if !matches!(self.source, Source::Quic { .. }) {
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
                if pieces.front().is_none() && !pieces.refill(stream).await.map_err(read_error)? {
                    return Ok(0);
                }
                let before = buffer.len();
                while let Some(piece) = pieces.front() {
                    buffer.put(piece);
                }
                Ok(buffer.len() - before)
            }
            Source::Tcp(stream) => {
                buffer.reserve(BLOCK_BYTES);
                stream.read_buf(buffer).await.map_err(io_error)
            }
            Source::Tls(stream) => {
                buffer.reserve(BLOCK_BYTES);
                stream.read_buf(buffer).await.map_err(io_error)
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
        }
    }
}

async fn recv_pieces(
    stream: &mut quinn::RecvStream,
    pieces: &mut Pieces,
    frames: &mut FrameParser,
) -> Result<Option<Frame>, RecvError> {
    loop {
        while let Some(piece) = pieces.front() {
            if let Some(frame) = frames.take_from(piece)? {
                return Ok(Some(frame));
            }
        }
        if !pieces.refill(stream).await.map_err(read_error)? {
            return frames.end();
        }
    }
}

async fn recv_bytes<S: AsyncRead + Unpin>(
    stream: &mut S,
    frames: &mut FrameParser,
) -> Result<Option<Frame>, RecvError> {
    loop {
        if let Some(frame) = frames.take()? {
            return Ok(Some(frame));
        }
        let mut space = frames.space();
        let room = space.remaining_mut();
        let count = stream.read_buf(&mut space).await.map_err(io_error)?;
        if count == 0 {
            return frames.end();
        }
        if count == room {
            frames.block_bytes = BLOCK_BYTES.min(frames.block_bytes * 4);
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

/// Cuts frames out of bytes. Bytes arrive in [`FrameParser::space`] (read straight into place) or
/// by [`FrameParser::take_from`] (pieces that somebody else owns).
#[derive(Debug)]
struct FrameParser {
    max_frame_bytes: u32,
    /// Bytes from the start of a frame on, while `large` is `None`.
    block: BytesMut,
    /// How large the next block will be.
    block_bytes: usize,
    /// A frame too large for the block, being received into a buffer of its own.
    large: Option<LargeFrame>,
    largest_frame_bytes: usize,
    /// Only then is a TLS record in the place of the first frame worth a message of its own.
    tls_is_suspect: bool,
}

#[derive(Debug)]
struct LargeFrame {
    header: FrameHeader,
    total_bytes: usize,
    bytes: BytesMut,
}

impl FrameParser {
    fn new(max_frame_bytes: u32, tls_is_suspect: bool) -> FrameParser {
        FrameParser {
            max_frame_bytes,
            block: BytesMut::new(),
            block_bytes: BLOCK_BYTES_AT_FIRST,
            large: None,
            largest_frame_bytes: 0,
            tls_is_suspect,
        }
    }

    fn header(&self, bytes: &[u8]) -> Result<Option<(FrameHeader, usize)>, RecvError> {
        let Some(head) = bytes.first_chunk::<FRAME_HEADER_BYTES>() else { return Ok(None) };
        if self.tls_is_suspect && is_tls_record(bytes) {
            return Err(RecvError::PeerSpeaksTls);
        }
        let header = FrameHeader::parse(head, self.max_frame_bytes)?;
        Ok(Some((header, header.frame_bytes())))
    }

    /// A complete frame from what [`Self::space`] has received, if there is one.
    fn take(&mut self) -> Result<Option<Frame>, RecvError> {
        if let Some(large) = &self.large {
            if large.bytes.len() < large.total_bytes {
                return Ok(None);
            }
            return Ok(self.finish_large());
        }
        let Some((header, total)) = self.header(&self.block)? else { return Ok(None) };
        if self.block.len() >= total {
            let bytes = if total < SLICE_BYTES_MIN {
                let copy = Bytes::copy_from_slice(&self.block[FRAME_HEADER_BYTES..total]);
                self.block.advance(total);
                copy
            } else {
                let mut bytes = self.block.split_to(total).freeze();
                bytes.advance(FRAME_HEADER_BYTES);
                bytes
            };
            return Ok(Some(self.finish(header, bytes)));
        }
        if total > BLOCK_BYTES {
            let received = self.block.split();
            self.begin_large(header, total, &received);
        }
        Ok(None)
    }

    /// Where the next bytes belong: the rest of a large frame, or the block.
    fn space(&mut self) -> bytes::buf::Limit<&mut BytesMut> {
        if self.large.is_some() {
            self.grow_large();
            let large = self.large.as_mut().expect("checked above");
            let free = large.bytes.capacity() - large.bytes.len();
            let missing = large.total_bytes - large.bytes.len();
            return (&mut large.bytes).limit(free.min(missing));
        }
        // Reuses the same memory once the frames that were sliced from it are gone.
        if self.block.capacity() - self.block.len() < self.block_bytes / 4 {
            self.block.reserve(self.block_bytes);
        }
        let free = self.block.capacity() - self.block.len();
        (&mut self.block).limit(free)
    }

    /// Uses up bytes of `piece`, up to the end of the first frame that they complete.
    fn take_from(&mut self, piece: &mut Bytes) -> Result<Option<Frame>, RecvError> {
        if self.large.is_some() {
            self.grow_large();
            let large = self.large.as_mut().expect("checked above");
            let free = large.bytes.capacity() - large.bytes.len();
            let count = piece.len().min(large.total_bytes - large.bytes.len()).min(free);
            large.bytes.extend_from_slice(&piece[..count]);
            piece.advance(count);
            return self.take();
        }
        if self.block.is_empty() {
            return self.take_first(piece);
        }
        // The rest of a frame whose begin lies in the block: the header first, then up to its end.
        let wanted = match self.header(&self.block)? {
            None => FRAME_HEADER_BYTES,
            Some((_, total)) => total,
        };
        let count = piece.len().min(wanted - self.block.len());
        self.block.extend_from_slice(&piece[..count]);
        piece.advance(count);
        self.take()
    }

    /// As [`Self::take_from`] where `piece` begins with a frame: nothing is copied if the whole
    /// frame is in it and large enough.
    fn take_first(&mut self, piece: &mut Bytes) -> Result<Option<Frame>, RecvError> {
        let Some((header, total)) = self.header(piece)? else {
            self.block.extend_from_slice(piece);
            piece.clear();
            return Ok(None);
        };
        if piece.len() >= total {
            let bytes = if total < SLICE_BYTES_MIN {
                Bytes::copy_from_slice(&piece[FRAME_HEADER_BYTES..total])
            } else {
                piece.slice(FRAME_HEADER_BYTES..total)
            };
            piece.advance(total);
            return Ok(Some(self.finish(header, bytes)));
        }
        if total > SLICE_BYTES_MIN {
            self.begin_large(header, total, piece);
        } else {
            self.block.extend_from_slice(piece);
        }
        piece.clear();
        Ok(None)
    }

    /// How much may be set aside for a frame of which `received` bytes are here.
    fn allowance(&self, received: usize) -> usize {
        BLOCK_BYTES.max(received.saturating_mul(4)).max(self.largest_frame_bytes)
    }

    fn begin_large(&mut self, header: FrameHeader, total_bytes: usize, received: &[u8]) {
        let mut bytes = BytesMut::with_capacity(total_bytes.min(self.allowance(received.len())));
        bytes.extend_from_slice(received);
        self.large = Some(LargeFrame { header, total_bytes, bytes });
    }

    /// Makes room in a full buffer, by the rule; the frame is not complete.
    fn grow_large(&mut self) {
        let Some(large) = &self.large else { return };
        if large.bytes.len() < large.bytes.capacity() {
            return;
        }
        let capacity = large.total_bytes.min(self.allowance(large.bytes.len()));
        let large = self.large.as_mut().expect("checked above");
        let mut grown = BytesMut::with_capacity(capacity);
        grown.extend_from_slice(&large.bytes);
        large.bytes = grown;
    }

    fn finish_large(&mut self) -> Option<Frame> {
        let large = self.large.take()?;
        let mut bytes = large.bytes.freeze();
        bytes.advance(FRAME_HEADER_BYTES);
        Some(self.finish(large.header, bytes))
    }

    fn finish(&mut self, header: FrameHeader, bytes: Bytes) -> Frame {
        self.tls_is_suspect = false;
        self.largest_frame_bytes = self.largest_frame_bytes.max(FRAME_HEADER_BYTES + bytes.len());
        Frame::from_content(header, bytes)
    }

    /// What the end of the stream means here.
    fn end(&self) -> Result<Option<Frame>, RecvError> {
        let received = self.large.as_ref().map_or(self.block.len(), |large| large.bytes.len());
        if self.tls_is_suspect && is_tls_record(&self.block) {
            return Err(RecvError::PeerSpeaksTls);
        }
        if received == 0 { Ok(None) } else { Err(RecvError::Truncated { received }) }
    }

    fn has_whole_frame(&self) -> bool {
        self.large.is_none() && holds_frame(&self.block, self.block.len())
    }

    fn has_whole_frame_in(&self, pieces: &[Bytes]) -> bool {
        let waiting: usize = pieces.iter().map(Bytes::len).sum();
        match &self.large {
            Some(large) => large.bytes.len() + waiting >= large.total_bytes,
            None if !self.block.is_empty() => holds_frame(&self.block, self.block.len() + waiting),
            None => pieces
                .iter()
                .find(|piece| !piece.is_empty())
                .is_some_and(|piece| holds_frame(piece, waiting)),
        }
    }
}

fn holds_frame(start: &[u8], available: usize) -> bool {
    start.first_chunk::<LENGTH_BYTES>().is_some_and(|length| {
        let length = u32::from_le_bytes(*length);
        usize::try_from(length).is_ok_and(|length| available.saturating_sub(LENGTH_BYTES) >= length)
    })
}

/// A TLS handshake (0x16) or alert (0x15) record of version 3.x. As a frame it would be one of
/// more than 66,000 bytes in the place of a Hello or of an answer to one.
fn is_tls_record(bytes: &[u8]) -> bool {
    matches!(bytes, [0x15 | 0x16, 0x03, 0x00..=0x04, ..])
}

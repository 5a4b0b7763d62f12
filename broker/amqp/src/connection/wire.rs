//! The socket of a connection: bytes in, and pieces out by vectored writes.

use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use plimsoll_amqp::frame::{FRAME_EMPTY_BYTES, bytes_wanted};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

/// The first buffer: nothing large is allocated for who has only connected, or says little.
const READ_BYTES_MIN: usize = 4 << 10;
/// The buffer of who fills them.
const READ_BYTES_MAX: usize = 64 << 10;
/// A buffer with less room is not read into any more.
const ROOM_BYTES_MIN: usize = 1 << 10;
/// Pieces of one write.
const SLICES_MAX: usize = 64;

pub(super) struct Wire<S> {
    stream: S,
    pub(super) input: BytesMut,
    read_bytes: usize,
    /// What is to be written, from `first` on.
    pieces: Vec<Bytes>,
    first: usize,
    unflushed: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            input: BytesMut::new(),
            read_bytes: READ_BYTES_MIN,
            pieces: Vec::new(),
            first: 0,
            unflushed: false,
        }
    }

    /// Whether all that was given was taken by the socket.
    pub(super) fn is_written(&self) -> bool {
        self.first == self.pieces.len() && !self.unflushed
    }

    /// Where to put what is to be written, once everything was.
    pub(super) fn pieces(&mut self) -> &mut Vec<Bytes> {
        debug_assert!(self.is_written(), "what came before is written first");
        self.pieces.clear();
        self.first = 0;
        &mut self.pieces
    }

    /// Writes and, where `frame_bytes_max` says how large a frame may be, reads what can be done now.
    /// Ready once something was.
    ///
    /// # Errors
    /// When the socket fails or has ended.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        frame_bytes_max: Option<u32>,
    ) -> Poll<io::Result<()>> {
        let mut progress = false;
        if let Poll::Ready(written) = self.poll_write(cx) {
            written?;
            progress = true;
        }
        if let Some(frame_bytes_max) = frame_bytes_max
            && let Poll::Ready(read) = self.poll_read(cx, frame_bytes_max)
        {
            read?;
            progress = true;
        }
        if progress { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// Ready once something was written that is now flushed, pending where there is nothing.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_written() {
            return Poll::Pending;
        }
        while self.first < self.pieces.len() {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let waiting = &self.pieces[self.first..];
            let count = waiting.len().min(SLICES_MAX);
            for (slice, piece) in slices.iter_mut().zip(waiting) {
                *slice = IoSlice::new(piece);
            }
            let stream = Pin::new(&mut self.stream);
            match stream.poll_write_vectored(cx, &slices[..count]) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(bytes)) => self.advance(bytes),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            }
            self.unflushed = true;
        }
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        if flushed.is_ready() {
            self.unflushed = false;
        }
        flushed
    }

    fn advance(&mut self, mut bytes: usize) {
        while bytes > 0 {
            let piece = &mut self.pieces[self.first];
            let taken = piece.len().min(bytes);
            piece.advance(taken);
            bytes -= taken;
            if piece.is_empty() {
                *piece = Bytes::new();
                self.first += 1;
            }
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, frame_bytes_max: u32) -> Poll<io::Result<()>> {
        // What a length says is believed as far as a frame may be large.
        let frame = bytes_wanted(&self.input).min(frame_bytes_max as usize + FRAME_EMPTY_BYTES);
        // Contents in flight keep the whole buffer that they came in: it is used up before the next one.
        if self.room() < frame.max(ROOM_BYTES_MIN) {
            self.input.reserve(frame.max(self.read_bytes));
        }
        let room = self.room();
        let read = pin!(self.stream.read_buf(&mut self.input)).poll(cx);
        match read {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(0)) => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            Poll::Ready(Ok(bytes)) => {
                if bytes == room {
                    self.read_bytes = (self.read_bytes * 2).min(READ_BYTES_MAX);
                } else if bytes < self.read_bytes / 8 {
                    self.read_bytes = (self.read_bytes / 2).max(READ_BYTES_MIN);
                }
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        }
    }

    fn room(&self) -> usize {
        self.input.capacity() - self.input.len()
    }

    /// Ready once the peer has ended its side; what it sends until then is not looked at.
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            self.input.clear();
            self.input.reserve(READ_BYTES_MIN);
            match pin!(self.stream.read_buf(&mut self.input)).poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(()),
                Poll::Ready(Ok(_)) => {}
            }
        }
    }

    /// Says that nothing more comes, as far as the peer lets it.
    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

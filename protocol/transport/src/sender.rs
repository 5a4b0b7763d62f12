//! Frames into a byte stream: the sending half.
//!
//! Frames are queued by [`FrameSender::feed`] and written by [`FrameSender::flush`], many in one
//! system call; [`FrameSender::send`] does both. Payload bytes are never copied by this module
//! (TLS and QUIC encrypt them into packets of their own). Every method may be cancelled: what is
//! queued stays queued, what is written is not written twice.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use thiserror::Error;
use tokio::io::{AsyncWrite, WriteHalf};
use tokio_rustls::TlsStream;

use crate::closing::{ClosedBy, Closing};
use crate::read_ahead::ReadAhead;
use crate::shared_tcp::SharedTcp;
use crate::simulated::SendingHalf;

/// Slices handed to one `writev`.
const SLICES: usize = 64;

/// Why frames can no longer be sent.
#[derive(Debug, Error)]
pub enum SendError {
    /// The peer wants nothing more from this stream.
    #[error("the peer stopped the stream (code {code})")]
    Stopped {
        /// The peer's reason, in numbers of the protocol above.
        code: u64,
    },
    /// This side has finished the stream.
    #[error("the stream was finished by this side")]
    Finished,
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

/// The sending half of a stream.
#[derive(Debug)]
pub struct FrameSender {
    sink: Sink,
    queue: VecDeque<Bytes>,
    queued_bytes: usize,
    closing: Arc<Closing>,
}

#[derive(Debug)]
enum Sink {
    Quic(quinn::SendStream),
    Tcp(SharedTcp),
    Tls(WriteHalf<TlsStream<ReadAhead>>),
    Simulated(SendingHalf),
}

impl FrameSender {
    pub(crate) fn quic(stream: quinn::SendStream, closing: Arc<Closing>) -> Self {
        Self::new(Sink::Quic(stream), closing)
    }

    pub(crate) fn tcp(stream: SharedTcp, closing: Arc<Closing>) -> Self {
        Self::new(Sink::Tcp(stream), closing)
    }

    pub(crate) fn tls(stream: WriteHalf<TlsStream<ReadAhead>>, closing: Arc<Closing>) -> Self {
        Self::new(Sink::Tls(stream), closing)
    }

    pub(crate) fn simulated(stream: SendingHalf, closing: Arc<Closing>) -> Self {
        Self::new(Sink::Simulated(stream), closing)
    }

    fn new(sink: Sink, closing: Arc<Closing>) -> Self {
        FrameSender { sink, queue: VecDeque::new(), queued_bytes: 0, closing }
    }

    /// Queues a frame: its encoded header and body, then the pieces of its payload. Nothing is
    /// written before [`Self::flush`]. The caller bounds what it queues by [`Self::queued_bytes`].
    pub fn feed(&mut self, head: Bytes, payload: &[Bytes]) {
        self.push(head);
        for piece in payload {
            self.push(piece.clone());
        }
    }

    fn push(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.queued_bytes += bytes.len();
            self.queue.push_back(bytes);
        }
    }

    /// Bytes queued and not yet taken by the socket or by QUIC.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// Queues a frame and writes everything queued. Returns when the socket or QUIC has taken it,
    /// which is long before the peer has it.
    ///
    /// # Errors
    /// When the stream or the connection is closed; whether earlier frames arrived is unknown.
    pub async fn send(&mut self, head: Bytes, payload: &[Bytes]) -> Result<(), SendError> {
        self.feed(head, payload);
        self.flush().await
    }

    /// Queues and writes bytes that are no frame. For measuring the bare stream.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn send_raw(&mut self, bytes: Bytes) -> Result<(), SendError> {
        self.push(bytes);
        self.flush().await
    }

    /// Writes everything queued.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn flush(&mut self) -> Result<(), SendError> {
        match &mut self.sink {
            Sink::Quic(stream) => {
                while !self.queue.is_empty() {
                    let pieces = self.queue.make_contiguous();
                    let written = stream.write_chunks(pieces).await.map_err(write_error)?;
                    self.queue.drain(..written.chunks);
                    self.queued_bytes -= written.bytes;
                }
                Ok(())
            }
            Sink::Tcp(stream) => {
                let done = write_queue(stream, &mut self.queue, &mut self.queued_bytes).await;
                done.map_err(|error| failed(error, &self.closing))
            }
            Sink::Tls(stream) => {
                let done = write_queue(stream, &mut self.queue, &mut self.queued_bytes).await;
                done.map_err(|error| failed(error, &self.closing))
            }
            Sink::Simulated(stream) => {
                while !self.queue.is_empty() {
                    self.queued_bytes -= stream.write(&mut self.queue).await?;
                }
                Ok(())
            }
        }
    }

    /// Writes everything queued and ends this direction; the peer sees the end after the last
    /// frame. The other direction goes on.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn finish(&mut self) -> Result<(), SendError> {
        self.flush().await?;
        match &mut self.sink {
            Sink::Quic(stream) => stream.finish().map_err(|_| SendError::Finished),
            Sink::Tcp(stream) => shut_down(stream).await,
            Sink::Tls(stream) => shut_down(stream).await,
            Sink::Simulated(stream) => stream.finish(),
        }
    }

    /// Waits until the peer has received everything up to a `finish`, or has stopped the stream,
    /// or the connection is gone. On TCP and TLS returns at once: the socket sees to it.
    pub async fn received(&mut self) {
        match &mut self.sink {
            Sink::Quic(stream) => {
                // Either way nothing more will happen on this stream.
                let _ = stream.stopped().await;
            }
            Sink::Tcp(_) | Sink::Tls(_) => {}
            Sink::Simulated(stream) => stream.received().await,
        }
    }

    /// Abandons what is queued and in flight. On TCP and TLS, where it is the only stream, it ends
    /// the connection.
    pub fn reset(&mut self, code: u32) {
        self.queue.clear();
        self.queued_bytes = 0;
        match &mut self.sink {
            // An error says that the stream has ended already.
            Sink::Quic(stream) => {
                let _ = stream.reset(quinn::VarInt::from_u32(code));
            }
            Sink::Tcp(_) | Sink::Tls(_) => self.closing.close(code, "stream reset"),
            Sink::Simulated(stream) => stream.reset(code),
        }
    }

    /// Higher goes first among the streams of a QUIC connection; 0 at the start. Of no effect on
    /// TCP and TLS.
    pub fn set_priority(&mut self, priority: i32) {
        if let Sink::Quic(stream) = &mut self.sink {
            // An error says that the stream has ended already.
            let _ = stream.set_priority(priority);
        }
    }
}

fn failed(error: io::Error, closing: &Closing) -> SendError {
    closing.ended(ClosedBy::Failure, &error.to_string());
    match error.kind() {
        io::ErrorKind::BrokenPipe
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::NotConnected => SendError::Closed { reason: closing.reason() },
        _ => SendError::Io(error),
    }
}

fn write_error(error: quinn::WriteError) -> SendError {
    match error {
        quinn::WriteError::Stopped(code) => SendError::Stopped { code: code.into_inner() },
        quinn::WriteError::ClosedStream => SendError::Finished,
        other => SendError::Closed { reason: other.to_string() },
    }
}

async fn shut_down<W: AsyncWrite + Unpin>(writer: &mut W) -> Result<(), SendError> {
    tokio::io::AsyncWriteExt::shutdown(writer).await.map_err(SendError::Io)
}

async fn write_queue<W: AsyncWrite + Unpin>(
    writer: &mut W,
    queue: &mut VecDeque<Bytes>,
    queued_bytes: &mut usize,
) -> io::Result<()> {
    poll_fn(|cx| poll_write_queue(cx, Pin::new(writer), queue, queued_bytes)).await
}

fn poll_write_queue<W: AsyncWrite>(
    cx: &mut Context<'_>,
    mut writer: Pin<&mut W>,
    queue: &mut VecDeque<Bytes>,
    queued_bytes: &mut usize,
) -> Poll<io::Result<()>> {
    while !queue.is_empty() {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let mut count = 0;
        for (slice, bytes) in slices.iter_mut().zip(queue.iter()) {
            *slice = IoSlice::new(bytes);
            count += 1;
        }
        let mut written = ready!(writer.as_mut().poll_write_vectored(cx, &slices[..count]))?;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        *queued_bytes -= written;
        while let Some(front) = queue.front_mut() {
            if front.len() > written {
                front.advance(written);
                break;
            }
            written -= front.len();
            queue.pop_front();
        }
    }
    writer.poll_flush(cx)
}

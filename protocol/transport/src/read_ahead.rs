//! The socket under TLS, read in large blocks.
//!
//! rustls asks for 4 KiB at a time; a record has 16. With a block in between, one system call
//! serves many records. The block begins small and grows when reads fill it.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::shared_tcp::SharedTcp;

const BLOCK_BYTES_AT_FIRST: usize = 4 << 10;
const BLOCK_BYTES_MAX: usize = 64 << 10;

/// Bytes of `block[unread]` come before those of the socket.
#[derive(Debug)]
pub(crate) struct ReadAhead {
    socket: SharedTcp,
    block: Vec<u8>,
    unread: Range<usize>,
}

impl ReadAhead {
    pub(crate) fn new(socket: SharedTcp) -> ReadAhead {
        ReadAhead { socket, block: vec![0; BLOCK_BYTES_AT_FIRST], unread: 0..0 }
    }

    pub(crate) fn socket(&self) -> &SharedTcp {
        &self.socket
    }
}

impl AsyncRead for ReadAhead {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.unread.is_empty() {
            if this.unread.end == this.block.len() {
                this.block.resize(BLOCK_BYTES_MAX.min(this.block.len() * 4), 0);
            }
            let mut space = ReadBuf::new(&mut this.block);
            ready!(Pin::new(&mut this.socket).poll_read(cx, &mut space))?;
            this.unread = 0..space.filled().len();
        }
        let count = buf.remaining().min(this.unread.len());
        let start = this.unread.start;
        buf.put_slice(&this.block[start..start + count]);
        this.unread.start += count;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ReadAhead {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

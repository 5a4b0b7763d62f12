//! Bytes to send: a row of buffers for a vectored write. Frames' heads are encoded into one growing
//! buffer; large bodies lie between as the slices that they came as.
//!
//! Invariants: the order of the pieces is the order on the wire; a body of
//! [`SPLICE_BYTES_MIN`] bytes or more is never copied.

use std::collections::VecDeque;

use bytes::{BufMut, Bytes, BytesMut};

use crate::frame::{
    FRAME_EMPTY_BYTES, FRAME_END, FrameKind, put_frame, put_frame_header, put_method,
};
use crate::methods::Method;
use crate::properties::ContentHeader;

/// From this size on a piece of a body is sent from where it is; below, copying costs less than one
/// more piece in the write.
pub const SPLICE_BYTES_MIN: usize = 1024;

/// What is to be sent.
#[derive(Debug, Default)]
pub struct Output {
    pieces: VecDeque<Bytes>,
    tail: BytesMut,
    bytes: usize,
}

impl Output {
    /// Bytes that were not taken yet.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Moves all pieces into `pieces`, in order.
    pub fn take_into(&mut self, pieces: &mut Vec<Bytes>) {
        self.seal();
        self.bytes = 0;
        pieces.extend(self.pieces.drain(..));
    }

    /// Appends what `write` appends.
    pub(crate) fn write(&mut self, write: impl FnOnce(&mut BytesMut)) {
        let before = self.tail.len();
        write(&mut self.tail);
        self.bytes += self.tail.len() - before;
    }

    /// Appends a method's frame.
    pub(crate) fn method(&mut self, channel: u16, method: &Method) {
        self.write(|out| put_method(out, channel, method));
    }

    /// Appends a method and its content, the body in frames of at most `frame_bytes_max` bytes.
    pub(crate) fn content(
        &mut self,
        channel: u16,
        method: &Method,
        properties: &[u8],
        body: &Bytes,
        frame_bytes_max: u32,
    ) {
        self.method(channel, method);
        self.write(|out| {
            put_frame(out, FrameKind::Header, channel, |out| {
                ContentHeader::write(out, body.len(), properties);
            });
        });
        let payload_bytes_max = (frame_bytes_max as usize).saturating_sub(FRAME_EMPTY_BYTES).max(1);
        let mut rest = body.clone();
        while !rest.is_empty() {
            let piece = rest.split_to(payload_bytes_max.min(rest.len()));
            let bytes = u32::try_from(piece.len()).expect("a frame is smaller than 4 GiB");
            self.write(|out| put_frame_header(out, FrameKind::Body, channel, bytes));
            if piece.len() < SPLICE_BYTES_MIN {
                self.write(|out| out.put_slice(&piece));
            } else {
                self.seal();
                self.bytes += piece.len();
                self.pieces.push_back(piece);
            }
            self.write(|out| out.put_u8(FRAME_END));
        }
    }

    fn seal(&mut self) {
        if !self.tail.is_empty() {
            self.pieces.push_back(self.tail.split().freeze());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Frame;
    use crate::methods::BasicDeliver;

    #[test]
    fn large_body_is_cut_into_frames_and_not_copied() {
        let body = Bytes::from(vec![7u8; 10_000]);
        let mut output = Output::default();
        output.content(3, &BasicDeliver::default().into(), &[0, 0], &body, 4096);
        let bytes = output.bytes();
        let mut pieces = Vec::new();
        output.take_into(&mut pieces);
        assert_eq!(pieces.iter().map(Bytes::len).sum::<usize>(), bytes);
        let spliced = pieces.iter().filter(|piece| body.as_ptr_range().contains(&piece.as_ptr()));
        assert_eq!(spliced.map(Bytes::len).collect::<Vec<_>>(), [4088, 4088, 1824]);

        let mut input = BytesMut::from(&pieces.concat()[..]);
        let mut kinds = Vec::new();
        while let Some(frame) = Frame::take(&mut input, 4096).unwrap() {
            assert_eq!(frame.channel, 3);
            kinds.push((frame.kind, frame.payload.len()));
        }
        assert_eq!(&kinds[1..], [(2, 14), (3, 4088), (3, 4088), (3, 1824)]);
        assert!(input.is_empty());
    }
}

//! Frames: a type, a channel, a payload, and the octet that ends it. And the eight bytes with which a
//! client says which protocol it means.
//!
//! Invariants: a payload is a slice of the input, not a copy; no frame larger than the limit is waited
//! for; what is not a whole frame yet stays in the input.
//!
//! Source: AMQP 0-9-1, 4.2.2 (protocol header), 4.2.3 (frames).

use bytes::{Buf, BufMut, Bytes, BytesMut};
use thiserror::Error;

use crate::erlang;
use crate::error::{Fault, ReplyCode};
use crate::methods::Method;

/// Bytes of a protocol header.
pub const PROTOCOL_HEADER_BYTES: usize = 8;
/// The header of this protocol; sent back to a client that asks for another one.
pub const PROTOCOL_HEADER: [u8; PROTOCOL_HEADER_BYTES] = *b"AMQP\0\0\x09\x01";
/// The header of AMQP 0-9, whose frames are the same.
const PROTOCOL_HEADER_0_9: [u8; PROTOCOL_HEADER_BYTES] = *b"AMQP\x01\x01\0\x09";

/// Bytes before a payload.
pub const FRAME_HEADER_BYTES: usize = 7;
/// Bytes of a frame beside its payload.
pub const FRAME_EMPTY_BYTES: usize = FRAME_HEADER_BYTES + 1;
/// Every peer takes frames of this size.
pub const FRAME_BYTES_MIN: u32 = 4096;
/// The last octet of a frame.
pub const FRAME_END: u8 = 0xce;
/// How much larger than agreed a payload may be: RabbitMQ forgives clients that forget the bytes
/// around it.
const FRAME_FUDGE_BYTES: usize = FRAME_EMPTY_BYTES;

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameKind {
    /// A method.
    Method,
    /// Size and properties of a content.
    Header,
    /// Bytes of a content.
    Body,
    /// Nothing: a sign of life.
    Heartbeat,
}

impl FrameKind {
    /// The octet on the wire.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Method => 1,
            Self::Header => 2,
            Self::Body => 3,
            Self::Heartbeat => 8,
        }
    }

    /// The kind of this octet.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Method),
            2 => Some(Self::Header),
            3 => Some(Self::Body),
            8 => Some(Self::Heartbeat),
            _ => None,
        }
    }
}

/// A whole frame. The kind is a number still: one that is unknown is the peer's fault, but the frame
/// was whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Its type's octet.
    pub kind: u8,
    /// Its channel; 0 is the connection itself.
    pub channel: u16,
    /// What it carries.
    pub payload: Bytes,
}

/// Why the input is not frames. Nothing behind it can be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FrameError {
    /// Larger than agreed.
    #[error("{{frame_too_large,{bytes},{limit}}}")]
    TooLarge {
        /// The type's octet.
        kind: u8,
        /// Bytes of the payload.
        bytes: usize,
        /// How many are allowed.
        limit: usize,
    },
    /// The octet behind the payload is another one.
    #[error("{{invalid_frame_end_marker,{octet}}}")]
    End {
        /// The octet.
        octet: u8,
        /// The frame as it would be.
        frame: Frame,
    },
}

impl FrameError {
    /// 501, with RabbitMQ's text.
    #[must_use]
    pub fn fault(&self) -> Fault {
        let (kind, payload): (u8, &[u8]) = match self {
            Self::TooLarge { kind, .. } => (*kind, &[]),
            Self::End { frame, .. } => (frame.kind, &frame.payload),
        };
        let text = format!("type {kind}, {}: {self}", erlang::snippet(payload));
        Fault::new(ReplyCode::FrameError, text)
    }
}

impl Frame {
    /// Takes the next frame off the front of `input`; none while it is not there as a whole. A frame
    /// has at most `frame_bytes_max` bytes, a little more is forgiven.
    ///
    /// # Errors
    /// When the input is not frames, or the frame is larger.
    pub fn take(input: &mut BytesMut, frame_bytes_max: u32) -> Result<Option<Self>, FrameError> {
        let Some(&[kind, c0, c1, n0, n1, n2, n3]) = input.first_chunk() else { return Ok(None) };
        let bytes = u32::from_be_bytes([n0, n1, n2, n3]) as usize;
        let limit = (frame_bytes_max as usize).saturating_sub(FRAME_EMPTY_BYTES);
        if bytes > limit + FRAME_FUDGE_BYTES {
            return Err(FrameError::TooLarge { kind, bytes, limit });
        }
        if input.len() < bytes + FRAME_EMPTY_BYTES {
            return Ok(None);
        }
        input.advance(FRAME_HEADER_BYTES);
        let payload = input.split_to(bytes).freeze();
        let octet = input.get_u8();
        let frame = Self { kind, channel: u16::from_be_bytes([c0, c1]), payload };
        if octet != FRAME_END {
            return Err(FrameError::End { octet, frame });
        }
        Ok(Some(frame))
    }
}

/// How many more bytes `input` needs before a frame is whole, for who makes room to read into.
#[must_use]
pub fn bytes_wanted(input: &[u8]) -> usize {
    let Some(&[_, _, _, n0, n1, n2, n3]) = input.first_chunk() else {
        return FRAME_HEADER_BYTES.saturating_sub(input.len());
    };
    let bytes = u32::from_be_bytes([n0, n1, n2, n3]) as usize;
    (bytes + FRAME_EMPTY_BYTES).saturating_sub(input.len())
}

/// What the first bytes of a connection say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProtocolHeader {
    /// Not all there yet, and not wrong so far.
    Incomplete,
    /// AMQP 0-9-1, or 0-9, whose frames are the same.
    Accepted,
    /// Something else: answer [`PROTOCOL_HEADER`] and close.
    Refused,
}

/// Takes the protocol header off the front of `input`.
pub fn take_protocol_header(input: &mut BytesMut) -> ProtocolHeader {
    let there = input.len().min(PROTOCOL_HEADER_BYTES);
    let begins = |header: &[u8; PROTOCOL_HEADER_BYTES]| input[..there] == header[..there];
    if !begins(&PROTOCOL_HEADER) && !begins(&PROTOCOL_HEADER_0_9) {
        return ProtocolHeader::Refused;
    }
    if there < PROTOCOL_HEADER_BYTES {
        return ProtocolHeader::Incomplete;
    }
    input.advance(PROTOCOL_HEADER_BYTES);
    ProtocolHeader::Accepted
}

/// Appends a frame whose payload `write` appends.
pub(crate) fn put_frame(
    out: &mut BytesMut,
    kind: FrameKind,
    channel: u16,
    write: impl FnOnce(&mut BytesMut),
) {
    put_frame_header(out, kind, channel, 0);
    let begin = out.len();
    write(out);
    let bytes = u32::try_from(out.len() - begin).expect("a payload is within the frame limit");
    out[begin - 4..begin].copy_from_slice(&bytes.to_be_bytes());
    out.put_u8(FRAME_END);
}

/// Appends what comes before a payload of `bytes`.
pub(crate) fn put_frame_header(out: &mut BytesMut, kind: FrameKind, channel: u16, bytes: u32) {
    out.put_u8(kind.number());
    out.put_u16(channel);
    out.put_u32(bytes);
}

/// Appends a method's frame.
pub fn put_method(out: &mut BytesMut, channel: u16, method: &Method) {
    put_frame(out, FrameKind::Method, channel, |out| method.write(out));
}

/// Appends a sign of life.
pub fn put_heartbeat(out: &mut BytesMut) {
    put_frame(out, FrameKind::Heartbeat, 0, |_| {});
}

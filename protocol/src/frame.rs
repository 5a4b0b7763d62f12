//! The unit of a stream: a header of 16 bytes, a body that the API defines, and a payload that is
//! carried untouched.

use bytes::{Bytes, BytesMut};
use thiserror::Error;

use crate::api::Request;
use crate::error::ErrorResponse;
use crate::ids::CorrelationId;
use crate::wire::{Decode, DecodeError, Encode, decode_all};

/// Size of the header of every frame.
pub const FRAME_HEADER_BYTES: usize = 16;

/// Largest frame that a node reads before Hello was answered.
pub const FRAME_BYTES_MAX_BEFORE_HELLO: u32 = 4 * 1024;

/// Largest frame after Hello, unless configured otherwise; told in the reply to Hello.
pub const FRAME_BYTES_MAX_DEFAULT: u32 = 16 << 20;

/// Size of the length field, which does not count itself.
const LENGTH_FIELD_BYTES: u32 = 4;
/// What of the header the length field counts.
const HEADER_REST_BYTES: u32 = FRAME_HEADER_BYTES as u32 - LENGTH_FIELD_BYTES;

/// What kind of frame it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct FrameFlags(u8);

impl FrameFlags {
    /// A request.
    pub const REQUEST: Self = Self(0);
    /// The answer to a request.
    pub const RESPONSE: Self = Self(1);
    /// The answer to a request that failed; the body is an [`ErrorResponse`].
    pub const ERROR: Self = Self(1 | 2);
    /// Sent without a request of its own, for a subscription.
    pub const PUSH: Self = Self(4);
    /// The last frame of a subscription that broke; the body is an [`ErrorResponse`].
    pub const PUSH_ERROR: Self = Self(4 | 2);

    /// The flags with these bits.
    ///
    /// # Errors
    /// [`FrameError::UnknownFlags`] for every combination that is none of the constants.
    pub fn from_bits(flags: u8) -> Result<Self, FrameError> {
        match flags {
            0 | 1 | 3 | 4 | 6 => Ok(Self(flags)),
            _ => Err(FrameError::UnknownFlags { flags }),
        }
    }

    /// The byte on the wire.
    #[must_use]
    pub fn bits(self) -> u8 {
        self.0
    }

    /// Whether it is a request.
    #[must_use]
    pub fn is_request(self) -> bool {
        self == Self::REQUEST
    }

    /// Whether it answers a request, well or badly.
    #[must_use]
    pub fn is_response(self) -> bool {
        self.0 & 1 != 0
    }

    /// Whether the body is an [`ErrorResponse`].
    #[must_use]
    pub fn is_error(self) -> bool {
        self.0 & 2 != 0
    }

    /// Whether it belongs to a subscription.
    #[must_use]
    pub fn is_push(self) -> bool {
        self.0 & 4 != 0
    }
}

/// The header of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// Bytes after this field: the other 12 of the header, body, payload.
    pub frame_length: u32,
    /// Size of the body.
    pub body_length: u32,
    /// Which API; a number, because an unknown one is answered, not fatal.
    pub api: u16,
    /// Version of that API's body.
    pub version: u8,
    /// What kind of frame it is.
    pub flags: FrameFlags,
    /// Chosen by the requester, repeated in each answer.
    pub correlation: CorrelationId,
}

/// Why bytes are not the header of a frame. The stream cannot be read further.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FrameError {
    /// The frame says that it is shorter than its own header.
    #[error("frame_length {frame_length} is shorter than the header")]
    TooShort {
        /// The stored length.
        frame_length: u32,
    },
    /// The frame is larger than allowed. What it wanted is told, so that it can be answered.
    #[error("the frame has {bytes} bytes, {limit} are allowed")]
    TooLarge {
        /// Size of the whole frame.
        bytes: u64,
        /// The limit in force.
        limit: u32,
        /// The API it is for.
        api: u16,
        /// Its correlation id.
        correlation: CorrelationId,
    },
    /// The body says that it is longer than the frame.
    #[error("body_length {body_length} is longer than the frame, which has room for {room}")]
    BodyPastEnd {
        /// The stored length.
        body_length: u32,
        /// Bytes after the header.
        room: u32,
    },
    /// A combination of flags that has no meaning.
    #[error("the flags {flags:#04x} have no meaning")]
    UnknownFlags {
        /// The byte.
        flags: u8,
    },
}

impl FrameHeader {
    /// Reads a header; `max_frame_bytes` bounds the whole frame, its length field included.
    ///
    /// # Errors
    /// When the frame is larger than allowed or the fields contradict each other.
    pub fn parse(
        bytes: &[u8; FRAME_HEADER_BYTES],
        max_frame_bytes: u32,
    ) -> Result<Self, FrameError> {
        let u32_at = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let (frame_length, body_length) = (u32_at(0), u32_at(4));
        let api = u16::from_le_bytes([bytes[8], bytes[9]]);
        let correlation = CorrelationId(u32_at(12));
        let bytes_total = u64::from(frame_length) + u64::from(LENGTH_FIELD_BYTES);
        if bytes_total > u64::from(max_frame_bytes) {
            let (bytes, limit) = (bytes_total, max_frame_bytes);
            return Err(FrameError::TooLarge { bytes, limit, api, correlation });
        }
        let Some(room) = frame_length.checked_sub(HEADER_REST_BYTES) else {
            return Err(FrameError::TooShort { frame_length });
        };
        if body_length > room {
            return Err(FrameError::BodyPastEnd { body_length, room });
        }
        let flags = FrameFlags::from_bits(bytes[11])?;
        Ok(Self { frame_length, body_length, api, version: bytes[10], flags, correlation })
    }

    /// Writes the 16 bytes.
    pub fn write_to(&self, out: &mut [u8; FRAME_HEADER_BYTES]) {
        out[0..4].copy_from_slice(&self.frame_length.to_le_bytes());
        out[4..8].copy_from_slice(&self.body_length.to_le_bytes());
        out[8..10].copy_from_slice(&self.api.to_le_bytes());
        out[10] = self.version;
        out[11] = self.flags.bits();
        out[12..16].copy_from_slice(&self.correlation.0.to_le_bytes());
    }

    /// Size of the body, in bytes.
    #[must_use]
    pub fn body_bytes(&self) -> usize {
        self.body_length as usize
    }

    /// Size of the payload, in bytes.
    #[must_use]
    pub fn payload_bytes(&self) -> usize {
        self.content_bytes().saturating_sub(self.body_bytes())
    }

    /// Size of body and payload together: what follows the header on the stream.
    #[must_use]
    pub fn content_bytes(&self) -> usize {
        self.frame_length.saturating_sub(HEADER_REST_BYTES) as usize
    }

    /// Size of the whole frame.
    #[must_use]
    pub fn frame_bytes(&self) -> usize {
        FRAME_HEADER_BYTES + self.content_bytes()
    }
}

/// A whole frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Its header.
    pub header: FrameHeader,
    /// What the API defines.
    pub body: Bytes,
    /// Carried untouched.
    pub payload: Bytes,
}

impl Frame {
    /// Splits what followed `header` on the stream into body and payload.
    ///
    /// # Panics
    /// When `content` has not exactly [`FrameHeader::content_bytes`].
    #[must_use]
    pub fn from_content(header: FrameHeader, mut content: Bytes) -> Self {
        assert_eq!(content.len(), header.content_bytes(), "content of another frame");
        let payload = content.split_off(header.body_bytes());
        Self { header, body: content, payload }
    }

    /// Reads the body.
    ///
    /// # Errors
    /// When the body is not an encoding of `T`.
    pub fn decode_body<T: Decode>(&self) -> Result<T, DecodeError> {
        decode_all(&self.body)
    }

    /// Reads the answer to a request of type `R`.
    ///
    /// # Errors
    /// [`ResponseError::Refused`] with what the node said, or why the answer cannot be read.
    pub fn decode_response<R: Request>(&self) -> Result<R::Response, ResponseError> {
        let header = &self.header;
        if header.flags.is_error() {
            return Err(ResponseError::Refused(Box::new(self.decode_body()?)));
        }
        if header.api != R::API.number() || header.version != R::VERSION {
            return Err(ResponseError::Mismatch {
                api: header.api,
                version: header.version,
                asked: R::API.number(),
            });
        }
        Ok(self.decode_body()?)
    }
}

/// Why a request has no answer that can be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ResponseError {
    /// The node refused or failed.
    #[error(transparent)]
    Refused(Box<ErrorResponse>),
    /// The answer is for another API or in another version.
    #[error("asked API {asked}, the answer is of API {api} version {version}")]
    Mismatch {
        /// API of the answer.
        api: u16,
        /// Version of the answer.
        version: u8,
        /// API of the request.
        asked: u16,
    },
    /// The body of the answer cannot be read.
    #[error("the node's answer cannot be read")]
    Malformed(#[from] DecodeError),
}

/// Header and body of a frame; the caller writes `payload_len` bytes of payload after it, so that
/// those are never copied.
///
/// # Panics
/// When body and payload together do not fit 32 bits; limits keep frames far below.
pub fn encode_frame(
    api: impl Into<u16>,
    version: u8,
    flags: FrameFlags,
    correlation: CorrelationId,
    body: &impl Encode,
    payload_len: usize,
) -> BytesMut {
    let mut out = BytesMut::with_capacity(128);
    out.resize(FRAME_HEADER_BYTES, 0);
    body.encode(&mut out);
    let fits = |bytes: usize| u32::try_from(bytes).expect("a frame is far below 4 GiB");
    let header = FrameHeader {
        frame_length: fits(out.len() + payload_len) - LENGTH_FIELD_BYTES,
        body_length: fits(out.len() - FRAME_HEADER_BYTES),
        api: api.into(),
        version,
        flags,
        correlation,
    };
    let head = out.first_chunk_mut().expect("the header's place comes first");
    header.write_to(head);
    out
}

/// Header and body of a request.
pub fn encode_request<R: Request>(
    correlation: CorrelationId,
    request: &R,
    payload_len: usize,
) -> BytesMut {
    encode_frame(R::API, R::VERSION, FrameFlags::REQUEST, correlation, request, payload_len)
}

/// Header and body of the answer to a request of type `R`.
pub fn encode_response<R: Request>(
    correlation: CorrelationId,
    response: &R::Response,
    payload_len: usize,
) -> BytesMut {
    encode_frame(R::API, R::VERSION, FrameFlags::RESPONSE, correlation, response, payload_len)
}

/// An error frame that answers `request`, whatever it was.
#[must_use]
pub fn encode_error(request: &FrameHeader, error: &ErrorResponse) -> BytesMut {
    encode_frame(request.api, request.version, FrameFlags::ERROR, request.correlation, error, 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    use crate::api::{ApiKey, FetchRequest, FetchResponse, PingRequest};
    use crate::error::ErrorCode;
    use crate::wire::any::Any;

    fn header() -> FrameHeader {
        FrameHeader {
            frame_length: 112,
            body_length: 30,
            api: 8,
            version: 1,
            flags: FrameFlags::PUSH,
            correlation: CorrelationId(0x0102_0304),
        }
    }

    fn bytes(header: &FrameHeader) -> [u8; FRAME_HEADER_BYTES] {
        let mut bytes = [0; FRAME_HEADER_BYTES];
        header.write_to(&mut bytes);
        bytes
    }

    #[test]
    fn every_field_survives() {
        assert_eq!(FrameHeader::parse(&bytes(&header()), 116), Ok(header()));
        assert_eq!(header().payload_bytes(), 70);
        assert_eq!(header().frame_bytes(), 116);
    }

    #[test]
    fn sizes_are_refused_by_the_header() {
        let parse = |header: FrameHeader, max| FrameHeader::parse(&bytes(&header), max);
        assert!(matches!(
            parse(header(), 115),
            Err(FrameError::TooLarge { bytes: 116, limit: 115, api: 8, .. })
        ));
        let huge = FrameHeader { frame_length: u32::MAX, ..header() };
        assert!(matches!(parse(huge, u32::MAX), Err(FrameError::TooLarge { .. })));
        let short = FrameHeader { frame_length: 11, ..header() };
        assert_eq!(parse(short, 100), Err(FrameError::TooShort { frame_length: 11 }));
        let body = FrameHeader { body_length: 101, ..header() };
        assert_eq!(parse(body, 1000), Err(FrameError::BodyPastEnd { body_length: 101, room: 100 }));
    }

    #[test]
    fn only_flags_with_a_meaning_are_taken() {
        let known = [
            FrameFlags::REQUEST,
            FrameFlags::RESPONSE,
            FrameFlags::ERROR,
            FrameFlags::PUSH,
            FrameFlags::PUSH_ERROR,
        ];
        for bits in 0..=u8::MAX {
            let expected = known.iter().find(|flags| flags.bits() == bits).copied();
            assert_eq!(FrameFlags::from_bits(bits).ok(), expected);
        }
    }

    #[test]
    fn encoded_frame_leaves_room_for_the_payload() {
        let out = encode_request(CorrelationId(5), &PingRequest {}, 1000);
        let header = FrameHeader::parse(out.first_chunk().unwrap(), u32::MAX).unwrap();
        assert_eq!(header.payload_bytes(), 1000);
        assert_eq!(header.body_bytes(), out.len() - FRAME_HEADER_BYTES);
        assert_eq!((header.api, header.version), (ApiKey::Ping.number(), 1));
    }

    /// What a reader makes of the bytes of a stream that holds one frame.
    fn read(stream: &[u8]) -> Result<Frame, FrameError> {
        let header = FrameHeader::parse(stream.first_chunk().unwrap(), 1 << 20)?;
        let content = Bytes::copy_from_slice(&stream[FRAME_HEADER_BYTES..]);
        Ok(Frame::from_content(header, content))
    }

    proptest! {
        #[test]
        fn frames_survive(
            correlation: u32,
            request in FetchRequest::any(),
            response in FetchResponse::any(),
            error in ErrorResponse::any(),
            payload in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            let correlation = CorrelationId(correlation);
            let mut stream = encode_request(correlation, &request, payload.len());
            stream.extend_from_slice(&payload);
            let asked = read(&stream).unwrap();
            prop_assert_eq!(asked.header.correlation, correlation);
            prop_assert_eq!(asked.decode_body::<FetchRequest>(), Ok(request));
            prop_assert_eq!(&asked.payload[..], &payload[..]);

            let stream = encode_response::<FetchRequest>(correlation, &response, 0);
            let answer = read(&stream).unwrap();
            prop_assert_eq!(answer.decode_response::<FetchRequest>(), Ok(response));
            let mismatch = answer.decode_response::<PingRequest>();
            let is_mismatch = matches!(mismatch, Err(ResponseError::Mismatch { .. }));
            prop_assert!(is_mismatch);

            let refused = read(&encode_error(&asked.header, &error)).unwrap();
            prop_assert_eq!(
                refused.decode_response::<FetchRequest>(),
                Err(ResponseError::Refused(Box::new(error)))
            );
        }

        #[test]
        fn headers_are_refused_or_written_back(bytes: [u8; FRAME_HEADER_BYTES], max: u32) {
            if let Ok(header) = FrameHeader::parse(&bytes, max) {
                let mut again = [0; FRAME_HEADER_BYTES];
                header.write_to(&mut again);
                prop_assert_eq!(again, bytes);
                prop_assert!(header.frame_bytes() as u64 <= u64::from(max));
            }
        }
    }

    #[test]
    fn malformed_answer_is_told_from_a_refusal() {
        let error = ErrorResponse::new(ErrorCode::NotReady, "the partition is being woken");
        let mut header = header();
        header.api = ApiKey::Ping.number();
        let good = read(&encode_error(&header, &error)).unwrap();
        let cut = Frame { body: good.body.slice(..3), ..good };
        let malformed = cut.decode_response::<PingRequest>();
        assert!(matches!(malformed, Err(ResponseError::Malformed(_))));
    }
}

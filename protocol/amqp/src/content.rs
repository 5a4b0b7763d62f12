//! Puts contents together: a method that has one, its header, as many body frames as its size asks
//! for, in this order and without anything between on the same channel.
//!
//! Invariants: never more of a body is held than has come; a body larger than allowed is refused by
//! its header. A body that came in one frame is not copied. Knows nothing of what contents mean.
//!
//! Source: AMQP 0-9-1, 4.2.6; codes and texts as RabbitMQ has them.

use bytes::{Bytes, BytesMut};

use crate::error::{Fault, MethodId, ReplyCode};
use crate::frame::{Frame, FrameKind};
use crate::methods::Method;
use crate::properties::{ContentHeader, Properties};

/// Beyond this RabbitMQ takes a size for an error of framing, whatever is configured.
const BODY_BYTES_CEILING: u64 = 512 << 20;

/// Properties and body of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// The properties as they came, to be kept and delivered as they are.
    pub encoded: Bytes,
    /// The properties.
    pub properties: Properties,
    /// The body.
    pub body: Bytes,
}

impl Content {
    /// About what it holds of memory.
    #[must_use]
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + self.encoded.len() + self.body.len()
    }
}

/// A method, and its content where it has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Command {
    pub(crate) method: Method,
    pub(crate) content: Option<Box<Content>>,
}

impl Command {
    /// About what it holds of memory.
    pub(crate) fn bytes(&self) -> usize {
        let content = self.content.as_ref();
        size_of::<Self>() + content.map_or(0, |content| content.bytes())
    }
}

/// What a channel expects next.
#[derive(Debug, Default)]
enum Expected {
    #[default]
    Method,
    Header(Method),
    Body {
        method: Method,
        content: Box<Content>,
        /// What has come of a body in several frames.
        pieces: BytesMut,
        left: u64,
    },
}

/// Puts together what comes on one channel.
#[derive(Debug, Default)]
pub(crate) struct Assembler(Expected);

impl Assembler {
    /// Takes the next frame of the channel; gives what it completes.
    ///
    /// # Errors
    /// When the frame may not come now, or is not what it should be. 406 for a body larger than
    /// `body_bytes_max`, else a fault of the connection.
    pub(crate) fn push(
        &mut self,
        kind: FrameKind,
        frame: &Frame,
        body_bytes_max: u64,
    ) -> Result<Option<Command>, Fault> {
        match std::mem::take(&mut self.0) {
            Expected::Method => self.method(kind, frame),
            Expected::Header(method) => {
                let id = method.id();
                self.header(kind, frame, method, body_bytes_max)
                    .map_err(|fault| fault.blamed_on(id))
            }
            Expected::Body { method, content, pieces, left } => {
                let id = method.id();
                self.body(kind, frame, method, content, pieces, left)
                    .map_err(|fault| fault.blamed_on(id))
            }
        }
    }

    fn method(&mut self, kind: FrameKind, frame: &Frame) -> Result<Option<Command>, Fault> {
        if kind != FrameKind::Method {
            let text = "expected method frame, got non method frame instead";
            return Err(Fault::new(ReplyCode::UnexpectedFrame, text));
        }
        let method = Method::read(&frame.payload).map_err(|error| error.fault())?;
        let spec = method.spec();
        if !spec.to_server {
            return Err(unimplemented(spec.id));
        }
        if spec.has_content {
            self.0 = Expected::Header(method);
            return Ok(None);
        }
        Ok(Some(Command { method, content: None }))
    }

    fn header(
        &mut self,
        kind: FrameKind,
        frame: &Frame,
        method: Method,
        body_bytes_max: u64,
    ) -> Result<Option<Command>, Fault> {
        let class = method.id().class;
        let expected = |got: String| {
            let text = format!("expected content header for class {class}, got {got} instead");
            Fault::new(ReplyCode::UnexpectedFrame, text)
        };
        let header = (kind == FrameKind::Header).then(|| ContentHeader::read(&frame.payload));
        let Some(header) = header.flatten() else {
            return Err(expected("non content header frame".into()));
        };
        if header.class != class {
            return Err(expected(format!("one for class {}", header.class)));
        }
        let body_bytes = header.body_bytes;
        if body_bytes > BODY_BYTES_CEILING {
            let text = format!(
                "content body size {body_bytes} exceeds maximum allowed size {BODY_BYTES_CEILING}"
            );
            return Err(Fault::new(ReplyCode::FrameError, text));
        }
        if body_bytes > body_bytes_max {
            let text = format!(
                "message size {body_bytes} is larger than configured max size {body_bytes_max}"
            );
            return Err(Fault::new(ReplyCode::PreconditionFailed, text));
        }
        let properties = Properties::read(&header.properties)
            .map_err(|error| Fault::new(ReplyCode::SyntaxError, error.to_string()))?;
        let (encoded, body) = (header.properties, Bytes::new());
        let content = Box::new(Content { encoded, properties, body });
        if body_bytes == 0 {
            return Ok(Some(Command { method, content: Some(content) }));
        }
        self.0 = Expected::Body { method, content, pieces: BytesMut::new(), left: body_bytes };
        Ok(None)
    }

    fn body(
        &mut self,
        kind: FrameKind,
        frame: &Frame,
        method: Method,
        mut content: Box<Content>,
        mut pieces: BytesMut,
        left: u64,
    ) -> Result<Option<Command>, Fault> {
        if kind != FrameKind::Body {
            let text = "expected content body, got non content body frame instead";
            return Err(Fault::new(ReplyCode::UnexpectedFrame, text));
        }
        let Some(left) = left.checked_sub(frame.payload.len() as u64) else {
            let text = "content body frame exceeds remaining content size";
            return Err(Fault::new(ReplyCode::FrameError, text));
        };
        if left == 0 && pieces.is_empty() {
            content.body = frame.payload.clone();
            return Ok(Some(Command { method, content: Some(content) }));
        }
        pieces.extend_from_slice(&frame.payload);
        if left == 0 {
            content.body = pieces.freeze();
            return Ok(Some(Command { method, content: Some(content) }));
        }
        self.0 = Expected::Body { method, content, pieces, left };
        Ok(None)
    }
}

/// 503: a method that is known, and that no client may send.
pub(crate) fn unimplemented(id: MethodId) -> Fault {
    Fault::new(ReplyCode::CommandInvalid, "unimplemented method").blamed_on(id)
}

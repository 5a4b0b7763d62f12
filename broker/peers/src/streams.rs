//! The tasks that read and write the streams of a link.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use futures_util::FutureExt as _;
use plimsoll_protocol::frame::{FRAME_BYTES_MAX_BEFORE_HELLO, Frame, FrameFlags, encode_frame};
use plimsoll_protocol::ids::CorrelationId;
use plimsoll_protocol::peer::{
    Alive, AnyPeerMessage, AnyPeerRequest, AnyPeerResponse, Append, AppendClose, AppendOpen,
    AppendedFrame, PEER_FRAME_BYTES_MAX, PeerApi, PeerFailure, PeerFailureCode, StreamOpen,
    StreamRole,
};
use plimsoll_protocol::wire::{DecodeError, DecodeFault};
use plimsoll_transport::{FrameReceiver, FrameSender, RecvError};
use tokio::sync::Semaphore;

use crate::incoming::{IncomingTable, Violation, not_here};
use crate::link::{Arrival, Link, Role, code};
use crate::node::Node;
use crate::outbox::{NotTaken, Outgoing};

/// Higher goes first among the streams of a QUIC connection.
const ALIVE_PRIORITY: i32 = 20;
const CONTROL_PRIORITY: i32 = 10;
const SEED_PRIORITY: i32 = -10;

/// Why a stream of a link, and the link with it, is of no more use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StreamEnd {
    #[error("the {0} stream ended")]
    Ended(&'static str),
    #[error("a stream could not be opened: {0}")]
    Open(String),
    #[error("{0}")]
    Received(#[from] RecvError),
    #[error("{0}")]
    Sent(#[from] plimsoll_transport::SendError),
    #[error("a frame cannot be read: {0}")]
    Malformed(#[from] DecodeError),
    #[error("an append cannot be read: {0}")]
    Append(#[from] plimsoll_protocol::peer::AppendError),
    #[error("{0}")]
    Violation(#[from] Violation),
    #[error("an answer belongs to no append")]
    Unasked,
    #[error("a frame of kind {0} does not belong on the {1} stream")]
    Misplaced(u16, &'static str),
}

impl StreamEnd {
    /// Whether the other side did what it may not do.
    pub(crate) fn is_violation(&self) -> bool {
        !matches!(self, Self::Ended(_) | Self::Open(_) | Self::Sent(_) | Self::Received(_))
            || matches!(self, Self::Received(RecvError::Frame(_)))
    }
}

/// Writes an outbox to its stream.
pub(crate) async fn write(
    link: Arc<Link>,
    role: Role,
    mut sender: FrameSender,
) -> Result<(), StreamEnd> {
    let outbox = match role {
        Role::Control | Role::Seed | Role::Client => &link.control,
        Role::Alive => link.alive.as_ref().unwrap_or(&link.control),
        Role::Lane(lane) => &link.lanes[usize::from(lane)],
    };
    outbox.write(&mut sender, &link.sent).await?;
    // The link was closed; what was said before may still be on its way.
    let _ = sender.finish().await;
    Ok(())
}

pub(crate) fn prepare_control(sender: &mut FrameSender, receiver: &mut FrameReceiver) {
    sender.set_priority(CONTROL_PRIORITY);
    receiver.set_max_frame_bytes(PEER_FRAME_BYTES_MAX);
}

pub(crate) fn prepare(arrival: &mut Arrival) {
    arrival.receiver.set_max_frame_bytes(PEER_FRAME_BYTES_MAX);
    match arrival.role {
        Role::Alive => arrival.sender.set_priority(ALIVE_PRIORITY),
        Role::Control | Role::Lane(_) | Role::Client => {}
        Role::Seed => arrival.sender.set_priority(SEED_PRIORITY),
    }
}

/// The frame that says what a further stream is for.
pub(crate) fn opening(link: &Link, node: &Node, role: Role) -> Outgoing {
    let (role, lane) = match role {
        Role::Control => (StreamRole::Control, 0),
        Role::Alive => (StreamRole::Alive, 0),
        Role::Lane(lane) => (StreamRole::Lane, lane),
        Role::Seed => (StreamRole::Seed, 0),
        Role::Client => (StreamRole::Client, 0),
    };
    let open = StreamOpen { role, node: node.config.node, link: link.hello.link, lane };
    let (api, flags) = (PeerApi::StreamOpen, FrameFlags::PUSH);
    Outgoing::new(encode_frame(api, PeerApi::VERSION, flags, CorrelationId(0), &open, 0))
}

/// Reads the frame that says what a stream is for.
pub(crate) fn opened(link: &Link, frame: &Frame) -> Result<Role, StreamEnd> {
    if frame.header.api != PeerApi::StreamOpen.number() {
        return Err(StreamEnd::Misplaced(frame.header.api, "further"));
    }
    let open: StreamOpen = frame.decode_body()?;
    let role = match open.role {
        StreamRole::Alive if link.alive.is_some() => Role::Alive,
        StreamRole::Lane if usize::from(open.lane) < link.lanes.len() => Role::Lane(open.lane),
        StreamRole::Seed => Role::Seed,
        StreamRole::Client => Role::Client,
        _ => return Err(StreamEnd::Misplaced(frame.header.api, open.role.as_str())),
    };
    if open.link != link.hello.link || open.node != link.node {
        return Err(StreamEnd::Misplaced(frame.header.api, "other link's"));
    }
    Ok(role)
}

/// Takes the streams that the other side opens.
pub(crate) async fn accept(link: Arc<Link>) -> Result<(), StreamEnd> {
    loop {
        let Ok(Some((sender, mut receiver))) = link.connection.accept().await else {
            return Err(StreamEnd::Ended("last"));
        };
        let link = Arc::clone(&link);
        // A stream that says nothing costs a task until the link ends; the transport bounds them.
        tokio::spawn(async move {
            receiver.set_max_frame_bytes(FRAME_BYTES_MAX_BEFORE_HELLO);
            let closed = link.closed();
            let first = tokio::select! {
                biased;
                _ = closed => return,
                first = receiver.recv() => first,
            };
            let role = match first {
                Ok(Some(frame)) => opened(&link, &frame),
                Ok(None) => return,
                Err(error) => Err(error.into()),
            };
            match role {
                // The link's task is gone only when the link is closed.
                Ok(role) => {
                    let arrival = Arrival { role, sender, receiver, connection: None };
                    let _ = link.arrivals.send(arrival);
                }
                Err(end) => link.close(code::VIOLATION, end.to_string()),
            }
        });
    }
}

/// Reads signs of life.
pub(crate) async fn read_alive(
    link: Arc<Link>,
    node: Arc<Node>,
    mut receiver: FrameReceiver,
) -> Result<(), StreamEnd> {
    while let Some(frame) = receiver.recv().await? {
        link.note_received(&frame);
        if frame.header.api != PeerApi::Alive.number() {
            return Err(StreamEnd::Misplaced(frame.header.api, "alive"));
        }
        node.heard(link.node, &frame.decode_body()?);
    }
    Err(StreamEnd::Ended("alive"))
}

/// Reads requests, answers and messages, and signs of life where they share the stream.
pub(crate) async fn read_control(
    link: Arc<Link>,
    node: Arc<Node>,
    mut receiver: FrameReceiver,
) -> Result<(), StreamEnd> {
    let carried_out = Arc::new(Semaphore::new(link.limits.requests_max));
    while let Some(frame) = receiver.recv().await? {
        link.note_received(&frame);
        let flags = frame.header.flags;
        if flags.is_response() {
            link.answered(frame);
        } else if flags.is_request() {
            carry_out(&link, &node, &frame, &carried_out);
        } else if frame.header.api == PeerApi::Alive.number() {
            let alive: Alive = frame.decode_body()?;
            node.heard(link.node, &alive);
        } else {
            match AnyPeerMessage::decode(&frame) {
                Ok(message) => node.handler.message(link.node, message),
                // A newer node may say more than this one understands.
                Err(error) if is_unknown(&frame) => {
                    tracing::debug!(peer = %link.node, %error, "message that is not known here");
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
    Err(StreamEnd::Ended("control"))
}

/// Whether the frame is of a kind that this build does not know.
fn is_unknown(frame: &Frame) -> bool {
    PeerApi::from_number(frame.header.api).is_none()
}

fn carry_out(link: &Arc<Link>, node: &Arc<Node>, frame: &Frame, carried_out: &Arc<Semaphore>) {
    let asked = Asked { api: frame.header.api, correlation: frame.header.correlation };
    let request = match AnyPeerRequest::decode(frame) {
        Ok(request) => request,
        Err(error) => {
            let code = match error.fault {
                DecodeFault::UnknownValue { .. } => PeerFailureCode::Unsupported,
                _ => PeerFailureCode::Malformed,
            };
            return asked.answer(link, Err(&PeerFailure::new(code, error.to_string())));
        }
    };
    let Ok(permit) = Arc::clone(carried_out).try_acquire_owned() else {
        let message = "too many requests are being carried out";
        return asked.answer(link, Err(&PeerFailure::new(PeerFailureCode::Busy, message)));
    };
    // Whoever asked is not to wait in vain for what panicked here.
    let begun = catch_unwind(AssertUnwindSafe(|| node.handler.request(link.node, request)));
    let link = Arc::clone(link);
    tokio::spawn(async move {
        let done = match begun {
            Ok(answer) => AssertUnwindSafe(answer).catch_unwind().await,
            Err(panic) => Err(panic),
        };
        let answer = done.unwrap_or_else(|_| {
            tracing::error!(peer = %link.node, "a request panicked; this is a bug");
            Err(PeerFailure::new(PeerFailureCode::Internal, "the request panicked; this is a bug"))
        });
        drop(permit);
        asked.answer(&link, answer.as_ref());
    });
}

/// What an answer repeats of its request.
#[derive(Clone, Copy)]
struct Asked {
    api: u16,
    correlation: CorrelationId,
}

impl Asked {
    fn answer(self, link: &Link, answer: Result<&AnyPeerResponse, &PeerFailure>) {
        let Asked { api, correlation } = self;
        let version = PeerApi::VERSION;
        let failed = |failure: &PeerFailure| {
            encode_frame(api, version, FrameFlags::ERROR, correlation, failure, 0)
        };
        let mut frame = match answer {
            Ok(response) => {
                encode_frame(api, version, FrameFlags::RESPONSE, correlation, response, 0)
            }
            Err(failure) => failed(failure),
        };
        if frame.len() > PEER_FRAME_BYTES_MAX as usize {
            let message = format!("the answer has {} bytes, more than a frame may", frame.len());
            frame = failed(&PeerFailure::new(PeerFailureCode::Internal, message));
        }
        if link.control.push_answer(Outgoing::new(frame)) == Err(NotTaken::Full) {
            link.close(code::BROKEN, "the other side asks and does not read the answers");
        }
    }
}

/// Reads append sessions and answers to ours.
pub(crate) async fn read_lane(
    link: Arc<Link>,
    node: Arc<Node>,
    lane: u8,
    mut receiver: FrameReceiver,
) -> Result<(), StreamEnd> {
    while let Some(frame) = receiver.recv().await? {
        link.note_received(&frame);
        match PeerApi::from_number(frame.header.api) {
            Some(PeerApi::Append) => {
                let append = Append::from_frame(frame)?;
                let session = append.session;
                if !link.incoming.append(&link, append)? {
                    not_here(&link, lane, session);
                }
            }
            Some(PeerApi::Appended) => {
                let AppendedFrame { session, settles, answer } = frame.decode_body()?;
                link.sessions
                    .answered(&link, session, settles, answer)
                    .map_err(|_| StreamEnd::Unasked)?;
            }
            Some(PeerApi::AppendOpen) => {
                let open: AppendOpen = frame.decode_body()?;
                if let Some(session) = IncomingTable::opened(&link, lane, &open)? {
                    node.handler.session(link.node, open.group, session);
                }
            }
            Some(PeerApi::AppendClose) => {
                let close: AppendClose = frame.decode_body()?;
                link.incoming.ended(&close);
            }
            _ => return Err(StreamEnd::Misplaced(frame.header.api, "lane")),
        }
    }
    Err(StreamEnd::Ended("lane"))
}

//! The beginning of a link: who is who, and whether they want each other.

use plimsoll_protocol::frame::{FRAME_BYTES_MAX_BEFORE_HELLO, Frame, FrameFlags, encode_frame};
use plimsoll_protocol::ids::{CorrelationId, NodeId};
use plimsoll_protocol::peer::{
    HelloAnswer, PEER_PROTOCOL_MAX, PEER_PROTOCOL_MIN, PeerApi, PeerHello, PeerRefusal,
    ProtocolRange, StreamOpen,
};
use plimsoll_protocol::wire::DecodeError;
use plimsoll_transport::{Connection, FrameReceiver, FrameSender, OpenError, RecvError, SendError};
use thiserror::Error;

use crate::config::PeersConfig;
use crate::link::Begun;
use crate::node::Node;
use crate::slot::Slot;

/// Why no link came about.
#[derive(Debug, Error)]
pub(crate) enum HandshakeError {
    #[error(transparent)]
    Dial(#[from] crate::dial::DialError),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Sent(#[from] SendError),
    #[error(transparent)]
    Received(#[from] RecvError),
    #[error("the other side ended the connection before its hello")]
    Ended,
    #[error("its hello cannot be read: {0}")]
    Malformed(#[from] DecodeError),
    #[error("it began with a frame of kind {0}")]
    Unexpected(u16),
    #[error("{0}")]
    Refused(PeerRefusal),
    #[error("it does not fit: {0}")]
    Misfit(PeerRefusal),
    #[error("it took too long")]
    TimedOut,
}

/// What the other side of an accepted connection begins with.
pub(crate) enum First {
    Hello(PeerHello, FrameSender, FrameReceiver),
    Stream(StreamOpen, Frame, FrameSender, FrameReceiver),
    /// The hello of a version that has none in common with this one.
    Foreign(PeerRefusal, FrameSender),
}

/// This node's hello for a link.
pub(crate) fn hello(config: &PeersConfig, to: NodeId, link: u64, lanes: u8) -> PeerHello {
    PeerHello {
        protocol_min: PEER_PROTOCOL_MIN,
        protocol_max: PEER_PROTOCOL_MAX,
        cluster_id: config.cluster_id,
        node: config.node,
        to,
        incarnation: config.incarnation,
        boot_nonce: config.boot_nonce,
        version: config.version.clone(),
        unix_ms: (config.wall_clock)(),
        link,
        lanes,
    }
}

/// Checks a hello against who this node is and whom the connection's certificate names.
pub(crate) fn check(
    config: &PeersConfig,
    hello: &PeerHello,
    certified: NodeId,
) -> Result<(), PeerRefusal> {
    if hello.protocol_min > PEER_PROTOCOL_MAX || hello.protocol_max < PEER_PROTOCOL_MIN {
        let (min, max) = (PEER_PROTOCOL_MIN, PEER_PROTOCOL_MAX);
        return Err(PeerRefusal::Protocol(ProtocolRange { min, max }));
    }
    if hello.cluster_id != config.cluster_id {
        return Err(PeerRefusal::WrongCluster(config.cluster_id));
    }
    if hello.node != certified || hello.node == config.node {
        return Err(PeerRefusal::WrongNode(certified));
    }
    if hello.to != config.node {
        return Err(PeerRefusal::WrongNode(config.node));
    }
    Ok(())
}

/// Dials the node of `slot` and introduces this one.
pub(crate) async fn dial(
    node: &Node,
    slot: &Slot,
    address: &str,
) -> Result<(Begun, FrameSender, FrameReceiver), HandshakeError> {
    let (config, to) = (&node.config, slot.node);
    let connection = node.dial.dial(address, to, config.transport).await?;
    let lanes = match connection.has_many_streams() {
        true => config.limits.lanes.clamp(1, 64),
        false => 1,
    };
    if let Some(link) = slot.standing() {
        // The other side was quicker; a second link would end what is under way on the first.
        return Err(HandshakeError::Misfit(PeerRefusal::DuplicateLink(link.dialed_by)));
    }
    let (mut sender, mut receiver) = connection.open().await?;
    receiver.set_max_frame_bytes(FRAME_BYTES_MAX_BEFORE_HELLO);
    let ours = hello(config, to, (config.random)(), lanes);
    let (api, flags) = (PeerApi::PeerHello, FrameFlags::REQUEST);
    let frame = encode_frame(api, PeerApi::VERSION, flags, CorrelationId(0), &ours, 0);
    sender.send(frame.freeze(), &[]).await?;
    let frame = receiver.recv().await?.ok_or(HandshakeError::Ended)?;
    if frame.header.api != PeerApi::PeerHello.number() {
        return Err(HandshakeError::Unexpected(frame.header.api));
    }
    let theirs = match frame.decode_body()? {
        HelloAnswer::Welcome(theirs) => theirs,
        HelloAnswer::Refused(refusal) => return Err(HandshakeError::Refused(refusal)),
    };
    check(config, &theirs, to).map_err(HandshakeError::Misfit)?;
    if theirs.link != ours.link || theirs.lanes != ours.lanes {
        return Err(HandshakeError::Misfit(PeerRefusal::WrongNode(theirs.node)));
    }
    // The answer was made about half way between.
    let now = (config.wall_clock)();
    let clock_offset_ms = theirs.unix_ms.saturating_sub(ours.unix_ms.midpoint(now));
    let dialed_by = config.node;
    let begun = Begun { hello: theirs, dialed_by, clock_offset_ms, connection };
    Ok((begun, sender, receiver))
}

/// Reads what an accepted connection begins with.
pub(crate) async fn first(connection: &Connection) -> Result<First, HandshakeError> {
    let (sender, mut receiver) = connection.accept().await?.ok_or(HandshakeError::Ended)?;
    receiver.set_max_frame_bytes(FRAME_BYTES_MAX_BEFORE_HELLO);
    let frame = receiver.recv().await?.ok_or(HandshakeError::Ended)?;
    match PeerApi::from_number(frame.header.api) {
        Some(PeerApi::PeerHello) => match frame.decode_body() {
            Ok(hello) => Ok(First::Hello(hello, sender, receiver)),
            Err(error) => match foreign(&frame.body) {
                Some(refusal) => Ok(First::Foreign(refusal, sender)),
                None => Err(error.into()),
            },
        },
        Some(PeerApi::StreamOpen) => {
            Ok(First::Stream(frame.decode_body()?, frame, sender, receiver))
        }
        _ => Err(HandshakeError::Unexpected(frame.header.api)),
    }
}

/// What a hello that cannot be read begins with, in every version: the protocols that its sender
/// speaks. Where none is common, that is what it is to be told.
fn foreign(body: &[u8]) -> Option<PeerRefusal> {
    let (min, rest) = body.split_first_chunk()?;
    let (max, _) = rest.split_first_chunk()?;
    let (theirs_min, theirs_max) = (u16::from_le_bytes(*min), u16::from_le_bytes(*max));
    let (min, max) = (PEER_PROTOCOL_MIN, PEER_PROTOCOL_MAX);
    (theirs_min <= theirs_max && (theirs_min > max || theirs_max < min))
        .then_some(PeerRefusal::Protocol(ProtocolRange { min, max }))
}

/// The answer to a hello as a frame.
pub(crate) fn answer(answer: &HelloAnswer) -> bytes::Bytes {
    let (api, flags) = (PeerApi::PeerHello, FrameFlags::RESPONSE);
    encode_frame(api, PeerApi::VERSION, flags, CorrelationId(0), answer, 0).freeze()
}

/// What an accepted hello begins.
pub(crate) fn accepted(
    config: &PeersConfig,
    theirs: PeerHello,
    connection: Connection,
) -> (Begun, HelloAnswer) {
    let lanes = theirs.lanes.clamp(1, 64);
    let ours = hello(config, theirs.node, theirs.link, lanes);
    let clock_offset_ms = theirs.unix_ms.saturating_sub(ours.unix_ms);
    let dialed_by = theirs.node;
    let theirs = PeerHello { lanes, ..theirs };
    let begun = Begun { hello: theirs, dialed_by, clock_offset_ms, connection };
    (begun, HelloAnswer::Welcome(ours))
}

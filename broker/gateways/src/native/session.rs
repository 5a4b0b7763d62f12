//! One connection: a place for it, Hello within its deadline, then its streams.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use futures_util::FutureExt as _;
use plimsoll_protocol::api::{
    ApiKey, HelloRequest, HelloResponse, Request as _, check_api, negotiate_protocol,
    supported_apis,
};
use plimsoll_protocol::error::{ErrorCode, ErrorResponse};
use plimsoll_protocol::frame::{
    FRAME_BYTES_MAX_BEFORE_HELLO, Frame, FrameError, FrameFlags, FrameHeader, encode_error,
    encode_frame, encode_response,
};
use plimsoll_protocol::ids::{CorrelationId, NodeId};
use plimsoll_transport::{
    Connection, ConnectionFrameRoom, FrameReceiver, FrameSender, HeldRoom, RecvError, Stalled,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::stream;
use crate::broker::{Broker, StrangerPlace};
use crate::limits::Limits;

/// How long a peer may take to hear why its connection ends.
pub(super) const LAST_WORDS: Duration = Duration::from_secs(1);
/// Bytes of a broken connection that are read and dropped while the peer hears why it ends.
const DRAINED_BYTES_MAX: usize = 4 << 20;

/// In place of an address, of a node's stream: none of this machine.
const NOWHERE: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));

/// What the tasks of one connection share.
pub(super) struct Session {
    pub(super) broker: Arc<Broker>,
    pub(super) peer: SocketAddr,
    /// Another node of the cluster, for clients of its own.
    pub(super) node: Option<NodeId>,
    in_flight: Arc<Semaphore>,
    /// Shared with each produce request that is not stored yet.
    storing: Arc<Storing>,
    checking: Arc<Semaphore>,
    receiving: ConnectionFrameRoom,
    subscriptions: Arc<Semaphore>,
}

/// Held for as long as the node works on a produce request.
struct Storing;

/// Room for a produce request in flight: the node's until it is stored, its connection's until its
/// answer is written.
pub(super) struct Room {
    connection: OwnedSemaphorePermit,
    _node: OwnedSemaphorePermit,
    _storing: Arc<Storing>,
}

/// Room to check one batch, of its connection and of the node.
pub(super) struct CheckingRoom {
    _connection: OwnedSemaphorePermit,
    _node: OwnedSemaphorePermit,
}

async fn acquire(semaphore: &Arc<Semaphore>, bytes: u32) -> OwnedSemaphorePermit {
    let permit = Arc::clone(semaphore).acquire_many_owned(bytes).await;
    permit.expect("these semaphores are never closed")
}

impl Room {
    /// Gives the node's room back and keeps the connection's.
    pub(super) fn keep_connection(self) -> OwnedSemaphorePermit {
        self.connection
    }
}

/// A subscription's places; given back when it ends.
pub(super) struct SubscriptionPlace {
    broker: Arc<Broker>,
    _connection: OwnedSemaphorePermit,
    _node: OwnedSemaphorePermit,
}

impl Drop for SubscriptionPlace {
    fn drop(&mut self) {
        self.broker.counters().subscriptions_open.subtract(1);
    }
}

impl Session {
    fn new(broker: Arc<Broker>, peer: SocketAddr, node: Option<NodeId>) -> Arc<Self> {
        let limits = broker.limits();
        // Clients of another node share one connection: of them only the node's own limit counts.
        let subscriptions_max = match node {
            None => limits.subscriptions_per_connection_max,
            Some(_) => limits.subscriptions_max,
        };
        Arc::new(Self {
            peer,
            node,
            in_flight: Arc::new(Semaphore::new(limits.connection_in_flight_bytes_max)),
            storing: Arc::new(Storing),
            // One that is as large as any may be, or many small ones.
            checking: Arc::new(Semaphore::new(checked_bytes_max(limits))),
            receiving: broker.receiving().connection(limits.connection_receiving_bytes_max),
            subscriptions: Arc::new(Semaphore::new(subscriptions_max)),
            broker,
        })
    }

    /// Waits until there is room for `bytes` more in flight. The caller reads nothing meanwhile,
    /// which is how a producer is slowed down. What the frame was received in is given back then.
    ///
    /// # Errors
    /// Where others wait for what the frame was received in, and the connection's own room is kept by
    /// answers that the peer does not read.
    pub(super) async fn room(
        &self,
        bytes: usize,
        received_in: Option<HeldRoom>,
    ) -> Result<Room, Stalled> {
        let limit = self.broker.limits().connection_in_flight_bytes_max;
        let bytes = u32::try_from(bytes.min(limit)).unwrap_or(u32::MAX);
        // The own limit first: whoever waits for it must not hold a share of the node's.
        let own = acquire(&self.in_flight, bytes);
        let connection = match &received_in {
            None => own.await,
            // While something is being stored, it is the node that is late.
            Some(held) => held.keep_while(own, || Arc::strong_count(&self.storing) == 1).await?,
        };
        let node = acquire(self.broker.in_flight(), bytes).await;
        Ok(Room { connection, _node: node, _storing: Arc::clone(&self.storing) })
    }

    /// Waits until there is room to check a compressed batch that claims to be `bytes` without
    /// compression.
    pub(super) async fn checking_room(&self, bytes: u32) -> CheckingRoom {
        let limit = checked_bytes_max(self.broker.limits());
        let bytes = u32::try_from(limit).unwrap_or(u32::MAX).min(bytes);
        let connection = acquire(&self.checking, bytes).await;
        let node = acquire(self.broker.checking(), bytes).await;
        CheckingRoom { _connection: connection, _node: node }
    }

    /// Lets a stream's receiver take what a peer that has said Hello may send.
    fn admit(&self, receiver: &mut FrameReceiver) {
        receiver.set_max_frame_bytes(self.broker.limits().frame_bytes_max);
        receiver.set_room(self.receiving.clone());
    }

    /// Takes the places of one subscription.
    pub(super) fn subscription_place(&self) -> Result<SubscriptionPlace, ErrorResponse> {
        let limits = self.broker.limits();
        let refuse = |whose: &str, limit: usize, setting: &str| {
            ErrorResponse::new(
                ErrorCode::TooManySubscriptions,
                format!(
                    "{whose} has {limit} subscriptions already: end some, or raise `{setting}` of \
                     the node"
                ),
            )
        };
        let connection = Arc::clone(&self.subscriptions).try_acquire_owned().map_err(|_| {
            let limit = limits.subscriptions_per_connection_max;
            refuse("this connection", limit, "subscriptions_per_connection_max")
        })?;
        let node = Arc::clone(self.broker.subscriptions())
            .try_acquire_owned()
            .map_err(|_| refuse("this node", limits.subscriptions_max, "subscriptions_max"))?;
        self.broker.counters().subscriptions_open.add(1);
        let broker = Arc::clone(&self.broker);
        Ok(SubscriptionPlace { broker, _connection: connection, _node: node })
    }
}

/// What one connection may have in checking at once.
fn checked_bytes_max(limits: &Limits) -> usize {
    (limits.batch.records_bytes_max as usize).min(limits.checking_bytes_max)
}

/// Why a connection is ended from this side.
#[derive(Debug)]
pub(super) struct Ending {
    pub(super) code: ErrorCode,
    pub(super) reason: String,
}

impl Ending {
    pub(super) fn new(code: ErrorCode, reason: impl Into<String>) -> Self {
        Self { code, reason: reason.into() }
    }
}

/// Serves one connection until either side ends it. Never panics: a panic inside ends this
/// connection only. `stranger` is given back once the peer has said Hello.
pub async fn serve(connection: Connection, broker: Arc<Broker>, stranger: StrangerPlace) {
    let peer = connection.remote_addr();
    let place = match broker.places().take(peer.ip()) {
        Ok(place) => place,
        Err(full) => {
            broker.counters().connections_refused.add(1);
            let error = ErrorResponse::new(ErrorCode::TooManyConnections, full.to_string());
            // From here on another limit holds, and those who will find a place need theirs.
            drop(stranger);
            match broker.turning_away().try_acquire() {
                Ok(_told) => turn_away(&connection, &error).await,
                Err(_) => {
                    broker.counters().connections_dropped.add(1);
                    connection.close(u32::from(error.code.number()), &error.message);
                }
            }
            return;
        }
    };
    broker.counters().connections_accepted.add(1);
    broker.counters().connections_open.add(1);
    let served = AssertUnwindSafe(converse(&connection, &broker, stranger)).catch_unwind().await;
    let ending = served.unwrap_or_else(|_| {
        broker.counters().panics.add(1);
        tracing::error!(%peer, "a connection task panicked; the connection is closed");
        Err(Ending::new(ErrorCode::Internal, "the node failed on this connection; this is a bug"))
    });
    match ending {
        Ok(()) => connection.close(0, "done"),
        Err(Ending { code, reason }) => {
            tracing::debug!(%peer, %code, reason, "connection closed");
            connection.close(u32::from(code.number()), &reason);
        }
    }
    broker.counters().connections_open.subtract(1);
    drop(place);
}

/// Serves a stream of a link between nodes on which `node` is a client, until either side ends it. The link
/// has said who is who; its places and its end are the link's. Never panics.
pub async fn serve_node(
    broker: Arc<Broker>,
    node: NodeId,
    sender: FrameSender,
    mut receiver: FrameReceiver,
) {
    let session = Session::new(Arc::clone(&broker), NOWHERE, Some(node));
    session.admit(&mut receiver);
    let served = AssertUnwindSafe(stream::serve(session, sender, receiver)).catch_unwind().await;
    match served {
        Ok(Ok(())) => {}
        Ok(Err(Ending { code, reason })) => {
            tracing::debug!(%node, %code, reason, "a node's stream of requests was closed");
        }
        Err(_) => {
            broker.counters().panics.add(1);
            tracing::error!(%node, "a node's stream of requests panicked; it is closed");
        }
    }
}

/// Tells a peer that there is no place for it. What it sent is not looked at.
async fn turn_away(connection: &Connection, error: &ErrorResponse) {
    if let Ok(Ok(Some((mut sender, mut receiver)))) = timeout(LAST_WORDS, connection.accept()).await
    {
        receiver.set_max_frame_bytes(FRAME_BYTES_MAX_BEFORE_HELLO);
        if let Ok(Ok(Some(frame))) = timeout(LAST_WORDS, receiver.recv()).await {
            say_last(&mut sender, &mut receiver, encode_error(&frame.header, error)).await;
        }
    }
    connection.close(u32::from(error.code.number()), &error.message);
}

/// Writes a frame, ends the stream, and waits until the peer has read it.
async fn say_last(sender: &mut FrameSender, receiver: &mut FrameReceiver, frame: BytesMut) {
    let said = async {
        sender.send(frame.freeze(), &[]).await?;
        sender.finish().await
    };
    if let Ok(Ok(())) = timeout(LAST_WORDS, said).await {
        see_off(sender, receiver).await;
    }
}

/// Gives the peer a moment to read what was said last on a stream that was finished: bytes of the
/// peer that nobody reads would make the system drop it. A peer that does not listen has no claim to
/// more than that moment.
pub(super) async fn see_off(sender: &mut FrameSender, receiver: &mut FrameReceiver) {
    let drain = async {
        let mut dropped = 0;
        let mut buffer = BytesMut::new();
        while dropped < DRAINED_BYTES_MAX {
            buffer.clear();
            match receiver.recv_raw(&mut buffer).await {
                Ok(count) if count > 0 => dropped += count,
                _ => break,
            }
        }
    };
    let _ = timeout(LAST_WORDS, async { tokio::join!(sender.received(), drain) }).await;
}

/// The conversation of one connection.
async fn converse(
    connection: &Connection,
    broker: &Arc<Broker>,
    stranger: StrangerPlace,
) -> Result<(), Ending> {
    let deadline = broker.limits().hello_timeout;
    let greeted = timeout(deadline, greet(connection, broker)).await.unwrap_or_else(|_| {
        let reason = format!("no Hello within {} s", deadline.as_secs_f32());
        Err(Ending::new(ErrorCode::HelloRequired, reason))
    });
    let Some((sender, mut receiver)) = greeted? else { return Ok(()) };
    drop(stranger);
    connection.admit();
    let session = Session::new(Arc::clone(broker), connection.remote_addr(), None);
    session.admit(&mut receiver);
    let mut stopping = broker.stopping();
    let mut streams = JoinSet::new();
    streams.spawn(Box::pin(stream::serve(Arc::clone(&session), sender, receiver)));
    loop {
        tokio::select! {
            biased;
            // The one stream of a TCP or TLS connection sees the end of it by itself.
            accepted = connection.accept(), if connection.has_many_streams() => match accepted {
                Ok(Some((sender, mut receiver))) => {
                    session.admit(&mut receiver);
                    let serve = stream::serve(Arc::clone(&session), sender, receiver);
                    streams.spawn(Box::pin(serve));
                }
                // The peer is gone; what its streams still wait for has nobody to be told to.
                Ok(None) | Err(_) => return Ok(()),
            },
            Some(ended) = streams.join_next() => {
                finished(ended)?;
                if streams.is_empty() && !connection.has_many_streams() {
                    return Ok(());
                }
            }
            () = stopping.wait() => break,
        }
    }
    // Each stream sees the same flag, answers what it has, and ends.
    while let Some(ended) = streams.join_next().await {
        finished(ended)?;
    }
    Err(Ending::new(ErrorCode::ShuttingDown, "the node is shutting down"))
}

fn finished(ended: Result<Result<(), Ending>, tokio::task::JoinError>) -> Result<(), Ending> {
    match ended {
        Ok(outcome) => outcome,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Ok(()),
        },
    }
}

/// Takes the first stream and answers the Hello on it. `None`: the peer left.
async fn greet(
    connection: &Connection,
    broker: &Arc<Broker>,
) -> Result<Option<(FrameSender, FrameReceiver)>, Ending> {
    let Ok(Some((mut sender, mut receiver))) = connection.accept().await else { return Ok(None) };
    receiver.set_max_frame_bytes(FRAME_BYTES_MAX_BEFORE_HELLO);
    let frame = match receiver.recv().await {
        Ok(Some(frame)) => frame,
        Ok(None) => return Ok(None),
        Err(error) => {
            let Some(broken) = Broken::by(broker, &error) else { return Ok(None) };
            if let Some(answer) = broken.answer {
                say_last(&mut sender, &mut receiver, answer).await;
            }
            return Err(broken.ending);
        }
    };
    match answer_hello(broker, &frame) {
        Ok(reply) => {
            let head = encode_response::<HelloRequest>(frame.header.correlation, &reply, 0);
            if sender.send(head.freeze(), &[]).await.is_err() {
                return Ok(None);
            }
            Ok(Some((sender, receiver)))
        }
        Err(error) => {
            say_last(&mut sender, &mut receiver, encode_error(&frame.header, &error)).await;
            Err(Ending::new(error.code, error.message))
        }
    }
}

fn answer_hello(broker: &Broker, frame: &Frame) -> Result<HelloResponse, ErrorResponse> {
    let required = |what: String| ErrorResponse::new(ErrorCode::HelloRequired, what);
    match check_api(frame.header.api, frame.header.version) {
        Ok(ApiKey::Hello) if frame.header.flags.is_request() => {}
        // Of a later version of Hello only that much is known: that it asks for a greeting.
        Err(error) if frame.header.api == HelloRequest::API.number() => return Err(error),
        _ => {
            return Err(required(
                "the first request of a connection must be Hello; use a Plimsoll client".to_owned(),
            ));
        }
    }
    let hello: HelloRequest = frame.decode_body()?;
    let protocol = negotiate_protocol(&hello)?;
    let identity = broker.identity();
    if let Some(wanted) = &hello.cluster_id
        && *wanted != identity.cluster_id
    {
        return Err(ErrorResponse::new(
            ErrorCode::WrongCluster,
            format!(
                "this node belongs to cluster {}, not to {wanted:?}: check the address",
                identity.cluster_id
            ),
        ));
    }
    if broker.is_stopping() {
        return Err(ErrorResponse::new(ErrorCode::ShuttingDown, "the node is shutting down"));
    }
    tracing::debug!(client = hello.client_name, version = hello.client_version, "hello");
    let limits = broker.limits();
    Ok(HelloResponse {
        protocol,
        node_id: identity.node_id,
        cluster_id: identity.cluster_id.clone(),
        server_version: identity.version.clone(),
        max_frame_bytes: limits.frame_bytes_max,
        batch_bytes_max: limits.batch.batch_bytes_max,
        apis: supported_apis(),
    })
}

/// What cannot be read of a peer ends its connection.
pub(super) struct Broken {
    /// What the peer is told last, where it can be told.
    pub(super) answer: Option<BytesMut>,
    /// Why the connection ends.
    pub(super) ending: Ending,
}

impl Broken {
    /// What a failure to read means; `None` where the peer just left.
    pub(super) fn by(broker: &Broker, error: &RecvError) -> Option<Self> {
        let frame = |api: u16, correlation: CorrelationId, answer: &ErrorResponse| {
            Some(encode_frame(api, 0, FrameFlags::ERROR, correlation, answer, 0))
        };
        let (code, answer) = match error {
            RecvError::Frame(FrameError::TooLarge { api, correlation, limit, .. }) => {
                let code = ErrorCode::FrameTooLarge;
                let message = format!(
                    "{error}: split it, or raise `frame_bytes_max` of the node (now {limit})"
                );
                (code, frame(*api, *correlation, &ErrorResponse::new(code, message)))
            }
            RecvError::Frame(_) | RecvError::PeerSpeaksTls => {
                let code = ErrorCode::MalformedFrame;
                let answer = ErrorResponse::new(code, error.to_string());
                (code, frame(0, CorrelationId(0), &answer))
            }
            RecvError::Stalled { api, correlation, .. } => {
                let code = ErrorCode::Timeout;
                let message = format!("{error}: nothing of it was stored; send it again, faster");
                (code, frame(*api, *correlation, &ErrorResponse::new(code, message)))
            }
            RecvError::Truncated { .. } => (ErrorCode::MalformedFrame, None),
            RecvError::Reset { .. } | RecvError::Closed { .. } | RecvError::Io(_) => return None,
        };
        broker.counters().connections_broken.add(1);
        Some(Self { answer, ending: Ending::new(code, error.to_string()) })
    }

    /// The peer reads no answers, and so has others wait for the room of the frame that it sent.
    pub(super) fn unread(broker: &Broker, header: &FrameHeader) -> Self {
        broker.counters().connections_broken.add(1);
        let reason = "answers were not read, while frames waited for room; nothing of this frame was \
                      stored";
        let error = ErrorResponse::new(ErrorCode::Timeout, reason);
        let answer = Some(encode_error(header, &error));
        Self { answer, ending: Ending::new(error.code, reason) }
    }
}

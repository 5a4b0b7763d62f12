//! One link to another node: its streams, and what is unanswered on it.
//!
//! Invariant: once a link is closed, nothing waits on it any more: every request, session and stream
//! of it has ended with [`PeerError::Lost`].

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use plimsoll_protocol::frame::{Frame, FrameFlags, encode_frame};
use plimsoll_protocol::ids::{CorrelationId, GroupId, NodeId};
use plimsoll_protocol::peer::{Alive, PEER_FRAME_BYTES_MAX, PeerApi, PeerHello};
use plimsoll_protocol::wire::Encode;
use plimsoll_transport::{Connection, FrameReceiver, FrameSender};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::config::PeerLimits;
use crate::error::PeerError;
use crate::incoming::IncomingTable;
use crate::latch::Latch;
use crate::outbox::{NotTaken, Outbox, Outgoing};
use crate::session::SessionTable;

/// Codes with which connections of a link are closed.
pub(crate) mod code {
    /// The node goes down.
    pub(crate) const STOPPING: u32 = 1;
    /// Another link between the two stays.
    pub(crate) const DUPLICATE: u32 = 2;
    /// The link failed or its node is silent.
    pub(crate) const BROKEN: u32 = 3;
    /// The other side broke the protocol.
    pub(crate) const VIOLATION: u32 = 4;
    /// The other side is not wanted.
    pub(crate) const REFUSED: u32 = 5;
}

/// Room for an answer's frame beside its body.
const FRAME_SLACK_BYTES: usize = 1024;

/// A further stream of a link, once it says what it is for.
pub(crate) struct Arrival {
    pub(crate) role: Role,
    pub(crate) sender: FrameSender,
    pub(crate) receiver: FrameReceiver,
    /// The connection that carries it alone.
    pub(crate) connection: Option<Connection>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Control,
    Alive,
    Lane(u8),
    Seed,
    Client,
}

/// One link to another node.
pub(crate) struct Link {
    /// The other node.
    pub(crate) node: NodeId,
    /// Its hello.
    pub(crate) hello: PeerHello,
    /// Which of the two dialed.
    pub(crate) dialed_by: NodeId,
    /// The other's wall clock less ours.
    pub(crate) clock_offset_ms: i64,
    pub(crate) connection: Connection,
    pub(crate) limits: PeerLimits,
    pub(crate) control: Outbox,
    /// Of a connection with many streams; otherwise signs of life go with the control stream.
    pub(crate) alive: Option<Outbox>,
    pub(crate) lanes: Vec<Outbox>,
    pub(crate) sessions: SessionTable,
    pub(crate) incoming: IncomingTable,
    /// Bytes that may still be unanswered over all sessions.
    pub(crate) append_credit: Semaphore,
    pub(crate) arrivals: mpsc::UnboundedSender<Arrival>,
    pub(crate) sent: AtomicU64,
    pub(crate) received: AtomicU64,
    waiting: Mutex<WaitingRequests>,
    /// Why the link was closed.
    closed: Latch<Closed>,
    /// Its task has ended, and with it everything that others were told of the link.
    pub(crate) ended: Latch<()>,
}

#[derive(Debug, Clone)]
pub(crate) struct Closed {
    pub(crate) code: u32,
    pub(crate) reason: String,
}

#[derive(Default)]
struct WaitingRequests {
    next: u32,
    answers: BTreeMap<u32, oneshot::Sender<Frame>>,
    closed: bool,
}

/// What a link begins with.
pub(crate) struct Begun {
    pub(crate) hello: PeerHello,
    pub(crate) dialed_by: NodeId,
    pub(crate) clock_offset_ms: i64,
    pub(crate) connection: Connection,
}

impl Link {
    pub(crate) fn new(
        begun: Begun,
        limits: PeerLimits,
    ) -> (Arc<Link>, mpsc::UnboundedReceiver<Arrival>) {
        let Begun { hello, dialed_by, clock_offset_ms, connection } = begun;
        let (arrivals, arriving) = mpsc::unbounded_channel();
        // Lanes are bounded by credit, the stream of signs of life by their replacement.
        let lane = || Outbox::new(usize::MAX);
        let alive = connection.has_many_streams().then(lane);
        let link = Arc::new(Link {
            node: hello.node,
            dialed_by,
            clock_offset_ms,
            control: Outbox::new(limits.control_bytes_max),
            alive,
            lanes: (0..hello.lanes.max(1)).map(|_| lane()).collect(),
            sessions: SessionTable::default(),
            incoming: IncomingTable::default(),
            append_credit: Semaphore::new(limits.link_append_bytes_max),
            arrivals,
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            waiting: Mutex::default(),
            closed: Latch::default(),
            ended: Latch::default(),
            connection,
            limits,
            hello,
        });
        (link, arriving)
    }

    fn waiting(&self) -> MutexGuard<'_, WaitingRequests> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lane of a group's sessions.
    pub(crate) fn lane_of(&self, group: GroupId) -> u8 {
        // The count of lanes fits, being made from one.
        (group.0 % self.lanes.len() as u64) as u8
    }

    pub(crate) fn lost(&self) -> PeerError {
        PeerError::Lost { node: self.node }
    }

    /// Closes the link; the first reason stays. Its task sees to the rest.
    pub(crate) fn close(&self, code: u32, reason: impl Into<String>) {
        let reason = reason.into();
        if !self.closed.set(Closed { code, reason: reason.clone() }) {
            return;
        }
        self.control.close();
        if let Some(alive) = &self.alive {
            alive.close();
        }
        for lane in &self.lanes {
            lane.close();
        }
        self.append_credit.close();
        self.sessions.close();
        self.incoming.close();
        let mut waiting = self.waiting();
        waiting.closed = true;
        // Whoever waits for an answer learns of it by the end of its channel.
        waiting.answers.clear();
        drop(waiting);
        self.connection.close(code, &reason);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.is_set()
    }

    pub(crate) async fn closed(&self) -> Closed {
        self.closed.wait().await.clone()
    }

    pub(crate) fn note_received(&self, frame: &Frame) {
        self.received.fetch_add(frame.header.frame_bytes() as u64, Ordering::Relaxed);
    }

    /// Sends a request and waits for the frame that answers it.
    pub(crate) async fn ask(&self, api: PeerApi, body: &impl Encode) -> Result<Frame, PeerError> {
        let (answer, answered) = oneshot::channel();
        let correlation = {
            let mut waiting = self.waiting();
            if waiting.closed {
                return Err(self.lost());
            }
            if waiting.answers.len() >= self.limits.requests_max {
                return Err(PeerError::Full { node: self.node });
            }
            let mut correlation = waiting.next;
            while waiting.answers.contains_key(&correlation) {
                correlation = correlation.wrapping_add(1);
            }
            waiting.next = correlation.wrapping_add(1);
            waiting.answers.insert(correlation, answer);
            correlation
        };
        let waits = Waits { link: self, correlation };
        self.say(api, FrameFlags::REQUEST, CorrelationId(correlation), body)?;
        let frame = answered.await.map_err(|_| self.lost())?;
        drop(waits);
        Ok(frame)
    }

    /// Queues a frame on the control stream.
    pub(crate) fn say(
        &self,
        api: PeerApi,
        flags: FrameFlags,
        correlation: CorrelationId,
        body: &impl Encode,
    ) -> Result<(), PeerError> {
        let frame = encode_frame(api, PeerApi::VERSION, flags, correlation, body, 0);
        let limit = PEER_FRAME_BYTES_MAX as usize - FRAME_SLACK_BYTES;
        if frame.len() > limit {
            return Err(PeerError::TooLarge { bytes: frame.len(), limit });
        }
        self.control.push(Outgoing::new(frame)).map_err(|problem| match problem {
            NotTaken::Full => PeerError::Full { node: self.node },
            NotTaken::Closed => self.lost(),
        })
    }

    /// Gives an answer to whoever waits for it; one that nobody waits for any more is dropped.
    pub(crate) fn answered(&self, frame: Frame) {
        let waiter = self.waiting().answers.remove(&frame.header.correlation.0);
        if let Some(waiter) = waiter {
            // Given up a moment ago.
            let _ = waiter.send(frame);
        }
    }

    /// Queues a sign of life before everything else; one that still waits is made needless by it.
    pub(crate) fn show_alive(&self, alive: &Alive) {
        let (api, flags) = (PeerApi::Alive, FrameFlags::PUSH);
        let frame = encode_frame(api, PeerApi::VERSION, flags, CorrelationId(0), alive, 0);
        // Nothing else is urgent on either stream.
        self.alive.as_ref().unwrap_or(&self.control).push_latest(Outgoing::new(frame), 0);
    }
}

/// A request that waits; dropping it gives the answer up.
struct Waits<'a> {
    link: &'a Link,
    correlation: u32,
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.link.waiting().answers.remove(&self.correlation);
    }
}

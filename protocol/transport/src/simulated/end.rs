//! One end of a simulated connection: its streams, its windows, its end.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, Semaphore, oneshot, watch};

use super::stream::{ReceivingHalf, SendingHalf, StreamEnd};
use super::{ConnectionId, Message, Place, Side, SimulatedNetwork};
use crate::closing::{CloseReason, ClosedBy};
use crate::config::{STREAMS_BEFORE_ADMISSION, TransportConfig, WINDOW_BEFORE_ADMISSION};
use crate::peer_facts::PeerFacts;

/// Shared by the connection's handles and the halves of its streams; the connection is closed when the
/// last of them is gone.
pub(crate) struct End {
    network: SimulatedNetwork,
    id: ConnectionId,
    here: Place,
    there: Place,
    /// Of the process that it belongs to.
    life: u64,
    facts: PeerFacts,
    state: Mutex<EndState>,
    /// Streams that may still be opened here.
    opens: Semaphore,
    /// A stream that the peer opened has arrived, or the connection has ended.
    arrived: Notify,
    closed: watch::Sender<bool>,
}

struct EndState {
    streams: BTreeMap<u64, Arc<StreamEnd>>,
    arrivals: VecDeque<Arc<StreamEnd>>,
    /// The next stream that this side opens, and the next that the peer does.
    next_own: u64,
    next_theirs: u64,
    /// Bytes that may be sent on all streams.
    credit: usize,
    /// What the peer may have unread on all streams; no limit for who dialed.
    window: usize,
    /// Bytes read of all streams that the peer was not told of.
    read: usize,
    stream_window: usize,
    streams_max: usize,
    connection_window: usize,
    is_admitted: bool,
    accepted: Option<oneshot::Sender<bool>>,
    closed: Option<CloseReason>,
}

impl std::fmt::Debug for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("End")
            .field("id", &self.id)
            .field("here", &self.here)
            .finish_non_exhaustive()
    }
}

impl End {
    pub(super) fn new(
        network: SimulatedNetwork,
        id: ConnectionId,
        here: Place,
        there: Place,
        life: u64,
        facts: PeerFacts,
    ) -> Arc<End> {
        let usual = TransportConfig::default();
        let is_dialing = here.side == Side::Dialing;
        let strangers_window = WINDOW_BEFORE_ADMISSION as usize;
        let state = EndState {
            streams: BTreeMap::new(),
            arrivals: VecDeque::new(),
            next_own: u64::from(!is_dialing),
            next_theirs: u64::from(is_dialing),
            credit: if is_dialing { strangers_window } else { usize::MAX },
            window: if is_dialing { usize::MAX } else { strangers_window },
            read: 0,
            stream_window: usual.stream_window_bytes as usize,
            streams_max: usual.streams_max as usize,
            connection_window: usual.connection_window_bytes as usize,
            is_admitted: false,
            accepted: None,
            closed: None,
        };
        // Who accepts lets a stranger open a few; who dialed trusts the node.
        let opens = if is_dialing { STREAMS_BEFORE_ADMISSION } else { usual.streams_max };
        Arc::new(End {
            network,
            id,
            here,
            there,
            life,
            facts,
            state: Mutex::new(state),
            opens: Semaphore::new(opens as usize),
            arrived: Notify::new(),
            closed: watch::channel(false).0,
        })
    }

    fn lock(&self) -> MutexGuard<'_, EndState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn configure(&self, config: &TransportConfig) {
        let mut state = self.lock();
        state.stream_window = config.stream_window_bytes as usize;
        state.streams_max = config.streams_max as usize;
        state.connection_window = config.connection_window_bytes as usize;
    }

    pub(super) fn await_acceptance(&self, accepted: oneshot::Sender<bool>) {
        self.lock().accepted = Some(accepted);
    }

    pub(crate) fn id(&self) -> ConnectionId {
        self.id
    }

    pub(super) fn facts(&self) -> &PeerFacts {
        &self.facts
    }

    pub(super) fn life(&self) -> u64 {
        self.life
    }

    pub(super) fn local(&self) -> SocketAddr {
        self.here.address
    }

    pub(crate) fn remote(&self) -> SocketAddr {
        self.there.address
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed.is_some()
    }

    /// Sends a packet; a process that was killed says nothing more.
    pub(super) fn send(&self, message: Message) {
        if self.network.is_alive(self.here.address.ip(), self.life) {
            self.network.send(self.id, self.here, self.there, message);
        }
    }

    /// Opens a stream; waits while the peer's limit of streams is reached. `None`: the connection has
    /// ended.
    pub(crate) async fn open(self: &Arc<Self>) -> Option<(SendingHalf, ReceivingHalf)> {
        let place = self.opens.acquire().await.ok()?;
        place.forget();
        let mut state = self.lock();
        if state.closed.is_some() {
            return None;
        }
        let id = state.next_own;
        state.next_own += 2;
        let stream = StreamEnd::new(id, state.stream_window);
        state.streams.insert(id, Arc::clone(&stream));
        drop(state);
        Some(self.halves(stream))
    }

    fn halves(self: &Arc<Self>, stream: Arc<StreamEnd>) -> (SendingHalf, ReceivingHalf) {
        let sending = SendingHalf::new(Arc::clone(self), Arc::clone(&stream));
        (sending, ReceivingHalf::new(Arc::clone(self), stream))
    }

    /// The next stream that the peer has opened. `None`: the connection has ended.
    pub(crate) async fn accept(self: &Arc<Self>) -> Option<(SendingHalf, ReceivingHalf)> {
        loop {
            let arrived = self.arrived.notified();
            {
                let mut state = self.lock();
                if let Some(stream) = state.arrivals.pop_front() {
                    drop(state);
                    return Some(self.halves(stream));
                }
                if state.closed.is_some() {
                    // For others who wait.
                    self.arrived.notify_one();
                    return None;
                }
            }
            arrived.await;
        }
    }

    /// Gives the peer the configured number of streams and window.
    pub(crate) fn admit(&self) {
        let (streams, bytes) = {
            let mut state = self.lock();
            if state.is_admitted || self.here.side == Side::Dialing {
                return;
            }
            state.is_admitted = true;
            let more_bytes = state.connection_window.saturating_sub(state.window);
            state.window += more_bytes;
            (state.streams_max.saturating_sub(STREAMS_BEFORE_ADMISSION as usize), more_bytes)
        };
        self.send(Message::MoreStreams { count: streams });
        self.send(Message::Credit { bytes });
    }

    /// Takes up to `wanted` of what may be sent on all streams.
    pub(super) fn take_credit(&self, wanted: usize) -> usize {
        let mut state = self.lock();
        let taken = wanted.min(state.credit);
        if state.credit != usize::MAX {
            state.credit -= taken;
        }
        taken
    }

    /// So many bytes were read, or thrown away unread.
    pub(super) fn give_credit(&self, bytes: usize) {
        let due = {
            let mut state = self.lock();
            if state.window == usize::MAX {
                return;
            }
            state.read += bytes;
            if state.read < state.window / 4 {
                return;
            }
            std::mem::take(&mut state.read)
        };
        self.send(Message::Credit { bytes: due });
    }

    pub(super) fn stream_window(&self) -> usize {
        self.lock().stream_window
    }

    /// Both halves of a stream are gone here.
    pub(super) fn stream_is_done(&self, stream: u64) {
        let is_theirs = {
            let mut state = self.lock();
            state.streams.remove(&stream);
            stream % 2 != u64::from(self.here.side == Side::Accepting) && state.closed.is_none()
        };
        if is_theirs {
            self.send(Message::MoreStreams { count: 1 });
        }
    }

    /// Ends the connection from this side.
    pub(crate) fn close(&self, code: u32, text: &str) {
        let code = u64::from(code);
        let reason = CloseReason {
            by: ClosedBy::Here,
            code,
            text: "this side closed the connection".to_owned(),
        };
        if self.settle(reason) {
            self.send(Message::Close { code, text: text.to_owned() });
        }
    }

    /// The connection is lost.
    pub(super) fn fail(&self, text: &str) {
        self.settle(CloseReason { by: ClosedBy::Failure, code: 0, text: text.to_owned() });
    }

    /// Notes the end; false where it had ended already.
    fn settle(&self, reason: CloseReason) -> bool {
        let (streams, accepted) = {
            let mut state = self.lock();
            if state.closed.is_some() {
                return false;
            }
            state.closed = Some(reason);
            (state.streams.values().cloned().collect::<Vec<_>>(), state.accepted.take())
        };
        if let Some(accepted) = accepted {
            // Whoever dialed may have given up.
            let _ = accepted.send(false);
        }
        self.opens.close();
        self.closed.send_replace(true);
        self.arrived.notify_one();
        for stream in streams {
            stream.wake();
        }
        true
    }

    pub(crate) fn known_reason(&self) -> Option<CloseReason> {
        self.lock().closed.clone()
    }

    /// Waits for the end.
    pub(crate) async fn closed(&self) -> CloseReason {
        let mut closed = self.closed.subscribe();
        // The sender lives in `self`, so the only outcome is the flag.
        let _ = closed.wait_for(|closed| *closed).await;
        self.known_reason().expect("the reason is set before the flag")
    }

    /// A packet has arrived.
    pub(super) fn receive(&self, message: Message) {
        match message {
            Message::Open { .. } => {}
            Message::Accepted => {
                if let Some(accepted) = self.lock().accepted.take() {
                    // Whoever dialed may have given up.
                    let _ = accepted.send(true);
                }
            }
            Message::Refused => self.fail("nobody listens there"),
            Message::Unknown => self.fail("the process at the other end is gone"),
            Message::Close { code, text } => {
                let text = match text.is_empty() {
                    true => "the peer closed the connection".to_owned(),
                    false => format!("the peer closed the connection: {text}"),
                };
                self.settle(CloseReason { by: ClosedBy::Peer, code, text });
            }
            Message::MoreStreams { count } => self.opens.add_permits(count),
            Message::Credit { bytes } => {
                let streams = {
                    let mut state = self.lock();
                    state.credit = state.credit.saturating_add(bytes);
                    state.streams.values().cloned().collect::<Vec<_>>()
                };
                for stream in streams {
                    stream.wake_sender();
                }
            }
            Message::StreamCredit { stream, bytes } => {
                if let Some(stream) = self.stream(stream) {
                    stream.add_credit(bytes);
                }
            }
            Message::Stop { stream, code } => {
                if let Some(stream) = self.stream(stream) {
                    stream.stopped(code);
                }
            }
            Message::Data { stream, pieces } => {
                let bytes = pieces.iter().map(bytes::Bytes::len).sum();
                match self.stream(stream) {
                    Some(stream) if stream.push(pieces) => {}
                    // Nobody will read it.
                    _ => self.give_credit(bytes),
                }
            }
            Message::Finish { stream: id } => {
                if let Some(stream) = self.stream(id) {
                    stream.finished();
                }
                self.send(Message::Received { stream: id });
            }
            Message::Received { stream } => {
                if let Some(stream) = self.stream(stream) {
                    stream.received();
                }
            }
            Message::Reset { stream, code } => {
                if let Some(stream) = self.stream(stream) {
                    self.give_credit(stream.was_reset(code));
                }
            }
        }
    }

    /// The stream of this number; made, with those that the peer opened before it, where it is new.
    fn stream(&self, id: u64) -> Option<Arc<StreamEnd>> {
        let mut state = self.lock();
        if state.closed.is_some() {
            return None;
        }
        let is_theirs = id % 2 == state.next_theirs % 2;
        let mut is_news = false;
        while is_theirs && state.next_theirs <= id {
            let next = state.next_theirs;
            let stream = StreamEnd::new(next, state.stream_window);
            state.streams.insert(next, Arc::clone(&stream));
            state.arrivals.push_back(stream);
            state.next_theirs += 2;
            is_news = true;
        }
        let stream = state.streams.get(&id).cloned();
        drop(state);
        if is_news {
            self.arrived.notify_one();
        }
        stream
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let is_open = self.lock().closed.is_none();
        if is_open {
            self.send(Message::Close { code: 0, text: String::new() });
        }
        self.network.forget(self.id, self.here.side);
    }
}

/// A connection that has arrived and that nobody has looked at. Dropping it refuses it.
#[derive(Debug)]
pub(crate) struct SimulatedIncoming(pub(super) Arc<End>);

impl SimulatedIncoming {
    pub(crate) fn remote(&self) -> SocketAddr {
        self.0.remote()
    }

    /// Takes the connection.
    pub(crate) fn accept(self, config: &TransportConfig) -> Arc<End> {
        self.0.configure(config);
        self.0.send(Message::Accepted);
        self.0
    }
}

//! [`Peers`]: the links of a node.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use plimsoll_protocol::ids::{GroupId, LogId, NodeId};
use plimsoll_protocol::peer::{Condition, PeerMessage, PeerRequest};
use plimsoll_transport::{Connection, FrameReceiver, FrameSender, TransportKind};
use tokio::sync::{broadcast, watch};

use crate::config::PeersConfig;
use crate::dial::Dial;
use crate::error::PeerError;
use crate::handler::Handler;
use crate::liveness::{LivenessEvent, View};
use crate::session::Session;

/// Events that a slow subscriber may be behind.
const EVENTS_MAX: usize = 1024;

/// Another node, and where it is dialed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerAddr {
    /// The node.
    pub node: NodeId,
    /// `host:port` of its listener.
    pub address: String,
}

/// What is known of another node and the link to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    /// The node.
    pub node: NodeId,
    /// Where it is dialed; `None` of a node that only dials this one.
    pub address: Option<String>,
    /// Whether a link stands.
    pub linked: bool,
    /// Whether the node is heard.
    pub up: bool,
    /// By which carrier the link runs.
    pub transport: Option<TransportKind>,
    /// Round trip of the last sign of life that came back.
    pub round_trip: Option<Duration>,
    /// How long ago it was last heard.
    pub last_heard: Option<Duration>,
    /// Its wall clock less this node's at the link's handshake, in milliseconds.
    pub clock_offset_ms: Option<i64>,
    /// Its version.
    pub version: Option<String>,
    /// How often its data directory was opened.
    pub incarnation: Option<u64>,
    /// Whether it takes on work, as it last said.
    pub condition: Option<Condition>,
    /// How far its copy of the catalog is applied, as it last said.
    pub catalog: Option<LogId>,
    /// Bytes sent on the present link.
    pub bytes_sent: u64,
    /// Bytes received on the present link.
    pub bytes_received: u64,
    /// Append sessions to it on the present link.
    pub sessions: usize,
    /// What the last attempt to link ended with; `None` while a link stands.
    pub last_error: Option<String>,
}

/// The links of a node. Cheap to clone.
#[derive(Clone)]
pub struct Peers {
    inner: Arc<Inner>,
}

struct Inner {
    view: watch::Sender<Arc<View>>,
    events: broadcast::Sender<LivenessEvent>,
}

impl std::fmt::Debug for Peers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Peers")
    }
}

impl Peers {
    /// Begins with no other node. Must be called in a tokio runtime: the exchange of signs of life is
    /// a task.
    #[must_use]
    pub fn new(config: PeersConfig, _dial: Arc<dyn Dial>, _handler: Arc<dyn Handler>) -> Self {
        let view = watch::channel(Arc::new(View::alone(config.node))).0;
        let events = broadcast::channel(EVENTS_MAX).0;
        Self { inner: Arc::new(Inner { view, events }) }
    }

    /// Says who should be linked; this node is passed over. A changed address is dialed anew. Links
    /// to nodes that were listed and no longer are close. A node that was never listed may dial this
    /// one all the same: its certificate says that it belongs here, and this node's list may be old.
    pub fn set_peers(&self, _peers: Vec<PeerAddr>) {}

    /// Says who was removed from the cluster: their links close, and they are told so.
    pub fn set_removed(&self, _removed: BTreeSet<NodeId>) {}

    /// Takes a connection that was accepted with ALPN `plimsoll-node/1`; `certified` is the node that
    /// its certificate names, of this cluster. Spawns a task for it.
    pub fn serve(&self, _connection: Connection, _certified: NodeId) {}

    /// What this node believes of the others, as it changes.
    #[must_use]
    pub fn liveness(&self) -> watch::Receiver<Arc<View>> {
        self.inner.view.subscribe()
    }

    /// What this node believes of the others now.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        Arc::clone(&self.inner.view.borrow())
    }

    /// Changes of what this node believes, from now on. Who is told `Lagged` looks at [`Self::view`].
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<LivenessEvent> {
        self.inner.events.subscribe()
    }

    /// Says whether this node takes on work; told with every sign of life.
    pub fn set_condition(&self, _condition: Condition) {}

    /// Says how far this node's copy of the catalog is applied, and counts the changes of what it
    /// leads; told with every sign of life.
    pub fn advertise(&self, _catalog: Option<LogId>, _leads_version: u64) {}

    /// Whether `node` takes on work; `None` when it is not heard.
    #[must_use]
    pub fn condition_of(&self, node: NodeId) -> Option<Condition> {
        self.inner.view.borrow().conditions.get(&node).copied()
    }

    /// Asks `to` and waits for its answer. Requests are not in order with one another. The deadline
    /// is the caller's; dropping the future gives the answer up.
    ///
    /// # Errors
    /// [`PeerError`] by cause; [`PeerError::Unreachable`] at once where there is no link.
    pub async fn request<R: PeerRequest>(
        &self,
        to: NodeId,
        _request: R,
    ) -> Result<R::Response, PeerError> {
        Err(PeerError::Unreachable { node: to })
    }

    /// Sends a message without an answer. Messages to one node arrive in order, or not at all.
    ///
    /// # Errors
    /// [`PeerError::Unreachable`], [`PeerError::Full`], [`PeerError::TooLarge`].
    pub fn push<M: PeerMessage>(&self, to: NodeId, _message: M) -> Result<(), PeerError> {
        Err(PeerError::Unreachable { node: to })
    }

    /// Opens an append session for `group`. Costs one frame with the first append.
    ///
    /// # Errors
    /// [`PeerError::Unreachable`], [`PeerError::TooManySessions`].
    pub fn session(&self, to: NodeId, _group: GroupId) -> Result<Session, PeerError> {
        Err(PeerError::Unreachable { node: to })
    }

    /// Opens a stream for a transfer of segments to `to`. It ends with the link.
    ///
    /// # Errors
    /// [`PeerError::Unreachable`]; [`PeerError::Full`] when as many are open as allowed.
    pub async fn open_seed(&self, to: NodeId) -> Result<(FrameSender, FrameReceiver), PeerError> {
        Err(PeerError::Unreachable { node: to })
    }

    /// Every node that is listed or linked, by id.
    #[must_use]
    pub fn status(&self) -> Vec<PeerStatus> {
        Vec::new()
    }

    /// Closes every link and ends every task; what is under way ends with
    /// [`PeerError::Unreachable`] at both ends.
    pub async fn shutdown(&self) {}
}

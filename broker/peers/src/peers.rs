//! [`Peers`]: the links of a node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use plimsoll_protocol::frame::FrameFlags;
use plimsoll_protocol::ids::{CorrelationId, GroupId, LogId, NodeId};
use plimsoll_protocol::peer::{Alive, Condition, PeerMessage, PeerRequest};
use plimsoll_transport::{Connection, FrameReceiver, FrameSender, TransportKind};
use tokio::sync::{broadcast, watch};

use crate::config::PeersConfig;
use crate::dial::Dial;
use crate::dialer;
use crate::error::PeerError;
use crate::handler::Handler;
use crate::link::{Link, Role, code};
use crate::link_task;
use crate::liveness::{LivenessEvent, View};
use crate::node::Node;
use crate::session::{Session, SessionTable};
use crate::slot::Slot;
use crate::streams;

/// Another node, and where it is dialed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerAddr {
    /// The node.
    pub node: NodeId,
    /// `host:port` of its listener. Empty: nobody knows where it is now, and it is not dialed.
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
///
/// Tasks run from [`Self::new`] to [`Self::shutdown`]; dropping every clone does not end them.
#[derive(Clone)]
pub struct Peers {
    node: Arc<Node>,
}

impl std::fmt::Debug for Peers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Peers of node {}", self.node.config.node)
    }
}

impl Peers {
    /// Begins with no other node. Must be called in a tokio runtime: the exchange of signs of life is
    /// a task.
    #[must_use]
    pub fn new(config: PeersConfig, dial: Arc<dyn Dial>, handler: Arc<dyn Handler>) -> Self {
        let node = Node::new(config, dial, handler);
        node.spawn(Arc::clone(&node).exchange_signs());
        Self { node }
    }

    /// This node.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.node.config.node
    }

    /// Says who should be linked; this node is passed over. A node whose address has changed is
    /// dialed there at once, unless a link to it stands; one whose address is not known any more keeps
    /// its link. Links to nodes that were listed and no longer are close. A node that was never listed may dial this one all the same: its certificate says
    /// that it belongs here, and this node's list may be old.
    pub fn set_peers(&self, peers: Vec<PeerAddr>) {
        let mut listed: BTreeMap<NodeId, String> =
            peers.into_iter().map(|peer| (peer.node, peer.address)).collect();
        listed.remove(&self.node());
        for slot in self.node.slots() {
            let is_listed = listed.contains_key(&slot.node);
            if slot.set_listed(is_listed) && !is_listed {
                slot.address.send_replace(None);
                if let Some(link) = slot.standing() {
                    link.close(code::REFUSED, "the node is no longer a member");
                }
                self.node.forget(slot.node);
            }
        }
        for (node, address) in listed {
            let (slot, is_new) = self.node.slot_to_dial(node);
            slot.set_listed(true);
            let address = (!address.is_empty()).then_some(address);
            slot.address.send_if_modified(|present| {
                let changed = *present != address;
                *present = address;
                changed
            });
            self.node.table().add(node);
            if is_new && !self.node.is_stopping() {
                self.node.spawn(dialer::keep_linked(Arc::clone(&self.node), slot));
            }
        }
    }

    /// Says who was removed from the cluster: their links close, and they are told so.
    pub fn set_removed(&self, removed: BTreeSet<NodeId>) {
        self.node.set_removed(removed);
    }

    /// Takes a connection that was accepted with ALPN `plimsoll-node/1`; `certified` is the node that
    /// its certificate names, of this cluster. Spawns a task for it.
    pub fn serve(&self, connection: Connection, certified: NodeId) {
        self.node.spawn(dialer::serve(Arc::clone(&self.node), connection, certified));
    }

    /// What this node believes of the others, as it changes. Each call makes a channel: in a simulation
    /// do not clone the receiver, as several on one channel wake in an order of chance.
    #[must_use]
    pub fn liveness(&self) -> watch::Receiver<Arc<View>> {
        self.node.subscribe()
    }

    /// What this node believes of the others now.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        self.node.view()
    }

    /// Changes of what this node believes, from now on; the view that a change led to is there before
    /// the event. Who is told `Lagged` looks at [`Self::view`].
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<LivenessEvent> {
        self.node.events.subscribe()
    }

    /// Says whether this node takes on work; told with every sign of life.
    pub fn set_condition(&self, condition: Condition) {
        self.node.table().own_mut().condition = condition;
    }

    /// Says how far this node's copy of the catalog is applied, and counts the changes of what it
    /// leads; told with every sign of life.
    pub fn advertise(&self, catalog: Option<LogId>, leads_version: u64) {
        let mut table = self.node.table();
        let own = table.own_mut();
        (own.catalog, own.leads_version) = (catalog, leads_version);
    }

    /// Whether `node` takes on work; `None` when it is not heard.
    #[must_use]
    pub fn condition_of(&self, node: NodeId) -> Option<Condition> {
        self.node.view().conditions.get(&node).copied()
    }

    /// The last sign of life of `node`, and how long ago it came; `None` when it was never heard in
    /// its present life.
    #[must_use]
    pub fn last_sign(&self, node: NodeId) -> Option<(Alive, Duration)> {
        let table = self.node.table();
        table.last_sign(self.node.now(), node).map(|(alive, ago)| (alive.clone(), ago))
    }

    fn link(&self, to: NodeId) -> Result<Arc<Link>, PeerError> {
        self.node.link(to).ok_or(PeerError::Unreachable { node: to })
    }

    /// Asks `to` and waits for its answer. Requests are not in order with one another. The deadline
    /// is the caller's; dropping the future gives the answer up.
    ///
    /// # Errors
    /// [`PeerError`] by cause; [`PeerError::Unreachable`] at once where there is no link.
    pub async fn request<R: PeerRequest>(
        &self,
        to: NodeId,
        request: R,
    ) -> Result<R::Response, PeerError> {
        let frame = self.link(to)?.ask(R::API, &request).await?;
        let malformed = |source| PeerError::Malformed { node: to, source };
        if frame.header.flags.is_error() {
            let failure = frame.decode_body().map_err(malformed)?;
            return Err(PeerError::Failed { node: to, failure });
        }
        frame.decode_body().map_err(malformed)
    }

    /// Sends a message without an answer. Messages to one node arrive in order, or not at all.
    ///
    /// # Errors
    /// [`PeerError::Unreachable`], [`PeerError::Lost`], [`PeerError::Full`], [`PeerError::TooLarge`].
    #[expect(clippy::needless_pass_by_value, reason = "as a request, a message is used up")]
    pub fn push<M: PeerMessage>(&self, to: NodeId, message: M) -> Result<(), PeerError> {
        self.link(to)?.say(M::API, FrameFlags::PUSH, CorrelationId(0), &message)
    }

    /// Ends the link to `node`, if one stands, as it is of no more use; another one is made.
    pub fn unlink(&self, node: NodeId, reason: &str) {
        if let Some(link) = self.node.link(node) {
            link.close(code::BROKEN, reason);
        }
    }

    /// Opens an append session for `group`. Costs one frame with the first append.
    ///
    /// # Errors
    /// [`PeerError::Unreachable`], [`PeerError::TooManySessions`].
    pub fn session(&self, to: NodeId, group: GroupId) -> Result<Session, PeerError> {
        SessionTable::open(&self.link(to)?, group)
    }

    /// Opens a stream for a transfer of segments to `to`. It ends with the link.
    ///
    /// # Errors
    /// [`PeerError::Unreachable`], [`PeerError::Lost`]. How many are open at once is the caller's to bound.
    pub async fn open_seed(&self, to: NodeId) -> Result<(FrameSender, FrameReceiver), PeerError> {
        self.open(to, Role::Seed).await
    }

    /// Opens a stream on which this node is a client of `to`: frames of the key space of clients, without a
    /// Hello, since the link has said who is who. It ends with the link.
    ///
    /// # Errors
    /// As [`Self::open_seed`].
    pub async fn open_client(&self, to: NodeId) -> Result<(FrameSender, FrameReceiver), PeerError> {
        self.open(to, Role::Client).await
    }

    async fn open(
        &self,
        to: NodeId,
        role: Role,
    ) -> Result<(FrameSender, FrameReceiver), PeerError> {
        let link = self.link(to)?;
        let slot = self.node.slot(to);
        let opened = link_task::open_stream(&self.node, &slot, &link, role);
        let opened = tokio::select! {
            biased;
            _ = link.closed() => return Err(link.lost()),
            opened = opened => opened,
        };
        let mut arrival = opened.map_err(|error| {
            tracing::debug!(peer = %to, %error, "no further stream");
            link.lost()
        })?;
        streams::prepare(&mut arrival);
        if let Some(connection) = arrival.connection {
            tokio::spawn(link_task::end_with(link, connection));
        }
        Ok((arrival.sender, arrival.receiver))
    }

    /// Every node that is listed or was linked, by id.
    #[must_use]
    pub fn status(&self) -> Vec<PeerStatus> {
        self.node.slots().iter().map(|slot| self.status_of(slot)).collect()
    }

    fn status_of(&self, slot: &Slot) -> PeerStatus {
        let (node, link) = (slot.node, slot.standing());
        let table = self.node.table();
        let sign = table.last_sign(self.node.now(), node);
        let count = |counter: fn(&Link) -> u64| link.as_deref().map_or(0, counter);
        PeerStatus {
            node,
            address: slot.address.borrow().clone(),
            linked: link.is_some(),
            up: table.hears(node),
            transport: link.as_ref().map(|link| link.connection.kind()),
            round_trip: table.round_trip(node),
            last_heard: sign.map(|(_, ago)| ago),
            clock_offset_ms: link.as_ref().map(|link| link.clock_offset_ms),
            version: link.as_ref().map(|link| link.hello.version.clone()),
            incarnation: link.as_ref().map(|link| link.hello.incarnation),
            condition: sign.map(|(alive, _)| alive.condition),
            catalog: sign.and_then(|(alive, _)| alive.catalog),
            bytes_sent: count(|link| link.sent.load(Ordering::Relaxed)),
            bytes_received: count(|link| link.received.load(Ordering::Relaxed)),
            sessions: link.as_ref().map_or(0, |link| link.sessions.len()),
            last_error: if link.is_some() { None } else { slot.last_error() },
        }
    }

    /// Closes every link and ends every task; what is under way ends with
    /// [`PeerError::Lost`] at both ends.
    pub async fn shutdown(&self) {
        // Every task looks at it.
        self.node.stopping.set(());
        self.node.ended().await;
    }
}

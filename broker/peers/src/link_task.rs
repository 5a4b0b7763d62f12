//! The task that holds a link together: it begins its streams, and ends them all when one ends.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use plimsoll_transport::{Connection, FrameReceiver, FrameSender};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::handshake::HandshakeError;
use crate::link::{Arrival, Closed, Link, Role, code};
use crate::node::Node;
use crate::slot::Slot;
use crate::streams::{self, StreamEnd};

/// How long the other side of a dialed connection has to acknowledge its end.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(1);

/// What a link's task begins with.
pub(crate) struct Start {
    pub(crate) slot: Arc<Slot>,
    pub(crate) link: Arc<Link>,
    /// The link whose place it takes; it ends first.
    pub(crate) replaced: Option<Arc<Link>>,
    pub(crate) sender: FrameSender,
    pub(crate) receiver: FrameReceiver,
    pub(crate) arriving: mpsc::UnboundedReceiver<Arrival>,
}

/// Runs until the link is closed or one of its streams ends.
pub(crate) async fn run(node: Arc<Node>, start: Start) {
    let Start { slot, link, replaced, mut sender, mut receiver, arriving } = start;
    let mut end = End::of(&node, &slot, &link);
    if let Some(replaced) = replaced {
        // The end of the one is told before the beginning of the other.
        tokio::select! {
            biased;
            _ = replaced.ended.wait() => {}
            () = node.stopped() => {
                end.because(code::STOPPING, "the node is going down");
                return;
            }
        }
    }
    tracing::info!(peer = %link.node, dialed_by = %link.dialed_by, "linked");
    end.is_told = true;
    node.handler.linked(link.node);
    streams::prepare_control(&mut sender, &mut receiver);
    let mut running = Running { node: Arc::clone(&node), link, tasks: JoinSet::new() };
    let link = Arc::clone(&running.link);
    running.tasks.spawn(streams::write(Arc::clone(&link), Role::Control, sender));
    running.tasks.spawn(streams::read_control(Arc::clone(&link), Arc::clone(&node), receiver));
    if link.connection.has_many_streams() {
        running.tasks.spawn(streams::accept(Arc::clone(&link)));
    }
    if link.dialed_by == node.config.node {
        running.tasks.spawn(open_streams(Arc::clone(&node), Arc::clone(&slot), Arc::clone(&link)));
    }
    let (closed, extra) = running.until_closed(arriving).await;
    link.close(closed.code, closed.reason.clone());
    for connection in &extra {
        connection.close(closed.code, &closed.reason);
    }
    running.tasks.shutdown().await;
    tracing::info!(peer = %link.node, reason = %closed.reason, "link ended");
    end.because(closed.code, closed.reason);
    drop(end);
    // The other side hears of the end, if it is there; whoever stops the process waits for it.
    let _ = timeout(DRAIN_TIME_MAX, link.connection.drained()).await;
}

/// The end of a link, whatever ends its task: a panic, too, leaves its place free and nobody waiting
/// for it.
struct End {
    node: Arc<Node>,
    slot: Arc<Slot>,
    link: Arc<Link>,
    /// Whether the handler was told of the link.
    is_told: bool,
    closed: Closed,
}

impl End {
    fn of(node: &Arc<Node>, slot: &Arc<Slot>, link: &Arc<Link>) -> Self {
        let (node, slot, link) = (Arc::clone(node), Arc::clone(slot), Arc::clone(link));
        let reason = "the link's task failed; this is a bug".to_owned();
        Self { node, slot, link, is_told: false, closed: Closed { code: code::BROKEN, reason } }
    }

    fn because(&mut self, code: u32, reason: impl Into<String>) {
        self.closed = Closed { code, reason: reason.into() };
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let Self { node, slot, link, is_told, closed } = self;
        link.close(closed.code, closed.reason.clone());
        slot.clear(link, &closed.reason);
        let told = AssertUnwindSafe(|| {
            if *is_told {
                node.handler.unlinked(link.node);
            }
        });
        // Here it may be unwinding already: a second panic, let out, would end the process.
        if std::panic::catch_unwind(told).is_err() {
            tracing::error!(peer = %link.node, "the end of a link was not taken in; this is a bug");
        }
        link.ended.set(());
    }
}

struct Running {
    node: Arc<Node>,
    link: Arc<Link>,
    tasks: JoinSet<Result<(), StreamEnd>>,
}

impl Running {
    /// Why the link ends, and the further connections that it had.
    async fn until_closed(
        &mut self,
        mut arriving: mpsc::UnboundedReceiver<Arrival>,
    ) -> (Closed, Vec<Connection>) {
        let (node, link) = (Arc::clone(&self.node), Arc::clone(&self.link));
        let broken = |reason: String| Closed { code: code::BROKEN, reason };
        let mut extra = Vec::new();
        let mut missing: Vec<Role> = link.alive.iter().map(|_| Role::Alive).collect();
        missing.extend((0..).take(link.lanes.len()).map(Role::Lane));
        let deadline = tokio::time::sleep(link.limits.handshake_timeout);
        tokio::pin!(deadline);
        loop {
            tokio::select! {
                biased;
                closed = link.closed() => return (closed, extra),
                () = node.stopped() => {
                    let reason = "the node is going down".to_owned();
                    return (Closed { code: code::STOPPING, reason }, extra);
                }
                Some(arrival) = arriving.recv() => {
                    let role = arrival.role;
                    match missing.iter().position(|other| *other == role) {
                        Some(position) => {
                            missing.swap_remove(position);
                        }
                        None if matches!(role, Role::Seed | Role::Client) => {}
                        None => {
                            let reason = "a stream was opened twice".to_owned();
                            return (Closed { code: code::VIOLATION, reason }, extra);
                        }
                    }
                    self.begin(arrival, &mut extra);
                }
                Some(done) = self.tasks.join_next() => match done {
                    Ok(Ok(())) => {}
                    Ok(Err(end)) => {
                        let code =
                            if end.is_violation() { code::VIOLATION } else { code::BROKEN };
                        // What the connection itself says is nearer to the cause.
                        let reason = match link.connection.close_reason() {
                            Some(reason) if code == code::BROKEN => reason.text,
                            _ => end.to_string(),
                        };
                        if code == code::VIOLATION {
                            tracing::error!(peer = %link.node, %reason, "a node broke the protocol");
                        }
                        return (Closed { code, reason }, extra);
                    }
                    Err(error) => return (broken(format!("a task failed: {error}")), extra),
                },
                reason = link.connection.closed() => return (broken(reason.text), extra),
                () = &mut deadline, if !missing.is_empty() => {
                    return (broken("its streams did not come in time".to_owned()), extra);
                }
            }
        }
    }

    fn begin(&mut self, mut arrival: Arrival, extra: &mut Vec<Connection>) {
        streams::prepare(&mut arrival);
        let Arrival { role, sender, receiver, connection } = arrival;
        let (link, node) = (Arc::clone(&self.link), Arc::clone(&self.node));
        match role {
            // The one stream that is there from the start: another is refused before.
            Role::Control => {}
            Role::Alive => {
                self.tasks.spawn(streams::write(Arc::clone(&link), role, sender));
                self.tasks.spawn(streams::read_alive(link, node, receiver));
            }
            Role::Lane(lane) => {
                self.tasks.spawn(streams::write(Arc::clone(&link), role, sender));
                self.tasks.spawn(streams::read_lane(link, node, lane, receiver));
            }
            Role::Seed | Role::Client => {
                if let Some(connection) = connection {
                    tokio::spawn(end_with(link, connection));
                }
                match role {
                    Role::Seed => node.handler.seed(self.link.node, sender, receiver),
                    _ => node.handler.client(self.link.node, sender, receiver),
                }
                return;
            }
        }
        extra.extend(connection);
    }
}

/// Opens the streams that a link has from the start.
async fn open_streams(node: Arc<Node>, slot: Arc<Slot>, link: Arc<Link>) -> Result<(), StreamEnd> {
    let roles = link.alive.iter().map(|_| Role::Alive);
    let lanes = (0..).take(link.lanes.len()).map(Role::Lane);
    for role in roles.chain(lanes) {
        open_stream(&node, &slot, &link, role)
            .await
            .map_err(|error| StreamEnd::Open(error.to_string()))
            .and_then(|arrival| {
                link.arrivals.send(arrival).map_err(|_| StreamEnd::Ended("last"))
            })?;
    }
    Ok(())
}

/// Opens a further stream: on the link's connection, or on one of its own.
pub(crate) async fn open_stream(
    node: &Node,
    slot: &Slot,
    link: &Link,
    role: Role,
) -> Result<Arrival, HandshakeError> {
    let connection = if link.connection.has_many_streams() {
        None
    } else {
        let address = slot.address.borrow().clone().ok_or(HandshakeError::Ended)?;
        Some(node.dial.dial(&address, link.node, link.connection.kind()).await?)
    };
    let (mut sender, receiver) = connection.as_ref().unwrap_or(&link.connection).open().await?;
    let opening = streams::opening(link, node, role);
    sender.send(opening.head, &opening.payload).await?;
    Ok(Arrival { role, sender, receiver, connection })
}

/// Ends a connection with its link.
pub(crate) async fn end_with(link: Arc<Link>, connection: Connection) {
    tokio::select! {
        biased;
        closed = link.closed() => connection.close(closed.code, &closed.reason),
        _ = connection.closed() => {}
    }
}

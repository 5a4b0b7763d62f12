//! The tasks by which links come about: dialing, and answering those who dial.

use std::sync::Arc;
use std::time::Duration;

use plimsoll_protocol::ids::NodeId;
use plimsoll_protocol::peer::{HelloAnswer, PeerHello, PeerRefusal};
use plimsoll_transport::{Connection, FrameReceiver, FrameSender};
use tokio::time::{Instant, timeout};

use crate::handshake::{self, First, HandshakeError};
use crate::link::{Arrival, Link, code};
use crate::link_task::{self, Start};
use crate::node::Node;
use crate::outbox::Outgoing;
use crate::slot::Slot;
use crate::streams;

/// How long a node that is refused has to read why.
const REFUSAL_TIME_MAX: Duration = Duration::from_secs(1);

/// Dials a node whenever it is listed and no link stands, until this node stops.
pub(crate) async fn keep_linked(node: Arc<Node>, slot: Arc<Slot>) {
    let limits = node.config.limits;
    let mut pause = limits.redial_min;
    // Of two nodes that begin together, or lose a link, the lower id dials first: one link comes of it,
    // not two of which one goes.
    let courtesy = match node.config.node > slot.node {
        true => limits.redial_min * 2,
        false => Duration::ZERO,
    };
    sleep(&node, &slot, jittered(&node, courtesy)).await;
    loop {
        let mut address = slot.address.subscribe();
        let listed =
            async { address.wait_for(Option::is_some).await.ok().and_then(|at| at.clone()) };
        let address = tokio::select! {
            biased;
            () = node.stopped() => return,
            address = listed => address,
        };
        let present = slot.link.borrow().clone();
        if let Some(link) = present {
            let since = Instant::now();
            tokio::select! {
                biased;
                () = node.stopped() => return,
                _ = link.ended.wait() => {}
            }
            if since.elapsed() >= limits.redial_max {
                pause = limits.redial_min;
            }
        } else if let Some(address) = address {
            let attempt =
                timeout(limits.handshake_timeout, handshake::dial(&node, &slot, &address));
            let outcome = tokio::select! {
                biased;
                () = node.stopped() => return,
                outcome = attempt => outcome.unwrap_or(Err(HandshakeError::TimedOut)),
            };
            if let Err(error) = outcome.and_then(|dialed| begin(&node, &slot, dialed)) {
                note_failure(&node, &slot, &address, &error);
            } else {
                continue;
            }
        }
        sleep(&node, &slot, jittered(&node, pause) + jittered(&node, courtesy)).await;
        pause = (pause * 2).min(limits.redial_max);
    }
}

/// Between a half and the whole of `pause`.
fn jittered(node: &Node, pause: Duration) -> Duration {
    let micros = u64::try_from(pause.as_micros()).unwrap_or(u64::MAX);
    let half = micros / 2;
    Duration::from_micros(half + (node.config.random)() % (half + 1))
}

/// Waits, but no longer than until the address changes or a link comes about.
async fn sleep(node: &Node, slot: &Slot, pause: Duration) {
    let (mut address, mut link) = (slot.address.subscribe(), slot.link.subscribe());
    tokio::select! {
        biased;
        () = node.stopped() => {}
        _ = address.changed() => {}
        _ = link.wait_for(Option::is_some) => {}
        () = tokio::time::sleep(pause) => {}
    }
}

fn begin(
    node: &Arc<Node>,
    slot: &Arc<Slot>,
    (begun, sender, receiver): (crate::link::Begun, FrameSender, FrameReceiver),
) -> Result<(), HandshakeError> {
    let (link, arriving) = Link::new(begun, node.config.limits);
    match node.install(slot, &link) {
        Ok(replaced) => {
            let slot = Arc::clone(slot);
            let start = Start { slot, link, replaced, sender, receiver, arriving };
            node.spawn(link_task::run(Arc::clone(node), start));
            Ok(())
        }
        Err(refusal) => {
            let code = match refusal {
                PeerRefusal::DuplicateLink(_) => code::DUPLICATE,
                _ => code::REFUSED,
            };
            link.connection.close(code, &refusal.to_string());
            Err(HandshakeError::Misfit(refusal))
        }
    }
}

fn note_failure(node: &Node, slot: &Slot, address: &str, error: &HandshakeError) {
    tracing::debug!(peer = %slot.node, address, %error, "no link to a node");
    match error {
        HandshakeError::Refused(PeerRefusal::DuplicateLink(_))
        | HandshakeError::Misfit(PeerRefusal::DuplicateLink(_)) => return,
        HandshakeError::Refused(PeerRefusal::Stopping(_)) => {}
        HandshakeError::Refused(refusal) => {
            tracing::warn!(peer = %slot.node, address, %refusal, "a node refuses the link");
            node.handler.refused(slot.node, refusal.clone());
        }
        HandshakeError::Misfit(refusal) => {
            tracing::warn!(peer = %slot.node, address, %refusal, "a node is not what it should be");
        }
        _ => {}
    }
    slot.note_error(format!("{address}: {error}"));
}

/// Answers a node that has dialed this one.
pub(crate) async fn serve(node: Arc<Node>, connection: Connection, certified: NodeId) {
    let beginning = timeout(node.config.limits.handshake_timeout, handshake::first(&connection));
    let first = tokio::select! {
        biased;
        () = node.stopped() => return,
        first = beginning => first.unwrap_or(Err(HandshakeError::TimedOut)),
    };
    match first {
        Ok(First::Hello(hello, sender, receiver)) => {
            greet(&node, connection, certified, hello, sender, receiver).await;
        }
        Ok(First::Stream(open, frame, sender, receiver)) => {
            let slot = node.slot(certified);
            let link = slot.standing().filter(|link| link.hello.link == open.link);
            let role = link.as_ref().map(|link| streams::opened(link, &frame));
            match (link, role) {
                (Some(link), Some(Ok(role))) if !connection.has_many_streams() => {
                    let connection = Some(connection);
                    // Where the link's task is gone, the connection goes with the arrival.
                    let _ = link.arrivals.send(Arrival { role, sender, receiver, connection });
                }
                _ => connection.close(code::REFUSED, "it belongs to no link"),
            }
        }
        Ok(First::Foreign(refusal, sender)) => {
            refuse(connection, certified, sender, refusal).await;
        }
        Err(error) => {
            tracing::debug!(peer = %certified, %error, "a node dialed and said no hello");
            connection.close(code::REFUSED, &error.to_string());
        }
    }
}

async fn greet(
    node: &Arc<Node>,
    connection: Connection,
    certified: NodeId,
    hello: PeerHello,
    sender: FrameSender,
    receiver: FrameReceiver,
) {
    let checked = handshake::check(&node.config, &hello, certified);
    let installed = checked.and_then(|()| {
        connection.admit();
        let (begun, welcome) = handshake::accepted(&node.config, hello, connection.clone());
        let (link, arriving) = Link::new(begun, node.config.limits);
        // The first frame of the stream, whatever others may want to say once the link is in place.
        let queued = link.control.push(Outgoing::new(handshake::answer(&welcome)));
        assert!(queued.is_ok(), "an empty outbox takes a frame");
        let slot = node.slot(certified);
        let replaced = node.install(&slot, &link)?;
        Ok((slot, link, arriving, replaced))
    });
    match installed {
        Ok((slot, link, arriving, replaced)) => {
            let start = Start { slot, link, replaced, sender, receiver, arriving };
            node.spawn(link_task::run(Arc::clone(node), start));
        }
        Err(refusal) => refuse(connection, certified, sender, refusal).await,
    }
}

/// Tells a node why it gets no link.
async fn refuse(
    connection: Connection,
    certified: NodeId,
    mut sender: FrameSender,
    refusal: PeerRefusal,
) {
    tracing::debug!(peer = %certified, %refusal, "a node was refused");
    let reason = refusal.to_string();
    let answer = handshake::answer(&HelloAnswer::Refused(refusal));
    let told = async {
        sender.send(answer, &[]).await?;
        sender.finish().await?;
        sender.received().await;
        Ok::<_, plimsoll_transport::SendError>(())
    };
    // Whether it has read why is its own affair.
    let _ = timeout(REFUSAL_TIME_MAX, told).await;
    connection.close(code::REFUSED, &reason);
}

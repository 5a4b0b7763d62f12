use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use bytes::BytesMut;
use plimsoll_protocol::frame::{FRAME_HEADER_BYTES, FrameFlags, FrameHeader};
use plimsoll_protocol::ids::CorrelationId;
use tokio::time::timeout;

use super::*;
use crate::{ClosedBy, FrameReceiver, FrameSender, OpenError, Protocol, RecvError, SendError};

const NODE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 1, 1));
const LONG: Duration = Duration::from_secs(3600);

/// Delivers at once, or keeps packets until it is told.
#[derive(Clone, Default)]
struct Held(Arc<Mutex<Option<VecDeque<Packet>>>>);

impl Held {
    fn hold(&self) {
        self.0.lock().unwrap().get_or_insert_default();
    }

    fn release(&self) {
        for packet in self.0.lock().unwrap().take().unwrap_or_default() {
            packet.deliver();
        }
    }

    fn lose(&self) {
        drop(self.0.lock().unwrap().take());
    }
}

impl Fabric for Held {
    fn carry(&self, packet: Packet) {
        let mut held = self.0.lock().unwrap();
        match &mut *held {
            Some(held) => held.push_back(packet),
            None => {
                drop(held);
                packet.deliver();
            }
        }
    }
}

struct Pair {
    network: SimulatedNetwork,
    fabric: Held,
    client: Connection,
    node: Connection,
}

async fn pair() -> Pair {
    let fabric = Held::default();
    let network = SimulatedNetwork::new(fabric.clone());
    let (host, dialing) = (network.start_host(NODE), network.start_host(CLIENT));
    let listener = host.listen(7420, TransportConfig::default()).unwrap();
    let accepting = tokio::spawn(async move {
        let incoming = listener.accept().await.unwrap();
        incoming.handshake().await.unwrap()
    });
    let address = SocketAddr::new(NODE, 7420);
    let client = dialing.dial(address, &TransportConfig::default()).await.unwrap();
    Pair { network, fabric, client, node: accepting.await.unwrap() }
}

fn frame(payload_bytes: usize, correlation: u32) -> (Bytes, Vec<Bytes>) {
    let header = FrameHeader {
        frame_length: u32::try_from(FRAME_HEADER_BYTES - 4 + payload_bytes).unwrap(),
        body_length: 0,
        api: 8,
        version: 1,
        flags: FrameFlags::default(),
        correlation: CorrelationId(correlation),
    };
    let mut head = [0; FRAME_HEADER_BYTES];
    header.write_to(&mut head);
    (BytesMut::from(&head[..]).freeze(), vec![Bytes::from(vec![7; payload_bytes])])
}

async fn stream(pair: &Pair) -> ((FrameSender, FrameReceiver), (FrameSender, FrameReceiver)) {
    let mut ours = pair.client.open().await.unwrap();
    let (head, payload) = frame(1, 0);
    ours.0.send(head, &payload).await.unwrap();
    let mut theirs = pair.node.accept().await.unwrap().unwrap();
    theirs.1.recv().await.unwrap().unwrap();
    (ours, theirs)
}

#[tokio::test(start_paused = true)]
async fn frames_go_both_ways_and_a_finished_stream_ends() {
    let pair = pair().await;
    pair.node.admit();
    let (mut ours, mut theirs) = stream(&pair).await;
    for correlation in 1..100 {
        let (head, payload) = frame(100 * correlation as usize, correlation);
        ours.0.send(head.clone(), &payload).await.unwrap();
        let received = theirs.1.recv().await.unwrap().unwrap();
        assert_eq!(received.header.correlation, CorrelationId(correlation));
        theirs.0.send(head, &payload).await.unwrap();
        assert_eq!(ours.1.recv().await.unwrap().unwrap().payload, payload[0]);
    }
    ours.0.finish().await.unwrap();
    ours.0.received().await;
    assert!(theirs.1.recv().await.unwrap().is_none());
    theirs.0.reset(9);
    assert!(matches!(ours.1.recv().await, Err(RecvError::Reset { code: 9 })));
}

#[tokio::test(start_paused = true)]
async fn who_does_not_read_stops_the_writer_at_its_window() {
    let pair = pair().await;
    let (mut ours, mut theirs) = stream(&pair).await;
    let (head, payload) = frame(1 << 20, 1);
    let mut sending = Box::pin(ours.0.send(head, &payload));
    assert!(timeout(LONG, &mut sending).await.is_err(), "a stranger has a window of 64 KiB");
    pair.node.admit();
    sending.await.unwrap();
    let (head, payload) = frame(5 << 20, 2);
    let mut sending = Box::pin(ours.0.send(head, &payload));
    assert!(timeout(LONG, &mut sending).await.is_err(), "a stream has a window of 4 MiB");
    let reading = tokio::spawn(async move {
        for _ in 0..2 {
            theirs.1.recv().await.unwrap().unwrap();
        }
        theirs
    });
    sending.await.unwrap();
    drop(reading.await.unwrap());
    let (head, payload) = frame(1, 3);
    assert!(matches!(ours.0.send(head, &payload).await, Err(SendError::Stopped { code: 0 })));
}

#[tokio::test(start_paused = true)]
async fn a_stranger_opens_sixteen_streams_and_one_more_for_each_that_ends() {
    let pair = pair().await;
    let mut open = Vec::new();
    for _ in 0..16 {
        open.push(stream(&pair).await);
    }
    assert!(timeout(LONG, pair.client.open()).await.is_err());
    open.pop();
    assert!(timeout(LONG, pair.client.open()).await.is_ok());
    pair.node.admit();
    assert!(timeout(LONG, pair.client.open()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_closed_connection_tells_the_peer_why_and_a_broken_one_both() {
    let first = pair().await;
    let (_ours, mut theirs) = stream(&first).await;
    first.client.close(5, "done");
    let reason = first.node.closed().await;
    assert_eq!((reason.by, reason.code), (ClosedBy::Peer, 5));
    assert!(matches!(theirs.1.recv().await, Err(RecvError::Closed { .. })));
    assert!(first.node.accept().await.unwrap().is_none());

    let second = pair().await;
    second.fabric.hold();
    let (mut sender, _receiver) = second.client.open().await.unwrap();
    let (head, payload) = frame(1, 0);
    sender.send(head, &payload).await.unwrap();
    second.fabric.lose();
    assert_eq!(second.node.closed().await.by, ClosedBy::Failure);
    assert_eq!(second.client.closed().await.by, ClosedBy::Failure);
    assert!(matches!(second.node.accept().await, Err(OpenError::Closed(_))));
}

#[tokio::test(start_paused = true)]
async fn a_killed_process_says_nothing_and_nobody_answers_for_it() {
    let pair = pair().await;
    let (_ours, theirs) = stream(&pair).await;
    pair.network.kill(NODE);
    drop((pair.node, theirs));
    assert!(timeout(LONG, pair.client.closed()).await.is_err(), "nobody says anything");
    let dialing = pair.network.start_host(CLIENT);
    let address = SocketAddr::new(NODE, 7420);
    let dialed = dialing.dial(address, &TransportConfig::default()).await;
    assert!(matches!(dialed, Err(DialError::TimedOut { .. })));

    let _successor = pair.network.start_host(NODE);
    let dialed = dialing.dial(address, &TransportConfig::default()).await;
    assert!(matches!(dialed, Err(DialError::Refused { .. })), "nobody listens yet");
}

#[tokio::test(start_paused = true)]
async fn nodes_know_each_other_and_a_client_is_none() {
    let network = SimulatedNetwork::new(Held::default());
    let (host, dialing) = (network.start_host(NODE), network.start_host(CLIENT));
    let listener = host.listen(7420, TransportConfig::default()).unwrap();
    let accepting = tokio::spawn(async move {
        let first = listener.accept().await.unwrap().handshake().await.unwrap();
        let second = listener.accept().await.unwrap().handshake().await.unwrap();
        (first, second)
    });
    let (address, config) = (SocketAddr::new(NODE, 7420), TransportConfig::default());
    let own = dialing.dial_node(address, NodeId(2), NodeId(1), &config).await.unwrap();
    let client = dialing.dial(address, &config).await.unwrap();
    let (first, second) = accepting.await.unwrap();
    assert_eq!((own.peer_node(), first.peer_node()), (Some(NodeId(1)), Some(NodeId(2))));
    assert_eq!((own.protocol(), second.protocol()), (Protocol::Node, Protocol::Client));
    assert_eq!((client.peer_node(), second.peer_node()), (None, None));
}

#[tokio::test(start_paused = true)]
async fn a_listener_that_was_closed_refuses() {
    let network = SimulatedNetwork::new(Held::default());
    let (host, dialing) = (network.start_host(NODE), network.start_host(CLIENT));
    let listener = host.listen(7420, TransportConfig::default()).unwrap();
    assert!(matches!(host.listen(7420, TransportConfig::default()), Err(BindError::InUse { .. })));
    listener.close();
    let dialed = dialing.dial(SocketAddr::new(NODE, 7420), &TransportConfig::default()).await;
    assert!(matches!(dialed, Err(DialError::Refused { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_sender_learns_of_a_restart_by_a_reset() {
    let pair = pair().await;
    let (mut ours, theirs) = stream(&pair).await;
    pair.network.kill(NODE);
    drop((pair.node, theirs));
    let _successor = pair.network.start_host(NODE);
    let (head, payload) = frame(1, 1);
    ours.0.send(head, &payload).await.unwrap();
    assert_eq!(pair.client.closed().await.by, ClosedBy::Failure);
}

#[tokio::test(start_paused = true)]
async fn streams_arrive_in_the_order_of_their_numbers_and_packets_when_they_are_delivered() {
    let pair = pair().await;
    pair.fabric.hold();
    let (mut one, mut two) = (pair.client.open().await.unwrap(), pair.client.open().await.unwrap());
    let (head, payload) = frame(1, 2);
    two.0.send(head, &payload).await.unwrap();
    assert!(timeout(LONG, pair.node.accept()).await.is_err());
    pair.fabric.release();
    let mut first = pair.node.accept().await.unwrap().unwrap();
    let mut second = pair.node.accept().await.unwrap().unwrap();
    assert!(timeout(LONG, first.1.recv()).await.is_err(), "it was opened, and is empty");
    assert_eq!(second.1.recv().await.unwrap().unwrap().header.correlation, CorrelationId(2));
    let (head, payload) = frame(1, 1);
    one.0.send(head, &payload).await.unwrap();
    assert_eq!(first.1.recv().await.unwrap().unwrap().header.correlation, CorrelationId(1));
}

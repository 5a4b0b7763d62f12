//! A member that breaks the protocol: its link ends, and nobody else's.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use plimsoll_peers::PeerLimits;
use plimsoll_protocol::frame::{Frame, FrameFlags, encode_frame};
use plimsoll_protocol::ids::{CorrelationId, GroupId, NodeId};
use plimsoll_protocol::peer::{
    Alive, AppendClose, AppendOpen, Appended, AppendedFrame, Condition, Forward, HelloAnswer,
    PeerApi, PeerFailure, PeerFailureCode, PeerHello, PeerRefusal, StreamOpen, StreamRole,
};
use plimsoll_protocol::wire::Encode;
use plimsoll_transport::{
    ClientTls, Connection, FrameReceiver, FrameSender, TransportConfig, TransportKind,
};
use tokio::time::timeout;

use crate::cluster::{Authority, CLUSTER, KINDS, Options, PATIENCE, TestNode, append, statuses};

const ATTACKER: NodeId = NodeId(9);
const LINK: u64 = 77;

/// Bytes that are the encoding of nothing in particular.
struct Raw(Vec<u8>);

impl Encode for Raw {
    fn encode(&self, out: &mut BytesMut) {
        out.put_slice(&self.0);
    }
}

fn frame(api: u16, flags: FrameFlags, body: &impl Encode) -> Bytes {
    encode_frame(api, 1, flags, CorrelationId(5), body, 0).freeze()
}

fn push(api: PeerApi, body: &impl Encode) -> Bytes {
    frame(api.number(), FrameFlags::PUSH, body)
}

/// A node under attack beside one that behaves, and the attacker's half of a link.
struct Attack {
    victim: TestNode,
    friend: TestNode,
    connection: Connection,
    control: (FrameSender, FrameReceiver),
    /// On TLS a connection of its own.
    lane: (FrameSender, FrameReceiver),
    _alive: Option<(FrameSender, FrameReceiver)>,
    _lane_connection: Option<Connection>,
}

async fn connect(authority: &Authority, kind: TransportKind, victim: &TestNode) -> Connection {
    let tls = ClientTls::to_node(&authority.node(ATTACKER), victim.id).unwrap();
    let config = TransportConfig::default();
    Connection::dial(kind, victim.address, "localhost", Some(&tls), &config).await.unwrap()
}

fn hello() -> PeerHello {
    PeerHello {
        protocol_min: 1,
        protocol_max: 1,
        cluster_id: CLUSTER,
        node: ATTACKER,
        to: NodeId(1),
        incarnation: 1,
        boot_nonce: 1,
        version: String::new(),
        unix_ms: 0,
        link: LINK,
        lanes: 1,
    }
}

impl Attack {
    async fn begin(kind: TransportKind, limits: PeerLimits) -> Attack {
        let authority = Authority::new();
        let options = Options { limits, ..Options::new(kind) };
        let victim = TestNode::start(&authority, 1, &options);
        let friend = TestNode::start(&authority, 2, &options);
        friend.know(&[&victim]);
        victim.until_reaches(&[NodeId(2)]).await;
        let connection = connect(&authority, kind, &victim).await;
        let mut control = connection.open().await.unwrap();
        let greeting = frame(PeerApi::PeerHello.number(), FrameFlags::REQUEST, &hello());
        control.0.send(greeting, &[]).await.unwrap();
        let answer = control.1.recv().await.unwrap().unwrap();
        assert!(matches!(answer.decode_body(), Ok(HelloAnswer::Welcome(_))));
        let lane_connection = match kind {
            TransportKind::Quic => None,
            _ => Some(connect(&authority, kind, &victim).await),
        };
        let mut lane = lane_connection.as_ref().unwrap_or(&connection).open().await.unwrap();
        let open = StreamOpen { role: StreamRole::Lane, node: ATTACKER, link: LINK, lane: 0 };
        lane.0.send(push(PeerApi::StreamOpen, &open), &[]).await.unwrap();
        let mut _alive = None;
        if kind == TransportKind::Quic {
            let mut alive = connection.open().await.unwrap();
            let open = StreamOpen { role: StreamRole::Alive, ..open };
            alive.0.send(push(PeerApi::StreamOpen, &open), &[]).await.unwrap();
            // Open for as long as the attack lasts.
            _alive = Some(alive);
        }
        let _lane_connection = lane_connection;
        Attack { victim, friend, connection, control, lane, _alive, _lane_connection }
    }

    /// What the victim says on the control stream but signs of life; `None`: it ended the link.
    async fn answer(&mut self) -> Option<Frame> {
        let answer = async {
            loop {
                match self.control.1.recv().await {
                    Ok(Some(frame)) if frame.header.flags.is_push() => {}
                    Ok(frame) => return frame,
                    Err(_) => return None,
                }
            }
        };
        timeout(PATIENCE, answer).await.unwrap()
    }

    /// That the link ends, and the other one does not.
    async fn assert_ended(mut self, what: &str) {
        assert_eq!(self.answer().await, None, "{what}");
        self.victim.next_unlinked(ATTACKER).await;
        assert!(statuses(&self.victim)[&NodeId(2)].linked, "{what}");
        let forward = Forward { request_id: 1, command: Bytes::from_static(b"echo") };
        self.friend.peers.request(NodeId(1), forward).await.unwrap();
        self.connection.close(0, "done");
    }
}

#[tokio::test]
async fn what_does_not_belong_on_a_lane_ends_the_link() {
    let alive = Alive {
        incarnation: 1,
        seq: 1,
        echo: 0,
        echo_age_us: 0,
        reach: vec![],
        catalog: None,
        condition: Condition::Serving,
        leads_version: 0,
    };
    let open = AppendOpen { session: 1, group: GroupId(4) };
    let unasked = AppendedFrame { session: 3, settles: 1, answer: Appended::Ok(None) };
    let cases: [(&str, Vec<Bytes>); 6] = [
        ("a sign of life", vec![push(PeerApi::Alive, &alive)]),
        ("a session twice", vec![push(PeerApi::AppendOpen, &open); 2]),
        ("an answer to nothing", vec![push(PeerApi::Appended, &unasked)]),
        ("a body that is none", vec![push(PeerApi::AppendClose, &Raw(vec![1, 2, 3]))]),
        ("a kind that is none", vec![frame(999, FrameFlags::PUSH, &AppendClose { session: 1 })]),
        ("an append that is none", vec![push(PeerApi::Append, &Raw(vec![0xff; 300]))]),
    ];
    for kind in KINDS {
        for (what, frames) in &cases {
            let mut attack = Attack::begin(kind, PeerLimits::default()).await;
            for frame in frames {
                attack.lane.0.feed(frame.clone(), &[]);
            }
            attack.lane.0.flush().await.unwrap();
            attack.assert_ended(what).await;
        }
    }
}

#[tokio::test]
async fn a_sender_beyond_its_credit_loses_its_link() {
    for kind in KINDS {
        for (limits, appends, bytes) in [
            (PeerLimits::default(), 65, 10),
            (PeerLimits { session_bytes_max: 100_000, ..PeerLimits::default() }, 2, 60_000),
        ] {
            let mut attack = Attack::begin(kind, limits).await;
            let open = AppendOpen { session: 1, group: GroupId(4) };
            attack.lane.0.feed(push(PeerApi::AppendOpen, &open), &[]);
            for index in 0..appends {
                let (head, pieces) = append(GroupId(4), index, bytes).to_frame(1);
                attack.lane.0.feed(head, &pieces);
            }
            // The session is held and nothing is answered.
            attack.lane.0.flush().await.unwrap();
            attack.assert_ended("beyond the credit").await;
        }
    }
}

#[tokio::test]
async fn appends_without_a_session_are_answered_so() {
    for kind in KINDS {
        let mut attack = Attack::begin(kind, PeerLimits::default()).await;
        for index in 0..500 {
            let (head, pieces) = append(GroupId(4), index, 10).to_frame(index as u32);
            let sent = attack.lane.0.send(head, &pieces).await;
            assert!(sent.is_ok(), "{kind} {index}: {:?}", statuses(&attack.victim)[&ATTACKER]);
            let answer = timeout(PATIENCE, attack.lane.1.recv()).await.unwrap();
            let answer: AppendedFrame = answer.unwrap().unwrap().decode_body().unwrap();
            assert_eq!((answer.session, answer.settles), (index as u32, 1));
            assert!(matches!(answer.answer, Appended::NotHere(_)));
        }
    }
}

#[tokio::test]
async fn requests_that_cannot_be_read_are_refused_and_the_link_stays() {
    for kind in KINDS {
        let mut attack = Attack::begin(kind, PeerLimits::default()).await;
        let cases = [
            (999, vec![], PeerFailureCode::Unsupported),
            (PeerApi::Alive.number(), vec![], PeerFailureCode::Unsupported),
            (PeerApi::Vote.number(), vec![1, 2, 3], PeerFailureCode::Malformed),
            (PeerApi::Forward.number(), vec![0xff; 40], PeerFailureCode::Malformed),
        ];
        for (api, body, code) in cases {
            let request = frame(api, FrameFlags::REQUEST, &Raw(body));
            attack.control.0.send(request, &[]).await.unwrap();
            let answer = attack.answer().await;
            let status = &statuses(&attack.victim)[&ATTACKER];
            let answer = answer.unwrap_or_else(|| panic!("{kind} {api}: {status:?}"));
            assert_eq!(answer.header.correlation, CorrelationId(5));
            assert_eq!(answer.header.flags, FrameFlags::ERROR);
            assert_eq!(answer.decode_body::<PeerFailure>().unwrap().code, code);
        }
        // Answers to nothing and messages of a newer node are passed over.
        let stray = frame(PeerApi::Vote.number(), FrameFlags::RESPONSE, &Raw(vec![]));
        attack.control.0.send(stray, &[]).await.unwrap();
        let newer = frame(999, FrameFlags::PUSH, &Raw(vec![1; 100]));
        attack.control.0.send(newer, &[]).await.unwrap();
        assert!(statuses(&attack.victim)[&ATTACKER].linked);
        let malformed = push(PeerApi::Wake, &Raw(vec![0xff; 20]));
        attack.control.0.send(malformed, &[]).await.unwrap();
        attack.assert_ended("a message that cannot be read").await;
    }
}

#[tokio::test]
async fn noise_on_any_stream_ends_the_link_only() {
    for kind in KINDS {
        for seed in 0..10u8 {
            for on_lane in [true, false] {
                let mut attack = Attack::begin(kind, PeerLimits::default()).await;
                let noise: Vec<u8> = (0..4096u32)
                    .map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8 ^ seed)
                    .collect();
                let stream = if on_lane { &mut attack.lane } else { &mut attack.control };
                // The victim may hang up before everything is written.
                let _ = stream.0.send_raw(Bytes::from(noise)).await;
                let _ = stream.0.finish().await;
                attack.assert_ended("noise").await;
            }
        }
    }
}

#[tokio::test]
async fn a_link_whose_streams_do_not_come_ends() {
    for kind in KINDS {
        let authority = Authority::new();
        let limits =
            PeerLimits { handshake_timeout: Duration::from_millis(500), ..PeerLimits::default() };
        let mut victim = TestNode::start(&authority, 1, &Options { limits, ..Options::new(kind) });
        let connection = connect(&authority, kind, &victim).await;
        let (mut sender, mut receiver) = connection.open().await.unwrap();
        let greeting = frame(PeerApi::PeerHello.number(), FrameFlags::REQUEST, &hello());
        sender.send(greeting, &[]).await.unwrap();
        assert!(receiver.recv().await.unwrap().is_some());
        victim.next_unlinked(ATTACKER).await;
        // Nor does one that says nothing at all stay.
        let silent = connect(&authority, kind, &victim).await;
        let (_sender, mut receiver) = silent.open().await.unwrap();
        assert!(!matches!(timeout(PATIENCE, receiver.recv()).await.unwrap(), Ok(Some(_))));
    }
}

/// It may say more in its hello than this version can read.
#[tokio::test]
async fn a_node_of_a_version_without_a_common_protocol_is_told_so() {
    for kind in KINDS {
        let authority = Authority::new();
        let victim = TestNode::start(&authority, 1, &Options::new(kind));
        let connection = connect(&authority, kind, &victim).await;
        let (mut sender, mut receiver) = connection.open().await.unwrap();
        let newer = [2, 0, 3, 0, 9, 9, 9];
        let hello = frame(PeerApi::PeerHello.number(), FrameFlags::REQUEST, &Raw(newer.to_vec()));
        sender.send(hello, &[]).await.unwrap();
        let answer = timeout(PATIENCE, receiver.recv()).await.unwrap().unwrap().unwrap();
        let refused = answer.decode_body().unwrap();
        assert!(
            matches!(refused, HelloAnswer::Refused(PeerRefusal::Protocol(_))),
            "{kind}: {refused:?}"
        );
    }
}

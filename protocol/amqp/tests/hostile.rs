//! Bytes that are nobody's protocol: nothing panics, everything is bounded, every connection that the
//! broker knew of ends once. And honest bytes in any pieces: the same requests, the same answers.

mod model {
    pub mod client;
}

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use plimsoll_amqp::error::{Fault, ReplyCode};
use plimsoll_amqp::frame::{Frame, PROTOCOL_HEADER, put_heartbeat, put_method};
use plimsoll_amqp::methods::*;
use plimsoll_amqp::properties::Properties;
use plimsoll_amqp::session::*;
use plimsoll_amqp::table::{ArrayBuilder, FieldTable, FieldValue, TableBuilder};
use proptest::prelude::*;

use model::client::*;

/// xorshift: a seed gives one row of numbers, on any machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

fn table() -> FieldTable {
    let inner =
        TableBuilder::new().text("a", "b").field("n", FieldValue::I32(-1)).build().expect("flat");
    let mut keys = ArrayBuilder::default();
    keys.push(FieldValue::LongStr(b"other"));
    TableBuilder::new()
        .field("CC", keys.as_value())
        .field("inner", FieldValue::Table(inner.fields()))
        .field("x-match", FieldValue::LongStr(b"any"))
        .build()
        .expect("shallow")
}

/// Frames of a client that does everything, each apart.
fn honest() -> Vec<BytesMut> {
    let arguments = table();
    let properties = Properties {
        headers: Some(table()),
        delivery_mode: Some(2),
        expiration: Some(s("1000")),
        ..Properties::default()
    };
    let (queue, exchange, consumer_tag) = (s("q"), s("x"), s("c"));
    let publish =
        BasicPublish { exchange: exchange.clone(), mandatory: true, ..Default::default() };
    let methods: Vec<Method> = vec![
        ChannelOpen::default().into(),
        ExchangeDeclare {
            exchange: exchange.clone(),
            kind: s("topic"),
            arguments: arguments.clone(),
            ..Default::default()
        }
        .into(),
        QueueDeclare { arguments: arguments.clone(), ..Default::default() }.into(),
        QueueBind { exchange: exchange.clone(), routing_key: s("a.#"), ..Default::default() }
            .into(),
        ExchangeBind { destination: exchange.clone(), source: s("y"), ..Default::default() }.into(),
        BasicQos { prefetch_count: 3, ..Default::default() }.into(),
        BasicConsume { queue: queue.clone(), consumer_tag, arguments, ..Default::default() }.into(),
        BasicGet { queue: queue.clone(), ..Default::default() }.into(),
        BasicAck { delivery_tag: 1, multiple: true }.into(),
        BasicNack { delivery_tag: 2, multiple: false, requeue: true }.into(),
        BasicRecover { requeue: true }.into(),
        TxSelect {}.into(),
        TxCommit {}.into(),
        TxRollback {}.into(),
        QueuePurge { queue, ..Default::default() }.into(),
        BasicCancel { consumer_tag: s("c"), no_wait: false }.into(),
        ChannelClose::default().into(),
    ];
    let mut frames = Vec::new();
    for channel in 1..=2 {
        for (index, method) in methods.iter().enumerate() {
            let mut out = BytesMut::new();
            put_method(&mut out, channel, method);
            frames.push(out);
            if index % 3 == 0 {
                let body = vec![index as u8; index * 700];
                frames.push(content_frames(channel, publish.clone(), &properties, &body, 4000));
            }
        }
        let mut out = BytesMut::new();
        put_heartbeat(&mut out);
        frames.push(out);
    }
    let mut out = BytesMut::new();
    put_method(&mut out, 0, &ConnectionClose::default().into());
    frames.push(out);
    frames
}

/// A broker that answers everything, each channel by itself alike; it delivers, confirms, and refuses
/// where it is not `calm`.
struct Broker {
    calm: bool,
    counts: BTreeMap<ChannelKey, u64>,
    /// What each channel asked; settlements in a row as one.
    asked: BTreeMap<ChannelKey, Vec<Ask>>,
    /// Whether the last request of all has come.
    ended: bool,
}

impl Broker {
    fn new(calm: bool) -> Self {
        Self { calm, counts: BTreeMap::new(), asked: BTreeMap::new(), ended: false }
    }

    fn note(&mut self, channel: ChannelKey, ask: &Ask) {
        let asked = self.asked.entry(channel).or_default();
        if let (Some(Ask::Settle(last)), Ask::Settle(next)) = (asked.last_mut(), ask)
            && last.outcome == next.outcome
        {
            last.deliveries.extend(next.deliveries.iter().cloned());
            return;
        }
        asked.push(ask.clone());
    }

    fn serve(&mut self, session: &mut Session) {
        while let Some(Request { channel, ask }) = session.poll_request() {
            assert!(!self.ended, "{ask:?} after the end");
            self.note(channel, &ask);
            let calm = self.calm;
            let count = self.counts.entry(channel).or_default();
            *count += 1;
            let every = |nth: u64| !calm && count.is_multiple_of(nth);
            let answer = match ask {
                Ask::Login { .. } => Answer::Login { may_impersonate: false },
                Ask::DeclareQueue(_) => {
                    Answer::Queue { name: s("q"), message_count: 1, consumer_count: 0 }
                }
                Ask::PurgeQueue(_) | Ask::DeleteQueue(_) => Answer::Count(4),
                Ask::Get { .. } if every(2) => Answer::Message(None),
                Ask::Get { .. } => Answer::Message(Some((delivery(*count), 8))),
                Ask::Publish(publish) => {
                    if let Some(number) = publish.number {
                        session.confirm(channel, number, Confirmation::Taken);
                    }
                    if every(7) {
                        session.refuse(channel, Fault::new(ReplyCode::NotFound, "no exchange"));
                    }
                    continue;
                }
                Ask::CheckPublish { .. } | Ask::Settle(_) => continue,
                Ask::Consume(consume) => {
                    session.answer(channel, Answer::Done);
                    let tag = &consume.consumer_tag;
                    for number in 0..3.min(session.room(channel, tag) as u64) {
                        session.deliver(channel, tag, delivery(number)).expect("it has room");
                    }
                    continue;
                }
                Ask::CloseConnection => {
                    self.ended = true;
                    Answer::Done
                }
                _ if every(11) => {
                    Answer::Refused(Fault::new(ReplyCode::PreconditionFailed, "not today"))
                }
                _ => Answer::Done,
            };
            session.answer(channel, answer);
        }
    }
}

/// Gives a session its input piece by piece, and everything else it needs.
fn run(session: &mut Session, broker: &mut Broker, pieces: &[&[u8]], now: Duration) {
    let mut input = BytesMut::new();
    for piece in pieces {
        input.put_slice(piece);
        loop {
            let before = input.len();
            session.receive(&mut input, now);
            broker.serve(session);
            if input.len() == before || input.is_empty() {
                break;
            }
        }
    }
}

fn opening() -> BytesMut {
    let mut out = BytesMut::from(&PROTOCOL_HEADER[..]);
    put_method(&mut out, 0, &start_ok(b"\0guest\0guest").into());
    put_method(&mut out, 0, &tune_ok().into());
    put_method(&mut out, 0, &ConnectionOpen::default().into());
    out
}

/// Turns honest frames into others.
fn mutate(frames: &mut Vec<BytesMut>, random: &mut Random) {
    for _ in 0..=random.below(3) {
        let at = random.below(frames.len());
        let frame = &mut frames[at];
        let byte = random.below(frame.len());
        match random.below(8) {
            0 => frame[byte] ^= 1 << random.below(8),
            1 => frame[byte] = random.next() as u8,
            2 => frame.truncate(byte.max(1)),
            3 => {
                let other = frames[random.below(frames.len())].clone();
                frames[at].extend_from_slice(&other);
            }
            4 => {
                frames.remove(at);
                if frames.is_empty() {
                    frames.push(BytesMut::from(&[8, 0, 0, 0, 0, 0, 0, 0xce][..]));
                }
            }
            5 => {
                let other = random.below(frames.len());
                frames.swap(at, other);
            }
            6 if frame.len() > 7 => frame[2] = random.below(3) as u8,
            _ => {
                let from = byte.min(frame.len().saturating_sub(4));
                for byte in frame.iter_mut().skip(from).take(4) {
                    *byte = if random.below(2) == 0 { 0xff } else { 0 };
                }
            }
        }
    }
}

/// How many connections of mutated frames: some 60 frames each, so 600,000 in CI.
fn rounds() -> u64 {
    match std::env::var_os("PLIMSOLL_LONG") {
        Some(long) if long != "0" => 250_000,
        _ => 10_000,
    }
}

#[test]
fn mutated_frames_end_at_most_their_connection() {
    let (honest, opening) = (honest(), opening());
    let mut ends = BTreeMap::<String, u64>::new();
    for seed in 1..=rounds() {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut frames = honest.clone();
        mutate(&mut frames, &mut random);
        let bytes: usize = frames.iter().map(|frame| frame.len()).sum();
        let mut client = Client::new(SessionConfig::default());
        let mut broker = Broker::new(false);
        let pieces: Vec<&[u8]> =
            std::iter::once(&opening[..]).chain(frames.iter().map(|frame| &frame[..])).collect();
        run(&mut client.session, &mut broker, &pieces, client.now);
        let sent = client.output().len();
        assert!(sent < 64 * bytes, "seed {seed}: {sent} bytes sent for {bytes}");
        client.session.disconnect();
        broker.serve(&mut client.session);
        assert!(broker.ended, "seed {seed}: the broker was not told of the end");
        assert!(client.session.is_finished());
        let end = match client.session.end() {
            Some(End::Fault(fault)) => fault.code.name().to_owned(),
            other => format!("{other:?}"),
        };
        *ends.entry(end).or_default() += 1;
    }
    // The mutations reach what they should, and not only the first check.
    for code in ["FRAME_ERROR", "SYNTAX_ERROR", "UNEXPECTED_FRAME", "CHANNEL_ERROR"] {
        assert!(ends.contains_key(code), "{ends:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn any_bytes_at_any_time(
        opened: bool,
        bytes in prop::collection::vec(any::<u8>(), 0..600),
        kind in 1u8..=4,
        channel in 0u16..3,
    ) {
        let mut client = Client::new(SessionConfig::default());
        let mut broker = Broker::new(false);
        let opening = opening();
        let mut framed = BytesMut::new();
        put_raw(&mut framed, kind, channel, &bytes);
        let before: &[u8] = if opened { &opening } else { &PROTOCOL_HEADER };
        run(&mut client.session, &mut broker, &[before, &framed, &bytes], client.now);
        let raw = Client::new(SessionConfig::default());
        let mut session = raw.session;
        run(&mut session, &mut Broker::new(false), &[&bytes], raw.now);
    }

    /// However the bytes are cut, each channel asks the broker the same and hears the same.
    #[test]
    fn pieces_make_no_difference(cuts in prop::collection::vec(0usize..40_000, 0..60)) {
        let mut frames = honest();
        // A client that closes before it was answered may find what it asked for undone.
        frames.pop();
        let whole = [&opening()[..], &frames.concat()].concat();
        let run_in = |cuts: &[usize]| {
            let mut client = Client::new(SessionConfig::default());
            let mut broker = Broker::new(true);
            let (mut at, mut pieces) = (0, Vec::new());
            for cut in cuts {
                pieces.push(&whole[at..*cut]);
                at = *cut;
            }
            run(&mut client.session, &mut broker, &pieces, client.now);
            let (mut output, mut heard) = (client.output(), BTreeMap::<_, Vec<_>>::new());
            while let Some(frame) = Frame::take(&mut output, 1 << 20).expect("frames") {
                heard.entry(frame.channel).or_default().push((frame.kind, frame.payload));
            }
            (broker.asked, heard)
        };
        let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(whole.len())).collect();
        cuts.push(whole.len());
        cuts.sort_unstable();
        let expected = run_in(&[whole.len()]);
        let channels: Vec<_> = expected.0.values().map(Vec::len).collect();
        prop_assert_eq!(channels, [2, 19, 19]);
        prop_assert!(run_in(&cuts) == expected);
        if cuts.len() > 50 {
            let bytes: Vec<_> = (1..=whole.len()).collect();
            prop_assert!(run_in(&bytes) == expected);
        }
    }
}

#[test]
fn table_of_a_thousand_levels_is_a_syntax_error() {
    let mut bytes = Vec::new();
    for _ in 0..1000 {
        let mut outer = vec![1, b'a', b'F'];
        outer.extend((bytes.len() as u32).to_be_bytes());
        outer.extend(bytes);
        bytes = outer;
    }
    let mut payload = BytesMut::new();
    payload.put_slice(&[0, 50, 0, 10, 0, 0, 1, b'q', 0]);
    payload.put_u32(bytes.len() as u32);
    payload.put_slice(&bytes);
    let mut client = Client::with_channel();
    let mut frame = BytesMut::new();
    put_raw(&mut frame, 1, 1, &payload);
    client.bytes(&frame);
    let text = "SYNTAX_ERROR - tables are nested deeper than 16";
    assert_eq!(client.hears_close(0), (502, text.into(), 50, 10));
}

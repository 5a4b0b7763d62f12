//! The same against the port of AMQP 0-9-1: damaged frames, and more connections than a node serves.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions,
    QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use plimsoll_bench::serve_process::free_address;
use plimsoll_tests::{Random, eventually, is_long, within};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::{ATTACKERS, Target, attacker};

/// Queue of those who behave; no damaged frame has its name.
const QUIET: &str = "the-quiet-ones";
const FRAMES_MAX: u64 = 30;
/// The last byte of a frame.
const FRAME_END: u8 = 0xCE;
/// Class and method of the broker's answer to the opening of a virtual host, and of its close.
const OPEN_OK: [u8; 4] = [0, 10, 0, 41];
const CLOSE: [u8; 4] = [0, 10, 0, 50];
/// `connection.close` with "not allowed".
const NOT_ALLOWED: [u8; 2] = 530_u16.to_be_bytes();

fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend(channel.to_be_bytes());
    bytes.extend((payload.len() as u32).to_be_bytes());
    bytes.extend(payload);
    bytes.push(FRAME_END);
    bytes
}

fn method(channel: u16, class: u16, method: u16, arguments: &[&[u8]]) -> Vec<u8> {
    let number = [class.to_be_bytes(), method.to_be_bytes()].concat();
    frame(1, channel, &[&[&number[..]], arguments].concat().concat())
}

fn short(text: &str) -> Vec<u8> {
    [&[text.len() as u8], text.as_bytes()].concat()
}

fn long(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u32).to_be_bytes(), bytes].concat()
}

/// Everything from the protocol header to an open virtual host, in one piece.
fn login() -> Vec<u8> {
    let (no_properties, plain) = (long(b""), long(b"\0guest\0guest"));
    let start_ok = [no_properties, short("PLAIN"), plain, short("en_US")].concat();
    // 100 channels, frames of 128 KiB, no heartbeats.
    let tune_ok = [&100_u16.to_be_bytes()[..], &131_072_u32.to_be_bytes(), &[0, 0]].concat();
    let open = [short("/"), short(""), vec![0]].concat();
    let mut bytes = b"AMQP\0\0\x09\x01".to_vec();
    for (number, arguments) in [(11, start_ok), (31, tune_ok), (40, open)] {
        bytes.extend(method(0, 10, number, &[&arguments]));
    }
    bytes
}

/// Frames of a client that does a little of everything on channel 1.
fn valid() -> Vec<Vec<u8>> {
    let (queue, exchange, key) = (short("hostile-q"), short("hostile-x"), short("key"));
    let (none, zero, table) = (short(""), [0, 0], long(b""));
    // One field: `a`, a table that has one field.
    let nested = long(b"\x01aF\x00\x00\x00\x08\x01bS\x00\x00\x00\x01c");
    let publish = [&zero[..], &none, &queue, &[0]].concat();
    let header = [&60_u16.to_be_bytes()[..], &zero, &5_u64.to_be_bytes(), &[0x10, 0, 2]].concat();
    vec![
        method(1, 20, 10, &[&none]),
        method(1, 40, 10, &[&zero, &exchange, &short("topic"), &[0], &nested]),
        method(1, 50, 10, &[&zero, &queue, &[0], &nested]),
        method(1, 50, 20, &[&zero, &queue, &exchange, &key, &[0], &table]),
        method(1, 85, 10, &[&[0]]),
        [method(1, 60, 40, &[&publish]), frame(2, 1, &header), frame(3, 1, b"hello")].concat(),
        method(1, 60, 10, &[&[0; 4], &[0, 9], &[0]]),
        method(1, 60, 20, &[&zero, &queue, &short("tag"), &[0], &table]),
        method(1, 60, 70, &[&zero, &queue, &[0]]),
        method(1, 60, 80, &[&1_u64.to_be_bytes(), &[1]]),
        method(1, 60, 120, &[&2_u64.to_be_bytes(), &[2]]),
        method(1, 60, 110, &[&[1]]),
        method(1, 60, 30, &[&short("tag"), &[0]]),
        method(1, 50, 30, &[&zero, &queue, &[0]]),
        method(1, 50, 40, &[&zero, &queue, &[0]]),
        method(1, 90, 10, &[]),
        method(1, 90, 20, &[]),
        method(1, 20, 40, &[&[0, 200], &none, &[0; 4]]),
        method(0, 10, 50, &[&[0, 200], &none, &[0; 4]]),
        frame(8, 0, b""),
    ]
}

fn damaged(valid: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut frame = valid[random.within(0..valid.len() as u64) as usize].clone();
    for _ in 0..random.within(0..4) {
        let place = random.within(0..frame.len() as u64) as usize;
        match random.within(0..6) {
            0 => frame[place] = random.next_u64() as u8,
            1 => frame[place] = 0xFF,
            // Another length, and most often a wrong one.
            2 => frame[3..7].copy_from_slice(&(random.next_u64() as u32 >> 16).to_be_bytes()),
            3 => frame.truncate(place.max(7)),
            4 => frame.extend(random.bytes(place)),
            _ => {
                let (class, method) = (random.within(0..100) as u16, random.within(0..130) as u16);
                frame.resize(frame.len().max(11), 0);
                frame[7..9].copy_from_slice(&class.to_be_bytes());
                frame[9..11].copy_from_slice(&method.to_be_bytes());
            }
        }
    }
    frame
}

async fn send_damaged_frames(address: SocketAddr, mut random: Random, count: u64) {
    let valid = valid();
    let mut sent = 0;
    while sent < count {
        let frames = random.within(1..FRAMES_MAX + 1);
        let mut bytes = Vec::new();
        if !random.once_in(8) {
            bytes.extend(login());
            bytes.extend(&valid[0]);
        }
        for _ in 0..frames {
            bytes.extend(damaged(&valid, &mut random));
        }
        within("an attack", attacker::attack_plaintext(address, bytes)).await;
        sent += frames;
    }
}

async fn channel(address: SocketAddr) -> Channel {
    let url = format!("amqp://guest:guest@{address}/%2f");
    let connecting = Connection::connect(&url, ConnectionProperties::default());
    let connection = within("a login", connecting).await.expect("a connection");
    connection.create_channel().await.expect("a channel")
}

/// Publishes and awaits confirms until told to stop; returns how many.
async fn publish_quietly(channel: Channel, mut stop: oneshot::Receiver<()>) -> u64 {
    let mut sent = 0;
    while stop.try_recv().is_err() {
        let (body, properties) = (u64::to_be_bytes(sent), BasicProperties::default());
        let (options, properties) =
            (BasicPublishOptions::default(), properties.with_delivery_mode(2));
        let publish = channel.basic_publish("".into(), QUIET.into(), options, &body, properties);
        let confirm = within("a publish", publish).await.expect("it is sent");
        let confirm = within("a confirm", confirm).await.expect("it is confirmed");
        assert!(confirm.is_ack(), "{confirm:?}");
        sent += 1;
    }
    sent
}

async fn start() -> (Target, SocketAddr) {
    let address = free_address().expect("a free port");
    let target = Target::start_with(|command| {
        command.argument("--listen-amqp").argument(address.to_string())
    });
    (target.await, address)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn damaged_frames_of_amqp_harm_nobody_but_their_sender() {
    let frames_in_all = if is_long() { 1_000_000 } else { 20_000 };
    let (mut target, address) = start().await;
    let quiet = channel(address).await;
    let (durable, table) = (QueueDeclareOptions::durable(), FieldTable::default());
    within("declare", quiet.queue_declare(QUIET.into(), durable, table)).await.expect("a queue");
    let confirms = quiet.confirm_select(ConfirmSelectOptions::default());
    within("confirms", confirms).await.expect("confirms");
    let (stop, stopped) = oneshot::channel();
    let publishing = tokio::spawn(publish_quietly(quiet.clone(), stopped));
    let mut attackers = JoinSet::new();
    let mut random = Random::for_test();
    for _ in 0..ATTACKERS {
        let random = Random::seeded(random.next_u64());
        attackers.spawn(send_damaged_frames(address, random, frames_in_all / ATTACKERS));
    }
    while let Some(done) = attackers.join_next().await {
        done.expect("no attacker fails");
    }
    stop.send(()).expect("it publishes");
    let published = within("the last confirms", publishing).await.expect("others are served");
    eventually("no connection of an attacker is left", async || {
        (target.counter("amqp_connections_open").await == 1).then_some(())
    })
    .await;
    target.check().await;
    let (options, table) = (BasicConsumeOptions::default(), FieldTable::default());
    let consumed = quiet.basic_consume(QUIET.into(), "".into(), options, table);
    let mut consumer = within("consume", consumed).await.expect("a consumer");
    for expected in 0..published {
        let delivery = within("a message", consumer.next()).await.expect("one").expect("one");
        assert_eq!(delivery.data, expected.to_be_bytes());
        delivery.ack(BasicAckOptions::default()).await.expect("it is acknowledged");
    }
    println!("{published} messages of others were confirmed meanwhile");
}

/// Logs in, and reads until the virtual host is open (`true`) or the broker closes.
async fn log_in(address: SocketAddr) -> (TcpStream, bool) {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    stream.write_all(&login()).await.expect("it takes them");
    let mut heard = Vec::new();
    loop {
        let read = within("an answer", stream.read_buf(&mut heard)).await.expect("an answer");
        let has = |what: &[u8]| heard.windows(what.len()).any(|window| window == what);
        if has(&OPEN_OK) {
            return (stream, true);
        }
        if has(&[&CLOSE[..], &NOT_ALLOWED].concat()) {
            let text = String::from_utf8_lossy(&heard);
            assert!(text.contains("connections_per_address_max"), "what to do: {text}");
            return (stream, false);
        }
        assert!(read > 0, "it ended without a word: {heard:?}");
    }
}

/// Connections that the native client of a test may have at most, those that it is about to drop among them.
const NATIVE_MAX: usize = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn as_many_connections_as_are_allowed_are_served_and_the_others_told() {
    let (allowed, more) = if is_long() { (10_000, 500) } else { (500, 50) };
    let address = free_address().expect("a free port");
    let mut target = Target::start_with(|command| {
        let most = format!("--set=connections_per_address_max={}", allowed + NATIVE_MAX);
        command.argument("--listen-amqp").argument(address.to_string()).argument(most)
    })
    .await;
    let before = target.process.memory().expect("it lives").resident_mb;
    let (mut open, mut refused) = (Vec::new(), 0);
    for _ in 0..allowed + more {
        match log_in(address).await {
            (stream, true) => open.push(stream),
            (_, false) => refused += 1,
        }
    }
    // The client that looks at the counters has some, too.
    assert!((allowed..allowed + NATIVE_MAX).contains(&open.len()), "{} are open", open.len());
    assert_eq!(refused, allowed + more - open.len());
    assert_eq!(target.counter("amqp_connections_open").await, open.len() as u64);
    let during = target.process.memory().expect("it lives").resident_mb;
    let each = (during - before) * 1024.0 / allowed as f64;
    assert!(each < 64.0, "{each} KiB for each of {allowed} connections");
    println!("{each:.1} KiB for each of {allowed} connections");
    // A place that is given back is somebody else's.
    drop(open.pop());
    let quiet = eventually("a place", async || match log_in(address).await {
        (stream, true) => Some(stream),
        (_, false) => None,
    })
    .await;
    drop((open, quiet));
    eventually("all are gone", async || {
        (target.counter("amqp_connections_open").await == 0).then_some(())
    })
    .await;
    target.check().await;
    // Those that never say anything are told goodbye.
    let silent = TcpStream::connect(address).await.expect("it listens");
    let ended = timeout(Duration::from_secs(60), attacker::wait_for_the_end(silent));
    ended.await.expect("the node closes it");
}

/// What the node may hold more than before, in MB, while somebody takes much and gives nothing back.
const GREEDY_MB_MAX: f64 = 100.0;

/// Messages that a channel may hold, whatever it asks for.
const HELD_MAX: u32 = 65_535;

/// Bytes of a frame with one message of `body` for the default exchange.
fn message(queue: &str, body: &[u8]) -> Vec<u8> {
    let publish = [&[0, 0], &short("")[..], &short(queue), &[0]].concat();
    let bytes = (body.len() as u64).to_be_bytes();
    let header = [&60_u16.to_be_bytes()[..], &[0, 0], &bytes, &[0x10, 0, 2]].concat();
    [method(1, 60, 40, &[&publish]), frame(2, 1, &header), frame(3, 1, body)].concat()
}

/// A connection with channel 1 and this queue, durable.
async fn with_queue(address: SocketAddr, queue: &str) -> TcpStream {
    let (mut stream, is_open) = log_in(address).await;
    assert!(is_open);
    let declare = [&[0, 0], &short(queue)[..], &[2], &long(b"")].concat();
    let opening = [method(1, 20, 10, &[&short("")]), method(1, 50, 10, &[&declare])].concat();
    stream.write_all(&opening).await.expect("it takes them");
    stream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_takes_and_never_acknowledges_and_who_sends_and_never_listens_cost_little() {
    let messages: u32 = if is_long() { 1_000_000 } else { 100_000 };
    let (mut target, address) = start().await;
    let before = target.process.memory().expect("it lives").resident_mb;
    // Sends as fast as the node takes them, and reads nothing: neither confirms nor anything else.
    let mut sender = with_queue(address, "greedy").await;
    sender.write_all(&method(1, 85, 10, &[&[0]])).await.expect("it takes it");
    let one = message("greedy", &[7; 1000]);
    let many = one.repeat(100);
    for _ in 0..messages / 100 {
        within("room for more", sender.write_all(&many)).await.expect("it takes them");
    }
    let looking = channel(address).await;
    let count = async || {
        let passive = QueueDeclareOptions { passive: true, ..Default::default() };
        let declared = looking.queue_declare("greedy".into(), passive, FieldTable::default());
        within("a look", declared).await.expect("it is there").message_count()
    };
    eventually("all are stored", async || (count().await == messages).then_some(())).await;
    let during = target.process.memory().expect("it lives").resident_mb;
    assert!(during < before + GREEDY_MB_MAX, "{before} MB before, {during} MB with the sender");
    // Takes all that it is given, and acknowledges nothing.
    let mut taker = with_queue(address, "greedy").await;
    let consume = [&[0, 0], &short("greedy")[..], &short("tag"), &[0], &long(b"")].concat();
    taker.write_all(&method(1, 60, 20, &[&consume])).await.expect("it takes it");
    let (mut taken, mut buffer) = (0, vec![0; 1 << 16]);
    while taken < u64::from(messages.min(HELD_MAX)) * 1000 {
        let read = within("more", taker.read(&mut buffer)).await.expect("it goes on");
        assert!(read > 0, "it ended after {taken} bytes");
        taken += read as u64;
    }
    let during = target.process.memory().expect("it lives").resident_mb;
    assert!(during < before + GREEDY_MB_MAX, "{before} MB before, {during} MB with the taker");
    println!("{before} MB before, {during} MB with {messages} messages, as many held as may be");
    drop((sender, taker));
    eventually("all are ready again", async || (count().await == messages).then_some(())).await;
    drop(looking);
    target.check().await;
}

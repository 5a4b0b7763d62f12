//! Dialogues of whole connections: handshake, limits, ends, time.

mod model {
    pub mod client;
}

use bytes::Bytes;
use plimsoll_amqp::error::{Fault, ReplyCode};
use plimsoll_amqp::frame::PROTOCOL_HEADER;
use plimsoll_amqp::methods::*;
use plimsoll_amqp::session::*;

use model::client::*;

#[test]
fn handshake_from_first_byte_to_open_host_and_back() {
    let mut client = Client::new(SessionConfig::default());
    client.bytes(b"AMQP\0\0");
    assert!(client.heard().is_empty());
    client.bytes(b"\x09\x01");
    let heard = client.heard();
    let [Heard::Method(0, Method::ConnectionStart(start))] = &heard[..] else {
        panic!("{heard:?}")
    };
    assert_eq!((start.version_major, start.version_minor), (0, 9));
    assert_eq!(&start.mechanisms[..], b"PLAIN AMQPLAIN");
    assert!(start.server_properties.find("capabilities").is_some());

    // Tune-ok and open come at once: they wait until the broker knows the user.
    client.say(0, start_ok(b"\0guest\0secret"));
    client.say(0, tune_ok());
    client.say(0, ConnectionOpen { virtual_host: s("/ships"), ..Default::default() });
    assert!(!client.session.wants_input());
    let Ask::Login { credentials, .. } =
        client.answer_all(Answer::Login { may_impersonate: false })
    else {
        panic!("a login")
    };
    assert_eq!((&*credentials.user, &credentials.password[..]), ("guest", &b"secret"[..]));
    client.hears(0, ConnectionTune { channel_max: 2047, frame_max: 131_072, heartbeat: 60 });
    let ask = client.answer_all(Answer::Done);
    assert_eq!(ask, Ask::OpenHost { vhost: s("/ships") });
    client.hears(0, ConnectionOpenOk::default());

    let update = ConnectionUpdateSecret { new_secret: Bytes::from_static(b"n"), reason: s("old") };
    client.say(0, update);
    assert!(matches!(client.answer_all(Answer::Done), Ask::UpdateSecret { .. }));
    client.hears(0, ConnectionUpdateSecretOk {});

    let close = ConnectionClose { reply_code: 200, reply_text: s("bye"), ..Default::default() };
    client.say(0, close);
    assert_eq!(client.answer_all(Answer::Done), Ask::CloseConnection);
    client.hears(0, ConnectionCloseOk {});
    assert!(client.session.is_finished());
    assert_eq!(client.session.end(), Some(&End::ByClient { code: 200, text: s("bye") }));
}

#[test]
fn another_protocol_is_answered_with_ours() {
    for header in [&b"AMQP\0\x01\0\0"[..], b"GET / HT", b"\x16\x03\x01", b"AMQP\x03\x01\0\0"] {
        let mut client = Client::new(SessionConfig::default());
        client.bytes(header);
        assert_eq!(&client.output()[..], PROTOCOL_HEADER);
        assert!(client.session.is_finished());
        assert!(client.asks().is_empty(), "the broker never knew");
    }
    let mut client = Client::new(SessionConfig::default());
    client.bytes(b"AMQP\x01\x01\0\x09");
    assert!(matches!(client.heard()[..], [Heard::Method(0, Method::ConnectionStart(_))]));
}

#[test]
fn limits_are_agreed_within_what_was_offered() {
    let refused = [
        (
            ConnectionTuneOk { frame_max: 4095, ..tune_ok() },
            "negotiated frame_max = 4095 is lower than the minimum allowed value (4096)",
        ),
        (
            ConnectionTuneOk { frame_max: 131_073, ..tune_ok() },
            "negotiated frame_max = 131073 is higher than the maximum allowed value (131072)",
        ),
        (
            ConnectionTuneOk { channel_max: 0, ..tune_ok() },
            "negotiated channel_max = 0 (no limit) is higher than the maximum allowed value (2047)",
        ),
    ];
    for (tune, text) in refused {
        let mut client = Client::new(SessionConfig::default());
        client.bytes(&PROTOCOL_HEADER);
        client.say(0, start_ok(b"\0guest\0guest"));
        client.answer_all(Answer::Login { may_impersonate: false });
        client.say(0, tune);
        assert_eq!(client.hears_close(0), (530, format!("NOT_ALLOWED - {text}"), 10, 30));
    }
}

#[test]
fn channels_are_counted_against_the_limit() {
    let config = SessionConfig { channel_max: 2, ..SessionConfig::default() };
    let mut client = Client::new(config);
    client.bytes(&PROTOCOL_HEADER);
    client.say(0, start_ok(b"\0guest\0guest"));
    client.answer_all(Answer::Login { may_impersonate: false });
    client.say(0, ConnectionTuneOk { channel_max: 2, ..tune_ok() });
    client.say(0, ConnectionOpen::default());
    client.answer_all(Answer::Done);
    for channel in [7, 9, 8] {
        client.say(channel, ChannelOpen::default());
    }
    let text = "number of channels opened (2) has reached the negotiated channel_max (2)";
    assert_eq!(client.hears_close(0).1, format!("NOT_ALLOWED - {text}"));
}

#[test]
fn refused_login_is_told_to_who_understands_it() {
    let refused = || Answer::Refused(Fault::new(ReplyCode::AccessRefused, "wrong password"));
    let mut client = Client::new(SessionConfig::default());
    client.bytes(&PROTOCOL_HEADER);
    client.say(0, start_ok(b"\0guest\0wrong"));
    client.answer_all(refused());
    let text = "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. For \
                details see the broker logfile.";
    assert_eq!(client.hears_close(0), (403, text.into(), 0, 0));
    client.say(0, ConnectionCloseOk {});
    assert!(client.session.is_finished() && client.asks().is_empty());

    // Who was not let in is not waited for as long as others.
    let mut client = Client::new(SessionConfig::default());
    client.bytes(&PROTOCOL_HEADER);
    client.say(0, start_ok(b"\0guest\0wrong"));
    client.answer_all(refused());
    client.tick(3);
    assert!(client.session.is_finished());

    let mut client = Client::new(SessionConfig::default());
    client.bytes(&PROTOCOL_HEADER);
    client.heard();
    let client_properties = Default::default();
    client.say(0, ConnectionStartOk { client_properties, ..start_ok(b"\0guest\0wrong") });
    client.answer_all(refused());
    assert!(client.heard().is_empty() && !client.session.is_finished());
    client.tick(3);
    assert!(client.session.is_finished());
}

#[test]
fn nonsense_before_the_login_is_met_with_silence() {
    let attempts: [Method; 4] = [
        start_ok(b"guest").into(),
        ConnectionStartOk { mechanism: s("EXTERNAL"), ..start_ok(b"") }.into(),
        ConnectionOpen::default().into(),
        QueueDeclare::default().into(),
    ];
    for method in attempts {
        let mut client = Client::new(SessionConfig::default());
        client.bytes(&PROTOCOL_HEADER);
        client.heard();
        client.say(0, method);
        assert!(client.heard().is_empty() && client.asks().is_empty());
        assert!(matches!(client.session.end(), Some(End::Fault(_))));
        client.tick(3);
        assert!(client.session.is_finished());
    }
}

#[test]
fn violations_have_their_code_and_text() {
    let method = |class: u16, method: u16| [class.to_be_bytes(), method.to_be_bytes()].concat();
    let unknown = (540, "NOT_IMPLEMENTED - there is no method 1 of class 60", 60, 1);
    type Close = (u16, &'static str, u16, u16);
    let cases: [(u8, u16, Vec<u8>, Close); 12] = [
        (1, 1, method(60, 1), unknown),
        (1, 0, method(60, 1), unknown),
        (1, 1, method(60, 21), (501, "FRAME_ERROR - cannot decode <<>>", 60, 21)),
        (
            1,
            1,
            [method(60, 21), vec![0]].concat(),
            (503, "COMMAND_INVALID - unimplemented method", 60, 21),
        ),
        (
            1,
            0,
            [method(20, 10), vec![0]].concat(),
            (504, "CHANNEL_ERROR - unexpected method in connection state running", 20, 10),
        ),
        (1, 2, [method(90, 10)].concat(), (504, "CHANNEL_ERROR - expected 'channel.open'", 90, 10)),
        (
            1,
            1,
            [method(20, 10), vec![0]].concat(),
            (504, "CHANNEL_ERROR - second 'channel.open' seen", 20, 10),
        ),
        (
            3,
            1,
            vec![1],
            (505, "UNEXPECTED_FRAME - expected method frame, got non method frame instead", 0, 0),
        ),
        (2, 0, vec![1, 2], (505, "UNEXPECTED_FRAME - type 2, all octets = <<1,2>>", 0, 0)),
        (8, 1, vec![], (505, "UNEXPECTED_FRAME - type 8, all octets = <<>>", 0, 0)),
        (
            9,
            1,
            b"abc".to_vec(),
            (501, "FRAME_ERROR - type 9, all octets = <<\"abc\">>: unknown_frame", 0, 0),
        ),
        (8, 0, vec![7], (501, "FRAME_ERROR - type 8, all octets = <<7>>: unknown_frame", 0, 0)),
    ];
    for (kind, channel, payload, (code, text, class_id, method_id)) in cases {
        let mut client = Client::with_channel();
        let mut bytes = bytes::BytesMut::new();
        put_raw(&mut bytes, kind, channel, &payload);
        client.bytes(&bytes);
        assert_eq!(client.hears_close(0), (code, text.into(), class_id, method_id));
        let asks = client.asks();
        assert!(matches!(asks[..], [Ask::CloseChannel { .. }, Ask::CloseConnection]), "{asks:?}");
        // What still comes is not looked at, until the client agrees.
        client.say(1, TxSelect {});
        assert!(client.heard().is_empty());
        client.say(0, ConnectionCloseOk {});
        assert!(client.session.is_finished() && client.asks().is_empty());
    }
}

#[test]
fn frame_that_is_none_ends_all_reading() {
    let mut client = Client::with_channel();
    client.bytes(&[1, 0, 1, 0, 0, 0, 0, 0xcd]);
    let text = "FRAME_ERROR - type 1, all octets = <<>>: {invalid_frame_end_marker,205}";
    assert_eq!(client.hears_close(0), (501, text.into(), 0, 0));
    client.say(0, ConnectionCloseOk {});
    assert!(!client.session.is_finished(), "nothing is read any more");
    client.tick(3);
    assert!(client.session.is_finished());

    let mut client = Client::with_channel();
    client.bytes(&[3, 0, 1, 0, 2, 0, 1]);
    let text = "FRAME_ERROR - type 3, all octets = <<>>: {frame_too_large,131073,131064}";
    assert_eq!(client.hears_close(0), (501, text.into(), 0, 0));
}

#[test]
fn server_closes_and_both_closes_may_cross() {
    let mut client = Client::with_channel();
    client.session.shut_down("the node stops");
    assert_eq!(client.hears_close(0), (320, "CONNECTION_FORCED - the node stops".into(), 0, 0));
    client.say(0, ConnectionClose::default());
    client.hears(0, ConnectionCloseOk {});
    client.say(0, ConnectionCloseOk {});
    assert!(client.session.is_finished());

    let mut client = Client::with_channel();
    client.session.shut_down("the node stops");
    client.tick(29);
    assert!(!client.session.is_finished(), "it has 30 s to agree");
    client.tick(1);
    assert!(client.session.is_finished(), "a client that does not agree is not waited for longer");
}

#[test]
fn peer_is_dead_after_two_intervals_and_hears_from_us_each_half() {
    let mut client = Client::open(SessionConfig::default());
    let deadline = client.session.deadline().unwrap();
    assert_eq!((deadline - client.now).as_secs(), 30);
    client.tick(30);
    assert_eq!(client.heard(), [Heard::Heartbeat]);
    client.tick(60);
    assert_eq!(client.heard(), [Heard::Heartbeat]);
    // Any byte counts.
    client.bytes(&[8]);
    client.tick(119);
    assert!(!client.session.is_finished());
    client.tick(1);
    assert!(client.session.is_finished());
    assert_eq!(client.session.end(), Some(&End::Heartbeat));
    assert_eq!(client.asks(), [Ask::CloseConnection]);
}

#[test]
fn handshake_has_a_deadline() {
    let mut client = Client::new(SessionConfig::default());
    client.bytes(&PROTOCOL_HEADER);
    client.tick(9);
    assert!(!client.session.is_finished());
    client.tick(1);
    assert_eq!(client.session.end(), Some(&End::HandshakeTimeout));
    assert!(client.session.is_finished());
}

#[test]
fn who_publishes_is_blocked_and_told() {
    let mut client = Client::with_channel();
    client.session.block("low on disk");
    assert!(client.heard().is_empty() && client.session.wants_input(), "who only consumes is not");
    client.publish(1, "q", b"x");
    client.hears(0, ConnectionBlocked { reason: s("low on disk") });
    assert!(!client.session.wants_input());
    client.publish(1, "q", b"y");
    assert_eq!(client.asks().len(), 1, "the second waits in the input");
    client.tick(1000);
    assert!(!client.session.is_finished(), "who is not read is not dead");
    client.session.unblock();
    client.session.receive(&mut client.input, client.now);
    assert_eq!(client.asks().len(), 1);
    let told = Heard::Method(0, ConnectionUnblocked {}.into());
    assert!(client.heard().contains(&told));
}

#[test]
fn socket_that_ends_gives_everything_back_once() {
    let mut client = Client::with_channel();
    let key = client.consume("c", false);
    client.session.deliver(key, "c", delivery(1)).unwrap();
    client.session.disconnect();
    client.session.disconnect();
    let asks = client.asks();
    let [Ask::CloseChannel { consumers, unsettled }, Ask::CloseConnection] = &asks[..] else {
        panic!("{asks:?}")
    };
    assert_eq!((consumers.len(), unsettled.len()), (1, 1));
    assert!(client.session.deliver(key, "c", delivery(2)).is_err());
}

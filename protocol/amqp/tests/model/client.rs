//! A client and a broker for sessions: methods in, requests and methods out.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "not every test uses all of it")]

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use plimsoll_amqp::frame::{Frame, PROTOCOL_HEADER, put_method};
use plimsoll_amqp::methods::*;
use plimsoll_amqp::properties::{ContentHeader, Properties};
use plimsoll_amqp::session::*;
use plimsoll_amqp::shortstr::ShortStr;
use plimsoll_amqp::table::{FieldTable, FieldValue, TableBuilder};

/// What a client hears.
#[derive(Debug, Clone, PartialEq)]
pub enum Heard {
    Method(u16, Method),
    Header(u16, ContentHeader),
    Body(u16, Bytes),
    Heartbeat,
}

pub struct Client {
    pub session: Session,
    pub input: BytesMut,
    pub now: Duration,
}

pub fn s(text: &str) -> ShortStr {
    ShortStr::cut(text)
}

pub fn capabilities() -> FieldTable {
    let yes = FieldValue::Bool(true);
    let told = TableBuilder::new()
        .field("consumer_cancel_notify", yes)
        .field("connection.blocked", yes)
        .field("authentication_failure_close", yes)
        .build()
        .expect("flat");
    TableBuilder::new()
        .field("capabilities", FieldValue::Table(told.fields()))
        .build()
        .expect("shallow")
}

pub fn start_ok(response: &'static [u8]) -> ConnectionStartOk {
    ConnectionStartOk {
        client_properties: capabilities(),
        mechanism: s("PLAIN"),
        response: Bytes::from_static(response),
        locale: s("en_US"),
    }
}

pub fn tune_ok() -> ConnectionTuneOk {
    ConnectionTuneOk { channel_max: 2047, frame_max: 131_072, heartbeat: 60 }
}

/// The frames of a publish, cut as `frame_payload_max` says.
pub fn content_frames(
    channel: u16,
    method: impl Into<Method>,
    properties: &Properties,
    body: &[u8],
    frame_payload_max: usize,
) -> BytesMut {
    let mut out = BytesMut::new();
    put_method(&mut out, channel, &method.into());
    let mut header = BytesMut::new();
    ContentHeader::write(&mut header, body.len(), &properties.to_bytes());
    put_raw(&mut out, 2, channel, &header);
    for piece in body.chunks(frame_payload_max) {
        put_raw(&mut out, 3, channel, piece);
    }
    out
}

pub fn put_raw(out: &mut BytesMut, kind: u8, channel: u16, payload: &[u8]) {
    out.put_u8(kind);
    out.put_u16(channel);
    out.put_u32(payload.len() as u32);
    out.put_slice(payload);
    out.put_u8(0xce);
}

impl Client {
    pub fn new(config: SessionConfig) -> Self {
        let now = Duration::from_secs(1000);
        let session = Session::new(Arc::new(config), 7, now);
        Self { session, input: BytesMut::new(), now }
    }

    /// Logged in, the host open, nothing to hear.
    pub fn open(config: SessionConfig) -> Self {
        let mut client = Self::new(config);
        client.bytes(&PROTOCOL_HEADER);
        client.say(0, start_ok(b"\0guest\0guest"));
        client.answer_all(Answer::Login { may_impersonate: false });
        client.say(0, tune_ok());
        client.say(0, ConnectionOpen { virtual_host: s("/"), ..Default::default() });
        client.answer_all(Answer::Done);
        client.heard();
        client
    }

    /// The same with channel 1.
    pub fn with_channel() -> Self {
        let mut client = Self::open(SessionConfig::default());
        client.say(1, ChannelOpen::default());
        client.heard();
        client
    }

    pub fn bytes(&mut self, bytes: &[u8]) {
        self.input.put_slice(bytes);
        self.session.receive(&mut self.input, self.now);
    }

    pub fn say(&mut self, channel: u16, method: impl Into<Method>) {
        let mut out = BytesMut::new();
        put_method(&mut out, channel, &method.into());
        self.bytes(&out);
    }

    pub fn publish(&mut self, channel: u16, key: &str, body: &[u8]) {
        let method = BasicPublish { routing_key: s(key), ..Default::default() };
        let frames = content_frames(channel, method, &Properties::default(), body, 4000);
        self.bytes(&frames);
    }

    pub fn requests(&mut self) -> Vec<Request> {
        std::iter::from_fn(|| self.session.poll_request()).collect()
    }

    pub fn asks(&mut self) -> Vec<Ask> {
        self.requests().into_iter().map(|request| request.ask).collect()
    }

    /// Answers the one request there is; gives what was asked.
    pub fn answer_all(&mut self, answer: Answer) -> Ask {
        let mut requests = self.requests();
        assert_eq!(requests.len(), 1, "{requests:?}");
        let request = requests.remove(0);
        self.answer(request.channel, answer);
        request.ask
    }

    pub fn answer(&mut self, key: ChannelKey, answer: Answer) {
        self.session.answer(key, answer);
        self.session.receive(&mut self.input, self.now);
    }

    pub fn tick(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        self.session.tick(self.now);
    }

    pub fn output(&mut self) -> BytesMut {
        let mut pieces = Vec::new();
        self.session.take_output(&mut pieces, self.now);
        BytesMut::from(&pieces.concat()[..])
    }

    pub fn heard(&mut self) -> Vec<Heard> {
        let mut bytes = self.output();
        let mut heard = Vec::new();
        while let Some(frame) = Frame::take(&mut bytes, 1 << 20).expect("frames") {
            heard.push(match frame.kind {
                1 => Heard::Method(frame.channel, Method::read(&frame.payload).expect("a method")),
                2 => Heard::Header(
                    frame.channel,
                    ContentHeader::read(&frame.payload).expect("a header"),
                ),
                3 => Heard::Body(frame.channel, frame.payload),
                _ => Heard::Heartbeat,
            });
        }
        assert!(bytes.is_empty(), "half a frame: {bytes:?}");
        heard
    }

    /// What is heard is one method.
    pub fn hears(&mut self, channel: u16, method: impl Into<Method>) {
        assert_eq!(self.heard(), [Heard::Method(channel, method.into())]);
    }

    /// Code and text of the close that is heard, and the numbers of the method it blames.
    pub fn hears_close(&mut self, channel: u16) -> (u16, String, u16, u16) {
        match &self.heard()[..] {
            [.., Heard::Method(on, Method::ConnectionClose(close))] if channel == 0 => {
                assert_eq!(*on, 0);
                (close.reply_code, close.reply_text.to_string(), close.class_id, close.method_id)
            }
            [.., Heard::Method(on, Method::ChannelClose(close))] => {
                assert_eq!(*on, channel);
                (close.reply_code, close.reply_text.to_string(), close.class_id, close.method_id)
            }
            other => panic!("{other:?}"),
        }
    }

    /// Begins a consumer on channel 1.
    pub fn consume(&mut self, tag: &str, no_ack: bool) -> ChannelKey {
        let consumer_tag = s(tag);
        let consume = BasicConsume { queue: s("q"), consumer_tag, no_ack, ..Default::default() };
        self.say(1, consume);
        let request = self.requests().remove(0);
        self.answer(request.channel, Answer::Done);
        self.hears(1, BasicConsumeOk { consumer_tag: s(tag) });
        request.channel
    }
}

pub fn delivery(message: u64) -> Delivery {
    Delivery {
        message: MessageRef { queue: 3, message },
        redelivered: false,
        exchange: s("x"),
        routing_key: s("k"),
        properties: Properties::default().to_bytes(),
        body: Bytes::from_static(b"hello"),
    }
}

/// What the broker is asked to settle, of consumer `c`.
pub fn settle(outcome: Outcome, messages: &[u64]) -> Ask {
    let settled = |message: &u64| Settled {
        message: MessageRef { queue: 3, message: *message },
        consumer_tag: Some(s("c")),
    };
    Ask::Settle(Settlement { outcome, deliveries: messages.iter().map(settled).collect() })
}

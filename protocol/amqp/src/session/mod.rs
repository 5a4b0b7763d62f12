//! The state of one connection, from its first byte to its last, without I/O: bytes and the broker's
//! answers in, bytes and requests out. Time is an argument, counted from any moment.
//!
//! The order in which a gateway calls it:
//! 1. [`Session::receive`] with what was read, and again, without new bytes, after any other call
//!    while [`Session::wants_input`] and input is left;
//! 2. [`Session::poll_request`] until there is none; each is carried out and, where it says so,
//!    answered by [`Session::answer`], now or later;
//! 3. [`Session::take_output`] and write it all; then, if [`Session::is_finished`], close the socket;
//! 4. sleep until there is input, an answer, a delivery, or [`Session::deadline`]: [`Session::tick`].
//!
//! When the socket ends by itself: [`Session::disconnect`], then the requests once more.
//!
//! Invariants: requests of a channel come in the order in which the client asked; a channel or
//! connection that ended asks for nothing but the taking back of what it had, and what it asked before
//! it ended; after its last request, `CloseConnection`, a session asks for nothing.
//!
//! It does not know queues, exchanges, users or permissions.

mod answers;
mod channel;
mod commands;
mod config;
mod confirms;
mod connection;
mod names;
mod publish;
mod request;
mod unsettled;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::auth::Mechanism;
use crate::error::{Fault, ReplyCode};
use crate::frame::{Frame, PROTOCOL_HEADER, ProtocolHeader, put_heartbeat, take_protocol_header};
use crate::heartbeat::{Due, Heartbeat};
use crate::methods::{ConnectionBlocked, ConnectionUnblocked, Method};
use crate::output::Output;
use crate::shortstr::ShortStr;

pub use answers::{ConsumerGone, Depth, Returned};
pub use config::{Capabilities, SessionConfig, server_properties};
pub use names::server_named;
pub use publish::expiration_ms;
pub use request::*;

use channel::{Channel, Host};
use names::Names;

/// How far a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The protocol header is awaited.
    Header,
    /// `start` was sent.
    Starting,
    /// The broker is asked who it is.
    LoggingIn(Mechanism),
    /// `tune` was sent.
    Tuning,
    /// The limits are agreed, `open` is awaited.
    Opening,
    /// The broker is asked for the virtual host.
    OpeningHost,
    /// Open.
    Running,
    /// Open, and the broker is asked to take a new secret.
    UpdatingSecret,
    /// The client closed; the broker takes back what it had.
    ClosedByClient,
    /// The server closed; close-ok is awaited.
    Closing,
    /// Nothing is read or sent any more; the socket stays open a moment.
    Lingering,
    /// Over.
    Finished,
}

/// Why a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The client closed it.
    ByClient {
        /// Its code, 200 where nothing was wrong.
        code: u16,
        /// Its text.
        text: ShortStr,
    },
    /// The client broke a rule, or the broker refused it.
    Fault(Fault),
    /// It does not speak AMQP 0-9-1.
    ProtocolHeader,
    /// It took too long until its virtual host was open.
    HandshakeTimeout,
    /// No byte of it for two intervals.
    Heartbeat,
    /// The socket ended.
    Disconnected,
}

/// One connection.
#[derive(Debug)]
pub struct Session {
    config: Arc<SessionConfig>,
    phase: Phase,
    /// When the phase has taken too long.
    phase_deadline: Option<Duration>,
    now: Duration,
    /// Bytes that the last `receive` left.
    input_left: usize,
    frame_bytes_max: u32,
    channel_max: u16,
    heartbeat: Heartbeat,
    capabilities: Capabilities,
    user: String,
    may_impersonate: bool,
    vhost: ShortStr,
    /// Whether the broker knows of the connection, so that it is told of its end.
    logged_in: bool,
    channels: BTreeMap<u16, Channel>,
    lives: u32,
    names: Names,
    requests: VecDeque<Request>,
    output: Output,
    backlog_bytes: usize,
    /// Channels with confirmations that were not sent.
    unconfirmed: Vec<ChannelKey>,
    /// Why publishes are blocked.
    blocked: Option<ShortStr>,
    blocked_told: bool,
    /// Whether anything was published: others are not blocked.
    has_published: bool,
    /// The input made no sense; the rest of it is not looked at.
    lost: bool,
    end: Option<End>,
}

impl Session {
    /// A connection that was accepted at `now`. `random` are 128 random bits of its own.
    #[must_use]
    pub fn new(config: Arc<SessionConfig>, random: u128, now: Duration) -> Self {
        Self {
            phase: Phase::Header,
            phase_deadline: Some(now + config.handshake_timeout),
            now,
            input_left: 0,
            frame_bytes_max: config.frame_bytes_max_before_tune,
            channel_max: config.channel_max,
            heartbeat: Heartbeat::OFF,
            capabilities: Capabilities::default(),
            user: String::new(),
            may_impersonate: false,
            vhost: ShortStr::EMPTY,
            logged_in: false,
            channels: BTreeMap::new(),
            lives: 0,
            names: Names::new(random),
            requests: VecDeque::new(),
            output: Output::default(),
            backlog_bytes: 0,
            unconfirmed: Vec::new(),
            blocked: None,
            blocked_told: false,
            has_published: false,
            lost: false,
            end: None,
            config,
        }
    }

    /// Takes whole frames off the front of `input` and leaves the rest there. Contents are slices of
    /// `input`. Stops early where the session does not want input.
    pub fn receive(&mut self, input: &mut BytesMut, now: Duration) {
        self.now = self.now.max(now);
        if input.len() > self.input_left {
            self.heartbeat.received(self.now);
        }
        while self.wants_input() && self.take_one(input) {}
        self.input_left = input.len();
    }

    /// One protocol header or frame; false when there is none left.
    fn take_one(&mut self, input: &mut BytesMut) -> bool {
        let deaf = matches!(self.phase, Phase::ClosedByClient | Phase::Lingering | Phase::Finished);
        if deaf || self.lost {
            input.clear();
            return false;
        }
        if self.phase == Phase::Header {
            match take_protocol_header(input) {
                ProtocolHeader::Incomplete => return false,
                ProtocolHeader::Accepted => self.start(),
                ProtocolHeader::Refused => {
                    self.output.write(|out| out.extend_from_slice(&PROTOCOL_HEADER));
                    self.end.get_or_insert(End::ProtocolHeader);
                    self.finish();
                }
            }
            return true;
        }
        match Frame::take(input, self.frame_bytes_max) {
            Ok(None) => return false,
            Ok(Some(frame)) => self.frame(&frame),
            Err(error) => {
                self.fail_connection(error.fault());
                self.lost = true;
                if self.phase == Phase::Closing {
                    self.phase_deadline = Some(self.now + self.config.linger);
                }
            }
        }
        true
    }

    /// Whether `receive` would take something. False while the broker's answers or the client's
    /// reading are awaited: what is not read makes the client wait.
    #[must_use]
    pub fn wants_input(&self) -> bool {
        !self.waits_for_broker() && self.output.bytes() <= self.config.output_bytes_max
    }

    /// Whether nothing is read for reasons that are not the client's.
    fn waits_for_broker(&self) -> bool {
        match self.phase {
            Phase::LoggingIn(_) | Phase::OpeningHost | Phase::UpdatingSecret => true,
            Phase::Running => {
                self.backlog_bytes > self.config.backlog_bytes_max
                    || self.blocked.is_some() && self.has_published
            }
            _ => false,
        }
    }

    /// The next request.
    pub fn poll_request(&mut self) -> Option<Request> {
        self.requests.pop_front()
    }

    /// Moves what is to be sent to the end of `pieces`: for one vectored write. To be called only once
    /// everything taken before was written, so that a client that does not read is not delivered to.
    pub fn take_output(&mut self, pieces: &mut Vec<Bytes>, now: Duration) {
        self.now = self.now.max(now);
        self.tell_confirms();
        if self.output.bytes() > 0 {
            self.heartbeat.sent(self.now);
            self.output.take_into(pieces);
        }
    }

    /// Whether there is something for [`Session::take_output`].
    #[must_use]
    pub fn has_output(&self) -> bool {
        self.output.bytes() > 0 || !self.unconfirmed.is_empty()
    }

    /// Whether the socket can be closed, once what is to be sent was.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.phase == Phase::Finished
    }

    /// Why it ended, or is ending.
    #[must_use]
    pub fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    /// The largest frame that may come now, for who makes room to read into.
    #[must_use]
    pub fn frame_bytes_max(&self) -> u32 {
        self.frame_bytes_max
    }

    /// When [`Session::tick`] has something to do, if nothing else happens before.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        let heartbeat = self.beats().then(|| self.heartbeat.deadline()).flatten();
        [self.phase_deadline, heartbeat].into_iter().flatten().min()
    }

    fn beats(&self) -> bool {
        !matches!(self.phase, Phase::Lingering | Phase::Finished)
    }

    /// Does what is due at `now`.
    pub fn tick(&mut self, now: Duration) {
        self.now = self.now.max(now);
        if self.phase_deadline.is_some_and(|deadline| deadline <= self.now) {
            self.end.get_or_insert(End::HandshakeTimeout);
            self.finish();
        }
        if self.waits_for_broker() {
            self.heartbeat.received(self.now);
        }
        if !self.beats() {
            return;
        }
        match self.heartbeat.due(self.now) {
            Due::Nothing => {}
            // Sent is what was written, not what waits: the interval begins anew either way.
            Due::Send => {
                self.heartbeat.sent(self.now);
                if self.output.bytes() == 0 {
                    self.output.write(put_heartbeat);
                }
            }
            Due::Dead => {
                self.end.get_or_insert(End::Heartbeat);
                self.finish();
            }
        }
    }

    /// Nothing was read up to `now` for reasons of the gateway's own: that time is not held against
    /// the client. To be called before [`Session::tick`].
    pub fn excuse_silence(&mut self, now: Duration) {
        self.heartbeat.received(now);
    }

    /// The socket has ended.
    pub fn disconnect(&mut self) {
        self.end.get_or_insert(End::Disconnected);
        self.finish();
    }

    /// An operator or the node ends the connection: 320, with this text.
    pub fn shut_down(&mut self, text: &str) {
        self.fail_connection(Fault::new(ReplyCode::ConnectionForced, text));
    }

    /// The node takes no publishes for now. Clients that published, and asked to be told, are told;
    /// nothing is read of those that published.
    ///
    /// Source: RabbitMQ, "Blocked Connection Notifications".
    pub fn block(&mut self, reason: &str) {
        self.blocked = Some(ShortStr::cut(reason));
        self.tell_blocked();
    }

    /// It takes them again.
    pub fn unblock(&mut self) {
        self.blocked = None;
        if std::mem::take(&mut self.blocked_told) {
            self.send(&ConnectionUnblocked {}.into());
        }
    }

    fn tell_blocked(&mut self) {
        let open = matches!(self.phase, Phase::Running | Phase::UpdatingSecret);
        let wanted = open && self.capabilities.connection_blocked && self.has_published;
        if let Some(reason) = &self.blocked
            && wanted
            && !self.blocked_told
        {
            let reason = reason.clone();
            self.blocked_told = true;
            self.send(&ConnectionBlocked { reason }.into());
        }
    }

    /// Sends a method of the connection itself.
    fn send(&mut self, method: &Method) {
        self.output.method(0, method);
    }

    /// The live channel of this key, and what it needs of the connection.
    fn channel(&mut self, key: ChannelKey) -> Option<(&mut Channel, Host<'_>)> {
        let host = Host {
            config: &self.config,
            output: &mut self.output,
            requests: &mut self.requests,
            names: &mut self.names,
            user: &self.user,
            may_impersonate: self.may_impersonate,
            vhost: &self.vhost,
            frame_bytes_max: self.frame_bytes_max,
        };
        let channel = self.channels.get_mut(&key.number).filter(|channel| channel.key == key)?;
        (!channel.closing).then_some((channel, host))
    }
}

//! Frames and methods as they come, and how channels and connections end.
//!
//! Source: AMQP 0-9-1, 2.2.4 (connection) and 4.2; codes, texts and silences as RabbitMQ has them.

use super::channel::Channel;
use super::request::{Ask, ChannelKey, Request};
use super::{Capabilities, End, Phase, Session};
use crate::auth::Mechanism;
use crate::content::Command;
use crate::erlang;
use crate::error::{Fault, MethodId, ReplyCode};
use crate::frame::{FRAME_BYTES_MIN, FRAME_EMPTY_BYTES, Frame, FrameKind};
use crate::heartbeat::Heartbeat;
use crate::methods::*;
use crate::shortstr::ShortStr;

/// The name by which RabbitMQ's texts know a phase.
const fn name(phase: Phase) -> &'static str {
    match phase {
        Phase::Header | Phase::Starting => "starting",
        Phase::LoggingIn(_) => "securing",
        Phase::Tuning => "tuning",
        Phase::Opening | Phase::OpeningHost => "opening",
        Phase::Running | Phase::UpdatingSecret => "running",
        Phase::ClosedByClient | Phase::Closing => "closing",
        Phase::Lingering | Phase::Finished => "closed",
    }
}

fn unexpected_frame(frame: &Frame) -> Fault {
    let text = format!("type {}, {}", frame.kind, erlang::snippet(&frame.payload));
    Fault::new(ReplyCode::UnexpectedFrame, text)
}

fn unknown_frame(frame: &Frame) -> Fault {
    let snippet = erlang::snippet(&frame.payload);
    let text = format!("type {}, {snippet}: unknown_frame", frame.kind);
    Fault::new(ReplyCode::FrameError, text)
}

/// Checks what the client made of one limit that was offered; 0 is none.
fn agreed(what: &str, least: u32, offered: u32, taken: u32) -> Result<(), Fault> {
    let no_limit = if taken == 0 { " (no limit)" } else { "" };
    let wrong = if taken != 0 && taken < least {
        format!("lower than the minimum allowed value ({least})")
    } else if offered != 0 && (taken == 0 || taken > offered) {
        format!("higher than the maximum allowed value ({offered})")
    } else {
        return Ok(());
    };
    let text = format!("negotiated {what} = {taken}{no_limit} is {wrong}");
    Err(Fault::new(ReplyCode::NotAllowed, text).blamed_on(ConnectionTune::ID))
}

impl Session {
    /// The protocol header was right.
    pub(super) fn start(&mut self) {
        let start = ConnectionStart {
            version_major: 0,
            version_minor: 9,
            server_properties: self.config.server_properties.clone(),
            mechanisms: LongStr::from_static(Mechanism::OFFERED.as_bytes()),
            locales: LongStr::from_static(b"en_US"),
        };
        self.send(&start.into());
        self.phase = Phase::Starting;
    }

    pub(super) fn frame(&mut self, frame: &Frame) {
        let kind = FrameKind::from_number(frame.kind)
            .filter(|kind| *kind != FrameKind::Heartbeat || frame.payload.is_empty());
        let result = match (frame.channel, self.phase) {
            (0, Phase::Closing) if kind != Some(FrameKind::Method) => Ok(()),
            (0, _) => match kind {
                None => Err(unknown_frame(frame)),
                Some(FrameKind::Heartbeat) => Ok(()),
                Some(FrameKind::Method) => self.connection_method(frame),
                Some(_) => Err(unexpected_frame(frame)),
            },
            (_, Phase::Closing) => Ok(()),
            (_, Phase::Running) => match kind {
                None => Err(unknown_frame(frame)),
                Some(FrameKind::Heartbeat) => Err(unexpected_frame(frame)),
                Some(kind) => self.channel_frame(kind, frame),
            },
            _ => Err(unexpected_frame(frame)),
        };
        if let Err(fault) = result {
            self.fail(frame.channel, fault);
        }
    }

    fn connection_method(&mut self, frame: &Frame) -> Result<(), Fault> {
        let method = Method::read(&frame.payload).map_err(|error| error.fault())?;
        let id = method.id();
        self.run_connection_method(method).map_err(|fault| fault.blamed_on(id))
    }

    fn run_connection_method(&mut self, method: Method) -> Result<(), Fault> {
        match (self.phase, method) {
            (Phase::Starting, Method::ConnectionStartOk(start)) => self.start_ok(start),
            (Phase::Tuning, Method::ConnectionTuneOk(tune)) => self.tune_ok(&tune),
            (Phase::Opening, Method::ConnectionOpen(open)) => {
                self.vhost = open.virtual_host.clone();
                self.phase = Phase::OpeningHost;
                self.ask(Ask::OpenHost { vhost: open.virtual_host });
                Ok(())
            }
            (Phase::Running, Method::ConnectionUpdateSecret(update)) => {
                self.phase = Phase::UpdatingSecret;
                let ConnectionUpdateSecret { new_secret: secret, reason } = update;
                self.ask(Ask::UpdateSecret { secret, reason });
                Ok(())
            }
            (Phase::Closing, Method::ConnectionCloseOk(_)) => {
                self.finish();
                Ok(())
            }
            (Phase::Closing, Method::ConnectionClose(_)) => {
                self.send(&ConnectionCloseOk {}.into());
                Ok(())
            }
            (Phase::Closing, _) => Ok(()),
            (Phase::Tuning | Phase::Opening | Phase::Running, Method::ConnectionClose(close)) => {
                self.closed_by_client(close);
                Ok(())
            }
            (phase, _) => {
                let text = format!("unexpected method in connection state {}", name(phase));
                Err(Fault::new(ReplyCode::ChannelError, text))
            }
        }
    }

    fn start_ok(&mut self, start: ConnectionStartOk) -> Result<(), Fault> {
        self.capabilities = Capabilities::of(&start.client_properties);
        let Some(mechanism) = Mechanism::from_name(&start.mechanism) else {
            let text = format!("unknown authentication mechanism '{}'", start.mechanism);
            return Err(Fault::new(ReplyCode::CommandInvalid, text));
        };
        let credentials = mechanism.credentials(&start.response)?;
        self.user.clone_from(&credentials.user);
        self.phase = Phase::LoggingIn(mechanism);
        let client_properties = start.client_properties;
        self.ask(Ask::Login { mechanism, credentials, client_properties });
        Ok(())
    }

    /// Source: AMQP 0-9-1, 1.4.2.6; RabbitMQ, "Networking", and what it refuses.
    fn tune_ok(&mut self, tune: &ConnectionTuneOk) -> Result<(), Fault> {
        let config = &self.config;
        agreed("frame_max", FRAME_BYTES_MIN, config.frame_bytes_max, tune.frame_max)?;
        agreed("channel_max", 1, config.channel_max.into(), tune.channel_max.into())?;
        // Where there is no limit, a whole message in one frame is one.
        let unlimited = || u32::try_from(config.message_bytes_max).unwrap_or(u32::MAX);
        self.frame_bytes_max = match tune.frame_max {
            0 => unlimited().saturating_add(FRAME_EMPTY_BYTES as u32).max(FRAME_BYTES_MIN),
            agreed => agreed,
        };
        self.channel_max = tune.channel_max;
        self.heartbeat = Heartbeat::new(tune.heartbeat, self.now);
        self.phase = Phase::Opening;
        Ok(())
    }

    fn closed_by_client(&mut self, close: ConnectionClose) {
        let ConnectionClose { reply_code: code, reply_text: text, .. } = close;
        self.end.get_or_insert(End::ByClient { code, text });
        self.tell_confirms();
        self.give_up();
        self.phase = Phase::ClosedByClient;
        self.phase_deadline = Some(self.now + self.config.close_timeout);
    }

    fn channel_frame(&mut self, kind: FrameKind, frame: &Frame) -> Result<(), Fault> {
        let number = frame.channel;
        let Some(channel) = self.channels.get_mut(&number) else {
            return self.open_channel(kind, frame);
        };
        if channel.is_leaving() {
            return self.frame_of_leaving(frame);
        }
        let message_bytes_max = self.config.message_bytes_max;
        let command = match channel.assembler.push(kind, frame, message_bytes_max) {
            Ok(None) => return Ok(()),
            Ok(Some(command)) => command,
            // What came before is carried out first.
            Err(fault) if !fault.code.is_hard() && channel.waiting.is_some() => {
                channel.doomed = Some(fault);
                return Ok(());
            }
            Err(fault) => return Err(fault),
        };
        if command.content.is_some() && !self.has_published {
            self.has_published = true;
            self.tell_blocked();
        }
        let Some(channel) = self.channels.get_mut(&number) else { return Ok(()) };
        if channel.waiting.is_some() {
            self.backlog_bytes += command.bytes();
            channel.backlog.push_back(command);
            return Ok(());
        }
        let key = channel.key;
        self.execute(key, command)
    }

    pub(super) fn execute(&mut self, key: ChannelKey, command: Command) -> Result<(), Fault> {
        let Some((channel, mut host)) = self.channel(key) else { return Ok(()) };
        channel.execute(command, &mut host)
    }

    fn open_channel(&mut self, kind: FrameKind, frame: &Frame) -> Result<(), Fault> {
        if self.channel_max != 0 && self.channels.len() >= usize::from(self.channel_max) {
            let text = format!(
                "number of channels opened ({}) has reached the negotiated channel_max ({})",
                self.channels.len(),
                self.channel_max
            );
            return Err(Fault::new(ReplyCode::NotAllowed, text));
        }
        let key = ChannelKey { number: frame.channel, life: self.lives };
        let mut channel = Channel::new(key);
        let message_bytes_max = self.config.message_bytes_max;
        let command = channel.assembler.push(kind, frame, message_bytes_max)?;
        let Some(Command { method: Method::ChannelOpen(_), .. }) = command else {
            let id = command.map_or(MethodId::default(), |command| command.method.id());
            let text = "expected 'channel.open'";
            return Err(Fault::new(ReplyCode::ChannelError, text).blamed_on(id));
        };
        self.lives = self.lives.wrapping_add(1);
        self.channels.insert(key.number, channel);
        self.output.method(key.number, &ChannelOpenOk::default().into());
        Ok(())
    }

    /// Of a channel that is ending only the ending is looked at.
    fn frame_of_leaving(&mut self, frame: &Frame) -> Result<(), Fault> {
        if frame.kind != FrameKind::Method.number() {
            return Ok(());
        }
        let id = method_id(&frame.payload).map_err(|error| error.fault())?;
        let Some(channel) = self.channels.get_mut(&frame.channel) else { return Ok(()) };
        if id == ChannelCloseOk::ID && channel.closing {
            self.channels.remove(&frame.channel);
        } else if id == ChannelClose::ID && channel.closing {
            self.output.method(frame.channel, &ChannelCloseOk {}.into());
        } else if id == ChannelClose::ID && channel.doomed.take().is_some() {
            // It ends either way, and the client need not be told why.
            let command = Command { method: ChannelClose::default().into(), content: None };
            self.backlog_bytes += command.bytes();
            channel.backlog.push_back(command);
        }
        Ok(())
    }

    fn ask(&mut self, ask: Ask) {
        self.requests.push_back(Request { channel: ChannelKey::CONNECTION, ask });
    }

    /// Ends the channel or the connection, as the fault asks for.
    pub(super) fn fail(&mut self, number: u16, fault: Fault) {
        match self.channels.get(&number) {
            Some(channel) if number != 0 && !fault.code.is_hard() => {
                let key = channel.key;
                self.fail_channel(key, &fault);
            }
            _ => self.fail_connection(fault),
        }
    }

    fn fail_channel(&mut self, key: ChannelKey, fault: &Fault) {
        let Some((channel, mut host)) = self.channel(key) else { return };
        if channel.is_closed_by_client() {
            return;
        }
        channel.tell_confirms(host.output);
        let dropped = channel.drop_backlog();
        channel.waiting = None;
        let ask = channel.give_up();
        channel.ask(&mut host, ask);
        channel.closing = true;
        host.output.method(
            key.number,
            &ChannelClose {
                reply_code: fault.code.number(),
                reply_text: fault.reply_text(),
                class_id: fault.method.class,
                method_id: fault.method.method,
            }
            .into(),
        );
        self.backlog_bytes -= dropped;
    }

    /// Ends the connection: with a close where the client is far enough to be trusted, else without
    /// a word and after a moment.
    pub(super) fn fail_connection(&mut self, fault: Fault) {
        let told = match self.phase {
            Phase::Header | Phase::Starting => false,
            Phase::LoggingIn(_) => {
                fault.code == ReplyCode::AccessRefused
                    && self.capabilities.authentication_failure_close
            }
            Phase::Tuning => fault.code == ReplyCode::NotAllowed,
            Phase::Opening | Phase::OpeningHost | Phase::Running | Phase::UpdatingSecret => true,
            Phase::ClosedByClient | Phase::Closing | Phase::Lingering | Phase::Finished => return,
        };
        // Before it is given up: who was let in has the time to agree.
        let wait = if self.logged_in { self.config.close_timeout } else { self.config.linger };
        self.tell_confirms();
        self.give_up();
        if told {
            let close = ConnectionClose {
                reply_code: fault.code.number(),
                reply_text: fault.reply_text(),
                class_id: fault.method.class,
                method_id: fault.method.method,
            };
            self.send(&close.into());
            self.phase = Phase::Closing;
            self.phase_deadline = Some(self.now + wait);
        } else {
            self.phase = Phase::Lingering;
            self.phase_deadline = Some(self.now + self.config.linger);
        }
        self.end.get_or_insert(End::Fault(fault));
    }

    /// Gives back to the broker what the connection had, once.
    pub(super) fn give_up(&mut self) {
        for (_, mut channel) in std::mem::take(&mut self.channels) {
            if !channel.closing && !channel.is_closed_by_client() {
                let ask = channel.give_up();
                self.requests.push_back(Request { channel: channel.key, ask });
            }
        }
        self.backlog_bytes = 0;
        self.unconfirmed.clear();
        if std::mem::take(&mut self.logged_in) {
            self.ask(Ask::CloseConnection);
        }
    }

    pub(super) fn finish(&mut self) {
        self.give_up();
        self.phase = Phase::Finished;
        self.phase_deadline = None;
    }

    /// What is said of a login that was refused, whatever the broker's reason: it is in the log.
    pub(super) fn login_refused(mechanism: Mechanism) -> Fault {
        let text = format!(
            "Login was refused using authentication mechanism {}. For details see the broker logfile.",
            mechanism.name()
        );
        Fault::new(ReplyCode::AccessRefused, ShortStr::cut(&text).as_str())
    }
}

//! What a peer did wrong, or asked for in vain, as AMQP tells it: a reply code, a text, and the
//! method that failed. Whether it ends a channel or the connection follows from the code.
//!
//! Knows nothing of when a fault is sent: that is the session's.

use std::fmt;

use thiserror::Error;

use crate::shortstr::{SHORTSTR_BYTES_MAX, ShortStr};

/// Class and method number of a method, (0, 0) where no method is to blame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub struct MethodId {
    /// Number of the class.
    pub class: u16,
    /// Number of the method in its class.
    pub method: u16,
}

impl MethodId {
    /// The id with these numbers.
    #[must_use]
    pub const fn new(class: u16, method: u16) -> Self {
        Self { class, method }
    }
}

macro_rules! reply_codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $text:literal, $hard:literal;)+) => {
        /// A reply code.
        ///
        /// Source: AMQP 0-9-1, 1.2 "constants"; names as RabbitMQ writes them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ReplyCode {
            $($(#[$doc])* $name,)+
        }

        impl ReplyCode {
            /// All codes.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The number on the wire.
            #[must_use]
            pub const fn number(self) -> u16 {
                match self { $(Self::$name => $code,)+ }
            }

            /// The name that begins the text of a close.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            /// Whether it ends the connection, and not only its channel.
            #[must_use]
            pub const fn is_hard(self) -> bool {
                match self { $(Self::$name => $hard,)+ }
            }
        }
    };
}

reply_codes! {
    /// A body is larger than the receiver takes.
    ContentTooLarge = 311, "CONTENT_TOO_LARGE", false;
    /// A mandatory message has no queue; in `basic.return`.
    NoRoute = 312, "NO_ROUTE", false;
    /// An immediate message has no consumer.
    NoConsumers = 313, "NO_CONSUMERS", false;
    /// An operator ends the connection.
    ConnectionForced = 320, "CONNECTION_FORCED", true;
    /// The virtual host is unknown.
    InvalidPath = 402, "INVALID_PATH", true;
    /// The user may not do this.
    AccessRefused = 403, "ACCESS_REFUSED", false;
    /// No such queue or exchange.
    NotFound = 404, "NOT_FOUND", false;
    /// Another connection has it exclusively.
    ResourceLocked = 405, "RESOURCE_LOCKED", false;
    /// What was asked contradicts what is.
    PreconditionFailed = 406, "PRECONDITION_FAILED", false;
    /// Bytes are not frames, or fields not those of the method.
    FrameError = 501, "FRAME_ERROR", true;
    /// A field has an impossible value.
    SyntaxError = 502, "SYNTAX_ERROR", true;
    /// A method that may not come now, or never from a client.
    CommandInvalid = 503, "COMMAND_INVALID", true;
    /// A channel that is not open, or is open already.
    ChannelError = 504, "CHANNEL_ERROR", true;
    /// A frame of a kind that may not come now.
    UnexpectedFrame = 505, "UNEXPECTED_FRAME", true;
    /// The server lacks what it would need.
    ResourceError = 506, "RESOURCE_ERROR", true;
    /// Against the rules that were agreed on.
    NotAllowed = 530, "NOT_ALLOWED", true;
    /// Known, and not done here.
    NotImplemented = 540, "NOT_IMPLEMENTED", true;
    /// The server's fault.
    InternalError = 541, "INTERNAL_ERROR", true;
}

/// Why a channel or the connection ends.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{} {}", .code.number(), self.reply_text())]
pub struct Fault {
    /// The reply code.
    pub code: ReplyCode,
    /// What happened, to what.
    pub text: String,
    /// The method that failed.
    pub method: MethodId,
}

impl Fault {
    /// A fault that no method is blamed for yet.
    #[must_use]
    pub fn new(code: ReplyCode, text: impl Into<String>) -> Self {
        Self { code, text: text.into(), method: MethodId::default() }
    }

    /// The same fault, blamed on `method` where none is yet.
    #[must_use]
    pub fn blamed_on(mut self, method: MethodId) -> Self {
        if self.method == MethodId::default() {
            self.method = method;
        }
        self
    }

    /// `NOT_FOUND - no queue ...`, shortened with dots to the 255 bytes of a short string.
    #[must_use]
    pub fn reply_text(&self) -> ShortStr {
        let mut text = format!("{} - {}", self.code.name(), self.text);
        if text.len() > SHORTSTR_BYTES_MAX {
            text.truncate(text.floor_char_boundary(SHORTSTR_BYTES_MAX - 3));
            text.push_str("...");
        }
        ShortStr::cut(&text)
    }
}

/// A queue or exchange as texts name it: `queue 'q' in vhost '/'`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resource<'a> {
    /// `queue` or `exchange`.
    pub kind: &'static str,
    /// Its name.
    pub name: &'a str,
    /// Its virtual host.
    pub vhost: &'a str,
}

impl<'a> Resource<'a> {
    /// A queue.
    #[must_use]
    pub const fn queue(name: &'a str, vhost: &'a str) -> Self {
        Self { kind: "queue", name, vhost }
    }

    /// An exchange.
    #[must_use]
    pub const fn exchange(name: &'a str, vhost: &'a str) -> Self {
        Self { kind: "exchange", name, vhost }
    }

    /// 404 for it.
    #[must_use]
    pub fn not_found(&self) -> Fault {
        Fault::new(ReplyCode::NotFound, format!("no {self}"))
    }
}

impl fmt::Display for Resource<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} '{}' in vhost '{}'", self.kind, self.name, self.vhost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_names_code_and_resource() {
        let fault = Resource::queue("x", "/").not_found();
        assert_eq!(&*fault.reply_text(), "NOT_FOUND - no queue 'x' in vhost '/'");
        assert_eq!(fault.to_string(), "404 NOT_FOUND - no queue 'x' in vhost '/'");
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        let fault = Fault::new(ReplyCode::NotFound, "ü".repeat(200));
        let text = fault.reply_text();
        assert!(text.len() <= 255 && text.ends_with("ü..."), "{text}");
    }

    #[test]
    fn first_blame_stays() {
        let fault = Fault::new(ReplyCode::NotFound, "").blamed_on(MethodId::new(60, 40));
        assert_eq!(fault.blamed_on(MethodId::new(50, 10)).method, MethodId::new(60, 40));
    }
}

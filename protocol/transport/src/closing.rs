//! How a connection ends, seen the same way by every holder of one of its parts.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::shared_tcp::SharedTcp;
use crate::simulated::End;

/// What ended a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloseReason {
    /// Which side, or neither.
    pub by: ClosedBy,
    /// Number given to `close`; 0 where nobody gave one. TCP and TLS do not carry the peer's.
    pub code: u64,
    /// In words, for a log or a message.
    pub text: String,
}

/// Who ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClosedBy {
    /// This side called `close` or dropped every part of it.
    Here,
    /// The peer closed it.
    Peer,
    /// Nobody: it timed out, was reset or broke.
    Failure,
}

impl std::fmt::Display for CloseReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

/// The end of a connection, shared by its handle and the halves of its streams.
#[derive(Debug)]
pub(crate) enum Closing {
    Quic(quinn::Connection),
    Stream(StreamClosing),
    Simulated(Arc<End>),
}

#[derive(Debug)]
pub(crate) struct StreamClosing {
    socket: SharedTcp,
    reason: Mutex<Option<CloseReason>>,
    closed: watch::Sender<bool>,
}

impl Closing {
    pub(crate) fn stream(socket: SharedTcp) -> Closing {
        let (closed, _) = watch::channel(false);
        Closing::Stream(StreamClosing { socket, reason: Mutex::new(None), closed })
    }

    /// Closes the connection on this side; the first reason stays.
    pub(crate) fn close(&self, code: u32, text: &str) {
        match self {
            Closing::Quic(connection) => {
                connection.close(quinn::VarInt::from_u32(code), text.as_bytes());
            }
            Closing::Stream(stream) => {
                let code = u64::from(code);
                stream.settle(CloseReason { by: ClosedBy::Here, code, text: text.to_owned() });
                stream.socket.shutdown();
            }
            Closing::Simulated(end) => end.close(code, text),
        }
    }

    /// Notes that a half has seen the end of the connection; the first reason stays.
    pub(crate) fn ended(&self, by: ClosedBy, text: &str) {
        if let Closing::Stream(stream) = self {
            stream.settle(CloseReason { by, code: 0, text: text.to_owned() });
        }
    }

    pub(crate) fn known_reason(&self) -> Option<CloseReason> {
        match self {
            Closing::Quic(connection) => connection.close_reason().map(|error| quic_reason(&error)),
            Closing::Stream(stream) => stream.lock().clone(),
            Closing::Simulated(end) => end.known_reason(),
        }
    }

    /// In words, for an error value.
    pub(crate) fn reason(&self) -> String {
        self.known_reason().map_or_else(|| "connection closed".to_owned(), |reason| reason.text)
    }

    /// Waits for the end.
    pub(crate) async fn closed(&self) -> CloseReason {
        match self {
            Closing::Quic(connection) => quic_reason(&connection.closed().await),
            Closing::Stream(stream) => {
                let mut closed = stream.closed.subscribe();
                // The sender lives in `self`, so the only outcome is the flag.
                let _ = closed.wait_for(|closed| *closed).await;
                stream.lock().clone().expect("the reason is set before the flag")
            }
            Closing::Simulated(end) => end.closed().await,
        }
    }
}

impl StreamClosing {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<CloseReason>> {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settle(&self, reason: CloseReason) {
        self.lock().get_or_insert(reason);
        self.closed.send_replace(true);
    }
}

/// What quinn says on a connection whose endpoint has ended by an error of its socket; the socket
/// of a dialed connection does so when the peer's port is closed.
pub(crate) const ENDPOINT_LOST: &str = "endpoint driver future was dropped";

pub(crate) fn quic_reason(error: &quinn::ConnectionError) -> CloseReason {
    use quinn::ConnectionError as E;
    match error {
        E::ApplicationClosed(close) => {
            let said = String::from_utf8_lossy(&close.reason);
            CloseReason {
                by: ClosedBy::Peer,
                code: close.error_code.into_inner(),
                text: if said.is_empty() {
                    "the peer closed the connection".to_owned()
                } else {
                    format!("the peer closed the connection: {said}")
                },
            }
        }
        E::LocallyClosed => CloseReason {
            by: ClosedBy::Here,
            code: 0,
            text: "this side closed the connection".to_owned(),
        },
        E::TransportError(error) if error.reason == ENDPOINT_LOST => CloseReason {
            by: ClosedBy::Failure,
            code: 0,
            text: "the peer's port is closed; is the node running?".to_owned(),
        },
        other => CloseReason { by: ClosedBy::Failure, code: 0, text: other.to_string() },
    }
}

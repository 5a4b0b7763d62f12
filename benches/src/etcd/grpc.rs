//! Calls of gRPC over one HTTP/2 connection without encryption: one message there, one back.
//!
//! Source: gRPC's "gRPC over HTTP2". A message has five bytes before it: whether it is compressed, and its
//! length. How the call went is in `grpc-status`, behind the answer or in its place.

use anyhow::{Context as _, ensure};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use h2::client::SendRequest;
use http::{HeaderMap, Request};
use thiserror::Error;
use tokio::net::TcpStream;

/// What is before a message.
const PREFIX_BYTES: usize = 5;
/// An answer of etcd's locks has some hundred bytes.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// What may come before it is taken: above all that is ever on its way to one client.
const WINDOW_BYTES: u32 = 1 << 20;

/// A connection. Its clones share it: a call of one does not wait for those of others.
#[derive(Debug, Clone)]
pub(super) struct Channel {
    requests: SendRequest<Bytes>,
    authority: String,
}

/// The server refused a call.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("etcd refuses {path}: {message} (gRPC status {code})")]
pub(crate) struct Refused {
    /// What was asked for.
    pub(super) path: &'static str,
    /// The status.
    pub(super) code: String,
    /// What etcd says of it.
    pub(super) message: String,
}

impl Channel {
    /// Connects to `host:port`. The connection ends with its last clone.
    ///
    /// # Errors
    /// When nobody answers, or in another language.
    pub(super) async fn connect(authority: &str) -> anyhow::Result<Self> {
        let socket = TcpStream::connect(authority)
            .await
            .with_context(|| format!("no etcd at {authority}"))?;
        socket.set_nodelay(true)?;
        let (requests, connection) = h2::client::Builder::new()
            .initial_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .enable_push(false)
            .handshake(socket)
            .await
            .with_context(|| format!("no HTTP/2 at {authority}"))?;
        // A connection that breaks fails the calls that are on it, which say so.
        tokio::spawn(async move { drop(connection.await) });
        Ok(Self { requests, authority: authority.to_owned() })
    }

    /// Asks for `path` with one message, and gives back the message of the answer.
    ///
    /// # Errors
    /// [`Refused`] by etcd; a connection that broke; an answer that is none.
    pub(super) async fn call(&self, path: &'static str, message: &[u8]) -> anyhow::Result<Bytes> {
        let request = Request::post(format!("http://{}{path}", self.authority))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .context("a path and an authority make a request")?;
        let mut ready = self.requests.clone().ready().await?;
        let (answer, mut body) = ready.send_request(request, false)?;
        body.send_data(framed(message), true)?;
        let (head, mut body) = answer.await?.into_parts();
        ensure!(head.status.is_success(), "etcd answers {path} with HTTP status {}", head.status);
        check(path, &head.headers)?;
        let mut framed = BytesMut::new();
        while let Some(chunk) = body.data().await {
            let chunk = chunk?;
            body.flow_control().release_capacity(chunk.len())?;
            ensure!(framed.len() + chunk.len() <= ANSWER_BYTES_MAX, "a huge answer to {path}");
            framed.put_slice(&chunk);
        }
        if let Some(trailers) = body.trailers().await? {
            check(path, &trailers)?;
        }
        unframed(framed.freeze()).with_context(|| format!("the answer to {path} is none of gRPC"))
    }
}

fn framed(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(PREFIX_BYTES + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).expect("a request has some hundred bytes"));
    framed.put_slice(message);
    framed.freeze()
}

/// The one message; `None` where it is cut off, compressed, or there are others behind it.
fn unframed(mut framed: Bytes) -> Option<Bytes> {
    let is_plain = framed.try_get_u8().ok()? == 0;
    let length = framed.try_get_u32().ok()? as usize;
    (is_plain && framed.len() == length).then_some(framed)
}

/// Where a status is there, it must be that of success.
fn check(path: &'static str, headers: &HeaderMap) -> Result<(), Refused> {
    let text = |name| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()));
    match text("grpc-status") {
        None => Ok(()),
        Some(code) if code == "0" => Ok(()),
        Some(code) => {
            let message = text("grpc-message").unwrap_or_default().into_owned();
            Err(Refused { path, code: code.into_owned(), message })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_five_bytes_before_it() {
        assert_eq!(framed(&[8, 60])[..], [0, 0, 0, 0, 2, 8, 60]);
        assert_eq!(unframed(framed(&[8, 60])).unwrap(), [8, 60][..]);
        assert_eq!(unframed(framed(&[])).unwrap(), [][..]);
    }

    #[test]
    fn answers_that_are_cut_off_compressed_or_several_are_none() {
        for answer in [&[][..], &[0, 0, 0], &[0, 0, 0, 0, 2, 8], &[1, 0, 0, 0, 0], &[0; 10]] {
            assert_eq!(unframed(Bytes::copy_from_slice(answer)), None, "{answer:?}");
        }
    }

    #[test]
    fn a_status_other_than_0_is_a_refusal_with_its_message() {
        let mut headers = HeaderMap::new();
        assert_eq!(check("/a", &headers), Ok(()));
        headers.insert("grpc-status", "0".parse().unwrap());
        assert_eq!(check("/a", &headers), Ok(()));
        headers.insert("grpc-status", "5".parse().unwrap());
        headers.insert("grpc-message", "lease not found".parse().unwrap());
        let told = check("/a", &headers).unwrap_err().to_string();
        assert_eq!(told, "etcd refuses /a: lease not found (gRPC status 5)");
    }
}

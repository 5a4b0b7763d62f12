//! Something that answers as etcd does, for tests: leases, the transaction of a mutex, and the service for locks.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::{BufMut as _, Bytes, BytesMut};
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, Request, Response};
use tokio::net::{TcpListener, TcpStream};

use super::message::path;
use super::wire::{Field, Writer, find};

pub(crate) const VERSION: &str = "3.4.0-fake";

/// What it knows.
#[derive(Debug, Default)]
pub(crate) struct FakeEtcd {
    /// Leases that nobody has ended.
    leases: AtomicI64,
    /// Leases that there ever were.
    granted: AtomicI64,
    /// Which lease holds which key.
    held: Mutex<BTreeMap<Bytes, i64>>,
}

impl FakeEtcd {
    /// Begins to answer; its URL.
    pub(crate) async fn start() -> (Arc<Self>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let fake = Arc::new(Self::default());
        let serving = Arc::clone(&fake);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(Arc::clone(&serving).serve(socket));
            }
        });
        (fake, url)
    }

    /// How many leases nobody has ended, and how many keys are held.
    pub(crate) fn left(&self) -> (i64, usize) {
        (self.leases.load(Ordering::Relaxed), self.held.lock().unwrap().len())
    }

    async fn serve(self: Arc<Self>, socket: TcpStream) {
        let mut connection = h2::server::handshake(socket).await.unwrap();
        while let Some(Ok((request, response))) = connection.accept().await {
            tokio::spawn(Arc::clone(&self).answer(request, response));
        }
    }

    async fn answer(
        self: Arc<Self>,
        request: Request<RecvStream>,
        mut response: SendResponse<Bytes>,
    ) {
        let (head, mut body) = request.into_parts();
        let mut asked = BytesMut::new();
        while let Some(chunk) = body.data().await {
            asked.put_slice(&chunk.unwrap());
        }
        let Some(message) = self.message(head.uri.path(), &asked[5..]) else {
            let refused = Response::builder()
                .header("grpc-status", "5")
                .header("grpc-message", "etcdserver: requested lease not found");
            response.send_response(refused.body(()).unwrap(), true).unwrap();
            return;
        };
        let mut stream = response.send_response(Response::new(()), false).unwrap();
        let mut framed = BytesMut::new();
        framed.put_u8(0);
        framed.put_u32(message.len() as u32);
        framed.put_slice(&message);
        // In pieces: nobody promises that a message comes in one.
        let end = framed.split_off(3);
        stream.send_data(framed.freeze(), false).unwrap();
        stream.send_data(end.freeze(), false).unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        stream.send_trailers(trailers).unwrap();
    }

    /// `None`: there is no such lease.
    fn message(&self, path: &str, asked: &[u8]) -> Option<Bytes> {
        let field = |number| find(asked, number).unwrap();
        let bytes = |number| Bytes::copy_from_slice(field(number).unwrap().bytes());
        let mut held = self.held.lock().unwrap();
        let answer = Writer::default();
        let answer = match path {
            path::STATUS => answer.bytes(2, VERSION.as_bytes()),
            path::LEASE_GRANT => {
                self.leases.fetch_add(1, Ordering::Relaxed);
                let id = self.granted.fetch_add(1, Ordering::Relaxed) + 1;
                answer.int(2, id).int(3, 60)
            }
            path::LEASE_REVOKE => {
                self.leases.fetch_sub(1, Ordering::Relaxed);
                held.retain(|_, lease| Some(Field::Int(*lease)) != field(1));
                answer
            }
            path::LOCK => {
                let lease = field(2)?.int();
                let key =
                    Bytes::from([&bytes(1)[..], b"/", &lease.to_string().into_bytes()].concat());
                held.insert(key.clone(), lease);
                answer.bytes(2, &key)
            }
            path::TXN => {
                let compare = bytes(1);
                let key = find(&compare, 3).unwrap().unwrap().bytes();
                let name = &key[..=key.iter().rposition(|byte| *byte == b'/').unwrap()];
                let owner = held.keys().find(|held| held.starts_with(name)).cloned();
                let owner = owner.unwrap_or_else(|| Bytes::copy_from_slice(key));
                held.insert(Bytes::copy_from_slice(key), 1);
                let pair = Writer::default().bytes(1, &owner);
                let range = Writer::default().message(2, &pair);
                let put = Writer::default().message(2, &Writer::default());
                answer.message(3, &put).message(3, &Writer::default().message(1, &range))
            }
            path::UNLOCK | path::DELETE_RANGE => {
                answer.int(2, i64::from(held.remove(&bytes(1)).is_some()))
            }
            other => panic!("nobody asks for {other}"),
        };
        Some(answer.finish())
    }
}

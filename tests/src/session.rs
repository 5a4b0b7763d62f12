//! A connection that speaks frames by hand, for what the client would never do.

use bytes::Bytes;
use plimsoll_protocol::api::{HelloRequest, HelloResponse, Request};
use plimsoll_protocol::error::ErrorResponse;
use plimsoll_protocol::frame::{Frame, ResponseError, encode_request};
use plimsoll_protocol::ids::CorrelationId;
use plimsoll_transport::{
    ClientTls, Connection, FrameReceiver, FrameSender, TransportConfig, TransportKind,
};

use crate::node::TestNode;
use crate::wait::within;

/// One stream of a connection that has said Hello.
#[derive(Debug)]
pub struct Session {
    /// The connection.
    pub connection: Connection,
    /// The stream's way out.
    pub sender: FrameSender,
    /// The stream's way in.
    pub receiver: FrameReceiver,
    correlation: u32,
}

impl Session {
    /// Connects and opens a stream, without a word.
    pub async fn silent(node: &TestNode, transport: TransportKind) -> Self {
        let tls = node.node().ca_pem().expect("its authority is its own");
        let tls = ClientTls::trusting_pem(tls.as_bytes()).expect("a valid authority");
        let config = TransportConfig::default();
        let address = node.address(transport);
        let dial = Connection::dial(transport, address, "127.0.0.1", Some(&tls), &config);
        let connection = within("dial", dial).await.expect("it answers");
        let (sender, receiver) = connection.open().await.expect("a stream");
        Self { connection, sender, receiver, correlation: 0 }
    }

    /// Connects and says Hello.
    pub async fn hello(node: &TestNode, transport: TransportKind) -> (Self, HelloResponse) {
        let mut session = Self::silent(node, transport).await;
        let hello = HelloRequest {
            protocol_min: 1,
            protocol_max: 1,
            client_name: "test".to_owned(),
            client_version: "0".to_owned(),
            cluster_id: None,
        };
        let answer = session.ask(&hello, Bytes::new()).await.expect("Hello is answered");
        (session, answer)
    }

    /// Sends a request, and returns the answer or the refusal.
    ///
    /// # Panics
    /// When the connection ends, or answers something else.
    pub async fn ask<R: Request>(
        &mut self,
        request: &R,
        payload: Bytes,
    ) -> Result<R::Response, ErrorResponse> {
        self.correlation += 1;
        let correlation = CorrelationId(self.correlation);
        let head = encode_request(correlation, request, payload.len()).freeze();
        within("send", self.sender.send(head, &[payload])).await.expect("it is sent");
        let frame = self.receive().await.expect("an answer");
        assert_eq!(frame.header.correlation, correlation);
        match frame.decode_response::<R>() {
            Ok(response) => Ok(response),
            Err(ResponseError::Refused(refusal)) => Err(*refusal),
            Err(error) => panic!("{error}"),
        }
    }

    /// The next frame; `None` when the connection or the stream has ended, in order or not.
    pub async fn receive(&mut self) -> Option<Frame> {
        within("a frame", self.receiver.recv()).await.ok().flatten()
    }
}

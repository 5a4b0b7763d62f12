//! How hostile bytes get to the node.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use plimsoll_bench::serve_process::ServeCommand;
use plimsoll_client::Trust;
use plimsoll_tests::{Random, within};
use plimsoll_transport::{ClientTls, Connection, TransportConfig, TransportKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::frames;

/// Frames on one connection, at most.
const FRAMES_MAX: u64 = 30;
/// How long an attacker listens to the answers before it hangs up. The node may have a good reason
/// to hold a connection (a fetch that waits); that it lets go afterwards is checked at the end.
const LISTEN: Duration = Duration::from_millis(300);
const FRAME_BYTES_MAX: u32 = 16 << 20;

pub(crate) struct Attacker {
    address: SocketAddr,
    plaintext: SocketAddr,
    tls: ClientTls,
    valid: Vec<Vec<u8>>,
    random: Random,
}

impl Attacker {
    pub(crate) fn new(node: &ServeCommand, random: Random) -> Self {
        let config = node.client_config(TransportKind::Quic).expect("the node has started");
        let Trust::CaPem(authority) = config.trust else { panic!("the node has an authority") };
        Self {
            address: node.address(),
            plaintext: node.plaintext_address(),
            tls: ClientTls::trusting_pem(authority.as_bytes()).expect("a valid authority"),
            valid: frames::valid(),
            random,
        }
    }

    /// Connects again and again, until so many frames are sent.
    pub(crate) async fn send_damaged_frames(mut self, count: u64) {
        let mut sent = 0;
        while sent < count {
            let frames = self.random.within(1..FRAMES_MAX + 1);
            let bytes = self.frames(frames);
            match self.random.within(0..16) {
                0 => within("an attack", self.attack(TransportKind::Tls, bytes)).await,
                1 | 2 => within("an attack", self.attack(TransportKind::Quic, bytes)).await,
                _ => within("an attack", attack_plaintext(self.plaintext, bytes)).await,
            }
            sent += frames;
        }
    }

    /// Frames in one piece; most often the node is greeted first.
    fn frames(&mut self, count: u64) -> Vec<u8> {
        let mut bytes = if self.random.once_in(4) { Vec::new() } else { frames::hello() };
        for _ in 0..count {
            bytes.extend(frames::damaged(&self.valid, &mut self.random));
        }
        bytes
    }

    /// The bytes on the one stream, or cut in two for two streams of a connection.
    async fn attack(&mut self, kind: TransportKind, bytes: Vec<u8>) {
        let (address, tls) = (self.address, Some(&self.tls));
        let config = TransportConfig::default();
        let dial = Connection::dial(kind, address, "127.0.0.1", tls, &config).await;
        let connection = dial.expect("the node takes connections");
        let cut = match kind {
            // The only frame may have been cut to nothing.
            TransportKind::Quic => self.random.within(0..bytes.len() as u64 + 1) as usize,
            TransportKind::Tls | TransportKind::Tcp => 0,
        };
        let mut bytes = Bytes::from(bytes);
        let (first, second) = (bytes.split_to(cut), bytes);
        // The node may end everything at any moment; that is its right.
        for piece in [second, first] {
            let Ok((mut sender, mut receiver)) = connection.open().await else { break };
            let sent = async {
                sender.send_raw(piece).await?;
                sender.finish().await
            };
            let _ = timeout(LISTEN, sent).await;
            let answers = async {
                let mut buffer = BytesMut::new();
                while matches!(receiver.recv_raw(&mut buffer).await, Ok(1..)) {
                    buffer.clear();
                }
            };
            let _ = timeout(LISTEN, answers).await;
        }
        connection.close(0, "");
    }

    /// Greets the node, claims the largest frame, and sends its first KiB.
    pub(crate) async fn claim_a_large_frame(&mut self) -> TcpStream {
        let mut stream = TcpStream::connect(self.plaintext).await.expect("it listens");
        let mut bytes = frames::hello();
        let mut frame = self.valid[0].clone();
        frame[..4].copy_from_slice(&(FRAME_BYTES_MAX - 4).to_le_bytes());
        frame.resize(1024, 0);
        bytes.extend(frame);
        stream.write_all(&bytes).await.expect("it takes them");
        stream
    }

    /// Connects, and no more.
    pub(crate) async fn say_nothing(&self) -> TcpStream {
        TcpStream::connect(self.plaintext).await.expect("it listens")
    }

    /// Datagrams that are no QUIC packets, or look like their beginnings.
    pub(crate) async fn send_datagrams(&mut self, count: u64) {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
        socket.connect(self.address).await.expect("an address");
        for _ in 0..count {
            let length = self.random.within(0..1_500) as usize;
            let mut datagram = self.random.bytes(length);
            if let [first, version @ ..] = &mut datagram[..]
                && self.random.once_in(2)
            {
                *first |= 0xC0;
                if let Some(version) = version.get_mut(..4) {
                    version.copy_from_slice(&1u32.to_be_bytes());
                }
            }
            // Full buffers drop datagrams, as networks do.
            let _ = socket.send(&datagram).await;
        }
    }

    /// A connection to the TLS port that speaks anything else, or half a record of TLS.
    pub(crate) async fn send_garbage_to_the_tls_port(&mut self) {
        let length = self.random.within(1..3_000) as usize;
        let mut bytes = self.random.bytes(length);
        if self.random.once_in(2) {
            bytes.splice(0..0, [0x16, 0x03, 0x01, 0x40, 0x00]);
        }
        within("an attack", attack_plaintext(self.address, bytes)).await;
    }
}

/// Writes, listens for a while, hangs up.
pub(crate) async fn attack_plaintext(address: SocketAddr, bytes: Vec<u8>) {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    // The node may close at any moment; that is its right.
    let sent = async {
        stream.write_all(&bytes).await?;
        stream.shutdown().await
    };
    if matches!(timeout(LISTEN, sent).await, Ok(Ok(()))) {
        let _ = timeout(LISTEN, read_to_end(&mut stream)).await;
    }
}

/// Returns when the node has closed the connection.
pub(crate) async fn wait_for_the_end(mut stream: TcpStream) {
    read_to_end(&mut stream).await;
}

async fn read_to_end(stream: &mut TcpStream) {
    let mut buffer = vec![0; 1 << 16];
    while matches!(stream.read(&mut buffer).await, Ok(1..)) {}
}

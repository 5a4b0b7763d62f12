//! The limit: how many bytes the very socket code of the broker carries when there is no broker.
//!
//! The same number of connections and streams, frames of the same size as the broker's batches,
//! written by [`FrameSender`] and read by [`FrameReceiver`] as the broker and its clients do, in the
//! same process and runtimes. The receiver drops each frame: no checksums beyond the transport's own,
//! nothing decoded, nothing kept. What is sent is cut from a pool that is larger than the processor's
//! caches, because a producer's next batch does not lie in them either. What is counted are the
//! payload bytes that arrived.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use anyhow::{Context as _, ensure};
use bytes::{Bytes, BytesMut};
use plimsoll_log::Identity;
use plimsoll_node::certificates;
use plimsoll_node::config::NodeConfig;
use plimsoll_protocol::api::PingRequest;
use plimsoll_protocol::frame::encode_request;
use plimsoll_protocol::ids::{CorrelationId, NodeId};
use plimsoll_transport::{
    ClientTls, Connection, FrameReceiver, FrameSender, Listener, ServerTls, TransportConfig,
    TransportKind,
};
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use crate::options::Plan;
use crate::report::Throughput;
use crate::values::Values;

/// More streams on one connection than this make no raw stream faster, and none slower.
const STREAMS_MAX: u32 = 32;
/// As many bytes as the load has, between these: enough to be past the slow start, not so many
/// that the limit takes longer than the load.
const BYTES_MIN: u64 = 64_000_000;
const BYTES_MAX: u64 = 1_000_000_000;
/// A batch on the wire beside its records' values: header, and per record.
const BATCH_OVERHEAD_BYTES: u64 = 112;
const RECORD_OVERHEAD_BYTES: u64 = 6;
/// What is sent is cut from about this many bytes.
const POOL_BYTES: usize = 64 << 20;
/// Pieces of the pool at most: small writes need not many to leave the caches.
const PIECES_MAX: usize = 1024;
/// What the accepting end says when it has everything.
const DONE: &[u8] = b"!";

/// Which way the bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// As producers send.
    ToNode,
    /// As consumers receive.
    FromNode,
}

/// What a raw stream is measured with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    kind: TransportKind,
    direction: Direction,
    connections: u32,
    streams_per_connection: u32,
    write_bytes: usize,
    writes_per_stream: u64,
}

impl Shape {
    /// The shape of a plan's load.
    pub(crate) fn of(plan: &Plan, direction: Direction) -> Self {
        let records = u64::from(plan.batch_records);
        let record_bytes = u64::from(plan.record_bytes) + RECORD_OVERHEAD_BYTES;
        let write_bytes = records * record_bytes + BATCH_OVERHEAD_BYTES;
        let connections = plan.producers;
        let streams_per_connection = match plan.transport {
            TransportKind::Quic => plan.partitions.div_ceil(connections).clamp(1, STREAMS_MAX),
            TransportKind::Tls | TransportKind::Tcp => 1,
        };
        let streams = u64::from(connections) * u64::from(streams_per_connection);
        let bytes = plan.value_bytes().clamp(BYTES_MIN, BYTES_MAX);
        Self {
            kind: plan.transport,
            direction,
            connections,
            streams_per_connection,
            write_bytes: usize::try_from(write_bytes).expect("a batch fits memory"),
            writes_per_stream: bytes.div_ceil(write_bytes).div_ceil(streams),
        }
    }

    /// The same shape with a part of the bytes: for warming up.
    pub(crate) fn shortened(self) -> Self {
        Self { writes_per_stream: self.writes_per_stream.div_ceil(4), ..self }
    }

    fn stream_bytes(&self) -> u64 {
        self.writes_per_stream * self.write_bytes as u64
    }

    /// What is sent, one piece after the other and again from the first.
    fn pieces(&self) -> Vec<Bytes> {
        let length = u32::try_from(self.write_bytes).unwrap_or(u32::MAX);
        let mut values = Values::new(length, 1);
        let count = (POOL_BYTES / self.write_bytes).clamp(1, PIECES_MAX);
        (0..count).map(|_| Bytes::copy_from_slice(values.next_value())).collect()
    }
}

/// Both ends of raw streams on this machine.
#[derive(Debug)]
pub(crate) struct RawStreams {
    /// Where the accepting ends run; the dialing ones run where [`RawStreams::measure`] does.
    node: Handle,
    server_tls: ServerTls,
    client_tls: ClientTls,
}

impl RawStreams {
    /// Makes a certificate in `directory` and is ready.
    pub(crate) fn new(directory: &Path, node: &Handle) -> anyhow::Result<Self> {
        let config = NodeConfig { data: directory.join("raw-stream"), ..NodeConfig::default() };
        let nobody = Identity { cluster_id: [0; 16], node_id: NodeId(1) };
        let made = certificates::prepare(&config, loopback(), &nobody, SystemTime::now())?;
        let shown = made.nodes;
        Ok(Self {
            node: node.clone(),
            server_tls: ServerTls::from_pem(shown.chain_pem.as_bytes(), shown.key_pem.as_bytes())?,
            client_tls: ClientTls::trusting_pem(made.cluster_pem.as_bytes())?,
        })
    }

    /// Carries the bytes of `shape` once.
    pub(crate) async fn measure(&self, shape: Shape) -> anyhow::Result<Throughput> {
        let listener = Arc::new(self.listen(shape.kind)?);
        let address = listener.local_addr();
        let accepting = self.node.spawn(accept_connections(Arc::clone(&listener), shape));
        let mut connections = Vec::new();
        for _ in 0..shape.connections {
            let (tls, config) = (Some(&self.client_tls), TransportConfig::default());
            let dial = Connection::dial(shape.kind, address, "127.0.0.1", tls, &config);
            connections.push(dial.await?);
        }

        let began = Instant::now();
        let mut streams = JoinSet::new();
        for connection in &connections {
            for _ in 0..shape.streams_per_connection {
                streams.spawn(dialing_end(connection.clone(), shape));
            }
        }
        let mut bytes = 0;
        while let Some(stream) = streams.join_next().await {
            bytes += stream??;
        }
        let seconds = began.elapsed().as_secs_f64();

        for connection in &connections {
            connection.close(0, "measured");
        }
        listener.shut_down(0, "measured").await;
        accepting.await?;
        Ok(Throughput { records: 0, bytes, seconds })
    }

    fn listen(&self, kind: TransportKind) -> anyhow::Result<Listener> {
        // A listener belongs to the runtime that it is made in.
        let _node = self.node.enter();
        let config = TransportConfig::default();
        Ok(match kind {
            TransportKind::Tcp => Listener::bind_plaintext(loopback(), config)?,
            TransportKind::Quic | TransportKind::Tls => {
                Listener::bind(loopback(), &self.server_tls, config)?
            }
        })
    }
}

fn loopback() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

async fn accept_connections(listener: Arc<Listener>, shape: Shape) {
    let mut connections = JoinSet::new();
    while let Some(incoming) = listener.accept().await {
        connections.spawn(async move {
            let connection = incoming.handshake().await?;
            connection.admit();
            let mut streams = JoinSet::new();
            while let Some((sender, receiver)) = connection.accept().await? {
                streams.spawn(accepting_end(sender, receiver, shape));
            }
            anyhow::Ok(())
        });
    }
    // The dialing end sees every failure too, and reports it.
    connections.abort_all();
}

async fn accepting_end(
    mut sender: FrameSender,
    mut receiver: FrameReceiver,
    shape: Shape,
) -> anyhow::Result<()> {
    match shape.direction {
        Direction::ToNode => {
            receive_all(&mut receiver, shape.stream_bytes()).await?;
            sender.send_raw(Bytes::from_static(DONE)).await?;
        }
        Direction::FromNode => {
            let mut request = BytesMut::new();
            receiver.recv_raw(&mut request).await?;
            send_all(&mut sender, shape).await?;
        }
    }
    sender.finish().await?;
    // The stream ends when its halves are dropped, so what was sent must have arrived by then.
    sender.received().await;
    Ok(())
}

/// Returns the bytes that were carried.
async fn dialing_end(connection: Connection, shape: Shape) -> anyhow::Result<u64> {
    let (mut sender, mut receiver) = connection.open().await?;
    match shape.direction {
        Direction::ToNode => {
            send_all(&mut sender, shape).await?;
            sender.finish().await?;
            let mut answer = BytesMut::new();
            receiver.recv_raw(&mut answer).await?;
            ensure!(answer == DONE, "the accepting end did not get everything");
        }
        Direction::FromNode => {
            sender.send_raw(Bytes::from_static(DONE)).await?;
            receive_all(&mut receiver, shape.stream_bytes()).await?;
        }
    }
    Ok(shape.stream_bytes())
}

async fn send_all(sender: &mut FrameSender, shape: Shape) -> anyhow::Result<()> {
    let pieces = shape.pieces();
    for number in 0..shape.writes_per_stream {
        let piece = pieces[number as usize % pieces.len()].clone();
        let correlation = CorrelationId(number as u32);
        let head = encode_request(correlation, &PingRequest {}, piece.len());
        sender.send(head.freeze(), &[piece]).await?;
    }
    Ok(())
}

/// Takes in frames until `bytes` of payload are there.
async fn receive_all(receiver: &mut FrameReceiver, bytes: u64) -> anyhow::Result<()> {
    let mut received = 0;
    while received < bytes {
        let frame = receiver.recv().await?.context("the other end stopped early")?;
        received += frame.payload.len() as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use crate::options::{Layout, Options, Workload};
    use crate::runtimes::Runtimes;

    #[test]
    fn bytes_arrive_over_every_transport_and_both_ways() {
        let directory = tempfile::tempdir().unwrap();
        let runtimes = Runtimes::new(Layout::Split).unwrap();
        let raw = RawStreams::new(directory.path(), runtimes.node()).unwrap();
        for kind in [TransportKind::Quic, TransportKind::Tls, TransportKind::Tcp] {
            for direction in [Direction::ToNode, Direction::FromNode] {
                let shape = Shape {
                    kind,
                    direction,
                    connections: 2,
                    streams_per_connection: if kind == TransportKind::Quic { 3 } else { 1 },
                    write_bytes: 100_000,
                    writes_per_stream: 20,
                };
                let found = runtimes.block_on(raw.measure(shape)).unwrap();
                let streams = u64::from(shape.connections * shape.streams_per_connection);
                assert_eq!(found.bytes, streams * 2_000_000, "{kind} {direction:?}");
            }
        }
    }

    #[test]
    fn the_shape_is_that_of_the_load() {
        let options = Options {
            batch_records: NonZeroU32::new(10),
            partitions: vec![100],
            ..Options::default()
        };
        let plan = options.plans(Workload::Produce).remove(0);
        let shape = Shape::of(&plan, Direction::ToNode);
        assert_eq!((shape.connections, shape.streams_per_connection), (2, STREAMS_MAX));
        assert!((10_000..10_300).contains(&shape.write_bytes));
        assert!(shape.stream_bytes() * 64 >= BYTES_MAX);
    }
}

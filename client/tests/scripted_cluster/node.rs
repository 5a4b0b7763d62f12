//! One scripted node: answers what a client asks, as the cluster's plan for it says.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use plimsoll_client::{AckLevel, Durability, NodeInfo, NodeState, TopicConfig, TopicInfo};
use plimsoll_protocol::api::{
    ApiKey, Delivery, DescribeTopicRequest, DescribeTopicResponse, Done, HelloRequest,
    HelloResponse, InitProducerRequest, ListOffsetsRequest, ListOffsetsResponse, ListQueuesRequest,
    ListQueuesResponse, ListTopicsRequest, ListTopicsResponse, MetadataRequest, MetadataResponse,
    PROTOCOL_MAX, PartitionMetadata, PingRequest, ProduceRequest, ProduceResponse,
    ProducerIdentity, Request, StartPosition, SubscribeRequest, SubscribeResponse, TopicMetadata,
    UnsubscribeRequest, WatchMetadataRequest, WatchMetadataResponse, supported_apis,
};
use plimsoll_protocol::batch::{BATCH_HEADER_BYTES, BatchHeader};
use plimsoll_protocol::error::{ErrorCode, ErrorResponse};
use plimsoll_protocol::frame::{
    Frame, FrameFlags, FrameHeader, encode_error, encode_frame, encode_response,
};
use plimsoll_protocol::ids::{GroupId, NodeId, Offset, PartitionIndex, ProducerId, Term};
use plimsoll_transport::{Connection, FrameReceiver, FrameSender, Incoming, Listener};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::cluster::{Cluster, Leader, State};

const WATCHED_FOR: Duration = Duration::from_secs(30);

/// Serves until it is aborted, and every connection with it.
pub(crate) async fn serve(cluster: Cluster, node: u64, listener: Listener) {
    let mut connections = JoinSet::new();
    while let Some(incoming) = listener.accept().await {
        connections.spawn(converse(Node { cluster: cluster.clone(), id: node }, incoming));
    }
}

async fn converse(node: Node, incoming: Incoming) {
    let Ok(connection) = incoming.handshake().await else { return };
    connection.admit();
    let mut streams = JoinSet::new();
    while let Ok(Some((sender, receiver))) = connection.accept().await {
        streams.spawn(node.clone().stream(connection.clone(), sender, receiver));
    }
}

#[derive(Clone)]
struct Node {
    cluster: Cluster,
    id: u64,
}

type Out = Arc<Mutex<FrameSender>>;

impl Node {
    async fn stream(self, _held: Connection, sender: FrameSender, mut receiver: FrameReceiver) {
        let out = Arc::new(Mutex::new(sender));
        let mut tasks = JoinSet::new();
        while let Ok(Some(frame)) = receiver.recv().await {
            let api = ApiKey::from_number(frame.header.api).unwrap();
            *self.cluster.state().seen.entry((self.id, api)).or_default() += 1;
            match api {
                ApiKey::Produce => self.produce(&frame, &out).await,
                ApiKey::Subscribe => {
                    let (node, out) = (self.clone(), Arc::clone(&out));
                    tasks.spawn(async move { node.subscribe(&frame, &out).await });
                }
                ApiKey::WatchMetadata => {
                    let (node, out) = (self.clone(), Arc::clone(&out));
                    tasks.spawn(async move { node.watch(&frame, &out).await });
                }
                ApiKey::Credit => {}
                api => self.answer(api, &frame, &out).await,
            }
        }
    }

    async fn answer(&self, api: ApiKey, frame: &Frame, out: &Out) {
        match api {
            ApiKey::Hello => reply::<HelloRequest>(frame, &self.hello(), out).await,
            ApiKey::Ping => reply::<PingRequest>(frame, &Done {}, out).await,
            ApiKey::Unsubscribe => reply::<UnsubscribeRequest>(frame, &Done {}, out).await,
            ApiKey::ListTopics => {
                let topics = vec![self.topic()];
                let listed = ListTopicsResponse { topics, has_more: false };
                reply::<ListTopicsRequest>(frame, &listed, out).await;
            }
            ApiKey::ListQueues => {
                let none = ListQueuesResponse { queues: Vec::new(), has_more: false };
                reply::<ListQueuesRequest>(frame, &none, out).await;
            }
            ApiKey::DescribeTopic => {
                let topic = self.topic();
                let described = DescribeTopicResponse { topic, partitions: Vec::new() };
                reply::<DescribeTopicRequest>(frame, &described, out).await;
            }
            ApiKey::InitProducer => {
                let asked: InitProducerRequest = frame.decode_body().unwrap();
                let identity = match asked.existing {
                    Some(identity) => ProducerIdentity { epoch: identity.epoch + 1, ..identity },
                    None => {
                        let mut state = self.cluster.state();
                        state.next_producer += 1;
                        ProducerIdentity { producer_id: ProducerId(state.next_producer), epoch: 0 }
                    }
                };
                reply::<InitProducerRequest>(frame, &identity, out).await;
            }
            ApiKey::Metadata => {
                let metadata = self.metadata(&frame.decode_body().unwrap());
                reply::<MetadataRequest>(frame, &metadata, out).await;
            }
            ApiKey::ListOffsets => self.offsets(frame, out).await,
            other => panic!("unexpected {other}"),
        }
    }

    fn hello(&self) -> HelloResponse {
        HelloResponse {
            protocol: PROTOCOL_MAX,
            node_id: NodeId(self.id),
            cluster_id: "scripted".to_owned(),
            server_version: "0".to_owned(),
            max_frame_bytes: 16 << 20,
            batch_bytes_max: 8 << 20,
            apis: supported_apis(),
        }
    }

    fn topic(&self) -> TopicInfo {
        TopicInfo {
            name: "t".parse().unwrap(),
            topic_id: 1,
            partitions: u32::try_from(self.cluster.state().logs.len()).unwrap(),
            replicas: 3,
            config: TopicConfig::default(),
            created_ms: 0,
        }
    }

    fn metadata(&self, asked: &MetadataRequest) -> MetadataResponse {
        let state = self.cluster.state();
        let replicas: Vec<NodeId> = state.nodes.keys().copied().map(NodeId).collect();
        let nodes = state.nodes.iter().map(|(node, plan)| NodeInfo {
            node: NodeId(*node),
            address: plan.address.to_string(),
            rack: plan.rack.clone(),
            state: NodeState::Active,
        });
        let partitions = state.nodes[&self.id].believes.iter().zip(0..);
        let partitions = partitions.map(|(leader, partition)| PartitionMetadata {
            partition: PartitionIndex(partition),
            group_id: GroupId(u64::from(partition) + 1),
            leader: leader.node.map(NodeId),
            term: Term(leader.term),
            replicas: replicas.clone(),
        });
        let topic = TopicMetadata {
            topic: "t".parse().unwrap(),
            topic_id: 1,
            partitions_total: u32::try_from(state.logs.len()).unwrap(),
            partitions: partitions.collect(),
        };
        MetadataResponse {
            cluster_id: "scripted".to_owned(),
            epoch: state.epoch,
            controller: None,
            nodes: nodes.collect(),
            topics: asked.topics.iter().map(|_| topic.clone()).collect(),
            unknown: Vec::new(),
        }
    }

    async fn watch(&self, frame: &Frame, out: &Out) {
        let asked: WatchMetadataRequest = frame.decode_body().unwrap();
        let mut changes = self.cluster.changes();
        let newer = changes.wait_for(|_| self.cluster.state().epoch > asked.epoch);
        let _ = timeout(WATCHED_FOR, newer).await;
        let epoch = self.cluster.state().epoch;
        reply::<WatchMetadataRequest>(frame, &WatchMetadataResponse { epoch }, out).await;
    }

    /// Why this node does not serve the partition.
    fn not_leader(&self, state: &State, partition: usize) -> ErrorResponse {
        let plan = &state.nodes[&self.id];
        let error = ErrorResponse::new(ErrorCode::NotLeader, "scripted");
        match plan.believes[partition].node {
            Some(leader) if leader != self.id && plan.hints => {
                error.with_leader(NodeId(leader), state.nodes[&leader].address.to_string())
            }
            _ => error,
        }
    }

    async fn produce(&self, frame: &Frame, out: &Out) {
        let asked: ProduceRequest = frame.decode_body().unwrap();
        let partition = asked.partition.0 as usize;
        let (outcome, dies, withholds) = {
            let mut state = self.cluster.state();
            let plan = state.nodes[&self.id].clone();
            let asked_to_lead = Leader { node: Some(self.id), term: 0 };
            if state.leaders[partition].node.is_none() && plan.believes[partition] == asked_to_lead
            {
                let term = state.leaders[partition].term + 1;
                state.leaders[partition] = Leader { node: Some(self.id), term };
            }
            if state.leaders[partition].node != Some(self.id) {
                let refusal = if plan.leaves && !plan.hints {
                    ErrorResponse::new(ErrorCode::ShuttingDown, "scripted")
                } else {
                    self.not_leader(&state, partition)
                };
                if plan.leaves {
                    state.nodes.get_mut(&self.id).unwrap().hints = false;
                }
                (Err(refusal), false, false)
            } else if let Some(code) = plan.refuses {
                (Err(ErrorResponse::new(code, "scripted")), false, false)
            } else {
                let stored = state.logs[partition].store(&frame.payload);
                let outcome = stored.map_err(|code| ErrorResponse::new(code, "scripted"));
                (outcome, plan.dies_storing, plan.withholds)
            }
        };
        self.cluster.touch();
        if dies {
            // This task ends with the node.
            self.cluster.kill(self.id);
            return;
        }
        match outcome {
            _ if withholds => {}
            Ok((base_offset, duplicate)) => {
                let stored = ProduceResponse {
                    base_offset: Offset(base_offset),
                    reached: AckLevel::Quorum,
                    durability: Durability::Durable,
                    duplicate,
                    append_time_ms: 0,
                };
                reply::<ProduceRequest>(frame, &stored, out).await;
            }
            Err(error) => send(encode_error(&frame.header, &error), &[], out).await,
        }
    }

    /// Whatever the position, the end of the log.
    async fn offsets(&self, frame: &Frame, out: &Out) {
        let asked: ListOffsetsRequest = frame.decode_body().unwrap();
        let partition = asked.partition.0 as usize;
        let outcome = {
            let state = self.cluster.state();
            match state.leaders[partition].node == Some(self.id) {
                true => Ok(Offset(self.high_watermark(&state, partition))),
                false => Err(self.not_leader(&state, partition)),
            }
        };
        match outcome {
            Ok(end) => {
                let offsets = vec![end; asked.positions.len()];
                reply::<ListOffsetsRequest>(frame, &ListOffsetsResponse { offsets }, out).await;
            }
            Err(error) => send(encode_error(&frame.header, &error), &[], out).await,
        }
    }

    async fn subscribe(&self, frame: &Frame, out: &Out) {
        let asked: SubscribeRequest = frame.decode_body().unwrap();
        let partition = asked.partition.0 as usize;
        let mut changes = self.cluster.changes();
        let begun = {
            let state = self.cluster.state();
            let high_watermark = self.high_watermark(&state, partition);
            let start = match asked.start {
                StartPosition::Offset(offset) => offset.0,
                StartPosition::Latest => high_watermark,
                _ => 0,
            };
            if !asked.any_replica && state.leaders[partition].node != Some(self.id) {
                Err(self.not_leader(&state, partition))
            } else if start > high_watermark {
                let error = ErrorResponse::new(ErrorCode::OffsetOutOfRange, "scripted");
                Err(error.with_offset(high_watermark))
            } else {
                Ok((start, high_watermark))
            }
        };
        let (mut next, high_watermark) = match begun {
            Ok(begun) => begun,
            Err(error) => return send(encode_error(&frame.header, &error), &[], out).await,
        };
        let greeting = SubscribeResponse {
            start_offset: Offset(next),
            high_watermark: Offset(high_watermark),
            log_start_offset: Offset(0),
        };
        reply::<SubscribeRequest>(frame, &greeting, out).await;
        loop {
            changes.mark_unchanged();
            let step = {
                let state = self.cluster.state();
                let deposed = state.nodes[&self.id].believes[partition].node != Some(self.id);
                match deposed && !asked.any_replica {
                    true => Err(self.not_leader(&state, partition)),
                    false => Ok(self.next_batch(&state, partition, next)),
                }
            };
            match step {
                Err(error) => {
                    let head = push(&frame.header, FrameFlags::PUSH_ERROR, &error, 0);
                    return send(head, &[], out).await;
                }
                Ok(Some((batch, end, high_watermark))) => {
                    next = end;
                    let delivery = Delivery {
                        high_watermark: Offset(high_watermark),
                        next_offset: Offset(end),
                    };
                    let head = push(&frame.header, FrameFlags::PUSH, &delivery, batch.len());
                    send(head, &[batch], out).await;
                }
                Ok(None) => {
                    if changes.changed().await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    fn high_watermark(&self, state: &State, partition: usize) -> u64 {
        (state.logs[partition].values.len() as u64).min(state.nodes[&self.id].shows)
    }

    /// The batch that holds the offset `next`, as it would be in a log.
    fn next_batch(&self, state: &State, partition: usize, next: u64) -> Option<(Bytes, u64, u64)> {
        let high_watermark = self.high_watermark(state, partition);
        let batches = &state.logs[partition].batches;
        let place = batches.partition_point(|(base, _)| *base <= next).checked_sub(1)?;
        let (base, bytes) = &batches[place];
        let mut header = BatchHeader::parse(bytes).unwrap();
        header.base_offset = Offset(*base);
        let end = header.end_offset().0;
        if end <= next || end > high_watermark {
            return None;
        }
        let mut batch = BytesMut::from(bytes.as_ref());
        batch[..BATCH_HEADER_BYTES].copy_from_slice(&header.to_bytes());
        Some((batch.freeze(), end, high_watermark))
    }
}

fn push(
    header: &FrameHeader,
    flags: FrameFlags,
    body: &impl plimsoll_protocol::wire::Encode,
    payload_bytes: usize,
) -> BytesMut {
    let version = SubscribeRequest::VERSION;
    encode_frame(ApiKey::Subscribe, version, flags, header.correlation, body, payload_bytes)
}

async fn reply<R: Request>(frame: &Frame, response: &R::Response, out: &Out) {
    send(encode_response::<R>(frame.header.correlation, response, 0), &[], out).await;
}

async fn send(head: BytesMut, payload: &[Bytes], out: &Out) {
    // A client that is gone needs no answer.
    let _ = out.lock().await.send(head.freeze(), payload).await;
}

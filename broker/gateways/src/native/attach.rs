//! A consumer of a queue: pushes messages as they are handed out to it, until it is ended.
//!
//! What it may hold bounds what waits for it; one that settles by being delivered is held back by its
//! backlog. At most two frames wait to be written, and none that its credit does not allow,
//! where it has one: of a consumer of another node.

use std::sync::{Arc, OnceLock};

use bytes::{Bytes, BytesMut};
use plimsoll_delivery::dispatch::{ConsumerId, ConsumerSpec};
use plimsoll_protocol::api::{
    ApiKey, AttachRequest, AttachResponse, DeliveredMessage, Fence, QueueDelivery, Request as _,
};
use plimsoll_protocol::error::{ErrorCode, ErrorResponse};
use plimsoll_protocol::frame::{
    FrameFlags, FrameHeader, encode_error, encode_frame, encode_response,
};
use plimsoll_protocol::ids::{PartitionIndex, TopicName};
use plimsoll_replication::FencePass;
use tokio::sync::Semaphore;

use super::outbox::{OutFrame, Outbox};
use super::session::Session;
use super::subscribe::Control;
use crate::queues::{Attached, Delivered, QueueHandle, subscription_of};
use crate::refusals;
use crate::routing::Access;

/// Frames of one consumer that may wait to be written.
const FRAMES_WAITING_MAX: usize = 2;
/// Records that are smaller on average go into one piece: a piece costs more than their copy.
const PIECE_BYTES_MIN: usize = 4 << 10;
/// Most messages that one consumer holds, whatever it asks for.
const PREFETCH_MAX: u32 = 100_000;
/// Most bytes of them, besides the last.
const PREFETCH_BYTES_MAX: u64 = 256 << 20;
/// Longest name of a consumer, in bytes.
const NAME_BYTES_MAX: usize = 255;

/// Where settlements of a consumer go, once it is attached.
pub(super) type Place = Arc<OnceLock<Attachment>>;

/// A consumer that is attached.
#[derive(Debug, Clone)]
pub(super) struct Attachment {
    pub(super) queue: QueueHandle,
    pub(super) consumer: ConsumerId,
    pub(super) topic: TopicName,
    pub(super) partition: PartitionIndex,
}

impl Attachment {
    /// Lets settlements pass under the lock that they are made under, where they are.
    ///
    /// # Errors
    /// Where the lock is lost, or one is required.
    pub(super) async fn pass(
        &self,
        session: &Session,
        fence: Option<&Fence>,
    ) -> Result<Option<FencePass>, ErrorResponse> {
        let broker = &session.broker;
        match fence {
            Some(fence) => {
                let found = broker.partition(&self.topic, self.partition, Access::Leader).await?;
                broker.fence_pass(&found.group, fence).await.map(Some)
            }
            // Another node speaks for clients of AMQP, whose settlements show none.
            None if session.node.is_none() && self.requires_fence(session) => {
                Err(refusals::fence_required(&self.topic))
            }
            None => Ok(None),
        }
    }

    fn requires_fence(&self, session: &Session) -> bool {
        let catalog = session.broker.catalog();
        catalog.topic(&self.topic).is_some_and(|meta| meta.config.rules.require_fence)
    }
}

/// Runs a consumer to its end. Everything, refusals too, is told by the outbox.
pub(super) async fn run(
    session: &Arc<Session>,
    outbox: &Outbox,
    header: &FrameHeader,
    request: AttachRequest,
    control: Control,
    place: Place,
) {
    let credit = control.credit();
    let consuming = async {
        let mut attached = match begin(session, &request).await {
            Ok(attached) => attached,
            Err(error) => {
                session.broker.counters().requests_refused.add(1);
                let frame = encode_error(header, &error).freeze();
                // A peer that is gone needs no answer.
                let _ = outbox.send(OutFrame::head(frame)).await;
                return;
            }
        };
        // It is set here only.
        let _ = place.set(Attachment {
            queue: attached.queue().clone(),
            consumer: attached.consumer,
            topic: request.topic.clone(),
            partition: request.partition,
        });
        let correlation = header.correlation;
        let response = AttachResponse { lease_ms: attached.lease_ms };
        let head = encode_response::<AttachRequest>(correlation, &response, 0).freeze();
        if outbox.send(OutFrame::head(head)).await.is_err() {
            return;
        }
        let waiting = Arc::new(Semaphore::new(FRAMES_WAITING_MAX));
        let mut stopping = session.broker.stopping();
        let (api, version) = (ApiKey::Attach, AttachRequest::VERSION);
        let broke = loop {
            let messages = tokio::select! {
                biased;
                messages = async {
                    // Its queue's end is told when it has taken what was handed out before.
                    credit.wait().await;
                    attached.next().await
                } => messages,
                () = stopping.wait() => break refusals::shutting_down(),
            };
            let Some(messages) = messages else { break ended(session, &request) };
            let waiting = Arc::clone(&waiting);
            let permit = waiting.acquire_owned().await.expect("never closed");
            let bytes = messages.iter().map(|message| message.record.len()).sum();
            credit.spend(bytes);
            session.broker.counters().bytes_delivered.add(bytes as u64);
            let delivery = QueueDelivery { messages: messages.iter().map(described).collect() };
            let head = encode_frame(api, version, FrameFlags::PUSH, correlation, &delivery, bytes);
            let payload = pieces(messages, bytes);
            let frame = OutFrame { head: head.freeze(), payload, permit: Some(permit) };
            if outbox.send(frame).await.is_err() {
                return;
            }
        };
        let frame = encode_frame(api, version, FrameFlags::PUSH_ERROR, correlation, &broke, 0);
        let _ = outbox.send(OutFrame::head(frame.freeze())).await;
    };
    tokio::select! {
        biased;
        () = consuming => {}
        () = control.ended() => {}
        () = outbox.gone() => {}
    }
}

async fn begin(session: &Session, request: &AttachRequest) -> Result<Attached, ErrorResponse> {
    if request.name.len() > NAME_BYTES_MAX {
        return Err(ErrorResponse::new(
            ErrorCode::InvalidArgument,
            format!("the name of a consumer has at most {NAME_BYTES_MAX} bytes"),
        ));
    }
    let (topic, subscription) = (&request.topic, &request.subscription);
    let priority = i32::try_from(request.priority).map_err(|_| {
        let message = "the priority of a consumer is a number of 32 bits";
        ErrorResponse::new(ErrorCode::InvalidArgument, message)
    })?;
    let spec = ConsumerSpec {
        prefetch_count: request.prefetch_count.min(PREFETCH_MAX),
        // Another node's own clients bound theirs.
        prefetch_bytes: match session.node {
            None => request.prefetch_bytes.clamp(1, PREFETCH_BYTES_MAX),
            Some(_) => request.prefetch_bytes,
        },
        priority,
        exclusive: request.exclusive,
        settles_itself: request.settles_itself,
    };
    let peer = match session.node {
        None => session.peer.to_string(),
        Some(node) => format!("node {node}"),
    };
    let name = match request.name.is_empty() {
        true => peer,
        false => format!("{} ({peer})", request.name),
    };
    let queue = session.broker.queue(topic, request.partition, subscription).await?;
    let attached = queue.attach(spec, name).await.map_err(|_| ended(session, request))?;
    attached.map_err(|error| ErrorResponse::new(ErrorCode::QueueInUse, error.to_string()))
}

/// Why a queue's task has ended.
fn ended(session: &Session, request: &AttachRequest) -> ErrorResponse {
    let broker = &session.broker;
    if broker.is_stopping() {
        return refusals::shutting_down();
    }
    let (catalog, topic) = (broker.catalog(), &request.topic);
    let Some(meta) = catalog.topic(topic) else { return refusals::unknown_topic(topic) };
    if let Err(unknown) = subscription_of(meta, topic, &request.subscription) {
        return unknown;
    }
    let leader = meta.group(request.partition).and_then(|group| broker.host().leader(group));
    let me = broker.identity().node_id;
    broker.not_leader(leader.map(|(node, _)| node).filter(|node| *node != me))
}

pub(super) fn described(message: &Delivered) -> DeliveredMessage {
    DeliveredMessage {
        offset: message.offset,
        attempt: message.attempt,
        base_timestamp_ms: message.base_timestamp_ms,
        bytes: u32::try_from(message.record.len()).expect("a record fits a batch"),
    }
}

pub(super) fn pieces(messages: Vec<Delivered>, bytes: usize) -> Vec<Bytes> {
    if bytes / messages.len().max(1) >= PIECE_BYTES_MIN || messages.len() == 1 {
        return messages.into_iter().map(|message| message.record).collect();
    }
    let mut piece = BytesMut::with_capacity(bytes);
    messages.iter().for_each(|message| piece.extend_from_slice(&message.record));
    vec![piece.freeze()]
}

//! One stream: a task that reads frames and hands requests out, a task that writes replies.
//!
//! Produce requests are admitted in the order in which they were read and answered when they are
//! stored; other requests run beside each other, as many as the limit allows. While a limit is
//! reached nothing is read, and flow control makes the peer wait. A client that ends its side of the
//! stream ends its subscriptions with it, and still gets the answers to its requests.

use std::collections::BTreeMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::Either;
use plimsoll_delivery::dispatch::{ConsumerId, Outcome, SettleError};
use plimsoll_protocol::api::{
    AcquireLockRequest, AlterTopicRequest, ApiKey, AttachRequest, CancelLockRequest,
    CancelMessageRequest, CheckFenceRequest, ClearAmqpPermissionsRequest, CloseLockSessionRequest,
    ClusterPlanRequest, ClusterStatusRequest, CommitOffsetsRequest, Counter,
    CreateNamespaceRequest, CreateQueueRequest, CreateTopicRequest, CreateVhostRequest,
    CreditRequest, DeleteAmqpUserRequest, DeleteGroupRequest, DeleteLockRequest,
    DeleteNamespaceRequest, DeleteSubscriptionRequest, DeleteTopicRequest, DeleteVhostRequest,
    DescribeGroupRequest, DescribeLockRequest, DescribeQueueRequest, DescribeTopicRequest, Done,
    DrainNodeRequest, ExplainMessageRequest, ExtendRequest, FetchRequest, FindGroupsRequest,
    ForceReleaseLockRequest, GroupOffsetsRequest, HeartbeatRequest, InitProducerRequest,
    JoinGroupRequest, JoinTokenRequest, KeepLockSessionRequest, KvGetRequest, KvScanRequest,
    LeaveGroupRequest, ListAmqpPermissionsRequest, ListAmqpQueuesRequest, ListAmqpUsersRequest,
    ListGroupsRequest, ListLockSessionsRequest, ListLocksRequest, ListNamespacesRequest,
    ListOffsetsRequest, ListQueuesRequest, ListTopicsRequest, ListVhostsRequest, MetadataRequest,
    NodeStatusRequest, NodeStatusResponse, OpenLockSessionRequest, PeekQueueRequest, PingRequest,
    PullMessageRequest, PullMessageResponse, PurgeQueueRequest, PutAmqpUserRequest,
    PutSubscriptionRequest, RaiseFloorRequest, RebalanceRequest, ReleaseLockRequest,
    RemoveNodeRequest, Request, ResetGroupRequest, RetireRequest, RetireResponse,
    SetAmqpPermissionsRequest, SetLockValueRequest, SettleOutcome, SettleRefusal, SettleRequest,
    SettleResponse, Settlement, SubscribeRequest, TransferLeaderRequest, UnsubscribeRequest,
    WatchMetadataRequest, check_api,
};
use plimsoll_protocol::error::{ErrorCode, ErrorResponse};
use plimsoll_protocol::frame::{Frame, FrameHeader, encode_error, encode_response};
use plimsoll_protocol::ids::CorrelationId;
use plimsoll_protocol::peer::CLIENT_CREDIT_BYTES;
use plimsoll_replication::FencePass;
use plimsoll_transport::{FrameReceiver, FrameSender, HeldRoom};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::outbox::{OutFrame, Outbox, StreamGone, outbox, write};
use super::produce::Lanes;
use super::session::{Broken, Ending, LAST_WORDS, Session, see_off};
use super::subscribe::{self, SubscriptionHandle};
use super::{access, attach, cluster, groups, kv, locks, metadata, produce, queues, read, topics};
use crate::led::AbortOnDrop;
use crate::queues::{QueueGone, QueueHandle, Settling};
use crate::refusals;

/// The largest body of a request. Records are payload; nothing else needs more, and many requests may
/// be worked on at once.
const BODY_BYTES_MAX: usize = 64 << 10;

/// How long a settlement may wait for a majority; beyond, its outcome is called unknown, which it is.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// Requests of another node that are worked on at once: one queue without a majority must not hold up the
/// others, and what a node asks is bounded by what its own clients may.
const NODE_REQUESTS_MAX: usize = 1 << 20;

/// Requests of a stream that wait for locks.
const LONG_REQUESTS_MAX: usize = 16_384;

/// The reading side of one stream.
pub(super) struct Stream {
    pub(super) session: Arc<Session>,
    pub(super) outbox: Outbox,
    pub(super) lanes: Lanes,
    /// Requests and subscriptions of this stream; they end with it.
    pub(super) tasks: JoinSet<()>,
    requests: Arc<Semaphore>,
    /// Places of requests that may wait very long.
    long_requests: Arc<Semaphore>,
    subscriptions: BTreeMap<CorrelationId, SubscriptionHandle>,
    /// Those of the subscriptions that are consumers of queues.
    consumers: BTreeMap<CorrelationId, attach::Place>,
    panicked: watch::Sender<bool>,
    /// Held by answers that the writer makes, and may wait for very long.
    long: mpsc::Sender<()>,
    /// Ends when the last of them has.
    long_over: mpsc::Receiver<()>,
}

/// Serves a stream until the peer ends it, the node stops, or something on it breaks.
///
/// # Errors
/// Where the whole connection has to end.
pub(super) async fn serve(
    session: Arc<Session>,
    mut sender: FrameSender,
    mut receiver: FrameReceiver,
) -> Result<(), Ending> {
    let (outbox, queue) = outbox();
    let (panicked, mut alarm) = watch::channel(false);
    let (long, long_over) = mpsc::channel(1);
    let stream = Stream {
        long,
        long_over,
        lanes: Lanes::default(),
        tasks: JoinSet::new(),
        requests: Arc::new(Semaphore::new(match session.node {
            None => session.broker.limits().requests_per_stream_max,
            Some(_) => NODE_REQUESTS_MAX,
        })),
        long_requests: Arc::new(Semaphore::new(LONG_REQUESTS_MAX)),
        subscriptions: BTreeMap::new(),
        consumers: BTreeMap::new(),
        session: Arc::clone(&session),
        outbox,
        panicked,
    };
    let reading = Box::pin(stream.read(&mut receiver));
    let mut writing = AbortOnDrop(tokio::spawn(async move {
        let written = write(queue, &mut sender).await;
        (sender, written)
    }));
    // The writer runs by itself; it ends when the reader and all of its tasks have dropped their
    // outboxes, or when the peer takes nothing more.
    let writing = &mut writing.0;
    let outcome = tokio::select! {
        biased;
        outcome = reading => outcome,
        _ = alarm.wait_for(|panicked| *panicked) => {
            return Err(Ending::new(ErrorCode::Internal, "a request made the node fail; a bug"));
        }
    };
    match outcome {
        ReadingEnd::Finished => match writing.await {
            Ok(_) => Ok(()),
            // Counted and told as every other one.
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(Ending::new(ErrorCode::Internal, "the node failed on this stream")),
        },
        // Who takes no answers is not waited for.
        ReadingEnd::Stopping => {
            if let Ok(Ok((mut sender, Ok(())))) = timeout(LAST_WORDS, writing).await {
                // The connection is closed next, which would drop what the peer has not got yet.
                let _ = timeout(LAST_WORDS, sender.received()).await;
            }
            Ok(())
        }
        ReadingEnd::Broken(ending) => {
            if let Ok(Ok((mut sender, Ok(())))) = timeout(LAST_WORDS, writing).await {
                see_off(&mut sender, &mut receiver).await;
            }
            Err(ending)
        }
    }
}

/// Why nothing more is read from a stream.
enum ReadingEnd {
    /// The peer has said all, or takes no answers any more.
    Finished,
    /// The node is going down.
    Stopping,
    /// What came makes no sense; the peer is told.
    Broken(Ending),
}

impl Stream {
    /// Reads and hands out requests; then waits for those that are being worked on.
    async fn read(mut self, receiver: &mut FrameReceiver) -> ReadingEnd {
        let outbox = self.outbox.clone();
        let mut stopping = self.session.broker.stopping();
        let mut gone = pin!(outbox.gone());
        let mut stop = pin!(stopping.wait());
        let end = loop {
            // Frames first: the other two wait for what happens once, and a reader that always finds
            // a frame need not register for them each time.
            let frame = tokio::select! {
                biased;
                frame = receiver.recv() => frame,
                () = &mut gone => return self.lost(),
                () = &mut stop => break ReadingEnd::Stopping,
            };
            if self.session.broker.is_stopping() {
                // What was read and not begun is told so: its outcome is certain.
                let mut frame = frame;
                while let Ok(Some(unbegun)) = frame {
                    if self.refuse(&unbegun.header, &refusals::shutting_down()).await.is_err() {
                        break;
                    }
                    frame = match receiver.has_buffered_frame() {
                        true => receiver.recv().await,
                        false => Ok(None),
                    };
                }
                break ReadingEnd::Stopping;
            }
            let broken = match frame {
                Ok(Some(frame)) => match self.take(frame, receiver.take_room()).await {
                    Ok(()) => continue,
                    Err(Stop::Gone) => return self.lost(),
                    Err(Stop::Broken(broken)) => broken,
                },
                Ok(None) => break ReadingEnd::Finished,
                Err(error) => match Broken::by(&self.session.broker, &error) {
                    Some(broken) => broken,
                    None => return self.lost(),
                },
            };
            if let Some(answer) = broken.answer {
                // A peer that is gone needs no answer, and one that reads none gets none.
                let answer = self.outbox.send(OutFrame::head(answer.freeze()));
                let _ = timeout(LAST_WORDS, answer).await;
            }
            // What is still being worked on has nobody to be told to.
            self.tasks.abort_all();
            self.outbox.abandon();
            break ReadingEnd::Broken(broken.ending);
        };
        if !matches!(end, ReadingEnd::Stopping) {
            self.subscriptions.clear();
        }
        // A client that has finished its side still gets its answers.
        drop((self.outbox, self.long));
        let (mut tasks, mut long_over) = (self.tasks, self.long_over);
        let answered = async {
            while tasks.join_next().await.is_some() {}
            let _none = long_over.recv().await;
        };
        tokio::select! {
            biased;
            () = answered => {}
            () = &mut gone => {}
        }
        end
    }

    /// The peer is gone: it takes no answers.
    fn lost(&self) -> ReadingEnd {
        self.outbox.abandon();
        ReadingEnd::Finished
    }

    /// Takes a frame in. `room` is the room that it was received in, where it needed any: given back
    /// before an answer is waited with, so that a peer that reads no answers keeps it from nobody.
    async fn take(&mut self, frame: Frame, room: Option<HeldRoom>) -> Result<(), Stop> {
        let counters = self.session.broker.counters();
        counters.requests.add(1);
        while self.tasks.try_join_next().is_some() {}
        if !frame.header.flags.is_request() {
            let reason = "a client sends requests only; this frame is an answer";
            let error = ErrorResponse::new(ErrorCode::MalformedFrame, reason);
            return Err(Stop::Broken(Broken {
                answer: Some(encode_error(&frame.header, &error)),
                ending: Ending::new(error.code, reason),
            }));
        }
        let api = match check_request(&frame) {
            Ok(api) => api,
            Err(error) => {
                let header = frame.header;
                drop((frame, room));
                return Ok(self.refuse(&header, &error).await?);
            }
        };
        // What is left of any other is small.
        let room = room.filter(|_| takes_payload(api));
        match api {
            ApiKey::Produce => produce::produce(self, frame, room).await,
            ApiKey::KvGet => self.run::<KvGetRequest, _>(frame, kv::get).await,
            ApiKey::KvScan => self.run::<KvScanRequest, _>(frame, kv::scan).await,
            ApiKey::KvPut => kv::put(self, frame, room).await,
            ApiKey::Hello => {
                let error = ErrorResponse::new(
                    ErrorCode::InvalidArgument,
                    "this connection has said Hello already",
                );
                Ok(self.refuse(&frame.header, &error).await?)
            }
            ApiKey::Ping => self.run::<PingRequest, _>(frame, |_, _| async { done(Done {}) }).await,
            ApiKey::ListTopics => self.run::<ListTopicsRequest, _>(frame, topics::list).await,
            ApiKey::DescribeTopic => {
                self.run::<DescribeTopicRequest, _>(frame, topics::describe).await
            }
            ApiKey::CreateTopic => self.run::<CreateTopicRequest, _>(frame, topics::create).await,
            ApiKey::AlterTopic => self.run::<AlterTopicRequest, _>(frame, topics::alter).await,
            ApiKey::DeleteTopic => self.run::<DeleteTopicRequest, _>(frame, topics::delete).await,
            ApiKey::InitProducer => {
                self.run::<InitProducerRequest, _>(frame, produce::init_producer).await
            }
            ApiKey::Fetch => self.run::<FetchRequest, _>(frame, read::fetch).await,
            ApiKey::ListOffsets => {
                self.run::<ListOffsetsRequest, _>(frame, read::list_offsets).await
            }
            ApiKey::NodeStatus => self.run::<NodeStatusRequest, _>(frame, status).await,
            ApiKey::Subscribe => self.subscribe(frame).await,
            ApiKey::Attach => self.attach(frame).await,
            ApiKey::Settle => self.settle(&frame).await,
            ApiKey::Extend => self.extend(&frame).await,
            ApiKey::PullMessage => self.pull(&frame).await,
            ApiKey::Retire => self.retire(&frame).await,
            ApiKey::CreateQueue => self.run::<CreateQueueRequest, _>(frame, queues::create).await,
            ApiKey::PutSubscription => {
                self.run::<PutSubscriptionRequest, _>(frame, queues::put).await
            }
            ApiKey::DeleteSubscription => {
                self.run::<DeleteSubscriptionRequest, _>(frame, queues::delete).await
            }
            ApiKey::ListQueues => self.run::<ListQueuesRequest, _>(frame, queues::list).await,
            ApiKey::DescribeQueue => {
                self.run::<DescribeQueueRequest, _>(frame, queues::describe).await
            }
            ApiKey::ExplainMessage => {
                self.run::<ExplainMessageRequest, _>(frame, queues::explain).await
            }
            ApiKey::CancelMessage => {
                self.run::<CancelMessageRequest, _>(frame, queues::cancel).await
            }
            ApiKey::PurgeQueue => self.run::<PurgeQueueRequest, _>(frame, queues::purge).await,
            ApiKey::PeekQueue => self.run::<PeekQueueRequest, _>(frame, queues::peek_at).await,
            ApiKey::FindGroups => self.run::<FindGroupsRequest, _>(frame, groups::find).await,
            ApiKey::JoinGroup => self.run::<JoinGroupRequest, _>(frame, groups::join).await,
            ApiKey::Heartbeat => self.run::<HeartbeatRequest, _>(frame, groups::heartbeat).await,
            ApiKey::LeaveGroup => self.run::<LeaveGroupRequest, _>(frame, groups::leave).await,
            ApiKey::CommitOffsets => {
                self.run::<CommitOffsetsRequest, _>(frame, groups::commit).await
            }
            ApiKey::GroupOffsets => {
                self.run::<GroupOffsetsRequest, _>(frame, groups::offsets).await
            }
            ApiKey::ListGroups => self.run::<ListGroupsRequest, _>(frame, groups::list).await,
            ApiKey::DescribeGroup => {
                self.run::<DescribeGroupRequest, _>(frame, groups::describe).await
            }
            ApiKey::ResetGroup => self.run::<ResetGroupRequest, _>(frame, groups::reset).await,
            ApiKey::DeleteGroup => self.run::<DeleteGroupRequest, _>(frame, groups::delete).await,
            ApiKey::CreateVhost => {
                self.run::<CreateVhostRequest, _>(frame, access::create_vhost).await
            }
            ApiKey::DeleteVhost => {
                self.run::<DeleteVhostRequest, _>(frame, access::delete_vhost).await
            }
            ApiKey::ListVhosts => {
                self.run::<ListVhostsRequest, _>(frame, access::list_vhosts).await
            }
            ApiKey::PutAmqpUser => self.run::<PutAmqpUserRequest, _>(frame, access::put_user).await,
            ApiKey::DeleteAmqpUser => {
                self.run::<DeleteAmqpUserRequest, _>(frame, access::delete_user).await
            }
            ApiKey::ListAmqpUsers => {
                self.run::<ListAmqpUsersRequest, _>(frame, access::list_users).await
            }
            ApiKey::SetAmqpPermissions => {
                self.run::<SetAmqpPermissionsRequest, _>(frame, access::set_permissions).await
            }
            ApiKey::ClearAmqpPermissions => {
                self.run::<ClearAmqpPermissionsRequest, _>(frame, access::clear_permissions).await
            }
            ApiKey::ListAmqpPermissions => {
                self.run::<ListAmqpPermissionsRequest, _>(frame, access::list_permissions).await
            }
            ApiKey::ListAmqpQueues => {
                self.run::<ListAmqpQueuesRequest, _>(frame, access::list_queues).await
            }
            ApiKey::CreateNamespace => {
                self.run::<CreateNamespaceRequest, _>(frame, locks::create_namespace).await
            }
            ApiKey::DeleteNamespace => {
                self.run::<DeleteNamespaceRequest, _>(frame, locks::delete_namespace).await
            }
            ApiKey::ListNamespaces => {
                self.run::<ListNamespacesRequest, _>(frame, locks::list_namespaces).await
            }
            ApiKey::OpenLockSession => {
                self.run::<OpenLockSessionRequest, _>(frame, locks::open).await
            }
            ApiKey::KeepLockSession => {
                self.run_waiting::<KeepLockSessionRequest, _>(frame, locks::keep_alive).await
            }
            ApiKey::CloseLockSession => {
                self.run::<CloseLockSessionRequest, _>(frame, locks::close).await
            }
            ApiKey::AcquireLock => {
                self.run_long::<AcquireLockRequest, _>(frame, locks::acquire).await
            }
            ApiKey::CancelLock => self.run::<CancelLockRequest, _>(frame, locks::cancel).await,
            ApiKey::ReleaseLock => {
                self.run_waiting::<ReleaseLockRequest, _>(frame, locks::release).await
            }
            ApiKey::ForceReleaseLock => {
                self.run::<ForceReleaseLockRequest, _>(frame, locks::force_release).await
            }
            ApiKey::SetLockValue => {
                self.run::<SetLockValueRequest, _>(frame, locks::set_value).await
            }
            ApiKey::DeleteLock => self.run::<DeleteLockRequest, _>(frame, locks::delete).await,
            ApiKey::ListLocks => self.run::<ListLocksRequest, _>(frame, locks::list).await,
            ApiKey::DescribeLock => {
                self.run::<DescribeLockRequest, _>(frame, locks::describe).await
            }
            ApiKey::ListLockSessions => {
                self.run::<ListLockSessionsRequest, _>(frame, locks::list_sessions).await
            }
            ApiKey::CheckFence => self.run::<CheckFenceRequest, _>(frame, locks::check_fence).await,
            ApiKey::RaiseFloor => self.run::<RaiseFloorRequest, _>(frame, locks::raise_floor).await,
            ApiKey::Credit => self.credit(&frame).await,
            ApiKey::Unsubscribe => self.unsubscribe(&frame).await,
            ApiKey::Metadata => self.run::<MetadataRequest, _>(frame, metadata::metadata).await,
            ApiKey::WatchMetadata => {
                self.run::<WatchMetadataRequest, _>(frame, metadata::watch).await
            }
            ApiKey::ClusterStatus => {
                self.run::<ClusterStatusRequest, _>(frame, cluster::status).await
            }
            ApiKey::ClusterPlan => self.run::<ClusterPlanRequest, _>(frame, cluster::plan).await,
            ApiKey::Rebalance => self.run::<RebalanceRequest, _>(frame, cluster::rebalance).await,
            ApiKey::DrainNode => self.run::<DrainNodeRequest, _>(frame, cluster::drain).await,
            ApiKey::RemoveNode => self.run::<RemoveNodeRequest, _>(frame, cluster::remove).await,
            ApiKey::JoinToken => self.run::<JoinTokenRequest, _>(frame, cluster::join_token).await,
            ApiKey::TransferLeader => {
                self.run::<TransferLeaderRequest, _>(frame, cluster::transfer).await
            }
        }
    }

    /// Answers with an error.
    pub(super) async fn refuse(
        &self,
        request: &FrameHeader,
        error: &ErrorResponse,
    ) -> Result<(), StreamGone> {
        refuse(&self.session, &self.outbox, request, error).await
    }

    /// The body of a request; one that cannot be read is refused.
    async fn body<R: Request>(&self, frame: &Frame) -> Result<Option<R>, StreamGone> {
        match frame.decode_body::<R>() {
            Ok(request) => Ok(Some(request)),
            Err(error) => self.refuse(&frame.header, &error.into()).await.map(|()| None),
        }
    }

    /// As [`Stream::body`], and what the answer needs; the frame is let go of.
    async fn request<R: Request>(
        &self,
        frame: Frame,
    ) -> Result<Option<(FrameHeader, R)>, StreamGone> {
        Ok(self.body::<R>(&frame).await?.map(|request| (frame.header, request)))
    }

    /// Reads a request and works on it in a task of its own; waits while there are too many.
    async fn run<R, F>(
        &mut self,
        frame: Frame,
        work: impl FnOnce(Arc<Session>, R) -> F,
    ) -> Result<(), Stop>
    where
        R: Request + Send + 'static,
        R::Response: Send,
        F: Future<Output = Result<Answer<R>, ErrorResponse>> + Send + 'static,
    {
        let Some((header, request)) = self.request::<R>(frame).await? else { return Ok(()) };
        let permit = self.permit().await;
        self.answer::<R>(header, permit, work(Arc::clone(&self.session), request));
        Ok(())
    }

    /// As [`Stream::run`], for what is little more than to wait for another task: the task that writes the
    /// answers does, which saves two changes of tasks on the way.
    async fn run_waiting<R, F>(
        &mut self,
        frame: Frame,
        work: impl FnOnce(Arc<Session>, R) -> F,
    ) -> Result<(), Stop>
    where
        R: Request + Send + 'static,
        R::Response: Send,
        F: Future<Output = Result<Answer<R>, ErrorResponse>> + Send + 'static,
    {
        let Some((header, request)) = self.request::<R>(frame).await? else { return Ok(()) };
        let permit = self.permit().await;
        Ok(self.answer_by_writer::<R>(header, permit, work(Arc::clone(&self.session), request))?)
    }

    /// As [`Stream::run_waiting`], for what may wait very long: it keeps no other request from being read.
    /// There are places of its own for it, and who finds none is refused.
    async fn run_long<R, F>(
        &mut self,
        frame: Frame,
        work: impl FnOnce(Arc<Session>, R) -> F,
    ) -> Result<(), Stop>
    where
        R: Request + Send + 'static,
        R::Response: Send,
        F: Future<Output = Result<Answer<R>, ErrorResponse>> + Send + 'static,
    {
        let Some((header, request)) = self.request::<R>(frame).await? else { return Ok(()) };
        let Ok(permit) = Arc::clone(&self.long_requests).try_acquire_owned() else {
            let message = format!(
                "{LONG_REQUESTS_MAX} requests of this stream wait for locks; wait for some of them, or use \
                 another connection"
            );
            let error = ErrorResponse::new(ErrorCode::TooManyInFlight, message);
            return Ok(self.refuse(&header, &error).await?);
        };
        Ok(self.answer_by_writer::<R>(header, permit, work(Arc::clone(&self.session), request))?)
    }

    /// Has the task that writes answers make one.
    fn answer_by_writer<R: Request + 'static>(
        &self,
        header: FrameHeader,
        permit: OwnedSemaphorePermit,
        work: impl Future<Output = Result<Answer<R>, ErrorResponse>> + Send + 'static,
    ) -> Result<(), StreamGone>
    where
        R::Response: Send,
    {
        let (reply, held) = (self.reply::<R, _>(header, permit, work), self.long.clone());
        self.outbox.send_when_ready_or_abandoned(Box::pin(async move {
            let _held = held;
            reply.await
        }))
    }

    /// The answer to a request, once it is worked on.
    fn reply<R: Request + 'static, F>(
        &self,
        header: FrameHeader,
        permit: OwnedSemaphorePermit,
        work: F,
    ) -> impl Future<Output = OutFrame> + Send + use<R, F>
    where
        R::Response: Send,
        F: Future<Output = Result<Answer<R>, ErrorResponse>> + Send + 'static,
    {
        let session = Arc::clone(&self.session);
        async move {
            match work.await {
                Ok((response, payload)) => {
                    let bytes = payload.iter().map(Bytes::len).sum();
                    session.broker.counters().bytes_delivered.add(bytes as u64);
                    let head = encode_response::<R>(header.correlation, &response, bytes).freeze();
                    OutFrame { head, payload, permit: Some(permit) }
                }
                Err(error) => {
                    let refused = refusal(&session, &header, &error);
                    OutFrame { permit: Some(permit), ..refused }
                }
            }
        }
    }

    /// Works on a request in a task of its own.
    fn answer<R: Request + 'static>(
        &mut self,
        header: FrameHeader,
        permit: OwnedSemaphorePermit,
        work: impl Future<Output = Result<Answer<R>, ErrorResponse>> + Send + 'static,
    ) where
        R::Response: Send,
    {
        let outbox = self.outbox.clone();
        let reply = Box::pin(self.reply::<R, _>(header, permit, work));
        self.spawn(async move {
            // A peer that is gone needs no answer.
            let _ = outbox.send(reply.await).await;
        });
    }

    /// Spawns a task of this stream; should it panic, the connection ends.
    pub(super) fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        let panicked = self.panicked.clone();
        let session = Arc::clone(&self.session);
        self.tasks.spawn(async move {
            if AssertUnwindSafe(Box::pin(task)).catch_unwind().await.is_err() {
                session.broker.counters().panics.add(1);
                tracing::error!(peer = %session.peer, "a request made its task panic");
                panicked.send_replace(true);
            }
        });
    }

    async fn subscribe(&mut self, frame: Frame) -> Result<(), Stop> {
        let header = frame.header;
        self.subscriptions.retain(|_, subscription| !subscription.has_ended());
        let request = frame.decode_body::<SubscribeRequest>().map_err(ErrorResponse::from);
        let taken = self.subscriptions.contains_key(&header.correlation);
        let placed = request.and_then(|request| {
            if taken {
                let message = "a subscription with this correlation id is open on this stream";
                return Err(ErrorResponse::new(ErrorCode::InvalidArgument, message));
            }
            Ok((request, self.session.subscription_place()?))
        });
        let (request, place) = match placed {
            Ok(placed) => placed,
            Err(error) => return Ok(self.refuse(&header, &error).await?),
        };
        let (handle, control) = subscribe::handle(request.credit_bytes);
        self.subscriptions.insert(header.correlation, handle);
        let (session, outbox) = (Arc::clone(&self.session), self.outbox.clone());
        self.spawn(async move {
            subscribe::run(&session, &outbox, &header, request, control).await;
            drop(place);
        });
        Ok(())
    }

    async fn attach(&mut self, frame: Frame) -> Result<(), Stop> {
        let header = frame.header;
        self.subscriptions.retain(|_, subscription| !subscription.has_ended());
        let open = &self.subscriptions;
        self.consumers.retain(|correlation, _| open.contains_key(correlation));
        let request = frame.decode_body::<AttachRequest>().map_err(ErrorResponse::from);
        let placed = request.and_then(|request| {
            if open.contains_key(&header.correlation) {
                let message = "a subscription with this correlation id is open on this stream";
                return Err(ErrorResponse::new(ErrorCode::InvalidArgument, message));
            }
            Ok((request, self.session.subscription_place()?))
        });
        let (request, place) = match placed {
            Ok(placed) => placed,
            Err(error) => return Ok(self.refuse(&header, &error).await?),
        };
        let (handle, control) = subscribe::handle(match self.session.node {
            // What may wait for it is bounded by what it may hold.
            None => 0,
            Some(_) => CLIENT_CREDIT_BYTES,
        });
        self.subscriptions.insert(header.correlation, handle);
        let consumer = attach::Place::default();
        self.consumers.insert(header.correlation, Arc::clone(&consumer));
        let (session, outbox) = (Arc::clone(&self.session), self.outbox.clone());
        self.spawn(async move {
            attach::run(&session, &outbox, &header, request, control, consumer).await;
            drop(place);
        });
        Ok(())
    }

    async fn settle(&mut self, frame: &Frame) -> Result<(), Stop> {
        let header = frame.header;
        let Some(request) = self.body::<SettleRequest>(frame).await? else { return Ok(()) };
        let attached = self.consumers.get(&request.consumer).and_then(|place| place.get());
        let Some(attached) = attached else {
            let refused = request.items.iter().map(not_held).collect();
            return Ok(self.settled::<SettleRequest>(&header, refused).await?);
        };
        // Before the pass, which holds up others: a peer that reads no answers has none for long.
        let permit = self.permit().await;
        let pass = match attached.pass(&self.session, request.fence.as_ref()).await {
            Ok(pass) => pass,
            Err(error) => return Ok(self.refuse(&header, &error).await?),
        };
        let items = request.items.iter().map(settling).collect();
        // Taken now, in the order of the frames; answered when it is written.
        let settled = attached.queue.settle(attached.consumer, items);
        let settled = held_until(pass, settled);
        let session = Arc::clone(&self.session);
        let reply = Box::pin(async move {
            let head = match timeout(ANSWER_MAX, settled).await.unwrap_or(Err(QueueGone)) {
                Ok(refused) => {
                    let refused = refused.iter().map(settle_refusal).collect();
                    let response = SettleResponse { refused };
                    encode_response::<SettleRequest>(header.correlation, &response, 0)
                }
                Err(QueueGone) => encode_error(&header, &unknown_settlement(&session)),
            };
            OutFrame { head: head.freeze(), payload: Vec::new(), permit: Some(permit) }
        });
        Ok(self.outbox.send_when_ready(reply)?)
    }

    async fn extend(&mut self, frame: &Frame) -> Result<(), Stop> {
        let header = frame.header;
        let Some(request) = self.body::<ExtendRequest>(frame).await? else { return Ok(()) };
        let consumer = self.consumers.get(&request.consumer).and_then(|place| place.get());
        let Some(attached) = consumer else {
            let refused = request.items.iter().map(not_held).collect();
            return Ok(self.settled::<ExtendRequest>(&header, refused).await?);
        };
        let items = request.items.iter().map(|item| (item.offset, item.attempt)).collect();
        let (queue, consumer) = (attached.queue.clone(), attached.consumer);
        let permit = self.permit().await;
        let reply = Box::pin(async move {
            let extended = queue.extend(consumer, items, request.lease_ms);
            let refused = match timeout(ANSWER_MAX, extended).await {
                Ok(Ok(refused)) => refused.iter().map(settle_refusal).collect(),
                Ok(Err(QueueGone)) | Err(_) => request.items.iter().map(not_held).collect(),
            };
            let response = SettleResponse { refused };
            let head = encode_response::<ExtendRequest>(header.correlation, &response, 0);
            OutFrame { head: head.freeze(), payload: Vec::new(), permit: Some(permit) }
        });
        Ok(self.outbox.send_when_ready(reply)?)
    }

    async fn pull(&mut self, frame: &Frame) -> Result<(), Stop> {
        let header = frame.header;
        let request = frame.decode_body::<PullMessageRequest>().map_err(ErrorResponse::from);
        let (queue, consumer) = match request.and_then(|request| self.consumer(request.consumer)) {
            Ok(consumer) => consumer,
            Err(error) => return Ok(self.refuse(&header, &error).await?),
        };
        // Asked now, in the order of the frames.
        let pulled = queue.pull(consumer);
        let permit = self.permit().await;
        let session = Arc::clone(&self.session);
        let reply = Box::pin(async move {
            let (head, payload) = match timeout(ANSWER_MAX, pulled).await.unwrap_or(Err(QueueGone))
            {
                Ok(pulled) => {
                    let left = pulled.as_ref().map_or(0, |pulled| pulled.left);
                    let message = pulled.as_ref().map(|pulled| attach::described(&pulled.message));
                    let payload: Vec<_> =
                        pulled.into_iter().map(|pulled| pulled.message.record).collect();
                    let bytes = payload.iter().map(Bytes::len).sum();
                    session.broker.counters().bytes_delivered.add(bytes as u64);
                    let response = PullMessageResponse { message, left };
                    let correlation = header.correlation;
                    let head = encode_response::<PullMessageRequest>(correlation, &response, bytes);
                    (head, payload)
                }
                Err(QueueGone) => {
                    session.broker.counters().requests_refused.add(1);
                    (encode_error(&header, &session.broker.not_leader(None)), Vec::new())
                }
            };
            OutFrame { head: head.freeze(), payload, permit: Some(permit) }
        });
        Ok(self.outbox.send_when_ready(reply)?)
    }

    async fn retire(&mut self, frame: &Frame) -> Result<(), Stop> {
        let header = frame.header;
        let request = frame.decode_body::<RetireRequest>().map_err(ErrorResponse::from);
        let (queue, consumer) = match request.and_then(|request| self.consumer(request.consumer)) {
            Ok(consumer) => consumer,
            Err(error) => return Ok(self.refuse(&header, &error).await?),
        };
        let permit = self.permit().await;
        let session = Arc::clone(&self.session);
        let reply = Box::pin(async move {
            let retired = timeout(ANSWER_MAX, queue.retire(consumer)).await;
            let head = match retired.unwrap_or(Err(QueueGone)) {
                Ok(consumers) => {
                    let response = RetireResponse { consumers };
                    encode_response::<RetireRequest>(header.correlation, &response, 0)
                }
                Err(QueueGone) => {
                    session.broker.counters().requests_refused.add(1);
                    encode_error(&header, &session.broker.not_leader(None))
                }
            };
            OutFrame { head: head.freeze(), payload: Vec::new(), permit: Some(permit) }
        });
        Ok(self.outbox.send_when_ready(reply)?)
    }

    /// The consumer that was attached so on this stream.
    fn consumer(
        &self,
        attached: CorrelationId,
    ) -> Result<(QueueHandle, ConsumerId), ErrorResponse> {
        let place = self.consumers.get(&attached).and_then(|place| place.get());
        place.map(|it| (it.queue.clone(), it.consumer)).ok_or_else(|| {
            let message = "no consumer was attached with this correlation id on this stream";
            ErrorResponse::new(ErrorCode::InvalidArgument, message)
        })
    }

    /// A place for a request that is being worked on; waits while there are too many.
    pub(super) async fn permit(&self) -> OwnedSemaphorePermit {
        let requests = Arc::clone(&self.requests);
        requests.acquire_owned().await.expect("never closed")
    }

    async fn settled<R: Request<Response = SettleResponse>>(
        &self,
        header: &FrameHeader,
        refused: Vec<SettleRefusal>,
    ) -> Result<(), StreamGone> {
        let head = encode_response::<R>(header.correlation, &SettleResponse { refused }, 0);
        self.outbox.send(OutFrame::head(head.freeze())).await
    }

    async fn credit(&mut self, frame: &Frame) -> Result<(), Stop> {
        match frame.decode_body::<CreditRequest>() {
            Ok(credit) => {
                if let Some(subscription) = self.subscriptions.get(&credit.subscription) {
                    subscription.credit(credit.bytes);
                }
                Ok(())
            }
            Err(error) => Ok(self.refuse(&frame.header, &error.into()).await?),
        }
    }

    async fn unsubscribe(&mut self, frame: &Frame) -> Result<(), Stop> {
        let Some(request) = self.body::<UnsubscribeRequest>(frame).await? else { return Ok(()) };
        self.consumers.remove(&request.subscription);
        if let Some(subscription) = self.subscriptions.remove(&request.subscription) {
            subscription.end().await;
        }
        let correlation = frame.header.correlation;
        let head = encode_response::<UnsubscribeRequest>(correlation, &Done {}, 0).freeze();
        Ok(self.outbox.send(OutFrame::head(head)).await?)
    }
}

/// Holds a pass until what was let pass has its outcome, also where nobody waits for that any more: it is on
/// its way into the log all the same.
fn held_until<T: Send + 'static>(
    pass: Option<FencePass>,
    outcome: impl Future<Output = Result<T, QueueGone>> + Send + 'static,
) -> impl Future<Output = Result<T, QueueGone>> + Send + 'static {
    let Some(pass) = pass else { return Either::Left(outcome) };
    let task = tokio::spawn(async move {
        let outcome = outcome.await;
        drop(pass);
        outcome
    });
    Either::Right(async move { task.await.unwrap_or(Err(QueueGone)) })
}

fn settling(item: &Settlement) -> Settling {
    let outcome = match item.outcome {
        SettleOutcome::Accept => Outcome::Accept,
        SettleOutcome::Release => Outcome::Release { delay_ms: item.delay_ms },
        SettleOutcome::Reject => Outcome::Reject,
    };
    Settling { offset: item.offset, attempt: item.attempt, outcome }
}

fn not_held(item: &Settlement) -> SettleRefusal {
    SettleRefusal { offset: item.offset, current_attempt: None }
}

fn settle_refusal(error: &SettleError) -> SettleRefusal {
    match *error {
        SettleError::NotHeld { offset } => SettleRefusal { offset, current_attempt: None },
        SettleError::StaleAttempt { offset, current, .. } => {
            SettleRefusal { offset, current_attempt: Some(current) }
        }
    }
}

/// The queue's task ended before the settlement was known to be written.
fn unknown_settlement(session: &Session) -> ErrorResponse {
    session.broker.counters().requests_refused.add(1);
    ErrorResponse::new(
        ErrorCode::Timeout,
        "the partition has another leader now, or none: whether the settlements are stored is not known; \
         those that are not are delivered again",
    )
}

/// The body of an answer and its payload.
pub(crate) type Answer<R> = (<R as Request>::Response, Vec<Bytes>);

/// An answer without payload.
pub(crate) fn done<T>(response: T) -> Result<(T, Vec<Bytes>), ErrorResponse> {
    Ok((response, Vec::new()))
}

async fn refuse(
    session: &Session,
    outbox: &Outbox,
    request: &FrameHeader,
    error: &ErrorResponse,
) -> Result<(), StreamGone> {
    outbox.send(refusal(session, request, error)).await
}

fn refusal(session: &Session, request: &FrameHeader, error: &ErrorResponse) -> OutFrame {
    session.broker.counters().requests_refused.add(1);
    OutFrame::head(encode_error(request, error).freeze())
}

/// Why a stream's reader stops.
pub(super) enum Stop {
    Gone,
    Broken(Broken),
}

impl From<StreamGone> for Stop {
    fn from(_: StreamGone) -> Self {
        Self::Gone
    }
}

/// Whether a request carries records behind its body.
fn takes_payload(api: ApiKey) -> bool {
    matches!(api, ApiKey::Produce | ApiKey::KvPut)
}

/// Which request this is, if it is one that can be looked at further.
fn check_request(frame: &Frame) -> Result<ApiKey, ErrorResponse> {
    let api = check_api(frame.header.api, frame.header.version)?;
    if !takes_payload(api) && !frame.payload.is_empty() {
        return Err(ErrorResponse::new(
            ErrorCode::MalformedFrame,
            format!("{api} takes no payload, this frame has {} bytes", frame.payload.len()),
        ));
    }
    if frame.body.len() > BODY_BYTES_MAX {
        return Err(ErrorResponse::new(
            ErrorCode::FrameTooLarge,
            format!(
                "a request of {} bytes, without what it carries; {BODY_BYTES_MAX} are allowed",
                frame.body.len()
            ),
        ));
    }
    Ok(api)
}

async fn status(
    session: Arc<Session>,
    _: NodeStatusRequest,
) -> Result<Answer<NodeStatusRequest>, ErrorResponse> {
    let broker = &session.broker;
    let identity = broker.identity();
    let of_node = broker.status_counters().into_iter();
    let of_node = of_node.map(|(name, value)| Counter { name: name.to_owned(), value });
    let by_name = broker.counters_by_name().into_iter();
    let by_name = by_name.map(|(name, value)| Counter { name, value });
    done(NodeStatusResponse {
        node_id: identity.node_id,
        cluster_id: identity.cluster_id.clone(),
        version: identity.version.clone(),
        uptime_ms: u64::try_from(broker.uptime().as_millis()).unwrap_or(u64::MAX),
        counters: of_node.chain(by_name).collect(),
    })
}

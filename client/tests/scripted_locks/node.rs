//! A node of one namespace of exclusive locks, in virtual time: the rules as plainly as possible, and a plan of
//! what it does not hear or does not say.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use plimsoll_client::{
    AddressSource, Client, ClientConfig, ConnectError, Dial, LeaseClock, LeaseTime, LockHolder,
    LockInfo, LockKind, LockMode, Trust,
};
use plimsoll_protocol::api::{
    AcquireLockRequest, ApiKey, CancelLockRequest, CloseLockSessionRequest, DescribeLockRequest,
    Done, HelloRequest, HelloResponse, KeepLockSessionRequest, LockDescription, LockGrant,
    LockSession, OpenLockSessionRequest, PROTOCOL_MAX, PingRequest, ReleaseLockRequest, Request,
    SetLockValueRequest, supported_apis,
};
use plimsoll_protocol::error::{ErrorCode, ErrorResponse};
use plimsoll_protocol::frame::{Frame, encode_error, encode_response};
use plimsoll_protocol::ids::NodeId;
use plimsoll_transport::{
    Connection, Fabric, FrameSender, Incoming, Listener, Packet, SimulatedHost, SimulatedNetwork,
    TransportConfig,
};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

const NODE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const PORT: u16 = 7000;

/// The clock of one client: it may have gone on where timers did not, as on a machine that was suspended.
#[derive(Debug)]
pub(crate) struct DrivenClock {
    began: Instant,
    suspended_ms: AtomicU64,
}

impl DrivenClock {
    pub(crate) fn suspend(&self, duration: Duration) {
        let ms = u64::try_from(duration.as_millis()).unwrap();
        self.suspended_ms.fetch_add(ms, Ordering::Relaxed);
    }
}

impl LeaseClock for DrivenClock {
    fn now(&self) -> LeaseTime {
        let suspended = Duration::from_millis(self.suspended_ms.load(Ordering::Relaxed));
        // No clock begins at zero.
        LeaseTime(Duration::from_secs(1_000) + self.began.elapsed() + suspended)
    }
}

struct AtOnce;

impl Fabric for AtOnce {
    fn carry(&self, packet: Packet) {
        packet.deliver();
    }
}

struct Session {
    lease: Duration,
    until: Instant,
    label: String,
}

#[derive(Clone, Copy, PartialEq)]
enum Claim {
    Waits,
    Holds(u64),
    Over,
}

#[derive(Default)]
pub(crate) struct State {
    sessions: BTreeMap<u128, Session>,
    claims: BTreeMap<(u128, u64), (String, Claim)>,
    lines: BTreeMap<String, VecDeque<(u128, u64)>>,
    last_token: u64,
    /// Requests in order, with the number of the acquire where there is one.
    pub(crate) seen: Vec<(ApiKey, u64)>,
    /// What is lost on its way to the node.
    pub(crate) deaf: BTreeSet<ApiKey>,
    /// What is done and not answered.
    pub(crate) mute: BTreeSet<ApiKey>,
    /// What is done once, and the connection breaks before the answer.
    pub(crate) breaks: BTreeSet<ApiKey>,
}

#[derive(Clone)]
pub(crate) struct Node {
    network: SimulatedNetwork,
    state: Arc<Mutex<State>>,
    changes: watch::Sender<()>,
    clients: Arc<AtomicU64>,
}

type Outcome<T> = Result<T, ErrorResponse>;

fn refusal(code: ErrorCode) -> ErrorResponse {
    ErrorResponse::new(code, "scripted")
}

impl State {
    fn expire(&mut self) {
        let now = Instant::now();
        let over: Vec<u128> =
            self.sessions.iter().filter(|(_, it)| it.until <= now).map(|(id, _)| *id).collect();
        over.into_iter().for_each(|id| self.end(id));
    }

    fn end(&mut self, session: u128) {
        self.sessions.remove(&session);
        let own: Vec<_> = self.claims.keys().filter(|(id, _)| *id == session).copied().collect();
        own.into_iter().for_each(|claim| self.give_up(claim));
    }

    fn give_up(&mut self, id: (u128, u64)) {
        let Some((lock, claim)) = self.claims.get_mut(&id) else { return };
        *claim = Claim::Over;
        let lock = lock.clone();
        if let Some(line) = self.lines.get_mut(&lock) {
            line.retain(|waiter| *waiter != id);
        }
        self.hand_over(&lock);
    }

    fn hand_over(&mut self, lock: &str) {
        let Some(first) = self.lines.get(lock).and_then(|line| line.front().copied()) else {
            return;
        };
        let (_, claim) = self.claims.get_mut(&first).unwrap();
        if *claim == Claim::Waits {
            self.last_token += 10;
            *claim = Claim::Holds(self.last_token);
        }
    }

    fn speaks(&mut self, session: u128) -> Outcome<Duration> {
        let session = self.sessions.get_mut(&session);
        let session = session.ok_or_else(|| refusal(ErrorCode::SessionGone))?;
        session.until = Instant::now() + session.lease;
        Ok(session.lease)
    }

    fn holder(&self, lock: &str) -> Option<(u128, u64, u64)> {
        let first = *self.lines.get(lock)?.front()?;
        match self.claims[&first].1 {
            Claim::Holds(token) => Some((first.0, first.1, token)),
            _ => None,
        }
    }

    /// The present holder's token.
    pub(crate) fn token(&self, lock: &str) -> Option<u64> {
        self.holder(lock).map(|(_, _, token)| token)
    }

    pub(crate) fn waiters(&self, lock: &str) -> usize {
        self.lines.get(lock).map_or(0, |line| line.len().saturating_sub(1))
    }

    pub(crate) fn count(&self, api: ApiKey) -> usize {
        self.seen.iter().filter(|(seen, _)| *seen == api).count()
    }

    pub(crate) fn sessions(&self) -> usize {
        self.sessions.len()
    }
}

impl Node {
    pub(crate) fn start() -> Self {
        let network = SimulatedNetwork::new(AtOnce);
        let host = network.start_host(NODE);
        let listener = host.listen(PORT, TransportConfig::default()).unwrap();
        let node = Self {
            network,
            state: Arc::default(),
            changes: watch::Sender::new(()),
            clients: Arc::default(),
        };
        tokio::spawn(node.clone().serve(listener));
        node
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap();
        state.expire();
        state
    }

    /// Waits until it is so.
    pub(crate) async fn until(&self, is_so: impl Fn(&State) -> bool) {
        let mut changes = self.changes.subscribe();
        while !is_so(&self.state()) {
            let again = Instant::now() + Duration::from_millis(100);
            tokio::select! {
                _ = changes.changed() => {}
                () = sleep_until(again) => {}
            }
        }
    }

    /// As an operator does.
    pub(crate) fn force(&self, lock: &str) {
        let mut state = self.state();
        let (session, request, _) = state.holder(lock).unwrap();
        state.give_up((session, request));
        drop(state);
        self.changes.send_replace(());
    }

    pub(crate) fn forget_sessions(&self) {
        let mut state = self.state();
        let all: Vec<u128> = state.sessions.keys().copied().collect();
        all.into_iter().for_each(|session| state.end(session));
    }

    pub(crate) async fn client(&self) -> (Client, Arc<DrivenClock>) {
        let number = self.clients.fetch_add(1, Ordering::Relaxed) + 1;
        let ip = IpAddr::V4(Ipv4Addr::new(10, 0, 1, u8::try_from(number).unwrap()));
        let clock =
            Arc::new(DrivenClock { began: Instant::now(), suspended_ms: AtomicU64::new(0) });
        let mut config = ClientConfig::new(SocketAddr::new(NODE, PORT).to_string(), Trust::Nobody);
        config.dial = Some(Arc::new(SimulatedDial(self.network.start_host(ip))));
        config.seed = Some(number);
        let for_client: Arc<dyn LeaseClock> = Arc::<DrivenClock>::clone(&clock);
        config.lease_clock = Some(for_client);
        (Client::connect(config).await.unwrap(), clock)
    }

    async fn serve(self, listener: Listener) {
        let mut connections = JoinSet::new();
        while let Some(incoming) = listener.accept().await {
            connections.spawn(self.clone().converse(incoming));
        }
    }

    async fn converse(self, incoming: Incoming) {
        let Ok(connection) = incoming.handshake().await else { return };
        connection.admit();
        let mut streams = JoinSet::new();
        while let Ok(Some((sender, mut receiver))) = connection.accept().await {
            let (node, connection) = (self.clone(), connection.clone());
            streams.spawn(async move {
                let out = Arc::new(tokio::sync::Mutex::new(sender));
                let mut tasks = JoinSet::new();
                while let Ok(Some(frame)) = receiver.recv().await {
                    let (node, connection) = (node.clone(), connection.clone());
                    let out = Arc::clone(&out);
                    tasks.spawn(async move { node.answer(&frame, &connection, &out).await });
                }
            });
        }
    }

    async fn answer(
        &self,
        frame: &Frame,
        connection: &Connection,
        out: &tokio::sync::Mutex<FrameSender>,
    ) {
        let api = ApiKey::from_number(frame.header.api).unwrap();
        let number = match api {
            ApiKey::AcquireLock => frame.decode_body::<AcquireLockRequest>().unwrap().request,
            ApiKey::CancelLock => frame.decode_body::<CancelLockRequest>().unwrap().request,
            _ => 0,
        };
        {
            let mut state = self.state();
            state.seen.push((api, number));
            if state.deaf.contains(&api) {
                return;
            }
        }
        let head = self.act(api, frame).await;
        self.changes.send_replace(());
        let (breaks, is_mute) = {
            let mut state = self.state();
            (state.breaks.remove(&api), state.mute.contains(&api))
        };
        if breaks {
            connection.close(0, "scripted break");
        } else if !is_mute {
            // A client that is gone needs no answer.
            let _ = out.lock().await.send(head, &[]).await;
        }
    }

    async fn act(&self, api: ApiKey, frame: &Frame) -> Bytes {
        match api {
            ApiKey::Hello => reply::<HelloRequest>(frame, Ok(hello())),
            ApiKey::Ping => reply::<PingRequest>(frame, Ok(Done {})),
            ApiKey::OpenLockSession => {
                let OpenLockSessionRequest { session, lease_ms, label, .. } = body(frame);
                let lease = Duration::from_millis(lease_ms.into());
                let until = Instant::now() + lease;
                self.state().sessions.insert(session, Session { lease, until, label });
                reply::<OpenLockSessionRequest>(frame, Ok(LockSession { lease_ms }))
            }
            ApiKey::KeepLockSession => {
                let KeepLockSessionRequest { session, .. } = body(frame);
                let kept = self.state().speaks(session).map(|lease| LockSession {
                    lease_ms: u32::try_from(lease.as_millis()).unwrap(),
                });
                reply::<KeepLockSessionRequest>(frame, kept)
            }
            ApiKey::CloseLockSession => {
                let CloseLockSessionRequest { session, .. } = body(frame);
                self.state().end(session);
                reply::<CloseLockSessionRequest>(frame, Ok(Done {}))
            }
            ApiKey::AcquireLock => {
                reply::<AcquireLockRequest>(frame, self.acquire(body(frame)).await)
            }
            ApiKey::CancelLock => {
                let CancelLockRequest { session, request, lock, .. } = body(frame);
                let mut state = self.state();
                let cancelled = state.speaks(session).map(|_| {
                    // What comes later than this is not granted either.
                    state.claims.entry((session, request)).or_insert((lock, Claim::Waits));
                    state.give_up((session, request));
                    Done {}
                });
                reply::<CancelLockRequest>(frame, cancelled)
            }
            ApiKey::ReleaseLock => {
                let ReleaseLockRequest { session, lock, token, .. } = body(frame);
                let mut state = self.state();
                let released = state.speaks(session).and_then(|_| match state.holder(&lock) {
                    Some((holder, request, held)) if holder == session && held == token => {
                        state.give_up((session, request));
                        Ok(Done {})
                    }
                    _ => Err(refusal(ErrorCode::NotLockHolder)),
                });
                reply::<ReleaseLockRequest>(frame, released)
            }
            ApiKey::SetLockValue => reply::<SetLockValueRequest>(frame, Ok(Done {})),
            ApiKey::DescribeLock => {
                let DescribeLockRequest { lock, .. } = body(frame);
                reply::<DescribeLockRequest>(frame, self.describe(&lock))
            }
            // As a node that is older than clusters.
            ApiKey::Metadata | ApiKey::WatchMetadata => {
                encode_error(&frame.header, &refusal(ErrorCode::UnknownApi)).freeze()
            }
            other => panic!("unexpected {other}"),
        }
    }

    async fn acquire(&self, asked: AcquireLockRequest) -> Outcome<LockGrant> {
        let id = (asked.session, asked.request);
        let until = asked.wait_ms.map(|ms| Instant::now() + Duration::from_millis(ms));
        let mut changes = self.changes.subscribe();
        {
            let mut state = self.state();
            state.speaks(asked.session)?;
            if let Entry::Vacant(place) = state.claims.entry(id) {
                place.insert((asked.lock.clone(), Claim::Waits));
                state.lines.entry(asked.lock.clone()).or_default().push_back(id);
                state.hand_over(&asked.lock);
            }
        }
        loop {
            {
                let mut state = self.state();
                match state.claims[&id].1 {
                    Claim::Holds(token) => return Ok(LockGrant { token, slot: 0 }),
                    Claim::Over if state.sessions.contains_key(&asked.session) => {
                        return Err(refusal(ErrorCode::NotLockHolder));
                    }
                    Claim::Over => return Err(refusal(ErrorCode::SessionGone)),
                    Claim::Waits if until.is_some_and(|until| Instant::now() >= until) => {
                        let token = state.token(&asked.lock).unwrap();
                        state.give_up(id);
                        return Err(refusal(ErrorCode::LockTaken).with_offset(token));
                    }
                    Claim::Waits => {}
                }
            }
            let again = Instant::now() + Duration::from_millis(100);
            tokio::select! {
                _ = changes.changed() => {}
                () = sleep_until(until.map_or(again, |until| until.min(again))) => {}
            }
        }
    }

    fn describe(&self, lock: &str) -> Outcome<LockDescription> {
        let state = self.state();
        let holder = state.holder(lock).ok_or_else(|| refusal(ErrorCode::UnknownLock))?;
        let (session, _, token) = holder;
        let holder = LockHolder {
            label: state.sessions[&session].label.clone(),
            session: 1,
            mode: LockMode::Exclusive,
            token,
            slot: 0,
            since_ms: 0,
            lease_left_ms: 0,
            raising: false,
        };
        let info = LockInfo {
            lock: lock.to_owned(),
            kind: LockKind::Exclusive,
            permits: 0,
            holders: 1,
            holder: Some(holder.clone()),
            waiters: 0,
            token: Some(token),
            guards: Vec::new(),
        };
        let (value, holders, waiters) = (Bytes::new(), vec![holder], Vec::new());
        Ok(LockDescription { info, value, holders, waiters })
    }
}

fn hello() -> HelloResponse {
    HelloResponse {
        protocol: PROTOCOL_MAX,
        node_id: NodeId(1),
        cluster_id: "scripted".to_owned(),
        server_version: "0".to_owned(),
        max_frame_bytes: 16 << 20,
        batch_bytes_max: 8 << 20,
        apis: supported_apis(),
    }
}

fn body<R: Request>(frame: &Frame) -> R {
    frame.decode_body().unwrap()
}

fn reply<R: Request>(frame: &Frame, outcome: Outcome<R::Response>) -> Bytes {
    match outcome {
        Ok(answer) => encode_response::<R>(frame.header.correlation, &answer, 0).freeze(),
        Err(error) => encode_error(&frame.header, &error).freeze(),
    }
}

#[derive(Debug)]
struct SimulatedDial(SimulatedHost);

impl Dial for SimulatedDial {
    fn dial<'a>(
        &'a self,
        address: &'a str,
        _source: AddressSource,
    ) -> BoxFuture<'a, Result<Connection, ConnectError>> {
        async move {
            let fail = |reason: String| ConnectError::Dial { address: address.to_owned(), reason };
            let target = address.parse().map_err(|error| fail(format!("{error}")))?;
            let dialed = self.0.dial(target, &TransportConfig::default()).await;
            dialed.map_err(|error| fail(error.to_string()))
        }
        .boxed()
    }
}

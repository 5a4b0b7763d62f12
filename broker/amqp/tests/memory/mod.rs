//! A broker in memory: catalog, queues and consumers as the gateway's contract has them, and nothing
//! faster or kinder. Stored means pushed; a test may hold publishes back, let time pass, move queues.

mod attached;
mod state;

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use plimsoll_amqp::routing::Topology;
use plimsoll_amqp::shortstr::ShortStr;
use plimsoll_amqp_gateway::backend::*;
use plimsoll_amqp_gateway::catalog::*;
use plimsoll_amqp_gateway::inbox::{ConsumerPort, Receipt};
use plimsoll_amqp_gateway::passwords::PasswordHash;
use tokio::sync::{mpsc, watch};

use crate::client::s;
use attached::Attached;
use state::{Consumer, Host, Message, State, ToPort};

/// The broker.
pub struct Memory {
    state: Arc<Mutex<State>>,
    blocked: watch::Sender<Option<Arc<str>>>,
    access: watch::Sender<u64>,
}

impl Memory {
    pub fn new() -> Arc<Self> {
        let state = State {
            hosts: BTreeMap::new(),
            users: BTreeMap::new(),
            queues: BTreeMap::new(),
            owners: BTreeMap::new(),
            now_ms: 1_000_000,
            next: 1,
            holding: false,
            held_back: VecDeque::new(),
        };
        let state = Arc::new(Mutex::new(state));
        let (blocked, access) = (watch::Sender::new(None), watch::Sender::new(0));
        let memory = Self { state, blocked, access };
        memory.add_host("/");
        memory.add_user("guest", "guest", &[]);
        memory.allow("guest", "/", ".*", ".*", ".*");
        Arc::new(memory)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn add_host(&self, vhost: &str) {
        let host = Host {
            topology: Topology::new(s(vhost)),
            exchanges: Vec::new(),
            queues: Vec::new(),
            bindings: Vec::new(),
            permissions: Vec::new(),
            snapshot: watch::Sender::new(Arc::default()),
        };
        self.lock().hosts.insert(s(vhost), host);
    }

    pub fn delete_host(&self, vhost: &str) {
        self.lock().hosts.remove(vhost);
        self.access.send_modify(|changes| *changes += 1);
    }

    pub fn delete_user(&self, name: &str) {
        self.lock().users.remove(name);
        self.access.send_modify(|changes| *changes += 1);
    }

    pub fn add_user(&self, name: &str, password: &str, tags: &[&str]) {
        let password = Some(PasswordHash::of(password.as_bytes(), *b"salt"));
        let tags = tags.iter().map(|&tag| tag.to_owned()).collect();
        let user = User { name: name.to_owned(), password, tags };
        self.lock().users.insert(name.to_owned(), Arc::new(user));
    }

    pub fn allow(&self, user: &str, vhost: &str, configure: &str, write: &str, read: &str) {
        let [configure, write, read] = [configure, write, read].map(str::to_owned);
        let mut state = self.lock();
        let host = state.hosts.get_mut(vhost).unwrap();
        host.permissions.retain(|(known, _)| known != user);
        host.permissions.push((user.to_owned(), PermissionPatterns { configure, write, read }));
        state.show(vhost);
    }

    pub fn block(&self, reason: Option<&str>) {
        self.blocked.send_replace(reason.map(Arc::from));
    }

    /// From now on publishes are kept, until [`Memory::let_go`].
    pub fn hold_back(&self) {
        self.lock().holding = true;
    }

    pub fn held_back(&self) -> usize {
        self.lock().held_back.len()
    }

    /// Stores so many of the publishes that were kept.
    pub fn let_go(&self, count: usize) {
        let mut state = self.lock();
        for _ in 0..count {
            let Some((queue, record, receipt)) = state.held_back.pop_front() else { break };
            state.store(&queue, record, receipt);
        }
    }

    /// Stores what was kept, and keeps no more.
    pub fn go_on(&self) {
        self.lock().holding = false;
        self.let_go(usize::MAX);
    }

    pub fn pass_ms(&self, ms: i64) {
        let mut state = self.lock();
        state.now_ms += ms;
        let topics: Vec<_> = state.queues.keys().cloned().collect();
        topics.iter().for_each(|topic| state.serve(topic));
    }

    pub fn queue_names(&self, vhost: &str) -> Vec<String> {
        self.lock().hosts[vhost].queues.iter().map(|queue| queue.name.to_string()).collect()
    }

    pub fn exchange_names(&self, vhost: &str) -> Vec<String> {
        self.lock().hosts[vhost].exchanges.iter().map(|entry| entry.name.to_string()).collect()
    }

    /// Bodies of what is ready.
    pub fn ready(&self, queue: &str) -> Vec<String> {
        let state = self.lock();
        let queue = state.queues.values().find(|other| &*other.entry.name == queue).unwrap();
        let body = |message: &Message| String::from_utf8_lossy(&message.record.value).into_owned();
        queue.ready.values().map(body).collect()
    }

    /// Messages that are with consumers.
    pub fn held(&self, queue: &str) -> usize {
        let state = self.lock();
        let queue = state.queues.values().find(|other| &*other.entry.name == queue).unwrap();
        queue.consumers.values().map(|consumer| consumer.held.len()).sum()
    }

    /// How many are attached to queues, consumers or not.
    pub fn attached(&self) -> usize {
        self.lock().queues.values().map(|queue| queue.consumers.len()).sum()
    }

    /// A native client appends a record.
    pub fn append(&self, queue: &str, record: Record) {
        let mut state = self.lock();
        let queue = state.queues.values().find(|other| &*other.entry.name == queue).unwrap();
        let entry = Arc::clone(&queue.entry);
        state.push(&entry, record);
    }

    /// The queue's leader changes: its consumers end, what they held is ready again.
    pub fn move_queue(&self, queue: &str) {
        let mut state = self.lock();
        let queue = state.queues.values_mut().find(|other| &*other.entry.name == queue).unwrap();
        for consumer in std::mem::take(&mut queue.consumers).into_values() {
            queue.ready.extend(consumer.held.into_values().map(|one| (one.place(), one)));
            let _ = consumer.port.send(ToPort::End(ConsumerEnd::Moved));
        }
    }
}

impl Backend for Memory {
    fn unix_ms(&self) -> i64 {
        self.lock().now_ms
    }

    fn random(&self) -> u128 {
        let mut state = self.lock();
        state.next += 1;
        u128::from(state.next) << 64 | 7
    }

    fn take_place(&self, _peer: IpAddr) -> Result<Place, String> {
        Ok(Box::new(()))
    }

    fn connection_id(&self) -> ConnectionId {
        let mut state = self.lock();
        state.next += 1;
        ConnectionId(state.next)
    }

    fn user(&self, name: &str) -> Option<Arc<User>> {
        self.lock().users.get(name).cloned()
    }

    fn host(&self, vhost: &str) -> Option<watch::Receiver<Arc<HostSnapshot>>> {
        self.lock().hosts.get(vhost).map(|host| host.snapshot.subscribe())
    }

    fn access(&self) -> watch::Receiver<u64> {
        self.access.subscribe()
    }

    fn blocked(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.blocked.subscribe()
    }

    fn change(&self, vhost: ShortStr, change: Change) -> BoxFuture<'_, Result<Changed, Refusal>> {
        Box::pin(async move {
            // As in a cluster, others may be served before.
            tokio::task::yield_now().await;
            self.lock().change(&vhost, change)
        })
    }

    fn publish(&self, queue: &Arc<QueueEntry>, record: Record, receipt: Receipt) {
        let mut state = self.lock();
        if state.holding {
            return state.held_back.push_back((Arc::clone(queue), record, receipt));
        }
        state.store(queue, record, receipt);
    }

    fn attach(
        &self,
        queue: Arc<QueueEntry>,
        spec: ConsumerSpec,
        port: ConsumerPort,
    ) -> BoxFuture<'_, Result<Arc<dyn Attachment>, AttachError>> {
        Box::pin(async move {
            tokio::task::yield_now().await;
            let mut state = self.lock();
            state.next += 1;
            let id = state.next;
            let known = state.queues.get_mut(&queue.topic).ok_or(QueueError::Deleted)?;
            let mut others = known.consumers.values().filter(|other| other.counts());
            let alone = others.clone().any(|other| other.spec.exclusive);
            if spec.prefetch_count > 0 && (alone || spec.exclusive && others.next().is_some()) {
                return Err(AttachError::InUse);
            }
            let (sender, mut deliveries) = mpsc::unbounded_channel();
            let consumer = Consumer { spec, retired: false, port: sender, held: BTreeMap::new() };
            known.consumers.insert(id, consumer);
            tokio::spawn(async move {
                while let Some(next) = deliveries.recv().await {
                    match next {
                        ToPort::Deliver(delivery) => {
                            if port.send(delivery).await.is_err() {
                                return;
                            }
                        }
                        ToPort::End(end) => return port.end(end),
                    }
                }
            });
            state.serve(&queue.topic);
            let (state, topic) = (Arc::clone(&self.state), Arc::clone(&queue.topic));
            Ok(Arc::new(Attached { state, topic, id }) as Arc<dyn Attachment>)
        })
    }

    fn counts(&self, queue: Arc<QueueEntry>) -> BoxFuture<'_, Result<Counts, QueueError>> {
        Box::pin(async move {
            let state = self.lock();
            let queue = state.queues.get(&queue.topic).ok_or(QueueError::Deleted)?;
            Ok(Counts { messages: queue.ready.len() as u64, consumers: queue.counting() })
        })
    }

    fn purge(&self, queue: Arc<QueueEntry>) -> BoxFuture<'_, Result<u64, QueueError>> {
        Box::pin(async move {
            let mut state = self.lock();
            let queue = state.queues.get_mut(&queue.topic).ok_or(QueueError::Deleted)?;
            Ok(std::mem::take(&mut queue.ready).len() as u64)
        })
    }

    fn abandoned(&self, vhost: ShortStr, connection: ConnectionId) {
        let mut state = self.lock();
        state.change(&vhost, Change::ForgetOwner(connection)).unwrap();
    }
}

//! One connection: its task moves bytes between socket and session, requests from the session to the
//! broker, and what the broker says back into the session.
//!
//! ```text
//!  task          the loop                      wire          the socket
//!  requests      who asks for what, and answers
//!  actor         declarations, with checks     publish       routes, receipts, confirms
//!  consume       consumers and gets            settle        acks, commits, ends of channels
//!  holder        who holds what
//! ```
//!
//! Invariants: nothing waits for one channel but that channel; requests that look at queues wait for the
//! channel's publishes before them.

mod actor;
mod consume;
mod holder;
mod publish;
mod requests;
mod settle;
mod task;
mod wire;

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use plimsoll_amqp::session::{Answer, Ask, ChannelKey, Session};
use plimsoll_amqp::shortstr::ShortStr;
use tokio::sync::watch;

use crate::backend::{AttachError, Attachment, Backend, BoxFuture, Place, Pulled, QueueError};
use crate::catalog::{ConnectionId, HostSnapshot, QueueEntry, User};
use crate::gateway::{Gateway, Reply};
use crate::host::Host;
use crate::inbox::Inbox;
use crate::message::LastNames;

use holder::Holder;
use publish::{Publishes, RouteCache};

pub(crate) use task::run;

/// What an operation of the broker came to.
enum Finished {
    /// The channel, or the connection, is answered.
    Answered(ChannelKey, Answer),
    Attached {
        holder: u32,
        queue: Arc<QueueEntry>,
        result: Result<Arc<dyn Attachment>, AttachError>,
    },
    Pulled {
        holder: u32,
        get: holder::Get,
        result: Result<Option<Pulled>, QueueError>,
    },
    /// Consumers are gone; this channel is answered.
    Detached(Option<ChannelKey>),
    Blocked(watch::Receiver<Option<Arc<str>>>),
    /// Users, permissions or virtual hosts have changed.
    AccessChanged(watch::Receiver<u64>),
}

/// What the gateway has of a channel.
#[derive(Default)]
struct Channel {
    /// Publishes that are not stored yet.
    in_flight: usize,
    /// Whether one was refused since a commit began.
    refused: bool,
    /// What waits for them.
    barrier: Option<Ask>,
    /// Its consumers, by their tags.
    consumers: HashMap<ShortStr, u32>,
    replies: Option<Replies>,
}

/// The channel's consumer of direct replies.
struct Replies {
    consumer_tag: ShortStr,
    address: ShortStr,
    waiting: Arc<AtomicUsize>,
    queue: VecDeque<Reply>,
}

/// The virtual host, as this connection saw it last.
struct View {
    host: Arc<Host>,
    watch: watch::Receiver<Arc<HostSnapshot>>,
    /// Of the fold that it saw last.
    generation: u64,
}

struct Connection {
    gateway: Arc<Gateway>,
    backend: Arc<dyn Backend>,
    id: ConnectionId,
    peer: SocketAddr,
    session: Session,
    user: Option<Arc<User>>,
    view: Option<View>,
    /// Its place among the connections, once its virtual host is open.
    place: Option<Place>,
    inbox: Inbox,
    channels: HashMap<ChannelKey, Channel>,
    publishes: Publishes,
    routes: RouteCache,
    names: LastNames,
    holders: HashMap<u32, Holder>,
    next_holder: u32,
    /// Who takes messages one by one, by queue.
    getters: HashMap<ShortStr, u32>,
    /// Holders with deliveries to be passed on, and those whose consumers have no room.
    active: VecDeque<u32>,
    stalled: Vec<u32>,
    /// Whether a consumer may have got room.
    room_grew: bool,
    operations: FuturesUnordered<BoxFuture<'static, Finished>>,
    /// Detachments among them.
    detaching: usize,
    /// What may change while it is open: whether publishes are taken, and who may do what.
    watching: [BoxFuture<'static, Finished>; 2],
    /// Whether it may have exclusive queues.
    may_own: bool,
    /// `CloseConnection` was asked for, and is not carried out yet.
    ending: bool,
}

/// Exclusive queues are not forgotten where the task ends without a word.
impl Drop for Connection {
    fn drop(&mut self) {
        for address in self.channels.values().filter_map(|channel| channel.replies.as_ref()) {
            self.gateway.close_address(&address.address);
        }
        if self.may_own
            && let Some(view) = &self.view
        {
            self.backend.abandoned(view.host.vhost().clone(), self.id);
        }
    }
}

impl Connection {
    fn new(gateway: Arc<Gateway>, peer: SocketAddr, inbox: Inbox) -> Self {
        let backend = Arc::clone(&gateway.backend);
        let config = Arc::clone(&gateway.session_config);
        let mut session = Session::new(config, backend.random(), Duration::ZERO);
        let blocked = backend.blocked();
        if let Some(reason) = &*blocked.borrow() {
            session.block(reason);
        }
        let access = watch_access(backend.access());
        Self {
            id: backend.connection_id(),
            backend,
            gateway,
            peer,
            session,
            user: None,
            view: None,
            place: None,
            inbox,
            channels: HashMap::new(),
            publishes: Publishes::default(),
            routes: RouteCache::default(),
            names: LastNames::default(),
            holders: HashMap::new(),
            next_holder: 0,
            getters: HashMap::new(),
            active: VecDeque::new(),
            stalled: Vec::new(),
            room_grew: false,
            operations: FuturesUnordered::new(),
            detaching: 0,
            watching: [watch_blocked(blocked), access],
            may_own: false,
            ending: false,
        }
    }

    /// Carries out all requests; whether there was one.
    fn carry_out_all(&mut self) -> bool {
        let mut any = false;
        while let Some(request) = self.session.poll_request() {
            self.carry_out(request);
            any = true;
        }
        any
    }

    /// Whether so much waits to be stored that nothing is read.
    fn is_full(&self) -> bool {
        let config = &self.gateway.config;
        self.publishes.bytes() > config.publish_bytes_max
            || self.publishes.len() > config.publishes_max
    }

    /// The virtual host.
    ///
    /// Precondition: it was opened.
    fn host(&self) -> &Arc<Host> {
        &self.view.as_ref().expect("channels are opened after the virtual host").host
    }

    /// Which state of the virtual host counts now: routes that were found with another one do not.
    fn generation(&mut self) -> u64 {
        let view = self.view.as_mut().expect("channels are opened after the virtual host");
        // Of a host that was deleted what was known last counts, until the connection is closed.
        if view.watch.has_changed().unwrap_or(false) {
            view.watch.mark_unchanged();
            view.generation = view.host.read().generation();
        }
        view.generation
    }
}

fn watch_blocked(mut blocked: watch::Receiver<Option<Arc<str>>>) -> BoxFuture<'static, Finished> {
    Box::pin(async move {
        match blocked.changed().await {
            Ok(()) => Finished::Blocked(blocked),
            Err(_) => std::future::pending().await,
        }
    })
}

fn watch_access(mut access: watch::Receiver<u64>) -> BoxFuture<'static, Finished> {
    Box::pin(async move {
        match access.changed().await {
            Ok(()) => Finished::AccessChanged(access),
            Err(_) => std::future::pending().await,
        }
    })
}

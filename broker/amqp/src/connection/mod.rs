//! One connection: its task moves bytes between socket and session, requests from the session to the
//! broker, and what the broker says back into the session.
//!
//! ```text
//!  wire          the socket                    requests      who asks for what, and answers
//!  actor         declarations, with checks     publish       routes, receipts, confirms
//!  consume       consumers and gets            settle        acks, commits, ends of channels
//!  holder        who holds what
//! ```
//!
//! Invariants: a round of the loop takes all that is there before it writes once; nothing waits for one
//! channel but that channel; requests that look at queues wait for the channel's publishes before them.

mod actor;
mod consume;
mod holder;
mod publish;
mod requests;
mod settle;
mod wire;

use std::collections::{HashMap, VecDeque};
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, Stream, StreamExt};
use plimsoll_amqp::session::{Answer, Ask, ChannelKey, End, Session};
use plimsoll_amqp::shortstr::ShortStr;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::backend::{AttachError, Attachment, Backend, BoxFuture, Pulled, QueueError};
use crate::catalog::{ConnectionId, HostSnapshot, QueueEntry, User};
use crate::gateway::{Gateway, Reply};
use crate::host::{Folded, Host};
use crate::inbox::{Event, Inbox};
use crate::message::LastNames;

use holder::Holder;
use publish::{Publishes, RouteCache};
use wire::Wire;

/// Events that are taken at a time.
const EVENTS_MAX: usize = 256;
/// How long the last words of a connection may take to be written.
const LAST_WORDS: Duration = Duration::from_secs(3);
/// How long a timer sleeps where nothing is due.
const LONG: Duration = Duration::from_secs(3600);

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
    folded: Arc<Folded>,
}

struct Connection {
    gateway: Arc<Gateway>,
    backend: Arc<dyn Backend>,
    id: ConnectionId,
    peer: SocketAddr,
    session: Session,
    user: Option<Arc<User>>,
    view: Option<View>,
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
    watching: BoxFuture<'static, Finished>,
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

/// See [`Gateway::serve`].
pub(crate) async fn run<S>(
    gateway: Arc<Gateway>,
    stream: S,
    peer: SocketAddr,
    stopping: impl Future<Output = ()> + Send,
) -> Option<End>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let began = Instant::now();
    let (inbox, mut events) = Inbox::new();
    let mut connection = Connection::new(gateway, peer, inbox);
    let mut wire = Wire::new(stream);
    let mut woken = Woken::default();
    let mut timer = pin!(sleep_until(began + LONG));
    let mut stopping = pin!(stopping);
    let mut last_words_until = None;
    loop {
        let now = began.elapsed();
        connection.take(&mut woken, &mut wire, now);
        connection.work(&mut wire, now);
        let session = &mut connection.session;
        if wire.is_written() && session.has_output() {
            session.take_output(wire.pieces(), now);
            connection.room_grew = true;
        }
        if connection.session.is_finished() {
            let until = *last_words_until.get_or_insert(now + LAST_WORDS);
            if wire.is_written() || until <= now || woken.broken {
                break;
            }
        }
        let deadline =
            [connection.session.deadline(), last_words_until].into_iter().flatten().min();
        let deadline = began + deadline.unwrap_or(now + LONG);
        // It may fire too early, when a deadline has moved away: then nothing is due.
        if deadline < timer.deadline() || timer.is_elapsed() {
            timer.as_mut().reset(deadline);
        }
        poll_fn(|cx| {
            connection.poll(
                cx,
                &mut woken,
                &mut events,
                &mut wire,
                timer.as_mut(),
                stopping.as_mut(),
            )
        })
        .await;
    }
    connection.end(&mut events).await;
    if !woken.broken {
        let shutdown = poll_fn(|cx| wire.poll_shutdown(cx));
        // The peer may be gone already; it is closed either way.
        let _ = tokio::time::timeout(LAST_WORDS, shutdown).await;
    }
    connection.session.end().cloned()
}

/// What has happened since the last round.
#[derive(Default)]
struct Woken {
    events: Vec<Event>,
    finished: Vec<Finished>,
    stop: bool,
    stopped: bool,
    broken: bool,
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
        Self {
            id: backend.connection_id(),
            backend,
            gateway,
            peer,
            session,
            user: None,
            view: None,
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
            watching: watch_blocked(blocked),
            may_own: false,
            ending: false,
        }
    }

    /// Waits until anything has happened, and takes all that has.
    fn poll<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        woken: &mut Woken,
        events: &mut mpsc::UnboundedReceiver<Event>,
        wire: &mut Wire<S>,
        timer: Pin<&mut Sleep>,
        stopping: Pin<&mut (impl Future<Output = ()> + ?Sized)>,
    ) -> Poll<()> {
        let mut progress = timer.poll(cx).is_ready();
        if !woken.stopped && stopping.poll(cx).is_ready() {
            (woken.stop, woken.stopped) = (true, true);
            progress = true;
        }
        while let Poll::Ready(Some(finished)) = Pin::new(&mut self.operations).poll_next(cx) {
            woken.finished.push(finished);
            progress = true;
        }
        if let Poll::Ready(finished) = self.watching.as_mut().poll(cx) {
            self.watching = Box::pin(std::future::pending());
            woken.finished.push(finished);
            progress = true;
        }
        progress |= events.poll_recv_many(cx, &mut woken.events, EVENTS_MAX).is_ready();
        if !woken.broken {
            let reads = self.session.wants_input() && !self.is_full();
            let frame_bytes_max = reads.then(|| self.session.frame_bytes_max());
            if let Poll::Ready(done) = wire.poll(cx, frame_bytes_max) {
                woken.broken = done.inspect_err(|error| self.socket_ended(error)).is_err();
                progress = true;
            }
        }
        if progress { Poll::Ready(()) } else { Poll::Pending }
    }

    fn socket_ended(&self, error: &io::Error) {
        if error.kind() != io::ErrorKind::UnexpectedEof {
            tracing::debug!(peer = %self.peer, %error, "AMQP connection failed");
        }
    }

    /// Tells the session what has happened.
    fn take<S>(&mut self, woken: &mut Woken, wire: &mut Wire<S>, now: Duration) {
        for event in woken.events.drain(..) {
            self.event(event);
        }
        for finished in woken.finished.drain(..) {
            self.finished(finished);
        }
        if std::mem::take(&mut woken.stop) {
            self.session.shut_down("broker forced connection closure with reason 'shutdown'");
        }
        if self.view.as_ref().is_some_and(|view| view.host.is_deleted()) {
            let vhost = self.view.as_ref().map(|view| view.host.vhost().clone());
            let text = format!("vhost '{}' is deleted", vhost.unwrap_or_default());
            self.session.shut_down(&text);
        }
        if self.is_full() {
            self.session.excuse_silence(now);
        }
        if self.session.deadline().is_some_and(|deadline| deadline <= now) {
            self.session.tick(now);
        }
        if woken.broken && !self.session.is_finished() {
            // What was read before it ended counts.
            self.session.receive(&mut wire.input, now);
            self.carry_out_all();
            self.session.disconnect();
        }
    }

    /// Carries out what there is to do now.
    fn work<S>(&mut self, wire: &mut Wire<S>, now: Duration) {
        loop {
            if !self.is_full() {
                self.session.receive(&mut wire.input, now);
            }
            if !self.carry_out_all() {
                break;
            }
        }
        self.end_if_done();
        self.pass_on();
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

    /// The virtual host as it is now.
    ///
    /// Precondition: it was opened.
    fn folded(&mut self) -> &Arc<Folded> {
        let view = self.view.as_mut().expect("channels are opened after the virtual host");
        // Of a host that was deleted what was known last counts, until the connection is closed.
        if view.watch.has_changed().unwrap_or(false) {
            view.watch.mark_unchanged();
            view.folded = view.host.now();
        }
        &view.folded
    }

    /// Waits until the broker has taken back what the connection had.
    async fn end(&mut self, events: &mut mpsc::UnboundedReceiver<Event>) {
        let until = Instant::now() + self.gateway.config.session.close_timeout;
        while self.ending || self.detaching > 0 {
            tokio::select! {
                biased;
                () = sleep_until(until) => {
                    tracing::warn!(peer = %self.peer, "the broker did not take back an AMQP connection in time");
                    return;
                }
                Some(finished) = self.operations.next() => self.finished(finished),
                Some(event) = events.recv() => self.event(event),
            }
            self.end_if_done();
        }
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

//! The task of a connection: what it waits for, and what it does in each round.
//!
//! Invariants: a round takes all that is there before it writes once; a slow client, a slow broker and a
//! node that stops each have their time, and none is waited for longer.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::stream::{Stream, StreamExt};
use plimsoll_amqp::session::End;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep, sleep_until};

use super::wire::Wire;
use super::{Connection, Finished};
use crate::gateway::Gateway;
use crate::inbox::{Event, Inbox};

/// Events that are taken at a time.
const EVENTS_MAX: usize = 256;
/// How long the last words of a connection may take to be written.
const LAST_WORDS: Duration = Duration::from_secs(3);
/// How long a peer that was told of the end may take to close before it is closed.
const FAREWELL: Duration = Duration::from_millis(500);
/// How long a timer sleeps where nothing is due.
const LONG: Duration = Duration::from_secs(3600);

/// See [`Gateway::serve`].
pub(crate) async fn run<S>(
    gateway: Arc<Gateway>,
    stream: S,
    peer: SocketAddr,
    opened: impl FnOnce() + Send,
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
    let (mut opened, mut last_words_until) = (Some(opened), None);
    loop {
        let now = began.elapsed();
        connection.take(&mut woken, &mut wire, now);
        connection.work(&mut wire, now);
        if connection.view.is_some()
            && let Some(opened) = opened.take()
        {
            opened();
        }
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
    connection.log_end();
    if !woken.broken {
        // Who was told that this is the end closes first: clients log a socket that ends under their hands as a
        // failure.
        if matches!(connection.session.end(), Some(End::ByClient { .. } | End::Fault(_))) {
            let gone = poll_fn(|cx| wire.poll_gone(cx));
            let _ = tokio::time::timeout(FAREWELL, gone).await;
        }
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
    fn log_end(&self) {
        let user = self.user.as_ref().map_or("", |user| &user.name);
        tracing::debug!(peer = %self.peer, user, end = ?self.session.end(), "AMQP connection ended");
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
        for watching in &mut self.watching {
            if let Poll::Ready(finished) = watching.as_mut().poll(cx) {
                *watching = Box::pin(std::future::pending());
                woken.finished.push(finished);
                progress = true;
            }
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

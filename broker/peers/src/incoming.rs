//! The receiving end of append sessions.
//!
//! The lane's reader never waits: what it receives goes into the queue of its session, which the
//! sender's credit bounds. A sender that goes beyond its credit breaks the protocol.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use plimsoll_protocol::frame::{FrameFlags, encode_frame};
use plimsoll_protocol::ids::{CorrelationId, GroupId, NodeId};
use plimsoll_protocol::peer::{
    APPEND_CHARGE_BYTES_MIN, Append, AppendClose, AppendFrame, AppendOpen, Appended, AppendedFrame,
    NotHere, PeerApi,
};
use tokio::sync::mpsc;

use crate::error::PeerError;
use crate::link::{Link, code};
use crate::outbox::{NotTaken, Outgoing};

/// An append session that another node has opened. Invariant: at most the credit of the sender is
/// held here; an answer gives it back.
///
/// Dropping it answers what is unanswered, and all that still comes, with `NotHere`.
#[derive(Debug)]
pub struct IncomingSession {
    requests: IncomingAppends,
    answers: AppendAnswers,
}

/// The appends of an [`IncomingSession`].
#[derive(Debug)]
pub struct IncomingAppends {
    state: Arc<State>,
    queue: mpsc::UnboundedReceiver<Append>,
}

/// The way back of an [`IncomingSession`].
#[derive(Debug)]
pub struct AppendAnswers {
    state: Arc<State>,
}

/// What both halves hold.
struct State {
    link: Arc<Link>,
    lane: u8,
    id: u32,
    group: GroupId,
    /// Whether the sender has closed it: what still waits is wanted by nobody.
    closed: Arc<AtomicBool>,
}

/// The sessions of a link that the other side has opened.
#[derive(Default)]
pub(crate) struct IncomingTable {
    inner: Mutex<Incoming>,
}

#[derive(Default)]
struct Incoming {
    open: BTreeMap<u32, Entry>,
    /// Bytes of all unanswered appends.
    unanswered_bytes: usize,
    closed: bool,
}

struct Entry {
    /// `None` once the sender has closed the session.
    queue: Option<mpsc::UnboundedSender<Append>>,
    closed: Arc<AtomicBool>,
    /// Bytes of each unanswered append, the oldest first.
    charged: VecDeque<usize>,
}

/// What the other side did that it may not do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Violation {
    #[error("append session {0} was opened twice")]
    OpenedTwice(u32),
    #[error("append session {0} has more unanswered than its credit")]
    BeyondSessionCredit(u32),
    #[error("the append sessions have more unanswered than the credit of the link")]
    BeyondLinkCredit,
}

impl IncomingTable {
    fn lock(&self) -> MutexGuard<'_, Incoming> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A session begins. `None`: there are too many; its appends find none.
    pub(crate) fn opened(
        link: &Arc<Link>,
        lane: u8,
        open: &AppendOpen,
    ) -> Result<Option<IncomingSession>, Violation> {
        let mut table = link.incoming.lock();
        if table.open.contains_key(&open.session) {
            return Err(Violation::OpenedTwice(open.session));
        }
        if table.closed || table.open.len() >= link.limits.sessions_max {
            return Ok(None);
        }
        let (queue, receiving) = mpsc::unbounded_channel();
        let closed = Arc::new(AtomicBool::new(false));
        let entry =
            Entry { queue: Some(queue), closed: Arc::clone(&closed), charged: VecDeque::new() };
        table.open.insert(open.session, entry);
        drop(table);
        let (link, id, group) = (Arc::clone(link), open.session, open.group);
        let state = Arc::new(State { link, lane, id, group, closed });
        let requests = IncomingAppends { state: Arc::clone(&state), queue: receiving };
        Ok(Some(IncomingSession { requests, answers: AppendAnswers { state } }))
    }

    /// An append has come. `false`: there is no such session (any more).
    pub(crate) fn append(&self, link: &Link, frame: AppendFrame) -> Result<bool, Violation> {
        let AppendFrame { session, append } = frame;
        let (bytes, limits) = (append.charged_bytes(), &link.limits);
        let mut table = self.lock();
        let unanswered_before = table.unanswered_bytes;
        let Some(entry) = table.open.get_mut(&session) else { return Ok(false) };
        let Some(queue) = &entry.queue else { return Ok(false) };
        let session_before: usize = entry.charged.iter().sum();
        if entry.charged.len() >= limits.session_requests_max
            || goes_beyond(session_before, bytes, limits.session_bytes_max)
        {
            return Err(Violation::BeyondSessionCredit(session));
        }
        // The receiving half may be on its way out; then it is answered with the rest.
        let _ = queue.send(append);
        entry.charged.push_back(bytes);
        if goes_beyond(unanswered_before, bytes, limits.link_append_bytes_max) {
            return Err(Violation::BeyondLinkCredit);
        }
        table.unanswered_bytes += bytes;
        Ok(true)
    }

    /// The sender has closed a session.
    pub(crate) fn ended(&self, close: &AppendClose) {
        let mut table = self.lock();
        if let Some(entry) = table.open.get_mut(&close.session) {
            entry.closed.store(true, Ordering::Relaxed);
            entry.queue = None;
            // What is unanswered is answered when the receiving end is dropped, and then it goes.
            if entry.charged.is_empty() {
                table.open.remove(&close.session);
            }
        }
    }

    /// Takes the oldest unanswered appends of a session off the books: how many there were.
    fn settle(&self, id: u32, most: usize) -> usize {
        let mut table = self.lock();
        let Some(entry) = table.open.get_mut(&id) else { return 0 };
        let count = most.min(entry.charged.len());
        let bytes: usize = entry.charged.drain(..count).sum();
        if entry.charged.is_empty() && entry.queue.is_none() {
            table.open.remove(&id);
        }
        table.unanswered_bytes -= bytes;
        count
    }

    /// Takes a session off the books: how many of its appends are unanswered.
    fn end(&self, id: u32) -> usize {
        let mut table = self.lock();
        let Some(entry) = table.open.remove(&id) else { return 0 };
        table.unanswered_bytes -= entry.charged.iter().sum::<usize>();
        entry.charged.len()
    }

    /// The link is gone.
    pub(crate) fn close(&self) {
        let mut table = self.lock();
        *table = Incoming { closed: true, ..Incoming::default() };
    }
}

/// Whether a sender that counts as ours do would have waited: a single larger frame is sent alone,
/// charged as the whole credit.
fn goes_beyond(before: usize, bytes: usize, max: usize) -> bool {
    before > 0 && before.min(max) + bytes.min(max) > max
}

/// Answers an append of a session that is not known.
pub(crate) fn not_here(link: &Link, lane: u8, session: u32) {
    let answer = Appended::NotHere(NotHere::NoSession);
    push_answer(link, lane, &AppendedFrame { session, settles: 1, answer });
}

fn push_answer(link: &Link, lane: u8, answer: &AppendedFrame) -> bool {
    let (api, flags) = (PeerApi::Appended, FrameFlags::PUSH);
    let frame = encode_frame(api, PeerApi::VERSION, flags, CorrelationId(0), answer, 0);
    // No more appends than this have credit at once.
    let count_max = link.limits.link_append_bytes_max / APPEND_CHARGE_BYTES_MIN + 1;
    let taken = link.lanes[usize::from(lane)].push_urgent(Outgoing::new(frame), count_max);
    if taken == Err(NotTaken::Full) {
        link.close(code::VIOLATION, "the other side sends appends and does not read the answers");
    }
    taken.is_ok()
}

impl State {
    fn answer(&self, settles: u32, answer: Appended) -> Result<(), PeerError> {
        if self.link.is_closed() {
            return Err(self.link.lost());
        }
        // At most as many as were asked for.
        let settles = self.link.incoming.settle(self.id, settles as usize) as u32;
        if settles == 0 {
            return Ok(());
        }
        let frame = AppendedFrame { session: self.id, settles, answer };
        if push_answer(&self.link, self.lane, &frame) { Ok(()) } else { Err(self.link.lost()) }
    }
}

impl Drop for State {
    fn drop(&mut self) {
        let settles = self.link.incoming.end(self.id) as u32;
        if settles > 0 {
            let answer = Appended::NotHere(NotHere::NoSession);
            push_answer(
                &self.link,
                self.lane,
                &AppendedFrame { session: self.id, settles, answer },
            );
        }
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let State { link, id, group, .. } = self;
        write!(f, "session {id} of group {group} from node {}", link.node)
    }
}

impl IncomingSession {
    /// The group.
    #[must_use]
    pub fn group(&self) -> GroupId {
        self.requests.state.group
    }

    /// The node that has opened it.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.requests.state.link.node
    }

    /// The next append, in order; `None` when the other side has closed the session or the link is
    /// gone. May be cancelled.
    pub async fn recv(&mut self) -> Option<Append> {
        self.requests.recv().await
    }

    /// Answers the oldest unanswered append; where there is none, nothing happens. Does not wait.
    ///
    /// # Errors
    /// [`PeerError::Lost`] when the link is gone.
    pub fn send(&mut self, answer: Appended) -> Result<(), PeerError> {
        self.answers.send(answer)
    }

    /// Both directions apart, for two tasks or a `select!`.
    #[must_use]
    pub fn split(self) -> (IncomingAppends, AppendAnswers) {
        (self.requests, self.answers)
    }
}

impl IncomingAppends {
    /// As [`IncomingSession::recv`].
    pub async fn recv(&mut self) -> Option<Append> {
        let append = self.queue.recv().await?;
        (!self.state.closed.load(Ordering::Relaxed)).then_some(append)
    }

    /// The next append that is here already: for whoever answers several at once.
    pub fn try_recv(&mut self) -> Option<Append> {
        let append = self.queue.try_recv().ok()?;
        (!self.state.closed.load(Ordering::Relaxed)).then_some(append)
    }
}

impl AppendAnswers {
    /// As [`IncomingSession::send`].
    ///
    /// # Errors
    /// As [`IncomingSession::send`].
    pub fn send(&mut self, answer: Appended) -> Result<(), PeerError> {
        self.state.answer(1, answer)
    }

    /// Answers the `settles` oldest unanswered appends with one frame, or as many as there are.
    ///
    /// # Errors
    /// As [`IncomingSession::send`].
    pub fn send_for(&mut self, settles: u32, answer: Appended) -> Result<(), PeerError> {
        self.state.answer(settles, answer)
    }
}

//! The sending end of an append session, and its credit.
//!
//! An append takes credit of its session (a number of requests, and bytes) and of its link (bytes)
//! before it is queued; the answer gives it back. What a session may not send yet stays where it
//! was: in the log.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use plimsoll_protocol::frame::{FrameFlags, encode_frame};
use plimsoll_protocol::ids::{CorrelationId, GroupId, NodeId};
use plimsoll_protocol::peer::{
    Append, AppendClose, AppendOpen, Appended, PEER_FRAME_BYTES_MAX, PeerApi,
};
use plimsoll_protocol::wire::Encode;
use tokio::sync::{Semaphore, mpsc};

use crate::error::PeerError;
use crate::link::Link;
use crate::outbox::Outgoing;

/// Room for the head of an append beside its entries.
const HEAD_BYTES_MAX: usize = 1024;

/// An append session to another node. Dropping it closes it.
///
/// Ordered: appends arrive in the order in which they were sent, answers in the order of the appends.
#[derive(Debug)]
pub struct Session {
    sender: SessionSender,
    receiver: SessionReceiver,
}

/// The sending half of a [`Session`].
#[derive(Debug)]
pub struct SessionSender {
    handle: Arc<SessionHandle>,
    opened: bool,
}

/// The receiving half of a [`Session`].
#[derive(Debug)]
pub struct SessionReceiver {
    handle: Arc<SessionHandle>,
    answers: mpsc::UnboundedReceiver<Appended>,
}

/// The sessions of a link that this side has opened.
#[derive(Default)]
pub(crate) struct SessionTable {
    inner: Mutex<Sessions>,
}

#[derive(Default)]
struct Sessions {
    next: u32,
    open: BTreeMap<u32, Entry>,
    closed: bool,
}

struct Entry {
    credit: Arc<Credit>,
    /// What each unanswered append was charged, the oldest first.
    charged: VecDeque<usize>,
    /// `None` once this side has closed the session: it stays until all is answered.
    answers: Option<mpsc::UnboundedSender<Appended>>,
}

/// What a session may still send.
#[derive(Debug)]
struct Credit {
    requests: Semaphore,
    bytes: Semaphore,
}

impl Credit {
    fn close(&self) {
        self.requests.close();
        self.bytes.close();
    }
}

/// An answer that belongs to no append: the other side breaks the protocol.
#[derive(Debug)]
pub(crate) struct Unasked;

impl SessionTable {
    fn lock(&self) -> MutexGuard<'_, Sessions> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many sessions there are.
    pub(crate) fn len(&self) -> usize {
        self.lock().open.len()
    }

    /// Opens a session on `link`, which owns this table.
    pub(crate) fn open(link: &Arc<Link>, group: GroupId) -> Result<Session, PeerError> {
        let limits = &link.limits;
        let credit = Arc::new(Credit {
            requests: Semaphore::new(limits.session_requests_max),
            bytes: Semaphore::new(limits.session_bytes_max),
        });
        let (answers, receiving) = mpsc::unbounded_channel();
        let mut table = link.sessions.lock();
        if table.closed {
            return Err(link.lost());
        }
        if table.open.len() >= limits.sessions_max {
            let (node, limit) = (link.node, limits.sessions_max);
            return Err(PeerError::TooManySessions { node, limit });
        }
        let mut id = table.next;
        while table.open.contains_key(&id) {
            id = id.wrapping_add(1);
        }
        table.next = id.wrapping_add(1);
        let entry =
            Entry { credit: Arc::clone(&credit), charged: VecDeque::new(), answers: Some(answers) };
        table.open.insert(id, entry);
        drop(table);
        let handle = Arc::new(SessionHandle { link: Arc::clone(link), id, group, credit });
        let receiver = SessionReceiver { handle: Arc::clone(&handle), answers: receiving };
        Ok(Session { sender: SessionSender { handle, opened: false }, receiver })
    }

    /// Gives credit back and hands the answer on.
    pub(crate) fn answered(
        &self,
        link: &Link,
        id: u32,
        settles: u32,
        answer: Appended,
    ) -> Result<(), Unasked> {
        let mut table = self.lock();
        let Some(entry) = table.open.get_mut(&id) else {
            return Err(Unasked);
        };
        let settles = settles as usize;
        if settles == 0 || settles > entry.charged.len() {
            return Err(Unasked);
        }
        let (mut bytes, mut link_bytes) = (0, 0);
        for charge in entry.charged.drain(..settles) {
            bytes += charge.min(link.limits.session_bytes_max);
            link_bytes += charge.min(link.limits.link_append_bytes_max);
        }
        if let Some(answers) = &entry.answers {
            entry.credit.requests.add_permits(settles);
            entry.credit.bytes.add_permits(bytes);
            // The receiving half may have been dropped alone: then nobody wants to know.
            let _ = answers.send(answer);
        } else if entry.charged.is_empty() {
            table.open.remove(&id);
        }
        drop(table);
        link.append_credit.add_permits(link_bytes);
        Ok(())
    }

    fn charge(&self, id: u32, bytes: usize) -> bool {
        match self.lock().open.get_mut(&id) {
            Some(entry) => {
                entry.charged.push_back(bytes);
                true
            }
            None => false,
        }
    }

    /// Whether the other side knows of the session is the caller's to say.
    fn end(&self, id: u32) {
        let mut table = self.lock();
        if let Some(entry) = table.open.get_mut(&id) {
            entry.answers = None;
            if entry.charged.is_empty() {
                table.open.remove(&id);
            }
        }
    }

    /// The link is gone.
    pub(crate) fn close(&self) {
        let mut table = self.lock();
        table.closed = true;
        for entry in std::mem::take(&mut table.open).into_values() {
            entry.credit.close();
        }
    }
}

/// What both halves hold.
struct SessionHandle {
    link: Arc<Link>,
    id: u32,
    group: GroupId,
    credit: Arc<Credit>,
}

impl std::fmt::Debug for SessionHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let SessionHandle { link, id, group, .. } = self;
        write!(f, "session {id} of group {group} to node {}", link.node)
    }
}

impl Drop for SessionHandle {
    fn drop(&mut self) {
        // One that was never opened at the other side is closed there in vain, which does no harm.
        let frame = push(PeerApi::AppendClose, &AppendClose { session: self.id });
        // Not taken: the link is gone, and the session with it.
        let _ = self.link.lanes[usize::from(self.link.lane_of(self.group))].push(frame);
        self.link.sessions.end(self.id);
    }
}

fn push(api: PeerApi, body: &impl Encode) -> Outgoing {
    let flags = FrameFlags::PUSH;
    Outgoing::new(encode_frame(api, PeerApi::VERSION, flags, CorrelationId(0), body, 0))
}

impl Session {
    /// The node at the other end.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.sender.handle.link.node
    }

    /// The group.
    #[must_use]
    pub fn group(&self) -> GroupId {
        self.sender.handle.group
    }

    /// Sends an append; waits while as much is unanswered as the session or the link allows. May be
    /// cancelled: then nothing was sent.
    ///
    /// # Errors
    /// [`PeerError::Lost`] once the link is gone, [`PeerError::TooLarge`].
    pub async fn send(&mut self, append: Append) -> Result<(), PeerError> {
        self.sender.send(append).await
    }

    /// The next answer. Answers are cumulative: one may answer several appends. May be cancelled.
    ///
    /// # Errors
    /// [`PeerError::Lost`] once the link is gone and every answer was taken.
    pub async fn recv(&mut self) -> Result<Appended, PeerError> {
        self.receiver.recv().await
    }

    /// Both directions apart. The session is closed when both are dropped.
    #[must_use]
    pub fn split(self) -> (SessionSender, SessionReceiver) {
        (self.sender, self.receiver)
    }
}

impl SessionSender {
    /// As [`Session::send`].
    ///
    /// # Errors
    /// As [`Session::send`].
    pub async fn send(&mut self, append: Append) -> Result<(), PeerError> {
        let SessionHandle { link, id, group, credit } = &*self.handle;
        let limit = PEER_FRAME_BYTES_MAX as usize - HEAD_BYTES_MAX;
        let bytes = append.charged_bytes();
        if bytes > limit {
            return Err(PeerError::TooLarge { bytes, limit });
        }
        let gone = |_| link.lost();
        let share = |max: usize| u32::try_from(bytes.min(max)).expect("a frame is below 32 MiB");
        let request = credit.requests.acquire().await.map_err(gone)?;
        let of_session = credit.bytes.acquire_many(share(link.limits.session_bytes_max));
        let of_session = of_session.await.map_err(gone)?;
        let of_link = link.append_credit.acquire_many(share(link.limits.link_append_bytes_max));
        let of_link = of_link.await.map_err(gone)?;
        if !link.sessions.charge(*id, bytes) {
            return Err(link.lost());
        }
        // The answer gives them back.
        request.forget();
        of_session.forget();
        of_link.forget();
        let (head, payload) = append.to_frame(*id);
        let append = Outgoing { head, payload };
        let lane = &link.lanes[usize::from(link.lane_of(*group))];
        let taken = if self.opened {
            lane.push(append)
        } else {
            let open = push(PeerApi::AppendOpen, &AppendOpen { session: *id, group: *group });
            lane.push_all([open, append])
        };
        self.opened = true;
        taken.map_err(|_| link.lost())
    }
}

impl SessionReceiver {
    /// As [`Session::recv`].
    ///
    /// # Errors
    /// As [`Session::recv`].
    pub async fn recv(&mut self) -> Result<Appended, PeerError> {
        self.answers.recv().await.ok_or_else(|| self.handle.link.lost())
    }
}

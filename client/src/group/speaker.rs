//! Says one thing after the other to the group's coordinator: joins and heartbeats.
//!
//! What is to be said is replaced by what is said later, and is repeated, to whoever leads, until there is an
//! answer that holds. A heartbeat may be held by the coordinator until something changes; one that is sent
//! while another is held has that one answered. So, when the session's end comes near and a heartbeat is
//! held, it is said once more.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use plimsoll_protocol::api::{GroupAssignment, HeartbeatRequest, JoinGroupRequest};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until, timeout};

use super::requests::Home;
use crate::client::Shared;
use crate::error::RequestError;
use crate::link::Link;
use crate::pulse::Owed;
use crate::route::Route;
use crate::trouble::{Told, Trouble};

/// How long a coordinator may take beyond what it is given before others are asked who leads.
const DOUBTED_AFTER: Duration = Duration::from_secs(1);
/// The same is not said again more often.
const AGAIN_AFTER: Duration = Duration::from_millis(100);

/// What is to be said.
#[derive(Debug, Clone)]
pub(super) enum Words {
    Join(JoinGroupRequest),
    Heartbeat(HeartbeatRequest),
}

#[derive(Debug, Clone)]
struct Saying {
    number: u64,
    words: Words,
}

/// What came of a saying.
#[derive(Debug)]
pub(super) struct Answer {
    /// Of which. One that is older than the last may come too: it says that the member was heard then.
    pub(super) number: u64,
    /// When it was sent.
    pub(super) sent: Instant,
    /// An assignment, or what repeating does not help against.
    pub(super) outcome: Result<GroupAssignment, RequestError>,
}

/// The handle; its task ends with it.
pub(super) struct Speaker {
    wishes: watch::Sender<Option<Saying>>,
    pub(super) answers: mpsc::UnboundedReceiver<Answer>,
    task: AbortHandle,
    last: u64,
}

impl Drop for Speaker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Speaker {
    pub(super) fn start(shared: Arc<Shared>, home: Home) -> Self {
        let (wishes, wished) = watch::channel(None);
        let (answers, receiver) = mpsc::unbounded_channel();
        let route = Route::new(Arc::clone(&shared), home.topic, home.partition.0);
        let speaking = Speaking {
            shared,
            route,
            wished,
            answers,
            trouble: Trouble::none(Told::default()),
            asked: FuturesUnordered::new(),
            heard: None,
            last_sent: None,
        };
        let task = tokio::spawn(speaking.run()).abort_handle();
        Self { wishes, answers: receiver, task, last: 0 }
    }

    /// Says this from now on; its number.
    pub(super) fn say(&mut self, words: Words) -> u64 {
        self.last += 1;
        let number = self.last;
        self.wishes.send_replace(Some(Saying { number, words }));
        number
    }
}

type Asked = (u64, Instant, Result<GroupAssignment, RequestError>);

struct Speaking {
    shared: Arc<Shared>,
    route: Route,
    wished: watch::Receiver<Option<Saying>>,
    answers: mpsc::UnboundedSender<Answer>,
    trouble: Trouble,
    /// What was sent on the present connection and is not answered.
    asked: FuturesUnordered<BoxFuture<'static, Asked>>,
    /// When what was answered last was sent, and what the answer said.
    heard: Option<(Instant, GroupAssignment)>,
    last_sent: Option<Instant>,
}

/// Nobody wants anything said any more.
struct Unwanted;

impl Speaking {
    async fn run(mut self) {
        // Ends when the member does.
        let Err(Unwanted) = self.speak().await;
    }

    async fn speak(&mut self) -> Result<std::convert::Infallible, Unwanted> {
        loop {
            let saying = self.wished.borrow_and_update().clone();
            let Some(saying) = saying else {
                self.wished.changed().await.map_err(|_| Unwanted)?;
                continue;
            };
            let Some(link) = self.reach().await? else { continue };
            self.send(&link, &saying);
            self.listen(&saying).await?;
        }
    }

    /// The coordinator's link; `None` when there is something else to be said, or another attempt is due.
    async fn reach(&mut self) -> Result<Option<Arc<Link>>, Unwanted> {
        let after = self.shared.config().request_timeout;
        let reached = tokio::select! {
            biased;
            changed = self.wished.changed() => return changed.map(|()| None).map_err(|_| Unwanted),
            reached = timeout(after, self.route.link()) => reached,
        };
        match reached.unwrap_or(Err(RequestError::Timeout { after })) {
            Ok(link) => Ok(Some(link)),
            Err(error) => {
                self.failed(&error).await?;
                Ok(None)
            }
        }
    }

    fn send(&mut self, link: &Arc<Link>, saying: &Saying) {
        let (control, sent, number) = (Arc::clone(link.control()), Instant::now(), saying.number);
        self.last_sent = Some(sent);
        let words = saying.words.clone();
        let asking = async move {
            let outcome = match words {
                Words::Join(join) => control.request_owed(join, Owed::Answer).await,
                Words::Heartbeat(heartbeat) => control.request_owed(heartbeat, Owed::News).await,
            };
            (number, sent, outcome.map(|(assignment, _)| assignment))
        };
        self.asked.push(asking.boxed());
    }

    /// Waits until the saying is to be sent once more, or something else is to be said.
    async fn listen(&mut self, saying: &Saying) -> Result<(), Unwanted> {
        let mut is_answered = false;
        loop {
            let (again_at, doubtful) = (self.again_at(saying), self.doubtful());
            tokio::select! {
                biased;
                changed = self.wished.changed() => return changed.map_err(|_| Unwanted),
                Some((number, sent, outcome)) = self.asked.next() => {
                    let is_this = number == saying.number && !is_answered;
                    match outcome {
                        Err(error) if error.is_retriable() => {
                            if is_this {
                                return self.failed(&error).await;
                            }
                        }
                        outcome => {
                            self.answered(number, sent, outcome)?;
                            is_answered |= is_this;
                        }
                    }
                }
                () = self.route.moved(Some(doubtful)), if !is_answered => {
                    self.route.leader_changed();
                    self.asked.clear();
                    return Ok(());
                }
                () = sleep_until(again_at), if !is_answered => return Ok(()),
            }
        }
    }

    fn answered(
        &mut self,
        number: u64,
        sent: Instant,
        outcome: Result<GroupAssignment, RequestError>,
    ) -> Result<(), Unwanted> {
        self.route.succeeded();
        self.trouble.over();
        if let Ok(assignment) = &outcome {
            self.heard = Some((sent, GroupAssignment { partitions: Vec::new(), ..*assignment }));
        }
        self.answers.send(Answer { number, sent, outcome }).map_err(|_| Unwanted)
    }

    /// When a heartbeat that is held is to be said once more.
    fn again_at(&self, saying: &Saying) -> Instant {
        let now = Instant::now();
        match (&saying.words, &self.heard, self.last_sent) {
            (Words::Heartbeat(_), Some((heard, answer)), Some(sent)) => {
                let session = Duration::from_millis(answer.session_ms.into());
                (*heard + session * 3 / 4).max(sent + AGAIN_AFTER)
            }
            // What is not a heartbeat is not held.
            _ => now + Duration::from_secs(3600),
        }
    }

    /// From when on others are asked who leads.
    fn doubtful(&self) -> Instant {
        let held = self.heard.as_ref().map_or(0, |(_, answer)| answer.heartbeat_ms);
        let sent = self.last_sent.unwrap_or_else(Instant::now);
        sent + Duration::from_millis(held.into()) + DOUBTED_AFTER
    }

    /// An attempt failed: waits until the next is worth while, or there is something else to say.
    async fn failed(&mut self, error: &RequestError) -> Result<(), Unwanted> {
        self.asked.clear();
        self.route.failed(error);
        if let Some(reason) = self.trouble.meet(error.to_string(), Instant::now()) {
            tracing::warn!(reason, "the group's coordinator is not heard, trying again");
        }
        tokio::select! {
            biased;
            changed = self.wished.changed() => {
                // The pause is kept all the same: what is said next would fail as well.
                changed.map_err(|_| Unwanted)?;
                self.route.pause().await;
            }
            () = self.route.pause() => {}
        }
        Ok(())
    }
}

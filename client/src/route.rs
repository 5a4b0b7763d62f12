//! The way of one task to the leader of its partition, attempt after attempt.
//!
//! - A refusal that names the leader is followed at once, and so is a new leader that the cluster
//!   tells: once, then after a pause. Two nodes that name each other make nobody busy.
//! - Whatever else says that the leader may be elsewhere has another node asked before the pause.
//! - A node that gave no sign of life is not waited for: it is dialed in the background, and the next
//!   attempt follows its return or another leader, whichever is first.

use std::sync::Arc;
use std::time::Duration;

use plimsoll_protocol::error::ErrorCode;
use plimsoll_protocol::ids::{NodeId, Term, TopicName};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::backoff::Backoff;
use crate::client::Shared;
use crate::cluster::{ClusterView, PartitionView};
use crate::error::{ConnectError, RequestError};
use crate::link::Link;
use crate::requests::hint;

/// How long a partition without a leader is looked at often: an election takes about half a second.
const ELECTED_WITHIN: Duration = Duration::from_secs(2);
/// The longest pause meanwhile.
const ELECTION_PAUSE_MAX: Duration = Duration::from_millis(75);
/// How often others are asked about a leader that is later than that.
const DOUBT_PAUSE: Duration = Duration::from_millis(500);

/// See the module.
pub(crate) struct Route {
    shared: Arc<Shared>,
    topic: TopicName,
    partition: u32,
    changes: watch::Receiver<Arc<ClusterView>>,
    backoff: Backoff,
    /// The leader as a refusal named it last.
    hint: Option<(NodeId, String)>,
    /// The hint was not followed yet.
    is_hint_new: bool,
    /// Whom the last attempt went to.
    at: Option<NodeId>,
    /// The leader's term as it was known then.
    followed: Term,
    /// The leader may be elsewhere: another node is to be asked.
    ask: bool,
    /// The next move needs no pause.
    free: bool,
    /// Failures since the last success.
    misses: usize,
    /// Since when there is no leader.
    lost: Option<Instant>,
    /// When others were asked last about a leader that owes answers.
    doubted: Option<Instant>,
}

impl Route {
    pub(crate) fn new(shared: Arc<Shared>, topic: TopicName, partition: u32) -> Self {
        let (changes, backoff) = (shared.cluster.changes(), shared.backoff());
        Self {
            shared,
            topic,
            partition,
            changes,
            backoff,
            hint: None,
            is_hint_new: false,
            at: None,
            followed: Term(0),
            ask: false,
            free: true,
            misses: 0,
            lost: None,
            doubted: None,
        }
    }

    fn place<'a>(&self, view: &'a ClusterView) -> Option<&'a PartitionView> {
        view.partition(self.topic.as_str(), self.partition)
    }

    /// The link to whom the partition is to be asked of.
    ///
    /// # Errors
    /// When it cannot be had soon.
    pub(crate) async fn link(&mut self) -> Result<Arc<Link>, RequestError> {
        let view = self.shared.cluster.view();
        let place = self.place(&view);
        let term = place.map_or(Term(0), |place| place.term);
        if term > self.followed {
            self.hint = None;
        }
        self.followed = term;
        let (node, address) = match &self.hint {
            Some((node, address)) => (Some(*node), Some(address.as_str())),
            None => {
                let turn = |place: &PartitionView| {
                    let turn = self.misses.checked_rem(place.replicas.len())?;
                    Some(place.replicas[turn])
                };
                let failed = self.at.filter(|_| self.misses > 0);
                let target =
                    |place: &PartitionView| place.target(&view, failed).or_else(|| turn(place));
                (place.and_then(target), None)
            }
        };
        let Some(node) = node else {
            let link = self.shared.links.any(None).await?;
            self.at = Some(link.node());
            return Ok(link);
        };
        self.at = Some(node);
        Ok(to(&self.shared, &view, node, address).await?)
    }

    /// An attempt failed.
    pub(crate) fn failed(&mut self, error: &RequestError) {
        self.misses += 1;
        if let RequestError::Refused(refusal) = error {
            match refusal.code {
                ErrorCode::NotLeader => {
                    if let Some(hint) = hint(error) {
                        (self.hint, self.is_hint_new) = (Some(hint), true);
                        return;
                    }
                }
                ErrorCode::NoQuorum | ErrorCode::ShuttingDown | ErrorCode::Timeout => {}
                _ => return,
            }
        }
        self.lost.get_or_insert_with(Instant::now);
        // Of several attempts on one stream the first may say who leads now and the next only that the
        // node goes down: a hint stands until it was followed.
        if !self.is_hint_new {
            self.hint = None;
            self.ask = true;
        }
    }

    /// An attempt succeeded.
    pub(crate) fn succeeded(&mut self) {
        self.backoff.reset();
        self.free = true;
        self.misses = 0;
        self.lost = None;
    }

    /// Another leader was seen, which is followed without a pause.
    pub(crate) fn leader_changed(&mut self) {
        self.is_hint_new = true;
        self.free = true;
    }

    /// Between two attempts: waits until the next is worth while.
    pub(crate) async fn pause(&mut self) {
        if std::mem::take(&mut self.is_hint_new) && std::mem::take(&mut self.free) {
            return;
        }
        if std::mem::take(&mut self.ask) && self.shared.links.has_choice() {
            self.shared.refresh(&self.topic, self.at).await;
            if self.leads_elsewhere() && std::mem::take(&mut self.free) {
                return;
            }
        }
        let mut pause = self.backoff.next_pause();
        if self.lost.is_some_and(|since| since.elapsed() < ELECTED_WITHIN) {
            pause = pause.min(ELECTION_PAUSE_MAX);
        }
        let free = self.free;
        tokio::select! {
            biased;
            () = self.elsewhere(), if free => self.free = false,
            () = sleep(pause) => self.free = true,
        }
    }

    /// Whether another node than the one that was asked last is to be asked, and may be alive.
    fn leads_elsewhere(&self) -> bool {
        let view = self.shared.cluster.view();
        let target = self.place(&view).and_then(|place| place.target(&view, self.at));
        target.is_some_and(|target| Some(target) != self.at && !view.is_suspect(target))
    }

    async fn elsewhere(&mut self) {
        while !self.leads_elsewhere() {
            self.changed().await;
        }
    }

    async fn changed(&mut self) {
        if self.changes.changed().await.is_err() {
            // The picture lives as long as the client, which this task keeps.
            std::future::pending::<()>().await;
        }
    }

    /// Whether the cluster tells a later leader than the one that was asked last.
    pub(crate) fn has_moved(&self) -> bool {
        let view = self.shared.cluster.view();
        self.place(&view).is_some_and(|place| {
            let leader = place.leader.filter(|leader| !view.is_suspect(*leader));
            leader.is_some() && leader != self.at && place.term > self.followed
        })
    }

    /// Waits until [`Route::has_moved`]. From `doubtful` on others are asked who leads: a leader that
    /// is cut off from its cluster, and not from its clients, answers nothing and tells nothing. May
    /// be cancelled at any time: how often others are asked does not depend on it.
    pub(crate) async fn moved(&mut self, doubtful: Option<Instant>) {
        let has_choice = self.shared.links.has_choice();
        while !self.has_moved() {
            let Some(doubtful) = doubtful.filter(|_| has_choice) else {
                self.changed().await;
                continue;
            };
            let pause = self.doubt_pause();
            let due = self.doubted.map_or(doubtful, |asked| doubtful.max(asked + pause));
            tokio::select! {
                biased;
                () = self.changed() => {}
                () = sleep_until(due) => {
                    self.doubted = Some(Instant::now());
                    let (shared, topic, at) = (Arc::clone(&self.shared), self.topic.clone(), self.at);
                    // A task, so that whoever is woken for something else does not ask in vain.
                    tokio::spawn(async move { shared.refresh(&topic, at).await });
                }
            }
        }
    }

    /// Since when a leader that refused one thing and owes the answer to another is doubted.
    pub(crate) fn doubted_since(&self) -> Option<Instant> {
        self.lost.map(|since| since + ELECTION_PAUSE_MAX)
    }

    fn doubt_pause(&self) -> Duration {
        match self.lost {
            Some(since) if since.elapsed() < ELECTED_WITHIN => ELECTION_PAUSE_MAX,
            _ => DOUBT_PAUSE,
        }
    }
}

/// The link to a node that is expected to be there.
///
/// # Errors
/// When it cannot be had soon; it is dialed on in the background.
pub(crate) async fn to(
    shared: &Shared,
    view: &ClusterView,
    node: NodeId,
    address: Option<&str>,
) -> Result<Arc<Link>, ConnectError> {
    let links = &shared.links;
    if let Some(link) = links.existing(node) {
        return Ok(link);
    }
    let dialing = links.node(node, address);
    if view.is_suspect(node) {
        return Err(ConnectError::Silent { node });
    }
    if !links.has_choice() {
        return dialing.await;
    }
    let suspicion = &shared.config().suspicion;
    let soon: Duration = suspicion.ask_after + suspicion.give_up_after;
    timeout(soon, dialing).await.unwrap_or(Err(ConnectError::Silent { node }))
}

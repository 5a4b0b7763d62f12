//! The task of one member: joins, heartbeats, begins and ends the reading of partitions, commits.
//!
//! ```text
//!  joining ──answer──► a member ──leave──► ended
//!     ▲                   │
//!     └── fenced, or its session is over: nothing is held any more
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use plimsoll_protocol::api::{
    GroupAssignment, GroupCommitter, HeartbeatRequest, JoinGroupRequest, LeaveGroupRequest,
    OffsetCommit, OwnedPartitions, StartPosition,
};
use plimsoll_protocol::error::ErrorCode;
use plimsoll_protocol::ids::{Offset, PartitionIndex, TopicName};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until, timeout};

use super::Options;
use super::error::{CommitError, GroupError};
use super::holdings::{Holdings, Place, Step};
use super::requests::{Committed, Found, Home, Wanted, commit, offsets_of};
use super::sharing::{Grant, Sharing};
use super::speaker::{Answer, Speaker, Words};
use crate::client::Shared;
use crate::cluster::ClusterView;
use crate::consumer::reading::Reading;
use crate::consumer::standing::Standing;
use crate::consumer::subscription::{Event, Outlet, Subscription};
use crate::error::RequestError;
use crate::metadata::Interest;
use crate::pulse::Owed;
use crate::trouble::Told;

/// Between two joins, and between two heartbeats that say the same, at least.
const PAUSE: Duration = Duration::from_millis(100);
/// Between attempts that were refused for a reason that time may cure.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);
/// How long the end of a member may take.
const LAST_WORDS: Duration = Duration::from_secs(5);

pub(super) type Reply = oneshot::Sender<Result<(), CommitError>>;

/// What the consumer wants.
pub(super) enum Command {
    /// Commits these, or all that is processed.
    Commit { offsets: Option<Vec<OffsetCommit>>, reply: Reply },
    /// Commits what is processed if it commits by itself, and ends. A member with an instance name stays
    /// one, unless it `leaves`.
    End { leaves: bool, reply: Reply },
}

/// See the module.
pub(super) struct Member {
    shared: Arc<Shared>,
    options: Arc<Options>,
    id: u128,
    home: Home,
    sharing: Arc<Sharing>,
    commands: mpsc::UnboundedReceiver<Command>,
    events: mpsc::Sender<(u64, Event)>,
    interests: BTreeMap<TopicName, Arc<Interest>>,
    /// Keeps the leader of the group known.
    _home_interest: Arc<Interest>,
    changes: watch::Receiver<Arc<ClusterView>>,
    told: Told,
    speaker: Speaker,
    phase: Phase,
    /// Topics that it joins for: all that it wants, but for those that are gone.
    topics: Vec<TopicName>,
    /// The topics as they were when it joined.
    topic_ids: BTreeMap<TopicName, u64>,
    /// What is said and not answered.
    said: Option<u64>,
    /// The first saying of the present membership; answers to earlier ones count no more.
    first_said: u64,
    owned_said: Vec<OwnedPartitions>,
    /// When the next join or the same heartbeat is said.
    say_at: Instant,
    holdings: Holdings,
    readers: BTreeMap<Grant, Reader>,
    /// Partitions whose committed offsets are to be asked for.
    wanted: Vec<Wanted>,
    finding: Option<BoxFuture<'static, Vec<Found>>>,
    jobs: VecDeque<Job>,
    committing: Option<(Job, BoxFuture<'static, Committed>)>,
    commit_at: Option<Instant>,
    /// Which of the topics are there.
    checking: Option<BoxFuture<'static, Vec<TopicName>>>,
    leaving: Option<BoxFuture<'static, Result<(), RequestError>>>,
    ending: Option<Ending>,
    /// Why joining went wrong, of who waits for the first one.
    joined: Option<oneshot::Sender<Result<(), RequestError>>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Joining,
    Member,
}

/// The reading of a partition; ends with it.
struct Reader(AbortHandle);

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Offsets that are committed together, one job after the other: a later one never loses to an earlier one.
struct Job {
    offsets: Vec<OffsetCommit>,
    /// Of which grants, in the same order.
    grants: Vec<Grant>,
    /// What cannot be committed whatever the answer is.
    not_owned: Vec<(TopicName, u32)>,
    reply: Option<Reply>,
}

/// Everything is being given up.
struct Ending {
    why: Why,
    until: Instant,
    replies: Vec<Reply>,
    failed: Option<CommitError>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// To join with other topics.
    Rejoin,
    /// For good; leaves the group, or says nothing.
    Over { leaves: bool },
}

/// The member's task is over.
struct Over;

async fn of<T>(future: &mut Option<BoxFuture<'static, T>>) -> T {
    match future {
        Some(running) => {
            let done = running.await;
            *future = None;
            done
        }
        None => std::future::pending().await,
    }
}

/// What a member is made of.
pub(super) struct Parts {
    pub(super) shared: Arc<Shared>,
    pub(super) options: Arc<Options>,
    pub(super) id: u128,
    pub(super) home: Home,
    pub(super) home_interest: Arc<Interest>,
    pub(super) interests: BTreeMap<TopicName, Arc<Interest>>,
    pub(super) sharing: Arc<Sharing>,
    pub(super) commands: mpsc::UnboundedReceiver<Command>,
    pub(super) events: mpsc::Sender<(u64, Event)>,
}

impl Member {
    pub(super) fn new(parts: Parts, joined: oneshot::Sender<Result<(), RequestError>>) -> Self {
        let Parts { shared, options, id, home, sharing, commands, events, interests, .. } = parts;
        let now = Instant::now();
        Self {
            speaker: Speaker::start(Arc::clone(&shared), home.clone()),
            changes: shared.cluster.changes(),
            topics: options.topics.clone(),
            commit_at: options.auto_commit.map(|every| now + every),
            shared,
            options,
            id,
            home,
            sharing,
            commands,
            events,
            interests,
            _home_interest: parts.home_interest,
            told: Told::default(),
            phase: Phase::Joining,
            topic_ids: BTreeMap::new(),
            said: None,
            first_said: 0,
            owned_said: Vec::new(),
            say_at: now,
            holdings: Holdings::default(),
            readers: BTreeMap::new(),
            wanted: Vec::new(),
            finding: None,
            jobs: VecDeque::new(),
            committing: None,
            checking: None,
            leaving: None,
            ending: None,
            joined: Some(joined),
        }
    }

    pub(super) async fn run(mut self) {
        while self.step().await.is_ok() {}
        for reply in self.ending.take().into_iter().flat_map(|ending| ending.replies) {
            // Nobody may be waiting.
            let _ = reply.send(Err(CommitError::Ended));
        }
        self.sharing.end_all();
    }

    async fn step(&mut self) -> Result<(), Over> {
        self.progress(Instant::now())?;
        let wake_at = self.wake_at();
        let is_over = self.ending.as_ref().is_some_and(|ending| ending.why != Why::Rejoin);
        tokio::select! {
            biased;
            left = of(&mut self.leaving) => return self.left(left),
            answer = self.speaker.answers.recv() => {
                return self.on_answer(answer.ok_or(Over)?, Instant::now());
            }
            command = self.commands.recv(), if !is_over => self.on_command(command),
            outcome = committed(&mut self.committing) => return self.on_committed(outcome),
            found = of(&mut self.finding) => self.on_found(found),
            topics = of(&mut self.checking) => self.on_checked(topics),
            () = self.sharing.changed.notified() => {}
            changed = self.changes.changed() => {
                // The picture lives as long as the client, which this task keeps.
                changed.map_err(|_| Over)?;
                self.look_at_topics();
            }
            () = sleep_until(wake_at) => {}
        }
        Ok(())
    }

    /// When something is due by time alone.
    fn wake_at(&self) -> Instant {
        let now = Instant::now();
        let session = match self.phase {
            Phase::Member => Some(self.sharing.session_until(now).unwrap_or(now)),
            Phase::Joining => None,
        };
        let speaks = self.said.is_none() && self.checking.is_none() && self.leaving.is_none();
        let say = speaks.then_some(self.say_at);
        let commit = self.commit_at.filter(|_| self.phase == Phase::Member);
        let ending = self.ending.as_ref().map(|ending| ending.until);
        let times = [session, say, commit, ending].into_iter().flatten();
        times.min().unwrap_or(now + Duration::from_secs(3600))
    }

    /// Does all that can be done now.
    fn progress(&mut self, now: Instant) -> Result<(), Over> {
        if self.phase == Phase::Member && self.sharing.session_until(now).is_none() {
            let group = &self.options.group;
            tracing::warn!(group, "the session of a group's member is over, joining again");
            self.lose(now)?;
        }
        self.give_up();
        if self.commit_at.is_some_and(|at| now >= at) {
            self.commit_at = self.options.auto_commit.map(|every| now + every);
            if self.jobs.is_empty() {
                self.commit_all(None);
            }
        }
        self.commit_next();
        self.find_next();
        self.end_if_done(now)?;
        if self.leaving.is_none() {
            self.speak(now);
        }
        Ok(())
    }

    /// Releases what is stopped and committed.
    fn give_up(&mut self) {
        let stopping: Vec<(Place, Grant)> = self
            .holdings
            .iter()
            .filter(|(_, held)| held.step == Step::Stopping)
            .map(|(place, held)| (place, held.grant))
            .collect();
        let mut last = Job::empty();
        for (place, grant) in stopping {
            if !self.sharing.is_stopped(grant) || self.is_in_a_job(grant) {
                continue;
            }
            match self.sharing.uncommitted(grant) {
                Some(offset) if self.options.auto_commit.is_some() => {
                    self.add_to(&mut last, grant, offset, None);
                }
                _ if self.ending.is_some() => {}
                _ => {
                    self.sharing.end(grant);
                    self.holdings.release(place);
                }
            }
        }
        if !last.offsets.is_empty() {
            self.jobs.push_back(last);
        }
    }

    fn is_in_a_job(&self, grant: Grant) -> bool {
        let under_way = self.committing.iter().map(|(job, _)| job);
        under_way.chain(&self.jobs).any(|job| job.grants.contains(&grant))
    }

    fn add_to(&self, job: &mut Job, grant: Grant, offset: Offset, metadata: Option<String>) {
        let Some((place, held)) = self.holdings.of_grant(grant) else { return };
        job.grants.push(grant);
        job.offsets.push(OffsetCommit {
            topic: held.topic.clone(),
            topic_id: Some(place.topic_id),
            partition: PartitionIndex(place.partition),
            offset,
            metadata,
        });
    }

    /// Commits everything that is processed.
    fn commit_all(&mut self, reply: Option<Reply>) {
        let mut job = Job { reply, ..Job::empty() };
        if job.reply.is_some() {
            job.not_owned = self.sharing.take_lost();
        }
        for (grant, offset) in self.sharing.all_uncommitted() {
            self.add_to(&mut job, grant, offset, None);
        }
        self.jobs.push_back(job);
    }

    fn commit_these(&mut self, offsets: Vec<OffsetCommit>, reply: Reply) {
        let mut job = Job { reply: Some(reply), ..Job::empty() };
        for OffsetCommit { topic, partition, offset, metadata, .. } in offsets {
            match self.holdings.find(topic.as_str(), partition.0) {
                Some((_, held)) => {
                    let grant = held.grant;
                    self.add_to(&mut job, grant, offset, metadata);
                }
                None => job.not_owned.push((topic, partition.0)),
            }
        }
        self.jobs.push_back(job);
    }

    fn commit_next(&mut self) {
        while self.committing.is_none()
            && let Some(job) = self.jobs.pop_front()
        {
            if job.offsets.is_empty() {
                job.answer(Ok(Vec::new()));
                continue;
            }
            let by = GroupCommitter { member: self.id, epoch: self.holdings.epoch() };
            let (shared, home) = (Arc::clone(&self.shared), self.home.clone());
            let group = self.options.group.clone();
            let (offsets, fence) = (job.offsets.clone(), self.options.fence.clone());
            let committing = commit(shared, home, group, by, offsets, fence);
            self.committing = Some((job, committing));
        }
    }

    fn on_committed(&mut self, (job, outcome): (Job, Committed)) -> Result<(), Over> {
        for (offset, grant) in job.offsets.iter().zip(&job.grants) {
            let is_kept = match &outcome {
                Ok(not_owned) => !not_owned.iter().any(|other| {
                    other.topic == offset.topic && other.partition == offset.partition
                }),
                Err(_) => false,
            };
            let is_last =
                self.holdings.of_grant(*grant).is_some_and(|(_, held)| held.step == Step::Stopping);
            // What cannot be committed must not keep a partition from its next owner.
            if is_kept || (is_last && job.reply.is_none()) {
                self.sharing.committed(*grant, offset.offset);
            }
        }
        let code = outcome.as_ref().err().and_then(RequestError::code);
        match &outcome {
            Ok(not_owned) if !not_owned.is_empty() => {
                let group = &self.options.group;
                tracing::debug!(group, ?not_owned, "offsets of what is another member's now");
            }
            Ok(_) => {}
            Err(error) => {
                let group = &self.options.group;
                tracing::warn!(group, %error, "offsets were not committed");
                if let Some(ending) = &mut self.ending {
                    ending.failed = Some(error.clone().into());
                }
            }
        }
        job.answer(outcome);
        match code {
            Some(ErrorCode::FencedMember | ErrorCode::UnknownGroup) => self.lose(Instant::now()),
            Some(ErrorCode::FencedInstance) => self.fenced(),
            _ => Ok(()),
        }
    }

    fn find_next(&mut self) {
        if self.finding.is_none() && !self.wanted.is_empty() {
            let (shared, home) = (Arc::clone(&self.shared), self.home.clone());
            let wanted = std::mem::take(&mut self.wanted);
            self.finding = Some(offsets_of(shared, home, self.options.group.clone(), wanted));
        }
    }

    /// Begins to read what is still held.
    fn on_found(&mut self, found: Vec<Found>) {
        for (place, grant, committed) in found {
            if !self.holdings.begin(place, grant) {
                continue;
            }
            let Some(held) = self.holdings.get(place) else { continue };
            let start = match committed {
                Some(offset) => {
                    self.sharing.committed(grant, offset);
                    StartPosition::Offset(offset)
                }
                None => self.options.start,
            };
            let Some(interest) = self.interests.get(&held.topic) else { continue };
            let subscription = Subscription {
                shared: Arc::clone(&self.shared),
                topic: held.topic.clone(),
                partition: PartitionIndex(place.partition),
                start,
                frame_bytes: self.options.frame_bytes,
                credit_bytes: self.options.credit_bytes,
                bounded: false,
                reading: Reading::default(),
                _interest: Arc::clone(interest),
                events: Outlet { sender: self.events.clone(), mark: grant },
                fallback: Some(self.options.start),
                told: Arc::clone(&self.told),
                standing: Standing::new(),
            };
            let task = tokio::spawn(subscription.run());
            self.readers.insert(grant, Reader(task.abort_handle()));
        }
    }

    /// Says what is to be said.
    fn speak(&mut self, now: Instant) {
        match self.phase {
            Phase::Joining => {
                let is_over = self.ending.is_some();
                if self.said.is_none() && now >= self.say_at && !is_over && self.checking.is_none()
                {
                    self.say_join(now);
                }
            }
            Phase::Member => {
                let owned = self.holdings.owned();
                if owned != self.owned_said || (self.said.is_none() && now >= self.say_at) {
                    let heartbeat = HeartbeatRequest {
                        group: self.options.group.clone(),
                        member: self.id,
                        epoch: self.holdings.epoch(),
                        owned: owned.clone(),
                    };
                    self.owned_said = owned;
                    self.said = Some(self.speaker.say(Words::Heartbeat(heartbeat)));
                    self.say_at = now + PAUSE;
                }
            }
        }
    }

    fn say_join(&mut self, now: Instant) {
        let view = self.shared.cluster.view();
        let ids =
            self.topics.iter().filter_map(|topic| Some((topic.clone(), view.topic_id(topic)?)));
        self.topic_ids = ids.collect();
        let join = JoinGroupRequest {
            group: self.options.group.clone(),
            member: self.id,
            client: self.options.client.clone(),
            instance: self.options.instance.clone(),
            topics: self.topics.clone(),
            session_ms: self.options.session_ms,
            rebalance_ms: self.options.rebalance_ms,
        };
        let number = self.speaker.say(Words::Join(join));
        (self.said, self.first_said) = (Some(number), number);
        self.say_at = now + PAUSE;
    }

    fn on_answer(&mut self, answer: Answer, now: Instant) -> Result<(), Over> {
        if answer.number < self.first_said {
            return Ok(());
        }
        let is_awaited = self.said == Some(answer.number);
        match answer.outcome {
            Ok(assignment) => {
                let session = Duration::from_millis(assignment.session_ms.into());
                let until = answer.sent + session * 19 / 20;
                match self.phase {
                    Phase::Joining if is_awaited => self.sharing.open_session(until),
                    Phase::Joining => return Ok(()),
                    Phase::Member => {
                        if !self.sharing.renew(until, now) {
                            // It was over before this was heard.
                            return Ok(());
                        }
                    }
                }
                if is_awaited {
                    self.said = None;
                    self.took(&assignment);
                }
                Ok(())
            }
            Err(error) => match (error.code(), self.phase) {
                (Some(ErrorCode::FencedInstance), _) => self.fenced(),
                (Some(ErrorCode::FencedMember | ErrorCode::UnknownGroup), Phase::Member) => {
                    let group = &self.options.group;
                    tracing::info!(group, "a group's member is none any more, joining again");
                    self.lose(now)
                }
                (_, Phase::Member) => {
                    let group = &self.options.group;
                    tracing::warn!(group, %error, "the group's coordinator refused a heartbeat");
                    if is_awaited {
                        (self.said, self.say_at) = (None, now + REFUSED_PAUSE);
                    }
                    Ok(())
                }
                (_, Phase::Joining) if is_awaited => self.not_joined(error, now),
                (_, Phase::Joining) => Ok(()),
            },
        }
    }

    fn took(&mut self, assignment: &GroupAssignment) {
        if self.phase == Phase::Joining {
            self.phase = Phase::Member;
            self.holdings.joined(assignment.epoch);
            // Nothing that it owns is said yet; what it takes now it says at once.
            self.owned_said = Vec::new();
            self.say_at = Instant::now();
            if let Some(joined) = self.joined.take() {
                // Nobody may be waiting.
                let _ = joined.send(Ok(()));
            }
        }
        let taken = self.holdings.take(assignment, self.ending.is_none());
        for grant in taken.revoked {
            self.stop(grant);
        }
        for (place, topic, grant) in taken.new {
            self.sharing.begin(grant, topic, place.partition);
            self.wanted.push((place, grant));
        }
        let (group, generation) = (&self.options.group, assignment.generation);
        tracing::debug!(group, generation, epoch = assignment.epoch, "an assignment was taken");
    }

    fn stop(&mut self, grant: Grant) {
        self.sharing.stop(grant);
        self.readers.remove(&grant);
    }

    fn not_joined(&mut self, error: RequestError, now: Instant) -> Result<(), Over> {
        self.said = None;
        self.say_at = now + REFUSED_PAUSE;
        if let Some(joined) = self.joined.take() {
            // Nobody may be waiting.
            let _ = joined.send(Err(error));
            return Err(Over);
        }
        match error.code() {
            Some(ErrorCode::FencedMember) => Ok(()),
            Some(ErrorCode::UnknownTopic) => {
                let (shared, topics) = (Arc::clone(&self.shared), self.options.topics.clone());
                self.checking = Some(there_are(shared, topics).boxed());
                Ok(())
            }
            _ => {
                let group = self.options.group.clone();
                self.sharing.fail(GroupError::Refused { group, source: error });
                Err(Over)
            }
        }
    }

    fn on_checked(&mut self, topics: Vec<TopicName>) {
        let group = &self.options.group;
        if topics.is_empty() {
            tracing::warn!(group, "none of the topics of a group's member is there, looking again");
            self.topics.clone_from(&self.options.topics);
        } else {
            self.topics = topics;
            self.say_at = Instant::now();
        }
    }

    /// Whether a topic has been made anew, or one that was missed is there: the member joins for it.
    fn look_at_topics(&mut self) {
        if self.phase != Phase::Member || self.ending.is_some() {
            return;
        }
        let view = self.shared.cluster.view();
        let mut is_other = false;
        for topic in &self.options.topics {
            let Some(now) = view.topic_id(topic) else { continue };
            is_other |= match self.topic_ids.get(topic) {
                Some(then) => *then != now,
                None if self.topics.contains(topic) => {
                    self.topic_ids.insert(topic.clone(), now);
                    false
                }
                None => true,
            };
        }
        if is_other {
            self.topics.clone_from(&self.options.topics);
            // Nothing hurries: what is in work may be finished.
            let until = Instant::now() + Duration::from_millis(self.options.rebalance_ms.into());
            self.begin_ending(Why::Rejoin, until, None);
        }
    }

    fn on_command(&mut self, command: Option<Command>) {
        match command {
            Some(Command::Commit { offsets: None, reply }) => self.commit_all(Some(reply)),
            Some(Command::Commit { offsets: Some(offsets), reply }) => {
                self.commit_these(offsets, reply);
            }
            Some(Command::End { leaves, reply }) => {
                let leaves = leaves || self.options.instance.is_none();
                let until = Instant::now() + LAST_WORDS;
                self.begin_ending(Why::Over { leaves }, until, Some(reply));
            }
            None => {
                // The consumer was dropped, perhaps in the middle of a record.
                self.sharing.abandon();
                let leaves = self.options.instance.is_none();
                let until = Instant::now() + LAST_WORDS;
                self.begin_ending(Why::Over { leaves }, until, None);
            }
        }
    }

    fn begin_ending(&mut self, why: Why, until: Instant, reply: Option<Reply>) {
        for grant in self.holdings.stop_all() {
            self.stop(grant);
        }
        let replies = reply.into_iter().collect();
        self.ending = Some(Ending { why, until, replies, failed: None });
    }

    /// Goes on when everything is given up, or there is no time left for it.
    fn end_if_done(&mut self, now: Instant) -> Result<(), Over> {
        let Some(ending) = &self.ending else { return Ok(()) };
        let (why, is_late) = (ending.why, now >= ending.until);
        let is_stopped = self.holdings.iter().all(|(_, held)| self.sharing.is_stopped(held.grant));
        let is_done = is_stopped && self.committing.is_none() && self.jobs.is_empty();
        match why {
            Why::Rejoin if is_done || is_late => self.lose(now),
            Why::Rejoin => Ok(()),
            Why::Over { .. } if is_late => self.end(None),
            // A join that is under way may have made it a member.
            Why::Over { .. } if self.phase == Phase::Joining && self.said.is_some() => Ok(()),
            Why::Over { leaves: true } if self.phase == Phase::Member && is_done => {
                if self.leaving.is_none() {
                    let leave = LeaveGroupRequest {
                        group: self.options.group.clone(),
                        member: self.id,
                        epoch: self.holdings.epoch(),
                    };
                    let (shared, home) = (Arc::clone(&self.shared), self.home.clone());
                    self.leaving = Some(leave_group(shared, home, leave).boxed());
                }
                Ok(())
            }
            Why::Over { .. } if is_done => self.end(None),
            Why::Over { .. } => Ok(()),
        }
    }

    fn left(&mut self, left: Result<(), RequestError>) -> Result<(), Over> {
        self.end(left.err().map(CommitError::from))
    }

    fn end(&mut self, error: Option<CommitError>) -> Result<(), Over> {
        if let Some(ending) = self.ending.take() {
            let is_late = Instant::now() >= ending.until;
            let late = is_late.then_some(RequestError::Timeout { after: LAST_WORDS }.into());
            let failed = ending.failed.or(error).or(late);
            for reply in ending.replies {
                // Nobody may be waiting.
                let _ = reply.send(failed.clone().map_or(Ok(()), Err));
            }
        }
        Err(Over)
    }

    /// Another process is this instance now.
    fn fenced(&mut self) -> Result<(), Over> {
        self.sharing.fail(GroupError::FencedInstance {
            group: self.options.group.clone(),
            instance: self.options.instance.clone().unwrap_or_default(),
        });
        Err(Over)
    }

    /// Nothing is held any more; joins again.
    fn lose(&mut self, now: Instant) -> Result<(), Over> {
        self.readers.clear();
        self.holdings.clear();
        self.sharing.end_all();
        self.wanted.clear();
        self.finding = None;
        let under_way = self.committing.take().map(|(job, _)| job);
        for job in under_way.into_iter().chain(std::mem::take(&mut self.jobs)) {
            job.lost();
        }
        (self.phase, self.said, self.owned_said) = (Phase::Joining, None, Vec::new());
        self.first_said = u64::MAX;
        self.say_at = self.say_at.max(now);
        match self.ending.take() {
            Some(ending) if ending.why != Why::Rejoin => {
                self.ending = Some(ending);
                // Who has said that it leaves is fenced by that: the answer to a heartbeat may come first.
                let has_left = self.leaving.is_some();
                self.end((!has_left).then_some(CommitError::SessionOver))
            }
            _ => Ok(()),
        }
    }
}

impl Job {
    fn empty() -> Self {
        Self { offsets: Vec::new(), grants: Vec::new(), not_owned: Vec::new(), reply: None }
    }

    fn answer(self, outcome: Committed) {
        let Some(reply) = self.reply else { return };
        let mut partitions = self.not_owned;
        let answer = match outcome {
            Ok(not_owned) => {
                partitions.extend(not_owned.into_iter().map(|at| (at.topic, at.partition.0)));
                if partitions.is_empty() {
                    Ok(())
                } else {
                    Err(CommitError::NotOwned { partitions })
                }
            }
            Err(error) if error.code() == Some(ErrorCode::FencedMember) => {
                let all = self.offsets.into_iter().map(|at| (at.topic, at.partition.0));
                partitions.extend(all);
                Err(CommitError::NotOwned { partitions })
            }
            Err(error) => Err(error.into()),
        };
        // Nobody may be waiting.
        let _ = reply.send(answer);
    }

    fn lost(self) {
        if let Some(reply) = self.reply {
            // Nobody may be waiting.
            let _ = reply.send(Err(CommitError::SessionOver));
        }
    }
}

/// The commit that is under way, when it is answered.
async fn committed(
    committing: &mut Option<(Job, BoxFuture<'static, Committed>)>,
) -> (Job, Committed) {
    let outcome = match committing {
        Some((_, running)) => running.await,
        None => std::future::pending().await,
    };
    let (job, _) = committing.take().expect("it was there a line above");
    (job, outcome)
}

/// Which of the topics are there.
async fn there_are(shared: Arc<Shared>, topics: Vec<TopicName>) -> Vec<TopicName> {
    let mut there = Vec::new();
    for topic in topics {
        if shared.topic(&topic).await.is_ok() {
            there.push(topic);
        }
    }
    there
}

async fn leave_group(
    shared: Arc<Shared>,
    home: Home,
    leave: LeaveGroupRequest,
) -> Result<(), RequestError> {
    let asking = shared.request_leader(&home.topic, home.partition, leave, Owed::Answer);
    match timeout(LAST_WORDS, asking).await {
        Ok(Ok(_)) => Ok(()),
        // It was none any more.
        Ok(Err(error)) if error.code() == Some(ErrorCode::FencedMember) => Ok(()),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(RequestError::Timeout { after: LAST_WORDS }),
    }
}

//! A member of a consumer group, and looking at groups.
//!
//! ```text
//!  mod       builds a member
//!  consumer  what a program has of it: records, commits
//!  sharing   what the consumer and the member's task have in common: what may be handed out, how far it is
//!  member    the task: joins, heartbeats, begins and ends the reading of partitions, commits
//!  holdings  what the member holds and says that it holds
//!  speaker   says joins and heartbeats to whoever leads the group
//!  requests  what else is asked of the coordinator
//!  admin     listing, looking at, resetting, deleting groups
//! ```
//! `broker/groups/GROUPS.md` has the rules, under "What a client must do".

mod admin;
mod consumer;
mod error;
mod holdings;
mod member;
mod requests;
mod sharing;
mod speaker;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use plimsoll_protocol::api::{Fence, StartPosition};
use plimsoll_protocol::batch::BatchLimits;
use plimsoll_protocol::ids::TopicName;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::client::Shared;
use crate::consumer::{FRAMES_WAITING_MAX, shares};
use crate::error::{BuildError, RequestError};
pub use admin::GroupAdmin;
pub use consumer::{GroupConsumer, GroupRecord};
pub use error::{CommitError, GroupError};
use member::{Member, Parts};
use sharing::Sharing;

/// What a member was built with.
struct Options {
    group: String,
    client: String,
    instance: Option<String>,
    topics: Vec<TopicName>,
    session_ms: u32,
    rebalance_ms: u32,
    start: StartPosition,
    frame_bytes: u32,
    credit_bytes: u64,
    auto_commit: Option<Duration>,
    /// The lock under which it commits.
    fence: Option<Fence>,
}

/// Configures a [`GroupConsumer`].
#[derive(Clone)]
pub struct GroupConsumerBuilder {
    shared: Arc<Shared>,
    group: String,
    topics: Vec<String>,
    client: String,
    instance: Option<String>,
    session: Duration,
    rebalance: Duration,
    start: StartPosition,
    buffer_bytes: usize,
    auto_commit: Option<Duration>,
    fence: Option<Fence>,
}

impl GroupConsumerBuilder {
    pub(crate) fn new(shared: Arc<Shared>, group: String) -> Self {
        let client = shared.config().client_name.clone();
        Self {
            shared,
            group,
            topics: Vec::new(),
            client,
            instance: None,
            session: Duration::from_secs(45),
            rebalance: Duration::from_secs(300),
            start: StartPosition::Earliest,
            buffer_bytes: 64 << 20,
            auto_commit: Some(Duration::from_secs(5)),
            fence: None,
        }
    }

    /// The topics to share with the group's other members, 1 to 1,000. Members may want different ones.
    #[must_use]
    pub fn topics<T: Into<String>>(mut self, topics: impl IntoIterator<Item = T>) -> Self {
        self.topics = topics.into_iter().map(Into::into).collect();
        self
    }

    /// What it is called where people look, at most 255 bytes. Default: the client's name.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.client = name.into();
        self
    }

    /// A name that outlives the process, 1 to 255 bytes: whoever joins with it takes the place of who had it,
    /// and its partitions, and no other member notices. Each process needs one of its own.
    #[must_use]
    pub fn instance(mut self, instance: impl Into<String>) -> Self {
        self.instance = Some(instance.into());
        self
    }

    /// How long it may be silent before its partitions go to others, 1 s to 1 h. Default 45 s. Shorter finds
    /// a dead member sooner, and takes a busy machine for one.
    #[must_use]
    pub fn session_timeout(mut self, session: Duration) -> Self {
        self.session = session;
        self
    }

    /// How long it may take to give up a partition, 1 s to 1 h: longer than the processing of a record takes.
    /// Default 300 s.
    #[must_use]
    pub fn rebalance_timeout(mut self, rebalance: Duration) -> Self {
        self.rebalance = rebalance;
        self
    }

    /// Where a partition begins in which the group has committed nothing, or whose records up to there and
    /// behind are gone: [`StartPosition::Earliest`] (the default) or [`StartPosition::Latest`].
    #[must_use]
    pub fn from(mut self, start: StartPosition) -> Self {
        self.start = start;
        self
    }

    /// Bytes of records that may wait to be taken, 1 MiB..=4 GiB. Default 64 MiB. Each partition has an equal
    /// share, at least 16 KiB, reckoned as if this member had all of the topics' partitions, which it has
    /// when it is alone.
    #[must_use]
    pub fn buffer_bytes(mut self, buffer_bytes: usize) -> Self {
        self.buffer_bytes = buffer_bytes;
        self
    }

    /// How often it commits what is processed, at least 10 ms. Default 5 s. It commits too when a partition
    /// goes to another member, and when it ends.
    #[must_use]
    pub fn auto_commit(mut self, every: Duration) -> Self {
        self.auto_commit = Some(every);
        self
    }

    /// It commits only what it is told to ([`GroupConsumer::commit`]). What was handed out of a partition and
    /// not committed when the partition goes to another member is read again there.
    #[must_use]
    pub fn manual_commit(mut self) -> Self {
        self.auto_commit = None;
        self
    }

    /// The lock under which it commits: once a later holder was seen, commits are refused
    /// ([`CommitError::StaleFence`]).
    #[must_use]
    pub fn fence(mut self, fence: Fence) -> Self {
        self.fence = Some(fence);
        self
    }

    /// Looks the topics up and joins the group. It is a member when this returns, and learns what it owns
    /// soon after.
    ///
    /// # Errors
    /// An unknown topic, an option out of bounds, no connection, or the group does not take it.
    pub async fn build(self) -> Result<GroupConsumer, BuildError> {
        let topics = self.checked()?;
        let shared = Arc::clone(&self.shared);
        let described = join_all(topics.iter().map(|topic| shared.topic(topic))).await;
        let mut partitions = 0;
        for topic in described {
            partitions += topic?.partitions as usize;
        }
        let (frame_bytes, credit_bytes) = shares(self.buffer_bytes, partitions);
        let home = shared.home(&self.group).await?;
        let home_interest = shared.take_interest(&home.topic).await;
        let mut interests = BTreeMap::new();
        for topic in &topics {
            interests.insert(topic.clone(), shared.take_interest(topic).await);
        }
        let options = Options {
            group: self.group.clone(),
            client: self.client,
            instance: self.instance,
            topics,
            session_ms: ms(self.session),
            rebalance_ms: ms(self.rebalance),
            start: self.start,
            frame_bytes: u32::try_from(frame_bytes).expect("at most 1 MiB"),
            credit_bytes: credit_bytes as u64,
            auto_commit: self.auto_commit,
            fence: self.fence,
        };
        let sharing = Arc::new(Sharing::new(self.auto_commit.is_none()));
        let (events, receiver) = mpsc::channel(FRAMES_WAITING_MAX);
        let (commands, commanded) = mpsc::unbounded_channel();
        let (joined, joining) = oneshot::channel();
        let parts = Parts {
            id: shared.unique(),
            shared: Arc::clone(&shared),
            options: Arc::new(options),
            home,
            home_interest,
            interests,
            sharing: Arc::clone(&sharing),
            commands: commanded,
            events,
        };
        // It ends with the consumer, which is dropped here when joining fails.
        tokio::spawn(Member::new(parts, joined).run());
        let consumer = GroupConsumer {
            group: self.group,
            sharing,
            receiver,
            commands,
            current: None,
            decompressed_max: BatchLimits::default().records_bytes_max as usize,
        };
        let after = shared.config().request_timeout;
        let outcome = timeout(after, joining).await;
        let answer = outcome.map_err(|_| RequestError::Timeout { after })?;
        answer.unwrap_or_else(|_| {
            Err(RequestError::ConnectionLost { reason: "the member's task has ended".into() })
        })?;
        Ok(consumer)
    }

    /// The topics, when everything is within its bounds.
    fn checked(&self) -> Result<Vec<TopicName>, BuildError> {
        let option =
            |option, reason: &str| Err(BuildError::Option { option, reason: reason.to_owned() });
        let times = Duration::from_secs(1)..=Duration::from_secs(3600);
        if !(1..=255).contains(&self.group.len()) || self.group.chars().any(char::is_control) {
            return option("group", "allowed are 1 to 255 bytes without control characters");
        }
        if !(1..=1000).contains(&self.topics.len()) {
            return option("topics", "1 to 1,000 topics are needed");
        }
        if self.client.len() > 255 {
            return option("name", "allowed are at most 255 bytes");
        }
        if self.instance.as_ref().is_some_and(|name| !(1..=255).contains(&name.len())) {
            return option("instance", "allowed are 1 to 255 bytes");
        }
        if !times.contains(&self.session) {
            return option("session_timeout", "allowed are 1 s to 1 h");
        }
        if !times.contains(&self.rebalance) {
            return option("rebalance_timeout", "allowed are 1 s to 1 h");
        }
        if !matches!(self.start, StartPosition::Earliest | StartPosition::Latest) {
            return option(
                "from",
                "a group begins at the earliest or the latest; to begin it \
                                   elsewhere, reset its offsets",
            );
        }
        if !((1 << 20)..=(4 << 30)).contains(&self.buffer_bytes) {
            return option("buffer_bytes", "allowed are 1 MiB to 4 GiB");
        }
        if self.auto_commit.is_some_and(|every| every < Duration::from_millis(10)) {
            return option("auto_commit", "allowed is no less than 10 ms");
        }
        let mut topics = Vec::new();
        for topic in &self.topics {
            match topic.parse::<TopicName>() {
                Ok(topic) => topics.push(topic),
                Err(error) => return option("topics", &format!("{error}")),
            }
        }
        topics.sort();
        topics.dedup();
        Ok(topics)
    }
}

fn ms(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).expect("it is an hour at most")
}

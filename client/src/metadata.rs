//! Keeps the picture of the cluster new: asked for when something failed, and watched while a producer
//! or consumer is open.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use plimsoll_protocol::api::{
    MetadataRequest, MetadataResponse, WatchMetadataRequest, negotiate_version,
};
use plimsoll_protocol::error::ErrorCode;
use plimsoll_protocol::ids::{NodeId, PartitionIndex, TopicName};
use tokio::time::{Instant, sleep, timeout};

use crate::client::Shared;
use crate::error::RequestError;
use crate::link::Link;
use crate::pulse::Owed;

/// An answer to a question that was asked so shortly before is as good as one of its own: many
/// partitions lose one leader together.
const SAME_MOMENT: Duration = Duration::from_millis(10);
/// How long one refresh may take, of a node that is alive.
const REFRESH_MAX: Duration = Duration::from_secs(1);
/// How long a node keeps a watch at most.
const WATCH_MAX: Duration = Duration::from_secs(30);
/// Between two watches at least, whatever a node answers.
const WATCH_PAUSE: Duration = Duration::from_millis(100);

/// Who asks for what. One per client.
#[derive(Default)]
pub(crate) struct Metadata {
    /// Per topic, when its last refresh began, or failed.
    asked: tokio::sync::Mutex<BTreeMap<TopicName, Instant>>,
    /// How many producers and consumers are open per topic.
    interests: Mutex<BTreeMap<TopicName, usize>>,
    watching: Mutex<Weak<Watching>>,
}

/// The task that watches; it ends with the last interest.
struct Watching(tokio::task::AbortHandle);

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Held by a producer or consumer of a topic for as long as the topic is watched for it.
pub(crate) struct Interest {
    shared: Arc<Shared>,
    topic: TopicName,
    _watching: Arc<Watching>,
}

impl Drop for Interest {
    fn drop(&mut self) {
        let mut interests = self.shared.metadata.interests();
        if let Some(count) = interests.get_mut(&self.topic) {
            *count -= 1;
            if *count == 0 {
                interests.remove(&self.topic);
                // Under the same lock: whoever takes an interest next learns it anew after this. What
                // is being asked just now comes once more.
                if let Ok(mut asked) = self.shared.metadata.asked.try_lock() {
                    asked.remove(&self.topic);
                }
                self.shared.cluster.forget(&self.topic);
            }
        }
    }
}

impl Metadata {
    fn interests(&self) -> MutexGuard<'_, BTreeMap<TopicName, usize>> {
        self.interests.lock().expect("no code panics while it holds this lock")
    }
}

impl Shared {
    /// Learns where a topic's partitions are and keeps it known.
    pub(crate) async fn take_interest(self: &Arc<Self>, topic: &TopicName) -> Arc<Interest> {
        *self.metadata.interests().entry(topic.clone()).or_default() += 1;
        let watching = {
            let mut held =
                self.metadata.watching.lock().expect("no code panics while it holds this lock");
            match held.upgrade() {
                Some(watching) => watching,
                None => {
                    let task = tokio::spawn(watch(Arc::clone(self)));
                    let watching = Arc::new(Watching(task.abort_handle()));
                    *held = Arc::downgrade(&watching);
                    watching
                }
            }
        };
        let (shared, topic) = (Arc::clone(self), topic.clone());
        let interest = Arc::new(Interest { shared, topic, _watching: watching });
        self.refresh(&interest.topic, None).await;
        interest
    }

    /// Asks where a topic's partitions are now, a node other than `avoid` if there is one. Whoever
    /// asks while another does waits for that answer. What cannot be learned stays as it is.
    pub(crate) async fn refresh(&self, topic: &TopicName, avoid: Option<NodeId>) {
        let now = Instant::now();
        let mut asked = self.metadata.asked.lock().await;
        if asked.get(topic).is_some_and(|at| *at + SAME_MOMENT >= now) {
            return;
        }
        let began = Instant::now();
        let topics = vec![topic.clone()];
        let outcome = timeout(REFRESH_MAX, self.ask(topics, avoid)).await;
        // Whoever waited for a failure need not wait for another one.
        let at = if matches!(outcome, Ok(Ok(()))) { began } else { Instant::now() };
        asked.insert(topic.clone(), at);
    }

    /// Learns which nodes there are, so that any of them may fail from now on.
    pub(crate) async fn learn_nodes(&self) {
        // A cluster that does not tell is one node.
        let _ = timeout(REFRESH_MAX, self.ask(Vec::new(), None)).await;
    }

    async fn ask(&self, topics: Vec<TopicName>, avoid: Option<NodeId>) -> Result<(), RequestError> {
        let link = self.links.any(avoid).await?;
        let outcome = self.ask_on(&link, topics).await;
        if let Err(error) = &outcome {
            tracing::debug!(node = %link.node(), %error, "a node did not tell of its cluster");
        }
        outcome
    }

    /// Asks one node, page by page. A node that is older than clusters tells nothing.
    async fn ask_on(&self, link: &Arc<Link>, topics: Vec<TopicName>) -> Result<(), RequestError> {
        if negotiate_version::<MetadataRequest>(&link.hello().apis).is_err() {
            return Ok(());
        }
        let mut request = MetadataRequest { topics, first_partition: PartitionIndex(0) };
        loop {
            let answer = match link.control().request(request.clone()).await {
                Ok((answer, _)) => answer,
                Err(error) if error.code() == Some(ErrorCode::UnknownApi) => return Ok(()),
                Err(error) => return Err(error),
            };
            let rest = rest(&request, &answer);
            self.cluster.learn(answer);
            match rest {
                Some(rest) => request = rest,
                None => return Ok(()),
            }
        }
    }
}

/// What an answer left out; `None` where it left out nothing, or brought nothing.
fn rest(request: &MetadataRequest, answer: &MetadataResponse) -> Option<MetadataRequest> {
    let told = |name: &TopicName| {
        answer.topics.iter().any(|topic| topic.topic == *name) || answer.unknown.contains(name)
    };
    let mut topics: Vec<TopicName> =
        request.topics.iter().filter(|name| !told(name)).cloned().collect();
    let mut first_partition = PartitionIndex(0);
    if let Some(last) = answer.topics.last()
        && let Some(shown) = last.partitions.last()
        && shown.partition.0 + 1 < last.partitions_total
    {
        topics.insert(0, last.topic.clone());
        first_partition = PartitionIndex(shown.partition.0 + 1);
    }
    let request_left = MetadataRequest { topics, first_partition };
    (!request_left.topics.is_empty() && request_left != *request).then_some(request_left)
}

/// Asks anew for all topics of interest whenever the cluster has changed.
async fn watch(shared: Arc<Shared>) {
    let mut backoff = shared.backoff();
    loop {
        match watch_once(&shared).await {
            Ok(pause) => {
                backoff.reset();
                sleep(pause).await;
            }
            Err(error) => {
                tracing::debug!(%error, "the cluster is watched on another node");
                sleep(WATCH_PAUSE.max(backoff.next_pause())).await;
            }
        }
    }
}

/// Waits for one change at one node. Gives how long to pause.
async fn watch_once(shared: &Arc<Shared>) -> Result<Duration, RequestError> {
    let link = shared.links.any(None).await?;
    if negotiate_version::<WatchMetadataRequest>(&link.hello().apis).is_err() {
        return Ok(WATCH_MAX);
    }
    let channel = link.produce_channel().await?;
    let after = WATCH_MAX + shared.config().request_timeout;
    let request = WatchMetadataRequest { epoch: shared.cluster.view().epoch() };
    let answer = channel.request_owed(request, Owed::News);
    match timeout(after, answer).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) if error.code() == Some(ErrorCode::UnknownApi) => return Ok(WATCH_MAX),
        Ok(Err(error)) => return Err(error),
        Err(_) => return Err(RequestError::Timeout { after }),
    }
    let topics: Vec<TopicName> = shared.metadata.interests().keys().cloned().collect();
    if !topics.is_empty() {
        shared.ask_on(&link, topics).await?;
    }
    Ok(WATCH_PAUSE)
}

#[cfg(test)]
mod tests {
    use plimsoll_protocol::api::{PartitionMetadata, TopicMetadata};
    use plimsoll_protocol::ids::{GroupId, Term};

    use super::*;

    fn request(topics: &[&str], first: u32) -> MetadataRequest {
        let topics = topics.iter().map(|name| name.parse().unwrap()).collect();
        MetadataRequest { topics, first_partition: PartitionIndex(first) }
    }

    fn answer(topics: &[(&str, std::ops::Range<u32>, u32)], unknown: &[&str]) -> MetadataResponse {
        let partition = |partition| PartitionMetadata {
            partition: PartitionIndex(partition),
            group_id: GroupId(1),
            leader: None,
            term: Term(0),
            replicas: Vec::new(),
        };
        let topic = |(name, shown, total): &(&str, std::ops::Range<u32>, u32)| TopicMetadata {
            topic: name.parse().unwrap(),
            topic_id: 1,
            partitions_total: *total,
            partitions: shown.clone().map(partition).collect(),
        };
        MetadataResponse {
            cluster_id: "c".to_owned(),
            epoch: 1,
            controller: None,
            nodes: Vec::new(),
            topics: topics.iter().map(topic).collect(),
            unknown: unknown.iter().map(|name| name.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn what_an_answer_leaves_out_is_asked_for_again_until_nothing_is_left() {
        let asked = request(&["a", "b", "c", "d"], 0);
        let left = rest(&asked, &answer(&[("a", 0..2, 2), ("c", 0..5, 9)], &["b"])).unwrap();
        assert_eq!(left, request(&["c", "d"], 5));
        let left = rest(&left, &answer(&[("c", 5..9, 9)], &[])).unwrap();
        assert_eq!(left, request(&["d"], 0));
        assert_eq!(rest(&left, &answer(&[("d", 0..1, 1)], &[])), None);
    }

    #[test]
    fn an_answer_that_brings_nothing_is_not_asked_for_again() {
        let asked = request(&["a"], 3);
        assert_eq!(rest(&asked, &answer(&[], &[])), Some(request(&["a"], 0)));
        let asked = request(&["a"], 0);
        assert_eq!(rest(&asked, &answer(&[], &[])), None);
        assert_eq!(rest(&asked, &answer(&[("a", 0..0, 2)], &[])), None);
    }
}

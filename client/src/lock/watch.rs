//! Watchers: subscriptions to the topic of a namespace.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_util::{Stream, StreamExt};
use plimsoll_protocol::api::{DescribeLockRequest, ListOffsetsRequest, LockMode, StartPosition};
use plimsoll_protocol::error::ErrorCode;
use plimsoll_protocol::ids::{Offset, PartitionIndex};

use super::error::{About, LockError, LockEventError};
use super::event::{LockEvent, LockEventHolder, lock_of};
use super::{Locks, bounds};
use crate::client::Shared;
use crate::consumer::{Consumer, ConsumerBuilder};
use crate::pulse::Owed;

/// Which locks of a namespace are looked at.
#[derive(Debug, Clone)]
pub(super) enum Which {
    One(String),
    Prefix(String),
}

impl Which {
    fn is(&self, lock: &str) -> bool {
        match self {
            Self::One(name) => lock == name,
            Self::Prefix(prefix) => lock.starts_with(prefix),
        }
    }
}

/// What happens to locks, as a [`Stream`], in order.
///
/// It is an ordinary subscription: it goes on over changes of the leader, and misses nothing while it is open.
#[derive(Debug)]
pub struct LockWatch {
    consumer: Consumer,
    which: Which,
}

impl LockWatch {
    pub(super) async fn open(
        shared: &Arc<Shared>,
        namespace: &str,
        which: Which,
        start: StartPosition,
        is_bounded: bool,
    ) -> Result<Self, LockError> {
        let topic = bounds::namespace(namespace)?;
        let builder = ConsumerBuilder::new(Arc::clone(shared), topic.to_string()).from(start);
        let builder = if is_bounded { builder.bounded() } else { builder };
        let built = builder.build().await;
        let consumer = built.map_err(|error| LockError::of_reader(error, namespace))?;
        Ok(Self { consumer, which })
    }

    /// The next event; `None` at the end of a history.
    ///
    /// # Errors
    /// When the topic cannot be read on, which ends the stream, or a record is no event, which does not.
    pub async fn next(&mut self) -> Option<Result<LockEvent, LockEventError>> {
        StreamExt::next(self).await
    }
}

impl Stream for LockWatch {
    type Item = Result<LockEvent, LockEventError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Self { consumer, which } = self.get_mut();
        loop {
            return Poll::Ready(match ready!(consumer.poll_next_unpin(context)) {
                None => None,
                Some(Err(error)) => Some(Err(error.into())),
                Some(Ok(record)) if !which.is(&lock_of(&record)) => continue,
                Some(Ok(record)) => match LockEvent::read(&record).transpose() {
                    Some(event) => Some(event),
                    None => continue,
                },
            });
        }
    }
}

/// Who leads, as observers see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ElectionLeader {
    /// Who, for people.
    pub label: String,
    /// The fencing token of its grant.
    pub token: u64,
    /// What it wants observers to see.
    pub value: String,
}

/// The leaders of an election, as a [`Stream`]: first who leads now, then every change; `None` while nobody
/// does.
///
/// Tokens never go back. An earlier value of the same leader may come once more at the beginning.
#[derive(Debug)]
pub struct ElectionObserver {
    watch: LockWatch,
    seen: Seen,
    /// Who leads now is still to be told.
    is_first: bool,
}

/// Who leads, as far as is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Seen {
    leader: Option<ElectionLeader>,
    /// The highest token that was told of.
    token: u64,
}

impl ElectionObserver {
    /// Who leads next.
    ///
    /// # Errors
    /// As [`LockWatch::next`].
    pub async fn next(&mut self) -> Option<Result<Option<ElectionLeader>, LockEventError>> {
        StreamExt::next(self).await
    }
}

impl Seen {
    /// Takes news of who holds it after something happened under `token`. Whether it is news.
    fn learn(&mut self, holder: Option<LockEventHolder>, token: Option<u64>) -> bool {
        let known = holder.as_ref().map(|holder| holder.token).or(token).unwrap_or(self.token);
        if known < self.token {
            return false;
        }
        self.token = known;
        let leader = holder.map(|LockEventHolder { label, token, value, .. }| ElectionLeader {
            label,
            token,
            value: value.unwrap_or_default(),
        });
        let is_news = self.leader != leader;
        self.leader = leader;
        is_news
    }
}

impl Stream for ElectionObserver {
    type Item = Result<Option<ElectionLeader>, LockEventError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let observer = self.get_mut();
        while !std::mem::take(&mut observer.is_first) {
            match ready!(observer.watch.poll_next_unpin(context)) {
                None => return Poll::Ready(None),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                Some(Ok(event)) => {
                    if observer.seen.learn(event.holder, event.token) {
                        break;
                    }
                }
            }
        }
        Poll::Ready(Some(Ok(observer.seen.leader.clone())))
    }
}

impl Locks {
    /// What happens to a lock from now on.
    ///
    /// # Errors
    /// When the name is out of bounds, there is no such namespace, or nobody answers.
    pub async fn watch(&self, lock: impl Into<String>) -> Result<LockWatch, LockError> {
        let lock = lock.into();
        bounds::lock_name(&lock)?;
        self.watch_from_now(Which::One(lock)).await
    }

    /// What happens from now on to the locks whose name begins with `prefix`: of an empty one, to all.
    ///
    /// # Errors
    /// As [`Locks::watch`].
    pub async fn watch_prefix(&self, prefix: impl Into<String>) -> Result<LockWatch, LockError> {
        self.watch_from_now(Which::Prefix(prefix.into())).await
    }

    async fn watch_from_now(&self, which: Which) -> Result<LockWatch, LockError> {
        // A subscription to the latest begins where the log ends when it stands, which is later than this.
        let start = self.end().await?;
        self.watch_from(which, start).await
    }

    async fn watch_from(&self, which: Which, start: Offset) -> Result<LockWatch, LockError> {
        let start = StartPosition::Offset(start);
        LockWatch::open(&self.shared, &self.namespace, which, start, false).await
    }

    /// Who leads an election, now and from now on.
    ///
    /// # Errors
    /// As [`Locks::watch`].
    pub async fn observe(
        &self,
        election: impl Into<String>,
    ) -> Result<ElectionObserver, LockError> {
        let lock = election.into();
        bounds::lock_name(&lock)?;
        // First where the events are, then who leads: what happens in between is told by an event.
        let start = self.end().await?;
        let leader = self.leader(&lock).await?;
        let watch = self.watch_from(Which::One(lock), start).await?;
        let token = leader.as_ref().map_or(0, |leader| leader.token);
        Ok(ElectionObserver { watch, seen: Seen { leader, token }, is_first: true })
    }

    async fn end(&self) -> Result<Offset, LockError> {
        let (topic, partition) = (self.topic()?, PartitionIndex(0));
        let positions = vec![StartPosition::Latest];
        let request = ListOffsetsRequest { topic: topic.clone(), partition, positions };
        let asked = self.shared.request_leader(&topic, partition, request, Owed::Answer).await;
        let about = About { namespace: &self.namespace, lock: "", token: 0 };
        let (answer, _) = asked.map_err(|error| LockError::of(error, about))?;
        Ok(answer.offsets.first().copied().unwrap_or_default())
    }

    async fn leader(&self, lock: &str) -> Result<Option<ElectionLeader>, LockError> {
        let topic = self.topic()?;
        let request =
            DescribeLockRequest { namespace: self.namespace.clone(), lock: lock.to_owned() };
        let asking = self.shared.request_leader(&topic, PartitionIndex(0), request, Owed::Answer);
        let described = match asking.await {
            Ok((described, _)) => described,
            Err(error) if error.code() == Some(ErrorCode::UnknownLock) => return Ok(None),
            Err(error) => {
                let about = About { namespace: &self.namespace, lock, token: 0 };
                return Err(LockError::of(error, about));
            }
        };
        let value = String::from_utf8_lossy(&described.value).into_owned();
        let leads = described.holders.into_iter().find(|holder| holder.mode == LockMode::Lead);
        Ok(leads.map(|holder| ElectionLeader { label: holder.label, token: holder.token, value }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(token: u64, value: &str) -> Option<LockEventHolder> {
        let (label, value) = ("web".to_owned(), Some(value.to_owned()));
        Some(LockEventHolder { label, session: 1, token, value })
    }

    #[test]
    fn observers_learn_of_leaders_values_and_vacancies_once() {
        let mut seen = Seen::default();
        assert!(seen.learn(holder(5, "a"), Some(5)));
        assert!(!seen.learn(holder(5, "a"), None), "somebody waits");
        assert!(seen.learn(holder(5, "b"), Some(5)));
        assert!(seen.learn(None, Some(5)));
        assert!(!seen.learn(None, None));
        assert!(seen.learn(holder(9, "a"), Some(9)));
    }

    #[test]
    fn what_comes_late_of_former_leaders_is_no_news() {
        let mut seen = Seen::default();
        seen.learn(holder(9, "c"), Some(9));
        let known = seen.clone();
        assert!(!seen.learn(holder(5, "a"), Some(5)));
        assert!(!seen.learn(None, Some(5)));
        assert_eq!(seen, known);
    }

    #[test]
    fn locks_are_picked_by_name_or_by_beginning() {
        assert!(Which::One("a".to_owned()).is("a") && !Which::One("a".to_owned()).is("ab"));
        let prefix = Which::Prefix("a/".to_owned());
        assert!(prefix.is("a/b") && !prefix.is("ab") && Which::Prefix(String::new()).is("x"));
    }
}

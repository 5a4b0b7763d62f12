//! Single requests: to any node, or to a partition's leader; again at another node where that is safe.
//!
//! With one node a request is made once, as there is nobody else to ask, but for a node that is starting.
//! With several it is made again while the cluster is between two leaders or a node is found dead, for
//! [`PATIENCE`] at most.

use std::time::Duration;

use bytes::Bytes;
use plimsoll_protocol::api::Request;
use plimsoll_protocol::error::ErrorCode;
use plimsoll_protocol::ids::{NodeId, PartitionIndex, TopicName};
use tokio::time::{Instant, sleep, timeout_at};

use crate::client::Shared;
use crate::error::{RequestError, ServerError};
use crate::pulse::Owed;
use crate::route::to;

/// How long a request is tried again before its refusal is given out: several elections. Whoever lost
/// a majority for good is told so within it.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whether a request may be made again when it is not known whether it took effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// It reads, or made twice it does what it does once.
    Freely,
    /// Only after an answer that says it had no effect.
    IfRefused,
}

/// Who is asked next.
struct Target {
    node: Option<NodeId>,
    address: Option<String>,
    avoid: Option<NodeId>,
    /// A hint was followed since the last pause.
    hinted: bool,
}

impl Shared {
    /// Sends one request to any node and awaits its answer.
    pub(crate) async fn request<R>(
        &self,
        request: R,
        repeat: Repeat,
    ) -> Result<R::Response, RequestError>
    where
        R: Request + Clone + Send + Sync + 'static,
    {
        Ok(self.converse(request, repeat, None, Owed::Answer).await?.0)
    }

    /// All that a list has, page by page, from any node. `ask` asks for what is behind the last one that came;
    /// `page` takes an answer apart: its items, and whether there are more.
    pub(crate) async fn list<R, T>(
        &self,
        ask: impl Fn(Option<&T>) -> R,
        page: impl Fn(R::Response) -> (Vec<T>, bool),
    ) -> Result<Vec<T>, RequestError>
    where
        R: Request + Clone + Send + Sync + 'static,
    {
        let mut all: Vec<T> = Vec::new();
        loop {
            let request = ask(all.last());
            let (items, has_more) = page(self.request(request, Repeat::Freely).await?);
            // An empty page that promises more would be asked for again for ever.
            let ends = !has_more || items.is_empty();
            all.extend(items);
            if ends {
                return Ok(all);
            }
        }
    }

    /// Sends one request to the leader of a partition. Gives the answer's payload too.
    pub(crate) async fn request_leader<R>(
        &self,
        topic: &TopicName,
        partition: PartitionIndex,
        request: R,
        owed: Owed,
    ) -> Result<(R::Response, Bytes), RequestError>
    where
        R: Request + Clone + Send + Sync + 'static,
    {
        let view = self.cluster.view();
        let place = view.partition(topic.as_str(), partition.0);
        let leader = place.and_then(|place| place.target(&view, None));
        self.converse(request, Repeat::Freely, leader, owed).await
    }

    /// Sends one request to any replica of a partition: one that is connected and near, else the leader. One
    /// that fails is left for another.
    pub(crate) async fn request_replica<R>(
        &self,
        topic: &TopicName,
        partition: PartitionIndex,
        request: R,
        owed: Owed,
    ) -> Result<(R::Response, Bytes), RequestError>
    where
        R: Request + Clone + Send + Sync + 'static,
    {
        let view = self.cluster.view();
        let place = view.partition(topic.as_str(), partition.0);
        let replicas = place.map_or(&[][..], |place| &place.replicas);
        let alive = replicas.iter().filter(|node| !view.is_suspect(**node));
        let near = alive.filter_map(|node| self.links.existing(*node));
        let near = near.min_by_key(|link| link.round_trip()).map(|link| link.node());
        let leader = place.and_then(|place| place.target(&view, None));
        self.converse(request, Repeat::Freely, near.or(leader), owed).await
    }

    async fn converse<R>(
        &self,
        request: R,
        repeat: Repeat,
        first: Option<NodeId>,
        owed: Owed,
    ) -> Result<(R::Response, Bytes), RequestError>
    where
        R: Request + Clone + Send + Sync + 'static,
    {
        let began = Instant::now();
        let after = self.config().request_timeout;
        let mut target = Target { node: first, address: None, avoid: None, hinted: false };
        let mut backoff = self.backoff();
        let mut refused = None;
        loop {
            let tried = Instant::now();
            let finding = async {
                match target.node {
                    // A node whose machine is gone is not waited for while others may answer.
                    Some(node) => {
                        to(self, &self.cluster.view(), node, target.address.as_deref()).await
                    }
                    None => self.links.any(target.avoid).await,
                }
            };
            let attempt = match timeout_at(began + after, finding).await {
                Ok(Ok(link)) => {
                    let asking = link.control().request_owed(request.clone(), owed);
                    match timeout_at(began + after, asking).await {
                        Ok(outcome) => outcome.map_err(|error| (Some(link.node()), error)),
                        Err(_) => return Err(RequestError::Timeout { after }),
                    }
                }
                Ok(Err(error)) => Err((target.node, error.into())),
                // Nothing is on its way: what was said last holds.
                Err(_) => return Err(refused.unwrap_or(RequestError::Timeout { after })),
            };
            let (asked, error) = match attempt {
                Ok(answer) => return Ok(answer),
                Err(failed) => failed,
            };
            let pause = match self.next(&mut target, asked, &error, repeat) {
                Next::Stop => return Err(error),
                Next::AtOnce => continue,
                Next::Pause => backoff.next_pause(),
            };
            // Another attempt may take as long as this one did: one that cannot end in time would turn
            // what is known now into a timeout.
            if began.elapsed() + pause + tried.elapsed() >= after.min(PATIENCE) {
                return Err(error);
            }
            refused = Some(error);
            sleep(pause).await;
        }
    }

    /// Turns to whom the failure points to.
    fn next(
        &self,
        target: &mut Target,
        asked: Option<NodeId>,
        error: &RequestError,
        repeat: Repeat,
    ) -> Next {
        let is_starting = error.code() == Some(ErrorCode::NotReady);
        if !self.links.has_choice()
            && target.node.is_none()
            && hint(error).is_none()
            && !is_starting
        {
            return Next::Stop;
        }
        let led = target.node.is_some();
        match error {
            RequestError::Refused(refusal) => match refusal.code {
                ErrorCode::NotLeader => {
                    let (node, address) = match hint(error) {
                        Some((node, address)) => (Some(node), Some(address)),
                        None => (None, None),
                    };
                    let follows = node.is_some() && !std::mem::replace(&mut target.hinted, true);
                    *target = Target { node, address, avoid: asked, hinted: follows };
                    if follows { Next::AtOnce } else { Next::Pause }
                }
                ErrorCode::NotReady
                | ErrorCode::NoQuorum
                | ErrorCode::StalePlacement
                | ErrorCode::ShuttingDown => {
                    *target = Target { node: None, address: None, avoid: asked, hinted: false };
                    Next::Pause
                }
                _ => Next::Stop,
            },
            // Nothing was sent. Of any node: all of them were tried.
            RequestError::Connect(_) if led => {
                // Whoever points there again is not followed without a pause.
                *target = Target { node: None, address: None, avoid: asked, hinted: true };
                Next::AtOnce
            }
            RequestError::ConnectionLost { .. } if repeat == Repeat::Freely => {
                *target = Target { node: None, address: None, avoid: asked, hinted: false };
                Next::Pause
            }
            _ => Next::Stop,
        }
    }
}

enum Next {
    Stop,
    AtOnce,
    Pause,
}

/// The leader that a refusal names, and where it is reached.
pub(crate) fn hint(error: &RequestError) -> Option<(NodeId, String)> {
    match error {
        RequestError::Refused(ServerError { leader: Some(leader), .. }) => {
            Some(leader.clone()).filter(|(_, address)| !address.is_empty())
        }
        _ => None,
    }
}

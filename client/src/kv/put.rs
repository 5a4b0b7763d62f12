//! The way of one change to the leader of its partition, attempt after attempt with the same sequence.
//!
//! - What is sent again is the same batch: where an earlier attempt stored it, the node says so.
//! - A sequence is used again for another change only where the node certainly does not have it; else the
//!   writer goes on under a new epoch.
//! - A refusal after an attempt without an answer says nothing of that attempt. Nor does a conflict, though a
//!   node looks for what it has stored before it looks at the condition: the attempt may still be on its way, and
//!   be carried out once the key is again as it asked for. But where a later revision than the one that it asked
//!   for is told, the earlier never comes back.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use plimsoll_protocol::api::{
    InitProducerRequest, KvCondition, KvPutRequest, KvPutResponse, ProducerIdentity,
};
use plimsoll_protocol::batch::{BatchBuilder, Compression, PushOutcome, Record};
use plimsoll_protocol::error::ErrorCode;
use tokio::time::{Instant, timeout_at};

use super::{KvError, Map, Revision};
use crate::channel::Channel;
use crate::error::{RequestError, ServerError};
use crate::link::Link;
use crate::pulse::Owed;
use crate::requests::Repeat;
use crate::route::Route;

/// How long a change that was certainly not stored is tried again before the refusal is given out.
const PATIENCE: Duration = Duration::from_secs(5);
/// A leader that owes an answer for so long may be cut off from its cluster: others are asked.
const DOUBTED_AFTER: Duration = Duration::from_secs(1);
/// New epochs that one change may take.
const EPOCHS_MAX: u32 = 3;

/// One lane in one partition: at most one change of it is under way.
pub(super) struct Writer {
    lane: usize,
    identity: Option<ProducerIdentity>,
    next_sequence: u64,
    /// Something was sent with this sequence and has no certain outcome.
    in_doubt: bool,
    route: Route,
    stream: Option<(Arc<Link>, Arc<Channel>)>,
}

/// What becomes of a change after an attempt.
enum Verdict {
    /// It is over.
    Over(KvError),
    /// It is sent again when the route says so.
    Again(RequestError),
    /// The cluster tells of another leader: it is sent there.
    Moved,
    /// It is sent again under a new epoch.
    Renew(RequestError),
}

impl Writer {
    pub(super) fn new(map: &Map, partition: u32, lane: usize) -> Self {
        let route = Route::new(Arc::clone(&map.shared), map.topic.clone(), partition);
        Self { lane, identity: None, next_sequence: 0, in_doubt: false, route, stream: None }
    }

    /// Stores a change. When the future is dropped before it is done, the writer is in doubt.
    pub(super) async fn put(
        &mut self,
        map: &Map,
        request: &KvPutRequest,
        record: &Record,
    ) -> Result<KvPutResponse, KvError> {
        let (began, after) = (Instant::now(), map.shared.config().request_timeout);
        let deadline = began + after;
        if self.in_doubt {
            // By an earlier change.
            self.renew(map).await?;
        }
        let mut epochs = 0;
        loop {
            let was_in_doubt = self.in_doubt;
            let attempt = timeout_at(deadline, self.attempt(map, request, record));
            let verdict = match attempt.await {
                Ok(Ok(stored)) => {
                    (self.in_doubt, self.next_sequence) = (false, self.next_sequence + 1);
                    self.route.succeeded();
                    return Ok(stored);
                }
                Ok(Err(verdict)) => verdict,
                Err(_) => {
                    self.stream = None;
                    return Err(self.given_up(RequestError::Timeout { after }));
                }
            };
            let failed = match verdict {
                Verdict::Over(error) => return Err(error),
                Verdict::Moved => {
                    self.stream = None;
                    self.route.leader_changed();
                    continue;
                }
                Verdict::Renew(error) if !was_in_doubt && epochs < EPOCHS_MAX => {
                    epochs += 1;
                    self.renew(map).await?;
                    if epochs == 1 {
                        continue;
                    }
                    error
                }
                Verdict::Renew(error) => return Err(self.given_up(error)),
                Verdict::Again(error) => error,
            };
            self.stream = None;
            self.route.failed(&failed);
            if !self.in_doubt && began.elapsed() >= PATIENCE {
                return Err(failed.into());
            }
            if timeout_at(deadline, self.route.pause()).await.is_err() {
                return Err(self.given_up(failed));
            }
        }
    }

    fn given_up(&self, error: RequestError) -> KvError {
        match self.in_doubt {
            true => KvError::Unknown { reason: error.to_string().into() },
            false => KvError::Request(error),
        }
    }

    async fn attempt(
        &mut self,
        map: &Map,
        request: &KvPutRequest,
        record: &Record,
    ) -> Result<KvPutResponse, Verdict> {
        let batch = self.batch(map, record).await.map_err(Verdict::Over)?;
        let channel = match self.channel().await {
            Ok(channel) => channel,
            Err(error) if error.is_retriable() => return Err(Verdict::Again(error)),
            Err(error) => return Err(Verdict::Over(self.given_up(error))),
        };
        let was_in_doubt = std::mem::replace(&mut self.in_doubt, true);
        let asking = channel.request_with(request.clone(), batch, Owed::Answer);
        let doubtful = Instant::now() + DOUBTED_AFTER;
        let answer = tokio::select! {
            biased;
            answer = asking => answer,
            () = self.route.moved(Some(doubtful)) => return Err(Verdict::Moved),
        };
        match answer {
            Ok((stored, _)) => Ok(stored),
            Err(RequestError::Refused(refusal)) => {
                Err(self.refused(refusal, &request.condition, was_in_doubt))
            }
            Err(error) if error.is_retriable() => Err(Verdict::Again(error)),
            Err(error) => Err(Verdict::Over(self.given_up(error))),
        }
    }

    fn refused(
        &mut self,
        refusal: ServerError,
        condition: &KvCondition,
        was_in_doubt: bool,
    ) -> Verdict {
        let (code, detail) = (refusal.code, refusal.detail);
        // What is known to be stored, and what may be.
        let says_nothing = matches!(code, ErrorCode::Timeout | ErrorCode::DuplicateSequence);
        self.in_doubt = was_in_doubt || says_nothing;
        match code {
            ErrorCode::RevisionConflict => {
                let revision = detail.map(Revision);
                match was_in_doubt && !is_past(condition, revision) {
                    true => Verdict::Over(self.given_up(refusal.into())),
                    false => Verdict::Over(KvError::Conflict { revision }),
                }
            }
            ErrorCode::OutOfOrderSequence
            | ErrorCode::UnknownProducer
            | ErrorCode::StaleProducerEpoch => Verdict::Renew(refusal.into()),
            code if code.is_retriable() => Verdict::Again(refusal.into()),
            _ => match refusal.stale_fence().filter(|_| !self.in_doubt) {
                Some(highest) => Verdict::Over(KvError::StaleFence { highest }),
                None => Verdict::Over(self.given_up(refusal.into())),
            },
        }
    }

    /// The change as a batch of one record with the writer's sequence.
    async fn batch(&mut self, map: &Map, record: &Record) -> Result<Bytes, KvError> {
        let identity = match &self.identity {
            Some(identity) => identity,
            None => self.identity.insert(map.lanes.identity(map, self.lane).await?),
        };
        let mut builder = BatchBuilder::new(map.limits.clone());
        match builder.push(record) {
            Ok(PushOutcome::Added) => {}
            Ok(PushOutcome::Full) => unreachable!("the first record fits, or never does"),
            Err(error) => return Err(KvError::TooLarge(error.to_string().into())),
        }
        let ProducerIdentity { producer_id, epoch } = *identity;
        Ok(builder.finish(producer_id, epoch, self.next_sequence, Compression::None))
    }

    async fn channel(&mut self) -> Result<Arc<Channel>, RequestError> {
        if let Some((_, channel)) = &self.stream
            && !channel.is_closed()
            && !self.route.has_moved()
        {
            return Ok(Arc::clone(channel));
        }
        self.stream = None;
        let link = self.route.link().await?;
        let channel = link.produce_channel().await?;
        self.stream = Some((link, Arc::clone(&channel)));
        Ok(channel)
    }

    /// Begins a new epoch: nothing of the old one is stored any more from its first change on.
    async fn renew(&mut self, map: &Map) -> Result<(), RequestError> {
        let existing = self.identity.clone();
        let request = InitProducerRequest { existing };
        self.identity = Some(map.shared.request(request, Repeat::Freely).await?);
        (self.next_sequence, self.in_doubt) = (0, false);
        Ok(())
    }
}

/// Whether a change with this condition can never be carried out any more where its key has this revision.
fn is_past(condition: &KvCondition, has: Option<Revision>) -> bool {
    match condition {
        KvCondition::Revision(expected) => has.is_some_and(|has| has > Revision::from(*expected)),
        KvCondition::Always(_) | KvCondition::Absent(_) | KvCondition::Present(_) => false,
    }
}

//! One task per partition that numbers batches, sends them and deals with what comes back.
//!
//! The rules that keep "stored once, in order":
//! - A batch keeps its sequence and its bytes for as long as it may have been stored.
//! - After any failure nothing new is sent until all answers of the old attempts are in (or their
//!   stream is gone); then everything unacknowledged is sent again, oldest first.
//! - A sequence is given to other records only if the node certainly does not have it; else the
//!   driver goes on under a new epoch, and what may be stored is reported as unknown.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use plimsoll_protocol::api::{
    AckLevel, Durability, InitProducerRequest, ProduceRequest, ProducerIdentity,
};
use plimsoll_protocol::batch::{Compression, set_producer};
use plimsoll_protocol::error::ErrorCode;
use plimsoll_protocol::ids::{PartitionIndex, TopicName};
use tokio::time::{Instant, timeout, timeout_at};

use super::completion::{BatchAck, Completion};
use super::lane::{Answer, Lane, OpenBatch};
use super::options::ProducerOptions;
use crate::channel::{Channel, ChannelClosed, NotWritten, Waiter, decode_answer};
use crate::client::Shared;
use crate::error::{RequestError, SendError, ServerError, stale_fence};
use crate::link::Link;
use crate::metadata::Interest;
use crate::requests::Repeat;
use crate::route::Route;
use crate::trouble::{Told, Trouble};

/// A leader that owes an answer for so long may be cut off from its cluster: others are asked.
const DOUBTED_AFTER: Duration = Duration::from_secs(1);

/// See the module.
pub(crate) struct Driver {
    shared: Arc<Shared>,
    lane: Arc<Lane>,
    options: Arc<ProducerOptions>,
    topic: TopicName,
    /// The stream to the leader, with the link that keeps it open.
    stream: Option<(Arc<Link>, Arc<Channel>)>,
    /// Finds the leader.
    route: Route,
    identity: ProducerIdentity,
    next_sequence: u64,
    in_flight: VecDeque<InFlight>,
    next_attempt: u64,
    /// Something in `in_flight` must be sent again before anything new.
    resend: bool,
    /// A new epoch is needed before anything is sent.
    renew: bool,
    /// The leader is elsewhere than where `stream` leads.
    moved: bool,
    /// Keeps the topic's partitions known until the last record has its outcome.
    _interest: Arc<Interest>,
    trouble: Trouble,
    /// Why the whole producer is refused, once its fence was.
    stale: Arc<OnceLock<SendError>>,
    answers: Vec<Answer>,
}

/// A numbered batch without outcome.
struct InFlight {
    bytes: Bytes,
    base_sequence: u64,
    record_count: u32,
    completion: Arc<Completion>,
    opened_at: Instant,
    /// The attempt whose answer is awaited.
    awaiting: Option<(u64, Instant)>,
    /// An earlier attempt ended without an answer: the node may have it.
    maybe_stored: bool,
}

impl Driver {
    /// Starts the task. It ends when its lane is closed and drained.
    pub(crate) fn start(
        shared: Arc<Shared>,
        lane: Arc<Lane>,
        options: Arc<ProducerOptions>,
        topic: TopicName,
        identity: ProducerIdentity,
        interest: Arc<Interest>,
        told: Told,
        stale: Arc<OnceLock<SendError>>,
    ) {
        let route = Route::new(Arc::clone(&shared), topic.clone(), lane.partition);
        let driver = Self {
            shared,
            lane,
            options,
            topic,
            stream: None,
            route,
            identity,
            next_sequence: 0,
            in_flight: VecDeque::new(),
            next_attempt: 1,
            resend: false,
            renew: false,
            moved: false,
            _interest: interest,
            trouble: Trouble::none(told),
            stale,
            answers: Vec::new(),
        };
        tokio::spawn(driver.run());
    }

    async fn run(mut self) {
        loop {
            self.look_at_answers();
            self.give_up_what_is_too_old();
            if self.in_flight.is_empty() && self.lane.is_drained() {
                return;
            }
            if (self.resend || self.renew) && self.nothing_awaited() {
                self.recover().await;
                continue;
            }
            let mut look_again = None;
            while !self.resend && !self.renew {
                if !self.nothing_awaited() && self.route.has_moved() {
                    // The new leader takes nothing that follows what it has not got.
                    self.leave_the_old_leader();
                    break;
                }
                match self.lane.next_batch(self.in_flight.len()) {
                    Ok(batch) => self.send_new(batch).await,
                    Err(due) => {
                        look_again = due;
                        break;
                    }
                }
            }
            if !((self.resend || self.renew) && self.nothing_awaited()) {
                self.wait(look_again).await;
            }
        }
    }

    fn nothing_awaited(&self) -> bool {
        self.in_flight.iter().all(|batch| batch.awaiting.is_none())
    }

    /// Sleeps until the lane has news, an answer is overdue, or something becomes too old.
    async fn wait(&mut self, look_again: Option<Instant>) {
        let (request, delivery) =
            (self.shared.config().request_timeout, self.options.delivery_timeout);
        let due = move |batch: &InFlight| {
            let (_, since) = batch.awaiting?;
            Some((since + request).min(batch.opened_at + delivery))
        };
        let overdue = self.in_flight.iter().filter_map(due).min();
        let asked = self.in_flight.iter().filter_map(|batch| Some(batch.awaiting?.1)).min();
        let slow = asked.map(|since| since + DOUBTED_AFTER);
        let refused = self.route.doubted_since().filter(|_| self.resend);
        let doubtful = slow.into_iter().chain(refused).min();
        // While something is in flight, what waits behind it is not given up.
        let too_old = self.lane.oldest().filter(|_| self.in_flight.is_empty());
        let too_old = too_old.map(|since| since + delivery);
        let deadline = [look_again, overdue, too_old].into_iter().flatten().min();
        let (lane, awaiting) = (Arc::clone(&self.lane), !self.nothing_awaited());
        let news = async {
            tokio::select! {
                biased;
                () = lane.wake.notified() => false,
                () = self.route.moved(doubtful), if awaiting => true,
            }
        };
        let woken = match deadline {
            None => Ok(news.await),
            Some(deadline) => timeout_at(deadline, news).await,
        };
        if woken == Ok(true) {
            self.leave_the_old_leader();
        }
        if woken.is_err() {
            self.give_up_what_is_overdue(due);
        }
    }

    /// Expects no answer any more to what should have had one, whichever stream it went by, and ends
    /// the present stream: that answers everything else on it, and all is sent again on a new one.
    fn give_up_what_is_overdue(&mut self, due: impl Fn(&InFlight) -> Option<Instant>) {
        let now = Instant::now();
        let mut is_late = false;
        for batch in &mut self.in_flight {
            if due(batch).is_some_and(|due| due <= now) {
                batch.awaiting = None;
                batch.maybe_stored = true;
                is_late = true;
            }
        }
        if !is_late {
            return;
        }
        self.resend = true;
        self.miss(&RequestError::Timeout { after: self.shared.config().request_timeout });
        if let Some((_, channel)) = self.stream.take() {
            channel.close("no answer from the node in time");
        }
    }

    /// Another node leads: what the old one was asked may be stored there or not, and the new one tells
    /// which of it is a duplicate. An answer that still comes from the old leader counts if it
    /// says "stored"; the others are of no more interest.
    fn leave_the_old_leader(&mut self) {
        for batch in self.in_flight.iter_mut().filter(|batch| batch.awaiting.is_some()) {
            batch.awaiting = None;
            batch.maybe_stored = true;
        }
        (self.moved, self.resend) = (true, true);
        self.route.leader_changed();
    }

    async fn send_new(&mut self, batch: OpenBatch) {
        let record_count = batch.builder.record_count();
        let base_sequence = self.next_sequence;
        let ProducerIdentity { producer_id, epoch } = self.identity;
        let compression = self.options.compression;
        let builder = batch.builder;
        let finish = move || builder.finish(producer_id, epoch, base_sequence, compression);
        let bytes = if compression == Compression::None {
            finish()
        } else {
            match tokio::task::spawn_blocking(finish).await {
                Ok(bytes) => bytes,
                Err(error) => {
                    let reason = format!("compression failed: {error}").into();
                    batch.completion.complete(Err(SendError::NotSent { reason }));
                    self.lane.resolve(1, batch.completion.failure());
                    return;
                }
            }
        };
        self.next_sequence += u64::from(record_count);
        self.in_flight.push_back(InFlight {
            bytes,
            base_sequence,
            record_count,
            completion: batch.completion,
            opened_at: batch.opened_at,
            awaiting: None,
            maybe_stored: false,
        });
        if let Err(error) = self.transmit(self.in_flight.len() - 1).await {
            self.miss(&error);
            self.resend = true;
        }
    }

    /// An attempt failed and there will be another.
    fn miss(&mut self, error: &RequestError) {
        self.route.failed(error);
        self.meet(error);
    }

    /// Remembers what keeps records from being stored, and tells of it when it lasts.
    fn meet(&mut self, error: &RequestError) {
        let (topic, partition) = (&self.topic, self.lane.partition);
        tracing::debug!(%topic, partition, %error, "an attempt to send failed");
        if let Some(reason) = self.trouble.meet(error.to_string(), Instant::now()) {
            tracing::warn!(%topic, partition, reason, "records cannot be sent, trying again");
        }
    }

    /// Sends one batch of `in_flight`. An error means that this attempt never left.
    async fn transmit(&mut self, place: usize) -> Result<(), RequestError> {
        let channel = self.channel().await?;
        let attempt = self.next_attempt;
        self.next_attempt += 1;
        let request = ProduceRequest {
            topic: self.topic.clone(),
            partition: PartitionIndex(self.lane.partition),
            acks: self.options.acks,
            fence: self.options.fence.clone(),
        };
        let batch = &mut self.in_flight[place];
        batch.awaiting = Some((attempt, Instant::now()));
        let (lane, completion) = (Arc::clone(&self.lane), Arc::clone(&batch.completion));
        let waiter = Waiter::Once(Box::new(move |answer| {
            let outcome = take_answer(answer, lane.partition, &completion);
            lane.answered(Answer { attempt, outcome });
        }));
        let payload = [batch.bytes.clone()];
        let after = self.options.delivery_timeout;
        let deadline = batch.opened_at + after;
        let sent = channel.send_before(deadline, &request, &payload, waiter).await;
        let batch = &mut self.in_flight[place];
        match sent {
            Ok(_) => {
                // The answer has its time from here on, however long the frame took.
                batch.awaiting = Some((attempt, Instant::now()));
                Ok(())
            }
            Err(NotWritten::NoTurn) => {
                batch.awaiting = None;
                Err(RequestError::Timeout { after })
            }
            Err(NotWritten::Closed(closed)) => {
                // The frame may have left in part or whole before the stream broke.
                batch.awaiting = None;
                batch.maybe_stored = true;
                self.stream = None;
                Err(closed.into())
            }
        }
    }

    async fn channel(&mut self) -> Result<Arc<Channel>, RequestError> {
        // While answers are awaited on the stream, it is not left in passing: see `run`.
        if let Some((_, channel)) = &self.stream
            && !channel.is_closed()
            && (!self.nothing_awaited() || !self.route.has_moved())
        {
            return Ok(Arc::clone(channel));
        }
        self.stream = None;
        let after = self.shared.config().request_timeout.min(self.options.delivery_timeout);
        let connecting = async {
            let link = self.route.link().await?;
            let channel = link.produce_channel().await?;
            Ok::<_, RequestError>((link, channel))
        };
        let (link, channel) =
            timeout(after, connecting).await.unwrap_or(Err(RequestError::Timeout { after }))?;
        self.stream = Some((link, Arc::clone(&channel)));
        Ok(channel)
    }

    fn look_at_answers(&mut self) {
        let mut answers = std::mem::take(&mut self.answers);
        self.lane.take_answers(&mut answers);
        for answer in answers.drain(..) {
            let place = self.in_flight.iter().position(
                |batch| matches!(batch.awaiting, Some((attempt, _)) if attempt == answer.attempt),
            );
            let Some(place) = place else { continue };
            self.in_flight[place].awaiting = None;
            if let Err(error) = answer.outcome {
                self.failed(place, error);
            } else {
                self.route.succeeded();
                self.trouble.over();
            }
        }
        self.answers = answers;
        self.pop_resolved();
    }

    /// Batches leave `in_flight` in order, so that `resolved` counts a prefix.
    fn pop_resolved(&mut self) {
        let (mut count, mut failure) = (0, None);
        while self.in_flight.front().is_some_and(|batch| batch.completion.is_done()) {
            if let Some(batch) = self.in_flight.pop_front() {
                count += 1;
                failure = failure.or(batch.completion.failure());
            }
        }
        if count > 0 {
            self.lane.resolve(count, failure);
        }
    }

    fn is_first_open(&self, place: usize) -> bool {
        self.in_flight.iter().take(place).all(|batch| batch.completion.is_done())
    }

    fn failed(&mut self, place: usize, error: RequestError) {
        // What follows a batch that failed is out of order, which says nothing of the cause.
        let follows = error.code() == Some(ErrorCode::OutOfOrderSequence);
        if error.is_retriable() && !follows {
            self.miss(&error);
        }
        let refusal = match error {
            RequestError::Refused(refusal) if self.is_stale(&refusal) => return self.give_up_all(),
            RequestError::Refused(refusal) => refusal,
            _ => {
                self.in_flight[place].maybe_stored = true;
                self.resend = true;
                return;
            }
        };
        match refusal.code {
            ErrorCode::NotLeader => {
                // The stream is left when nothing is awaited on it any more.
                self.moved = true;
                self.resend = true;
            }
            ErrorCode::Timeout => {
                self.in_flight[place].maybe_stored = true;
                self.resend = true;
            }
            // The node may have lost the leadership: whom the picture names is asked next.
            ErrorCode::NoQuorum | ErrorCode::ShuttingDown => {
                self.moved = true;
                self.resend = true;
            }
            // The batch before it has not been taken yet: this one follows it again.
            ErrorCode::OutOfOrderSequence if !self.is_first_open(place) => self.resend = true,
            ErrorCode::OutOfOrderSequence | ErrorCode::UnknownProducer => {
                // The node does not know what this driver has been told is stored, or an unknown
                // outcome turned out not to be continued: only a new epoch goes on from here.
                self.renew = true;
                self.resend = true;
            }
            ErrorCode::StaleProducerEpoch => self.fenced(),
            code if code.is_retriable() => self.resend = true,
            _ => {
                let last = place + 1 == self.in_flight.len();
                let batch = &self.in_flight[place];
                let outcome = if batch.maybe_stored {
                    given_up(
                        true,
                        &format!("sent again after a lost answer and refused: {refusal}"),
                    )
                } else {
                    SendError::Refused(refusal)
                };
                batch.completion.complete(Err(outcome));
                if last && !batch.maybe_stored {
                    self.next_sequence = batch.base_sequence;
                } else {
                    self.renew = true;
                }
            }
        }
    }

    /// Whether the producer's fence is refused, now or before.
    fn is_stale(&self, refusal: &ServerError) -> bool {
        if let Some(stale) = stale_fence(refusal) {
            // What another partition's leader said first stands.
            let _ = self.stale.set(stale);
        }
        self.stale.get().is_some()
    }

    /// Nothing is stored any more under this fence. What may be stored of what was sent before is unknown,
    /// but for what has an answer yet to come.
    fn give_up_all(&mut self) {
        let Some(stale) = self.stale.get().cloned() else { return };
        for batch in self.lane.refuse(stale.clone()) {
            batch.completion.complete(Err(stale.clone()));
            self.lane.resolve(1, Some(stale.clone()));
        }
        for batch in self.in_flight.iter().filter(|batch| batch.awaiting.is_none()) {
            let outcome = match batch.maybe_stored {
                true => {
                    given_up(true, &format!("sent again after a lost answer and refused: {stale}"))
                }
                false => stale.clone(),
            };
            batch.completion.complete(Err(outcome));
        }
        (self.resend, self.renew) = (false, false);
    }

    fn fenced(&mut self) {
        for batch in self.lane.refuse(SendError::Fenced) {
            batch.completion.complete(Err(SendError::Fenced));
            self.lane.resolve(1, Some(SendError::Fenced));
        }
        for batch in &self.in_flight {
            batch.completion.complete(Err(SendError::Fenced));
        }
        (self.resend, self.renew) = (false, false);
    }

    fn give_up_what_is_too_old(&mut self) {
        let Some(limit) = Instant::now().checked_sub(self.options.delivery_timeout) else { return };
        let mut reason = format!("no acknowledgement within {:?}", self.options.delivery_timeout);
        if let Some(last) = self.trouble.reason() {
            reason.push_str(&format!("; the last attempt failed: {last}"));
        }
        for batch in &self.in_flight {
            if batch.opened_at < limit && batch.awaiting.is_none() && !batch.completion.is_done() {
                batch.completion.complete(Err(given_up(batch.maybe_stored, &reason)));
                self.renew = true;
            }
        }
        self.pop_resolved();
        if self.in_flight.is_empty() {
            for batch in self.lane.take_older_than(limit) {
                batch.completion.complete(Err(given_up(false, &reason)));
                self.lane.resolve(1, batch.completion.failure());
            }
        }
    }

    /// After a pause: a new epoch where one is needed, then everything unacknowledged again.
    async fn recover(&mut self) {
        if std::mem::take(&mut self.moved) {
            self.stream = None;
        }
        self.route.pause().await;
        self.give_up_what_is_too_old();
        if self.renew
            && let Err(error) = self.take_new_epoch().await
        {
            self.meet(&error);
            return;
        }
        for place in 0..self.in_flight.len() {
            if self.in_flight[place].completion.is_done() {
                continue;
            }
            if let Err(error) = self.transmit(place).await {
                self.miss(&error);
                return;
            }
        }
        self.resend = false;
    }

    async fn take_new_epoch(&mut self) -> Result<(), RequestError> {
        let request = InitProducerRequest { existing: Some(self.identity.clone()) };
        self.identity = self.shared.request(request, Repeat::Freely).await?;
        let reason = "the node lost track of this producer after a failure";
        for batch in self.in_flight.iter().filter(|batch| batch.maybe_stored) {
            batch.completion.complete(Err(given_up(true, reason)));
        }
        self.pop_resolved();
        self.next_sequence = 0;
        for batch in &mut self.in_flight {
            if batch.completion.is_done() {
                continue;
            }
            let mut bytes = BytesMut::from(batch.bytes.as_ref());
            let ProducerIdentity { producer_id, epoch } = self.identity;
            set_producer(&mut bytes, producer_id, epoch, self.next_sequence)
                .expect("the batch was built by this driver");
            batch.bytes = bytes.freeze();
            batch.base_sequence = self.next_sequence;
            self.next_sequence += u64::from(batch.record_count);
        }
        self.renew = false;
        self.resend = true;
        Ok(())
    }
}

impl Drop for Driver {
    /// Reached early only when the runtime ends: nobody may wait for ever.
    fn drop(&mut self) {
        let reason = "the client's runtime ended";
        for batch in &self.in_flight {
            batch.completion.complete(Err(given_up(true, reason)));
        }
        let closed = SendError::NotSent { reason: reason.into() };
        let queued = self.lane.refuse(closed.clone());
        for batch in &queued {
            batch.completion.complete(Err(closed.clone()));
        }
        let left = self.in_flight.len() + queued.len();
        if left > 0 {
            self.lane.resolve(left as u64, Some(closed));
        }
    }
}

fn given_up(maybe_stored: bool, reason: &str) -> SendError {
    let reason: Arc<str> = reason.into();
    if maybe_stored { SendError::OutcomeUnknown { reason } } else { SendError::NotSent { reason } }
}

/// Runs in the task that reads the stream: sets the outcome of a stored batch at once.
fn take_answer(
    answer: Result<plimsoll_protocol::frame::Frame, ChannelClosed>,
    partition: u32,
    completion: &Completion,
) -> Result<(), RequestError> {
    let frame = answer.map_err(RequestError::from)?;
    let stored = match decode_answer::<ProduceRequest>(frame) {
        Ok((stored, _)) => BatchAck {
            partition,
            base_offset: (stored.reached != AckLevel::None).then_some(stored.base_offset),
            reached: stored.reached,
            durability: stored.durability,
            duplicate: stored.duplicate,
        },
        Err(RequestError::Refused(refusal)) if refusal.code == ErrorCode::DuplicateSequence => {
            BatchAck {
                partition,
                base_offset: None,
                reached: AckLevel::Quorum,
                durability: Durability::Durable,
                duplicate: true,
            }
        }
        Err(error) => return Err(error),
    };
    completion.complete(Ok(stored));
    Ok(())
}

//! What clients say of deliveries, commits, and how channels and the connection give back what they had.

use std::sync::Arc;

use plimsoll_amqp::session::{
    Answer, Ask, ChannelKey, Outcome as Said, Publish, Settled as Delivered, Settlement,
};

use super::actor::not_of_streams;
use super::{Connection, Finished};
use crate::backend::{Attachment, Outcome, Settled};
use crate::catalog::QueueEntry;
use crate::message::of_message_ref;

const fn outcome(said: Said) -> Outcome {
    match said {
        Said::Accept => Outcome::Accept,
        Said::Requeue => Outcome::Release,
        Said::Discard => Outcome::Reject,
    }
}

impl Connection {
    /// What the client says of deliveries. Readers of streams can only say that they are done: a stream has
    /// no place to put a message back into.
    pub(super) fn settle_of_client(&mut self, key: ChannelKey, settlement: &Settlement) {
        self.settle(settlement);
        if settlement.outcome == Said::Accept {
            return;
        }
        let ids = settlement.deliveries.iter().map(|one| of_message_ref(one.message).0);
        let stream = ids
            .filter_map(|id| self.holders.get(&id))
            .find_map(|holder| holder.queue.is_stream().then(|| Arc::clone(&holder.queue)));
        if let Some(queue) = stream {
            let what = "basic.nack and basic.reject";
            let fault = not_of_streams(what, &queue, self.host().vhost());
            self.session.refuse(key, fault);
        }
    }

    pub(super) fn settle(&mut self, settlement: &Settlement) {
        let said = outcome(settlement.outcome);
        let done = self.each_holder(&settlement.deliveries, said, |attachment, settled| {
            attachment.settle(settled);
        });
        if !done.is_empty() {
            self.detach(done, None);
        }
        // Their windows have room.
        self.room_grew = true;
    }

    /// Calls `settle` with what each holder had, in order; those that have ended had nothing. Answers with
    /// retired ones that hold no more, to be detached once what was settled is said: what is held then comes
    /// again.
    fn each_holder(
        &mut self,
        deliveries: &[Delivered],
        outcome: Outcome,
        mut settle: impl FnMut(&Arc<dyn Attachment>, Vec<Settled>),
    ) -> Vec<(Arc<dyn Attachment>, Arc<QueueEntry>, bool)> {
        let mut done = Vec::new();
        let holder_of = |one: &Delivered| of_message_ref(one.message).0;
        for run in deliveries.chunk_by(|one, other| holder_of(one) == holder_of(other)) {
            let Some(id) = run.first().map(holder_of) else { continue };
            let Some(holder) = self.holders.get_mut(&id) else { continue };
            let settled = run.iter().map(|one| {
                let (_, offset, attempt) = of_message_ref(one.message);
                Settled { offset, attempt, outcome }
            });
            holder.held = holder.held.saturating_sub(run.len());
            let is_done = holder.retired && holder.held == 0;
            let Some(attachment) = holder.attachment.clone() else { continue };
            settle(&attachment, settled.collect());
            if is_done && let Some(holder) = self.holders.remove(&id) {
                done.push((attachment, holder.queue, false));
            }
        }
        done
    }

    /// Puts back what a commit that is not carried out would have settled.
    pub(super) fn put_back(&mut self, settlements: Vec<Settlement>) {
        for settlement in settlements {
            self.settle(&Settlement { outcome: Said::Requeue, ..settlement });
        }
    }

    /// Publishes what was published, and settles what was settled once it is stored.
    pub(super) fn commit(
        &mut self,
        key: ChannelKey,
        publishes: Vec<Publish>,
        settlements: Vec<Settlement>,
    ) {
        self.channels.entry(key).or_default().refused = false;
        for publish in publishes {
            if let Err(fault) = self.try_publish(key, publish) {
                self.put_back(settlements);
                return self.session.answer(key, Answer::Refused(fault));
            }
        }
        self.after_publishes(key, Ask::Commit { publishes: Vec::new(), settlements });
    }

    pub(super) fn finish_commit(&mut self, key: ChannelKey, settlements: Vec<Settlement>) {
        if self.channels.get(&key).is_some_and(|channel| channel.refused) {
            self.put_back(settlements);
            return self.session.answer(key, Answer::Refused(Self::partial_commit()));
        }
        let (mut all, mut done) = (Vec::new(), Vec::new());
        for Settlement { outcome: said, deliveries } in settlements {
            done.extend(self.each_holder(&deliveries, outcome(said), |attachment, settled| {
                all.push((Arc::clone(attachment), settled));
            }));
        }
        self.room_grew = true;
        self.detaching += 1;
        self.operations.push(Box::pin(async move {
            for (attachment, settled) in all {
                attachment.settle_durably(settled).await;
            }
            for (attachment, ..) in done {
                attachment.detach().await;
            }
            Finished::Detached(Some(key))
        }));
    }

    /// Takes back what a channel had, then answers.
    pub(super) fn close_channel(&mut self, key: ChannelKey, unsettled: &[Delivered]) {
        if let Some(replies) = self.channels.remove(&key).and_then(|channel| channel.replies) {
            self.gateway.close_address(&replies.address);
        }
        // A holder of the channel gives back all that it holds when it is detached.
        let ours: Vec<u32> = self
            .holders
            .iter()
            .filter(|(_, holder)| holder.channel == key && holder.is_of_consumer())
            .map(|(id, _)| *id)
            .collect();
        let mut gone = self.take_holders(&ours);
        gone.extend(self.each_holder(unsettled, Outcome::Release, |attachment, settled| {
            attachment.settle(settled);
        }));
        self.detach(gone, Some(key));
    }

    fn take_holders(&mut self, ids: &[u32]) -> Vec<(Arc<dyn Attachment>, Arc<QueueEntry>, bool)> {
        let taken = ids.iter().filter_map(|id| self.holders.remove(id));
        let attached = taken.filter_map(|holder| {
            holder.room.close();
            let is_consumer = holder.is_consumer();
            Some((holder.attachment?, holder.queue, is_consumer))
        });
        attached.collect()
    }

    /// Carries out the end of the connection, once its channels are closed and its publishes stored.
    pub(super) fn end_if_done(&mut self) {
        if !self.ending || self.detaching > 0 || self.publishes.len() > 0 {
            return;
        }
        if !self.holders.is_empty() {
            self.getters.clear();
            let all: Vec<u32> = self.holders.keys().copied().collect();
            let gone = self.take_holders(&all);
            if !gone.is_empty() {
                return self.detach(gone, None);
            }
        }
        self.ending = false;
        let actor = if self.view.is_some() { Some(self.actor()) } else { None };
        let owns = self.may_own;
        self.detaching += 1;
        self.operations.push(Box::pin(async move {
            if let Some(actor) = actor.filter(|_| owns) {
                actor.forget().await;
            }
            Finished::Detached(Some(ChannelKey::CONNECTION))
        }));
    }
}

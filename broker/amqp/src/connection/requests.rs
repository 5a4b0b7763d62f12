//! Who may come in, which request goes where, and what becomes of answers.
//!
//! Source: RabbitMQ, "Access Control", "Virtual Hosts"; its texts and codes.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use plimsoll_amqp::auth::Credentials;
use plimsoll_amqp::error::{Fault, ReplyCode};
use plimsoll_amqp::session::{Answer, Ask, ChannelKey, Delivery, MessageRef, Request};
use plimsoll_amqp::shortstr::ShortStr;

use super::actor::Actor;
use super::{Connection, Finished, View, watch_access, watch_blocked};
use crate::catalog::User;
use crate::inbox::Event;
use crate::passwords::PasswordHash;

/// The tag of users that may send messages in the name of others.
const IMPERSONATOR: &str = "impersonator";

impl Connection {
    pub(super) fn carry_out(&mut self, request: Request) {
        let key = request.channel;
        match request.ask {
            Ask::Publish(publish) => self.publish(key, publish),
            Ask::Settle(settlement) => self.settle_of_client(key, &settlement),
            Ask::Login { credentials, .. } => {
                let answer = self.login(&credentials).unwrap_or_else(Answer::Refused);
                self.session.answer(key, answer);
            }
            Ask::OpenHost { vhost } => {
                let opened = self.open_host(&vhost);
                self.session.answer(key, opened.map_or_else(Answer::Refused, |()| Answer::Done));
            }
            // Passwords do not expire: whatever it is, nothing changes. RabbitMQ answers the same.
            Ask::UpdateSecret { .. } => self.session.answer(key, Answer::Done),
            Ask::CloseConnection => self.ending = true,
            Ask::CheckPublish { exchange, routing_key: _ } => {
                if let Err(fault) = self.check_publish(&exchange) {
                    self.session.refuse(key, fault);
                }
            }
            Ask::Consume(consume) => self.consume(key, consume),
            Ask::Cancel { consumer_tag } => self.cancel(key, &consumer_tag),
            Ask::Commit { publishes, settlements } => self.commit(key, publishes, settlements),
            ask @ (Ask::Get { .. }
            | Ask::PurgeQueue(_)
            | Ask::DeleteQueue(_)
            | Ask::DeclareQueue(_)
            | Ask::CloseChannel { .. }) => self.after_publishes(key, ask),
            ask @ (Ask::DeclareExchange(_)
            | Ask::DeleteExchange(_)
            | Ask::BindExchange(_)
            | Ask::UnbindExchange(_)
            | Ask::BindQueue(_)
            | Ask::UnbindQueue(_)) => self.ask_actor(key, ask),
        }
    }

    /// Carries out what sees the channel's publishes, once they are stored.
    pub(super) fn after_publishes(&mut self, key: ChannelKey, ask: Ask) {
        let channel = self.channels.entry(key).or_default();
        if channel.in_flight == 0 {
            return self.at_barrier(key, ask);
        }
        // Only the end of a channel does not wait for the answer to what it asked before.
        if let Some(Ask::Commit { settlements, .. }) = channel.barrier.replace(ask) {
            self.put_back(settlements);
        }
    }

    pub(super) fn at_barrier(&mut self, key: ChannelKey, ask: Ask) {
        match ask {
            Ask::Get { queue, no_ack } => self.get(key, &queue, no_ack),
            Ask::Commit { settlements, .. } => self.finish_commit(key, settlements),
            Ask::CloseChannel { unsettled, .. } => self.close_channel(key, &unsettled),
            Ask::DeclareQueue(declare) => {
                self.may_own |= declare.exclusive;
                self.ask_actor(key, Ask::DeclareQueue(declare));
            }
            ask => self.ask_actor(key, ask),
        }
    }

    fn ask_actor(&mut self, key: ChannelKey, ask: Ask) {
        let actor = self.actor();
        self.operations.push(Box::pin(async move {
            let answer = actor.perform(ask).await.unwrap_or_else(Answer::Refused);
            Finished::Answered(key, answer)
        }));
    }

    pub(super) fn actor(&self) -> Actor {
        let user = self.user.as_ref().expect("channels are opened after the login");
        Actor {
            gateway: Arc::clone(&self.gateway),
            host: Arc::clone(self.host()),
            user: Arc::clone(user),
            id: self.id,
        }
    }

    /// Who is logged in.
    pub(super) fn user(&self) -> Arc<User> {
        Arc::clone(self.user.as_ref().expect("channels are opened after the login"))
    }

    fn login(&mut self, credentials: &Credentials) -> Result<Answer, Fault> {
        let Credentials { user: name, password } = credentials;
        let refused = |reason: &'static str| {
            self.gateway.login_failed(self.peer.ip());
            tracing::warn!(user = %name, peer = %self.peer, reason, "AMQP login refused");
            Fault::new(ReplyCode::AccessRefused, reason)
        };
        if !self.gateway.may_log_in(self.peer.ip()) {
            return Err(Fault::new(ReplyCode::AccessRefused, "too many logins from there failed"));
        }
        let user = self.backend.user(name);
        // An unknown user costs the time of a known one.
        let hash = user.as_ref().and_then(|user| user.password);
        let is_right = hash.unwrap_or_else(|| PasswordHash::of(&[], [0; 4])).verify(password);
        let Some(user) = user.filter(|_| hash.is_some() && is_right) else {
            return Err(refused("unknown user or wrong password"));
        };
        let from_here = self.peer.ip().to_canonical().is_loopback();
        if !from_here && self.gateway.config.loopback_users.contains(name) {
            return Err(refused("this user can only connect from this machine"));
        }
        let may_impersonate = user.tags.iter().any(|tag| tag == IMPERSONATOR);
        self.user = Some(user);
        Ok(Answer::Login { may_impersonate })
    }

    fn open_host(&mut self, vhost: &ShortStr) -> Result<(), Fault> {
        let refused = |text: String| Fault::new(ReplyCode::NotAllowed, text);
        let host = self.gateway.host(vhost);
        let host = host.ok_or_else(|| refused(format!("vhost {vhost} not found")))?;
        let user = &self.user().name;
        if !host.read().lets_in(user) {
            return Err(refused(format!("access to vhost '{vhost}' refused for user '{user}'")));
        }
        let place = self.backend.take_place(self.peer.ip());
        let place =
            place.map_err(|full| refused(format!("access to vhost '{vhost}' refused: {full}")));
        self.place = Some(place?);
        // Marked as unseen: what changes from here on is seen.
        let watch = host.watch();
        let generation = host.read().generation();
        self.view = Some(View { watch, host, generation });
        Ok(())
    }

    pub(super) fn event(&mut self, event: Event) {
        match event {
            Event::Published { token, outcome } => self.published(token, outcome),
            Event::Delivered { holder, delivery } => self.delivered(holder, delivery),
            Event::Ended { holder, end } => self.holder_ended(holder, end),
            Event::Replied { channel, reply } => {
                let replies = self.channels.get_mut(&channel).and_then(|c| c.replies.as_mut());
                if let Some(replies) = replies {
                    replies.queue.push_back(reply);
                    self.pass_on_replies(channel);
                }
            }
        }
    }

    pub(super) fn finished(&mut self, finished: Finished) {
        match finished {
            Finished::Answered(key, answer) => self.session.answer(key, answer),
            Finished::Attached { holder, queue, result } => self.attached(holder, queue, result),
            Finished::Pulled { holder, get, result } => self.pulled(holder, get, result),
            Finished::Detached(answered) => {
                self.detaching -= 1;
                if let Some(key) = answered {
                    // Its exclusive queues are forgotten.
                    self.may_own &= key != ChannelKey::CONNECTION;
                    self.session.answer(key, Answer::Done);
                }
            }
            Finished::Blocked(blocked) => {
                match &*blocked.borrow() {
                    Some(reason) => self.session.block(reason),
                    None => self.session.unblock(),
                }
                self.watching[0] = watch_blocked(blocked);
            }
            Finished::AccessChanged(access) => {
                // Before the look: what changes behind it is seen again. Of its virtual host it is looked at
                // in each round.
                self.watching[1] = watch_access(access);
                if let Some(user) = &self.user
                    && self.backend.user(&user.name).is_none()
                {
                    let text = format!("user '{}' is deleted", user.name);
                    self.session.shut_down(&text);
                }
            }
        }
    }

    /// Gives direct replies to the channel's consumer of them, as far as it has room.
    pub(super) fn pass_on_replies(&mut self, key: ChannelKey) {
        let replies = self.channels.get_mut(&key).and_then(|channel| channel.replies.as_mut());
        let Some(replies) = replies else { return };
        while self.session.room(key, &replies.consumer_tag) > 0 {
            let Some(reply) = replies.queue.pop_front() else { return };
            replies.waiting.fetch_sub(reply.bytes(), Ordering::Relaxed);
            let delivery = Delivery {
                // Never settled: the consumer is one without acknowledgements.
                message: MessageRef { queue: 0, message: 0 },
                redelivered: false,
                exchange: ShortStr::EMPTY,
                routing_key: reply.address,
                properties: reply.properties,
                body: reply.body,
            };
            if self.session.deliver(key, &replies.consumer_tag, delivery).is_err() {
                return;
            }
        }
    }
}

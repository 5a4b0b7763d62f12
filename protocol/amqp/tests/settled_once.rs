//! Whatever a client and a broker do, in whatever order: each delivery comes back to the broker once,
//! settled or given up, and a session holds no more than what is out.

mod model {
    pub mod client;
}

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use plimsoll_amqp::error::{Fault, ReplyCode};
use plimsoll_amqp::methods::*;
use plimsoll_amqp::session::*;
use proptest::prelude::*;

use model::client::*;

const TAGS: [&str; 2] = ["a", "b"];

#[derive(Debug, Clone, Copy)]
enum Step {
    Deliver(usize),
    Get,
    Ack {
        tag: u64,
        multiple: bool,
    },
    Nack {
        tag: u64,
        multiple: bool,
        requeue: bool,
    },
    Recover,
    Qos {
        count: u16,
        global: bool,
    },
    Cancel(usize),
    Consume(usize),
    TxSelect,
    Commit,
    Rollback,
    Publish,
    Close,
    /// The broker carries out so many requests.
    Serve(usize),
    /// And refuses the next that waits.
    RefuseNext,
    RefuseChannel,
}

fn any_step() -> impl Strategy<Value = Step> {
    let tag = || 0u64..12;
    prop_oneof![
        8 => (0usize..2).prop_map(Step::Deliver),
        1 => Just(Step::Get),
        4 => (tag(), any::<bool>()).prop_map(|(tag, multiple)| Step::Ack { tag, multiple }),
        2 => (tag(), any::<bool>(), any::<bool>())
            .prop_map(|(tag, multiple, requeue)| Step::Nack { tag, multiple, requeue }),
        1 => Just(Step::Recover),
        1 => (0u16..4, any::<bool>()).prop_map(|(count, global)| Step::Qos { count, global }),
        1 => (0usize..2).prop_map(Step::Cancel),
        2 => (0usize..2).prop_map(Step::Consume),
        2 => Just(Step::TxSelect),
        2 => Just(Step::Commit),
        1 => Just(Step::Rollback),
        1 => Just(Step::Publish),
        1 => Just(Step::Close),
        8 => (1usize..4).prop_map(Step::Serve),
        1 => Just(Step::RefuseNext),
        1 => Just(Step::RefuseChannel),
    ]
}

/// How often what is rare happened, and settled something.
#[derive(Debug, Default, Clone, Copy)]
struct Seen {
    committed: usize,
    commit_refused: usize,
    commit_overtaken: usize,
    ended_in_transaction: usize,
}

struct Run {
    client: Client,
    /// Requests that were taken, not begun.
    taken: VecDeque<Request>,
    next_message: u64,
    /// Messages that are out, on which channel life.
    out: BTreeMap<u64, ChannelKey>,
    back: BTreeSet<u64>,
    key: Option<ChannelKey>,
    in_transaction: bool,
    refuse_next: bool,
    /// How often what is rare happened.
    seen: Seen,
    /// Tags that the client heard and has not used, so that most of its acks are right.
    heard: Vec<u64>,
}

impl Run {
    fn new() -> Self {
        let client = Client::open(SessionConfig::default());
        Self {
            client,
            taken: VecDeque::new(),
            next_message: 0,
            out: BTreeMap::new(),
            back: BTreeSet::new(),
            key: None,
            in_transaction: false,
            refuse_next: false,
            seen: Seen::default(),
            heard: Vec::new(),
        }
    }

    fn come_back(&mut self, deliveries: &[Settled]) {
        for settled in deliveries {
            let message = settled.message.message;
            assert!(self.out.remove(&message).is_some(), "{message} was not out");
            assert!(self.back.insert(message), "{message} comes back twice");
        }
    }

    fn new_message(&mut self, key: ChannelKey) -> Delivery {
        self.next_message += 1;
        self.out.insert(self.next_message, key);
        delivery(self.next_message)
    }

    fn serve_one(&mut self) -> bool {
        while let Some(request) = self.client.session.poll_request() {
            self.taken.push_back(request);
        }
        let Some(Request { channel, ask }) = self.taken.pop_front() else { return false };
        let wanted = channel.number == 0 || self.client.session.is_live(channel);
        let answer = match ask {
            Ask::Settle(settlement) => {
                self.come_back(&settlement.deliveries);
                return true;
            }
            Ask::CloseChannel { unsettled, .. } => {
                let ended = self.in_transaction && self.key == Some(channel);
                self.seen.ended_in_transaction += usize::from(ended && !unsettled.is_empty());
                self.come_back(&unsettled);
                self.key = self.key.filter(|key| *key != channel);
                Answer::Done
            }
            Ask::Publish(_) | Ask::CheckPublish { .. } => return true,
            // A commit that is not carried out: the broker puts back what it would have settled.
            Ask::Commit { settlements, .. } if !wanted => {
                self.seen.commit_overtaken += usize::from(!settlements.is_empty());
                settlements.iter().for_each(|one| self.come_back(&one.deliveries));
                return true;
            }
            Ask::Commit { settlements, .. } if std::mem::take(&mut self.refuse_next) => {
                self.seen.commit_refused += usize::from(!settlements.is_empty());
                settlements.iter().for_each(|one| self.come_back(&one.deliveries));
                Answer::Refused(Fault::new(ReplyCode::PreconditionFailed, "partial tx completion"))
            }
            Ask::Consume(_) | Ask::Get { .. } if std::mem::take(&mut self.refuse_next) => {
                Answer::Refused(Fault::new(ReplyCode::PreconditionFailed, "not today"))
            }
            Ask::Commit { settlements, .. } => {
                self.seen.committed += usize::from(!settlements.is_empty());
                settlements.iter().for_each(|one| self.come_back(&one.deliveries));
                Answer::Done
            }
            Ask::Get { .. } if wanted => Answer::Message(Some((self.new_message(channel), 0))),
            _ => Answer::Done,
        };
        self.client.answer(channel, answer);
        true
    }

    fn step(&mut self, step: Step) {
        let Some(key) = self.key else {
            let closed = |heard: &Heard| matches!(heard, Heard::Method(1, Method::ChannelClose(_)));
            if self.client.heard().iter().any(closed) {
                self.client.say(1, ChannelCloseOk {});
            }
            if self.client.session.end().is_some() {
                return;
            }
            self.open();
            return;
        };
        let in_tx = |run: &Self| run.in_transaction;
        match step {
            Step::Deliver(consumer) => {
                if self.client.session.room(key, TAGS[consumer]) > 0 {
                    let delivery = self.new_message(key);
                    let tag = self.client.session.deliver(key, TAGS[consumer], delivery);
                    self.heard.push(tag.expect("it has room"));
                }
            }
            Step::Get => self.client.say(1, BasicGet { queue: s("q"), ..Default::default() }),
            Step::Ack { tag, multiple } => {
                if let Some(delivery_tag) = self.pick(tag, multiple) {
                    self.client.say(1, BasicAck { delivery_tag, multiple });
                }
            }
            Step::Nack { tag, multiple, requeue } => {
                if let Some(delivery_tag) = self.pick(tag, multiple) {
                    self.client.say(1, BasicNack { delivery_tag, multiple, requeue });
                }
            }
            Step::Recover => self.client.say(1, BasicRecover { requeue: true }),
            Step::Qos { count, global } => {
                self.client
                    .say(1, BasicQos { prefetch_count: count, global, ..Default::default() });
            }
            Step::Cancel(consumer) => {
                let consumer_tag = s(TAGS[consumer]);
                self.client.say(1, BasicCancel { consumer_tag, no_wait: false });
            }
            Step::Consume(consumer) => {
                let consumer_tag = s(TAGS[consumer]);
                if self.client.session.room(key, TAGS[consumer]) == 0 && self.taken.is_empty() {
                    // Gone or full: cancelled first, for a tag twice would end the connection.
                    let cancel = BasicCancel { consumer_tag: consumer_tag.clone(), no_wait: true };
                    self.client.say(1, cancel);
                    let queue = s("q");
                    self.client.say(1, BasicConsume { queue, consumer_tag, ..Default::default() });
                }
            }
            Step::TxSelect => {
                self.in_transaction = true;
                self.client.say(1, TxSelect {});
            }
            Step::Commit if in_tx(self) => self.client.say(1, TxCommit {}),
            Step::Rollback if in_tx(self) => self.client.say(1, TxRollback {}),
            Step::Publish => self.client.publish(1, "q", b"x"),
            Step::Close => self.client.say(1, ChannelClose::default()),
            Step::Serve(count) => {
                for _ in 0..count {
                    self.serve_one();
                }
            }
            Step::RefuseNext => self.refuse_next = true,
            Step::RefuseChannel => {
                self.client.session.refuse(key, Fault::new(ReplyCode::NotFound, "no exchange"));
            }
            Step::Commit | Step::Rollback => {}
        }
        self.check_depth(key);
    }

    /// A tag that is unsettled, mostly: a wrong one ends the channel.
    fn pick(&mut self, tag: u64, multiple: bool) -> Option<u64> {
        if self.heard.is_empty() {
            return (tag == 7).then_some(tag);
        }
        let tag = self.heard.remove(tag as usize % self.heard.len());
        if multiple {
            self.heard.retain(|other| *other > tag);
        }
        Some(tag)
    }

    /// What the session holds is no more than what is out.
    fn check_depth(&self, key: ChannelKey) {
        if let Some(depth) = self.client.session.depth(key) {
            let out = self.out.values().filter(|life| **life == key).count();
            assert!(depth.unsettled <= out, "{depth:?} of {out}");
        }
    }

    fn open(&mut self) {
        self.client.say(1, ChannelOpen::default());
        self.client.say(1, BasicQos { prefetch_count: 3, ..Default::default() });
        for tag in TAGS {
            let consumer_tag = s(tag);
            let queue = s("q");
            self.client.say(1, BasicConsume { queue, consumer_tag, ..Default::default() });
        }
        self.heard.clear();
        self.in_transaction = false;
        // The first consumer's request has the channel's new life.
        while let Some(request) = self.client.session.poll_request() {
            if matches!(request.ask, Ask::Consume(_)) {
                self.key = Some(request.channel);
            }
            self.taken.push_back(request);
        }
    }
}

#[test]
fn each_delivery_comes_back_once() {
    let seen = std::cell::Cell::new(Seen::default());
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let steps = prop::collection::vec(any_step(), 1..120);
    let result = runner.run(&steps, |steps| {
        let mut run = Run::new();
        for step in steps {
            run.step(step);
        }
        run.client.session.disconnect();
        while run.serve_one() {}
        prop_assert!(run.out.is_empty(), "{:?} never came back", run.out);
        prop_assert_eq!(run.back.len() as u64, run.next_message);
        let (all, one) = (seen.get(), run.seen);
        seen.set(Seen {
            committed: all.committed + one.committed,
            commit_refused: all.commit_refused + one.commit_refused,
            commit_overtaken: all.commit_overtaken + one.commit_overtaken,
            ended_in_transaction: all.ended_in_transaction + one.ended_in_transaction,
        });
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
    let Seen { committed, commit_refused, commit_overtaken, ended_in_transaction } = seen.get();
    let least = committed.min(commit_refused).min(commit_overtaken).min(ended_in_transaction);
    assert!(least > 10, "what is rare did not happen: {:?}", seen.get());
}

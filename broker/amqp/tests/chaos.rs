//! A client that does anything in any order, over a broker whose queues move and come and go: nothing that
//! was confirmed is lost, nothing is there twice, nothing is left when it ends.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use plimsoll_amqp::methods::*;
use plimsoll_amqp::properties::Properties;
use plimsoll_amqp::shortstr::ShortStr;
use proptest::prelude::*;

use crate::client::*;

#[derive(Debug, Clone)]
enum Step {
    Publish { queue: bool },
    PublishIntoNothing,
    Consume { queue: bool, no_ack: bool },
    ConsumeNothing,
    Cancel,
    Get { queue: bool, no_ack: bool },
    Settle { accept: bool, multiple: bool },
    Recover,
    Qos { count: u16, global: bool },
    Reopen,
    Commit,
    Rollback,
    Move { queue: bool },
    HoldBack,
    LetGo,
    Redeclare,
    Delete,
    Hear,
}

fn step() -> impl Strategy<Value = (u16, Step)> {
    let queue = any::<bool>();
    let step = prop_oneof![
        6 => queue.prop_map(|queue| Step::Publish { queue }),
        1 => Just(Step::PublishIntoNothing),
        3 => any::<(bool, bool)>().prop_map(|(queue, no_ack)| Step::Consume { queue, no_ack }),
        1 => Just(Step::ConsumeNothing),
        2 => Just(Step::Cancel),
        3 => any::<(bool, bool)>().prop_map(|(queue, no_ack)| Step::Get { queue, no_ack }),
        4 => any::<(bool, bool)>().prop_map(|(accept, multiple)| Step::Settle { accept, multiple }),
        1 => Just(Step::Recover),
        2 => (0..4u16, any::<bool>()).prop_map(|(count, global)| Step::Qos { count, global }),
        1 => Just(Step::Reopen),
        1 => Just(Step::Commit),
        1 => Just(Step::Rollback),
        2 => any::<bool>().prop_map(|queue| Step::Move { queue }),
        1 => Just(Step::HoldBack),
        2 => Just(Step::LetGo),
        1 => Just(Step::Redeclare),
        1 => Just(Step::Delete),
        6 => Just(Step::Hear),
    ];
    (1..=2u16, step)
}

/// What the client knows of a channel.
#[derive(Default)]
struct Channel {
    /// Publishes of this life, in order.
    published: Vec<String>,
    /// Consumers, and whether they acknowledge by themselves.
    consumers: BTreeMap<ShortStr, bool>,
    /// Whether each get that is under way does.
    gets: Vec<bool>,
    unsettled: BTreeMap<u64, String>,
}

struct Chaos {
    node: Node,
    client: Client,
    channels: BTreeMap<u16, Channel>,
    count: usize,
    confirmed: BTreeSet<String>,
    /// What was acknowledged, or needed not to be.
    done: BTreeSet<String>,
    /// What was published to the queue that may be deleted, or nowhere.
    fleeting: BTreeSet<String>,
}

const NAMES: [&str; 2] = ["p", "q"];

fn name(queue: bool) -> &'static str {
    NAMES[usize::from(queue)]
}

impl Chaos {
    async fn new() -> Self {
        let node = Node::new();
        let mut client = node.channel().await;
        client.open_channel(2).await;
        client.declare_named("q").await;
        client.declare_named("p").await;
        let channels = BTreeMap::from([(1, Channel::default()), (2, Channel::default())]);
        let mut chaos = Self {
            node,
            client,
            channels,
            count: 0,
            confirmed: BTreeSet::new(),
            done: BTreeSet::new(),
            fleeting: BTreeSet::new(),
        };
        chaos.begin(1).await;
        chaos.begin(2).await;
        chaos
    }

    /// Channel 1 is one with confirms, 2 one with transactions.
    async fn begin(&mut self, number: u16) {
        self.channels.insert(number, Channel::default());
        match number {
            1 => self.client.say(1, ConfirmSelect::default()).await,
            _ => self.client.say(2, TxSelect {}).await,
        }
    }

    fn new_name(&mut self) -> String {
        self.count += 1;
        format!("m{}", self.count)
    }

    async fn step(&mut self, number: u16, step: Step) {
        let name_of_new = self.new_name();
        let Self { node, client, channels, .. } = self;
        let channel = channels.get_mut(&number).unwrap();
        match step {
            Step::Publish { queue } => {
                channel.published.push(name_of_new.clone());
                client.publish(number, name(queue), &name_of_new).await;
                self.fleeting.extend((!queue).then_some(name_of_new));
            }
            Step::PublishIntoNothing => {
                channel.published.push(name_of_new);
                client.publish_with(number, "none", "", &Properties::default(), b"x").await;
            }
            Step::Consume { queue, no_ack } => {
                let consumer_tag = s(&name_of_new);
                channel.consumers.insert(consumer_tag.clone(), no_ack);
                let queue = s(name(queue));
                let consume = BasicConsume { queue, consumer_tag, no_ack, ..Default::default() };
                client.say(number, consume).await;
            }
            Step::ConsumeNothing => {
                client.say(number, BasicConsume { queue: s("none"), ..Default::default() }).await;
            }
            Step::Cancel => {
                if let Some(tag) = channel.consumers.keys().next().cloned() {
                    client.say(number, BasicCancel { consumer_tag: tag, no_wait: false }).await;
                }
            }
            Step::Get { queue, no_ack } => {
                channel.gets.push(no_ack);
                let get = BasicGet { queue: s(name(queue)), no_ack, ..Default::default() };
                client.say(number, get).await;
            }
            Step::Settle { accept, multiple } => {
                let tags: Vec<u64> = channel.unsettled.keys().copied().collect();
                let Some(&delivery_tag) = tags.get(tags.len() / 2) else { return };
                let named =
                    |tag: &u64| if multiple { *tag <= delivery_tag } else { *tag == delivery_tag };
                for tag in tags.iter().filter(|tag| named(tag)) {
                    let body = channel.unsettled.remove(tag).unwrap();
                    self.done.extend(accept.then_some(body));
                }
                match accept {
                    true => client.say(number, BasicAck { delivery_tag, multiple }).await,
                    false => {
                        client
                            .say(number, BasicNack { delivery_tag, multiple, requeue: true })
                            .await;
                    }
                }
            }
            Step::Recover => {
                channel.unsettled.clear();
                // What is delivered before the answer has a tag that is recovered too.
                self.hear().await;
                self.channels.get_mut(&number).unwrap().unsettled.clear();
                self.client.say(number, BasicRecover { requeue: true }).await;
            }
            Step::Qos { count: prefetch_count, global } => {
                client.say(number, BasicQos { prefetch_count, global, prefetch_size: 0 }).await;
            }
            Step::Reopen => {
                // The close is answered once what was published is stored.
                node.memory.go_on();
                self.hear().await;
                self.client.say(number, ChannelClose::default()).await;
                self.hear().await;
                self.client.say(number, ChannelOpen::default()).await;
                self.begin(number).await;
            }
            Step::Commit if number == 2 => client.say(2, TxCommit {}).await,
            Step::Rollback if number == 2 => {
                // What was settled waits again, under tags that this client forgets.
                client.say(2, TxRollback {}).await;
            }
            Step::Commit | Step::Rollback => {}
            Step::Move { queue } => {
                if node.memory.queue_names("/").iter().any(|other| other == name(queue)) {
                    node.memory.move_queue(name(queue));
                }
            }
            Step::HoldBack => node.memory.hold_back(),
            Step::LetGo => node.memory.go_on(),
            Step::Redeclare => {
                let declare = QueueDeclare { queue: s("p"), ..Default::default() };
                client.say(number, declare).await;
            }
            Step::Delete => {
                client.say(number, QueueDelete { queue: s("p"), ..Default::default() }).await;
            }
            Step::Hear => self.hear().await,
        }
    }

    /// Hears until nothing more comes.
    async fn hear(&mut self) {
        let wait = Duration::from_millis(500);
        while let Ok(heard) = tokio::time::timeout(wait, self.client.next()).await {
            self.heard(heard).await;
        }
    }

    async fn heard(&mut self, heard: Heard) {
        match heard {
            Heard::Content(number, Method::BasicDeliver(to), _, body) => {
                let channel = self.channels.get_mut(&number).unwrap();
                let no_ack = channel.consumers.get(&to.consumer_tag).copied();
                self.took(number, to.delivery_tag, no_ack.unwrap_or(false), &body);
            }
            Heard::Content(number, Method::BasicGetOk(ok), _, body) => {
                let no_ack = self.channels.get_mut(&number).unwrap().gets.remove(0);
                self.took(number, ok.delivery_tag, no_ack, &body);
            }
            Heard::Method(number, Method::BasicGetEmpty(_)) => {
                self.channels.get_mut(&number).unwrap().gets.remove(0);
            }
            Heard::Method(number, Method::BasicAck(ack)) => {
                let published = &self.channels[&number].published;
                let last = ack.delivery_tag as usize;
                let first = if ack.multiple { 0 } else { last - 1 };
                self.confirmed.extend(published[first..last].iter().cloned());
            }
            Heard::Method(number, Method::ChannelClose(close)) => {
                assert!([404, 406].contains(&close.reply_code), "{close:?}");
                self.client.say(number, ChannelCloseOk {}).await;
                self.client.say(number, ChannelOpen::default()).await;
                self.begin(number).await;
            }
            Heard::Method(number, Method::BasicCancelOk(BasicCancelOk { consumer_tag }))
            | Heard::Method(number, Method::BasicCancel(BasicCancel { consumer_tag, .. })) => {
                self.channels.get_mut(&number).unwrap().consumers.remove(&consumer_tag);
            }
            Heard::Method(0, method) => panic!("{method:?}"),
            Heard::Method(..) | Heard::Heartbeat => {}
            other => panic!("{other:?}"),
        }
    }

    fn took(&mut self, number: u16, tag: u64, no_ack: bool, body: &[u8]) {
        let body = String::from_utf8(body.to_vec()).unwrap();
        if no_ack {
            self.done.insert(body);
        } else {
            self.channels.get_mut(&number).unwrap().unsettled.insert(tag, body);
        }
    }

    async fn end(mut self) {
        self.node.memory.go_on();
        self.hear().await;
        self.client.close().await;
        assert_eq!(self.node.memory.attached(), 0);
        assert_eq!(self.node.memory.held_back(), 0);
        let ready = self.node.memory.ready("q");
        let there: BTreeSet<_> = ready.iter().cloned().collect();
        assert_eq!(ready.len(), there.len(), "something is there twice: {ready:?}");
        for body in self.confirmed.difference(&self.fleeting) {
            let kept = there.contains(body) || self.done.contains(body);
            assert!(kept, "{body} was confirmed and is lost");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_or_left(steps in prop::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut chaos = Chaos::new().await;
            for (number, step) in steps {
                chaos.step(number, step).await;
            }
            chaos.end().await;
        });
    }
}

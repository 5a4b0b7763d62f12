//! Queues of AMQP in a cluster: any node will do for everything, and consumers go on where the leader moves
//! or dies.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use futures_util::StreamExt as _;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicGetOptions, BasicNackOptions, BasicPublishOptions,
    BasicQosOptions, ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer, ErrorKind,
};
use plimsoll_bench::serve_process::free_address;
use plimsoll_tests::{TestCluster, eventually, within};

/// Three nodes that listen for AMQP.
struct AmqpCluster {
    cluster: TestCluster,
    addresses: Vec<SocketAddr>,
}

impl AmqpCluster {
    async fn start() -> Self {
        let addresses: Vec<_> = (0..3).map(|_| free_address().expect("a free port")).collect();
        let listening = |index: usize| addresses[index].to_string();
        let cluster = TestCluster::start_with(3, |index, command| {
            command.argument("--listen-amqp").argument(listening(index))
        });
        let cluster = cluster.await;
        Self { cluster, addresses }
    }

    async fn connect(&self, node: usize) -> Connection {
        let url = format!("amqp://guest:guest@{}/%2f", self.addresses[node]);
        let connecting = Connection::connect(&url, ConnectionProperties::default());
        within("a login", connecting).await.expect("a connection")
    }

    /// A channel with confirms, on a connection of its own.
    async fn channel(&self, node: usize) -> Channel {
        let connection = self.connect(node).await;
        let channel = connection.create_channel().await.expect("a channel");
        channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
        channel
    }

    /// Declares a queue with a replica on each node, and gives the topic that holds it.
    async fn declare(
        &self,
        channel: &Channel,
        queue: &str,
        arguments: &[(&str, AMQPValue)],
    ) -> String {
        let mut table = FieldTable::default();
        for (name, value) in arguments {
            table.insert((*name).into(), value.clone());
        }
        let admin = self.cluster.client().await.admin();
        let topics = async || {
            let topics = admin.list_topics(Some("__amqp.")).await.expect("a list").into_iter();
            topics.map(|topic| topic.name.to_string()).collect::<BTreeSet<_>>()
        };
        let before = topics().await;
        let declared = channel.queue_declare(queue.into(), QueueDeclareOptions::durable(), table);
        within("a declaration", declared).await.expect("it is declared");
        let new = async || topics().await.difference(&before).next().cloned();
        let topic = eventually("its topic", new).await;
        // Nobody leads what nobody has asked for yet.
        assert_eq!(standing(channel, queue).await, (0, 0));
        topic
    }
}

async fn publish(channel: &Channel, queue: &str, body: &str) -> bool {
    let options = BasicPublishOptions::default();
    let properties = BasicProperties::default().with_delivery_mode(2);
    let publish =
        channel.basic_publish("".into(), queue.into(), options, body.as_bytes(), properties);
    let confirm = within("a publish", publish).await.expect("it is sent");
    within("a confirm", confirm).await.as_ref().is_ok_and(Confirmation::is_ack)
}

async fn consume(channel: &Channel, queue: &str, arguments: &[(&str, AMQPValue)]) -> Consumer {
    let mut table = FieldTable::default();
    for (name, value) in arguments {
        table.insert((*name).into(), value.clone());
    }
    let options = BasicConsumeOptions::default();
    let consumed = channel.basic_consume(queue.into(), "".into(), options, table);
    within("a consumer", consumed).await.expect("it consumes")
}

async fn next(consumer: &mut Consumer) -> Delivery {
    let delivery = within("a delivery", consumer.next()).await;
    delivery.expect("the consumer goes on").expect("a delivery")
}

fn text(body: &[u8]) -> String {
    String::from_utf8(body.to_vec()).expect("text was sent")
}

/// Messages that are ready, and consumers, as a passive declaration says.
async fn standing(channel: &Channel, queue: &str) -> (u32, u32) {
    let passive = QueueDeclareOptions { passive: true, ..Default::default() };
    let declared = channel.queue_declare(queue.into(), passive, FieldTable::default());
    let declared = within("a look", declared).await.expect("the queue is there");
    (declared.message_count(), declared.consumer_count())
}

fn code<T>(result: lapin::Result<T>) -> u16 {
    match result.map(drop).expect_err("it is refused").kind() {
        ErrorKind::ProtocolError(error) => error.get_id(),
        other => panic!("another error than the server's: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_is_worked_with_through_any_node() {
    const MESSAGES: usize = 300;
    let cluster = AmqpCluster::start().await;
    let publisher = cluster.channel(1).await;
    cluster.declare(&publisher, "jobs", &[]).await;
    let mut channels = Vec::new();
    for node in 0..3 {
        channels.push(cluster.channel(node).await);
    }
    // Consumers of all nodes share the messages; each is given to one of them.
    let seen = Arc::new(Mutex::new(Vec::new()));
    let mut consuming = Vec::new();
    let mut tags = Vec::new();
    for (node, channel) in channels.iter().enumerate() {
        channel.basic_qos(10, BasicQosOptions::default()).await.unwrap();
        let mut consumer = consume(channel, "jobs", &[]).await;
        tags.push(consumer.tag());
        let seen = Arc::clone(&seen);
        consuming.push(tokio::spawn(async move {
            while let Some(delivery) = consumer.next().await {
                let delivery = delivery.expect("a delivery");
                assert!(!delivery.redelivered);
                seen.lock().unwrap().push((node, text(&delivery.data)));
                delivery.ack(BasicAckOptions::default()).await.expect("it is said");
            }
        }));
    }
    for number in 0..MESSAGES {
        assert!(publish(&publisher, "jobs", &number.to_string()).await);
    }
    eventually("all messages", async || (seen.lock().unwrap().len() == MESSAGES).then_some(()))
        .await;
    {
        let seen = seen.lock().unwrap();
        let nodes: BTreeSet<_> = seen.iter().map(|(node, _)| *node).collect();
        assert_eq!(nodes.len(), 3, "each node's consumer has its share");
        let bodies: BTreeSet<_> = seen.iter().map(|(_, body)| body).collect();
        assert_eq!(bodies.len(), MESSAGES, "none came twice");
    }
    for channel in &channels {
        assert_eq!(standing(channel, "jobs").await, (0, 3));
    }
    for (channel, tag) in channels.iter().zip(tags) {
        let cancelled = channel.basic_cancel(tag, Default::default());
        within("the end of a consumer", cancelled).await.unwrap();
    }
    for consumer in consuming {
        within("the end of a consumer", consumer).await.unwrap();
    }
    // One by one, back, and away with the rest.
    for number in 0..5 {
        assert!(publish(&publisher, "jobs", &number.to_string()).await);
    }
    let get = async |channel: &Channel| {
        let got = channel.basic_get("jobs".into(), BasicGetOptions::default());
        within("a message", got).await.unwrap()
    };
    for channel in &channels {
        assert_eq!(standing(channel, "jobs").await, (5, 0));
        let got = get(channel).await.expect("there is one");
        assert_eq!((text(&got.data).as_str(), got.message_count), ("0", 4));
        let back = BasicNackOptions { requeue: true, ..Default::default() };
        got.nack(back).await.unwrap();
        let again = get(channel).await.expect("it is there again");
        assert_eq!((text(&again.data).as_str(), again.redelivered), ("0", true));
        again.nack(back).await.unwrap();
        // A look waits for what was said before it on the same channel; other nodes would not.
        assert_eq!(standing(channel, "jobs").await, (5, 0));
    }
    for (left, channel) in (2..5).rev().zip(&channels) {
        let got = get(channel).await.expect("there is one");
        got.ack(BasicAckOptions::default()).await.unwrap();
        assert_eq!(got.message_count, left);
        assert_eq!(standing(channel, "jobs").await, (left, 0));
    }
    let other = cluster.channel(2).await;
    let if_empty = QueueDeleteOptions { if_empty: true, ..Default::default() };
    assert_eq!(code(within("no end", other.queue_delete("jobs".into(), if_empty)).await), 406);
    let purged = channels[0].queue_purge("jobs".into(), Default::default());
    assert_eq!(within("a purge", purged).await.unwrap(), 2);
    for channel in &channels {
        assert!(get(channel).await.is_none());
    }
    let consumer = consume(&channels[1], "jobs", &[]).await;
    let other = cluster.channel(0).await;
    let if_unused = QueueDeleteOptions { if_unused: true, ..Default::default() };
    assert_eq!(code(within("no end", other.queue_delete("jobs".into(), if_unused)).await), 406);
    drop(consumer);
    let deleted = channels[2].queue_delete("jobs".into(), QueueDeleteOptions::default());
    within("the end", deleted).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn consumers_of_several_nodes_keep_to_their_order() {
    let cluster = AmqpCluster::start().await;
    let mut channels = Vec::new();
    for node in 0..3 {
        channels.push(cluster.channel(node).await);
    }
    // An exclusive consumer keeps those of the other nodes away, until it is gone.
    cluster.declare(&channels[0], "alone", &[]).await;
    for node in 0..3 {
        let (own, other) = (cluster.channel(node).await, cluster.channel((node + 1) % 3).await);
        let options = BasicConsumeOptions { exclusive: true, ..Default::default() };
        let consumed =
            own.basic_consume("alone".into(), "one".into(), options, FieldTable::default());
        // It would be cancelled when it is dropped.
        let alone = within("a consumer", consumed).await.expect("it is alone");
        let options = BasicConsumeOptions::default();
        let refused =
            other.basic_consume("alone".into(), "".into(), options, FieldTable::default());
        assert_eq!(code(within("no consumer", refused).await), 403);
        own.basic_cancel("one".into(), Default::default()).await.unwrap();
        drop(alone);
    }
    // One is active at a time, the next when it is gone.
    let single = [("x-single-active-consumer", AMQPValue::Boolean(true))];
    cluster.declare(&channels[0], "single", &single).await;
    let mut consumers = Vec::new();
    for channel in &channels {
        consumers.push(consume(channel, "single", &[]).await);
    }
    for (number, (channel, consumer)) in channels.iter().zip(&mut consumers).enumerate() {
        assert!(publish(&channels[0], "single", &number.to_string()).await);
        let delivery = next(consumer).await;
        assert_eq!(text(&delivery.data), number.to_string());
        delivery.ack(BasicAckOptions::default()).await.unwrap();
        let gone = channel.basic_cancel(consumer.tag(), Default::default());
        within("its end", gone).await.unwrap();
    }
    // The higher priority is served as long as it has room, whose window counts at the leader.
    cluster.declare(&channels[0], "ranked", &[]).await;
    let mut ranked = Vec::new();
    for (channel, priority) in channels.iter().zip([1, 3, 2]) {
        channel.basic_qos(1, BasicQosOptions::default()).await.unwrap();
        let priority = [("x-priority", AMQPValue::LongInt(priority))];
        ranked.push(consume(channel, "ranked", &priority).await);
    }
    for (number, at) in [1, 2, 0].into_iter().enumerate() {
        assert!(publish(&channels[0], "ranked", &number.to_string()).await);
        let delivery = next(&mut ranked[at]).await;
        assert_eq!(text(&delivery.data), number.to_string());
    }
    assert!(publish(&channels[0], "ranked", "3").await);
    assert_eq!(standing(&channels[0], "ranked").await, (1, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn consumers_go_with_the_leadership() {
    let cluster = AmqpCluster::start().await;
    let publisher = cluster.channel(0).await;
    let topic = cluster.declare(&publisher, "jobs", &[]).await;
    let mut consumers = Vec::new();
    for node in 0..3 {
        let channel = cluster.channel(node).await;
        channel.basic_qos(1, BasicQosOptions::default()).await.unwrap();
        let consumer = consume(&channel, "jobs", &[]).await;
        consumers.push((channel, consumer));
    }
    let admin = cluster.cluster.client().await.admin();
    for to in [1, 2, 0, 1] {
        let id = cluster.cluster.id_of(to).await;
        eventually("it leads", async || {
            let moved = admin.transfer_leader(&topic, 0, Some(id)).await;
            (moved.is_ok() && cluster.cluster.leader(&topic, 0).await == to).then_some(())
        })
        .await;
        eventually("all consume there", async || {
            (standing(&publisher, "jobs").await.1 == 3).then_some(())
        })
        .await;
        for number in 0..3 {
            assert!(publish(&publisher, "jobs", &number.to_string()).await);
        }
        // Each has room for one.
        for (_, consumer) in &mut consumers {
            next(consumer).await.ack(BasicAckOptions::default()).await.unwrap();
        }
        eventually("all settled", async || {
            (admin.queue(topic.as_str(), "").standing(0).await.ok()?.unsettled == 0).then_some(())
        })
        .await;
    }
}

/// What is known of one message.
#[derive(Debug, Default, Clone)]
struct Seen {
    deliveries: usize,
    /// The commit of its acknowledgement was answered.
    settled: bool,
    /// The commit was under way when its node died: it may come again, or not.
    in_doubt: bool,
}

/// Consumes with acknowledgements that are committed one by one, until it is dropped or its node dies.
async fn receive(
    channel: Channel,
    mut consumer: Consumer,
    seen: Arc<Mutex<BTreeMap<String, Seen>>>,
) {
    loop {
        let delivery = consumer.next().await.expect("the consumer goes on").expect("a delivery");
        let body = text(&delivery.data);
        seen.lock().unwrap().entry(body.clone()).or_default().deliveries += 1;
        delivery.ack(BasicAckOptions::default()).await.expect("it is said");
        if channel.tx_commit().await.is_err() {
            seen.lock().unwrap().get_mut(&body).expect("it came").in_doubt = true;
            return;
        }
        seen.lock().unwrap().get_mut(&body).expect("it came").settled = true;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_leaves_consumers_of_the_other_nodes_as_they_are() {
    const MESSAGES: usize = 600;
    const HELD: usize = 3;
    let mut cluster = AmqpCluster::start().await;
    let declaring = cluster.channel(0).await;
    let topic = cluster.declare(&declaring, "jobs", &[]).await;
    let leader = cluster.cluster.leader(&topic, 0).await;
    let others: Vec<_> = (0..3).filter(|node| *node != leader).collect();
    let publisher = cluster.channel(others[0]).await;
    // Some are with a client that says nothing of them.
    let holder = cluster.channel(others[1]).await;
    let mut held = Vec::new();
    for number in 0..HELD {
        assert!(publish(&publisher, "jobs", &format!("held {number}")).await);
        let got = holder.basic_get("jobs".into(), BasicGetOptions::default());
        held.push(within("a message", got).await.unwrap().expect("there is one"));
    }
    let seen = Arc::new(Mutex::new(BTreeMap::<String, Seen>::new()));
    let mut receiving = tokio::task::JoinSet::new();
    for node in 0..3 {
        let connection = cluster.connect(node).await;
        let channel = connection.create_channel().await.expect("a channel");
        channel.tx_select().await.expect("transactions");
        channel.basic_qos(20, BasicQosOptions::default()).await.unwrap();
        let consumer = consume(&channel, "jobs", &[]).await;
        let seen = Arc::clone(&seen);
        let is_killed = node == leader;
        let received = receive(channel, consumer, seen);
        match is_killed {
            // It ends with its node.
            true => drop(tokio::spawn(received)),
            false => drop(receiving.spawn(received)),
        }
    }
    let mut settled_before = BTreeMap::new();
    for number in 0..MESSAGES {
        if number == MESSAGES / 2 {
            eventually("some are settled", async || {
                let seen = seen.lock().unwrap();
                (seen.values().filter(|one| one.settled).count() > MESSAGES / 4).then_some(())
            })
            .await;
            settled_before = seen.lock().unwrap().clone();
            settled_before.retain(|_, one| one.settled);
            cluster.cluster.nodes.kill(leader).unwrap();
        }
        // What is not confirmed is sent again, as clients do.
        eventually("a confirm", async || {
            publish(&publisher, "jobs", &number.to_string()).await.then_some(())
        })
        .await;
    }
    let wanted = MESSAGES + HELD;
    eventually("all confirmed messages", async || {
        if let Some(ended) = receiving.try_join_next() {
            panic!("consumers of nodes that live go on: {ended:?}");
        }
        let seen = seen.lock().unwrap();
        (seen.len() == wanted && seen.values().all(|one| one.settled || one.in_doubt)).then_some(())
    })
    .await;
    // What was said of the old deliveries is not heard, and is no error.
    for got in &held {
        got.ack(BasicAckOptions::default()).await.unwrap();
    }
    assert_eq!(standing(&holder, "jobs").await, (0, 2));
    let admin = cluster.cluster.client().await.admin();
    eventually("all settled", async || {
        (admin.queue(topic.as_str(), "").standing(0).await.ok()?.unsettled == 0).then_some(())
    })
    .await;
    let seen = seen.lock().unwrap();
    for (body, before) in &settled_before {
        assert_eq!(seen[body].deliveries, before.deliveries, "{body} came again after its commit");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_declaration_of_a_node_waits_until_it_is_set_up() {
    let address = free_address().expect("a free port");
    let directory = tempfile::tempdir().expect("a directory");
    let command = plimsoll_bench::serve_process::ServeCommand::new(
        plimsoll_tests::plimsoll_binary(),
        directory.path(),
    );
    let command = command.expect("free ports");
    let command = command.argument("--listen-amqp").argument(address.to_string());
    let mut process = command.start().expect("it starts");
    eventually("it listens", async || {
        process.check_alive().unwrap();
        std::net::TcpStream::connect(address).ok()
    })
    .await;
    let url = format!("amqp://guest:guest@{address}/%2f");
    let connecting = Connection::connect(&url, ConnectionProperties::default());
    let connection = within("a login", connecting).await.expect("a connection");
    let channel = connection.create_channel().await.expect("a channel");
    let durable = QueueDeclareOptions::durable();
    let declared = channel.queue_declare("q".into(), durable, FieldTable::default());
    within("a declaration", declared).await.expect("the first one is taken");
}

#[tokio::test(flavor = "multi_thread")]
async fn native_clients_find_a_queue_of_amqp_and_work_with_it() {
    let cluster = AmqpCluster::start().await;
    let channel = cluster.channel(0).await;
    let topic = cluster.declare(&channel, "jobs", &[]).await;
    for number in 0..3 {
        assert!(publish(&channel, "jobs", &number.to_string()).await);
    }
    let client = cluster.cluster.client().await;
    let admin = client.admin();
    let listed = within("a list", admin.list_amqp_queues(Some("/"))).await.expect("a list");
    let [queue] = &listed[..] else { panic!("{listed:?}") };
    assert_eq!((queue.name.queue.as_str(), &queue.topic), ("jobs", &topic));
    assert!(queue.durable && !queue.auto_delete && !queue.exclusive, "{queue:?}");
    let none = within("a list", admin.list_amqp_queues(Some("elsewhere"))).await;
    assert_eq!(none.expect("a list"), []);
    let building = client.queue_consumer(&*topic).build();
    let mut consumer = within("build", building).await.expect("a consumer");
    for number in 0..3 {
        let message = within("a message", consumer.next()).await.expect("one").expect("one");
        assert_eq!(message.record.value, Some(number.to_string().into()));
        within("a settlement", message.accept()).await.expect("it is settled");
    }
    drop(consumer);
    let producer = within("build", client.producer(&*topic).build()).await.expect("a producer");
    let sent = within("a send", producer.send(plimsoll_client::Record::new("native"))).await;
    sent.expect("it is stored");
    let got = eventually("the native message", async || {
        let got = channel.basic_get("jobs".into(), BasicGetOptions { no_ack: true });
        within("a look", got).await.unwrap()
    })
    .await;
    assert_eq!(text(&got.data), "native");
}

/// Readers of a stream from its beginning, one at each node.
async fn readers(cluster: &AmqpCluster, stream: &str) -> Vec<(Channel, Consumer)> {
    let mut readers = Vec::new();
    for node in 0..3 {
        let channel = cluster.channel(node).await;
        channel.basic_qos(1000, BasicQosOptions::default()).await.unwrap();
        let first = [("x-stream-offset", AMQPValue::LongString("first".into()))];
        let reader = consume(&channel, stream, &first).await;
        readers.push((channel, reader));
    }
    readers
}

/// Reads these numbers, of which one that was sent again may come again.
async fn read(reader: &mut Consumer, numbers: std::ops::Range<u32>) {
    for number in numbers {
        loop {
            let delivery = next(reader).await;
            delivery.ack(BasicAckOptions::default()).await.unwrap();
            let read: u32 = text(&delivery.data).parse().unwrap();
            assert!(read == number || read + 1 == number, "{read} in place of {number}");
            if read == number {
                break;
            }
        }
    }
}

fn stream_kind() -> (&'static str, AMQPValue) {
    ("x-queue-type", AMQPValue::LongString("stream".into()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_read_through_nodes_that_do_not_have_it() {
    let cluster = AmqpCluster::start().await;
    let publisher = cluster.channel(0).await;
    let one = ("x-initial-cluster-size", AMQPValue::LongInt(1));
    let topic = cluster.declare(&publisher, "log", &[stream_kind(), one]).await;
    for number in 0..50 {
        assert!(publish(&publisher, "log", &number.to_string()).await);
    }
    let mut readers = readers(&cluster, "log").await;
    for (channel, reader) in &mut readers {
        read(reader, 0..50).await;
        assert_eq!(standing(channel, "log").await, (50, 0));
    }
    for number in 50..60 {
        assert!(publish(&publisher, "log", &number.to_string()).await);
    }
    for (_, reader) in &mut readers {
        read(reader, 50..60).await;
    }
    // It is a topic for native clients.
    let client = cluster.cluster.client().await;
    let mut reading = client.consumer(&topic).bounded().build().await.expect("a consumer");
    let mut count = 0;
    while let Some(record) = within("a record", reading.next()).await {
        assert_eq!(text(&record.expect("a record").record.value.unwrap()), count.to_string());
        count += 1;
    }
    assert_eq!(count, 60);
    let deleted = publisher.queue_delete("log".into(), QueueDeleteOptions::default());
    within("the end", deleted).await.unwrap();
    for (_, mut reader) in readers {
        assert!(within("its end", reader.next()).await.is_none());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_of_a_stream_go_on_when_its_leader_dies() {
    let mut cluster = AmqpCluster::start().await;
    let publisher = cluster.channel(0).await;
    let topic = cluster.declare(&publisher, "log", &[stream_kind()]).await;
    assert!(publish(&publisher, "log", "0").await);
    let mut readers = readers(&cluster, "log").await;
    for (_, reader) in &mut readers {
        read(reader, 0..1).await;
    }
    let leader = cluster.cluster.leader(&topic, 0).await;
    cluster.cluster.nodes.kill(leader).unwrap();
    readers.remove(leader);
    let publisher = cluster.channel((leader + 1) % 3).await;
    for number in 1..20_u32 {
        // What is not confirmed may be there all the same, and is then twice.
        while !publish(&publisher, "log", &number.to_string()).await {}
    }
    for (_, reader) in &mut readers {
        read(reader, 1..20).await;
    }
}

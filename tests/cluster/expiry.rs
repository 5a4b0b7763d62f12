//! Queues of AMQP that end when nobody uses them.

use std::net::SocketAddr;

use lapin::options::{BasicConsumeOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ConnectionProperties};
use plimsoll_bench::serve_process::free_address;
use plimsoll_client::Admin;
use plimsoll_tests::{TestCluster, eventually, within};

const QUEUE: &str = "unused";

async fn channel(address: SocketAddr) -> (Connection, Channel) {
    let url = format!("amqp://guest:guest@{address}/%2f");
    let opening = async || {
        let connection = Connection::connect(&url, ConnectionProperties::default()).await.ok()?;
        let channel = connection.create_channel().await.ok()?;
        Some((connection, channel))
    };
    eventually("AMQP is served", opening).await
}

/// Whether the topic that holds the queue is there: to look at it so is no use of it.
async fn is_there(admin: &Admin) -> bool {
    let topics = eventually("a list", async || admin.list_topics(Some("__amqp.")).await.ok());
    !topics.await.is_empty()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unused_queue_ends_also_where_its_leader_died() {
    let addresses = [(); 3].map(|()| free_address().expect("a free port"));
    let mut cluster = TestCluster::start_with(3, |index, command| {
        command.argument("--listen-amqp").argument(addresses[index].to_string())
    })
    .await;
    let admin = cluster.client().await.admin();
    let (_connection, declarer) = channel(addresses[0]).await;
    let mut arguments = FieldTable::default();
    arguments.insert("x-expires".into(), AMQPValue::LongInt(3000));
    let durable = QueueDeclareOptions::durable();
    let declared = declarer.queue_declare(QUEUE.into(), durable, arguments.clone());
    within("a declaration", declared).await.expect("a queue");
    let topic = admin.list_topics(Some("__amqp.")).await.expect("a list").remove(0).name;
    let leader = cluster.leader(topic.as_str(), 0).await;
    let (consuming, consumer) = channel(addresses[leader]).await;
    let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
    let consumed = consumer.basic_consume(QUEUE.into(), "".into(), options, none);
    let consumed = within("a consumer", consumed).await.expect("it consumes");
    cluster.nodes.kill(leader).unwrap();
    drop((consuming, consumer, consumed));
    assert!(is_there(&admin).await, "the lease begins anew at the next leader");
    eventually("it ends", async || (!is_there(&admin).await).then_some(())).await;
    // One of the same name is another.
    let (_connection, declarer) = channel(addresses[(leader + 1) % 3]).await;
    let declared = declarer.queue_declare(QUEUE.into(), durable, arguments);
    within("a declaration", declared).await.expect("a queue");
}

//! A disk that is nearly full: publishers are held back and told so, consumers go on, and all goes on by
//! itself when there is room.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions,
    QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use plimsoll_bench::serve_process::free_address;
use plimsoll_client::{NewTopic, ProducerOptions, Record};
use plimsoll_node::config::ByteSize;
use plimsoll_tests::{TestNode, eventually, within};
use plimsoll_transport::TransportKind;
use rustix::fs::{FallocateFlags, fallocate, statvfs};

const GIB: u64 = 1 << 30;
/// What may come and go meanwhile, by other tests: the file is twice that.
const MARGIN: u64 = 3 * GIB;

fn free_bytes(path: &Path) -> u64 {
    let disk = statvfs(path).expect("a file system");
    disk.f_bavail * disk.f_frsize
}

async fn channel(url: &str) -> (Connection, Channel) {
    let connecting = Connection::connect(url, ConnectionProperties::default());
    let connection = within("a login", connecting).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    (connection, channel)
}

/// Publishes; what it gives ends with the confirm.
async fn publish(
    channel: &Channel,
    body: &'static str,
) -> impl Future<Output = lapin::Result<Confirmation>> {
    let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
    let sent =
        channel.basic_publish("".into(), "jobs".into(), options, body.as_bytes(), properties);
    sent.await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn publishers_wait_while_the_disk_is_full_and_consumers_do_not() {
    let place = tempfile::tempdir().unwrap();
    let (amqp, free) = (free_address().unwrap(), free_bytes(place.path()));
    let Some(least) = free.checked_sub(MARGIN).filter(|least| *least > MARGIN) else {
        println!("skipped: {free} bytes are free, {} are needed", 2 * MARGIN);
        return;
    };
    let node = TestNode::start_with(|config| {
        config.listen_amqp = Some(amqp);
        config.free_bytes_min = ByteSize(least);
    });
    let node = node.await;
    let url = format!("amqp://guest:guest@{amqp}/%2f");
    let (connection, publisher) = channel(&url).await;
    let durable = QueueDeclareOptions::durable();
    publisher.queue_declare("jobs".into(), durable, FieldTable::default()).await.unwrap();
    assert!(within("a confirm", publish(&publisher, "before").await).await.unwrap().is_ack());
    let client = node.client(TransportKind::Tcp).await;
    client.admin().create_topic(NewTopic::new("orders")).await.unwrap();
    let impatient =
        ProducerOptions { delivery_timeout: Duration::from_secs(2), ..ProducerOptions::default() };
    let producer = client.producer("orders").options(impatient).build().await.unwrap();

    let path = place.path().join("filler");
    let filler = File::create(&path).unwrap();
    if let Err(error) = fallocate(&filler, FallocateFlags::empty(), 0, 2 * MARGIN) {
        println!("skipped: this file system does not give room at once: {error}");
        return;
    }
    eventually("the client is told", async || connection.status().blocked().then_some(())).await;
    // The client sends nothing while it is blocked.
    let held_back = tokio::spawn(async move { publish(&publisher, "while").await.await });
    let refused = within("a refusal", producer.send(Record::new("while"))).await.unwrap_err();
    assert!(refused.to_string().contains("free"), "{refused}");

    let (_other, taker) = channel(&url).await;
    let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
    let mut consumer = taker.basic_consume("jobs".into(), "".into(), options, none).await.unwrap();
    let delivery = within("a delivery", consumer.next()).await.unwrap().unwrap();
    assert_eq!(delivery.data, b"before");
    delivery.ack(BasicAckOptions::default()).await.unwrap();

    drop(filler);
    std::fs::remove_file(&path).unwrap();
    eventually("there is room", async || (!connection.status().blocked()).then_some(())).await;
    assert!(within("a confirm", held_back).await.unwrap().unwrap().is_ack());
    let delivery = within("a delivery", consumer.next()).await.unwrap().unwrap();
    assert_eq!(delivery.data, b"while");
    eventually("producers go on", async || producer.send(Record::new("after")).await.ok()).await;
}

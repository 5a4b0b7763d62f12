//! Logins, what is agreed, how connections end.

use std::time::Duration;

use lapin::options::{BasicPublishOptions, BasicQosOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::uri::{AMQPUri, SASLMechanism};
use lapin::{BasicProperties, Connection, ConnectionProperties, ErrorKind, Result};

use crate::client::{case, code, connect, fresh, is_there, next, run, until};
use crate::server::server;

fn uri(change: impl FnOnce(&mut AMQPUri)) -> AMQPUri {
    let mut uri: AMQPUri = server().url.parse().expect("the URL of the server");
    change(&mut uri);
    uri
}

async fn open(uri: AMQPUri) -> Result<Connection> {
    Connection::connect_uri(uri, ConnectionProperties::default()).await
}

async fn works(connection: &Connection) {
    let channel = connection.create_channel().await.expect("a channel");
    channel.basic_qos(1, BasicQosOptions::default()).await.expect("an answer");
}

#[test]
fn plain_login_opens_the_default_virtual_host() {
    run(async {
        let connection = open(uri(|uri| uri.query.auth_mechanism = Some(SASLMechanism::Plain)));
        let connection = connection.await.unwrap();
        assert!(connection.status().connected());
        works(&connection).await;
    });
}

#[test]
fn amqplain_login_opens_the_default_virtual_host() {
    run(async {
        let connection = open(uri(|uri| uri.query.auth_mechanism = Some(SASLMechanism::AMQPlain)));
        works(&connection.await.unwrap()).await;
    });
}

#[test]
fn wrong_password_is_403() {
    run(async {
        let refused = open(uri(|uri| uri.authority.userinfo.password = "wrong".into())).await;
        assert_eq!(code(refused), 403);
    });
}

#[test]
fn unknown_user_is_403() {
    run(async {
        let refused = open(uri(|uri| uri.authority.userinfo.username = "nobody".into())).await;
        assert_eq!(code(refused), 403);
    });
}

#[test]
fn mechanism_that_is_not_offered_is_refused() {
    run(async {
        let refused = open(uri(|uri| uri.query.auth_mechanism = Some(SASLMechanism::RabbitCrDemo)));
        refused.await.unwrap_err();
    });
}

#[test]
fn unknown_virtual_host_is_530() {
    run(async {
        let refused = open(uri(|uri| uri.vhost = fresh("vhost"))).await;
        assert_eq!(code(refused), 530);
    });
}

#[test]
fn shorter_heartbeat_of_the_client_is_agreed() {
    run(async {
        let connection = open(uri(|uri| uri.query.heartbeat = Some(7))).await.unwrap();
        assert_eq!(connection.configuration().heartbeat(), 7);
        works(&connection).await;
    });
}

#[test]
fn heartbeat_is_60_seconds_where_nobody_asks() {
    run(async {
        let connection = connect(&server().url).await.unwrap();
        assert_eq!(connection.configuration().heartbeat(), 60);
    });
}

#[test]
fn heartbeat_that_the_client_does_not_want_is_off() {
    run(async {
        let connection = open(uri(|uri| uri.query.heartbeat = Some(0))).await.unwrap();
        works(&connection).await;
    });
}

#[test]
fn fewer_channels_of_the_client_are_agreed() {
    run(async {
        let connection = open(uri(|uri| uri.query.channel_max = Some(3))).await.unwrap();
        assert_eq!(connection.configuration().channel_max(), 3);
        let mut channels = Vec::new();
        for _ in 0..3 {
            channels.push(connection.create_channel().await.unwrap());
        }
        let refused = connection.create_channel().await.map(drop).unwrap_err();
        assert!(matches!(refused.kind(), ErrorKind::ChannelsLimitReached), "{refused}");
    });
}

#[test]
fn channels_are_2047_where_nobody_asks() {
    run(async {
        let connection = connect(&server().url).await.unwrap();
        assert_eq!(connection.configuration().channel_max(), 2047);
    });
}

#[test]
fn frames_are_131072_bytes_where_nobody_asks() {
    run(async {
        let connection = connect(&server().url).await.unwrap();
        assert_eq!(connection.configuration().frame_max(), 131_072);
    });
}

#[test]
fn small_frames_carry_a_body_in_pieces() {
    let size = 4096;
    run(async {
        let connection = open(uri(|uri| uri.query.frame_max = Some(size))).await.unwrap();
        assert_eq!(connection.configuration().frame_max(), size);
        let channel = connection.create_channel().await.unwrap();
        let (name, exclusive) = (fresh("pieces"), QueueDeclareOptions::exclusive());
        channel.queue_declare((&*name).into(), exclusive, FieldTable::default()).await.unwrap();
        let body: Vec<u8> = (0..100_000_u32).map(|at| (at % 251) as u8).collect();
        let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
        let published =
            channel.basic_publish("".into(), (&*name).into(), options, &body, properties);
        published.await.unwrap().await.unwrap();
        let mut consumer =
            crate::client::consume(&channel, &name, lapin::options::BasicConsumeOptions::default())
                .await;
        assert_eq!(next(&mut consumer).await.data, body);
    });
}

#[test]
fn close_of_the_client_is_answered() {
    case(async |client| {
        client.connection.close(200, "bye".into()).await.unwrap();
        until("it has ended", async || !client.connection.status().connected()).await;
    });
}

#[test]
fn close_with_another_code_is_answered() {
    case(async |client| client.connection.close(320, "forced".into()).await.unwrap());
}

#[test]
fn name_of_a_connection_is_taken() {
    run(async {
        let properties = ConnectionProperties::default().with_connection_name("interop".into());
        works(&Connection::connect(&server().url, properties).await.unwrap()).await;
    });
}

#[test]
fn immediate_publish_is_540_and_ends_the_connection() {
    case(async |client| {
        let channel = client.confirming().await;
        let options = BasicPublishOptions { immediate: true, ..Default::default() };
        let publish =
            channel.basic_publish("".into(), "x".into(), options, b"", BasicProperties::default());
        let refused = match publish.await {
            Ok(confirm) => confirm.await.map(drop),
            Err(error) => Err(error),
        };
        assert_eq!(code(refused), 540);
        until("the connection has ended", async || !client.connection.status().connected()).await;
    });
}

#[test]
fn connections_are_apart() {
    case(async |client| {
        let other = client.other().await;
        let options = BasicPublishOptions { immediate: true, ..Default::default() };
        let properties = BasicProperties::default();
        let publish = other.channel.basic_publish("".into(), "x".into(), options, b"", properties);
        let _ = publish.await;
        until("the other has ended", async || !other.connection.status().connected()).await;
        works(&client.connection).await;
    });
}

#[test]
fn exclusive_queue_goes_with_its_connection() {
    case(async |client| {
        let other = client.other().await;
        let queue = other.queue().await;
        other.connection.close(200, "bye".into()).await.unwrap();
        // Close-ok comes when it is gone; RabbitMQ deletes it then.
        until("the queue is gone", async || !is_there(client, &queue).await).await;
    });
}

#[test]
fn new_secret_is_answered() {
    case(async |client| {
        // Passwords do not expire: whatever it is, the connection goes on.
        for secret in ["guest", "another"] {
            let told = client.connection.update_secret(secret.into(), "renewed".into()).await;
            told.unwrap();
            works(&client.connection).await;
        }
    });
}

#[test]
fn connections_are_many() {
    case(async |client| {
        let mut others = Vec::new();
        for _ in 0..40 {
            others.push(connect(&server().url).await.unwrap());
        }
        for other in &others {
            works(other).await;
        }
        works(&client.connection).await;
    });
}

#[test]
fn dropped_connection_gives_back_what_it_held() {
    case(async |client| {
        let queue = fresh("shared");
        let (durable, nothing) = (QueueDeclareOptions::durable(), FieldTable::default());
        client.channel.queue_declare((&*queue).into(), durable, nothing).await.unwrap();
        client.put(&queue, "held").await;
        let other = client.other().await;
        assert!(other.get(&queue).await.is_some());
        assert_eq!(client.ready(&queue).await, 0);
        drop(other);
        until("it is ready again", async || client.ready(&queue).await == 1).await;
        client.channel.queue_delete((&*queue).into(), Default::default()).await.unwrap();
    });
}

#[test]
fn blocked_is_not_said_of_a_healthy_server() {
    case(async |client| {
        let queue = client.queue().await;
        client.put(&queue, "x").await;
        assert!(!client.connection.status().blocked());
    });
}

#[test]
fn what_is_no_amqp_is_told_the_version_that_is_spoken() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let uri = uri(|_| {});
    run(async {
        let address = (uri.authority.host.as_str(), uri.authority.port);
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let mut answer = [0; 8];
        let read = tokio::time::timeout(Duration::from_secs(5), stream.read_exact(&mut answer));
        read.await.unwrap().unwrap();
        // RabbitMQ from 4.0 on names AMQP 1.0 instead.
        assert!(
            [*b"AMQP\0\0\x09\x01", *b"AMQP\x00\x01\x00\x00", *b"AMQP\x03\x01\x00\x00"]
                .contains(&answer),
            "{answer:?}"
        );
    });
}

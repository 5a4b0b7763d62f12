//! Who comes in, and how connections end.

use std::sync::Arc;
use std::time::Duration;

use plimsoll_amqp::methods::*;
use plimsoll_amqp_gateway::GatewayConfig;
use tokio::time::Instant;

use crate::client::*;

#[tokio::test(start_paused = true)]
async fn who_is_known_and_allowed_comes_in() {
    let node = Node::new();
    node.memory.add_user("ann", "secret", &[]);
    node.memory.allow("ann", "/", "", "", "");
    let mut client = node.log_in("ann", "secret", "/").await;
    assert!(client.opened.try_recv().is_err(), "its virtual host is not open yet");
    client.expect(0, ConnectionOpenOk::default()).await;
    client.opened.try_recv().unwrap();
    client.close().await;
}

#[tokio::test(start_paused = true)]
async fn who_guesses_is_refused_unseen_for_a_while() {
    let node = Node::with(GatewayConfig { login_failures_max: 2, ..GatewayConfig::default() });
    node.memory.add_user("ann", "secret", &[]);
    let comes_in = async |peer: &str, password: &str| {
        let mut client = node.connect_from(peer);
        client.greet("ann", password).await;
        matches!(client.hears(0).await, Method::ConnectionTune(_))
    };
    for _ in 0..2 {
        assert!(comes_in("10.0.0.7:1", "secret").await);
        assert!(!comes_in("10.0.0.7:1", "wrong").await);
    }
    assert!(!comes_in("10.0.0.7:2", "secret").await);
    assert!(comes_in("10.0.0.8:1", "secret").await);
    tokio::time::advance(Duration::from_secs(60)).await;
    assert!(comes_in("10.0.0.7:3", "secret").await);
}

#[tokio::test(start_paused = true)]
async fn wrong_password_and_unknown_user_are_refused_alike() {
    let node = Node::new();
    for (user, password) in [("guest", "wrong"), ("nobody", "guest"), ("nobody", "")] {
        let mut client = node.connect_from("127.0.0.1:5000");
        client.greet(user, password).await;
        let (code, text) = client.connection_ends().await;
        assert_eq!(code, 403);
        assert!(
            text.starts_with("ACCESS_REFUSED - Login was refused using authentication"),
            "{text}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn guest_comes_from_this_machine_only() {
    let node = Node::new();
    for (peer, comes_in) in
        [("10.0.0.7:5000", false), ("[::1]:5000", true), ("[::ffff:127.0.0.1]:5000", true)]
    {
        let mut client = node.connect_from(peer);
        client.greet("guest", "guest").await;
        let heard = client.hears(0).await;
        assert_eq!(matches!(heard, Method::ConnectionTune(_)), comes_in, "{peer}: {heard:?}");
    }
    node.memory.add_user("ann", "secret", &[]);
    let mut client = node.connect_from("10.0.0.7:5000");
    client.greet("ann", "secret").await;
    assert!(matches!(client.hears(0).await, Method::ConnectionTune(_)));
}

#[tokio::test(start_paused = true)]
async fn virtual_host_must_be_there_and_open_to_the_user() {
    let node = Node::new();
    node.memory.add_host("ships");
    for (vhost, text) in [
        ("ships", "NOT_ALLOWED - access to vhost 'ships' refused for user 'guest'"),
        ("nowhere", "NOT_ALLOWED - vhost nowhere not found"),
    ] {
        let mut client = node.log_in("guest", "guest", vhost).await;
        assert_eq!(client.connection_ends().await, (530, text.to_owned()));
    }
    node.memory.allow("guest", "ships", ".*", ".*", ".*");
    let mut client = node.log_in("guest", "guest", "ships").await;
    client.expect(0, ConnectionOpenOk::default()).await;
}

#[tokio::test(start_paused = true)]
async fn virtual_host_that_is_deleted_closes_its_connections() {
    let node = Node::new();
    node.memory.add_host("ships");
    node.memory.allow("guest", "ships", ".*", ".*", ".*");
    let mut client = node.log_in("guest", "guest", "ships").await;
    client.expect(0, ConnectionOpenOk::default()).await;
    node.memory.delete_host("ships");
    let text = "CONNECTION_FORCED - vhost 'ships' is deleted";
    assert_eq!(client.connection_ends().await, (320, text.to_owned()));
}

#[tokio::test(start_paused = true)]
async fn user_that_is_deleted_loses_its_connections_and_nobody_else() {
    let node = Node::new();
    let mut other = node.open().await;
    node.memory.add_user("ann", "secret", &[]);
    node.memory.allow("ann", "/", ".*", ".*", ".*");
    let mut client = node.log_in("ann", "secret", "/").await;
    client.expect(0, ConnectionOpenOk::default()).await;
    node.memory.delete_user("ann");
    let text = "CONNECTION_FORCED - user 'ann' is deleted";
    assert_eq!(client.connection_ends().await, (320, text.to_owned()));
    other.open_channel(1).await;
}

#[tokio::test(start_paused = true)]
async fn new_secret_changes_nothing() {
    let node = Node::new();
    let mut client = node.open().await;
    let update = |secret: &'static str| ConnectionUpdateSecret {
        new_secret: secret.into(),
        reason: s("rotated"),
    };
    // Passwords do not expire; RabbitMQ answers the same.
    for secret in ["guest", "another"] {
        client.say(0, update(secret)).await;
        client.expect(0, ConnectionUpdateSecretOk {}).await;
    }
    client.open_channel(1).await;
}

#[tokio::test(start_paused = true)]
async fn other_names_in_user_id_are_for_impersonators() {
    let node = Node::new();
    node.memory.add_user("imp", "imp", &["impersonator"]);
    node.memory.allow("imp", "/", ".*", ".*", ".*");
    let properties =
        plimsoll_amqp::properties::Properties { user_id: Some(s("ann")), ..Default::default() };
    let mut client = node.log_in("imp", "imp", "/").await;
    client.expect(0, ConnectionOpenOk::default()).await;
    client.open_channel(1).await;
    client.publish_with(1, "", "x", &properties, b"").await;
    client.settled(1).await;
    let mut client = node.channel().await;
    client.publish_with(1, "", "x", &properties, b"").await;
    assert_eq!(client.channel_ends(1).await.0, 406);
}

#[tokio::test(start_paused = true)]
async fn nonsense_ends_its_own_connection_only() {
    let node = Node::new();
    let mut bystander = node.channel().await;
    let mut client = node.channel().await;
    let mut bytes = bytes::BytesMut::new();
    put_raw(&mut bytes, 9, 1, b"abc");
    client.bytes(&bytes).await;
    let (code, text) = client.connection_ends().await;
    assert_eq!(code, 501, "{text}");
    // A length that no frame has, before the login: nothing is allocated, it is only closed.
    let mut client = node.connect_from("127.0.0.1:5000");
    client.bytes(b"AMQP\0\0\x09\x01").await;
    assert!(matches!(client.hears(0).await, Method::ConnectionStart(_)));
    client.bytes(&[1, 0, 0, 0xff, 0xff, 0xff, 0xff, 0]).await;
    assert_eq!(client.next().await, Heard::End);
    let mut client = node.connect_from("127.0.0.1:5000");
    client.bytes(b"GET / HTTP/1.1\r\n").await;
    bystander.settled(1).await;
    bystander.close().await;
}

#[tokio::test(start_paused = true)]
async fn silent_client_is_dead_after_two_intervals() {
    let node = Node::new();
    let client = node.channel().await;
    let began = Instant::now();
    let Client { task, stream, .. } = client;
    task.await.unwrap();
    assert_eq!(began.elapsed(), Duration::from_secs(120));
    drop(stream);
}

#[tokio::test(start_paused = true)]
async fn client_hears_from_the_node_each_half_interval() {
    let node = Node::new();
    let mut client = node.channel().await;
    let began = Instant::now();
    assert_eq!(client.next().await, Heard::Heartbeat);
    assert_eq!(began.elapsed(), Duration::from_secs(30));
    // What is said is a sign of life.
    for _ in 0..5 {
        client.settled(1).await;
        assert_eq!(client.next().await, Heard::Heartbeat);
    }
}

#[tokio::test(start_paused = true)]
async fn node_that_stops_tells_its_clients() {
    let node = Node::new();
    let mut client = node.channel().await;
    client.stop.take().unwrap().send(()).unwrap();
    let text = "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'";
    assert_eq!(client.connection_ends().await, (320, text.to_owned()));
    client.task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_publishes_is_told_that_the_node_is_blocked() {
    let node = Node::new();
    let mut client = node.channel().await;
    client.declare_named("q").await;
    client.publish(1, "q", "before").await;
    assert_eq!(client.counts("q").await, (1, 0));
    node.memory.block(Some("low on disk"));
    client.expect(0, ConnectionBlocked { reason: s("low on disk") }).await;
    // Nothing is read of it, however long that is, and it is not taken for dead.
    client.publish(1, "q", "during").await;
    client.say(1, ChannelFlow { active: true }).await;
    for _ in 0..8 {
        assert_eq!(client.next().await, Heard::Heartbeat);
    }
    assert_eq!(node.memory.ready("q"), ["before"]);
    node.memory.block(None);
    client.expect(0, ConnectionUnblocked {}).await;
    client.expect(1, ChannelFlowOk { active: true }).await;
    assert_eq!(client.counts("q").await, (2, 0));
}

#[tokio::test(start_paused = true)]
async fn connection_that_goes_without_a_word_leaves_nothing() {
    let node = Node::new();
    let mut client = node.channel().await;
    let queue = QueueDeclare { queue: s("mine"), exclusive: true, ..Default::default() };
    client.declare(queue).await;
    client.declare_named("q").await;
    client.publish(1, "q", "a").await;
    client.consume(1, "q").await;
    assert_eq!(client.delivery().await.body, "a");
    let Client { task, stream, .. } = client;
    drop(stream);
    task.await.unwrap();
    assert_eq!(node.memory.queue_names("/"), ["q"]);
    assert_eq!(node.memory.ready("q"), ["a"]);
    assert_eq!(Arc::strong_count(&node.gateway), 1);
}

#[tokio::test(start_paused = true)]
async fn task_that_is_dropped_leaves_no_exclusive_queue() {
    let node = Node::new();
    let mut client = node.channel().await;
    let queue = QueueDeclare { queue: s("mine"), exclusive: true, ..Default::default() };
    client.declare(queue).await;
    client.task.abort();
    assert!(client.task.await.unwrap_err().is_cancelled());
    assert!(node.memory.queue_names("/").is_empty());
}

#[tokio::test(start_paused = true)]
async fn close_waits_for_what_was_published() {
    let node = Node::with(GatewayConfig::default());
    let mut client = node.channel().await;
    client.declare_named("q").await;
    node.memory.hold_back();
    client.publish(1, "q", "late").await;
    client.say(0, ConnectionClose { reply_code: 200, ..Default::default() }).await;
    until(|| node.memory.held_back() == 1).await;
    assert!(node.memory.ready("q").is_empty());
    node.memory.let_go(1);
    client.expect(0, ConnectionCloseOk {}).await;
    assert_eq!(node.memory.ready("q"), ["late"]);
}

//! Virtual hosts, users and permissions, as an administrator changes them by the command line.

use lapin::options::{
    BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, ExchangeDeclareOptions,
    QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::uri::AMQPUri;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, ExchangeKind, Result};

use crate::client::{Client, code, consume, ends, fresh, reason, run, until};
use crate::server::{Cli, server};

/// What a case has: a virtual host and a user of its own, who may do nothing there yet.
struct Case {
    cli: &'static Cli,
    vhost: String,
    user: String,
}

const PASSWORD: &str = "s3cret of the case";

/// Runs one case. Nothing to do where the server was given: it has no command line here.
fn case(body: impl AsyncFnOnce(&Case)) {
    let Some(cli) = &server().cli else { return };
    let case = Case { cli, vhost: fresh("vhost"), user: fresh("user") };
    cli.amqp(&["vhost", "create", &case.vhost], "");
    cli.amqp(&["user", "create", &case.user, "--password-stdin"], &format!("{PASSWORD}\n"));
    run(body(&case));
}

impl Case {
    fn allow(&self, configure: &str, write: &str, read: &str) {
        let patterns = ["--configure", configure, "--write", write, "--read", read];
        let set = ["permission", "set", &self.vhost, &self.user];
        self.cli.amqp(&[&set[..], &patterns].concat(), "");
    }

    async fn connect(&self, password: &str) -> Result<Connection> {
        let mut uri: AMQPUri = server().url.parse().expect("the URL of the server");
        uri.vhost.clone_from(&self.vhost);
        uri.authority.userinfo.username.clone_from(&self.user);
        uri.authority.userinfo.password = password.to_owned();
        Connection::connect_uri(uri, ConnectionProperties::default()).await
    }

    async fn open(&self) -> Client {
        Client::over(self.connect(PASSWORD).await.expect("the user may enter")).await
    }
}

async fn declare(channel: &Channel, queue: &str) -> Result<()> {
    let options = QueueDeclareOptions::exclusive();
    channel.queue_declare(queue.into(), options, FieldTable::default()).await.map(drop)
}

#[test]
fn user_without_permissions_may_not_enter() {
    case(async |case| {
        let refused = case.connect(PASSWORD).await;
        assert_eq!(code(refused), 530);
        case.allow("", "", "");
        // Who may do nothing may still enter.
        let client = case.open().await;
        assert_eq!(code(declare(&client.channel, "q").await), 403);
        case.cli.amqp(&["permission", "clear", &case.vhost, &case.user], "");
        assert_eq!(code(case.connect(PASSWORD).await), 530);
    });
}

#[test]
fn user_does_what_its_patterns_allow() {
    case(async |case| {
        case.allow("^mine-", r"^(mine-|amq\.default$)", "^mine-");
        let client = case.open().await;
        declare(&client.channel, "mine-q").await.unwrap();
        client.put("mine-q", "x").await;
        assert_eq!(client.drain("mine-q").await, ["x"]);
        let (kind, options) = (ExchangeKind::Fanout, ExchangeDeclareOptions::default());
        let arguments = FieldTable::default();
        let declared = client.channel.exchange_declare("mine-ex".into(), kind, options, arguments);
        declared.await.unwrap();
        client.bind("mine-q", "mine-ex", "").await;
    });
}

#[test]
fn user_is_refused_what_its_patterns_do_not_allow() {
    case(async |case| {
        case.allow("^mine-", r"^(mine-|amq\.default$)", "^mine-q$");
        let client = case.open().await;
        let refused = declare(&client.open().await, "theirs").await;
        assert!(reason(refused).contains("configure access to queue 'theirs'"));
        let channel = client.open().await;
        let refused = declare(&channel, "theirs-q").await;
        assert_eq!(code(refused), 403);
        declare(&client.channel, "mine-q").await.unwrap();
        declare(&client.channel, "mine-p").await.unwrap();
        let channel = client.open().await;
        let mut consumer = consume(&channel, "mine-q", BasicConsumeOptions::default()).await;
        let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
        let exchange = "amq.direct".into();
        let sent = channel.basic_publish(exchange, "mine-q".into(), options, b"x", properties);
        sent.await.unwrap();
        assert_eq!(ends(&mut consumer).await, 403);
        let channel = client.open().await;
        let got = channel.basic_get("mine-p".into(), BasicGetOptions::default()).await;
        assert_eq!(code(got), 403);
    });
}

#[test]
fn open_connection_is_held_to_new_permissions() {
    case(async |case| {
        case.allow(".*", ".*", ".*");
        let client = case.open().await;
        declare(&client.channel, "q").await.unwrap();
        client.put("q", "x").await;
        case.allow(".*", ".*", "");
        let got = client.channel.basic_get("q".into(), BasicGetOptions::default()).await;
        assert_eq!(code(got), 403);
        case.allow(".*", ".*", ".*");
        let channel = client.open().await;
        channel
            .basic_get("q".into(), BasicGetOptions::default())
            .await
            .unwrap()
            .expect("it is there");
    });
}

#[test]
fn changed_password_counts_for_new_connections() {
    case(async |case| {
        case.allow(".*", ".*", ".*");
        let before = case.open().await;
        let passwd = ["user", "passwd", &case.user, "--password-stdin"];
        case.cli.amqp(&passwd, "another\n");
        assert_eq!(code(case.connect(PASSWORD).await), 403);
        case.connect("another").await.unwrap();
        // As in RabbitMQ, who is in stays in.
        declare(&before.channel, "q").await.unwrap();
        before.put("q", "x").await;
    });
}

#[test]
fn deleted_user_is_shut_out_and_its_connections_are_closed() {
    case(async |case| {
        case.allow(".*", ".*", ".*");
        let client = case.open().await;
        case.cli.amqp(&["user", "delete", &case.user, "--yes"], "");
        until("it is closed", async || !client.connection.status().connected()).await;
        assert_eq!(code(case.connect(PASSWORD).await), 403);
        let left = case.cli.amqp(&["permission", "list", "--vhost", &case.vhost, "--json"], "");
        assert_eq!(left, "", "its permissions went with it");
    });
}

#[test]
fn deleted_virtual_host_closes_its_connections() {
    case(async |case| {
        case.allow(".*", ".*", ".*");
        let client = case.open().await;
        declare(&client.channel, "q").await.unwrap();
        case.cli.amqp(&["vhost", "delete", &case.vhost, "--yes"], "");
        until("it is closed", async || !client.connection.status().connected()).await;
        assert_eq!(code(case.connect(PASSWORD).await), 530);
        // One of the same name is another, and empty.
        case.cli.amqp(&["vhost", "create", &case.vhost], "");
        assert_eq!(code(case.connect(PASSWORD).await), 530, "permissions went with the first");
        case.allow(".*", ".*", ".*");
        let again = case.open().await;
        assert!(!crate::client::is_there(&again, "q").await);
    });
}

#[test]
fn password_is_nowhere_in_the_log() {
    case(async |case| {
        case.allow(".*", ".*", ".*");
        case.open().await;
        assert_eq!(code(case.connect("wr0ng of the case").await), 403);
        let log = case.cli.log();
        assert!(!log.contains(PASSWORD) && !log.contains("wr0ng of the case"));
    });
}

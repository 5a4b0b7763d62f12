//! Publishing under a lock: the header `x-fence`. RabbitMQ has no locks, and nothing is asked of it here.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdin, Command, Stdio};

use lapin::BasicProperties;
use lapin::options::{BasicConsumeOptions, BasicRejectOptions};

use crate::client::{
    Client, case, code, consume, ends_because, fresh, headers, int, publish, text,
};
use crate::server::{Cli, server};

/// A lock that `plimsoll lock run` holds until this is dropped.
struct Held {
    /// As the command finds it in its environment.
    fence: String,
    running: Child,
    /// The command runs until this is closed.
    input: Option<ChildStdin>,
}

impl Held {
    fn new(cli: &Cli, namespace: &str) -> Self {
        let mut command: Command = cli.command(&["lock", "run", "--namespace", namespace, "lock"]);
        command.args(["--", "sh", "-c", "echo \"$PLIMSOLL_FENCE\"; cat"]);
        let mut running =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
        let mut fence = String::new();
        let output = running.stdout.take().expect("it is piped");
        BufReader::new(output).read_line(&mut fence).expect("the command says its fence");
        let input = running.stdin.take();
        Self { fence: fence.trim_end().to_owned(), running, input }
    }

    fn release(&mut self) {
        self.input = None;
        let ended = self.running.wait().expect("it ends");
        assert!(ended.success(), "{ended}");
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // A case that has failed leaves nothing behind.
        let _ = self.running.kill();
        let _ = self.running.wait();
    }
}

/// The command line of the server, and a namespace of its own; none where it is not ours.
fn namespace() -> Option<(&'static Cli, String)> {
    let cli = server().cli.as_ref()?;
    let namespace = fresh("locks");
    cli.run(&["lock", "namespace", "create", &namespace], "");
    Some((cli, namespace))
}

fn under(fence: &str) -> BasicProperties {
    headers([("x-fence", text(fence)), ("kept", int(7))])
}

/// Publishes what must not be stored; gives the words with which the channel ends.
async fn refused(client: &Client, queue: &str, properties: BasicProperties) -> String {
    let (channel, quiet) = (client.confirming().await, client.queue().await);
    let mut consumer = consume(&channel, &quiet, BasicConsumeOptions::default()).await;
    let told = publish(&channel, "", queue, b"refused", properties).await;
    assert!(told.map_or(true, |told| !told.is_ack()), "it is stored");
    ends_because(&mut consumer).await
}

#[test]
fn former_holder_cannot_publish_even_before_the_next_one_has() {
    case(async |client| {
        let Some((cli, namespace)) = namespace() else { return };
        let queue = client.queue().await;
        let mut first = Held::new(cli, &namespace);
        let channel = client.confirming().await;
        let told = publish(&channel, "", &queue, b"held", under(&first.fence)).await;
        assert!(told.unwrap().is_ack());
        first.release();
        let second = Held::new(cli, &namespace);

        let why = refused(client, &queue, under(&first.fence)).await;
        assert!(why.contains("PRECONDITION_FAILED") && why.contains("stale"), "{why}");

        let channel = client.confirming().await;
        let told = publish(&channel, "", &queue, b"second", under(&second.fence)).await;
        assert!(told.unwrap().is_ack());
        let mut found = Vec::new();
        while let Some(message) = client.get(&queue).await {
            let headers = message.properties.headers().clone().unwrap_or_default();
            assert!(headers.inner().contains_key("kept"), "{headers:?}");
            assert!(!headers.inner().contains_key("x-fence"), "it is not for who publishes anew");
            found.push(String::from_utf8(message.delivery.data.clone()).unwrap());
            message.reject(BasicRejectOptions { requeue: false }).await.unwrap();
        }
        assert_eq!(found, ["held", "second"]);
    });
}

#[test]
fn fence_that_is_none_ends_the_channel_with_the_reason() {
    case(async |client| {
        let Some((cli, namespace)) = namespace() else { return };
        let queue = client.queue().await;
        let held = Held::new(cli, &namespace);
        let future = format!("{namespace}/lock/{}", u64::MAX);
        let nowhere = format!("{namespace}-not/lock/1");
        let wrong = [
            (text("nonsense"), "NAMESPACE/LOCK/TOKEN"),
            (text(&future), "granted no token"),
            (text(&nowhere), "no namespace"),
            (int(7), "NAMESPACE/LOCK/TOKEN"),
        ];
        for (fence, why) in wrong {
            let told = refused(client, &queue, headers([("x-fence", fence)])).await;
            assert!(told.contains(why), "{told}");
        }
        client.put_with(&queue, "yes", under(&held.fence)).await;
        assert_eq!(client.get(&queue).await.unwrap().delivery.data, b"yes");
    });
}

#[test]
fn transaction_under_a_lost_lock_is_not_committed() {
    case(async |client| {
        let Some((cli, namespace)) = namespace() else { return };
        let queue = client.queue().await;
        let mut held = Held::new(cli, &namespace);
        held.release();
        let channel = client.open().await;
        channel.tx_select().await.unwrap();
        let options = Default::default();
        let published =
            channel.basic_publish("".into(), (&*queue).into(), options, b"no", under(&held.fence));
        published.await.unwrap();
        assert_eq!(code(channel.tx_commit().await), 406);
        assert!(client.get(&queue).await.is_none());
    });
}

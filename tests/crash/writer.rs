//! A producer that numbers its records.

use std::sync::Arc;

use plimsoll_bench::serve_process::ServeCommand;
use plimsoll_client::{AckFuture, Client, Producer, Record};
use plimsoll_tests::{Random, eventually, numbered_value, within};
use plimsoll_transport::TransportKind;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::PARTITIONS;
use crate::ledger::{Ledger, Stream};

/// Records on their way at once.
const WINDOW: usize = 500;

#[derive(Debug)]
pub(crate) struct Writer {
    sending: JoinHandle<()>,
    acknowledging: JoinHandle<()>,
}

struct Sent {
    stream: Stream,
    sequence: u64,
    ack: AckFuture,
}

impl Writer {
    /// Begins to send to random partitions of `topic`.
    pub(crate) async fn start(
        node: &ServeCommand,
        transport: TransportKind,
        topic: &'static str,
        ledger: &Arc<Ledger>,
        seed: u64,
    ) -> Self {
        let producer = eventually("a producer", async || {
            let client = Client::connect(node.client_config(transport).ok()?).await.ok()?;
            client.producer(topic).build().await.ok()
        })
        .await;
        let (queue, sent) = mpsc::channel(WINDOW);
        let writer = ledger.new_writer();
        let sending = Sending { producer, topic, writer, ledger: Arc::clone(ledger), queue };
        let random = Random::seeded(seed);
        Self {
            sending: tokio::spawn(sending.run(random)),
            acknowledging: tokio::spawn(acknowledge(sent, Arc::clone(ledger))),
        }
    }

    /// Ends at once. What it has sent and was not acknowledged may be stored or not.
    pub(crate) async fn forsake(self) {
        for task in [self.sending, self.acknowledging] {
            task.abort();
            if let Err(ended) = task.await
                && ended.is_panic()
            {
                std::panic::resume_unwind(ended.into_panic());
            }
        }
    }

    /// After [`Ledger::stop`]: waits until everything sent is acknowledged.
    pub(crate) async fn finish(self) {
        within("the last sends", self.sending).await.expect("it does not panic");
        within("the last acks", self.acknowledging).await.expect("all is acknowledged");
    }
}

struct Sending {
    producer: Producer,
    topic: &'static str,
    writer: u32,
    ledger: Arc<Ledger>,
    queue: mpsc::Sender<Sent>,
}

impl Sending {
    async fn run(self, mut random: Random) {
        let mut next = [0; PARTITIONS as usize];
        while self.ledger.may_send().await {
            let partition = random.within(0..next.len() as u64) as usize;
            let sequence = next[partition];
            next[partition] += 1;
            let stream =
                Stream { topic: self.topic, partition: partition as u32, writer: self.writer };
            let record = Record::new(numbered_value(self.writer, stream.partition, sequence));
            self.ledger.sending(stream, sequence);
            let ack = self.producer.enqueue_to(stream.partition, &record).await;
            let ack = ack.expect("the producer takes records as long as it lives");
            // The acknowledging side ends only after this one, or is forsaken with it.
            if self.queue.send(Sent { stream, sequence, ack }).await.is_err() {
                return;
            }
        }
    }
}

async fn acknowledge(mut sent: mpsc::Receiver<Sent>, ledger: Arc<Ledger>) {
    while let Some(Sent { stream, sequence, ack }) = sent.recv().await {
        match ack.await {
            Ok(ack) => {
                assert_eq!(ack.partition, stream.partition);
                ledger.acked(stream, sequence);
            }
            Err(error) => panic!("{stream:?}, record {sequence}: {error}"),
        }
    }
}

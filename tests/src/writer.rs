//! A producer that numbers its records and notes what becomes of each.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use plimsoll_client::{AckFuture, Client, ClientConfig, Producer, Record};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use crate::history::{History, Stream};
use crate::numbered::numbered_value;
use crate::random::Random;
use crate::wait::within;

const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(50);

/// How much a writer sends.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Records per second, at most 1,000.
    pub per_second: u32,
    /// Records on their way at once, at most.
    pub window: usize,
}

/// A writer to random partitions of one topic. A producer that gives up a record is replaced by a new
/// one, under another number.
#[derive(Debug)]
pub struct Writer {
    stop: watch::Sender<bool>,
    running: JoinHandle<()>,
}

struct Sending {
    config: ClientConfig,
    topic: &'static str,
    partitions: u32,
    pace: Pace,
    history: Arc<History>,
    stopped: watch::Receiver<bool>,
}

impl Writer {
    /// Begins to send.
    pub fn start(
        config: ClientConfig,
        (topic, partitions): (&'static str, u32),
        pace: Pace,
        history: &Arc<History>,
        seed: u64,
    ) -> Self {
        let (stop, stopped) = watch::channel(false);
        let history = Arc::clone(history);
        let sending = Sending { config, topic, partitions, pace, history, stopped };
        Self { stop, running: tokio::spawn(sending.run(Random::seeded(seed))) }
    }

    /// Ends it when everything that was sent is acknowledged or given up.
    pub async fn finish(self) {
        self.stop.send_replace(true);
        within("the last acknowledgements", self.running).await.expect("it does not panic");
    }
}

impl Sending {
    async fn run(self, mut random: Random) {
        let mut attempts = tokio::time::interval(BETWEEN_ATTEMPTS);
        while !*self.stopped.borrow() {
            attempts.tick().await;
            let Ok(client) = Client::connect(self.config.clone()).await else { continue };
            let Ok(producer) = client.producer(self.topic).build().await else { continue };
            self.send(producer, &mut random).await;
        }
    }

    /// Sends until it is stopped or a record was given up, and waits for what is on its way.
    async fn send(&self, producer: Producer, random: &mut Random) {
        let writer = self.history.new_writer();
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / self.pace.per_second);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut in_flight = FuturesUnordered::new();
        let mut good = true;
        loop {
            let goes_on = good && !*self.stopped.borrow();
            if !goes_on && in_flight.is_empty() {
                // What it has sent is settled, so there is nothing that could be lost.
                let _ = producer.close().await;
                return;
            }
            tokio::select! {
                biased;
                Some(ended) = in_flight.next() => good &= ended,
                _ = ticks.tick(), if goes_on && in_flight.len() < self.pace.window => {
                    let partition = random.within(0..u64::from(self.partitions)) as u32;
                    let stream = Stream { topic: self.topic, partition, writer };
                    let sequence = self.history.sending(stream);
                    let record = Record::new(numbered_value(writer, partition, sequence));
                    match producer.enqueue_to(partition, &record).await {
                        Ok(ack) => in_flight.push(self.settle(stream, sequence, ack)),
                        Err(error) => {
                            self.history.failed(stream, sequence, &error);
                            good = false;
                        }
                    }
                }
            }
        }
    }

    /// False where the record was given up.
    async fn settle(&self, stream: Stream, sequence: u64, ack: AckFuture) -> bool {
        match ack.await {
            Ok(ack) => {
                assert_eq!(ack.partition, stream.partition);
                self.history.acked(stream, sequence, ack.offset.map(|offset| offset.0));
                true
            }
            Err(error) => {
                self.history.failed(stream, sequence, &error);
                false
            }
        }
    }
}

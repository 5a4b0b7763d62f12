//! A queue beside the topic: senders, and consumers that settle what they are given, give it back, hold it
//! too long, or crash.

use std::time::Duration;

use plimsoll_client::{
    Client, Message, NewQueue, ProducerOptions, QueueConsumer, QueueSettings, Record,
};
use plimsoll_log::disk::sim::SplitMix;
use plimsoll_transport::SimulatedHost;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::history::{History, RecordName};
use crate::messages::{Delivered, Receiver, Saying, key_of};
use crate::workload::{Work, connect, outcome_of};

/// The queue.
pub const QUEUE: &str = "q";
/// Where its dead letters go.
pub const LETTERS: &str = "q.dead";

/// Senders number their messages apart from the records of producers.
const FIRST_SENDER: u32 = 1000;
/// A queue that gave nothing for so long may be empty.
const QUIET: Duration = Duration::from_millis(100);

/// What is to be done with the queue of a world.
#[derive(Debug, Clone)]
pub struct QueueWork {
    /// Its partitions.
    pub partitions: u32,
    /// How it behaves.
    pub settings: QueueSettings,
    /// How many keys there are; 0: messages have none.
    pub keys: u64,
    /// Senders, each in a process of its own.
    pub senders: u32,
    /// Tasks that consume, each in a process of its own.
    pub receivers: u32,
    /// Longest wait that a consumer asks for where it gives a message back, in milliseconds.
    pub delay_ms_max: u64,
    /// Longest delay that a sender asks for, in milliseconds; 0: none has one.
    pub later_ms_max: u64,
    /// Longest life that a sender gives a message, in milliseconds; 0: they live for ever.
    pub life_ms_max: u64,
}

/// Makes the queue, however long it takes.
async fn make_queue(client: &Client, work: &Work, queue: &QueueWork) {
    loop {
        let wanted = NewQueue {
            partitions: queue.partitions,
            replicas: work.replicas,
            settings: queue.settings.clone(),
            if_not_exists: true,
            ..NewQueue::new(QUEUE)
        };
        match client.admin().create_queue(wanted).await {
            Ok(_) => return,
            Err(error) => tracing::debug!(%error, "the queue cannot be made"),
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// Sends numbered messages until the history is over.
pub async fn send(
    host: SimulatedHost,
    history: History,
    sender: u32,
    seed: u64,
    (work, queue): (Work, QueueWork),
) {
    let mut random = SplitMix::new(seed);
    let client = connect(&host, random.number(), &work).await;
    make_queue(&client, &work, &queue).await;
    let mut next = 0;
    while !history.lock().is_over {
        let options = ProducerOptions {
            linger: Duration::from_millis(random.below(3)),
            delivery_timeout: Duration::from_millis(500 + random.below(20_000)),
            ..ProducerOptions::default()
        };
        let sending = match client.producer(QUEUE).options(options).build().await {
            Ok(sending) => sending,
            Err(error) => {
                tracing::debug!(%error, "a sender cannot be made");
                sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        for _ in 0..20 + random.below(100) {
            if history.lock().is_over {
                break;
            }
            let mut waiting = Vec::new();
            for _ in 0..1 + random.below(6) {
                let message = RecordName { producer: FIRST_SENDER + sender, number: next };
                next += 1;
                let partition = below(&mut random, queue.partitions);
                let record = record(&mut random, message, &work, &queue);
                let record = timed(&mut random, record, history.unix_ms(), &queue);
                waiting.push((message, partition, sending.enqueue_to(partition, &record).await));
            }
            for (message, partition, enqueued) in waiting {
                let told = match enqueued {
                    Ok(future) => future.await.map(|ack| ack.offset.map(|offset| offset.0)),
                    Err(error) => Err(error),
                };
                history.told_sender(message, partition, outcome_of(told));
            }
            sleep(Duration::from_millis(random.below(work.pause_ms_max + 1))).await;
        }
        if random.chance(50) {
            // What was sent is settled already.
            drop(sending.close().await);
        }
    }
    history.lock().ended += 1;
}

fn below(random: &mut SplitMix, count: u32) -> u32 {
    u32::try_from(random.below(u64::from(count))).unwrap_or(0)
}

fn record(random: &mut SplitMix, message: RecordName, work: &Work, queue: &QueueWork) -> Record {
    let padding = usize::try_from(random.below(work.padding_max / 4 + 1)).unwrap_or(0);
    let record = Record::new(message.value(padding)).with_timestamp_ms(1);
    let levels = u64::from(queue.settings.levels);
    let priority = u8::try_from(random.below(levels)).unwrap_or(0);
    let record = Record { priority: (levels > 1).then_some(priority), ..record };
    match queue.keys {
        0 => record,
        keys => record.with_key(random.below(keys).to_string()),
    }
}

/// Some messages wait for their time, some have one until which they live.
fn timed(random: &mut SplitMix, record: Record, now_ms: i64, queue: &QueueWork) -> Record {
    let mut within = |most_ms: u64| {
        (most_ms > 0 && random.chance(20))
            .then(|| now_ms.saturating_add_unsigned(random.below(most_ms + 1)))
    };
    let deliver_at_ms = within(queue.later_ms_max);
    Record { deliver_at_ms, expires_at_ms: within(queue.life_ms_max), ..record }
}

/// What a consumer makes of a message.
#[derive(Debug, Clone, Copy)]
struct Plan {
    /// How long it holds the message, in milliseconds.
    hold_ms: u64,
    /// Whether it asks for its lease anew, then.
    extends: bool,
    /// What it says in the end; nothing: the lease runs out.
    saying: Option<Saying>,
    /// The wait that it asks for where it gives the message back, in milliseconds.
    delay_ms: Option<u64>,
}

impl Plan {
    fn draw(random: &mut SplitMix, queue: &QueueWork) -> Self {
        let saying = match random.below(100) {
            0..70 => Some(Saying::Accept),
            70..85 => Some(Saying::Release),
            85..90 => Some(Saying::Reject),
            _ => None,
        };
        // Most are held shortly, some until their lease is almost over, or just over.
        let lease_ms = u64::from(queue.settings.lease_ms);
        let hold_ms = match random.below(10) {
            0..7 => random.below(20),
            _ => random.below(lease_ms * 5 / 4),
        };
        let delay_ms = (queue.delay_ms_max > 0 && random.chance(50))
            .then(|| random.below(queue.delay_ms_max + 1));
        Self { hold_ms, extends: random.chance(10), saying, delay_ms }
    }
}

/// Holds a message, and says what the plan says.
async fn hold(history: History, message: Message, delivered: Delivered, plan: Plan) {
    sleep(Duration::from_millis(plan.hold_ms)).await;
    if plan.extends && message.extend(None).await.is_ok() {
        sleep(Duration::from_millis(plan.hold_ms)).await;
    }
    let Some(saying) = plan.saying else { return };
    // From now on it may take effect, whatever comes of it.
    history.saying(delivered, saying);
    let told = match saying {
        Saying::Accept => message.accept(),
        Saying::Release => message.release(plan.delay_ms.map(Duration::from_millis)),
        Saying::Reject => message.reject(),
    };
    match told.await {
        Ok(()) => history.stored(delivered, saying),
        Err(error) => tracing::debug!(%error, "a settlement is not stored, or not known to be"),
    }
}

/// Notes a message that came; none where the record is nobody's.
fn note(history: &History, to: Receiver, message: &Message) -> Option<Delivered> {
    let value = message.record.value.as_deref().unwrap_or_default();
    let (partition, offset) = (message.partition, message.offset.0);
    let Some(name) = RecordName::parse(value) else {
        history.complain(format!("message {offset} of {partition} is nobody's"));
        return None;
    };
    let key = message.record.key.as_deref().and_then(key_of);
    let attempt = message.attempt;
    let delivered = Delivered { to, partition, offset, attempt, message: name, key };
    history.delivered(delivered);
    Some(delivered)
}

/// Consumes until the history is over, now and then anew.
pub async fn receive(
    host: SimulatedHost,
    history: History,
    seed: u64,
    (work, queue): (Work, QueueWork),
) {
    let mut random = SplitMix::new(seed);
    let client = connect(&host, random.number(), &work).await;
    make_queue(&client, &work, &queue).await;
    while !history.lock().is_over {
        let prefetch = 1 + below(&mut random, 20);
        let receiver = history.begin_receiving();
        let mut consuming = match client.queue_consumer(QUEUE).prefetch(prefetch).build().await {
            Ok(consuming) => consuming,
            Err(error) => {
                tracing::debug!(%error, "a consumer of the queue cannot be made");
                sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        let until = Instant::now() + Duration::from_millis(200 + random.below(4000));
        while let Ok(got) = timeout_at(until, consuming.next()).await {
            let Some(message) = taken(&history, got) else { break };
            if let Some(delivered) = note(&history, receiver, &message) {
                let plan = Plan::draw(&mut random, &queue);
                tokio::spawn(hold(history.clone(), message, delivered, plan));
            }
        }
        if random.chance(30) {
            // It takes nothing, and holds what it was given: for others it looks stuck.
            sleep(Duration::from_millis(random.below(1500))).await;
        }
    }
    history.lock().ended += 1;
}

fn taken<E: std::fmt::Display>(
    history: &History,
    got: Option<Result<Message, E>>,
) -> Option<Message> {
    match got {
        Some(Ok(message)) => Some(message),
        Some(Err(error)) => {
            history.complain(format!("a consumer of the queue cannot go on: {error}"));
            None
        }
        None => {
            history.complain("a consumer of the queue came to an end".to_owned());
            None
        }
    }
}

/// Takes and accepts everything that is left, and ends when the queue is empty.
pub async fn drain(host: SimulatedHost, history: History, (work, queue): (Work, QueueWork)) {
    let client = connect(&host, 1, &work).await;
    make_queue(&client, &work, &queue).await;
    let receiver = history.begin_receiving();
    let mut consuming = loop {
        match client.queue_consumer(QUEUE).build().await {
            Ok(consuming) => break consuming,
            Err(error) => {
                tracing::debug!(%error, "the last consumer of the queue cannot begin");
                sleep(Duration::from_millis(20)).await;
            }
        }
    };
    loop {
        take_all(&history, receiver, &mut consuming).await;
        if is_empty(&client, &queue).await {
            break;
        }
    }
    history.lock().ended += 1;
}

/// Accepts what comes until nothing does for a while.
async fn take_all(history: &History, receiver: Receiver, consuming: &mut QueueConsumer) {
    let plan = Plan { hold_ms: 0, extends: false, saying: Some(Saying::Accept), delay_ms: None };
    while let Ok(got) = timeout(QUIET, consuming.next()).await {
        let Some(message) = taken(history, got) else { return };
        if let Some(delivered) = note(history, receiver, &message) {
            tokio::spawn(hold(history.clone(), message, delivered, plan));
        }
    }
}

async fn is_empty(client: &Client, queue: &QueueWork) -> bool {
    let looked_at = client.admin().queue(QUEUE, "");
    for partition in 0..queue.partitions {
        match looked_at.standing(partition).await {
            Ok(standing) if standing.unsettled == 0 => {}
            _ => return false,
        }
    }
    true
}

//! Consumers that read everything from the beginning and keep what they saw.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use plimsoll_client::{Client, ClientConfig, Consumer, ConsumerBuilder, Offset, StartPosition};
use tokio::task::JoinSet;

use crate::numbered::read_numbered;
use crate::wait::{eventually, within};

const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(50);

/// Writer and number of each record of a partition, from offset 0 on.
pub type Log = Vec<(u32, u64)>;

/// A topic and a partition.
pub type Place = (&'static str, u32);

/// One consumer per partition. Where one ends with an error, another goes on at the next offset.
#[derive(Debug)]
pub struct Reader {
    seen: Seen,
    errors: Arc<Mutex<Vec<String>>>,
    tasks: JoinSet<()>,
}

type Seen = Arc<Mutex<BTreeMap<Place, Log>>>;

impl Reader {
    /// Begins to read all partitions of `topics` (name, partitions). `shape` decides how a consumer
    /// reads: from the leader, from any replica.
    pub fn start(
        config: &ClientConfig,
        topics: &[(&'static str, u32)],
        shape: fn(ConsumerBuilder) -> ConsumerBuilder,
    ) -> Self {
        let (seen, errors) = (Seen::default(), Arc::new(Mutex::default()));
        let mut tasks = JoinSet::new();
        for &(topic, partitions) in topics {
            for partition in 0..partitions {
                let (config, place) = (config.clone(), (topic, partition));
                tasks.spawn(follow(config, place, shape, Arc::clone(&seen), Arc::clone(&errors)));
            }
        }
        Self { seen, errors, tasks }
    }

    /// Waits until it has seen all of `logs`, ends it, and compares.
    ///
    /// # Panics
    /// When it saw something else, or does not get to the end.
    pub async fn finish(mut self, logs: &BTreeMap<Place, Log>) {
        for (place, log) in logs {
            eventually(&format!("a reader is at the end of {place:?}"), async || {
                assert!(!self.tasks.is_empty(), "no consumer is left");
                (length(&self.seen, *place) >= log.len() as u64).then_some(())
            })
            .await;
        }
        self.tasks.abort_all();
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(error) = ended
                && error.is_panic()
            {
                std::panic::resume_unwind(error.into_panic());
            }
        }
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        for (place, log) in logs {
            let empty = Log::new();
            let found = seen.get(place).unwrap_or(&empty);
            if let Some(at) = found.iter().zip(log).position(|(found, log)| found != log) {
                let (found, log) = (found[at], log[at]);
                panic!("{place:?}, offset {at}: a consumer saw {found:?}, the log holds {log:?}");
            }
            assert_eq!(found.len(), log.len(), "{place:?}: a consumer saw more than there is");
        }
    }

    /// Errors that ended a consumer.
    pub fn errors(&self) -> Vec<String> {
        self.errors.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What is stored in a partition, up to its high watermark now.
///
/// # Panics
/// When it cannot be read, is not dense, or holds what no writer sent.
pub async fn read_log(
    client: &Client,
    (topic, partition): Place,
    shape: fn(ConsumerBuilder) -> ConsumerBuilder,
) -> Log {
    let builder = client.consumer(topic).partitions([partition]).from(StartPosition::Earliest);
    let built = within("subscribe", shape(builder).bounded().build()).await;
    let mut consumer = built.expect("a consumer");
    let mut log = Log::new();
    while let Some(found) = within("the next record", consumer.next()).await {
        let found = found.expect("what is stored can be read");
        log.push(record(topic, partition, log.len() as u64, &found));
    }
    log
}

async fn follow(
    config: ClientConfig,
    place: Place,
    shape: fn(ConsumerBuilder) -> ConsumerBuilder,
    seen: Seen,
    errors: Arc<Mutex<Vec<String>>>,
) {
    let (topic, partition) = place;
    // A consumer that ended with an error is not made anew at once, and for ever.
    let mut attempts = tokio::time::interval(BETWEEN_ATTEMPTS);
    loop {
        attempts.tick().await;
        let start = StartPosition::Offset(Offset(length(&seen, place)));
        let Ok(client) = Client::connect(config.clone()).await else { continue };
        let builder = client.consumer(topic).partitions([partition]).from(start);
        let Ok(mut consumer) = shape(builder).build().await else { continue };
        if let Err(error) = take_all(&mut consumer, place, &seen).await {
            errors.lock().unwrap_or_else(PoisonError::into_inner).push(error);
        }
    }
}

async fn take_all(consumer: &mut Consumer, place: Place, seen: &Seen) -> Result<(), String> {
    while let Some(found) = consumer.next().await {
        let found = found.map_err(|error| error.to_string())?;
        let entry = record(place.0, place.1, length(seen, place), &found);
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.entry(place).or_default().push(entry);
    }
    Err("the subscription ended".to_owned())
}

fn record(
    topic: &str,
    partition: u32,
    due: u64,
    found: &plimsoll_client::ConsumedRecord,
) -> (u32, u64) {
    assert_eq!(found.offset.0, due, "{topic}/{partition}: not the next offset");
    let value = found.record.value.as_ref().expect("every record has a value");
    match read_numbered(partition, value) {
        Some(entry) => entry,
        None => panic!("{topic}/{partition}, offset {due}: not what was sent"),
    }
}

fn length(seen: &Seen, place: Place) -> u64 {
    let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    seen.get(&place).map_or(0, |log| log.len() as u64)
}

//! Readers who want everything that is there, each time at a level, and hold it against what had been
//! acknowledged before they asked.

use std::time::Duration;

use plimsoll_client::{Client, ConsumerBuilder, Isolation};
use plimsoll_log::disk::sim::SplitMix;
use plimsoll_transport::SimulatedHost;
use tokio::time::{sleep, timeout};

use crate::history::{History, Partition};
use crate::workload::{TOPIC, Work, connect, make_topic, read};

/// What a read may have missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Nothing that was acknowledged before it began.
    Linearizable,
    /// Nothing that its leader had shown by then.
    Committed,
    /// Nothing that was acknowledged so many milliseconds before it began.
    Stale(u32),
}

/// Clocks of nodes go at least half as fast as they should, so their milliseconds are up to twice as
/// long; and one millisecond more, which is a step of the world.
pub(crate) fn staleness_ms(bound_ms: u32) -> u64 {
    2 * u64::from(bound_ms) + 1
}

/// Reads one partition after another to its end until the history is over. `reader` is its number among
/// all consumers.
pub async fn read_to_the_end(
    host: SimulatedHost,
    history: History,
    reader: u32,
    seed: u64,
    work: Work,
) {
    let mut random = SplitMix::new(seed);
    let client = connect(&host, random.number(), &work).await;
    make_topic(&client, &work).await;
    let mut generation = 0;
    while !history.lock().is_over {
        let drawn = random.below(u64::from(work.partitions));
        let partition = Partition::try_from(drawn).unwrap_or(0);
        let level = match random.below(3) {
            0 => Level::Linearizable,
            1 => Level::Committed,
            _ => Level::Stale(20 + u32::try_from(random.below(1000)).unwrap_or(0)),
        };
        let from_near = matches!(level, Level::Stale(_)) || random.chance(30);
        // A replica shows what it knows to be committed: without a bound that may be anything.
        let level =
            if from_near && level == Level::Committed { Level::Stale(u32::MAX) } else { level };
        generation += 1;
        let consumer = (reader, generation);
        let patience = Duration::from_millis(500 + random.below(5000));
        let number = history.begin_read(partition, level);
        let builder = shape(&client, partition, level, from_near);
        let reading = timeout(patience, async {
            let reading = builder.build().await.ok()?;
            let ended = read(reading, &history, consumer).await;
            Some(ended)
        });
        let end = reading.await.ok().flatten();
        history.end_read(number, end);
        sleep(Duration::from_millis(1 + random.below(300))).await;
    }
    history.lock().ended += 1;
}

fn shape(client: &Client, partition: Partition, level: Level, from_near: bool) -> ConsumerBuilder {
    let builder = client.consumer(TOPIC).partitions([partition]).bounded();
    let builder = if from_near { builder.prefer_nearest(None) } else { builder };
    match level {
        Level::Linearizable => builder.isolation(Isolation::Linearizable),
        Level::Stale(bound_ms) if bound_ms < u32::MAX => {
            builder.max_staleness(Duration::from_millis(u64::from(bound_ms)))
        }
        Level::Committed | Level::Stale(_) => builder,
    }
}

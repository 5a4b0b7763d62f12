//! An operator: hands leaderships over while everybody works.

use std::time::Duration;

use plimsoll_log::disk::sim::SplitMix;
use plimsoll_transport::SimulatedHost;
use tokio::time::sleep;

use crate::history::History;
use crate::workload::{TOPIC, Work, connect, make_topic};

/// Longest time between two orders, in milliseconds.
const PAUSE_MS_MAX: u64 = 1500;

/// Gives orders until the history is over. That one is refused, or not carried out in time, is usual
/// while things fail.
pub async fn operate(host: SimulatedHost, history: History, seed: u64, work: Work) {
    let mut random = SplitMix::new(seed);
    let client = connect(&host, random.number(), &work).await;
    make_topic(&client, &work).await;
    let admin = client.admin();
    while !history.lock().is_over {
        sleep(Duration::from_millis(1 + random.below(PAUSE_MS_MAX))).await;
        let drawn = random.below(u64::from(work.partitions));
        let partition = u32::try_from(drawn).unwrap_or(0);
        if let Err(error) = admin.transfer_leader(TOPIC, partition, None).await {
            tracing::debug!(%error, "a leadership was not handed over");
        }
    }
    history.lock().ended += 1;
}

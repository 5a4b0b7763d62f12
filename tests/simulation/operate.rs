//! An operator: hands leaderships over, has replicas moved, drains nodes and takes that back, while
//! everybody works.

use std::time::Duration;

use plimsoll_client::{Admin, RequestError};
use plimsoll_log::disk::sim::SplitMix;
use plimsoll_protocol::ids::NodeId;
use plimsoll_transport::SimulatedHost;
use tokio::time::sleep;

use crate::history::History;
use crate::workload::{TOPIC, Work, connect, make_topic};

/// Longest time between two orders, in milliseconds.
const PAUSE_MS_MAX: u64 = 1000;

/// Gives orders until the history is over, and ends with no node drained. That an order is refused, or
/// not carried out in time, is usual while things fail.
pub async fn operate(host: SimulatedHost, history: History, seed: u64, work: Work) {
    let mut random = SplitMix::new(seed);
    let client = connect(&host, random.number(), &work).await;
    make_topic(&client, &work).await;
    let admin = client.admin();
    // Perhaps it is: an order whose outcome is unknown counts as given.
    let mut drained = None;
    while !history.lock().is_over {
        sleep(Duration::from_millis(1 + random.below(PAUSE_MS_MAX))).await;
        let outcome = match random.below(4) {
            0 => admin.rebalance().await.map(drop),
            1 => match drained {
                Some(node) => put_back(&admin, node, &mut drained).await,
                None => {
                    let node = NodeId(1 + random.below(work.nodes));
                    drained = Some(node);
                    admin.drain_node(node, true).await.map(drop)
                }
            },
            _ => {
                let drawn = random.below(u64::from(work.partitions));
                let partition = u32::try_from(drawn).unwrap_or(0);
                admin.transfer_leader(TOPIC, partition, None).await.map(drop)
            }
        };
        if let Err(error) = outcome {
            tracing::debug!(%error, "an order was not carried out");
        }
    }
    while let Some(node) = drained {
        if put_back(&admin, node, &mut drained).await.is_err() {
            sleep(Duration::from_millis(50)).await;
        }
    }
    history.lock().ended += 1;
}

/// The node may have replicas again.
async fn put_back(
    admin: &Admin,
    node: NodeId,
    drained: &mut Option<NodeId>,
) -> Result<(), RequestError> {
    admin.drain_node(node, false).await?;
    *drained = None;
    Ok(())
}

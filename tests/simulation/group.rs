//! A consumer group that reads the topic: members that come, commit now and then, leave, or crash.

use std::time::Duration;

use plimsoll_client::{
    Client, GroupConsumer, GroupError, GroupRecord, Offset, OffsetCommit, PartitionIndex,
    StartPosition,
};
use plimsoll_log::disk::sim::SplitMix;
use plimsoll_transport::SimulatedHost;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::history::{History, MemberNumber};
use crate::workload::{TOPIC, Work, connect, make_topic};

/// The group.
const GROUP: &str = "g";
/// A group that gave nothing for so long may have read everything.
const QUIET: Duration = Duration::from_millis(100);
/// How long a member that is gone keeps its partitions.
const SESSION: Duration = Duration::from_secs(1);
/// How long a member may take to give one up.
const REBALANCE: Duration = Duration::from_secs(2);

async fn join(client: &Client) -> Option<GroupConsumer> {
    let joining = client.group_consumer(GROUP).topics([TOPIC]).manual_commit();
    let joining = joining.session_timeout(SESSION).rebalance_timeout(REBALANCE);
    let joined = joining.build().await;
    joined.inspect_err(|error| tracing::debug!(%error, "a member cannot join")).ok()
}

/// Notes what a member was handed out; none where it has come to an end.
fn note(
    history: &History,
    member: MemberNumber,
    got: Option<Result<GroupRecord, GroupError>>,
) -> Option<GroupRecord> {
    match got {
        Some(Ok(record)) => {
            history.group_got(member, record.partition, record.offset.0);
            Some(record)
        }
        Some(Err(error)) => {
            history.complain(format!("a member of the group cannot go on: {error}"));
            None
        }
        None => {
            history.complain("a member of the group came to an end".to_owned());
            None
        }
    }
}

/// Commits that everything of its partition up to a record is processed.
async fn commit(history: &History, consumer: &GroupConsumer, upto: &GroupRecord) {
    let offset = OffsetCommit {
        topic: upto.topic.clone(),
        topic_id: None,
        partition: PartitionIndex(upto.partition),
        offset: Offset(upto.offset.0 + 1),
        metadata: None,
    };
    match consumer.commit_offsets(vec![offset]).await {
        Ok(()) => history.group_committed(upto.partition, upto.offset.0 + 1),
        Err(error) => tracing::debug!(%error, "an offset is not committed, or not known to be"),
    }
}

/// Reads as a member until the history is over, now and then anew.
pub async fn consume_in_group(host: SimulatedHost, history: History, seed: u64, work: Work) {
    let mut random = SplitMix::new(seed);
    let client = connect(&host, random.number(), &work).await;
    make_topic(&client, &work).await;
    while !history.lock().is_over {
        let member = history.begin_member();
        let Some(mut consumer) = join(&client).await else {
            sleep(Duration::from_millis(20)).await;
            continue;
        };
        let until = Instant::now() + Duration::from_millis(500 + random.below(5000));
        while let Ok(got) = timeout_at(until, consumer.next()).await {
            let Some(record) = note(&history, member, got) else { break };
            if random.chance(10) {
                commit(&history, &consumer, &record).await;
            }
        }
        match random.below(3) {
            0 => drop(consumer.leave().await),
            1 => drop(consumer),
            // It is silent, and keeps what it has until its session is over.
            _ => sleep(Duration::from_millis(random.below(3000))).await,
        }
    }
    history.lock().ended += 1;
}

/// Reads everything that the group has not read, and ends when that is all.
pub async fn read_rest_in_group(host: SimulatedHost, history: History, work: Work) {
    let client = connect(&host, 1, &work).await;
    make_topic(&client, &work).await;
    let member = history.begin_member();
    let mut consumer = loop {
        match join(&client).await {
            Some(consumer) => break consumer,
            None => sleep(Duration::from_millis(20)).await,
        }
    };
    loop {
        while let Ok(got) = timeout(QUIET, consumer.next()).await {
            if note(&history, member, got).is_none() {
                return;
            }
        }
        if has_read_all(&client, &history, work.partitions).await {
            break;
        }
    }
    history.lock().ended += 1;
}

async fn has_read_all(client: &Client, history: &History, partitions: u32) -> bool {
    for partition in 0..partitions {
        let end = client.admin().offsets(TOPIC, partition, vec![StartPosition::Latest]).await;
        let Some(end) = end.ok().and_then(|found| found.first().copied()) else { return false };
        if history.lock().group_next.get(&partition).copied().unwrap_or(0) < end.0 {
            return false;
        }
    }
    true
}

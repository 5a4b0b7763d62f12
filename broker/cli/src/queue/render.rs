//! Queues and messages for people, and as JSON.

use plimsoll_client::{MessageExplanation, QueueInfo, QueueStanding, Record};
use plimsoll_protocol::ids::Offset;
use serde::Serialize;

use crate::record_json::RecordJson;
use crate::table::Table;

/// A queue or subscription.
#[derive(Debug, Serialize)]
pub(super) struct QueueJson<'a> {
    queue: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    subscription: &'a str,
    partitions: u32,
    replicas: u16,
    settings: std::collections::BTreeMap<&'static str, String>,
}

impl<'a> QueueJson<'a> {
    pub(super) fn of(queue: &'a QueueInfo) -> Self {
        Self {
            queue: queue.topic.as_str(),
            subscription: &queue.subscription,
            partitions: queue.partitions,
            replicas: queue.replicas,
            settings: queue.settings.entries().into_iter().collect(),
        }
    }
}

/// `jobs: 1 partition, 3 replicas, attempts=5 dead-letter=jobs.dead`.
pub(super) fn one_line(queue: &QueueInfo) -> String {
    let name = match queue.subscription.as_str() {
        "" => queue.topic.to_string(),
        subscription => format!("{}, subscription {subscription}", queue.topic),
    };
    let plural = |count: u32| if count == 1 { "" } else { "s" };
    format!(
        "{name}: {} partition{}, {} replica{}{}",
        queue.partitions,
        plural(queue.partitions),
        queue.replicas,
        plural(queue.replicas.into()),
        own_settings(queue)
    )
}

/// The settings that are not the defaults.
fn own_settings(queue: &QueueInfo) -> String {
    let defaults = plimsoll_client::QueueSettings::default().entries();
    let own = queue.settings.entries().into_iter().zip(defaults);
    let own = own.filter(|(own, default)| own != default);
    own.map(|((key, value), _)| format!(", {key}={value}")).collect()
}

pub(super) fn list(queues: &[QueueInfo]) -> Table {
    let mut table = Table::new(&["QUEUE", "SUBSCRIPTION", ">PARTITIONS", ">REPLICAS", "SETTINGS"]);
    for queue in queues {
        let subscription = match queue.subscription.as_str() {
            "" => "-",
            name => name,
        };
        table.row(vec![
            queue.topic.to_string(),
            subscription.to_owned(),
            queue.partitions.to_string(),
            queue.replicas.to_string(),
            own_settings(queue).trim_start_matches(", ").to_owned(),
        ]);
    }
    table
}

/// How one partition stands.
#[derive(Debug, Serialize)]
pub(super) struct StandingJson {
    pub(super) partition: u32,
    ready: u64,
    held: u64,
    delayed: u64,
    dead: u64,
    unsettled: u64,
    unsettled_bytes: u64,
    consumers: u32,
    floor: u64,
    end: u64,
}

impl StandingJson {
    pub(super) fn of(partition: u32, standing: &QueueStanding) -> Self {
        Self {
            partition,
            ready: standing.ready,
            held: standing.held,
            delayed: standing.delayed,
            dead: standing.dead,
            unsettled: standing.unsettled,
            unsettled_bytes: standing.unsettled_bytes,
            consumers: standing.consumers,
            floor: standing.floor.0,
            end: standing.end.0,
        }
    }
}

pub(super) fn standings(all: &[StandingJson]) -> Table {
    let titles = [
        ">PARTITION",
        ">READY",
        ">HELD",
        ">DELAYED",
        ">DEAD",
        ">UNSETTLED",
        ">CONSUMERS",
        ">FLOOR",
        ">END",
    ];
    let mut table = Table::new(&titles);
    for one in all {
        let cells = [
            one.partition.into(),
            one.ready,
            one.held,
            one.delayed,
            one.dead,
            one.unsettled,
            one.consumers.into(),
            one.floor,
            one.end,
        ];
        table.row(cells.iter().map(u64::to_string).collect());
    }
    table
}

/// A message with its record.
#[derive(Debug, Serialize)]
pub(super) struct MessageJson<'a> {
    id: String,
    attempt: u32,
    #[serde(flatten)]
    record: RecordJson<'a>,
}

impl<'a> MessageJson<'a> {
    pub(super) fn of(
        queue: &'a str,
        partition: u32,
        offset: Offset,
        attempt: u32,
        record: &'a Record,
    ) -> Self {
        let id = format!("{partition}:{offset}");
        Self { id, attempt, record: RecordJson::of(queue, partition, offset, record) }
    }
}

/// Where a message stands.
#[derive(Debug, Serialize)]
pub(super) struct ExplanationJson<'a> {
    id: String,
    standing: &'static str,
    text: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempts: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    at_ms: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    behind: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ahead: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    consumer: Option<&'a str>,
}

impl<'a> ExplanationJson<'a> {
    pub(super) fn of(id: String, told: &'a MessageExplanation) -> Self {
        Self {
            id,
            standing: told.standing.as_str(),
            text: &told.text,
            reason: told.reason.as_deref(),
            attempts: told.attempts,
            at_ms: told.at_ms,
            behind: told.behind.map(|offset| offset.0),
            ahead: told.ahead,
            consumer: told.consumer.as_deref(),
        }
    }
}

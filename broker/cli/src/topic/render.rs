//! Topics and partitions as tables for people and JSON for scripts.

use plimsoll_protocol::api::{CompactionInfo, DescribeTopicResponse, PartitionInfo, TopicInfo};
use serde::{Serialize, Serializer};

use crate::clock::time_text;
use crate::cluster::nodes_text;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Output;
use crate::quantity::{bytes_text, thousands};
use crate::table::Table;

/// A topic in JSON.
#[derive(Debug, Serialize)]
pub(super) struct TopicJson<'a> {
    name: &'a str,
    topic_id: u64,
    partitions: u32,
    replicas: u16,
    config: ConfigJson,
    created_ms: i64,
    created: String,
}

/// The settings under their names on the command line; times in ms, sizes in bytes, null for none.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct ConfigJson {
    durability: &'static str,
    retention_ms: Option<u64>,
    retention_bytes: Option<u64>,
    segment_bytes: u32,
    batch_bytes_max: u32,
    cleanup: &'static str,
    compaction_lag_ms: u64,
    tombstone_ms: u64,
    require_fence: bool,
}

impl<'a> TopicJson<'a> {
    pub(super) fn of(topic: &'a TopicInfo) -> Self {
        Self {
            name: topic.name.as_str(),
            topic_id: topic.topic_id,
            partitions: topic.partitions,
            replicas: topic.replicas,
            config: ConfigJson {
                durability: topic.config.durability.as_str(),
                retention_ms: topic.config.retention_ms,
                retention_bytes: topic.config.retention_bytes,
                segment_bytes: topic.config.segment_bytes,
                batch_bytes_max: topic.config.batch_bytes_max,
                cleanup: topic.config.rules.cleanup.as_str(),
                compaction_lag_ms: topic.config.rules.compaction_lag_ms,
                tombstone_ms: topic.config.rules.tombstone_ms,
                require_fence: topic.config.rules.require_fence,
            },
            created_ms: topic.created_ms,
            created: time_text(topic.created_ms),
        }
    }
}

/// A topic with its partitions in JSON.
#[derive(Debug, Serialize)]
pub(super) struct DescribedJson<'a> {
    topic: TopicJson<'a>,
    #[serde(serialize_with = "partitions")]
    partitions: &'a [PartitionInfo],
}

impl<'a> DescribedJson<'a> {
    pub(super) fn of(described: &'a DescribeTopicResponse) -> Self {
        Self { topic: TopicJson::of(&described.topic), partitions: &described.partitions }
    }
}

#[derive(Debug, Serialize)]
struct PartitionJson {
    partition: u32,
    group_id: u64,
    leader: Option<u64>,
    term: u64,
    log_start_offset: u64,
    high_watermark: u64,
    log_end_offset: u64,
    bytes: u64,
    segments: u32,
    condition: &'static str,
    replicas: Vec<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    compaction: Option<CompactionJson>,
}

/// How far a partition is compacted on the node that answered.
#[derive(Debug, Serialize)]
struct CompactionJson {
    compacted_to: u64,
    compacted_bytes: u64,
    waiting_bytes: u64,
    progress: f64,
    ratio: Option<f64>,
    last_ms: Option<i64>,
    last: Option<String>,
    running: bool,
}

impl CompactionJson {
    fn of(info: &CompactionInfo) -> Self {
        Self {
            compacted_to: info.compacted_to.0,
            compacted_bytes: info.compacted_bytes,
            waiting_bytes: info.waiting_bytes,
            progress: progress(info),
            ratio: ratio(info),
            last_ms: info.last_ms,
            last: info.last_ms.map(time_text),
            running: info.running,
        }
    }
}

/// Which part of the partition's bytes is compacted, 0 to 1; an empty one is.
fn progress(info: &CompactionInfo) -> f64 {
    match info.compacted_bytes + info.waiting_bytes {
        0 => 1.0,
        all => info.compacted_bytes as f64 / all as f64,
    }
}

/// What the last compaction left of what it read, 0 to 1; none where it read nothing.
fn ratio(info: &CompactionInfo) -> Option<f64> {
    let read = info.last_bytes_before;
    (read > 0).then(|| info.last_bytes_after as f64 / read as f64)
}

fn partitions<S: Serializer>(
    partitions: &[PartitionInfo],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(partitions.iter().map(|partition| PartitionJson {
        partition: partition.partition.0,
        group_id: partition.group_id.0,
        leader: partition.leader.map(|leader| leader.0),
        term: partition.term.0,
        log_start_offset: partition.log_start_offset.0,
        high_watermark: partition.high_watermark.0,
        log_end_offset: partition.log_end_offset.0,
        bytes: partition.bytes,
        segments: partition.segments,
        condition: partition.condition.as_str(),
        replicas: partition.replicas.iter().map(|node| node.0).collect(),
        compaction: partition.compaction.as_ref().map(CompactionJson::of),
    }))
}

/// Prints one object.
pub(super) fn print_json(object: &impl Serialize) -> Result<Exit, Failure> {
    let mut output = Output::stdout();
    output.json(object)?;
    output.flush()?;
    Ok(Exit::Done)
}

/// `orders: 12 partitions, durability=durable retention-ms=7d ...`.
pub(super) fn one_line(topic: &TopicInfo) -> String {
    let plural = if topic.partitions == 1 { "" } else { "s" };
    format!(
        "{}: {} partition{plural}, {}",
        topic.name,
        thousands(topic.partitions.into()),
        topic.config
    )
}

/// A row per topic.
pub(super) fn table(topics: &[TopicInfo]) -> Table {
    let mut table = Table::new(&[
        "TOPIC",
        ">PARTITIONS",
        ">REPLICAS",
        "DURABILITY",
        ">RETENTION",
        ">PER PARTITION",
        "CREATED",
    ]);
    for topic in topics {
        let entries = topic.config.entries();
        let setting = |name: &str| {
            let entry = entries.iter().find(|(key, _)| *key == name);
            entry.map(|(_, value)| value.clone()).unwrap_or_default()
        };
        table.row(vec![
            topic.name.to_string(),
            topic.partitions.to_string(),
            topic.replicas.to_string(),
            setting("durability"),
            setting("retention-ms"),
            setting("retention-bytes"),
            seconds_text(topic.created_ms),
        ]);
    }
    table
}

/// A topic, its settings, and a row per partition.
pub(super) fn described(described: &DescribeTopicResponse) -> Vec<String> {
    let topic = &described.topic;
    let records: u64 = described
        .partitions
        .iter()
        .map(|partition| partition.high_watermark.0.saturating_sub(partition.log_start_offset.0))
        .sum();
    let bytes: u64 = described.partitions.iter().map(|partition| partition.bytes).sum();
    let mut lines = vec![
        format!("topic       {}", topic.name),
        format!("created     {}", seconds_text(topic.created_ms)),
        format!("replicas    {}", topic.replicas),
        format!("records     {} in {}", thousands(records), bytes_text(bytes)),
    ];
    for (position, (key, value)) in topic.config.entries().into_iter().enumerate() {
        let title = if position == 0 { "settings" } else { "" };
        lines.push(format!("{title:<10}  {key}={value}"));
    }
    lines.push(String::new());
    let mut table = Table::new(&[
        ">PARTITION",
        ">LOG START",
        ">HIGH WATERMARK",
        ">LOG END",
        ">SIZE",
        ">SEGMENTS",
        ">LEADER",
        "REPLICAS",
        ">TERM",
        "CONDITION",
    ]);
    for partition in &described.partitions {
        table.row(vec![
            partition.partition.to_string(),
            partition.log_start_offset.to_string(),
            partition.high_watermark.to_string(),
            partition.log_end_offset.to_string(),
            bytes_text(partition.bytes),
            partition.segments.to_string(),
            partition.leader.map_or_else(|| "-".to_owned(), |leader| leader.to_string()),
            nodes_text(&partition.replicas),
            partition.term.to_string(),
            partition.condition.to_string(),
        ]);
    }
    lines.extend(table.lines());
    let compaction = compaction(&described.partitions);
    if !compaction.is_empty() {
        lines.push(String::new());
        lines.extend(compaction.lines());
    }
    lines
}

/// A row per partition that is compacted.
fn compaction(partitions: &[PartitionInfo]) -> Table {
    let titles =
        [">PARTITION", ">COMPACTED TO", ">DONE", ">COMPACTED", ">WAITING", ">LAST LEFT", "LAST"];
    let mut table = Table::new(&titles);
    let percent = |share: f64| format!("{:.0}%", share * 100.0);
    for partition in partitions {
        let Some(info) = &partition.compaction else { continue };
        let last = info.last_ms.map_or_else(|| "-".to_owned(), seconds_text);
        table.row(vec![
            partition.partition.to_string(),
            info.compacted_to.to_string(),
            percent(progress(info)),
            bytes_text(info.compacted_bytes),
            bytes_text(info.waiting_bytes),
            ratio(info).map_or_else(|| "-".to_owned(), percent),
            if info.running { "running".to_owned() } else { last },
        ]);
    }
    table
}

/// A time to the second, which is enough to know when a topic was made.
fn seconds_text(ms: i64) -> String {
    let text = time_text(ms);
    match text.split_once('.') {
        Some((seconds, _)) => format!("{seconds}Z"),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use plimsoll_protocol::api::{PartitionCondition, TopicConfig};
    use plimsoll_protocol::ids::{GroupId, NodeId, Offset, PartitionIndex, Term};

    fn example() -> DescribeTopicResponse {
        DescribeTopicResponse {
            topic: TopicInfo {
                name: "orders".parse().unwrap(),
                topic_id: 3,
                partitions: 1,
                replicas: 1,
                config: TopicConfig::default(),
                created_ms: 1_795_250_000_250,
            },
            partitions: vec![PartitionInfo {
                partition: PartitionIndex(0),
                group_id: GroupId(7),
                leader: Some(NodeId(1)),
                term: Term(2),
                log_start_offset: Offset(10),
                high_watermark: Offset(1_510),
                log_end_offset: Offset(1_511),
                bytes: 1_500_000,
                segments: 1,
                condition: PartitionCondition::Awake,
                replicas: vec![NodeId(1), NodeId(3), NodeId(2)],
                compaction: None,
            }],
        }
    }

    #[test]
    fn description_has_settings_and_places() {
        let text = described(&example()).join("\n");
        for part in [
            "created     2026-11-21T08:33:20Z",
            "records     1,500 in 1.50 MB",
            "settings    durability=durable",
            "            retention-ms=7d",
            "HIGH WATERMARK",
            "1,3,2",
            "awake",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }

    #[test]
    fn json_has_numbers_and_the_names_of_the_settings() {
        let json = serde_json::to_value(DescribedJson::of(&example())).unwrap();
        assert_eq!(json["topic"]["name"], "orders");
        assert_eq!(json["topic"]["config"]["retention-ms"], 604_800_000);
        assert_eq!(json["topic"]["config"]["retention-bytes"], serde_json::Value::Null);
        assert_eq!(json["partitions"][0]["high_watermark"], 1_510);
        assert_eq!(json["partitions"][0]["condition"], "awake");
        assert_eq!(json["partitions"][0]["replicas"], serde_json::json!([1, 3, 2]));
    }

    #[test]
    fn compaction_is_shown_where_a_partition_is_compacted() {
        let mut example = example();
        assert!(!described(&example).join("\n").contains("COMPACTED"));
        example.partitions[0].compaction = Some(CompactionInfo {
            compacted_to: Offset(1_000),
            compacted_bytes: 750_000,
            waiting_bytes: 250_000,
            last_ms: Some(1_795_250_000_250),
            last_bytes_before: 1_000_000,
            last_bytes_after: 400_000,
            running: false,
        });
        let text = described(&example).join("\n");
        for part in ["COMPACTED TO", "1000", "75%", "250 kB", "40%", "2026-11-21T08:33:20Z"] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        let json = serde_json::to_value(DescribedJson::of(&example)).unwrap();
        let compaction = &json["partitions"][0]["compaction"];
        assert_eq!(
            (&compaction["waiting_bytes"], &compaction["progress"]),
            (&250_000.into(), &0.75.into())
        );
        assert_eq!(compaction["ratio"], 0.4);
    }

    #[test]
    fn list_has_a_row_per_topic() {
        let topic = example().topic;
        let lines = table(&[topic.clone(), topic.clone()]).lines();
        assert_eq!(lines.len(), 3);
        assert!(lines[1].starts_with("orders"), "{}", lines[1]);
        assert!(one_line(&topic).starts_with("orders: 1 partition, durability=durable"));
    }
}

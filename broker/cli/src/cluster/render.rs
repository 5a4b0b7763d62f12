//! The cluster as tables, for people.

use std::time::Duration;

use plimsoll_protocol::api::{ClusterNode, ClusterPlanResponse, ClusterStatusResponse, NodeState};
use plimsoll_protocol::ids::NodeId;

use crate::quantity::{bytes_text, elapsed_text, thousands};
use crate::table::Table;

/// Most partitions that a table shows; JSON has all that the node told.
const ROWS_MAX: usize = 40;

/// A clock that is this far off is worth a look.
const CLOCK_OFFSET_MS_SHOWN: u64 = 100;

/// `1,2,3`, the preferred leader first; `-` for none.
pub(crate) fn nodes_text(nodes: &[NodeId]) -> String {
    if nodes.is_empty() {
        return "-".to_owned();
    }
    nodes.iter().map(NodeId::to_string).collect::<Vec<_>>().join(",")
}

/// Everything about the cluster: one line each of what it is and how it is, then tables.
pub(super) fn status(status: &ClusterStatusResponse) -> Vec<String> {
    let down = status.nodes.iter().filter(|node| !node.up).count();
    let mut lines = vec![
        format!("cluster     {}", status.cluster_id),
        format!("controller  {}", node_text(status.controller)),
        format!("nodes       {}", of_which(status.nodes.len() as u64, down as u64, "down")),
        format!("topics      {}", thousands(status.topics.into())),
        format!(
            "partitions  {}",
            of_which(status.partitions.into(), status.unwell_total.into(), "not well")
        ),
        format!("moving      {}", thousands(status.moves_total.into())),
        String::new(),
    ];
    lines.extend(nodes(status).lines());
    if !status.unwell.is_empty() {
        lines.push(String::new());
        lines.extend(unwell(status).lines());
        lines.extend(more(status.unwell.len(), status.unwell_total));
    }
    if !status.moves.is_empty() {
        lines.push(String::new());
        lines.extend(moves(status).lines());
        lines.extend(more(status.moves.len(), status.moves_total));
    }
    if !status.warnings.is_empty() {
        lines.push(String::new());
        lines.extend(status.warnings.iter().map(|warning| format!("warning: {warning}")));
    }
    lines
}

fn node_text(node: Option<NodeId>) -> String {
    node.map_or_else(|| "none: nothing can be changed".to_owned(), |node| format!("node {node}"))
}

/// `3`, or `3, 1 down`.
fn of_which(all: u64, some: u64, what: &str) -> String {
    match some {
        0 => thousands(all),
        some => format!("{}, {} {what}", thousands(all), thousands(some)),
    }
}

/// What a table leaves out.
fn more(told: usize, total: u32) -> Option<String> {
    let left = (total as usize).saturating_sub(told.min(ROWS_MAX));
    (left > 0).then(|| format!("... and {} more", thousands(left as u64)))
}

fn nodes(status: &ClusterStatusResponse) -> Table {
    let mut table = Table::new(&[
        ">NODE",
        "ADDRESS",
        "RACK",
        "STATE",
        "UP",
        ">CLOCK",
        ">LEADS",
        ">REPLICAS",
        ">SIZE",
        "VERSION",
    ]);
    for node in &status.nodes {
        table.row(vec![
            node.node.to_string(),
            if node.address.is_empty() { "?".to_owned() } else { node.address.clone() },
            node.rack.clone().unwrap_or_else(|| "-".to_owned()),
            state_text(node),
            up_text(node),
            clock_text(node.clock_offset_ms),
            thousands(node.leaders.into()),
            thousands(node.replicas.into()),
            node.bytes.map_or_else(|| "-".to_owned(), bytes_text),
            node.version.clone(),
        ]);
    }
    table
}

/// The state, with the weight where that is not the ordinary one.
fn state_text(node: &ClusterNode) -> String {
    let drained = node.state == NodeState::Draining && node.replicas == 0;
    let state = if drained { "drained" } else { node.state.as_str() };
    match node.weight_hundredths {
        100 => state.to_owned(),
        weight => format!("{state} x{}.{:02}", weight / 100, weight % 100),
    }
}

fn up_text(node: &ClusterNode) -> String {
    match (node.up, node.last_heard_ms) {
        (true, _) => "yes".to_owned(),
        (false, Some(ms)) => format!("no, for {}", elapsed_text(Duration::from_millis(ms))),
        (false, None) => "no".to_owned(),
    }
}

fn clock_text(offset_ms: Option<i64>) -> String {
    match offset_ms {
        None => "-".to_owned(),
        Some(ms) if ms.unsigned_abs() < CLOCK_OFFSET_MS_SHOWN => "ok".to_owned(),
        Some(ms) => {
            let sign = if ms < 0 { '-' } else { '+' };
            format!("{sign}{}", elapsed_text(Duration::from_millis(ms.unsigned_abs())))
        }
    }
}

fn unwell(status: &ClusterStatusResponse) -> Table {
    let mut table = Table::new(&["NOT WELL", ">LEADER", "REPLICAS", "IN SYNC", ">LAG", "WHY"]);
    for one in status.unwell.iter().take(ROWS_MAX) {
        table.row(vec![
            format!("{}/{}", one.topic, one.partition),
            one.leader.map_or_else(|| "-".to_owned(), |node| node.to_string()),
            nodes_text(&one.replicas),
            nodes_text(&one.in_sync),
            thousands(one.lag),
            one.why.clone(),
        ]);
    }
    table
}

fn moves(status: &ClusterStatusResponse) -> Table {
    let mut table = Table::new(&["MOVING", "FROM", "TO", "STEP", ">COPIED"]);
    for one in status.moves.iter().take(ROWS_MAX) {
        let copied = match one.bytes_total {
            0 => "-".to_owned(),
            total => format!("{} of {}", bytes_text(one.bytes_done), bytes_text(total)),
        };
        table.row(vec![
            format!("{}/{}", one.topic, one.partition),
            nodes_text(&one.from),
            nodes_text(&one.to),
            one.step.clone(),
            copied,
        ]);
    }
    table
}

/// What is to be moved: in numbers, per node, per partition.
pub(super) fn plan(plan: &ClusterPlanResponse) -> Vec<String> {
    let mut lines = vec![
        format!("partitions  {} change", thousands(plan.changes_total.into())),
        format!(
            "replicas    {} of {} are copied{}",
            thousands(plan.replicas_moved.into()),
            thousands(plan.replicas_total.into()),
            if plan.bytes == 0 {
                String::new()
            } else {
                format!(", about {}", bytes_text(plan.bytes))
            }
        ),
        String::new(),
    ];
    let mut loads = Table::new(&[">NODE", ">REPLICAS NOW", ">THEN"]);
    for load in &plan.loads {
        loads.row(vec![
            load.node.to_string(),
            thousands(load.before.into()),
            thousands(load.after.into()),
        ]);
    }
    lines.extend(loads.lines());
    if !plan.changes.is_empty() {
        lines.push(String::new());
        let mut changes = Table::new(&["PARTITION", "FROM", "TO"]);
        for change in plan.changes.iter().take(ROWS_MAX) {
            changes.row(vec![
                format!("{}/{}", change.topic, change.partition),
                nodes_text(&change.from),
                nodes_text(&change.to),
            ]);
        }
        lines.extend(changes.lines());
    }
    lines.extend(more(plan.changes.len(), plan.changes_total));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::json;
    use plimsoll_protocol::api::{MoveProgress, PlannedChange, PlannedLoad, UnwellPartition};
    use plimsoll_protocol::ids::PartitionIndex;

    fn node(id: u64, state: NodeState, up: bool) -> ClusterNode {
        ClusterNode {
            node: NodeId(id),
            address: format!("10.0.0.{id}:7420"),
            rack: (id == 1).then(|| "quay-4".into()),
            weight_hundredths: 100,
            state,
            up,
            last_heard_ms: Some(90_000),
            clock_offset_ms: Some(3),
            version: "0.1.0".into(),
            leaders: 2,
            replicas: 1_200,
            bytes: Some(1_500_000),
        }
    }

    fn example() -> ClusterStatusResponse {
        ClusterStatusResponse {
            cluster_id: "0123abcd".into(),
            answered_by: NodeId(1),
            epoch: 17,
            controller: Some(NodeId(2)),
            nodes: vec![
                node(1, NodeState::Active, true),
                ClusterNode {
                    weight_hundredths: 150,
                    replicas: 0,
                    clock_offset_ms: Some(-7_200_000),
                    ..node(2, NodeState::Draining, true)
                },
                ClusterNode {
                    bytes: None,
                    clock_offset_ms: None,
                    ..node(3, NodeState::Active, false)
                },
            ],
            topics: 3,
            partitions: 1_400,
            unwell: vec![UnwellPartition {
                topic: "orders".parse().unwrap(),
                partition: PartitionIndex(3),
                leader: None,
                replicas: vec![NodeId(3), NodeId(1)],
                in_sync: vec![NodeId(1)],
                lag: 1_234,
                why: "node 3 is down; start it".into(),
            }],
            unwell_total: 5,
            moves: vec![MoveProgress {
                topic: "orders".parse().unwrap(),
                partition: PartitionIndex(4),
                from: vec![NodeId(1), NodeId(2)],
                to: vec![NodeId(1), NodeId(3)],
                step: "copy to node 3".into(),
                bytes_done: 1_000_000,
                bytes_total: 4_000_000,
            }],
            moves_total: 1,
            warnings: vec!["the clock of node 2 is 2h behind".into()],
        }
    }

    fn example_plan(changes: usize) -> ClusterPlanResponse {
        let change = |at| PlannedChange {
            topic: "orders".parse().unwrap(),
            partition: PartitionIndex(u32::try_from(at).unwrap()),
            from: vec![NodeId(1), NodeId(2)],
            to: vec![NodeId(1), NodeId(3)],
        };
        ClusterPlanResponse {
            changes: (0..changes).map(change).collect(),
            changes_total: 1_000,
            replicas_moved: 1_000,
            replicas_total: 3_000,
            bytes: 12_300_000,
            loads: vec![PlannedLoad { node: NodeId(3), before: 0, after: 1_000 }],
        }
    }

    #[test]
    fn status_has_nodes_trouble_moves_and_warnings() {
        let lines = status(&example());
        let expected = "\
cluster     0123abcd
controller  node 2
nodes       3, 1 down
topics      3
partitions  1,400, 5 not well
moving      1

NODE  ADDRESS        RACK    STATE          UP               CLOCK  LEADS  REPLICAS     SIZE  VERSION
   1  10.0.0.1:7420  quay-4  active         yes                 ok      2     1,200  1.50 MB  0.1.0
   2  10.0.0.2:7420  -       drained x1.50  yes                -2h      2         0  1.50 MB  0.1.0
   3  10.0.0.3:7420  -       active         no, for 90.00 s      -      2     1,200        -  0.1.0

NOT WELL  LEADER  REPLICAS  IN SYNC    LAG  WHY
orders/3       -  3,1       1        1,234  node 3 is down; start it
... and 4 more

MOVING    FROM  TO   STEP                        COPIED
orders/4  1,2   1,3  copy to node 3  1.00 MB of 4.00 MB

warning: the clock of node 2 is 2h behind";
        assert_eq!(lines.join("\n"), expected);
    }

    #[test]
    fn cluster_that_is_well_has_nodes_only() {
        let mut well = example();
        (well.unwell, well.moves, well.warnings) = Default::default();
        (well.unwell_total, well.moves_total) = (0, 0);
        well.nodes.truncate(2);
        let text = status(&well).join("\n");
        assert!(
            text.contains("\nnodes       2\n") && text.contains("\npartitions  1,400\n"),
            "{text}"
        );
        for absent in ["NOT WELL", "MOVING", "warning", "more"] {
            assert!(!text.contains(absent), "{absent} is in\n{text}");
        }
        well.controller = None;
        let text = status(&well).join("\n");
        assert!(text.contains("controller  none: nothing can be changed"), "{text}");
    }

    #[test]
    fn plan_has_numbers_loads_and_partitions() {
        let lines = plan(&example_plan(100));
        let expected = "\
partitions  1,000 change
replicas    1,000 of 3,000 are copied, about 12.3 MB

NODE  REPLICAS NOW   THEN
   3             0  1,000

PARTITION  FROM  TO
orders/0   1,2   1,3";
        assert_eq!(lines[..8].join("\n"), expected);
        assert_eq!(lines.len(), 7 + ROWS_MAX + 1);
        assert_eq!(lines.last().unwrap(), "... and 960 more");
    }

    #[test]
    fn json_has_numbers_and_null_for_what_is_not_known() {
        let json = serde_json::to_value(json::StatusJson::of(&example())).unwrap();
        assert_eq!(json["controller"], 2);
        assert_eq!(json["nodes"][1]["state"], "draining");
        assert_eq!(json["nodes"][1]["clock_offset_ms"], -7_200_000);
        assert_eq!(json["nodes"][2]["bytes"], serde_json::Value::Null);
        assert_eq!(json["unwell"][0]["replicas"], serde_json::json!([3, 1]));
        assert_eq!(json["unwell_total"], 5);
        assert_eq!(json["moves"][0]["bytes_total"], 4_000_000);
        let json = serde_json::to_value(json::PlanJson::of(&example_plan(1))).unwrap();
        assert_eq!(json["replicas_moved"], 1_000);
        assert_eq!(json["loads"][0]["after"], 1_000);
        assert_eq!(json["changes"][0]["to"], serde_json::json!([1, 3]));
    }
}

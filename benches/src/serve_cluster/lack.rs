//! What a cluster lacks, from its status.

use plimsoll_protocol::api::{ClusterStatusResponse, NodeState};

/// What a cluster lacks whose nodes at these addresses run, in words.
pub fn lack(status: &ClusterStatusResponse, running: &[String]) -> Option<String> {
    if let Some(lack) = lack_of_members(status, running) {
        return Some(lack);
    }
    if status.unwell_total > 0 {
        let first = status.unwell.first().map(|unwell| {
            format!(": {}/{} {} (lag {})", unwell.topic, unwell.partition, unwell.why, unwell.lag)
        });
        let count = status.unwell_total;
        return Some(format!("{count} partitions lack something{}", first.unwrap_or_default()));
    }
    (status.moves_total > 0).then(|| format!("{} partitions move", status.moves_total))
}

/// As [`lack`], but only of members and of a leader of the catalog.
pub fn lack_of_members(status: &ClusterStatusResponse, running: &[String]) -> Option<String> {
    let serving = status.nodes.iter().filter(|node| node.up && node.state == NodeState::Active);
    let mut serving: Vec<_> = serving.map(|node| node.address.as_str()).collect();
    let mut expected: Vec<_> = running.iter().map(String::as_str).collect();
    serving.sort_unstable();
    expected.sort_unstable();
    if serving != expected {
        let (serving, running) = (serving.len(), running.len());
        let words = status.nodes.iter().map(|node| {
            let heard = if node.up { "up" } else { "down" };
            format!("{} {} {heard}", node.address, node.state)
        });
        let nodes: Vec<_> = words.collect();
        return Some(format!("{serving} nodes serve, {running} run ({})", nodes.join(", ")));
    }
    status.controller.is_none().then(|| "nobody leads the catalog".to_owned())
}

#[cfg(test)]
mod tests {
    use plimsoll_protocol::api::{ClusterNode, UnwellPartition};
    use plimsoll_protocol::ids::{NodeId, PartitionIndex};

    use super::*;

    fn node(id: u64, up: bool, state: NodeState) -> ClusterNode {
        ClusterNode {
            node: NodeId(id),
            address: format!("127.0.0.1:{id}"),
            rack: None,
            weight_hundredths: 100,
            state,
            up,
            last_heard_ms: None,
            clock_offset_ms: None,
            version: String::new(),
            leaders: 0,
            replicas: 0,
            bytes: None,
        }
    }

    fn well() -> ClusterStatusResponse {
        ClusterStatusResponse {
            cluster_id: "c".to_owned(),
            answered_by: NodeId(1),
            epoch: 1,
            controller: Some(NodeId(1)),
            nodes: (1..=3).map(|id| node(id, true, NodeState::Active)).collect(),
            topics: 1,
            partitions: 1,
            unwell: Vec::new(),
            unwell_total: 0,
            moves: Vec::new(),
            moves_total: 0,
            warnings: Vec::new(),
        }
    }

    fn at(ids: &[u64]) -> Vec<String> {
        ids.iter().map(|id| format!("127.0.0.1:{id}")).collect()
    }

    #[test]
    fn a_cluster_is_well_when_nothing_is_missing() {
        assert_eq!(lack(&well(), &at(&[1, 2, 3])), None);
        // One more was started than has joined.
        assert!(lack(&well(), &at(&[1, 2, 3, 4])).unwrap().contains("3 nodes serve, 4 run"));
        // Another than is thought to serve.
        assert!(lack(&well(), &at(&[1, 2, 4])).unwrap().contains("3 nodes serve, 3 run"));
        let mut status = well();
        status.nodes[1].up = false;
        assert!(lack(&status, &at(&[1, 2, 3])).unwrap().contains("127.0.0.1:2 active down"));
        assert_eq!(lack(&status, &at(&[1, 3])), None, "of those that run all serve");
        status.nodes[2].state = NodeState::Joining;
        assert!(lack(&status, &at(&[1, 3])).unwrap().contains("127.0.0.1:3 joining up"));
    }

    #[test]
    fn what_lacks_first_is_named() {
        let mut status = well();
        status.moves_total = 4;
        assert_eq!(lack(&status, &at(&[1, 2, 3])).unwrap(), "4 partitions move");
        status.unwell_total = 1;
        status.unwell.push(UnwellPartition {
            topic: "t".parse().unwrap(),
            partition: PartitionIndex(7),
            leader: None,
            replicas: Vec::new(),
            in_sync: Vec::new(),
            lag: 5,
            why: "nobody leads it".to_owned(),
        });
        let text = lack(&status, &at(&[1, 2, 3])).unwrap();
        assert_eq!(text, "1 partitions lack something: t/7 nobody leads it (lag 5)");
        status.controller = None;
        assert_eq!(lack(&status, &at(&[1, 2, 3])).unwrap(), "nobody leads the catalog");
    }
}

//! Where partitions stand, without waking them: by this node's own replica, or by the word of the node
//! that leads them.

use std::sync::Arc;

use plimsoll_protocol::api::{PartitionCondition, PartitionInfo};
use plimsoll_protocol::ids::{GroupId, Offset, PartitionIndex, Term};
use plimsoll_protocol::peer::{GroupReport, ReplicaCondition};

use crate::broker::Broker;
use crate::compaction::compaction_info;

impl Broker {
    /// Where partitions stand, in their order.
    pub(crate) async fn partition_infos(
        &self,
        partitions: impl IntoIterator<Item = (PartitionIndex, GroupId)>,
    ) -> Vec<PartitionInfo> {
        let (mut infos, mut elsewhere) = (Vec::new(), Vec::new());
        for (partition, group) in partitions {
            let mut info = self.blank_info(partition, group);
            if !self.fill_from_here(&mut info).await {
                elsewhere.push(group);
            }
            if info.leader.is_none()
                && let Some((leader, term)) = self.host().leader(group)
            {
                (info.leader, info.term) = (Some(leader), term);
            }
            infos.push(info);
        }
        if self.peers().is_some() && !elsewhere.is_empty() {
            let reports = self.host().reports(elsewhere).await;
            for info in &mut infos {
                if let Some(report) = reports.get(&info.group_id) {
                    fill_from(report, info);
                }
            }
        }
        infos
    }

    fn blank_info(&self, partition: PartitionIndex, group_id: GroupId) -> PartitionInfo {
        let catalog = self.catalog();
        let replicas = catalog.replica_set(group_id).map(|set| set.wanted.to_vec());
        PartitionInfo {
            partition,
            group_id,
            leader: None,
            term: Term(0),
            log_start_offset: Offset(0),
            high_watermark: Offset(0),
            log_end_offset: Offset(0),
            bytes: 0,
            segments: 0,
            condition: PartitionCondition::Asleep,
            replicas: replicas.unwrap_or_default(),
            compaction: None,
        }
    }

    /// False where this node has nothing of the partition: it has no replica, or the partition was
    /// never used.
    async fn fill_from_here(&self, info: &mut PartitionInfo) -> bool {
        let Some(log) = self.store().group(info.group_id) else { return false };
        let bounds = log.bounds();
        if bounds.last.is_none() {
            return false;
        }
        info.log_start_offset = bounds.log_start_offset;
        info.log_end_offset = bounds.log_end_offset;
        info.high_watermark = match info.replicas.len() {
            // With one voter everything in the log of a group that sleeps is committed.
            0 | 1 => bounds.log_end_offset,
            _ => self.committed(info.group_id).await.min(bounds.log_end_offset),
        };
        info.bytes = bounds.bytes;
        info.segments = bounds.segments;
        if self
            .catalog()
            .locate(info.group_id)
            .is_some_and(|at| at.topic.config.rules.cleanup.compacts())
        {
            info.compaction = Some(compaction_info(&log));
        }
        if let Some(group) = self.host().held(info.group_id) {
            let status = group.status().await;
            (info.leader, info.term) = (status.leader, status.term);
            if status.awake {
                info.condition = PartitionCondition::Awake;
                info.high_watermark = *group.high_watermark().borrow();
            }
        } else {
            info.term = log.vote().map_or(Term(0), |vote| vote.term);
        }
        if log.is_quarantined().is_some() {
            info.condition = PartitionCondition::Quarantined;
        }
        true
    }

    /// Up to where a group is known to be committed here, without waking it: what follows in its log
    /// may be cut off again.
    async fn committed(&self, group: GroupId) -> Offset {
        let host = Arc::clone(self.host());
        let known = self.host().blocking().run(move || host.committed_offset(group)).await;
        // A state that cannot be read says nothing; its partition is told to be shut off.
        known.ok().flatten().unwrap_or(Offset(0))
    }
}

fn fill_from(report: &GroupReport, info: &mut PartitionInfo) {
    info.leader = report.leader.or(info.leader);
    info.term = report.vote.term;
    info.log_start_offset = report.start_offset;
    info.high_watermark = report.high_watermark;
    info.log_end_offset = report.end_offset;
    info.bytes = report.bytes;
    info.segments = report.segments;
    info.condition = match report.condition {
        ReplicaCondition::Leader | ReplicaCondition::Follower | ReplicaCondition::Amnesiac => {
            PartitionCondition::Awake
        }
        ReplicaCondition::Quarantined => PartitionCondition::Quarantined,
        ReplicaCondition::Absent | ReplicaCondition::Asleep | ReplicaCondition::Seeding => {
            PartitionCondition::Asleep
        }
    };
}

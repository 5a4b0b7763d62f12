//! Which node answers for a partition: this one, or the one that the peer is told of.

use std::sync::Arc;
use std::time::Duration;

use plimsoll_protocol::api::Request;
use plimsoll_protocol::batch::BatchLimits;
use plimsoll_protocol::error::{ErrorCode, ErrorResponse};
use plimsoll_protocol::ids::{GroupId, NodeId, PartitionIndex, TopicName};
use plimsoll_replication::{Group, GroupKind, Role};
use plimsoll_state::catalog::TopicMeta;
use tokio::time::{Instant, sleep, timeout};

use crate::broker::{Broker, Partition, group_options};
use crate::native::Answer;
use crate::queues::QueueLimits;
use crate::refusals;

/// How long a request waits for a group to find its leader.
const SEARCH_WAIT: Duration = Duration::from_secs(1);
/// A leader that hears no majority for so long is not waited for: the others may have elected one.
pub(crate) const CUT_OFF_AFTER: Duration = Duration::from_secs(1);

/// How long a partition is looked for that has no leader: several elections.
const LEADER_WAIT: Duration = Duration::from_secs(5);
/// After which pause.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(50);

/// Who may answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// The partition's leader.
    Leader,
    /// Any node that holds a replica and follows a leader.
    Replica,
}

impl Broker {
    /// Looks a partition up and wakes it.
    ///
    /// # Errors
    /// Where there is no such partition, another node answers for it, or it cannot be woken.
    pub(crate) async fn partition(
        &self,
        topic: &TopicName,
        partition: PartitionIndex,
        access: Access,
    ) -> Result<Partition, ErrorResponse> {
        let meta = self.topic(topic).await?;
        let id = meta.group(partition).ok_or_else(|| {
            ErrorResponse::new(
                ErrorCode::UnknownPartition,
                format!(
                    "topic {topic} has no partition {partition}: it has {}, numbered from 0",
                    meta.partitions.len()
                ),
            )
        })?;
        self.check_place(id, &meta, partition, access)?;
        let options = group_options(&meta.config);
        let woken = self.host().group(id, GroupKind::Partition, options).await;
        let group = woken.map_err(|error| {
            // The files of a topic that was just deleted fail in their own ways; say what is true.
            if !self.has_topic(topic, meta.topic_id) {
                return refusals::unknown_topic(topic);
            }
            if error.is_of_replica()
                && meta.replica_set(partition).is_some_and(|r| r.wanted.len() > 1)
            {
                return refusals::unusable_here(&error);
            }
            // Damage that was found while waking is told as what it is.
            let log = self.store().group(id);
            match log.and_then(|log| log.is_quarantined()) {
                Some(quarantined) => refusals::read(&quarantined.into()),
                None => refusals::open(&error),
            }
        })?;
        self.check_role(&group, access).await?;
        let limits = self.limits();
        let batch_bytes_max = meta.config.batch_bytes_max.min(limits.batch.batch_bytes_max);
        Ok(Partition {
            group,
            topic_id: meta.topic_id,
            durability: meta.config.durability,
            queue: QueueLimits::of(&meta),
            require_fence: meta.config.rules.require_fence,
            batch_limits: BatchLimits { batch_bytes_max, ..limits.batch.clone() },
        })
    }

    /// Asks the leader of a partition: this node, by `here`, or the one that leads in its place. Again while
    /// there is none, for several elections.
    ///
    /// # Errors
    /// The leader's own, or that none was found.
    pub(crate) async fn ask_leader<R, F>(
        self: &Arc<Self>,
        request: &R,
        here: impl Fn() -> F,
    ) -> Result<Answer<R>, ErrorResponse>
    where
        R: Request,
        F: Future<Output = Result<Answer<R>, ErrorResponse>>,
    {
        let begun = Instant::now();
        loop {
            let error = match self.ask_once(request, here()).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let is_over = begun.elapsed() >= LEADER_WAIT || self.is_stopping();
            if is_over || !error.code.is_retriable() {
                return Err(error);
            }
            sleep(LOOK_AGAIN_AFTER).await;
        }
    }

    /// The same, once.
    ///
    /// # Errors
    /// As [`Broker::ask_leader`].
    pub(crate) async fn ask_once<R: Request>(
        self: &Arc<Self>,
        request: &R,
        here: impl Future<Output = Result<Answer<R>, ErrorResponse>>,
    ) -> Result<Answer<R>, ErrorResponse> {
        let mut error = match here.await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        let me = self.identity().node_id;
        let Some(leader) = error.leader.take().filter(|leader| leader.node != me) else {
            return Err(error);
        };
        let (response, payload) = self.leader_link(leader.node).await?.ask(request).await?;
        Ok((response, vec![payload]))
    }

    /// Sends the peer to another node where this one has no replica, or is not the one to ask.
    fn check_place(
        &self,
        id: GroupId,
        meta: &TopicMeta,
        partition: PartitionIndex,
        access: Access,
    ) -> Result<(), ErrorResponse> {
        let me = self.identity().node_id;
        let wanted = meta.replica_set(partition).is_some_and(|replicas| {
            // Before the first node has made itself known, everything is here.
            replicas.wanted.is_empty() || replicas.wants(me)
        });
        let has_log = || self.store().group(id).is_some_and(|log| log.bounds().last.is_some());
        let holds = wanted || has_log();
        let hint = self.host().leader_hint(id).map(|(node, _)| node);
        match hint {
            Some(node) if node != me && (!holds || access == Access::Leader) => {
                Err(self.not_leader(Some(node)))
            }
            _ if !holds => Err(self.not_leader(None)),
            _ => Ok(()),
        }
    }

    /// Waits until an awake group knows its leader, and sends the peer to it where it is not here.
    async fn check_role(&self, group: &Group, access: Access) -> Result<(), ErrorResponse> {
        let mut role = group.role();
        let found = role.wait_for(|role| !matches!(role, Role::Searching { .. }));
        let found = timeout(SEARCH_WAIT, found).await.map(|found| found.map(|role| *role));
        match (found, access) {
            (Ok(Ok(Role::Follower { leader, .. })), Access::Leader) => {
                Err(self.not_leader(Some(leader)))
            }
            (Ok(Ok(Role::Leader { .. })), _) | (Ok(Ok(Role::Follower { .. })), Access::Replica) => {
                Ok(())
            }
            _ => Err(self.not_leader(None)),
        }
    }

    /// Another node answers for the partition, or none does now.
    pub(crate) fn not_leader(&self, leader: Option<NodeId>) -> ErrorResponse {
        match leader {
            Some(leader) => {
                let message = format!("node {leader} leads the partition: ask it");
                ErrorResponse::new(ErrorCode::NotLeader, message)
                    .with_leader(leader, self.address_of(leader))
            }
            None => ErrorResponse::new(
                ErrorCode::NotLeader,
                "the partition has no leader now: try again in a moment; if it stays so, \
                 `plimsoll cluster status` says which nodes are missing",
            ),
        }
    }

    /// Where clients reach a node; empty where it is not known.
    pub(crate) fn address_of(&self, node: NodeId) -> String {
        let catalog = self.catalog();
        catalog.node(node).map(|meta| meta.spec.address.clone()).unwrap_or_default()
    }

    /// Puts in where the leader is reached that an error names.
    pub(crate) fn located(&self, mut error: ErrorResponse) -> ErrorResponse {
        if let Some(leader) = &mut error.leader
            && leader.address.is_empty()
        {
            leader.address = self.address_of(leader.node);
        }
        error
    }

    /// Ends when this node's replica of the group is taken away. May be cancelled.
    pub(crate) async fn dropped(&self, group: &Group) -> ErrorResponse {
        let mut dropped = group.dropped();
        match dropped.wait_for(|dropped| *dropped).await {
            Ok(_) => self.not_leader(self.host().leader(group.id()).map(|(node, _)| node)),
            Err(_) => refusals::shutting_down(),
        }
    }

    /// Ends when this node does not answer for the group any more: where the leader is to, when it does
    /// not lead, or hears no majority of its voters while it believes that it does (what comes next is
    /// stored by others, and it would never know); else when no leader was found for a while. May be
    /// cancelled.
    pub(crate) async fn deposed(&self, group: &Arc<Group>, access: Access) -> ErrorResponse {
        tokio::select! {
            biased;
            deposed = self.role_lost(group, access) => deposed,
            cut_off = group.cut_off(CUT_OFF_AFTER), if access == Access::Leader => {
                ErrorResponse::new(ErrorCode::NoQuorum, cut_off.to_string())
            }
        }
    }

    async fn role_lost(&self, group: &Arc<Group>, access: Access) -> ErrorResponse {
        let mut role = group.role();
        loop {
            // Asleep, everybody has the same, and the next one who writes decides who leads.
            let leads = |role: &Role| match role {
                Role::Leader { .. } | Role::Asleep => true,
                Role::Follower { .. } => access == Access::Replica,
                Role::Searching { .. } => false,
            };
            let left = role.wait_for(|role| !leads(role)).await.map(|role| *role);
            let found = match left {
                // It is being woken, or elects: most often it is the leader again in a moment.
                Ok(Role::Searching { .. }) => {
                    let found = role.wait_for(|role| !matches!(role, Role::Searching { .. }));
                    match timeout(SEARCH_WAIT, found).await {
                        Ok(found) => found.map(|role| *role),
                        Err(_) => return self.not_leader(None),
                    }
                }
                left => left,
            };
            match found {
                Ok(Role::Follower { leader, .. }) if access == Access::Leader => {
                    return self.not_leader(Some(leader));
                }
                Ok(_) => {}
                Err(_) => return refusals::shutting_down(),
            }
        }
    }
}

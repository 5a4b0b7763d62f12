//! Which coordinators are at work on this node.

use std::sync::Arc;
use std::time::Duration;

use plimsoll_protocol::api::{GROUPS_TOPIC, TopicConfig};
use plimsoll_protocol::error::{ErrorCode, ErrorResponse};
use plimsoll_protocol::ids::{PartitionIndex, TopicName};
use plimsoll_replication::Group;
use plimsoll_state::catalog::amqp::LEVEL_QUEUES;
use plimsoll_state::catalog::{Catalog, CatalogCommand, CatalogReply, planning};
use tokio::time::MissedTickBehavior;

use super::handle::{Command, CoordinatorHandle};
use super::runner::{self, Begin};
use crate::broker::Broker;
use crate::led::LedTasks;
use crate::refusals;
use crate::routing::Access;

/// How many partitions `__groups` has, for ever: groups are spread over them, and their coordinators over
/// the nodes.
const PARTITIONS: u32 = 16;
/// How often partitions are looked at that nobody asks for.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The tasks that are at work here.
#[derive(Default)]
pub(crate) struct Coordinators(LedTasks<Command>);

/// The topic whose partitions hold the groups.
pub(crate) fn groups_topic() -> TopicName {
    TopicName::internal(GROUPS_TOPIC).expect("a name that keeps the rules")
}

impl Broker {
    /// How many partitions the groups' topic has; it is made where it is not there.
    ///
    /// # Errors
    /// Where it cannot be made now, or a node of the cluster could not read it.
    pub(crate) async fn find_groups(&self) -> Result<u32, ErrorResponse> {
        let topic = groups_topic();
        let partitions =
            |count: usize| u32::try_from(count).map_err(|_| refusals::bug("too many partitions"));
        if let Some(meta) = self.catalog().topic(&topic) {
            return partitions(meta.partitions.len());
        }
        self.need_level(LEVEL_QUEUES).await?;
        let make = |catalog: &Catalog| {
            let (replicas, placed) = planning::replica_counts(catalog, 0);
            let down = self.down_nodes(catalog);
            let placement =
                planning::place_unless_known(catalog, &topic, PARTITIONS, placed, &down)?;
            Ok(CatalogCommand::CreateTopic {
                topic: topic.clone(),
                partitions: PARTITIONS,
                replicas,
                config: TopicConfig::default(),
                if_not_exists: true,
                placement,
            })
        };
        match self.place(make).await? {
            CatalogReply::Created { topic, .. } => partitions(topic.partitions.len()),
            _ => Err(refusals::bug("the catalog answered the creation of the groups' topic")),
        }
    }

    /// The coordinator of the groups of a partition, at work on this node.
    ///
    /// # Errors
    /// Where another node leads the partition, or it cannot be woken.
    pub(crate) async fn coordinator(
        self: &Arc<Self>,
        partition: PartitionIndex,
    ) -> Result<(CoordinatorHandle, Arc<Group>), ErrorResponse> {
        let found = self.partition(&groups_topic(), partition, Access::Leader).await;
        let found = found.map_err(|error| match error.code {
            ErrorCode::UnknownTopic => ErrorResponse::new(
                ErrorCode::UnknownGroup,
                "no consumer group was made in this cluster yet: it begins when a member joins or \
                 commits",
            ),
            _ => error,
        })?;
        let group = found.group;
        let handle = self.run_coordinator(&group).ok_or_else(|| self.not_leader(None))?;
        Ok((handle, group))
    }

    /// The task, which is begun where it does not run; none where this node does not lead.
    fn run_coordinator(self: &Arc<Self>, group: &Arc<Group>) -> Option<CoordinatorHandle> {
        let task =
            self.coordinators().0.of(group, "coordinator of consumer groups", |term, received| {
                let begin = Begin { broker: Arc::clone(self), group: Arc::clone(group), term };
                runner::run(begin, received)
            });
        task.map(CoordinatorHandle)
    }
}

/// Sees to the groups whose members may all be silent: a new leader counts their sessions too. Until the
/// broker stops.
pub(crate) async fn keep_coordinators(broker: Arc<Broker>) {
    let topic = groups_topic();
    let mut stopping = broker.stopping();
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = stopping.wait() => return,
            _ = look.tick() => {}
        }
        let catalog = broker.catalog();
        let Some(meta) = catalog.topic(&topic) else { continue };
        for group in meta.partitions.iter().filter_map(|&id| broker.host().held(id)) {
            let has_groups = group.with_groups(|groups, _| groups.iter().next().is_some());
            if has_groups == Some(true) {
                broker.run_coordinator(&group);
            }
        }
    }
}

//! Whether replicas lie where the catalog wants them, and hold all that was ever committed.

use plimsoll_log::GroupLog;
use plimsoll_protocol::ids::GroupId;

use crate::invariants::Ledger;
use crate::node::SimNode;
use crate::world::World;

/// A replica that is missing or lacks something, in words.
#[must_use]
pub fn unequal_replica(world: &World) -> Option<String> {
    let ledger = world.observer().ledger();
    for node in world.nodes() {
        let Some(store) = node.store() else {
            return Some(format!("node {} does not run", node.number));
        };
        let logs = store.groups().into_iter().filter_map(|group| store.group(group));
        let lacking = logs.into_iter().find_map(|log| lacks(ledger, &log));
        if let Some(lacking) = lacking {
            return Some(format!("node {}: {lacking}", node.number));
        }
    }
    let groups = ledger
        .partitions
        .values()
        .chain(ledger.queue.values())
        .chain(ledger.guarded.values())
        .chain(&ledger.unnumbered)
        .filter(|group| ledger.group(**group).is_some());
    groups.into_iter().find_map(|group| misplaced(world, *group))
}

/// What a log lacks; nothing where there is none any more. How far a replica knows that it is committed
/// may lag; the entries must be there.
fn lacks(ledger: &Ledger, log: &GroupLog) -> Option<String> {
    let group = log.id();
    if group != GroupId::CATALOG && !has_log(log) {
        return None;
    }
    if let Some(quarantined) = log.is_quarantined() {
        return Some(format!("the log of group {group} is quarantined: {quarantined}"));
    }
    let wanted = ledger.group(group)?.last()?.id;
    let last = log.bounds().last;
    let has_it = last.is_some_and(|last| last.index >= wanted.index)
        && log.term_at(wanted.index).is_none_or(|term| term == wanted.term);
    (!has_it).then(|| format!("the log of group {group} ends at {last:?}, {wanted:?} is committed"))
}

/// A replica that was moved away leaves an empty log.
fn has_log(log: &GroupLog) -> bool {
    log.bounds().last.is_some()
}

/// A node that shall hold a used group and does not, as the newest catalog says.
fn misplaced(world: &World, group: GroupId) -> Option<String> {
    let catalogs = world.nodes().iter().filter_map(SimNode::broker).map(|broker| broker.catalog());
    let newest = catalogs.max_by_key(|catalog| catalog.epoch())?;
    let wanted = newest.replica_set(group)?.wanted.clone();
    let holds = |number: u64| {
        let store = world.nodes().iter().find(|node| node.number == number)?.store()?;
        store.group(group).filter(|log| has_log(log))
    };
    let missing = wanted.iter().find(|node| holds(node.0).is_none())?;
    Some(format!("node {missing} shall hold group {group}"))
}

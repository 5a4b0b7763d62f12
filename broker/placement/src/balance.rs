//! The steps by which a placement in force is changed as little as the rules allow.
//!
//! In this order: keep what may stay; relieve nodes above their bound; (fill what is missing;) let
//! nodes far below their share take some. A newcomer gets its share by the relief of the others
//! first, so that no replica moves twice for one join.

use plimsoll_protocol::ids::GroupId;

use crate::placement::Placement;
use crate::table::Table;

/// Takes over each replica whose node still takes replicas and whose rack is not needed for another.
///
/// What has to go is chosen when the loads of all nodes are known: taken from the fullest it need not
/// be followed by a second move that evens out the first.
pub(crate) fn keep(table: &mut Table, in_force: &Placement) {
    for slot in 0..table.slots.len() {
        let group: GroupId = table.slots[slot].group;
        for (rank, &id) in in_force.replicas(group).iter().enumerate() {
            if let Some(node) = table.position(id) {
                table.add(slot, node);
                if rank == 0 {
                    table.slots[slot].leader = Some(node);
                }
            }
        }
    }
    for slot in 0..table.slots.len() {
        while table.shares_too_much(slot) {
            let sharing = |table: &Table, node| table.shares_rack(slot, node);
            drop_fullest(table, slot, sharing);
        }
        while table.slots[slot].held.len() > table.slots[slot].replicas {
            drop_fullest(table, slot, |_, _| true);
        }
    }
}

/// Drops the replica on the relatively most loaded node among those that may go; the leader only if
/// alone.
fn drop_fullest(table: &mut Table, slot: usize, may_go: impl Fn(&Table, u16) -> bool) {
    let leader = table.slots[slot].leader;
    let fullest = table.slots[slot]
        .held
        .iter()
        .copied()
        .filter(|&node| may_go(table, node))
        .max_by(|&a, &b| {
            (Some(a) != leader).cmp(&(Some(b) != leader)).then_with(|| table.replicas.compare(a, b))
        });
    table.drop(slot, fullest.expect("a slot with too many replicas has one that may go"));
}

/// Moves replicas off nodes above their bound: to the relatively least loaded that they fit, and
/// where there is none, to wherever `fill` finds room.
pub(crate) fn relieve(table: &mut Table) {
    let held = table.held_by_node();
    for node in table.nodes() {
        let at = usize::from(node);
        let above = |table: &Table| table.replicas.now[at] > table.replicas.bound[at];
        if !above(table) {
            continue;
        }
        let mut slots = held[at].clone();
        // Those that the ring would not put here go first.
        slots.sort_by_key(|&slot| std::cmp::Reverse(table.rank(slot, node)));
        for &slot in &slots {
            if above(table)
                && let Some(to) = least_loaded_with_room(table, slot, node)
            {
                table.shift(slot, node, to);
            }
        }
        for &slot in &slots {
            if above(table) && table.slots[slot].held.contains(&node) {
                table.drop(slot, node);
            }
        }
    }
}

fn least_loaded_with_room(table: &Table, slot: usize, from: u16) -> Option<u16> {
    table
        .nodes()
        .filter(|&to| table.replicas.has_room(to) && table.fits(slot, Some(from), to))
        .min_by(|&a, &b| table.replicas.compare(a, b))
}

/// Lets each node that is below its floor take replicas: a newcomer up to its fair share, another up
/// to its floor.
///
/// A donor stays at its own fair share (rounded down) or above, so every node that is served is done
/// with, and the loop ends.
pub(crate) fn pull(table: &mut Table) {
    loop {
        let mut changed = false;
        for node in table.nodes() {
            if table.replicas.now[usize::from(node)] < table.replicas.floor[usize::from(node)] {
                changed |= pull_to(table, node);
            }
        }
        if !changed {
            break;
        }
    }
}

/// Whoever carries more than this gives to a node below its floor; the most loaded are asked first.
#[derive(Debug, Clone, Copy)]
enum DonorsAbove {
    Bound,
    FairRoundedUp,
    FairRoundedDown,
}

fn gives(table: &Table, donors: DonorsAbove, node: u16) -> bool {
    let at = usize::from(node);
    table.replicas.now[at]
        > match donors {
            DonorsAbove::Bound => table.replicas.bound[at],
            DonorsAbove::FairRoundedUp => table.replicas.fair[at].ceil(),
            DonorsAbove::FairRoundedDown => table.replicas.fair[at].floor(),
        }
}

fn pull_to(table: &mut Table, node: u16) -> bool {
    let at = usize::from(node);
    let fair = table.replicas.fair[at].floor();
    // A newcomer gets its share at once. One that fell behind because others went is only brought back
    // within the rules: to its floor.
    let target = if table.replicas.now[at] < fair / 2 { fair } else { table.replicas.floor[at] };
    // Those that the ring would put here come first; the hash order of slots breaks ties.
    let mut slots: Vec<(usize, usize)> = (0..table.slots.len())
        .filter(|&slot| !table.slots[slot].held.contains(&node))
        .map(|slot| (table.rank(slot, node), slot))
        .collect();
    slots.sort_unstable();
    let mut changed = false;
    for donors in [DonorsAbove::Bound, DonorsAbove::FairRoundedUp, DonorsAbove::FairRoundedDown] {
        for &(_, slot) in &slots {
            if table.replicas.now[at] >= target {
                return changed;
            }
            let donor = table.slots[slot]
                .held
                .iter()
                .copied()
                .filter(|&d| {
                    d != node && gives(table, donors, d) && table.fits(slot, Some(d), node)
                })
                .max_by(|&a, &b| table.replicas.compare(a, b));
            if let Some(donor) = donor {
                table.shift(slot, donor, node);
                changed = true;
            }
        }
    }
    changed
}

//! Preferred leaders: one of each partition's replicas, as even as its replicas allow.
//!
//! Leaders cost a transfer, not a copy, so evenness is worth more here than staying put.

use std::collections::VecDeque;

use crate::fill::Aim;
use crate::table::Table;

/// Gives every slot a leader among the nodes that hold it, within the bounds on leaders.
///
/// A leader that is set already stays if it holds the slot, unless its node leads too many.
pub(crate) fn choose(table: &mut Table, aim: Aim) {
    for slot in &mut table.slots {
        slot.leader = slot.leader.filter(|leader| slot.held.contains(leader));
        if let Some(leader) = slot.leader {
            table.leaders.now[usize::from(leader)] += 1;
        }
    }
    for slot in 0..table.slots.len() {
        if table.slots[slot].leader.is_none() {
            let leader = first_on_walk(table, slot, aim);
            table.slots[slot].leader = Some(leader);
            table.leaders.now[usize::from(leader)] += 1;
        }
    }
    for node in table.nodes() {
        let at = usize::from(node);
        while table.leaders.now[at] > table.leaders.bound[at] && hand_on(table, node) {}
    }
    raise(table);
}

/// The first holder on the walk with room; when all are full, the relatively least loaded.
fn first_on_walk(table: &Table, slot: usize, aim: Aim) -> u16 {
    let mut held = table.slots[slot].held.clone();
    held.sort_unstable_by_key(|&node| table.rank(slot, node));
    let least = || held.iter().copied().min_by(|&a, &b| table.leaders.compare(a, b));
    let leader = table.leaders.first_with_room(aim, &held.iter().copied()).or_else(least);
    leader.expect("a slot that was filled is held by a node")
}

/// Moves one leader off a node along the shortest chain to a node with room; whether there is one.
fn hand_on(table: &mut Table, node: u16) -> bool {
    let mut led = vec![Vec::new(); table.sites.len()];
    for (at, slot) in table.slots.iter().enumerate() {
        if let Some(leader) = slot.leader {
            led[usize::from(leader)].push(at);
        }
    }
    // How a node was reached: the slot that it would lead, and who leads that now.
    let mut reached_by: Vec<Option<(usize, u16)>> = vec![None; table.sites.len()];
    let mut queue = VecDeque::from([node]);
    while let Some(from) = queue.pop_front() {
        for &slot in &led[usize::from(from)] {
            for &to in &table.slots[slot].held {
                if to == node || reached_by[usize::from(to)].is_some() {
                    continue;
                }
                reached_by[usize::from(to)] = Some((slot, from));
                if table.leaders.has_room(to) {
                    let mut end = to;
                    while let Some((slot, from)) = reached_by[usize::from(end)] {
                        table.slots[slot].leader = Some(end);
                        end = from;
                    }
                    table.leaders.now[usize::from(node)] -= 1;
                    table.leaders.now[usize::from(to)] += 1;
                    return true;
                }
                queue.push_back(to);
            }
        }
    }
    false
}

/// Lets nodes that lead far less than their share lead more of what they hold.
fn raise(table: &mut Table) {
    loop {
        let mut changed = false;
        for slot in 0..table.slots.len() {
            let leader = table.slots[slot].leader.expect("every slot was given a leader");
            let loads = &table.leaders;
            if loads.now[usize::from(leader)] <= loads.fair[usize::from(leader)].floor() {
                continue;
            }
            let below = |node: u16| loads.now[usize::from(node)] < loads.floor[usize::from(node)];
            let held = table.slots[slot].held.iter().copied();
            let least = held.filter(|&n| below(n)).min_by(|&a, &b| loads.compare(a, b));
            if let Some(next) = least {
                table.leaders.now[usize::from(leader)] -= 1;
                table.leaders.now[usize::from(next)] += 1;
                table.slots[slot].leader = Some(next);
                changed = true;
            }
        }
        if !changed {
            break;
        }
    }
}

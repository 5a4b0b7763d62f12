//! Gives every replica that has no place one: along the ring, within the load bounds.
//!
//! Where every node that a partition may use is full, others give way along the shortest chain of
//! moves that ends at a node with room. The rules and bounds form a flow network with whole
//! capacities in which the fair shares are a flow in fractions (`share.rs`), so such a chain exists
//! whenever all replicas in the table may move: the bound is kept, always.
//!
//! Source: Mirrokni, Thorup, Zadimoghaddam, "Consistent hashing with bounded loads", SODA 2018
//! (arXiv 1608.01350) for the forwarding along the ring; Ford, Fulkerson 1956 for the chains.

use std::collections::VecDeque;

use crate::table::Table;

/// How full a node may get before the walk goes on to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Aim {
    /// Up to its load bound: the ring decides as far as it may.
    LoadBound,
    /// Up to its fair share first, then up to its load bound: as even as can be for free.
    FairShare,
}

/// Completes every slot, in the order of hashes.
pub(crate) fn fill(table: &mut Table, aim: Aim) {
    for slot in 0..table.slots.len() {
        while table.slots[slot].held.len() < table.slots[slot].replicas {
            let node = first_on_walk(table, slot, aim)
                .or_else(|| make_room(table, slot))
                .unwrap_or_else(|| least_loaded(table, slot));
            table.add(slot, node);
        }
    }
}

fn first_on_walk(table: &Table, slot: usize, aim: Aim) -> Option<u16> {
    let fitting = table.walk(slot).iter().copied().filter(|&n| table.fits(slot, None, n));
    table.replicas.first_with_room(aim, &fitting)
}

/// For partitions that came beside others which may not move (`extend`): the bound gives way.
fn least_loaded(table: &Table, slot: usize) -> u16 {
    let fitting = table.nodes().filter(|&n| table.fits(slot, None, n));
    let least = fitting.min_by(|&a, &b| table.replicas.compare(a, b));
    least.expect("a slot with fewer replicas than nodes fits somewhere: the racks were counted")
}

/// Frees room on a node that fits the slot by moving others on; names the node.
fn make_room(table: &mut Table, slot: usize) -> Option<u16> {
    let entries: Vec<u16> =
        table.walk(slot).iter().copied().filter(|&n| table.fits(slot, None, n)).collect();
    // A chain is found on the table as it was. Its moves are made from the end, each checked, so a
    // chain that contradicts itself (one partition in two of its moves) still moves room nearer.
    for _ in 0..=table.sites.len() {
        let chain = shortest_chain(table, &entries)?;
        let mut whole = true;
        for &Link { slot, from, to } in chain.iter().rev() {
            whole = table.fits(slot, Some(from), to);
            if !whole {
                break;
            }
            table.shift(slot, from, to);
        }
        if whole {
            return chain.first().map(|link| link.from);
        }
    }
    None
}

/// One move of a chain.
#[derive(Debug, Clone, Copy)]
struct Link {
    slot: usize,
    from: u16,
    to: u16,
}

/// Breadth first from the entries over "a slot on this node could be on that one".
fn shortest_chain(table: &Table, entries: &[u16]) -> Option<Vec<Link>> {
    let held = table.held_by_node();
    let mut reached_by: Vec<Option<Link>> = vec![None; table.sites.len()];
    let mut unseen: Vec<u16> = table.nodes().filter(|node| !entries.contains(node)).collect();
    let mut queue: VecDeque<u16> = entries.iter().copied().collect();
    while let Some(from) = queue.pop_front() {
        for &slot in &held[usize::from(from)] {
            let mut at = 0;
            while at < unseen.len() {
                let to = unseen[at];
                if !table.fits(slot, Some(from), to) {
                    at += 1;
                    continue;
                }
                unseen.remove(at);
                reached_by[usize::from(to)] = Some(Link { slot, from, to });
                if table.replicas.has_room(to) {
                    return Some(unwind(&reached_by, to));
                }
                queue.push_back(to);
            }
        }
    }
    None
}

fn unwind(reached_by: &[Option<Link>], end: u16) -> Vec<Link> {
    let mut chain = Vec::new();
    let mut node = end;
    while let Some(link) = reached_by[usize::from(node)] {
        chain.push(link);
        node = link.from;
    }
    chain.reverse();
    chain
}

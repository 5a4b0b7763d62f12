//! Measures what the ring alone moves, what `rebalance` moves, and how long both take.
//!
//! `cargo run --release -p plimsoll-placement --example figures`. The tables in the crate's
//! documentation and in ARCHITECTURE.md are its output.
#![expect(clippy::print_stdout, reason = "a program that prints tables")]
#![expect(clippy::disallowed_methods, reason = "it measures time; the crate itself must not")]

use std::time::Instant;

use plimsoll_placement::{
    Node, PartitionSpec, PlaceError, Placement, PlacementOptions, extend, place, rebalance,
};
use plimsoll_protocol::ids::{GroupId, NodeId};

fn nodes(count: u64) -> Vec<Node> {
    (1..=count).map(|id| Node::new(NodeId(id))).collect()
}

fn partitions(count: u64, replicas: u8) -> Vec<PartitionSpec> {
    (1..=count).map(|group| PartitionSpec { group: GroupId(group), replicas }).collect()
}

/// Percent of all replicas that move when single nodes leave, in turn: mean and worst.
fn moved_by_leaving(
    before: &Placement,
    all: &[Node],
    next: impl Fn(&[Node]) -> Result<Placement, PlaceError>,
) -> Result<(f64, f64), PlaceError> {
    let step = all.len().div_ceil(5);
    let mut percents = Vec::new();
    for gone in (0..all.len()).step_by(step) {
        let mut left = all.to_vec();
        left.remove(gone);
        let moved = before.moved_replicas(&next(&left)?) as f64;
        percents.push(100.0 * moved / before.replica_count() as f64);
    }
    let mean = percents.iter().sum::<f64>() / percents.len() as f64;
    Ok((mean, percents.iter().copied().fold(0.0, f64::max)))
}

fn main() -> Result<(), PlaceError> {
    let clusters = [(3, 1), (4, 3), (5, 3), (10, 3), (20, 3), (50, 3)];
    let counts = [100, 1_000, 10_000];
    println!("moved when one node leaves, % of all replicas: mean (worst)");
    for (node_count, replicas) in clusters {
        println!(
            "\n{node_count} nodes, {replicas} replicas; allowed {:.1}",
            100.0 / node_count as f64 + 5.0
        );
        let all = nodes(node_count);
        for slack in [10, 15, 25] {
            for virtual_nodes in [64, 256, 1024] {
                let options =
                    PlacementOptions::new(slack, virtual_nodes).expect("options in range");
                print!("  ring      epsilon {slack}% virtual nodes {virtual_nodes:>4}:");
                for count in counts {
                    let specs = partitions(count, replicas);
                    let before = place(&all, &specs, &options)?;
                    let (mean, worst) =
                        moved_by_leaving(&before, &all, |left| place(left, &specs, &options))?;
                    print!("   {mean:>5.1} ({worst:>5.1})");
                }
                println!();
            }
        }
        let options = PlacementOptions::default();
        print!("  rebalance epsilon 15% virtual nodes  256:");
        for count in counts {
            let specs = partitions(count, replicas);
            let before = extend(&Placement::new(), &all, &specs, &options)?;
            let (mean, worst) =
                moved_by_leaving(&before, &all, |left| rebalance(&before, left, &specs, &options))?;
            print!("   {mean:>5.1} ({worst:>5.1})");
        }
        println!();
    }

    println!("\ntime for 10,000 partitions x 3 on 50 nodes");
    let (all, specs, options) = (nodes(50), partitions(10_000, 3), PlacementOptions::default());
    let begun = Instant::now();
    let before = extend(&Placement::new(), &all, &specs, &options)?;
    println!("  extend from nothing  {:?}", begun.elapsed());
    let begun = Instant::now();
    place(&all, &specs, &options)?;
    println!("  place                {:?}", begun.elapsed());
    let begun = Instant::now();
    rebalance(&before, &nodes(51), &specs, &options)?;
    println!("  rebalance, one joins {:?}", begun.elapsed());
    let begun = Instant::now();
    rebalance(&before, &nodes(49), &specs, &options)?;
    println!("  rebalance, one left  {:?}", begun.elapsed());
    Ok(())
}

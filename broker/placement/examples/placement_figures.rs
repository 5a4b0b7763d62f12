//! Measures what the ring alone moves, what `rebalance` moves, and how long both take.
//!
//! `cargo run --profile test -p plimsoll-placement --example placement_figures`. The tables in the crate's
//! documentation and in ARCHITECTURE.md are its output.
#![expect(clippy::print_stdout, reason = "a program that prints tables")]
#![expect(clippy::disallowed_methods, reason = "it measures time; the crate itself must not")]

use std::time::Instant;

use plimsoll_placement::{
    Node, PartitionSpec, PlaceError, Placement, PlacementOptions, Rack, Weight, extend, place,
    rebalance,
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

/// Numbers that repeat from run to run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// How often, and by how much, more than the leaver's replicas and 5% of all move.
fn random_clusters() -> Result<(), PlaceError> {
    println!(
        "\n300 random clusters (3-50 nodes, 1-5 replicas), one node leaves: how many move more"
    );
    println!("than (share + 5%) of all, and the most in % of all replicas over it");
    for (what, weights, racks) in
        [("equal", 1, 1), ("weights 20-500", 480, 1), ("weights and 2-8 racks", 480, 7)]
    {
        for count_max in [100, 1_000] {
            let mut numbers = Numbers(7);
            let (mut over, mut worst) = ([0; 2], [0.0_f64; 2]);
            for _ in 0..300 {
                let mut all = nodes(3 + numbers.below(48));
                let rack_count = 2 + numbers.below(racks);
                for node in &mut all {
                    if weights > 1 {
                        let weight = 20 + numbers.below(weights);
                        node.weight = Weight::new(weight as u32).expect("weight in range");
                    }
                    if racks > 1 {
                        node.rack = Some(Rack(numbers.below(rack_count).to_string()));
                    }
                }
                let replicas = 1 + numbers.below(5.min(all.len() as u64 - 1)) as u8;
                let specs = partitions(1 + numbers.below(count_max), replicas);
                let mut left = all.clone();
                let gone = left.remove(numbers.below(all.len() as u64) as usize).id;
                let options = PlacementOptions::default();
                let ring = place(&all, &specs, &options)?;
                let sticky = extend(&Placement::new(), &all, &specs, &options)?;
                let next =
                    [place(&left, &specs, &options)?, rebalance(&sticky, &left, &specs, &options)?];
                for (which, (before, after)) in [ring, sticky].iter().zip(&next).enumerate() {
                    let held = before.iter().filter(|(_, on)| on.contains(&gone)).count() as f64;
                    let total = before.replica_count() as f64;
                    let share = (total / all.len() as f64).max(held);
                    let excess = before.moved_replicas(after) as f64 - share - 0.05 * total;
                    // Less than one replica is rounding.
                    if excess >= 1.0 {
                        over[which] += 1;
                        worst[which] = worst[which].max(100.0 * excess / total);
                    }
                }
            }
            println!(
                "  {what:<22} up to {count_max:>4} partitions: ring {:>4} (+{:.1}), rebalance {:>4} (+{:.1})",
                over[0], worst[0], over[1], worst[1]
            );
        }
    }
    Ok(())
}

/// What a new topic of a tenth of the partitions moves of the others.
fn growth() -> Result<(), PlaceError> {
    println!("\na new topic adds a tenth, 20 nodes, 3 replicas: % of existing replicas that move");
    let (all, options) = (nodes(20), PlacementOptions::default());
    for count in [100, 1_000, 10_000] {
        let (few, many) = (partitions(count, 3), partitions(count + count / 10, 3));
        let moved = |before: &Placement, after: &Placement| {
            let new = (many.len() - few.len()) * 3;
            100.0 * (before.moved_replicas(after) - new) as f64 / before.replica_count() as f64
        };
        let ring = place(&all, &few, &options)?;
        let ring = moved(&ring, &place(&all, &many, &options)?);
        let sticky = extend(&Placement::new(), &all, &few, &options)?;
        let sticky = moved(&sticky, &extend(&sticky, &all, &many, &options)?);
        println!("  {count:>5} partitions: ring {ring:.1}, extend {sticky:.1}");
    }
    Ok(())
}

fn main() -> Result<(), PlaceError> {
    single_leaves()?;
    random_clusters()?;
    growth()?;
    times()
}

/// One node of an even cluster leaves, for each load slack and number of virtual nodes.
fn single_leaves() -> Result<(), PlaceError> {
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

    Ok(())
}

/// The largest computation that is planned for.
fn times() -> Result<(), PlaceError> {
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

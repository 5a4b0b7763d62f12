//! Fair shares: how many replicas each node should carry, as a fraction, and the bounds around it.
//!
//! In proportion to weight, as far as the other rules leave it open: a node carries a partition at
//! most once, and a rack at most once when there are racks enough, and at least once when there are
//! not more racks than replicas. So the share of a partition is a water filling: one level for all
//! nodes (`level x weight`, at most 1), where a rack whose sum leaves its bounds gets a level of its
//! own. Shares of partitions with different replication factors add up.
//!
//! Invariant: the shares themselves are a placement in fractions (each partition divided in
//! proportion to them keeps every rule). The rules form a flow network with whole capacities, so
//! with every bound rounded up there is a placement in whole replicas too. That is what lets
//! `fill.rs` promise the bound.
//!
//! All arithmetic is on whole numbers: a placement must not depend on how a platform rounds.

use crate::node::Weight;

/// Fraction bits of a share.
const FRACTION_BITS: u32 = 64;
/// One replica.
const ONE: u128 = 1 << FRACTION_BITS;
/// A share this near to a whole number is that number. The denominator of a class's share is a sum
/// of weights times 100 times the replicas, so up to 80,000 ordinary nodes a true value is never
/// nearer without being equal; the rounding below is far finer.
const TOLERANCE: u128 = 1 << (FRACTION_BITS - 32);
/// Further fraction bits of a level: it is multiplied by a weight.
const LEVEL_BITS: u32 = 16;

/// A number of replicas with its fraction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Share(u128);

impl Share {
    /// The share in whole replicas, rounded down.
    pub(crate) fn floor(self) -> u32 {
        whole((self.0 + TOLERANCE) >> FRACTION_BITS)
    }

    /// The share in whole replicas, rounded up.
    pub(crate) fn ceil(self) -> u32 {
        whole((self.0.saturating_sub(TOLERANCE) + ONE - 1) >> FRACTION_BITS)
    }

    /// That many percent of the share.
    pub(crate) fn percent(self, percent: u32) -> Self {
        Self(self.0 * u128::from(percent) / 100)
    }

    /// Orders two loads by how much of their share they are: less means relatively less loaded.
    pub(crate) fn compare_loads(a: (u32, Self), b: (u32, Self)) -> std::cmp::Ordering {
        (u128::from(a.0) * b.1.0).cmp(&(u128::from(b.0) * a.1.0))
    }

    fn add(&mut self, partitions: u32, fraction: u128) {
        self.0 += u128::from(partitions) * fraction;
    }
}

fn whole(number: u128) -> u32 {
    u32::try_from(number).expect("a share is at most the number of partitions")
}

/// What one class of partitions, all with the same replication factor, asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Class {
    pub(crate) replicas: usize,
    pub(crate) partitions: u32,
}

/// Fair shares of all nodes, by position.
pub(crate) struct FairShares {
    /// Replicas.
    pub(crate) replicas: Vec<Share>,
    /// Preferred leaders: each replica of a partition is as good as another.
    pub(crate) leaders: Vec<Share>,
}

/// Adds up the shares of all classes.
///
/// `nodes` holds weight and rack of each node, racks counted from 0 without a gap. Every class has at
/// most as many replicas as there are nodes.
pub(crate) fn fair_shares(nodes: &[(Weight, u16)], classes: &[Class]) -> FairShares {
    let mut shares = FairShares {
        replicas: vec![Share::default(); nodes.len()],
        leaders: vec![Share::default(); nodes.len()],
    };
    for class in classes {
        let fractions = fractions(nodes, class.replicas);
        for (node, fraction) in fractions.into_iter().enumerate() {
            shares.replicas[node].add(class.partitions, fraction);
            let led = fraction / class.replicas as u128;
            shares.leaders[node].add(class.partitions, led);
        }
    }
    shares
}

/// How much of one partition each node should carry, in parts of [`ONE`]; the sum is `replicas`.
fn fractions(nodes: &[(Weight, u16)], replicas: usize) -> Vec<u128> {
    assert!(replicas >= 1 && replicas <= nodes.len(), "the replication factor was checked");
    let rack_count = nodes.iter().map(|&(_, rack)| usize::from(rack) + 1).max().unwrap_or(0);
    let mut racks: Vec<Vec<usize>> = vec![Vec::new(); rack_count];
    for (node, &(_, rack)) in nodes.iter().enumerate() {
        racks[usize::from(rack)].push(node);
    }
    let weights: Vec<Vec<Weight>> =
        racks.iter().map(|members| members.iter().map(|&node| nodes[node].0).collect()).collect();
    let at_least = if replicas >= rack_count { ONE } else { 0 };
    let at_most = if replicas <= rack_count { ONE } else { u128::MAX };
    let level = level_below(replicas as u128 * ONE, |level| {
        weights.iter().map(|rack| filled(rack, level).clamp(at_least, at_most)).sum()
    });
    let mut fractions = vec![0; nodes.len()];
    for (members, weights) in racks.iter().zip(&weights) {
        let sum = filled(weights, level);
        let level = if sum < at_least || sum > at_most {
            level_below(ONE, |level| filled(weights, level))
        } else {
            level
        };
        for (&node, &weight) in members.iter().zip(weights) {
            fractions[node] = carried(weight, level);
        }
    }
    fractions
}

/// The highest level whose sum is at most `target`; `sum` never falls when the level rises.
///
/// At a level of one replica per hundredth of weight every node is full, so none is higher.
fn level_below(target: u128, sum: impl Fn(u128) -> u128) -> u128 {
    let (mut low, mut high) = (0, ONE << LEVEL_BITS);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if sum(middle) <= target {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    low
}

fn carried(weight: Weight, level: u128) -> u128 {
    ((level * u128::from(weight.hundredths())) >> LEVEL_BITS).min(ONE)
}

fn filled(weights: &[Weight], level: u128) -> u128 {
    weights.iter().map(|&weight| carried(weight, level)).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn weight(hundredths: u32) -> Weight {
        Weight::new(hundredths).unwrap()
    }

    /// Without racks, in exact fractions: whoever would get more than one whole replica of each
    /// partition gets one, and the rest is divided among the others. Returns (numerator,
    /// denominator) per node.
    fn naive(weights: &[u32], replicas: u128) -> Vec<(u128, u128)> {
        let mut full = vec![false; weights.len()];
        loop {
            let left = replicas - full.iter().filter(|&&f| f).count() as u128;
            let free: u128 =
                weights.iter().zip(&full).filter(|(_, f)| !**f).map(|(&w, _)| u128::from(w)).sum();
            let over: Vec<usize> = (0..weights.len())
                .filter(|&n| !full[n] && left * u128::from(weights[n]) > free)
                .collect();
            if over.is_empty() {
                let share = |(&w, &f): (&u32, &bool)| {
                    if f { (1, 1) } else { (left * u128::from(w), free) }
                };
                return weights.iter().zip(&full).map(share).collect();
            }
            for node in over {
                full[node] = true;
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

        #[test]
        fn bounds_equal_exact_fractions(
            weights in prop::collection::vec(1_u32..=1000, 1..20),
            replicas in 1_usize..6,
            partitions in 1_u32..20_000,
            percent in 1_u32..200,
        ) {
            let replicas = replicas.min(weights.len());
            let nodes: Vec<_> = weights.iter().zip(0..).map(|(&w, rack)| (weight(w), rack)).collect();
            let shares = fair_shares(&nodes, &[Class { replicas, partitions }]);
            for (share, (above, below)) in
                shares.replicas.iter().zip(naive(&weights, replicas as u128))
            {
                let (above, below) = (above * u128::from(partitions * percent), below * 100);
                let part = share.percent(percent);
                prop_assert_eq!(u128::from(part.ceil()), above.div_ceil(below));
                prop_assert_eq!(u128::from(part.floor()), above / below);
            }
        }

        #[test]
        fn shares_keep_the_rules_of_racks(
            nodes in prop::collection::vec((1_u32..=1000, 0_u16..6), 1..25),
            replicas in 1_usize..6,
        ) {
            let replicas = replicas.min(nodes.len());
            let mut names: Vec<u16> = nodes.iter().map(|n| n.1).collect();
            names.sort_unstable();
            names.dedup();
            let nodes: Vec<_> = nodes.iter()
                .map(|&(w, rack)| (weight(w), names.binary_search(&rack).unwrap() as u16)).collect();
            let shares = fractions(&nodes, replicas);
            let near = |a: u128, b: u128| a.abs_diff(b) < TOLERANCE;
            prop_assert!(near(shares.iter().sum(), replicas as u128 * ONE));
            prop_assert!(shares.iter().all(|&share| share <= ONE));
            for rack in 0..names.len() {
                let members = || (0..nodes.len()).filter(|&n| usize::from(nodes[n].1) == rack);
                let sum: u128 = members().map(|n| shares[n]).sum();
                if replicas <= names.len() {
                    prop_assert!(sum <= ONE + TOLERANCE);
                }
                if replicas >= names.len() {
                    prop_assert!(sum >= ONE - TOLERANCE);
                }
                // In one rack more weight never means less, and equal weight means equal share.
                for (a, b) in members().flat_map(|a| members().map(move |b| (a, b))) {
                    if nodes[a].0 >= nodes[b].0 {
                        prop_assert!(shares[a] >= shares[b]);
                    }
                }
            }
        }
    }

    #[test]
    fn a_lone_node_of_a_needed_rack_carries_every_partition() {
        let nodes: Vec<_> = [0, 1, 1, 1].map(|rack| (weight(100), rack)).into();
        let shares = fair_shares(&nodes, &[Class { replicas: 2, partitions: 30 }]);
        let ceil: Vec<u32> = shares.replicas.iter().map(|s| s.ceil()).collect();
        assert_eq!(ceil, [30, 10, 10, 10]);
    }

    #[test]
    fn classes_add_up() {
        let nodes: Vec<_> = (0..4).map(|rack| (weight(100), rack)).collect();
        let classes = [Class { replicas: 1, partitions: 2 }, Class { replicas: 3, partitions: 2 }];
        let shares = fair_shares(&nodes, &classes);
        assert_eq!(shares.replicas[0].floor(), 2);
        assert_eq!(shares.replicas[0].ceil(), 2);
        assert_eq!(shares.leaders[0].ceil(), 1);
    }
}

//! Plans carried out by a driver that forgets everything now and then.

use std::collections::{BTreeMap, BTreeSet};
use std::num::{NonZeroU32, NonZeroU64};

use plimsoll_placement::{
    Actual, ByteBudget, CatchUp, InProgress, MoveLimits, Placement, Plan, Step, extend, members_of,
    next_moves, rebalance,
};
use plimsoll_protocol::ids::NodeId;
use proptest::prelude::*;

use crate::clusters::{Cluster, Draw, clusters};

const BYTES_PER_COPY: u64 = 3_000;

/// A cluster that carries out steps, in rounds of 100 ms.
struct World {
    actual: Actual,
    wanted: Placement,
    healthy: BTreeSet<NodeId>,
    limits: MoveLimits,
    in_progress: InProgress,
    budget: ByteBudget,
    now_ms: u64,
    copies: usize,
}

impl World {
    fn new(in_force: &Placement, wanted: Placement, healthy: BTreeSet<NodeId>) -> Self {
        let limits = MoveLimits {
            copies_max: NonZeroU32::new(5).unwrap(),
            copies_per_node_max: NonZeroU32::new(2).unwrap(),
            bytes_per_second: NonZeroU64::new(20_000),
        };
        let mut actual = members_of(in_force);
        for members in actual.values_mut() {
            // Raft has chosen another leader where the preferred one is down.
            members.leader = members.voters.intersection(&healthy).next().copied();
        }
        let budget = ByteBudget::full(&limits, 0);
        let (in_progress, now_ms, copies) = (InProgress::new(), 0, 0);
        Self { actual, wanted, healthy, limits, in_progress, budget, now_ms, copies }
    }

    fn plan(&self) -> Plan {
        Plan::new(&self.actual, &self.wanted, &self.healthy, |_| BYTES_PER_COPY)
    }

    /// Schedules, and checks what was scheduled; whether anything goes on.
    fn schedule(&mut self) -> bool {
        let plan = self.plan();
        let scheduled = next_moves(
            &plan,
            &self.actual,
            &self.in_progress,
            &self.healthy,
            &self.limits,
            &mut self.budget,
            self.now_ms,
        );
        assert_eq!(scheduled.refused, [], "nothing here is a danger");
        for (group, step) in scheduled.steps {
            let other = self.in_progress.insert(group, step);
            assert_eq!(other, None, "two steps of group {group} at once");
        }
        self.check_limits();
        !plan.is_empty()
    }

    fn check_limits(&self) {
        let mut receiving: BTreeMap<NodeId, u32> = BTreeMap::new();
        for (group, members) in &self.actual {
            let asked = self.in_progress.get(group).and_then(|step| match step {
                Step::AddLearner(node) => Some(*node),
                _ => None,
            });
            let copying: BTreeSet<NodeId> = members.learners.keys().copied().chain(asked).collect();
            for node in copying {
                *receiving.entry(node).or_default() += 1;
            }
        }
        assert!(receiving.values().sum::<u32>() <= 5, "too many copies: {receiving:?}");
        assert!(receiving.values().all(|&count| count <= 2), "too many to a node: {receiving:?}");
    }

    /// Lets the outcome of some of the steps in progress show, and checks each partition.
    fn advance(&mut self, mut choose: impl FnMut() -> bool) {
        for (group, step) in std::mem::take(&mut self.in_progress) {
            let members = self.actual.get_mut(&group).unwrap();
            if !choose() {
                self.in_progress.insert(group, step);
                continue;
            }
            let healthy = members.voters.intersection(&self.healthy).count();
            let replicas = self.wanted.replicas(group).len();
            self.copies += usize::from(matches!(step, Step::AddLearner(_)));
            if let Step::RemoveVoter(node) = step {
                assert_ne!(members.leader, Some(node), "a leader hands over before it goes");
            }
            members.take(step);
            let after = members.voters.intersection(&self.healthy).count();
            assert!(after >= healthy.min(replicas), "group {group}: {healthy} fell to {after}");
            assert!(after > members.voters.len() / 2, "group {group} lost its quorum");
            assert!(members.voters.len() <= replicas.max(healthy) + 1, "{members:?}");
        }
        for members in self.actual.values_mut() {
            for state in members.learners.values_mut() {
                if choose() {
                    *state = CatchUp::CaughtUp;
                }
            }
        }
        self.now_ms += 100;
    }

    /// The driver dies: its memory is gone, and of its steps some still happen.
    fn crash(&mut self, choose: impl FnMut() -> bool) {
        self.advance(choose);
        self.in_progress.clear();
        self.budget = ByteBudget::full(&self.limits, self.now_ms);
    }
}

const SMALL: Draw = Draw {
    nodes: (4, 12),
    partitions_max: 150,
    weights: (50, 300),
    racks: true,
    mixed_replicas: false,
    slack_percent: (15, 15),
};

/// Bits that repeat: chooses in a way that shrinks.
fn chooser(bits: Vec<bool>) -> impl FnMut() -> bool {
    let mut rounds = bits.into_iter().cycle();
    // Now and then yes whatever the bits say, so that each run ends; not in step with the rounds,
    // or one partition could be passed over for ever.
    let mut count = 0_u64;
    move || {
        count += 1;
        let scattered = count.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29) ^ count;
        let forced = scattered.wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 62 == 0;
        rounds.next().unwrap_or(true) || forced
    }
}

/// Drives until nothing is left; crashes in the given rounds.
fn drive(mut world: World, bits: Vec<bool>, crashes: &BTreeSet<u32>) -> World {
    let mut choose = chooser(bits);
    let copies = world.plan().copied_replicas();
    let mut round = 0;
    while world.schedule() {
        if crashes.contains(&round) {
            world.crash(&mut choose);
        } else {
            world.advance(&mut choose);
        }
        round += 1;
        assert!(round < 20_000, "no end: {:?}", world.plan());
    }
    assert_eq!(world.copies, copies, "each replica is copied once, crash or not");
    let most = 20_000 * (world.now_ms / 1000 + 2 + crashes.len() as u64) + BYTES_PER_COPY;
    assert!(copies as u64 * BYTES_PER_COPY <= most, "{copies} copies in {} ms", world.now_ms);
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 80, ..ProptestConfig::default() })]

    #[test]
    fn a_drain_ends_at_the_wanted_place(
        cluster in clusters(SMALL),
        bits in prop::collection::vec(any::<bool>(), 1..50),
        crashes in prop::collection::btree_set(0_u32..60, 0..8),
    ) {
        let Cluster { mut nodes, partitions, options } = cluster;
        let in_force = extend(&Placement::new(), &nodes, &partitions, &options).unwrap();
        nodes[0].draining = true;
        let wanted = rebalance(&in_force, &nodes, &partitions, &options).unwrap();
        // A draining node is up: it gives its copies away and votes until then.
        let healthy = nodes.iter().map(|node| node.id).collect();
        let world = drive(World::new(&in_force, wanted.clone(), healthy), bits, &crashes);
        prop_assert_eq!(world.actual, members_of(&wanted));
    }

    #[test]
    fn a_dead_node_is_replaced_and_nobody_else_goes_first(
        cluster in clusters(Draw { nodes: (5, 12), ..SMALL }),
        bits in prop::collection::vec(any::<bool>(), 1..50),
        crashes in prop::collection::btree_set(0_u32..60, 0..8),
    ) {
        let Cluster { mut nodes, mut partitions, options } = cluster;
        // With fewer than three replicas a dead node takes the quorum with it.
        for spec in &mut partitions {
            spec.replicas = spec.replicas.clamp(3, 4);
        }
        let in_force = extend(&Placement::new(), &nodes, &partitions, &options).unwrap();
        nodes.remove(0);
        let wanted = rebalance(&in_force, &nodes, &partitions, &options).unwrap();
        let healthy = nodes.iter().map(|node| node.id).collect();
        let world = drive(World::new(&in_force, wanted.clone(), healthy), bits, &crashes);
        prop_assert_eq!(world.actual, members_of(&wanted));
    }

    #[test]
    fn a_change_of_mind_half_way_ends_at_the_new_place(
        cluster in clusters(SMALL),
        bits in prop::collection::vec(any::<bool>(), 1..50),
        rounds in 0_u32..30,
    ) {
        let Cluster { nodes, partitions, options } = cluster;
        let in_force = extend(&Placement::new(), &nodes, &partitions, &options).unwrap();
        let mut drained = nodes.clone();
        drained[0].draining = true;
        let wanted = rebalance(&in_force, &drained, &partitions, &options).unwrap();
        let healthy = nodes.iter().map(|node| node.id).collect();
        let mut world = World::new(&in_force, wanted, healthy);
        let mut choose = chooser(bits);
        for _ in 0..rounds {
            world.schedule();
            world.advance(&mut choose);
        }
        // Back to where it was: what has been copied in vain is given up.
        world.wanted = in_force.clone();
        for _ in 0..20_000 {
            if !world.schedule() {
                break;
            }
            world.advance(&mut choose);
        }
        prop_assert_eq!(world.actual, members_of(&in_force));
    }
}

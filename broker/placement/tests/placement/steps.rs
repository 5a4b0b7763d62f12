//! Single partitions, step by step, and what is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::num::{NonZeroU32, NonZeroU64};

use plimsoll_placement::{
    Actual, ByteBudget, CatchUp, InProgress, Members, MoveLimits, Next, Placement, Plan,
    RemovalLosesQuorum, Step, StepRefused, Wait, check_removal, next_moves, next_step,
};
use plimsoll_protocol::ids::{GroupId, NodeId};

const GROUP: GroupId = GroupId(9);

fn ids(numbers: &[u64]) -> Vec<NodeId> {
    numbers.iter().copied().map(NodeId).collect()
}

fn set(numbers: &[u64]) -> BTreeSet<NodeId> {
    ids(numbers).into_iter().collect()
}

fn members(voters: &[u64], leader: u64) -> Members {
    Members::of_voters(ids(voters), Some(NodeId(leader)))
}

fn next(members: &Members, wanted: &[u64], healthy: &[u64]) -> Next {
    next_step(GROUP, members, &ids(wanted), &set(healthy))
}

#[test]
fn a_replacement_brings_in_then_hands_over_then_takes_out() {
    let start = members(&[1, 2, 3], 3);
    let actual = Actual::from([(GROUP, start.clone())]);
    let wanted = Placement::from_iter([(GROUP, ids(&[2, 1, 4]))]);
    let plan = Plan::new(&actual, &wanted, &set(&[1, 2, 3, 4]), |_| 50);
    let [one] = plan.moves() else { panic!("one move: {plan:?}") };
    assert_eq!((one.add.clone(), one.remove.clone(), one.bytes()), (ids(&[4]), ids(&[3]), 50));
    let expected = [
        Step::AddLearner(NodeId(4)),
        Step::Promote(NodeId(4)),
        Step::TransferLeader(NodeId(2)),
        Step::RemoveVoter(NodeId(3)),
    ];
    assert_eq!(one.steps(&start), expected);
    let traffic = plan.traffic();
    assert_eq!((traffic[&NodeId(4)].replicas_in, traffic[&NodeId(4)].bytes_in), (1, 50));
    assert_eq!(traffic[&NodeId(3)].replicas_out, 1);
}

#[test]
fn a_lower_replication_factor_copies_nothing() {
    assert_eq!(
        next(&members(&[1, 2, 3], 1), &[1], &[1, 2, 3]),
        Next::Step(Step::RemoveVoter(NodeId(2)))
    );
}

#[test]
fn two_replacements_are_made_one_after_the_other() {
    let mut now = members(&[1, 2, 3], 1);
    let mut largest = 0;
    let mut steps = 0;
    while let Next::Step(step) = next(&now, &[1, 4, 5], &[1, 2, 3, 4, 5]) {
        now.take(step);
        for state in now.learners.values_mut() {
            *state = CatchUp::CaughtUp;
        }
        largest = largest.max(now.voters.len() + now.learners.len());
        steps += 1;
    }
    assert_eq!((now, largest, steps), (members(&[1, 4, 5], 1), 4, 6));
}

#[test]
fn a_learner_that_copies_is_waited_for() {
    let mut now = members(&[1, 2, 3], 1);
    now.learners.insert(NodeId(4), CatchUp::Copying);
    let wait = Next::Wait(Wait::Copying { learner: NodeId(4) });
    assert_eq!(next(&now, &[1, 2, 4], &[1, 2, 3, 4]), wait);
}

#[test]
fn nothing_is_copied_to_a_node_that_is_down() {
    let wait = Next::Wait(Wait::NodeDown { node: NodeId(4) });
    assert_eq!(next(&members(&[1, 2, 3], 1), &[1, 2, 4], &[1, 2, 3]), wait);
}

#[test]
fn a_learner_that_nobody_wants_goes() {
    let mut now = members(&[1, 2, 3], 1);
    now.learners.insert(NodeId(7), CatchUp::Copying);
    let step = Next::Step(Step::RemoveLearner(NodeId(7)));
    assert_eq!(next(&now, &[1, 2, 3], &[1, 2, 3]), step);
}

#[test]
fn without_a_leader_nothing_is_tried() {
    let now = Members::of_voters(ids(&[1, 2, 3]), None);
    assert_eq!(next(&now, &[1, 2, 4], &[1, 2, 3, 4]), Next::Wait(Wait::NoLeader));
    assert_eq!(next(&now, &[1, 2, 3], &[1, 2, 3]), Next::Done);
}

#[test]
fn leadership_goes_to_the_preferred_leader_when_it_is_up() {
    let now = members(&[1, 2, 3], 1);
    assert_eq!(next(&now, &[2, 1, 3], &[1, 3]), Next::Done);
    assert_eq!(next(&now, &[2, 1, 3], &[1, 2, 3]), Next::Step(Step::TransferLeader(NodeId(2))));
}

#[test]
fn a_group_without_a_quorum_is_not_touched() {
    let refused = StepRefused::NoQuorum { group: GROUP, healthy: 1, quorum: 2 };
    assert_eq!(next(&members(&[1, 2, 3], 1), &[1, 4, 5], &[1, 4, 5]), Next::Refused(refused));
}

#[test]
fn a_removal_that_would_lose_the_quorum_is_refused() {
    // Four voters, one down: taking out one of the healthy leaves 2 of 3, which is a quorum but not
    // the three that it should have; with two wanted it leaves enough.
    let now = members(&[1, 2, 3, 4], 1);
    let refused =
        StepRefused::BelowReplicas { group: GROUP, node: NodeId(3), healthy: 2, replicas: 3 };
    assert_eq!(next(&now, &[1, 2, 4], &[1, 2, 3]), Next::Refused(refused));
    // Three voters, one down, and the healthy one has to go: one of two would be left.
    let refused = StepRefused::LosesQuorum { group: GROUP, node: NodeId(3), healthy: 1, quorum: 2 };
    assert_eq!(next(&members(&[1, 2, 3], 1), &[1, 2], &[1, 3]), Next::Refused(refused));
    assert!(refused.to_string().contains("bring back"), "{refused}");
}

#[test]
fn a_dead_voter_goes_before_a_healthy_one() {
    let step = Next::Step(Step::RemoveVoter(NodeId(3)));
    assert_eq!(next(&members(&[1, 2, 3, 4, 5], 1), &[1, 4, 5], &[1, 2, 4, 5]), step);
}

#[test]
fn a_node_is_given_up_only_when_every_partition_keeps_a_quorum() {
    let actual = Actual::from([
        (GroupId(1), members(&[1, 2, 3], 1)),
        (GroupId(2), members(&[1], 1)),
        (GroupId(3), members(&[1, 4], 1)),
        (GroupId(4), members(&[2, 3, 4], 2)),
    ]);
    let all = set(&[1, 2, 3, 4]);
    assert_eq!(check_removal(NodeId(2), &actual, &all), Ok(()));
    assert_eq!(
        check_removal(NodeId(1), &actual, &all),
        Err(RemovalLosesQuorum {
            node: NodeId(1),
            groups: 2,
            first: GroupId(2),
            healthy: 0,
            quorum: 1
        })
    );
    let refused = check_removal(NodeId(2), &actual, &set(&[1, 2, 4])).unwrap_err();
    assert_eq!((refused.groups, refused.first), (2, GroupId(1)));
}

/// Many partitions that all want one more node.
fn growing(groups: u64, bytes: u64) -> (Plan, Actual) {
    let actual: Actual =
        (1..=groups).map(|group| (GroupId(group), members(&[1, 2], 1 + group % 2))).collect();
    let wanted =
        (1..=groups).map(|group| (GroupId(group), ids(&[1 + group % 2, 2 - group % 2, 3])));
    let plan = Plan::new(&actual, &wanted.collect(), &set(&[1, 2, 3]), |_| bytes);
    (plan, actual)
}

fn limits(all: u32, per_node: u32, rate: Option<u64>) -> MoveLimits {
    MoveLimits {
        copies_max: NonZeroU32::new(all).unwrap(),
        copies_per_node_max: NonZeroU32::new(per_node).unwrap(),
        bytes_per_second: rate.and_then(NonZeroU64::new),
    }
}

#[test]
fn a_node_receives_no_more_copies_than_its_limit() {
    let (plan, actual) = growing(10, 1);
    let limits = limits(8, 3, None);
    let mut budget = ByteBudget::full(&limits, 0);
    let healthy = set(&[1, 2, 3]);
    let mut in_progress = InProgress::new();
    let first = next_moves(&plan, &actual, &in_progress, &healthy, &limits, &mut budget, 0);
    assert_eq!((first.steps.len(), first.waiting, first.retry_at_ms), (3, 7, None));
    in_progress.extend(first.steps);
    let second = next_moves(&plan, &actual, &in_progress, &healthy, &limits, &mut budget, 0);
    assert_eq!(second.steps, []);
}

#[test]
fn the_budget_spreads_copies_over_time() {
    let (plan, actual) = growing(10, 1_500);
    let limits = limits(100, 100, Some(1_000));
    let mut budget = ByteBudget::full(&limits, 5_000);
    let healthy = set(&[1, 2, 3]);
    let mut in_progress = InProgress::new();
    let mut begun_at = BTreeMap::new();
    let mut now_ms = 5_000;
    while in_progress.len() < 10 {
        let scheduled =
            next_moves(&plan, &actual, &in_progress, &healthy, &limits, &mut budget, now_ms);
        begun_at.extend(scheduled.steps.iter().map(|&(group, _)| (group, now_ms)));
        in_progress.extend(scheduled.steps);
        now_ms = scheduled.retry_at_ms.unwrap_or(now_ms);
    }
    // The first finds a full second; each later one waits until the debt of those before is paid.
    let mut times: Vec<u64> = begun_at.into_values().collect();
    times.sort_unstable();
    assert_eq!(times[..4], [5_000, 5_501, 7_001, 8_501]);
}

#[test]
fn a_clock_that_goes_back_gives_no_budget() {
    let (plan, actual) = growing(10, 1_500);
    let limits = limits(100, 100, Some(1_000));
    let mut budget = ByteBudget::full(&limits, 5_000);
    let healthy = set(&[1, 2, 3]);
    let mut in_progress = InProgress::new();
    let first = next_moves(&plan, &actual, &in_progress, &healthy, &limits, &mut budget, 5_000);
    in_progress.extend(first.steps);
    for now_ms in [0, 5_000] {
        let later =
            next_moves(&plan, &actual, &in_progress, &healthy, &limits, &mut budget, now_ms);
        assert_eq!(later.steps, [], "at {now_ms}");
    }
}

#[test]
fn partitions_that_lost_a_voter_come_first() {
    let actual = Actual::from([
        (GroupId(1), members(&[1, 2, 3], 1)),
        (GroupId(2), members(&[1, 2, 9], 1)),
        (GroupId(3), members(&[1, 8, 9], 1)),
    ]);
    let wanted = [1, 2, 3].map(|group| (GroupId(group), ids(&[1, 4, 5])));
    let plan = Plan::new(&actual, &Placement::from_iter(wanted), &set(&[1, 2, 3, 4, 5]), |_| 1);
    let order: Vec<u64> = plan.moves().iter().map(|one| one.group.0).collect();
    assert_eq!(order, [3, 2, 1]);
}

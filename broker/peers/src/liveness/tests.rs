//! The table against a naive twin that keeps all that ever happened and looks through it anew for
//! each question; and the courses of events that the design lists.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use plimsoll_protocol::ids::NodeId;
use plimsoll_protocol::peer::{Alive, Condition};
use proptest::prelude::*;

use super::{LivenessEvent, Own, Table, View};
use crate::config::LivenessConfig;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

const CONFIG: LivenessConfig =
    LivenessConfig { interval: Duration::from_millis(100), timeout: Duration::from_millis(500) };

fn own(incarnation: u64) -> Own {
    Own { incarnation, condition: Condition::Serving, catalog: None, leads_version: 0 }
}

fn table(me: u64) -> Table {
    Table::new(NodeId(me), own(1), CONFIG, ms(0))
}

/// What happened, and when.
#[derive(Debug, Clone)]
enum Happened {
    Tick,
    Heard(NodeId, Alive),
}

/// Answers from the whole history.
#[derive(Debug, Default)]
struct Twin {
    history: Vec<(Duration, Happened)>,
}

impl Twin {
    /// When this process last did not run for long; nothing before counts.
    fn stalls(&self, upto: usize) -> Vec<(usize, Duration)> {
        let mut last = ms(0);
        let mut stalls = Vec::new();
        for (position, (at, what)) in self.history[..upto].iter().enumerate() {
            let late = at.saturating_sub(last) > CONFIG.interval + CONFIG.timeout / 2;
            if late {
                stalls.push((position, *at));
            }
            if late || matches!(what, Happened::Tick) {
                last = *at;
            }
        }
        stalls
    }

    /// The signs of `node` that counted, with their position in the history: of its latest life, each
    /// newer than those before.
    fn signs(&self, node: NodeId, upto: usize) -> Vec<(usize, Duration, &Alive)> {
        let mut signs: Vec<(usize, Duration, &Alive)> = Vec::new();
        let mut life = 0;
        let mut last_seq = None;
        for (position, (at, what)) in self.history[..upto].iter().enumerate() {
            let Happened::Heard(from, alive) = what else { continue };
            if *from != node || alive.incarnation < life {
                continue;
            }
            if alive.incarnation > life {
                life = alive.incarnation;
                last_seq = None;
            }
            if last_seq.is_none_or(|last| alive.seq > last) {
                last_seq = Some(alive.seq);
                signs.push((position, *at, alive));
            }
        }
        signs
    }

    /// Up at the end of the history: walked through step by step.
    fn is_up(&self, node: NodeId) -> bool {
        let stalls = self.stalls(self.history.len());
        let signs = self.signs(node, self.history.len());
        let mut up = false;
        let mut heard_at = ms(0);
        for (position, (at, what)) in self.history.iter().enumerate() {
            if stalls.iter().any(|(stall, _)| *stall == position) {
                heard_at = *at;
            }
            if signs.iter().any(|(sign, ..)| *sign == position) {
                up = true;
                heard_at = *at;
            }
            if matches!(what, Happened::Tick) && *at - heard_at >= CONFIG.timeout {
                up = false;
            }
        }
        up
    }

    /// Whether a sign of ours that was sent less than a timeout ago, and since the last stall, was
    /// echoed by the node's present life.
    fn is_reached(&self, node: NodeId) -> bool {
        let Some((now, _)) = self.history.last() else { return false };
        let signs = self.signs(node, self.history.len());
        let life = signs.last().map_or(0, |(.., alive)| alive.incarnation);
        let stall = self.stalls(self.history.len()).last().map(|(position, _)| *position);
        // Number and time of each of our signs, and the position from which on it existed.
        let mut sent = BTreeMap::new();
        for (position, (at, what)) in self.history.iter().enumerate() {
            if matches!(what, Happened::Tick) {
                sent.insert(sent.len() as u64 + 1, (position, *at));
            }
        }
        let proves = |position: usize, alive: &Alive| {
            let Some((sent_position, at)) = sent.get(&alive.echo) else { return false };
            alive.incarnation == life
                && *sent_position < position
                && stall.is_none_or(|stall| *sent_position >= stall)
                && *now - *at < CONFIG.timeout
        };
        self.is_up(node) && signs.iter().any(|(position, _, alive)| proves(*position, alive))
    }
}

#[derive(Debug, Clone)]
enum Step {
    Pass(u64),
    Tick,
    /// From this node; echo so far behind our last sign; as a later life where the last is set.
    Heard {
        from: u64,
        echo_behind: u64,
        reach: Vec<u64>,
        restart: bool,
        stale: bool,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let heard = (
        2..5u64,
        0..8u64,
        prop::collection::vec(1..5u64, 0..3),
        prop::bool::weighted(0.03),
        prop::bool::weighted(0.1),
    )
        .prop_map(|(from, echo_behind, reach, restart, stale)| Step::Heard {
            from,
            echo_behind,
            reach,
            restart,
            stale,
        });
    let step = prop_oneof![
        2 => (1..60u64).prop_map(Step::Pass),
        1 => prop_oneof![Just(200), Just(349), Just(351), Just(499), Just(500), Just(2000)]
            .prop_map(Step::Pass),
        6 => Just(Step::Tick),
        6 => heard,
    ];
    prop::collection::vec(step, 0..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_table_agrees_with_its_twin(steps in steps()) {
        let mut table = table(1);
        let mut twin = Twin::default();
        let mut now = ms(0);
        let mut ticks = 0;
        let mut lives: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
        let mut shown = table.view();
        // What the events alone say.
        let mut told_up = BTreeSet::new();
        for step in steps {
            let events = match step {
                Step::Pass(time) => {
                    now += ms(time);
                    continue;
                }
                Step::Tick => {
                    now += ms(100);
                    ticks += 1;
                    twin.history.push((now, Happened::Tick));
                    let (events, signs) = table.tick(now);
                    for (_, sign) in signs {
                        prop_assert_eq!(sign.seq, ticks);
                    }
                    events
                }
                Step::Heard { from, echo_behind, reach, restart, stale } => {
                    now += ms(1);
                    let (incarnation, seq) = lives.entry(from).or_insert((1, 0));
                    if restart {
                        (*incarnation, *seq) = (*incarnation + 1, 0);
                    }
                    *seq += 1;
                    let (mut incarnation, mut seq) = (*incarnation, *seq);
                    if stale && incarnation > 1 {
                        incarnation -= 1;
                    } else if stale {
                        seq = seq.saturating_sub(1);
                    }
                    let alive = Alive {
                        incarnation,
                        seq,
                        echo: u64::saturating_sub(ticks, echo_behind),
                        echo_age_us: 0,
                        reach: reach.into_iter().map(NodeId).collect(),
                        catalog: None,
                        condition: Condition::Serving,
                        leads_version: 0,
                    };
                    let from = NodeId(from);
                    twin.history.push((now, Happened::Heard(from, alive.clone())));
                    table.heard(now, from, &alive)
                }
            };
            for event in events {
                match event {
                    LivenessEvent::Up(node) => prop_assert!(told_up.insert(node)),
                    LivenessEvent::Down(node) => prop_assert!(told_up.remove(&node)),
                    _ => {}
                }
            }
            for node in (2..5).map(NodeId) {
                prop_assert_eq!(table.hears(node), twin.is_up(node), "hears {}", node);
                prop_assert_eq!(told_up.contains(&node), table.hears(node));
                prop_assert_eq!(table.reaches(node), twin.is_reached(node), "reaches {}", node);
            }
            // Whoever looks only when told to has seen everything.
            if table.take_changed() {
                shown = table.view();
            }
            prop_assert_eq!(&shown, &table.view());
        }
    }

    #[test]
    fn a_shield_is_a_majority_of_each_configuration(
        reach in prop::collection::btree_set(1..7u64, 0..6),
        heard: bool,
        configs in prop::collection::vec(prop::collection::btree_set(1..7u64, 1..6), 1..3),
    ) {
        let nodes = |ids: &BTreeSet<u64>| ids.iter().copied().map(NodeId).collect::<BTreeSet<_>>();
        let mut view = View::alone(NodeId(9));
        if heard {
            view.up.insert(NodeId(1));
        }
        view.reach.insert(NodeId(1), nodes(&reach));
        let configs: Vec<_> = configs.iter().map(nodes).collect();
        let majority = configs.iter().all(|config| {
            let with = config.iter().filter(|n| n.0 == 1 || reach.contains(&n.0)).count();
            let without = config.len() - with;
            with > without
        });
        prop_assert_eq!(view.shields(NodeId(1), &configs), heard && majority);
    }
}

/// Tables that exchange signs, with links that can be cut one way each.
struct Cluster {
    tables: BTreeMap<u64, Table>,
    now: Duration,
    cut: BTreeSet<(u64, u64)>,
    paused: BTreeSet<u64>,
}

impl Cluster {
    fn new(count: u64) -> Cluster {
        let mut tables: BTreeMap<_, _> = (1..=count).map(|id| (id, table(id))).collect();
        for (id, table) in &mut tables {
            (1..=count).filter(|other| other != id).for_each(|other| table.add(NodeId(other)));
        }
        Cluster { tables, now: ms(0), cut: BTreeSet::new(), paused: BTreeSet::new() }
    }

    fn run(&mut self, time: u64) -> Vec<(u64, LivenessEvent)> {
        let mut all = Vec::new();
        for _ in 0..time / 100 {
            self.now += ms(100);
            let ids: Vec<_> = self.tables.keys().copied().collect();
            for id in ids.into_iter().filter(|id| !self.paused.contains(id)) {
                let table = self.tables.get_mut(&id).unwrap();
                let (events, signs) = table.tick(self.now);
                all.extend(events.into_iter().map(|event| (id, event)));
                for (to, sign) in signs {
                    if self.cut.contains(&(id, to.0)) || self.paused.contains(&to.0) {
                        continue;
                    }
                    let heard = self.tables.get_mut(&to.0).unwrap();
                    let events = heard.heard(self.now, NodeId(id), &sign);
                    all.extend(events.into_iter().map(|event| (to.0, event)));
                }
            }
        }
        all
    }

    fn shields(&self, at: u64, leader: u64, voters: &[u64]) -> bool {
        let config: BTreeSet<_> = voters.iter().copied().map(NodeId).collect();
        self.tables[&at].view().shields(NodeId(leader), &[config])
    }
}

#[test]
fn nodes_that_exchange_signs_reach_each_other() {
    let mut cluster = Cluster::new(3);
    cluster.run(500);
    for (id, table) in &cluster.tables {
        for other in 1..=3 {
            assert!(table.hears(NodeId(other)) && table.reaches(NodeId(other)), "{id} {other}");
        }
        assert!(table.round_trip(NodeId(id % 3 + 1)).is_some_and(|time| time <= ms(200)));
    }
}

#[test]
fn a_node_that_falls_silent_is_down_within_a_timeout_and_an_interval() {
    let mut cluster = Cluster::new(3);
    cluster.run(1000);
    cluster.paused.insert(1);
    let events = cluster.run(400);
    assert!(!events.iter().any(|(_, event)| *event == LivenessEvent::Down(NodeId(1))));
    let events = cluster.run(200);
    for at in [2, 3] {
        assert!(events.contains(&(at, LivenessEvent::Down(NodeId(1)))));
    }
    assert!(!cluster.shields(2, 1, &[1, 2, 3]));
}

#[test]
fn a_process_that_was_stopped_suspects_nobody_and_claims_nothing() {
    let mut cluster = Cluster::new(3);
    cluster.run(1000);
    cluster.paused.insert(1);
    cluster.run(3000);
    cluster.paused.remove(&1);
    let (events, signs) = cluster.tables.get_mut(&1).unwrap().tick(cluster.now + ms(50));
    assert_eq!(events[0], LivenessEvent::SelfStalled(ms(3050)));
    assert!(!events.iter().any(|event| matches!(event, LivenessEvent::Down(_))));
    assert!(signs.iter().all(|(_, sign)| sign.reach == [NodeId(1)]), "{signs:?}");
    cluster.run(500);
    assert!(cluster.tables[&1].reaches(NodeId(2)));
}

#[test]
fn a_direction_that_is_lost_is_noticed_at_both_ends() {
    let mut cluster = Cluster::new(3);
    cluster.run(1000);
    cluster.cut.insert((1, 2));
    cluster.run(700);
    assert!(!cluster.tables[&2].hears(NodeId(1)));
    assert!(cluster.tables[&1].hears(NodeId(2)));
    assert!(!cluster.tables[&1].reaches(NodeId(2)));
}

#[test]
fn a_leader_with_a_majority_is_shielded_by_the_node_between() {
    // A leads, A-C is cut, B sees both: C's vote finds a shield at B.
    let mut cluster = Cluster::new(3);
    cluster.cut.extend([(1, 3), (3, 1)]);
    cluster.run(1000);
    assert!(cluster.shields(2, 1, &[1, 2, 3]));
    assert!(!cluster.shields(3, 1, &[1, 2, 3]), "C does not hear A");
}

#[test]
fn a_leader_that_reaches_a_bridge_alone_is_not_shielded() {
    // Five voters: A only sees B; B, C, D see each other; E is alone.
    let mut cluster = Cluster::new(5);
    for (left, right) in [(1, 3), (1, 4), (1, 5), (2, 5), (3, 5), (4, 5)] {
        cluster.cut.extend([(left, right), (right, left)]);
    }
    cluster.run(1000);
    assert!(cluster.tables[&2].hears(NodeId(1)));
    assert!(!cluster.shields(2, 1, &[1, 2, 3, 4, 5]));
    let all: BTreeSet<_> = (1..=5).map(NodeId).collect();
    assert!(cluster.tables[&3].view().reaches_majority(std::slice::from_ref(&all)));
    assert!(!cluster.tables[&1].view().reaches_majority(&[all]));
}

#[test]
fn a_later_life_is_told_once_and_begins_anew() {
    let mut cluster = Cluster::new(2);
    cluster.run(1000);
    let mut later = Table::new(NodeId(2), own(2), CONFIG, cluster.now);
    later.add(NodeId(1));
    cluster.tables.insert(2, later);
    // The link tells before the first sign does.
    let events = cluster.tables.get_mut(&1).unwrap().linked(NodeId(2), 2);
    assert_eq!(events, [LivenessEvent::Restarted(NodeId(2))]);
    let events = cluster.run(300);
    let again = events.iter().filter(|(_, event)| *event == LivenessEvent::Restarted(NodeId(2)));
    assert_eq!(again.count(), 0);
    assert!(cluster.tables[&1].hears(NodeId(2)), "it was never silent for long");
}

#[test]
fn a_forgotten_node_is_down_and_no_longer_reached() {
    let mut cluster = Cluster::new(2);
    cluster.run(1000);
    let now = cluster.now;
    let table = cluster.tables.get_mut(&1).unwrap();
    let events = table.remove(now, NodeId(2));
    assert!(events.contains(&LivenessEvent::Down(NodeId(2))));
    assert!(!table.hears(NodeId(2)) && !table.reaches(NodeId(2)));
    assert!(table.take_changed());
    assert_eq!(table.view(), View::alone(NodeId(1)));
}

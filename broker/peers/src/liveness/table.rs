//! The rules of who is alive, pure: time is an argument, and what is to be sent is a result.
//!
//! Every node sends a sign of life to every other at each interval, with whom it reaches and an echo:
//! the last sign that it has received from that node. Call [`Table::heard`] for each sign that
//! arrives and [`Table::tick`] at each interval; publish [`Table::view`] when
//! [`Table::take_changed`] says so.
//!
//! Rules, with `T` the timeout:
//! - a node is *up* from a sign of life until it was silent for `T`;
//! - a node is *reached* while it is up and its echo proves that it has received a sign that was sent
//!   less than `T` ago;
//! - when this process did not run for long ([`LivenessEvent::SelfStalled`]), every node that was up
//!   counts as heard just now, and no echo of before proves anything: a process that was stopped
//!   suspects nobody and claims nothing until it knows better.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use plimsoll_protocol::ids::{LogId, NodeId};
use plimsoll_protocol::peer::{Alive, Condition};

use super::view::{LivenessEvent, View};
use crate::config::LivenessConfig;

/// What a node says of itself with each sign of life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Own {
    /// Which start of its data directory it is.
    pub incarnation: u64,
    /// Whether it takes on work.
    pub condition: Condition,
    /// How far its copy of the catalog is applied.
    pub catalog: Option<LogId>,
    /// Counts the changes of what it leads.
    pub leads_version: u64,
}

/// Who is alive, as one node believes.
#[derive(Debug)]
pub struct Table {
    me: NodeId,
    config: LivenessConfig,
    own: Own,
    /// Of the last sign that was sent; counts from 1.
    seq: u64,
    /// When signs were sent whose echo would still prove something.
    sent: VecDeque<(u64, Duration)>,
    last_tick: Duration,
    others: BTreeMap<NodeId, Other>,
    reach: BTreeSet<NodeId>,
    changed: bool,
}

#[derive(Debug, Default)]
struct Other {
    /// Of its present life; 0 before it was met.
    incarnation: u64,
    up: bool,
    heard_at: Duration,
    /// The last sign of its present life.
    said: Option<Alive>,
    /// When the newest of our signs was sent that it is known to have received.
    proven_at: Option<Duration>,
    round_trip: Option<Duration>,
}

impl Table {
    /// A node that has heard nobody, at `now`.
    #[must_use]
    pub fn new(me: NodeId, own: Own, config: LivenessConfig, now: Duration) -> Self {
        Self {
            me,
            config,
            own,
            seq: 0,
            sent: VecDeque::new(),
            last_tick: now,
            others: BTreeMap::new(),
            reach: BTreeSet::from([me]),
            changed: false,
        }
    }

    /// What this node says of itself from the next tick on.
    pub fn own_mut(&mut self) -> &mut Own {
        &mut self.own
    }

    /// Sends signs to `node` from the next tick on.
    pub fn add(&mut self, node: NodeId) {
        if node != self.me {
            self.others.entry(node).or_default();
        }
    }

    /// Forgets `node`; signs from it make it known again.
    pub fn remove(&mut self, now: Duration, node: NodeId) -> Vec<LivenessEvent> {
        let mut events = Vec::new();
        if let Some(other) = self.others.remove(&node)
            && other.up
        {
            self.changed = true;
            events.push(LivenessEvent::Down(node));
        }
        self.update_reach(now, &mut events);
        events
    }

    /// A link to `node` came about, in this life of it. It is up only once it is heard.
    pub fn linked(&mut self, node: NodeId, incarnation: u64) -> Vec<LivenessEvent> {
        let mut events = Vec::new();
        self.add(node);
        self.meet(node, incarnation, &mut events);
        events
    }

    /// A sign of life has come. One of an earlier life, or out of order, says nothing.
    pub fn heard(&mut self, now: Duration, from: NodeId, alive: &Alive) -> Vec<LivenessEvent> {
        let mut events = Vec::new();
        if from == self.me {
            return events;
        }
        self.note_stall(now, &mut events);
        self.add(from);
        self.meet(from, alive.incarnation, &mut events);
        self.take(now, from, alive, &mut events);
        self.update_reach(now, &mut events);
        events
    }

    fn take(
        &mut self,
        now: Duration,
        from: NodeId,
        alive: &Alive,
        events: &mut Vec<LivenessEvent>,
    ) {
        let sent_at = self.sent.iter().find(|(seq, _)| *seq == alive.echo).map(|(_, at)| *at);
        let Some(other) = self.others.get_mut(&from) else { return };
        let before = other.said.as_ref();
        if alive.incarnation < other.incarnation
            || before.is_some_and(|before| alive.seq <= before.seq)
        {
            return;
        }
        let reach_changed = before.map(|before| &before.reach) != Some(&alive.reach);
        self.changed |= reach_changed || before.map(|said| said.condition) != Some(alive.condition);
        other.said = Some(alive.clone());
        other.heard_at = now;
        if let Some(sent_at) = sent_at {
            other.proven_at = other.proven_at.max(Some(sent_at));
            let age = Duration::from_micros(u64::from(alive.echo_age_us));
            other.round_trip = Some(now.saturating_sub(sent_at).saturating_sub(age));
        }
        if !other.up {
            other.up = true;
            self.changed = true;
            events.push(LivenessEvent::Up(from));
        }
        if reach_changed {
            events.push(LivenessEvent::ReachChanged(from));
        }
    }

    /// An interval has passed: who is silent, and the signs to send.
    pub fn tick(&mut self, now: Duration) -> (Vec<LivenessEvent>, Vec<(NodeId, Alive)>) {
        let mut events = Vec::new();
        self.note_stall(now, &mut events);
        self.last_tick = now;
        for (&node, other) in &mut self.others {
            if other.up && now.saturating_sub(other.heard_at) >= self.config.timeout {
                other.up = false;
                self.changed = true;
                events.push(LivenessEvent::Down(node));
            }
        }
        self.update_reach(now, &mut events);
        self.seq += 1;
        self.sent.push_back((self.seq, now));
        while let Some((_, at)) = self.sent.front()
            && now.saturating_sub(*at) >= self.config.timeout
        {
            self.sent.pop_front();
        }
        let signs = self.others.iter().map(|(&node, other)| (node, self.sign(now, other)));
        (events, signs.collect())
    }

    fn sign(&self, now: Duration, to: &Other) -> Alive {
        let (echo, age) = match &to.said {
            Some(said) => (said.seq, now.saturating_sub(to.heard_at)),
            None => (0, Duration::ZERO),
        };
        Alive {
            incarnation: self.own.incarnation,
            seq: self.seq,
            echo,
            echo_age_us: u32::try_from(age.as_micros()).unwrap_or(u32::MAX),
            reach: self.reach.iter().copied().collect(),
            catalog: self.own.catalog,
            condition: self.own.condition,
            leads_version: self.own.leads_version,
        }
    }

    /// A later life has said nothing yet, and has heard nothing of this node.
    fn meet(&mut self, node: NodeId, incarnation: u64, events: &mut Vec<LivenessEvent>) {
        let Some(other) = self.others.get_mut(&node) else { return };
        if incarnation > other.incarnation {
            if other.incarnation > 0 {
                events.push(LivenessEvent::Restarted(node));
            }
            other.incarnation = incarnation;
            other.said = None;
            other.proven_at = None;
            self.changed = true;
        }
    }

    fn note_stall(&mut self, now: Duration, events: &mut Vec<LivenessEvent>) {
        let pause = now.saturating_sub(self.last_tick);
        if pause <= self.config.interval + self.config.timeout / 2 {
            return;
        }
        self.last_tick = now;
        self.sent.clear();
        for other in self.others.values_mut() {
            other.proven_at = None;
            other.heard_at = now;
        }
        events.push(LivenessEvent::SelfStalled(pause));
        self.update_reach(now, events);
    }

    fn update_reach(&mut self, now: Duration, events: &mut Vec<LivenessEvent>) {
        let timeout = self.config.timeout;
        let reached = |other: &Other| {
            other.up && other.proven_at.is_some_and(|at| now.saturating_sub(at) < timeout)
        };
        let unchanged = self.reach.len()
            == 1 + self.others.values().filter(|other| reached(other)).count()
            && self
                .reach
                .iter()
                .all(|node| *node == self.me || self.others.get(node).is_some_and(reached));
        if unchanged {
            return;
        }
        let reach = self.others.iter().filter(|(_, other)| reached(other)).map(|(node, _)| *node);
        self.reach = reach.chain([self.me]).collect();
        self.changed = true;
        events.push(LivenessEvent::ReachChanged(self.me));
    }

    /// Whether the node is up.
    #[must_use]
    pub fn hears(&self, node: NodeId) -> bool {
        node == self.me || self.others.get(&node).is_some_and(|other| other.up)
    }

    /// Whether the node is reached.
    #[must_use]
    pub fn reaches(&self, node: NodeId) -> bool {
        self.reach.contains(&node)
    }

    /// The last sign of the node's present life, and how long ago it came.
    #[must_use]
    pub fn last_sign(&self, now: Duration, node: NodeId) -> Option<(&Alive, Duration)> {
        let other = self.others.get(&node)?;
        Some((other.said.as_ref()?, now.saturating_sub(other.heard_at)))
    }

    /// Round trip of the last sign of this node that came back from `node`.
    #[must_use]
    pub fn round_trip(&self, node: NodeId) -> Option<Duration> {
        self.others.get(&node)?.round_trip
    }

    /// Whether [`Self::view`] differs from what it was when this was last asked.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// What is believed now.
    #[must_use]
    pub fn view(&self) -> View {
        let mut view = View::alone(self.me);
        view.reach.insert(self.me, self.reach.clone());
        for (&node, other) in self.others.iter().filter(|(_, other)| other.up) {
            view.up.insert(node);
            // A node in a new life has said nothing yet: it reaches nobody and takes on nothing.
            if let Some(said) = &other.said {
                view.reach.insert(node, said.reach.iter().copied().collect());
                view.conditions.insert(node, said.condition);
            }
        }
        view
    }
}

//! What is done to the nodes, and when: drawn from a seed, so that a run's choices can be repeated.
//!
//! Each kind comes once before any comes twice, as cards of a deck that is shuffled anew when it is
//! used up.

use std::fmt;
use std::time::Duration;

use plimsoll_tests::Random;

/// What can be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// `kill -9` of a node, and a start.
    Kill,
    /// `kill -9` of all nodes at once, and a start of each.
    KillAll,
    /// `kill -9` of two of three nodes: nobody has a majority until they are started.
    KillMajority,
    /// SIGTERM to a node, its end in order, and a start.
    Stop,
    /// SIGSTOP and SIGCONT.
    Pause,
    /// Two nodes do not hear each other; the third hears both.
    Cut,
    /// One node does not reach another, which reaches it.
    OneWay,
    /// A node hears no other.
    Isolate,
    /// What a node sends is late.
    Slow,
}

impl Kind {
    /// Those that only need a process.
    pub(crate) const OF_PROCESSES: [Self; 5] =
        [Self::Kill, Self::KillAll, Self::KillMajority, Self::Stop, Self::Pause];
    /// Those that need a network of their own.
    pub(crate) const OF_NETWORKS: [Self; 4] = [Self::Cut, Self::OneWay, Self::Isolate, Self::Slow];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kill => "kill",
            Self::KillAll => "kill all",
            Self::KillMajority => "kill two",
            Self::Stop => "stop",
            Self::Pause => "pause",
            Self::Cut => "cut",
            Self::OneWay => "cut one way",
            Self::Isolate => "isolate",
            Self::Slow => "slow down",
        })
    }
}

/// Whom it hits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// A node by its number.
    Node(usize),
    /// Whoever leads this partition of the first topic then.
    LeaderOf(u32),
}

/// One fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    pub(crate) target: Target,
    /// Which of the others, where another takes part.
    pub(crate) other: usize,
    /// How long it lasts; of a node that ends, how long it stays down.
    pub(crate) lasts: Duration,
    /// Time without fault that follows.
    pub(crate) calm: Duration,
}

/// Faults without end.
#[derive(Debug)]
pub(crate) struct Schedule {
    random: Random,
    kinds: Vec<Kind>,
    deck: Vec<Kind>,
    nodes: u64,
    partitions: u64,
    pause_max: Duration,
}

impl Schedule {
    /// `kinds` are what this machine allows; `pause_max` bounds how long a fault lasts.
    pub(crate) fn new(
        random: Random,
        kinds: Vec<Kind>,
        nodes: usize,
        partitions: u32,
        pause_max: Duration,
    ) -> Self {
        let (nodes, partitions) = (nodes as u64, u64::from(partitions));
        Self { random, kinds, deck: Vec::new(), nodes, partitions, pause_max }
    }

    fn draw(&mut self) -> Kind {
        if self.deck.is_empty() {
            self.deck.clone_from(&self.kinds);
        }
        let at = self.random.within(0..self.deck.len() as u64) as usize;
        self.deck.swap_remove(at)
    }

    fn between(&mut self, low: Duration, high: Duration) -> Duration {
        let milliseconds = |time: Duration| u64::try_from(time.as_millis()).expect("short");
        let span = milliseconds(low)..milliseconds(high).max(milliseconds(low) + 1);
        Duration::from_millis(self.random.within(span))
    }
}

impl Iterator for Schedule {
    type Item = Fault;

    fn next(&mut self) -> Option<Fault> {
        let kind = self.draw();
        // Leaders are what matters most, so they are hit most.
        let target = if self.random.once_in(3) {
            Target::Node(self.random.within(0..self.nodes) as usize)
        } else {
            Target::LeaderOf(self.random.within(0..self.partitions) as u32)
        };
        let low = match kind {
            Kind::Kill | Kind::KillAll | Kind::Stop => Duration::ZERO,
            Kind::Pause => Duration::from_millis(500),
            // Long enough to be noticed.
            Kind::Cut | Kind::OneWay | Kind::Isolate | Kind::KillMajority => Duration::from_secs(1),
            Kind::Slow => Duration::from_secs(2),
        };
        let lasts = self.between(low, self.pause_max);
        let other = self.random.within(0..self.nodes - 1) as usize;
        let calm = self.between(Duration::ZERO, Duration::from_secs(2));
        Some(Fault { kind, target, other, lasts, calm })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn schedule(seed: u64) -> Schedule {
        let kinds = [Kind::OF_PROCESSES.as_slice(), &Kind::OF_NETWORKS].concat();
        Schedule::new(Random::seeded(seed), kinds, 3, 4, Duration::from_secs(10))
    }

    #[test]
    fn a_seed_gives_the_same_faults_again() {
        let faults = |seed| schedule(seed).take(50).collect::<Vec<_>>();
        assert_eq!(faults(7), faults(7));
        assert_ne!(faults(7), faults(8));
    }

    #[test]
    fn every_kind_comes_before_any_comes_twice() {
        let kinds: Vec<_> = schedule(3).take(27).map(|fault| fault.kind).collect();
        for round in kinds.chunks(9) {
            assert_eq!(round.iter().collect::<BTreeSet<_>>().len(), 9, "{round:?}");
        }
    }

    #[test]
    fn faults_last_as_long_as_allowed() {
        for fault in schedule(1).take(200) {
            assert!(fault.lasts <= Duration::from_secs(10), "{fault:?}");
            let low = if fault.kind == Kind::Pause { 500 } else { 0 };
            assert!(fault.lasts >= Duration::from_millis(low), "{fault:?}");
            assert!(fault.other < 2, "one of the two others");
        }
    }
}

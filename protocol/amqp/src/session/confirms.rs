//! Numbers of publishes, and how they are confirmed in few frames: what is settled without a gap is
//! told by one `multiple`, what is settled ahead of others by itself.
//!
//! Invariants: each number is told once, by itself or under a later `multiple`; a `multiple` covers
//! only numbers with the same outcome or told before. A publish in flight costs one byte.
//!
//! Source: RabbitMQ, "Consumer Acknowledgements and Publisher Confirms".

use std::collections::VecDeque;

use super::request::Confirmation;

/// Where a publish stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Waiting,
    Settled(Confirmation),
    /// Settled, and the client knows.
    Told,
}

/// A frame's worth of confirmations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) confirmation: Confirmation,
    pub(crate) number: u64,
    pub(crate) multiple: bool,
}

/// The confirmations of one channel.
#[derive(Debug)]
pub(crate) struct Confirms {
    /// The number of the first in `places`. All before were told.
    first: u64,
    places: VecDeque<Place>,
    /// Settled since the last telling.
    fresh: Vec<u64>,
}

impl Confirms {
    pub(crate) fn new() -> Self {
        Self { first: 1, places: VecDeque::new(), fresh: Vec::new() }
    }

    /// The number of the next publish, which waits from now on.
    pub(crate) fn next(&mut self) -> u64 {
        self.places.push_back(Place::Waiting);
        self.first + self.places.len() as u64 - 1
    }

    /// Whether exactly one was settled since the last telling: the first of those to tell.
    pub(crate) fn has_one_fresh(&self) -> bool {
        self.fresh.len() == 1
    }

    /// Settles a number; false where it does not wait.
    pub(crate) fn settle(&mut self, number: u64, confirmation: Confirmation) -> bool {
        let index = number.checked_sub(self.first).and_then(|index| usize::try_from(index).ok());
        let Some(place) = index.and_then(|index| self.places.get_mut(index)) else { return false };
        if *place != Place::Waiting {
            return false;
        }
        *place = Place::Settled(confirmation);
        self.fresh.push(number);
        true
    }

    /// What is to be told of what was settled since the last call.
    pub(crate) fn tell(&mut self, mut tell: impl FnMut(Told)) {
        if self.fresh.is_empty() {
            return;
        }
        let mut run: Option<(Told, u64)> = None;
        while let Some(&place) = self.places.front() {
            let Place::Settled(confirmation) = place else {
                if place == Place::Waiting {
                    break;
                }
                self.pop();
                continue;
            };
            let number = self.pop();
            match &mut run {
                Some((told, count)) if told.confirmation == confirmation => {
                    told.number = number;
                    *count += 1;
                }
                _ => {
                    if let Some(run) = run {
                        tell(finished(run));
                    }
                    run = Some((Told { confirmation, number, multiple: false }, 1));
                }
            }
        }
        if let Some(run) = run {
            tell(finished(run));
        }
        for number in std::mem::take(&mut self.fresh) {
            let Some(ahead) = number.checked_sub(self.first) else { continue };
            let place = &mut self.places[usize::try_from(ahead).expect("it is in the row")];
            if let Place::Settled(confirmation) = *place {
                *place = Place::Told;
                tell(Told { confirmation, number, multiple: false });
            }
        }
    }

    /// Takes the first place away and gives its number.
    fn pop(&mut self) -> u64 {
        self.places.pop_front();
        self.first += 1;
        self.first - 1
    }
}

fn finished((told, count): (Told, u64)) -> Told {
    Told { multiple: count > 1, ..told }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    use Confirmation::{Refused, Taken};

    #[test]
    fn runs_are_told_at_once_and_others_alone() {
        let mut confirms = Confirms::new();
        assert_eq!((1..=7).map(|_| confirms.next()).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6, 7]);
        let mut told = Vec::new();
        for number in [6, 2, 1, 3] {
            let refused = number == 3;
            let how = if refused { Refused } else { Taken };
            assert!(confirms.settle(number, how) && !confirms.settle(number, how));
        }
        confirms.tell(|t| told.push((t.number, t.multiple, t.confirmation)));
        assert_eq!(told, [(2, true, Taken), (3, false, Refused), (6, false, Taken)]);
        told.clear();
        for number in [4, 5] {
            assert!(confirms.settle(number, Taken));
        }
        confirms.tell(|t| told.push((t.number, t.multiple, t.confirmation)));
        assert_eq!(told, [(5, true, Taken)]);
        assert!(!confirms.settle(8, Taken) && !confirms.settle(0, Taken));
    }

    proptest! {
        /// A client that keeps what is outstanding sees each number settled once, as it was.
        #[test]
        fn client_sees_each_number_once(
            order in Just((1u64..=60).collect::<Vec<_>>()).prop_shuffle(),
            refused in prop::collection::btree_set(1u64..=60, 0..20),
            batches in prop::collection::vec(1usize..12, 60),
        ) {
            let mut confirms = Confirms::new();
            let mut outstanding = BTreeMap::new();
            for _ in 0..60 {
                outstanding.insert(confirms.next(), ());
            }
            let (mut at, mut frames) = (0, 0);
            for batch in batches {
                for number in order.iter().skip(at).take(batch) {
                    let refused = refused.contains(number);
                    let how = if refused { Refused } else { Taken };
                    confirms.settle(*number, how);
                }
                at += batch;
                confirms.tell(|told| {
                    frames += 1;
                    let covered: Vec<_> = if told.multiple {
                        outstanding.range(..=told.number).map(|(number, ())| *number).collect()
                    } else {
                        vec![told.number]
                    };
                    for number in covered {
                        assert!(outstanding.remove(&number).is_some(), "{number} told twice");
                        let was = refused.contains(&number);
                        assert_eq!(was, told.confirmation == Refused);
                    }
                });
            }
            prop_assert!(outstanding.is_empty());
            prop_assert!(confirms.places.is_empty() && frames <= 60);
        }
    }
}

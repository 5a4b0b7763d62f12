//! What placement knows of a node: its id, how much it can carry, where it stands.

use std::fmt;

use plimsoll_protocol::ids::NodeId;
use thiserror::Error;

/// How much of the whole a node takes, in hundredths of an ordinary node.
///
/// Invariant: `1 <= weight <= WEIGHT_MAX`. Twice the weight is twice the virtual nodes and twice the
/// fair share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weight(u32);

/// Largest weight: ten ordinary nodes.
pub const WEIGHT_MAX: u32 = 1000;

/// A number is not a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "a weight of {given} is out of range; use 1 to {WEIGHT_MAX}, where 100 is an ordinary node \
     (drain a node to take everything off it)"
)]
pub struct WeightError {
    /// The number.
    pub given: u32,
}

impl Weight {
    /// An ordinary node.
    pub const ORDINARY: Self = Self(100);

    /// Checks a number of hundredths.
    ///
    /// # Errors
    /// When it is 0 or above [`WEIGHT_MAX`].
    pub fn new(hundredths: u32) -> Result<Self, WeightError> {
        if (1..=WEIGHT_MAX).contains(&hundredths) {
            Ok(Self(hundredths))
        } else {
            Err(WeightError { given: hundredths })
        }
    }

    /// The weight in hundredths of an ordinary node.
    #[must_use]
    pub fn hundredths(self) -> u32 {
        self.0
    }
}

impl Default for Weight {
    fn default() -> Self {
        Self::ORDINARY
    }
}

/// Name of what fails as one: a rack, a zone, a host of virtual machines.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rack(pub String);

impl fmt::Display for Rack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A node as placement sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The node.
    pub id: NodeId,
    /// How much it takes.
    pub weight: Weight,
    /// Where it stands. A node without a rack counts as a rack of its own: nothing is known that it
    /// would share with another.
    pub rack: Option<Rack>,
    /// Whether it gives everything away and takes nothing. The weight is kept for its return.
    pub draining: bool,
}

impl Node {
    /// An ordinary node without a rack.
    #[must_use]
    pub fn new(id: NodeId) -> Self {
        Self { id, weight: Weight::ORDINARY, rack: None, draining: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weight_bounds_are_checked() {
        assert_eq!(Weight::new(0), Err(WeightError { given: 0 }));
        assert_eq!(Weight::new(1001), Err(WeightError { given: 1001 }));
        assert_eq!(Weight::new(1).unwrap().hundredths(), 1);
        assert_eq!(Weight::new(WEIGHT_MAX).unwrap().hundredths(), WEIGHT_MAX);
    }
}

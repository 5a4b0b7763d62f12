//! Which checks judge a run: all of them, but where one is to show by itself what it sees of a planted bug.

use crate::invariants::{Invariant, all};

/// Judges histories of locks: see [`crate::judged`].
pub const LINEARIZABLE_LOCK: &str = "linearizable_lock";
/// Judges histories of keys.
pub const LINEARIZABLE_KEY: &str = "linearizable_key";

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Checks {
    only: Option<String>,
}

impl Checks {
    /// This one alone, by the name that its failures begin with.
    #[must_use]
    pub fn only(name: &str) -> Self {
        Self { only: Some(name.to_owned()) }
    }

    /// Whether this one judges.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.only.as_ref().is_none_or(|only| only == name)
    }

    /// The invariants that judge every step.
    #[must_use]
    pub fn invariants(&self) -> Vec<Box<dyn Invariant>> {
        all().into_iter().filter(|invariant| self.has(invariant.name())).collect()
    }
}

//! What the checker found, for programs and for people.

use std::fmt;

/// What [`check`](crate::check()) found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// There is an order that explains every answer.
    Linearizable,
    /// There is none.
    NotLinearizable(Refutation),
    /// Not known: the search was given up.
    TooHard {
        /// After this many states.
        after: usize,
    },
}

/// How far an order could be found. Prints itself for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refutation {
    /// The longest order that explains its answers; the indexes of its operations in
    /// [`History::operations`](crate::History::operations).
    pub prefix: Vec<usize>,
    /// The operations of which one would have to come next, and none can. Those that are left come
    /// after one of them.
    pub stuck: Vec<usize>,
    /// The state after `prefix`.
    pub state: String,
    /// The last operations of `prefix`.
    pub last: Vec<String>,
    /// The operations of `stuck`.
    pub next: Vec<String>,
}

/// How many operations of a prefix are printed.
pub(crate) const LAST_MAX: usize = 10;

impl Verdict {
    /// Whether an order was found.
    #[must_use]
    pub fn is_linearizable(&self) -> bool {
        matches!(self, Self::Linearizable)
    }

    /// Whether it was shown that there is no order.
    #[must_use]
    pub fn is_refuted(&self) -> bool {
        matches!(self, Self::NotLinearizable(_))
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Linearizable => f.write_str("linearizable"),
            Self::NotLinearizable(refutation) => write!(f, "not linearizable: {refutation}"),
            Self::TooHard { after } => {
                write!(f, "not decided: the search was given up after {after} states")
            }
        }
    }
}

impl fmt::Display for Refutation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "an order was found for {} operations, the last of them:", self.prefix.len())?;
        for operation in &self.last {
            writeln!(f, "    {operation}")?;
        }
        writeln!(f, "  which leaves {}", self.state)?;
        writeln!(f, "  one of these would have to come next, and none can:")?;
        for operation in &self.next {
            writeln!(f, "    {operation}")?;
        }
        Ok(())
    }
}

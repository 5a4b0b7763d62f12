//! What a correct server does, one operation at a time.

use std::fmt::Debug;
use std::hash::Hash;

/// A server that does one thing at a time, for one key.
pub trait Model {
    /// What clients ask for, and what the server does by itself. Equal ones do the same.
    type Op: Debug + Eq;
    /// What clients are told.
    type Ret: Debug;
    /// All that decides the answers to come. Two states that answer alike should be equal: the fewer
    /// there are, the faster is the search.
    type State: Clone + Debug + Eq + Hash;

    /// Before the first operation.
    fn initial(&self) -> Self::State;

    /// The states in which the server may be after `op` took effect in `state` and was answered with
    /// `ret`; none if it cannot be answered so. Without `ret` the answer is not known, and whatever
    /// `op` may do is possible.
    ///
    /// An operation whose answer is not known is also allowed to never take effect: that needs no
    /// state here.
    fn apply(
        &self,
        state: &Self::State,
        op: &Self::Op,
        ret: Option<&Self::Ret>,
    ) -> Vec<Self::State>;

    /// Whether an operation without an answer could take the place of one that was invoked no earlier,
    /// wherever that stands, and the other way round where both stand. So there is no need to try the
    /// later one before the earlier. Equal ones could.
    fn is_alike(&self, earlier: &Self::Op, later: &Self::Op) -> bool {
        earlier == later
    }

    /// Whether an operation that took effect once could take effect any number of times: it never has
    /// an effect again. So a search need not remember whether it did.
    fn is_repeatable(&self, _op: &Self::Op) -> bool {
        false
    }
}

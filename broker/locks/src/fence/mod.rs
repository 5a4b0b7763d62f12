//! Fences: what a partition keeps to refuse a record of somebody who has lost its lock.
//!
//! A write carries a [`Fence`]: a namespace, a lock and the token under which the writer holds it. The
//! partition keeps the highest token seen of each and refuses a lower one, in its fold, on every replica.
//!
//! Order of calls: the gateway asks [`Floors::check`] before it appends. What *rises* it first asks the
//! namespace's leader about (`Locks::token_state`): a token that was never granted would shut out who
//! holds the lock. The fold asks again, because the order of the log counts, and then raises:
//! [`Floors::raise`] for a fenced write, [`Floors::apply`] for a control entry, with which guarded topics
//! are told of a grant before its holder is.
//!
//! Invariant: a floor only rises until it is pruned.

mod entry;
mod snapshot;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use thiserror::Error;

pub use entry::{DOMAIN, FloorChange, FloorEntry};

use crate::ids::{LOCK_NAME_BYTES_MAX, LockName, NamespaceId, Token};

/// Most floors of one partition: of all namespaces, locks and permits.
pub const FLOORS_MAX: usize = 100_000;

/// What a floor is of: a lock's name, or `name#slot` for one permit of a semaphore.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FenceName(Arc<str>);

/// A text is not the name of a fence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "a fence is of a lock by its name, or of one permit of a semaphore by name#slot; \
     this is neither: use what the grant says"
)]
pub struct FenceNameError;

impl FenceName {
    /// Longest text, in bytes: a name, `#` and a slot.
    pub const BYTES_MAX: usize = LOCK_NAME_BYTES_MAX + 11;

    /// Of a lock, or of one permit.
    #[must_use]
    pub fn new(lock: &LockName, slot: Option<u32>) -> Self {
        match slot {
            None => Self(Arc::from(lock.as_str())),
            Some(slot) => Self(Arc::from(format!("{lock}#{slot}"))),
        }
    }

    /// Reads a user's text.
    ///
    /// # Errors
    /// When it is not what [`FenceName::as_str`] gives.
    pub fn parse(text: &str) -> Result<Self, FenceNameError> {
        let (name, slot) = match text.split_once('#') {
            None => (text, None),
            Some((name, slot)) => (name, Some(slot.parse().map_err(|_| FenceNameError)?)),
        };
        let parsed = Self::new(&LockName::new(name).map_err(|_| FenceNameError)?, slot);
        // One text per fence: no `name#007`.
        if parsed.as_str() == text { Ok(parsed) } else { Err(FenceNameError) }
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The lock, and which permit of it.
    #[must_use]
    pub fn parts(&self) -> (LockName, Option<u32>) {
        let (name, slot) = match self.0.split_once('#') {
            None => (&*self.0, None),
            Some((name, slot)) => (name, Some(slot.parse().expect("a fence's slot is a number"))),
        };
        (LockName::new(name).expect("a fence's lock has a name"), slot)
    }
}

impl fmt::Display for FenceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Under what a write is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    /// Of which namespace.
    pub namespace: NamespaceId,
    /// Which lock, or permit of it.
    pub name: FenceName,
    /// The token of the writer's grant.
    pub token: Token,
}

/// What a partition says of a fence that it lets pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// The floor is at this token already.
    Known,
    /// The token is higher than any seen here.
    Rises,
}

/// Somebody has had the lock since. Whoever says so has lost it: nothing was written.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "the fence is stale: token {token} of lock {lock} in namespace {namespace} is over, {highest} has \
     been seen since; the lock is lost: stop, and acquire it again"
)]
pub struct StaleFence {
    /// Of which namespace.
    pub namespace: NamespaceId,
    /// Which lock, or permit of it.
    pub lock: FenceName,
    /// What was shown.
    pub token: Token,
    /// The highest seen.
    pub highest: Token,
}

/// There are as many floors as there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "this partition keeps the tokens of {FLOORS_MAX} locks, its most; delete locks that are not used, \
     which forgets their tokens"
)]
pub struct FloorsFull;

/// Why a fence does not let a write pass.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FenceError {
    /// The writer has lost its lock.
    #[error(transparent)]
    Stale(#[from] StaleFence),
    /// Its token cannot be kept.
    #[error(transparent)]
    Full(#[from] FloorsFull),
}

/// The highest tokens that a partition has seen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Floors {
    /// None of the inner maps is empty.
    by_namespace: BTreeMap<NamespaceId, BTreeMap<FenceName, Token>>,
    count: usize,
}

impl Floors {
    /// Whether a write under this fence may pass. Changes nothing.
    ///
    /// # Errors
    /// When the token is lower than the highest seen, or new and there is no room for it.
    pub fn check(&self, fence: &Fence) -> Result<Judgement, FenceError> {
        match self.floor(fence.namespace, &fence.name) {
            Some(highest) if fence.token < highest => Err(StaleFence {
                namespace: fence.namespace,
                lock: fence.name.clone(),
                token: fence.token,
                highest,
            }
            .into()),
            Some(highest) if fence.token == highest => Ok(Judgement::Known),
            None if self.count >= FLOORS_MAX => Err(FloorsFull.into()),
            _ => Ok(Judgement::Rises),
        }
    }

    /// Checks, and keeps the token from now on.
    ///
    /// # Errors
    /// As [`Floors::check`]; nothing has changed then.
    pub fn raise(&mut self, fence: &Fence) -> Result<Judgement, FenceError> {
        let judgement = self.check(fence)?;
        if judgement == Judgement::Rises {
            let floors = self.by_namespace.entry(fence.namespace).or_default();
            if floors.insert(fence.name.clone(), fence.token).is_none() {
                self.count += 1;
            }
        }
        Ok(judgement)
    }

    /// Forgets a lock that is deleted, with all its permits. An old token of it passes again: a lock is
    /// deleted only when nobody works under it any more.
    pub fn prune_lock(&mut self, namespace: NamespaceId, lock: &LockName) {
        let Some(floors) = self.by_namespace.get_mut(&namespace) else { return };
        let mut gone: Vec<_> =
            floors.get_key_value(&FenceName::new(lock, None)).into_iter().collect();
        // No name has '#', so all that begin so are permits of this lock, side by side.
        let prefix = format!("{lock}#");
        let from = FenceName(Arc::from(prefix.as_str()));
        gone.extend(
            floors.range(from..).take_while(|(name, _)| name.as_str().starts_with(&prefix)),
        );
        let gone: Vec<_> = gone.into_iter().map(|(name, _)| name.clone()).collect();
        for name in &gone {
            floors.remove(name);
        }
        self.count -= gone.len();
        if floors.is_empty() {
            self.by_namespace.remove(&namespace);
        }
    }

    /// Forgets all locks of a namespace that is deleted.
    pub fn prune_namespace(&mut self, namespace: NamespaceId) {
        self.count -= self.by_namespace.remove(&namespace).map_or(0, |floors| floors.len());
    }

    /// Folds a control entry; one answer per change.
    pub fn apply(&mut self, entry: &FloorEntry) -> Vec<Result<Judgement, FenceError>> {
        let each = |change: &FloorChange| match change {
            FloorChange::Raise(fence) => self.raise(fence),
            FloorChange::PruneLock { namespace, lock } => {
                self.prune_lock(*namespace, lock);
                Ok(Judgement::Known)
            }
            FloorChange::PruneNamespace { namespace } => {
                self.prune_namespace(*namespace);
                Ok(Judgement::Known)
            }
        };
        entry.changes.iter().map(each).collect()
    }

    /// The highest token seen.
    #[must_use]
    pub fn floor(&self, namespace: NamespaceId, name: &FenceName) -> Option<Token> {
        self.by_namespace.get(&namespace)?.get(name).copied()
    }

    /// Every namespace of which there is a floor.
    pub fn namespaces(&self) -> impl Iterator<Item = NamespaceId> {
        self.by_namespace.keys().copied()
    }

    /// All floors, by namespace and name.
    pub fn iter(&self) -> impl Iterator<Item = (NamespaceId, &FenceName, Token)> {
        self.by_namespace.iter().flat_map(|(&namespace, floors)| {
            floors.iter().map(move |(name, &token)| (namespace, name, token))
        })
    }

    /// How many floors there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

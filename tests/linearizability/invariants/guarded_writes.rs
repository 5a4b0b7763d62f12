//! Who lost a lock cannot write even once more into what the lock guards: from when the next holder is told that
//! it holds, though that one has written nothing yet.

use std::collections::BTreeMap;

use super::Grant;

/// A write with a fence that was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceptedWrite {
    /// The lock, with its namespace.
    pub fence: String,
    /// The token that it carried.
    pub token: u64,
    /// When it was sent.
    pub invoked: u64,
}

/// A write was accepted that was sent when a later holder knew that it holds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{write:?} was accepted, and {grant:?} was known when it was sent")]
pub struct WrittenLate {
    /// The write that was to be refused.
    pub write: AcceptedWrite,
    /// A later grant of its lock.
    pub grant: Grant,
}

/// Judges all writes of a history into guarded logs, in any order, by all of its grants.
///
/// # Errors
/// The first violation, in the order of `writes`.
pub fn guarded_writes(grants: &[Grant], writes: &[AcceptedWrite]) -> Result<(), WrittenLate> {
    let mut fences: BTreeMap<&str, Vec<&Grant>> = BTreeMap::new();
    for grant in grants {
        fences.entry(&grant.fence).or_default().push(grant);
    }
    for known in fences.values_mut() {
        known.sort_by_key(|grant| grant.completed);
        // Of those that were known by a time only the one with the highest token matters.
        let mut highest = 0;
        known.retain(|grant| {
            let is_higher = grant.token > highest;
            highest = highest.max(grant.token);
            is_higher
        });
    }
    for write in writes {
        let Some(known) = fences.get(write.fence.as_str()) else { continue };
        let before = known.partition_point(|grant| grant.completed < write.invoked);
        let Some(grant) = before.checked_sub(1).map(|last| known[last]) else { continue };
        if grant.token > write.token {
            return Err(WrittenLate { write: write.clone(), grant: grant.clone() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(token: u64, completed: u64) -> Grant {
        Grant { fence: "a".into(), request: token, token, invoked: completed - 1, completed }
    }

    fn write(token: u64, invoked: u64) -> AcceptedWrite {
        AcceptedWrite { fence: "a".into(), token, invoked }
    }

    #[test]
    fn a_former_holder_may_write_until_the_next_one_is_told() {
        let grants = [grant(9, 20), grant(4, 10)];
        assert_eq!(guarded_writes(&grants, &[write(4, 11), write(4, 20), write(9, 30)]), Ok(()));
        let other = AcceptedWrite { fence: "b".into(), ..write(1, 30) };
        assert_eq!(guarded_writes(&grants, &[other]), Ok(()));
    }

    #[test]
    fn a_write_behind_the_next_grant_is_seen() {
        // The later grant was told first: it counts from then on.
        let grants = [grant(9, 20), grant(4, 25)];
        let late = write(4, 26);
        let expected = WrittenLate { write: late.clone(), grant: grants[0].clone() };
        assert_eq!(guarded_writes(&grants, &[write(4, 20), late]), Err(expected));
    }
}

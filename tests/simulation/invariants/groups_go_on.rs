//! A group reads everything, and what it has committed stays committed: no commit covers a record that no
//! member was handed out, whoever joins after a commit was answered gets nothing before it, and when
//! everything is well again the group can read every record.

use std::collections::{BTreeMap, BTreeSet};

use super::{Event, Invariant, Ledger};
use crate::history::{MemberNumber, Partition};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct GroupsGoOn {
    got: BTreeMap<Partition, Got>,
    committed: BTreeMap<Partition, u64>,
    /// What was committed of each partition when a member was about to join.
    joined_at: BTreeMap<MemberNumber, BTreeMap<Partition, u64>>,
}

/// Offsets that were handed out.
#[derive(Debug, Default)]
struct Got {
    /// All below.
    floor: u64,
    others: BTreeSet<u64>,
}

impl Got {
    fn add(&mut self, offset: u64) {
        if offset >= self.floor {
            self.others.insert(offset);
        }
        while self.others.remove(&self.floor) {
            self.floor += 1;
        }
    }
}

impl Invariant for GroupsGoOn {
    fn name(&self) -> &'static str {
        "groups_go_on"
    }

    fn judge(&mut self, event: &Event<'_>, ledger: &Ledger) -> Result<(), String> {
        match event {
            Event::MemberBegins(member) => {
                self.joined_at.insert(*member, self.committed.clone());
                Ok(())
            }
            Event::GroupGot { member, partition, offset } => {
                self.got.entry(*partition).or_default().add(*offset);
                let joined_at = self.joined_at.get(member).and_then(|at| at.get(partition));
                match joined_at {
                    Some(committed) if offset < committed => Err(format!(
                        "member {member} was handed out offset {offset} of partition {partition}, and \
                         {committed} was committed before it joined"
                    )),
                    _ => Ok(()),
                }
            }
            Event::GroupCommitted { partition, next } => {
                let committed = self.committed.entry(*partition).or_insert(0);
                *committed = (*committed).max(*next);
                let floor = self.got.get(partition).map_or(0, |got| got.floor);
                match *next <= floor {
                    true => Ok(()),
                    false => Err(format!(
                        "{next} is committed of partition {partition}, and offset {floor} was handed out \
                         to no member"
                    )),
                }
            }
            Event::GroupHasReadAll => {
                for (partition, group) in &ledger.partitions {
                    let Some(committed) = ledger.group(*group) else { continue };
                    let (end, floor) = (
                        committed.records.len() as u64,
                        self.got.get(partition).map_or(0, |g| g.floor),
                    );
                    if floor < end {
                        return Err(format!(
                            "offset {floor} of partition {partition} was handed out to no member, of {end}"
                        ));
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::planted::*;
    use super::*;

    fn got(member: MemberNumber, offset: u64) -> Event<'static> {
        Event::GroupGot { member, partition: 0, offset }
    }

    fn committed(next: u64) -> Event<'static> {
        Event::GroupCommitted { partition: 0, next }
    }

    #[test]
    fn a_commit_that_covers_what_nobody_got_is_seen() {
        let ledger = ledger(&[entry(id(1, 1), 0, 5)]);
        let fine = || vec![got(1, 0), got(2, 1), committed(2), got(1, 3)];
        assert_fires(GroupsGoOn::default(), &ledger, &fine(), &committed(4));
        assert_fires(GroupsGoOn::default(), &ledger, &[], &committed(1));
    }

    #[test]
    fn a_member_that_begins_before_a_commit_is_seen() {
        let ledger = ledger(&[entry(id(1, 1), 0, 5)]);
        let fine = [
            Event::MemberBegins(1),
            got(1, 0),
            got(1, 1),
            committed(2),
            Event::MemberBegins(2),
            got(2, 2),
            // It joined before that was committed.
            got(1, 0),
        ];
        assert_fires(GroupsGoOn::default(), &ledger, &fine, &got(2, 1));
    }

    #[test]
    fn a_record_that_no_member_can_read_is_seen() {
        let ledger = ledger(&[entry(id(1, 1), 0, 3)]);
        let all = [got(1, 0), got(1, 2), got(2, 1), Event::GroupHasReadAll];
        let some = [got(1, 0), got(1, 2)];
        let mut rule = GroupsGoOn::default();
        all.iter().for_each(|event| rule.judge(event, &ledger).unwrap());
        assert_fires(GroupsGoOn::default(), &ledger, &some, &Event::GroupHasReadAll);
    }
}

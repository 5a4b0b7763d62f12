//! The fold, one situation at a time.

use std::collections::BTreeSet;

use plimsoll_groups::command::{
    Committer, GroupCommand, GroupsEntry, MemberSpec, OffsetCommit, Removal,
};
use plimsoll_groups::ids::{Epoch, GroupName, MemberId, TopicId, TopicPartition};
use plimsoll_groups::state::{Answer, Groups, Refusal};
use plimsoll_groups::time::UnixMs;
use plimsoll_protocol::ids::Offset;

use super::bed::at;

pub(crate) fn name(text: &str) -> GroupName {
    GroupName::new(text).unwrap()
}

fn spec(instance: Option<&str>) -> MemberSpec {
    MemberSpec {
        client: "client".into(),
        instance: instance.map(String::from),
        topics: BTreeSet::from([TopicId(1)]),
        session_ms: 10_000,
        rebalance_ms: 20_000,
    }
}

fn join(member: u128, instance: Option<&str>) -> GroupCommand {
    GroupCommand::Join { member: MemberId(member), spec: Box::new(spec(instance)) }
}

fn grant(member: u128, partitions: &[TopicPartition]) -> GroupCommand {
    GroupCommand::Grant { member: MemberId(member), partitions: partitions.to_vec() }
}

fn release(member: u128, epoch: u64, partitions: &[TopicPartition]) -> GroupCommand {
    let (member, epoch) = (MemberId(member), Epoch(epoch));
    GroupCommand::Release { member, epoch, partitions: partitions.to_vec() }
}

fn commit(by: Option<(u128, u64)>, place: TopicPartition, offset: u64) -> GroupCommand {
    let by = by.map(|(member, epoch)| Committer { member: MemberId(member), epoch: Epoch(epoch) });
    let item = OffsetCommit { at: place, offset: Offset(offset), metadata: None };
    GroupCommand::Commit { by, offsets: vec![item] }
}

pub(crate) fn apply(groups: &mut Groups, command: GroupCommand) -> Answer {
    let mut entry = GroupsEntry::default();
    entry.push(&name("g"), command);
    groups.apply(&entry, UnixMs(5)).remove(0)
}

pub(crate) fn committed(groups: &Groups, place: TopicPartition) -> Option<u64> {
    Some(groups.get(&name("g"))?.committed(place)?.offset.0)
}

const ALL: Answer = Answer::Committed { not_owned: Vec::new() };

fn fenced(member: u128) -> Answer {
    Answer::Refused(Refusal::Fenced { member: MemberId(member) })
}

#[test]
fn commit_of_a_member_that_lost_the_partition_never_wins() {
    let (mut groups, p) = (Groups::default(), at(1, 0));
    apply(&mut groups, join(1, None));
    apply(&mut groups, join(2, None));
    apply(&mut groups, grant(1, &[p]));
    assert_eq!(apply(&mut groups, commit(Some((1, 3)), p, 10)), ALL);
    apply(&mut groups, release(1, 3, &[p]));
    let refused = Answer::Committed { not_owned: vec![p] };
    assert_eq!(apply(&mut groups, commit(Some((1, 3)), p, 11)), refused);
    apply(&mut groups, grant(2, &[p]));
    assert_eq!(apply(&mut groups, commit(Some((2, 4)), p, 50)), ALL);
    assert_eq!(apply(&mut groups, commit(Some((1, 3)), p, 12)), refused);
    // It gets it a second time: what it said while it had it first does not count.
    apply(&mut groups, release(2, 4, &[p]));
    apply(&mut groups, grant(1, &[p]));
    assert_eq!(apply(&mut groups, commit(Some((1, 3)), p, 13)), refused);
    assert_eq!(committed(&groups, p), Some(50));
    assert_eq!(apply(&mut groups, commit(Some((1, 5)), p, 60)), ALL);
    assert_eq!(committed(&groups, p), Some(60));
}

#[test]
fn second_owner_is_refused_and_a_late_release_takes_nothing() {
    let (mut groups, p) = (Groups::default(), at(1, 0));
    apply(&mut groups, join(1, None));
    apply(&mut groups, join(2, None));
    apply(&mut groups, grant(1, &[p]));
    let owned = Refusal::Owned { at: p, owner: MemberId(1) };
    assert_eq!(apply(&mut groups, grant(2, &[at(0, 0), p])), Answer::Refused(owned));
    assert_eq!(groups.get(&name("g")).unwrap().owner(at(0, 0)), None, "all of it or nothing");
    apply(&mut groups, release(1, 2, &[p]));
    let owner = groups.get(&name("g")).unwrap().owner(p);
    assert_eq!(owner, Some((MemberId(1), Epoch(3))), "it was granted after that was said");
}

#[test]
fn static_member_that_returns_has_the_same_and_fences_who_it_was() {
    let (mut groups, p) = (Groups::default(), at(1, 0));
    apply(&mut groups, join(1, Some("one")));
    apply(&mut groups, grant(1, &[p]));
    apply(&mut groups, join(2, Some("one")));
    let group = groups.get(&name("g")).unwrap();
    assert_eq!(group.owner(p), Some((MemberId(2), Epoch(3))));
    assert_eq!(group.members().len(), 1);
    assert_eq!(group.successor(MemberId(1)).unwrap().0, MemberId(2));
    assert_eq!(apply(&mut groups, commit(Some((1, 2)), p, 7)), fenced(1));
    assert_eq!(apply(&mut groups, commit(Some((2, 3)), p, 7)), ALL);
}

#[test]
fn member_that_joins_anew_keeps_what_it_owns_under_a_new_epoch() {
    let (mut groups, p) = (Groups::default(), at(1, 0));
    apply(&mut groups, join(1, None));
    apply(&mut groups, grant(1, &[p]));
    apply(&mut groups, join(1, None));
    assert_eq!(groups.get(&name("g")).unwrap().owner(p), Some((MemberId(1), Epoch(3))));
    assert_eq!(apply(&mut groups, commit(Some((1, 2)), p, 7)), fenced(1));
    let remove =
        GroupCommand::Remove { member: MemberId(1), epoch: Epoch(1), why: Removal::SessionEnded };
    assert_eq!(apply(&mut groups, remove), Answer::Refused(Refusal::Stale));
}

#[test]
fn group_made_again_after_a_deletion_does_not_know_old_epochs() {
    let (mut groups, p) = (Groups::default(), at(1, 0));
    apply(&mut groups, join(1, None));
    apply(&mut groups, grant(1, &[p]));
    let busy = Answer::Refused(Refusal::HasMembers { members: 1 });
    assert_eq!(apply(&mut groups, GroupCommand::Delete { forced: false }), busy);
    assert_eq!(apply(&mut groups, GroupCommand::Delete { forced: true }), Answer::Done);
    assert_eq!(groups.get(&name("g")), None);
    assert_eq!(apply(&mut groups, commit(Some((1, 2)), p, 7)), fenced(1));
    apply(&mut groups, join(1, None));
    apply(&mut groups, grant(1, &[p]));
    assert_eq!(apply(&mut groups, commit(Some((1, 2)), p, 7)), fenced(1));
    assert_eq!(apply(&mut groups, commit(Some((1, 4)), p, 7)), ALL);
}

#[test]
fn administrator_and_clients_without_membership_wait_for_members_to_go() {
    let (mut groups, p) = (Groups::default(), at(1, 0));
    assert_eq!(apply(&mut groups, commit(None, p, 3)), ALL);
    apply(&mut groups, join(1, None));
    let busy = Answer::Refused(Refusal::HasMembers { members: 1 });
    assert_eq!(apply(&mut groups, commit(None, p, 4)), busy);
    let reset = |offset: Option<u64>, forced| GroupCommand::Reset {
        offsets: vec![(p, offset.map(Offset))],
        forced,
    };
    assert_eq!(apply(&mut groups, reset(Some(1), false)), busy);
    assert_eq!(apply(&mut groups, reset(Some(1), true)), Answer::Done);
    assert_eq!(committed(&groups, p), Some(1));
    assert_eq!(apply(&mut groups, reset(None, true)), Answer::Done);
    assert_eq!(committed(&groups, p), None);
}

#[test]
fn group_expires_unless_something_happened_since() {
    let (mut groups, p) = (Groups::default(), at(1, 0));
    apply(&mut groups, commit(None, p, 3));
    let expire = |ms| GroupCommand::Expire { quiet_since: UnixMs(ms) };
    assert_eq!(apply(&mut groups, expire(4)), Answer::Refused(Refusal::Stale));
    assert_eq!(apply(&mut groups, expire(5)), Answer::Done);
    assert_eq!(groups.get(&name("g")), None);
    assert_eq!(apply(&mut groups, expire(5)), Answer::Refused(Refusal::UnknownGroup));
}

#[test]
fn deleted_topic_leaves_nothing() {
    let mut groups = Groups::default();
    apply(&mut groups, join(1, None));
    apply(&mut groups, grant(1, &[at(1, 0), at(2, 0)]));
    apply(&mut groups, commit(Some((1, 2)), at(1, 0), 3));
    apply(&mut groups, GroupCommand::Forget { topic: TopicId(1) });
    let group = groups.get(&name("g")).unwrap();
    assert_eq!((group.owner(at(1, 0)), group.committed(at(1, 0))), (None, None));
    assert_eq!(group.members()[&MemberId(1)].owns().len(), 1);
    assert_eq!(Groups::decode(&groups.encode()), Ok(groups));
}

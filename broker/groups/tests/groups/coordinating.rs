//! The coordinator, one situation at a time.

use plimsoll_groups::command::{Committer, Removal};
use plimsoll_groups::coordinator::{CommitError, HeartbeatError, JoinError, Limits, Phase, Reply};
use plimsoll_groups::ids::{Epoch, GroupName, MemberId, TopicId};
use plimsoll_groups::state::Refusal;
use plimsoll_protocol::ids::Offset;

use super::bed::{Bed, REBALANCE_MS, SESSION_MS, at, commit, instance, spec};

#[test]
fn first_member_gets_everything_and_a_second_half_of_it_once_it_is_given_up() {
    let mut bed = Bed::new(&[4]);
    let first = bed.join(1, spec(&[0]));
    assert_eq!(first.partitions, [at(0, 0), at(0, 1), at(0, 2), at(0, 3)]);
    let second = bed.join(2, spec(&[0]));
    assert_eq!((second.partitions.len(), second.settling), (0, true));
    assert_eq!(bed.describe().phase, Phase::Moving);
    // The first one is told, and keeps all in the log until it says that it has stopped.
    let told = bed.asks(1).unwrap();
    assert_eq!((told.partitions.len(), bed.owns(1).len()), (2, 4));
    bed.beat(1, told.epoch, Some(&first.partitions)).unwrap();
    bed.write();
    assert_eq!((bed.owns(1).len(), bed.owns(2).len()), (4, 0));
    bed.follows(1);
    let second = bed.asks(2).unwrap();
    assert_eq!((second.partitions, second.settling), (vec![at(0, 2), at(0, 3)], false));
    assert_eq!(bed.describe().phase, Phase::Settled);
    assert_eq!(bed.coordinator.propose(&bed.state), None);
}

#[test]
fn members_that_keep_what_they_have_are_told_nothing() {
    let mut bed = Bed::new(&[6]);
    for id in 1..=3 {
        bed.join(id, spec(&[0]));
        (1..=id).for_each(|id| drop(bed.follows(id)));
    }
    while bed.coordinator.poll_changed(&bed.state).is_some() {}
    // A fourth member takes one partition from one of them; the two others are not disturbed.
    bed.join(4, spec(&[0]));
    let (_, giver, told) = bed.coordinator.poll_changed(&bed.state).unwrap();
    assert_eq!(told.partitions.len(), 1);
    assert_eq!(bed.coordinator.poll_changed(&bed.state), None);
    bed.follows(giver.0);
    let (_, taker, assignment) = bed.coordinator.poll_changed(&bed.state).unwrap();
    assert_eq!((taker.0, assignment.partitions.len()), (4, 1));
    assert_eq!(bed.coordinator.poll_changed(&bed.state), None);
}

#[test]
fn silent_member_is_fenced_after_its_session_and_not_before() {
    let mut bed = Bed::new(&[2]);
    let first = bed.join(1, spec(&[0]));
    bed.pass(SESSION_MS - 1);
    bed.write();
    assert_eq!(bed.owns(1).len(), 2);
    assert!(bed.asks(1).is_ok());
    bed.pass_asked(SESSION_MS);
    // From the decision on, not only when it is written.
    let fenced = bed.beat(1, first.epoch, Some(&first.partitions)).unwrap_err();
    assert!(matches!(fenced, HeartbeatError::FencedMember { .. }));
    assert_eq!(bed.describe().members[0].over, Some(Removal::SessionEnded));
    bed.write();
    assert_eq!(bed.state.get(&bed.group), None);
    assert!(bed.beat(1, first.epoch, Some(&[])).is_err());
    let again = bed.join(1, spec(&[0]));
    assert!(again.epoch > first.epoch && again.partitions.len() == 2);
    assert!(bed.beat(1, first.epoch, None).is_err(), "what it was before is fenced still");
}

#[test]
fn late_commit_of_a_fenced_member_is_refused() {
    let mut bed = Bed::new(&[1]);
    let first = bed.join(1, spec(&[0]));
    bed.join(2, spec(&[0]));
    bed.pass_asked(SESSION_MS / 2);
    bed.asks(2).unwrap();
    bed.pass_asked(SESSION_MS / 2);
    bed.write();
    let second = bed.asks(2).unwrap();
    assert_eq!(second.partitions, [at(0, 0)]);
    let all = Reply::Committed { not_owned: vec![] };
    assert_eq!(bed.commits(Some((2, second.epoch)), commit(at(0, 0), 9)), all);
    let by = Some(Committer { member: MemberId(1), epoch: first.epoch });
    let (items, now) = (vec![commit(at(0, 0), 3)], bed.now.monotonic);
    let late = bed.coordinator.commit(&bed.state, &bed.group, by, items, now);
    assert_eq!(late, Err(CommitError::Refused(Refusal::Fenced { member: MemberId(1) })));
    assert_eq!(bed.committed(at(0, 0)), Some(9));
}

#[test]
fn member_that_does_not_give_up_in_time_is_fenced() {
    let mut bed = Bed::new(&[2]);
    let first = bed.join(1, spec(&[0]));
    bed.join(2, spec(&[0]));
    for _ in 0..REBALANCE_MS / 5_000 {
        assert!(bed.beat(1, first.epoch, Some(&first.partitions)).is_ok());
        bed.asks(2).unwrap();
        bed.pass_asked(5_000);
    }
    assert!(bed.beat(1, first.epoch, Some(&first.partitions)).is_err());
    assert_eq!(bed.describe().members[0].over, Some(Removal::RevocationOverdue));
    bed.write();
    assert_eq!(bed.asks(2).unwrap().partitions.len(), 2);
}

#[test]
fn heartbeat_from_before_a_grant_releases_nothing() {
    let mut bed = Bed::new(&[2]);
    let ticket = bed.ask_join(1, spec(&[0]));
    let entry = bed.coordinator.propose(&bed.state).unwrap();
    let answers = bed.state.apply(&entry, bed.now.unix);
    let now = bed.now.monotonic;
    let replies = bed.coordinator.applied(&entry, &answers, &bed.state, now);
    let Reply::Joined(joined) = &replies[0].1 else { panic!("{replies:?}") };
    assert_eq!((replies[0].0, joined.partitions.len()), (ticket, 0));
    bed.write();
    assert_eq!(bed.owns(1).len(), 2);
    let told = bed.beat(1, joined.epoch, Some(&[])).unwrap();
    assert_eq!(told.partitions.len(), 2);
    bed.write();
    assert_eq!(bed.owns(1).len(), 2);
    // Under the epoch of the grant it means what it says; it is granted again, under another epoch.
    bed.beat(1, told.epoch, Some(&[])).unwrap();
    bed.write();
    assert!(bed.owns(1).len() == 2 && bed.epoch(1) > told.epoch);
    bed.beat(1, told.epoch, Some(&[])).unwrap();
    assert_eq!(bed.coordinator.propose(&bed.state), None, "a late copy of it takes nothing");
}

#[test]
fn static_member_returns_to_its_partitions_and_fences_its_older_self() {
    let mut bed = Bed::new(&[4]);
    bed.join(1, instance("one"));
    bed.join(2, instance("two"));
    let old = bed.follows(1);
    let other = bed.asks(2).unwrap();
    while bed.coordinator.poll_changed(&bed.state).is_some() {}
    bed.pass(SESSION_MS / 2);
    let new = bed.join(3, instance("one"));
    assert_eq!(new.partitions, old.partitions);
    assert_eq!(bed.asks(2).unwrap(), generation_of(&bed, other));
    assert_eq!(bed.describe().phase, Phase::Settled);
    let fenced = bed.beat(1, old.epoch, Some(&old.partitions)).unwrap_err();
    assert_eq!(
        fenced,
        HeartbeatError::FencedInstance {
            group: bed.group.clone(),
            member: MemberId(1),
            by: MemberId(3),
            instance: "one".into()
        }
    );
    assert!(fenced.to_string().contains("give each process its own instance name"));
    bed.change_leader();
    assert!(matches!(bed.beat(1, old.epoch, None), Err(HeartbeatError::FencedInstance { .. })));
}

/// The same assignment, seen after the group has changed elsewhere.
fn generation_of(
    bed: &Bed,
    mut assignment: plimsoll_groups::coordinator::Assignment,
) -> plimsoll_groups::coordinator::Assignment {
    assignment.generation = bed.state.get(&bed.group).unwrap().generation();
    assignment
}

#[test]
fn member_that_leaves_hands_over_at_once() {
    let mut bed = Bed::new(&[2]);
    let first = bed.join(1, spec(&[0]));
    bed.join(2, spec(&[0]));
    let group = bed.group.clone();
    let stale = bed.coordinator.leave(&bed.state, &group, MemberId(1), Epoch(0));
    assert!(stale.is_err());
    let id = MemberId(1);
    let ticket = bed.coordinator.leave(&bed.state, &group, id, first.epoch).unwrap().unwrap();
    assert_eq!(bed.coordinator.leave(&bed.state, &group, id, first.epoch), Ok(None));
    assert_eq!(bed.write().remove(&ticket), Some(Reply::Done));
    assert_eq!(bed.asks(2).unwrap().partitions.len(), 2);
    assert_eq!(bed.coordinator.leave(&bed.state, &group, id, first.epoch), Ok(None));
}

#[test]
fn commit_goes_before_the_release_that_follows_it() {
    let mut bed = Bed::new(&[2]);
    let first = bed.join(1, spec(&[0]));
    bed.join(2, spec(&[0]));
    let told = bed.asks(1).unwrap();
    let gone = *first.partitions.iter().find(|at| !told.partitions.contains(at)).unwrap();
    let by = Some(Committer { member: MemberId(1), epoch: told.epoch });
    let (group, now) = (bed.group.clone(), bed.now.monotonic);
    let items = vec![commit(gone, 5), commit(gone, 6)];
    let ticket = bed.coordinator.commit(&bed.state, &group, by, items, now).unwrap();
    bed.beat(1, told.epoch, Some(&told.partitions)).unwrap();
    assert_eq!(bed.write().remove(&ticket), Some(Reply::Committed { not_owned: vec![] }));
    assert_eq!((bed.committed(gone), bed.owns(2)), (Some(6), vec![gone]), "the last one counts");
    let late = bed.commits(Some((1, told.epoch)), commit(gone, 4));
    assert_eq!(late, Reply::Committed { not_owned: vec![gone] });
}

#[test]
fn new_partitions_are_shared_and_a_deleted_topic_is_forgotten() {
    let mut bed = Bed::new(&[2, 1]);
    bed.join(1, spec(&[0, 1]));
    let told = bed.asks(1).unwrap();
    bed.commits(Some((1, told.epoch)), commit(at(1, 0), 5));
    bed.topics.partitions.insert(TopicId(0), 3);
    bed.topics.partitions.remove(&TopicId(1));
    let (topics, now) = (bed.topics.clone(), bed.now.monotonic);
    bed.coordinator.set_topics(topics, &bed.state, now);
    bed.pass(0);
    bed.write();
    assert_eq!(bed.follows(1).partitions, [at(0, 0), at(0, 1), at(0, 2)]);
    assert_eq!((bed.committed(at(1, 0)), bed.owns(1).len()), (None, 3));
    let items = vec![commit(at(1, 0), 5)];
    let refused = bed.coordinator.commit(&bed.state, &bed.group, None, items, now);
    assert_eq!(refused, Err(CommitError::TopicDeleted { at: at(1, 0) }));
}

#[test]
fn members_and_groups_beyond_their_bounds_are_refused() {
    let limits = Limits { groups_max: 1, members_max: 2, ..Limits::default() };
    let mut bed = Bed::with(&[4], limits);
    bed.ask_join(1, spec(&[0]));
    bed.ask_join(2, instance("x"));
    let (group, now) = (bed.group.clone(), bed.now.monotonic);
    // Counted before they are written.
    let third = bed.coordinator.join(&bed.state, &group, MemberId(3), spec(&[0]), now);
    assert_eq!(third, Err(JoinError::GroupFull { group: group.clone(), members_max: 2 }));
    bed.write();
    // Who takes a place makes the group no larger.
    bed.join(3, instance("x"));
    let other = GroupName::new("other").unwrap();
    let refused = bed.coordinator.join(&bed.state, &other, MemberId(9), spec(&[0]), now);
    assert!(matches!(refused, Err(JoinError::TooManyGroups(it)) if it.groups_max == 1));
    let epoch = bed.epoch(1);
    assert!(bed.coordinator.leave(&bed.state, &group, MemberId(1), epoch).is_ok());
    bed.write();
    bed.join(4, spec(&[0]));
    let mut wrong = spec(&[]);
    let topics = bed.coordinator.join(&bed.state, &group, MemberId(1), wrong, now);
    assert!(matches!(topics, Err(JoinError::Spec(_))));
    wrong = spec(&[0]);
    wrong.session_ms = 1;
    let session = bed.coordinator.join(&bed.state, &group, MemberId(1), wrong, now);
    assert!(session.unwrap_err().to_string().contains("1000 to 3600000 ms, not 1"));
}

#[test]
fn commits_beyond_their_bounds_are_refused() {
    let limits = Limits {
        offsets_max: 4,
        commit_partitions_max: 5,
        commit_bytes_max: 5_000,
        pending_bytes_max: 1_000,
        ..Limits::default()
    };
    let mut bed = Bed::with(&[4], limits);
    let commits = |bed: &mut Bed, items: Vec<_>| {
        let (group, now) = (bed.group.clone(), bed.now.monotonic);
        bed.coordinator.commit(&bed.state, &group, None, items, now)
    };
    let many: Vec<_> = (0..6).map(|index| commit(at(0, index), 1)).collect();
    let refused = commits(&mut bed, many.clone());
    assert!(matches!(refused, Err(CommitError::Partitions { partitions: 6, .. })));
    let refused = commits(&mut bed, vec![]);
    assert!(matches!(refused, Err(CommitError::Partitions { partitions: 0, .. })));
    let refused = commits(&mut bed, many[..5].to_vec());
    assert!(matches!(refused, Err(CommitError::OffsetsFull { offsets_max: 4, .. })));
    let with_text = |count: usize, bytes| {
        let mut items = many[..count].to_vec();
        items.iter_mut().for_each(|item| item.metadata = Some("x".repeat(bytes).into()));
        items
    };
    let refused = commits(&mut bed, with_text(1, 4_097));
    assert!(matches!(refused, Err(CommitError::Metadata { bytes: 4_097, .. })));
    let refused = commits(&mut bed, with_text(2, 3_000));
    assert!(matches!(refused, Err(CommitError::TooLong { .. })));
    for _ in 0..3 {
        let busy = loop {
            match commits(&mut bed, many[..1].to_vec()) {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert!(matches!(busy, CommitError::Busy(_)), "{busy}");
        assert!(busy.to_string().ends_with("try again in a moment"));
        // What is written makes room again.
        bed.write();
    }
    for index in 0..4 {
        let all = Reply::Committed { not_owned: vec![] };
        assert_eq!(bed.commits(None, commit(at(0, index), 1)), all);
    }
    let refused = commits(&mut bed, many[4..5].to_vec());
    assert!(matches!(refused, Err(CommitError::OffsetsFull { offsets_max: 4, .. })));
}

#[test]
fn entry_that_did_not_enter_the_log_is_written_again_first() {
    let mut bed = Bed::new(&[2]);
    let join = bed.ask_join(1, spec(&[0]));
    let entry = bed.coordinator.propose(&bed.state).unwrap();
    assert_eq!(bed.coordinator.propose(&bed.state), None, "one at a time");
    let other = bed.ask_join(2, spec(&[0]));
    bed.coordinator.refused(entry);
    let replies = bed.write();
    let epochs: Vec<_> = [join, other].iter().map(|ticket| &replies[ticket]).collect();
    let [Reply::Joined(first), Reply::Joined(second)] = epochs[..] else { panic!("{epochs:?}") };
    assert!(first.epoch <= Epoch(1) && second.epoch == Epoch(2));
    // In the order in which they were asked for.
    let (group, now) = (GroupName::new("other").unwrap(), bed.now.monotonic);
    for offset in [1, 2] {
        let items = vec![commit(at(0, 0), offset)];
        bed.coordinator.commit(&bed.state, &group, None, items, now).unwrap();
    }
    let entry = bed.coordinator.propose(&bed.state).unwrap();
    bed.coordinator.refused(entry);
    bed.write();
    assert_eq!(bed.state.get(&group).unwrap().committed(at(0, 0)).unwrap().offset, Offset(2));
    // Removals that were refused are found again.
    bed.pass_asked(SESSION_MS);
    let removal = bed.coordinator.propose(&bed.state).unwrap();
    bed.coordinator.refused(removal);
    bed.write();
    assert_eq!(bed.state.get(&bed.group), None);
}

#[test]
fn offsets_outlive_the_members_for_their_retention_and_the_clock_must_agree() {
    let limits = Limits { offsets_retention_ms: 24 * 3_600_000, ..Limits::default() };
    let mut bed = Bed::with(&[1], limits);
    bed.commits(None, commit(at(0, 0), 5));
    // The wall clock jumps ahead by a year: what this leader has not seen for an hour is left.
    let unix = bed.now.unix;
    bed.now.unix = unix.plus(365 * 24 * 3_600_000);
    bed.pass(120_000);
    bed.write();
    assert_eq!(bed.committed(at(0, 0)), Some(5));
    bed.now.unix = unix;
    for _ in 0..24 * 60 - 1 {
        bed.pass(60_000);
        bed.write();
    }
    assert_eq!(bed.committed(at(0, 0)), Some(5));
    bed.pass(60_000);
    bed.write();
    assert_eq!((bed.state.get(&bed.group), bed.coordinator.next_deadline()), (None, None));
}

#[test]
fn administrator_sets_offsets_and_deletes_groups_without_members() {
    let mut bed = Bed::new(&[1]);
    let (group, now) = (bed.group.clone(), bed.now.monotonic);
    let unknown = bed.coordinator.delete(&bed.state, &group, false);
    assert_eq!(unknown, Err(CommitError::Refused(Refusal::UnknownGroup)));
    let first = bed.join(1, spec(&[0]));
    let offsets = vec![(at(0, 0), Some(Offset(7)))];
    let reset = |bed: &mut Bed, forced| {
        let offsets = offsets.clone();
        let ticket = bed.coordinator.reset(&bed.state, &group, offsets, forced, now).unwrap();
        bed.write().remove(&ticket).unwrap()
    };
    let busy = Reply::Refused(Refusal::HasMembers { members: 1 });
    assert_eq!(reset(&mut bed, false), busy);
    assert_eq!((reset(&mut bed, true), bed.committed(at(0, 0))), (Reply::Done, Some(7)));
    let delete = |bed: &mut Bed, forced| {
        let ticket = bed.coordinator.delete(&bed.state, &group, forced).unwrap();
        bed.write().remove(&ticket).unwrap()
    };
    assert_eq!((delete(&mut bed, false), delete(&mut bed, true)), (busy, Reply::Done));
    assert!(bed.beat(1, first.epoch, None).is_err());
}

#[test]
fn groups_are_listed_by_page() {
    let mut bed = Bed::new(&[1]);
    for name in ["c", "a", "b"] {
        bed.group = GroupName::new(name).unwrap();
        bed.commits(None, commit(at(0, 0), 5));
    }
    bed.join(1, spec(&[0]));
    let page = bed.coordinator.list(&bed.state, None, 2);
    let names: Vec<_> = page.iter().map(|it| (it.name.as_str(), it.phase)).collect();
    assert_eq!(names, [("a", Phase::Empty), ("b", Phase::Settled)]);
    let rest = bed.coordinator.list(&bed.state, Some(&page[1].name), 2);
    assert_eq!((rest.len(), rest[0].name.as_str(), rest[0].offsets), (1, "c", 1));
    let described = bed.describe();
    assert_eq!((described.members[0].owns.clone(), described.quiet_since), (vec![at(0, 0)], None));
}

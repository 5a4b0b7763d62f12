//! What members see when the leader dies, or stalls.

use plimsoll_groups::coordinator::{HeartbeatError, Phase};

use super::bed::{Bed, SESSION_MS, at, instance, spec};

#[test]
fn members_that_appear_again_keep_what_they_had() {
    let mut bed = Bed::new(&[6]);
    for id in 1..=3 {
        bed.join(id, spec(&[0]));
        (1..=id).for_each(|id| drop(bed.follows(id)));
    }
    let before: Vec<_> = (1..=3).map(|id| bed.asks(id).unwrap()).collect();
    bed.pass_asked(SESSION_MS - 500);
    bed.change_leader();
    assert_eq!(bed.coordinator.propose(&bed.state), None, "nothing moves");
    // The session begins anew with the leader, though nobody was heard of for almost one before.
    bed.pass_asked(SESSION_MS - 500);
    for (id, before) in (1..).zip(&before) {
        assert_eq!(&bed.beat(id, before.epoch, Some(&before.partitions)).unwrap(), before);
    }
    assert_eq!(bed.coordinator.propose(&bed.state), None);
    assert_eq!(bed.describe().phase, Phase::Settled);
}

#[test]
fn member_that_does_not_appear_again_is_fenced_after_a_full_session() {
    let mut bed = Bed::new(&[2]);
    bed.join(1, spec(&[0]));
    bed.join(2, spec(&[0]));
    bed.follows(1);
    bed.change_leader();
    bed.pass_asked(SESSION_MS / 2);
    bed.asks(2).unwrap();
    bed.pass_asked(SESSION_MS / 2 - 500);
    bed.write();
    assert_eq!((bed.owns(1).len(), bed.owns(2).len()), (1, 1));
    bed.pass_asked(500);
    bed.write();
    assert_eq!((bed.owns(1).len(), bed.owns(2).len()), (0, 2));
}

#[test]
fn move_under_way_is_carried_on_by_the_next_leader() {
    let mut bed = Bed::new(&[4]);
    let first = bed.join(1, spec(&[0]));
    bed.join(2, spec(&[0]));
    let told = bed.asks(1).unwrap();
    bed.change_leader();
    // The same answer from the same state: what the member has already stopped with is not asked back.
    assert_eq!(
        bed.beat(1, told.epoch, Some(&told.partitions)).unwrap().partitions,
        told.partitions
    );
    bed.write();
    assert_eq!(bed.asks(2).unwrap().partitions.len(), 2);
    assert!(first.partitions.ends_with(&bed.owns(2)));
}

/// The release of a partition is lost with the leader: it is owned still, and nobody else gets it.
#[test]
fn release_that_was_not_written_is_asked_for_again() {
    let mut bed = Bed::new(&[2]);
    bed.join(1, spec(&[0]));
    bed.join(2, spec(&[0]));
    let told = bed.asks(1).unwrap();
    bed.beat(1, told.epoch, Some(&told.partitions)).unwrap();
    let lost = bed.coordinator.propose(&bed.state).unwrap();
    assert_eq!(lost.commands().count(), 1);
    bed.change_leader();
    bed.write();
    assert_eq!((bed.owns(1).len(), bed.asks(2).unwrap().partitions.len()), (2, 0));
    bed.beat(1, told.epoch, Some(&told.partitions)).unwrap();
    bed.write();
    assert_eq!((bed.owns(1), bed.owns(2)), (told.partitions, vec![at(0, 1)]));
}

/// A member was told that it is fenced, and the leader died before that was written.
#[test]
fn fenced_member_whose_removal_was_lost_joins_anew_and_keeps_its_partitions() {
    let mut bed = Bed::new(&[2]);
    let first = bed.join(1, spec(&[0]));
    bed.pass_asked(SESSION_MS);
    assert!(matches!(bed.asks(1), Err(HeartbeatError::FencedMember { .. })));
    bed.change_leader();
    let again = bed.join(1, spec(&[0]));
    assert_eq!(again.partitions, first.partitions);
    assert!(again.epoch > first.epoch);
}

#[test]
fn leader_that_stalled_gives_the_time_back() {
    let mut bed = Bed::new(&[2]);
    bed.join(1, instance("one"));
    bed.pass(SESSION_MS * 3);
    bed.write();
    assert_eq!(bed.owns(1).len(), 2);
    bed.pass(999);
    assert!(bed.asks(1).is_ok());
    bed.pass_asked(SESSION_MS * 5);
    assert!(bed.asks(1).is_err());
}

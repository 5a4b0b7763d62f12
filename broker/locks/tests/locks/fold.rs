//! What entries come to: who is granted what, who waits, what is refused.

use plimsoll_locks::command::{LockCommand, Want};
use plimsoll_locks::ids::{RequestId, SessionId, SessionNumber, Token, Value};
use plimsoll_locks::state::{
    Answer, Bound, CLAIMS_PER_SESSION_MAX, EVENTS_MAX, EndedHow, Grant, Occupancy, Refusal, Tally,
    TokenState, WAITERS_MAX, What,
};
use plimsoll_protocol::ids::LogIndex;

use super::bed::*;

fn gone() -> Answer {
    Answer::Refused(Refusal::SessionGone)
}

#[test]
fn token_is_the_index_of_the_entry_that_granted() {
    let mut bed = Bed::new(2);
    assert_eq!(bed.one(acquire(1, 1, "a", Want::Exclusive)), granted(2));
    assert_eq!(bed.one(acquire(2, 1, "a", Want::Exclusive)), waiting(0));
    assert_eq!(bed.one(release(1, 1, "a", 2)), Answer::Released);
    assert_eq!(bed.outcome(2, 1), granted(4));
    let what = |event: &(String, What, u64)| (event.1, event.2);
    let news: Vec<_> = bed.news().iter().map(what).collect();
    let expected =
        [(What::Granted, 1), (What::Waiting, 2), (What::Released, 1), (What::Granted, 2)];
    assert_eq!(news, expected);
}

#[test]
fn thousand_waiters_cost_one_entry_each() {
    let mut bed = Bed::new(1_000);
    let all = (1..=1_000).map(|session| acquire(session, 1, "a", Want::Exclusive));
    let answers = bed.apply(all.collect()).answers;
    assert_eq!((&answers[0], &answers[999]), (&granted(2), &waiting(998)));
    for session in 1..1_000 {
        bed.apply(vec![release(session, 1, "a", session as u64 + 1)]);
        bed.state.published(u64::MAX);
        assert_eq!(bed.outcome(session + 1, 1), granted(session as u64 + 2));
    }
}

/// Whoever is granted in an entry and ends in it would need a second token of the same entry.
#[test]
fn session_that_ends_in_an_entry_is_granted_nothing_in_it() {
    let mut bed = Bed::new(3);
    for session in 1..=3 {
        bed.one(acquire(session, 1, "a", Want::Exclusive));
    }
    let answers = bed.all(vec![release(1, 1, "a", 2), close(2)]);
    assert_eq!(answers, [Answer::Released, Answer::Done]);
    assert_eq!(bed.outcome(3, 1), granted(5));
    assert_eq!(bed.outcome(2, 1), gone());
}

#[test]
fn acquire_that_is_asked_again_has_the_same_answer() {
    let mut bed = Bed::new(2);
    assert_eq!(bed.one(acquire(1, 1, "a", Want::Exclusive)), granted(2));
    assert_eq!(bed.one(acquire(1, 1, "a", Want::Exclusive)), granted(2));
    let taken = bed.one(tries(2, 7, "a", Want::Exclusive));
    let Answer::Taken(by) = &taken else { panic!("{taken:?}") };
    let by = (by.label.as_str(), by.session, by.token);
    assert_eq!(by, ("client-1", SessionNumber(1), Token(2)));
    bed.one(release(1, 1, "a", 2));
    assert_eq!(bed.one(tries(2, 7, "a", Want::Exclusive)), taken, "also when it is free again");
    // A copy that was on its way for long is not carried out.
    let over = Refusal::RequestOver { request: RequestId(1), how: EndedHow::Released };
    assert_eq!(bed.refused(acquire(1, 1, "a", Want::Exclusive)), over);
    assert!(bed.state.describe(&name("a"), 9).is_none());
}

#[test]
fn acquire_that_is_forgotten_is_refused() {
    let mut bed = Bed::new(1);
    for request in 1..=40 {
        bed.one(acquire(1, request, "a", Want::Exclusive));
        let token = bed.index;
        bed.one(release(1, request, "a", token));
    }
    let refusal = bed.refused(acquire(1, 1, "a", Want::Exclusive));
    let forgotten = Refusal::RequestForgotten { request: RequestId(1), oldest: RequestId(9) };
    assert_eq!(refusal, forgotten);
    let reused = Refusal::RequestReused { request: RequestId(41), lock: name("a") };
    bed.one(acquire(1, 41, "a", Want::Exclusive));
    assert_eq!(bed.refused(acquire(1, 41, "b", Want::Exclusive)), reused);
}

#[test]
fn release_by_a_non_holder_names_the_holder() {
    let mut bed = Bed::new(2);
    bed.one(acquire(1, 1, "a", Want::Exclusive));
    let before = bed.state.encode().len();
    let text = bed.refused(release(2, 1, "a", 2)).to_string();
    assert_eq!(
        text,
        "the session does not hold lock a under token 2; client-1 does (session 1), under token 2"
    );
    assert!(bed.refused(release(1, 1, "a", 9)).to_string().contains("under token 2"));
    assert_eq!(bed.state.encode().len(), before);
    assert_eq!(bed.one(release(1, 1, "a", 2)), Answer::Released);
    assert_eq!(bed.one(release(1, 1, "a", 2)), Answer::Released, "asked again");
    assert!(bed.refused(release(2, 1, "a", 2)).to_string().contains("nobody does"));
}

#[test]
fn lock_that_is_held_or_waited_for_is_not_acquired_again() {
    let mut bed = Bed::new(2);
    bed.one(acquire(1, 1, "a", Want::Exclusive));
    let held = Refusal::AlreadyHeld { lock: name("a"), token: Token(2) };
    assert_eq!(bed.refused(acquire(1, 2, "a", Want::Exclusive)), held);
    bed.one(acquire(2, 1, "a", Want::Exclusive));
    let waits = Refusal::AlreadyWaiting { lock: name("a") };
    assert_eq!(bed.refused(tries(2, 2, "a", Want::Exclusive)), waits);
    let kind = bed.refused(tries(2, 3, "a", Want::Read)).to_string();
    assert!(kind.contains("waits for lock a already"), "{kind}");
    let mut bed = Bed::new(2);
    bed.one(acquire(1, 1, "a", permit(3)));
    let kind = bed.refused(tries(2, 3, "a", permit(4))).to_string();
    assert!(kind.starts_with("lock a is a semaphore of 3"), "{kind}");
}

#[test]
fn readers_share_the_token_of_their_phase() {
    let mut bed = Bed::new(5);
    assert_eq!(bed.one(acquire(1, 1, "a", Want::Read)), granted(2));
    assert_eq!(bed.one(acquire(2, 1, "a", Want::Read)), granted(2), "joined later");
    assert_eq!(bed.one(acquire(3, 1, "a", Want::Write)), waiting(0));
    assert_eq!(bed.one(acquire(4, 1, "a", Want::Read)), waiting(1), "not before the writer");
    assert!(matches!(bed.one(tries(5, 1, "a", Want::Read)), Answer::Taken(_)));
    bed.one(acquire(5, 2, "a", Want::Read));
    bed.all(vec![release(1, 1, "a", 2), release(2, 1, "a", 2)]);
    assert_eq!(bed.outcome(3, 1), granted(8));
    bed.one(release(3, 1, "a", 8));
    assert_eq!((bed.outcome(4, 1), bed.outcome(5, 2)), (granted(9), granted(9)), "together");
}

/// A session that reads, stops, and reads again while others read has one token twice. The release of its
/// second reading was taken for a copy of the first one's, and the lock never became free.
#[test]
fn each_reading_of_a_phase_is_released_by_itself() {
    let mut bed = Bed::new(3);
    bed.all(vec![acquire(1, 1, "a", Want::Read), acquire(2, 1, "a", Want::Read)]);
    assert_eq!(bed.one(release(1, 1, "a", 2)), Answer::Released);
    assert_eq!(bed.one(acquire(1, 2, "a", Want::Read)), granted(2));
    assert_eq!(bed.one(release(1, 1, "a", 2)), Answer::Released, "a late copy");
    assert_eq!(bed.outcome(1, 2), granted(2), "it reads on");
    assert!(matches!(bed.refused(release(1, 7, "a", 2)), Refusal::NotHolder { .. }));
    bed.all(vec![release(1, 2, "a", 2), release(2, 1, "a", 2)]);
    assert_eq!(bed.one(acquire(3, 1, "a", Want::Write)), granted(8));
}

#[test]
fn permits_are_slots_with_tokens_of_their_own() {
    let slot =
        |token, slot| Answer::Granted(Grant { token: Token(token), slot: Some(slot), ready: true });
    let mut bed = Bed::new(5);
    let all = (1..=4).map(|session| acquire(session, 1, "a", permit(2))).collect();
    assert_eq!(bed.all(all), [slot(2, 0), slot(2, 1), waiting(0), waiting(1)]);
    bed.one(release(2, 1, "a", 2));
    assert_eq!(bed.outcome(3, 1), slot(3, 1));
    bed.all(vec![release(1, 1, "a", 2), release(3, 1, "a", 3), acquire(5, 1, "a", permit(2))]);
    assert_eq!((bed.outcome(4, 1), bed.outcome(5, 1)), (slot(4, 0), slot(4, 1)));
}

#[test]
fn leader_of_an_election_changes_what_observers_see() {
    let mut bed = Bed::new(2);
    bed.one(acquire(1, 1, "a", lead("10.0.0.1")));
    bed.one(acquire(2, 1, "a", lead("10.0.0.2")));
    let set = |session, token, value| LockCommand::SetValue {
        session: SessionId(session),
        lock: name("a"),
        token: Token(token),
        value: Value::new(value).unwrap(),
    };
    assert_eq!(bed.one(set(1, 2, "new \"one\"")), Answer::Done);
    let event = bed.state.unpublished().last().unwrap();
    let json = r#"{"event":2,"lock":"a","what":"value","label":"client-1","session":1,"token":2,"time_ms":1700000000004,"holder":{"label":"client-1","session":1,"token":2,"value":"new \"one\""}}"#;
    assert_eq!((event.key(), event.value().as_deref()), ("a", Some(json)));
    assert!(matches!(bed.refused(set(2, 2, "x")), Refusal::NotHolder { .. }));
    bed.one(acquire(1, 2, "b", Want::Exclusive));
    let index = bed.index;
    let LockCommand::SetValue { session, value, .. } = set(1, index, "x") else { unreachable!() };
    let of_b = LockCommand::SetValue { session, lock: name("b"), token: Token(index), value };
    assert!(matches!(bed.refused(of_b), Refusal::NotElection { .. }));
    bed.one(close(1));
    // The last is of "b", which nobody wants any more.
    let granted = bed.state.unpublished().filter(|event| event.what == What::Granted).last();
    let holder = granted.unwrap().holder.clone().unwrap();
    let value = holder.value.unwrap();
    assert_eq!((holder.label.as_str(), value.as_str()), ("client-2", "10.0.0.2"));
}

#[test]
fn session_that_ends_releases_everything() {
    let mut bed = Bed::new(2);
    bed.one(acquire(1, 1, "a", Want::Exclusive));
    bed.one(acquire(1, 2, "b", Want::Read));
    bed.one(acquire(2, 1, "c", Want::Exclusive));
    bed.one(acquire(1, 3, "c", Want::Exclusive));
    bed.one(acquire(2, 2, "a", Want::Exclusive));
    bed.news();
    let seen = bed.state.session(SessionId(1)).unwrap().renewed;
    let expire = |seen| LockCommand::Expire { session: SessionId(1), seen };
    assert_eq!(bed.one(expire(LogIndex(seen.0 - 1))), Answer::Ignored, "it was heard of since");
    let applied = bed.apply(vec![expire(seen)]);
    let lost: Vec<_> = applied.lost.iter().map(|it| (it.lock.as_str(), it.token.0)).collect();
    assert_eq!(lost, [("a", 2), ("b", 3)]);
    assert_eq!(bed.outcome(2, 2), granted(bed.index));
    let news = bed.news();
    let of = |lock: &str, what, session| (lock.to_owned(), what, session);
    let expired = ["a", "b", "c"].map(|lock| of(lock, What::Expired, 1));
    let then = [of("a", What::Granted, 2), of("b", What::Forgotten, 0)];
    assert_eq!(news, [&expired[..], &then].concat());
    assert_eq!(bed.one(acquire(1, 9, "a", Want::Exclusive)), gone());
    assert_eq!(bed.one(release(1, 1, "a", 2)), gone());
    let Answer::Opened { session } = bed.one(open(1)) else { panic!("it opens") };
    assert_eq!(session, SessionNumber(3), "another session than before");
}

#[test]
fn cancelled_acquire_is_never_granted() {
    let mut bed = Bed::new(2);
    let cancel =
        |request| LockCommand::CancelWait { session: SessionId(2), request: RequestId(request) };
    bed.one(acquire(1, 1, "a", Want::Exclusive));
    bed.one(acquire(2, 1, "a", Want::Exclusive));
    assert_eq!(bed.one(cancel(1)), Answer::Cancelled);
    assert_eq!(bed.one(cancel(1)), Answer::Cancelled);
    bed.one(release(1, 1, "a", 2));
    let over = Refusal::RequestOver { request: RequestId(1), how: EndedHow::Cancelled };
    assert_eq!(bed.refused(acquire(2, 1, "a", Want::Exclusive)), over);
    assert_eq!(bed.one(cancel(2)), Answer::Cancelled, "before it came");
    assert!(matches!(bed.one(acquire(2, 2, "a", Want::Exclusive)), Answer::Refused(_)));
    bed.one(acquire(2, 3, "a", Want::Exclusive));
    assert_eq!(bed.one(cancel(3)), granted(bed.index - 1), "too late");
}

#[test]
fn operator_takes_a_lock_and_deletes_it() {
    let mut bed = Bed::new(3);
    let by = label("alice");
    let force = |whose| LockCommand::ForceRelease { lock: name("a"), whose, by: by.clone() };
    let delete = |forced| LockCommand::DeleteLock { lock: name("a"), forced, by: by.clone() };
    bed.one(acquire(1, 1, "a", Want::Read));
    bed.one(acquire(2, 1, "a", Want::Read));
    bed.one(acquire(3, 1, "a", Want::Write));
    let applied = bed.apply(vec![force(Some(SessionNumber(2)))]);
    assert_eq!(applied.lost.len(), 1);
    assert_eq!(bed.outcome(1, 1), granted(2));
    bed.one(force(None));
    assert_eq!(bed.outcome(3, 1), granted(6));
    assert!(matches!(bed.refused(release(1, 1, "a", 2)), Refusal::NotHolder { .. }));
    let in_use = Refusal::InUse { lock: name("a"), holders: 1, waiters: 0 };
    assert_eq!(bed.refused(delete(false)), in_use);
    bed.one(delete(true));
    let events: Vec<_> = bed.state.unpublished().cloned().collect();
    let [.., deleted, last] = &events[..] else { panic!("{events:?}") };
    assert_eq!((deleted.what, deleted.by.as_ref()), (What::Deleted, Some(&by)));
    assert_eq!((last.what, last.key(), last.value()), (What::Forgotten, "a", None));
    assert_eq!(bed.one(delete(false)), Answer::Deleted { guards: [].into() }, "again");
    bed.one(LockCommand::Acquire(Box::new(guarding(1, 5, "a", &["t"]))));
    assert_eq!(bed.one(delete(true)), Answer::Deleted { guards: [topic("t")].into() });
    assert_eq!(bed.one(acquire(1, 6, "a", Want::Exclusive)), granted(bed.index));
}

#[test]
fn lock_that_nobody_wants_any_more_ends_with_a_tombstone() {
    let mut bed = Bed::new(2);
    let last = |bed: &Bed| bed.state.unpublished().last().map(|event| (event.what, event.value()));
    bed.one(acquire(1, 1, "once", Want::Exclusive));
    bed.one(acquire(2, 1, "once", Want::Exclusive));
    bed.one(release(1, 1, "once", bed.index - 1));
    assert_eq!(last(&bed).map(|(what, _)| what), Some(What::Granted), "another has it");
    bed.one(release(2, 1, "once", bed.index));
    assert_eq!(last(&bed), Some((What::Forgotten, None)));
    bed.one(LockCommand::Acquire(Box::new(guarding(1, 2, "guard", &["t"]))));
    bed.one(release(1, 2, "guard", bed.index));
    assert_eq!(last(&bed).map(|(what, _)| what), Some(What::Released), "it guards a topic still");
}

#[test]
fn grant_is_ready_once_the_floors_of_what_it_guards_are_raised() {
    let mut bed = Bed::new(2);
    let raised = |token, topics: &[&str]| LockCommand::GuardsRaised {
        lock: name("a"),
        slot: None,
        token: Token(token),
        topics: topics.iter().map(|text| topic(text)).collect(),
    };
    let guarding = |session, request, topics| {
        LockCommand::Acquire(Box::new(guarding(session, request, "a", topics)))
    };
    let unready = Answer::Granted(Grant { token: Token(2), slot: None, ready: false });
    assert_eq!(bed.one(guarding(1, 1, &["t", "u"])), unready);
    assert_eq!(bed.one(raised(2, &["t"])), Answer::Done);
    assert_eq!(bed.outcome(1, 1), unready);
    assert_eq!(bed.one(raised(1, &["u"])), Answer::Ignored, "of another grant");
    bed.one(raised(2, &["u"]));
    assert_eq!(bed.outcome(1, 1), granted(2));
    bed.one(release(1, 1, "a", 2));
    // It guards them still, for whoever comes.
    assert_eq!(bed.state.guarded_topics().len(), 2);
    assert!(
        matches!(bed.one(acquire(2, 1, "a", Want::Exclusive)), Answer::Granted(it) if !it.ready)
    );
    let topics = bed.state.unraised(&name("a"), None, Token(bed.index));
    assert_eq!(topics.len(), 2);
    let many: Vec<_> = (0..15).map(|number| format!("more-{number}")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    let refusal = bed.refused(guarding(1, 2, &many));
    assert_eq!(refusal, Refusal::TooMany { bound: Bound::Guards });
}

#[test]
fn token_from_the_future_is_told_apart() {
    let mut bed = Bed::new(2);
    bed.one(acquire(1, 1, "a", Want::Exclusive));
    bed.one(acquire(2, 1, "a", Want::Exclusive));
    let state =
        |bed: &Bed, lock: &str, token| bed.state.token_state(&name(lock), None, Token(token));
    assert_eq!(state(&bed, "a", 2), TokenState::Held);
    assert_eq!(state(&bed, "a", 1), TokenState::Past { highest: Token(2) });
    assert_eq!(state(&bed, "a", 3), TokenState::NeverGranted, "it would shut out the holder");
    assert_eq!(state(&bed, "b", 3), TokenState::Past { highest: Token(3) });
    assert_eq!(state(&bed, "b", 4), TokenState::NeverGranted);
}

#[test]
fn bounds_are_refused_by_name_and_change_nothing() {
    let sessions = WAITERS_MAX as u128 + 2;
    let mut bed = Bed::default();
    bed.apply((1..=sessions).map(open).collect());
    for session in 1..sessions {
        bed.apply(vec![acquire(session, 1, "a", Want::Exclusive)]);
        bed.state.published(u64::MAX);
    }
    let refusal = bed.refused(acquire(sessions, 1, "a", Want::Exclusive));
    assert_eq!(refusal, Refusal::TooMany { bound: Bound::Waiters });
    assert!(refusal.to_string().starts_with("there are 10000 waiters of this lock already"));
    for number in 0..CLAIMS_PER_SESSION_MAX as u64 {
        bed.apply(vec![acquire(sessions, 2 + number, &format!("b{number}"), Want::Exclusive)]);
    }
    let refusal = bed.refused(acquire(sessions, 5_000, "c", Want::Exclusive));
    assert_eq!(refusal, Refusal::TooMany { bound: Bound::ClaimsOfSession });
}

#[test]
fn nothing_new_begins_while_too_many_events_wait() {
    let mut bed = Bed::new(2);
    let mut request = 0;
    while bed.state.unpublished().len() < EVENTS_MAX {
        request += 1;
        bed.apply(vec![acquire(1, request, "a", Want::Exclusive)]);
        let token = bed.index;
        bed.apply(vec![release(1, request, "a", token)]);
    }
    assert_eq!(bed.refused(acquire(2, 1, "a", Want::Exclusive)), Refusal::Busy);
    // A pair leaves three, so there may be a few more.
    bed.state.published(3);
    assert_eq!(bed.one(acquire(2, 2, "a", Want::Exclusive)), granted(bed.index));
    assert_eq!(bed.state.unpublished().next().unwrap().number, 3);
}

#[test]
fn description_has_the_line_in_order() {
    let mut bed = Bed::new(4);
    for session in [3, 1, 4, 2] {
        bed.one(acquire(session, 1, "a", lead("v")));
    }
    let it = bed.state.describe(&name("a"), 2).unwrap();
    let holders: Vec<_> = it.holders.iter().map(|it| (it.label.as_str(), it.token.0)).collect();
    assert_eq!(holders, [("client-3", 2)]);
    let waiters: Vec<_> = it.waiters.iter().map(|it| (it.position, it.label.as_str())).collect();
    assert_eq!(waiters, [(0, "client-1"), (1, "client-4")]);
    let list = bed.state.list(None, 10);
    assert_eq!((list[0].holders, list[0].waiters, list[0].highest), (1, 3, Some(Token(2))));
    assert!(bed.state.list(Some(&name("a")), 10).is_empty());
}

#[test]
fn what_entries_do_is_counted_once() {
    let mut bed = Bed::new(3);
    let mut sum = Tally::default();
    let seen = bed.state.session(SessionId(3)).unwrap().renewed;
    let by = label("operator");
    let force =
        |lock: &str| LockCommand::ForceRelease { lock: name(lock), whose: None, by: by.clone() };
    let delete =
        |lock: &str| LockCommand::DeleteLock { lock: name(lock), forced: true, by: by.clone() };
    for command in [
        acquire(1, 1, "a", Want::Exclusive),
        acquire(2, 1, "a", Want::Exclusive),
        release(1, 1, "a", 2),
        // The same again is nothing new.
        release(1, 1, "a", 2),
        force("a"),
        force("a"),
        acquire(1, 2, "b", Want::Exclusive),
        acquire(2, 2, "b", Want::Exclusive),
        // From who waits nothing is taken.
        delete("b"),
        LockCommand::Expire { session: SessionId(3), seen },
        LockCommand::Expire { session: SessionId(3), seen },
    ] {
        let tally = bed.apply(vec![command]).tally;
        sum.granted += tally.granted;
        sum.released += tally.released;
        sum.expired_sessions += tally.expired_sessions;
        sum.forced += tally.forced;
    }
    assert_eq!(sum, Tally { granted: 3, released: 1, expired_sessions: 1, forced: 2 });
}

#[test]
fn occupancy_is_of_all_locks() {
    let mut bed = Bed::new(3);
    bed.one(acquire(1, 1, "a", Want::Read));
    bed.one(acquire(2, 1, "a", Want::Read));
    bed.one(acquire(3, 1, "a", Want::Write));
    bed.one(acquire(3, 2, "b", Want::Exclusive));
    bed.one(acquire(1, 2, "b", Want::Exclusive));
    assert_eq!(bed.state.occupancy(), Occupancy { sessions: 3, held: 3, waiting: 2 });
    bed.one(close(3));
    assert_eq!(bed.state.occupancy(), Occupancy { sessions: 2, held: 3, waiting: 0 });
}

#[test]
fn sessions_are_listed_by_number_in_pages() {
    let mut bed = Bed::default();
    // Their ids are in no order: they are random.
    for session in [7, 3, 9, 1, 5] {
        bed.one(open(session));
    }
    bed.one(acquire(9, 1, "a", Want::Exclusive));
    bed.one(acquire(9, 2, "b", Want::Exclusive));
    bed.one(acquire(1, 1, "a", Want::Exclusive));
    let all = bed.state.list_sessions(None, 10);
    let seen: Vec<_> = all.iter().map(|it| (it.number.0, it.id.0, it.held, it.waiting)).collect();
    assert_eq!(seen, [(1, 7, 0, 0), (2, 3, 0, 0), (3, 9, 2, 0), (4, 1, 0, 1), (5, 5, 0, 0)]);
    for count in 1..=6 {
        let (mut paged, mut after) = (Vec::new(), None);
        loop {
            let page = bed.state.list_sessions(after, count);
            assert!(page.len() <= count);
            let Some(last) = page.last() else { break };
            after = Some(last.number);
            paged.extend(page);
        }
        assert_eq!(paged, all, "pages of {count}");
    }
}

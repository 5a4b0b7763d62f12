//! The keeper, step by step.

use plimsoll_locks::command::{Acquire, LockCommand, Want};
use plimsoll_locks::ids::{LeaseMs, RequestId, SessionId, SessionNumber, Token};
use plimsoll_locks::keeper::{
    AskError, ENTRIES_IN_FLIGHT_MAX, Keeper, Patience, Reply, SessionGone, Ticket,
};
use plimsoll_locks::state::{Answer, Applied};
use plimsoll_locks::time::Monotonic;

use super::bed::*;

const FIRST: Monotonic = Monotonic(1_000_000);

/// A namespace with a leader.
struct Led {
    bed: Bed,
    keeper: Keeper,
    now: Monotonic,
}

impl Led {
    fn new(sessions: u128) -> Self {
        let bed = Bed::new(sessions);
        let keeper = Keeper::new(&bed.state, FIRST);
        Self { bed, keeper, now: FIRST }
    }

    fn acquires(&mut self, acquire: Acquire, patience: Patience) -> Ticket {
        self.keeper.acquire(&self.bed.state, acquire, patience, self.now).unwrap()
    }

    fn releases(&mut self, session: u128, lock: &str, token: u64) -> Ticket {
        let (who, what) = ((SessionId(session), RequestId(1)), (name(lock), Token(token)));
        self.keeper.release(&self.bed.state, who, what, self.now).unwrap()
    }

    fn lives(&mut self, session: u128) -> Result<u64, SessionGone> {
        self.keeper.keep_alive(&self.bed.state, SessionId(session), self.now)
    }

    /// Writes one entry. How many commands it has, what it came to, and the replies.
    fn write(&mut self) -> (usize, Applied, Vec<(Ticket, Reply)>) {
        let entry = self.keeper.next_entry(&self.bed.state, self.now).unwrap();
        let applied = self.bed.apply(entry.commands.clone());
        let replies = self.keeper.applied(&entry, &applied, &self.bed.state, self.now);
        (entry.commands.len(), applied, replies)
    }

    fn replies(&mut self) -> Vec<(Ticket, Reply)> {
        self.write().2
    }

    /// Time passes, and the keeper is told as often as it wants.
    fn pass(&mut self, ms: u64) {
        let until = self.now.plus(ms);
        while self.now < until {
            self.now = self.keeper.deadline().unwrap_or(until).max(self.now.plus(1)).min(until);
            self.keeper.tick(self.now);
        }
    }

    fn nothing_to_write(&mut self) -> bool {
        self.keeper.next_entry(&self.bed.state, self.now).is_none()
    }
}

#[test]
fn waiting_acquire_is_answered_when_it_is_granted() {
    let mut led = Led::new(2);
    let first = led.acquires(asks(1, 1, "a", Want::Exclusive), Patience::Unbounded);
    let second = led.acquires(asks(2, 1, "a", Want::Exclusive), Patience::Unbounded);
    assert_eq!(led.replies(), [(first, Reply::Answer(granted(2)))]);
    let release = led.releases(1, "a", 2);
    let (commands, _, replies) = led.write();
    assert_eq!(commands, 1, "a hand-over is one entry of one command");
    let expected = [(release, Answer::Released), (second, granted(3))];
    assert_eq!(replies, expected.map(|(ticket, answer)| (ticket, Reply::Answer(answer))));
    assert!(led.nothing_to_write());
}

#[test]
fn keep_alive_is_no_entry_and_keeps_a_session() {
    let mut led = Led::new(2);
    for _ in 0..40 {
        led.pass(1_000);
        assert_eq!(led.lives(1), Ok(LEASE_MS));
        if let Some(entry) = led.keeper.next_entry(&led.bed.state, led.now) {
            let expired = SessionId(2);
            let is_expiry = |it: &LockCommand| matches!(it, LockCommand::Expire { session, .. } if *session == expired);
            assert!(entry.commands.iter().all(is_expiry));
            assert!(led.now >= FIRST.plus(LEASE_MS));
            let applied = led.bed.apply(entry.commands.clone());
            led.keeper.applied(&entry, &applied, &led.bed.state, led.now);
        }
    }
    assert_eq!(led.lives(2), Err(SessionGone));
    assert_eq!(led.lives(3), Err(SessionGone), "never there");
    assert_eq!(led.bed.index, 2, "opening, and one expiry");
}

#[test]
fn session_whose_expiry_is_being_written_is_gone() {
    let mut led = Led::new(1);
    led.pass(LEASE_MS);
    // Until it is being written, being heard of counts.
    assert_eq!(led.lives(1), Ok(LEASE_MS));
    assert!(led.nothing_to_write());
    led.pass(LEASE_MS);
    let entry = led.keeper.next_entry(&led.bed.state, led.now).unwrap();
    assert_eq!(led.lives(1), Err(SessionGone));
    let acquire = asks(1, 1, "a", Want::Exclusive);
    let asked = led.keeper.acquire(&led.bed.state, acquire, Patience::Unbounded, led.now);
    assert_eq!(asked, Err(AskError::SessionGone(SessionGone)));
    let reopened = led.keeper.open(&led.bed.state, SessionId(1), lease(), label("x"), led.now);
    assert_eq!(reopened, Err(AskError::SessionGone(SessionGone)));
    let applied = led.bed.apply(entry.commands.clone());
    led.keeper.applied(&entry, &applied, &led.bed.state, led.now);
    assert_eq!(led.bed.state.sessions().count(), 0);
    assert_eq!(led.keeper.deadline(), None, "without sessions there is nothing to look for");
}

/// The fold may be ahead of what the keeper was told: an entry that it hears of later must not bring a session back
/// that another one, behind it, ends.
#[test]
fn session_that_a_later_entry_ends_stays_gone_when_an_earlier_one_is_heard_of() {
    let mut led = Led::new(1);
    led.keeper.open(&led.bed.state, SessionId(1), lease(), label("x"), led.now).unwrap();
    let reopening = led.keeper.next_entry(&led.bed.state, led.now).unwrap();
    let reopened = led.bed.apply(reopening.commands.clone());
    led.pass(LEASE_MS);
    let expiry = led.keeper.next_entry(&led.bed.state, led.now).unwrap();
    assert!(matches!(expiry.commands[..], [LockCommand::Expire { .. }]));
    led.keeper.applied(&reopening, &reopened, &led.bed.state, led.now);
    assert_eq!(led.lives(1), Err(SessionGone));
    let expired = led.bed.apply(expiry.commands.clone());
    led.keeper.applied(&expiry, &expired, &led.bed.state, led.now);
    assert_eq!(led.bed.state.sessions().count(), 0);
    assert_eq!(led.lives(1), Err(SessionGone));
}

/// A client may go on with a session under a longer lease, and counts it from before it asked: until that is
/// written, and heard of, the shorter one does not end it.
#[test]
fn session_that_asked_for_a_longer_lease_is_not_expired_by_the_shorter_one() {
    let mut led = Led::new(1);
    let longer = LeaseMs::new(4 * LEASE_MS).unwrap();
    led.keeper.open(&led.bed.state, SessionId(1), longer, label("x"), led.now).unwrap();
    let opening = led.keeper.next_entry(&led.bed.state, led.now).unwrap();
    let opened = led.bed.apply(opening.commands.clone());
    led.pass(2 * LEASE_MS);
    assert!(
        led.nothing_to_write(),
        "the fold knows of the longer one, the keeper was not told yet"
    );
    led.keeper.applied(&opening, &opened, &led.bed.state, led.now);
    assert_eq!(led.lives(1), Ok(4 * LEASE_MS));
}

#[test]
fn few_entries_are_written_at_once_and_answered_in_their_order() {
    let mut led = Led::new(ENTRIES_IN_FLIGHT_MAX as u128 + 1);
    let mut asked = Vec::new();
    let mut entries = Vec::new();
    for session in 1..=ENTRIES_IN_FLIGHT_MAX as u128 + 1 {
        let acquire = asks(session, 1, "a", Want::Exclusive);
        asked.push(led.acquires(acquire, Patience::Unbounded));
        entries.extend(led.keeper.next_entry(&led.bed.state, led.now));
    }
    assert_eq!(entries.len(), ENTRIES_IN_FLIGHT_MAX, "the last one waits");
    let applied: Vec<_> =
        entries.iter().map(|entry| led.bed.apply(entry.commands.clone())).collect();
    let replies: Vec<_> = entries
        .iter()
        .zip(&applied)
        .flat_map(|(entry, applied)| led.keeper.applied(entry, applied, &led.bed.state, led.now))
        .collect();
    assert_eq!(replies, [(asked[0], Reply::Answer(granted(2)))], "the others wait for the lock");
    assert!(!led.nothing_to_write());
}

#[test]
fn stalled_leader_gives_the_time_back() {
    let mut led = Led::new(1);
    led.pass(LEASE_MS - 1_000);
    led.now = led.now.plus(60_000);
    led.keeper.tick(led.now);
    assert!(led.nothing_to_write(), "what the session said meanwhile may be on its way");
    led.pass(900);
    assert!(led.nothing_to_write());
    led.pass(100);
    assert!(led.keeper.next_entry(&led.bed.state, led.now).is_some(), "it was silent");
}

#[test]
fn new_leader_restarts_leases_at_full_length() {
    let mut led = Led::new(1);
    led.pass(LEASE_MS - 1);
    led.keeper = Keeper::new(&led.bed.state, led.now);
    led.pass(LEASE_MS - 1);
    assert!(led.nothing_to_write());
    led.pass(1);
    let (_, applied, _) = led.write();
    assert_eq!(applied.answers, [Answer::Done]);
}

#[test]
fn wait_that_is_over_is_cancelled_and_leaves_the_line() {
    let mut led = Led::new(3);
    led.acquires(asks(1, 1, "a", Want::Exclusive), Patience::Unbounded);
    let second = led.acquires(asks(2, 1, "a", Want::Exclusive), Patience::AtMost(700));
    let third = led.acquires(asks(3, 1, "a", Want::Exclusive), Patience::AtMost(5_000));
    led.replies();
    led.pass(699);
    assert!(led.nothing_to_write());
    led.pass(1);
    assert_eq!(led.replies(), [(second, Reply::TimedOut)]);
    led.releases(1, "a", 2);
    assert!(led.replies().contains(&(third, Reply::Answer(granted(4)))));
}

/// The grant and the end of the wait cross: the log decides, and the client is told the truth.
#[test]
fn wait_that_is_granted_as_it_ends_is_granted() {
    let mut led = Led::new(2);
    led.acquires(asks(1, 1, "a", Want::Exclusive), Patience::Unbounded);
    let second = led.acquires(asks(2, 1, "a", Want::Exclusive), Patience::AtMost(500));
    led.replies();
    led.releases(1, "a", 2);
    let entry = led.keeper.next_entry(&led.bed.state, led.now).unwrap();
    led.pass(500);
    let applied = led.bed.apply(entry.commands.clone());
    let replies = led.keeper.applied(&entry, &applied, &led.bed.state, led.now);
    assert!(replies.contains(&(second, Reply::Answer(granted(3)))));
    // The cancellation that was asked for meanwhile comes too late.
    assert_eq!(led.write().1.answers, [granted(3)]);
    assert_eq!(led.bed.outcome(2, 1), granted(3));
}

#[test]
fn acquire_that_is_asked_again_takes_the_place_of_the_first_attempt() {
    let mut led = Led::new(2);
    led.acquires(asks(1, 1, "a", Want::Exclusive), Patience::Unbounded);
    let first = led.acquires(asks(2, 1, "a", Want::Exclusive), Patience::Unbounded);
    led.replies();
    let again = led.acquires(asks(2, 1, "a", Want::Exclusive), Patience::Unbounded);
    assert_eq!(led.replies(), [(first, Reply::Superseded)]);
    led.releases(1, "a", 2);
    assert!(led.replies().contains(&(again, Reply::Answer(granted(4)))));
}

#[test]
fn grant_is_told_once_its_floors_are_raised_also_by_the_next_leader() {
    let mut led = Led::new(1);
    led.acquires(guarding(1, 1, "a", &["t"]), Patience::Unbounded);
    assert_eq!(led.replies(), []);
    let work = led.keeper.poll_guard_work(&led.bed.state).unwrap();
    assert_eq!((work.fence_name().as_str(), work.token), ("a", Token(2)));
    assert_eq!(led.keeper.poll_guard_work(&led.bed.state), None);
    // The leader dies before it says so.
    led.keeper = Keeper::new(&led.bed.state, led.now);
    let again = led.acquires(guarding(1, 1, "a", &["t"]), Patience::Unbounded);
    assert_eq!(led.replies(), []);
    assert_eq!(led.keeper.poll_guard_work(&led.bed.state).as_ref(), Some(&work));
    led.keeper.guards_failed(work.clone());
    assert_eq!(led.keeper.poll_guard_work(&led.bed.state).as_ref(), Some(&work));
    led.keeper.guards_raised(work);
    assert_eq!(led.replies(), [(again, Reply::Answer(granted(2)))]);
}

/// Those who join readers have their phase's token; what they add to the guards is raised for them, too.
#[test]
fn floors_of_a_reader_who_brings_a_guard_are_raised_as_well() {
    let mut led = Led::new(2);
    let reads = |session, topics: &[&str]| Acquire {
        want: Want::Read,
        ..guarding(session, 1, "a", topics)
    };
    led.acquires(reads(1, &["t"]), Patience::Unbounded);
    led.replies();
    let first = led.keeper.poll_guard_work(&led.bed.state).unwrap();
    let second = led.acquires(reads(2, &["u"]), Patience::Unbounded);
    assert_eq!(led.replies(), []);
    led.keeper.guards_raised(first);
    let told: Vec<_> = led.replies().into_iter().map(|(ticket, _)| ticket).collect();
    assert!(!told.contains(&second), "its own topic is not raised yet");
    let rest = led.keeper.poll_guard_work(&led.bed.state).unwrap();
    assert_eq!((rest.token, rest.topics), (Token(2), [topic("u")].into()));
}

#[test]
fn mass_expiry_costs_no_entry_per_waiter() {
    let mut led = Led::new(500);
    for session in 1..=500 {
        led.acquires(asks(session, 1, "a", Want::Exclusive), Patience::Unbounded);
    }
    led.replies();
    led.pass(LEASE_MS - 1);
    led.lives(500).unwrap();
    led.pass(1);
    let (commands, _, replies) = led.write();
    assert_eq!(commands, 499);
    assert!(replies.contains(&(Ticket(499), Reply::Answer(granted(3)))), "the only one alive");
    assert_eq!(replies.len(), 499, "those who waited hear that they are gone");
}

#[test]
fn entry_is_bounded_and_what_is_left_goes_into_the_next() {
    let mut led = Led::new(3_000);
    for session in 1..=3_000 {
        let lock = format!("lock-{session}");
        led.acquires(asks(session, 1, &lock, Want::Exclusive), Patience::Unbounded);
    }
    let mut replies = 0;
    for _ in 0..3 {
        let (commands, _, these) = led.write();
        assert!(commands <= plimsoll_locks::keeper::ENTRY_COMMANDS_MAX);
        replies += these.len();
    }
    assert_eq!(replies, 3_000);
    assert!(led.nothing_to_write());
}

#[test]
fn more_requests_than_may_wait_are_told_to_come_again() {
    let mut led = Led::new(1);
    let mut asked = 0;
    let refusal = loop {
        asked += 1;
        let deleted = led.keeper.delete(name("a"), false, label("alice"));
        match deleted {
            Ok(_) => assert!(asked < 100_000),
            Err(refusal) => break refusal,
        }
    };
    assert!(refusal.to_string().ends_with("try again in a moment"), "{refusal}");
    led.replies();
    led.acquires(asks(1, 1, "a", Want::Exclusive), Patience::Unbounded);
}

#[test]
fn an_operator_is_answered_when_all_that_were_named_have_lost_the_lock() {
    let mut led = Led::new(3);
    for session in 1..=3 {
        led.acquires(asks(session, 1, "a", Want::Read), Patience::Unbounded);
    }
    led.replies();
    let held_by = |led: &Led| -> Vec<u64> {
        let found = led.bed.state.describe(&name("a"), 0);
        let holders = found.into_iter().flat_map(|lock| lock.holders);
        holders.map(|holder| holder.session.0).collect()
    };
    assert_eq!(held_by(&led), [1, 2, 3]);
    let named = [SessionNumber(1), SessionNumber(3)];
    let ticket = led.keeper.force_release(&name("a"), &named, &label("alice")).unwrap();
    let (commands, _, replies) = led.write();
    assert_eq!((commands, replies), (2, vec![(ticket, Reply::Answer(Answer::Done))]));
    assert_eq!(held_by(&led), [2]);
    // None is named: all.
    let ticket = led.keeper.force_release(&name("a"), &[], &label("alice")).unwrap();
    assert_eq!(led.replies(), [(ticket, Reply::Answer(Answer::Done))]);
    assert!(held_by(&led).is_empty());
}

#[test]
fn session_may_ask_before_its_opening_is_written() {
    let mut led = Led::new(0);
    let session = SessionId(7);
    led.keeper.open(&led.bed.state, session, lease(), label("x"), led.now).unwrap();
    let ticket = led.acquires(asks(7, 1, "a", Want::Exclusive), Patience::Unbounded);
    assert_eq!(led.replies()[1], (ticket, Reply::Answer(granted(2))));
    let cancel = led.keeper.cancel(&led.bed.state, session, RequestId(1), led.now).unwrap();
    assert_eq!(led.replies(), [(cancel, Reply::Answer(granted(2)))]);
    led.keeper.close(&led.bed.state, session, led.now).unwrap();
    led.replies();
    assert_eq!(led.lives(7), Err(SessionGone));
}

//! Locks against a scripted node on a simulated network and a paused clock: whatever is lost, late or broken,
//! a client believes to hold what it holds and for no longer, and nothing is held that nobody knows of.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod node;

use std::time::Duration;

use plimsoll_client::{LockError, LockGuard, Locks, LossCause};
use plimsoll_protocol::api::ApiKey;
use tokio::time::{Instant, advance, sleep, timeout};

use node::Node;

const LEASE: Duration = Duration::from_secs(10);
/// What the holder takes off its lease.
const MARGIN: Duration = Duration::from_millis(150);
const LONG: Duration = Duration::from_secs(600);

async fn locks(node: &Node) -> Locks {
    node.client().await.0.locks("jobs")
}

async fn acquire(locks: &Locks, name: &str) -> LockGuard {
    timeout(LONG, locks.lock(name).acquire()).await.expect("an outcome").unwrap()
}

/// Everything that the node stops hearing or saying when its machine is gone.
const EVERYTHING: [ApiKey; 7] = [
    ApiKey::OpenLockSession,
    ApiKey::KeepLockSession,
    ApiKey::CloseLockSession,
    ApiKey::AcquireLock,
    ApiKey::CancelLock,
    ApiKey::ReleaseLock,
    ApiKey::DescribeLock,
];

#[tokio::test(start_paused = true)]
async fn a_lock_is_held_by_one_and_tokens_grow() {
    let node = Node::start();
    let (one, other) = (locks(&node).await, locks(&node).await);
    let guard = acquire(&one, "a").await;
    assert!(guard.is_held());
    let fence = guard.fence();
    assert_eq!((fence.namespace.as_str(), fence.lock.as_str()), ("jobs", "a"));
    let token = guard.token();
    match other.lock("a").try_acquire().await.unwrap_err() {
        LockError::Taken { token: Some(held), .. } => assert_eq!(held, token),
        error => panic!("{error:?}"),
    }
    let waiting = tokio::spawn(async move { acquire(&other, "a").await });
    node.until(|state| state.waiters("a") == 1).await;
    guard.release().await.unwrap();
    let next = waiting.await.unwrap();
    assert!(next.token() > token);
}

#[tokio::test(start_paused = true)]
async fn locks_of_one_handle_share_a_session_that_ends_with_the_last() {
    let node = Node::start();
    let locks = locks(&node).await;
    let (one, other) = (acquire(&locks, "a").await, acquire(&locks.clone(), "b").await);
    assert_eq!(node.state().count(ApiKey::OpenLockSession), 1);
    drop(one);
    node.until(|state| state.token("a").is_none()).await;
    assert!(other.is_held() && node.state().token("b").is_some());
    drop(locks);
    sleep(3 * LEASE).await;
    assert!(other.is_held(), "a guard keeps its session");
    let lost = other.lost();
    drop(other);
    node.until(|state| state.sessions() == 0).await;
    assert_eq!(node.state().count(ApiKey::CloseLockSession), 1);
    assert_eq!(timeout(LONG, lost).await.unwrap().why, LossCause::Released);
}

#[tokio::test(start_paused = true)]
async fn a_session_is_kept_alive_every_third_of_its_lease() {
    let node = Node::start();
    let guard = acquire(&locks(&node).await, "a").await;
    sleep(10 * LEASE).await;
    assert!(guard.is_held());
    let kept = node.state().count(ApiKey::KeepLockSession);
    assert!((29..=30).contains(&kept), "{kept}");
}

#[tokio::test(start_paused = true)]
async fn a_lock_outlives_its_connections() {
    let node = Node::start();
    let guard = acquire(&locks(&node).await, "a").await;
    for _ in 0..5 {
        node.state().breaks.insert(ApiKey::KeepLockSession);
        sleep(LEASE).await;
        assert!(guard.is_held());
    }
    let token = guard.token();
    assert_eq!(node.state().token("a"), Some(token));
    assert_eq!(node.state().count(ApiKey::OpenLockSession), 1);
    guard.release().await.unwrap();
}

/// Nothing arrives any more: the holder stops by itself, and before the node gives the lock to others.
#[tokio::test(start_paused = true)]
async fn silence_ends_a_lock_by_the_holders_own_clock_and_before_the_nodes() {
    let node = Node::start();
    let began = Instant::now();
    let guard = acquire(&locks(&node).await, "a").await;
    node.state().deaf.extend(EVERYTHING);
    let lost = timeout(LONG, guard.lost()).await.unwrap();
    assert_eq!((lost.why, lost.token), (LossCause::LeaseRanOut, guard.token()));
    assert!(!guard.is_held());
    let elapsed = began.elapsed();
    assert!(elapsed >= LEASE - MARGIN && elapsed < LEASE - MARGIN / 2, "{elapsed:?}");
    assert!(node.state().token("a").is_some(), "the node still counts");
    sleep(MARGIN).await;
    assert_eq!(node.state().token("a"), None);
}

/// Answers are lost, and the node hears everything: its lease goes on, the holder's does not.
#[tokio::test(start_paused = true)]
async fn answers_that_do_not_come_renew_nothing() {
    let node = Node::start();
    let locks = locks(&node).await;
    let guard = acquire(&locks, "a").await;
    node.state().mute.insert(ApiKey::KeepLockSession);
    let lost = timeout(LONG, guard.lost()).await.unwrap();
    assert_eq!(lost.why, LossCause::LeaseRanOut);
    // It says that it is over, so that nobody waits for the rest of the node's lease.
    node.until(|state| state.sessions() == 0).await;
    assert_eq!(node.state().count(ApiKey::CloseLockSession), 1);
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_was_suspended_holds_nothing_on_its_next_look() {
    let node = Node::start();
    let (client, clock) = node.client().await;
    let locks = client.locks("jobs");
    let guard = acquire(&locks, "a").await;
    let seen = node.state().seen.len();
    clock.suspend(LEASE - MARGIN - Duration::from_millis(1));
    assert!(guard.is_held());
    clock.suspend(Duration::from_millis(1));
    // No task has run in between.
    assert!(!guard.is_held());
    assert_eq!(node.state().seen.len(), seen, "nobody was asked");
    let error = guard.set_value("x").await.unwrap_err();
    assert!(
        matches!(&error, LockError::Lost(lost) if lost.why == LossCause::LeaseRanOut),
        "{error:?}"
    );
    let error = guard.release().await.unwrap_err();
    assert!(matches!(error, LockError::Lost(_)), "{error:?}");
    // The next acquire is of a new session.
    let again = acquire(&locks, "a").await;
    assert!(again.is_held());
    assert_eq!(node.state().count(ApiKey::OpenLockSession), 2);
}

/// The process was stopped: the answer to its keep-alive lies there and is too late.
#[tokio::test(start_paused = true)]
async fn a_process_that_was_stopped_holds_nothing_on_its_next_look() {
    let node = Node::start();
    let guard = acquire(&locks(&node).await, "a").await;
    advance(2 * LEASE).await;
    assert!(!guard.is_held());
    let lost = timeout(LONG, guard.lost()).await.unwrap();
    assert_eq!(lost.why, LossCause::LeaseRanOut);
    sleep(LEASE).await;
    assert!(!guard.is_held(), "what is lost stays lost");
}

#[tokio::test(start_paused = true)]
async fn a_grant_that_was_answered_while_the_process_was_stopped_is_none() {
    let node = Node::start();
    let (client, clock) = node.client().await;
    let locks = client.locks("jobs");
    let other = acquire(&locks, "other").await;
    let mut acquiring = Box::pin(locks.lock("a").acquire());
    assert!(timeout(Duration::ZERO, &mut acquiring).await.is_err());
    node.until(|state| state.token("a").is_some()).await;
    clock.suspend(LEASE);
    let error = timeout(LONG, acquiring).await.unwrap().unwrap_err();
    assert!(
        matches!(error, LockError::SessionOver { cause: LossCause::LeaseRanOut, .. }),
        "{error:?}"
    );
    assert!(!other.is_held());
}

#[tokio::test(start_paused = true)]
async fn a_node_that_forgot_the_session_ends_its_locks() {
    let node = Node::start();
    let guard = acquire(&locks(&node).await, "a").await;
    node.forget_sessions();
    let began = Instant::now();
    let lost = timeout(LONG, guard.lost()).await.unwrap();
    assert_eq!(lost.why, LossCause::SessionGone);
    assert!(began.elapsed() <= LEASE / 3 + MARGIN, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn whoever_awaits_the_loss_learns_that_an_operator_took_the_lock() {
    let node = Node::start();
    let guard = acquire(&locks(&node).await, "a").await;
    let lost = guard.lost();
    node.force("a");
    let lost = timeout(LEASE, lost).await.unwrap();
    assert_eq!(lost.why, LossCause::TakenAway);
    assert!(!guard.is_held());
}

#[tokio::test(start_paused = true)]
async fn release_of_a_lock_that_was_taken_away_says_so() {
    let node = Node::start();
    let guard = acquire(&locks(&node).await, "a").await;
    node.force("a");
    let error = guard.release().await.unwrap_err();
    assert!(matches!(error, LockError::NotHolder { .. }), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn an_acquire_whose_answer_is_lost_is_sent_again_and_is_the_same() {
    let node = Node::start();
    let locks = locks(&node).await;
    let first = acquire(&locks, "other").await;
    node.state().breaks.insert(ApiKey::AcquireLock);
    let guard = acquire(&locks, "a").await;
    assert_eq!(node.state().token("a"), Some(guard.token()));
    let numbers: Vec<u64> = {
        let state = node.state();
        let acquires = state.seen.iter().filter(|(api, _)| *api == ApiKey::AcquireLock);
        acquires.map(|(_, number)| *number).collect()
    };
    assert_eq!(numbers, [1, 2, 2]);
    assert!(first.is_held());
}

#[tokio::test(start_paused = true)]
async fn a_release_whose_answer_is_lost_is_sent_again() {
    let node = Node::start();
    let locks = locks(&node).await;
    let guard = acquire(&locks, "a").await;
    node.state().breaks.insert(ApiKey::ReleaseLock);
    let outcome = guard.release().await;
    // The scripted node has forgotten the first; a real one answers as the first time.
    assert!(matches!(outcome, Err(LockError::NotHolder { .. })), "{outcome:?}");
    assert_eq!(node.state().count(ApiKey::ReleaseLock), 2);
    assert_eq!(node.state().token("a"), None);
}

#[tokio::test(start_paused = true)]
async fn an_acquire_that_is_dropped_while_it_waits_leaves_the_line() {
    let node = Node::start();
    let (one, other) = (locks(&node).await, locks(&node).await);
    let guard = acquire(&one, "a").await;
    let mut waiting = Box::pin(other.lock("a").acquire());
    assert!(timeout(Duration::from_secs(1), &mut waiting).await.is_err());
    assert_eq!(node.state().waiters("a"), 1);
    drop(waiting);
    node.until(|state| state.waiters("a") == 0).await;
    assert!(node.state().seen.contains(&(ApiKey::CancelLock, 1)));
    assert!(guard.is_held() && node.state().sessions() == 2);
}

/// It was granted, the answer was lost, and nobody waits for it any more.
#[tokio::test(start_paused = true)]
async fn a_grant_that_nobody_heard_of_is_given_up() {
    let node = Node::start();
    let locks = locks(&node).await;
    let kept = acquire(&locks, "other").await;
    node.state().mute.insert(ApiKey::AcquireLock);
    let mut waiting = Box::pin(locks.lock("a").acquire());
    assert!(timeout(Duration::from_secs(1), &mut waiting).await.is_err());
    assert!(node.state().token("a").is_some());
    // The first word of it is lost as well.
    node.state().breaks.insert(ApiKey::CancelLock);
    drop(waiting);
    node.until(|state| state.token("a").is_none()).await;
    assert!(kept.is_held() && node.state().token("other").is_some());
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_when_it_was_said_to_and_nothing_is_held() {
    let node = Node::start();
    let (one, other) = (locks(&node).await, locks(&node).await);
    let guard = acquire(&one, "a").await;
    let began = Instant::now();
    let wait = Duration::from_secs(25);
    let error = other.lock("a").wait(wait).acquire().await.unwrap_err();
    assert!(matches!(error, LockError::TimedOut { waited, .. } if waited == wait), "{error:?}");
    let elapsed = began.elapsed();
    assert!(elapsed >= wait && elapsed < wait + Duration::from_millis(200), "{elapsed:?}");
    assert_eq!(node.state().waiters("a"), 0);
    assert!(guard.is_held());
}

/// Neither the acquire nor its cancelling is answered: that is said, and given up as soon as it can be.
#[tokio::test(start_paused = true)]
async fn what_is_not_known_is_said_and_given_up_later() {
    let node = Node::start();
    let locks = locks(&node).await;
    let kept = acquire(&locks, "other").await;
    node.state().mute.insert(ApiKey::AcquireLock);
    node.state().deaf.insert(ApiKey::CancelLock);
    let error = timeout(LONG, locks.lock("a").try_acquire()).await.unwrap().unwrap_err();
    assert!(matches!(error, LockError::OutcomeUnknown { .. }), "{error:?}");
    assert!(node.state().token("a").is_some());
    node.state().deaf.clear();
    // What is on its way on this connection stays lost.
    node.state().breaks.insert(ApiKey::KeepLockSession);
    node.until(|state| state.token("a").is_none()).await;
    assert!(kept.is_held());
}

#[tokio::test(start_paused = true)]
async fn closing_gives_up_everything_and_tells_who_waits() {
    let node = Node::start();
    let (one, other) = (locks(&node).await, locks(&node).await);
    let guard = acquire(&one, "a").await;
    let held = acquire(&other, "b").await;
    let waiting = {
        let other = other.clone();
        tokio::spawn(async move { other.lock("a").acquire().await.map(drop) })
    };
    node.until(|state| state.waiters("a") == 1).await;
    other.close().await;
    assert_eq!(node.state().sessions(), 1);
    let error = timeout(LONG, waiting).await.unwrap().unwrap().unwrap_err();
    assert!(matches!(error, LockError::SessionOver { cause: LossCause::Closed, .. }), "{error:?}");
    assert!(!held.is_held() && guard.is_held());
}

#[tokio::test(start_paused = true)]
async fn bad_input_is_refused_before_anything_is_sent() {
    let node = Node::start();
    let (client, _clock) = node.client().await;
    let seen = node.state().seen.len();
    let locks = client.locks("jobs");
    let year = Duration::from_secs(365 * 24 * 3_600);
    let big = "n".repeat(1 << 20);
    for (lock, part) in [
        (locks.lock(big), "1 to 255"),
        (locks.lock(""), "1 to 255"),
        (locks.lock("a#1"), "'#'"),
        (locks.clone().lease(Duration::ZERO).lock("a"), "1 s to 10 min"),
        (locks.clone().lease(year).lock("a"), "1 s to 10 min"),
        (locks.clone().label("").lock("a"), "1 to 255"),
        (locks.lock("a").permit_of(0), "1 to 1024"),
        (locks.lock("a").lead("v".repeat(1_025)), "1024"),
        (locks.lock("a").guards(["a b"]), "guards"),
        (client.lock("a/b", "a"), "namespace"),
    ] {
        let error = lock.acquire().await.unwrap_err();
        assert!(matches!(error, LockError::Input(_)), "{error:?}");
        assert!(error.to_string().contains(part), "{error}");
    }
    assert_eq!(node.state().seen.len(), seen);
}

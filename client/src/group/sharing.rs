//! What a group's consumer and its member's task have in common: which partitions records may be handed out
//! of, and how far each is worked off.
//!
//! A grant is one time of owning a partition. A record counts as processed when the next one is asked for.
//! Invariant: no record of a grant is handed out after [`Sharing::stop`] of it, nor after the session.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard};

use plimsoll_protocol::ids::{Offset, TopicName};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::error::GroupError;

/// Which time of owning a partition.
pub(super) type Grant = u64;

/// See the module.
pub(super) struct Sharing {
    state: Mutex<State>,
    /// Wakes the member's task when it has something to look at.
    pub(super) changed: Notify,
    /// Whether what was handed out and not committed is remembered when it goes, to be told.
    tells_lost: bool,
}

#[derive(Default)]
struct State {
    grants: BTreeMap<Grant, Handing>,
    /// What was handed out last, and the offset behind it, until it is processed.
    out: Option<(Grant, Offset)>,
    stopping: usize,
    /// When the session is over; none: there is no session.
    until: Option<Instant>,
    /// Processed and not committed when they went.
    lost: BTreeSet<(TopicName, u32)>,
    end: Option<GroupError>,
}

/// How far a grant is.
struct Handing {
    topic: TopicName,
    partition: u32,
    /// The offset behind what is processed; none before the first news.
    position: Option<Offset>,
    committed: Option<Offset>,
    /// Something was processed.
    is_used: bool,
    is_stopping: bool,
    is_spoilt: bool,
}

impl Handing {
    fn is_live(&self) -> bool {
        !self.is_stopping && !self.is_spoilt
    }

    fn uncommitted(&self) -> Option<Offset> {
        self.position.filter(|position| Some(*position) != self.committed)
    }
}

impl State {
    fn is_over(&self, now: Instant) -> bool {
        self.until.is_none_or(|until| now >= until)
    }

    fn process(&mut self) -> bool {
        let Some((grant, next)) = self.out.take() else { return false };
        if let Some(handing) = self.grants.get_mut(&grant) {
            (handing.position, handing.is_used) = (Some(next), true);
        }
        self.stopping > 0
    }
}

/// What the consumer does.
impl Sharing {
    pub(super) fn new(tells_lost: bool) -> Self {
        Self { state: Mutex::default(), changed: Notify::new(), tells_lost }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds this lock")
    }

    /// What was handed out last is processed.
    pub(super) fn processed(&self) {
        if self.state().process() {
            self.changed.notify_one();
        }
    }

    /// Whether records of the grant may be handed out.
    pub(super) fn is_live(&self, grant: Grant) -> bool {
        self.state().grants.get(&grant).is_some_and(Handing::is_live)
    }

    /// The partition of a grant cannot be read on: nothing more of it is handed out. Which it is, if the
    /// grant is live.
    pub(super) fn spoil(&self, grant: Grant) -> Option<(TopicName, u32)> {
        let mut state = self.state();
        let handing = state.grants.get_mut(&grant).filter(|handing| handing.is_live())?;
        handing.is_spoilt = true;
        Some((handing.topic.clone(), handing.partition))
    }

    /// The grant is read from here on.
    pub(super) fn began(&self, grant: Grant, start: Offset) {
        if let Some(handing) = self.state().grants.get_mut(&grant) {
            handing.position = Some(start);
        }
    }

    /// Everything up to `next` was handed out and is processed, also the offsets that have no record any more.
    pub(super) fn passed(&self, grant: Grant, next: Offset) {
        if let Some(handing) = self.state().grants.get_mut(&grant)
            && handing.is_live()
        {
            handing.position = handing.position.max(Some(next));
        }
    }

    /// A record is to be handed out, `next` is behind it: its place, or `None` when it must not be.
    pub(super) fn hand_out(
        &self,
        grant: Grant,
        next: Offset,
        now: Instant,
    ) -> Option<(TopicName, u32)> {
        let mut state = self.state();
        if state.is_over(now) {
            // It is over for good, whatever answer may still come: records were withheld.
            if state.until.take().is_some() {
                self.changed.notify_one();
            }
            return None;
        }
        let handing = state.grants.get(&grant).filter(|handing| handing.is_live())?;
        let place = (handing.topic.clone(), handing.partition);
        state.out = Some((grant, next));
        Some(place)
    }

    /// What the member owns and has not been asked to give up.
    pub(super) fn assignment(&self) -> Vec<(TopicName, u32)> {
        let state = self.state();
        let live = state.grants.values().filter(|handing| !handing.is_stopping);
        let mut assignment: Vec<_> =
            live.map(|handing| (handing.topic.clone(), handing.partition)).collect();
        assignment.sort();
        assignment
    }

    /// Why the consumer has ended, told once.
    pub(super) fn take_end(&self) -> Option<GroupError> {
        self.state().end.take()
    }
}

/// What the member's task does.
impl Sharing {
    /// The member has joined; its session lasts until then.
    pub(super) fn open_session(&self, until: Instant) {
        self.state().until = Some(until);
    }

    /// The session lasts until then; `false` when it was over before that was known.
    pub(super) fn renew(&self, until: Instant, now: Instant) -> bool {
        let mut state = self.state();
        if state.is_over(now) {
            return false;
        }
        state.until = state.until.max(Some(until));
        true
    }

    /// When the session is over; `None` when it is.
    pub(super) fn session_until(&self, now: Instant) -> Option<Instant> {
        let state = self.state();
        if state.is_over(now) { None } else { state.until }
    }

    pub(super) fn begin(&self, grant: Grant, topic: TopicName, partition: u32) {
        let handing = Handing {
            topic,
            partition,
            position: None,
            committed: None,
            is_used: false,
            is_stopping: false,
            is_spoilt: false,
        };
        self.state().grants.insert(grant, handing);
    }

    /// Nothing more of the grant is handed out.
    pub(super) fn stop(&self, grant: Grant) {
        let mut state = self.state();
        if let Some(handing) = state.grants.get_mut(&grant)
            && !std::mem::replace(&mut handing.is_stopping, true)
        {
            state.stopping += 1;
        }
    }

    /// Whether everything of a grant that is to stop is processed.
    pub(super) fn is_stopped(&self, grant: Grant) -> bool {
        let state = self.state();
        let out = state.out.is_some_and(|(of, _)| of == grant);
        !out && state.grants.get(&grant).is_none_or(|handing| handing.is_stopping)
    }

    /// What was handed out last will not be processed: nobody is there any more.
    pub(super) fn abandon(&self) {
        self.state().out = None;
    }

    /// The grant is over.
    pub(super) fn end(&self, grant: Grant) {
        let mut state = self.state();
        let Some(handing) = state.grants.remove(&grant) else { return };
        state.stopping -= usize::from(handing.is_stopping);
        if self.tells_lost && handing.is_used && handing.uncommitted().is_some() {
            state.lost.insert((handing.topic, handing.partition));
        }
    }

    /// The session is over, and everything with it.
    pub(super) fn end_all(&self) {
        let grants: Vec<_> = {
            let mut state = self.state();
            // Whoever has it processes it; what it says of it counts no more.
            state.process();
            state.until = None;
            state.grants.keys().copied().collect()
        };
        grants.into_iter().for_each(|grant| self.end(grant));
    }

    pub(super) fn fail(&self, error: GroupError) {
        self.state().end = Some(error);
    }

    /// What is processed of a grant and not committed.
    pub(super) fn uncommitted(&self, grant: Grant) -> Option<Offset> {
        self.state().grants.get(&grant)?.uncommitted()
    }

    /// The same of all grants.
    pub(super) fn all_uncommitted(&self) -> Vec<(Grant, Offset)> {
        let state = self.state();
        let due = |(grant, handing): (&Grant, &Handing)| Some((*grant, handing.uncommitted()?));
        state.grants.iter().filter_map(due).collect()
    }

    /// The offset is committed, or was before the grant.
    pub(super) fn committed(&self, grant: Grant, offset: Offset) {
        if let Some(handing) = self.state().grants.get_mut(&grant) {
            handing.committed = Some(offset);
        }
    }

    /// What has gone with something that was not committed, told once.
    pub(super) fn take_lost(&self) -> Vec<(TopicName, u32)> {
        std::mem::take(&mut self.state().lost).into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn sharing() -> (Sharing, Instant) {
        let (sharing, now) = (Sharing::new(true), Instant::now());
        sharing.open_session(now + Duration::from_secs(10));
        for grant in [1, 2] {
            sharing.begin(grant, "t".parse().unwrap(), grant as u32);
            sharing.committed(grant, Offset(5));
            sharing.began(grant, Offset(5));
        }
        (sharing, now)
    }

    #[test]
    fn record_counts_when_the_next_one_is_asked_for() {
        let (sharing, now) = sharing();
        assert!(sharing.hand_out(1, Offset(6), now).is_some());
        assert_eq!(sharing.uncommitted(1), None, "it is being processed");
        sharing.processed();
        assert_eq!(sharing.all_uncommitted(), [(1, Offset(6))]);
        sharing.committed(1, Offset(6));
        assert_eq!(sharing.all_uncommitted(), []);
    }

    #[test]
    fn stopped_grant_hands_out_nothing_and_waits_for_what_is_out() {
        let (sharing, now) = sharing();
        sharing.hand_out(1, Offset(6), now).unwrap();
        sharing.stop(1);
        sharing.stop(2);
        assert_eq!((sharing.is_stopped(1), sharing.is_stopped(2)), (false, true));
        assert_eq!(sharing.hand_out(1, Offset(7), now), None);
        sharing.processed();
        assert!(sharing.is_stopped(1));
        assert_eq!(sharing.uncommitted(1), Some(Offset(6)));
        sharing.end(1);
        sharing.end(2);
        assert_eq!(sharing.take_lost(), [("t".parse().unwrap(), 1)], "it was not committed");
        assert_eq!(sharing.take_lost(), []);
    }

    #[test]
    fn session_that_was_seen_to_be_over_is_not_renewed() {
        let (sharing, now) = sharing();
        let (later, until) = (now + Duration::from_secs(10), now + Duration::from_secs(20));
        assert!(sharing.renew(until, now));
        assert_eq!(sharing.session_until(later), Some(until));
        assert_eq!(sharing.hand_out(1, Offset(6), until), None);
        assert!(!sharing.renew(until + Duration::from_secs(10), later));
        assert_eq!(sharing.session_until(later), None);
        sharing.end_all();
        assert_eq!(sharing.assignment(), []);
        sharing.open_session(until);
        sharing.begin(3, "t".parse().unwrap(), 3);
        assert_eq!(sharing.assignment(), [("t".parse().unwrap(), 3)]);
        assert!(sharing.hand_out(1, Offset(6), now).is_none(), "of an earlier time");
    }
}

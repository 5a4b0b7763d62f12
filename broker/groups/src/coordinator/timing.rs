//! What time does: sessions end, revocations are overdue, offsets that nobody needs expire.

use std::collections::BTreeSet;

use super::Coordinator;
use crate::command::Removal;
use crate::state::{GroupState, Groups};
use crate::time::{Monotonic, Now};

/// A leader that comes so much too late, in milliseconds, was stalled itself; members are not to blame.
const STALL_MS: u64 = 1_000;

/// How often all groups are looked through, in milliseconds.
const SWEEP_MS: u64 = 60_000;

/// How long a leader has seen a group without members, in milliseconds, before it lets it expire: a wall
/// clock that jumped ahead has been set right by then.
const QUIET_SEEN_MS: u64 = 60 * 60 * 1_000;

impl Coordinator {
    /// Carries out what is due. Never ends a session early; a leader that was not asked for more than a
    /// second after one was due gives all of them that time back, and a second more.
    pub fn advance(&mut self, state: &Groups, now: Now) {
        self.notice_stall(now.monotonic);
        while let Some((deadline, name, id)) = self.deadlines.first().cloned()
            && deadline <= now.monotonic
        {
            self.change_session(&name, id, |session| {
                let ended = session.end <= now.monotonic;
                let why = if ended { Removal::SessionEnded } else { Removal::RevocationOverdue };
                session.over = Some(why);
            });
            self.dirty.insert(name);
        }
        if self.next_sweep <= now.monotonic {
            self.sweep(state, now);
            self.next_sweep = now.monotonic.plus(SWEEP_MS);
        }
    }

    /// When to call [`Coordinator::advance`] again, if nothing else happens; never, without groups.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Monotonic> {
        let sweep = (!self.views.is_empty()).then_some(self.next_sweep);
        let first = self.deadlines.first().map(|(deadline, ..)| *deadline);
        first.into_iter().chain(sweep).min()
    }

    fn notice_stall(&mut self, now: Monotonic) {
        let Some((first, ..)) = self.deadlines.first() else { return };
        let late = now.0.saturating_sub(first.0);
        if late <= STALL_MS {
            return;
        }
        let back = late + STALL_MS;
        let moved = std::mem::take(&mut self.deadlines).into_iter();
        self.deadlines = moved.map(|(at, name, id)| (at.plus(back), name, id)).collect();
        for session in self.views.values_mut().flat_map(|view| view.sessions.values_mut()) {
            session.end = session.end.plus(back);
            session.revoke_by = session.revoke_by.map(|by| by.plus(back));
        }
    }

    /// Looks for groups that are to expire, and for topics that are deleted.
    fn sweep(&mut self, state: &Groups, now: Now) {
        let empty = |(name, view): (&_, &super::View)| {
            (view.requests == 0 && state.get(name).is_none()).then(|| Clone::clone(name))
        };
        let empty: Vec<_> = self.views.iter().filter_map(empty).collect();
        empty.iter().for_each(|name| self.close(name, now.monotonic));
        let retention = self.limits.offsets_retention_ms;
        for (name, group) in state.iter() {
            let Some(view) = self.views.get_mut(name) else { continue };
            view.forget = used_topics(group);
            view.forget.retain(|&topic| self.topics.is_deleted(topic));
            let seen = now.monotonic.0.saturating_sub(view.quiet_from.0);
            view.expires = group.members().is_empty()
                && seen >= retention.min(QUIET_SEEN_MS)
                && group.quiet_since().plus(retention) <= now.unix;
            if view.expires || !view.forget.is_empty() {
                self.dirty.insert(name.clone());
            }
        }
    }
}

/// The topics in which a group has committed offsets, or owners.
fn used_topics(group: &GroupState) -> BTreeSet<crate::ids::TopicId> {
    let owned = group.members().values().flat_map(|member| member.owns().keys());
    group.offsets().keys().chain(owned).map(|at| at.topic).collect()
}

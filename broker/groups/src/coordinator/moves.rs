//! What is to be written into the log, and what follows once it is.
//!
//! What members asked for is queued. What is to be taken, given or ended is not: it is read from the
//! state and from what members said whenever an entry is made. None is being written then, so the state
//! is all there is, and nothing is decided twice.

use std::collections::{BTreeMap, BTreeSet};

use super::view::View;
use super::{Asked, Coordinator, Pending, Ticket};
use crate::command::{GroupCommand, GroupsEntry, Removal};
use crate::coordinator::Assignment;
use crate::ids::{GroupName, MemberId, TopicPartition};
use crate::state::{Answer, GroupState, Groups, Refusal};
use crate::time::Monotonic;

/// Most partitions that one command gives.
const GRANT_PARTITIONS_MAX: usize = 10_000;

/// Beyond so many bytes of takings and givings an entry takes no other group's.
const MOVES_BYTES_MAX: usize = 262_144;

/// What a request came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// It is a member, and may work on this.
    Joined(Assignment),
    /// It is so, and survives the leader.
    Done,
    /// The offsets are committed, but for these, which the member does not own: rising.
    Committed {
        /// Usually none.
        not_owned: Vec<TopicPartition>,
    },
    /// Nothing changed.
    Refused(Refusal),
}

impl Coordinator {
    /// The next control entry to propose, if there is something to write. One at a time: while it is
    /// being written the next one gathers. Nothing of it is so until it is committed and
    /// [`Coordinator::applied`]. About `pending_bytes_max` long at most, and half a MiB.
    pub fn propose(&mut self, state: &Groups) -> Option<GroupsEntry> {
        if self.in_flight.is_some() {
            return None;
        }
        let mut entry = GroupsEntry::default();
        let mut asked = Vec::with_capacity(self.pending.len());
        // All requests, and before the moves: a commit goes before the release of what it is in.
        for pending in self.pending.drain(..) {
            entry.push(&pending.group, pending.command);
            asked.push(Some(pending.asked));
        }
        self.pending_bytes = 0;
        let mut bytes = 0;
        while bytes < MOVES_BYTES_MAX
            && let Some(name) = self.dirty.pop_first()
        {
            let (Some(group), Some(view)) = (state.get(&name), self.views.get(&name)) else {
                continue;
            };
            for command in moves(group, view) {
                if bytes >= MOVES_BYTES_MAX {
                    self.dirty.insert(name.clone());
                    break;
                }
                bytes += weight(&command);
                entry.push(&name, command);
                asked.push(None);
            }
        }
        if asked.is_empty() {
            return None;
        }
        self.in_flight = Some(asked);
        Some(entry)
    }

    /// The proposed entry certainly did not enter the log and this node still leads: what was asked for
    /// is given by [`Coordinator::propose`] again, before anything else.
    ///
    /// # Panics
    /// When no entry was being written.
    pub fn refused(&mut self, entry: GroupsEntry) {
        let asked = self.in_flight.take().expect("an entry was being written");
        let sections = entry.sections.into_iter();
        let commands = sections.flat_map(|(group, commands)| {
            commands.into_iter().map(move |command| (group.clone(), command))
        });
        let mut again = Vec::new();
        for ((group, command), asked) in commands.zip(asked) {
            match asked {
                Some(asked) => {
                    self.pending_bytes += weight(&command);
                    again.push(Pending { group, command, asked });
                }
                None => drop(self.dirty.insert(group)),
            }
        }
        again.into_iter().rev().for_each(|pending| self.pending.push_front(pending));
    }

    /// The proposed entry is committed and `state` has folded it, with these answers. Gives the replies
    /// to those who asked.
    ///
    /// # Panics
    /// When another entry was being written.
    pub fn applied(
        &mut self,
        entry: &GroupsEntry,
        answers: &[Answer],
        state: &Groups,
        now: Monotonic,
    ) -> Vec<(Ticket, Reply)> {
        let asked = self.in_flight.take().expect("an entry was being written");
        assert_eq!(asked.len(), answers.len(), "every command has an answer");
        let mut touched: BTreeMap<&GroupName, Touched> = BTreeMap::new();
        for ((name, command), asked) in entry.commands().zip(&asked) {
            touched.entry(name).or_default().by(command);
            if let (Some(asked), Some(view)) = (asked, self.views.get_mut(name)) {
                view.members_coming -= asked.members;
                view.offsets_coming -= asked.offsets;
                view.requests -= 1;
            }
        }
        for (name, touched) in touched {
            self.follow(name, &touched, state, now);
        }
        let commands = entry.commands().zip(answers).zip(asked);
        commands
            .filter_map(|(((name, command), answer), asked)| {
                let Asked { ticket, .. } = asked?;
                Some((ticket, self.reply(state, name, command, answer)))
            })
            .collect()
    }

    /// Makes what is remembered of a group agree with its state again.
    fn follow(&mut self, name: &GroupName, touched: &Touched, state: &Groups, now: Monotonic) {
        if let Some(view) = self.views.get_mut(name) {
            view.expires &= !touched.topics;
            if touched.topics {
                view.forget.clear();
            }
        }
        match state.get(name) {
            None => self.close(name, now),
            Some(group) if touched.members || touched.topics => {
                self.members_changed(name, group, &touched.joined, now);
            }
            Some(group) if touched.moves => self.look_again(name, group, now),
            Some(_) => {}
        }
    }

    /// A group has no members and no offsets: nothing is remembered of it, but for what is asked.
    pub(super) fn close(&mut self, name: &GroupName, now: Monotonic) {
        let Some(view) = self.views.get_mut(name) else { return };
        for (&id, session) in &view.sessions {
            self.deadlines.remove(&(session.deadline(), name.clone(), id));
        }
        if view.requests == 0 {
            self.views.remove(name);
        } else {
            view.sessions.clear();
            view.target.clear();
            view.quiet_from = now;
        }
    }

    fn reply(
        &mut self,
        state: &Groups,
        name: &GroupName,
        command: &GroupCommand,
        answer: &Answer,
    ) -> Reply {
        match (command, answer) {
            // Somebody may have taken its place in the same entry.
            (GroupCommand::Join { member, .. }, Answer::Done) => {
                let gone = Reply::Refused(Refusal::Fenced { member: *member });
                self.tell(state, name, *member).map_or(gone, Reply::Joined)
            }
            // It wanted to be gone, and is.
            (GroupCommand::Remove { .. }, _) | (_, Answer::Done) => Reply::Done,
            (_, Answer::Committed { not_owned }) => {
                Reply::Committed { not_owned: not_owned.clone() }
            }
            (_, Answer::Refused(refusal)) => Reply::Refused(refusal.clone()),
        }
    }
}

/// What an entry did to a group.
#[derive(Debug, Default)]
struct Touched {
    joined: BTreeSet<MemberId>,
    members: bool,
    moves: bool,
    topics: bool,
}

impl Touched {
    fn by(&mut self, command: &GroupCommand) {
        match command {
            GroupCommand::Join { member, .. } => {
                self.joined.insert(*member);
                self.members = true;
            }
            GroupCommand::Remove { .. } | GroupCommand::Delete { .. } => self.members = true,
            GroupCommand::Grant { .. } | GroupCommand::Release { .. } => self.moves = true,
            GroupCommand::Forget { .. } | GroupCommand::Expire { .. } => self.topics = true,
            GroupCommand::Commit { .. } | GroupCommand::Reset { .. } => {}
        }
    }
}

/// What there is to end, to take and to give in a group.
fn moves(group: &GroupState, view: &View) -> Vec<GroupCommand> {
    let mut commands = Vec::new();
    for (&member, session) in &view.sessions {
        let Some(it) = group.members().get(&member) else { continue };
        if let Some(why) = session.over.filter(|why| *why != Removal::Left) {
            commands.push(GroupCommand::Remove { member, epoch: it.joined, why });
        }
        let released =
            session.released.iter().filter(|(at, since)| it.owns().get(at) == Some(since));
        let partitions: Vec<_> = released.clone().map(|(at, _)| *at).collect();
        if let Some(epoch) = released.map(|(_, since)| *since).max() {
            commands.push(GroupCommand::Release { member, epoch, partitions });
        }
    }
    for (&member, target) in &view.target {
        if view.sessions.get(&member).is_none_or(|session| session.over.is_some()) {
            continue;
        }
        let free = target.iter().filter(|at| group.owner(**at).is_none());
        let free: Vec<_> = free.copied().collect();
        for partitions in free.chunks(GRANT_PARTITIONS_MAX) {
            let partitions = partitions.to_vec();
            commands.push(GroupCommand::Grant { member, partitions });
        }
    }
    commands.extend(view.forget.iter().map(|&topic| GroupCommand::Forget { topic }));
    if view.expires {
        commands.push(GroupCommand::Expire { quiet_since: group.quiet_since() });
    }
    commands
}

/// About how many bytes a command takes in an entry, with its group's name.
pub(super) fn weight(command: &GroupCommand) -> usize {
    const EACH: usize = 300;
    EACH + match command {
        GroupCommand::Join { spec, .. } => {
            spec.client.len()
                + spec.instance.as_ref().map_or(0, String::len)
                + 8 * spec.topics.len()
        }
        GroupCommand::Grant { partitions, .. } | GroupCommand::Release { partitions, .. } => {
            12 * partitions.len()
        }
        GroupCommand::Commit { offsets, .. } => {
            let metadata = offsets.iter().filter_map(|item| item.metadata.as_deref());
            21 * offsets.len() + metadata.map(|text| 2 + text.len()).sum::<usize>()
        }
        GroupCommand::Reset { offsets, .. } => 21 * offsets.len(),
        _ => 0,
    }
}

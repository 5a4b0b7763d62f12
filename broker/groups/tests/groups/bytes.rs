//! The bytes of entries and snapshots, and the fold against a naive table.

use std::collections::BTreeMap;
use std::sync::Arc;

use plimsoll_groups::DecodeGroupsError;
use plimsoll_groups::command::{
    Committer, GroupCommand, GroupsEntry, MemberSpec, OffsetCommit, Removal,
};
use plimsoll_groups::ids::{Epoch, MemberId, TopicId, TopicPartition};
use plimsoll_groups::state::Groups;
use plimsoll_groups::time::UnixMs;
use plimsoll_protocol::ids::Offset;
use proptest::prelude::*;

use super::bed::at;
use super::fold::{apply, committed, name};

#[test]
fn entry_of_another_domain_or_version_is_told_apart() {
    let mut entry = GroupsEntry::default();
    entry.push(&name("g"), GroupCommand::Delete { forced: true });
    let mut bytes = entry.encode().to_vec();
    assert_eq!(bytes, [2, 1, 1, 0, b'g', 1, 0, 0, 0, 9, 1], "the bytes of an entry are fixed");
    bytes[0] = 1;
    let error = GroupsEntry::decode(&bytes).unwrap_err();
    assert_eq!(error.to_string(), "a control entry of domain 1 is not for consumer groups");
    (bytes[0], bytes[1]) = (2, 2);
    let error = GroupsEntry::decode(&bytes).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the entry of consumer groups has format version 2; this build reads 1: use a newer build"
    );
    let mut state = Groups::default().encode().to_vec();
    assert_eq!(state, [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], "the bytes of a state are fixed");
    state.push(0);
    assert_eq!(Groups::decode(&state), Err(DecodeGroupsError::TrailingBytes { extra: 1 }));
}

/// A count that the bytes cannot hold is refused before anything is allocated for it.
#[test]
fn list_longer_than_its_bytes_is_refused() {
    let mut entry = vec![2, 1, 1, 0, b'g', 1, 0, 0, 0, 3];
    entry.extend([0; 16]);
    entry.extend([0xff; 4]);
    entry.extend([0; 36]);
    let rule = "a list fits into the bytes at hand";
    assert_eq!(GroupsEntry::decode(&entry), Err(DecodeGroupsError::Invalid { rule }));
    let state = [&[1][..], &[0; 8], &[0xff; 4], &[0; 100]].concat();
    assert_eq!(Groups::decode(&state), Err(DecodeGroupsError::Invalid { rule }));
    assert!(size_of::<GroupCommand>() <= 128, "GroupsEntry::decode says how much it allocates");
}

fn member() -> impl Strategy<Value = MemberId> {
    (1..5u128).prop_map(MemberId)
}

fn place() -> impl Strategy<Value = TopicPartition> {
    (0..3u64, 0..3u32).prop_map(|(topic, partition)| at(topic, partition))
}

fn places() -> impl Strategy<Value = Vec<TopicPartition>> {
    proptest::collection::btree_set(place(), 1..5).prop_map(|set| set.into_iter().collect())
}

fn member_spec() -> impl Strategy<Value = MemberSpec> {
    let topics = proptest::collection::btree_set((0..9u64).prop_map(TopicId), 1..4);
    let instance = proptest::option::of(prop_oneof![Just("a".into()), Just("b".into())]);
    (".{0,9}", instance, topics, 1_000..9_999u32).prop_map(|(client, instance, topics, ms)| {
        MemberSpec { client, instance, topics, session_ms: ms, rebalance_ms: ms + 7 }
    })
}

fn command() -> impl Strategy<Value = GroupCommand> {
    let epoch = || (0..25u64).prop_map(Epoch);
    let by = (member(), epoch()).prop_map(|(member, epoch)| Committer { member, epoch });
    let metadata = proptest::option::of(".{0,5}".prop_map(Arc::from));
    let offsets = proptest::collection::btree_map(place(), (any::<u64>(), metadata), 1..4);
    let reset = proptest::collection::btree_map(place(), any::<Option<u64>>(), 1..4);
    let why = prop_oneof![
        Just(Removal::Left),
        Just(Removal::SessionEnded),
        Just(Removal::RevocationOverdue)
    ];
    prop_oneof![
        4 => (member(), member_spec())
            .prop_map(|(member, spec)| GroupCommand::Join { member, spec: Box::new(spec) }),
        1 => (member(), epoch(), why)
            .prop_map(|(member, epoch, why)| GroupCommand::Remove { member, epoch, why }),
        6 => (member(), places())
            .prop_map(|(member, partitions)| GroupCommand::Grant { member, partitions }),
        4 => (member(), epoch(), places()).prop_map(|(member, epoch, partitions)| {
            GroupCommand::Release { member, epoch, partitions }
        }),
        6 => (proptest::option::weighted(0.8, by), offsets).prop_map(|(by, offsets)| {
            let item = |(at, (offset, metadata))| OffsetCommit { at, offset: Offset(offset), metadata };
            GroupCommand::Commit { by, offsets: offsets.into_iter().map(item).collect() }
        }),
        1 => (reset, any::<bool>()).prop_map(|(offsets, forced)| {
            let offsets = offsets.into_iter().map(|(at, offset)| (at, offset.map(Offset)));
            GroupCommand::Reset { offsets: offsets.collect(), forced }
        }),
        1 => (0..3u64).prop_map(|topic| GroupCommand::Forget { topic: TopicId(topic) }),
        1 => (0..9i64).prop_map(|ms| GroupCommand::Expire { quiet_since: UnixMs(ms) }),
        1 => any::<bool>().prop_map(|forced| GroupCommand::Delete { forced }),
    ]
}

fn entry() -> impl Strategy<Value = GroupsEntry> {
    let group = prop_oneof![3 => Just("g"), 1 => Just("größe")];
    proptest::collection::vec((group, command()), 1..30).prop_map(|commands| {
        let mut entry = GroupsEntry::default();
        commands.into_iter().for_each(|(group, command)| entry.push(&name(group), command));
        entry
    })
}

/// Who owns what of one group, in the plainest way: one line per partition, one per member.
#[derive(Default)]
struct Naive {
    epoch: u64,
    /// Of each member: instance, when it joined, its latest epoch.
    members: BTreeMap<u128, (Option<String>, u64, u64)>,
    owners: BTreeMap<TopicPartition, (u128, u64)>,
    offsets: BTreeMap<TopicPartition, u64>,
}

impl Naive {
    fn apply(&mut self, command: &GroupCommand, quiet: bool) {
        match command {
            GroupCommand::Join { member: MemberId(id), spec } => {
                self.epoch += 1;
                let epoch = self.epoch;
                let same = self.members.iter().find(|(other, it)| {
                    *other != id && spec.instance.is_some() && it.0 == spec.instance
                });
                let former = same.map(|(other, _)| *other);
                former.map(|former| self.members.remove(&former));
                for owner in self.owners.values_mut() {
                    if owner.0 == *id || Some(owner.0) == former {
                        *owner = (*id, epoch);
                    }
                }
                self.members.insert(*id, (spec.instance.clone(), epoch, epoch));
            }
            GroupCommand::Remove { member: MemberId(id), epoch, .. } => {
                if self.members.get(id).is_some_and(|it| it.1 <= epoch.0) {
                    self.epoch += 1;
                    self.members.remove(id);
                    self.owners.retain(|_, owner| owner.0 != *id);
                }
            }
            GroupCommand::Grant { member: MemberId(id), partitions } => {
                let free = partitions.iter().all(|at| !self.owners.contains_key(at));
                if let Some(member) = self.members.get_mut(id)
                    && free
                {
                    self.epoch += 1;
                    member.2 = self.epoch;
                    let owned = partitions.iter().map(|at| (*at, (*id, self.epoch)));
                    self.owners.extend(owned);
                }
            }
            GroupCommand::Release { member: MemberId(id), epoch, partitions } => {
                self.owners.retain(|at, owner| {
                    !(partitions.contains(at) && owner.0 == *id && owner.1 <= epoch.0)
                });
            }
            GroupCommand::Commit { by, offsets } => {
                let may = |at: &TopicPartition| match by {
                    None => self.members.is_empty(),
                    Some(Committer { member: MemberId(id), epoch: Epoch(epoch) }) => {
                        self.members.get(id).is_some_and(|it| (it.1..=it.2).contains(epoch))
                            && self.owners.get(at).is_some_and(|it| it.0 == *id && it.1 <= *epoch)
                    }
                };
                let items = offsets.iter().filter(|item| may(&item.at));
                let items: Vec<_> = items.map(|item| (item.at, item.offset.0)).collect();
                self.offsets.extend(items);
            }
            GroupCommand::Reset { offsets, forced } => {
                if *forced || self.members.is_empty() {
                    for (at, offset) in offsets {
                        match offset {
                            Some(offset) => drop(self.offsets.insert(*at, offset.0)),
                            None => drop(self.offsets.remove(at)),
                        }
                    }
                }
            }
            GroupCommand::Forget { topic } => {
                self.offsets.retain(|at, _| at.topic != *topic);
                self.owners.retain(|at, _| at.topic != *topic);
            }
            GroupCommand::Expire { .. } => {
                if self.members.is_empty() && quiet {
                    self.offsets.clear();
                }
            }
            GroupCommand::Delete { forced } => {
                if *forced || self.members.is_empty() {
                    *self = Self { epoch: self.epoch, ..Self::default() };
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn fold_is_what_a_naive_table_is(commands in proptest::collection::vec(command(), 1..40)) {
        let (mut groups, mut naive) = (Groups::default(), Naive::default());
        for command in commands {
            let quiet = matches!(command, GroupCommand::Expire { quiet_since: UnixMs(5) });
            naive.apply(&command, quiet);
            apply(&mut groups, command.clone());
            let group = groups.get(&name("g"));
            prop_assert_eq!(group.is_none(), naive.members.is_empty() && naive.offsets.is_empty());
            prop_assert_eq!(groups.epoch().0, naive.epoch);
            for (topic, partition) in (0..3).flat_map(|topic| (0..3).map(move |it| (topic, it))) {
                let place = at(topic, partition);
                let owner = group.and_then(|group| group.owner(place));
                let owner = owner.map(|(id, since)| (id.0, since.0));
                prop_assert_eq!(owner, naive.owners.get(&place).copied(), "{:?}", command);
                prop_assert_eq!(committed(&groups, place), naive.offsets.get(&place).copied());
            }
            let bytes = groups.encode();
            let read = Groups::decode(&bytes).unwrap();
            prop_assert_eq!(&read, &groups);
            prop_assert_eq!(read.encode(), bytes);
            let nothing = Groups::default().memory_bytes();
            prop_assert!(group.is_none() || groups.memory_bytes() > nothing);
        }
    }

    #[test]
    fn entry_is_read_as_it_was_written(entry in entry()) {
        let bytes = entry.encode();
        prop_assert_eq!(GroupsEntry::decode(&bytes), Ok(entry));
        for cut in 0..bytes.len() {
            // A cut between two sections leaves a shorter entry; any other is refused.
            if let Ok(shorter) = GroupsEntry::decode(&bytes[..cut]) {
                prop_assert_eq!(&shorter.encode()[..], &bytes[..cut]);
            }
        }
    }

    #[test]
    fn same_entries_give_the_same_bytes_wherever_a_snapshot_was_taken(
        entries in proptest::collection::vec(entry(), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let (mut one, mut other) = (Groups::default(), Groups::default());
        let cut = cut.index(entries.len());
        for (index, entry) in entries.iter().enumerate() {
            if index == cut {
                other = Groups::decode(&other.encode()).unwrap();
            }
            let answers = one.apply(entry, UnixMs(index as i64));
            let read = GroupsEntry::decode(&entry.encode()).unwrap();
            prop_assert_eq!(other.apply(&read, UnixMs(index as i64)), answers);
        }
        prop_assert_eq!(one.encode(), other.encode());
    }

    #[test]
    fn damaged_bytes_are_refused_or_read_to_what_is_written_back(
        entry in entry(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        noise in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut groups = Groups::default();
        groups.apply(&entry, UnixMs(1));
        let damage = |bytes: &[u8]| {
            let mut bytes = bytes.to_vec();
            for (at, byte) in &changes {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            bytes
        };
        for bytes in [damage(&groups.encode()), [&[1][..], &noise].concat()] {
            if let Ok(mut read) = Groups::decode(&bytes) {
                prop_assert_eq!(&read.encode()[..], &bytes[..]);
                read.apply(&entry, UnixMs(2));
                prop_assert_eq!(&Groups::decode(&read.encode()).unwrap(), &read);
            }
        }
        for bytes in [damage(&entry.encode()), [&[2, 1][..], &noise].concat(), noise] {
            if let Ok(read) = GroupsEntry::decode(&bytes) {
                prop_assert_eq!(&read.encode()[..], &bytes[..]);
                groups.apply(&read, UnixMs(2));
                prop_assert_eq!(&Groups::decode(&groups.encode()).unwrap(), &groups);
            }
        }
    }
}

//! Encoded state: what was written is read back, the same fold gives the same bytes, and no damage
//! makes a decoder panic.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use bytes::Bytes;
use plimsoll_protocol::api::{Cleanup, Durability, TopicConfig, TopicRules};
use plimsoll_protocol::batch::{BatchHeader, EntryKind};
use plimsoll_protocol::ids::{GroupId, LogIndex, NodeId, Offset, ProducerId, Term, TopicName};
use plimsoll_state::catalog::{
    CatalogCommand, CatalogState, ConfigPatch, JoinSecret, NodeSpec, PlacementChange,
    ProposedPlacement, Replicas, RulesPatch,
};
use plimsoll_state::partition::PartitionState;
use proptest::prelude::*;

fn name() -> impl Strategy<Value = TopicName> {
    "[a-d]{1,2}".prop_map(|text| TopicName::new(&text).expect("letters are a name"))
}

fn config() -> impl Strategy<Value = TopicConfig> {
    (any::<bool>(), any::<Option<u64>>(), any::<Option<u64>>(), any::<u32>(), any::<u32>())
        .prop_map(|(memory, retention_ms, retention_bytes, segment_bytes, batch_bytes_max)| {
            let durability = if memory { Durability::Memory } else { Durability::Durable };
            TopicConfig {
                durability,
                retention_ms,
                retention_bytes,
                segment_bytes,
                batch_bytes_max,
                rules: match retention_ms {
                    None => TopicRules::default(),
                    Some(ms) => TopicRules {
                        cleanup: Cleanup::ALL[segment_bytes as usize % 3],
                        compaction_lag_ms: ms,
                        tombstone_ms: ms,
                        require_fence: memory,
                    },
                },
            }
        })
}

fn patch() -> impl Strategy<Value = ConfigPatch> {
    (any::<Option<Option<u64>>>(), any::<Option<Option<u64>>>(), any::<Option<u32>>()).prop_map(
        |(retention_ms, retention_bytes, segment_bytes)| ConfigPatch {
            durability: segment_bytes.map(|_| Durability::Memory),
            retention_ms,
            retention_bytes,
            segment_bytes,
            batch_bytes_max: segment_bytes,
            rules: RulesPatch {
                cleanup: segment_bytes.map(|_| Cleanup::Compact),
                compaction_lag_ms: retention_ms.flatten(),
                tombstone_ms: retention_bytes.flatten(),
                require_fence: segment_bytes.map(|bytes| bytes % 2 == 0),
            },
        },
    )
}

fn node() -> impl Strategy<Value = NodeId> {
    (1..7_u64).prop_map(NodeId)
}

fn places() -> impl Strategy<Value = Replicas> {
    prop::collection::vec(node(), 0..4).prop_map(Replicas::from)
}

fn proposed() -> impl Strategy<Value = ProposedPlacement> {
    (0..9_u64, prop::collection::vec(places(), 0..4))
        .prop_map(|(base, replicas)| ProposedPlacement { base, replicas })
}

fn spec() -> impl Strategy<Value = NodeSpec> {
    ("[a-f]:1", any::<Option<bool>>(), 50..200_u32).prop_map(
        |(address, rack, weight_hundredths)| {
            let rack = rack.map(|rack| rack.to_string());
            NodeSpec { address, rack, weight_hundredths, version: "0.1.0".into() }
        },
    )
}

fn command() -> impl Strategy<Value = CatalogCommand> {
    prop_oneof![
        (name(), 0..9_u32, 0..3_u16, config(), any::<bool>()).prop_map(
            |(topic, partitions, replicas, config, if_not_exists)| CatalogCommand::CreateTopic {
                topic,
                partitions,
                replicas,
                config,
                if_not_exists,
                placement: None,
            }
        ),
        (name(), any::<Option<u8>>(), patch(), prop::option::of(proposed())).prop_map(
            |(topic, partitions, patch, placement)| CatalogCommand::AlterTopic {
                topic,
                partitions: partitions.map(u32::from),
                patch,
                placement,
            }
        ),
        (1..5_u64, spec()).prop_map(|(node, spec)| CatalogCommand::SetUp {
            node: NodeId(node),
            spec,
            join_secret: JoinSecret([3; 32]),
        }),
        (0..9_u128, spec(), any::<bool>()).prop_map(|(join_id, spec, takes_address)| {
            CatalogCommand::AddNode { join_id, spec, takes_address }
        }),
        node().prop_map(|node| CatalogCommand::ActivateNode { node }),
        (node(), spec()).prop_map(|(node, spec)| CatalogCommand::UpdateNode { node, spec }),
        (node(), any::<bool>()).prop_map(|(node, on)| CatalogCommand::DrainNode { node, on }),
        (node(), any::<bool>())
            .prop_map(|(node, force)| CatalogCommand::RemoveNode { node, force }),
        (0..9_u64, prop::collection::vec((0..9_u64, places()), 0..4)).prop_map(
            |(base, changes)| {
                let change = |(group, wanted)| PlacementChange { group: GroupId(group), wanted };
                CatalogCommand::SetPlacement {
                    base,
                    changes: changes.into_iter().map(change).collect(),
                }
            }
        ),
        prop::collection::vec((0..9_u64).prop_map(GroupId), 0..4)
            .prop_map(|groups| CatalogCommand::SealBirths { groups }),
        any::<Option<bool>>()
            .prop_map(|auto_rebalance| CatalogCommand::SetClusterSettings { auto_rebalance }),
        (0..5_u16).prop_map(|level| CatalogCommand::SetLevel { level }),
        name().prop_map(|topic| CatalogCommand::DeleteTopic { topic }),
        (0..5_u32).prop_map(|count| CatalogCommand::AllocateProducerIds { count }),
    ]
}

/// Entries of a catalog's log: commands, and now and then something that is none.
fn catalog_log() -> impl Strategy<Value = Vec<(BatchHeader, Bytes)>> {
    let body = prop_oneof![
        9 => (command(), 0..20_u128)
            .prop_map(|(command, id)| (EntryKind::Control, command.encode_for(id))),
        1 => prop::collection::vec(any::<u8>(), 0..40)
            .prop_map(|bytes| (EntryKind::Control, Bytes::from(bytes))),
        1 => Just((EntryKind::Blank, Bytes::new())),
        1 => Just((EntryKind::Membership, Bytes::from_static(b"members"))),
    ];
    prop::collection::vec(body, 0..40).prop_map(|bodies| {
        let numbered = bodies.into_iter().enumerate();
        numbered
            .map(|(i, (kind, body))| {
                let mut header = BatchHeader::for_entry(kind, &body);
                header.term = Term(1 + i as u64 / 10);
                header.index = LogIndex(i as u64);
                header.append_time_ms = i as i64;
                (header, body)
            })
            .collect()
    })
}

fn fold(log: &[(BatchHeader, Bytes)]) -> CatalogState {
    let mut state = CatalogState::new();
    for (header, body) in log {
        state.apply(header, body);
    }
    state
}

fn partition_log() -> impl Strategy<Value = Vec<BatchHeader>> {
    let entry = (0..40_u64, 0..3_u32, 0..1_000_u64, 1..9_u32, 0..8_u8);
    prop::collection::vec(entry, 0..120).prop_map(|entries| {
        let mut end = Offset(0);
        let numbered = entries.into_iter().enumerate();
        numbered
            .map(|(i, (producer, epoch, base_sequence, count, kind))| {
                let mut header = BatchHeader::for_entry(EntryKind::Blank, &[]);
                header.term = Term(1 + i as u64 / 30);
                header.index = LogIndex(i as u64);
                header.base_offset = end;
                if kind > 0 {
                    header.kind = EntryKind::Records;
                    header.producer_id = ProducerId(producer);
                    header.producer_epoch = epoch;
                    header.base_sequence = base_sequence;
                    header.record_count = count;
                }
                end = header.end_offset();
                header
            })
            .collect()
    })
}

/// Applies a change that a medium could make.
fn damage(bytes: &Bytes, at: prop::sample::Index, bit: u8, cut: bool) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let at = at.index(bytes.len());
    if cut {
        bytes.truncate(at);
    } else {
        bytes[at] ^= 1 << (bit % 8);
    }
    bytes
}

proptest! {
    #[test]
    fn command_is_read_back_as_it_was_written(command in command(), id: u128) {
        prop_assert_eq!(CatalogCommand::decode(&command.encode()).unwrap(), command.clone());
        let request = CatalogCommand::decode_request(&command.encode_for(id)).unwrap();
        prop_assert_eq!(request, (id, command));
    }

    #[test]
    fn any_bytes_are_a_command_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok((id, command)) = CatalogCommand::decode_request(&bytes) {
            let now = command.encode_for(id);
            prop_assert_eq!(CatalogCommand::decode_request(&now), Ok((id, command)));
            if bytes[0] == now[0] {
                prop_assert_eq!(now, bytes);
            }
        }
    }

    #[test]
    fn same_commands_give_the_same_catalog_on_every_replica(log in catalog_log(), cut in any::<prop::sample::Index>()) {
        let whole = fold(&log);
        prop_assert_eq!(fold(&log).encode(), whole.encode());
        // A replica that slept in between, or was sent a snapshot, arrives at the same bytes.
        let cut = cut.index(log.len() + 1);
        let mut resumed = CatalogState::decode(&fold(&log[..cut]).encode()).unwrap();
        for (header, body) in &log[cut..] {
            resumed.apply(header, body);
        }
        prop_assert_eq!(resumed.encode(), whole.encode());
        prop_assert_eq!(CatalogState::decode_progress(&whole.encode()).unwrap(), whole.progress().clone());
        prop_assert_eq!(resumed, whole);
    }

    #[test]
    fn groups_of_topics_never_overlap(log in catalog_log()) {
        let mut state = CatalogState::new();
        let mut owner = std::collections::BTreeMap::new();
        for (header, body) in &log {
            state.apply(header, body);
            for (_, topic) in state.catalog().topics() {
                for group in &topic.partitions {
                    let first = *owner.entry(*group).or_insert(topic.topic_id);
                    prop_assert_eq!(first, topic.topic_id, "{:?} changed hands", group);
                }
            }
        }
    }

    #[test]
    fn damaged_catalog_never_panics(log in catalog_log(), at: prop::sample::Index, bit: u8, cut: bool) {
        let _ = CatalogState::decode(&damage(&fold(&log).encode(), at, bit, cut));
    }

    #[test]
    fn same_entries_give_the_same_partition_on_every_replica(log in partition_log(), cut in any::<prop::sample::Index>()) {
        let fold = |mut state: PartitionState, log: &[BatchHeader]| {
            for header in log {
                state.apply(header, &Bytes::new());
            }
            state
        };
        let whole = fold(PartitionState::new(), &log);
        let cut = cut.index(log.len() + 1);
        let half = fold(PartitionState::new(), &log[..cut]).encode();
        let resumed = fold(PartitionState::decode(&half).unwrap(), &log[cut..]);
        prop_assert_eq!(resumed.encode(), whole.encode());
        prop_assert_eq!(PartitionState::decode_progress(&whole.encode()).unwrap(), whole.progress().clone());
        prop_assert_eq!(resumed, whole);
    }

    #[test]
    fn damaged_partition_never_panics(log in partition_log(), at: prop::sample::Index, bit: u8, cut: bool) {
        let mut state = PartitionState::new();
        for header in &log {
            state.apply(header, &Bytes::new());
        }
        let _ = PartitionState::decode(&damage(&state.encode(), at, bit, cut));
    }
}

use bytes::Bytes;
use plimsoll_protocol::api::{
    Cleanup, ConfigChange, Durability, QueueSettings, TOPIC_CONFIG_KEYS, TopicConfig,
};
use plimsoll_protocol::batch::{BatchHeader, EntryKind};
use plimsoll_protocol::ids::{GroupId, LogIndex, PartitionIndex, ProducerId, Term};

use super::*;

fn name(text: &str) -> TopicName {
    TopicName::new(text).unwrap()
}

fn create(topic: &str, partitions: u32) -> CatalogCommand {
    CatalogCommand::CreateTopic {
        topic: name(topic),
        partitions,
        replicas: 1,
        config: TopicConfig::default(),
        if_not_exists: false,
        placement: None,
    }
}

fn created(catalog: &mut Catalog, topic: &str, partitions: u32) -> Arc<TopicMeta> {
    match catalog.apply(create(topic, partitions), 5) {
        CatalogReply::Created { topic, existed: false } => topic,
        other => panic!("{other:?}"),
    }
}

#[test]
fn group_and_topic_ids_are_never_used_again() {
    let mut catalog = Catalog::default();
    let first = created(&mut catalog, "a", 3);
    assert_eq!(first.partitions, [GroupId(1), GroupId(2), GroupId(3)]);
    catalog.apply(CatalogCommand::DeleteTopic { topic: name("a") }, 6);
    let second = created(&mut catalog, "a", 2);
    assert_eq!(second.partitions, [GroupId(4), GroupId(5)]);
    assert_ne!(first.topic_id, second.topic_id);
}

#[test]
fn second_topic_of_a_name_is_refused_unless_allowed() {
    let mut catalog = Catalog::default();
    let first = created(&mut catalog, "a", 3);
    let refused = CatalogReply::Refused(CatalogRefusal::TopicExists { topic: name("a") });
    assert_eq!(catalog.apply(create("a", 1), 6), refused);
    let CatalogCommand::CreateTopic { topic, partitions, replicas, config, .. } = create("a", 1)
    else {
        unreachable!()
    };
    let again = CatalogCommand::CreateTopic {
        topic,
        partitions,
        replicas,
        config,
        if_not_exists: true,
        placement: None,
    };
    assert_eq!(catalog.apply(again, 6), CatalogReply::Created { topic: first, existed: true });
}

#[test]
fn partitions_only_grow_and_keep_their_groups() {
    let mut catalog = Catalog::default();
    created(&mut catalog, "a", 2);
    created(&mut catalog, "b", 1);
    let alter = |partitions| CatalogCommand::AlterTopic {
        topic: name("a"),
        partitions: Some(partitions),
        patch: ConfigPatch::default(),
        placement: None,
    };
    let CatalogReply::Altered(meta) = catalog.apply(alter(4), 7) else { panic!() };
    assert_eq!(meta.partitions, [GroupId(1), GroupId(2), GroupId(4), GroupId(5)]);
    assert_eq!(meta.group(PartitionIndex(2)), Some(GroupId(4)));
    assert_eq!(meta.group(PartitionIndex(4)), None);
    let before = catalog.clone();
    assert!(matches!(
        catalog.apply(alter(3), 8),
        CatalogReply::Refused(CatalogRefusal::FewerPartitions { partitions: 4, asked: 3, .. })
    ));
    assert!(matches!(
        catalog.apply(alter(PARTITIONS_PER_TOPIC_MAX + 1), 8),
        CatalogReply::Refused(CatalogRefusal::PartitionsOutOfRange { .. })
    ));
    assert_eq!(catalog, before);
}

#[test]
fn producer_ids_are_handed_out_once() {
    let mut catalog = Catalog::default();
    let mut take = |count| catalog.apply(CatalogCommand::AllocateProducerIds { count }, 0);
    assert_eq!(take(1000), CatalogReply::ProducerIds { first: ProducerId(1), count: 1000 });
    assert_eq!(take(5), CatalogReply::ProducerIds { first: ProducerId(1001), count: 5 });
    assert!(matches!(take(0), CatalogReply::Refused(_)));
    assert_eq!(take(1), CatalogReply::ProducerIds { first: ProducerId(1006), count: 1 });
}

#[test]
fn patch_knows_every_key_and_changes_only_its_own() {
    for key in TOPIC_CONFIG_KEYS {
        let change = ConfigChange::parse(key.example).unwrap();
        let patch = ConfigPatch::from_changes(std::slice::from_ref(&change)).unwrap();
        let mut patched = TopicConfig::default();
        patch.apply_to(&mut patched);
        let expected = TopicConfig::default().with_changes(&[change]).unwrap();
        assert_eq!(patched, expected, "{}", key.name);
    }
    let bad = ConfigChange { key: "colour".into(), value: None };
    assert!(ConfigPatch::from_changes(&[bad]).is_err());
}

#[test]
fn two_alters_of_different_keys_both_hold() {
    let mut catalog = Catalog::default();
    created(&mut catalog, "a", 1);
    for text in ["durability=memory", "retention-bytes=1GiB"] {
        let patch = ConfigPatch::from_changes(&[ConfigChange::parse(text).unwrap()]).unwrap();
        let topic = name("a");
        let alter = CatalogCommand::AlterTopic { topic, partitions: None, patch, placement: None };
        catalog.apply(alter, 0);
    }
    let config = &catalog.topic(&name("a")).unwrap().config;
    assert_eq!(config.durability, Durability::Memory);
    assert_eq!(config.retention_bytes, Some(1 << 30));
}

#[test]
fn topics_are_listed_by_prefix() {
    let mut catalog = Catalog::default();
    for topic in ["b", "ab", "aa", "c", "a"] {
        created(&mut catalog, topic, 1);
    }
    let names: Vec<_> = catalog.topics_with_prefix("a", None).map(|(n, _)| n.as_str()).collect();
    assert_eq!(names, ["a", "aa", "ab"]);
    assert_eq!(catalog.topics_with_prefix("", None).count(), 5);
}

#[test]
fn unreadable_command_is_refused_and_changes_nothing() {
    let mut state = CatalogState::new();
    let body = Bytes::from_static(&[9, 1, 2]);
    let mut header = BatchHeader::for_entry(EntryKind::Control, &body);
    header.term = Term(1);
    header.index = LogIndex(0);
    assert!(matches!(
        state.apply(&header, &body),
        Some(CatalogReply::Refused(CatalogRefusal::Unreadable { .. }))
    ));
    assert_eq!(*state.catalog(), Catalog::default());
    assert_eq!(state.progress().applied, Some(header.log_id()));
}

#[test]
fn compaction_and_settling_one_by_one_exclude_each_other() {
    let mut catalog = Catalog::default();
    let patch = |cleanup| ConfigPatch {
        rules: RulesPatch { cleanup: Some(cleanup), ..RulesPatch::default() },
        ..ConfigPatch::default()
    };
    let alter = |cleanup| CatalogCommand::AlterTopic {
        topic: name("a"),
        partitions: Some(5),
        patch: patch(cleanup),
        placement: None,
    };
    created(&mut catalog, "a", 1);
    let too_low = CatalogRefusal::LevelTooLow { needed: LEVEL_RULES, now: 0 };
    assert_eq!(catalog.apply(alter(Cleanup::Compact), 6), CatalogReply::Refused(too_low));
    catalog.apply(CatalogCommand::SetLevel { level: LEVEL_RULES }, 7);
    let subscribe = CatalogCommand::PutSubscription {
        topic: name("a"),
        name: "s".into(),
        settings: QueueSettings::default(),
        create: true,
        from_latest: false,
    };
    let refusal = CatalogReply::Refused(CatalogRefusal::CompactedQueue { topic: name("a") });
    assert!(matches!(catalog.apply(subscribe.clone(), 8), CatalogReply::Altered(_)));
    let before = catalog.clone();
    assert_eq!(catalog.apply(alter(Cleanup::CompactAndDelete), 9), refusal);
    assert_eq!(catalog, before);
    catalog.apply(CatalogCommand::DeleteSubscription { topic: name("a"), name: "s".into() }, 10);
    assert!(matches!(catalog.apply(alter(Cleanup::Compact), 11), CatalogReply::Altered(_)));
    assert_eq!(catalog.apply(subscribe, 12), refusal);
}

//! Queues and their topics.

use plimsoll_protocol::ids::{GroupId, NodeId, TopicName};

use super::tests::*;
use super::*;
use crate::catalog::{CatalogCommand, ConfigPatch, JoinSecret, LEVEL_RULES, NodeSpec, planning};

fn declared(catalog: &mut Catalog, command: AmqpCommand) -> Arc<Queue> {
    match run(catalog, command) {
        AmqpReply::Queue { queue, existed: false } => queue,
        other => panic!("{other:?}"),
    }
}

/// A queue of a connection, or one that is not durable.
fn transient(name: &str, on: u64, of: Option<u64>) -> AmqpCommand {
    let mut command = declare_queue(name);
    if let AmqpCommand::DeclareQueue { queue, .. } = &mut command {
        queue.durable = false;
        queue.node = NodeId(on);
        queue.connection = of;
    }
    command
}

fn delete_queue(name: &str, declaration: u64) -> AmqpCommand {
    AmqpCommand::DeleteQueue { vhost: text("/"), name: text(name), declaration }
}

fn groups(reply: AmqpReply) -> Vec<u64> {
    let AmqpReply::Removed { groups } = reply else { panic!("{reply:?}") };
    groups.iter().map(|group| group.0).collect()
}

fn queues(catalog: &Catalog) -> Vec<&str> {
    vhost(catalog).queues().map(|(name, _)| name.as_str()).collect()
}

#[test]
fn queue_and_its_topic_come_and_go_together() {
    let mut catalog = catalog();
    let queue = declared(&mut catalog, declare_queue("q"));
    let topic = queue.spec.topic.clone();
    assert_eq!(catalog.topic(&topic).unwrap().partitions, [GroupId(1)]);
    let (vhost_name, name, held) = catalog.queue_of(&topic).unwrap();
    assert_eq!((vhost_name.as_str(), name.as_str(), held), ("/", "q", &queue));

    run(&mut catalog, bind("amq.direct", to_queue("q", "k")));
    assert_eq!(groups(run(&mut catalog, delete_queue("q", queue.declaration))), [1]);
    assert_eq!((catalog.len(), vhost(&catalog).bindings().count()), (0, 0));
    assert!(catalog.was_deleted(GroupId(1)));
}

#[test]
fn stream_is_a_plain_topic_that_goes_with_its_name() {
    let mut catalog = catalog();
    let AmqpCommand::DeclareQueue { vhost: host, name, queue, replicas, config, placement, .. } =
        declare_queue("s")
    else {
        unreachable!("it declares a queue")
    };
    let declare =
        AmqpCommand::DeclareStream { vhost: host, name, queue, replicas, config, placement };
    let stream = declared(&mut catalog, declare.clone());
    let topic = stream.spec.topic.clone();
    assert!(!catalog.topic(&topic).unwrap().is_queue());
    assert_eq!(queues(&catalog), ["s"]);
    let there = AmqpReply::Queue { queue: Arc::clone(&stream), existed: true };
    assert_eq!(run(&mut catalog, declare), there);
    assert_eq!(run(&mut catalog, declare_queue("s")), there);
    assert_eq!(groups(run(&mut catalog, delete_queue("s", stream.declaration))), [1]);
    assert_eq!(catalog.topic(&topic), None);
}

#[test]
fn queue_that_is_there_is_shown_as_it_is() {
    let mut catalog = catalog();
    let queue = declared(&mut catalog, declare_queue("q"));
    let before = catalog.clone();
    let there = AmqpReply::Queue { queue, existed: true };
    assert_eq!(run(&mut catalog, transient("q", 5, Some(1))), there);
    assert_eq!(catalog, before);
}

#[test]
fn queue_that_was_declared_since_is_not_deleted() {
    let mut catalog = catalog();
    let first = declared(&mut catalog, declare_queue("q"));
    run(&mut catalog, delete_queue("q", first.declaration));
    let second = declared(&mut catalog, declare_queue("q"));
    assert!(second.declaration > first.declaration);
    assert_eq!(groups(run(&mut catalog, delete_queue("q", first.declaration))), [0; 0]);
    assert_eq!(vhost(&catalog).queue("q"), Some(&second));
}

#[test]
fn queue_takes_exchanges_along_that_delete_themselves() {
    let mut catalog = catalog();
    let auto = |name| declare_exchange(name, Exchange { auto_delete: true, ..exchange() });
    run(&mut catalog, auto("a"));
    run(&mut catalog, auto("b"));
    let queue = declared(&mut catalog, declare_queue("q"));
    declared(&mut catalog, declare_queue("r"));
    for key in ["1", "2"] {
        run(&mut catalog, bind("a", to_queue("q", key)));
        run(&mut catalog, bind("b", to_queue("q", key)));
    }
    run(&mut catalog, bind("b", to_queue("r", "1")));
    let q = Destination::Queue { name: text("q") };
    assert_eq!(vhost(&catalog).bindings_to(&q).count(), 4);
    run(&mut catalog, delete_queue("q", queue.declaration));
    assert_eq!(exchanges(&catalog), ["b"]);
    let left: Vec<_> = vhost(&catalog).bindings().collect();
    assert_eq!(left, [(&text("b"), &to_queue("r", "1"))]);
}

#[test]
fn topic_of_a_queue_is_not_deleted_and_does_not_grow() {
    let mut catalog = catalog();
    let queue = declared(&mut catalog, declare_queue("q"));
    let topic = queue.spec.topic.clone();
    let before = catalog.clone();
    let grow = CatalogCommand::AlterTopic {
        topic: topic.clone(),
        partitions: Some(2),
        patch: ConfigPatch::default(),
        placement: None,
    };
    for command in [CatalogCommand::DeleteTopic { topic: topic.clone() }, grow] {
        let (topic, vhost, queue) = (topic.clone(), text("/"), text("q"));
        let refusal = AmqpRefusal::TopicHoldsQueue { topic, vhost, queue }.into();
        assert_eq!(catalog.apply(command, 8), CatalogReply::Refused(refusal));
        assert_eq!(catalog, before);
    }
}

#[test]
fn queue_whose_topic_cannot_be_made_is_not_declared() {
    let mut catalog = catalog();
    let topic = declared(&mut catalog, declare_queue("q")).spec.topic.clone();
    let mut other = declare_queue("r");
    if let AmqpCommand::DeclareQueue { queue, .. } = &mut other {
        queue.topic = topic.clone();
    }
    let before = catalog.clone();
    let reply = catalog.apply(CatalogCommand::Amqp { command: other }, 8);
    assert_eq!(reply, CatalogReply::Refused(CatalogRefusal::TopicExists { topic }));
    assert_eq!(catalog, before);
    let no_name = AmqpRefusal::NoName { what: "queue".into() };
    let mut nameless = declare_queue("s");
    if let AmqpCommand::DeclareQueue { name, .. } = &mut nameless {
        *name = text("");
    }
    assert_eq!(refused(&mut catalog, nameless), no_name);
}

#[test]
fn connection_takes_its_exclusive_queues_along_in_every_vhost() {
    let mut catalog = catalog();
    run(&mut catalog, create_vhost("v"));
    declared(&mut catalog, transient("a", 1, Some(7)));
    declared(&mut catalog, transient("b", 1, Some(8)));
    declared(&mut catalog, transient("c", 2, Some(7)));
    declared(&mut catalog, transient("d", 1, None));
    let mut elsewhere = transient("e", 1, Some(7));
    if let AmqpCommand::DeclareQueue { vhost, .. } = &mut elsewhere {
        *vhost = text("v");
    }
    declared(&mut catalog, elsewhere);
    let forget = AmqpCommand::ForgetOwner { node: NodeId(1), connection: 7 };
    assert_eq!(groups(run(&mut catalog, forget.clone())), [1, 5]);
    assert_eq!(queues(&catalog), ["b", "c", "d"]);
    let epoch = catalog.amqp().epoch();
    assert_eq!(groups(run(&mut catalog, forget)), [0; 0]);
    assert_eq!(catalog.amqp().epoch(), epoch);
}

#[test]
fn node_takes_along_what_is_not_durable() {
    let mut catalog = catalog();
    declared(&mut catalog, transient("a", 1, Some(7)));
    declared(&mut catalog, transient("b", 1, None));
    declared(&mut catalog, transient("c", 2, None));
    declared(&mut catalog, declare_queue("d"));
    run(&mut catalog, declare_exchange("stays", exchange()));
    run(&mut catalog, declare_exchange("goes", Exchange { durable: false, ..exchange() }));
    run(&mut catalog, bind("goes", to_queue("d", "k")));
    let forget = |exchanges| AmqpCommand::ForgetTransient { node: NodeId(1), exchanges };
    assert_eq!(groups(run(&mut catalog, forget(false))), [1, 2]);
    assert_eq!((queues(&catalog), exchanges(&catalog)), (vec!["c", "d"], vec!["goes", "stays"]));
    assert_eq!(groups(run(&mut catalog, forget(true))), [0; 0]);
    assert_eq!((queues(&catalog), exchanges(&catalog)), (vec!["c", "d"], vec!["stays"]));
}

#[test]
fn vhost_takes_everything_along() {
    let mut catalog = catalog();
    declared(&mut catalog, declare_queue("a"));
    declared(&mut catalog, declare_queue("b"));
    run(&mut catalog, bind("amq.direct", to_queue("a", "k")));
    let delete = AmqpCommand::DeleteVhost { vhost: text("/") };
    assert_eq!(groups(run(&mut catalog, delete.clone())), [1, 2]);
    assert!(catalog.is_empty() && catalog.amqp().vhosts().next().is_none());
    assert!(catalog.amqp().user("guest").unwrap().permissions.is_empty());
    let unknown = AmqpRefusal::UnknownVhost { vhost: text("/") };
    for command in [delete, declare_queue("a"), bind("amq.direct", to_queue("a", "k"))] {
        assert_eq!(refused(&mut catalog, command), unknown);
    }
}

#[test]
fn queue_is_placed_as_it_was_proposed() {
    let mut catalog = catalog();
    let spec = |host: &str| NodeSpec {
        address: format!("{host}:1"),
        rack: None,
        weight_hundredths: 100,
        version: "1.2.3".into(),
    };
    let join_secret = JoinSecret([1; 32]);
    catalog.apply(CatalogCommand::SetUp { node: NodeId(1), spec: spec("a"), join_secret }, 0);
    let join = CatalogCommand::AddNode { join_id: 1, spec: spec("b"), takes_address: false };
    catalog.apply(join, 0);
    let stale = planning::place_topic(&catalog, 1, 1).unwrap();
    catalog.apply(CatalogCommand::ActivateNode { node: NodeId(2) }, 0);
    let placed = |proposed, both| {
        let mut command = declare_queue("q");
        if let AmqpCommand::DeclareQueue { replicas, placement, .. } = &mut command {
            *replicas = both;
            *placement = Some(proposed);
        }
        CatalogCommand::Amqp { command }
    };
    let before = catalog.clone();
    let reply = catalog.apply(placed(stale, 1), 0);
    assert!(matches!(reply, CatalogReply::Refused(CatalogRefusal::StalePlacement { .. })));
    assert_eq!(catalog, before);
    let proposed = planning::place_topic(&catalog, 1, 2).unwrap();
    let wanted = proposed.replicas[0].clone();
    let reply = catalog.apply(placed(proposed, 2), 0);
    assert!(matches!(reply, CatalogReply::Amqp(AmqpReply::Queue { existed: false, .. })));
    let topic = catalog.topic(&TopicName::internal("__amqp.q").unwrap()).unwrap();
    assert_eq!(topic.placement[0].wanted, wanted);
}

#[test]
fn level_is_raised_once_every_member_runs_this_version() {
    let mut catalog = Catalog::default();
    assert_eq!(planning::raise_level(&catalog, "2"), None);
    let spec = |host: &str, version: &str| NodeSpec {
        address: format!("{host}:1"),
        rack: None,
        weight_hundredths: 100,
        version: version.into(),
    };
    let (node, join_secret) = (NodeId(1), JoinSecret([1; 32]));
    catalog.apply(CatalogCommand::SetUp { node, spec: spec("a", "2"), join_secret }, 0);
    let raise = CatalogCommand::SetLevel { level: LEVEL_RULES };
    assert_eq!(planning::raise_level(&catalog, "2"), Some(raise.clone()));
    let join = CatalogCommand::AddNode { join_id: 1, spec: spec("b", "1"), takes_address: false };
    catalog.apply(join, 0);
    assert_eq!(planning::raise_level(&catalog, "2"), None);
    let upgraded = CatalogCommand::UpdateNode { node: NodeId(2), spec: spec("b", "2") };
    catalog.apply(upgraded, 0);
    assert_eq!(planning::raise_level(&catalog, "2"), Some(raise.clone()));
    catalog.apply(raise, 0);
    assert_eq!(planning::raise_level(&catalog, "2"), None);
}

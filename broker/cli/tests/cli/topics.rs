//! `topic create|list|describe|alter|delete`, and `status`.

use crate::node::Node;

#[test]
fn topic_lives_from_creation_to_deletion() {
    let node = Node::start();
    assert_eq!(node.run("topic list").ok(), "");
    let told = node.run("topic create orders --partitions 3 -c retention-ms=1h").fails(0);
    assert!(told.contains("created topic orders: 3 partitions"), "{told}");
    node.run("topic create clicks --config durability=memory").ok();

    let listed = node.run("topic list").lines();
    assert_eq!(listed.len(), 3, "{listed:?}");
    assert!(listed[1].starts_with("clicks") && listed[1].contains("memory"), "{listed:?}");
    assert!(listed[2].starts_with("orders") && listed[2].contains("1h"), "{listed:?}");
    let only = node.run("topic list ord --json").objects();
    assert_eq!(only.len(), 1);
    assert_eq!(only[0]["name"], "orders");
    assert_eq!(only[0]["partitions"], 3);
    assert_eq!(only[0]["config"]["retention-ms"], 3_600_000);

    let changed = node
        .run("topic alter orders -p 5 -c retention-ms=default -c retention-bytes=1GiB --json")
        .objects();
    assert_eq!(changed[0]["partitions"], 5);
    assert_eq!(changed[0]["config"]["retention-ms"], 604_800_000);
    assert_eq!(changed[0]["config"]["retention-bytes"], 1 << 30);

    let shown = node.run("topic describe orders").ok();
    assert!(shown.contains("retention-bytes=1GiB"), "{shown}");
    let described = node.run("topic describe orders --json").objects();
    let partitions = described[0]["partitions"].as_array().unwrap();
    assert_eq!(partitions.len(), 5);
    assert_eq!(partitions[4]["high_watermark"], 0);

    node.run("topic delete orders clicks --yes").ok();
    assert_eq!(node.run("topic list --json").ok(), "");
}

#[test]
fn refusals_say_what_to_do() {
    let node = Node::start();
    node.run("topic create orders --partitions 2").ok();
    let exists = node.run("topic create orders").fails(1);
    assert!(exists.contains("--if-not-exists"), "{exists}");
    let accepted = node.run("topic create orders --if-not-exists").fails(0);
    assert!(accepted.contains("there is already topic orders: 2 partitions"), "{accepted}");
    for line in ["topic describe nothing", "topic alter nothing -p 3", "topic delete nothing --yes"]
    {
        let unknown = node.run(line).fails(3);
        assert!(unknown.contains("plimsoll topic list"), "{line}: {unknown}");
    }
    let fewer = node.run("topic alter orders --partitions 1").fails(1);
    assert!(fewer.contains("orders"), "{fewer}");
    node.run("topic create many --partitions 4000000000").fails(1);
    assert_eq!(node.run("topic list --json").objects().len(), 1);
}

#[test]
fn deleting_wants_to_be_confirmed_and_says_what_was_done() {
    let node = Node::start();
    node.run("topic create orders").ok();
    let unasked = node.run("topic delete orders").fails(2);
    assert!(unasked.contains("--yes"), "{unasked}");
    let partly = node.run("topic delete orders nothing --yes").fails(4);
    assert!(partly.contains("deleted topic orders"), "{partly}");
    node.run("topic delete nothing --yes --if-exists").ok();
}

#[test]
fn status_names_the_node() {
    let node = Node::start();
    let status = node.run("status --json").objects().remove(0);
    // The help page shows how to get at this one.
    assert!(node.run("status --help").ok().contains(".counters.connections_open"));
    assert!(
        status["counters"]["connections_open"].as_u64().is_some_and(|open| open > 0),
        "{status}"
    );
    assert!(status["cluster_id"].as_str().is_some_and(|id| !id.is_empty()), "{status}");
    assert!(node.run("status").ok().contains(status["cluster_id"].as_str().unwrap()));
}

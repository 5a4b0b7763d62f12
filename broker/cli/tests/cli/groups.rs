//! `consume --group` and `group list|describe|reset|delete`.

use std::io::{BufRead, BufReader};

use crate::node::{Node, send_signal};

fn with_numbers(count: u64) -> Node {
    let node = Node::start();
    node.run("topic create orders").ok();
    let input: String = (0..count).map(|n| format!("{n}\n")).collect();
    node.feed("produce orders", input).ok();
    node
}

fn described(node: &Node) -> serde_json::Value {
    node.run("group describe billing --json").objects().remove(0)
}

#[test]
fn group_goes_on_where_it_has_come_and_where_it_is_reset_to() {
    let node = with_numbers(20);
    assert_eq!(node.run("group list --json").ok(), "");
    let first = node.run("consume orders --group billing --count 12").lines();
    assert_eq!(first.len(), 12);
    assert_eq!(first[11], "11");
    assert_eq!(described(&node)["lag"], 8);
    let shown = node.run("group describe billing").ok();
    assert!(shown.starts_with("billing: empty, 0 members, 1 partition, lag 8"), "{shown}");
    let rest = node.run("consume orders --group billing --count 8").lines();
    assert_eq!((rest[0].as_str(), rest[7].as_str()), ("12", "19"));
    assert_eq!(described(&node)["lag"], 0);
    assert_eq!(described(&node)["partitions"][0]["committed"], 20);

    let would =
        node.run("group reset billing --topic orders --to-earliest --dry-run --json").objects();
    assert_eq!((&would[0]["before"], &would[0]["after"]), (&20.into(), &0.into()));
    assert_eq!(described(&node)["lag"], 0, "nothing was done");
    for (to, lag) in [
        ("--shift-by -5", 5),
        ("--shift-by 100", 0),
        ("--to-offset 7", 13),
        ("--to-earliest", 20),
        ("--to-latest", 0),
        ("--to-time -1h", 20),
    ] {
        node.run(&format!("group reset billing --topic orders {to}")).ok();
        assert_eq!(described(&node)["lag"], lag, "{to}");
    }
    node.run("group reset billing --topic orders").fails(2);
    node.run("group reset billing --topic nothing --to-latest").fails(3);
    node.run("group reset billing --topic orders --partition 7 --to-latest").fails(3);

    let listed = node.run("group list --json").objects();
    assert_eq!((listed.len(), &listed[0]["group"]), (1, &"billing".into()));
    let told = node.run("group delete billing").fails(2);
    assert!(told.contains("--yes"), "{told}");
    node.run("group delete billing --yes").ok();
    node.run("group describe billing").fails(3);
    node.run("group delete billing --yes").fails(3);
}

#[test]
fn member_that_runs_keeps_its_group_from_being_reset_and_ends_with_an_interrupt() {
    let node = with_numbers(3);
    let running = "consume orders --group billing --instance one";
    let mut member = node.user.command(running).spawn().unwrap();
    let mut lines = BufReader::new(member.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(lines.by_ref().take(3).collect::<Vec<_>>(), ["0", "1", "2"]);
    let found = described(&node);
    assert_eq!(found["members"][0]["instance"], "one");
    assert_eq!(found["partitions"][0]["owner"], found["members"][0]["member"]);
    let told = node.run("group reset billing --topic orders --to-earliest").fails(1);
    assert!(told.contains("--force"), "{told}");
    let told = node.run("group delete billing --yes").fails(1);
    assert!(told.contains("--force"), "{told}");
    send_signal("INT", &member);
    assert!(member.wait().unwrap().success());
    // It stays a member until its session is over, and what it printed is committed.
    let found = described(&node);
    assert_eq!((&found["members"][0]["instance"], &found["lag"]), (&"one".into(), &0.into()));
    node.run("group delete billing --yes --force").ok();
}

#[test]
fn options_that_make_no_sense_together_are_refused() {
    let node = with_numbers(1);
    for line in [
        "consume orders --group billing --partition 0",
        "consume orders --group billing --follow",
        "consume orders --group billing --from 3",
        "consume orders --instance one",
    ] {
        node.run(line).fails(2);
    }
}

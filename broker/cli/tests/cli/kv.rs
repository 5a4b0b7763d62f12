//! `plimsoll kv`: every command of it, against a node.

use std::io::{BufRead, BufReader};

use crate::node::Node;

fn with_settings() -> Node {
    let node = Node::start();
    node.run("topic create settings --partitions 3 --compact").ok();
    node
}

#[test]
fn a_key_is_put_read_compared_and_deleted() {
    let node = with_settings();
    let told = node.run("kv get settings colour").fails(3);
    assert!(told.contains("has no value") && told.contains("kv scan"), "{told}");
    let first = node.run("kv put settings colour blue").lines().remove(0);
    assert_eq!(node.run("kv get settings colour").lines(), ["blue"]);
    let told = node.run("kv put settings colour red --if-absent").fails(7);
    assert!(told.contains(&format!("revision {first}")), "{told}");
    let second = node.run(&format!("kv cas settings colour {first} red --json")).objects();
    let second = &second[0]["revision"];
    let told = node.run(&format!("kv cas settings colour {first} green")).fails(7);
    assert!(told.contains(&format!("revision {second}")), "{told}");
    let shown = node.run("kv get settings colour --json --stale").objects();
    assert_eq!((&shown[0]["value"], &shown[0]["revision"]), (&"red".into(), second));

    let kept = node.run("kv history settings colour --json").objects();
    let values: Vec<_> = kept.iter().map(|event| event["value"].as_str().unwrap()).collect();
    assert_eq!(values.last(), Some(&"red"), "{values:?}");
    node.run(&format!("kv delete settings colour --revision {first}")).fails(7);
    let deleted = node.run("kv delete settings colour --json").objects().remove(0);
    assert_eq!((&deleted["key"], &deleted["before"]), (&"colour".into(), second));
    let kept = node.run("kv history settings colour --json").objects();
    let last = kept.last().unwrap();
    assert_eq!((&last["event"], &last["revision"]), (&"deleted".into(), &deleted["revision"]));
    node.run("kv get settings colour").fails(3);
    let told = node.run("kv cas settings colour 0 green").fails(7);
    assert!(told.contains("no value") && told.contains("--if-absent"), "{told}");
}

#[test]
fn a_change_may_ask_for_any_value_to_be_there() {
    let node = with_settings();
    node.run("kv put settings colour blue --if-present").fails(7);
    node.run("kv put settings colour blue --if-absent").ok();
    let revision = node.run("kv put settings colour red --if-present").lines().remove(0);
    assert_eq!(node.run("kv get settings colour").lines(), ["red"]);
    let line = format!("kv delete settings colour --revision {revision} --json");
    let deleted = node.run(&line).objects().remove(0);
    assert_eq!(deleted["before"].to_string(), revision);
    let nothing = node.run("kv delete settings other --json").objects().remove(0);
    assert!(nothing["before"].is_null() && nothing["revision"].is_u64(), "{nothing}");
    node.run("kv put settings colour red --if-present --if-absent").fails(2);
}

#[test]
fn values_are_any_bytes_and_keys_are_listed_in_their_order() {
    let node = with_settings();
    node.feed("kv put settings user.b -", [0xff, 0, b'\n']).ok();
    for key in ["user.c", "user.a", "other"] {
        node.run(&format!("kv put settings {key} {key}")).ok();
    }
    let keys = node.run("kv scan settings user. --keys-only").lines();
    assert_eq!(keys, ["user.a", "user.b", "user.c"]);
    let listed = node.run("kv scan settings --limit 3 --json").objects();
    assert_eq!(listed.len(), 3);
    assert_eq!(listed[2]["value_base64"], "/wAK");
    assert_eq!(node.run("kv scan settings other").lines(), ["other\tother"]);
    node.run("kv scan nope").fails(3);
    node.run("topic create plain").ok();
    let told = node.run("kv get plain key").fails(1);
    assert!(told.contains("--compact"), "{told}");
}

#[test]
fn a_watch_tells_what_is_there_and_then_the_changes() {
    let node = with_settings();
    node.run("kv put settings a 1").ok();
    node.run("kv put settings b 2").ok();
    let seen = node.run("kv watch settings --count 2 --json").objects();
    assert_eq!((&seen[0]["event"], &seen[0]["key"]), (&"present".into(), &"a".into()));
    let revision = node.run("kv put settings a 3").lines().remove(0);
    let line = format!("kv watch settings a --exact --from {revision} --count 1 --wait 10s");
    assert_eq!(node.run(&line).lines(), [format!("{revision}\tput\ta\t3")]);
    let told = node.run("kv watch settings --from 0 --count 1").fails(2);
    assert!(told.contains("--partition"), "{told}");
    assert_eq!(node.run("kv watch settings --from-now --wait 200ms").ok(), "");
    // What is to come has no revision to begin with, and no offset of `consume` either.
    let told = node.run("kv watch settings a --exact --from 999 --count 1").fails(1);
    assert!(told.contains("--from-now") && !told.contains("earliest"), "{told}");
}

#[test]
fn a_watch_says_where_the_present_ends() {
    let node = with_settings();
    let told = node.run("kv watch settings --wait 200ms").lines();
    assert_eq!(told, ["-\tloaded"]);
    node.run("kv put settings a 1").ok();
    let command = "kv watch settings --json --count 2";
    let mut watching = node.user.command(command).spawn().unwrap();
    let lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    let mut events = lines.map(|line| {
        let event: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
        event["event"].as_str().unwrap().to_owned()
    });
    assert_eq!(events.by_ref().take(2).collect::<Vec<_>>(), ["present", "loaded"]);
    node.run("kv put settings a 2").ok();
    assert_eq!(events.collect::<Vec<_>>(), ["put"]);
    assert!(watching.wait().unwrap().success());
}

#[test]
fn a_compacted_topic_says_so() {
    let node = with_settings();
    let shown = node.run("topic describe settings").ok();
    assert!(shown.contains("cleanup=compact"), "{shown}");
    let json = node.run("topic describe settings --json").objects();
    assert_eq!(json[0]["topic"]["config"]["cleanup"], "compact");
}

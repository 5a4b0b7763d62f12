//! `plimsoll queue`: every command of it, against a node.

use std::io::{BufRead, BufReader};

use serde_json::Value;

use crate::node::{Node, send_signal};

/// A queue `jobs` that gives up after two attempts, and the queue of its dead letters.
fn with_jobs() -> Node {
    let node = Node::start();
    node.run("queue create jobs -c attempts=2 -c backoff=0 -c dead-letter=jobs.dead").ok();
    node
}

fn described(node: &Node, queue: &str) -> Value {
    node.run(&format!("queue describe {queue} --json")).objects().remove(0)
}

fn standing(node: &Node, queue: &str, of: &str) -> i64 {
    let described = described(node, queue);
    let found = &described["partition_standings"][0][of];
    found.as_i64().unwrap_or_else(|| panic!("no {of} in {described}"))
}

#[test]
fn queue_is_made_listed_changed_and_deleted() {
    let node = Node::start();
    assert_eq!(node.run("queue list").ok(), "");
    let made = node
        .run("queue create jobs --partitions 2 -c attempts=5 -c dead-letter=jobs.dead --json")
        .objects();
    assert_eq!((&made[0]["queue"], &made[0]["partitions"]), (&"jobs".into(), &2.into()));
    assert_eq!(made[0]["replicas"], 1, "there is one node");
    let listed = node.run("queue list --json").objects();
    let names: Vec<_> = listed.iter().map(|queue| queue["queue"].as_str().unwrap()).collect();
    assert_eq!(names, ["jobs", "jobs.dead"]);
    assert_eq!(node.run("queue list --prefix jobs.").lines().len(), 2, "a head and a line");

    let told = node.run("queue create jobs").fails(1);
    assert!(told.contains("--if-not-exists") && told.contains("queue alter"), "{told}");
    node.run("queue create jobs --if-not-exists").ok();
    let told = node.run("queue create other -c attemts=5").fails(2);
    assert!(told.contains("attempts"), "{told}");

    node.run("queue alter jobs -c attempts=7").ok();
    let changed = described(&node, "jobs");
    assert!(changed.to_string().contains("\"attempts\":\"7\""), "{changed}");
    let told = node.run("queue alter nope -c attempts=7").fails(3);
    assert!(told.contains("queue list"), "{told}");

    let told = node.run("queue describe nope").fails(3);
    assert!(told.contains("there is no queue nope\n"), "{told}");
    let told = node.run("queue delete jobs").fails(2);
    assert!(told.contains("--yes"), "{told}");
    node.run("queue delete jobs --yes").ok();
    node.run("queue delete jobs --yes").fails(3);
    node.run("topic create plain").ok();
    let told = node.run("queue delete plain --yes").fails(3);
    assert!(told.contains("topic delete"), "{told}");
}

#[test]
fn messages_are_sent_looked_at_and_received_once() {
    let node = with_jobs();
    assert_eq!(node.run("queue send jobs one two").lines(), ["0:0", "0:1"]);
    let sent = node.feed("queue send jobs --key k -H trace=7 --json", "three\n").objects();
    assert_eq!((&sent[0]["id"], &sent[0]["offset"]), (&"0:2".into(), &2.into()));

    assert_eq!(node.run("queue peek jobs --count 2").lines(), ["0:0\tone", "0:1\ttwo"]);
    let seen = node.run("queue peek jobs --from 2 --json").objects();
    assert_eq!((&seen[0]["value"], &seen[0]["key"]), (&"three".into(), &"k".into()));
    assert_eq!(standing(&node, "jobs", "ready"), 3, "nothing was taken");

    assert_eq!(node.run("queue receive jobs --count 2").lines(), ["one", "two"]);
    assert_eq!(standing(&node, "jobs", "ready"), 1);
    let last = node.run("queue receive jobs --wait 200ms --json").objects();
    assert_eq!((last.len(), &last[0]["id"], &last[0]["attempt"]), (1, &"0:2".into(), &1.into()));
    assert_eq!(node.run("queue receive jobs --wait 100ms").ok(), "");
    assert_eq!(standing(&node, "jobs", "unsettled"), 0);

    node.run("queue send jobs x --partition 9").fails(3);
    node.run("queue send nope x").fails(3);
    node.run("queue receive nope").fails(3);
    node.run("queue peek nope").fails(3);
    node.run("topic create plain").ok();
    let told = node.run("queue send plain x").fails(3);
    assert!(told.contains("plimsoll produce"), "{told}");
}

#[test]
fn message_that_waits_says_why_and_can_be_cancelled() {
    let node = with_jobs();
    let id = node.run("queue send jobs later --delay 1h").lines().remove(0);
    let told = node.run(&format!("queue explain jobs {id} --json")).objects();
    assert_eq!(told[0]["standing"], "delayed", "{told:?}");
    node.run(&format!("queue cancel jobs {id}")).ok();
    let told = node.run(&format!("queue cancel jobs {id}")).fails(1);
    assert!(told.contains("was not cancelled: ") && told.contains("cancel"), "{told}");
    let told = node.run("queue explain jobs 0:99").ok();
    assert!(told.starts_with("0:99 "), "{told}");

    node.run("queue send jobs a b c").ok();
    let told = node.run("queue purge jobs").fails(2);
    assert!(told.contains("--yes"), "{told}");
    node.run("queue purge jobs --yes").ok();
    assert_eq!(standing(&node, "jobs", "unsettled"), 0);
}

#[test]
fn dead_letters_say_why_and_go_back() {
    let node = with_jobs();
    node.run("queue send jobs good bad").ok();
    assert_eq!(node.run("queue receive jobs --count 1").lines(), ["good"]);
    assert_eq!(node.run("queue receive jobs --count 1 --settle release").lines(), ["bad"]);
    let again = node.run("queue receive jobs --count 1 --settle release --json").objects();
    assert_eq!(again[0]["attempt"], 2);
    let dead = node.run("queue receive jobs.dead --count 1 --settle release --json").objects();
    let headers = dead[0]["headers"].to_string();
    for expected in ["dead-letter-reason", "dead-letter-source", "jobs/0/1", "dead-letter-attempts"]
    {
        assert!(headers.contains(expected), "{expected}: {headers}");
    }
    let told = node.run("queue explain jobs 0:1").ok();
    assert!(told.contains("jobs.dead"), "{told}");

    node.run("queue redrive jobs.dead").ok();
    assert_eq!(standing(&node, "jobs.dead", "unsettled"), 0);
    let back = node.run("queue receive jobs --count 1 --json").objects();
    assert_eq!((&back[0]["value"], &back[0]["attempt"]), (&"bad".into(), &1.into()));
    assert!(!back[0]["headers"].to_string().contains("dead-letter"), "{back:?}");
    node.run("queue redrive jobs.dead").ok();
    node.run("queue redrive nope").fails(3);
}

#[test]
fn redrive_takes_so_many_and_leaves_what_names_no_source() {
    let node = with_jobs();
    node.run("queue create retry").ok();
    node.run("queue send jobs a b c").ok();
    node.run("queue receive jobs --count 3 --settle reject").ok();
    node.run("queue redrive jobs.dead --count 2 --to retry").ok();
    assert_eq!(node.run("queue receive retry --count 2").lines(), ["a", "b"]);
    assert_eq!(standing(&node, "jobs.dead", "unsettled"), 1);
    node.run("queue send jobs.dead stranger").ok();
    let told = node.run("queue redrive jobs.dead").fails(4);
    assert!(told.contains("1 message without a source stay"), "{told}");
    assert!(told.contains("--to QUEUE"), "{told}");
    assert_eq!(node.run("queue receive jobs --count 1").lines(), ["c"]);
    assert_eq!(node.run("queue peek jobs.dead").lines(), ["0:3\tstranger"]);
}

#[test]
fn subscription_has_an_account_of_its_own() {
    let node = Node::start();
    node.run("topic create orders").ok();
    node.feed("produce orders", "old\n").ok();
    node.run("queue subscribe orders billing").ok();
    node.run("queue subscribe orders audit --from-latest -c attempts=3").ok();
    node.feed("produce orders", "new\n").ok();
    let billing = node.run("queue receive orders -s billing --count 2").lines();
    assert_eq!(billing, ["old", "new"]);
    assert_eq!(node.run("queue receive orders -s audit --wait 300ms").lines(), ["new"]);
    assert_eq!(node.run("consume orders --count 2").lines(), ["old", "new"]);
    node.run("queue unsubscribe orders audit --yes").ok();
    node.run("queue receive orders -s audit").fails(3);
    let told = node.run("queue describe orders -s audit").fails(3);
    assert!(told.contains("orders has no subscription audit"), "{told}");
}

#[test]
fn receiver_that_follows_settles_what_it_printed_when_it_is_interrupted() {
    let node = with_jobs();
    node.run("queue send jobs a b").ok();
    let mut receiver = node.user.command("queue receive jobs --follow").spawn().unwrap();
    let mut lines = BufReader::new(receiver.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(lines.by_ref().take(2).collect::<Vec<_>>(), ["a", "b"]);
    node.run("queue send jobs c").ok();
    assert_eq!(lines.next().unwrap(), "c");
    send_signal("INT", &receiver);
    assert!(receiver.wait().unwrap().success());
    assert_eq!(standing(&node, "jobs", "unsettled"), 0);
}

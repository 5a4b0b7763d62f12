//! `produce`: what goes in comes out, and what does not go in is said.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::Stdio;

use crate::node::{Node, send_signal};

fn numbers(count: u64) -> String {
    (1..=count).map(|n| format!("{n}\n")).collect()
}

#[test]
fn lines_come_back_in_order_whatever_carries_them() {
    let node = Node::start();
    let plaintext = format!("--connect {} --transport tcp", node.plaintext);
    for (topic, options) in [("q", ""), ("t", "--transport tls"), ("p", plaintext.as_str())] {
        node.run(&format!("topic create {topic}")).ok();
        let told = node.feed(&format!("produce {topic} {options}"), numbers(10_000)).fails(0);
        assert!(told.contains("produced 10,000 records"), "{told}");
        assert!(told.contains("acknowledged: quorum, durable"), "{told}");
        let back = node.run(&format!("consume {topic} {options}")).ok();
        assert!(back == numbers(10_000), "{topic}: {} bytes came back", back.len());
    }
}

#[test]
fn json_copies_a_topic_exactly() {
    let node = Node::start();
    node.run("topic create from").ok();
    node.run("topic create to").ok();
    let records = concat!(
        r#"{"key":"k","value":"line\nbreak","headers":[{"name":"a","value":"1"}],"timestamp_ms":5}"#,
        "\n",
        r#"{"key_base64":"/w==","value_base64":"AP8="}"#,
        "\n",
        r#"{"key":"gone","value":null,"timestamp_ms":7}"#,
        "\n",
        r#"{"value":""}"#,
    );
    node.feed("produce from --format json --acks leader --compression zstd", records).ok();
    let first = node.run("consume from --format json").ok();
    node.feed("produce to --format json --compression lz4", first.clone()).ok();
    let second = node.run("consume to --format json").ok();
    assert_eq!(first.replace(r#""topic":"from""#, r#""topic":"to""#), second);
    let objects = node.run("consume to --format json").objects();
    assert_eq!(objects.len(), 4);
    assert_eq!(objects[0]["headers"][0]["name"], "a");
    assert_eq!(objects[0]["timestamp_ms"], 5);
    assert_eq!(objects[1]["value_base64"], "AP8=");
    assert!(objects[2]["value"].is_null() && objects[2].get("value").is_some());
    assert_eq!(objects[3]["value"], "");
}

#[test]
fn keys_keep_their_partition_and_partitions_can_be_chosen() {
    let node = Node::start();
    node.run("topic create orders --partitions 4").ok();
    let input: String = (0..400).map(|n| format!("customer-{}=order {n}\n", n % 20)).collect();
    let summary = node.feed("produce orders -k = -H source=test --json", input).objects().remove(0);
    assert_eq!(summary["records"], 400);
    assert_eq!(summary["reached"], "quorum");
    let mut partition_of = BTreeMap::new();
    let mut last_of = BTreeMap::new();
    for record in node.run("consume orders --format json").objects() {
        let key = record["key"].as_str().unwrap().to_owned();
        let partition = record["partition"].as_u64().unwrap();
        assert_eq!(*partition_of.entry(key.clone()).or_insert(partition), partition);
        let order: u64 = record["value"].as_str().unwrap()["order ".len()..].parse().unwrap();
        let before = last_of.insert(key, order);
        assert!(before.is_none_or(|before| before < order), "{before:?} came before {order}");
        assert_eq!(record["headers"][0]["value"], "test");
    }
    assert_eq!(partition_of.len(), 20);

    let summary = node.feed("produce orders --partition 2 --json", "a\nb\n").objects().remove(0);
    assert_eq!(summary["partitions"][0]["partition"], 2);
    assert_eq!(summary["partitions"][0]["records"], 2);
    let missing = node.feed("produce orders --partition 4", "a\n").fails(3);
    assert!(missing.contains("counted from 0"), "{missing}");
    let weights = node.feed("produce orders --partitioner weighted:1,2", "a\n").fails(2);
    assert!(weights.contains("4 partitions"), "{weights}");
}

#[test]
fn files_are_read_in_order_and_named_in_errors() {
    let node = Node::start();
    node.run("topic create orders").ok();
    let first = node.user.write("first.txt", "a:1\nb:2");
    let second = node.user.write("second.txt", "c:3\nno separator\nd:4\n");
    let told = node.run(&format!("produce orders -k : {first} {second}")).fails(4);
    assert!(told.contains("second.txt, line 2: it has no key separator"), "{told}");
    assert!(told.contains("3 stored, 1 not readable"), "{told}");
    let told = node.run(&format!("produce orders -k : --keep-going {second}")).fails(4);
    assert!(told.contains("2 stored, 1 not readable"), "{told}");
    let back = node.run("consume orders --show key").lines();
    assert_eq!(back, ["a\t1", "b\t2", "c\t3", "c\t3", "d\t4"]);
    let missing = node.run(&format!("produce orders {first} missing.txt")).fails(3);
    assert!(missing.contains("missing.txt"), "{missing}");
    // Nothing of the first file was sent either.
    assert_eq!(node.run("consume orders").lines().len(), 5);
}

#[test]
fn unknown_topic_is_not_made_by_the_way() {
    let node = Node::start();
    let told = node.feed("produce orders", "a\n").fails(3);
    assert!(told.contains("plimsoll topic create"), "{told}");
    assert_eq!(node.run("topic list --json").ok(), "");
}

#[test]
fn record_that_is_too_large_is_refused_and_others_are_stored() {
    let node = Node::start();
    node.run("topic create orders --config batch-bytes-max=100KiB").ok();
    let input = format!("small\n{}\nalso small\n", "x".repeat(200_000));
    let told = node.feed("produce orders --keep-going", input).fails(4);
    assert!(told.contains("2 stored, 1 not stored"), "{told}");
    assert!(told.contains("batch-bytes-max"), "{told}");
    assert_eq!(node.run("consume orders").lines(), ["small", "also small"]);
    // A record larger than a batch usually gets is a batch of its own.
    node.run("topic create large").ok();
    let large = format!("{}\n", "y".repeat(3_000_000));
    node.feed("produce large", large.clone()).ok();
    assert!(node.run("consume large").ok() == large);
}

#[test]
fn options_are_taken_from_the_environment() {
    let node = Node::start();
    node.run("topic create orders").ok();
    let input = node.user.write("input.txt", "k=v\n");
    let produced = node
        .user
        .command(&format!("produce orders {input}"))
        .env("PLIMSOLL_PRODUCE_KEY_SEPARATOR", "=")
        .env("PLIMSOLL_PRODUCE_JSON", "yes")
        .output()
        .unwrap();
    assert!(String::from_utf8(produced.stdout).unwrap().starts_with('{'));
    assert_eq!(node.run("consume orders --show key --separator ;").ok(), "k;v\n");
}

#[test]
fn lines_that_are_typed_are_stored_at_once_and_an_interrupt_says_how_many() {
    let node = Node::start();
    node.run("topic create orders").ok();
    let mut producing = node.user.command("produce orders").stdin(Stdio::piped()).spawn().unwrap();
    let mut typed = producing.stdin.take().unwrap();
    typed.write_all(b"first\n").unwrap();
    // It is read while the producer still waits for more.
    let first = node.run("consume orders --from earliest --follow --count 1").lines();
    assert_eq!(first, ["first"]);
    send_signal("INT", &producing);
    let ended = producing.wait_with_output().unwrap();
    let told = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(4), "{told}");
    assert!(told.contains("interrupted; 1 record"), "{told}");
    drop(typed);
}

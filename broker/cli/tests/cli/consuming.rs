//! `consume`: where it begins, where it ends, and who reads it.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use crate::node::{Node, send_signal};

fn with_numbers(count: u64) -> Node {
    let node = Node::start();
    node.run("topic create orders").ok();
    let input: String = (0..count)
        .map(|n| format!("{{\"value\":\"{n}\",\"timestamp_ms\":{}}}\n", 1_000_000 + n * 1_000))
        .collect();
    // Small batches, so that there are places inside of one and between two.
    node.feed("produce orders --format json --batch-bytes 1KiB", input).ok();
    node
}

#[test]
fn reading_begins_where_it_was_asked_to() {
    let node = with_numbers(1_000);
    let first_of = |from: &str| {
        let lines = node.run(&format!("consume orders --from {from} --count 1")).lines();
        lines.first().map_or(1_000, |line| line.parse::<u64>().unwrap())
    };
    assert_eq!(first_of("earliest"), 0);
    assert_eq!(first_of("0"), 0);
    assert_eq!(first_of("517"), 517);
    assert_eq!(first_of("999"), 999);
    assert_eq!(first_of("1000"), 1_000);
    assert_eq!(first_of("latest"), 1_000);
    assert_eq!(first_of("@1517000"), 517);
    assert_eq!(first_of("@1516001"), 517);
    assert_eq!(first_of("1970-01-01T00:25:17Z"), 517);
    assert_eq!(first_of("@5"), 0);
    assert_eq!(first_of("-1h"), 1_000);
    assert_eq!(node.run("consume orders").lines().len(), 1_000);
    assert_eq!(node.run("consume orders --count 0").ok(), "");
    let told = node.run("consume orders --count 7").fails(0);
    assert!(told.contains("consumed 7 records"), "{told}");
    assert_eq!(node.run("consume orders --count 7 --quiet").fails(0), "");
}

#[test]
fn offset_that_is_not_there_is_an_error_with_advice() {
    let node = with_numbers(10);
    let told = node.run("consume orders --from 1795250000000").fails(1);
    assert!(told.contains("--from earliest"), "{told}");
    assert!(told.contains('@'), "{told}");
    let told = node.run("consume orders --partition 1").fails(3);
    assert!(told.contains("counted from 0"), "{told}");
    node.run("consume nothing").fails(3);
}

#[test]
fn follow_gives_what_comes_and_ends_with_an_interrupt() {
    let node = with_numbers(3);
    let mut following = node.user.command("consume orders --follow --from 1").spawn().unwrap();
    let mut lines = BufReader::new(following.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(lines.by_ref().take(2).collect::<Vec<_>>(), ["1", "2"]);
    for round in 0..3 {
        node.feed("produce orders", format!("more {round}\n")).ok();
        assert_eq!(lines.next().unwrap(), format!("more {round}"));
    }
    send_signal("INT", &following);
    assert_eq!(lines.next(), None);
    drop(lines);
    let ended = following.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(0));
    let told = String::from_utf8(ended.stderr).unwrap();
    assert!(told.contains("consumed 5 records"), "{told}");
}

#[test]
fn reader_that_has_enough_ends_it_quietly() {
    let node = with_numbers(1);
    let long = "z".repeat(999);
    let many: String = (0..5_000).map(|_| format!("{long}\n")).collect();
    node.feed("produce orders", many).ok();
    for options in ["", "--follow --from earliest", "--format json"] {
        let mut consuming =
            node.user.command(&format!("consume orders {options}")).spawn().unwrap();
        let mut reader = BufReader::new(consuming.stdout.take().unwrap());
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        assert!(!line.is_empty());
        drop(reader);
        let ended = consuming.wait_with_output().unwrap();
        let told = String::from_utf8(ended.stderr).unwrap();
        assert_eq!((ended.status.code(), told.as_str()), (Some(0), ""), "{options}");
    }
}

#[test]
fn output_that_cannot_be_written_is_a_failure() {
    let node = with_numbers(10);
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let ended = node.user.command("consume orders").stdout(Stdio::from(full)).output().unwrap();
    let told = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(1), "{told}");
    assert!(told.contains("cannot write to standard output"), "{told}");
}

#[test]
fn partitions_are_read_together_or_alone() {
    let node = Node::start();
    node.run("topic create orders --partitions 3").ok();
    for partition in 0..3 {
        let input: String = (0..50).map(|n| format!("{partition} {n}\n")).collect();
        node.feed(&format!("produce orders --partition {partition}"), input).ok();
    }
    let all = node.run("consume orders").lines();
    assert_eq!(all.len(), 150);
    let some = node.run("consume orders --partition 0,2 --show partition --separator ;").lines();
    assert_eq!(some.len(), 100);
    for partition in ["0", "2"] {
        let own: Vec<_> = some.iter().filter(|line| line.starts_with(partition)).collect();
        let expected: Vec<_> = (0..50).map(|n| format!("{partition};{partition} {n}")).collect();
        assert_eq!(own, expected.iter().collect::<Vec<_>>());
    }
    // Offset 60 is beyond the end of each; all say so, and nothing is printed.
    let told = node.run("consume orders --from 60").fails(1);
    assert!(told.contains("and 2 more partitions"), "{told}");
}

#[test]
fn topic_that_is_deleted_ends_its_reader() {
    let node = with_numbers(1);
    let mut following =
        node.user.command("consume orders --follow --from earliest").spawn().unwrap();
    let mut lines = BufReader::new(following.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "0");
    node.run("topic delete orders --yes").ok();
    let ended = following.wait_with_output().unwrap();
    let told = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(4), "{told}");
    assert!(told.contains("orders"), "{told}");
}

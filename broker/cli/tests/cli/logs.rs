//! `log inspect` and `log verify` on the directory of a node that has ended.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::node::{Node, User};

/// The directory of a node that took some records and was ended, or killed.
fn left_behind(kill: bool) -> User {
    let node = Node::start();
    node.run("topic create orders --partitions 2").ok();
    let input: String = (0..5_000).map(|n| format!("record {n}\n")).collect();
    node.feed("produce orders --partitioner round-robin --batch-bytes 4KiB", input).ok();
    if kill {
        return node.kill();
    }
    let (user, status) = node.terminate();
    assert_eq!(status.code(), Some(0));
    user
}

fn kinds(objects: &[serde_json::Value]) -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::new();
    for object in objects {
        *kinds.entry(object["kind"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    kinds
}

#[test]
fn directory_of_an_ended_node_is_described_and_verified() {
    let user = left_behind(false);
    let text = user.run("log inspect data").ok();
    for part in ["cluster ", "CHECKPOINT", "JOURNAL FILE", "would replay", "GROUP"] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    let objects = user.run("log inspect data --json --batches --blocks").objects();
    let kinds = kinds(&objects);
    assert_eq!(kinds["store"], 1);
    assert!(kinds["checkpoint"] >= 1 && kinds["journal-file"] >= 1, "{kinds:?}");
    assert!(kinds["group"] >= 3 && kinds["segment"] >= 2 && kinds["batch"] > 4, "{kinds:?}");
    assert_eq!(kinds.get("damage"), None);
    let records: u64 = objects
        .iter()
        .filter(|object| object["kind"] == "batch" && object["entry"] == "records")
        .map(|object| object["records"].as_u64().unwrap())
        .sum();
    assert_eq!(records, 5_000);

    let one = user.run("log inspect data --group 0").ok();
    assert!(one.contains("SEGMENT") && !one.contains("CHECKPOINT"), "{one}");
    let told = user.run("log inspect data --group 99").fails(3);
    assert!(told.contains("no group 99"), "{told}");

    let verified = user.run("log verify data").fails(0);
    assert!(verified.contains("no damage"), "{verified}");
    assert_eq!(user.run("log verify data --quiet").fails(0), "");
    // Looking changes nothing: the node starts and has everything.
    let node = Node::start_as(user);
    assert_eq!(node.run("consume orders").lines().len(), 5_000);
}

#[test]
fn what_a_killed_node_left_in_the_journal_is_counted() {
    let user = left_behind(true);
    user.run("log verify data").ok();
    let groups: Vec<_> = user
        .run("log inspect data --json")
        .objects()
        .into_iter()
        .filter(|object| object["kind"] == "group")
        .collect();
    let records: u64 = groups.iter().map(|group| group["log_end_offset"].as_u64().unwrap()).sum();
    assert_eq!(records, 5_000, "{groups:?}");
}

#[test]
fn damaged_byte_is_found_and_its_place_named() {
    let user = left_behind(false);
    let objects = user.run("log inspect data --json --batches").objects();
    let batch = objects
        .iter()
        .find(|object| object["kind"] == "batch" && object["records"].as_u64() > Some(10))
        .unwrap();
    let path = batch["path"].as_str().unwrap();
    let position = batch["position"].as_u64().unwrap();
    let file = File::options().read(true).write(true).open(user.path("data").join(path)).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, position + 100).unwrap();
    file.write_all_at(&[byte[0] ^ 1], position + 100).unwrap();
    drop(file);

    let run = user.run("log verify data");
    let printed = String::from_utf8(run.stdout.clone()).unwrap();
    let told = run.fails(5);
    assert!(told.contains("1 place is damaged"), "{told}");
    assert!(printed.starts_with(&format!("{path}: byte {position}: ")), "{printed}");
    let verified = user.run("log verify data --json");
    assert_eq!(verified.code, 5);
    let printed = String::from_utf8(verified.stdout).unwrap();
    let first: serde_json::Value = serde_json::from_str(printed.lines().next().unwrap()).unwrap();
    assert_eq!((&first["kind"], &first["position"]), (&"damage".into(), &position.into()));
    let again = user.run("log inspect data --batches").ok();
    assert!(again.contains(&format!("{path}:{position}  ")), "{again}");
}

#[test]
fn other_directories_are_no_data_directories() {
    let user = User::new();
    user.run("log inspect missing").fails(3);
    user.run("log verify .").fails(3);
    user.write("node", "file in the way");
    user.run("log verify node").fails(1);
}

//! Workloads that no other test runs: queues, `bench amqp` beside another broker at a URL, locks, and compaction.

use std::net::TcpListener;

use crate::node::{Node, User};

/// An address of this machine that was free a moment ago.
fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

fn figure(object: &serde_json::Value, path: &str) -> f64 {
    object.pointer(path).and_then(serde_json::Value::as_f64).unwrap_or_else(|| {
        panic!("no number at {path}: {object}");
    })
}

#[test]
fn bench_amqp_measures_the_broker_at_a_url_and_an_embedded_node_and_leaves_nothing() {
    let address = free_address();
    let options = format!("--listen-amqp {address}");
    let node = Node::start_with(User::new(), "127.0.0.1:0", &options);
    let before = node.run("topic list --json").objects().len();
    let line = format!(
        "bench amqp --json --records 3000 --queues 2 --senders 1 --receivers 2 --data-dir . \
         --url amqp://guest:guest@{address}/%2f"
    );
    let objects = node.run(&line).objects();
    let [object] = &objects[..] else { panic!("one object was expected: {objects:?}") };
    assert_eq!(object["workload"], "amqp");
    assert_eq!(object["broker"], format!("amqp://{address}/%2f"));
    for path in [
        "/messages_per_s",
        "/latency_us/p50",
        "/embedded/messages_per_s",
        "/embedded/latency_us/p99",
        "/ratio",
    ] {
        assert!(figure(object, path) > 0.0, "{path}: {object}");
    }
    assert!((figure(object, "/records") - 3_000.0).abs() < 0.5, "{object}");
    assert_eq!(node.run("topic list --json").objects().len(), before, "queues were left");
}

#[test]
fn bench_amqp_without_a_url_measures_embedded_nodes() {
    let user = User::new();
    let line = "bench amqp --json --records 500 --nodes 3 --queues 3 --data-dir .";
    let objects = user.run(line).objects();
    let [object] = &objects[..] else { panic!("one object was expected: {objects:?}") };
    assert_eq!((&object["broker"], &object["nodes"]), (&"embedded".into(), &3.into()));
    assert!(figure(object, "/messages_per_s") > 0.0, "{object}");
    assert!(figure(object, "/latency_us/max") > 0.0, "{object}");
    assert!(object.get("ratio").is_none(), "{object}");
}

#[test]
fn bench_amqp_says_where_nobody_listens() {
    let user = User::new();
    let told = user.run("bench amqp --url-only --url amqp://127.0.0.1:1 --records 10").fails(1);
    assert!(told.contains("no AMQP at the URL"), "{told}");
}

#[test]
fn benches_of_queues_say_their_figures_as_json() {
    let user = User::new();
    for (line, figures) in [
        ("queue --records 2000", ["/messages_per_s", "/seconds"]),
        ("delay --records 500 --rate 1000", ["/lateness_us/p50", "/lateness_us/max"]),
        ("group --members 2 --partitions 8 --rate 400", ["/gap_ms/p50", "/settled_ms"]),
    ] {
        let objects = user.run(&format!("bench {line} --json --data-dir .")).objects();
        let [object] = &objects[..] else { panic!("one object was expected: {objects:?}") };
        assert_eq!(object["workload"].as_str(), line.split(' ').next(), "{object}");
        for path in figures {
            assert!(figure(object, path) > 0.0, "{path}: {object}");
        }
    }
}

#[test]
fn benches_of_locks_and_compaction_say_their_figures_as_json() {
    let user = User::new();
    for (line, figures) in [
        (
            "lock --clients 2 --records 100",
            ["/pairs_per_s", "/latency_us/p50", "/journal_write_us/p50"],
        ),
        (
            "lock --handover --waiters 10 --records 50",
            ["/handover_us/p99", "/produce_us/p50", "/ratio_to_produce"],
        ),
        ("compaction --records 20000 --keys 100", ["/disk_ratio", "/append_ratio", "/live_bytes"]),
    ] {
        let objects = user.run(&format!("bench {line} --json --data-dir .")).objects();
        let [object] = &objects[..] else { panic!("one object was expected: {objects:?}") };
        assert_eq!(object["workload"].as_str(), line.split(' ').next(), "{object}");
        for path in figures {
            assert!(figure(object, path) > 0.0, "{path}: {object}");
        }
    }
}

#[test]
fn bench_failover_of_locks_kills_the_leader_and_hands_over_in_order() {
    let user = User::new();
    let line = "bench failover --locks --rounds 2 --waiters 3 --json --data-dir .";
    let objects = user.run(line).objects();
    let [object] = &objects[..] else { panic!("one object was expected: {objects:?}") };
    assert_eq!((&object["workload"], &object["fault"]), (&"failover".into(), &"kill".into()));
    assert_eq!((&object["rounds"], &object["waiters"]), (&2.into(), &3.into()));
    // Two locks, each of the holder and three who wait.
    assert_eq!(object["records"], 2 * 2 * 4);
    assert!(figure(object, "/failover_ms/p50") > 0.0, "{object}");
    assert!(figure(object, "/failover_ms/max") >= figure(object, "/failover_ms/p50"), "{object}");
    let told = user.run("bench failover --locks --fault stop --data-dir .").fails(1);
    assert!(told.contains("--fault kill"), "{told}");
}

#[test]
fn bench_lock_says_where_no_etcd_listens() {
    let user = User::new();
    let line = "bench lock --records 10 --etcd http://127.0.0.1:1 --data-dir .";
    let told = user.run(line).fails(1);
    assert!(told.contains("no etcd at 127.0.0.1:1"), "{told}");
}

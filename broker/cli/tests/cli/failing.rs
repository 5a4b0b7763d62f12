//! What goes wrong around a node: a second one, a port in use, a wrong certificate, a power switch.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use crate::node::{Node, User, exists, send_signal};

#[test]
fn second_node_on_a_data_directory_is_refused_and_the_first_goes_on() {
    let node = Node::start();
    node.run("topic create orders").ok();
    let data = node.data();
    let told = node.run(&format!("serve --listen 127.0.0.1:0 --data {}", data.display())).fails(1);
    assert!(told.contains(data.to_str().unwrap()), "{told}");
    node.feed("produce orders", "still here\n").ok();
    assert_eq!(node.run("consume orders").lines(), ["still here"]);
}

#[test]
fn port_in_use_is_named() {
    let node = Node::start();
    let other = User::new();
    let line = format!("serve --listen {} --data {}", node.address, other.path("data").display());
    let told = other.run(&line).fails(1);
    assert!(told.contains(&node.address), "{told}");
    assert!(!exists(&other.path("config/current")), "a node that never ran left a context");
}

#[test]
fn wrong_certificate_is_refused_with_advice() {
    let node = Node::start();
    let other = Node::start();
    let other_ca = other.data().join("tls/ca.pem");
    for transport in ["quic", "tls"] {
        let line = format!(
            "topic list --connect {} --ca {} --transport {transport}",
            node.address,
            other_ca.display()
        );
        let told = node.run(&line).fails(6);
        assert!(told.contains("--ca"), "{told}");
    }
    let own_ca = node.data().join("tls/ca.pem");
    node.run(&format!("topic list --connect {} --ca {}", node.address, own_ca.display())).ok();
    for transport in ["quic", "tls"] {
        let printed = format!("--ca {} --transport {transport}", node.fingerprint);
        node.run(&format!("topic list --connect {} {printed}", node.address)).ok();
    }
    let nobody = format!("topic list --connect {} --ca sha256:{}", node.address, "00".repeat(32));
    node.run(&nobody).fails(6);
}

#[test]
fn acknowledged_records_survive_a_power_switch_and_an_ordinary_end() {
    let node = Node::start();
    node.run("topic create orders --partitions 2").ok();
    let input: String = (0..1_000).map(|n| format!("{n}\n")).collect();
    node.feed("produce orders --partitioner round-robin", input).ok();
    let node = Node::start_as(node.kill());
    let sum = |node: &Node| -> u64 {
        node.run("consume orders").lines().iter().map(|line| line.parse::<u64>().unwrap()).sum()
    };
    assert_eq!(sum(&node), 499_500);
    node.feed("produce orders", "1000\n").ok();
    let (user, status) = node.terminate();
    assert_eq!(status.code(), Some(0));
    let node = Node::start_as(user);
    assert_eq!(sum(&node), 500_500);
}

#[test]
fn producer_and_reader_outlive_their_node() {
    let node = Node::start();
    let address = node.address.clone();
    node.run("topic create orders").ok();
    let mut producing =
        node.user.command("produce orders --json").stdin(Stdio::piped()).spawn().unwrap();
    let mut input = producing.stdin.take().unwrap();
    let mut following =
        node.user.command("consume orders --follow --from earliest").spawn().unwrap();
    let mut lines = BufReader::new(following.stdout.take().unwrap()).lines().map(Result::unwrap);

    writeln!(input, "before").unwrap();
    assert_eq!(lines.next().unwrap(), "before");
    let user = node.kill();
    writeln!(input, "while it was away").unwrap();
    let node = Node::start_at(user, &address);
    assert_eq!(lines.next().unwrap(), "while it was away");
    writeln!(input, "after").unwrap();
    assert_eq!(lines.next().unwrap(), "after");

    drop(input);
    let produced = producing.wait_with_output().unwrap();
    assert_eq!(produced.status.code(), Some(0));
    let summary: serde_json::Value = serde_json::from_slice(&produced.stdout).unwrap();
    assert_eq!((&summary["records"], &summary["unknown"]), (&3.into(), &0.into()));
    send_signal("INT", &following);
    assert_eq!(following.wait().unwrap().code(), Some(0));
    assert_eq!(node.run("consume orders").lines(), ["before", "while it was away", "after"]);
}

#[test]
fn node_that_has_gone_is_no_connection() {
    let node = Node::start();
    let user = node.kill();
    let told = user.run("topic list --timeout 5s").fails(6);
    assert!(told.contains("plimsoll serve"), "{told}");
    user.feed("produce orders --timeout 5s", "a\n").fails(6);
}

#[test]
fn missing_or_wrong_settings_of_a_node_are_usage_errors() {
    let user = User::new();
    for (line, part) in [
        ("serve --set colour=red", "colour"),
        ("serve --set sleep_after", "sleep_after"),
        ("serve --listen nowhere", "nowhere"),
        ("serve --config missing.toml", "missing.toml"),
        ("serve --set batch_bytes_max=1GiB", "batch_bytes_max"),
    ] {
        let told = user.run(line).fails(2);
        assert!(told.contains(part), "{line}: {told}");
    }
}

/// `produce` used to wait two minutes without a word, and then said that nobody had answered.
#[test]
fn producer_that_is_refused_for_now_says_why_while_it_tries_and_what_an_interrupt_waits_for() {
    let options = "--set free_bytes_min=1024GiB";
    let node = Node::start_with(User::new(), "127.0.0.1:0", options);
    node.run("topic create orders").ok();
    let mut producing = node.user.command("produce orders").stdin(Stdio::piped()).spawn().unwrap();
    producing.stdin.take().unwrap().write_all(b"a\n").unwrap();
    let mut told = BufReader::new(producing.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(told.any(|line| line.contains("trying again") && line.contains("LowDiskSpace")));
    send_signal("INT", &producing);
    assert!(told.any(|line| line.contains("interrupt once more")));
    send_signal("INT", &producing);
    assert_eq!(producing.wait().unwrap().code(), Some(130));
    assert!(node.run("consume orders").lines().is_empty(), "what was refused is not stored");
}

#[test]
fn data_of_a_newer_release_is_left_alone_and_is_no_damage() {
    let user = Node::start().terminate().0;
    let meta = user.path("data/plimsoll.meta");
    let mut bytes = std::fs::read(&meta).unwrap();
    bytes[8] = 200;
    std::fs::write(&meta, &bytes).unwrap();
    let data = user.path("data").display().to_string();
    let told = user.run(&format!("serve --listen 127.0.0.1:0 --data {data}")).fails(1);
    assert!(told.contains(&data) && told.contains("format version 200"), "{told}");
    assert!(!told.contains("damaged"), "{told}");
    for command in ["verify", "inspect"] {
        let told = user.run(&format!("log {command} {data}")).fails(1);
        assert!(told.contains("newer release"), "{told}");
    }
    assert_eq!(std::fs::read(&meta).unwrap(), bytes);
}

#[test]
fn bench_takes_its_options_from_variables_and_no_node_in_use_from_the_common_ones() {
    let user = User::new();
    let run = |name: &str, value: &str| {
        let mut command = user.command("bench produce --records 1000 --producers 1 --partitions 1");
        command.arg("--ca").arg(format!("sha256:{}", "00".repeat(32)));
        command.env(name, value).output().unwrap()
    };
    let refused = run("PLIMSOLL_BENCH_DURABILITY", "maybe");
    assert_eq!(refused.status.code(), Some(2));
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(told.contains("PLIMSOLL_BENCH_DURABILITY=maybe"), "{told}");
    // Nobody listens there: only a run that goes there fails.
    let nobody = "127.0.0.1:1";
    let elsewhere = run("PLIMSOLL_BENCH_CONNECT", nobody);
    assert_eq!(elsewhere.status.code(), Some(6));
    let here = run("PLIMSOLL_CONNECT", nobody);
    assert_eq!(here.status.code(), Some(0), "{}", String::from_utf8_lossy(&here.stderr));
}

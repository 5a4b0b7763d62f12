//! What needs no node.

use crate::node::User;

const COMMANDS: &[&str] = &[
    "",
    "serve",
    "topic",
    "topic create",
    "topic list",
    "topic describe",
    "topic alter",
    "topic delete",
    "kv",
    "kv get",
    "kv put",
    "kv cas",
    "kv delete",
    "kv scan",
    "kv watch",
    "kv history",
    "produce",
    "consume",
    "status",
    "cluster",
    "cluster status",
    "cluster plan",
    "cluster rebalance",
    "cluster drain",
    "cluster remove",
    "cluster transfer-leader",
    "cluster token",
    "log",
    "log inspect",
    "log verify",
    "context",
    "context list",
    "context show",
    "context add",
    "context use",
    "context remove",
    "bench",
    "demo",
    "config",
    "config reference",
    "completions",
];

#[test]
fn every_command_has_help_with_examples_on_standard_output() {
    let user = User::new();
    for command in COMMANDS {
        let help = user.run(&format!("{command} --help")).ok();
        assert!(help.contains("Usage: plimsoll"), "{command}: {help}");
        // What has no options is shown by the command above it.
        let shown = help.contains("Examples:") || help.contains("First steps:");
        assert!(shown || command.ends_with(" reference"), "{command}: {help}");
    }
    let version = user.run("--version").ok();
    assert!(version.starts_with("plimsoll "), "{version}");
}

#[test]
fn completions_know_the_commands() {
    let user = User::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = user.run(&format!("completions {shell}")).ok();
        for word in ["produce", "consume", "describe", "if-not-exists"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
}

#[test]
fn reference_of_a_nodes_settings_is_printed() {
    let page = User::new().run("config reference").ok();
    for setting in ["listen", "batch_bytes_max", "sleep_after"] {
        assert!(page.contains(setting), "{setting}");
    }
}

#[test]
fn usage_errors_say_how_it_is_written() {
    let user = User::new();
    for (line, part) in [
        ("produce", "<TOPIC>"),
        ("produce a/b", "A-Z a-z 0-9"),
        ("produce ..", "choose another name"),
        ("produce orders --acks all", "quorum"),
        ("consume orders --from yesterday", "-1h30m"),
        ("consume orders --show colour", "partition"),
        ("topic create orders --config retention-ms=7y", "retention-ms=7d"),
        ("topic create orders --config colour=red", "durability"),
        ("topic alter orders --config segment-bytes", "key=value"),
        ("topic list --connect localhost", "localhost:7420"),
        ("topic list --timeout 5", "90s"),
        ("topci list", "topic"),
    ] {
        let told = user.run(line).fails(2);
        assert!(told.contains(part), "{line}: {told}");
    }
}

#[test]
fn option_from_the_environment_is_named_when_it_is_wrong() {
    let user = User::new();
    let output =
        user.command("consume orders").env("PLIMSOLL_CONSUME_FORMAT", "xml").output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(told.contains("PLIMSOLL_CONSUME_FORMAT=xml"), "{told}");
}

#[test]
fn without_a_context_it_is_said_how_to_get_one() {
    let told = User::new().run("topic list").fails(3);
    assert!(told.contains("plimsoll serve"), "{told}");
    assert!(told.contains("--connect HOST:PORT"), "{told}");
}

#[test]
fn nobody_listening_is_no_connection() {
    let user = User::new();
    // Bound and not listening: nobody else can take the port meanwhile.
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = udp.local_addr().unwrap().port();
    drop(udp);
    let told = user
        .run(&format!("topic list --connect 127.0.0.1:{port} --transport tcp --timeout 5s"))
        .fails(6);
    assert!(told.contains("--listen-plaintext"), "{told}");
}

#[test]
fn contexts_are_saved_chosen_listed_and_removed() {
    let user = User::new();
    let fingerprint = format!("sha256:{}", "ab".repeat(32));
    user.run(&format!("context add lab --address lab.example:7420 --ca {fingerprint} --use")).ok();
    user.run("context add raw --address 192.0.2.7:7421 --transport tcp").ok();
    let again = format!("context add lab --address other.example:7420 --ca {fingerprint}");
    assert!(user.run(&again).fails(1).contains("--replace"));
    user.run(&format!("{again} --replace")).ok();
    let listed = user.run("context list --json").objects();
    let summary: Vec<_> = listed
        .iter()
        .map(|context| (context["name"].as_str().unwrap(), context["current"] == true))
        .collect();
    assert_eq!(summary, [("lab", true), ("raw", false)]);
    assert_eq!(listed[0]["address"], "other.example:7420");
    user.run("context use raw").ok();
    let shown = user.run("context show").objects();
    assert_eq!(shown[0]["transport"], "tcp");
    assert!(user.run("context list").ok().contains("*  raw"));
    user.run("context remove lab").ok();
    user.run("context remove lab").fails(3);
    user.run("context use lab").fails(3);
    user.run("topic list --context lab").fails(3);
    let none = user.run("context add x --address a:1 --ca missing.pem").fails(3);
    assert!(none.contains("missing.pem"), "{none}");
    let wrong = user.write("notes.txt", "no certificate");
    user.run(&format!("context add x --address a:1 --ca {wrong}")).fails(1);
}

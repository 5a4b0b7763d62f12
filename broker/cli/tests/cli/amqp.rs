//! `amqp vhost|user|permission`: what an administrator of AMQP clients meets.

use crate::node::Node;

const SET: &str = "amqp permission set harbour ann --configure ^ann- --write .* --read";

#[test]
fn virtual_hosts_live_from_creation_to_deletion() {
    let node = Node::start();
    let told = node.run("amqp vhost create harbour").fails(0);
    assert!(told.contains("created virtual host harbour"), "{told}");
    let again = node.run("amqp vhost create harbour").fails(0);
    assert!(again.contains("there is already a virtual host harbour"), "{again}");
    let listed = node.run("amqp vhost list").lines();
    assert_eq!(listed.len(), 3, "{listed:?}");
    assert!(listed[1].starts_with("/ ") && listed[2].starts_with("harbour "), "{listed:?}");
    let listed = node.run("amqp vhost list --json").objects();
    assert_eq!((&listed[0]["vhost"], &listed[0]["users"]), (&"/".into(), &1.into()));
    assert_eq!((&listed[1]["vhost"], &listed[1]["users"]), (&"harbour".into(), &0.into()));
    assert!(listed[1]["created_ms"].as_i64() > Some(1_700_000_000_000), "{listed:?}");

    let unasked = node.run("amqp vhost delete harbour").fails(2);
    assert!(unasked.contains("--yes"), "{unasked}");
    node.run("amqp vhost delete harbour --yes").ok();
    let gone = node.run("amqp vhost delete harbour --yes").fails(3);
    assert!(gone.contains("plimsoll amqp vhost list"), "{gone}");
}

#[test]
fn users_live_from_creation_to_deletion() {
    let node = Node::start();
    let create = "amqp user create ann --tag administrator --tag monitoring --password-stdin";
    node.feed(create, "s3cret\n").ok();
    let exists = node.feed(create, "s3cret\n").fails(1);
    assert!(exists.contains("plimsoll amqp user passwd"), "{exists}");
    let listed = node.run("amqp user list --json").objects();
    assert_eq!(listed[0]["user"], "ann");
    assert_eq!(listed[0]["tags"], serde_json::json!(["administrator", "monitoring"]));
    assert_eq!(listed[1]["user"], "guest");
    node.feed("amqp user passwd ann --password-stdin", "another\n").ok();
    node.run("amqp user tags ann impersonator").ok();
    let listed = node.run("amqp user list").lines();
    assert!(listed[1].starts_with("ann") && listed[1].ends_with("impersonator"), "{listed:?}");

    let unasked = node.run("amqp user delete ann").fails(2);
    assert!(unasked.contains("--yes"), "{unasked}");
    node.run("amqp user delete ann --yes").ok();
    for line in ["amqp user delete ann --yes", "amqp user tags ann x"] {
        let unknown = node.run(line).fails(3);
        assert!(unknown.contains("plimsoll amqp user list"), "{line}: {unknown}");
    }
    node.feed("amqp user passwd ann --password-stdin", "x\n").fails(3);
}

#[test]
fn password_comes_from_standard_input_or_a_variable_and_is_not_told() {
    let node = Node::start();
    for line in ["amqp user create ann", "amqp user passwd guest"] {
        let missing = node.run(line).fails(2);
        assert!(missing.contains("--password-stdin"), "{missing}");
        assert!(missing.contains("PLIMSOLL_AMQP_PASSWORD"), "{missing}");
    }
    node.feed("amqp user create ann --password-stdin", "\n").fails(2);
    let with = |line: &str| {
        let mut command = node.user.command(line);
        command.env("PLIMSOLL_AMQP_PASSWORD", "s3cret");
        command.output().unwrap()
    };
    for (line, code) in [
        ("amqp user create ann", 0),
        // Neither a refusal nor a slip tells it.
        ("amqp user create ann", 1),
        ("amqp user create ann --password s3cret", 2),
        ("amqp user passwd ann", 0),
    ] {
        let output = with(line);
        assert_eq!(output.status.code(), Some(code), "{line}");
        for told in [&output.stdout, &output.stderr] {
            assert!(!String::from_utf8_lossy(told).contains("s3cret"), "{line}");
        }
    }
    let long = node.feed("amqp user passwd ann --password-stdin", "x".repeat(300)).fails(1);
    assert!(long.contains("at most 255") && !long.contains("xxx"), "{long}");
}

#[test]
fn permissions_are_set_listed_and_cleared() {
    let node = Node::start();
    for line in [&*format!("{SET} .*"), "amqp permission clear harbour ann"] {
        let unknown = node.run(line).fails(3);
        assert!(unknown.contains("plimsoll amqp user list"), "{unknown}");
    }
    node.feed("amqp user create ann --password-stdin", "s3cret\n").ok();
    let unknown = node.run(&format!("{SET} .*")).fails(3);
    assert!(unknown.contains("plimsoll amqp vhost list"), "{unknown}");
    node.run("amqp vhost create harbour").ok();
    let wrong = node.run(&format!("{SET} a(b")).fails(1);
    assert!(wrong.contains("read: \"a(b\" is not a pattern: unclosed group"), "{wrong}");
    node.run(&format!("{SET}=")).ok();
    let listed = node.run("amqp permission list --user ann --json").objects();
    let set = serde_json::json!({
        "vhost": "harbour", "user": "ann", "configure": "^ann-", "write": ".*", "read": ""
    });
    assert_eq!(listed, [set]);
    let listed = node.run("amqp permission list").lines();
    assert_eq!(listed.len(), 3, "{listed:?}");
    assert!(listed[1].starts_with("harbour") && listed[1].ends_with("''"), "{listed:?}");
    assert!(listed[2].starts_with("/ ") && listed[2].contains("guest"), "{listed:?}");
    node.run("amqp permission clear harbour ann").ok();
    let again = node.run("amqp permission clear harbour ann").fails(0);
    assert!(again.contains("had no permissions"), "{again}");
    assert_eq!(node.run("amqp permission list --vhost harbour --json").ok(), "");
}

#[test]
fn queues_of_amqp_are_named_by_their_topics() {
    let node = Node::start();
    let told = node.run("amqp queue list").fails(0);
    assert!(told.contains("clients declare them"), "{told}");
    assert!(node.run("amqp queue list --vhost / --json").objects().is_empty());
    let gone = node.run("queue describe __amqp.7").fails(3);
    assert!(gone.contains("there is no queue __amqp.7"), "{gone}");
}

//! `plimsoll lock`: every command of it, against a node; and commands that run under locks, as children of
//! children.

use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::node::{Node, send_signal};

/// Says under which fence it runs, and ends with 7 when its input ends.
const HOLD: &str = "echo $PLIMSOLL_FENCE; read line; exit 7";
/// Longest that a test waits for something to become true.
const LONGEST: Duration = Duration::from_secs(60);

/// A `plimsoll lock run` and the shell under it.
struct Holder {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Holder {
    /// Starts it; it may have to wait for the lock.
    fn start(node: &Node, options: &str, script: &str) -> Self {
        let mut command = node.user.command(&format!("lock run {options}"));
        command.args(["--", "sh", "-c", script]).stdin(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { stdin: child.stdin.take(), child, lines }
    }

    /// Starts it and waits until its command runs. The token of its fence.
    fn holds(node: &Node, options: &str) -> (Self, u64) {
        let mut holder = Self::start(node, options, HOLD);
        let token = holder.token();
        (holder, token)
    }

    /// The next line that the command prints.
    fn line(&mut self) -> String {
        self.lines.next().expect("the command runs").unwrap()
    }

    fn token(&mut self) -> u64 {
        token_of(&self.line())
    }

    /// Lets the command end.
    fn finish(mut self) -> (i32, String) {
        self.stdin.take();
        self.ended()
    }

    /// Waits until it has ended. Its exit code, and what it told.
    fn ended(&mut self) -> (i32, String) {
        let status = self.child.wait().unwrap();
        let told = std::io::read_to_string(self.child.stderr.take().unwrap()).unwrap();
        (status.code().unwrap_or_else(|| panic!("ended by {status}: {told}")), told)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // The shell ends with its input.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn token_of(fence: &str) -> u64 {
    fence.rsplit_once('/').unwrap().1.parse().unwrap()
}

fn with_namespace() -> Node {
    let node = Node::start();
    node.run("lock namespace create default").ok();
    node
}

/// Runs a command until what it prints is as wanted.
fn until(node: &Node, line: &str, wanted: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    let begun = Instant::now();
    loop {
        let seen = node.run(line).objects();
        if wanted(&seen) {
            return seen;
        }
        assert!(begun.elapsed() < LONGEST, "{line}: still {seen:?}");
    }
}

fn length(list: &Value) -> usize {
    list.as_array().unwrap().len()
}

/// What happened, in one word each.
fn words(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["what"].as_str().unwrap()).collect()
}

#[test]
fn namespaces_are_made_listed_and_deleted() {
    let node = Node::start();
    let made = node.run("lock namespace create jobs --history 30d --json").objects().remove(0);
    assert_eq!((&made["namespace"], &made["topic"]), (&"jobs".into(), &"__locks.jobs".into()));
    assert_eq!((&made["replicas"], &made["history_ms"]), (&1.into(), &2_592_000_000_u64.into()));
    let told = node.run("lock namespace create jobs").fails(1);
    assert!(told.contains("--if-not-exists"), "{told}");
    node.run("lock namespace create jobs --if-not-exists").ok();
    let told = node.run("lock namespace create default").stderr;
    assert_eq!(told, "created namespace default: 1 replica, history 7d\n");
    let listed = node.run("lock namespace list --json").objects();
    let names: Vec<_> = listed.iter().map(|one| one["namespace"].as_str().unwrap()).collect();
    assert_eq!(names, ["default", "jobs"]);
    assert!(node.run("lock namespace list").lines()[0].starts_with("NAMESPACE"));
    node.run("lock namespace delete jobs").fails(2);

    let (holder, _) = Holder::holds(&node, "nightly --namespace jobs");
    let told = node.run("lock namespace delete jobs --yes").fails(1);
    assert!(told.contains("`plimsoll lock list --namespace jobs`"), "{told}");
    assert_eq!(holder.finish().0, 7);
    node.run("lock namespace delete jobs --yes").ok();
    node.run("lock namespace delete jobs --yes").fails(3);
    for command in
        ["list", "describe nightly", "sessions", "history nightly", "watch", "run nightly"]
    {
        let end = if command.starts_with("run") { " -- true" } else { "" };
        let told = node.run(&format!("lock {command} --namespace jobs{end}")).fails(3);
        assert!(told.contains("`plimsoll lock namespace create jobs`"), "{command}: {told}");
    }
    node.run("lock run nightly --namespace jobs --create-namespace -- true").ok();
}

#[test]
fn a_command_has_its_fence_and_its_exit_code_is_its_own() {
    let node = with_namespace();
    let mut last = 0;
    for code in [0, 7] {
        let script = format!("echo $PLIMSOLL_FENCE; exit {code}");
        let mut holder = Holder::start(&node, "nightly", &script);
        let fence = holder.line();
        assert!(fence.starts_with("default/nightly/"), "{fence}");
        assert!(token_of(&fence) > last, "{fence} after {last}");
        last = token_of(&fence);
        assert_eq!(holder.ended().0, code);
    }
    assert_eq!(Holder::start(&node, "nightly", "kill -9 $$").ended().0, 137);
    node.run("lock run nightly -- no-such-command-here").fails(127);
    node.run("lock run nightly -- /").fails(126);
    node.run("lock run nightly --lease 1ms -- true").fails(2);
    // All have given it back.
    node.run("lock run nightly --no-wait -- true").ok();
    assert_eq!(node.run("lock list --json").objects(), Vec::<Value>::new());
    let told = node.run("lock list").stderr;
    assert!(told.contains("no lock of namespace default is in use"), "{told}");
}

#[test]
fn a_lock_that_is_taken_is_waited_for_or_not_had() {
    let node = with_namespace();
    let (holder, token) = Holder::holds(&node, "nightly --label web-1");
    for options in ["--no-wait", "--wait 50ms"] {
        let told = node.run(&format!("lock run nightly {options} -- echo started")).fails(75);
        assert!(told.contains("`plimsoll lock describe nightly --namespace default`"), "{told}");
    }
    let mut next = Holder::start(&node, "nightly --label web-2", HOLD);
    let waits = |seen: &[Value]| length(&seen[0]["waiters"]) == 1;
    let described = until(&node, "lock describe nightly --json", waits).remove(0);
    let (held, waits) = (&described["holders"][0], &described["waiters"][0]);
    assert_eq!((&held["label"], &held["token"]), (&"web-1".into(), &token.into()));
    assert_eq!((&waits["label"], &waits["mode"]), (&"web-2".into(), &"exclusive".into()));
    let shown = node.run("lock describe nightly").ok();
    assert!(shown.contains("1 holds it, 1 waits") && shown.contains("web-1"), "{shown}");
    assert_eq!(holder.finish().0, 7);
    assert!(next.token() > token);
    assert_eq!(next.finish().0, 7);
}

#[test]
fn signals_go_to_the_command_and_the_lock_is_given_back_when_it_has_ended() {
    let node = with_namespace();
    for signal in ["TERM", "INT", "HUP"] {
        // A shell waits for its children until a signal comes for which it has a trap. What it has in the
        // background does not hear a SIGINT.
        let script =
            format!("trap 'echo got it; kill $!; exit 5' {signal}; sleep 600 & echo started; wait");
        let mut holder = Holder::start(&node, "nightly", &script);
        assert_eq!(holder.line(), "started");
        send_signal(signal, &holder.child);
        assert_eq!(holder.line(), "got it");
        assert_eq!(holder.ended().0, 5);
        assert_eq!(node.run("lock list --json").objects(), Vec::<Value>::new());
    }
    // One that still waits for the lock ends by itself, and waits no longer.
    let (holder, _) = Holder::holds(&node, "nightly");
    let mut waiting = Holder::start(&node, "nightly", HOLD);
    until(&node, "lock list --json", |seen| seen[0]["waiters"] == 1);
    send_signal("TERM", &waiting.child);
    assert_eq!(waiting.ended().0, 143);
    until(&node, "lock list --json", |seen| seen[0]["waiters"] == 0);
    assert_eq!(holder.finish().0, 7);
}

#[test]
fn a_command_is_stopped_when_its_lock_is_taken_away() {
    let node = with_namespace();
    let (mut holder, token) = Holder::holds(&node, "nightly --lease 2s");
    let mut next = Holder::start(&node, "nightly", HOLD);
    until(&node, "lock list --json", |seen| seen[0]["waiters"] == 1);
    node.run("lock release nightly --force").fails(2);
    let told = node.run("lock release nightly --force --yes --by ann").stderr;
    assert_eq!(told, "released lock nightly of namespace default\n");
    assert!(next.token() > token);
    let (code, told) = holder.ended();
    assert_eq!(code, 76, "{told}");
    assert!(told.contains("the command was stopped and ended with 143"), "{told}");
    assert_eq!(next.finish().0, 7);
    let forced = |seen: &[Value]| words(seen).contains(&"forced");
    let events = until(&node, "lock history nightly --json", forced);
    let forced = events.iter().find(|event| event["what"] == "forced").unwrap();
    assert_eq!((&forced["by"], &forced["token"]), (&"ann".into(), &token.into()));

    // One that does not want to end has so long and no longer.
    let stubborn = "trap '' TERM; echo started; read line";
    let mut holder = Holder::start(&node, "nightly --lease 2s --grace 100ms", stubborn);
    assert_eq!(holder.line(), "started");
    node.run("lock release nightly --force --yes").ok();
    let (code, told) = holder.ended();
    assert_eq!(code, 76, "{told}");
    assert!(told.contains("ended with 137"), "{told}");
}

#[test]
fn a_run_that_was_suspended_past_its_lease_stops_its_command() {
    let node = with_namespace();
    let (mut holder, token) = Holder::holds(&node, "nightly --lease 1s");
    send_signal("STOP", &holder.child);
    let (next, later) = Holder::holds(&node, "nightly");
    assert!(later > token);
    send_signal("CONT", &holder.child);
    let (code, told) = holder.ended();
    assert_eq!(code, 76, "{told}");
    assert_eq!(next.finish().0, 7);
    let expired = |seen: &[Value]| words(seen).contains(&"expired");
    until(&node, "lock history nightly --json", expired);
}

#[test]
fn locks_are_listed_with_what_they_are_and_who_holds_them() {
    let node = with_namespace();
    node.run("topic create orders").ok();
    let lead = "primary --lead 10.0.0.7:5432 --guard orders --label db-1";
    let options = [
        "gpu --permits 4 --label train",
        "nightly --label web-1",
        lead,
        "reports --read --label r1",
    ];
    let _held = options.map(|options| Holder::holds(&node, options));
    let (_second, _) = Holder::holds(&node, "reports --read --label r2");
    let _writer = Holder::start(&node, "reports --write --label w", HOLD);
    let listed = until(&node, "lock list --json", |seen| seen[3]["waiters"] == 1);
    let seen: Vec<_> = listed
        .iter()
        .map(|lock| ["lock", "kind"].map(|key| lock[key].as_str().unwrap()))
        .zip(listed.iter().map(|lock| lock["holder"]["label"].as_str().unwrap()))
        .collect();
    let expected = [
        (["gpu", "semaphore"], "train"),
        (["nightly", "exclusive"], "web-1"),
        (["primary", "election"], "db-1"),
        (["reports", "read-write"], "r1"),
    ];
    assert_eq!(seen, expected);
    assert_eq!((&listed[0]["permits"], &listed[3]["holders"]), (&4.into(), &2.into()));
    let shown = node.run("lock list").ok();
    for part in ["semaphore of 4", "r1 and 1 more", "read-write", "KIND", "HOLDER", "orders"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert_eq!(node.run("lock list pri --json").objects().len(), 1);
    let described = node.run("lock describe primary --json").objects().remove(0);
    assert_eq!(
        (&described["value"], &described["kind"]),
        (&"10.0.0.7:5432".into(), &"election".into())
    );
    assert_eq!(described["guards"][0], "orders");
    let described = node.run("lock describe reports --json").objects().remove(0);
    let modes = ["holders", "waiters"].map(|of| described[of][0]["mode"].as_str().unwrap());
    assert_eq!(modes, ["read", "write"]);
    let told = node.run("lock describe nope").fails(3);
    assert!(told.contains("`plimsoll lock history nope --namespace default`"), "{told}");
}

#[test]
fn an_operator_chooses_which_of_several_readers_loses_the_lock() {
    let node = with_namespace();
    let read =
        |label: &str| Holder::holds(&node, &format!("reports --read --lease 2s --label {label}"));
    let ((mut first, token), (mut second, _), (mut third, same)) =
        (read("r1"), read("r2"), read("r3"));
    assert_eq!(token, same, "readers of one phase share their token");
    let described = node.run("lock describe reports --json").objects().remove(0);
    let of = |label: &str| {
        let holders = described["holders"].as_array().unwrap();
        holders.iter().find(|holder| holder["label"] == label).unwrap()["session"].clone()
    };
    let told = node.run("lock release reports --force --yes --token 1").fails(1);
    assert!(told.contains("under token 1; nothing was released"), "{told}");
    let told = node.run("lock release reports --force --yes --session 999").fails(1);
    assert!(told.contains("`plimsoll lock describe reports --namespace default`"), "{told}");
    node.run(&format!("lock release reports --force --yes --session {}", of("r2"))).ok();
    assert_eq!(second.ended().0, 76);
    let left = node.run("lock describe reports --json").objects().remove(0);
    let left: Vec<_> =
        left["holders"].as_array().unwrap().iter().map(|it| &it["label"]).cloned().collect();
    assert_eq!(left, ["r1", "r3"]);
    let told = node.run(&format!("lock release reports --force --yes --token {token}")).stderr;
    assert!(told.contains(&format!("(token {token})")), "{told}");
    assert_eq!([first.ended().0, third.ended().0], [76, 76]);
}

#[test]
fn releasing_what_nobody_holds_and_deleting_what_somebody_does_is_refused() {
    let node = with_namespace();
    node.run("topic create orders").ok();
    let told = node.run("lock release nightly --force --yes").fails(3);
    assert!(told.contains("`plimsoll lock list --namespace default`"), "{told}");
    // One that guards a topic is known though nobody holds it.
    node.run("lock run nightly --guard orders -- true").ok();
    let told = node.run("lock release nightly --force --yes").fails(1);
    assert!(told.contains("nobody holds lock nightly; nothing was released"), "{told}");

    let (mut holder, _) = Holder::holds(&node, "nightly --lease 2s");
    let told = node.run("lock delete nightly --yes").fails(1);
    assert!(told.contains("`plimsoll lock describe nightly --namespace default`"), "{told}");
    node.run("lock delete nightly --force").fails(2);
    let told = node.run("lock delete nightly --force --yes --by ann").stderr;
    assert_eq!(told, "deleted lock nightly of namespace default\n");
    assert_eq!(holder.ended().0, 76);
    let deleted = |seen: &[Value]| words(seen).last() == Some(&"deleted");
    let events = until(&node, "lock history nightly --json", deleted);
    let forced = events.iter().find(|event| event["what"] == "forced").unwrap();
    assert_eq!(forced["by"], "ann");
    node.run("lock delete nightly --yes").fails(3);
}

#[test]
fn the_history_of_a_lock_is_what_happened_to_it() {
    let node = with_namespace();
    let run = node.run("lock history nightly");
    assert!(run.stderr.contains("keeps nothing of a lock nightly"), "{}", run.stderr);
    assert_eq!(run.ok(), "");
    node.run("lock run nightly --label web-1 -- true").ok();
    let released = |seen: &[Value]| words(seen) == ["granted", "released"];
    let events = until(&node, "lock history nightly --json", released);
    assert_eq!(
        (&events[0]["label"], &events[0]["holder"]["label"]),
        (&"web-1".into(), &"web-1".into())
    );
    assert_eq!(events[0]["token"], events[1]["token"]);
    assert!(events[1]["holder"].is_null());
    assert!(events[0]["time"].as_str().unwrap().contains('T') && events[0]["time_ms"].is_i64());
    let lines = node.run("lock history nightly").lines();
    assert!(lines[0].contains("nightly  granted  web-1 (session 1, token "), "{lines:?}");
    assert!(lines[1].ends_with("; held by nobody"), "{lines:?}");
}

#[test]
fn a_watch_tells_who_holds_a_lock_and_then_what_happens() {
    let node = with_namespace();
    let mut watching = node.user.command("lock watch nightly --json --count 2").spawn().unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    let mut next = || serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).unwrap();
    let present = next();
    assert_eq!((&present["what"], length(&present["holders"])), (&"present".into(), 0));
    // Another's events are not told.
    node.run("lock run other -- true").ok();
    node.run("lock run nightly --label web-1 -- true").ok();
    let events = [next(), next()];
    assert_eq!(words(&events), ["granted", "released"]);
    let ended = watching.wait_with_output().unwrap();
    let told = String::from_utf8(ended.stderr).unwrap();
    assert!(ended.status.success() && told.contains("lock nightly is in no use yet"), "{told}");

    let (holder, token) = Holder::holds(&node, "nightly --label web-2");
    let shown = node.run("lock watch nightly --json --count 0").objects().remove(0);
    let held = &shown["holders"][0];
    assert_eq!((&held["label"], &held["token"]), (&"web-2".into(), &token.into()));
    let line = node.run("lock watch --count 0").lines().remove(0);
    assert!(line.starts_with("nightly  held by web-2 (session "), "{line}");
    let mut watching = node.user.command("lock watch").spawn().unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), line);
    assert_eq!(holder.finish().0, 7);
    // What came before the watch was asked for may not be told twice, what came since is.
    let released = lines.by_ref().map(Result::unwrap).find(|line| line.contains("released"));
    assert!(released.unwrap().ends_with("; held by nobody"));
    send_signal("INT", &watching);
    assert!(watching.wait().unwrap().success());
}

#[test]
fn sessions_are_listed_with_what_they_hold_and_wait_for() {
    let node = with_namespace();
    assert_eq!(node.run("lock sessions --json").objects(), Vec::<Value>::new());
    let told = node.run("lock sessions").stderr;
    assert!(told.contains("namespace default has no session"), "{told}");
    node.run("lock namespace create jobs").ok();
    let (holder, _) = Holder::holds(&node, "nightly --namespace jobs --label first --lease 20s");
    let waiter = Holder::start(&node, "nightly --namespace jobs --label second", HOLD);
    let sessions = until(&node, "lock sessions jobs --json", |sessions| {
        sessions.len() == 2 && sessions[1]["waiting"] == 1
    });
    let [first, second] = &sessions[..] else { panic!("two sessions: {sessions:?}") };
    assert_eq!(
        (&first["label"], &first["held"], &first["waiting"]),
        (&"first".into(), &1.into(), &0.into())
    );
    assert_eq!((&second["label"], &second["held"]), (&"second".into(), &0.into()));
    assert_eq!(first["lease_ms"], 20_000);
    let left = first["lease_left_ms"].as_u64().unwrap();
    assert!(left > 0 && left <= 20_000, "{first}");
    assert!(first["session"].as_u64() < second["session"].as_u64(), "{sessions:?}");
    // The number is that by which other commands name the session.
    let described = node.run("lock describe nightly --namespace jobs --json").objects().remove(0);
    assert_eq!(described["holders"][0]["session"], first["session"]);
    let lines = node.run("lock sessions --namespace jobs").lines();
    assert!(lines[0].contains("LABEL") && lines[1].contains("first"), "{lines:?}");
    assert_eq!(holder.finish().0, 7);
    assert_eq!(waiter.finish().0, 7);
    until(&node, "lock sessions jobs --json", <[Value]>::is_empty);
    node.run("lock sessions jobs --namespace jobs").fails(2);
    node.run("lock sessions elsewhere").fails(3);
}

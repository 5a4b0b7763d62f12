//! Namespaces, locks and what happens to them, for people and as JSON.

use std::time::Duration;

use plimsoll_client::{
    LockDescription, LockEvent, LockEventHolder, LockHolder, LockInfo, LockSessionInfo, LockWaiter,
    NamespaceInfo, TopicName,
};
use serde::Serialize;

use crate::clock::time_text;
use crate::quantity::{duration_text, elapsed_text};
use crate::table::Table;

/// A namespace.
#[derive(Debug, Serialize)]
pub(super) struct NamespaceJson<'a> {
    namespace: &'a str,
    topic: &'a str,
    replicas: u16,
    history_ms: u64,
    created_ms: i64,
}

impl<'a> NamespaceJson<'a> {
    pub(super) fn of(info: &'a NamespaceInfo) -> Self {
        Self {
            namespace: &info.namespace,
            topic: info.topic.as_str(),
            replicas: info.replicas,
            history_ms: info.history_ms,
            created_ms: info.created_ms,
        }
    }
}

pub(super) fn namespaces(all: &[NamespaceInfo]) -> Table {
    let mut table = Table::new(&["NAMESPACE", ">REPLICAS", "HISTORY", "CREATED"]);
    for info in all {
        table.row(vec![
            info.namespace.clone(),
            info.replicas.to_string(),
            duration_text(Duration::from_millis(info.history_ms)),
            time_text(info.created_ms),
        ]);
    }
    table
}

/// `jobs: 3 replicas, history 7d`.
pub(super) fn one_namespace(info: &NamespaceInfo) -> String {
    let plural = if info.replicas == 1 { "" } else { "s" };
    let history = duration_text(Duration::from_millis(info.history_ms));
    format!("{}: {} replica{plural}, history {history}", info.namespace, info.replicas)
}

/// What a lock is, whoever holds it.
#[derive(Debug, Serialize)]
struct NatureJson<'a> {
    lock: &'a str,
    kind: &'static str,
    permits: u32,
    token: Option<u64>,
    guards: Vec<&'a str>,
}

impl<'a> NatureJson<'a> {
    fn of(info: &'a LockInfo) -> Self {
        Self {
            lock: &info.lock,
            kind: info.kind.as_str(),
            permits: info.permits,
            token: info.token,
            guards: info.guards.iter().map(TopicName::as_str).collect(),
        }
    }
}

/// A lock in a list: how many hold it and wait, and one of those who hold it.
#[derive(Debug, Serialize)]
pub(super) struct LockJson<'a> {
    #[serde(flatten)]
    nature: NatureJson<'a>,
    holders: u32,
    waiters: u32,
    holder: Option<HolderJson<'a>>,
}

impl<'a> LockJson<'a> {
    pub(super) fn of(info: &'a LockInfo) -> Self {
        Self {
            nature: NatureJson::of(info),
            holders: info.holders,
            waiters: info.waiters,
            holder: info.holder.as_ref().map(HolderJson::of),
        }
    }
}

/// A lock as it is when a watch begins.
#[derive(Debug, Serialize)]
pub(super) struct PresentJson<'a> {
    what: &'static str,
    lock: &'a str,
    /// All of them, where one lock is watched; else one.
    holders: Vec<HolderJson<'a>>,
    waiters: u32,
}

impl<'a> PresentJson<'a> {
    pub(super) fn of(present: &'a Present) -> Self {
        let holders = present.holders.iter().map(HolderJson::of).collect();
        Self { what: "present", lock: &present.lock, holders, waiters: present.waiters }
    }
}

/// Who holds a lock when a watch begins.
#[derive(Debug)]
pub(super) struct Present {
    pub(super) lock: String,
    /// Those that are known.
    pub(super) holders: Vec<LockHolder>,
    /// How many there are.
    pub(super) count: u32,
    pub(super) waiters: u32,
}

impl Present {
    /// Of a lock that is in no use.
    pub(super) fn unused(lock: &str) -> Self {
        Self { lock: lock.to_owned(), holders: Vec::new(), count: 0, waiters: 0 }
    }

    pub(super) fn of_description(described: LockDescription) -> Self {
        Self { holders: described.holders, ..Self::of_info(described.info) }
    }

    pub(super) fn of_info(info: LockInfo) -> Self {
        let holders = info.holder.into_iter().collect();
        Self { lock: info.lock, holders, count: info.holders, waiters: info.waiters }
    }
}

/// `nightly  held by web-1 (session 3, token 41)`.
pub(super) fn present_line(present: &Present) -> String {
    let one = |holder: &LockHolder| {
        format!("{} (session {}, token {})", holder.label, holder.session, holder.token)
    };
    let mut holders: Vec<_> = present.holders.iter().map(one).collect();
    let more = (present.count as usize).saturating_sub(holders.len());
    if more > 0 {
        holders.push(format!("{more} more"));
    }
    let held = if holders.is_empty() { "nobody".to_owned() } else { holders.join(", ") };
    let waiting = match present.waiters {
        0 => String::new(),
        1 => ", 1 waits".to_owned(),
        waiters => format!(", {waiters} wait"),
    };
    format!("{}  held by {held}{waiting}", present.lock)
}

fn guards(info: &LockInfo) -> String {
    info.guards.iter().map(TopicName::as_str).collect::<Vec<_>>().join(",")
}

fn token(token: Option<u64>) -> String {
    token.map_or_else(|| "-".to_owned(), |token| token.to_string())
}

pub(super) fn locks(all: &[LockInfo]) -> Table {
    let mut table = Table::new(&["LOCK", "KIND", "HOLDER", ">WAITERS", ">TOKEN", "GUARDS"]);
    for info in all {
        table.row(vec![
            info.lock.clone(),
            kind(info),
            holder(info),
            info.waiters.to_string(),
            token(info.token),
            guards(info),
        ]);
    }
    table
}

fn kind(info: &LockInfo) -> String {
    match info.permits {
        0 => info.kind.as_str().to_owned(),
        permits => format!("{} of {permits}", info.kind.as_str()),
    }
}

/// `web-1`, `web-1 and 2 more`, `-`.
fn holder(info: &LockInfo) -> String {
    match (&info.holder, info.holders) {
        (Some(holder), 0 | 1) => holder.label.clone(),
        (Some(holder), holders) => format!("{} and {} more", holder.label, holders - 1),
        (None, _) => "-".to_owned(),
    }
}

#[derive(Debug, Serialize)]
struct HolderJson<'a> {
    label: &'a str,
    session: u64,
    mode: &'static str,
    token: u64,
    slot: u32,
    since_ms: i64,
    since: String,
    lease_left_ms: u64,
    raising: bool,
}

impl<'a> HolderJson<'a> {
    fn of(holder: &'a LockHolder) -> Self {
        Self {
            label: &holder.label,
            session: holder.session,
            mode: holder.mode.as_str(),
            token: holder.token,
            slot: holder.slot,
            since_ms: holder.since_ms,
            since: time_text(holder.since_ms),
            lease_left_ms: holder.lease_left_ms,
            raising: holder.raising,
        }
    }
}

#[derive(Debug, Serialize)]
struct WaiterJson<'a> {
    label: &'a str,
    session: u64,
    mode: &'static str,
    since_ms: i64,
    since: String,
}

/// A lock, who holds it and who waits.
#[derive(Debug, Serialize)]
pub(super) struct DescribedJson<'a> {
    #[serde(flatten)]
    nature: NatureJson<'a>,
    value: String,
    holders: Vec<HolderJson<'a>>,
    waiters: Vec<WaiterJson<'a>>,
}

impl<'a> DescribedJson<'a> {
    pub(super) fn of(described: &'a LockDescription) -> Self {
        let waiter = |waiter: &'a LockWaiter| WaiterJson {
            label: &waiter.label,
            session: waiter.session,
            mode: waiter.mode.as_str(),
            since_ms: waiter.since_ms,
            since: time_text(waiter.since_ms),
        };
        Self {
            nature: NatureJson::of(&described.info),
            value: String::from_utf8_lossy(&described.value).into_owned(),
            holders: described.holders.iter().map(HolderJson::of).collect(),
            waiters: described.waiters.iter().map(waiter).collect(),
        }
    }
}

/// `nightly: exclusive, 1 holds it, 3 wait, last token 52, guards reports`.
pub(super) fn one_lock(described: &LockDescription) -> String {
    let info = &described.info;
    let mut text = format!("{}: {}, {} ", info.lock, kind(info), info.holders);
    text.push_str(if info.holders == 1 { "holds it, " } else { "hold it, " });
    text.push_str(&format!("{} wait{}", info.waiters, if info.waiters == 1 { "s" } else { "" }));
    if let Some(token) = info.token {
        text.push_str(&format!(", last token {token}"));
    }
    if !info.guards.is_empty() {
        text.push_str(&format!(", guards {}", guards(info)));
    }
    if !described.value.is_empty() {
        text.push_str(&format!(", value {:?}", String::from_utf8_lossy(&described.value)));
    }
    text
}

pub(super) fn holders(described: &LockDescription) -> Table {
    let titles = ["HOLDER", ">SESSION", "MODE", ">TOKEN", ">SLOT", "SINCE", "LEASE LEFT", "NOTE"];
    let mut table = Table::new(&titles);
    for holder in &described.holders {
        table.row(vec![
            holder.label.clone(),
            holder.session.to_string(),
            holder.mode.as_str().to_owned(),
            holder.token.to_string(),
            holder.slot.to_string(),
            time_text(holder.since_ms),
            elapsed_text(Duration::from_millis(holder.lease_left_ms)),
            if holder.raising { "shutting out former holders".to_owned() } else { String::new() },
        ]);
    }
    table
}

pub(super) fn waiters(described: &LockDescription) -> Table {
    let mut table = Table::new(&["WAITER", ">SESSION", "MODE", "SINCE"]);
    for waiter in &described.waiters {
        table.row(vec![
            waiter.label.clone(),
            waiter.session.to_string(),
            waiter.mode.as_str().to_owned(),
            time_text(waiter.since_ms),
        ]);
    }
    table
}

/// A session in a list.
#[derive(Debug, Serialize)]
pub(super) struct SessionJson<'a> {
    session: u64,
    label: &'a str,
    opened_ms: i64,
    opened: String,
    lease_ms: u32,
    lease_left_ms: u64,
    held: u32,
    waiting: u32,
}

impl<'a> SessionJson<'a> {
    pub(super) fn of(info: &'a LockSessionInfo) -> Self {
        Self {
            session: info.session,
            label: &info.label,
            opened_ms: info.opened_ms,
            opened: time_text(info.opened_ms),
            lease_ms: info.lease_ms,
            lease_left_ms: info.lease_left_ms,
            held: info.held,
            waiting: info.waiting,
        }
    }
}

pub(super) fn sessions(all: &[LockSessionInfo]) -> Table {
    let titles = [">SESSION", "LABEL", "OPENED", "LEASE", "LEFT", ">HELD", ">WAITING"];
    let mut table = Table::new(&titles);
    for info in all {
        table.row(vec![
            info.session.to_string(),
            info.label.clone(),
            time_text(info.opened_ms),
            duration_text(Duration::from_millis(info.lease_ms.into())),
            elapsed_text(Duration::from_millis(info.lease_left_ms)),
            info.held.to_string(),
            info.waiting.to_string(),
        ]);
    }
    table
}

/// Something that happened to a lock.
#[derive(Debug, Serialize)]
pub(super) struct EventJson<'a> {
    offset: u64,
    time_ms: i64,
    time: String,
    lock: &'a str,
    what: &'a str,
    label: Option<&'a str>,
    session: Option<u64>,
    token: Option<u64>,
    slot: Option<u32>,
    by: Option<&'a str>,
    holder: Option<&'a LockEventHolder>,
}

impl<'a> EventJson<'a> {
    pub(super) fn of(event: &'a LockEvent) -> Self {
        Self {
            offset: event.offset,
            time_ms: event.time_ms,
            time: time_text(event.time_ms),
            lock: &event.lock,
            what: event.what.as_str(),
            label: event.label.as_deref(),
            session: event.session,
            token: event.token,
            slot: event.slot,
            by: event.by.as_deref(),
            holder: event.holder.as_ref(),
        }
    }
}

/// `2026-11-21T08:30:00.250Z  nightly  granted  web-1 (session 3, token 41)`.
pub(super) fn event_line(event: &LockEvent) -> String {
    let mut line = format!("{}  {}  {}", time_text(event.time_ms), event.lock, event.what);
    if let Some(label) = &event.label {
        line.push_str(&format!("  {label}"));
    }
    let number = |name: &str, number: Option<u64>| number.map(|number| format!("{name} {number}"));
    let numbers = [
        number("session", event.session),
        number("token", event.token),
        number("slot", event.slot.map(u64::from)),
    ];
    let numbers: Vec<String> = numbers.into_iter().flatten().collect();
    if !numbers.is_empty() {
        line.push_str(&format!(" ({})", numbers.join(", ")));
    }
    if let Some(by) = &event.by {
        line.push_str(&format!(" by {by}"));
    }
    match &event.holder {
        // Who it happened to is who holds it.
        Some(holder) if Some(holder.token) == event.token => {}
        Some(holder) => {
            line.push_str(&format!("; held by {} (token {})", holder.label, holder.token));
        }
        None => line.push_str("; held by nobody"),
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use plimsoll_client::{LockEventKind, LockKind, LockMode};

    fn event() -> LockEvent {
        LockEvent {
            lock: "nightly".to_owned(),
            offset: 7,
            what: LockEventKind::Expired,
            label: Some("web-1".to_owned()),
            session: Some(3),
            token: Some(41),
            slot: None,
            by: None,
            time_ms: 0,
            holder: None,
        }
    }

    #[test]
    fn events_say_to_whom_and_who_holds_the_lock_then() {
        let when = "1970-01-01T00:00:00.000Z  nightly";
        let gone = event();
        assert_eq!(
            event_line(&gone),
            format!("{when}  expired  web-1 (session 3, token 41); held by nobody")
        );
        let (label, value) = ("web-2".to_owned(), None);
        let holder = Some(LockEventHolder { label, session: 4, token: 52, value });
        let handed = LockEvent { holder: holder.clone(), ..event() };
        assert!(event_line(&handed).ends_with("; held by web-2 (token 52)"));
        let granted =
            LockEvent { token: Some(52), what: LockEventKind::Granted, holder, ..event() };
        assert!(event_line(&granted).ends_with("  granted  web-1 (session 3, token 52)"));
        let json = serde_json::to_value(EventJson::of(&granted)).unwrap();
        assert_eq!((&json["what"], &json["holder"]["token"]), (&"granted".into(), &52.into()));
        assert_eq!(json["time"], "1970-01-01T00:00:00.000Z");
    }

    fn read_by(label: &str, session: u64) -> LockHolder {
        LockHolder {
            label: label.to_owned(),
            session,
            mode: LockMode::Read,
            token: 41,
            slot: 0,
            since_ms: 0,
            lease_left_ms: 9_000,
            raising: false,
        }
    }

    fn reports() -> LockInfo {
        LockInfo {
            lock: "reports".to_owned(),
            kind: LockKind::ReadWrite,
            permits: 0,
            holders: 3,
            holder: Some(read_by("web-1", 3)),
            waiters: 1,
            token: Some(41),
            guards: Vec::new(),
        }
    }

    #[test]
    fn a_list_says_what_a_lock_is_and_who_holds_it() {
        let rows = locks(&[reports(), LockInfo { holder: None, holders: 0, ..reports() }]).lines();
        assert!(rows[1].contains("read-write  web-1 and 2 more"), "{rows:?}");
        assert!(rows[2].contains("read-write  - "), "{rows:?}");
        let json = serde_json::to_value(LockJson::of(&reports())).unwrap();
        assert_eq!((&json["kind"], &json["holders"]), (&"read-write".into(), &3.into()));
        assert_eq!(
            (&json["holder"]["label"], &json["holder"]["session"]),
            (&"web-1".into(), &3.into())
        );
    }

    #[test]
    fn a_description_lists_holders_and_waiters_under_their_names() {
        let (label, mode) = ("web-9".to_owned(), LockMode::Write);
        let described = LockDescription {
            info: reports(),
            value: Default::default(),
            holders: vec![read_by("web-1", 3), read_by("web-2", 4), read_by("web-3", 5)],
            waiters: vec![LockWaiter { label, session: 9, mode, since_ms: 0 }],
        };
        let json = serde_json::to_value(DescribedJson::of(&described)).unwrap();
        assert_eq!(
            (&json["holders"][1]["session"], &json["waiters"][0]["session"]),
            (&4.into(), &9.into())
        );
        assert_eq!(json["holders"].as_array().map(Vec::len), Some(3));
        assert_eq!(json.get("holder"), None);
    }

    #[test]
    fn a_watch_begins_with_who_holds_a_lock() {
        assert_eq!(present_line(&Present::unused("nightly")), "nightly  held by nobody");
        let line = present_line(&Present::of_info(reports()));
        assert_eq!(line, "reports  held by web-1 (session 3, token 41), 2 more, 1 waits");
        let present = Present::of_info(reports());
        let json = serde_json::to_value(PresentJson::of(&present)).unwrap();
        assert_eq!((&json["what"], &json["holders"][0]["token"]), (&"present".into(), &41.into()));
    }
}

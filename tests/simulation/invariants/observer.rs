//! Looks at every node after each step, and tells the invariants what is new.
//!
//! It reads entries from the nodes' logs and their marks of what is committed; it changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Bytes, BytesMut};
use plimsoll_delivery::command::{DOMAIN as QUEUES_DOMAIN, QueueEntry, SubscriptionId};
use plimsoll_log::{GroupLog, LogEntry, Vote};
use plimsoll_protocol::batch::{BATCH_HEADER_BYTES, EntryKind, RecordBatch};
use plimsoll_protocol::ids::{GroupId, LogId, Term, TopicName};
use plimsoll_replication::Clock as _;
use plimsoll_state::catalog::Catalog;

use super::{Committed, Entry, Event, Invariant, Ledger, Life};
use crate::history::{History, News, RecordName};
use crate::kv::KEYS;
use crate::lock::{GUARDED, NAMESPACE_TOPIC};
use crate::messages::key_of;
use crate::node::SimNode;
use crate::queue::{LETTERS, QUEUE};
use crate::trace::Trace;
use crate::workload::TOPIC;

/// Bytes of entries that are read at once.
const READ_BYTES: usize = 1 << 20;

/// See the module.
pub struct Observer {
    ledger: Ledger,
    invariants: Vec<Box<dyn Invariant>>,
    /// What was seen of a group in a process.
    views: BTreeMap<(Life, GroupId), View>,
    /// Of the catalog that was looked at in a process.
    epochs: BTreeMap<Life, u64>,
    /// The groups that a process leads.
    led: BTreeMap<Life, BTreeSet<GroupId>>,
}

#[derive(Debug, Default)]
struct View {
    /// The last entry that was looked at.
    stored: Option<LogId>,
    /// The last committed entry that was looked at.
    committed: Option<LogId>,
    led: Option<Term>,
    high_watermark: u64,
    vote: Option<Vote>,
}

impl std::fmt::Debug for Observer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Observer").finish_non_exhaustive()
    }
}

impl Observer {
    /// One that tells these invariants.
    #[must_use]
    pub fn new(invariants: Vec<Box<dyn Invariant>>) -> Self {
        Self {
            ledger: Ledger::default(),
            invariants,
            views: BTreeMap::new(),
            epochs: BTreeMap::new(),
            led: BTreeMap::new(),
        }
    }

    /// What was ever committed.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Looks at all nodes and at what clients were told.
    ///
    /// # Errors
    /// The name of a broken rule and what broke it.
    pub fn look(
        &mut self,
        now_ms: u64,
        nodes: &[SimNode],
        history: &History,
        trace: &mut Trace,
    ) -> Result<(), String> {
        self.forget_ended(nodes)?;
        for node in nodes {
            self.ledger.latest_unix_ms = self.ledger.latest_unix_ms.max(node.clock.unix_ms());
            self.look_at(now_ms, node, trace)?;
        }
        let (news, complaint) = {
            let mut state = history.lock();
            (std::mem::take(&mut state.fresh), state.complaints.first().cloned())
        };
        if let Some(complaint) = complaint {
            return Err(format!("a client: {complaint}"));
        }
        for news in news {
            self.judge(&match news {
                News::Acked(record, partition, offset) => {
                    Event::Acked { record, partition, offset }
                }
                News::Seen(seen) => Event::Seen(seen),
                News::ReadBegins { read, partition, level, acked_end } => {
                    Event::ReadBegins { read, partition, level, acked_end }
                }
                News::ReadEnds { read, end } => Event::ReadEnds { read, end },
                News::MessageAcked(message, partition, offset) => {
                    Event::MessageAcked { message, partition, offset }
                }
                News::ReceiverBegins(receiver) => Event::ReceiverBegins(receiver),
                News::Delivered(delivered) => Event::Delivered(delivered),
                News::Said(delivered, saying) => Event::Said(delivered, saying),
                News::SayingStored(delivered, saying) => Event::SayingStored(delivered, saying),
                News::MemberBegins(member) => Event::MemberBegins(member),
                News::GroupGot(member, partition, offset) => {
                    Event::GroupGot { member, partition, offset }
                }
                News::GroupCommitted(partition, next) => Event::GroupCommitted { partition, next },
                News::Lock(news) => Event::Lock { at_ms: now_ms, news },
            })?;
        }
        Ok(())
    }

    /// The last consumer of the queue has taken all that it could get.
    ///
    /// # Errors
    /// As [`Observer::look`].
    pub fn drained(&mut self) -> Result<(), String> {
        self.judge(&Event::Drained)
    }

    /// The last member of the group has read all that it could get.
    ///
    /// # Errors
    /// As [`Observer::look`].
    pub fn group_has_read_all(&mut self) -> Result<(), String> {
        self.judge(&Event::GroupHasReadAll)
    }

    /// Processes that have ended lead nothing any more.
    fn forget_ended(&mut self, nodes: &[SimNode]) -> Result<(), String> {
        let lives = |at: &Life| {
            nodes
                .iter()
                .any(|node| node.is_running() && Life { node: node.number, life: node.life } == *at)
        };
        let ended: Vec<Life> = self.led.keys().filter(|at| !lives(at)).copied().collect();
        for at in ended {
            for group in self.led.remove(&at).unwrap_or_default() {
                self.judge(&Event::LeadsNoMore { at, group })?;
            }
        }
        Ok(())
    }

    fn judge(&mut self, event: &Event<'_>) -> Result<(), String> {
        for invariant in &mut self.invariants {
            if let Err(broken) = invariant.judge(event, &self.ledger) {
                return Err(format!("{}: {broken}", invariant.name()));
            }
        }
        Ok(())
    }

    fn look_at(&mut self, now_ms: u64, node: &SimNode, trace: &mut Trace) -> Result<(), String> {
        let Some(store) = node.store() else { return Ok(()) };
        let at = Life { node: node.number, life: node.life };
        let broker = node.broker();
        if let Some(broker) = &broker {
            self.find_groups(&broker.catalog());
        }
        if let Some(broker) = &broker
            && let Ok(topic) = TOPIC.parse()
            && let Some(meta) = broker.catalog().topic(&topic)
        {
            self.ledger.partitions.extend((0..).zip(meta.partitions.iter().copied()));
            let catalog = broker.catalog();
            if self.epochs.insert(at, catalog.epoch()) != Some(catalog.epoch()) {
                let members: BTreeSet<_> = catalog.members().map(|(node, _)| node).collect();
                for (group, place) in meta.partitions.iter().zip(&meta.placement) {
                    // One that was made before the catalog knew a node has no place yet.
                    if place.wanted.is_empty() {
                        continue;
                    }
                    self.judge(&Event::Placed {
                        at,
                        group: *group,
                        wanted: &place.wanted,
                        replicas: meta.replicas,
                        members: &members,
                    })?;
                }
            }
        }
        // A store that failed has work that nobody does any more.
        let is_settled = !store.is_work_due() && store.fatal().is_none();
        for group in store.groups() {
            let Some(log) = store.group(group) else { continue };
            let looked = self.look_at_log(at, &log);
            // What a process that is ending cannot read is nobody's fault.
            if node.exited().is_none() {
                looked?;
            }
            if is_settled && let Some(vote) = log.vote() {
                let view = self.views.entry((at, group)).or_default();
                if view.vote.replace(vote) != Some(vote) {
                    self.judge(&Event::Voted { node: at.node, group, vote })?;
                }
            }
            let held = broker.as_ref().and_then(|broker| broker.host().held(group));
            let Some(held) = held else {
                // It fell asleep, and nobody holds it any more.
                if self.led.get_mut(&at).is_some_and(|led| led.remove(&group)) {
                    self.views.entry((at, group)).or_default().led = None;
                    self.judge(&Event::LeadsNoMore { at, group })?;
                }
                continue;
            };
            let (role, offset) = (*held.role().borrow(), held.high_watermark().borrow().0);
            let view = self.views.entry((at, group)).or_default();
            let led = std::mem::replace(&mut view.led, role.led_term());
            let before = std::mem::replace(&mut view.high_watermark, offset);
            // A group that was asleep and held by nobody begins again without one.
            if offset != before && offset > 0 {
                trace.note(now_ms, "high watermark", &[at.node, group.0, offset]);
                self.judge(&Event::HighWatermark { at, group, offset })?;
            }
            if let Some(term) = role.led_term()
                && led != Some(term)
            {
                trace.note(now_ms, "leads", &[at.node, group.0, term.0]);
                let last = log.bounds().last;
                let committed = self.ledger.group(group).and_then(Committed::last);
                let term_at_committed = committed.and_then(|entry| log.term_at(entry.id.index));
                self.judge(&Event::Leads { at, group, term, last, term_at_committed })?;
                self.led.entry(at).or_default().insert(group);
            } else if led.is_some() && role.led_term().is_none() {
                self.judge(&Event::LeadsNoMore { at, group })?;
                self.led.entry(at).or_default().remove(&group);
            }
        }
        Ok(())
    }

    /// Which groups the partitions of the queue, of locks and of keys are, as a catalog says.
    fn find_groups(&mut self, catalog: &Catalog) {
        let groups =
            |name: &str| Some(&catalog.topic(&TopicName::internal(name).ok()?)?.partitions);
        if let Some(groups) = groups(GUARDED) {
            self.ledger.guarded.extend((0..).zip(groups.iter().copied()));
        }
        for name in [KEYS, NAMESPACE_TOPIC] {
            self.ledger.unnumbered.extend(groups(name).into_iter().flatten().copied());
        }
        if let Some(groups) = groups(QUEUE) {
            self.ledger.queue.extend((0..).zip(groups.iter().copied()));
        }
        if let Some(groups) = groups(LETTERS) {
            self.ledger.letters = groups.first().copied();
        }
    }

    /// Entries that are new in a log, and those that are newly held for committed.
    fn look_at_log(&mut self, at: Life, log: &GroupLog) -> Result<(), String> {
        let group = log.id();
        if log.is_quarantined().is_some() {
            return Ok(());
        }
        let bounds = log.bounds();
        let view = self.views.entry((at, group)).or_default();
        let stored = view.stored;
        let is_longer = bounds.last > stored;
        // Of a log that was cut, what follows is looked at anew, from the entries that were committed.
        let is_cut = stored.is_some_and(|stored| {
            bounds.last < Some(stored)
                || log.term_at(stored.index).is_some_and(|t| t != stored.term)
        });
        if is_longer || is_cut {
            let from = match is_cut {
                true => view.committed.map_or(0, |id| id.index.0 + 1),
                false => stored.map_or(0, |id| id.index.0 + 1),
            };
            view.stored = bounds.last;
            for (entry, _) in read(log, from, bounds.last)? {
                self.judge(&Event::Stored { at, group, entry: &entry })?;
            }
        }
        let view = self.views.entry((at, group)).or_default();
        let committed = log.committed().min(bounds.last);
        let before = view.committed;
        if committed > before {
            view.committed = committed;
            let from = before.map_or(0, |id| id.index.0 + 1);
            for (entry, body) in read(log, from, committed)? {
                self.judge(&Event::Committed { at, group, entry: &entry })?;
                if self.note_committed(group, &entry, &body)? {
                    self.judge(&Event::FirstCommitted { group, entry: &entry })?;
                }
            }
        }
        Ok(())
    }

    /// Notes an entry that is committed; false where it was before.
    fn note_committed(
        &mut self,
        group: GroupId,
        entry: &Entry,
        body: &LogEntry,
    ) -> Result<bool, String> {
        let is_numbered = !self.ledger.unnumbered.contains(&group);
        let mut guarded = self.ledger.guarded.iter();
        let guarded = guarded.find_map(|(partition, of)| (*of == group).then_some(*partition));
        let mut fenced = Vec::new();
        let committed = self.ledger.groups.entry(group).or_default();
        if committed.entries.is_empty() {
            committed.first_index = entry.id.index.0;
        }
        if committed.entry(entry.id.index.0).is_some() || entry.id.index.0 < committed.first_index {
            return Ok(false);
        }
        if entry.kind == EntryKind::Records && is_numbered {
            for Named { offset, record, key, deliver_at, expires_at } in records(body)? {
                committed.records.push(record);
                fenced.extend(guarded.map(|partition| (partition, offset, record)));
                committed.deliver_at.extend(deliver_at.map(|at| (offset, at)));
                committed.expires_at.extend(expires_at.map(|at| (offset, at)));
                committed.offsets.entry(record).or_default().push(offset);
                if let Some(key) = key {
                    committed.by_key.entry(key).or_default().push(offset);
                }
            }
        }
        committed.entries.push(entry.clone());
        for (partition, offset, record) in fenced {
            self.judge(&Event::FencedWrite { partition, offset, record })?;
        }
        if entry.kind == EntryKind::Control && group != GroupId::CATALOG {
            self.note_commands(group, entry, body)?;
        }
        Ok(true)
    }

    /// Judges and folds the commands of a committed control entry.
    fn note_commands(
        &mut self,
        group: GroupId,
        entry: &Entry,
        body: &LogEntry,
    ) -> Result<(), String> {
        // Those of other domains are not of queues.
        if body.body.first() != Some(&QUEUES_DOMAIN) {
            return Ok(());
        }
        let id = entry.id;
        let control = QueueEntry::decode(&body.body)
            .map_err(|error| format!("control entry {id} of group {group}: {error}"))?;
        if control.subscription != SubscriptionId::QUEUE {
            return Err(format!("control entry {id} of group {group} is of no queue here"));
        }
        for command in &control.commands {
            self.judge(&Event::Command { group, id, command })?;
            if let Some(committed) = self.ledger.groups.get_mut(&group) {
                committed.worked.fold(id, command);
            }
        }
        Ok(())
    }
}

/// A record of an entry.
struct Named {
    offset: u64,
    record: RecordName,
    key: Option<u64>,
    deliver_at: Option<i64>,
    expires_at: Option<i64>,
}

/// The entries of a log from an index up to an entry.
fn read(log: &GroupLog, from: u64, upto: Option<LogId>) -> Result<Vec<(Entry, LogEntry)>, String> {
    let purged = log.bounds().purged.map_or(0, |id| id.index.0 + 1);
    let mut next = from.max(purged);
    let end = upto.map_or(0, |id| id.index.0 + 1);
    let mut found = Vec::new();
    while next < end {
        let entries = log
            .read_entries(next..end, READ_BYTES)
            .map_err(|error| format!("the log of group {} cannot be read: {error}", log.id()))?;
        if entries.is_empty() {
            return Err(format!("the log of group {} has no entry {next}", log.id()));
        }
        for entry in entries {
            if !entry.header.check_body_crc(&entry.body) {
                return Err(format!("{:?} of group {} is damaged", entry.id(), log.id()));
            }
            next = entry.header.index.0 + 1;
            found.push((Entry::of(&entry.header), entry));
        }
    }
    Ok(found)
}

/// The records of an entry, with their offsets.
fn records(entry: &LogEntry) -> Result<Vec<Named>, String> {
    let mut bytes = BytesMut::with_capacity(BATCH_HEADER_BYTES + entry.body.len());
    bytes.extend_from_slice(&entry.header.to_bytes());
    bytes.extend_from_slice(&entry.body);
    let named = |error| format!("{:?} holds no records: {error}", entry.id());
    let (batch, _) =
        RecordBatch::parse(Bytes::from(bytes)).map_err(|error| named(error.to_string()))?;
    let records = batch.records(READ_BYTES * 16).map_err(|error| named(error.to_string()))?;
    let mut found = Vec::new();
    for record in records {
        let record = record.map_err(|error| named(error.to_string()))?;
        let name = RecordName::parse(record.record.value.as_deref().unwrap_or_default())
            .ok_or_else(|| format!("{:?} holds what nobody sent", entry.id()))?;
        let key = record.record.key.as_deref().and_then(key_of);
        let (offset, record) = (record.offset.0, record.record);
        let (deliver_at, expires_at) = (record.deliver_at_ms, record.expires_at_ms);
        found.push(Named { offset, record: name, key, deliver_at, expires_at });
    }
    Ok(found)
}

//! A namespace with its clients, leaders that come and go, and a log of which nothing is lost but what was
//! not committed. What must hold is asserted as it happens.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use plimsoll_locks::command::{Acquire, LockCommand, LocksEntry, Want};
use plimsoll_locks::fence::{Fence, Floors};
use plimsoll_locks::ids::{LeaseMs, LockName, NamespaceId, RequestId, SessionId, Token};
use plimsoll_locks::keeper::{
    AskError, ENTRIES_IN_FLIGHT_MAX, GuardWork, Keeper, LOOK_MS, Patience, Reply, STALL_MS, Ticket,
};
use plimsoll_locks::lease::holder_ends;
use plimsoll_locks::state::{Answer, Event, Locks, Refusal};
use plimsoll_locks::time::{Monotonic, UnixMs};
use plimsoll_protocol::ids::{LogIndex, TopicName};

use super::bed::{label, name, topic};

const NAMESPACE: NamespaceId = NamespaceId(1);

/// What a client does with a lock, from asking to having it back.
#[derive(Debug, Clone)]
enum Claim {
    Asking { acquire: Acquire, patience: Patience },
    Holding { lock: LockName, token: Token },
    Releasing { lock: LockName, token: Token },
}

/// A process that uses locks; it counts its lease by itself.
#[derive(Debug)]
struct Client {
    session: SessionId,
    /// When it first tried to open its session.
    opened_at: Monotonic,
    /// From then on it holds nothing, whatever it was told.
    ends: Monotonic,
    open: bool,
    requests: u64,
    claims: BTreeMap<RequestId, Claim>,
}

/// What a ticket is of.
#[derive(Debug, Clone)]
enum Asked {
    Open(SessionId),
    Acquire(SessionId, RequestId),
    Release(SessionId, RequestId),
    Close,
}

pub(crate) struct World {
    pub(crate) now: Monotonic,
    state: Locks,
    index: u64,
    keeper: Keeper,
    /// Proposed, the oldest first.
    entries: VecDeque<LocksEntry>,
    /// What the first of them came to, which the keeper was not told yet.
    folded: VecDeque<plimsoll_locks::state::Applied>,
    publishing: Option<Vec<Event>>,
    clients: Vec<Client>,
    sessions: u128,
    /// Keep-alives on their way, each with when it was sent.
    beats: Vec<(SessionId, Monotonic)>,
    tickets: BTreeMap<Ticket, Asked>,
    /// When the present leader last heard of a session, and for how long it stood still since.
    heard: BTreeMap<SessionId, (Monotonic, u64)>,
    floors: BTreeMap<TopicName, Floors>,
    work: Vec<GuardWork>,
    /// All events that there were, and all that became records.
    happened: Vec<Event>,
    records: Vec<Event>,
}

fn lease_of(client: usize) -> LeaseMs {
    LeaseMs::new([1_500, 4_000, 8_000][client % 3]).unwrap()
}

impl World {
    pub(crate) fn new(clients: usize) -> Self {
        let (state, now) = (Locks::default(), Monotonic(1_000_000));
        let keeper = Keeper::new(&state, now);
        let mut world = Self {
            now,
            state,
            index: 0,
            keeper,
            entries: VecDeque::new(),
            folded: VecDeque::new(),
            publishing: None,
            clients: Vec::new(),
            sessions: 0,
            beats: Vec::new(),
            tickets: BTreeMap::new(),
            heard: BTreeMap::new(),
            floors: BTreeMap::new(),
            work: Vec::new(),
            happened: Vec::new(),
            records: Vec::new(),
        };
        for _ in 0..clients {
            let session = world.next_session();
            world.clients.push(Client {
                session,
                opened_at: now,
                ends: now,
                open: false,
                requests: 0,
                claims: BTreeMap::new(),
            });
        }
        (0..clients).for_each(|client| world.open(client));
        world
    }

    fn next_session(&mut self) -> SessionId {
        self.sessions += 1;
        SessionId(self.sessions)
    }

    fn client(&mut self, which: usize) -> usize {
        which % self.clients.len()
    }

    fn of(&mut self, session: SessionId) -> Option<(usize, &mut Client)> {
        self.clients.iter_mut().enumerate().find(|(_, client)| client.session == session)
    }

    fn hear(&mut self, session: SessionId) {
        self.heard.insert(session, (self.now, 0));
    }

    /// The client's session is lost: it holds nothing, and begins anew.
    fn begin_anew(&mut self, client: usize) {
        let session = self.next_session();
        let now = self.now;
        let it = &mut self.clients[client];
        (it.session, it.opened_at, it.ends, it.open) = (session, now, now, false);
        it.claims.clear();
        self.open(client);
    }

    fn open(&mut self, client: usize) {
        let session = self.clients[client].session;
        let label = label(&format!("client {client}"));
        let ticket = self.keeper.open(&self.state, session, lease_of(client), label, self.now);
        match ticket {
            Ok(ticket) => drop(self.tickets.insert(ticket, Asked::Open(session))),
            Err(AskError::SessionGone(_)) => self.begin_anew(client),
            Err(error) => panic!("{error}"),
        }
        if self.state.session(session).is_some() {
            self.hear(session);
        }
    }

    pub(crate) fn acquire(
        &mut self,
        client: usize,
        (lock, want, guards): (&str, Want, bool),
        (wait, patience): (bool, Patience),
    ) {
        let client = self.client(client);
        let it = &mut self.clients[client];
        if !it.open || it.claims.len() >= 4 {
            return;
        }
        it.requests += 1;
        let request = RequestId(it.requests);
        let guards = if guards { [topic("t"), topic("u")].into() } else { BTreeSet::new() };
        let lock = name(lock);
        let acquire = Acquire { session: it.session, request, lock, want, guards, wait };
        it.claims.insert(request, Claim::Asking { acquire, patience });
        self.ask(client, request);
    }

    /// Asks for what a claim is about, for the first time or again.
    fn ask(&mut self, client: usize, request: RequestId) {
        let it = &self.clients[client];
        let session = it.session;
        let (ticket, asked) = match it.claims[&request].clone() {
            Claim::Asking { acquire, patience } => {
                let ticket = self.keeper.acquire(&self.state, acquire, patience, self.now);
                (ticket, Asked::Acquire(session, request))
            }
            Claim::Releasing { lock, token } => {
                let ticket =
                    self.keeper.release(&self.state, (session, request), (lock, token), self.now);
                (ticket, Asked::Release(session, request))
            }
            Claim::Holding { .. } => return,
        };
        match ticket {
            Ok(ticket) => {
                self.tickets.insert(ticket, asked);
                self.hear(session);
            }
            Err(AskError::SessionGone(_)) => self.begin_anew(client),
            Err(error) => panic!("{error}"),
        }
    }

    /// Asks again for all that has no answer, as after a connection broke.
    pub(crate) fn ask_again(&mut self, client: usize) {
        let client = self.client(client);
        if !self.clients[client].open {
            return self.open(client);
        }
        let session = self.clients[client].session;
        let requests: Vec<_> = self.clients[client].claims.keys().copied().collect();
        for request in requests {
            if self.clients[client].session == session {
                self.ask(client, request);
            }
        }
    }

    pub(crate) fn release(&mut self, client: usize, which: usize) {
        let client = self.client(client);
        let claims = self.clients[client].claims.iter();
        let held = claims.filter_map(|(request, claim)| match claim {
            Claim::Holding { lock, token } => Some((*request, lock.clone(), *token)),
            _ => None,
        });
        let held: Vec<_> = held.collect();
        if held.is_empty() {
            return;
        }
        let (request, lock, token) = held[which % held.len()].clone();
        self.clients[client].claims.insert(request, Claim::Releasing { lock, token });
        self.ask(client, request);
    }

    pub(crate) fn close(&mut self, client: usize) {
        let client = self.client(client);
        let session = self.clients[client].session;
        if let Ok(ticket) = self.keeper.close(&self.state, session, self.now) {
            self.tickets.insert(ticket, Asked::Close);
            self.hear(session);
        }
        self.begin_anew(client);
    }

    pub(crate) fn beat(&mut self, client: usize) {
        let client = self.client(client);
        if self.clients[client].open {
            self.beats.push((self.clients[client].session, self.now));
        }
    }

    /// A keep-alive comes; its answer may be lost.
    pub(crate) fn deliver_beat(&mut self, which: usize, lost: bool) {
        if self.beats.is_empty() {
            return;
        }
        let (session, sent) = self.beats.remove(which % self.beats.len());
        let said = self.keeper.keep_alive(&self.state, session, self.now);
        if said.is_ok() {
            self.hear(session);
        }
        if lost {
            return;
        }
        let Some((which, client)) = self.of(session) else { return };
        match said {
            Ok(ms) => {
                assert_eq!(ms, lease_of(which).ms());
                client.ends = client.ends.max(holder_ends(sent, lease_of(which)));
            }
            Err(_) => self.begin_anew(which),
        }
    }

    /// Time passes. The leader looks as often as it asked to, or not at all.
    pub(crate) fn pass(&mut self, ms: u64) {
        let until = self.now.plus(ms);
        while self.now < until {
            let deadline = self.keeper.deadline().unwrap_or(until);
            self.now = deadline.max(self.now.plus(1)).min(until);
            self.keeper.tick(self.now);
            self.check();
        }
    }

    pub(crate) fn stall(&mut self, ms: u64) {
        let before = self.now;
        self.now = self.now.plus(ms);
        self.check();
        self.keeper.tick(self.now);
        let gap = self.now.0 - before.0;
        if gap > STALL_MS + LOOK_MS {
            self.heard.values_mut().for_each(|(_, stalled)| *stalled += gap);
        }
    }

    pub(crate) fn propose(&mut self) {
        let Some(entry) = self.keeper.next_entry(&self.state, self.now) else { return };
        assert!(self.entries.len() < ENTRIES_IN_FLIGHT_MAX, "few at a time");
        for command in &entry.commands {
            if let LockCommand::Expire { session, .. } = command {
                let lease = self.state.session(*session).unwrap().lease.ms();
                let (heard, stalled) = self.heard[session];
                let silent = self.now.0 - heard.0 - stalled;
                assert!(silent >= lease, "a lease of {lease} ms is over after {silent}");
            }
        }
        self.entries.push_back(entry);
    }

    pub(crate) fn refuse(&mut self) {
        // With others behind it the keeper is dropped.
        if self.entries.len() == 1 && self.folded.is_empty() {
            self.keeper.refused(self.entries.pop_front().unwrap());
        }
    }

    fn fold(&mut self, entry: &LocksEntry) -> plimsoll_locks::state::Applied {
        self.index += 1;
        let decoded = LocksEntry::decode(&entry.encode()).unwrap();
        let applied = self.state.apply(&decoded, LogIndex(self.index), UnixMs(self.index as i64));
        let known = self.happened.len() as u64;
        let new = self.state.unpublished().filter(|event| event.number >= known);
        self.happened.extend(new.cloned());
        applied
    }

    /// Folds the next entry; the keeper is told later.
    pub(crate) fn fold_next(&mut self) {
        if let Some(entry) = self.entries.get(self.folded.len()).cloned() {
            let applied = self.fold(&entry);
            self.folded.push_back(applied);
        }
    }

    pub(crate) fn apply(&mut self) {
        if self.folded.is_empty() {
            self.fold_next();
        }
        let Some(applied) = self.folded.pop_front() else { return };
        let entry = self.entries.pop_front().unwrap();
        for command in &entry.commands {
            if let LockCommand::OpenSession { session, .. } = command {
                self.hear(*session);
            }
        }
        let replies = self.keeper.applied(&entry, &applied, &self.state, self.now);
        replies.into_iter().for_each(|(ticket, reply)| self.reply(ticket, reply));
        self.check();
    }

    fn reply(&mut self, ticket: Ticket, reply: Reply) {
        let asked = self.tickets.remove(&ticket).expect("a ticket is answered once");
        let now = self.now;
        let session = match &asked {
            Asked::Open(session) | Asked::Acquire(session, _) | Asked::Release(session, _) => {
                *session
            }
            Asked::Close => return,
        };
        let Some((which, client)) = self.of(session) else { return };
        if reply == Reply::Answer(Answer::Refused(Refusal::SessionGone)) {
            return self.begin_anew(which);
        }
        match (asked, reply) {
            (Asked::Open(_), Reply::Answer(Answer::Opened { .. })) => {
                client.open = true;
                client.ends = client.ends.max(holder_ends(client.opened_at, lease_of(which)));
            }
            (Asked::Acquire(_, request), Reply::Answer(Answer::Granted(grant))) => {
                assert!(grant.ready, "a grant is told when its floors are raised");
                if let Some(Claim::Asking { acquire, .. }) = client.claims.get(&request) {
                    let (lock, token) = (acquire.lock.clone(), grant.token);
                    let fence_name = plimsoll_locks::fence::FenceName::new(&lock, grant.slot);
                    let guards = acquire.guards.clone();
                    if client.ends > now {
                        client.claims.insert(request, Claim::Holding { lock, token });
                    } else {
                        client.claims.insert(request, Claim::Releasing { lock, token });
                    }
                    for topic in guards {
                        let floor = self.floors[&topic].floor(NAMESPACE, &fence_name);
                        assert!(floor >= Some(token), "{topic} is guarded");
                    }
                }
            }
            (Asked::Acquire(..), Reply::Superseded) => {}
            (Asked::Acquire(_, request), reply) => {
                assert!(!matches!(reply, Reply::Answer(Answer::Waiting { .. })));
                if let Some(Claim::Asking { .. }) = client.claims.get(&request) {
                    client.claims.remove(&request);
                }
            }
            (Asked::Release(_, request), Reply::Answer(answer)) => {
                let over = matches!(answer, Answer::Refused(Refusal::NotHolder { .. }));
                assert!(answer == Answer::Released || over, "{answer:?}");
                client.claims.remove(&request);
            }
            (asked, reply) => panic!("{asked:?} came to {reply:?}"),
        }
    }

    /// The leader dies; what it was writing is in the log or not. Time passes until the next one leads.
    pub(crate) fn change_leader(&mut self, committed: (bool, bool), ms: u64) {
        // Some of them, from the oldest on, or all.
        let left = self.entries.len() - self.folded.len();
        let more = if committed.0 { left } else { ms as usize % (left + 1) };
        (0..more).for_each(|_| self.fold_next());
        self.entries.clear();
        self.folded.clear();
        if let Some(events) = self.publishing.take().filter(|_| committed.1) {
            self.append(events);
        }
        self.now = self.now.plus(ms);
        self.keeper = Keeper::new(&self.state, self.now);
        self.tickets.clear();
        self.work.clear();
        let sessions: Vec<_> = self.state.sessions().map(|(id, _)| id).collect();
        self.heard.clear();
        sessions.into_iter().for_each(|id| self.hear(id));
        self.check();
    }

    pub(crate) fn publish(&mut self) {
        if let Some(events) = self.keeper.next_events(&self.state) {
            assert!(self.publishing.is_none(), "one batch at a time");
            self.publishing = Some(events.into_iter().cloned().collect());
        }
    }

    fn append(&mut self, events: Vec<Event>) {
        self.index += 1;
        self.state.published(events.last().unwrap().number + 1);
        self.records.extend(events);
    }

    pub(crate) fn published(&mut self) {
        if let Some(events) = self.publishing.take() {
            self.append(events);
            self.keeper.events_done();
        }
    }

    pub(crate) fn guard(&mut self, fails: bool) {
        while let Some(work) = self.keeper.poll_guard_work(&self.state) {
            self.work.push(work);
        }
        let Some(work) = self.work.pop() else { return };
        if fails {
            return self.keeper.guards_failed(work);
        }
        for topic in &work.topics {
            let fence = Fence { namespace: NAMESPACE, name: work.fence_name(), token: work.token };
            // Stale: somebody else has it by now.
            let _ = self.floors.entry(topic.clone()).or_default().raise(&fence);
        }
        self.keeper.guards_raised(work);
    }

    /// Whoever believes that it holds a lock, by its own clock, does so in the log.
    fn check(&mut self) {
        for client in &self.clients {
            let believes = client.open && self.now < client.ends;
            for (request, claim) in client.claims.iter().filter(|_| believes) {
                if let Claim::Holding { lock, token } = claim {
                    let mut held = self.state.held_by(client.session);
                    let holds = held.any(|(by, held, grant)| {
                        by == *request && held == lock && grant.token == *token
                    });
                    assert!(holds, "a client believes that it holds {lock} under {token}");
                }
            }
        }
        for event in &self.records[self.records.len().saturating_sub(1)..] {
            assert_eq!(
                event,
                &self.happened[self.records.len() - 1],
                "each event is a record once"
            );
        }
    }

    fn work_off(&mut self) {
        self.guard(false);
        self.propose();
        self.apply();
        self.publish();
        self.published();
    }

    /// Nothing fails any more: every acquire is answered; then all fall silent, and nothing is left.
    pub(crate) fn settle(&mut self) {
        while !self.entries.is_empty() {
            self.apply();
        }
        self.published();
        let clients = self.clients.len();
        (0..clients).for_each(|client| self.ask_again(client));
        let mut rounds = 0;
        let claims = |world: &Self| world.clients.iter().map(|it| it.claims.len()).sum::<usize>();
        while claims(self) > 0 || !self.clients.iter().all(|it| it.open) {
            for client in 0..clients {
                self.beat(client);
                self.release(client, 0);
            }
            while !self.beats.is_empty() {
                self.deliver_beat(0, false);
            }
            self.work_off();
            self.pass(100);
            rounds += 1;
            assert!(rounds < 500, "somebody is forgotten: {:?} {:?}", self.clients, self.state);
        }
        self.beats.clear();
        let longest = (0..clients).map(|client| lease_of(client).ms()).max().unwrap();
        let silent_from = self.now;
        while self.now.0 < silent_from.0 + longest + LOOK_MS {
            self.pass(50);
            self.work_off();
        }
        assert_eq!(self.state.sessions().count(), 0, "everybody who is silent is expired in time");
        assert!(self.state.list(None, 99).iter().all(|it| it.holders + it.waiters == 0));
        assert!(self.tickets.is_empty(), "every ticket is answered: {:?}", self.tickets);
        while self.state.unpublished().len() > 0 {
            self.work_off();
        }
        assert_eq!(self.records, self.happened, "each event is a record once, in order");
    }
}

//! What the tests are made of: short words for commands, and a namespace that counts its own entries.

use plimsoll_locks::command::{Acquire, LockCommand, LocksEntry, Want};
use plimsoll_locks::ids::{Label, LeaseMs, LockName, Permits, RequestId, SessionId, Token, Value};
use plimsoll_locks::state::{Answer, Applied, Grant, Locks, Refusal, What};
use plimsoll_locks::time::UnixMs;
use plimsoll_protocol::ids::{LogIndex, TopicName};

pub(crate) const LEASE_MS: u64 = 10_000;

pub(crate) fn name(text: &str) -> LockName {
    LockName::new(text).unwrap()
}

pub(crate) fn label(text: &str) -> Label {
    Label::new(text).unwrap()
}

pub(crate) fn topic(text: &str) -> TopicName {
    TopicName::new(text).unwrap()
}

pub(crate) fn lease() -> LeaseMs {
    LeaseMs::new(LEASE_MS).unwrap()
}

pub(crate) fn permit(of: u32) -> Want {
    Want::Permit { of: Permits::new(of).unwrap() }
}

pub(crate) fn lead(value: &str) -> Want {
    Want::Lead { value: Value::new(value).unwrap() }
}

pub(crate) fn open(session: u128) -> LockCommand {
    let label = label(&format!("client-{session}"));
    LockCommand::OpenSession { session: SessionId(session), lease: lease(), label }
}

pub(crate) fn close(session: u128) -> LockCommand {
    LockCommand::CloseSession { session: SessionId(session) }
}

pub(crate) fn asks(session: u128, request: u64, lock: &str, want: Want) -> Acquire {
    Acquire {
        session: SessionId(session),
        request: RequestId(request),
        lock: name(lock),
        want,
        guards: Default::default(),
        wait: true,
    }
}

pub(crate) fn acquire(session: u128, request: u64, lock: &str, want: Want) -> LockCommand {
    LockCommand::Acquire(Box::new(asks(session, request, lock, want)))
}

pub(crate) fn tries(session: u128, request: u64, lock: &str, want: Want) -> LockCommand {
    LockCommand::Acquire(Box::new(Acquire { wait: false, ..asks(session, request, lock, want) }))
}

pub(crate) fn guarding(session: u128, request: u64, lock: &str, topics: &[&str]) -> Acquire {
    let guards = topics.iter().map(|text| topic(text)).collect();
    Acquire { guards, ..asks(session, request, lock, Want::Exclusive) }
}

pub(crate) fn release(session: u128, request: u64, lock: &str, token: u64) -> LockCommand {
    let (session, request) = (SessionId(session), RequestId(request));
    LockCommand::Release { session, request, lock: name(lock), token: Token(token) }
}

pub(crate) fn granted(token: u64) -> Answer {
    Answer::Granted(Grant { token: Token(token), slot: None, ready: true })
}

pub(crate) fn waiting(position: usize) -> Answer {
    Answer::Waiting { position }
}

/// A namespace whose log has only entries of locks, from index 1.
#[derive(Default)]
pub(crate) struct Bed {
    pub(crate) state: Locks,
    pub(crate) index: u64,
}

impl Bed {
    /// With sessions 1 to `sessions`, opened by entry 1.
    pub(crate) fn new(sessions: u128) -> Self {
        let mut bed = Self::default();
        bed.all((1..=sessions).map(open).collect());
        bed
    }

    pub(crate) fn apply(&mut self, commands: Vec<LockCommand>) -> Applied {
        self.index += 1;
        let at = UnixMs(1_700_000_000_000 + self.index as i64);
        self.state.apply(&LocksEntry { commands }, LogIndex(self.index), at)
    }

    /// The answers of one entry.
    pub(crate) fn all(&mut self, commands: Vec<LockCommand>) -> Vec<Answer> {
        let applied = self.apply(commands);
        assert_eq!(Locks::decode(&self.state.encode()).as_ref(), Ok(&self.state));
        applied.answers
    }

    /// The answer of an entry of one command.
    pub(crate) fn one(&mut self, command: LockCommand) -> Answer {
        self.all(vec![command]).remove(0)
    }

    pub(crate) fn refused(&mut self, command: LockCommand) -> Refusal {
        match self.one(command) {
            Answer::Refused(refusal) => refusal,
            other => panic!("it was not refused, but came to {other:?}"),
        }
    }

    pub(crate) fn outcome(&self, session: u128, request: u64) -> Answer {
        self.state.outcome(SessionId(session), RequestId(request))
    }

    /// What happened since this was asked last.
    pub(crate) fn news(&mut self) -> Vec<(String, What, u64)> {
        let events = self.state.unpublished();
        let news = events.map(|event| {
            let session = event.who.as_ref().map_or(0, |who| who.session.0);
            (event.lock.to_string(), event.what, session)
        });
        let news = news.collect();
        self.state.published(u64::MAX);
        news
    }
}

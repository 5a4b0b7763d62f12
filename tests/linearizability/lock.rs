//! A lock with leases and fencing tokens.
//!
//! The end of a lease is nobody's answer: it is added to the history as an event that may happen at any
//! time from the moment on at which the lease can have ended, and not before ([`Leases`]). So a second
//! grant is accepted where the first lease could be over, and refused where it could not.
//!
//! Source: DESIGN section 5; the rules for locks in TESTING.

use std::collections::{BTreeMap, BTreeSet};

use crate::check::check;
use crate::history::{Caller, History, Outcome};
use crate::model::Model;
use crate::rising::Rising;
use crate::verdict::Verdict;

/// Judges the history of one lock, with the ends of leases that nobody was told of.
#[must_use]
pub fn check_lock(mut history: History<LockOp, LockRet>, leases: &Leases) -> Verdict {
    leases.add_ends(&mut history);
    check(&history, &Lock::of(&history))
}

/// A request for a lock: what its client repeats when it tries again, and uses for no other hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Request(pub u64);

/// One lock, free at first.
///
/// It knows nothing of the order of waiters.
#[derive(Debug, Clone, Default)]
pub struct Lock {
    /// Requests of which nothing is known but that they were sent once and when they end. Each of them
    /// can stand for a later one.
    unheard: BTreeSet<Request>,
}

/// What is asked of a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockOp {
    /// Waits until it is granted, so it may take effect long after it was invoked. If the request
    /// holds the lock already it is told of the same token. One that gave up waiting at the server is
    /// `Failed`.
    Acquire {
        /// For this.
        request: Request,
    },
    /// Answered by `Granted`, or `Taken` if another request holds the lock.
    TryAcquire {
        /// For this.
        request: Request,
    },
    /// Answered by `Released` if this token holds the lock, else by `NotHolder`; by `Ended` where it is only said
    /// that the token holds the lock no longer.
    Release {
        /// The token of the grant.
        token: u64,
    },
    /// An operator's: answered by `Released`, or `NotHolder` if nobody held the lock; by `Ended` in either case.
    ForceRelease,
    /// A linearizable look at the lock; answered by `Holder`.
    Describe,
    /// The request's session ends, by its own word or because its lease is over; it gives up what it
    /// holds. Answered by `Ended`.
    End {
        /// Whose.
        request: Request,
    },
}

/// What is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockRet {
    /// The lock is the request's.
    Granted {
        /// Its fencing token.
        token: u64,
    },
    /// Another request holds it.
    Taken,
    /// It was released by this.
    Released,
    /// It was not held, or not by this token.
    NotHolder,
    /// Who holds it.
    Holder {
        /// By its token; `None` if nobody.
        token: Option<u64>,
    },
    /// The session is no more, or what it held.
    Ended,
}

/// The lock as the next operation finds it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LockState {
    holder: Option<Request>,
    /// The last token: the holder's, if there is one.
    last: Rising,
}

impl Model for Lock {
    type Op = LockOp;
    type Ret = LockRet;
    type State = LockState;

    fn initial(&self) -> LockState {
        LockState { holder: None, last: Rising::Never }
    }

    fn apply(&self, state: &LockState, op: &LockOp, ret: Option<&LockRet>) -> Vec<LockState> {
        let after = match ret {
            Some(LockRet::Ended) => return state.ending(*op),
            Some(ret) => state.answering(*op, *ret),
            None => state.unanswered(*op),
        };
        after.into_iter().collect()
    }

    fn is_alike(&self, earlier: &LockOp, later: &LockOp) -> bool {
        let unheard = |op: &LockOp| match op {
            LockOp::Acquire { request } | LockOp::TryAcquire { request } => {
                self.unheard.contains(request)
            }
            _ => false,
        };
        earlier == later || unheard(earlier) && unheard(later)
    }

    fn is_repeatable(&self, op: &LockOp) -> bool {
        match op {
            // A token that is past does not come back, and a request that has ended should not.
            LockOp::Describe | LockOp::Release { .. } | LockOp::End { .. } => true,
            LockOp::Acquire { .. } | LockOp::TryAcquire { .. } | LockOp::ForceRelease => false,
        }
    }
}

impl Lock {
    /// The lock of a history with all ends of leases. As [`Lock::default`], and its search is shorter.
    #[must_use]
    pub fn of(history: &History<LockOp, LockRet>) -> Self {
        // By request: when it was sent without being answered, and when it ends.
        let mut known: BTreeMap<Request, (Vec<u64>, Vec<u64>)> = BTreeMap::new();
        let mut heard = BTreeSet::new();
        for operation in history.operations() {
            let event = operation.caller == Caller::Nobody;
            match (operation.op, &operation.outcome) {
                (_, Outcome::Failed) => {}
                (LockOp::End { request }, _) if event => {
                    known.entry(request).or_default().1.push(operation.invoked);
                }
                (LockOp::Acquire { request } | LockOp::TryAcquire { request }, outcome)
                    if !matches!(outcome, Outcome::Ok(LockRet::Taken)) =>
                {
                    known.entry(request).or_default().0.push(operation.invoked);
                    if matches!(outcome, Outcome::Ok(_)) {
                        heard.insert(request);
                    }
                }
                (
                    LockOp::Acquire { request }
                    | LockOp::TryAcquire { request }
                    | LockOp::End { request },
                    _,
                ) => {
                    heard.insert(request);
                }
                (LockOp::Release { .. } | LockOp::ForceRelease | LockOp::Describe, _) => {}
            }
        }
        let mut once: Vec<(u64, u64, Request)> = Vec::new();
        for (request, (sent, ends)) in known {
            if let ([sent], [end], false) = (&sent[..], &ends[..], heard.contains(&request)) {
                once.push((*sent, *end, request));
            }
        }
        once.sort_unstable();
        // Who was sent earlier must end no later to stand for another.
        let mut last_end = 0;
        once.retain(|(_, end, _)| {
            let in_order = last_end <= *end;
            last_end = last_end.max(*end);
            in_order
        });
        Self { unheard: once.into_iter().map(|(_, _, request)| request).collect() }
    }
}

impl LockState {
    fn answering(&self, op: LockOp, ret: LockRet) -> Option<Self> {
        match (op, ret) {
            (
                LockOp::Acquire { request } | LockOp::TryAcquire { request },
                LockRet::Granted { token },
            ) => self.granted(request, Some(token)),
            (LockOp::TryAcquire { request }, LockRet::Taken) => {
                self.holder.is_some_and(|holder| holder != request).then(|| self.clone())
            }
            (LockOp::Release { token }, LockRet::Released) => self.held_by(token)?.freed(),
            (LockOp::Release { token }, LockRet::NotHolder) => {
                let surely_holds = self.holder.is_some() && self.last == Rising::At(token);
                (!surely_holds).then(|| self.clone())
            }
            (LockOp::ForceRelease, LockRet::Released) => self.freed(),
            (LockOp::ForceRelease, LockRet::NotHolder)
            | (LockOp::Describe, LockRet::Holder { token: None }) => {
                self.holder.is_none().then(|| self.clone())
            }
            (LockOp::Describe, LockRet::Holder { token: Some(token) }) => self.held_by(token),
            _ => None,
        }
    }

    /// What an operation leaves that is answered by `Ended`.
    fn ending(&self, op: LockOp) -> Vec<Self> {
        match op {
            LockOp::Release { .. } => {
                let freed = self.answering(op, LockRet::Released);
                freed.into_iter().chain(self.answering(op, LockRet::NotHolder)).collect()
            }
            LockOp::ForceRelease => vec![self.freed().unwrap_or_else(|| self.clone())],
            LockOp::End { request } => vec![self.ended(request).unwrap_or_else(|| self.clone())],
            LockOp::Acquire { .. } | LockOp::TryAcquire { .. } | LockOp::Describe => Vec::new(),
        }
    }

    /// What an operation does if it does anything.
    fn unanswered(&self, op: LockOp) -> Option<Self> {
        match op {
            LockOp::Acquire { request } | LockOp::TryAcquire { request } => {
                self.granted(request, None)
            }
            LockOp::Release { token } => self.held_by(token)?.freed(),
            LockOp::ForceRelease => self.freed(),
            LockOp::Describe => None,
            LockOp::End { request } => self.ended(request),
        }
    }

    fn granted(&self, request: Request, token: Option<u64>) -> Option<Self> {
        match (self.holder, token) {
            (None, _) => Some(Self { holder: Some(request), last: self.last.raised(token)? }),
            (Some(holder), Some(token)) if holder == request => self.held_by(token),
            (Some(_), _) => None,
        }
    }

    /// The state if the lock is held, and may be by this token.
    fn held_by(&self, token: u64) -> Option<Self> {
        let holder = Some(self.holder?);
        Some(Self { holder, last: self.last.seen(token)? })
    }

    fn freed(&self) -> Option<Self> {
        self.holder.map(|_| Self { holder: None, last: self.last })
    }

    fn ended(&self, request: Request) -> Option<Self> {
        if self.holder == Some(request) { self.freed() } else { None }
    }
}

/// When leases can end at the earliest.
///
/// The server counts a lease from when it grants it or receives a keep-alive, so not before the client
/// sent that; it may be late in ending one, never early.
#[derive(Debug, Clone)]
pub struct Leases {
    length: u64,
    /// When the last keep-alive was sent that was acknowledged.
    renewed: BTreeMap<Request, u64>,
    /// From when on its client may have given it up.
    given_up: BTreeMap<Request, u64>,
    /// Until when its client counted it, at the latest.
    counted: BTreeMap<Request, u64>,
}

impl Leases {
    /// Leases of this length, in the history's unit of time, as the *server* grants them.
    #[must_use]
    pub fn new(length: u64) -> Self {
        let (renewed, given_up, counted) = Default::default();
        Self { length, renewed, given_up, counted }
    }

    /// The client of a request without an answer may have had it ended from `at` on, by a cancellation or with
    /// its session. What is granted under a token that was told ends by operations of the history only.
    pub fn given_up(&mut self, request: Request, at: u64) {
        let first = self.given_up.entry(request).or_insert(at);
        *first = at.min(*first);
    }

    /// The server acknowledged a keep-alive of the request's session that was sent at `sent`. Not for
    /// one whose outcome is unknown: it may never have arrived.
    pub fn renewed(&mut self, request: Request, sent: u64) {
        let last = self.renewed.entry(request).or_insert(sent);
        *last = sent.max(*last);
    }

    /// The client of a granted request saw its lease last until `until` by its own clock. From then on it may end
    /// its session by itself, and that may be earlier than a lease that is counted from when it asked.
    pub fn counted_until(&mut self, request: Request, until: u64) {
        let last = self.counted.entry(request).or_insert(until);
        *last = until.max(*last);
    }

    /// Adds to a lock's history the ends of all leases that were or may have been granted: of one whose
    /// token was told, a release of it by the server; of another, the end of its request. Once, when the
    /// history is complete.
    pub fn add_ends(&self, history: &mut History<LockOp, LockRet>) {
        // By request: when it was first sent, the tokens it was told of, whether an answer is lacking.
        let mut asked: BTreeMap<Request, (u64, BTreeSet<u64>, bool)> = BTreeMap::new();
        for operation in history.operations() {
            let (LockOp::Acquire { request } | LockOp::TryAcquire { request }) = operation.op
            else {
                continue;
            };
            let token = match operation.outcome {
                Outcome::Ok(LockRet::Granted { token }) => Some(token),
                Outcome::Unknown => None,
                Outcome::Ok(_) | Outcome::Failed => continue,
            };
            let (first, tokens, is_unknown) =
                asked.entry(request).or_insert((operation.invoked, BTreeSet::new(), false));
            // An attempt that is repeated does not make the lease longer.
            *first = operation.invoked.min(*first);
            tokens.extend(token);
            *is_unknown |= token.is_none();
        }
        for (request, (asked, tokens, is_unknown)) in asked {
            let counted_from = self.renewed.get(&request).copied().unwrap_or(asked).max(asked);
            let end = counted_from.saturating_add(self.length);
            let counted = self.counted.get(&request).copied().unwrap_or(end);
            for token in tokens {
                history.may_happen(counted, LockOp::Release { token });
            }
            if is_unknown {
                let given_up = self.given_up.get(&request).copied().unwrap_or(end);
                history.may_happen(end.min(given_up), LockOp::End { request });
            }
        }
    }
}

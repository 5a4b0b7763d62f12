//! A correct lock server for one lock, and clients that keep it, lose it and give it back.

use std::collections::BTreeMap;

use plimsoll_linearizability::invariants::{Grant, Hold};
use plimsoll_linearizability::lock::{Leases, LockOp, LockRet, Request};
use plimsoll_linearizability::{History, Outcome};

use crate::interleave::{Dice, Workload};

/// Length of a lease, in units of the history's clock.
const LEASE: u64 = 60;

#[derive(Clone, Copy)]
struct Held {
    request: Request,
    token: u64,
    lease_end: u64,
}

pub(crate) struct Locks {
    held: Option<Held>,
    log_end: u64,
    requests: u64,
    /// What clients believe to hold.
    believed: BTreeMap<u32, (Request, u64)>,
    /// Until when clients may believe so.
    believed_until: BTreeMap<Request, u64>,
    asked: BTreeMap<Request, u64>,
    pub(crate) leases: Leases,
    /// Whether operators interfere.
    forced: bool,
}

impl Locks {
    pub(crate) fn new(forced: bool) -> Self {
        Self {
            held: None,
            log_end: 0,
            requests: 0,
            believed: BTreeMap::new(),
            believed_until: BTreeMap::new(),
            asked: BTreeMap::new(),
            leases: Leases::new(LEASE),
            forced,
        }
    }

    fn grant(&mut self, request: Request, now: u64, dice: &mut Dice) -> Option<LockRet> {
        if self.held.is_some_and(|held| held.request != request) {
            return None;
        }
        let token = self.log_end + dice.below(3);
        self.log_end = token + 1;
        self.held = Some(Held { request, token, lease_end: now + LEASE });
        Some(LockRet::Granted { token })
    }

    fn free_if(&mut self, frees: impl Fn(Held) -> bool) -> LockRet {
        if self.held.is_some_and(frees) {
            self.held = None;
            LockRet::Released
        } else {
            LockRet::NotHolder
        }
    }

    /// What clients saw granted.
    pub(crate) fn grants(history: &History<LockOp, LockRet>) -> Vec<Grant> {
        let mut grants = Vec::new();
        for operation in history.operations() {
            if let (
                LockOp::Acquire { request } | LockOp::TryAcquire { request },
                Outcome::Ok(LockRet::Granted { token }),
                Some(completed),
            ) = (operation.op, operation.outcome, operation.completed)
            {
                let (fence, invoked) = ("lock".into(), operation.invoked);
                grants.push(Grant { fence, request: request.0, token, invoked, completed });
            }
        }
        grants
    }

    /// When clients surely held the lock.
    pub(crate) fn holds(&self, history: &History<LockOp, LockRet>) -> Vec<Hold> {
        let mut holds = Vec::new();
        for grant in Self::grants(history) {
            let request = Request(grant.request);
            let mut until = self.believed_until[&request];
            for operation in history.operations() {
                let gives_up = operation.op == LockOp::Release { token: grant.token }
                    || operation.op == LockOp::End { request };
                if gives_up {
                    until = until.min(operation.invoked);
                }
            }
            let Grant { fence, token, completed, .. } = grant;
            holds.push(Hold { fence, token, from: completed, until });
        }
        holds
    }
}

impl Workload for Locks {
    type Op = LockOp;
    type Ret = LockRet;

    fn ask(&mut self, client: u32, now: u64, dice: &mut Dice) -> LockOp {
        if self.forced && dice.percent(3) {
            return LockOp::ForceRelease;
        }
        if dice.percent(10) {
            return LockOp::Describe;
        }
        if let Some((request, token)) = self.believed.get(&client).copied() {
            if dice.percent(40) {
                return LockOp::Describe;
            }
            self.believed.remove(&client);
            let ends = dice.percent(20);
            return if ends { LockOp::End { request } } else { LockOp::Release { token } };
        }
        self.requests += 1;
        let request = Request(self.requests);
        self.asked.insert(request, now);
        if dice.percent(50) { LockOp::TryAcquire { request } } else { LockOp::Acquire { request } }
    }

    fn execute(&mut self, op: &LockOp, now: u64, dice: &mut Dice) -> Option<LockRet> {
        match *op {
            LockOp::Acquire { request } => self.grant(request, now, dice),
            LockOp::TryAcquire { request } => {
                self.grant(request, now, dice).or(Some(LockRet::Taken))
            }
            LockOp::Release { token } => Some(self.free_if(|held| held.token == token)),
            LockOp::ForceRelease => Some(self.free_if(|_| true)),
            LockOp::Describe => Some(LockRet::Holder { token: self.held.map(|held| held.token) }),
            LockOp::End { request } => {
                self.free_if(|held| held.request == request);
                Some(LockRet::Ended)
            }
        }
    }

    fn told(&mut self, client: u32, op: &LockOp, ret: &LockRet) {
        if let (
            LockOp::Acquire { request } | LockOp::TryAcquire { request },
            LockRet::Granted { token },
        ) = (*op, *ret)
        {
            self.believed.insert(client, (request, token));
            self.believed_until.insert(request, self.asked[&request] + LEASE);
        }
    }

    fn tick(&mut self, now: u64, dice: &mut Dice) {
        let Some(held) = &mut self.held else { return };
        if now >= held.lease_end && dice.percent(20) {
            self.held = None;
        } else if dice.percent(5) {
            // A keep-alive of a client that knows that it holds the lock, answered at once.
            let token = held.token;
            if self.believed.values().any(|(_, believed)| *believed == token) {
                held.lease_end = now + LEASE;
                self.leases.renewed(held.request, now);
                self.believed_until.insert(held.request, now + LEASE);
            }
        }
    }
}

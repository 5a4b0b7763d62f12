//! Makes histories by really doing the operations: clients, a network that delays and loses, and a
//! server that does one thing at a time. What comes out is linearizable, because it happened.

use plimsoll_linearizability::{Call, History, Outcome};

/// Numbers that a seed determines (xorshift64*).
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }

    pub(crate) fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }
}

/// A server and what its clients want of it.
pub(crate) trait Workload {
    type Op: Clone;
    type Ret: Clone;

    /// What a client asks for next.
    fn ask(&mut self, client: u32, now: u64, dice: &mut Dice) -> Self::Op;

    /// Does an operation; `None` if it has to wait.
    fn execute(&mut self, op: &Self::Op, now: u64, dice: &mut Dice) -> Option<Self::Ret>;

    /// A client is told.
    fn told(&mut self, _client: u32, _op: &Self::Op, _ret: &Self::Ret) {}

    /// What server and clients do by themselves.
    fn tick(&mut self, _now: u64, _dice: &mut Dice) {}
}

/// How much of what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) clients: u32,
    pub(crate) operations: usize,
    /// Of 100 operations, those that a client gives up.
    pub(crate) unknown: u64,
}

struct InFlight<W: Workload> {
    call: Call,
    /// Who waits for it, if anybody still does.
    client: Option<u32>,
    op: W::Op,
    ret: Option<W::Ret>,
    given_up: bool,
}

/// A history of `plan` that ends with whatever is still open then.
pub(crate) fn run<W: Workload>(
    workload: &mut W,
    dice: &mut Dice,
    plan: Plan,
) -> History<W::Op, W::Ret> {
    let mut history = History::new();
    let mut in_flight: Vec<InFlight<W>> = Vec::new();
    let mut now = 0;
    // A lock may be held to the end, and who waits for it then is not waited for.
    for _ in 0..plan.operations * 40 {
        now += dice.below(3);
        workload.tick(now, dice);
        let client = u32::try_from(dice.below(u64::from(plan.clients))).expect("below a u32");
        let idle = in_flight.iter().all(|message| message.client != Some(client));
        if idle && history.len() < plan.operations {
            let op = workload.ask(client, now, dice);
            let call = history.invoke(client, now, op.clone());
            let given_up = dice.percent(plan.unknown);
            in_flight.push(InFlight { call, client: Some(client), op, ret: None, given_up });
        } else if !in_flight.is_empty() {
            let chosen = usize::try_from(dice.below(in_flight.len() as u64)).expect("an index");
            step(workload, dice, &mut history, &mut in_flight, chosen, now);
        }
    }
    history
}

/// One message goes on: to the server, back to its client, or nowhere.
fn step<W: Workload>(
    workload: &mut W,
    dice: &mut Dice,
    history: &mut History<W::Op, W::Ret>,
    in_flight: &mut Vec<InFlight<W>>,
    chosen: usize,
    now: u64,
) {
    let message = &mut in_flight[chosen];
    if let (true, Some(_)) = (message.given_up && dice.percent(50), message.client) {
        history.complete(message.call, now, Outcome::Unknown);
        message.client = None;
    } else if let (None, None, true) = (message.client, &message.ret, dice.percent(90)) {
        // Given up, and still on its way.
    } else if message.ret.is_none() {
        message.ret = workload.execute(&message.op, now, dice);
        if message.ret.is_none() && message.client.is_some() && dice.percent(3) {
            history.complete(message.call, now, Outcome::Failed);
            in_flight.swap_remove(chosen);
        }
    } else if !message.given_up || message.client.is_none() {
        let message = in_flight.swap_remove(chosen);
        if let (Some(client), Some(ret)) = (message.client, message.ret) {
            workload.told(client, &message.op, &ret);
            history.complete(message.call, now, Outcome::Ok(ret));
        }
    }
}

//! The network's weather: how long packets take, which links are cut, which connections break.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use plimsoll_log::disk::sim::SplitMix;
use plimsoll_transport::{ConnectionId, Fabric, Packet};

use crate::trace::Trace;

/// A connection that hears nothing for so long is given up, as QUIC does it (by default after 30 s).
const IDLE_MS: u64 = 30_000;

/// What packets meet. Clones are the same weather.
#[derive(Clone)]
pub struct Weather(Arc<Mutex<State>>);

struct State {
    now_ms: u64,
    random: SplitMix,
    trace: Arc<Mutex<Trace>>,
    /// By the time of their arrival, then in the order of sending.
    under_way: BTreeMap<(u64, u64), Packet>,
    sent: u64,
    /// When the last packet of a stream arrives: none overtakes it.
    last: BTreeMap<(ConnectionId, SocketAddr, Option<u64>), u64>,
    /// From whom to whom nothing gets through.
    cuts: BTreeSet<(IpAddr, IpAddr)>,
    /// Packets at a cut, in the order of sending, with the time when they got there.
    held: Vec<(u64, Packet)>,
    delay_ms: (u64, u64),
    /// Percent of packets that take ten times as long.
    late_percent: u64,
}

impl std::fmt::Debug for Weather {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Weather").finish_non_exhaustive()
    }
}

impl Weather {
    /// Fair weather: packets take 0 or 1 ms.
    #[must_use]
    pub fn new(seed: u64, trace: Arc<Mutex<Trace>>) -> Self {
        Self(Arc::new(Mutex::new(State {
            now_ms: 0,
            random: SplitMix::new(seed),
            trace,
            under_way: BTreeMap::new(),
            sent: 0,
            last: BTreeMap::new(),
            cuts: BTreeSet::new(),
            held: Vec::new(),
            delay_ms: (0, 1),
            late_percent: 0,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long packets take from now on, and how many percent of them take ten times as long.
    pub fn set_delay_ms(&self, least: u64, most: u64, late_percent: u64) {
        let mut state = self.lock();
        state.delay_ms = (least, most.max(least));
        state.late_percent = late_percent;
    }

    /// Nothing gets from `from` to `to` any more; what is sent waits.
    pub fn cut(&self, from: IpAddr, to: IpAddr) {
        self.lock().cuts.insert((from, to));
    }

    /// Whether hosts are cut off from each other.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        !self.lock().cuts.is_empty()
    }

    /// Every cut is mended; what waited sets out again, in its order.
    pub fn mend(&self) {
        let held = {
            let mut state = self.lock();
            state.cuts.clear();
            std::mem::take(&mut state.held)
        };
        for (_, packet) in held {
            self.carry(packet);
        }
    }

    /// Time passes: what is due arrives, what waited too long is lost with its connection.
    pub fn pass(&self, now_ms: u64) {
        let lost = {
            let mut state = self.lock();
            state.now_ms = now_ms;
            let (lost, held) = std::mem::take(&mut state.held)
                .into_iter()
                .partition::<Vec<_>, _>(|(since, _)| since + IDLE_MS <= now_ms);
            state.held = held;
            lost
        };
        drop(lost);
        loop {
            let due = {
                let mut state = self.lock();
                match state.under_way.first_entry() {
                    Some(first) if first.key().0 <= now_ms => first.remove(),
                    _ => break,
                }
            };
            due.deliver();
        }
    }

    /// Packets that have not arrived.
    #[must_use]
    pub fn under_way(&self) -> usize {
        let state = self.lock();
        state.under_way.len() + state.held.len()
    }
}

impl Fabric for Weather {
    fn carry(&self, packet: Packet) {
        let mut state = self.lock();
        let state = &mut *state;
        let now_ms = state.now_ms;
        let (from, to) = (packet.from(), packet.to());
        if state.cuts.contains(&(from.ip(), to.ip())) {
            state.held.push((now_ms, packet));
            return;
        }
        let (least, most) = state.delay_ms;
        let mut delay_ms = least + state.random.below(most - least + 1);
        if state.random.chance(state.late_percent) {
            delay_ms = 10 * delay_ms.max(1);
        }
        let stream = (packet.connection(), from, packet.stream());
        let before = state.last.get(&stream).copied().unwrap_or(0);
        // At the earliest with the next step of the world.
        let due_ms = (now_ms + 1 + delay_ms).max(before);
        state.last.insert(stream, due_ms);
        state.sent += 1;
        let mut bytes = crc32fast::Hasher::new();
        for piece in packet.pieces() {
            bytes.update(piece);
        }
        let numbers = [
            packet.connection().0,
            packet.stream().unwrap_or(u64::MAX),
            u64::from(from.port()),
            u64::from(bytes.finalize()),
            due_ms,
        ];
        let mut trace = state.trace.lock().unwrap_or_else(PoisonError::into_inner);
        trace.note(now_ms, packet.kind(), &numbers);
        drop(trace);
        state.under_way.insert((due_ms, state.sent), packet);
    }
}

//! A network with a delay, directions that can be cut, and order within each stream.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use plimsoll_transport::{ConnectionId, Fabric, Packet};
use tokio::sync::Notify;
use tokio::time::Instant;

/// SplitMix64.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// Clones are the same network.
#[derive(Clone)]
pub(crate) struct Weather(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    changed: Notify,
}

struct State {
    random: Random,
    sent: u64,
    under_way: BTreeMap<(Instant, u64), Packet>,
    /// When the last packet of a stream in one direction arrives.
    last: BTreeMap<(ConnectionId, u64, u64, Option<u64>), Instant>,
    cuts: BTreeSet<(u64, u64)>,
    /// What went into a cut; lost when it heals.
    lost: Vec<Packet>,
}

/// Node N has the address 10.0.0.N.
fn node_at(address: std::net::SocketAddr) -> u64 {
    match address.ip() {
        std::net::IpAddr::V4(ip) => u64::from(ip.octets()[3]),
        std::net::IpAddr::V6(_) => 0,
    }
}

impl Weather {
    pub(crate) fn new(seed: u64) -> Weather {
        let state = State {
            random: Random::new(seed),
            sent: 0,
            under_way: BTreeMap::new(),
            last: BTreeMap::new(),
            cuts: BTreeSet::new(),
            lost: Vec::new(),
        };
        let weather = Weather(Arc::new(Inner { state: Mutex::new(state), changed: Notify::new() }));
        tokio::spawn(weather.clone().deliver());
        weather
    }

    /// Nothing gets from one node to another any more.
    pub(crate) fn cut(&self, from: u64, to: u64) {
        self.0.state.lock().unwrap().cuts.insert((from, to));
    }

    /// Everything gets through again; connections that lost something break.
    pub(crate) fn heal(&self) {
        let lost = {
            let mut state = self.0.state.lock().unwrap();
            state.cuts.clear();
            std::mem::take(&mut state.lost)
        };
        drop(lost);
    }

    async fn deliver(self) {
        loop {
            let next = {
                let state = self.0.state.lock().unwrap();
                state.under_way.keys().next().copied()
            };
            let Some((at, _)) = next else {
                self.0.changed.notified().await;
                continue;
            };
            tokio::select! {
                biased;
                () = self.0.changed.notified() => continue,
                () = tokio::time::sleep_until(at) => {}
            }
            let first = self.0.state.lock().unwrap().under_way.pop_first();
            if let Some((_, packet)) = first {
                packet.deliver();
            }
        }
    }
}

impl Fabric for Weather {
    fn carry(&self, packet: Packet) {
        let mut state = self.0.state.lock().unwrap();
        let (from, to) = (node_at(packet.from()), node_at(packet.to()));
        if state.cuts.contains(&(from, to)) {
            state.lost.push(packet);
            return;
        }
        let delay = Duration::from_micros(200 + state.random.below(2000));
        let stream = (packet.connection(), from, to, packet.stream());
        let earliest = state.last.get(&stream).copied();
        let at = (Instant::now() + delay).max(earliest.unwrap_or_else(Instant::now));
        state.last.insert(stream, at);
        state.sent += 1;
        let place = (at, state.sent);
        state.under_way.insert(place, packet);
        drop(state);
        self.0.changed.notify_one();
    }
}

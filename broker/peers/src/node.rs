//! What the tasks of a node's links share: who may be linked, which link stands, who is alive.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use plimsoll_protocol::ids::NodeId;
use plimsoll_protocol::peer::{Alive, PeerRefusal};
use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, MissedTickBehavior};

use crate::config::PeersConfig;
use crate::dial::Dial;
use crate::handler::Handler;
use crate::latch::Latch;
use crate::link::{Link, code};
use crate::liveness::{LivenessEvent, Own, Table, View};
use crate::slot::{Clock, Slot};

/// Events that a slow subscriber may be behind.
const EVENTS_MAX: usize = 1024;
/// A wall clock that is further off than this is worth a warning.
const CLOCK_OFFSET_MS_MAX: u64 = 10_000;

/// What the tasks of a node's links share.
pub(crate) struct Node {
    pub(crate) config: PeersConfig,
    pub(crate) dial: Arc<dyn Dial>,
    pub(crate) handler: Arc<dyn Handler>,
    started: Instant,
    slots: Mutex<BTreeMap<NodeId, Arc<Slot>>>,
    removed: Mutex<BTreeSet<NodeId>>,
    table: Mutex<Table>,
    views: Mutex<Views>,
    pub(crate) events: broadcast::Sender<LivenessEvent>,
    pub(crate) stopping: Latch<()>,
    /// Tasks that have not ended.
    running: watch::Sender<usize>,
}

impl Node {
    pub(crate) fn new(
        config: PeersConfig,
        dial: Arc<dyn Dial>,
        handler: Arc<dyn Handler>,
    ) -> Arc<Self> {
        let own = Own {
            incarnation: config.incarnation,
            condition: plimsoll_protocol::peer::Condition::Serving,
            catalog: None,
            leads_version: 0,
        };
        let table = Table::new(config.node, own, config.liveness, Duration::ZERO);
        Arc::new(Self {
            dial,
            handler,
            started: Instant::now(),
            slots: Mutex::default(),
            removed: Mutex::default(),
            views: Mutex::new(Views {
                present: Arc::new(View::alone(config.node)),
                subscribers: Vec::new(),
            }),
            events: broadcast::channel(EVENTS_MAX).0,
            stopping: Latch::default(),
            running: watch::channel(0).0,
            table: Mutex::new(table),
            config,
        })
    }

    /// Time of this node's links.
    pub(crate) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    pub(crate) fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slots_locked(&self) -> MutexGuard<'_, BTreeMap<NodeId, Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The place of `node`'s link, made where there is none.
    pub(crate) fn slot(&self, node: NodeId) -> Arc<Slot> {
        let mut slots = self.slots_locked();
        Arc::clone(slots.entry(node).or_insert_with(|| Arc::new(Slot::new(node))))
    }

    /// The place of `node`'s link, and whether a task dials it from now on that did not before.
    pub(crate) fn slot_to_dial(&self, node: NodeId) -> (Arc<Slot>, bool) {
        let slot = self.slot(node);
        let is_new = !slot.set_dialed();
        (slot, is_new)
    }

    pub(crate) fn slots(&self) -> Vec<Arc<Slot>> {
        self.slots_locked().values().cloned().collect()
    }

    /// The link to `node`, if one stands.
    pub(crate) fn link(&self, node: NodeId) -> Option<Arc<Link>> {
        let slot = self.slots_locked().get(&node).cloned()?;
        slot.standing()
    }

    pub(crate) fn set_removed(&self, removed: BTreeSet<NodeId>) {
        // Noted before their links close: they dial again at once, and are told.
        let nodes: Vec<_> = removed.iter().copied().collect();
        *self.removed.lock().unwrap_or_else(PoisonError::into_inner) = removed;
        for node in nodes {
            if let Some(link) = self.link(node) {
                link.close(code::REFUSED, PeerRefusal::Removed(node).to_string());
            }
        }
    }

    pub(crate) fn is_removed(&self, node: NodeId) -> bool {
        self.removed.lock().unwrap_or_else(PoisonError::into_inner).contains(&node)
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.is_set()
    }

    pub(crate) async fn stopped(&self) {
        self.stopping.wait().await;
    }

    fn views(&self) -> MutexGuard<'_, Views> {
        self.views.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is believed now.
    pub(crate) fn view(&self) -> Arc<View> {
        Arc::clone(&self.views().present)
    }

    /// What is believed, as it changes.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<View>> {
        let mut views = self.views();
        let (subscriber, receiver) = watch::channel(Arc::clone(&views.present));
        if views.subscribers.len().is_power_of_two() {
            // Where the view never changes, those who have gone are noticed here.
            views.subscribers.retain(|subscriber| !subscriber.is_closed());
        }
        views.subscribers.push(subscriber);
        receiver
    }

    /// Runs a task that [`Self::ended`] waits for.
    pub(crate) fn spawn(self: &Arc<Self>, task: impl Future<Output = ()> + Send + 'static) {
        self.running.send_modify(|running| *running += 1);
        let running = Running(Arc::clone(self));
        tokio::spawn(async move {
            let _running = running;
            task.await;
        });
    }

    /// Waits until every task has ended.
    pub(crate) async fn ended(&self) {
        let mut running = self.running.subscribe();
        // The sender lives in `self`, so the only outcome is the count.
        let _ = running.wait_for(|running| *running == 0).await;
    }

    /// Puts a link in place, unless another one has to stay; gives the one that it replaces.
    pub(crate) fn install(
        &self,
        slot: &Slot,
        link: &Arc<Link>,
    ) -> Result<Option<Arc<Link>>, PeerRefusal> {
        if self.is_removed(slot.node) {
            return Err(PeerRefusal::Removed(slot.node));
        }
        if self.is_stopping() {
            return Err(PeerRefusal::Stopping(self.config.node));
        }
        let clock = {
            let (now, silence) = (self.now(), self.config.liveness.timeout);
            let table = self.table();
            // A process that was ended and started again has been silent for longer.
            let is_heard =
                table.last_sign(now, slot.node).is_some_and(|(_, ago)| ago < silence / 2);
            Clock { now, is_heard, patience: silence * 2 }
        };
        let replaced = slot.install(self.config.node, link, &clock)?;
        if link.clock_offset_ms.unsigned_abs() > CLOCK_OFFSET_MS_MAX {
            let offset_ms = link.clock_offset_ms;
            tracing::warn!(peer = %slot.node, offset_ms, "the wall clocks of two nodes differ");
        }
        let mut table = self.table();
        let events = table.linked(slot.node, link.hello.incarnation);
        self.publish(&mut table, &events);
        Ok(replaced)
    }

    /// A sign of life has come.
    pub(crate) fn heard(&self, from: NodeId, alive: &Alive) {
        let mut table = self.table();
        let events = table.heard(self.now(), from, alive);
        self.publish(&mut table, &events);
    }

    /// Forgets a node that is no longer listed.
    pub(crate) fn forget(&self, node: NodeId) {
        let mut table = self.table();
        let events = table.remove(self.now(), node);
        self.publish(&mut table, &events);
    }

    /// Whoever waits sees the view that an event led to.
    fn publish(&self, table: &mut Table, events: &[LivenessEvent]) {
        if table.take_changed() {
            self.views().show(table.view());
        }
        for event in events {
            match event {
                LivenessEvent::Up(peer) => tracing::info!(%peer, "a node is up"),
                LivenessEvent::Down(peer) => tracing::warn!(%peer, "a node is down"),
                LivenessEvent::Restarted(peer) => tracing::info!(%peer, "a node was restarted"),
                LivenessEvent::ReachChanged(peer) => tracing::debug!(%peer, "reach has changed"),
                LivenessEvent::SelfStalled(pause) => {
                    tracing::warn!(pause_ms = pause.as_millis(), "this process did not run");
                }
            }
            // Nobody may be interested.
            let _ = self.events.send(event.clone());
        }
    }

    /// Sends signs of life and notices silence, until the node stops.
    pub(crate) async fn exchange_signs(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(self.config.liveness.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = self.stopped() => return,
                _ = ticks.tick() => {}
            }
            let (events, signs) = {
                let mut table = self.table();
                let (events, signs) = table.tick(self.now());
                self.publish(&mut table, &events);
                (events, signs)
            };
            for (node, sign) in signs {
                if let Some(link) = self.link(node) {
                    link.show_alive(&sign);
                }
            }
            for event in events {
                if let LivenessEvent::Down(node) = event
                    && let Some(link) = self.link(node)
                {
                    link.close(code::BROKEN, "no sign of life for the timeout");
                }
            }
        }
    }
}

/// The present view, and those who wait for another. A channel each: who shares one wakes in an order
/// that is drawn by chance.
struct Views {
    present: Arc<View>,
    subscribers: Vec<watch::Sender<Arc<View>>>,
}

impl Views {
    fn show(&mut self, view: View) {
        self.present = Arc::new(view);
        let present = &self.present;
        self.subscribers.retain(|subscriber| subscriber.send(Arc::clone(present)).is_ok());
    }
}

struct Running(Arc<Node>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.send_modify(|running| *running -= 1);
    }
}

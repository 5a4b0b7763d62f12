//! The connections of a client: one per node, found by the node's id or by trying the addresses that
//! are known.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::future::{BoxFuture, Shared};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use plimsoll_protocol::ids::NodeId;
use plimsoll_transport::TransportKind;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::cluster::Cluster;
use crate::dial::AddressSource;
use crate::error::ConnectError;
use crate::link::{Dialer, Link};

/// How long one address is tried alone before the next is tried beside it.
///
/// Source: RFC 8305, section 5, Connection Attempt Delay.
const STAGGER: Duration = Duration::from_millis(250);
/// A node that gave no sign of life is dialed for no longer: it is asked in passing, while others
/// may already do its work.
const SUSPECT_DIAL: Duration = Duration::from_secs(1);

/// See the module.
pub(crate) struct Links {
    dialer: Arc<Dialer>,
    cluster: Arc<Cluster>,
    nodes: Mutex<BTreeMap<NodeId, Arc<Slot>>>,
    /// The node that single requests go to.
    home: Mutex<Option<NodeId>>,
    search: Gate,
}

type Dialed = Result<Arc<Link>, ConnectError>;

/// The link to one node.
#[derive(Default)]
struct Slot {
    link: Mutex<Option<Arc<Link>>>,
    /// The attempt to dial it that is under way.
    attempt: Mutex<Option<Attempt>>,
}

/// Dialing in a task of its own, so that whoever waits for it may leave, and come back.
struct Attempt {
    task: AbortHandle,
    outcome: Shared<BoxFuture<'static, Dialed>>,
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One search at a time; whoever waits for it shares its failure.
#[derive(Default)]
struct Gate(tokio::sync::Mutex<Option<(Instant, ConnectError)>>);

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no code panics while it holds this lock")
}

impl Slot {
    fn live(&self) -> Option<Arc<Link>> {
        locked(&self.link).as_ref().filter(|link| !link.is_closed()).map(Arc::clone)
    }
}

impl Gate {
    /// `found` looks whether somebody else has brought it about meanwhile.
    async fn pass(
        &self,
        found: impl Fn() -> Option<Arc<Link>>,
        attempt: impl Future<Output = Dialed>,
    ) -> Dialed {
        let asked_at = Instant::now();
        let mut failed = self.0.lock().await;
        if let Some(link) = found() {
            return Ok(link);
        }
        if let Some((at, error)) = failed.as_ref()
            && *at >= asked_at
        {
            return Err(error.clone());
        }
        let outcome = attempt.await;
        *failed = outcome.as_ref().err().map(|error| (Instant::now(), error.clone()));
        outcome
    }
}

impl Links {
    pub(crate) fn new(dialer: Arc<Dialer>, cluster: Arc<Cluster>) -> Self {
        let (nodes, home) = (Mutex::default(), Mutex::default());
        Self { dialer, cluster, nodes, home, search: Gate::default() }
    }

    /// A live link to a node, if there is one.
    pub(crate) fn existing(&self, node: NodeId) -> Option<Arc<Link>> {
        locked(&self.nodes).get(&node)?.live()
    }

    /// The link to a node, dialed where there is none. `hint` is an address that was just named. The
    /// dialing begins now and goes on when the future is dropped. Its failure names the last address.
    pub(crate) fn node(
        self: &Arc<Self>,
        node: NodeId,
        hint: Option<&str>,
    ) -> Shared<BoxFuture<'static, Dialed>> {
        let slot = Arc::clone(locked(&self.nodes).entry(node).or_default());
        if let Some(link) = slot.live() {
            return async move { Ok(link) }.boxed().shared();
        }
        let mut attempt = locked(&slot.attempt);
        if let Some(attempt) = attempt.as_ref().filter(|attempt| !attempt.task.is_finished()) {
            return attempt.outcome.clone();
        }
        let (links, hint) = (Arc::downgrade(self), hint.map(str::to_owned));
        let dialing = tokio::spawn(async move {
            match links.upgrade() {
                Some(links) => links.dial_node(node, hint.as_deref()).await,
                None => Err(ConnectError::NoAddress { node }),
            }
        });
        let task = dialing.abort_handle();
        let outcome = async move { dialing.await.unwrap_or(Err(ConnectError::NoAddress { node })) };
        let outcome = outcome.boxed().shared();
        *attempt = Some(Attempt { task, outcome: outcome.clone() });
        outcome
    }

    async fn dial_node(&self, node: NodeId, hint: Option<&str>) -> Dialed {
        let view = self.cluster.view();
        let mut places = Vec::new();
        let mut add = |address: &str, source| {
            if !address.is_empty() && !places.iter().any(|(known, _)| known == address) {
                places.push((address.to_owned(), source));
            }
        };
        // The nodes tell their encrypted addresses only.
        if self.dialer.config().transport == TransportKind::Tcp {
            let seeds = &self.dialer.config().addresses;
            for address in seeds.iter().filter(|address| !self.is_other_node(address, node)) {
                add(address, AddressSource::Configured);
            }
        }
        for address in [hint, view.address(node)].into_iter().flatten() {
            add(address, AddressSource::Cluster);
        }
        let mut last = ConnectError::NoAddress { node };
        for (address, source) in places {
            match self.dial(&address, source, view.is_suspect(node)).await {
                Ok(link) if link.node() == node => return Ok(link),
                Ok(link) => {
                    let answered = link.node();
                    last = ConnectError::OtherNode { address, wanted: node, answered };
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Whether the node was dialed at this address, or is said to be there.
    fn is_at(&self, node: NodeId, address: &str) -> bool {
        self.cluster.view().address(node) == Some(address)
            || self.existing(node).is_some_and(|link| link.address() == address)
    }

    /// Whether another node was last found at this address.
    fn is_other_node(&self, address: &str, node: NodeId) -> bool {
        let others: Vec<Arc<Slot>> = locked(&self.nodes)
            .iter()
            .filter(|(other, _)| **other != node)
            .map(|(_, slot)| Arc::clone(slot))
            .collect();
        others.iter().any(|slot| slot.live().is_some_and(|link| link.address() == address))
    }

    async fn dial(&self, address: &str, source: AddressSource, is_suspect: bool) -> Dialed {
        let whole = self.dialer.config().connect_timeout;
        let after = if is_suspect { whole.min(SUSPECT_DIAL) } else { whole };
        self.adopt(self.dialer.dial(address, source, after).await?)
    }

    /// Makes a new link that of its node, unless that has a live one.
    fn adopt(&self, link: Arc<Link>) -> Dialed {
        let (node, answered) = (link.node(), &link.hello().cluster_id);
        let view = self.cluster.view();
        if !view.cluster_id().is_empty() && view.cluster_id() != answered {
            // A node whose data was wiped is another cluster. Only where nothing is left of the
            // first one can it be the one that is meant.
            let live = locked(&self.nodes).values().any(|slot| slot.live().is_some());
            if live {
                return Err(ConnectError::OtherCluster {
                    address: link.address().to_owned(),
                    wanted: view.cluster_id().to_owned(),
                    answered: answered.clone(),
                });
            }
        }
        self.cluster.greeted(node, answered);
        let slot = Arc::clone(locked(&self.nodes).entry(node).or_default());
        let mut held = locked(&slot.link);
        match held.as_ref().filter(|held| !held.is_closed()) {
            Some(held) => Ok(Arc::clone(held)),
            None => {
                *held = Some(Arc::clone(&link));
                Ok(link)
            }
        }
    }

    /// A link to any node but `avoid`, which is taken only where there is no other: the one that was
    /// used last, another live one, or the first that answers.
    ///
    /// # Errors
    /// When no known address leads to a node.
    pub(crate) async fn any(&self, avoid: Option<NodeId>) -> Dialed {
        let avoid = avoid.filter(|_| self.has_choice());
        if let Some(link) = self.live(avoid) {
            return Ok(link);
        }
        let searching = self.search.pass(|| self.live(avoid), self.search(avoid));
        let link = match avoid.and_then(|node| self.existing(node)) {
            None => searching.await?,
            // There is one to fall back on: the others have no more than a moment.
            Some(avoided) => {
                let suspicion = &self.dialer.config().suspicion;
                let moment = suspicion.ask_after + suspicion.give_up_after;
                match timeout(moment, searching).await {
                    Ok(Ok(link)) => link,
                    Ok(Err(_)) | Err(_) => return Ok(avoided),
                }
            }
        };
        *locked(&self.home) = Some(link.node());
        Ok(link)
    }

    /// Whether there may be more than one node.
    pub(crate) fn has_choice(&self) -> bool {
        self.cluster.view().nodes().len() > 1 || self.dialer.config().addresses.len() > 1
    }

    fn live(&self, avoid: Option<NodeId>) -> Option<Arc<Link>> {
        let fits = |node: NodeId| Some(node) != avoid;
        let home = *locked(&self.home);
        if let Some(link) = home.filter(|node| fits(*node)).and_then(|node| self.existing(node)) {
            return Some(link);
        }
        let slots: Vec<_> = locked(&self.nodes)
            .iter()
            .filter(|(node, _)| fits(**node))
            .map(|(_, slot)| Arc::clone(slot))
            .collect();
        let link = slots.iter().find_map(|slot| slot.live())?;
        *locked(&self.home) = Some(link.node());
        Some(link)
    }

    /// Tries all addresses: those that were configured, then those of the cluster; those of nodes that
    /// are suspected or to be avoided last.
    async fn search(&self, avoid: Option<NodeId>) -> Dialed {
        let view = self.cluster.view();
        let unwanted = |node: NodeId| Some(node) == avoid || view.is_suspect(node);
        let mut places: Vec<(String, AddressSource, bool)> = Vec::new();
        for address in &self.dialer.config().addresses {
            let at = |info: &&plimsoll_protocol::api::NodeInfo| info.address == *address;
            let node = view.nodes().values().find(at).map(|info| info.node);
            places.push((address.clone(), AddressSource::Configured, node.is_some_and(unwanted)));
        }
        for info in view.nodes().values() {
            let known = places.iter().any(|(address, ..)| *address == info.address);
            if !known && !info.address.is_empty() {
                places.push((info.address.clone(), AddressSource::Cluster, unwanted(info.node)));
            }
        }
        if avoid.is_some_and(|node| self.existing(node).is_some()) {
            places.retain(|(address, ..)| avoid.is_none_or(|node| !self.is_at(node, address)));
        }
        places.sort_by_key(|(.., unwanted)| *unwanted);
        let mut places = places.into_iter();
        let attempt = |(address, source, suspect): (String, AddressSource, bool)| async move {
            self.dial(&address, source, suspect).await
        };
        let (mut dials, mut failures) = (FuturesUnordered::new(), Vec::new());
        loop {
            if dials.is_empty() {
                let Some(place) = places.next() else { break };
                dials.push(attempt(place));
            }
            tokio::select! {
                biased;
                Some(dialed) = dials.next() => match dialed {
                    Ok(link) => return Ok(link),
                    Err(error) => failures.push(error),
                },
                () = sleep(STAGGER), if places.len() > 0 => {
                    dials.extend(places.next().map(attempt));
                }
            }
        }
        Err(match failures.len() {
            0 => ConnectError::NoneOf { attempts: failures },
            1 => failures.remove(0),
            _ => ConnectError::NoneOf { attempts: failures },
        })
    }

    /// Ends all links and waits, for at most a second, until the nodes were told.
    pub(crate) async fn close(&self) {
        let slots = std::mem::take(&mut *locked(&self.nodes));
        let told = async {
            for slot in slots.values() {
                let link = locked(&slot.link).take();
                if let Some(link) = link {
                    link.close("the client is done");
                    link.drained().await;
                }
            }
        };
        // Not being told in time costs the node no more than its idle timeout.
        let _ = timeout(Duration::from_secs(1), told).await;
    }
}

//! [`Slot`]: the place of one other node's link, and which of its lives may have it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use plimsoll_protocol::ids::NodeId;
use plimsoll_protocol::peer::{PeerHello, PeerRefusal};
use tokio::sync::watch;

use crate::link::{Link, code};

/// The place of one other node's link.
pub(crate) struct Slot {
    pub(crate) node: NodeId,
    /// Where it is dialed; `None`: not at all.
    pub(crate) address: watch::Sender<Option<String>>,
    /// The link that stands. Changed under the lock of `known` only.
    pub(crate) link: watch::Sender<Option<Arc<Link>>>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    life: Option<Life>,
    last_error: Option<String>,
    is_dialed: bool,
    is_listed: bool,
    /// A later life that was refused because the present one was still heard.
    rival: Option<Rival>,
}

/// The latest life of a node that was met.
struct Life {
    incarnation: u64,
    boot_nonce: u64,
    /// Where it connected from or was dialed.
    address: String,
    /// Whether another process claimed to be the same node.
    is_double: bool,
}

/// Another process that has the id of a node that lives.
struct Rival {
    incarnation: u64,
    boot_nonce: u64,
    address: String,
    /// When it was first refused.
    since: Duration,
}

/// Whether the present life of a node is heard, and how long two of them are borne.
pub(crate) struct Clock {
    pub(crate) now: Duration,
    pub(crate) is_heard: bool,
    /// A later life that still finds the earlier one alive after so long is not its successor.
    pub(crate) patience: Duration,
}

/// What the life of a hello is to those that were met.
#[derive(Debug, PartialEq, Eq)]
enum Met {
    Same,
    /// It takes the place of an earlier one.
    Later,
    /// It would, but the earlier one is still heard.
    TooEarly,
}

impl Slot {
    pub(crate) fn new(node: NodeId) -> Self {
        Self {
            node,
            address: watch::channel(None).0,
            link: watch::channel(None).0,
            known: Mutex::default(),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The link, if one stands.
    pub(crate) fn standing(&self) -> Option<Arc<Link>> {
        self.link.borrow().as_ref().filter(|link| !link.is_closed()).cloned()
    }

    pub(crate) fn last_error(&self) -> Option<String> {
        self.known().last_error.clone()
    }

    pub(crate) fn note_error(&self, error: impl Into<String>) {
        self.known().last_error = Some(error.into());
    }

    /// A task dials the node from now on; gives whether one did before.
    pub(crate) fn set_dialed(&self) -> bool {
        std::mem::replace(&mut self.known().is_dialed, true)
    }

    /// Says whether the node is listed; gives whether it was.
    pub(crate) fn set_listed(&self, is_listed: bool) -> bool {
        std::mem::replace(&mut self.known().is_listed, is_listed)
    }

    /// Puts a link in place, unless another one has to stay; gives the one that it replaces.
    pub(crate) fn install(
        &self,
        me: NodeId,
        link: &Arc<Link>,
        clock: &Clock,
    ) -> Result<Option<Arc<Link>>, PeerRefusal> {
        let mut known = self.known();
        let present = self.link.borrow().clone();
        let address = link.connection.remote_addr().to_string();
        let lives = clock.is_heard && present.as_ref().is_some_and(|link| !link.is_closed());
        let is_later = match (known.meet(&link.hello, address, lives, clock), &present) {
            (Ok(Met::Same), _) => false,
            (Ok(Met::TooEarly), Some(present)) => {
                return Err(PeerRefusal::DuplicateLink(present.dialed_by));
            }
            (Ok(Met::Later | Met::TooEarly), _) => true,
            (Err(refusal), present) => {
                let is_double = known.life.as_ref().is_some_and(|life| life.is_double);
                drop(known);
                // Nobody knows which of the two is the copy. An earlier life says nothing against
                // the present one.
                if let Some(present) = present.as_ref().filter(|_| is_double) {
                    present.close(code::REFUSED, refusal.to_string());
                }
                return Err(refusal);
            }
        };
        if let Some(present) = present.as_ref().filter(|present| !present.is_closed()) {
            // Whoever dials again knows that its former link is of no use. Of two links dialed by
            // either side, both sides keep the one that the lower id dialed.
            let stays = !is_later
                && present.dialed_by != link.dialed_by
                && link.dialed_by != me.min(self.node);
            if stays {
                return Err(PeerRefusal::DuplicateLink(present.dialed_by));
            }
            present.close(code::DUPLICATE, "a newer link to the same node takes its place");
        }
        known.last_error = None;
        self.link.send_replace(Some(Arc::clone(link)));
        Ok(present)
    }

    /// The link's task ends.
    pub(crate) fn clear(&self, link: &Arc<Link>, reason: &str) {
        let mut known = self.known();
        self.link.send_if_modified(|present| {
            let is_present = present.as_ref().is_some_and(|present| Arc::ptr_eq(present, link));
            if is_present {
                *present = None;
                known.last_error = Some(reason.to_owned());
            }
            is_present
        });
    }
}

impl Known {
    /// Compares a hello with the lives that were met. `lives`: the last one has a link and was heard a
    /// moment ago, so that a later one may be a copy of its directory, with an older log.
    fn meet(
        &mut self,
        hello: &PeerHello,
        address: String,
        lives: bool,
        clock: &Clock,
    ) -> Result<Met, PeerRefusal> {
        let &PeerHello { incarnation, boot_nonce, .. } = hello;
        let is_rival =
            |rival: &Rival| (rival.incarnation, rival.boot_nonce) == (incarnation, boot_nonce);
        let met = match &mut self.life {
            None => Met::Same,
            Some(life) if incarnation > life.incarnation => {
                let rival = self.rival.as_ref().filter(|rival| is_rival(rival));
                if rival.is_some_and(|rival| rival.since + clock.patience <= clock.now) && lives {
                    life.is_double = true;
                }
                if life.is_double && rival.is_some() {
                    return Err(PeerRefusal::DuplicateNode(life.address.clone()));
                }
                if lives {
                    let since = rival.map_or(clock.now, |rival| rival.since);
                    self.rival = Some(Rival { incarnation, boot_nonce, address, since });
                    return Ok(Met::TooEarly);
                }
                Met::Later
            }
            Some(life) if incarnation == life.incarnation && !life.is_double => {
                if boot_nonce == life.boot_nonce {
                    return Ok(Met::Same);
                }
                life.is_double = true;
                return Err(PeerRefusal::DuplicateNode(life.address.clone()));
            }
            Some(life) => {
                let rival = self.rival.as_ref().filter(|_| life.is_double);
                let other = rival.map_or(&life.address, |rival| &rival.address);
                return Err(PeerRefusal::DuplicateNode(other.clone()));
            }
        };
        self.rival = None;
        self.life = Some(Life { incarnation, boot_nonce, address, is_double: false });
        Ok(met)
    }
}

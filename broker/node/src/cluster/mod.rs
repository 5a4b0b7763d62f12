//! This node among others: links to those that the catalog names, and what it says of itself there.

mod introduction;
mod peer_handler;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use plimsoll_gateways::Broker;
use plimsoll_peers::{PeerAddr, Peers};
use plimsoll_protocol::ids::NodeId;
use plimsoll_protocol::peer::MemberAddress;
use plimsoll_state::catalog::Catalog;

pub(crate) use introduction::{Introduction, introduce};
pub(crate) use peer_handler::PeerHandler;

/// Keeps links to the members of the catalog, and to those that were named at joining as long as the
/// local copy of the catalog does not know this node.
pub(crate) async fn keep_links(
    broker: Arc<Broker>,
    peers: Peers,
    named_at_joining: Vec<MemberAddress>,
) {
    let me = broker.identity().node_id;
    let mut changes = broker.catalog_changes();
    loop {
        let catalog = changes.borrow_and_update().clone();
        peers.set_peers(addresses(&catalog, me, &named_at_joining));
        peers.set_removed(removed(&catalog));
        if changes.changed().await.is_err() {
            return;
        }
    }
}

fn addresses(catalog: &Catalog, me: NodeId, named: &[MemberAddress]) -> Vec<PeerAddr> {
    let mut addresses = BTreeMap::new();
    if catalog.node(me).is_none() {
        addresses.extend(named.iter().map(|member| (member.node, member.address.clone())));
    }
    // An address is taken from a node when another one is found to live there: then it is a member
    // without one, which keeps its link and is not dialed.
    let known = catalog.members();
    addresses.extend(known.map(|(node, meta)| (node, meta.spec.address.clone())));
    addresses.remove(&me);
    addresses.into_iter().map(|(node, address)| PeerAddr { node, address }).collect()
}

fn removed(catalog: &Catalog) -> BTreeSet<NodeId> {
    catalog.nodes().filter(|(_, meta)| !meta.is_member()).map(|(node, _)| node).collect()
}

//! Where a node comes from: a directory that is somebody's already, a cluster that it joins, or a
//! cluster of its own.

use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;

use plimsoll_log::{Identity, stored_identity};
use plimsoll_protocol::ids::NodeId;
use plimsoll_protocol::peer::MemberAddress;
use plimsoll_state::catalog::NodeSpec;
use ring::rand::{SecureRandom as _, SystemRandom};

use crate::config::NodeConfig;
use crate::error::StartError;
use crate::join;
use crate::surroundings::Surroundings;

/// The first node of a cluster; those that join get the numbers after it.
pub(crate) const FIRST_NODE: NodeId = NodeId(1);
/// Attempts to find a port that is free for both UDP and TCP.
const PORT_ATTEMPTS: usize = 16;

/// See the module.
pub(crate) struct Origin {
    /// Whose directory it is, or becomes; in a simulation the store's settings say so.
    pub(crate) identity: Option<Identity>,
    /// Members when it joined; none for a node that made its cluster.
    pub(crate) members: Vec<MemberAddress>,
    /// For a catalog that has no secret yet.
    pub(crate) new_secret: [u8; 32],
    /// Where it listens, where a port was to be found before it joined.
    listen: Option<SocketAddr>,
}

impl Origin {
    /// Looks whose directory it is. A new one joins, where a member is named, or makes a cluster.
    ///
    /// # Errors
    /// When the directory cannot be read, or joining failed.
    pub(crate) async fn find(
        config: &NodeConfig,
        around: &Surroundings,
    ) -> Result<Self, StartError> {
        if let Some(simulated) = &around.simulated {
            let seed = simulated.seed.to_le_bytes();
            let mut new_secret = [0; 32];
            new_secret.iter_mut().zip(seed.into_iter().cycle()).for_each(|(to, from)| *to = from);
            let members = simulated.members.clone();
            return Ok(Self { identity: None, members, new_secret, listen: None });
        }
        let disk = Arc::clone(&around.disk);
        let stored = around.blocking().run(move || stored_identity(&*disk)).await?;
        let mut listen = None;
        let identity = match (stored, &config.join) {
            (Some(identity), _) => identity,
            (None, Some(by)) => {
                let address = match &config.advertise {
                    Some(address) => address.clone(),
                    None => {
                        let free = free_port(config.listen);
                        listen = Some(free);
                        reached_at(free)
                    }
                };
                join::join(config, by, address).await?
            }
            (None, None) => Identity { cluster_id: secret_bytes()?, node_id: FIRST_NODE },
        };
        let members = join::members(&config.data)?;
        let new_secret = secret_bytes()?;
        Ok(Self { identity: Some(identity), members, new_secret, listen })
    }

    /// Whether this node made its cluster. One that joined and lost the list of those it joined did
    /// not: it must not make a second catalog.
    pub(crate) fn founder(&self) -> bool {
        let is_first = self.identity.is_none_or(|identity| identity.node_id == FIRST_NODE);
        self.members.is_empty() && is_first
    }

    /// Where to listen.
    pub(crate) fn listen(&self, config: &NodeConfig) -> SocketAddr {
        self.listen.unwrap_or(config.listen)
    }

    /// What the node says of itself to the others.
    pub(crate) fn spec(&self, config: &NodeConfig, bound: SocketAddr) -> NodeSpec {
        NodeSpec {
            address: config.advertise.clone().unwrap_or_else(|| reached_at(bound)),
            rack: config.rack.clone(),
            weight_hundredths: config.weight,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

fn secret_bytes<const N: usize>() -> Result<[u8; N], StartError> {
    let mut bytes = [0; N];
    match SystemRandom::new().fill(&mut bytes) {
        Ok(()) => Ok(bytes),
        Err(_) => Err(join::JoinError::NoRandom.into()),
    }
}

/// The address of a node that listens there: an unspecified one is named by the host.
fn reached_at(listen: SocketAddr) -> String {
    match listen.ip() {
        IpAddr::V4(ip) if !ip.is_unspecified() => listen.to_string(),
        IpAddr::V6(ip) if !ip.is_unspecified() => listen.to_string(),
        _ => {
            let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
            format!("{}:{}", if name.is_empty() { "localhost" } else { &name }, listen.port())
        }
    }
}

/// An address with a port: others are told of it before anything listens there.
fn free_port(listen: SocketAddr) -> SocketAddr {
    if listen.port() != 0 {
        return listen;
    }
    let free = || {
        let port = UdpSocket::bind(listen).ok()?.local_addr().ok()?.port();
        let address = SocketAddr::new(listen.ip(), port);
        TcpListener::bind(address).is_ok().then_some(address)
    };
    (0..PORT_ATTEMPTS).find_map(|_| free()).unwrap_or(listen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_joined_and_lost_the_list_of_members_founds_no_second_catalog() {
        let origin = |node_id| {
            let identity = Some(Identity { cluster_id: [7; 16], node_id });
            Origin { identity, members: Vec::new(), new_secret: [0; 32], listen: None }
        };
        assert!(origin(FIRST_NODE).founder());
        assert!(!origin(NodeId(2)).founder());
    }
}

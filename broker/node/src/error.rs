//! Why a node did not start, or had to stop, and what an operator can do about it.

use std::sync::Arc;

use plimsoll_log::disk::real::OpenDiskError;
use plimsoll_log::{HeaderError, OpenError};
use plimsoll_protocol::ids::NodeId;
use plimsoll_protocol::peer::PeerRefusal;
use plimsoll_replication::OpenGroupError;
use plimsoll_transport::{BindError, TlsConfigError};
use thiserror::Error;

use crate::certificates::CertificateError;
use crate::config::ConfigError;
use crate::join::JoinError;

/// Why a node did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// An address for AMQP cannot be had.
    #[error("cannot listen for AMQP on {address}: {source}")]
    Amqp {
        /// The address.
        address: std::net::SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The certificate cannot be used for AMQP.
    #[error("AMQP over TLS cannot use the node's certificate: {0}")]
    AmqpTls(rustls::Error),
    /// The settings cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The data directory cannot be used, or another process has it.
    #[error(transparent)]
    Disk(#[from] OpenDiskError),
    /// There is no certificate to show.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The certificate and its key cannot be used.
    #[error("the node's certificate cannot be used: {0}")]
    Tls(#[from] TlsConfigError),
    /// An address cannot be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The stored data cannot be opened. Nothing was deleted.
    #[error(transparent)]
    Storage(#[from] OpenError),
    /// It did not become a member.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The catalog of topics cannot be opened. Nothing was deleted.
    #[error("the catalog of topics cannot be opened: {0}")]
    Catalog(#[from] OpenGroupError),
}

impl StartError {
    /// What to do about it, where the message does not say so itself.
    pub fn advice(&self) -> Option<&'static str> {
        match self {
            Self::Config(_) => {
                Some("correct the setting; `plimsoll config reference` explains each")
            }
            Self::Disk(OpenDiskError::Locked(_)) => {
                Some("stop the other process, or give this node a directory of its own with --data")
            }
            Self::Disk(_) => Some(
                "make the directory and its file system writable for this user, or choose \
                      another with --data",
            ),
            Self::Tls(_) => Some(
                "check tls_certificate and tls_key, or remove DATA/tls/node.json so that the \
                      node makes its certificate anew",
            ),
            Self::Certificate(_) | Self::Join(_) | Self::AmqpTls(_) => None,
            Self::Amqp { .. } => {
                Some("choose another address, or leave it out: another broker may have it")
            }
            Self::Bind(_) => {
                Some("choose another address with --listen ADDR:PORT; port 0 takes a free one")
            }
            // Nothing is damaged, and the message says what to do.
            Self::Storage(OpenError::Identity { error: HeaderError::Newer { .. }, .. }) => {
                Some("nothing was changed")
            }
            Self::Storage(OpenError::Full { .. }) => Some("what is stored is kept"),
            Self::Storage(_) | Self::Catalog(_) => {
                Some("nothing was changed; `plimsoll log verify DIR` shows what is damaged")
            }
        }
    }
}

/// Why a node that ran cannot go on.
#[derive(Debug, Clone, Error)]
pub enum NodeFailed {
    /// Its storage failed: nothing more is acknowledged.
    #[error("{0}")]
    Storage(Arc<str>),
    /// The cluster does not count it any more.
    #[error("this node was removed from the cluster")]
    Removed,
    /// Another node refuses this one for good.
    #[error("node {by} refuses this node: {refusal}")]
    Refused {
        /// Who refuses.
        by: NodeId,
        /// Why.
        refusal: PeerRefusal,
    },
    /// A task that it cannot do without.
    #[error("{what} ended: {reason}")]
    Task {
        /// What the task does.
        what: &'static str,
        /// Why it ended.
        reason: &'static str,
    },
}

impl NodeFailed {
    /// What to do about it.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::Storage(_) => {
                "look at the disk (dmesg, smartctl), then start again: what was acknowledged is kept"
            }
            Self::Removed => {
                "to have the machine back, join it with an empty directory; delete this one once \
                 `plimsoll cluster status` shows no partition that nobody leads: what it had was made \
                 anew on the others only where another replica was alive"
            }
            Self::Refused { .. } => {
                "find out which of the directories with this node's id is the copy or the old backup: \
                 delete that one, start the other again, and join the second machine with an empty \
                 directory"
            }
            Self::Task { .. } => "start again: what was acknowledged is kept",
        }
    }
}

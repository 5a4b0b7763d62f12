//! What is spoken on a connection: the protocol names of the TLS handshake (ALPN).

/// Protocol name of clients; both ends must offer a common name in the TLS handshake.
pub const ALPN: &[u8] = b"plimsoll/1";
/// Protocol name of nodes among themselves.
pub const ALPN_NODE: &[u8] = b"plimsoll-node/1";
/// Protocol name of nodes that ask to become members.
pub const ALPN_JOIN: &[u8] = b"plimsoll-join/1";

/// What is spoken on a connection. One listener serves all three.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// `plimsoll/1`: a client. Plain TCP is always this.
    Client,
    /// `plimsoll-node/1`: another node of the cluster, with a certificate of the cluster's authority.
    Node,
    /// `plimsoll-join/1`: a node that asks to become a member.
    Join,
}

impl Protocol {
    /// Every protocol.
    pub const ALL: &[Protocol] = &[Protocol::Client, Protocol::Node, Protocol::Join];

    /// The name in the TLS handshake.
    #[must_use]
    pub fn alpn(self) -> &'static [u8] {
        match self {
            Protocol::Client => ALPN,
            Protocol::Node => ALPN_NODE,
            Protocol::Join => ALPN_JOIN,
        }
    }

    /// The name as text.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Client => "plimsoll/1",
            Protocol::Node => "plimsoll-node/1",
            Protocol::Join => "plimsoll-join/1",
        }
    }

    pub(crate) fn from_alpn(name: Option<&[u8]>) -> Option<Protocol> {
        Protocol::ALL.iter().copied().find(|protocol| Some(protocol.alpn()) == name)
    }
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

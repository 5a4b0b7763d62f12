//! What a node does with what other nodes send.

use futures_util::future::BoxFuture;
use plimsoll_protocol::ids::{GroupId, NodeId};
use plimsoll_protocol::peer::{
    AnyPeerMessage, AnyPeerRequest, AnyPeerResponse, PeerFailure, PeerRefusal,
};
use plimsoll_transport::{FrameReceiver, FrameSender};

use crate::incoming::IncomingSession;

/// What a node does with what other nodes send. Called from the tasks of links: only
/// [`Handler::request`]'s future may take its time.
pub trait Handler: Send + Sync + 'static {
    /// Carries out a request; its future runs in a task of its own, beside others of the same link.
    fn request(
        &self,
        from: NodeId,
        request: AnyPeerRequest,
    ) -> BoxFuture<'static, Result<AnyPeerResponse, PeerFailure>>;

    /// Takes a message; those of one link come in their order. Must not block.
    fn message(&self, from: NodeId, message: AnyPeerMessage);

    /// Takes an append session that another node has opened, with a task of its own. Dropping the
    /// session has the other node told that it is not here.
    fn session(&self, from: NodeId, group: GroupId, session: IncomingSession);

    /// A new link to `node` stands: the place to send `Leads` in full and `Digest`.
    fn linked(&self, node: NodeId);

    /// The link to `node` is gone: its sessions and requests have ended.
    fn unlinked(&self, _node: NodeId) {}

    /// Takes a transfer of segments that `from` has begun: frames of `SeedBegin`, `SeedPiece`,
    /// `SeedEnd` on a stream of its own. Dropping both halves ends it.
    fn seed(&self, from: NodeId, sender: FrameSender, receiver: FrameReceiver);

    /// Takes a stream on which `from` is a client: frames of the key space of clients, without a Hello.
    /// Dropping both halves ends it.
    fn client(&self, _from: NodeId, _sender: FrameSender, _receiver: FrameReceiver) {}

    /// `by` does not want a link with this node. [`PeerRefusal::Removed`] and
    /// [`PeerRefusal::DuplicateNode`] are final for this data directory.
    fn refused(&self, _by: NodeId, _refusal: PeerRefusal) {}
}

//! What other nodes send that is not the groups' affair. What they refuse for good ends this node: it would
//! run on without them, answer clients from what it had, and look healthy. Where one is a client, it is
//! served as clients are.

use std::sync::{Arc, Weak};

use plimsoll_gateways::{Broker, native};
use plimsoll_peers::{BoxFuture, Handler, IncomingSession};
use plimsoll_protocol::ids::{GroupId, NodeId};
use plimsoll_protocol::peer::{
    AnyPeerMessage, AnyPeerRequest, AnyPeerResponse, PeerFailure, PeerRefusal,
};
use plimsoll_transport::{FrameReceiver, FrameSender};
use tokio::sync::watch;

use crate::error::NodeFailed;

/// Hands everything else on to `inner`.
pub(crate) struct PeerHandler {
    pub(crate) inner: Arc<dyn Handler>,
    /// What nodes that are clients ask. It holds the links that this belongs to.
    pub(crate) broker: Weak<Broker>,
    pub(crate) tell: watch::Sender<Option<NodeFailed>>,
}

/// What a refusal means for this node.
fn failure(by: NodeId, refusal: &PeerRefusal) -> Option<NodeFailed> {
    match refusal {
        // The catalog's own word of it never comes here: nobody links any more.
        PeerRefusal::Removed(_) => Some(NodeFailed::Removed),
        PeerRefusal::DuplicateNode(_) => Some(NodeFailed::Refused { by, refusal: refusal.clone() }),
        PeerRefusal::Protocol(_)
        | PeerRefusal::WrongCluster(_)
        | PeerRefusal::WrongNode(_)
        | PeerRefusal::NotAMember(_)
        | PeerRefusal::DuplicateLink(_)
        | PeerRefusal::Stopping(_) => None,
    }
}

impl Handler for PeerHandler {
    fn request(
        &self,
        from: NodeId,
        request: AnyPeerRequest,
    ) -> BoxFuture<'static, Result<AnyPeerResponse, PeerFailure>> {
        self.inner.request(from, request)
    }

    fn message(&self, from: NodeId, message: AnyPeerMessage) {
        self.inner.message(from, message);
    }

    fn session(&self, from: NodeId, group: GroupId, session: IncomingSession) {
        self.inner.session(from, group, session);
    }

    fn linked(&self, node: NodeId) {
        self.inner.linked(node);
    }

    fn unlinked(&self, node: NodeId) {
        self.inner.unlinked(node);
    }

    fn seed(&self, from: NodeId, sender: FrameSender, receiver: FrameReceiver) {
        self.inner.seed(from, sender, receiver);
    }

    fn client(&self, from: NodeId, sender: FrameSender, receiver: FrameReceiver) {
        if let Some(broker) = self.broker.upgrade() {
            tokio::spawn(native::serve_node(broker, from, sender, receiver));
        }
    }

    fn refused(&self, by: NodeId, refusal: PeerRefusal) {
        if let Some(failed) = failure(by, &refusal) {
            tracing::error!(%by, %refusal, "this node is not wanted in its cluster");
            self.tell.send_replace(Some(failed));
        }
        self.inner.refused(by, refusal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_final_for_the_directory_ends_the_node() {
        let by = NodeId(2);
        let failed = |refusal| failure(by, &refusal);
        assert!(matches!(failed(PeerRefusal::Removed(NodeId(1))), Some(NodeFailed::Removed)));
        let copied = failed(PeerRefusal::DuplicateNode("10.0.0.9:7420".to_owned())).unwrap();
        assert!(copied.to_string().contains("10.0.0.9:7420"), "{copied}");
        assert!(copied.advice().contains("copy"));
        assert!(failed(PeerRefusal::DuplicateLink(by)).is_none());
        assert!(failed(PeerRefusal::Stopping(by)).is_none());
    }
}

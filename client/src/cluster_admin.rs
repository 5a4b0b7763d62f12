//! The cluster itself: how it is, who belongs to it, where replicas go. Any node answers.

use plimsoll_protocol::api::{
    ClusterPlanRequest, ClusterPlanResponse, ClusterStatusRequest, ClusterStatusResponse,
    DrainNodeRequest, JoinTokenRequest, JoinTokenResponse, RebalanceRequest, RemoveNodeRequest,
    RemoveNodeResponse, TransferLeaderRequest, TransferLeaderResponse,
};
use plimsoll_protocol::ids::{NodeId, PartitionIndex};

use crate::admin::{Admin, name};
use crate::error::RequestError;
use crate::requests::Repeat;

impl Admin {
    /// The nodes, who leads the catalog, the partitions that lack something, and what moves: as the
    /// answering node sees it.
    ///
    /// # Errors
    /// When no node answers.
    pub async fn cluster_status(&self) -> Result<ClusterStatusResponse, RequestError> {
        self.shared().request(ClusterStatusRequest {}, Repeat::Freely).await
    }

    /// What [`Admin::rebalance`] would do; nothing is done.
    ///
    /// # Errors
    /// When no node answers.
    pub async fn cluster_plan(&self) -> Result<ClusterPlanResponse, RequestError> {
        self.shared().request(ClusterPlanRequest {}, Repeat::Freely).await
    }

    /// Moves replicas to where they belong. Returns when that is decided; the moves follow.
    ///
    /// # Errors
    /// A lost majority.
    pub async fn rebalance(&self) -> Result<ClusterPlanResponse, RequestError> {
        self.shared().request(RebalanceRequest {}, Repeat::Freely).await
    }

    /// Moves everything away from a node (`on`), or lets it have replicas again.
    ///
    /// # Errors
    /// An unknown node; too few others for the replicas; a lost majority.
    pub async fn drain_node(
        &self,
        node: NodeId,
        on: bool,
    ) -> Result<ClusterPlanResponse, RequestError> {
        self.shared().request(DrainNodeRequest { node, on }, Repeat::Freely).await
    }

    /// Takes a node out of the cluster for good. A live node must be drained before; the replicas of a
    /// dead one are replaced. `force`: also where replicas would be lost, never a quorum.
    ///
    /// # Errors
    /// An unknown node, one that still holds replicas, one without which a quorum would be lost.
    pub async fn remove_node(
        &self,
        node: NodeId,
        force: bool,
    ) -> Result<RemoveNodeResponse, RequestError> {
        self.shared().request(RemoveNodeRequest { node, force }, Repeat::IfRefused).await
    }

    /// Hands the leadership of a partition to another replica: `to`, or the preferred one of the others.
    ///
    /// # Errors
    /// An unknown topic or partition; a node that has no replica of it, or is too far behind.
    pub async fn transfer_leader(
        &self,
        topic: &str,
        partition: u32,
        to: Option<NodeId>,
    ) -> Result<TransferLeaderResponse, RequestError> {
        let partition = PartitionIndex(partition);
        let request = TransferLeaderRequest { topic: name(topic)?, partition, to };
        self.shared().request(request, Repeat::IfRefused).await
    }

    /// What a new node needs to join.
    ///
    /// # Errors
    /// When no node answers.
    pub async fn join_token(&self) -> Result<JoinTokenResponse, RequestError> {
        self.shared().request(JoinTokenRequest {}, Repeat::Freely).await
    }
}

//! Watching the cluster and changing what it is made of.

use plimsoll_protocol::api::{
    ClusterPlanRequest, ClusterPlanResponse, ClusterStatusRequest, ClusterStatusResponse,
    DrainNodeRequest, JoinTokenRequest, JoinTokenResponse, RebalanceRequest, RemoveNodeRequest,
    RemoveNodeResponse, TransferLeaderRequest, TransferLeaderResponse,
};
use plimsoll_protocol::ids::{NodeId, PartitionIndex};

use crate::admin::{Admin, known_name};
use crate::error::RequestError;
use crate::requests::Repeat;

impl Admin {
    /// How the cluster is, as the node that answers sees it.
    ///
    /// # Errors
    /// When no node answers.
    pub async fn cluster_status(&self) -> Result<ClusterStatusResponse, RequestError> {
        self.shared.request(ClusterStatusRequest {}, Repeat::Freely).await
    }

    /// What [`Admin::rebalance`] would do. Does nothing.
    ///
    /// # Errors
    /// When no node answers.
    pub async fn cluster_plan(&self) -> Result<ClusterPlanResponse, RequestError> {
        self.shared.request(ClusterPlanRequest {}, Repeat::Freely).await
    }

    /// Moves replicas to where they belong. Gives what was decided; the moves follow.
    ///
    /// # Errors
    /// When no majority of the cluster can be reached.
    pub async fn rebalance(&self) -> Result<ClusterPlanResponse, RequestError> {
        self.shared.request(RebalanceRequest {}, Repeat::Freely).await
    }

    /// Moves everything away from a node (`on`), or lets it have replicas again.
    ///
    /// # Errors
    /// An unknown node; replicas that would find no place on the others.
    pub async fn drain_node(
        &self,
        node: NodeId,
        on: bool,
    ) -> Result<ClusterPlanResponse, RequestError> {
        self.shared.request(DrainNodeRequest { node, on }, Repeat::Freely).await
    }

    /// Takes a node out of the cluster for good. A live one must be drained first; the replicas of a
    /// dead one are replaced. `force` goes on where copies would be lost.
    ///
    /// # Errors
    /// An unknown node, one that still holds replicas, a removal that loses a quorum.
    pub async fn remove_node(
        &self,
        node: NodeId,
        force: bool,
    ) -> Result<RemoveNodeResponse, RequestError> {
        // Again it finds the node gone, which reads like a mistake.
        self.shared.request(RemoveNodeRequest { node, force }, Repeat::IfRefused).await
    }

    /// Hands the leadership of a partition to `to`, or to the preferred one of the others. Gives who
    /// leads then.
    ///
    /// # Errors
    /// An unknown topic, partition or node; a node that cannot lead now.
    pub async fn transfer_leader(
        &self,
        topic: &str,
        partition: u32,
        to: Option<NodeId>,
    ) -> Result<TransferLeaderResponse, RequestError> {
        let partition = PartitionIndex(partition);
        let request = TransferLeaderRequest { topic: known_name(topic)?, partition, to };
        // Without a target a second time would hand it on once more.
        let repeat = if to.is_some() { Repeat::Freely } else { Repeat::IfRefused };
        self.shared.request(request, repeat).await
    }

    /// What a new node needs to join.
    ///
    /// # Errors
    /// When no node answers, or this one is no member of a cluster.
    pub async fn join_token(&self) -> Result<JoinTokenResponse, RequestError> {
        self.shared.request(JoinTokenRequest {}, Repeat::Freely).await
    }
}

//! The metadata group as every node uses it: commands go to its leader, wherever that is, and the
//! local copy is known to be fresh once it has caught up with a read index of this life of the node.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use plimsoll_peers::{PeerError, Peers};
use plimsoll_protocol::ids::{GroupId, LogId, NodeId};
use plimsoll_protocol::peer::{
    Forward, ForwardReply, PeerFailure, PeerFailureCode, ReadIndex, ReadMark,
};
use plimsoll_state::catalog::{CatalogCommand, CatalogReply};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::error::{NoQuorum, NotLeader, OpenGroupError, ProposeError};
use crate::group::Group;
use crate::host::Host;
use crate::incoming::failure;
use crate::reads::read_mark;
use crate::role::Role;

/// How long a command is tried, over changes of the leader, until its outcome is called unknown.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);
/// A majority that is missing for so long is not waited for any more: what is to be done about it,
/// people must do.
const QUORUM_TIMEOUT: Duration = Duration::from_secs(1);
/// How long one forwarded command or read index may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two attempts.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

impl Host {
    /// Carries out a command of the catalog at the leader of the metadata group, here or on another
    /// node, and waits until the local copy has it. A refusal is an answer. The same command is tried
    /// again after a change of the leader, and carried out once.
    ///
    /// # Errors
    /// When the command did not enter the log, or its outcome is unknown.
    pub async fn command(&self, command: &CatalogCommand) -> Result<CatalogReply, ProposeError> {
        let request_id = self.request_id();
        let bytes = command.encode_for(request_id);
        let began = Instant::now();
        let mut doubtful = false;
        loop {
            // A leader that loses its majority right after a proposal would never answer.
            let attempt = timeout_at(began + COMMAND_TIMEOUT, self.try_command(request_id, &bytes));
            let error = match attempt.await.unwrap_or(Err(ProposeError::Unknown)) {
                Ok((_, reply)) => return Ok(reply),
                Err(error @ ProposeError::Group(_)) if !doubtful => return Err(error),
                Err(error) => error,
            };
            doubtful |= matches!(error, ProposeError::Unknown);
            let limit = match error {
                ProposeError::NoQuorum(_) => QUORUM_TIMEOUT,
                _ => COMMAND_TIMEOUT,
            };
            // Nobody of a host that has ended answers any more, and it ends when all have let go of it.
            let has_ended = self.around().closed.load(Ordering::Acquire);
            if has_ended || began.elapsed() + RETRY_PAUSE >= limit {
                return Err(if doubtful { ProposeError::Unknown } else { error });
            }
            sleep(RETRY_PAUSE).await;
        }
    }

    fn request_id(&self) -> u128 {
        let random = &self.around().config.random;
        (u128::from(random.next_u64()) << 64 | u128::from(random.next_u64())).max(1)
    }

    fn metadata(&self) -> Result<Arc<Group>, OpenGroupError> {
        self.held(GroupId::CATALOG).ok_or(OpenGroupError::NotPlaced { group: GroupId::CATALOG })
    }

    async fn try_command(
        &self,
        request_id: u128,
        bytes: &Bytes,
    ) -> Result<(LogId, CatalogReply), ProposeError> {
        let group = self.metadata()?;
        let leader = match group.command_bytes(bytes.clone()).await {
            Err(ProposeError::NotLeader(NotLeader { leader: Some(leader), .. })) => leader,
            outcome => return outcome,
        };
        let Some(peers) = self.around().neighbours.peers() else {
            return Err(NotLeader { leader: Some(leader), address: None }.into());
        };
        let forward = Forward { request_id, command: bytes.clone() };
        let answer = timeout(REQUEST_TIMEOUT, peers.request(leader, forward)).await;
        let ForwardReply { applied, reply } = match answer {
            Ok(Ok(reply)) => reply,
            Ok(Err(PeerError::Failed { failure, .. })) => return Err(forwarded(leader, &failure)),
            Ok(Err(PeerError::Unreachable { .. } | PeerError::Full { .. })) => {
                return Err(NotLeader { leader: Some(leader), address: None }.into());
            }
            // The request may have got there.
            Ok(Err(_)) | Err(_) => return Err(ProposeError::Unknown),
        };
        let instance = group.instance_awake().await?;
        instance.shared.shown_at_least(applied).await;
        match CatalogReply::decode(&reply, &group.catalog()) {
            Ok(reply) => Ok((applied, reply)),
            Err(error) => {
                tracing::error!(node = %leader, %error, "the answer to a command cannot be read");
                Err(ProposeError::Unknown)
            }
        }
    }

    /// Carries out a command that another node forwards.
    pub(crate) async fn forwarded(&self, forward: Forward) -> Result<ForwardReply, PeerFailure> {
        match CatalogCommand::decode_request(&forward.command) {
            Ok((request_id, _)) if request_id == forward.request_id => {}
            Ok(_) => {
                let message = "the command has another request id than its frame";
                return Err(PeerFailure::new(PeerFailureCode::Malformed, message));
            }
            Err(error) => {
                return Err(PeerFailure::new(PeerFailureCode::Malformed, error.to_string()));
            }
        }
        let group = self.metadata().map_err(|error| failure(&error))?;
        match group.command_bytes(forward.command).await {
            Ok((applied, reply)) => Ok(ForwardReply { applied, reply: reply.encode() }),
            Err(error) => Err(propose_failure(&error)),
        }
    }

    /// Catches up with the leader of the metadata group once. False if that was not possible.
    async fn catch_up(&self) -> bool {
        let Ok(group) = self.metadata() else { return false };
        let Some(instance) = group.instance() else { return false };
        let role = instance.standing.borrow().role;
        let id = match (role, self.around().neighbours.peers()) {
            (Role::Leader { .. }, _) => match read_mark(&group, &instance).await {
                Some(mark) => mark.id,
                None => return false,
            },
            (Role::Follower { leader, .. }, Some(peers)) => {
                match ask_read_index(peers, leader, self.around().neighbours.epoch()).await {
                    Some(mark) => mark.id,
                    None => return false,
                }
            }
            _ => return false,
        };
        match id {
            Some(id) => timeout(REQUEST_TIMEOUT, instance.shared.shown_at_least(id)).await.is_ok(),
            None => true,
        }
    }
}

/// Confirms the local catalog once in this life of the node: groups are born by what it says.
pub(crate) async fn confirm(host: Weak<Host>) {
    loop {
        let Some(host) = host.upgrade() else { return };
        if host.catch_up().await {
            tracing::info!("the local catalog is confirmed");
            host.around().neighbours.confirm_catalog();
            return;
        }
        let role = host.held(GroupId::CATALOG).map(|group| group.role());
        drop(host);
        // A change of the role is the news that is waited for; where there is no group yet, time.
        let again = Instant::now() + RETRY_PAUSE;
        match role {
            Some(mut role) => drop(timeout_at(again, role.changed()).await),
            None => tokio::time::sleep_until(again).await,
        }
    }
}

async fn ask_read_index(peers: &Peers, leader: NodeId, epoch: u64) -> Option<ReadMark> {
    let request = ReadIndex { epoch, groups: vec![GroupId::CATALOG] };
    let reply = timeout(REQUEST_TIMEOUT, peers.request(leader, request)).await.ok()?.ok()?;
    reply.marks.into_iter().next()?
}

fn propose_failure(error: &ProposeError) -> PeerFailure {
    let code = match error {
        ProposeError::NotLeader(_) => PeerFailureCode::NotLeader,
        ProposeError::NoQuorum(_) => PeerFailureCode::NoQuorum,
        ProposeError::Unknown => PeerFailureCode::Timeout,
        ProposeError::Group(error) => return failure(error),
    };
    let leader = match error {
        ProposeError::NotLeader(error) => error.leader,
        _ => None,
    };
    PeerFailure { code, leader, message: error.to_string() }
}

/// What a failure at the leader says of the command.
fn forwarded(by: NodeId, failure: &PeerFailure) -> ProposeError {
    match failure.code {
        PeerFailureCode::NotLeader => {
            NotLeader { leader: failure.leader.filter(|leader| *leader != by), address: None }
                .into()
        }
        PeerFailureCode::NoQuorum => NoQuorum { group: GroupId::CATALOG }.into(),
        PeerFailureCode::NotHere | PeerFailureCode::Stopping | PeerFailureCode::Busy => {
            NotLeader { leader: None, address: None }.into()
        }
        _ => {
            tracing::warn!(node = %by, %failure, "a forwarded command failed");
            ProposeError::Unknown
        }
    }
}

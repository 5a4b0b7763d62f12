//! The side that admits: one question per connection, answered after the secret was compared.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use plimsoll_gateways::{Broker, StrangerPlace};
use plimsoll_log::Identity;
use plimsoll_protocol::error::ErrorCode;
use plimsoll_protocol::frame::{FRAME_BYTES_MAX_BEFORE_HELLO, FrameFlags, encode_frame};
use plimsoll_protocol::ids::NodeId;
use plimsoll_protocol::peer::{
    Join, JoinAnswer, JoinRefusal, Joined, MemberAddress, PEER_PROTOCOL_MAX, PEER_PROTOCOL_MIN,
    PeerApi,
};
use plimsoll_state::catalog::{CatalogCommand, CatalogRefusal, CatalogReply, NodeSpec};
use plimsoll_transport::Connection;
use ring::digest;
use tokio::time::{sleep, timeout};

use crate::certificates;

/// Before a wrong secret is answered: guessing shall take its time.
const WRONG_SECRET_PAUSE: Duration = Duration::from_secs(1);
/// How long a peer may take to read its answer.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What it takes to admit a node.
#[derive(Clone)]
pub(crate) struct Gate {
    pub(crate) broker: Arc<Broker>,
    pub(crate) data: PathBuf,
    pub(crate) identity: Identity,
}

impl Gate {
    /// Answers the one question of a connection and closes it. `stranger` is its place until then.
    pub(crate) async fn serve(&self, connection: &Connection, stranger: StrangerPlace) {
        let deadline = self.broker.limits().hello_timeout;
        // A peer that is gone needs no answer, and one that says nothing gets none.
        let _ = timeout(deadline, self.answer(connection)).await;
        drop(stranger);
        connection.close(0, "done");
    }

    async fn answer(&self, connection: &Connection) -> Option<()> {
        let (mut sender, mut receiver) = connection.accept().await.ok()??;
        receiver.set_max_frame_bytes(FRAME_BYTES_MAX_BEFORE_HELLO);
        let frame = receiver.recv().await.ok()??;
        if frame.header.api != PeerApi::Join.number() {
            return None;
        }
        let answer = match frame.decode_body::<Join>() {
            Ok(question) => self.decide(question).await,
            Err(error) => Err(JoinRefusal::Invalid(error.to_string())),
        };
        let answer = match answer {
            Ok(joined) => JoinAnswer::Joined(joined),
            Err(refusal) => {
                tracing::warn!(peer = %connection.remote_addr(), %refusal, "a node was not admitted");
                JoinAnswer::Refused(refusal)
            }
        };
        let (api, version, correlation) =
            (PeerApi::Join, PeerApi::VERSION, frame.header.correlation);
        let frame = encode_frame(api, version, FrameFlags::RESPONSE, correlation, &answer, 0);
        sender.send(frame.freeze(), &[]).await.ok()?;
        sender.finish().await.ok()?;
        let _ = timeout(LAST_WORDS, sender.received()).await;
        Some(())
    }

    async fn decide(&self, question: Join) -> Result<Joined, JoinRefusal> {
        let catalog = self.broker.catalog();
        if !catalog.is_set_up() {
            return Err(JoinRefusal::Unavailable("this node is still starting".to_owned()));
        }
        if !is_same(&question.secret, &catalog.join_secret().0) {
            sleep(WRONG_SECRET_PAUSE).await;
            return Err(JoinRefusal::WrongToken(self.identity.node_id));
        }
        if question.protocol_min > PEER_PROTOCOL_MAX || question.protocol_max < PEER_PROTOCOL_MIN {
            return Err(JoinRefusal::Invalid(format!(
                "nodes here speak protocol {PEER_PROTOCOL_MIN} to {PEER_PROTOCOL_MAX} \
                 (version {}), and the new one {} to {} (version {}): run the same version on both",
                self.broker.identity().version,
                question.protocol_min,
                question.protocol_max,
                question.version
            )));
        }
        let node = self.admit(question).await?;
        let data = self.data.clone();
        let authority = tokio::task::spawn_blocking(move || certificates::authority(&data)).await;
        let authority = match authority {
            Ok(Ok(authority)) => authority,
            Ok(Err(error)) => return Err(JoinRefusal::Unavailable(error.to_string())),
            Err(_) => return Err(JoinRefusal::Unavailable("the node is shutting down".to_owned())),
        };
        let catalog = self.broker.catalog();
        let members = catalog.members().filter(|(id, _)| *id != node);
        let members = members
            .map(|(node, meta)| MemberAddress { node, address: meta.spec.address.clone() })
            .collect();
        tracing::info!(%node, "a node was admitted");
        Ok(Joined {
            node,
            cluster_id: self.identity.cluster_id,
            authority_pem: authority.certificate_pem,
            authority_key_pem: authority.key_pem,
            members,
        })
    }

    /// Has the catalog give the node its number.
    async fn admit(&self, question: Join) -> Result<NodeId, JoinRefusal> {
        let command = CatalogCommand::AddNode {
            join_id: question.join_id,
            spec: NodeSpec {
                address: question.address,
                rack: question.rack,
                weight_hundredths: question.weight_hundredths,
                version: question.version,
            },
            takes_address: false,
        };
        match self.broker.propose(command).await {
            Ok(CatalogReply::Node { node, .. }) => Ok(node),
            Ok(CatalogReply::Refused(refusal)) => Err(match refusal {
                CatalogRefusal::AddressTaken { node, .. } => JoinRefusal::AddressTaken(node),
                CatalogRefusal::NodeRemoved { node } => JoinRefusal::Removed(node),
                other => JoinRefusal::Invalid(other.to_string()),
            }),
            Ok(_) => Err(JoinRefusal::Unavailable("the catalog gave another answer".to_owned())),
            Err(error) if error.code == ErrorCode::InvalidArgument => {
                Err(JoinRefusal::Invalid(error.message))
            }
            Err(error) => Err(JoinRefusal::Unavailable(error.message)),
        }
    }
}

/// Compares digests, so that the time it takes says nothing about the secret.
fn is_same(shown: &[u8; 32], secret: &[u8; 32]) -> bool {
    let of = |bytes: &[u8; 32]| digest::digest(&digest::SHA256, bytes);
    of(shown).as_ref() == of(secret).as_ref()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_secret_is_the_same() {
        let secret = [7; 32];
        let mut other = secret;
        other[31] ^= 1;
        assert!(is_same(&secret, &secret));
        assert!(!is_same(&other, &secret));
    }
}

//! The side that joins: a number of its own, one question, and what it is told kept in its directory.
//!
//! Order of what is written to `DATA`: `join.json` with a random number, before anything is asked, so
//! that a repeated question gets the same node; the authority and `join.json` with the members; and
//! last, by the storage, whose directory it is. A crash between any two begins again at the question.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::future::select_ok;
use plimsoll_gateways::{InvalidJoinToken, JoinToken};
use plimsoll_log::Identity;
use plimsoll_protocol::frame::{FrameFlags, encode_frame};
use plimsoll_protocol::ids::{CorrelationId, NodeId};
use plimsoll_protocol::peer::{
    Join, JoinAnswer, JoinRefusal, MemberAddress, PEER_PROTOCOL_MAX, PEER_PROTOCOL_MIN, PeerApi,
};
use plimsoll_transport::{ClientTls, Connection, TransportConfig, TransportKind};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::time::{Instant, sleep, timeout};

use crate::certificates::{AuthorityFiles, CertificateError, check_authority, install_authority};
use crate::config::{NodeConfig, PeerTransport};
use crate::files;

/// What the joiner knows, in its directory.
const FILE: &str = "join.json";
/// A cluster that cannot admit a node for so long will not by itself.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two questions.
const PAUSE: Duration = Duration::from_millis(500);
/// For one answer: two commands of the catalog, perhaps during an election.
const ANSWER: Duration = Duration::from_secs(10);

/// Why a node did not become a member.
#[derive(Debug, Error)]
pub enum JoinError {
    /// Nothing says that it may.
    #[error(
        "joining needs a token: give --join-token, or PLIMSOLL_JOIN_TOKEN; `plimsoll cluster token` \
         on a member's machine prints it"
    )]
    NoToken,
    /// What was given is no token.
    #[error("{0}")]
    Token(#[from] InvalidJoinToken),
    /// The member does not answer, or is not of the cluster that the token is of.
    #[error("cannot join by {address}: {reason}")]
    Unreachable {
        /// The member's address as it was given.
        address: String,
        /// The last attempt's end.
        reason: String,
    },
    /// The cluster does not want it.
    #[error("cannot join by {address}: {refusal}")]
    Refused {
        /// The member's address as it was given.
        address: String,
        /// Its reason.
        refusal: JoinRefusal,
    },
    /// The answer cannot be read.
    #[error("cannot join by {address}: its answer cannot be read; do both run the same version?")]
    Unreadable {
        /// The member's address as it was given.
        address: String,
    },
    /// What was told cannot be kept.
    #[error("cannot write {path}: {source}")]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The file of an earlier attempt makes no sense.
    #[error(
        "{path} is damaged: remove it if this node never served, else restore it from a backup"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// The authority cannot be kept.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The system gives no random numbers.
    #[error("the system gives no random numbers")]
    NoRandom,
}

/// `join.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Known {
    /// The joiner's own number, in hexadecimal digits.
    join_id: String,
    /// Members when it joined: where to find the catalog before there is a copy of it.
    #[serde(default)]
    members: Vec<KnownMember>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KnownMember {
    node: u64,
    address: String,
}

/// The members that the node was told of when it joined; none for a node that made its cluster.
///
/// # Errors
/// When the file is there and cannot be read.
pub(crate) fn members(data: &Path) -> Result<Vec<MemberAddress>, JoinError> {
    let known = load(data)?;
    let members = known.into_iter().flat_map(|known| known.members);
    Ok(members
        .map(|member| MemberAddress { node: NodeId(member.node), address: member.address })
        .collect())
}

/// Asks to become a member, and keeps what is needed to be one. `address` is where this node will be
/// reached.
///
/// # Errors
/// [`JoinError`] by cause. Asked again, the cluster knows this directory by its number.
pub(crate) async fn join(
    config: &NodeConfig,
    by: &str,
    address: String,
) -> Result<Identity, JoinError> {
    let token: JoinToken = config.join_token.as_deref().ok_or(JoinError::NoToken)?.parse()?;
    // Before a member is asked: it would count this node from then on.
    check_authority(&config.data, token.authority)?;
    let join_id = prepare(&config.data)?;
    let question = Join {
        join_id,
        secret: token.secret,
        address,
        rack: config.rack.clone(),
        weight_hundredths: config.weight,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        protocol_min: PEER_PROTOCOL_MIN,
        protocol_max: PEER_PROTOCOL_MAX,
    };
    let began = Instant::now();
    let joined = loop {
        let problem = match ask(config, by, &token, &question).await {
            Ok(JoinAnswer::Joined(joined)) => break joined,
            Ok(JoinAnswer::Refused(refusal @ JoinRefusal::Unavailable(_))) => {
                JoinError::Refused { address: by.to_owned(), refusal }
            }
            Ok(JoinAnswer::Refused(refusal)) => {
                return Err(JoinError::Refused { address: by.to_owned(), refusal });
            }
            Err(problem) => problem,
        };
        // A member that is not the cluster's stays so.
        let for_good = matches!(&problem, JoinError::Unreachable { reason, .. }
            if reason.contains("certificate"));
        if for_good || began.elapsed() >= PATIENCE {
            return Err(problem);
        }
        tracing::warn!(%problem, "not a member yet; asking again");
        sleep(PAUSE).await;
    };
    let authority =
        AuthorityFiles { certificate_pem: joined.authority_pem, key_pem: joined.authority_key_pem };
    install_authority(&config.data, &authority)?;
    let members = joined.members.into_iter();
    let members = members
        .map(|member| KnownMember { node: member.node.0, address: member.address })
        .collect();
    store(&config.data, &Known { join_id: format!("{join_id:032x}"), members })?;
    tracing::info!(node = %joined.node, "admitted to the cluster");
    Ok(Identity { cluster_id: joined.cluster_id, node_id: joined.node })
}

/// One question and its answer.
async fn ask(
    config: &NodeConfig,
    by: &str,
    token: &JoinToken,
    question: &Join,
) -> Result<JoinAnswer, JoinError> {
    let unreachable = |reason: String| JoinError::Unreachable { address: by.to_owned(), reason };
    let asked = async {
        let tls = ClientTls::joining(token.authority).map_err(|error| error.to_string())?;
        let kind = match config.peer_transport {
            PeerTransport::Quic => TransportKind::Quic,
            PeerTransport::Tls => TransportKind::Tls,
        };
        let transport = TransportConfig::default();
        let resolved = tokio::net::lookup_host(by).await.map_err(|error| error.to_string())?;
        // All at once: where nobody listens at the first of a name's addresses, QUIC is not told so.
        let dials: Vec<_> = resolved
            .map(|address| Connection::dial(kind, address, "localhost", Some(&tls), &transport))
            .map(Box::pin)
            .collect();
        if dials.is_empty() {
            return Err("the name has no address".to_owned());
        }
        let (connection, _) = select_ok(dials).await.map_err(|error| error.to_string())?;
        let (mut sender, mut receiver) =
            connection.open().await.map_err(|error| error.to_string())?;
        let (api, version) = (PeerApi::Join, PeerApi::VERSION);
        let frame = encode_frame(api, version, FrameFlags::REQUEST, CorrelationId(1), question, 0);
        sender.send(frame.freeze(), &[]).await.map_err(|error| error.to_string())?;
        let frame = receiver.recv().await.map_err(|error| error.to_string())?;
        connection.close(0, "done");
        connection.drained().await;
        frame.ok_or_else(|| "it closed the connection without an answer".to_owned())
    };
    let frame = timeout(ANSWER, asked)
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {ANSWER:?}")))
        .map_err(unreachable)?;
    frame.decode_body().map_err(|_| JoinError::Unreadable { address: by.to_owned() })
}

/// The joiner's number, kept before it is used.
fn prepare(data: &Path) -> Result<u128, JoinError> {
    if let Some(known) = load(data)? {
        return u128::from_str_radix(&known.join_id, 16)
            .map_err(|_| JoinError::Damaged { path: data.join(FILE) });
    }
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes).map_err(|_| JoinError::NoRandom)?;
    let join_id = u128::from_le_bytes(bytes).max(1);
    store(data, &Known { join_id: format!("{join_id:032x}"), members: Vec::new() })?;
    Ok(join_id)
}

fn load(data: &Path) -> Result<Option<Known>, JoinError> {
    let path = data.join(FILE);
    match fs::read(&path) {
        Ok(bytes) => match serde_json::from_slice(&bytes) {
            Ok(known) => Ok(Some(known)),
            Err(_) => Err(JoinError::Damaged { path }),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(JoinError::Unwritable { path, source }),
    }
}

/// Replaces the file in one step, durably.
fn store(data: &Path, known: &Known) -> Result<(), JoinError> {
    let path = data.join(FILE);
    let bytes = serde_json::to_vec_pretty(known).expect("plain data");
    files::replace(&path, &bytes, 0o600).map_err(|source| JoinError::Unwritable { path, source })
}

#[cfg(test)]
mod tests {
    use plimsoll_transport::Fingerprint;

    use super::*;

    #[test]
    fn the_number_is_kept_over_attempts_and_a_damaged_file_is_not_replaced() {
        let data = tempfile::tempdir().unwrap();
        let first = prepare(data.path()).unwrap();
        assert_eq!(prepare(data.path()).unwrap(), first);
        assert!(members(data.path()).unwrap().is_empty());
        fs::write(data.path().join(FILE), "{").unwrap();
        assert!(matches!(prepare(data.path()), Err(JoinError::Damaged { .. })));
        assert_eq!(fs::read(data.path().join(FILE)).unwrap(), b"{");
    }

    #[tokio::test]
    async fn a_directory_with_another_clusters_authority_asks_nobody() {
        let data = tempfile::tempdir().unwrap();
        let folder = data.path().join("tls");
        fs::create_dir(&folder).unwrap();
        let other = rcgen::generate_simple_self_signed(Vec::new()).unwrap();
        fs::write(folder.join("ca.pem"), other.cert.pem()).unwrap();
        let token = JoinToken { authority: Fingerprint([1; 32]), secret: [2; 32] };
        let config = NodeConfig {
            data: data.path().to_owned(),
            join_token: Some(token.to_string()),
            ..NodeConfig::default()
        };
        let outcome = join(&config, "127.0.0.1:1", "127.0.0.1:2".to_owned()).await;
        assert!(matches!(outcome, Err(JoinError::Certificate(_))), "{outcome:?}");
        assert!(!data.path().join(FILE).exists());
    }

    #[test]
    fn a_node_that_never_joined_knows_no_members() {
        let data = tempfile::tempdir().unwrap();
        assert!(members(data.path()).unwrap().is_empty());
    }
}

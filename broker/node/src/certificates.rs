//! The node's certificates: one signed by the cluster's authority, which the first node makes on its
//! first start and hands to those that join, and, where the operator brings one, another for clients.
//!
//! Files in `DATA/tls/`: `ca.key`, `ca.pem` (ten years), `node.key`, `node.pem` (one year) and
//! `node.json`, which says for whom, for which names and until when. Keys have mode 0600. Nothing is
//! ever overwritten in place: a new file is written beside the old one and renamed.
//!
//! The certificate names the node: a URI `plimsoll://CLUSTER/node/ID` among its names is what other
//! nodes know it by.
//!
//! Promise: clients that trust `ca.pem` go on trusting the node when its certificate is renewed.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use plimsoll_log::Identity;
use plimsoll_transport::{Fingerprint, NodeIdentity};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData as _, SanType,
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::config::NodeConfig;
use crate::files;
use crate::origin::FIRST_NODE;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const AUTHORITY_LIFE: Duration = DAY.saturating_mul(3650);
const NODE_LIFE: Duration = DAY.saturating_mul(365);
/// Certificates begin a little in the past, for clients whose clock is behind.
const BACKDATED: Duration = DAY;

/// What a node shows to its clients and to other nodes.
#[derive(Debug, Clone)]
pub struct Certificates {
    /// For clients.
    pub clients: Identified,
    /// For other nodes, signed by the cluster's authority; the same one unless the operator brought
    /// one for clients.
    pub nodes: Identified,
    /// The authority that clients should trust, PEM; `None` where the operator brought a
    /// certificate and did not say who signed it.
    pub authority_pem: Option<String>,
    /// The cluster's authority, PEM.
    pub cluster_pem: String,
}

/// A certificate with its key.
#[derive(Clone)]
pub struct Identified {
    /// The certificate chain, PEM: the node's own first. A self-made one ends with its authority,
    /// which a client that knows only the authority's fingerprint has nowhere else to get.
    pub chain_pem: String,
    /// Its private key, PEM.
    pub key_pem: String,
}

impl std::fmt::Debug for Identified {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identified").field("key_pem", &"(secret)").finish_non_exhaustive()
    }
}

/// Why there is no certificate.
#[derive(Debug, Error)]
pub enum CertificateError {
    /// A file could not be read.
    #[error("cannot read {path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file could not be written.
    #[error("cannot write {path}: {source}; the node keeps its certificate authority there")]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error(
        "{path} is damaged ({problem}); restore it, or remove the folder {folder} so that a new \
         authority is made (clients must then trust the new one)"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Its folder.
        folder: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The authority of the cluster is gone, and is not this node's to make anew.
    #[error(
        "{folder} has no authority, and a new one would be trusted by no other node of this cluster: \
         copy ca.key and ca.pem there from DATA/tls of another member"
    )]
    Lost {
        /// The folder.
        folder: PathBuf,
    },
    /// A name cannot stand in a certificate.
    #[error("`{name}` of `tls_names` cannot be put into a certificate: {problem}")]
    BadName {
        /// The name.
        name: String,
        /// Why not.
        problem: String,
    },
    /// Making keys or signing failed, which is not expected to happen.
    #[error("cannot make a certificate: {0}")]
    Crypto(#[from] rcgen::Error),
}

/// What the current node certificate is good for.
#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
struct NodeFacts {
    /// The URI that names the node; empty in certificates of builds that knew one node only.
    #[serde(default)]
    node: String,
    names: Vec<String>,
    ends_unix_s: u64,
}

/// The cluster's authority as it is handed to a node that joins.
#[derive(Clone, PartialEq, Eq)]
pub struct AuthorityFiles {
    /// Its certificate, PEM.
    pub certificate_pem: String,
    /// Its private key, PEM.
    pub key_pem: String,
}

impl std::fmt::Debug for AuthorityFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthorityFiles").field("key_pem", &"(secret)").finish_non_exhaustive()
    }
}

/// The authority of the cluster that `data` is of.
///
/// # Errors
/// Where a file cannot be read.
pub fn authority(data: &Path) -> Result<AuthorityFiles, CertificateError> {
    let folder = data.join("tls");
    Ok(AuthorityFiles {
        certificate_pem: read(folder.join("ca.pem"))?,
        key_pem: read(folder.join("ca.key"))?,
    })
}

/// Stores the authority of the cluster that `data` is to be of. Writing it again does nothing.
///
/// # Errors
/// Where the files cannot be written, or another authority is there already.
pub fn install_authority(data: &Path, files: &AuthorityFiles) -> Result<(), CertificateError> {
    let folder = make_folder(data)?;
    let (key_path, pem_path) = (folder.join("ca.key"), folder.join("ca.pem"));
    if let Ok(present) = fs::read_to_string(&key_path)
        && present != files.key_pem
    {
        return Err(CertificateError::Damaged {
            path: key_path,
            folder,
            problem: "it is the key of another cluster's authority".to_owned(),
        });
    }
    write(&key_path, files.key_pem.as_bytes(), 0o600)?;
    write(&pem_path, files.certificate_pem.as_bytes(), 0o644)
}

/// Whether `data` has the authority of another cluster than the one of this fingerprint already, so
/// that what [`install_authority`] would refuse is known before anybody is asked for it.
///
/// # Errors
/// Where it has.
pub(crate) fn check_authority(data: &Path, wanted: Fingerprint) -> Result<(), CertificateError> {
    let folder = data.join("tls");
    let path = folder.join("ca.pem");
    match fs::read(&path).ok().and_then(|pem| Fingerprint::of_pem(&pem)) {
        Some(present) if present != wanted => {
            let problem = "it is that of another cluster than the join token is of".to_owned();
            Err(CertificateError::Damaged { path, folder, problem })
        }
        _ => Ok(()),
    }
}

fn make_folder(data: &Path) -> Result<PathBuf, CertificateError> {
    let folder = data.join("tls");
    fs::create_dir_all(&folder)
        .map_err(|source| CertificateError::Unwritable { path: folder.clone(), source })?;
    Ok(folder)
}

/// Loads, makes or renews the certificate that the cluster's authority signs for this node, and loads
/// the one that the operator brought for clients.
///
/// `listen` is the address clients dial, `identity` whom other nodes shall know it as, `now` decides
/// about renewal.
///
/// # Errors
/// Where a file cannot be read, written or understood.
pub fn prepare(
    config: &NodeConfig,
    listen: SocketAddr,
    identity: &Identity,
    now: SystemTime,
) -> Result<Certificates, CertificateError> {
    let (nodes, cluster_pem) = prepare_own(config, listen, identity, now)?;
    let (clients, authority_pem) = match (&config.tls_certificate, &config.tls_key) {
        (Some(certificate), Some(key)) => (
            Identified { chain_pem: read(certificate)?, key_pem: read(key)? },
            config.tls_authority.as_deref().map(read).transpose()?,
        ),
        _ => (nodes.clone(), Some(cluster_pem.clone())),
    };
    Ok(Certificates { clients, nodes, authority_pem, cluster_pem })
}

fn prepare_own(
    config: &NodeConfig,
    listen: SocketAddr,
    identity: &Identity,
    now: SystemTime,
) -> Result<(Identified, String), CertificateError> {
    let folder = make_folder(&config.data)?;
    // A node that joined got its authority before it got its id.
    let may_make = identity.node_id == FIRST_NODE;
    let authority = Authority::load_or_make(&folder, may_make, now)?;
    let names = names(config, listen);
    let Identity { cluster_id, node_id } = *identity;
    let node = NodeIdentity { cluster_id, node: node_id }.uri();
    let facts_path = folder.join("node.json");
    let renew_at = unix_seconds(now + config.tls_renew_before);
    let facts: Option<NodeFacts> =
        fs::read(&facts_path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let (key_path, certificate_path) = (folder.join("node.key"), folder.join("node.pem"));
    let good = facts.is_some_and(|facts| {
        facts.ends_unix_s > renew_at
            && facts.node == node
            && names.iter().all(|name| facts.names.contains(name))
    });
    if good && let (Ok(key_pem), Ok(certificate_pem)) = (read(&key_path), read(&certificate_path)) {
        return Ok(self_made(&certificate_pem, key_pem, authority.pem));
    }
    let key = KeyPair::generate()?;
    let certificate_pem = authority.sign(&key, &node, &names, now)?;
    let key_pem = key.serialize_pem();
    let facts = NodeFacts { node, names, ends_unix_s: unix_seconds(now + NODE_LIFE) };
    let facts = serde_json::to_vec_pretty(&facts).expect("facts are plain data");
    // The facts go last: a crash before them makes the next start sign once more.
    let _ = fs::remove_file(&facts_path);
    write(&key_path, key_pem.as_bytes(), 0o600)?;
    write(&certificate_path, certificate_pem.as_bytes(), 0o644)?;
    write(&facts_path, &facts, 0o644)?;
    Ok(self_made(&certificate_pem, key_pem, authority.pem))
}

/// The authority is put behind the certificate here and not in the file, so that a node whose files
/// were made by an earlier version sends it too.
fn self_made(
    certificate_pem: &str,
    key_pem: String,
    authority_pem: String,
) -> (Identified, String) {
    let chain_pem = format!("{}\n{authority_pem}", certificate_pem.trim_end());
    (Identified { chain_pem, key_pem }, authority_pem)
}

/// The names that clients may dial, the constant ones first, without repetition.
fn names(config: &NodeConfig, listen: SocketAddr) -> Vec<String> {
    let mut names: Vec<_> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
    if let Some((host, _)) = config.advertise.as_deref().and_then(|name| name.rsplit_once(':')) {
        names.push(host.trim_matches(['[', ']']).to_owned());
    }
    if !listen.ip().is_unspecified() {
        names.push(listen.ip().to_string());
    }
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    if !host.is_empty() && host.chars().all(plain) {
        names.push(host);
    }
    names.extend(config.tls_names.0.iter().cloned());
    let mut seen = std::collections::BTreeSet::new();
    names.retain(|name| seen.insert(name.clone()));
    names
}

struct Authority {
    pem: String,
    params: CertificateParams,
    key: KeyPair,
}

impl Authority {
    fn load_or_make(
        folder: &Path,
        may_make: bool,
        now: SystemTime,
    ) -> Result<Self, CertificateError> {
        let (key_path, pem_path) = (folder.join("ca.key"), folder.join("ca.pem"));
        let key = match fs::read_to_string(&key_path) {
            Ok(pem) => KeyPair::from_pem(&pem).map_err(|error| CertificateError::Damaged {
                path: key_path,
                folder: folder.to_owned(),
                problem: error.to_string(),
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if pem_path.exists() {
                    return Err(CertificateError::Damaged {
                        path: key_path,
                        folder: folder.to_owned(),
                        problem: "it is missing, though ca.pem is there".to_owned(),
                    });
                }
                if !may_make {
                    return Err(CertificateError::Lost { folder: folder.to_owned() });
                }
                let key = KeyPair::generate()?;
                write(&key_path, key.serialize_pem().as_bytes(), 0o600)?;
                key
            }
            Err(source) => return Err(CertificateError::Unreadable { path: key_path, source }),
        };
        let params = Self::params(&key, now)?;
        let pem = match fs::read_to_string(&pem_path) {
            Ok(pem) if pem.contains("BEGIN CERTIFICATE") => pem,
            // Missing after a crash between the two files, or emptied: the key is what counts.
            Ok(_) => Self::write_new(&params, &key, &pem_path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Self::write_new(&params, &key, &pem_path)?
            }
            Err(source) => return Err(CertificateError::Unreadable { path: pem_path, source }),
        };
        Ok(Self { pem, params, key })
    }

    fn write_new(
        params: &CertificateParams,
        key: &KeyPair,
        path: &Path,
    ) -> Result<String, CertificateError> {
        let pem = params.self_signed(key)?.pem();
        write(path, pem.as_bytes(), 0o644)?;
        Ok(pem)
    }

    /// The authority's own certificate, but for its dates a pure function of its key: a later start
    /// signs under the same name without reading the old certificate.
    fn params(key: &KeyPair, now: SystemTime) -> Result<CertificateParams, CertificateError> {
        let mut params = CertificateParams::new(Vec::new())?;
        let der = key.subject_public_key_info();
        let tail: String =
            der[der.len().saturating_sub(4)..].iter().map(|byte| format!("{byte:02x}")).collect();
        params.distinguished_name.remove(DnType::CommonName);
        params.distinguished_name.push(DnType::OrganizationName, "Plimsoll");
        params.distinguished_name.push(DnType::CommonName, format!("Plimsoll authority {tail}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        set_life(&mut params, now, AUTHORITY_LIFE);
        Ok(params)
    }

    fn sign(
        &self,
        key: &KeyPair,
        node: &str,
        names: &[String],
        now: SystemTime,
    ) -> Result<String, CertificateError> {
        for name in names {
            CertificateParams::new(vec![name.clone()]).map_err(|error| {
                CertificateError::BadName { name: name.clone(), problem: error.to_string() }
            })?;
        }
        let mut params = CertificateParams::new(names.to_vec())?;
        params.distinguished_name.remove(DnType::CommonName);
        params.distinguished_name.push(DnType::CommonName, "Plimsoll node");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.subject_alt_names.push(SanType::URI(node.try_into()?));
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        set_life(&mut params, now, NODE_LIFE);
        let issuer = Issuer::from_params(&self.params, &self.key);
        Ok(params.signed_by(key, &issuer)?.pem())
    }
}

fn set_life(params: &mut CertificateParams, now: SystemTime, life: Duration) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    params.not_before = epoch + now.saturating_sub(BACKDATED);
    params.not_after = epoch + (now + life);
}

fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn read(path: impl AsRef<Path>) -> Result<String, CertificateError> {
    let path = path.as_ref();
    fs::read_to_string(path)
        .map_err(|source| CertificateError::Unreadable { path: path.to_owned(), source })
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), CertificateError> {
    files::replace(path, bytes, mode)
        .map_err(|source| CertificateError::Unwritable { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use plimsoll_protocol::ids::NodeId;

    use super::*;

    const NODE: Identity = Identity { cluster_id: [0xab; 16], node_id: FIRST_NODE };

    fn config(folder: &Path) -> NodeConfig {
        NodeConfig { data: folder.to_owned(), ..NodeConfig::default() }
    }

    fn later(days: u32) -> SystemTime {
        SystemTime::now() + DAY * days
    }

    fn listen() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 7420))
    }

    #[test]
    fn a_second_start_keeps_authority_and_certificate() {
        let folder = tempfile::tempdir().unwrap();
        let first = prepare(&config(folder.path()), listen(), &NODE, later(0)).unwrap();
        let second = prepare(&config(folder.path()), listen(), &NODE, later(1)).unwrap();
        assert_eq!(first.authority_pem, second.authority_pem);
        assert_eq!(first.clients.chain_pem, second.clients.chain_pem);
        assert_eq!(first.clients.key_pem, second.clients.key_pem);
    }

    #[test]
    fn the_chain_is_the_certificate_and_its_authority_on_every_start() {
        let folder = tempfile::tempdir().unwrap();
        for days in 0..2 {
            let made = prepare(&config(folder.path()), listen(), &NODE, later(days)).unwrap();
            let authority = made.authority_pem.unwrap();
            assert_eq!(made.clients.chain_pem.matches("BEGIN CERTIFICATE").count(), 2);
            assert!(made.clients.chain_pem.ends_with(&authority), "the authority comes last");
            assert!(!made.clients.chain_pem.starts_with(&authority));
        }
    }

    #[test]
    fn keys_are_readable_by_their_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        prepare(&config(folder.path()), listen(), &NODE, later(0)).unwrap();
        for name in ["ca.key", "node.key"] {
            let mode = fs::metadata(folder.path().join("tls").join(name)).unwrap().permissions();
            assert_eq!(mode.mode() & 0o777, 0o600, "{name}");
        }
    }

    #[test]
    fn a_certificate_near_its_end_is_renewed_under_the_same_authority() {
        let folder = tempfile::tempdir().unwrap();
        let first = prepare(&config(folder.path()), listen(), &NODE, later(0)).unwrap();
        let renewed = prepare(&config(folder.path()), listen(), &NODE, later(340)).unwrap();
        assert_ne!(first.clients.chain_pem, renewed.clients.chain_pem);
        assert_eq!(first.authority_pem, renewed.authority_pem);
    }

    #[test]
    fn a_new_name_makes_a_new_certificate_and_a_bad_name_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let first = prepare(&config(folder.path()), listen(), &NODE, later(0)).unwrap();
        let mut named = config(folder.path());
        named.set("tls_names", "broker.example.org", "test").unwrap();
        let second = prepare(&named, listen(), &NODE, later(0)).unwrap();
        assert_ne!(first.clients.chain_pem, second.clients.chain_pem);
        let listening = SocketAddr::from(([10, 1, 2, 3], 7420));
        assert_ne!(
            prepare(&named, listening, &NODE, later(0)).unwrap().clients.chain_pem,
            second.clients.chain_pem
        );
    }

    #[test]
    fn another_node_gets_another_certificate_of_the_same_authority() {
        let folder = tempfile::tempdir().unwrap();
        let first = prepare(&config(folder.path()), listen(), &NODE, later(0)).unwrap();
        let other = Identity { node_id: NodeId(8), ..NODE };
        let second = prepare(&config(folder.path()), listen(), &other, later(0)).unwrap();
        assert_ne!(first.nodes.chain_pem, second.nodes.chain_pem);
        assert_eq!(first.cluster_pem, second.cluster_pem);
    }

    #[test]
    fn a_node_that_joined_makes_no_authority_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let joined = Identity { node_id: NodeId(2), ..NODE };
        let lost = prepare(&config(folder.path()), listen(), &joined, later(0)).unwrap_err();
        assert!(matches!(lost, CertificateError::Lost { .. }), "{lost}");
        assert!(!folder.path().join("tls").join("ca.key").exists());
    }

    #[test]
    fn a_handed_authority_signs_for_the_one_who_joins_and_is_never_replaced() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let first = prepare(&config(one.path()), listen(), &NODE, later(0)).unwrap();
        let handed = authority(one.path()).unwrap();
        install_authority(two.path(), &handed).unwrap();
        install_authority(two.path(), &handed).unwrap();
        let joined = prepare(&config(two.path()), listen(), &NODE, later(0)).unwrap();
        assert_eq!(joined.cluster_pem, first.cluster_pem);
        let foreign = tempfile::tempdir().unwrap();
        prepare(&config(foreign.path()), listen(), &NODE, later(0)).unwrap();
        let problem = install_authority(foreign.path(), &handed).unwrap_err().to_string();
        assert!(problem.contains("another cluster"), "{problem}");
    }

    #[test]
    fn a_damaged_authority_key_is_refused_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        prepare(&config(folder.path()), listen(), &NODE, later(0)).unwrap();
        let key = folder.path().join("tls/ca.key");
        fs::write(&key, "rubbish").unwrap();
        let problem = prepare(&config(folder.path()), listen(), &NODE, later(0)).unwrap_err();
        assert!(problem.to_string().contains("ca.key is damaged"), "{problem}");
        assert_eq!(fs::read_to_string(&key).unwrap(), "rubbish");
        fs::remove_file(&key).unwrap();
        let problem = prepare(&config(folder.path()), listen(), &NODE, later(0)).unwrap_err();
        assert!(problem.to_string().contains("it is missing"), "{problem}");
    }

    #[test]
    fn own_files_are_used_as_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let made = prepare(&config(folder.path()), listen(), &NODE, later(0)).unwrap();
        let mut own = config(&folder.path().join("other"));
        own.tls_certificate = Some(folder.path().join("tls/node.pem"));
        own.tls_key = Some(folder.path().join("tls/node.key"));
        let loaded = prepare(&own, listen(), &NODE, later(0)).unwrap();
        assert!(made.clients.chain_pem.starts_with(loaded.clients.chain_pem.trim_end()));
        assert_eq!(loaded.authority_pem, None);
        assert_ne!(
            loaded.nodes.chain_pem, loaded.clients.chain_pem,
            "nodes need the cluster's own"
        );
        own.tls_key = Some(folder.path().join("absent.key"));
        assert!(
            prepare(&own, listen(), &NODE, later(0))
                .unwrap_err()
                .to_string()
                .contains("absent.key")
        );
    }
}

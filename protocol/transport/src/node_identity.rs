//! Which node of which cluster a certificate belongs to: the URI `plimsoll://CLUSTER/node/ID` among
//! its names, the cluster in 32 hexadecimal digits.

use plimsoll_protocol::ids::NodeId;
use rustls::pki_types::CertificateDer;
use thiserror::Error;
use webpki::EndEntityCert;

const SCHEME: &str = "plimsoll://";
const NODE: &str = "/node/";

/// A node of a cluster, as its certificate says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeIdentity {
    /// The cluster.
    pub cluster_id: [u8; 16],
    /// The node.
    pub node: NodeId,
}

/// Why a certificate does not say which node it belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NodeIdentityError {
    /// It is no certificate.
    #[error("the certificate cannot be read")]
    Unreadable,
    /// It has no name of a node.
    #[error("the certificate names no node (it has no URI plimsoll://CLUSTER/node/ID)")]
    NoNode,
    /// It names more than one.
    #[error("the certificate names more than one node")]
    SeveralNodes,
    /// It has a name that begins like that of a node and is none.
    #[error("the certificate has the name {0:?}, which is not plimsoll://CLUSTER/node/ID")]
    BadName(String),
}

impl NodeIdentity {
    /// The name that stands in the certificate.
    #[must_use]
    pub fn uri(&self) -> String {
        use std::fmt::Write as _;
        let mut uri = SCHEME.to_owned();
        for byte in self.cluster_id {
            // Writing to a string does not fail.
            let _ = write!(uri, "{byte:02x}");
        }
        let _ = write!(uri, "{NODE}{}", self.node);
        uri
    }

    /// Reads the name of a certificate in DER. Whether the certificate is to be trusted is not looked
    /// at.
    ///
    /// # Errors
    /// [`NodeIdentityError`] by cause.
    pub fn of_certificate(der: &[u8]) -> Result<NodeIdentity, NodeIdentityError> {
        let der = CertificateDer::from(der);
        let certificate =
            EndEntityCert::try_from(&der).map_err(|_| NodeIdentityError::Unreadable)?;
        let mut found = None;
        for name in certificate.valid_uri_names().filter(|name| name.starts_with(SCHEME)) {
            if found.is_some() {
                return Err(NodeIdentityError::SeveralNodes);
            }
            found = Some(Self::parse(name)?);
        }
        found.ok_or(NodeIdentityError::NoNode)
    }

    /// Reads a name as [`Self::uri`] writes it, in no other form.
    fn parse(uri: &str) -> Result<NodeIdentity, NodeIdentityError> {
        let bad = || NodeIdentityError::BadName(uri.to_owned());
        let rest = uri.strip_prefix(SCHEME).ok_or_else(bad)?;
        let (cluster, node) = rest.split_once(NODE).ok_or_else(bad)?;
        let cluster_id = u128::from_str_radix(cluster, 16).map_err(|_| bad())?.to_be_bytes();
        let node = NodeId(node.parse().map_err(|_| bad())?);
        let identity = NodeIdentity { cluster_id, node };
        // One form only: no sign, no upper case, no leading zeros.
        if identity.uri() == uri { Ok(identity) } else { Err(bad()) }
    }
}

impl std::fmt::Display for NodeIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.uri())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> NodeIdentity {
        NodeIdentity { cluster_id: *b"\x00\x01cluster-of-two", node: NodeId(7) }
    }

    #[test]
    fn a_name_survives() {
        let uri = identity().uri();
        assert_eq!(uri, "plimsoll://0001636c75737465722d6f662d74776f/node/7");
        assert_eq!(NodeIdentity::parse(&uri), Ok(identity()));
    }

    #[test]
    fn other_forms_are_no_names() {
        let cluster = "0001636c75737465722d6f662d74776f";
        for name in [
            "plimsoll://".to_owned(),
            format!("plimsoll://{cluster}"),
            format!("plimsoll://{cluster}/node/"),
            format!("plimsoll://{cluster}/node/+7"),
            format!("plimsoll://{cluster}/node/07"),
            format!("plimsoll://{cluster}/node/7/"),
            format!("plimsoll://{}/node/7", cluster.to_uppercase()),
            format!("plimsoll://{}/node/7", &cluster[1..]),
            format!("plimsoll://{cluster}0/node/7"),
            format!("plimsoll://{cluster}/node/18446744073709551616"),
        ] {
            assert!(NodeIdentity::parse(&name).is_err(), "{name} was taken");
        }
    }

    #[test]
    fn certificates_say_whose_they_are() {
        let made = |uris: &[&str]| {
            let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
            for uri in uris {
                let uri = rcgen::string::Ia5String::try_from(*uri).unwrap();
                params.subject_alt_names.push(rcgen::SanType::URI(uri));
            }
            let key = rcgen::KeyPair::generate().unwrap();
            NodeIdentity::of_certificate(params.self_signed(&key).unwrap().der())
        };
        let uri = identity().uri();
        assert_eq!(made(&["https://example.org", &uri]), Ok(identity()));
        assert_eq!(made(&["https://example.org"]), Err(NodeIdentityError::NoNode));
        assert_eq!(made(&[&uri, &uri]), Err(NodeIdentityError::SeveralNodes));
        assert!(matches!(made(&["plimsoll://x/node/1"]), Err(NodeIdentityError::BadName(_))));
        assert_eq!(NodeIdentity::of_certificate(b"rubbish"), Err(NodeIdentityError::Unreadable));
    }
}

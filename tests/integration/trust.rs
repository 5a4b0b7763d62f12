//! Whom a client takes for the node: by fingerprint, of the node's certificate or of its authority.

use std::fs;

use plimsoll_client::{Client, ConnectError, Fingerprint, Trust};
use plimsoll_tests::{TestNode, within};
use plimsoll_transport::TransportKind;

const ENCRYPTED: [TransportKind; 2] = [TransportKind::Quic, TransportKind::Tls];

fn pem(node: &TestNode, name: &str) -> String {
    fs::read_to_string(node.config().data.join("tls").join(name)).expect("the node made it")
}

fn fingerprint(node: &TestNode, name: &str) -> Fingerprint {
    Fingerprint::of_pem(pem(node, name).as_bytes()).expect("it is a certificate")
}

async fn connect(
    node: &TestNode,
    transport: TransportKind,
    trusted: Fingerprint,
    server_name: &str,
) -> Result<(), ConnectError> {
    let mut config = node.client_config(transport);
    config.trust = Trust::Fingerprint(trusted);
    config.server_name = Some(server_name.to_owned());
    let client = within("connect", Client::connect(config)).await?;
    within("ping", client.admin().ping()).await.expect("it answers");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_known_by_its_own_fingerprint_and_by_that_of_its_authority() {
    let node = TestNode::start().await;
    for transport in ENCRYPTED {
        for name in ["node.pem", "ca.pem"] {
            let trusted = fingerprint(&node, name);
            connect(&node, transport, trusted, "localhost").await.expect(name);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_authority_vouches_only_for_the_names_in_the_certificate() {
    let node = TestNode::start().await;
    for transport in ENCRYPTED {
        let authority = fingerprint(&node, "ca.pem");
        let refused = connect(&node, transport, authority, "elsewhere.example").await.unwrap_err();
        assert!(refused.to_string().contains("elsewhere.example"), "{transport}: {refused}");
        // Whoever names the very certificate needs no name in it.
        let certificate = fingerprint(&node, "node.pem");
        connect(&node, transport, certificate, "elsewhere.example").await.expect("it is the one");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_that_is_only_sent_along_does_not_vouch() {
    let (node, thief) = (TestNode::start().await, TestNode::start().await);
    // The authority's certificate is public: the thief sends it behind one that it did not sign.
    let chain = thief.directory().path().join("chain.pem");
    fs::write(&chain, pem(&thief, "node.pem") + &pem(&node, "ca.pem")).expect("it is written");
    let key = thief.config().data.join("tls/node.key");
    let impostor = TestNode::start_with(|config| {
        config.tls_certificate = Some(chain);
        config.tls_key = Some(key);
        config.tls_authority = Some(node.config().data.join("tls/ca.pem"));
    })
    .await;
    for transport in ENCRYPTED {
        let authority = fingerprint(&node, "ca.pem");
        let refused = connect(&impostor, transport, authority, "localhost").await.unwrap_err();
        assert!(refused.to_string().contains("certificate"), "{transport}: {refused}");
        let other = fingerprint(&thief, "ca.pem");
        connect(&node, transport, other, "localhost").await.unwrap_err();
    }
}

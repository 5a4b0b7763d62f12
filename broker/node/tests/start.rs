//! What stands in the way of a start, and what the operator is told.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::net::{TcpListener, UdpSocket};

use plimsoll_node::{Node, StartError};
use plimsoll_transport::{ClientTls, Connection, TransportConfig, TransportKind};
use support::{TestNode, small_config};
use tempfile::TempDir;

async fn refused(config: plimsoll_node::config::NodeConfig) -> StartError {
    match Node::start(config).await {
        Ok(_) => panic!("it started"),
        Err(error) => error,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_node_on_the_same_directory_is_refused_and_harms_nothing() {
    let first = TestNode::start().await;
    let error = refused(small_config(&first.directory)).await;
    assert!(matches!(error, StartError::Disk(_)), "{error:?}");
    assert!(error.to_string().contains(&std::process::id().to_string()), "names who: {error}");
    assert!(error.advice().is_some_and(|advice| advice.contains("--data")));
    first.assert_serves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_named() {
    for udp in [false, true] {
        let directory = TempDir::new().unwrap();
        let mut config = small_config(&directory);
        let (tcp_taken, udp_taken);
        config.listen = if udp {
            udp_taken = UdpSocket::bind("127.0.0.1:0").unwrap();
            udp_taken.local_addr().unwrap()
        } else {
            tcp_taken = TcpListener::bind("127.0.0.1:0").unwrap();
            tcp_taken.local_addr().unwrap()
        };
        let address = config.listen.to_string();
        let error = refused(config).await;
        assert!(error.to_string().contains(&address), "{error}");
        assert!(error.to_string().contains("in use"), "{error}");
        // The directory is free again.
        Node::start(small_config(&directory)).await.unwrap().shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_of_a_newer_format_is_refused_and_left_as_it_is() {
    let node = TestNode::start().await;
    let TestNode { node, directory } = node;
    node.shutdown().await;
    let file = directory.path().join("data/plimsoll.meta");
    let mut bytes = std::fs::read(&file).unwrap();
    newer(&mut bytes);
    std::fs::write(&file, &bytes).unwrap();
    let error = refused(small_config(&directory)).await;
    assert!(error.to_string().contains("newer"), "{error}");
    assert_eq!(std::fs::read(&file).unwrap(), bytes, "nothing was changed");
}

/// Raises the format version that the identity file states.
fn newer(bytes: &mut [u8]) {
    // After 8 bytes of magic.
    bytes[8..12].copy_from_slice(&99_u32.to_le_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_that_cannot_be_written_is_named() {
    // A file where the directory should be, and a file system on which nothing can be made.
    let directory = TempDir::new().unwrap();
    let mut config = small_config(&directory);
    std::fs::write(&config.data, b"not a directory").unwrap();
    let error = refused(config.clone()).await;
    assert!(error.to_string().contains("data"), "{error}");
    assert!(error.advice().is_some());
    config.data = "/proc/plimsoll-data".into();
    let error = refused(config).await;
    assert!(error.to_string().contains("/proc/plimsoll-data"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_contradict_each_other_are_refused_before_anything_is_made() {
    let directory = TempDir::new().unwrap();
    let mut config = small_config(&directory);
    config.tls_key = Some("key.pem".into());
    let error = refused(config).await;
    assert!(matches!(error, StartError::Config(_)), "{error:?}");
    assert!(!directory.path().join("data").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn own_certificate_files_that_cannot_be_used_are_named() {
    let directory = TempDir::new().unwrap();
    let mut config = small_config(&directory);
    config.tls_certificate = Some(directory.path().join("absent.pem"));
    config.tls_key = Some(directory.path().join("absent.key"));
    let error = refused(config.clone()).await;
    assert!(error.to_string().contains("absent.pem"), "{error}");
    for path in [&config.tls_certificate, &config.tls_key] {
        std::fs::write(path.as_ref().unwrap(), "no PEM").unwrap();
    }
    let error = refused(config).await;
    assert!(matches!(error, StartError::Tls(_)), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_trusts_another_authority_is_not_let_in() {
    let (node, other) = (TestNode::start().await, TestNode::start().await);
    let tls = ClientTls::trusting_pem(other.node.ca_pem().unwrap().as_bytes()).unwrap();
    for kind in [TransportKind::Quic, TransportKind::Tls] {
        let config = TransportConfig::default();
        let dialed =
            Connection::dial(kind, node.node.addr(), "localhost", Some(&tls), &config).await;
        let error = dialed.expect_err("the certificate is not of that authority").to_string();
        assert!(error.contains("certificate"), "{kind}: {error}");
    }
    node.assert_serves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_certificate_carries_every_name_of_this_machine() {
    let node = TestNode::start().await;
    let tls = ClientTls::trusting_pem(node.node.ca_pem().unwrap().as_bytes()).unwrap();
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    for name in ["localhost", "127.0.0.1", "::1", &host] {
        let config = TransportConfig::default();
        Connection::dial(TransportKind::Quic, node.node.addr(), name, Some(&tls), &config)
            .await
            .unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    let config = TransportConfig::default();
    let wrong = Connection::dial(
        TransportKind::Quic,
        node.node.addr(),
        "elsewhere.example.org",
        Some(&tls),
        &config,
    );
    assert!(wrong.await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_nodes_directory_can_be_opened_at_once() {
    let mut node = TestNode::start().await;
    for _ in 0..3 {
        node = node.crash().await;
        node.assert_serves().await;
    }
}

//! What a client is told when something cannot be.

use plimsoll_client::{
    BuildError, Client, ConnectError, ErrorCode, NewTopic, ProducerOptions, Record, SendError,
    Trust,
};
use plimsoll_tests::{TRANSPORTS, TestNode, eventually, within};
use plimsoll_transport::TransportKind;

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_topic_is_named_over_every_transport() {
    let node = TestNode::start().await;
    for transport in TRANSPORTS {
        let client = node.client(transport).await;
        let refused = within("build", client.producer("nowhere").build()).await.unwrap_err();
        let BuildError::Request(refused) = refused else { panic!("{refused}") };
        assert_eq!(refused.code(), Some(ErrorCode::UnknownTopic));
        assert!(refused.to_string().contains("nowhere"), "{refused}");
        let refused = within("build", client.consumer("nowhere").build()).await.unwrap_err();
        assert!(refused.to_string().contains("nowhere"), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_could_be_paths_are_refused() {
    let node = TestNode::start().await;
    let admin = node.client(TransportKind::Quic).await.admin();
    for name in ["", ".", "..", "a/b", "../x", "a\0b", "new\nline", "ünïcode", "__internal"] {
        let refused = within("create", admin.create_topic(NewTopic::new(name))).await.unwrap_err();
        assert_eq!(refused.code(), Some(ErrorCode::InvalidTopicName), "{name:?}: {refused}");
    }
    let long = "x".repeat(256);
    within("create", admin.create_topic(NewTopic::new(&long))).await.unwrap_err();
    within("create", admin.create_topic(NewTopic::new(&long[..255]))).await.expect("it fits");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_nodes_authority_is_not_trusted() {
    let (node, other) = (TestNode::start().await, TestNode::start().await);
    for transport in [TransportKind::Quic, TransportKind::Tls] {
        let mut config = node.client_config(transport);
        config.trust = Trust::CaPem(other.node().ca_pem().expect("its own").to_owned());
        let refused = within("connect", Client::connect(config)).await.unwrap_err();
        assert!(matches!(refused, ConnectError::Dial { .. }), "{refused}");
        assert!(refused.to_string().contains("certificate"), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plaintext_client_on_the_tls_port_and_a_tls_client_on_plaintext_are_told() {
    let node = TestNode::start().await;
    for (transport, wrong) in
        [(TransportKind::Tcp, TransportKind::Tls), (TransportKind::Tls, TransportKind::Tcp)]
    {
        let mut config = node.client_config(transport);
        config.addresses = vec![node.address(wrong).to_string()];
        let refused = within("connect", Client::connect(config)).await.unwrap_err();
        assert!(refused.to_string().contains("TLS"), "{transport} on {wrong}: {refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_above_the_limit_is_refused_and_the_next_is_stored() {
    let node = TestNode::start().await;
    node.create_topic("t", 1, &["batch-bytes-max=64KiB"]).await;
    for transport in TRANSPORTS {
        let client = node.client(transport).await;
        let producer = within("build", client.producer("t").build()).await.expect("a producer");
        let large = producer.send(Record::new(vec![0; 100_000]));
        let refused = within("send", large).await.unwrap_err();
        assert!(matches!(refused, SendError::TooLarge(_)), "{refused}");
        assert!(refused.is_definite());
        within("send", producer.send(Record::new("small"))).await.expect("it is acknowledged");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_above_the_limit_are_refused_until_one_ends() {
    let node = TestNode::start_with(|config| config.connections_max = 3).await;
    for transport in TRANSPORTS {
        let mut clients = Vec::new();
        for _ in 0..3 {
            clients.push(
                eventually("a place", async || {
                    Client::connect(node.client_config(transport)).await.ok()
                })
                .await,
            );
        }
        let refused = within("connect", Client::connect(node.client_config(transport))).await;
        let told = refused.expect_err("there is no place").to_string();
        assert!(told.contains("connections"), "{transport}: {told}");
        for client in &clients {
            within("ping", client.admin().ping()).await.expect("the others are served");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_buffer_is_told_to_who_does_not_wait() {
    let mut node = TestNode::start().await;
    node.create_topic("t", 1, &[]).await;
    let client = node.client(TransportKind::Quic).await;
    let options = ProducerOptions { buffer_bytes: 64 << 10, ..ProducerOptions::default() };
    let build = client.producer("t").options(options).build();
    let producer = within("build", build).await.expect("a producer");
    // Nobody acknowledges, so nothing leaves the buffer.
    node.abort().await;
    let record = Record::new(vec![0; 10_000]);
    let mut acks = Vec::new();
    let refused = loop {
        match producer.try_enqueue(&record) {
            Ok(ack) => acks.push(ack),
            Err(refused) => break refused,
        }
        assert!(acks.len() < 10, "the buffer has no bound");
    };
    assert!(matches!(refused, SendError::BufferFull { limit: 65_536 }), "{refused}");
    node.start_again().await;
    for ack in acks {
        within("an acknowledgement", ack).await.expect("it was kept for the node");
    }
    within("send", producer.send(record)).await.expect("there is room again");
}

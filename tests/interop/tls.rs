//! The listener with TLS.

use lapin::runtime::default_runtime;
use lapin::tcp::OwnedTLSConfig;
use lapin::{Connection, ConnectionProperties, Result};

use crate::client::{Client, connect, run};
use crate::server::{Tls, server};

/// Nothing to do where the server was given without TLS.
fn secure(body: impl AsyncFnOnce(&'static Tls)) {
    if let Some(tls) = &server().tls {
        run(body(tls));
    }
}

async fn trusting(tls: &Tls) -> Result<Connection> {
    let config = OwnedTLSConfig { identity: None, cert_chain: Some(tls.ca.clone()) };
    let properties = ConnectionProperties::default();
    Connection::connect_with_config(&tls.url, properties, config, default_runtime()?).await
}

#[test]
fn certificate_of_the_authority_is_trusted() {
    secure(async |tls| {
        let connection = trusting(tls).await.unwrap();
        assert!(connection.status().connected());
    });
}

#[test]
fn certificate_of_an_unknown_authority_is_refused() {
    secure(async |tls| {
        let error = connect(&tls.url).await.map(drop).unwrap_err();
        assert!(error.is_io_error(), "{error:?}");
    });
}

#[test]
fn messages_of_many_records_of_tls_come_whole() {
    secure(async |tls| {
        let client = Client::over(trusting(tls).await.unwrap()).await;
        let queue = client.queue().await;
        let body: String = "0123456789abcdef".repeat(40_000);
        client.put(&queue, &body).await;
        assert_eq!(client.drain(&queue).await, [body]);
    });
}

#[test]
fn plain_text_at_the_port_of_tls_is_no_connection() {
    secure(async |tls| {
        connect(&tls.url.replacen("amqps", "amqp", 1)).await.map(drop).unwrap_err();
    });
}

//! Bindings: of queues and of exchanges to exchanges, what goes with the last, and alternates.

use lapin::ExchangeKind;
use lapin::options::ExchangeDeclareOptions;
use lapin::types::FieldTable;

use crate::client::{case, fresh, table, text, until};
use crate::exchanges::{PLAIN, bind, declare, is_there, send};

#[test]
fn auto_delete_exchange_goes_with_its_last_binding() {
    case(async |client| {
        let (queue, name) = (client.queue().await, client.exchange(ExchangeKind::Direct).await);
        client.bind(&queue, &name, "a").await;
        client.bind(&queue, &name, "b").await;
        let unbind = async |key: &str| {
            let none = FieldTable::default();
            client.channel.queue_unbind((&*queue).into(), (&*name).into(), key.into(), none).await
        };
        unbind("a").await.unwrap();
        assert!(is_there(client, &name).await);
        unbind("b").await.unwrap();
        assert!(!is_there(client, &name).await);
    });
}

#[test]
fn auto_delete_exchange_goes_with_its_last_queue() {
    case(async |client| {
        let (queue, name) = (client.queue().await, client.exchange(ExchangeKind::Direct).await);
        client.bind(&queue, &name, "a").await;
        client.channel.queue_delete((&*queue).into(), Default::default()).await.unwrap();
        until("it is gone", async || !is_there(client, &name).await).await;
    });
}

#[test]
fn unbinding_what_is_not_bound_is_done() {
    case(async |client| {
        let (queue, none) = (client.queue().await, FieldTable::default());
        let (queue, exchange) = ((&*queue).into(), "amq.direct".into());
        client.channel.queue_unbind(queue, exchange, "never".into(), none).await.unwrap();
    });
}

#[test]
fn unbound_queue_gets_nothing() {
    case(async |client| {
        let (queue, name) = (client.queue().await, client.exchange(ExchangeKind::Direct).await);
        let other = client.queue().await;
        client.bind(&queue, &name, "k").await;
        client.bind(&other, &name, "k").await;
        let none = FieldTable::default();
        let unbound =
            client.channel.queue_unbind((&*queue).into(), (&*name).into(), "k".into(), none);
        unbound.await.unwrap();
        assert!(send(client, &name, "k", "x").await);
        assert_eq!((client.ready(&queue).await, client.ready(&other).await), (0, 1));
    });
}

#[test]
fn same_binding_twice_is_one() {
    case(async |client| {
        let (queue, name) = (client.queue().await, client.exchange(ExchangeKind::Direct).await);
        client.bind(&queue, &name, "k").await;
        client.bind(&queue, &name, "k").await;
        assert!(send(client, &name, "k", "x").await);
        assert_eq!(client.drain(&queue).await, ["x"]);
    });
}

#[test]
fn bindings_with_other_arguments_are_two() {
    case(async |client| {
        let (queue, name) = (client.queue().await, client.exchange(ExchangeKind::Direct).await);
        let of = || table([("note", text("second"))]);
        client.bind(&queue, &name, "k").await;
        client.bind_with(&queue, &name, "k", of()).await;
        let unbound =
            client.channel.queue_unbind((&*queue).into(), (&*name).into(), "k".into(), of());
        unbound.await.unwrap();
        assert!(send(client, &name, "k", "x").await, "the first binding is still there");
    });
}

#[test]
fn exchange_bound_to_an_exchange_passes_on() {
    case(async |client| {
        let source = client.exchange(ExchangeKind::Topic).await;
        let destination = client.exchange(ExchangeKind::Direct).await;
        let queue = client.queue().await;
        client.bind(&queue, &destination, "a.b").await;
        bind(&client.channel, &destination, &source, "a.*").await.unwrap();
        assert!(send(client, &source, "a.b", "x").await);
        assert!(
            !send(client, &source, "a.c", "y").await,
            "the second exchange has its own bindings"
        );
        assert_eq!(client.drain(&queue).await, ["x"]);
    });
}

#[test]
fn exchange_unbound_from_an_exchange_passes_nothing_on() {
    case(async |client| {
        let source = client.exchange(ExchangeKind::Fanout).await;
        let destination = client.exchange(ExchangeKind::Fanout).await;
        let (kept, queue) = (client.queue().await, client.queue().await);
        client.bind(&kept, &source, "").await;
        client.bind(&queue, &destination, "").await;
        bind(&client.channel, &destination, &source, "").await.unwrap();
        let unbound = client.channel.exchange_unbind(
            (&*destination).into(),
            (&*source).into(),
            "".into(),
            Default::default(),
            FieldTable::default(),
        );
        unbound.await.unwrap();
        assert!(send(client, &source, "", "x").await);
        assert_eq!((client.ready(&kept).await, client.ready(&queue).await), (1, 0));
    });
}

#[test]
fn circle_of_exchanges_delivers_once() {
    case(async |client| {
        let one = client.exchange(ExchangeKind::Fanout).await;
        let other = client.exchange(ExchangeKind::Fanout).await;
        let queue = client.queue().await;
        client.bind(&queue, &one, "").await;
        client.bind(&queue, &other, "").await;
        bind(&client.channel, &one, &other, "").await.unwrap();
        bind(&client.channel, &other, &one, "").await.unwrap();
        assert!(send(client, &one, "", "x").await);
        assert_eq!(client.drain(&queue).await, ["x"]);
    });
}

#[test]
fn internal_exchange_is_reached_from_another() {
    case(async |client| {
        let (source, name) = (client.exchange(ExchangeKind::Fanout).await, fresh("internal"));
        let options = ExchangeDeclareOptions { internal: true, ..PLAIN };
        declare(&client.channel, &name, ExchangeKind::Fanout, options).await.unwrap();
        let queue = client.queue().await;
        client.bind(&queue, &name, "").await;
        bind(&client.channel, &name, &source, "").await.unwrap();
        assert!(send(client, &source, "", "x").await);
        assert_eq!(client.drain(&queue).await, ["x"]);
    });
}

#[test]
fn alternate_exchange_gets_what_goes_nowhere() {
    case(async |client| {
        let (bound, rest) = (client.queue().await, client.queue().await);
        let alternate = client.exchange(ExchangeKind::Fanout).await;
        client.bind(&rest, &alternate, "").await;
        let of = table([("alternate-exchange", text(&alternate))]);
        let name = client.exchange_with(ExchangeKind::Direct, of).await;
        client.bind(&bound, &name, "known").await;
        assert!(send(client, &name, "known", "bound").await);
        assert!(send(client, &name, "unknown", "rest").await);
        assert_eq!(client.drain(&bound).await, ["bound"]);
        assert_eq!(client.drain(&rest).await, ["rest"]);
    });
}

#[test]
fn alternate_exchange_has_an_alternate_exchange() {
    case(async |client| {
        let (queue, last) = (client.queue().await, client.exchange(ExchangeKind::Fanout).await);
        client.bind(&queue, &last, "").await;
        let of = table([("alternate-exchange", text(&last))]);
        let middle = client.exchange_with(ExchangeKind::Direct, of).await;
        let of = table([("alternate-exchange", text(&middle))]);
        let first = client.exchange_with(ExchangeKind::Direct, of).await;
        assert!(send(client, &first, "nowhere", "x").await);
        assert_eq!(client.drain(&queue).await, ["x"]);
    });
}

#[test]
fn missing_alternate_exchange_is_as_none() {
    case(async |client| {
        let of = table([("alternate-exchange", text(&fresh("missing")))]);
        let name = client.exchange_with(ExchangeKind::Direct, of).await;
        assert!(!send(client, &name, "nowhere", "x").await);
    });
}

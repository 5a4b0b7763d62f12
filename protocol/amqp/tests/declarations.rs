//! Is what is declared what was declared before, and does it make sense? With RabbitMQ's texts.

use plimsoll_amqp::error::{Fault, Resource};
use plimsoll_amqp::methods::{ExchangeDeclare, QueueDeclare};
use plimsoll_amqp::routing::*;
use plimsoll_amqp::shortstr::ShortStr;
use plimsoll_amqp::table::{FieldTable, FieldValue, TableBuilder};

fn s(text: &str) -> ShortStr {
    ShortStr::cut(text)
}

#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn text(fault: Fault) -> String {
    fault.reply_text().to_string()
}

#[test]
fn exchange_is_what_it_was_declared_as() {
    let mut topology = Topology::new(s("/"));
    let declare = |kind: &str, durable| {
        let declare = ExchangeDeclare { kind: s(kind), durable, ..Default::default() };
        ExchangeShape::of(&declare).unwrap()
    };
    assert_eq!(topology.declare_exchange(&s("x"), declare("direct", true)), Ok(true));
    assert_eq!(topology.declare_exchange(&s("x"), declare("direct", true)), Ok(false));
    assert_eq!(topology.declare_exchange(&s("amq.direct"), declare("direct", true)), Ok(false));
    let mut refused = |shape| topology.declare_exchange(&s("x"), shape).map_err(text).unwrap_err();
    let wrong = |what: &str, received: &str, current: &str| {
        format!(
            "PRECONDITION_FAILED - inequivalent arg '{what}' for exchange 'x' in vhost '/': \
             received {received} but current is {current}"
        )
    };
    assert_eq!(refused(declare("fanout", true)), wrong("type", "'fanout'", "'direct'"));
    assert_eq!(refused(declare("direct", false)), wrong("durable", "'false'", "'true'"));
    let arguments = TableBuilder::new().text("alternate-exchange", "ae").build().unwrap();
    let with = ExchangeShape { arguments, ..declare("direct", true) };
    let received = "the value 'ae' of type 'longstr'";
    assert_eq!(refused(with), wrong("alternate-exchange", received, "none"));
}

#[test]
fn queue_is_what_it_was_declared_as() {
    let declare = |arguments: FieldTable| {
        QueueShape::of(&QueueDeclare { durable: true, arguments, ..Default::default() })
    };
    let with = |name: &str, value: FieldValue<'_>| {
        declare(TableBuilder::new().field(name, value).build().unwrap())
    };
    let check = |existing: &QueueShape, declared: &QueueShape| {
        check_queue(existing, declared, true, Resource::queue("q", "/")).map_err(text)
    };
    let wrong = |what: &str, received: &str, current: &str| {
        Err(format!(
            "PRECONDITION_FAILED - inequivalent arg '{what}' for queue 'q' in vhost '/': received \
             {received} but current is {current}"
        ))
    };
    let plain = declare(FieldTable::default());
    let transient = QueueShape { durable: false, ..plain.clone() };
    assert_eq!(check(&plain, &transient), wrong("durable", "'false'", "'true'"));
    let ttl = |value| with("x-message-ttl", value);
    let (int, long) = (ttl(FieldValue::I32(1000)), ttl(FieldValue::I64(1000)));
    assert_eq!(check(&int, &long), Ok(()), "integers are compared whatever their width");
    assert_eq!(
        check(&int, &ttl(FieldValue::I64(2000))),
        wrong("x-message-ttl", "'2000'", "'1000'")
    );
    let received = "the value '1000' of type 'signedint'";
    assert_eq!(check(&plain, &int), wrong("x-message-ttl", received, "none"));
    let current = "the value '1000' of type 'long'";
    assert_eq!(check(&long, &plain), wrong("x-message-ttl", "none", current));
    assert_eq!(check(&plain, &with("x-unknown", FieldValue::Void)), Ok(()));

    let of_type = |kind: &str| with("x-queue-type", FieldValue::LongStr(kind.as_bytes()));
    assert_eq!(check(&plain, &of_type("classic")), Ok(()));
    assert_eq!(check(&of_type("classic"), &plain), Ok(()));
    let received = "the value 'quorum' of type 'longstr'";
    assert_eq!(check(&plain, &of_type("quorum")), wrong("x-queue-type", received, "none"));
    assert_eq!(
        check(&of_type("quorum"), &of_type("stream")),
        wrong("x-queue-type", "'stream'", "'quorum'")
    );

    let exclusive =
        QueueShape::of(&QueueDeclare { exclusive: true, durable: true, ..Default::default() });
    assert!(!exclusive.durable);
    let locked = check(&plain, &exclusive).unwrap_err();
    assert!(locked.starts_with(
        "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'q' in vhost '/'. It could"
    ));
    let other = check_queue(&exclusive, &exclusive, false, Resource::queue("q", "/"));
    assert!(other.is_err() && check(&exclusive, &exclusive).is_ok());
}

#[test]
fn arguments_are_read_once() {
    let queue = Resource::queue("q", "/");
    let read = |table: TableBuilder| QueueArguments::read(&table.build().unwrap(), queue);
    let all = TableBuilder::new()
        .field("x-expires", FieldValue::I32(5000))
        .field("x-message-ttl", FieldValue::U8(0))
        .text("x-dead-letter-exchange", "dead")
        .text("x-dead-letter-routing-key", "k")
        .field("x-max-length", FieldValue::I64(10))
        .text("x-overflow", "reject-publish")
        .field("x-max-priority", FieldValue::I8(9))
        .field("x-single-active-consumer", FieldValue::Bool(true))
        .field("x-of-the-user", FieldValue::Void);
    let expected = QueueArguments {
        kind: QueueKind::Classic,
        expires_ms: Some(5000),
        message_ttl_ms: Some(0),
        dead_letter_exchange: Some(s("dead")),
        dead_letter_routing_key: Some(s("k")),
        max_length: Some(10),
        max_length_bytes: None,
        overflow: Overflow::RejectPublish,
        max_priority: Some(9),
        single_active_consumer: true,
        ..QueueArguments::default()
    };
    assert_eq!(read(all), Ok(expected));

    let wrong = |name: &str, value: FieldValue<'_>| {
        text(read(TableBuilder::new().field(name, value)).unwrap_err())
    };
    let cases = [
        ("x-expires", FieldValue::I32(0), "{value_zero,0}"),
        ("x-expires", FieldValue::LongStr(b"1"), "\"expected integer, got longstr\""),
        ("x-message-ttl", FieldValue::I32(-1), "{value_negative,-1}"),
        ("x-message-ttl", FieldValue::I64(1 << 40), "{value_too_big,1099511627776}"),
        ("x-max-priority", FieldValue::I32(256), "{max_value_exceeded,256}"),
        ("x-overflow", FieldValue::LongStr(b"burst"), "invalid_overflow"),
        ("x-single-active-consumer", FieldValue::I32(1), "{unacceptable_type,signedint}"),
        ("x-queue-type", FieldValue::LongStr(b"odd"), "\"unsupported queue type 'odd'\""),
        ("x-dead-letter-routing-key", FieldValue::LongStr(b"k"), "routing_key_but_no_dlx_defined"),
    ];
    for (name, value, reason) in cases {
        let expected = format!(
            "PRECONDITION_FAILED - invalid arg '{name}' for queue 'q' in vhost '/': {reason}"
        );
        assert_eq!(wrong(name, value), expected);
    }
    let quorum = TableBuilder::new()
        .text("x-queue-type", "quorum")
        .field("x-max-priority", FieldValue::I32(9));
    let expected = "invalid arg 'x-max-priority' for queue 'q' in vhost '/' of queue type \
                    rabbit_quorum_queue";
    assert_eq!(text(read(quorum).unwrap_err()), format!("PRECONDITION_FAILED - {expected}"));
}

#[test]
fn stream_says_how_long_it_keeps_and_how_many_nodes_it_wants() {
    let queue = Resource::queue("q", "/");
    let read = |table: TableBuilder| {
        QueueArguments::read(&table.text("x-queue-type", "stream").build().unwrap(), queue)
    };
    let all = TableBuilder::new()
        .text("x-max-age", "7D")
        .field("x-max-length-bytes", FieldValue::I64(1 << 30))
        .field("x-stream-max-segment-size-bytes", FieldValue::I32(1 << 20))
        .field("x-initial-cluster-size", FieldValue::I32(1));
    let expected = QueueArguments {
        kind: QueueKind::Stream,
        max_age_ms: Some(7 * 24 * 60 * 60 * 1000),
        max_length_bytes: Some(1 << 30),
        segment_bytes: Some(1 << 20),
        replicas: Some(1),
        ..QueueArguments::default()
    };
    assert_eq!(read(all), Ok(expected));
    for wrong in ["", "D", "7", "7d", "-1D", "+1D", "1.5h", "99999999999999999999D"] {
        let refused = text(read(TableBuilder::new().text("x-max-age", wrong)).unwrap_err());
        assert!(refused.ends_with(": invalid_max_age"), "{wrong}: {refused}");
    }
    let huge = read(TableBuilder::new().text("x-max-age", "9999999999999999999Y")).unwrap();
    assert_eq!(huge.max_age_ms, Some(u64::MAX));
    for wrong in ["x-stream-max-segment-size-bytes", "x-initial-cluster-size"] {
        let refused = read(TableBuilder::new().field(wrong, FieldValue::I32(0))).unwrap_err();
        assert!(text(refused).ends_with("{value_zero,0}"));
    }
    let queues = TableBuilder::new().field("x-message-ttl", FieldValue::I32(1));
    assert!(text(read(queues).unwrap_err()).ends_with("of queue type rabbit_stream_queue"));
}

#[test]
fn replicated_queue_outlives_connections_and_consumers() {
    let queue = Resource::queue("q", "/");
    let durable = QueueShape { durable: true, ..QueueShape::default() };
    let exclusive = QueueShape { exclusive: true, durable: false, ..durable.clone() };
    let auto_delete = QueueShape { auto_delete: true, ..durable.clone() };
    let transient = QueueShape::default();
    for kind in [QueueKind::Quorum, QueueKind::Stream] {
        assert_eq!(kind.check(&durable, queue), Ok(()));
        for (shape, wrong) in [
            (&exclusive, "exclusive-owner"),
            (&auto_delete, "auto-delete"),
            (&transient, "non-durable"),
        ] {
            let expected = format!(
                "PRECONDITION_FAILED - invalid property '{wrong}' for queue 'q' in vhost '/'"
            );
            assert_eq!(kind.check(shape, queue).map_err(text), Err(expected));
        }
    }
    for shape in [&exclusive, &auto_delete, &transient] {
        assert_eq!(QueueKind::Classic.check(shape, queue), Ok(()));
    }
}

#[test]
fn reader_of_a_stream_says_where_it_begins() {
    let read = |value: FieldValue<'_>| {
        let arguments = TableBuilder::new().field("x-stream-offset", value).build().unwrap();
        StreamStart::read(&arguments, Resource::queue("q", "/"))
    };
    let named = |name: &str| read(FieldValue::LongStr(name.as_bytes()));
    assert_eq!(
        StreamStart::read(&FieldTable::default(), Resource::queue("q", "/")),
        Ok(StreamStart::Next)
    );
    assert_eq!(named("first"), Ok(StreamStart::First));
    assert_eq!(named("last"), Ok(StreamStart::Last));
    assert_eq!(named("next"), Ok(StreamStart::Next));
    assert_eq!(named("1h"), Ok(StreamStart::Age(3_600_000)));
    assert_eq!(read(FieldValue::I32(7)), Ok(StreamStart::Offset(7)));
    assert_eq!(read(FieldValue::Timestamp(7)), Ok(StreamStart::Time(7000)));
    for wrong in [FieldValue::I64(-1), FieldValue::Bool(true), FieldValue::LongStr(b"soon")] {
        let refused = text(read(wrong).unwrap_err());
        assert!(refused.contains("invalid arg 'x-stream-offset' for queue 'q'"), "{refused}");
    }
}

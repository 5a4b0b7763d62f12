//! Which messages a binding lets through, as tables: one row is one case.

use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, ExchangeKind};

use crate::client::{case, headers, int, table, text};

/// Publishes through an exchange with one binding; the message is in the queue, or came back.
fn routed(
    kind: ExchangeKind,
    key: &str,
    arguments: FieldTable,
    sent_key: &str,
    properties: BasicProperties,
) -> bool {
    let mut came = false;
    case(async |client| {
        let (queue, exchange) = (client.queue().await, client.exchange(kind).await);
        client.bind_with(&queue, &exchange, key, arguments).await;
        let told = client.send(&exchange, sent_key, b"body", properties).await.expect("a confirm");
        assert!(told.is_ack());
        let returned = told.take_message();
        came = client.drain(&queue).await == ["body"];
        assert_eq!(returned.map(|returned| returned.reply_code), (!came).then_some(312));
    });
    came
}

macro_rules! by_key {
    ($($name:ident: $kind:ident $binding:literal, $key:literal => $expected:literal;)*) => {$(
        #[test]
        fn $name() {
            let (kind, properties) = (ExchangeKind::$kind, BasicProperties::default());
            let came = routed(kind, $binding, FieldTable::default(), $key, properties);
            assert_eq!(came, $expected, "{} gets {}", $binding, $key);
        }
    )*};
}

by_key! {
    direct_takes_its_key: Direct "key", "key" => true;
    direct_takes_no_other_key: Direct "key", "kez" => false;
    direct_has_no_patterns: Direct "a.*", "a.b" => false;
    direct_takes_the_empty_key: Direct "", "" => true;
    direct_tells_case_apart: Direct "Key", "key" => false;
    fanout_takes_any_key: Fanout "this", "that" => true;
    fanout_takes_the_empty_key: Fanout "", "" => true;
    topic_takes_its_words: Topic "a.b.c", "a.b.c" => true;
    topic_star_is_one_word: Topic "a.*.c", "a.b.c" => true;
    topic_star_is_not_two_words: Topic "a.*", "a.b.c" => false;
    topic_star_is_not_no_word: Topic "a.*", "a" => false;
    topic_star_may_be_an_empty_word: Topic "a.*", "a." => true;
    topic_hash_is_no_word: Topic "a.#", "a" => true;
    topic_hash_is_many_words: Topic "a.#", "a.b.c.d" => true;
    topic_hash_takes_the_empty_key: Topic "#", "" => true;
    topic_hash_in_the_middle: Topic "a.#.z", "a.b.c.z" => true;
    topic_hash_in_the_middle_is_no_word: Topic "a.#.z", "a.z" => true;
    topic_hash_first: Topic "#.z", "x.y.z" => true;
    topic_hash_and_star: Topic "#.*", "a.b" => true;
    topic_hash_and_star_want_a_word: Topic "*.#", "" => false;
    topic_pattern_is_of_whole_words: Topic "a*", "ab" => false;
    topic_needs_the_end: Topic "a.b", "a.b.c" => false;
    topic_tells_case_apart: Topic "a.B", "a.b" => false;
}

macro_rules! by_headers {
    ($($name:ident: $binding:expr, $sent:expr => $expected:literal;)*) => {$(
        #[test]
        fn $name() {
            let came = routed(ExchangeKind::Headers, "", table($binding), "key", headers($sent));
            assert_eq!(came, $expected);
        }
    )*};
}

by_headers! {
    headers_all_of_them: [("x-match", text("all")), ("a", int(1)), ("b", text("2"))],
        [("a", int(1)), ("b", text("2")), ("c", int(3))] => true;
    headers_all_but_one: [("x-match", text("all")), ("a", int(1)), ("b", text("2"))],
        [("a", int(1))] => false;
    headers_all_is_what_is_meant: [("a", int(1)), ("b", int(2))], [("b", int(2))] => false;
    headers_any_of_them: [("x-match", text("any")), ("a", int(1)), ("b", int(2))],
        [("b", int(2))] => true;
    headers_none_of_any: [("x-match", text("any")), ("a", int(1))], [("a", int(2))] => false;
    headers_of_another_type: [("a", int(1))], [("a", text("1"))] => false;
    headers_without_a_value_want_the_name: [("a", AMQPValue::Void)], [("a", text("what"))] => true;
    headers_that_begin_with_x_are_not_compared: [("a", int(1)), ("x-b", int(2))],
        [("a", int(1))] => true;
    headers_all_with_x_compares_them: [("x-match", text("all-with-x")), ("x-b", int(2))],
        [("x-b", int(3))] => false;
    headers_any_with_x_compares_them: [("x-match", text("any-with-x")), ("x-b", int(2))],
        [("x-b", int(2))] => true;
    headers_nothing_asked_takes_all: [], [("a", int(1))] => true;
}

#[test]
fn headers_take_no_message_without_headers() {
    let arguments = table([("a", int(1))]);
    let properties = BasicProperties::default();
    assert!(!routed(ExchangeKind::Headers, "", arguments, "key", properties));
}

#[test]
fn topic_that_matches_twice_delivers_once() {
    case(async |client| {
        let (queue, exchange) = (client.queue().await, client.exchange(ExchangeKind::Topic).await);
        client.bind(&queue, &exchange, "a.#").await;
        client.bind(&queue, &exchange, "#.b").await;
        client.send(&exchange, "a.b", b"once", BasicProperties::default()).await.unwrap();
        assert_eq!(client.drain(&queue).await, ["once"]);
    });
}

#[test]
fn copies_go_to_every_queue_that_matches() {
    case(async |client| {
        let exchange = client.exchange(ExchangeKind::Topic).await;
        let mut queues = Vec::new();
        for key in ["a.b", "a.*", "#", "b.*"] {
            let queue = client.queue().await;
            client.bind(&queue, &exchange, key).await;
            queues.push(queue);
        }
        client.send(&exchange, "a.b", b"copy", BasicProperties::default()).await.unwrap();
        let mut came = Vec::new();
        for queue in &queues {
            came.push(client.drain(queue).await.len());
        }
        assert_eq!(came, [1, 1, 1, 0]);
    });
}

//! Contents: bodies, properties and headers come as they went.

use lapin::types::{AMQPValue, ByteArray, DecimalValue, FieldArray, FieldTable};
use lapin::{BasicProperties, ExchangeKind};

use crate::client::{case, fresh, header, headers, int, next, table, text};

macro_rules! bodies {
    ($($name:ident: $size:expr;)*) => {$(
        #[test]
        fn $name() {
            case(async |client| {
                let queue = client.queue().await;
                let body: Vec<u8> = (0..$size).map(|at: u32| (at % 251) as u8).collect();
                let told = client.send("", &queue, &body, BasicProperties::default()).await;
                assert!(told.unwrap().is_ack());
                let message = client.get(&queue).await.unwrap();
                assert!(message.data == body, "{} bytes came", message.data.len());
                message.ack(Default::default()).await.unwrap();
            });
        }
    )*};
}

bodies! {
    empty_body: 0;
    body_of_one_byte: 1;
    body_one_short_of_a_frame: 131_072 - 9;
    body_of_just_a_frame: 131_072 - 8;
    body_one_more_than_a_frame: 131_072 - 7;
    body_of_a_mebibyte: 1 << 20;
    body_of_eight_mebibytes: 8 << 20;
}

#[test]
fn large_body_is_delivered_to_a_consumer() {
    case(async |client| {
        let queue = client.queue().await;
        let mut consumer = client.consume(&queue).await;
        let body = vec![9; 3 << 20];
        client.send("", &queue, &body, BasicProperties::default()).await.unwrap();
        let delivery = next(&mut consumer).await;
        assert!(delivery.data == body);
    });
}

#[test]
fn bytes_that_are_no_text_stay() {
    case(async |client| {
        let queue = client.queue().await;
        let body: Vec<u8> = (0..=255).collect();
        client.send("", &queue, &body, BasicProperties::default()).await.unwrap();
        assert_eq!(client.get(&queue).await.unwrap().data, body);
    });
}

fn all_properties() -> BasicProperties {
    headers([("key", text("value"))])
        .with_content_type("text/plain".into())
        .with_content_encoding("gzip".into())
        .with_delivery_mode(2)
        .with_priority(3)
        .with_correlation_id("correlation".into())
        .with_reply_to("reply".into())
        .with_expiration("600000".into())
        .with_message_id("message".into())
        .with_timestamp(1_700_000_000)
        .with_type("kind".into())
        .with_user_id("guest".into())
        .with_app_id("app".into())
        .with_cluster_id("cluster".into())
}

#[test]
fn all_properties_stay() {
    case(async |client| {
        let queue = client.queue().await;
        client.put_with(&queue, "x", all_properties()).await;
        assert_eq!(client.get(&queue).await.unwrap().properties, all_properties());
    });
}

#[test]
fn all_properties_stay_on_the_way_to_a_consumer() {
    case(async |client| {
        let queue = client.queue().await;
        let mut consumer = client.consume(&queue).await;
        client.put_with(&queue, "x", all_properties()).await;
        assert_eq!(next(&mut consumer).await.properties, all_properties());
    });
}

#[test]
fn no_properties_stay_none() {
    case(async |client| {
        let queue = client.queue().await;
        client.put(&queue, "x").await;
        assert_eq!(client.get(&queue).await.unwrap().properties, BasicProperties::default());
    });
}

#[test]
fn delivery_says_exchange_and_key() {
    case(async |client| {
        let (queue, exchange) = (client.queue().await, client.exchange(ExchangeKind::Topic).await);
        client.bind(&queue, &exchange, "a.#").await;
        client.send(&exchange, "a.b.c", b"x", BasicProperties::default()).await.unwrap();
        let message = client.get(&queue).await.unwrap();
        assert_eq!(message.exchange.as_str(), exchange);
        assert_eq!(message.routing_key.as_str(), "a.b.c");
        assert!(!message.redelivered);
    });
}

macro_rules! header_values {
    ($($name:ident: $value:expr;)*) => {$(
        #[test]
        fn $name() {
            case(async |client| {
                let (queue, value) = (client.queue().await, $value);
                client.put_with(&queue, "x", headers([("header", value.clone())])).await;
                let message = client.get(&queue).await.unwrap();
                assert_eq!(header(&message, "header"), Some(&value));
            });
        }
    )*};
}

header_values! {
    header_true: AMQPValue::Boolean(true);
    header_false: AMQPValue::Boolean(false);
    header_of_8_bits: AMQPValue::ShortShortInt(-8);
    header_of_8_bits_without_sign: AMQPValue::ShortShortUInt(200);
    header_of_16_bits: AMQPValue::ShortInt(-1600);
    header_of_16_bits_without_sign: AMQPValue::ShortUInt(60_000);
    header_of_32_bits: AMQPValue::LongInt(-32_000_000);
    header_of_32_bits_without_sign: AMQPValue::LongUInt(4_000_000_000);
    header_of_64_bits: AMQPValue::LongLongInt(i64::MIN);
    header_float: AMQPValue::Float(1.5);
    header_double: AMQPValue::Double(-2.25);
    header_decimal: AMQPValue::DecimalValue(DecimalValue { scale: 2, value: 314 });
    header_text: text("Grüße");
    header_empty_text: text("");
    header_bytes: AMQPValue::ByteArray(ByteArray::from(vec![0, 255, 7]));
    header_timestamp: AMQPValue::Timestamp(1_700_000_000);
    header_nothing: AMQPValue::Void;
    header_list: AMQPValue::FieldArray(FieldArray::from(vec![int(1), text("two"), AMQPValue::Void]));
    header_table: AMQPValue::FieldTable(table([("in", int(1)), ("out", text("two"))]));
    header_tables_in_lists: AMQPValue::FieldArray(FieldArray::from(vec![
        AMQPValue::FieldTable(table([("deep", AMQPValue::FieldArray(FieldArray::default()))])),
    ]));
}

#[test]
fn headers_are_many() {
    case(async |client| {
        let (queue, mut all) = (client.queue().await, FieldTable::default());
        for number in 0..200 {
            all.insert(fresh("header").into(), int(number));
        }
        client.put_with(&queue, "x", BasicProperties::default().with_headers(all.clone())).await;
        assert_eq!(client.get(&queue).await.unwrap().properties.headers(), &Some(all));
    });
}

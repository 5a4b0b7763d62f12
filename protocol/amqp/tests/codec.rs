//! Methods, properties, tables and frames: what was written is what is read, whatever it is.

mod model;

use bytes::{BufMut, Bytes, BytesMut};
use plimsoll_amqp::frame::{self, Frame, FrameError};
use plimsoll_amqp::methods::{METHODS, Method, MethodError};
use plimsoll_amqp::properties::{ContentHeader, Properties};
use plimsoll_amqp::shortstr::ShortStr;
use plimsoll_amqp::table::{FieldTable, FieldValue, TABLE_DEPTH_MAX, TableBuilder, TableError};
use plimsoll_amqp::wire::Malformed;
use proptest::prelude::*;

use model::{Fields, Value, any_fields, payload_of};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The payload is written by the tests from the table's types, not by the crate.
    #[test]
    fn every_method_survives(seed: [u8; 32], table in any_fields()) {
        for spec in METHODS {
            let payload = payload_of(spec, &seed, &table);
            let method = Method::read(&payload).unwrap();
            prop_assert_eq!(method.spec(), spec);
            let mut out = BytesMut::new();
            method.write(&mut out);
            prop_assert_eq!(&out[..], &payload[..], "{}", spec.name);

            // Nothing shorter and nothing longer is this method.
            for cut in 4..payload.len() {
                prop_assert!(Method::read(&payload.slice(..cut)).is_err(), "{}", spec.name);
            }
            out.put_u8(0);
            let longer = Method::read(&out.freeze());
            let trailing = matches!(
                longer,
                Err(MethodError::Fields { malformed: Malformed::Trailing { extra: 1 }, .. })
            );
            prop_assert!(trailing);
        }
    }

    #[test]
    fn tables_survive(fields in any_fields()) {
        let table = fields.build().unwrap();
        prop_assert_eq!(Fields::read(table.fields()), fields.clone());
        let again = FieldTable::parse(Bytes::copy_from_slice(table.as_bytes())).unwrap();
        prop_assert_eq!(again, table.clone());
        for (name, _) in &fields.0 {
            let first = fields.0.iter().find(|(other, _)| other == name).unwrap();
            let found = std::str::from_utf8(name).ok().and_then(|name| table.find(name));
            if let Some(found) = found {
                prop_assert_eq!(Value::read(found), first.1.clone());
            }
        }
        for cut in 0..table.as_bytes().len() {
            // A table that ends between two fields is one.
            let _ = FieldTable::parse(Bytes::copy_from_slice(&table.as_bytes()[..cut]));
        }
    }

    #[test]
    fn properties_survive(
        present: u16,
        text in "[a-zä ]{0,60}",
        number: u8,
        seconds: u64,
        headers in any_fields(),
    ) {
        let text = ShortStr::cut(&text);
        let given = |bit: u16| present & 1 << bit != 0;
        let text_if = |bit: u16| given(bit).then(|| text.clone());
        let properties = Properties {
            content_type: text_if(0),
            content_encoding: text_if(1),
            headers: given(2).then(|| headers.build().unwrap()),
            delivery_mode: given(3).then_some(number),
            priority: given(4).then_some(number),
            correlation_id: text_if(5),
            reply_to: text_if(6),
            expiration: text_if(7),
            message_id: text_if(8),
            timestamp: given(9).then_some(seconds),
            kind: text_if(10),
            user_id: text_if(11),
            app_id: text_if(12),
            cluster_id: text_if(13),
        };
        let bytes = properties.to_bytes();
        // Bit 15 is the first property.
        prop_assert_eq!(bytes[0], (present.reverse_bits() >> 8) as u8);
        prop_assert_eq!(Properties::read(&bytes), Ok(properties));
        let mut out = BytesMut::new();
        ContentHeader::write(&mut out, 77, &bytes);
        let header = ContentHeader::read(&out.freeze()).unwrap();
        prop_assert_eq!(header, ContentHeader { class: 60, body_bytes: 77, properties: bytes });
    }

    #[test]
    fn frames_survive_in_any_pieces(
        frames in prop::collection::vec(
            (any::<u8>(), any::<u16>(), prop::collection::vec(any::<u8>(), 0..300)),
            0..8,
        ),
        cuts in prop::collection::vec(0usize..2000, 0..20),
    ) {
        let mut stream = BytesMut::new();
        for (kind, channel, payload) in &frames {
            stream.put_u8(*kind);
            stream.put_u16(*channel);
            stream.put_u32(payload.len() as u32);
            stream.put_slice(payload);
            stream.put_u8(0xce);
        }
        let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(stream.len())).collect();
        cuts.push(stream.len());
        cuts.sort_unstable();
        let (mut input, mut at, mut read) = (BytesMut::new(), 0, Vec::new());
        for cut in cuts {
            input.extend_from_slice(&stream[at..cut]);
            at = cut;
            while let Some(frame) = Frame::take(&mut input, 4096).unwrap() {
                read.push((frame.kind, frame.channel, frame.payload.to_vec()));
            }
        }
        prop_assert_eq!(read, frames);
        prop_assert!(input.is_empty());
    }
}

/// A table in a table in a table, `depth` deep.
fn nested(depth: usize) -> Bytes {
    let mut bytes = Vec::new();
    for _ in 1..depth {
        let mut outer = vec![1, b'a', b'F'];
        outer.extend((bytes.len() as u32).to_be_bytes());
        outer.extend(bytes);
        bytes = outer;
    }
    bytes.into()
}

#[test]
fn tables_nest_up_to_the_limit_and_no_further() {
    assert!(FieldTable::parse(nested(TABLE_DEPTH_MAX)).is_ok());
    for depth in [TABLE_DEPTH_MAX + 1, 1000, 5000] {
        assert_eq!(FieldTable::parse(nested(depth)), Err(TableError::TooDeep));
    }
    let deepest = FieldTable::parse(nested(TABLE_DEPTH_MAX)).unwrap();
    let deeper = TableBuilder::new().field("a", FieldValue::Table(deepest.fields())).build();
    assert_eq!(deeper, Err(TableError::TooDeep));
}

#[test]
fn letters_are_those_of_rabbitmq() {
    let table = |bytes: &'static [u8]| FieldTable::parse(Bytes::from_static(bytes)).unwrap();
    // `s` is a number, not a short string; `l` and `L` are the same.
    assert_eq!(table(b"\x01as\xff\xfe").find("a"), Some(FieldValue::I16(-2)));
    assert_eq!(table(b"\x01al\0\0\0\0\0\0\0\x07").find("a"), Some(FieldValue::I64(7)));
    assert_eq!(
        table(b"\x01aL\xff\xff\xff\xff\xff\xff\xff\xff").find("a"),
        Some(FieldValue::I64(-1))
    );
    assert_eq!(table(b"\x01ax\0\0\0\x01z").find("a"), Some(FieldValue::Bytes(b"z")));
    assert_eq!(table(b"\x01at\x02").find("a"), Some(FieldValue::Bool(true)));
    for letter in (0..=u8::MAX).filter(|letter| !b"tbBsuIilLfdDSxATFV".contains(letter)) {
        let bytes = Bytes::copy_from_slice(&[1, b'a', letter, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(FieldTable::parse(bytes), Err(TableError::UnknownType { letter }));
    }
}

#[test]
fn frames_are_refused_by_their_header_or_end() {
    let take = |bytes: &[u8], max| Frame::take(&mut BytesMut::from(bytes), max);
    // Eight bytes more than agreed are forgiven, nine are not; no payload is waited for.
    let header = |bytes: u32| [&[3, 0, 1][..], &bytes.to_be_bytes()].concat();
    assert_eq!(take(&header(4096), 4096), Ok(None));
    let (kind, limit) = (3, 4088);
    assert_eq!(take(&header(4097), 4096), Err(FrameError::TooLarge { kind, bytes: 4097, limit }));
    assert!(take(&header(u32::MAX), 131_072).is_err());
    let error = take(&[8, 0, 0, 0, 0, 0, 0, 0xcd], 4096).unwrap_err();
    let text = "FRAME_ERROR - type 8, all octets = <<>>: {invalid_frame_end_marker,205}";
    assert_eq!(&*error.fault().reply_text(), text);
    assert_eq!(frame::bytes_wanted(&[8, 0, 0, 0, 0, 0, 9]), 10);
}

#[test]
fn methods_that_nobody_knows_are_told_by_code() {
    let fault =
        |bytes: &'static [u8]| Method::read(&Bytes::from_static(bytes)).unwrap_err().fault();
    assert_eq!(fault(&[0, 60, 0]).code.number(), 501);
    assert_eq!(fault(&[0, 60, 0, 1]).code.number(), 540);
    let fault = fault(&[0, 60, 0, 80, 1, 2]);
    let text = "FRAME_ERROR - cannot decode <<1,2>>";
    assert_eq!((&*fault.reply_text(), fault.method.method), (text, 80));
}

#[test]
fn flags_of_unknown_properties_are_refused() {
    let read = |bytes: &'static [u8]| Properties::read(&Bytes::from_static(bytes));
    assert_eq!(read(&[0, 0]), Ok(Properties::default()));
    assert_eq!(read(&[0, 1, 0, 0]), Ok(Properties::default()));
    assert_eq!(read(&[0, 2]), Err(Malformed::UnknownProperties));
    assert_eq!(read(&[0, 1, 0x80, 0]), Err(Malformed::UnknownProperties));
    assert_eq!(read(&[0, 1, 0, 1, 0, 1]), Err(Malformed::Truncated));
    assert_eq!(read(&[0, 0, 0]), Err(Malformed::Trailing { extra: 1 }));
}

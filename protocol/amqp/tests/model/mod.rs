//! What the tests hold beside the crate: tables as trees, methods written from the list of their
//! fields.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "not every test uses all of it")]

use bytes::{BufMut, Bytes, BytesMut};
use plimsoll_amqp::methods::MethodSpec;
use plimsoll_amqp::table::{
    ArrayBuilder, FieldTable, FieldValue, TableBuilder, TableError, TableRef,
};
use plimsoll_amqp::wire::FieldType;
use proptest::prelude::*;

/// A value as a tree. Floats are their bits, so that they can be compared.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Bool(bool),
    I8(i8),
    U8(u8),
    I16(i16),
    U16(u16),
    I32(i32),
    U32(u32),
    I64(i64),
    F32(u32),
    F64(u64),
    Decimal(u8, u32),
    LongStr(Vec<u8>),
    Bytes(Vec<u8>),
    Array(Vec<Value>),
    Timestamp(u64),
    Table(Fields),
    Void,
}

/// A table as a tree.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Fields(pub Vec<(Vec<u8>, Value)>);

impl Fields {
    pub fn read(table: TableRef<'_>) -> Self {
        Self(table.iter().map(|(name, value)| (name.to_vec(), Value::read(value))).collect())
    }

    pub fn build(&self) -> Result<FieldTable, TableError> {
        let mut builder = TableBuilder::new();
        for (name, value) in &self.0 {
            value.with(&mut |value| builder = std::mem::take(&mut builder).field(name, value));
        }
        builder.build()
    }
}

impl Value {
    pub fn read(value: FieldValue<'_>) -> Self {
        match value {
            FieldValue::Bool(x) => Self::Bool(x),
            FieldValue::I8(x) => Self::I8(x),
            FieldValue::U8(x) => Self::U8(x),
            FieldValue::I16(x) => Self::I16(x),
            FieldValue::U16(x) => Self::U16(x),
            FieldValue::I32(x) => Self::I32(x),
            FieldValue::U32(x) => Self::U32(x),
            FieldValue::I64(x) => Self::I64(x),
            FieldValue::F32(x) => Self::F32(x.to_bits()),
            FieldValue::F64(x) => Self::F64(x.to_bits()),
            FieldValue::Decimal { scale, value } => Self::Decimal(scale, value),
            FieldValue::LongStr(x) => Self::LongStr(x.to_vec()),
            FieldValue::Bytes(x) => Self::Bytes(x.to_vec()),
            FieldValue::Array(x) => Self::Array(x.iter().map(Self::read).collect()),
            FieldValue::Timestamp(x) => Self::Timestamp(x),
            FieldValue::Table(x) => Self::Table(Fields::read(x)),
            FieldValue::Void => Self::Void,
        }
    }

    /// Calls `take` with the value as the crate has it.
    pub fn with(&self, take: &mut dyn FnMut(FieldValue<'_>)) {
        let value = match self {
            Self::Bool(x) => FieldValue::Bool(*x),
            Self::I8(x) => FieldValue::I8(*x),
            Self::U8(x) => FieldValue::U8(*x),
            Self::I16(x) => FieldValue::I16(*x),
            Self::U16(x) => FieldValue::U16(*x),
            Self::I32(x) => FieldValue::I32(*x),
            Self::U32(x) => FieldValue::U32(*x),
            Self::I64(x) => FieldValue::I64(*x),
            Self::F32(x) => FieldValue::F32(f32::from_bits(*x)),
            Self::F64(x) => FieldValue::F64(f64::from_bits(*x)),
            Self::Decimal(scale, value) => FieldValue::Decimal { scale: *scale, value: *value },
            Self::LongStr(x) => FieldValue::LongStr(x),
            Self::Bytes(x) => FieldValue::Bytes(x),
            Self::Timestamp(x) => FieldValue::Timestamp(*x),
            Self::Void => FieldValue::Void,
            Self::Array(values) => {
                let mut array = ArrayBuilder::default();
                for value in values {
                    value.with(&mut |value| array.push(value));
                }
                return take(array.as_value());
            }
            Self::Table(fields) => {
                let table = fields.build().expect("shallow");
                return take(FieldValue::Table(table.fields()));
            }
        };
        take(value);
    }
}

fn any_scalar() -> impl Strategy<Value = Value> {
    let text = || prop::collection::vec(any::<u8>(), 0..12);
    prop_oneof![
        any::<bool>().prop_map(Value::Bool),
        any::<i8>().prop_map(Value::I8),
        any::<u8>().prop_map(Value::U8),
        any::<i16>().prop_map(Value::I16),
        any::<u16>().prop_map(Value::U16),
        any::<i32>().prop_map(Value::I32),
        any::<u32>().prop_map(Value::U32),
        any::<i64>().prop_map(Value::I64),
        any::<u32>().prop_map(Value::F32),
        any::<u64>().prop_map(Value::F64),
        any::<(u8, u32)>().prop_map(|(scale, value)| Value::Decimal(scale, value)),
        text().prop_map(Value::LongStr),
        text().prop_map(Value::Bytes),
        any::<u64>().prop_map(Value::Timestamp),
        Just(Value::Void),
    ]
}

fn fields_of(value: impl Strategy<Value = Value>) -> impl Strategy<Value = Fields> {
    let name = prop_oneof![
        "[a-c]{0,2}".prop_map(String::into_bytes),
        prop::collection::vec(any::<u8>(), 0..6),
    ];
    prop::collection::vec((name, value), 0..5).prop_map(Fields)
}

/// Any table that is not deep.
pub fn any_fields() -> impl Strategy<Value = Fields> {
    fields_of(any_scalar().prop_recursive(4, 24, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::Array),
            fields_of(inner).prop_map(Value::Table),
        ]
    }))
}

/// The payload of a method's frame, its fields taken from `seed` and `table`.
pub fn payload_of(spec: &MethodSpec, seed: &[u8; 32], table: &Fields) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u16(spec.id.class);
    out.put_u16(spec.id.method);
    let mut bits = 0u32;
    for (index, (_, kind)) in spec.fields.iter().enumerate() {
        let number = u64::from_be_bytes(seed[index..index + 8].try_into().expect("8 bytes"));
        let text = format!("{number:x}").repeat(usize::from(seed[index] % 8));
        if *kind == FieldType::Bit {
            if bits.is_multiple_of(8) {
                out.put_u8(0);
            }
            *out.last_mut().expect("begun") |= ((number & 1) as u8) << (bits % 8);
            bits += 1;
            continue;
        }
        bits = 0;
        match kind {
            FieldType::Octet => out.put_u8(number as u8),
            FieldType::Short => out.put_u16(number as u16),
            FieldType::Long => out.put_u32(number as u32),
            FieldType::LongLong => out.put_u64(number),
            FieldType::ShortStr => {
                out.put_u8(text.len() as u8);
                out.put_slice(text.as_bytes());
            }
            FieldType::LongStr => {
                out.put_u32(seed.len() as u32);
                out.put_slice(seed);
            }
            FieldType::Table => {
                let table = table.build().expect("shallow");
                out.put_u32(table.as_bytes().len() as u32);
                out.put_slice(table.as_bytes());
            }
            FieldType::Bit => unreachable!("bits were written above"),
        }
    }
    out.freeze()
}

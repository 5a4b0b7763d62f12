//! Values of your own types in place of bytes.

use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;
use plimsoll_protocol::batch::Record;
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::consumer::{ConsumedRecord, Consumer};
use crate::error::{ConsumeError, SendError};
use crate::producer::{Ack, AckFuture, Producer};

/// How values become bytes and back.
pub trait Codec: Send + Sync + 'static {
    /// Why a value cannot be encoded or bytes cannot be decoded.
    type Error: std::error::Error + Send + Sync + 'static;

    /// A value's bytes.
    ///
    /// # Errors
    /// When the value has no encoding.
    fn encode<T: Serialize>(value: &T) -> Result<Bytes, Self::Error>;

    /// The value of bytes.
    ///
    /// # Errors
    /// When the bytes are not an encoding of `T`.
    fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Self::Error>;
}

/// JSON by serde_json.
#[derive(Debug, Clone, Copy)]
pub struct Json;

impl Codec for Json {
    type Error = serde_json::Error;

    fn encode<T: Serialize>(value: &T) -> Result<Bytes, Self::Error> {
        serde_json::to_vec(value).map(Bytes::from)
    }

    fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Self::Error> {
        serde_json::from_slice(bytes)
    }
}

/// Why a typed value was not sent.
#[derive(Debug, Error)]
pub enum TypedSendError<E: std::error::Error> {
    /// The value has no encoding; nothing was sent.
    #[error("the value cannot be encoded: {0}")]
    Encode(E),
    /// The record was not acknowledged.
    #[error(transparent)]
    Send(#[from] SendError),
}

/// Why a typed value was not received.
#[derive(Debug, Error)]
pub enum TypedConsumeError<E: std::error::Error> {
    /// The record's value is not one of `T`; the record itself comes along, and reading goes on.
    #[error("partition {}, offset {}: the value cannot be decoded: {source}", record.partition, record.offset)]
    Decode {
        /// The record as it was stored.
        record: Box<ConsumedRecord>,
        /// What the codec said.
        source: E,
    },
    /// The partition has ended.
    #[error(transparent)]
    Consume(#[from] ConsumeError),
}

/// A producer of values of type `T`.
#[derive(Clone)]
pub struct TypedProducer<T, C: Codec = Json> {
    producer: Producer,
    types: PhantomData<fn(T, C)>,
}

impl<T: Serialize, C: Codec> TypedProducer<T, C> {
    /// Wraps a producer.
    pub fn new(producer: Producer) -> Self {
        Self { producer, types: PhantomData }
    }

    /// Sends a value, with a key where order per key matters, and waits for the acknowledgement.
    ///
    /// # Errors
    /// A value without encoding, or as [`Producer::send`].
    pub async fn send(
        &self,
        key: Option<Bytes>,
        value: &T,
    ) -> Result<Ack, TypedSendError<C::Error>> {
        Ok(self.enqueue(key, value).await?.await?)
    }

    /// Queues a value, waiting for room in the buffer, and gives the future of its acknowledgement:
    /// queue many, then await them together.
    ///
    /// # Errors
    /// A value without encoding, or as [`Producer::enqueue`].
    pub async fn enqueue(
        &self,
        key: Option<Bytes>,
        value: &T,
    ) -> Result<AckFuture, TypedSendError<C::Error>> {
        let mut record = Record::new(C::encode(value).map_err(TypedSendError::Encode)?);
        record.key = key;
        Ok(self.producer.enqueue(record).await?)
    }

    /// The producer of bytes inside.
    pub fn producer(&self) -> &Producer {
        &self.producer
    }
}

/// A record whose value was decoded.
#[derive(Debug, Clone)]
pub struct Typed<T> {
    /// The value; `None` for a record without one (a tombstone).
    pub value: Option<T>,
    /// The record with its place.
    pub record: ConsumedRecord,
}

/// A consumer of values of type `T`.
pub struct TypedConsumer<T, C: Codec = Json> {
    consumer: Consumer,
    types: PhantomData<fn(C) -> T>,
}

impl<T: DeserializeOwned, C: Codec> TypedConsumer<T, C> {
    /// Wraps a consumer.
    pub fn new(consumer: Consumer) -> Self {
        Self { consumer, types: PhantomData }
    }

    /// The next value. `None` when all partitions have ended.
    ///
    /// # Errors
    /// A value that cannot be decoded (reading goes on with the next call), or as
    /// [`Consumer::next`].
    pub async fn next(&mut self) -> Option<Result<Typed<T>, TypedConsumeError<C::Error>>> {
        let record = match self.consumer.next().await? {
            Ok(record) => record,
            Err(error) => return Some(Err(error.into())),
        };
        let Some(bytes) = &record.record.value else {
            return Some(Ok(Typed { value: None, record }));
        };
        Some(match C::decode(bytes) {
            Ok(value) => Ok(Typed { value: Some(value), record }),
            Err(source) => Err(TypedConsumeError::Decode { record: Box::new(record), source }),
        })
    }

    /// The consumer of bytes inside.
    pub fn consumer(&mut self) -> &mut Consumer {
        &mut self.consumer
    }
}

impl<T, C: Codec> fmt::Debug for TypedProducer<T, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.producer.fmt(f)
    }
}

impl<T, C: Codec> fmt::Debug for TypedConsumer<T, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.consumer.fmt(f)
    }
}

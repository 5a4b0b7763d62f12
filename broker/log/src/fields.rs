//! Fixed-width little-endian fields of the structures on disk: written to a `Vec`, read back with
//! every length checked against what remains.

use plimsoll_protocol::ids::{LogId, LogIndex, Offset, Term};
use thiserror::Error;

/// The bytes end before the structure does, or say something that cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the field {field} at byte {position} cannot be read")]
pub struct FieldError {
    /// What was to be read.
    pub field: &'static str,
    /// Where, counted from the start of the structure.
    pub position: usize,
}

/// Reads fields one after the other.
#[derive(Debug, Clone)]
pub(crate) struct FieldReader<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> FieldReader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    pub(crate) fn remaining(&self) -> usize {
        self.bytes.len() - self.position
    }

    pub(crate) fn error(&self, field: &'static str) -> FieldError {
        FieldError { field, position: self.position }
    }

    pub(crate) fn bytes(
        &mut self,
        field: &'static str,
        length: usize,
    ) -> Result<&'a [u8], FieldError> {
        if length > self.remaining() {
            return Err(self.error(field));
        }
        let taken = &self.bytes[self.position..self.position + length];
        self.position += length;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(
        &mut self,
        field: &'static str,
    ) -> Result<[u8; N], FieldError> {
        let bytes = self.bytes(field, N)?;
        Ok(bytes.try_into().expect("exactly N bytes were taken"))
    }

    pub(crate) fn u8(&mut self, field: &'static str) -> Result<u8, FieldError> {
        Ok(self.array::<1>(field)?[0])
    }

    pub(crate) fn u32(&mut self, field: &'static str) -> Result<u32, FieldError> {
        self.array(field).map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self, field: &'static str) -> Result<u64, FieldError> {
        self.array(field).map(u64::from_le_bytes)
    }

    pub(crate) fn i64(&mut self, field: &'static str) -> Result<i64, FieldError> {
        self.array(field).map(i64::from_le_bytes)
    }

    pub(crate) fn flag(&mut self, field: &'static str) -> Result<bool, FieldError> {
        let at = self.error(field);
        match self.u8(field)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(at),
        }
    }

    pub(crate) fn log_id(&mut self, field: &'static str) -> Result<LogId, FieldError> {
        let term = Term(self.u64(field)?);
        Ok(LogId { term, index: LogIndex(self.u64(field)?) })
    }

    pub(crate) fn offset(&mut self, field: &'static str) -> Result<Offset, FieldError> {
        self.u64(field).map(Offset)
    }

    pub(crate) fn option<T>(
        &mut self,
        field: &'static str,
        read: impl FnOnce(&mut Self) -> Result<T, FieldError>,
    ) -> Result<Option<T>, FieldError> {
        if self.flag(field)? { read(self).map(Some) } else { Ok(None) }
    }

    /// The structure must end here.
    pub(crate) fn end(&self) -> Result<(), FieldError> {
        if self.remaining() == 0 { Ok(()) } else { Err(self.error("end")) }
    }
}

/// Appends fields to a buffer.
pub(crate) trait FieldWriter {
    fn put(&mut self, bytes: &[u8]);

    fn put_u8(&mut self, value: u8) {
        self.put(&[value]);
    }
    fn put_u32(&mut self, value: u32) {
        self.put(&value.to_le_bytes());
    }
    fn put_u64(&mut self, value: u64) {
        self.put(&value.to_le_bytes());
    }
    fn put_i64(&mut self, value: i64) {
        self.put(&value.to_le_bytes());
    }
    fn put_log_id(&mut self, id: LogId) {
        self.put_u64(id.term.0);
        self.put_u64(id.index.0);
    }
    fn put_option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T))
    where
        Self: Sized,
    {
        self.put_u8(u8::from(value.is_some()));
        if let Some(value) = value {
            write(self, value);
        }
    }
}

impl FieldWriter for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        let mut bytes = Vec::new();
        bytes.put_u8(7);
        bytes.put_i64(-3);
        bytes.put_option(Some(LogId::new(Term(2), LogIndex(9))), Vec::put_log_id);
        bytes.put_option(None::<u64>, Vec::put_u64);
        let mut reader = FieldReader::new(&bytes);
        assert_eq!(reader.u8("a"), Ok(7));
        assert_eq!(reader.i64("b"), Ok(-3));
        let id = reader.option("c", |r| r.log_id("c")).unwrap();
        assert_eq!(id, Some(LogId::new(Term(2), LogIndex(9))));
        assert_eq!(reader.option("d", |r| r.u64("d")), Ok(None));
        reader.end().unwrap();
        assert_eq!(reader.u32("e"), Err(FieldError { field: "e", position: bytes.len() }));
    }

    #[test]
    fn a_flag_is_zero_or_one() {
        assert_eq!(FieldReader::new(&[2]).flag("f"), Err(FieldError { field: "f", position: 0 }));
    }
}

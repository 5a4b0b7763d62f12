//! Lines of an input, as many at a time as it has at hand: a fast file gives thousands, a person
//! typing gives one at once. The bytes of a line are shared with the block they were read in.

use std::io::{self, Read};

use bytes::{Bytes, BytesMut};
use thiserror::Error;

/// Bytes asked of the input at a time.
const READ_BYTES: usize = 256 * 1024;

/// Splits an input at line breaks.
#[derive(Debug)]
pub(super) struct LineReader<R> {
    input: R,
    /// The begin of a line whose end was not read yet.
    partial: BytesMut,
    /// How much of `partial` is known to hold no line break.
    searched: usize,
    line_bytes_max: usize,
    lines: u64,
    ended: bool,
}

/// Why there are no more lines.
#[derive(Debug, Error)]
pub(super) enum LinesError {
    /// The input could not be read.
    #[error("cannot read: {0}")]
    Input(#[from] io::Error),
    /// A line is longer than a record may be.
    #[error("line {line} is longer than {limit} bytes")]
    TooLong {
        /// Number of the line, from 1.
        line: u64,
        /// The limit in force.
        limit: usize,
    },
}

impl<R: Read> LineReader<R> {
    /// Lines of at most `line_bytes_max` bytes each.
    pub(super) fn new(input: R, line_bytes_max: usize) -> Self {
        let partial = BytesMut::new();
        Self { input, partial, searched: 0, line_bytes_max, lines: 0, ended: false }
    }

    /// Lines handed out so far.
    pub(super) fn count(&self) -> u64 {
        self.lines
    }

    /// Waits for at least one line and adds all that are complete to `lines`, without their line
    /// breaks. Adds none at the end of the input. What stands behind the last line break is a line
    /// too, unless it is nothing.
    ///
    /// # Errors
    /// When the input cannot be read or has a line that is too long; `lines` then has those before.
    pub(super) fn read_into(&mut self, lines: &mut Vec<Bytes>) -> Result<(), LinesError> {
        let before = lines.len();
        while !self.ended && lines.len() == before {
            let filled = self.partial.len();
            self.partial.resize(filled + READ_BYTES, 0);
            let outcome = self.input.read(&mut self.partial[filled..]);
            let got = match &outcome {
                Ok(got) => *got,
                Err(_) => 0,
            };
            self.partial.truncate(filled + got);
            match outcome {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
                Ok(0) => self.take_last(lines)?,
                Ok(_) => self.take_complete(lines)?,
            }
        }
        Ok(())
    }

    fn take_complete(&mut self, lines: &mut Vec<Bytes>) -> Result<(), LinesError> {
        let fresh = &self.partial[self.searched..];
        if let Some(last) = fresh.iter().rposition(|&byte| byte == b'\n') {
            let block = self.partial.split_to(self.searched + last + 1).freeze();
            let mut from = 0;
            // The first line break cannot lie in what was searched before.
            let mut search_from = self.searched;
            self.searched = 0;
            while from < block.len() {
                let found = block[search_from..].iter().position(|&byte| byte == b'\n');
                let end = search_from + found.expect("the block ends with a line break");
                self.take(block.slice(from..end), lines)?;
                from = end + 1;
                search_from = from;
            }
        }
        self.searched = self.partial.len();
        if self.searched > self.line_bytes_max {
            return Err(self.too_long());
        }
        Ok(())
    }

    fn take_last(&mut self, lines: &mut Vec<Bytes>) -> Result<(), LinesError> {
        self.ended = true;
        let last = std::mem::take(&mut self.partial).freeze();
        if last.is_empty() { Ok(()) } else { self.take(last, lines) }
    }

    fn take(&mut self, line: Bytes, lines: &mut Vec<Bytes>) -> Result<(), LinesError> {
        if line.len() > self.line_bytes_max {
            return Err(self.too_long());
        }
        self.lines += 1;
        lines.push(line);
        Ok(())
    }

    fn too_long(&mut self) -> LinesError {
        self.ended = true;
        LinesError::TooLong { line: self.lines + 1, limit: self.line_bytes_max }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An input that gives its bytes in pieces of the given sizes, over and over.
    struct Pieces<'a> {
        bytes: &'a [u8],
        sizes: Vec<usize>,
        turn: usize,
    }

    impl Read for Pieces<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let size = self.sizes[self.turn % self.sizes.len()].min(self.bytes.len());
            self.turn += 1;
            let (piece, rest) = self.bytes.split_at(size);
            into[..size].copy_from_slice(piece);
            self.bytes = rest;
            Ok(size)
        }
    }

    fn all(bytes: &[u8], sizes: &[usize], limit: usize) -> Result<Vec<Bytes>, LinesError> {
        let mut reader = LineReader::new(Pieces { bytes, sizes: sizes.to_vec(), turn: 0 }, limit);
        let mut lines = Vec::new();
        loop {
            let before = lines.len();
            reader.read_into(&mut lines)?;
            if lines.len() == before {
                assert_eq!(reader.count(), lines.len() as u64);
                return Ok(lines);
            }
        }
    }

    #[test]
    fn lines_end_at_line_breaks_and_at_the_end() {
        assert_eq!(all(b"a\n\nbc", &[2], 9).unwrap(), ["a", "", "bc"]);
        assert_eq!(all(b"a\r\n", &[1], 9).unwrap(), ["a\r"]);
        assert!(all(b"", &[1], 9).unwrap().is_empty());
    }

    #[test]
    fn what_is_at_hand_is_given_at_once() {
        let input = Pieces { bytes: b"a\nb\nc", sizes: vec![4, 1], turn: 0 };
        let mut reader = LineReader::new(input, 9);
        let mut lines = Vec::new();
        reader.read_into(&mut lines).unwrap();
        assert_eq!(lines, ["a", "b"]);
    }

    #[test]
    fn long_line_is_refused_by_its_number() {
        for sizes in [&[1][..], &[100]] {
            let error = all(b"ok\n12345\n", sizes, 4).unwrap_err();
            assert!(matches!(error, LinesError::TooLong { line: 2, limit: 4 }), "{error}");
            let error = all(b"12345", sizes, 4).unwrap_err();
            assert!(matches!(error, LinesError::TooLong { line: 1, limit: 4 }), "{error}");
        }
        assert_eq!(all(b"1234\n", &[100], 4).unwrap(), ["1234"]);
    }

    #[test]
    fn endless_line_does_not_fill_the_memory() {
        let mut reader = LineReader::new(io::repeat(b'x'), 1 << 20);
        let error = reader.read_into(&mut Vec::new()).unwrap_err();
        assert!(matches!(error, LinesError::TooLong { line: 1, .. }), "{error}");
        assert!(reader.partial.len() < (1 << 20) + 2 * READ_BYTES);
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(
            bytes in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'a')], 0..60),
            sizes in proptest::collection::vec(1_usize..9, 1..6),
        ) {
            let lines = all(&bytes, &sizes, 100).unwrap();
            let mut naive: Vec<&[u8]> = bytes.split(|&byte| byte == b'\n').collect();
            if naive.last().is_some_and(|last| last.is_empty()) {
                naive.pop();
            }
            prop_assert_eq!(lines, naive);
        }
    }
}

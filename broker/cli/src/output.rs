//! Standard output: buffered, flushed when there is nothing more to say for now, and a reader who
//! has closed it ends the command quietly.

use std::io::{self, BufWriter, IsTerminal, Stdout, Write};

use serde::Serialize;

use crate::failure::Failure;

/// Bytes gathered before they are written: few system calls for `consume`, little memory.
const BUFFER_BYTES: usize = 256 * 1024;

/// Where results go.
#[derive(Debug)]
pub(crate) struct Output<W: Write = Stdout> {
    writer: BufWriter<W>,
}

impl Output {
    /// The standard output of this process.
    pub(crate) fn stdout() -> Self {
        Self::to(io::stdout())
    }

    /// Whether a person looks at it.
    pub(crate) fn is_terminal() -> bool {
        io::stdout().is_terminal()
    }
}

impl<W: Write> Output<W> {
    /// Results to any writer.
    pub(crate) fn to(writer: W) -> Self {
        Self { writer: BufWriter::with_capacity(BUFFER_BYTES, writer) }
    }

    /// One line of text.
    pub(crate) fn line(&mut self, text: &str) -> Result<(), Failure> {
        self.bytes(text.as_bytes())?;
        self.bytes(b"\n")
    }

    /// One object as one line of JSON.
    pub(crate) fn json(&mut self, object: &impl Serialize) -> Result<(), Failure> {
        serde_json::to_writer(&mut self.writer, object)
            .map_err(|error| Failure::of_output(&io::Error::from(error)))?;
        self.bytes(b"\n")
    }

    /// Bytes as they are.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.writer.write_all(bytes).map_err(|error| Failure::of_output(&error))
    }

    /// Hands on what was gathered. Owed before a command waits, and before it ends.
    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        self.writer.flush().map_err(|error| Failure::of_output(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Exit;

    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_and_objects_end_with_a_newline() {
        let mut bytes = Vec::new();
        let mut output = Output::to(&mut bytes);
        output.line("plain").unwrap();
        output.json(&serde_json::json!({"a": "line\nbreak"})).unwrap();
        output.flush().unwrap();
        drop(output);
        assert_eq!(bytes, b"plain\n{\"a\":\"line\\nbreak\"}\n");
    }

    #[test]
    fn closed_reader_ends_quietly() {
        let mut output = Output::to(Closed);
        output.line("nobody reads this").unwrap();
        let failure = output.flush().unwrap_err();
        assert!(matches!(failure, Failure::OutputClosed));
        assert_eq!(failure.exit(), Exit::Done);
        let big = "x".repeat(2 * BUFFER_BYTES);
        assert!(matches!(output.json(&big).unwrap_err(), Failure::OutputClosed));
    }
}

//! What the demo sends: the lines of a file, a record each.

use std::fs;
use std::path::Path;

use bytes::Bytes;

use crate::exit::Exit;
use crate::failure::Failure;
use crate::quantity::{bytes_text, thousands};

/// What is sent when no file is named: this repository's description of itself.
const DEFAULT_FILE: (&str, &str) = ("ARCHITECTURE.md", include_str!("../../../../ARCHITECTURE.md"));
/// The file is held in memory, to compare with.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// The lines to send, over and over.
pub(super) struct Lines {
    name: String,
    lines: Vec<Bytes>,
    /// Records in all.
    pub(super) records: u64,
}

impl Lines {
    /// The lines of a file, repeated until there are `at_least` records.
    pub(super) fn load(file: Option<&Path>, at_least: u64) -> Result<Self, Failure> {
        let (name, text) = match file {
            None => (DEFAULT_FILE.0.to_owned(), Bytes::from_static(DEFAULT_FILE.1.as_bytes())),
            Some(path) => (path.display().to_string(), read(path)?),
        };
        let mut lines: Vec<_> =
            text.split(|byte| *byte == b'\n').map(|line| text.slice_ref(line)).collect();
        // What follows the last line feed is a line only if there is something.
        lines.pop_if(|last| last.is_empty());
        if lines.is_empty() {
            return Err(Failure::new(Exit::Usage, format!("{name} has no lines to send")));
        }
        let count = lines.len() as u64;
        let records = at_least.div_ceil(count).max(1) * count;
        Ok(Self { name, lines, records })
    }

    /// What record number `record` carries.
    pub(super) fn get(&self, record: u64) -> &Bytes {
        &self.lines[(record % self.lines.len() as u64) as usize]
    }

    fn rounds(&self) -> u64 {
        self.records / self.lines.len() as u64
    }

    /// Bytes of all records.
    pub(super) fn bytes(&self) -> u64 {
        self.rounds() * self.lines.iter().map(|line| line.len() as u64).sum::<u64>()
    }

    /// The file and how often it is sent, in words.
    pub(super) fn describe(&self) -> String {
        let (name, rounds) = (&self.name, self.rounds());
        let count = self.lines.len() as u64;
        let (records, bytes) = (thousands(self.records), bytes_text(self.bytes()));
        let plural = if count == 1 { "line" } else { "lines" };
        match rounds {
            1 => format!("{name}: {records} {plural}, {bytes}, a record each"),
            _ => format!(
                "{name}: {} {plural}, sent {} times: {records} records, {bytes}",
                thousands(count),
                thousands(rounds)
            ),
        }
    }
}

fn read(path: &Path) -> Result<Bytes, Failure> {
    let size = fs::metadata(path).map_err(|error| Failure::of_file("read", path, &error))?.len();
    if size > FILE_BYTES_MAX {
        return Err(Failure::new(
            Exit::Usage,
            format!("{} has {}, the demo holds at most 1 GiB", path.display(), bytes_text(size)),
        )
        .hint("`plimsoll produce TOPIC < FILE` takes files of any size"));
    }
    Ok(fs::read(path).map_err(|error| Failure::of_file("read", path, &error))?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn lines_are_repeated_up_to_a_whole_round() {
        let file = file("one\n\nthree");
        let lines = Lines::load(Some(file.path()), 10).unwrap();
        assert_eq!((lines.records, lines.rounds(), lines.bytes()), (12, 4, 32));
        assert_eq!(lines.get(4), &Bytes::new());
        assert_eq!(lines.get(11), "three");
    }

    #[test]
    fn a_long_file_is_sent_once() {
        let lines = Lines::load(Some(file("a\nb\nc\n").path()), 2).unwrap();
        assert_eq!(lines.records, 3);
    }

    #[test]
    fn a_file_without_lines_is_refused() {
        assert_eq!(Lines::load(Some(file("").path()), 1).err().unwrap().exit(), Exit::Usage);
        let missing = Lines::load(Some(Path::new("/nowhere/at/all")), 1).err().unwrap();
        assert_eq!(missing.exit(), Exit::NotFound);
    }

    #[test]
    fn the_default_file_is_worth_showing() {
        let lines = Lines::load(None, 1).unwrap();
        assert!(lines.records > 50);
    }
}

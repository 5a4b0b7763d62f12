//! The input: files and standard input, read and parsed by a thread of their own, so that a slow
//! disk or a person who thinks does not hold up what is on its way to the node.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use plimsoll_protocol::api::BATCH_BYTES_MAX_CEILING;
use plimsoll_protocol::batch::Record;
use tokio::sync::mpsc;

use super::lines::{LineReader, LinesError};
use super::parse::LineParser;
use crate::clock::now_ms;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::progress::Measure;

/// Longest line: the largest record there can be, with room for its base64.
const LINE_BYTES_MAX: usize = 2 * BATCH_BYTES_MAX_CEILING as usize;
/// Records handed over at a time: enough to be cheap, few enough to react.
const GROUP_RECORDS: usize = 4_096;
/// Groups that wait.
const GROUPS_WAITING: usize = 4;

/// One thing to read.
#[derive(Debug)]
pub(super) struct Source {
    name: String,
    file: File,
}

impl Source {
    /// Opens all files, or standard input when there are none.
    pub(super) fn open_all(paths: &[PathBuf]) -> Result<Vec<Self>, Failure> {
        if paths.is_empty() {
            return Ok(vec![Self::stdin()?]);
        }
        paths.iter().map(|path| Self::open(path)).collect()
    }

    fn open(path: &Path) -> Result<Self, Failure> {
        if path == Path::new("-") {
            return Self::stdin();
        }
        let name = path.display().to_string();
        let file = File::open(path).map_err(|error| Failure::of_file("open", path, &error))?;
        if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
            return Err(Failure::new(Exit::Failed, format!("{name} is a directory, not a file")));
        }
        Ok(Self { name, file })
    }

    fn stdin() -> Result<Self, Failure> {
        let file = io::stdin().as_fd().try_clone_to_owned().map_err(|error| {
            Failure::new(Exit::Failed, format!("cannot read standard input: {error}"))
        })?;
        Ok(Self { name: "standard input".to_owned(), file: File::from(file) })
    }

    /// What it is called in messages.
    pub(super) fn name(&self) -> String {
        self.name.clone()
    }

    /// Whether a person types it.
    pub(super) fn is_terminal(&self) -> bool {
        self.file.is_terminal()
    }

    fn bytes(&self) -> Option<u64> {
        self.file.metadata().ok().filter(std::fs::Metadata::is_file).map(|metadata| metadata.len())
    }
}

/// How much there is to read, where all sources say so.
pub(super) fn measure(sources: &[Source]) -> Measure {
    Measure::Bytes(sources.iter().map(Source::bytes).sum())
}

/// Records of consecutive lines.
#[derive(Debug)]
pub(super) struct Group {
    /// Which source they come from, by its position.
    pub(super) source: usize,
    /// Number of the first line, from 1.
    pub(super) first_line: u64,
    /// What each line says, or why it says nothing.
    pub(super) records: Vec<Result<Record, String>>,
    /// Bytes of the lines.
    pub(super) input_bytes: u64,
}

/// Groups of records as they are read.
#[derive(Debug)]
pub(super) struct Feed {
    groups: mpsc::Receiver<Result<Group, Failure>>,
}

impl Feed {
    /// Begins to read. The thread ends with the input, or when the feed is dropped and it next has
    /// something to hand over; a read that waits for a person ends with the process.
    pub(super) fn start(sources: Vec<Source>, parser: LineParser) -> Self {
        let (sender, groups) = mpsc::channel(GROUPS_WAITING);
        std::thread::spawn(move || {
            for (source, input) in sources.into_iter().enumerate() {
                let reader = LineReader::new(input.file, LINE_BYTES_MAX);
                if let Err(Some(failure)) = read_all(reader, source, &input.name, &parser, &sender)
                {
                    let _ = sender.blocking_send(Err(failure));
                    return;
                }
            }
        });
        Self { groups }
    }

    /// The next group; `None` at the end of the input.
    pub(super) async fn next(&mut self) -> Option<Result<Group, Failure>> {
        self.groups.recv().await
    }
}

/// Reads one source to its end. `Err(None)`: nobody wants it any more.
fn read_all<R: Read>(
    mut reader: LineReader<R>,
    source: usize,
    name: &str,
    parser: &LineParser,
    sender: &mpsc::Sender<Result<Group, Failure>>,
) -> Result<(), Option<Failure>> {
    let mut lines = Vec::new();
    loop {
        let mut first_line = reader.count() + 1;
        lines.clear();
        let outcome = reader.read_into(&mut lines);
        let now_ms = now_ms();
        for chunk in lines.chunks(GROUP_RECORDS) {
            let group = Group {
                source,
                first_line,
                records: chunk.iter().map(|line| parser.parse(line, now_ms)).collect(),
                input_bytes: chunk.iter().map(|line| line.len() as u64 + 1).sum(),
            };
            first_line += chunk.len() as u64;
            sender.blocking_send(Ok(group)).map_err(|_| None)?;
        }
        match outcome {
            Ok(()) if lines.is_empty() => return Ok(()),
            Ok(()) => {}
            Err(error @ LinesError::Input(_)) => {
                return Err(Some(Failure::new(Exit::Failed, format!("{name}: {error}"))));
            }
            Err(error @ LinesError::TooLong { .. }) => {
                return Err(Some(
                    Failure::new(
                        Exit::Failed,
                        format!("{name}: {error}, more than a record can be"),
                    )
                    .hint("records are separated by line breaks; is this a text file?"),
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse::InputFormat;
    use super::*;
    use std::io::Write;

    fn parser() -> LineParser {
        LineParser {
            format: InputFormat::Text,
            key_separator: None,
            key: None,
            headers: Vec::new(),
        }
    }

    #[tokio::test]
    async fn files_are_read_in_order_with_line_numbers_of_their_own() {
        let directory = tempfile::tempdir().unwrap();
        let paths = ["a", "b"].map(|name| directory.path().join(name));
        let mut big = File::create(&paths[0]).unwrap();
        (0..GROUP_RECORDS + 1).for_each(|n| writeln!(big, "{n}").unwrap());
        std::fs::write(&paths[1], "last").unwrap();
        let sources = Source::open_all(&paths).unwrap();
        let total = (0..=GROUP_RECORDS).map(|n| n.to_string().len() + 1).sum::<usize>() + 4;
        assert_eq!(measure(&sources), Measure::Bytes(Some(total as u64)));
        let mut feed = Feed::start(sources, parser());
        let mut seen = Vec::new();
        while let Some(group) = feed.next().await {
            let group = group.unwrap();
            for (line, record) in (group.first_line..).zip(group.records) {
                seen.push((group.source, line, record.unwrap().value.unwrap()));
            }
        }
        assert_eq!(seen.len(), GROUP_RECORDS + 2);
        assert_eq!(seen[GROUP_RECORDS].1, GROUP_RECORDS as u64 + 1);
        assert_eq!(seen[GROUP_RECORDS + 1], (1, 1, "last".into()));
    }

    #[test]
    fn missing_file_and_directory_are_refused_before_anything_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let missing = Source::open_all(&[directory.path().join("missing")]).unwrap_err();
        assert_eq!(missing.exit(), Exit::NotFound);
        let failure = Source::open_all(&[directory.path().to_owned()]).unwrap_err();
        assert!(failure.to_string().contains("is a directory"), "{failure}");
    }
}

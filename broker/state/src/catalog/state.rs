//! The fold of group 0's log: its progress, the catalog, and what was answered last.

use bytes::{BufMut, Bytes, BytesMut};
use plimsoll_protocol::batch::{BatchHeader, EntryKind};
use plimsoll_protocol::wire::Reader;

use super::refusal::CatalogRefusal;
use super::reply::Answer;
use super::requests::Requests;
use super::{Catalog, CatalogCommand, CatalogReply};
use crate::decode::{DecodeStateError, check_version, versioned_since};
use crate::partition::Progress;

/// The oldest version that is read: a catalog without nodes.
const OLDEST: u8 = 1;
/// The newest version that is read; [`Catalog::version`] is the one that is written.
const VERSION: u8 = 3;

/// The fold of group 0's log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CatalogState {
    progress: Progress,
    catalog: Catalog,
    requests: Requests,
}

impl CatalogState {
    /// The state of an empty log.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The state of a log that made this catalog.
    #[cfg(test)]
    pub(super) fn of(catalog: Catalog) -> Self {
        Self { catalog, ..Self::default() }
    }

    /// How far the log is folded.
    #[must_use]
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// The catalog.
    #[must_use]
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// Folds one committed entry; a control entry is a command and gets an answer. A request that was
    /// carried out before is answered as then; a topic in the answer is as it is now.
    ///
    /// # Panics
    /// As [`Progress::advance`].
    pub fn apply(&mut self, header: &BatchHeader, body: &Bytes) -> Option<CatalogReply> {
        self.progress.advance(header, body);
        (header.kind == EntryKind::Control).then(|| match CatalogCommand::decode_request(body) {
            Ok((id, command)) => {
                if let Some(answer) = self.requests.answer(id) {
                    return answer.reply(&self.catalog);
                }
                let reply = self.catalog.apply(command, header.append_time_ms);
                self.requests.remember(id, Answer::of(&reply));
                reply
            }
            Err(error) => {
                let reason = error.to_string();
                CatalogReply::Refused(CatalogRefusal::Unreadable { reason })
            }
        })
    }

    /// The state as bytes: the same state gives the same bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(self.catalog.version());
        self.progress.encode(&mut out);
        self.catalog.encode(&mut out);
        self.requests.encode(&mut out);
        out.freeze()
    }

    /// Reads what [`CatalogState::encode`] wrote, in this or an earlier version.
    ///
    /// # Errors
    /// When the bytes are not an encoded state of a version this build knows.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeStateError> {
        versioned_since(bytes, OLDEST, VERSION, |version, reader| {
            Ok(Self {
                progress: Progress::decode(reader)?,
                catalog: Catalog::decode(reader, version)?,
                requests: match version {
                    OLDEST => Requests::default(),
                    _ => Requests::decode(reader)?,
                },
            })
        })
    }

    /// Only the progress of an encoded state, without building the rest.
    ///
    /// # Errors
    /// As [`CatalogState::decode`], for the part that is read.
    pub fn decode_progress(bytes: &[u8]) -> Result<Progress, DecodeStateError> {
        let mut reader = Reader::new(bytes);
        check_version(&mut reader, OLDEST, VERSION)?;
        Progress::decode(&mut reader)
    }
}

//! What was answered to the last requests: a command that is sent again after its answer was lost is
//! answered, not carried out again.

use std::collections::VecDeque;

use bytes::BytesMut;
use plimsoll_protocol::wire::{Decode, Encode, Reader};

use super::replicas::put_count;
use super::reply::Answer;
use crate::decode::{DecodeStateError, count};

/// How many answers are remembered. A node repeats a command within seconds; this is far more than
/// a cluster carries out in that time.
pub const REQUESTS_MAX: usize = 1024;

/// The last answers, the oldest first. Refusals are not among them: they changed nothing, and the
/// command may find another catalog when it comes again.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Requests(VecDeque<(u128, Answer)>);

impl Requests {
    pub(super) fn answer(&self, id: u128) -> Option<&Answer> {
        if id == 0 {
            return None;
        }
        self.0.iter().rev().find(|(known, _)| *known == id).map(|(_, answer)| answer)
    }

    pub(super) fn remember(&mut self, id: u128, answer: Answer) {
        if id == 0 || matches!(answer, Answer::Refused { .. }) {
            return;
        }
        if self.0.len() >= REQUESTS_MAX {
            self.0.pop_front();
        }
        self.0.push_back((id, answer));
    }

    pub(super) fn encode(&self, out: &mut BytesMut) {
        put_count(self.0.len(), out);
        for (id, answer) in &self.0 {
            id.encode(out);
            answer.encode(out);
        }
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeStateError> {
        let count = count(reader, 16 + Answer::BYTES_MIN)?;
        if count > REQUESTS_MAX {
            return Err(DecodeStateError::Invalid { rule: "few answers are remembered" });
        }
        let mut requests = VecDeque::with_capacity(count);
        for _ in 0..count {
            let id = u128::decode(reader)?;
            let answer = Answer::decode(reader)?;
            if id == 0 || matches!(answer, Answer::Refused { .. }) {
                return Err(DecodeStateError::Invalid { rule: "only changes are remembered" });
            }
            requests.push_back((id, answer));
        }
        Ok(Self(requests))
    }
}

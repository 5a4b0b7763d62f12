//! The frames between nodes.

use bytes::{Bytes, BytesMut};

use crate::batch::{BATCH_HEADER_BYTES, BatchHeader, EntryKind};
use crate::frame::{FRAME_HEADER_BYTES, Frame, FrameFlags, FrameHeader, encode_frame};
use crate::ids::{CorrelationId, GroupId, LogId, LogIndex, NodeId, Term};
use crate::peer::*;
use crate::wire::{Decode, Encode, decode_all, encode_to_bytes};

/// Every body between nodes, and what lies in bodies.
macro_rules! for_each_peer_body {
    ($each:ident) => {
        $each! {
            PeerHello, HelloAnswer, PeerRefusal, ProtocolRange, StreamOpen, StreamRole,
            Alive, Condition,
            AppendOpen, AppendClose, AppendHead, AppendedFrame, Appended, NotHere, Heartbeat,
            RaftVote, PreVote, Vote, VoteReply, TransferLeader, TransferLeaderReply,
            Wake, Sleep, SleepGroup, SleepReply, SleepAnswer,
            Leads, GroupClaim, Digest, GroupDigest, ReplicaCondition,
            GroupStatus, GroupStatusReply, GroupReport, GroupMembers, ReplicaMatch,
            ReadIndex, ReadIndexReply, ReadMark, CommitOf, CommitOfReply, CommitMark,
            Forward, ForwardReply, Step, MemberStep, StepReply, DropReplica, StoreBatch, BatchStored,
            SeedBegin, SeedSegment, SeedHeld, SeedPiece, SeedTaken, SeedEnd, SeedInstalled,
            Join, JoinAnswer, Joined, JoinRefusal, MemberAddress,
            PeerFailure, PeerFailureCode
        }
    };
}

/// A body between nodes: the first byte chooses its type, the rest is decoded. What is accepted has
/// one encoding. The same bytes are tried as an append.
pub fn peer(data: &[u8]) {
    let Some((&selector, body)) = data.split_first() else { return };
    fn check<T: Encode + Decode>(body: &[u8]) {
        if let Ok(value) = decode_all::<T>(body) {
            let again = encode_to_bytes(&value);
            assert_eq!(&again[..], body, "a second encoding was accepted");
        }
    }
    macro_rules! checks {
        ($($kind:ty),+) => { [$(check::<$kind> as fn(&[u8])),+] };
    }
    let checks = for_each_peer_body!(checks);
    checks[usize::from(selector) % checks.len()](body);
    append(body);
}

fn append(bytes: &[u8]) {
    let Some(head) = bytes.first_chunk::<FRAME_HEADER_BYTES>() else { return };
    let Ok(header) = FrameHeader::parse(head, PEER_FRAME_BYTES_MAX) else { return };
    let Some(content) = bytes.get(FRAME_HEADER_BYTES..header.frame_bytes()) else { return };
    let frame = Frame::from_content(header, Bytes::copy_from_slice(content));
    // Neither may panic, whatever the body.
    let _ = AnyPeerRequest::decode(&frame);
    let _ = AnyPeerMessage::decode(&frame);
    let (body, payload) = (frame.body.clone(), frame.payload.clone());
    if let Ok(found) = Append::from_frame(frame) {
        let again = BytesMut::from(&found);
        let again = &again[FRAME_HEADER_BYTES..];
        assert_eq!(again[..body.len()], body[..], "another body");
        assert_eq!(again[body.len()..], payload[..], "other entries");
        assert!(found.append.entries.len() <= payload.len() / BATCH_HEADER_BYTES);
    }
}

/// An append of three entries, one of them large.
#[must_use]
pub fn sample_append() -> AppendFrame {
    let id = |index| Some(LogId::new(Term(3), LogIndex(index)));
    let entry = |(index, bytes): (u64, usize)| {
        let body = Bytes::from(vec![index as u8; bytes]);
        let mut header = BatchHeader::for_entry(EntryKind::Control, &body);
        (header.term, header.index) = (Term(3), LogIndex(index));
        (header, body)
    };
    let vote = RaftVote { term: Term(3), node: NodeId(2), committed: true };
    let entries = [(8, 0), (9, 40), (10, 1500)].into_iter().map(entry).collect();
    let (group, prev, commit) = (GroupId(5), id(7), id(6));
    AppendFrame { session: 9, append: Append { group, epoch: 4, vote, prev, commit, entries } }
}

/// Inputs worth mutating: the append, and bodies of zeros and ones, which are the encodings of many
/// types.
pub(super) fn seeds() -> Vec<Vec<u8>> {
    let with_selector = |selector: u8, body: &[u8]| [&[selector], body].concat();
    let mut seeds = vec![with_selector(0, &BytesMut::from(&sample_append()))];
    let request = Step {
        group: GroupId(5),
        epoch: 4,
        membership: Some(LogId::default()),
        step: MemberStep::Promote(NodeId(3)),
    };
    let (api, flags) = (PeerApi::Step, FrameFlags::REQUEST);
    let request = encode_frame(api, PeerApi::VERSION, flags, CorrelationId(1), &request, 0);
    seeds.push(with_selector(1, &request));
    macro_rules! bytes_min {
        ($($kind:ty),+) => { [$(<$kind as Decode>::BYTES_MIN),+] };
    }
    for (selector, bytes_min) in for_each_peer_body!(bytes_min).into_iter().enumerate() {
        seeds.push(with_selector(selector as u8, &vec![0; bytes_min]));
        seeds.push(with_selector(selector as u8, &vec![1; bytes_min + 40]));
    }
    seeds
}

/// The layout of every body between nodes, for the test that keeps `protocol/PEER_FORMAT.md` true.
#[must_use]
pub fn peer_layouts() -> Vec<&'static str> {
    macro_rules! layouts {
        ($($kind:ty),+) => { vec![$(<$kind>::LAYOUT),+] };
    }
    for_each_peer_body!(layouts)
}

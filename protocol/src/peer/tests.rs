//! Every body survives; every cut of it and every byte after it is an error; what is hostile is
//! refused without a panic and without memory beyond the bytes at hand.

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::*;
use crate::api::Done;
use crate::batch::{BATCH_HEADER_BYTES, BatchHeader, EntryKind};
use crate::frame::{FRAME_HEADER_BYTES, Frame, FrameFlags, FrameHeader, encode_frame};
use crate::ids::{CorrelationId, GroupId, LogIndex};
use crate::wire::any::Any;
use crate::wire::{Decode, Encode, decode_all, encode_to_bytes};

fn survives<T: Encode + Decode + PartialEq + std::fmt::Debug>(
    value: &T,
) -> Result<(), TestCaseError> {
    let bytes = encode_to_bytes(value);
    prop_assert!(bytes.len() >= T::BYTES_MIN);
    let decoded = decode_all::<T>(&bytes);
    prop_assert_eq!(decoded.as_ref(), Ok(value));
    for cut in 0..bytes.len() {
        prop_assert!(decode_all::<T>(&bytes[..cut]).is_err(), "cut at {}", cut);
    }
    let mut longer = bytes.to_vec();
    longer.push(0);
    prop_assert!(decode_all::<T>(&longer).is_err());
    Ok(())
}

/// Changed bytes give an error or another value with the same bytes, never a panic.
fn stays_canonical<T: Encode + Decode>(
    mut bytes: Vec<u8>,
    changes: &[(prop::sample::Index, u8)],
) -> Result<(), TestCaseError> {
    for (at, flip) in changes {
        if !bytes.is_empty() {
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
        }
        if let Ok(value) = decode_all::<T>(&bytes) {
            prop_assert_eq!(&encode_to_bytes(&value)[..], &bytes[..]);
        }
    }
    Ok(())
}

macro_rules! properties {
    ($($kind:ident),+ $(,)?) => {
        proptest! {
            #![proptest_config(ProptestConfig::with_cases(48))]
            $(
                #[test]
                #[expect(non_snake_case, reason = "the test is named after the body")]
                fn $kind(
                    value in $kind::any(),
                    changes: [(prop::sample::Index, u8); 4],
                    noise in prop::collection::vec(any::<u8>(), 0..200),
                ) {
                    survives(&value)?;
                    stays_canonical::<$kind>(encode_to_bytes(&value).to_vec(), &changes)?;
                    stays_canonical::<$kind>(noise, &changes)?;
                }
            )+
        }
    };
}

properties!(
    PeerHello,
    HelloAnswer,
    PeerRefusal,
    StreamOpen,
    Alive,
    AppendOpen,
    AppendClose,
    AppendHead,
    AppendedFrame,
    Heartbeat,
    Appended,
    PreVote,
    Vote,
    VoteReply,
    TransferLeader,
    TransferLeaderReply,
    Wake,
    Sleep,
    SleepReply,
    Leads,
    Digest,
    GroupStatus,
    GroupStatusReply,
    ReadIndex,
    ReadIndexReply,
    CommitOf,
    CommitOfReply,
    Forward,
    ForwardReply,
    StoreBatch,
    BatchStored,
    Step,
    StepReply,
    DropReplica,
    SeedBegin,
    SeedHeld,
    SeedPiece,
    SeedTaken,
    SeedEnd,
    SeedInstalled,
    Join,
    JoinAnswer,
    PeerFailure,
);

#[test]
fn keys_and_numbers_are_one_to_one() {
    for (position, &api) in PeerApi::ALL.iter().enumerate() {
        assert_eq!(usize::from(api.number()), position);
        assert_eq!(PeerApi::from_number(api.number()), Some(api));
    }
    assert_eq!(PeerApi::from_number(PeerApi::ALL.len() as u16), None);
}

fn entries() -> impl Strategy<Value = Entries> {
    let sizes = prop_oneof![0..40usize, 1000..1050usize];
    prop::collection::vec((any::<u64>(), sizes), 0..6).prop_map(|entries| {
        let entry = |(index, bytes): (u64, usize)| {
            let body = Bytes::from(vec![index as u8; bytes]);
            let mut header = BatchHeader::for_entry(EntryKind::Control, &body);
            header.index = LogIndex(index);
            (header, body)
        };
        entries.into_iter().map(entry).collect()
    })
}

fn appends() -> impl Strategy<Value = AppendFrame> {
    (Any::any(), AppendHead::any(), entries()).prop_map(|(session, head, entries)| {
        let AppendHead { group, epoch, vote, prev, commit, .. } = head;
        AppendFrame { session, append: Append { group, epoch, vote, prev, commit, entries } }
    })
}

/// The frame in these bytes, as a receiver cuts it out.
fn received(bytes: &[u8]) -> Option<Frame> {
    let head = bytes.first_chunk::<FRAME_HEADER_BYTES>()?;
    let header = FrameHeader::parse(head, PEER_FRAME_BYTES_MAX).ok()?;
    let content = bytes.get(FRAME_HEADER_BYTES..header.frame_bytes())?;
    Some(Frame::from_content(header, Bytes::copy_from_slice(content)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn appends_survive_and_their_bodies_are_slices(frame in appends()) {
        let bytes = BytesMut::from(&frame);
        let frame_received = received(&bytes).unwrap();
        prop_assert_eq!(frame_received.header.frame_bytes(), bytes.len());
        let payload = frame_received.payload.clone();
        let back = Append::from_frame(frame_received).unwrap();
        prop_assert_eq!(&back, &frame);
        for (_, body) in back.append.entries.iter().filter(|(_, body)| !body.is_empty()) {
            prop_assert!(payload.as_ptr_range().contains(&body.as_ptr()), "a body was copied");
        }
        // What the caller handed over in large pieces is what is sent.
        let (_, pieces) = frame.append.to_frame(frame.session);
        for (_, body) in frame.append.entries.iter().filter(|(_, body)| body.len() >= 1024) {
            prop_assert!(pieces.iter().any(|piece| piece.as_ptr() == body.as_ptr()));
        }
        prop_assert!(frame.append.charged_bytes() >= frame.append.entries_bytes());
    }

    #[test]
    fn hostile_appends_are_refused_without_a_panic(
        frame in appends(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut: prop::sample::Index,
    ) {
        let mut bytes = BytesMut::from(&frame).to_vec();
        for (at, flip) in &changes {
            // The header of the frame is the receiver's business.
            let at = FRAME_HEADER_BYTES + at.index(bytes.len() - FRAME_HEADER_BYTES);
            bytes[at] ^= flip;
        }
        if let Some(frame) = received(&bytes)
            && let Ok(back) = Append::from_frame(frame)
        {
            prop_assert_eq!(&BytesMut::from(&back)[..], &bytes[..]);
        }
        let whole = BytesMut::from(&frame);
        let frame = received(&whole).unwrap();
        let payload = frame.payload.slice(..cut.index(frame.payload.len() + 1));
        let is_whole = payload.len() == frame.payload.len();
        let cut = Frame { payload, ..frame };
        prop_assert_eq!(Append::from_frame(cut).is_ok(), is_whole);
    }

    #[test]
    fn any_frame_is_a_request_a_message_or_an_error(
        api in 0..30u16,
        body in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let body = Noise(body);
        let frame = encode_frame(api, 1, FrameFlags::REQUEST, CorrelationId(1), &body, 0);
        let frame = received(&frame).unwrap();
        if let Ok(request) = AnyPeerRequest::decode(&frame) {
            prop_assert_eq!(request.api().number(), api);
        }
        let _ = AnyPeerMessage::decode(&frame);
    }
}

struct Noise(Vec<u8>);

impl Encode for Noise {
    fn encode(&self, out: &mut BytesMut) {
        out.extend_from_slice(&self.0);
    }
}

#[test]
fn a_count_of_entries_is_not_believed() {
    let head = AppendHead {
        session: 1,
        group: GroupId(1),
        epoch: 0,
        vote: RaftVote::default(),
        prev: None,
        commit: None,
        count: u32::MAX,
    };
    let frame = encode_frame(PeerApi::Append, 1, FrameFlags::PUSH, CorrelationId(0), &head, 0);
    let error = Append::from_frame(received(&frame).unwrap()).unwrap_err();
    assert!(matches!(error, AppendError::Entry { position: 0, .. }), "{error}");
}

#[test]
fn bytes_behind_the_last_entry_are_refused() {
    let head = AppendHead {
        session: 1,
        group: GroupId(1),
        epoch: 0,
        vote: RaftVote::default(),
        prev: None,
        commit: None,
        count: 0,
    };
    let (api, flags) = (PeerApi::Append, FrameFlags::PUSH);
    let mut frame = encode_frame(api, 1, flags, CorrelationId(0), &head, BATCH_HEADER_BYTES);
    frame.extend_from_slice(&[0; BATCH_HEADER_BYTES]);
    let error = Append::from_frame(received(&frame).unwrap()).unwrap_err();
    assert_eq!(error, AppendError::TrailingBytes { extra: BATCH_HEADER_BYTES });
}

#[test]
fn every_request_is_read_as_itself() {
    let request =
        DropReplica { group: GroupId(7), epoch: 3, membership: crate::ids::LogId::default() };
    let frame = encode_frame(
        DropReplica::API,
        PeerApi::VERSION,
        FrameFlags::REQUEST,
        CorrelationId(9),
        &request,
        0,
    );
    let frame = received(&frame).unwrap();
    assert_eq!(AnyPeerRequest::decode(&frame), Ok(request.into()));
    assert!(AnyPeerMessage::decode(&frame).is_err());
    assert_eq!(encode_to_bytes(&AnyPeerResponse::from(Done {})).len(), 0);
}

use std::collections::BTreeSet;

use bytes::BytesMut;
use proptest::prelude::*;

use super::*;
use crate::codec::Cursor;

fn run(from: u64, upto: u64) -> Run {
    Run { from: Offset(from), upto: Offset(upto) }
}

fn encoded(set: &OffsetSet) -> BytesMut {
    let mut out = BytesMut::new();
    encode_set(set, &mut out);
    out
}

#[derive(Debug, Clone)]
enum Change {
    Insert(u64, u64),
    Remove(u64, u64),
    /// Every second offset from here on, so many.
    Comb(u64, u64),
}

fn change() -> impl Strategy<Value = Change> {
    let at = prop_oneof![0..20_000u64, (0..5u64).prop_map(|block| block * 4096)];
    let len = prop_oneof![1..5u64, 1..10_000u64, (1..4u64).prop_map(|blocks| blocks * 4096)];
    (at, len, 0..8u8).prop_map(|(at, len, kind)| match kind {
        0..4 => Change::Insert(at, at + len),
        4..7 => Change::Remove(at, at + len),
        _ => Change::Comb(at, len),
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn set_is_what_a_naive_set_is(changes in proptest::collection::vec(change(), 1..30)) {
        let mut set = OffsetSet::new();
        let mut naive = BTreeSet::new();
        for change in changes {
            match change {
                Change::Insert(from, upto) => {
                    let new = (from..upto).filter(|&offset| naive.insert(offset)).count() as u64;
                    prop_assert_eq!(set.insert_run(run(from, upto)), new);
                }
                Change::Remove(from, upto) => {
                    let gone = (from..upto).filter(|offset| naive.remove(offset)).count() as u64;
                    prop_assert_eq!(set.remove_run(run(from, upto)), gone);
                }
                Change::Comb(from, len) => {
                    for offset in (from..from + len).step_by(2) {
                        prop_assert_eq!(set.insert(Offset(offset)), naive.insert(offset));
                    }
                }
            }
            prop_assert_eq!(set.len(), naive.len() as u64);
        }
        let members: BTreeSet<_> = set.runs().flat_map(|run| run.from.0..run.upto.0).collect();
        prop_assert_eq!(&members, &naive);
        for at in (0..40_000).step_by(1_999) {
            prop_assert_eq!(set.contains(Offset(at)), naive.contains(&at));
            prop_assert_eq!(set.count_below(Offset(at)), naive.range(..at).count() as u64);
            prop_assert_eq!(set.next_in(Offset(at)).map(|o| o.0), naive.range(at..).next().copied());
            let absent = (at..).find(|offset| !naive.contains(offset)).unwrap();
            prop_assert_eq!(set.next_absent(Offset(at)).0, absent);
        }
        let bytes = encoded(&set);
        let mut cursor = Cursor::new(&bytes);
        let read = decode_set(&mut cursor).unwrap();
        prop_assert_eq!(cursor.remaining(), 0);
        prop_assert_eq!(&read, &set);
        prop_assert_eq!(encoded(&read), bytes);
    }

    #[test]
    fn hostile_bytes_are_refused_or_read_to_what_is_written_back(
        bytes in proptest::collection::vec(any::<u8>(), 0..700),
    ) {
        let mut cursor = Cursor::new(&bytes);
        if let Ok(set) = decode_set(&mut cursor) {
            let used = bytes.len() - cursor.remaining();
            prop_assert_eq!(&encoded(&set)[..], &bytes[..used]);
            prop_assert!(set.memory_bytes() <= 64 * used);
        }
        let mut cursor = Cursor::new(&bytes);
        if let Ok(runs) = decode_runs(&mut cursor) {
            let used = bytes.len() - cursor.remaining();
            let mut out = BytesMut::new();
            encode_runs(&runs, &mut out);
            prop_assert_eq!(&out[..], &bytes[..used]);
        }
    }

    #[test]
    fn runs_are_sorted_and_merged(pairs in proptest::collection::vec((0..60u64, 0..9u64), 0..20)) {
        let naive: BTreeSet<_> = pairs.iter().flat_map(|&(from, len)| from..from + len).collect();
        let runs: Runs = pairs.iter().map(|&(from, len)| run(from, from + len)).collect();
        let members: Vec<_> = runs.iter().flat_map(|run| run.from.0..run.upto.0).collect();
        prop_assert_eq!(members, naive.into_iter().collect::<Vec<_>>());
    }
}

#[test]
fn ten_million_around_one_are_three_items() {
    let mut set = OffsetSet::new();
    set.insert_run(run(0, 5_000_000));
    set.insert_run(run(5_000_001, 10_000_000));
    assert!(set.spans.len() <= 4, "{} items", set.spans.len());
    assert!(set.memory_bytes() < 500 && encoded(&set).len() < 40);
}

#[test]
fn every_other_offset_costs_a_bit_each() {
    let mut set = OffsetSet::new();
    for offset in (0..4_096_000).step_by(2) {
        set.insert(Offset(offset));
    }
    let bits = set.memory_bytes() as f64 * 8.0 / 4_096_000.0;
    assert!(bits < 1.2, "{bits} bits per offset");
}

#[test]
fn offsets_at_the_end_of_the_range_do_not_overflow() {
    let mut set = OffsetSet::new();
    let last = Offset(u64::MAX - 1);
    assert!(set.insert(last) && set.contains(last));
    set.insert_run(run(u64::MAX - 10_000, u64::MAX));
    assert_eq!(set.len(), 10_000);
    assert_eq!(set.next_absent(Offset(u64::MAX - 5)), Offset(u64::MAX));
    assert_eq!(set.remove_below(last), 9_999);
    assert_eq!(set.first(), Some(last));
}

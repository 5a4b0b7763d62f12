//! Every body survives; every cut of it and every byte after it is an error.

use proptest::prelude::*;

use super::*;
use crate::error::ErrorResponse;
use crate::fuzzing::for_each_body;
use crate::wire::any::Any;
use crate::wire::{decode_all, encode_to_bytes};

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

/// A changed byte gives an error or another value of the same length, never a panic.
fn stays_canonical<T: Encode + Decode>(
    mut bytes: Vec<u8>,
    at: &prop::sample::Index,
    flip: u8,
) -> Result<(), TestCaseError> {
    if !bytes.is_empty() {
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
    }
    if let Ok(value) = decode_all::<T>(&bytes) {
        prop_assert_eq!(&encode_to_bytes(&value)[..], &bytes[..]);
    }
    Ok(())
}

macro_rules! properties {
    ($($kind:ident),+) => {
        proptest! {
            #![proptest_config(ProptestConfig::with_cases(64))]
            $(
                #[test]
                #[expect(non_snake_case, reason = "the test is named after the body")]
                fn $kind(
                    value in $kind::any(),
                    at: prop::sample::Index,
                    flip in 1u8..,
                ) {
                    survives(&value)?;
                    stays_canonical::<$kind>(encode_to_bytes(&value).to_vec(), &at, flip)?;
                }
            )+
        }
    };
}

for_each_body!(properties);

impl Any for StartPosition {
    fn any() -> BoxedStrategy<Self> {
        prop_oneof![
            Just(Self::Earliest),
            Just(Self::Latest),
            any::<u64>().prop_map(|offset| Self::Offset(offset.into())),
            any::<i64>().prop_map(Self::Time),
        ]
        .boxed()
    }
}

#[test]
fn keys_and_numbers_are_one_to_one() {
    assert!(ApiKey::ALL.is_sorted_by(|one, other| one.number() < other.number()));
    for number in 0..=u16::MAX {
        let api = ApiKey::ALL.iter().copied().find(|api| api.number() == number);
        assert_eq!(ApiKey::from_number(number), api);
    }
}

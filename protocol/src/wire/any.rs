//! A strategy for each type that has a place in a body; the macros beside it add the structs.

use proptest::prelude::*;

use super::*;
use crate::error::ErrorCode;

pub(crate) trait Any: Sized + fmt::Debug {
    fn any() -> BoxedStrategy<Self>;
}

/// Strategies, or the names of their values, as pairs of pairs: a struct may have more fields than
/// proptest has tuples for.
macro_rules! nested {
    (any) => { proptest::strategy::Just(()) };
    (any $kind:ty $(, $rest:ty)*) => {
        (<$kind as $crate::wire::any::Any>::any(), $crate::wire::any::nested!(any $($rest),*))
    };
    (fields) => { () };
    (fields $field:ident $(, $rest:ident)*) => {
        ($field, $crate::wire::any::nested!(fields $($rest),*))
    };
}
pub(crate) use nested;

macro_rules! any_of {
    ($($kind:ty = $strategy:expr;)+) => {$(
        impl Any for $kind {
            fn any() -> BoxedStrategy<Self> {
                $strategy.boxed()
            }
        }
    )+};
}

any_of! {
    u8 = any::<u8>();
    u16 = any::<u16>();
    u32 = any::<u32>();
    u64 = any::<u64>();
    u128 = any::<u128>();
    [u8; 16] = any::<[u8; 16]>();
    [u8; 32] = any::<[u8; 32]>();
    Bytes = prop::collection::vec(any::<u8>(), 0..8).prop_map(Bytes::from);
    LogIndex = any::<u64>().prop_map(Self);
    LogId = any::<(u64, u64)>().prop_map(|(term, index)| Self::new(Term(term), LogIndex(index)));
    i64 = any::<i64>();
    bool = any::<bool>();
    String = ".{0,8}";
    Offset = any::<u64>().prop_map(Self);
    Term = any::<u64>().prop_map(Self);
    GroupId = any::<u64>().prop_map(Self);
    NodeId = any::<u64>().prop_map(Self);
    ProducerId = any::<u64>().prop_map(Self);
    PartitionIndex = any::<u32>().prop_map(Self);
    CorrelationId = any::<u32>().prop_map(Self);
    TopicName = "[A-Za-z0-9_-][A-Za-z0-9._-]{0,20}".prop_map(|s| Self::internal(&s).unwrap());
    ErrorCode = any::<u16>().prop_map(Self::from_number);
}

impl<T: Any + 'static> Any for Option<T> {
    fn any() -> BoxedStrategy<Self> {
        prop::option::of(T::any()).boxed()
    }
}

impl<T: Any + 'static> Any for Vec<T> {
    fn any() -> BoxedStrategy<Self> {
        prop::collection::vec(T::any(), 0..4).boxed()
    }
}

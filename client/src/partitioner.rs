//! Which partition a record goes to. Pure: randomness is an argument.
//!
//! Consumers of other languages must be able to find a key's partition, so the hash is specified:
//! murmur2 with Kafka's seed, its sign bit cleared, modulo the number of partitions (Kafka's default
//! partitioner, `org.apache.kafka.common.utils.Utils.murmur2`), so records that move over from Kafka
//! keep their partition.

use bytes::Bytes;
use thiserror::Error;

/// How a producer chooses the partition of a record that names none.
#[derive(Debug, Clone, PartialEq)]
pub enum Partitioner {
    /// By the hash of the key; records without a key as [`Partitioner::Sticky`]. The default.
    Hash,
    /// The same partition until a batch of it was sent, then another: few large batches.
    Sticky,
    /// A random partition per record.
    Random,
    /// One partition after the other.
    RoundRobin,
    /// Random, in proportion to a weight per partition; a weight of 0 gets nothing. There must be
    /// as many weights as partitions, and one above 0.
    Weighted(Vec<u32>),
    /// By the key's order: the first partition holds keys below the first split point, and so on.
    /// There must be one split point fewer than partitions, in ascending order. Records without a
    /// key go to the first partition.
    Range(Vec<Bytes>),
}

/// Why a partitioner does not fit its topic.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PartitionerError {
    /// Weights and partitions differ in number.
    #[error("{given} weights for {partitions} partitions: give one per partition")]
    WeightCount {
        /// Weights that were given.
        given: usize,
        /// Partitions of the topic.
        partitions: u32,
    },
    /// All weights are 0.
    #[error("all weights are 0: no partition could be chosen")]
    NoWeight,
    /// Split points do not separate the partitions.
    #[error("{given} split points for {partitions} partitions: give {} in ascending order", partitions.saturating_sub(1))]
    SplitPoints {
        /// Split points that were given.
        given: usize,
        /// Partitions of the topic.
        partitions: u32,
    },
}

impl Partitioner {
    /// Checks that the partitioner fits a topic of `partitions` partitions.
    ///
    /// # Errors
    /// Weights or split points that do not match the partitions.
    pub fn check(&self, partitions: u32) -> Result<(), PartitionerError> {
        match self {
            Self::Weighted(weights) => {
                if weights.len() != partitions as usize {
                    return Err(PartitionerError::WeightCount { given: weights.len(), partitions });
                }
                if weights.iter().all(|weight| *weight == 0) {
                    return Err(PartitionerError::NoWeight);
                }
                Ok(())
            }
            Self::Range(splits) => {
                let ascending = splits.windows(2).all(|pair| pair[0] < pair[1]);
                if splits.len() + 1 != partitions as usize || !ascending {
                    return Err(PartitionerError::SplitPoints { given: splits.len(), partitions });
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// A partitioner at work on one topic: its rule and what it remembers.
#[derive(Debug)]
pub(crate) struct Chooser {
    rule: Partitioner,
    partitions: u32,
    /// Next partition of round-robin; current partition of sticky.
    place: u32,
    /// Sums of the weights up to and with each partition.
    sums: Vec<u64>,
    random: SplitMix64,
}

impl Chooser {
    /// A chooser for a topic of `partitions` (at least 1) partitions.
    pub(crate) fn new(
        rule: Partitioner,
        partitions: u32,
        seed: u64,
    ) -> Result<Self, PartitionerError> {
        assert!(partitions > 0, "a topic has at least one partition");
        rule.check(partitions)?;
        let mut random = SplitMix64(seed);
        let place = random.below(u64::from(partitions)) as u32;
        let mut sums = Vec::new();
        if let Partitioner::Weighted(weights) = &rule {
            let add = |sum: &mut u64, weight: &u32| {
                *sum += u64::from(*weight);
                Some(*sum)
            };
            sums.extend(weights.iter().scan(0, add));
        }
        Ok(Self { rule, partitions, place, sums, random })
    }

    /// The partition of a record with this key.
    pub(crate) fn choose(&mut self, key: Option<&[u8]>) -> u32 {
        match (&self.rule, key) {
            (Partitioner::Hash, Some(key)) => partition_of_key(key, self.partitions),
            (Partitioner::Hash | Partitioner::Sticky, _) => self.place,
            (Partitioner::Random, _) => self.random.below(u64::from(self.partitions)) as u32,
            (Partitioner::RoundRobin, _) => {
                let chosen = self.place;
                self.place = (self.place + 1) % self.partitions;
                chosen
            }
            (Partitioner::Weighted(_), _) => {
                let total = *self.sums.last().expect("a topic has at least one partition");
                let ticket = self.random.below(total);
                // The first partition whose sum is above the ticket: never one without weight.
                self.sums.partition_point(|sum| *sum <= ticket) as u32
            }
            (Partitioner::Range(splits), key) => {
                let key = key.unwrap_or_default();
                splits.partition_point(|split| split.as_ref() <= key) as u32
            }
        }
    }

    /// A batch of `partition` was closed: sticky moves on.
    pub(crate) fn batch_closed(&mut self, partition: u32) {
        let sticky = matches!(self.rule, Partitioner::Sticky | Partitioner::Hash);
        if sticky && partition == self.place && self.partitions > 1 {
            let step = 1 + self.random.below(u64::from(self.partitions - 1)) as u32;
            self.place = (self.place + step) % self.partitions;
        }
    }
}

/// The partition that the default partitioner gives a key. `partitions` is at least 1.
pub fn partition_of_key(key: &[u8], partitions: u32) -> u32 {
    (murmur2(key) & 0x7fff_ffff) % partitions
}

/// Murmur2, 32 bits, with the seed and byte order of Kafka's `Utils.murmur2`.
fn murmur2(data: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    const R: u32 = 24;
    let mut hash = SEED ^ data.len() as u32;
    let mut words = data.chunks_exact(4);
    for word in &mut words {
        let mut k = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
        k = k.wrapping_mul(M);
        k ^= k >> R;
        k = k.wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ k;
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        for (place, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * place);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

/// A small random generator: enough to spread records, never for secrets.
///
/// Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014.
#[derive(Debug)]
pub(crate) struct SplitMix64(pub(crate) u64);

impl SplitMix64 {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is at least 1; the bias of at most `bound / 2^64` is accepted.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }
}

/// A seed that differs between processes and calls.
pub(crate) fn random_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Vectors of Kafka's own test, `UtilsTest.testMurmur2`.
    #[test]
    fn murmur2_agrees_with_kafka() {
        let cases: [(&str, i32); 6] = [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ];
        for (text, expected) in cases {
            assert_eq!(murmur2(text.as_bytes()).cast_signed(), expected, "{text}");
        }
    }

    #[test]
    fn hash_keeps_a_key_on_its_partition() {
        let mut chooser = Chooser::new(Partitioner::Hash, 12, 7).unwrap();
        let first = chooser.choose(Some(b"customer-7"));
        for _ in 0..100 {
            chooser.batch_closed(first);
            assert_eq!(chooser.choose(Some(b"customer-7")), first);
        }
    }

    #[test]
    fn sticky_stays_until_its_batch_is_closed_and_then_moves() {
        let mut chooser = Chooser::new(Partitioner::Sticky, 5, 1).unwrap();
        let first = chooser.choose(None);
        assert!((0..50).all(|_| chooser.choose(None) == first));
        chooser.batch_closed(first);
        assert_ne!(chooser.choose(None), first);
    }

    #[test]
    fn round_robin_takes_turns() {
        let mut chooser = Chooser::new(Partitioner::RoundRobin, 3, 9).unwrap();
        let turns: Vec<u32> = (0..6).map(|_| chooser.choose(None)).collect();
        assert_eq!(turns[..3], turns[3..]);
        let mut sorted = turns[..3].to_vec();
        sorted.sort_unstable();
        assert_eq!(sorted, [0, 1, 2]);
    }

    #[test]
    fn weights_are_kept_within_a_few_percent() {
        let mut chooser = Chooser::new(Partitioner::Weighted(vec![1, 0, 3]), 3, 42).unwrap();
        let mut counts = [0u32; 3];
        for _ in 0..40_000 {
            counts[chooser.choose(None) as usize] += 1;
        }
        assert_eq!(counts[1], 0);
        assert!((9_000..11_000).contains(&counts[0]), "{counts:?}");
    }

    #[test]
    fn range_splits_by_key_order() {
        let splits = vec![Bytes::from_static(b"g"), Bytes::from_static(b"p")];
        let mut chooser = Chooser::new(Partitioner::Range(splits), 3, 0).unwrap();
        assert_eq!(chooser.choose(Some(b"apple")), 0);
        assert_eq!(chooser.choose(Some(b"g")), 1);
        assert_eq!(chooser.choose(Some(b"orange")), 1);
        assert_eq!(chooser.choose(Some(b"pear")), 2);
        assert_eq!(chooser.choose(None), 0);
    }

    #[test]
    fn a_rule_that_does_not_fit_is_refused() {
        assert!(matches!(
            Partitioner::Weighted(vec![1]).check(2),
            Err(PartitionerError::WeightCount { given: 1, partitions: 2 })
        ));
        assert_eq!(Partitioner::Weighted(vec![0, 0]).check(2), Err(PartitionerError::NoWeight));
        let falling = vec![Bytes::from_static(b"b"), Bytes::from_static(b"a")];
        assert!(Partitioner::Range(falling).check(3).is_err());
    }
}

//! Keys of records that update each other, in no order, and how large the last record of each is.

/// The keys of one producer's partitions. A key belongs to one partition.
#[derive(Debug)]
pub(crate) struct Keys {
    /// How many there are in all partitions.
    keys: u32,
    partitions: u32,
    random: u64,
    /// Of each key the encoded size of its last record; 0 before the first.
    last_bytes: Vec<u32>,
}

/// One of the keys, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key(u32);

impl Key {
    /// As it is sent.
    pub(crate) fn bytes(self) -> [u8; 8] {
        u64::from(self.0).to_be_bytes()
    }
}

impl Keys {
    /// So many keys over so many partitions, at least one for each. Different seeds give different orders.
    pub(crate) fn new(keys: u32, partitions: u32, seed: u64) -> Self {
        let random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        Self { keys, partitions, random, last_bytes: vec![0; keys as usize] }
    }

    /// The key of the next record for a partition, each as likely as the others.
    pub(crate) fn next_key(&mut self, partition: u32) -> Key {
        // xorshift64*
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        let of_partition = (self.keys - partition).div_ceil(self.partitions);
        let random = self.random.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32;
        // The upper half of a product: the same as a share of all numbers, without a division.
        let index = (random * u64::from(of_partition)) >> 32;
        Key(partition + self.partitions * index as u32)
    }

    /// The last record of a key is of this size now.
    pub(crate) fn sent(&mut self, key: Key, encoded_bytes: usize) {
        let bytes = u32::try_from(encoded_bytes).expect("a record is smaller than its batch");
        self.last_bytes[key.0 as usize] = bytes;
    }

    /// Size of the last records of all keys.
    pub(crate) fn live_bytes(&self) -> u64 {
        self.last_bytes.iter().copied().map(u64::from).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_of_a_partition_comes_and_no_other() {
        let mut keys = Keys::new(11, 3, 1);
        for (partition, expected) in
            [(0, vec![0, 3, 6, 9]), (1, vec![1, 4, 7, 10]), (2, vec![2, 5, 8])]
        {
            let mut seen: Vec<_> = (0..1_000).map(|_| keys.next_key(partition).0).collect();
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen, expected);
        }
    }

    #[test]
    fn only_the_last_record_of_a_key_is_live() {
        let mut keys = Keys::new(4, 1, 1);
        keys.sent(Key(1), 100);
        keys.sent(Key(2), 50);
        keys.sent(Key(1), 120);
        assert_eq!(keys.live_bytes(), 170);
    }

    #[test]
    fn a_partition_with_one_key_has_that_one() {
        let mut keys = Keys::new(3, 3, 9);
        assert_eq!(keys.next_key(2), Key(2));
        assert_eq!(Key(2).bytes(), [0, 0, 0, 0, 0, 0, 0, 2]);
    }
}

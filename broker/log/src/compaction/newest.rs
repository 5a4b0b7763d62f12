//! Which offset is the newest of each key, for as many keys as memory allows.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasherDefault, Hasher};

use plimsoll_protocol::ids::Offset;
use ring::digest::{Context, SHA256};

/// Half a SHA-256 of a salt and the key. Two keys with one of these would cost a record, so it must not be
/// possible to find any; with the salt it is not possible either to find keys that fall into one bucket.
type KeyHash = [u8; 16];

/// The map. That some records are not in it is never wrong: more of what is older stays then.
#[derive(Debug)]
pub(super) struct Newest {
    salt: u64,
    offsets: HashMap<KeyHash, Offset, BuildHasherDefault<FirstBytes>>,
    entries_max: usize,
}

impl Newest {
    pub(super) fn new(salt: u64, entries_max: usize) -> Self {
        Self { salt, offsets: HashMap::default(), entries_max }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    /// Takes in a record that is newer than all before; false where there is no room for its key.
    #[must_use]
    pub(super) fn note(&mut self, key: &[u8], offset: Offset) -> bool {
        let is_full = self.offsets.len() >= self.entries_max;
        match self.offsets.entry(hash(self.salt, key)) {
            Entry::Occupied(mut newest) => drop(newest.insert(offset)),
            Entry::Vacant(_) if is_full => return false,
            Entry::Vacant(free) => drop(free.insert(offset)),
        }
        true
    }

    /// Whether a record with this key is known that is newer than the one at `offset`.
    pub(super) fn is_superseded(&self, key: &[u8], offset: Offset) -> bool {
        !self.offsets.is_empty()
            && self.offsets.get(&hash(self.salt, key)).is_some_and(|&newest| newest > offset)
    }
}

fn hash(salt: u64, key: &[u8]) -> KeyHash {
    let mut context = Context::new(&SHA256);
    context.update(&salt.to_le_bytes());
    context.update(key);
    let digest = context.finish();
    *digest.as_ref().first_chunk().expect("a SHA-256 has 32 bytes")
}

/// The keys of the map are hashes already.
#[derive(Debug, Default)]
struct FirstBytes(u64);

impl Hasher for FirstBytes {
    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk() {
            self.0 = u64::from_le_bytes(*first);
        }
    }

    // The length of the array, which `Hash` writes in front of it.
    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_offset_of_a_key_counts() {
        let mut newest = Newest::new(7, 10);
        assert!(newest.note(b"a", Offset(3)) && newest.note(b"b", Offset(4)));
        assert!(newest.note(b"a", Offset(9)));
        assert!(newest.is_superseded(b"a", Offset(3)));
        assert!(!newest.is_superseded(b"a", Offset(9)), "it is the newest itself");
        assert!(!newest.is_superseded(b"a", Offset(10)), "it was not looked at");
        assert!(!newest.is_superseded(b"c", Offset(0)));
    }

    #[test]
    fn full_map_takes_known_keys_only() {
        let mut newest = Newest::new(7, 2);
        assert!(newest.note(b"a", Offset(0)) && newest.note(b"b", Offset(1)));
        assert!(!newest.note(b"c", Offset(2)));
        assert!(newest.note(b"a", Offset(3)));
        assert!(!newest.is_superseded(b"c", Offset(0)));
    }
}

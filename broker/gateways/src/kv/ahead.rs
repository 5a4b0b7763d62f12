//! What was proposed and may not be applied yet, as far as a condition must know: up to where it has to wait.
//!
//! Every record of a run gets into the log by a proposal of the group, one behind the other, and puts come by
//! here each time. So what lies between the last put and the next is of others, and a condition waits until
//! the view has reached its end; of puts in flight it waits only for those of its own key. Where a proposal was
//! refused, offsets reckoned since are too large: then one waits for too much, never for too little.

use std::collections::HashMap;

use bytes::Bytes;
use plimsoll_protocol::ids::Offset;
use plimsoll_replication::Tip;

/// Keys in flight that are kept without looking which of them are applied.
const KEYS_UNCHECKED: usize = 1024;

/// See the module.
#[derive(Debug)]
pub(crate) struct Ahead {
    run: u64,
    /// Behind the last put.
    puts_end: Offset,
    /// Behind the last record that is no put, or of before the run.
    others_end: Offset,
    /// Behind the last put of each key.
    keys: HashMap<Bytes, Offset>,
    checked_at: usize,
}

impl Ahead {
    pub(crate) fn new() -> Self {
        Self {
            run: 0,
            puts_end: Offset(0),
            others_end: Offset(0),
            keys: HashMap::new(),
            checked_at: KEYS_UNCHECKED,
        }
    }

    /// Up to where the view must have come, to judge a put of `key` that comes behind `tip`.
    pub(crate) fn needed(&mut self, tip: Tip, key: &[u8]) -> Offset {
        if tip.run != self.run {
            self.run = tip.run;
            self.keys.clear();
            self.others_end = tip.end;
        } else if tip.end != self.puts_end {
            self.others_end = tip.end;
        }
        self.puts_end = tip.end;
        self.keys.get(key).map_or(self.others_end, |end| self.others_end.max(*end))
    }

    /// A put of `key` is proposed behind `tip`; the view has come to `upto`.
    pub(crate) fn proposed(&mut self, tip: Tip, key: Bytes, upto: Offset) {
        let end = Offset(tip.end.0 + 1);
        self.puts_end = end;
        self.keys.insert(key, end);
        if self.keys.len() >= self.checked_at {
            self.keys.retain(|_, end| *end > upto);
            self.checked_at = KEYS_UNCHECKED.max(2 * self.keys.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn tip(end: u64) -> Tip {
        Tip { end: Offset(end), run: 1 }
    }

    #[test]
    fn puts_of_other_keys_are_not_waited_for_and_those_of_the_same_key_are() {
        let mut ahead = Ahead::new();
        assert_eq!(ahead.needed(tip(10), b"a"), Offset(10), "what is of before the run");
        ahead.proposed(tip(10), Bytes::from("a"), Offset(10));
        assert_eq!(ahead.needed(tip(11), b"b"), Offset(10));
        ahead.proposed(tip(11), Bytes::from("b"), Offset(10));
        assert_eq!(ahead.needed(tip(12), b"a"), Offset(11));
        assert_eq!(ahead.needed(tip(15), b"c"), Offset(15), "others wrote three records");
    }

    #[test]
    fn a_new_run_waits_for_everything_though_the_end_is_as_expected() {
        let mut ahead = Ahead::new();
        ahead.needed(tip(0), b"a");
        ahead.proposed(tip(0), Bytes::from("a"), Offset(0));
        assert_eq!(ahead.needed(Tip { end: Offset(1), run: 2 }, b"b"), Offset(1));
    }

    #[test]
    fn keys_that_are_applied_are_forgotten() {
        let mut ahead = Ahead::new();
        for end in 0..100_000_u64 {
            let key = Bytes::copy_from_slice(&end.to_le_bytes());
            ahead.needed(tip(end), &key);
            ahead.proposed(tip(end), key, Offset(end.saturating_sub(100)));
        }
        assert!(ahead.keys.len() <= KEYS_UNCHECKED);
    }

    proptest! {
        /// A step is a put of a key, or a record of somebody else.
        #[test]
        fn all_that_is_behind_what_is_waited_for_is_puts_of_other_keys(
            steps in vec(prop::option::of(0..4_u8), 1..60),
        ) {
            let (mut ahead, mut log) = (Ahead::new(), Vec::new());
            for step in steps {
                if let Some(key) = step {
                    let tip = tip(log.len() as u64);
                    let needed = ahead.needed(tip, &[key]);
                    let last = log.iter().rposition(|s: &Option<u8>| s.is_none_or(|k| k == key));
                    prop_assert_eq!(needed, Offset(last.map_or(0, |at| at as u64 + 1)));
                    ahead.proposed(tip, Bytes::copy_from_slice(&[key]), Offset(0));
                }
                log.push(step);
            }
        }
    }
}

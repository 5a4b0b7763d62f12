//! In a key-shared queue a message is handed out only when every earlier one of its key has ended: so one
//! of a key at a time, and in the order of their offsets.

use std::collections::BTreeMap;

use super::{Event, Invariant, Ledger};
use crate::history::Partition;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct OrderPerKey {
    /// How many of a key's messages are known to have ended: all before the first that has not.
    ended: BTreeMap<(Partition, u64), usize>,
}

impl Invariant for OrderPerKey {
    fn name(&self) -> &'static str {
        "order_per_key"
    }

    fn judge(&mut self, event: &Event<'_>, ledger: &Ledger) -> Result<(), String> {
        let Event::Delivered(delivered) = event else { return Ok(()) };
        let (Some(key), Some(committed)) = (delivered.key, ledger.queue(delivered.partition))
        else {
            return Ok(());
        };
        let of_key = committed.by_key.get(&key).map(Vec::as_slice).unwrap_or_default();
        let ended = self.ended.entry((delivered.partition, key)).or_default();
        while let Some(offset) = of_key.get(*ended)
            && committed.worked.over(*offset).is_some()
        {
            *ended += 1;
        }
        match of_key.get(*ended) {
            Some(first) if *first < delivered.offset => {
                Err(format!("{delivered:?}, and message {first} of its key has not ended"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::planted::*;
    use super::*;
    use crate::messages::Delivered;

    #[test]
    fn a_message_that_overtakes_one_of_its_key_is_seen() {
        // Even offsets have key 0, odd ones key 1.
        let ledger = queue_ledger(6, &[(id(1, 5), settle([0, 4]))]);
        let of_key = |offset| {
            Event::Delivered(Delivered { key: Some(offset % 2), ..delivered(1, offset, 1) })
        };
        let fine = [of_key(0), of_key(1), of_key(2)];
        assert_fires(OrderPerKey::default(), &ledger, &fine, &of_key(3));
        assert_fires(OrderPerKey::default(), &ledger, &fine, &of_key(4));
    }
}

//! Which bytes of a segment had their body checksums right in this life.

use std::ops::Range;

/// Ranges of byte positions, ascending, apart from each other.
#[derive(Debug, Default)]
pub(crate) struct Verified(Vec<Range<u64>>);

impl Verified {
    /// End of the verified range around `position`; `position` itself where it is not verified.
    pub(crate) fn end_from(&self, position: u64) -> u64 {
        let after = self.0.partition_point(|range| range.start <= position);
        match after.checked_sub(1).map(|at| &self.0[at]) {
            Some(range) if range.end > position => range.end,
            _ => position,
        }
    }

    /// Adds a range; neighbours grow together.
    pub(crate) fn add(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        if let Some(last) = self.0.last_mut()
            && last.start <= range.start
            && range.start <= last.end
        {
            last.end = last.end.max(range.end);
            return;
        }
        let from = self.0.partition_point(|held| held.end < range.start);
        let upto = self.0.partition_point(|held| held.start <= range.end);
        let mut merged = range;
        for held in &self.0[from..upto] {
            merged.start = merged.start.min(held.start);
            merged.end = merged.end.max(held.end);
        }
        self.0.splice(from..upto, [merged]);
    }

    /// Forgets everything from `position` on.
    pub(crate) fn cut(&mut self, position: u64) {
        self.0.retain_mut(|range| {
            range.end = range.end.min(position);
            range.start < range.end
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_agrees_with_a_set_of_positions(
            ranges in prop::collection::vec((0..60u64, 0..20u64), 0..20),
            cut in 0..100u64,
        ) {
            let mut verified = Verified::default();
            let mut naive = [false; 100];
            for (start, length) in ranges {
                verified.add(start..start + length);
                naive[start as usize..(start + length) as usize].fill(true);
            }
            verified.cut(cut);
            naive[cut as usize..].fill(false);
            for position in 0..100 {
                let length = naive[position..].iter().take_while(|&&set| set).count();
                prop_assert_eq!(verified.end_from(position as u64), (position + length) as u64);
            }
            prop_assert!(verified.0.windows(2).all(|pair| pair[0].end < pair[1].start));
        }
    }
}

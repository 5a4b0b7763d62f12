//! A set of small numbers.

/// A set of numbers below a bound that is given at its making.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Bits(Box<[u64]>);

impl Bits {
    pub(crate) fn none_of(count: usize) -> Self {
        Self(vec![0; count.div_ceil(64)].into_boxed_slice())
    }

    pub(crate) fn has(&self, number: usize) -> bool {
        self.0[number / 64] & (1 << (number % 64)) != 0
    }

    pub(crate) fn insert(&mut self, number: usize) {
        self.0[number / 64] |= 1 << (number % 64);
    }

    pub(crate) fn remove(&mut self, number: usize) {
        self.0[number / 64] &= !(1 << (number % 64));
    }

    /// The least number that is not in the set; may be the bound or above.
    pub(crate) fn first_missing(&self) -> usize {
        let full = self.0.iter().take_while(|word| **word == u64::MAX).count();
        let ones = self.0.get(full).map_or(0, |word| word.trailing_ones());
        full * 64 + ones as usize
    }

    pub(crate) fn is_within(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).all(|(mine, theirs)| mine & !theirs == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_knows_its_numbers_its_gap_and_what_holds_it() {
        let mut low = Bits::none_of(130);
        assert_eq!(low.first_missing(), 0);
        for number in 0..70 {
            low.insert(number);
        }
        assert_eq!(low.first_missing(), 70);
        let mut more = low.clone();
        more.insert(129);
        assert!(low.is_within(&more) && !more.is_within(&low) && more.has(129));
        more.remove(3);
        assert_eq!(more.first_missing(), 3);
        assert!(!low.is_within(&more));
    }
}

//! The last of a row of numbers that only rises, as far as it is known: revisions, fencing tokens.

/// The last number that was given out.
///
/// Of a row of unknown ones only one is counted: the bound is one too low for each further one. That
/// makes the judgement milder, and states equal that differ only in what nobody saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rising {
    /// None was given out.
    Never,
    /// It is this one.
    At(u64),
    /// It is unknown, and not below this.
    AtLeast(u64),
}

impl Rising {
    /// The least number that may be given out next; `None` if all are used up.
    fn next_min(self) -> Option<u64> {
        match self {
            Self::Never => Some(0),
            Self::At(last) | Self::AtLeast(last) => last.checked_add(1),
        }
    }

    /// Another number is given out: this one, or one that is not known. `None` if it does not rise.
    #[must_use]
    pub fn raised(self, number: Option<u64>) -> Option<Self> {
        let least = self.next_min()?;
        match (number, self) {
            (Some(number), _) => (number >= least).then_some(Self::At(number)),
            (None, Self::AtLeast(_)) => Some(self),
            (None, _) => Some(Self::AtLeast(least)),
        }
    }

    /// The last number is seen to be this one. `None` if it cannot be.
    #[must_use]
    pub fn seen(self, number: u64) -> Option<Self> {
        let possible = match self {
            Self::Never => false,
            Self::At(last) => last == number,
            Self::AtLeast(least) => least <= number,
        };
        possible.then_some(Self::At(number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_number_must_be_above_the_last() {
        assert_eq!(Rising::Never.raised(Some(0)), Some(Rising::At(0)));
        assert_eq!(Rising::At(4).raised(Some(4)), None);
        assert_eq!(Rising::At(4).raised(Some(9)), Some(Rising::At(9)));
    }

    #[test]
    fn an_unknown_number_takes_room_below_the_next() {
        let unknown = Rising::At(4).raised(None).unwrap();
        assert_eq!(unknown.raised(Some(5)), None);
        assert_eq!(unknown.raised(Some(6)), Some(Rising::At(6)));
        assert_eq!(unknown.seen(4), None);
        assert_eq!(unknown.seen(5), Some(Rising::At(5)));
    }

    #[test]
    fn nothing_rises_above_the_greatest() {
        assert_eq!(Rising::At(u64::MAX).raised(None), None);
    }
}

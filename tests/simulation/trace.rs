//! What happened, as one number: equal runs have equal traces.

use std::fmt::Write as _;

/// A hash over everything that was noted, in order; and the last of it in words, for a failure.
#[derive(Debug, Default)]
pub struct Trace {
    hash: u64,
    events: u64,
    recent: std::collections::VecDeque<String>,
    is_verbose: bool,
}

/// So many of the last events are kept in words.
const RECENT_MAX: usize = 20_000;

impl Trace {
    /// A trace that also keeps its last events in words; costs time.
    #[must_use]
    pub fn verbose() -> Self {
        Self { is_verbose: true, ..Self::default() }
    }

    /// Notes an event: its time, what it is, numbers that tell it from others.
    pub fn note(&mut self, at_ms: u64, what: &str, numbers: &[u64]) {
        self.events += 1;
        self.mix(at_ms);
        for byte in what.bytes() {
            self.mix(u64::from(byte));
        }
        for number in numbers {
            self.mix(*number);
        }
        if self.is_verbose {
            let mut line = format!("{at_ms:>7} {what}");
            for number in numbers {
                // Writing into a string does not fail.
                let _ = write!(line, " {number}");
            }
            if self.recent.len() == RECENT_MAX {
                self.recent.pop_front();
            }
            self.recent.push_back(line);
        }
    }

    fn mix(&mut self, value: u64) {
        let mixed = (self.hash ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.hash = mixed ^ (mixed >> 29);
    }

    /// The hash of everything so far.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// How many events there were.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.events
    }

    /// The last events in words.
    #[must_use]
    pub fn recent(&self) -> String {
        self.recent.iter().fold(String::new(), |text, line| text + line + "\n")
    }
}

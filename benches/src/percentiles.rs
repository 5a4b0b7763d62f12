//! Latencies in a high dynamic range histogram: nanoseconds in, three significant digits kept,
//! microseconds out.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Counts durations. One per task, merged at the end: recording takes no lock.
#[derive(Debug, Clone)]
pub struct Latencies {
    nanoseconds: Histogram<u64>,
}

/// The figures that are reported of a histogram, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Percentiles {
    /// Half of the samples took at most this.
    pub p50: f64,
    /// 99 of 100.
    pub p99: f64,
    /// 999 of 1,000.
    pub p999: f64,
    /// All of them.
    pub max: f64,
}

impl Latencies {
    /// An empty histogram that grows to whatever it is given.
    pub fn new() -> Self {
        let nanoseconds = Histogram::new(3).expect("3 significant digits are within 0..=5");
        Self { nanoseconds }
    }

    /// Counts one duration.
    pub fn record(&mut self, took: Duration) {
        self.record_many(took, 1);
    }

    /// Counts `samples` equal durations: the records of one batch.
    pub fn record_many(&mut self, took: Duration, samples: u64) {
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.nanoseconds
            .record_n(nanoseconds, samples)
            .expect("an auto-resizing histogram takes every u64");
    }

    /// Adds what another task has counted.
    pub fn merge(&mut self, other: &Self) {
        self.nanoseconds
            .add(&other.nanoseconds)
            .expect("an auto-resizing histogram takes every other");
    }

    /// Number of samples.
    pub fn samples(&self) -> u64 {
        self.nanoseconds.len()
    }

    /// The reported figures; `None` where nothing was counted.
    pub fn percentiles(&self) -> Option<Percentiles> {
        if self.nanoseconds.is_empty() {
            return None;
        }
        let microseconds = |nanoseconds: u64| (nanoseconds as f64 / 100.0).round() / 10.0;
        let at = |quantile| microseconds(self.nanoseconds.value_at_quantile(quantile));
        Some(Percentiles {
            p50: at(0.5),
            p99: at(0.99),
            p999: at(0.999),
            max: microseconds(self.nanoseconds.max()),
        })
    }
}

impl Default for Latencies {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_counted_has_no_percentiles() {
        assert_eq!(Latencies::new().percentiles(), None);
    }

    #[test]
    fn percentiles_of_a_thousand_microseconds() {
        let (mut low, mut high) = (Latencies::new(), Latencies::new());
        for microseconds in 1..=500 {
            low.record(Duration::from_micros(microseconds));
            high.record(Duration::from_micros(500 + microseconds));
        }
        low.merge(&high);
        let found = low.percentiles().unwrap();
        for (figure, expected) in
            [(found.p50, 500.0), (found.p99, 990.0), (found.p999, 999.0), (found.max, 1_000.0)]
        {
            assert!((figure - expected).abs() <= expected / 500.0, "{figure} for {expected}");
        }
    }

    #[test]
    fn a_stall_of_a_minute_is_kept() {
        let mut latencies = Latencies::new();
        latencies.record_many(Duration::from_secs(60), 10);
        assert_eq!(latencies.samples(), 10);
        assert!(latencies.percentiles().unwrap().p50 >= 59_900_000.0);
    }
}

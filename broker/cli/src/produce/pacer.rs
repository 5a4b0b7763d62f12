//! Not faster than asked: when the next record may be sent.

use std::time::Duration;

use tokio::time::Instant;

/// How far behind its schedule a sender may be and still catch up; what is lost beyond that (an
/// input that paused) is not made up for by a burst.
const CATCH_UP: Duration = Duration::from_millis(20);

/// A limit on records per second.
#[derive(Debug)]
pub(super) struct Pacer {
    step: Duration,
    next: Instant,
}

impl Pacer {
    /// At most `rate` (above 0) records per second from now on.
    pub(super) fn new(rate: f64, now: Instant) -> Self {
        Self { step: Duration::from_secs_f64(1.0 / rate), next: now }
    }

    /// Takes the turn of one record, and says when it may be sent.
    pub(super) fn turn(&mut self, now: Instant) -> Instant {
        let earliest = now.checked_sub(CATCH_UP).unwrap_or(now);
        let turn = self.next.max(earliest);
        self.next = turn + self.step;
        turn
    }
}

/// Reads a rate in records per second.
pub(super) fn parse_rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (1e-3..=1e9).contains(&rate) => Ok(rate),
        _ => Err(format!("{text:?} is not a rate; write records per second, from 0.001 to 1e9")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_a_step_apart() {
        let start = Instant::now();
        let mut pacer = Pacer::new(1_000.0, start);
        for position in 0..5 {
            assert_eq!(pacer.turn(start), start + Duration::from_millis(position));
        }
    }

    #[test]
    fn small_delay_is_made_up_and_a_pause_is_not() {
        let start = Instant::now();
        let mut pacer = Pacer::new(1_000.0, start);
        let late = start + Duration::from_millis(15);
        assert!((0..15).all(|_| pacer.turn(late) <= late));
        let after_pause = start + Duration::from_secs(100);
        let due = (0..1_000).filter(|_| pacer.turn(after_pause) <= after_pause).count();
        assert_eq!(due, 21);
    }

    #[test]
    fn rates_have_bounds() {
        assert_eq!(parse_rate("2.5"), Ok(2.5));
        for bad in ["", "0", "-1", "nan", "inf", "1e10", "fast"] {
            assert!(parse_rate(bad).is_err(), "{bad}");
        }
    }
}
